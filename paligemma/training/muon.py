"""Muon: momentum whose every step is made orthogonal (Jordan et al. 2024), for matrices.

torch.optim.Muon computes in bfloat16, one matrix at a time. This one computes in float32 and takes
all matrices of a shape at once: on a CPU without bfloat16 arithmetic it is several times as fast.
"""

from collections import defaultdict

import torch
from torch import Tensor
from torch.optim import Optimizer

MOMENTUM = 0.95
WEIGHT_DECAY = 0.02
STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the iteration, from Jordan's post


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest half-orthogonal matrices to [n, rows, columns], roughly: singular values ≈ 1."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(Optimizer):
    """`lr` is comparable with AdamW's: a step's size is that of AdamW's usual step."""

    def __init__(self, groups: list[dict]) -> None:
        super().__init__(groups, {"lr": 0.0})

    @torch.no_grad()
    def step(self) -> None:
        alike: dict[torch.Size, list[tuple[Tensor, float]]] = defaultdict(list)
        for group in self.param_groups:
            for matrix in group["params"]:
                alike[matrix.shape].append((matrix, group["lr"]))
        for shape, pairs in alike.items():
            directions = []
            for matrix, _ in pairs:
                state = self.state[matrix]
                mean = state.setdefault("momentum", torch.zeros_like(matrix))
                mean.lerp_(matrix.grad, 1 - MOMENTUM)
                directions.append(matrix.grad.lerp(mean, MOMENTUM))
            scale = 0.2 * max(shape) ** 0.5
            steps = orthogonal(torch.stack(directions))
            for (matrix, rate), turned in zip(pairs, steps, strict=True):
                matrix.mul_(1 - rate * WEIGHT_DECAY).sub_(turned, alpha=rate * scale)
