"""Run a benchmark: a model answers every example, and the answers are scored.

    paligemma evaluate --task coco-captions --data coco/ [--split val] [--out DIR]
    accelerate launch --num_processes 8 -m paligemma evaluate …    (or torchrun, also on CPUs)

Predictions are written to `DIR/predictions-<process>.jsonl` as they come. A run that is started
again answers only what no file there has, whatever the number of processes was and is. At the end
the first process reads all files, so that each example counts once.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path

from accelerate import PartialState
from tqdm import tqdm

from paligemma.checkpoints.io import write_text
from paligemma.devices import best_device
from paligemma.evaluation.benchmarks import PUBLISHED_SOURCE, Benchmark, BenchmarkScores
from paligemma.evaluation.classes import draw_classes
from paligemma.evaluation.datasets.examples import EvaluationExample
from paligemma.evaluation.predictions import Prediction, PredictionWriter, read_predictions
from paligemma.evaluation.report import format_report
from paligemma.generation import SamplingOptions
from paligemma.pipeline import PaliGemma

TIMEOUT = timedelta(days=7)  # how long a process that is done waits for the others


def evaluate_benchmark(
    load: Callable[[str | None], PaliGemma],
    benchmark: Benchmark,
    data: Path,
    split: str,
    out: Path,
    batch_size: int = 16,
    limit: int | None = None,
) -> dict | None:
    """The results, in the first process; None in the others. Writes results.json and worst.html,
    and classes.png where objects are detected.

    `load` makes the model on a device (None: its default). `limit` takes the first examples only.
    Raises ValueError for data that cannot be read, and if `out` holds predictions of another run.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise ValueError("--batch-size and --limit are whole numbers from 1.")
    state = PartialState(cpu=best_device().type == "cpu", timeout=TIMEOUT)
    dataset = benchmark.load(data, split)
    examples = dataset.examples[:limit]
    _check_ids(examples, data)
    pg = load(str(state.device) if state.num_processes > 1 else None)
    task = {
        "task": benchmark.key,
        "data": str(data.resolve()),
        "split": split,
        "model": pg.name,
        "weights": pg.checkpoint.fingerprint,
        "precision": pg.precision,
    }
    with state.main_process_first():
        _claim_folder(out, task)
    predictions = read_predictions(out)
    remaining = [one for one in examples if not _is_answered(one, benchmark, predictions)]
    state.wait_for_everyone()  # nobody writes before all have read
    own = remaining[state.process_index :: state.num_processes]
    quiet = not state.is_main_process
    with (
        PredictionWriter(out, state.process_index) as writer,
        tqdm(total=len(own), desc=benchmark.key, unit="example", disable=quiet) as progress,
    ):
        _predict(pg, benchmark, own, writer, batch_size, progress)
    state.wait_for_everyone()
    if not state.is_main_process:
        return None
    predictions = read_predictions(out)
    answers = [predictions[example.id] for example in examples]
    scored = benchmark.score(examples, answers, pg.masks)
    results = _make_results(benchmark, scored, task, pg, len(examples), dataset.left_out)
    write_text(out / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    report = format_report(examples, answers, scored.per_example, pg.masks, results)
    write_text(out / "worst.html", report)
    if scored.classes:
        draw_classes(scored.classes, out / "classes.png")
    return results


def format_results(results: dict) -> str:
    """The scores, a line each, beside those published for a fine-tuned PaliGemma 3B."""
    lines = []
    for name, score in results["scores"].items():
        line = f"{name:28} {score:.3f}" if isinstance(score, float) else f"{name:28} {score}"
        published = results["published"].get(name, {})
        shown = ", ".join(f"{value:.3f} at {side}" for side, value in published.items())
        lines.append(line + (f"   (published, fine-tuned 3B: {shown})" if shown else ""))
    if results["published"]:
        lines.append(
            f"Published figures: {PUBLISHED_SOURCE}; their data and protocol, not measured here."
        )
    return "\n".join(lines)


def _is_answered(
    example: EvaluationExample, benchmark: Benchmark, predictions: dict[str, Prediction]
) -> bool:
    if example.id not in predictions:
        return False
    before, now = predictions[example.id].prompt, benchmark.prompt(example)
    if before != now:
        raise ValueError(
            f"The prompt of example {example.id} was {before!r} before and is now {now!r}: "
            "the data has changed; give another --out."
        )
    return True


def _predict(
    pg: PaliGemma,
    benchmark: Benchmark,
    examples: Sequence[EvaluationExample],
    writer: PredictionWriter,
    batch_size: int,
    progress: tqdm,
) -> None:
    """Answer the examples, a batch at a time."""
    options = SamplingOptions(max_new_tokens=benchmark.max_new_tokens)
    try:
        for start in range(0, len(examples), batch_size):
            batch = examples[start : start + batch_size]
            prompts = [benchmark.prompt(example) for example in batch]
            replies = pg.generate_batch([example.image for example in batch], prompts, options)
            writer.write(zip([example.id for example in batch], replies, strict=True))
            progress.update(len(batch))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped after {progress.n} of {len(examples)} examples; "
            "run the same command to resume"
        ) from None


def _check_ids(examples: Iterable[EvaluationExample], data: Path) -> None:
    ids: set[str] = set()
    for example in examples:
        if example.id in ids:
            raise ValueError(f"{data} has two examples with the id {example.id}.")
        ids.add(example.id)


def _claim_folder(out: Path, task: dict) -> None:
    """Make `out` the folder of this evaluation. Raises ValueError if it is that of another."""
    path = out / "task.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_text(path, json.dumps(task, indent=2, ensure_ascii=False) + "\n")
        before = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"Nothing can be written to {out}: {error.strerror}.") from error
    except ValueError:
        raise ValueError(f"{path} is damaged; give another --out.") from None
    for name, value in task.items():
        if name not in before:
            raise ValueError(f"{out} holds predictions of an earlier version; give another --out.")
        if before[name] != value:
            raise ValueError(
                f"{out} holds predictions for the {name} {before[name]!r}, not {value!r}; "
                "give another --out."
            )


def _make_results(
    benchmark: Benchmark,
    scored: BenchmarkScores,
    task: dict,
    pg: PaliGemma,
    count: int,
    left_out: dict[str, int],
) -> dict:
    return task | {
        "facts": pg.facts,
        "examples": count,
        "left_out": left_out,
        "scores": scored.scores,
        "by_class": scored.classes.to_json() if scored.classes else None,
        "published": benchmark.published,
        "published_source": PUBLISHED_SOURCE if benchmark.published else None,
    }
