"""AdamW whose states are in 8 bits, a scale for each 256 numbers: torchao's (arXiv 2110.02861)."""

from collections.abc import Callable

import torch
from torch.optim import Optimizer

BLOCK, SMALLEST = 256, 4096  # torchao keeps float32 for what has fewer numbers, or no whole blocks


def make_adamw_8bit(groups: list[dict], betas: tuple[float, float]) -> Optimizer:
    """The optimizer of groups that hold `params`, `lr` and `weight_decay`.

    Each group's `lr` becomes a tensor, which must be changed in place. Raises ValueError if torchao
    is not installed.
    """
    try:
        from torchao.optim import AdamW8bit
    except ImportError:
        raise ValueError("optimizer adamw8bit needs torchao: pip install torchao.") from None

    class EagerAdamW8bit(AdamW8bit):
        """On a CPU the step is not compiled, which would need a C++ compiler."""

        def step(self, closure: Callable[[], float] | None = None):
            on_cpu = self.param_groups[0]["params"][0].device.type == "cpu"
            with torch.compiler.set_stance("force_eager" if on_cpu else "default"):
                return super().step(closure)

    return EagerAdamW8bit(groups, betas=betas)


def bytes_of_states(count: int) -> int:
    """Bytes of both moments of a parameter of `count` numbers."""
    if count < SMALLEST or count % BLOCK:
        return 8 * count
    return 2 * (count + 4 * count // BLOCK + 4 * 256)  # codes, scales, what the codes stand for
