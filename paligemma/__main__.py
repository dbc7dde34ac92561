"""The command line: python -m paligemma {generate, explain, train, evaluate, convert, …}.

A user's mistake is one line on stderr and exit code 2.
"""

import argparse
import json
import sys
from pathlib import Path


def generate(arguments: argparse.Namespace) -> None:
    """Answer one prompt about one picture."""
    from paligemma.generation import SamplingOptions
    from paligemma.images import open_image
    from visualize import draw_objects

    options = SamplingOptions(
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
    )
    image = open_image(arguments.image)
    pg = _load(arguments)
    shown, reply = "", None
    for reply in pg.stream(image, arguments.prompt, options):
        if not arguments.json:
            print(reply.text[len(shown) :], end="", flush=True)
            shown = reply.text
    if arguments.json:
        print(json.dumps(reply.to_json(), ensure_ascii=False))
    else:
        print()
    if arguments.out:
        masks = pg.masks(reply.detections)
        _save(draw_objects(image, reply.detections, masks), arguments.out)


def explain(arguments: argparse.Namespace) -> None:
    """Answer one prompt, and draw where the model looked as it wrote each token."""
    from paligemma.generation import SamplingOptions
    from paligemma.images import open_image
    from paligemma.interpret.explain import CHEAP_VIEWS, DEFAULT_VIEW, VIEWS
    from visualize import contact_sheet, to_gif, token_frames, token_matrix, token_strip

    image, out = open_image(arguments.image), arguments.out
    pg = _load(arguments)
    names = VIEWS if arguments.gradient else CHEAP_VIEWS
    options = SamplingOptions(max_new_tokens=arguments.max_new_tokens)
    seen = pg.explain(image, arguments.prompt, options, tuple(names))
    tokens = [token.text for token in seen.reply.tokens]
    print(seen.reply.text)
    if not tokens:
        raise ValueError("The model stayed silent: there is no token to explain.")
    for sink in seen.sinks:
        print(f"The patch in {sink} draws every token, whatever it says.")
    _make(out / "heads")
    for name, maps in seen.maps.items():
        _save(token_strip(image, maps, tokens, unit=VIEWS[name].unit), out / f"{name}.png")
    for number, heads in enumerate(seen.heads.transpose(2, 0, 1, 3, 4), 1):
        _save(contact_sheet(heads), out / "heads" / f"{number:03d}.png")
    _save(token_matrix(seen.between_tokens, seen.positions), out / "tokens.png")
    (out / "answer.gif").write_bytes(to_gif(token_frames(image, seen.maps[DEFAULT_VIEW], tokens)))
    (out / "explanation.json").write_text(json.dumps(seen.to_json(), ensure_ascii=False), "utf-8")
    print(f"Wrote {out}.")


def train(arguments: argparse.Namespace) -> None:
    """Train a checkpoint as a YAML file says; the same command goes on where it was stopped."""
    from paligemma.training.config import read_run
    from paligemma.training.trainer import train

    train(read_run(arguments.config))


def check(arguments: argparse.Namespace) -> None:
    """Name each bad row of a file of examples, and draw a contact sheet of good ones."""
    from paligemma.training.inspect import check

    found = check(arguments.file, arguments.images, arguments.task, arguments.model)
    rows, bad, left_out, sheet = found
    for reason in bad:
        print(reason)
    for what, count in left_out.items():
        print(f"left out: {count} {what}")
    if arguments.out and sheet:
        _save(sheet, arguments.out)
    if bad:
        raise ValueError(f"{len(bad)} of {rows} rows cannot be trained on.")
    print(f"{rows} rows, all good.")


def evaluate(arguments: argparse.Namespace) -> None:
    """Measure a model: a table, then one JSON line."""
    if arguments.task:
        _evaluate_task(arguments)
        return
    if arguments.data or arguments.out:
        raise ValueError("--data and --out need a --task, such as coco-captions.")
    from paligemma.evaluation.synthetic import evaluate_synthetic

    scores = evaluate_synthetic(_load(arguments), arguments.scenes, arguments.first)
    for name, score in scores.items():
        print(f"{name:28} {score:.3f}" if isinstance(score, float) else f"{name:28} {score}")
    print(json.dumps(scores))


