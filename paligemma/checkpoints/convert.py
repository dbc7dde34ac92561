"""From any layout to another: safetensors folder or big_vision .npz, in any dtype."""

import json
import shutil
from pathlib import Path

import torch

from paligemma.checkpoints.io import CONFIG, INDEX, WEIGHTS, load_model, save_model, save_npz
from paligemma.checkpoints.resolve import Checkpoint
from paligemma.processor import processor_files


def convert(found: Checkpoint, destination: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a checkpoint as `destination`: an `.npz`, else a folder that transformers loads.

    `dtype` None keeps the file's own. tokenizer.json and the mask codec go along, and config.json
    too: beside an .npz it says what the arrays cannot. Raise ValueError where something is in the
    way, or cannot be written.
    """
    destination = Path(destination)
    folder = destination.parent if destination.suffix == ".npz" else destination
    try:
        names = (CONFIG, WEIGHTS, INDEX, "tokenizer.json")
        for taken in (destination, *(folder / name for name in names)):
            if taken.is_file():
                raise ValueError(f"{taken} exists already; choose another place.")
        model = load_model(found.path, "cpu", dtype)
        if destination.suffix == ".npz":
            save_npz(model, destination)
            _write(folder / CONFIG, model.config.to_dict())
        else:
            save_model(model, destination)
            for name, values in processor_files(found.config).items():
                _write(folder / name, values)
        tokenizer = found.processor.tokenizer.to_str(pretty=True)
        (folder / "tokenizer.json").write_text(tokenizer, "utf-8")
        if found.path.is_dir():  # the source's own files know better
            for file in found.path.glob("*.json"):
                if file.name not in (CONFIG, INDEX):
                    shutil.copyfile(file, folder / file.name)
        if found.mask_codec is not None:
            shutil.copyfile(found.mask_codec, folder / found.mask_codec.name)
    except OSError as error:
        raise ValueError(f"{destination} cannot be written: {error}.") from error


def _write(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
