"""Muon: momentum whose every step is made orthogonal (Jordan et al. 2024), for matrices.

torch.optim.Muon computes in bfloat16, one matrix at a time. This one takes all matrices of a shape
at once, in float32 where the machine has no bfloat16 arithmetic: there it is several times as fast.
"""

from collections import defaultdict
from collections.abc import Callable
from itertools import groupby

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
        alike: dict[torch.Size, list[tuple[Tensor, Tensor, dict]]] = defaultdict(list)
        for group in self.param_groups:
            matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
            if not matrices:
                continue
            for matrix in matrices:
                if not self.state[matrix]:
                    self.state[matrix]["momentum"] = torch.zeros_like(matrix)
            means = [self.state[matrix]["momentum"] for matrix in matrices]
            gradients = [matrix.grad for matrix in matrices]
            torch.ops.aten._foreach_lerp_(means, gradients, 1 - group["momentum"])
            directions = torch.ops.aten._foreach_lerp(gradients, means, group["momentum"])
            for matrix, direction in zip(matrices, directions, strict=True):
                alike[matrix.shape].append((matrix, direction, group))
        for shape, found in alike.items():
            matrices, directions, groups = zip(*found, strict=True)
            scale = 0.2 * max(shape) ** 0.5
            turned = orthogonalize(torch.stack(directions), self.dtype)
            # as the matrices are: else a GPU would take them one at a time
            turned = turned.to(matrices[0].dtype, memory_format=torch.contiguous_format)
            for _, of_group in groupby(zip(matrices, turned, groups, strict=True), _group_of):
                own, steps, (group, *_) = zip(*of_group, strict=True)
                torch.ops.aten._foreach_mul_(own, 1 - group["lr"] * group["weight_decay"])
                torch.ops.aten._foreach_sub_(own, steps, alpha=group["lr"] * scale)


def _group_of(updated: tuple[Tensor, Tensor, dict]) -> int:
    """Which group a (matrix, step, group) is of."""
    return id(updated[2])
