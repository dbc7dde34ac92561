"""What several commands share: the options that choose a model, and writing files."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from paligemma.pipeline import PaliGemma


def add_model_options(parser: ArgumentParser) -> None:
    """The options that `load_pipeline` reads."""
    add_source_options(parser)
    parser.add_argument("--dtype", help="float32, bfloat16 or float16")
    parser.add_argument(
        "--quantize", choices=("int8", "int4"), help="the decoder's weights, on the CPU"
    )


def add_source_options(parser: ArgumentParser) -> None:
    """Those of them that say which model, and where it runs."""
    parser.add_argument(
        "--model", help="a folder, an .npz or owner/model of the hub (default: the built-in model)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps, or auto: all devices and disk")
    parser.add_argument("--tokenizer", help="a tokenizer.json, if there is none beside the weights")
    parser.add_argument("--mask-codec", help="an .npz, if there is none beside the weights")
    add_base_option(parser)


def add_base_option(parser: ArgumentParser) -> None:
    parser.add_argument("--base", help="the base of an adapter, instead of the one that it names")


def load_pipeline(arguments: Namespace) -> PaliGemma:
    """Raises ValueError if the model cannot be loaded."""
    from paligemma.pipeline import PaliGemma

    return PaliGemma.load(
        arguments.model,
        arguments.device,
        arguments.dtype,
        arguments.tokenizer,
        arguments.mask_codec,
        arguments.base,
        arguments.quantize,
    )


def make_folder(folder: Path) -> None:
    """Raises ValueError if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder} cannot be made: {error.strerror}.") from error


def save_image(image: Image.Image, path: Path) -> None:
    """Raises ValueError if it cannot be written there, or not in that format."""
    try:
        image.save(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"The image cannot be written to {path}: {error}.") from error
