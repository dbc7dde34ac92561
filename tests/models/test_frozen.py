"""A frozen decoder in int8 and int4: the numbers of `packed`, with gradients, on any device."""

import copy

import pytest
import tiny
import torch
import torch.nn.functional as F
from reference import ours

from paligemma.config import PaliGemmaConfig, TextConfig
from paligemma.models.frozen import LINEARS, FrozenInt4, FrozenInt8, quantize_frozen
from paligemma.models.gemma import TokenEmbedding
from paligemma.models.int8 import FEW_ROWS, QuantizedEmbedding
from paligemma.models.packed import QUANTIZED

KINDS = pytest.mark.parametrize("precision", LINEARS)


def random_weight(dtype=torch.float32) -> torch.Tensor:
    return torch.randn(200, 96, generator=torch.Generator().manual_seed(0)).to(dtype) * 0.05


@KINDS
def test_the_weights_are_those_of_the_packed_layer(precision):
    layer = LINEARS[precision](random_weight())
    torch.testing.assert_close(layer.weight, QUANTIZED[precision](random_weight()).weight)


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2 * FEW_ROWS])
def test_inputs_and_gradients_are_multiplied_by_the_weight(precision, dtype, rows):
    layer = LINEARS[precision](random_weight(dtype))
    x = torch.randn(rows, 96, dtype=dtype)
    with_gradient, whole = (x.clone().requires_grad_() for _ in range(2))
    y = layer(with_gradient)
    expected = F.linear(whole, layer.weight)
    assert torch.equal(y, expected)
    torch.testing.assert_close(
        layer(x), y, rtol=2e-2, atol=2e-2 if dtype == torch.bfloat16 else 1e-5
    )
    upstream = torch.randn_like(y)
    y.backward(upstream)
    expected.backward(upstream)
    assert torch.equal(with_gradient.grad, whole.grad)


@KINDS
def test_under_autocast_the_input_keeps_its_dtype(precision):
    layer, x = LINEARS[precision](random_weight()), torch.randn(3, 96, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert x.grad.dtype == torch.float32
    torch.testing.assert_close(x.grad[0], layer.weight.sum(0), rtol=2e-2, atol=2e-2)


@KINDS
def test_no_weight_is_kept_for_the_backward_pass(precision):
    layer, kept = LINEARS[precision](random_weight()), []
    x = torch.randn(40, 96, requires_grad=True)

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = layer(x)
        F.linear(x, layer.weight)  # a plain layer keeps its weight
    assert kept == [200 * 96]
    y.sum().backward()


def test_int4_needs_whole_groups():
    with pytest.raises(ValueError, match="multiple of 32 inputs, not 40"):
        FrozenInt4(torch.zeros(64, 40))


@pytest.fixture(scope="module")
def model():
    text = TextConfig(300, 64, 96, 2, 4, 2, 16)
    return ours(PaliGemmaConfig(tiny.VISION, text, 64, 299)).requires_grad_(False)


@KINDS
def test_what_is_trained_stays_as_it_is(model, precision):
    one = copy.deepcopy(model)
    attention = one.language_model.layers[0].self_attn
    attention.q_proj.weight.requires_grad_(True)
    quantize_frozen(one, precision)
    assert type(attention.q_proj) is torch.nn.Linear
    assert type(attention.k_proj) is {"int8": FrozenInt8, "int4": FrozenInt4}[precision]
    assert isinstance(one.language_model.embed_tokens, QuantizedEmbedding)
    assert not any(isinstance(each, FrozenInt8) for each in one.vision_tower.modules())
    other = copy.deepcopy(model)
    other.language_model.embed_tokens.weight.requires_grad_(True)
    quantize_frozen(other, precision)
    assert isinstance(other.language_model.embed_tokens, TokenEmbedding)
