"""Muon: momentum whose every step is made orthogonal (Jordan et al. 2024), for matrices.

torch.optim.Muon computes in bfloat16, one matrix at a time. This one takes all matrices of a shape
at once, in float32 where the machine has no bfloat16 arithmetic: there it is several times as fast.
"""

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the iteration, from Jordan's post


def orthogonalize(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest half-orthogonal matrices to [n, rows, columns], roughly: singular values ≈ 1.

    They are computed and returned in `dtype`.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)).to(dtype)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(Optimizer):
    """`lr` is comparable with AdamW's: a step's size is that of AdamW's usual step.

    `groups` hold `params` (matrices), `lr` and `weight_decay`.
    """

    def __init__(
        self, groups: list[dict], momentum: float = 0.95, dtype: torch.dtype = torch.float32
    ) -> None:
        self.dtype = dtype  # of the arithmetic
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.02, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        alike: dict[torch.Size, list[tuple[Tensor, dict]]] = defaultdict(list)
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike[matrix.shape].append((matrix, group))
        for shape, pairs in alike.items():
            directions = []
            for matrix, group in pairs:
                state = self.state[matrix]
                if not state:
                    state["momentum"] = torch.zeros_like(matrix)
                mean = state["momentum"]
                mean.lerp_(matrix.grad, 1 - group["momentum"])
                directions.append(matrix.grad.lerp(mean, group["momentum"]))
            scale = 0.2 * max(shape) ** 0.5
            steps = orthogonalize(torch.stack(directions), self.dtype)
            for (matrix, group), turned in zip(pairs, steps, strict=True):
                rate = group["lr"]
                matrix.mul_(1 - rate * group["weight_decay"]).sub_(turned, alpha=rate * scale)
