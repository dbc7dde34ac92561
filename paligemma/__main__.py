"""The command line: python -m paligemma {generate, evaluate}.

A user's mistake is one line on stderr and exit code 2.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path


def generate(arguments: argparse.Namespace) -> None:
    """Answer one prompt about one picture."""
    from paligemma.pipeline import PaliGemma, SamplingOptions, open_image
    from visualize import draw_boxes, draw_masks

    options = SamplingOptions(
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
    )
    image = open_image(arguments.image)
    pg = PaliGemma.load(arguments.model)
    shown, reply = "", None
    for reply in pg.stream(image, arguments.prompt, options):
        if not arguments.json:
            print(reply.text[len(shown) :], end="", flush=True)
            shown = reply.text
    if arguments.json:
        print(json.dumps(asdict(reply), ensure_ascii=False))
    else:
        print()
    if arguments.out:
        masks = pg.masks(reply.detections)
        drawn = draw_masks(image, reply.detections, masks)
        _save(draw_boxes(drawn, reply.detections), arguments.out)


def evaluate(arguments: argparse.Namespace) -> None:
    """Measure a model on drawn scenes it has not seen: a table, then one JSON line."""
    from paligemma.evaluation.drawn import evaluate
    from paligemma.pipeline import PaliGemma

    scores = evaluate(PaliGemma.load(arguments.model), arguments.scenes, arguments.first)
    for name, score in scores.items():
        print(f"{name:28} {score:.3f}" if isinstance(score, float) else f"{name:28} {score}")
    print(json.dumps(scores))


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
    one.add_argument("--model", help="a checkpoint folder (default: the built-in model)")
    one.add_argument("--json", action="store_true", help="print the whole reply as JSON")
    one.add_argument("--out", type=Path, help="write the picture with boxes and masks drawn on it")
    one.add_argument("--max-new-tokens", type=int, default=128)
    one.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token")
    one.add_argument("--top-k", type=int, default=0, help="0 keeps all tokens")
    one.add_argument("--top-p", type=float, default=1.0)
    one.add_argument("--seed", type=int, default=0)
    one.set_defaults(run=generate)

    score = commands.add_parser("evaluate", help="measure a model on drawn scenes it has not seen")
    score.add_argument("--model", help="a checkpoint folder (default: the built-in model)")
    score.add_argument("--scenes", type=int, default=500)
    score.add_argument("--first", type=int, default=1_000_000, help="seed of the first scene")
    score.set_defaults(run=evaluate)

    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
    except ValueError as error:
        print(f"paligemma: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
