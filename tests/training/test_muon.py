"""Muon against torch's own."""

import pytest
import torch
from torch import nn

from paligemma.training.muon import Muon, orthogonalize


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(6, 16), (16, 6), (8, 8)])
def test_a_step_of_muon_is_that_of_torch(shape, dtype):
    """torch's works in bfloat16, hence the tolerance; several matrices of a shape go together."""
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for _ in range(3)]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    rates = (0.1, 0.05, 0.2)
    muon = Muon([{"params": [p], "lr": r} for p, r in zip(ours, rates, strict=True)], dtype=dtype)
    torchs = [
        torch.optim.Muon([p], lr=r, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
        for p, r in zip(theirs, rates, strict=True)
    ]
    for number in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            torch.manual_seed(number)
            mine.grad = torch.randn(shape)
            other.grad = mine.grad.clone()
        for optimizer in (muon, *torchs):
            optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0.01)
    turned = orthogonalize(torch.randn(2, *shape), dtype)
    assert turned.dtype == dtype
    assert torch.linalg.svdvals(turned.float()).sub(1).abs().max() < 0.4
