"""Checkpoints as tests write them, in each layout, and how a refusal is checked."""

import json

import pytest
from layouts import LAYOUTS
from reference import theirs
from safetensors.torch import save_file

from paligemma.checkpoints.io import CONFIG, WEIGHTS, save_model, save_npz

SHARD = 100_000  # bytes: several files for the tiny models


def refused(words: str, call, *arguments) -> None:
    """A ValueError of one line, which a command can print as it is."""
    with pytest.raises(ValueError, match=words) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)


def write_renamed(rename):
    def write(model, path):
        path.mkdir()
        (path / CONFIG).write_text(json.dumps(model.config.to_dict()))
        state = {rename(name): tensor for name, tensor in model.state_dict().items()}
        save_file(state, path / WEIGHTS, metadata={"format": "pt"})
        return path

    return write


def write_npz(model, path):
    save_npz(model, path / "weights.npz")
    (path / CONFIG).write_text(json.dumps(model.config.to_dict()))
    return path / "weights.npz"


def write_own(model, path, **how):
    save_model(model, path, **how)
    return path


def write_with_transformers(model, path, **how):
    reference = theirs(model.config).to(model.language_model.norm.weight.dtype)
    reference.save_pretrained(path, **how)
    return path


WRITERS = {name: write_renamed(rename) for name, rename in LAYOUTS.items()} | {
    "ours": write_own,
    "ours, sharded": lambda model, path: write_own(model, path, max_shard_size=SHARD),
    "transformers": write_with_transformers,
    "transformers, sharded": lambda model, path: write_with_transformers(
        model, path, max_shard_size=SHARD
    ),
    "npz": write_npz,
}
