"""Ask a model a whole benchmark, and score what it said.

    python -m paligemma evaluate --task coco-captions --data coco/ [--split val] [--out DIR]
    accelerate launch --num_processes 8 -m paligemma evaluate …    (or torchrun, also on CPUs)

Answers go to `DIR/predictions-<process>.jsonl` as they come. Started again, an evaluation asks what
no file there answers, however many processes there were and are. At the end the first process
reads all files, so that each example counts once.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path

from accelerate import PartialState
from tqdm import tqdm

from paligemma.checkpoints.io import write_text
from paligemma.devices import best_device
from paligemma.evaluation.benchmarks import SOURCE, Benchmark, Scored
from paligemma.evaluation.datasets.examples import Example
from paligemma.evaluation.predictions import Appended, Prediction, read_predictions
from paligemma.evaluation.report import write_page
from paligemma.generation import SamplingOptions
from paligemma.pipeline import PaliGemma

PATIENCE = timedelta(days=7)  # how long a process that is done waits for the others


def evaluate(
    load: Callable[[str | None], PaliGemma],
    row: Benchmark,
    data: Path,
    split: str,
    out: Path,
    batch: int = 16,
    limit: int | None = None,
) -> dict | None:
    """The results, in every process but the first None; also `out`/results.json and worst.html.

    `load` makes the model on a device (None: wherever it likes). `limit` takes the first examples
    only. ValueError for data that cannot be read, and for an `out` with other answers in it.
    """
    if batch < 1 or (limit is not None and limit < 1):
        raise ValueError("--batch and --limit are whole numbers from 1.")
    state = PartialState(cpu=best_device().type == "cpu", timeout=PATIENCE)
    loaded = row.load(data, split)
    examples = loaded.examples[:limit]
    _refuse_twins(examples, data)
    pg = load(str(state.device) if state.num_processes > 1 else None)
    task = {"task": row.key, "data": str(data.resolve()), "split": split, "model": pg.name}
    with state.main_process_first():
        _claim(out, task)
    kept = read_predictions(out)
    todo = [e for e in examples if not _answered(e, row, kept)]
    state.wait_for_everyone()  # nobody writes before all have read
    mine = todo[state.process_index :: state.num_processes]
    quiet = not state.is_main_process
    with (
        Appended(out, state.process_index) as file,
        tqdm(total=len(mine), desc=row.key, unit="example", disable=quiet) as bar,
    ):
        _ask(pg, row, mine, file, batch, bar)
    state.wait_for_everyone()
    if not state.is_main_process:
        return None
    kept = read_predictions(out)
    said = [kept[example.id] for example in examples]
    scored = row.score(examples, said, pg.masks)
    results = _results(row, scored, task, pg, len(examples), loaded.left_out)
    write_text(out / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    write_text(out / "worst.html", write_page(examples, said, scored.each, pg.masks, results))
    return results


def table(results: dict) -> str:
    """The scores, a line each, beside what is published for a fine-tuned PaliGemma 3B."""
    lines = []
    for name, score in results["scores"].items():
        line = f"{name:28} {score:.3f}" if isinstance(score, float) else f"{name:28} {score}"
        figures = results["published"].get(name, {})
        shown = ", ".join(f"{value:.3f} at {side}" for side, value in figures.items())
        lines.append(line + (f"   (published, fine-tuned 3B: {shown})" if shown else ""))
    if results["published"]:
        lines.append(f"Published figures: {SOURCE}; their data and protocol, not measured here.")
    return "\n".join(lines)


def _answered(example: Example, row: Benchmark, kept: dict[str, Prediction]) -> bool:
    if example.id in kept and kept[example.id].prompt != row.prompt(example):
        raise ValueError(
            f"Example {example.id} was asked {kept[example.id].prompt!r} before and is now "
            f"{row.prompt(example)!r}: the data has changed; give another --out."
        )
    return example.id in kept


def _ask(
    pg: PaliGemma,
    row: Benchmark,
    examples: Sequence[Example],
    file: Appended,
    batch: int,
    bar: tqdm,
) -> None:
    """Answer the examples, a batch at a time."""
    options = SamplingOptions(max_new_tokens=row.tokens)
    try:
        for start in range(0, len(examples), batch):
            some = examples[start : start + batch]
            prompts = [row.prompt(example) for example in some]
            replies = pg.batch([example.image for example in some], prompts, options)
            file.add(
                Prediction(example.id, prompt, reply.text, reply.detections)
                for example, prompt, reply in zip(some, prompts, replies, strict=True)
            )
            bar.update(len(some))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped after {bar.n} of {len(examples)} examples; the same command goes on there"
        ) from None


def _refuse_twins(examples: Iterable[Example], data: Path) -> None:
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise ValueError(f"{data} has two examples with the id {example.id}.")
        seen.add(example.id)


def _claim(out: Path, task: dict) -> None:
    """Make `out` the folder of this evaluation, unless it is that of another."""
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
        if before.get(name) != value:
            raise ValueError(
                f"{out} holds answers for the {name} {before.get(name)!r}, not {value!r}; "
                "give another --out."
            )


def _results(
    row: Benchmark, scored: Scored, task: dict, pg: PaliGemma, count: int, left_out: dict[str, int]
) -> dict:
    return task | {
        "facts": pg.facts,
        "examples": count,
        "left_out": left_out,
        "scores": scored.scores,
        "published": row.published,
        "published_source": SOURCE if row.published else None,
    }
