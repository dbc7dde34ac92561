"""Packed and quantized weights: against plain ones, layer by layer and in a whole model."""

import copy

import pytest
import tiny
import torch
import torch.nn.functional as F
from reference import ours

from paligemma.config import PaliGemmaConfig, TextConfig
from paligemma.generation import SamplingOptions, stream
from paligemma.models import int4, int8
from paligemma.models.gemma import GemmaMLP, TokenEmbedding
from paligemma.models.int4 import Int4Linear
from paligemma.models.int8 import (
    FEW_ROWS,
    Int8Linear,
    PackedInt8Linear,
    QuantizedEmbedding,
    can_multiply_bytes,
)
from paligemma.models.packed import (
    QUANTIZED,
    PackedLinear,
    PackedMLP,
    can_pack,
    pack_weights,
    quantize_weights,
)

ROWS = [(1,), (3, 2), (FEW_ROWS,), (2, FEW_ROWS), (1, 200)]
needs_bf16 = pytest.mark.skipif(
    not can_pack(torch.bfloat16), reason="oneDNN does not multiply in bfloat16 here"
)


def random_weight(outputs: int = 200, inputs: int = 96, dtype=torch.bfloat16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(outputs)
    return torch.randn(outputs, inputs, generator=generator).to(dtype) * 0.05


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


@needs_bf16
@pytest.mark.parametrize("rows", ROWS)
def test_a_packed_layer_gives_the_same_numbers(rows):
    weight, x = random_weight(), torch.randn(*rows, 96, dtype=torch.bfloat16)
    layer = PackedLinear(weight)
    assert torch.equal(layer.weight, weight)
    assert relative_error(layer(x), F.linear(x, weight)) < 4e-3  # another order of sums


@needs_bf16
@pytest.mark.parametrize("rows", ROWS)
def test_a_packed_mlp_is_the_plain_one(rows):
    mlp = GemmaMLP(TextConfig(300, 96, 200, 1, 4, 2, 16)).to(torch.bfloat16).requires_grad_(False)
    x = torch.randn(*rows, 96, dtype=torch.bfloat16)
    plain, exact = mlp(x), copy.deepcopy(mlp).float()(x.float())
    for name in ("gate_proj", "up_proj", "down_proj"):
        mlp.set_submodule(name, PackedLinear(mlp.get_submodule(name).weight.detach()))
    found = PackedMLP(mlp)(x)
    assert found.shape == plain.shape
    assert relative_error(found, exact) < 1.1 * relative_error(plain, exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "error"), [(Int8Linear, 8e-3), (Int4Linear, 0.1)])
def test_quantized_weights_are_near_and_every_path_uses_the_same(kind, error, dtype):
    weight = random_weight(dtype=dtype)
    layer = kind(weight)
    assert layer.weight.shape == weight.shape and layer.weight.dtype == dtype
    assert 0 < relative_error(layer.weight, weight) < error
    exact = layer.weight.float()
    for rows in ROWS:
        x = torch.randn(*rows, 96).to(dtype)
        expected = F.linear(x.float(), exact)
        assert relative_error(layer(x), expected) < (1e-5 if dtype == torch.float32 else 8e-3)


@pytest.mark.parametrize("kind", [PackedLinear, Int8Linear, *QUANTIZED.values()])
def test_gradients_pass_through(kind):
    layer = kind(random_weight())
    x = torch.randn(1, 96, dtype=torch.bfloat16, requires_grad=True)
    layer(x).sum().backward()
    assert relative_error(x.grad[0], layer.weight.sum(0)) < 1e-2


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
def test_many_rows_are_multiplied_a_part_at_a_time(kind, monkeypatch):
    weight, x = random_weight(), torch.randn(2, FEW_ROWS, 96, dtype=torch.bfloat16)
    layer = kind(weight)
    expected = F.linear(x.float(), layer.weight.float())
    for cached in (1, 100 * 96, 1 << 22):
        monkeypatch.setattr(int8 if kind is Int8Linear else int4, "CACHED_WEIGHTS", cached)
        assert layer(x).shape == (2, FEW_ROWS, 200) and relative_error(layer(x), expected) < 8e-3


needs_bytes = pytest.mark.skipif(
    not can_multiply_bytes(), reason="this processor adds up products of bytes in 16 bits"
)


