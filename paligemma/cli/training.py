"""paligemma train, data check, data fetch-stickers, data sticker-sheet"""

from argparse import Namespace
from pathlib import Path

from paligemma.cli.common import save_image

MAX_WARNINGS = 10


def add_commands(commands) -> None:
    parser = commands.add_parser("train", help="train a checkpoint on your own data")
    parser.add_argument("config", type=Path, help="a YAML file; configs/ has one for each stage")
    parser.set_defaults(run=run_train)

    data = commands.add_parser("data", help="inspect or fetch training data")
    verbs = data.add_subparsers(required=True, metavar="command")
    parser = verbs.add_parser("fetch-stickers", help="fetch the drawings of the stickers' world")
    parser.set_defaults(run=run_fetch_stickers)
    parser = verbs.add_parser("sticker-sheet", help="write one drawing of each kind as an image")
    parser.add_argument("--out", type=Path, required=True, help="a WebP, such as stickers.webp")
    parser.set_defaults(run=run_sticker_sheet)
    parser = verbs.add_parser("check", help="list the invalid samples, and draw a contact sheet")
    parser.add_argument(
        "file",
        type=Path,
        help="JSON lines, Parquet, JSON of COCO or Label Studio; a folder of YOLO, VOC or texts; "
        "or a run's YAML, which says all the rest",
    )
    parser.add_argument("--images", type=Path, help="folder of the images (default: the file's)")
    parser.add_argument(
        "--task", choices=("detect", "segment"), help="for boxes and masks (default: detect)"
    )
    parser.add_argument("--prefix", help="prompt of a folder's images (default: caption en)")
    parser.add_argument(
        "--model", help="whose tokenizer and mask codec to use (default: the built-in model)"
    )
    parser.add_argument("--out", type=Path, help="write the contact sheet there")
    parser.set_defaults(run=run_data_check)


def run_train(arguments: Namespace) -> None:
    """Train as a YAML file says; the same command resumes a run that was stopped."""
    from paligemma.training.read_config import read_run
    from paligemma.training.trainer import train

    train(read_run(arguments.config))


def run_fetch_stickers(arguments: Namespace) -> None:
    """Fetch the packages of drawings with npm, and draw their atlas into the cache."""
    from paligemma.synthetic.atlas import fetch_stickers

    print(f"Wrote {fetch_stickers()}.")


def run_sticker_sheet(arguments: Namespace) -> None:
    """Write the sheet of stickers that an app with a model of this world draws from."""
    from paligemma.synthetic.atlas import load_atlas
    from paligemma.synthetic.sticker_sheet import save_sheet
    from paligemma.synthetic.stickers import stickers_cache

    save_sheet(load_atlas(stickers_cache() / "atlas"), arguments.out)
    print(f"Wrote {arguments.out}.")


def run_data_check(arguments: Namespace) -> None:
    """List the invalid samples of a file, a folder or a run, and draw a sheet of valid ones."""
    from paligemma.training.inspect import check_data, check_run
    from paligemma.training.read_config import read_run

    path, images, task = arguments.file, arguments.images, arguments.task
    prefix, model = arguments.prefix, arguments.model
    if path.suffix in (".yaml", ".yml"):
        if images or task or prefix or model:
            raise ValueError("A run's YAML names images, tasks, prompts and model itself.")
        report = check_run(read_run(path))
    else:
        report = check_data(path, images, task or "detect", prefix or "caption en", model)
    for reason in report.invalid:
        print(reason)
    for what, count in report.left_out.items():
        print(f"left out: {count} {what}")
    for warning in report.unasked[:MAX_WARNINGS]:
        print(f"warning: {warning}")
    if len(report.unasked) > MAX_WARNINGS:
        print(f"warning: and {len(report.unasked) - MAX_WARNINGS} more")
    if arguments.out and report.sheet:
        save_image(report.sheet, arguments.out)
    if report.invalid:
        raise ValueError(f"{len(report.invalid)} of {report.count} samples cannot be trained on.")
    if report.negatives:
        print(f"{report.negatives} samples ask for objects that are not in their image.")
    print(f"{report.count} samples, all valid.")
