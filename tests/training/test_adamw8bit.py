"""AdamW with states in 8 bits: what it learns, what it holds, and that a run resumes to the bit."""

import subprocess
import sys

import pytest
import runs
import torch
from torchao.optim.subclass_8bit import OptimState8bit

from paligemma.training import checkpoint
from paligemma.training.adamw8bit import bytes_of_states, make_adamw_8bit

CHANGES = {"optimizer": {"name": "adamw8bit"}, "max_steps": 6, "save_steps": 3}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


def test_it_resumes_to_the_bit(home, tmp_path):
    made = runs.run(home, output_dir=str(tmp_path), **CHANGES)
    one = runs.trainer(made)
    one.loop()
    states = [state["exp_avg"] for state in one.optimizers[0].state.values()]
    assert {type(state) for state in states} >= {OptimState8bit, torch.Tensor}  # large and small
    (tmp_path / "states" / "step-00000006.state").unlink()
    again = runs.trainer(made)
    assert again.step == 3
    again.loop()
    assert torch.equal(one.losses, again.losses)
    own, other = one.objective.state_dict(), again.objective.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in own.items())


def test_it_learns_nearly_what_adamw_learns(home, tmp_path):
    changes = {name: value for name, value in CHANGES.items() if name != "optimizer"}
    one, other = (
        runs.trainer(runs.run(home, output_dir=str(tmp_path / name), **each))
        for name, each in (("a", CHANGES), ("b", changes))
    )
    one.loop()
    other.loop()
    assert not torch.equal(one.losses, other.losses)
    torch.testing.assert_close(one.losses, other.losses, rtol=0.02, atol=0)


def test_a_state_in_8_bits_is_written_and_read(tmp_path):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(64, 64))
    optimizer = make_adamw_8bit([{"params": [weight], "lr": 0.1}], (0.9, 0.99))
    weight.grad = torch.randn(64, 64)
    optimizer.step()
    written = optimizer.state[weight]
    checkpoint.write_tree(tmp_path / "a.state", written)
    read = checkpoint.read_tree(tmp_path / "a.state")
    for name in ("exp_avg", "exp_avg_sq"):
        assert isinstance(read[name], OptimState8bit) and read[name].signed == written[name].signed
        assert torch.equal(read[name].codes, written[name].codes)
        assert torch.equal(read[name].dequantize(), written[name].dequantize())
    assert bytes_of_states(64 * 64) == 2 * (4096 + 4 * 16 + 1024) < 0.4 * 8 * 4096


def test_it_needs_no_compiler():
    code = (
        "import torch\n"
        "from paligemma.training.adamw8bit import make_adamw_8bit\n"
        "weight = torch.nn.Parameter(torch.ones(64, 64))\n"
        "one = make_adamw_8bit([{'params': [weight], 'lr': 0.1}], (0.9, 0.99))\n"
        "weight.grad = torch.ones(64, 64)\n"
        "one.step()\n"
        "assert weight.max() < 1"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "/nowhere", "CXX": "/nowhere/c++"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_without_torchao_it_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(ValueError, match="adamw8bit needs torchao: pip install torchao"):
        make_adamw_8bit([], (0.9, 0.99))
