"""Weights as a CPU reads them fastest: bfloat16 in oneDNN's layout, int8, int4.

To decode a token is to multiply one row by every weight, so it takes as long as reading the weights
from memory: a better layout and fewer bytes are what makes it faster. Many rows at once, as in
prefill, are bound by arithmetic instead.

    pack_weights(model)              # bfloat16: the same numbers
    quantize_weights(model, "int8")  # one scale for each output
    quantize_weights(model, "int4")  # a scale and a zero point for each group of 32 inputs

It is the decoder's layers that change, and its embedding table, which becomes int8 for int4 too:
its rows are looked up one by one. The vision tower reads hundreds of rows once an image. The
kernels are PyTorch's own; they have no backward pass, so where a gradient is asked for the weights
are laid out as before for the moment.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paligemma.models.gemma import GemmaDecoder, GemmaMLP, TokenEmbedding
from paligemma.models.int4 import GROUP, Int4Linear
from paligemma.models.int8 import (
    Int8Linear,
    PackedInt8Linear,
    QuantizedEmbedding,
    can_multiply_bytes,
)
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration

Free = Callable[[Tensor], None]


class PackedLinear(nn.Module):
    """A linear layer without bias in bfloat16, its weight in oneDNN's layout."""

    packed: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        self.register_buffer("packed", packed, persistent=False)

    @property
    def weight(self) -> Tensor:
        """[N, K], in a copy."""
        return self.packed.to_dense()

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            return F.linear(x, self.weight)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")


class PackedMLP(GemmaMLP):
    """A `GemmaMLP` of packed layers, whose products take GELU and the gate in the same pass."""

    gate_proj: PackedLinear
    up_proj: PackedLinear
    down_proj: PackedLinear

    def __init__(self, mlp: GemmaMLP) -> None:
        nn.Module.__init__(self)
        for name, layer in mlp.named_children():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            return super().forward(x)
        linear = torch.ops.mkldnn._linear_pointwise
        gate = linear(x, self.gate_proj.packed, None, "gelu", [], "tanh")
        return self.down_proj(linear.binary(x, gate, self.up_proj.packed, None, "mul"))


def int8_linear(layer: Int8Linear) -> Int8Linear | PackedInt8Linear:
    """The layer as this processor multiplies by it fastest."""
    return PackedInt8Linear(layer) if can_multiply_bytes() else layer


QUANTIZED: dict[str, Callable[[Tensor], nn.Module]] = {
    "int8": lambda weight: int8_linear(Int8Linear(weight)),
    "int4": Int4Linear,
}
WEIGHT_BYTES = {"int8": 1, "int4": 0.5 + 4 / GROUP}  # of one in a layer, with its part of scales


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this machine's oneDNN multiplies in bfloat16, and the model is in it."""
    return dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def pack_weights(model: PaliGemmaForConditionalGeneration, free: Free = lambda _: None) -> None:
    """Lay the decoder's layers out for oneDNN, in place; `free` is called with each old weight."""
    _replace_linears(model.language_model, PackedLinear, free)
    for name, module in list(model.named_modules()):
        if isinstance(module, GemmaMLP):
            model.set_submodule(name, PackedMLP(module))


def quantize_weights(
    model: PaliGemmaForConditionalGeneration, precision: str, free: Free = lambda _: None
) -> None:
    """Quantize the decoder to "int8" or "int4", in place.

    `free` is called with each old weight. Raises ValueError if a layer does not fit int4.
    """
    decoder = model.language_model
    _replace_linears(decoder, QUANTIZED[precision], free)
    table = decoder.embed_tokens
    assert isinstance(table, TokenEmbedding)
    decoder.set_submodule("embed_tokens", QuantizedEmbedding(table.weight.detach()))
    free(table.weight)


def lay_out_weights(
    model: PaliGemmaForConditionalGeneration,
    quantize: str | None = None,
    free: Free = lambda _: None,
) -> None:
    """Lay a model on the CPU out to answer: quantized, packed where it can be, or as it is.

    Raises ValueError if a layer does not fit int4.
    """
    if quantize is not None:
        quantize_weights(model, quantize, free)
    elif can_pack(model.language_model.embed_tokens.dtype):
        pack_weights(model, free)


@torch.no_grad()
def _replace_linears(
    decoder: GemmaDecoder, create: Callable[[Tensor], nn.Module], free: Free
) -> None:
    linears = {name: one for name, one in decoder.named_modules() if isinstance(one, nn.Linear)}
    for name, linear in linears.items():
        decoder.set_submodule(name, create(linear.weight.detach()))
        free(linear.weight)
