"""From any checkpoint layout to another: safetensors folder or big_vision .npz, in any dtype."""

import shutil
from pathlib import Path

import torch

from paligemma.checkpoints.calibration import CALIBRATION_FILE
from paligemma.checkpoints.io import (
    CONFIG,
    INDEX,
    MAX_SHARD_SIZE,
    WEIGHTS,
    config_values,
    save_model,
    save_npz,
    write_json,
    write_processor_files,
)
from paligemma.checkpoints.resolve import KNOWN_NAMES, STICKER_SHEET, Checkpoint
from paligemma.models.frozen import quantize_frozen

NAMES = (KNOWN_NAMES, STICKER_SHEET)  # what the app shows of what a model knows


def convert(
    checkpoint: Checkpoint,
    destination: str | Path,
    dtype: torch.dtype | None = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    quantize: str | None = None,
) -> None:
    """Write a checkpoint as `destination`: an `.npz`, or else a folder that transformers loads.

    `dtype` None keeps that of the file. tokenizer.json, the mask codec and config.json are written
    too; the sizes that an `.npz` does not hold are in the config.json beside it. An adapter is
    merged. `max_shard_size`: of each safetensors file. `quantize`: the decoder to "int8" or "int4",
    which only this project loads. Raises ValueError if a file exists already
    or cannot be written.
    """
    destination = Path(destination)
    folder = destination.parent if destination.suffix == ".npz" else destination
    try:
        names = (CONFIG, WEIGHTS, INDEX, "tokenizer.json")
        for path in (destination, *(folder / name for name in names)):
            if path.is_file():
                raise ValueError(f"{path} exists already; choose another place.")
        if quantize and destination.suffix == ".npz":
            raise ValueError("An .npz holds no quantized weights; name a folder.")
        model = checkpoint.load_model("cpu", dtype)
        if quantize:
            quantize_frozen(model.requires_grad_(False), quantize)
        if destination.suffix == ".npz":
            save_npz(model, destination)
            write_json(folder / CONFIG, config_values(model.config, checkpoint.initialization))
        else:
            save_model(model, destination, max_shard_size, checkpoint.initialization, quantize)
            write_processor_files(checkpoint.config, folder)
        tokenizer = checkpoint.processor.tokenizer.to_str(pretty=True)
        (folder / "tokenizer.json").write_text(tokenizer, "utf-8")
        if checkpoint.path.is_dir():  # the source's own processor files replace the ones above
            files = [*checkpoint.path.glob("*.json"), *map(checkpoint.path.joinpath, NAMES)]
            # what is measured or known of a base does not hold for what an adapter makes of it
            left = {CONFIG, INDEX, *((CALIBRATION_FILE, *NAMES) if checkpoint.adapter else ())}
            for file in files:
                if file.is_file() and file.name not in left:
                    shutil.copyfile(file, folder / file.name)
        if checkpoint.mask_codec is not None:
            shutil.copyfile(checkpoint.mask_codec, folder / checkpoint.mask_codec.name)
    except OSError as error:
        raise ValueError(f"{destination} cannot be written: {error}.") from error