def _evaluate_task(arguments: argparse.Namespace) -> None:
    from paligemma.evaluation.benchmarks import get_benchmark
    from paligemma.evaluation.run import evaluate_benchmark, format_results

    benchmark = get_benchmark(arguments.task)
    if arguments.data is None:
        raise ValueError(f"--task {benchmark.key} needs --data, the folder or file that holds it.")
    out = arguments.out or Path("evaluations", benchmark.key)

    def load(device: str | None):
        arguments.device = arguments.device or device
        return _load(arguments)

    results = evaluate_benchmark(
        load, benchmark, arguments.data, arguments.split, out, arguments.batch, arguments.limit
    )
    if results:
        print(format_results(results))
        for reason, count in results["left_out"].items():
            print(f"left out: {count} {reason}")
        print(f"The worst answers: {out / 'worst.html'}")
        print(json.dumps(results["scores"]))


def pointing(arguments: argparse.Namespace) -> None:
    """Measure how often each view of attention looks at the object that a token names."""
    from paligemma.evaluation.pointing import (
        best_view,
        format_pointing,
        measure_pointing,
        save_pointing,
    )
    from paligemma.evaluation.pointing_questions import coco_questions, synthetic_questions

    if (arguments.coco is None) != (arguments.images is None):
        raise ValueError("--coco and --images go together: the annotations and their images.")
    if arguments.coco is None:
        questions = synthetic_questions(arguments.scenes, arguments.first)
    else:
        questions = coco_questions(arguments.coco, arguments.images)
    scores = measure_pointing(_load(arguments), questions)
    _make(arguments.out)
    save_pointing(scores, arguments.out)
    print(format_pointing(scores))
    print(f"Best whole view: {best_view(scores)}. Wrote {arguments.out}.")


def convert(arguments: argparse.Namespace) -> None:
    """Write a checkpoint in another layout or dtype."""
    from paligemma.checkpoints.convert import convert
    from paligemma.checkpoints.resolve import resolve
    from paligemma.devices import parse_dtype

    found = resolve(arguments.source, arguments.tokenizer)
    dtype = None if arguments.dtype is None else parse_dtype(arguments.dtype)
    convert(found, arguments.destination, dtype)
    print(f"Wrote {arguments.destination}.")


def bench(arguments: argparse.Namespace) -> None:
    """Measure loading, memory and speed: a table, then one JSON line."""
    from paligemma.bench import bench, bench_attention

    if arguments.tokens < 2:
        raise ValueError(f"--tokens is {arguments.tokens}; at least 2 are needed for a speed.")
    measure = bench_attention if arguments.attention else bench
    measured = measure(lambda: _load(arguments), arguments.tokens)
    for name, value in measured.items():
        shown = f"{value / 1e6:,.0f} MB" if "memory" in name else value
        print(f"{name:24} {shown:.2f}" if isinstance(shown, float) else f"{name:24} {shown}")
    print(json.dumps(measured, ensure_ascii=False))


def random(arguments: argparse.Namespace) -> None:
    """Write a checkpoint of a published size with random weights."""
    from paligemma.checkpoints.random_weights import write_random_checkpoint
    from paligemma.devices import parse_dtype

    dtype = parse_dtype(arguments.dtype)
    write_random_checkpoint(arguments.variant, arguments.folder, dtype, arguments.thin)
    print(f"Wrote {arguments.folder}: random weights, which answer with noise.")


def _load(arguments: argparse.Namespace):
    from paligemma.pipeline import PaliGemma

    return PaliGemma.load(
        arguments.model,
        arguments.device,
        arguments.dtype,
        arguments.tokenizer,
        arguments.mask_codec,
    )


def _add_model(command: argparse.ArgumentParser) -> None:
    """The options that say which model answers, and where it runs."""
    command.add_argument(
        "--model", help="a folder, an .npz or owner/model of the hub (default: the built-in model)"
    )
    command.add_argument("--device", help="cpu, cuda, cuda:1, mps, or auto: over all and the disk")
    command.add_argument("--dtype", help="float32, bfloat16 or float16")
    command.add_argument("--tokenizer", help="a tokenizer.json, where the weights have none")
    command.add_argument("--mask-codec", help="an .npz, where the weights have none beside them")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder} cannot be made: {error.strerror}.") from error


