"""Training state on disk: it comes back whole, survives a broken write, and nothing is pickled."""

import json
import pickle

import pytest
import torch
from torch import nn

from paligemma.training import checkpoint
from paligemma.training.muon import Muon


def test_a_tree_comes_back(tmp_path):
    shared = torch.arange(6.0).view(2, 3)
    state = {
        "step": 7,
        3: [shared, shared.T, torch.tensor(True)],
        "deep": {"none": None, "rate": 0.1 + 0.2, "half": torch.ones(2, dtype=torch.bfloat16)},
        "pair": (1, "two"),
    }
    checkpoint.write_tree(tmp_path / "a.state", state)
    again = checkpoint.read_tree(tmp_path / "a.state")
    assert list(again) == ["step", 3, "deep", "pair"] and again["step"] == 7
    assert torch.equal(again[3][0], shared) and torch.equal(again[3][1], shared.T)
    assert again[3][2].dtype == torch.bool and again[3][2].shape == ()
    assert again["deep"]["none"] is None and again["deep"]["rate"] == 0.1 + 0.2
    assert again["deep"]["half"].dtype == torch.bfloat16
    assert again["pair"] == [1, "two"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.state"]


def test_an_optimizer_goes_on_from_the_file(tmp_path):
    def parts():
        torch.manual_seed(0)
        layer = nn.Linear(4, 4)
        matrix, rest = [layer.weight], [{"params": [layer.bias], "peak": 0.1}]
        muon = Muon([{"params": matrix, "lr": 0.1}])
        return layer, [muon, torch.optim.AdamW(rest, betas=(0.9, 0.98))]

    def step(layer, optimizers, number):
        torch.manual_seed(number)
        layer(torch.randn(8, 4)).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    layer, optimizers = parts()
    step(layer, optimizers, 1)
    states = [optimizer.state_dict() for optimizer in optimizers]
    checkpoint.write_tree(tmp_path / "a.state", {"layer": layer.state_dict(), "optimizers": states})
    step(layer, optimizers, 2)

    state = checkpoint.read_tree(tmp_path / "a.state")
    again, optimizers = parts()
    again.load_state_dict(state["layer"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    assert optimizers[1].param_groups[0]["peak"] == 0.1
    step(again, optimizers, 2)
    assert torch.equal(again.weight, layer.weight) and torch.equal(again.bias, layer.bias)


def test_an_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.state"
    checkpoint.write_tree(path, {"step": 1, "w": torch.ones(3)})

    def cut_short(tensors, path, metadata):
        path.write_bytes(b"half of i")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", cut_short)
    with pytest.raises(OSError, match="No space"):
        checkpoint.write_tree(path, {"step": 2, "w": torch.zeros(3)})
    assert checkpoint.read_tree(path)["step"] == 1
    monkeypatch.undo()
    checkpoint.write_tree(
        path, {"step": 3, "w": torch.zeros(3)}
    )  # what was left does not stand in the way
    assert checkpoint.read_tree(path)["step"] == 3


def test_nothing_is_pickled(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("pickle")

    for module, name in (pickle, "dump"), (pickle, "dumps"), (torch, "save"), (torch, "load"):
        monkeypatch.setattr(module, name, refuse)
    checkpoint.write_tree(tmp_path / "a.state", {"w": torch.ones(3), "step": 1})
    assert checkpoint.read_tree(tmp_path / "a.state")["step"] == 1
    raw = (tmp_path / "a.state").read_bytes()
    assert "__metadata__" in json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    with pytest.raises(TypeError, match="JSON"):
        checkpoint.write_tree(tmp_path / "a.state", {"w": {1, 2}})
