"""What a run needs, against what it then holds; and what does not fit."""

import runpy
from pathlib import Path

import pytest
import runs
import tiny
import torch
from torchao.optim.subclass_8bit import OptimState8bit

from paligemma.checkpoints.resolve import Checkpoint
from paligemma.config import VARIANTS
from paligemma.training import memory
from paligemma.training.memory import gathered_memory, needed_memory, planned_model

ROOT = Path(__file__).parents[2]
LORA = {"rank": 3, "target_modules": ["q_proj", "fc1"]}
FROZEN = [{"match": "vision_tower", "lr_mult": 0}]
CASES = {
    "everything": {},
    "a part": {"param_groups": FROZEN},
    "muon": {"optimizer": {"name": "muon", "learning_rate": 1e-3}},
    "an adapter": {"lora": LORA, "param_groups": []},
    "an adapter on bfloat16": {"lora": LORA, "param_groups": [], "dtype": "bfloat16"},
    "an adapter on int8": {"lora": LORA, "param_groups": [], "quantize": "int8"},
    "states in 8 bits": {"optimizer": {"name": "adamw8bit"}},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


def size(tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def parts(state: torch.Tensor) -> list[torch.Tensor]:
    """The tensors that a state is made of: in 8 bits codes, scales, and what codes stand for."""
    if isinstance(state, OptimState8bit):
        return [getattr(state, name) for name in state.__tensor_flatten__()[0]]
    return [state] if state.ndim else []  # without AdamW's counts of steps


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_what_was_computed_is_what_is_held(home, tmp_path, changes, capsys):
    one = runs.trainer(runs.run(home, output_dir=str(tmp_path), max_steps=2, **changes))
    need = one.job.memory
    assert f"The run needs {need}." in capsys.readouterr().err
    parameters = list(one.objective.parameters())
    assert need.weights == size(parameters) + size(one.job.objective.model.buffers())
    assert need.gradients == size(p for p in parameters if p.requires_grad)
    one.loop()
    states = [s for o in one.optimizers for each in o.state.values() for s in each.values()]
    assert need.optimizer == size(part for state in states for part in parts(state))
    assert {p.dtype for p in parameters if p.requires_grad} == {torch.float32}


def test_an_adapter_on_a_bfloat16_base_learns(home, tmp_path):
    changes = {"lora": LORA | {"merge": True}, "param_groups": [], "learning_rate": 3e-2}
    half = runs.trainer(runs.run(home, output_dir=str(tmp_path / "a"), dtype="bfloat16", **changes))
    full = runs.trainer(runs.run(home, output_dir=str(tmp_path / "b"), **changes))
    frozen = [p for p in half.objective.parameters() if not p.requires_grad]
    assert {p.dtype for p in frozen} == {torch.bfloat16}
    half.loop()
    full.loop()
    assert half.losses[-5:].mean() < 0.9 * half.losses[:5].mean()
    torch.testing.assert_close(half.losses[:3], full.losses[:3], rtol=0.05, atol=0)
    half.finish()
    assert {v.dtype for v in runs.weights(tmp_path / "a").values()} == {torch.bfloat16}


def test_the_published_sizes(home):
    config = VARIANTS["paligemma-3b-224"]
    start = Checkpoint("a", home, config, tiny.processor(), None)
    expected = [46.8, 11.7, 5.9, 3.4, 2.6]  # as docs/training.md has them
    half = {"lora": {"rank": 8}, "dtype": "bfloat16"}
    cases = (
        {},
        {"lora": {"rank": 8}},
        half,
        half | {"quantize": "int8"},
        half | {"quantize": "int4"},
    )
    for changes, total in zip(cases, expected, strict=True):
        run = runs.run(home, param_groups=[], **changes)
        need = needed_memory(planned_model(run, start), run)
        assert round(need.total / 1e9, 1) == total


def test_the_table_of_the_docs_is_what_the_script_prints(capsys):
    runpy.run_path(str(ROOT / "scripts" / "training_memory.py"))["main"]()
    tables = capsys.readouterr().out.rstrip().split("\n\n")
    page = (ROOT / "docs" / "training.md").read_text("utf-8")
    assert [table.count("\n") for table in tables] == [7, 8]
    assert all(f"\n{table}\n" in page for table in tables)


def test_what_processes_hold_of_a_sharded_model(home):
    run = runs.run(home, param_groups=[])
    model = planned_model(run, Checkpoint("a", home, tiny.config(), tiny.processor(), None))
    whole, half, many = (needed_memory(model, run, shards) for shards in (1, 2, 10**6))
    assert whole.weights / 2 <= half.weights < 0.51 * whole.weights
    assert half.gradients == half.weights and half.optimizer == 2 * half.weights
    assert many.weights == sum(4 * parameter[0].numel() for parameter in model.parameters())
    layer = size(model.language_model.layers[0].parameters())
    assert layer < gathered_memory(model) < whole.weights


def test_a_run_that_does_not_fit_is_refused_before_it_loads(home, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    monkeypatch.setattr(Checkpoint, "load_model", None)
    words = {
        "lora: {rank: 8} trains an adapter": {},
        "dtype: bfloat16 halves the weights": {"lora": LORA, "param_groups": []},
        "quantize: int8 or int4": {"lora": LORA, "param_groups": [], "dtype": "bfloat16"},
    }
    wider = str(tiny.write(tmp_path / "model", hidden_size=64))  # int4 needs whole groups
    changes = {"lora": {"rank": 2}, "param_groups": [], "dtype": "bfloat16", "quantize": "int4"}
    words["a smaller model"] = changes | {"model": wider}
    for hint, changes in words.items():
        with pytest.raises(ValueError, match=r"The run needs .* and cpu has 0 MB free; ") as error:
            runs.trainer(runs.run(home, output_dir=str(tmp_path), **changes))
        assert hint in str(error.value)