def _save(picture, path: Path) -> None:
    try:
        picture.save(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"The picture cannot be written to {path}: {error}.") from error


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m paligemma", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    one = commands.add_parser("generate", help="answer one prompt about one picture")
    one.add_argument("--image", required=True, type=Path)
    one.add_argument("--prompt", required=True, help='such as "caption en" or "detect cat ; dog"')
    _add_model(one)
    one.add_argument("--json", action="store_true", help="print the whole reply as JSON")
    one.add_argument("--out", type=Path, help="write the picture with boxes and masks drawn on it")
    one.add_argument("--max-new-tokens", type=int, default=128)
    one.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token")
    one.add_argument("--top-k", type=int, default=0, help="0 keeps all tokens")
    one.add_argument("--top-p", type=float, default=1.0)
    one.add_argument("--seed", type=int, default=0)
    one.set_defaults(run=generate)

    why = commands.add_parser("explain", help="answer, and draw where the model looked")
    why.add_argument("--image", required=True, type=Path)
    why.add_argument("--prompt", required=True)
    why.add_argument("--out", required=True, type=Path, help="a folder for pictures and values")
    _add_model(why)
    why.add_argument("--max-new-tokens", type=int, default=128)
    why.add_argument(
        "--gradient", action="store_true", help="also weigh by gradients: a backward pass a token"
    )
    why.set_defaults(run=explain)

    learn = commands.add_parser("train", help="train a checkpoint on your own examples")
    learn.add_argument("config", type=Path, help="a YAML file; configs/ has one for each stage")
    learn.set_defaults(run=train)

    data = commands.add_parser("data", help="look at examples before training on them")
    looks = data.add_subparsers(required=True, metavar="command")
    look = looks.add_parser("check", help="name each bad row, and draw a contact sheet")
    look.add_argument("file", type=Path, help="JSON lines of image, prefix, suffix; or COCO JSON")
    look.add_argument("--images", type=Path, help="the pictures' folder (default: the file's own)")
    look.add_argument("--task", choices=("detect", "segment"), default="detect", help="of COCO")
    look.add_argument("--model", help="whose tokenizer and mask codec are used (default: built-in)")
    look.add_argument("--out", type=Path, help="write the contact sheet there")
    look.set_defaults(run=check)

    score = commands.add_parser("evaluate", help="measure a model on unseen scenes or a benchmark")
    _add_model(score)
    score.add_argument("--task", help="a benchmark such as vqav2 (default: the drawn scenes)")
    score.add_argument("--data", type=Path, help="the benchmark's folder, or its file")
    score.add_argument("--split", default="val", help="which part of the benchmark")
    score.add_argument("--out", type=Path, help="where it all goes; start again to go on")
    score.add_argument("--batch", type=int, default=16, help="examples answered together")
    score.add_argument("--limit", type=int, help="the first examples only")
    score.add_argument("--scenes", type=int, default=500)
    score.add_argument("--first", type=int, default=1_000_000, help="seed of the first scene")
    score.set_defaults(run=evaluate)

    point = commands.add_parser("pointing", help="measure whether a model looks in the right place")
    _add_model(point)
    point.add_argument("--scenes", type=int, default=500)
    point.add_argument("--first", type=int, default=1_000_000, help="seed of the first scene")
    point.add_argument("--coco", type=Path, help="instead of scenes, a COCO instances file")
    point.add_argument("--images", type=Path, help="the folder of its pictures")
    point.add_argument("--out", required=True, type=Path, help="a folder for table and plot")
    point.set_defaults(run=pointing)

    change = commands.add_parser("convert", help="write a checkpoint in another layout or dtype")
    change.add_argument("source", help="a folder, an .npz, owner/model of the hub, or built-in")
    change.add_argument("destination", type=Path, help="a new folder (safetensors) or .npz")
    change.add_argument("--dtype", help="float32, bfloat16 or float16 (default: as it is)")
    change.add_argument("--tokenizer", help="a tokenizer.json, where the source has none")
    change.set_defaults(run=convert)

    speed = commands.add_parser("bench", help="measure loading, memory and speed")
    _add_model(speed)
    speed.add_argument("--tokens", type=int, default=32, help="length of the answer")
    speed.add_argument(
        "--attention", action="store_true", help="measure what recording attention adds instead"
    )
    speed.set_defaults(run=bench)

    noise = commands.add_parser("random", help="write random weights of a published size")
    noise.add_argument("variant", help="such as paligemma-3b-224 or paligemma2-10b-448")
    noise.add_argument("folder", type=Path, help="a new folder")
    noise.add_argument("--dtype", default="bfloat16")
    noise.add_argument(
        "--thin", action="store_true", help="narrow, but decoder layers, heads and patches the same"
    )
    noise.set_defaults(run=random)

    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
    except ValueError as error:
        print(f"paligemma: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"paligemma: {str(stop) or 'stopped'}.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
