"""The optimizers of a run over named groups of parameters: AdamW (in 32 or 8 bits), or Muon with
AdamW."""

import re
from collections import defaultdict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from paligemma.training.adamw8bit import bytes_of_states, make_adamw_8bit
from paligemma.training.config import AdamW8bitOptions, MuonOptions, Run
from paligemma.training.initialize import compute_dtype
from paligemma.training.muon import Muon
from paligemma.training.schedule import lr_factor


def make_optimizers(module: nn.Module, run: Run) -> list[Optimizer]:
    """AdamW, or Muon for the matrices of layers and AdamW for the rest.

    A group of `lr_mult` 0 is frozen: its parameters lose `requires_grad` and are in no optimizer.
    Raises ValueError for a group that nothing fits.
    """
    groups, optimizers = param_groups(module, run), []
    if isinstance(run.optimizer, MuonOptions) and Muon in groups:
        optimizers.append(Muon(groups[Muon], run.optimizer.momentum, compute_dtype(run)))
    if AdamW in groups:
        betas = (0.9, run.adam_beta2)
        if isinstance(run.optimizer, AdamW8bitOptions):
            optimizers.append(make_adamw_8bit(groups[AdamW], betas))
        else:
            optimizers.append(AdamW(groups[AdamW], betas=betas, fused=True))
    return optimizers


def param_groups(module: nn.Module, run: Run) -> dict[type[Optimizer], list[dict]]:
    """The groups of each optimizer: `params`, their peak rate, their warm-up, their weight decay.

    Only matrices decay, as in big_vision.
    """
    members: dict[tuple, list[nn.Parameter]] = defaultdict(list)
    fitted = set()
    for name, parameter in module.named_parameters():
        group = next((g for g in run.param_groups if re.search(g.match, name)), None)
        fitted.add(group)
        mult, warmup = (1.0, None) if group is None else (group.lr_mult, group.warmup_ratio)
        parameter.requires_grad_(parameter.requires_grad and mult > 0)
        if parameter.requires_grad:
            kind, peak, decay = _rule(name, parameter, run)
            warmup = run.warmup_ratio if warmup is None else warmup
            members[kind, mult * peak, warmup, decay].append(parameter)
    for group in run.param_groups:
        if group not in fitted:
            raise ValueError(
                f"No parameter's name holds {group.match!r}, which param_groups names."
            )
    if not members:
        raise ValueError("Nothing is left to train: every parameter is frozen.")
    groups: dict[type[Optimizer], list[dict]] = defaultdict(list)
    for (kind, peak, warmup, decay), params in members.items():
        groups[kind].append(
            {"params": params, "lr": 0.0, "peak": peak, "warmup": warmup, "weight_decay": decay}
        )
    return groups


def _rule(name: str, parameter: Tensor, run: Run) -> tuple[type[Optimizer], float, float]:
    """The optimizer of a parameter, its peak rate and its weight decay."""
    is_matrix = parameter.ndim == 2 and ".layers." in f".{name}"
    if isinstance(run.optimizer, MuonOptions) and is_matrix:
        return Muon, run.optimizer.learning_rate, run.optimizer.weight_decay
    return AdamW, run.learning_rate, run.weight_decay if parameter.ndim > 1 else 0.0


def state_bytes(name: str, parameter: Tensor, run: Run) -> int:
    """Bytes of the optimizer's states of a parameter: two moments, or Muon's momentum."""
    count = parameter.numel()
    if isinstance(run.optimizer, AdamW8bitOptions):
        return bytes_of_states(count)
    return (4 if _rule(name, parameter, run)[0] is Muon else 8) * count


def set_learning_rates(optimizers: Sequence[Optimizer], step: int, steps: int, run: Run) -> None:
    """Give every group the learning rate of `step`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            factor = lr_factor(
                step, steps, group["warmup"], run.min_lr_ratio, run.decay_during_warmup
            )
            rate = group["peak"] * factor
            if isinstance(group["lr"], Tensor):  # of AdamW in 8 bits
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
