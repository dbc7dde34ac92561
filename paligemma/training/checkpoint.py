"""Training state on disk: tensors as safetensors, the rest as JSON in its header; no pickle."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def save(path: Path, state: Any) -> None:
    """Write a tree of dicts, lists, tensors and plain values; the old file stays till then."""
    tensors: dict[str, torch.Tensor] = {}

    def strip(node: Any) -> Any:
        if isinstance(node, torch.Tensor):
            tensors[str(len(tensors))] = node.detach().cpu().contiguous().clone()
            return {"tensor": str(len(tensors) - 1)}
        if isinstance(node, dict):
            return {"dict": [[key, strip(value)] for key, value in node.items()]}
        if isinstance(node, list | tuple):
            return {"list": [strip(value) for value in node]}
        return {"value": node}

    tree = json.dumps(strip(state))
    aside = path.with_suffix(".writing")
    save_file(tensors, aside, metadata={"tree": tree})
    os.replace(aside, path)


def load(path: Path) -> Any:
    """Read back what `save` wrote (tuples come back as lists)."""
    with safe_open(path, "pt") as file:

        def fill(node: dict) -> Any:
            match node:
                case {"tensor": key}:
                    return file.get_tensor(key)
                case {"dict": pairs}:
                    return {key: fill(value) for key, value in pairs}
                case {"list": values}:
                    return [fill(value) for value in values]
            return node["value"]

        return fill(json.loads(file.metadata()["tree"]))
