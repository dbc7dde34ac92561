"""Tiny runs of the trainer: a model, pictures with ragged answers, and a config to change.

Not a test file: the tests of training, and the script that kills runs, share it.
"""

import json
from pathlib import Path

import numpy as np
import tiny
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image

from paligemma.checkpoints.io import load_model
from paligemma.training import config
from paligemma.training.config import Run
from paligemma.training.trainer import Trainer

SUFFIXES = (
    "a red cat",
    "two",
    "a red cat and two blue mice on a white background",
    "<loc0000><loc0128><loc0512><loc1023> cat",
    "",
)


def rows(folder: Path, count: int = 23) -> Path:
    """JSON lines of noise pictures, whose answers have from one to some ten tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines = []
    for number in range(count):
        picture = Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8))
        picture.save(folder / f"{number}.png")
        prefix = "caption en" if number % 3 else "answer en what color is the cat?"
        suffix = SUFFIXES[number % len(SUFFIXES)]
        lines.append({"image": f"{number}.png", "prefix": prefix, "suffix": suffix})
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def values(folder: Path, **changes) -> dict:
    """The fields of a run of twenty steps of four, in `folder`; makes its model and its data."""
    if not (folder / "model").exists():
        tiny.write(folder / "model")
        rows(folder / "data")
    given = {
        "model": str(folder / "model"),
        "data": [{"rows": str(folder / "data" / "rows.jsonl")}],
        "steps": 20,
        "batch": 4,
        "learning_rate": 1e-3,
        # softmax ignores this bias: its gradient is rounding noise, which Adam would blow up
        "groups": [{"match": "k_proj.bias", "rate": 0}],
        "workers": 0,
        "tracker": None,
        "out": str(folder / "out"),
    }
    return given | changes


def run(folder: Path, **changes) -> Run:
    return config.check(values(folder, **changes))


def trainer(made: Run) -> Trainer:
    """A trainer as `finetune.train` makes it, in this process alone."""
    AcceleratorState._reset_state(True)
    mixed = "bf16" if made.dtype == "bfloat16" else "no"
    return Trainer(made, Accelerator(cpu=True, mixed_precision=mixed))


def weights(folder: Path | str) -> dict[str, torch.Tensor]:
    return load_model(folder).state_dict()


def furthest(one: dict, other: dict) -> float:
    """The largest distance of two tensors of a name, as a share of the tensor's size."""
    assert one.keys() == other.keys()
    return max(
        ((value - other[name]).norm() / value.norm().clamp(min=1e-6)).item()
        for name, value in one.items()
    )
