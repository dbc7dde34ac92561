"""The first weights of a model."""

import pytest
import tiny
import torch
from reference import ours
from torch import nn

from paligemma.models.init import initialize, order_locations


@torch.no_grad()
def test_locations_start_in_order():
    model = ours(tiny.config())
    table = model.language_model.embed_tokens.weight
    before = table.clone()
    words = tiny.words()
    locs = [words.token_to_id(f"<loc{n:04d}>") for n in range(1024)]
    order_locations(table, locs)
    rows = nn.functional.normalize(table[locs], dim=1)
    alike = lambda apart: (rows[apart:] * rows[:-apart]).sum(1).mean()
    assert alike(1) > 0.95 and alike(1) > alike(8) > alike(64) > alike(512)
    assert table[locs].std() == pytest.approx(before.std().item(), rel=1e-3)
    others = torch.ones(len(table), dtype=torch.bool)
    others[locs] = False
    assert torch.equal(table[others], before[others])


@torch.no_grad()
def test_initialize():
    model = ours(tiny.config())
    initialize(model, seed=1)
    state = dict(model.named_parameters())
    for name, value in state.items():
        if "norm" in name:  # LayerNorm multiplies by its weight, RMSNorm by 1 + weight
            expected = float("vision_tower" in name and name.endswith("weight"))
            assert (value == expected).all(), name
        elif value.ndim == 1:
            assert (value == 0).all(), name
    for name, scale in ("k_proj", 1), ("q_proj", 0.3), ("o_proj", 0.3):
        matrix = state[f"language_model.layers.0.self_attn.{name}.weight"]
        assert matrix.std() == pytest.approx(scale * matrix.shape[1] ** -0.5, rel=0.1), name
    again = ours(tiny.config(), seed=5)
    initialize(again, seed=1)
    assert all(torch.equal(value, state[name]) for name, value in again.named_parameters())