@needs_bytes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [*ROWS, (1, 3 * int8.ROWS + 1)])
def test_bytes_times_bytes_are_the_product(rows, dtype):
    plain = Int8Linear(random_weight(dtype=dtype))
    layer, x = PackedInt8Linear(plain), torch.randn(*rows, 96).to(dtype)
    torch.testing.assert_close(layer.weight, plain.weight.float(), rtol=1e-2, atol=1e-6)
    expected = F.linear(x.float(), layer.weight)
    few = x.shape[:-1].numel() <= FEW_ROWS
    assert layer(x).dtype == dtype and layer(x).shape == expected.shape
    assert relative_error(layer(x), expected) < (3e-3 if few else 1.2e-2)


@needs_bytes
def test_a_large_value_does_not_make_the_rest_of_its_row_coarse():
    layer = PackedInt8Linear(Int8Linear(random_weight()))
    x = torch.randn(2 * FEW_ROWS, 96)
    others = F.linear(x, layer.weight)
    x[:, 5] += 40.0
    errors = layer(x) - F.linear(x, layer.weight)
    assert relative_error(others + errors, others) < 2e-3  # one row of bytes: 0.09


@needs_bytes
def test_rows_of_zeros_and_of_values_that_are_no_numbers():
    layer, x = PackedInt8Linear(Int8Linear(random_weight())), torch.zeros(3, 96)
    x[1, 4] = torch.nan
    found = layer(x)
    assert not found[[0, 2]].any() and found[1].isnan().all()


def test_int4_in_an_order_that_is_not_known(monkeypatch):
    layer, x = Int4Linear(random_weight()), torch.randn(50, 96, dtype=torch.bfloat16)
    known = layer(x)
    monkeypatch.setattr(int4, "_has_known_order", lambda: False)
    assert relative_error(layer(x), known) < 8e-3


def test_weights_of_zeros_stay_zeros():
    for kind in QUANTIZED.values():
        layer = kind(torch.zeros(64, 32))
        assert not layer.weight.any() and not layer(torch.ones(1, 32)).any()


def test_int4_needs_whole_groups():
    with pytest.raises(ValueError, match="multiple of 32 inputs, not 40"):
        Int4Linear(torch.zeros(64, 40))


@pytest.fixture(scope="module")
def model():
    text = TextConfig(300, 64, 96, 2, 4, 2, 16)
    return ours(PaliGemmaConfig(tiny.VISION, text, 64, 299)).to(torch.bfloat16).eval()


def answer(model, count: int = 8) -> tuple[list[int], torch.Tensor]:
    """The ids of a greedy answer, and the logits of its first token."""
    ids = torch.tensor([[299] * tiny.P + [2, 40, 50, 108]])
    pixels = torch.randn(1, 3, *[model.config.vision_config.image_size] * 2)
    with torch.inference_mode():
        features = model.embed_image(pixels.bfloat16())
        steps = stream(model, ids, features, torch.ones_like(ids), SamplingOptions(count), -1)
        logits = model(input_ids=ids, pixel_values=pixels.bfloat16())["logits"][:, -1]
    return [step.ids[0] for step in steps], logits


@needs_bf16
def test_a_packed_model_answers_the_same(model):
    packed, freed = copy.deepcopy(model), []
    pack_weights(packed, freed.append)
    assert len(freed) == 7 * len(packed.language_model.layers)
    torch.manual_seed(1)
    ids, logits = answer(model)
    torch.manual_seed(1)
    packed_ids, packed_logits = answer(packed)
    assert packed_ids == ids and relative_error(packed_logits, logits) < 1e-2


@pytest.mark.parametrize(("precision", "error"), [("int8", 0.05), ("int4", 0.5)])
def test_a_quantized_model_answers_nearly_the_same(model, precision, error):
    quantized = copy.deepcopy(model)
    quantize_weights(quantized, precision)
    table = quantized.language_model.embed_tokens
    assert isinstance(table, QuantizedEmbedding) and not isinstance(table, TokenEmbedding)
    assert table.dtype == torch.bfloat16 and table.device == torch.device("cpu")
    torch.manual_seed(1)
    _, logits = answer(model)
    torch.manual_seed(1)
    ids, quantized_logits = answer(quantized)
    assert len(ids) == 8 and 0 < relative_error(quantized_logits, logits) < error


def test_rows_of_a_quantized_table():
    table, weight = QuantizedEmbedding(random_weight()), Int8Linear(random_weight()).weight
    ids = torch.tensor([[0, 31, 32], [63, 64, 199]])
    assert torch.equal(table(ids), weight[ids])
    x = torch.randn(2, 96, dtype=torch.bfloat16)
    assert relative_error(table.logits(x), F.linear(x, weight)) < 8e-3
