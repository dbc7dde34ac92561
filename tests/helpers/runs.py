"""Tiny runs of the trainer: a model, images with ragged answers, and a config to change.

Not a test file: the tests of training, and the script that kills runs, share it.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import tiny
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image

from paligemma.checkpoints.io import load_model
from paligemma.training.config import Run
from paligemma.training.read_config import parse_run
from paligemma.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
SUFFIXES = (
    "a red cat",
    "two",
    "a red cat and two blue mice on a white background",
    "<loc0000><loc0128><loc0512><loc1023> cat",
    "",
)


def write_samples(folder: Path, count: int = 23) -> Path:
    """JSON lines of noise images, whose answers have from one to some ten tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines = []
    for number in range(count):
        image = Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8))
        image.save(folder / f"{number}.png")
        prefix = "caption en" if number % 3 else "answer en what color is the cat?"
        suffix = SUFFIXES[number % len(SUFFIXES)]
        lines.append({"image": f"{number}.png", "prefix": prefix, "suffix": suffix})
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def values(folder: Path, **changes) -> dict:
    """The fields of a run of twenty steps of four, in `folder`; makes its model and its data."""
    if not (folder / "model").exists():
        tiny.write(folder / "model")
        write_samples(folder / "data")
    given = {
        "model": str(folder / "model"),
        "data": [{"jsonl": str(folder / "data" / "samples.jsonl")}],
        "max_steps": 20,
        "batch_size": 4,
        "learning_rate": 1e-3,
        # softmax ignores this bias: its gradient is rounding noise, which Adam would blow up
        "param_groups": [{"match": "k_proj.bias", "lr_mult": 0}],
        "num_workers": 0,
        "tracker": None,
        "output_dir": str(folder / "out"),
    }
    return given | changes


def run(folder: Path, **changes) -> Run:
    return parse_run(values(folder, **changes))


def trainer(made: Run) -> Trainer:
    """A trainer as `train` makes it, in this process alone."""
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


def scenes(folder: Path, stage: str, **changes) -> dict:
    """The fields of a run on scenes of pictograms, with everything that a stage has."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny.words().save(str(folder / "tokenizer.json"))
    tiny.codec().save(folder / "mask_codec.npz")
    given = {
        "stage": stage,
        "model": {
            "tokenizer": str(folder / "tokenizer.json"),
            "mask_codec": str(folder / "mask_codec.npz"),
            "vision_config": asdict(tiny.VISION),
            "text_config": asdict(tiny.config().text_config),
        },
        "data": [{"synthetic": {"world": "pictograms", "scenes": 1000}}],
        "seed": 3,
        "max_steps": 5,
        "batch_size": 2,
        "optimizer": {"name": "muon", "learning_rate": 8e-3},
        "learning_rate": 3e-3,
        "adam_beta2": 0.98,
        "warmup_ratio": 0.4,
        "min_lr_ratio": 0.03,
        "decay_during_warmup": True,
        "param_groups": [{"match": "vision_tower", "lr_mult": 0.5}],
        "num_workers": 0,
        "tracker": None,
        "output_dir": str(folder / "out"),
    }
    if stage == "multimodal":
        given |= {
            "packing": {"max_length": 100, "single_every": 4},
            "loss_weights": {
                "caption": 3.0,
                "ask": 1.5,
                "read": 2.5,
                "detect": 1.5,
                "segment": 1.3,
                "region": 0.7,
            },
            "auxiliary": {"patches": 0.125, "words": 0.25, "grounding": 1.0, "next_group": 0.25},
            "soft_loc_targets": {"sigma": 1, "reach": 3, "grid": 128},
        }
    return given | changes


def launch(given: dict, tmp_path: Path, *program: str) -> None:
    """Two processes of `program` on the config of these values."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(given), "utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, *program, str(path)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
