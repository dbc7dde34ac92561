"""How far a run came, on disk: written aside and renamed, the newest whole one found again."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from paligemma.training import checkpoint

KEPT = 2  # newest states
GATHERED = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
SPREAD = StateDictOptions(full_state_dict=True, ignore_frozen_params=True, strict=False)


def gather(module: nn.Module) -> dict[str, torch.Tensor]:
    """The trained parameters by name, put together from all processes; on the first one only."""
    return get_model_state_dict(module, options=GATHERED)


def save(out: Path, values: dict[str, Any], module: nn.Module, adamw, is_main: bool) -> None:
    """Write `out`/states/step-N.state, N being values["step"]; the oldest beyond `KEPT` go.

    All processes must call it: each holds a part of what is written where a model is sharded.
    """
    optimizer = get_optimizer_state_dict(module, adamw, options=GATHERED)
    state = values | {"trained": gather(module), "adamw": optimizer}
    if is_main:
        folder = out / "states"
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.save(folder / f"step-{values['step']:08d}.state", state)
        for old in _newest_first(out)[KEPT:]:
            old.unlink()


def newest(out: Path) -> dict[str, Any] | None:
    """The newest state that is whole, or None."""
    for path in _newest_first(out):
        try:
            return checkpoint.load(path)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            continue  # damaged, by a disk that was full or lost its power
    return None


def restore(state: dict[str, Any], module: nn.Module, adamw) -> None:
    """Put the trained parameters and the optimizer's state back where they belong."""
    set_model_state_dict(module, state["trained"], options=SPREAD)
    set_optimizer_state_dict(module, adamw, state["adamw"], options=SPREAD)


def _newest_first(out: Path) -> list[Path]:
    return sorted((out / "states").glob("step-*.state"), reverse=True)
