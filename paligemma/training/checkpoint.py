"""How far a run came, on disk: tensors as safetensors, the rest as JSON in its header; no pickle.

A state is written aside and renamed, and the newest whole one is found again.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

KEPT = 2  # newest states
BEST = "best.state"
GATHERED = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
SCATTERED = StateDictOptions(full_state_dict=True, ignore_frozen_params=True, strict=False)


# --- States of a run ------------------------------------------------------------------------------


def gather(module: nn.Module, frozen: bool = False) -> dict[str, torch.Tensor]:
    """The trained parameters by name, with the `frozen` ones where asked, from all processes.

    Empty on all but the first process.
    """
    options = replace(GATHERED, ignore_frozen_params=not frozen)
    return cast(dict[str, torch.Tensor], get_model_state_dict(module, options=options))


def save_state(
    output_dir: Path,
    values: dict[str, Any],
    module: nn.Module,
    optimizers: Sequence[Optimizer],
    is_main: bool,
) -> None:
    """Write `output_dir`/states/step-N.state, N being values["step"]; only `KEPT` states stay.

    All processes must call it: each holds a part of what is written where a model is sharded.
    Raises ValueError if it cannot be written, for instance on a full disk; the others stay.
    """
    moments = get_optimizer_state_dict(module, optimizers, options=GATHERED)
    state = values | {"trained": gather(module), "optimizers": moments}
    if is_main:
        path = output_dir / "states" / f"step-{values['step']:08d}.state"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tree(path, state)
            for old in _newest_first(output_dir)[KEPT:]:
                old.unlink()
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} cannot be written: {error}.") from error


def newest_state(output_dir: Path) -> dict[str, Any] | None:
    """The newest state that is whole, or None."""
    for path in _newest_first(output_dir):
        try:
            return read_tree(path)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            continue  # damaged, by a disk that was full or lost its power
    return None


def save_best(output_dir: Path, step: int, module: nn.Module, is_main: bool) -> None:
    """Write the trained parameters as those of the best evaluation. All processes must call it."""
    trained = gather(module)
    if is_main:
        path = output_dir / "states" / BEST
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tree(path, {"step": step, "trained": trained})
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} cannot be written: {error}.") from error


def restore_best(output_dir: Path, module: nn.Module) -> int:
    """Put back the parameters that `save_best` wrote: their step."""
    state = read_tree(output_dir / "states" / BEST)
    set_model_state_dict(module, state["trained"], options=SCATTERED)
    return state["step"]


def newest_step(output_dir: Path) -> int | None:
    """The step of the newest state, by its name; None if there is none."""
    found = _newest_first(output_dir)
    return int(found[0].stem.removeprefix("step-")) if found else None


def restore_state(
    state: dict[str, Any], module: nn.Module, optimizers: Sequence[Optimizer]
) -> None:
    """Put the trained parameters and the optimizers' states back where they belong."""
    set_model_state_dict(module, state["trained"], options=SCATTERED)
    set_optimizer_state_dict(module, optimizers, state["optimizers"], options=SCATTERED)


def _newest_first(output_dir: Path) -> list[Path]:
    return sorted((output_dir / "states").glob("step-*.state"), reverse=True)


# --- Trees of tensors and values ------------------------------------------------------------------


def write_tree(path: Path, tree: Any) -> None:
    """Write a tree of dicts, lists, tensors and plain values; the old file stays till then."""
    tensors: dict[str, torch.Tensor] = {}

    def strip(node: Any) -> Any:
        if is_traceable_wrapper_subclass(node):  # a state in 8 bits
            names, context = node.__tensor_flatten__()
            parts = [strip(getattr(node, name)) for name in names]
            return {"state_8bit": parts, "signed": cast(Sequence[Any], context)[0]}
        if isinstance(node, torch.Tensor):
            tensors[str(len(tensors))] = node.detach().cpu().contiguous().clone()
            return {"tensor": str(len(tensors) - 1)}
        if isinstance(node, dict):
            return {"dict": [[key, strip(value)] for key, value in node.items()]}
        if isinstance(node, list | tuple):
            return {"list": [strip(value) for value in node]}
        return {"value": node}

    header = json.dumps(strip(tree))
    aside = path.with_suffix(".writing")
    save_file(tensors, aside, metadata={"tree": header})
    os.replace(aside, path)


def read_tree(path: Path) -> Any:
    """Read back what `write_tree` wrote (tuples come back as lists)."""
    with safe_open(path, "pt") as file:

        def fill(node: dict) -> Any:
            match node:
                case {"tensor": key}:
                    return file.get_tensor(key)
                case {"state_8bit": parts, "signed": signed}:
                    from torchao.optim.subclass_8bit import OptimState8bit

                    codes, scale, qmap = map(fill, parts)
                    return OptimState8bit(codes, scale, qmap, signed, torch.float32)
                case {"dict": pairs}:
                    return {key: fill(value) for key, value in pairs}
                case {"list": values}:
                    return [fill(value) for value in values]
            return node["value"]

        return fill(json.loads(file.metadata()["tree"]))
