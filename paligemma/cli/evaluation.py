"""paligemma evaluate, pointing"""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paligemma.cli.common import add_model_options, load_pipeline, make_folder

if TYPE_CHECKING:
    from paligemma.synthetic.world import World

# What is meant where an option is left out; one that does not apply is refused.
SCENE_DEFAULTS = {"world": "pictograms", "num_scenes": 500, "first_seed": 1_000_000}
BENCHMARK_DEFAULTS = {"split": "val", "batch_size": 16}
STICKER_OPTIONS = ("artists", "held_out_fonts")


def add_commands(commands) -> None:
    parser = commands.add_parser("evaluate", help="score a model on drawn scenes or a benchmark")
    add_model_options(parser)
    parser.add_argument("--task", help="a benchmark such as vqav2 (default: drawn scenes)")
    parser.add_argument("--data", type=Path, help="the benchmark's folder or file")
    parser.add_argument("--split", help="the benchmark's split (default: val)")
    parser.add_argument("--out", type=Path, help="folder of the results; the same one resumes")
    parser.add_argument("--batch-size", type=int, help="(default: 16)")
    parser.add_argument("--limit", type=int, help="only the first examples")
    parser.add_argument(
        "--world",
        choices=("pictograms", "drawings", "stickers"),
        help="what the drawn scenes show (default: pictograms)",
    )
    parser.add_argument("--artists", help="those of the stickers, such as twemoji,openmoji")
    parser.add_argument(
        "--held-out-fonts", action="store_true", help="stickers' words in fonts not trained on"
    )
    _add_scene_options(parser)
    parser.set_defaults(run=run_evaluate, num_scenes=None, first_seed=None)

    parser = commands.add_parser(
        "pointing", help="measure how often attention peaks in the named object"
    )
    add_model_options(parser)
    _add_scene_options(parser)
    parser.add_argument("--coco", type=Path, help="a COCO instances file, instead of drawn scenes")
    parser.add_argument("--images", type=Path, help="the folder of its images")
    parser.add_argument("--out", required=True, type=Path, help="a folder for table and plot")
    parser.set_defaults(run=run_pointing)


def _add_scene_options(parser: ArgumentParser) -> None:
    count, seed = SCENE_DEFAULTS["num_scenes"], SCENE_DEFAULTS["first_seed"]
    parser.add_argument(
        "--num-scenes", type=int, default=count, help=f"drawn scenes (default: {count})"
    )
    parser.add_argument("--first-seed", type=int, default=seed, help="seed of the first scene")


def run_evaluate(arguments: Namespace) -> None:
    """Score a model: a table, then one JSON line."""
    if arguments.task:
        _refuse(arguments, (*SCENE_DEFAULTS, *STICKER_OPTIONS), "drawn scenes, without --task")
        _fill(arguments, BENCHMARK_DEFAULTS)
        _evaluate_benchmark(arguments)
        return
    benchmark_options = (*BENCHMARK_DEFAULTS, "data", "out", "limit")
    _refuse(arguments, benchmark_options, "a --task, such as coco-captions")
    _fill(arguments, SCENE_DEFAULTS)
    if arguments.world != "pictograms":
        _evaluate_composed(arguments)
        return
    _refuse(arguments, STICKER_OPTIONS, "--world stickers or drawings")
    from paligemma.evaluation.synthetic import evaluate_synthetic

    pg = load_pipeline(arguments)
    scores = evaluate_synthetic(pg, arguments.num_scenes, arguments.first_seed)
    for name, score in scores.items():
        print(f"{name:28} {score:.3f}" if isinstance(score, float) else f"{name:28} {score}")
    print(json.dumps(scores))


def _refuse(arguments: Namespace, names: Iterable[str], needed: str) -> None:
    """Raises ValueError if one of these options is given."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value is not False:
            raise ValueError(f"--{name.replace('_', '-')} needs {needed}.")


def _fill(arguments: Namespace, defaults: dict[str, Any]) -> None:
    """Give the options that were left out their defaults."""
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)


def _evaluate_composed(arguments: Namespace) -> None:
    from paligemma.evaluation.world import evaluate_world, format_scores
    from paligemma.synthetic.drawings import OPTIONS, Drawings
    from paligemma.synthetic.scene_options import SceneOptions
    from paligemma.synthetic.sticker_world import Stickers

    artists = None
    if arguments.artists:
        artists = tuple(name.strip() for name in arguments.artists.split(","))
    drawn = (artists, arguments.held_out_fonts)
    world: World
    if arguments.world == "drawings":
        world = Drawings(OPTIONS.as_drawn(*drawn), pictograms=0)
    else:
        world = Stickers(SceneOptions().as_drawn(*drawn))
    scores = evaluate_world(
        load_pipeline(arguments), world, arguments.num_scenes, arguments.first_seed
    )
    print(format_scores(scores))
    print(json.dumps({name: score._asdict() for name, score in scores.items()}))


def _evaluate_benchmark(arguments: Namespace) -> None:
    from paligemma.evaluation.benchmarks import get_benchmark
    from paligemma.evaluation.classes import format_classes
    from paligemma.evaluation.run import evaluate_benchmark, format_results

    benchmark = get_benchmark(arguments.task)
    if arguments.data is None:
        raise ValueError(f"--task {benchmark.key} needs --data, the folder or file that holds it.")
    out = arguments.out or Path("evaluations", benchmark.key)

    def load(device: str | None):
        arguments.device = arguments.device or device
        return load_pipeline(arguments)

    results = evaluate_benchmark(
        load,
        benchmark,
        arguments.data,
        arguments.split,
        out,
        arguments.batch_size,
        arguments.limit,
    )
    if results:
        print(format_results(results))
        if results["by_class"]:
            print(format_classes(results["by_class"]))
        for reason, count in results["left_out"].items():
            print(f"left out: {count} {reason}")
        print(f"The worst answers: {out / 'worst.html'}")
        print(json.dumps(results["scores"]))


def run_pointing(arguments: Namespace) -> None:
    """Measure how often each view of attention peaks in the object that a token names."""
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
        questions = synthetic_questions(arguments.num_scenes, arguments.first_seed)
    else:
        questions = coco_questions(arguments.coco, arguments.images)
    make_folder(arguments.out)
    scores = measure_pointing(load_pipeline(arguments), questions)
    save_pointing(scores, arguments.out)
    print(format_pointing(scores))
    print(f"Best whole view: {best_view(scores)}. Wrote {arguments.out}.")
