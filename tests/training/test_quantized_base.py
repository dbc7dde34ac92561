"""Adapters on a base in int8 or int4: their gradients, what they learn, and what is written."""

import copy
import shutil
from pathlib import Path

import pytest
import runs
import tiny
import torch
from torch import nn

from paligemma.__main__ import main
from paligemma.checkpoints import lora as adapters
from paligemma.models.frozen import FrozenInt4, FrozenInt8
from paligemma.models.gemma import TokenEmbedding
from paligemma.models.int8 import QuantizedEmbedding
from paligemma.pipeline import PaliGemma
from paligemma.training.read_config import parse_run
from paligemma.training.trainer import Trainer

PRECISIONS = pytest.mark.parametrize("precision", ["int8", "int4"])
LORA = {"rank": 4, "alpha": 8.0, "target_modules": "all-linear"}
CHANGES = {"lora": LORA, "param_groups": [], "learning_rate": 1e-2, "max_steps": 8, "save_steps": 4}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    tiny.write(folder / "model", hidden_size=64)  # int4 needs whole groups of 32 inputs
    runs.write_samples(folder / "data")
    return folder


def trained(home: Path, out: Path, **changes) -> Trainer:
    one = runs.trainer(runs.run(home, output_dir=str(out), **CHANGES | changes))
    one.loop()
    one.finish()
    return one


def dequantize(module: nn.Module) -> None:
    """Replace quantized layers by plain ones of the same weights."""
    for name, one in list(module.named_modules()):
        if isinstance(one, QuantizedEmbedding):
            table = TokenEmbedding(*one.weight.shape)
            table.weight = nn.Parameter(one.weight, requires_grad=False)
            module.set_submodule(name, table)
        elif isinstance(one, FrozenInt8 | FrozenInt4) and not name.endswith("embed_tokens.linear"):
            linear = nn.Linear(*one.weight.shape[::-1], bias=False)
            linear.weight = nn.Parameter(one.weight, requires_grad=False)
            module.set_submodule(name, linear)


@PRECISIONS
@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
def test_gradients_are_those_of_the_dequantized_weights(home, tmp_path, precision, use_dora):
    lora = LORA | {"use_dora": use_dora}
    one = runs.trainer(
        runs.run(home, output_dir=str(tmp_path), **CHANGES | {"quantize": precision, "lora": lora})
    )
    quantized = one.job.objective
    for name, parameter in quantized.named_parameters():  # begun with 0, it would hide A's gradient
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    plain = copy.deepcopy(quantized)
    dequantize(plain)
    batch = one.job.batches[0, range(4)]
    for objective in (quantized, plain):
        objective(batch, objective.counts(batch))["loss"].backward()
    expected = dict(plain.named_parameters())
    names = [name for name, parameter in quantized.named_parameters() if parameter.requires_grad]
    assert len(names) == (3 if use_dora else 2) * (2 * 7 + 2 * 6 + 1)
    for name in names:
        gradient = quantized.get_parameter(name).grad
        assert gradient.abs().max() > 0 or "k_proj" in name, name
        torch.testing.assert_close(gradient, expected[name].grad, rtol=1e-4, atol=1e-6)


@PRECISIONS
def test_an_adapter_learns_on_a_quantized_base_and_resumes(home, tmp_path, precision, capsys):
    out = tmp_path / "out"
    one = trained(home, out, quantize=precision)
    assert one.losses[-3:].mean() < 0.9 * one.losses[:3].mean()
    (out / "states" / "step-00000008.state").unlink()
    again = trained(home, out, quantize=precision)  # from step 4
    assert torch.equal(one.losses, again.losses)
    own, other = one.objective.state_dict(), again.objective.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in own.items())
    with pytest.raises(ValueError, match=f"whose quantize is {precision}, not None"):
        trained(home, out)
    # the adapter is an ordinary one, which merges into the whole base
    assert main(["convert", str(out), str(tmp_path / "merged")]) == 0
    base, merged = runs.weights(home / "model"), runs.weights(tmp_path / "merged")
    layer = "language_model.layers.0.self_attn.q_proj"
    parts = [own[f"model.{layer}.lora_{part}.default.weight"] for part in "BA"]
    expected = base[f"{layer}.weight"] + parts[0] @ parts[1] * 2
    torch.testing.assert_close(merged[f"{layer}.weight"], expected)
    assert PaliGemma.load(out, dtype="float32").checkpoint.adapter is not None


def test_bfloat16_checkpointing_and_answers_go_with_it(home, tmp_path):
    changes = {"dtype": "bfloat16", "gradient_checkpointing": True, "eval_metrics": True}
    changes |= {"eval_data": [{"jsonl": str(home / "data" / "samples.jsonl")}], "eval_steps": 4}
    one = trained(home, tmp_path / "out", quantize="int4", max_eval_samples=4, **changes)
    assert one.losses[-3:].mean() < 0.9 * one.losses[:3].mean() and 8 in one.eval_scores
    assert adapters.read_adapter(tmp_path / "out").rank == 4


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_with_a_quantized_base_are_as_one(home, tmp_path):
    launched = runs.values(home, output_dir=str(tmp_path / "two"), **CHANGES, quantize="int8")
    runs.launch(launched, tmp_path, "-m", "paligemma", "train")
    trained(home, tmp_path / "one", quantize="int8")
    for name in ("one", "two"):
        shutil.rmtree(tmp_path / name / "states")
        assert main(["convert", str(tmp_path / name), str(tmp_path / f"{name}-merged")]) == 0
    one, two = (runs.weights(tmp_path / f"{name}-merged") for name in ("one", "two"))
    assert runs.furthest(one, two) < 1e-5


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({}, "quantize shrinks a frozen base, under an adapter: it needs lora"),
        ({"lora": {"merge": True}}, "lora.merge cannot add the adapter to a quantized base"),
        ({"lora": {}, "quantize": "int3"}, "quantize is 'int3': .* did you mean int"),
    ],
    ids=["no adapter", "merged", "another precision"],
)
def test_what_cannot_be_quantized_is_refused(home, changes, reason):
    given = runs.values(home) | {"quantize": "int8"} | changes
    with pytest.raises(ValueError, match=reason):
        parse_run(given)
