"""AdamW over named groups of parameters, and the schedule of their rates."""

import re
from collections import defaultdict

import torch
from torch import nn

from paligemma.training.config import Run
from paligemma.training.mask_codec import cosine


def grouped(module: nn.Module, run: Run) -> list[dict]:
    """AdamW's groups: `params`, their peak rate, their warm-up, their weight decay.

    A group of rate 0 is frozen: its parameters lose `requires_grad` and are in no group. Only
    matrices decay, as in big_vision. ValueError for a group that nothing fits.
    """
    members: dict[tuple[float, float, float], list] = defaultdict(list)
    fitted = set()
    for name, parameter in module.named_parameters():
        group = next((g for g in run.groups if re.search(g.match, name)), None)
        fitted.add(group)
        rate, warmup = (1.0, None) if group is None else (group.rate, group.warmup)
        parameter.requires_grad_(parameter.requires_grad and rate > 0)
        if parameter.requires_grad:
            decay = run.weight_decay if parameter.ndim > 1 else 0.0
            key = (rate * run.learning_rate, run.warmup if warmup is None else warmup, decay)
            members[key].append(parameter)
    for group in run.groups:
        if group not in fitted:
            raise ValueError(f"No parameter's name holds {group.match!r}, which groups names.")
    if not members:
        raise ValueError("Nothing is left to train: every parameter is frozen.")
    return [
        {"params": params, "lr": 0.0, "peak": peak, "warmup": warmup, "weight_decay": decay}
        for (peak, warmup, decay), params in members.items()
    ]


def factor(step: int, steps: int, warmup: float) -> float:
    """What a rate is of its peak in `step` 0…steps − 1: a linear warm-up, then half a cosine."""
    first = round(warmup * steps)
    if step < first:
        return (step + 1) / first
    return cosine((step - first) / (steps - first), floor=0.0)


def optimizer(module: nn.Module, run: Run) -> torch.optim.AdamW:
    return torch.optim.AdamW(grouped(module, run), betas=(0.9, run.b2))


def set_rates(adamw: torch.optim.Optimizer, step: int, steps: int) -> None:
    for group in adamw.param_groups:
        group["lr"] = group["peak"] * factor(step, steps, group["warmup"])
