"""Quantized checkpoints: written by `convert --quantize`, and loaded as they are."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from paligemma.__main__ import main
from paligemma.checkpoints.io import CONFIG, WEIGHTS
from paligemma.checkpoints.resolve import resolve
from paligemma.devices import weights_memory
from paligemma.pipeline import PaliGemma
from paligemma.training.initialize import find_checkpoint, make_model
from paligemma.training.read_config import read_run

IMAGE = Path(__file__).parents[2] / "examples" / "harbour.png"


@pytest.fixture(scope="module", params=["int8", "int4"])
def quantized(request, tmp_path_factory) -> tuple[str, Path]:
    """The precision, and the built-in model in it."""
    folder = tmp_path_factory.mktemp("quantized") / request.param
    command = ["convert", "built-in", str(folder), "--quantize", request.param]
    assert main([*command, "--dtype", "float32"]) == 0
    return request.param, folder


def test_it_answers_like_weights_that_are_quantized_when_loaded(quantized):
    precision, folder = quantized
    pg = PaliGemma.load(folder, dtype="float32")
    expected = PaliGemma.load(quantize=precision)
    assert pg.quantize == precision and pg.dtype == torch.float32 and precision in pg.facts
    assert pg.memory == expected.memory
    for prompt in ("caption en", "detect anchor", "segment wheel"):
        reply, other = pg.generate(IMAGE, prompt), expected.generate(IMAGE, prompt)
        assert reply.text == other.text and reply.text
        logprobs = [[token.logprob for token in one.tokens] for one in (reply, other)]
        assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-4)


def test_it_is_small(quantized):
    folder = quantized[1]
    expected = weights_memory(resolve(folder).config, torch.float32, quantized[0])
    assert (folder / WEIGHTS).stat().st_size == pytest.approx(expected, rel=0.05)
    codes = {name: t for name, t in load_file(folder / WEIGHTS).items() if "codes" in name}
    assert {tensor.dtype for tensor in codes.values()} <= {torch.int8, torch.uint8}
    assert len(codes) == 7 * 4 + 1  # of each layer, and the embedding table


def test_attention_can_be_explained(quantized):
    explanation = PaliGemma.load(quantized[1]).explain(IMAGE, "detect anchor")
    assert np.isfinite(explanation.maps["middle"]).all()


def test_what_needs_the_original_weights_is_refused(quantized, tmp_path, capsys):
    precision, folder = quantized
    other = {"int8": "int4", "int4": "int8"}[precision]
    with pytest.raises(ValueError, match=f"in {precision} already, not in {other}"):
        PaliGemma.load(folder, quantize=other)
    assert main(["convert", str(folder), str(tmp_path / "again")]) == 2
    assert "the weights that it was made from" in capsys.readouterr().err
    assert main(["convert", "built-in", str(tmp_path / "x.npz"), "--quantize", precision]) == 2
    assert "An .npz holds no quantized weights" in capsys.readouterr().err
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"image": str(IMAGE), "prefix": "ocr", "suffix": "SEA"}))
    config = tmp_path / "run.yaml"
    given = {"model": str(folder), "output_dir": str(tmp_path / "run"), "max_steps": 1}
    config.write_text(yaml.safe_dump(given | {"data": [{"jsonl": str(data)}]}))
    run = read_run(config)
    start = find_checkpoint(run)
    with pytest.raises(ValueError, match="only to answer with"):
        make_model(run, start, start)


@pytest.mark.parametrize("change", ["missing", "integers", "floats", "not finite", "shape"])
def test_damaged_ones_are_refused(quantized, tmp_path, change):
    _, folder = quantized
    state = load_file(folder / WEIGHTS)
    name = next(name for name in state if name.endswith("q_proj.codes"))
    match change:
        case "missing":
            del state[name]
        case "integers":
            state[name] = state[name].int()
        case "floats":
            state[name] = state[name].float()
        case "shape":
            state[name] = state[name][:-1].contiguous()
        case _:
            name = next(name for name in state if "q_proj.scales" in name)
            state[name][0] = torch.nan
    for file in folder.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(state, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match="q_proj"):
        PaliGemma.load(tmp_path)


def test_its_config_says_so(quantized):
    precision, folder = quantized
    values = json.loads((folder / CONFIG).read_text())
    assert values["quantization_config"] == {"quant_method": "paligemma", "weights": precision}
