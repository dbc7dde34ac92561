"""A frozen decoder in int8 or int4, on which an adapter is trained, as in QLoRA (arXiv 2305.14314).

    quantize_frozen(model, "int8")  # one scale for each output
    quantize_frozen(model, "int4")  # a scale and a zero point for each group of 32 inputs
    pack_frozen(model)              # as `packed` lays them out, once nothing is trained

Gradients pass through to the adapter. Weights are turned back into the activations' dtype for each
use, a layer at a time: none is kept for the backward pass, which makes it again. That is plain
arithmetic, so it runs on any device; the kernels of `packed` know no gradients, and a CPU's order.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paligemma.models.gemma import TokenEmbedding
from paligemma.models.int4 import GROUP, Int4Linear, int4_codes, unpack_pairs
from paligemma.models.int8 import CHUNK, Int8Linear, QuantizedEmbedding
from paligemma.models.packed import Free, int8_linear
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration


class _Multiply(torch.autograd.Function):
    """`x` times the weight of `layer`, which has no gradient and is not kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: "FrozenInt8 | FrozenInt4") -> Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        return F.linear(x, layer.weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0]
        return (gradient @ ctx.layer.weight.to(gradient.dtype)).to(ctx.dtype), None


class FrozenInt8(Int8Linear):
    """`Int8Linear` on any device, with a gradient for its input."""

    bias = None  # DoRA in peft asks for it

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            return _Multiply.apply(x, self)
        return super().forward(x) if x.device.type == "cpu" else self._multiply(x)


class FrozenInt4(nn.Module):
    """The numbers of `Int4Linear` in plain order, on any device, with a gradient for the input.

    `codes` [N, K / 2] holds two a byte, the first in its low half; `scales_and_zeros` is
    [N, K / 32, 2].
    """

    codes: Tensor
    scales_and_zeros: Tensor
    bias = None

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        inputs = weight.shape[1]
        if inputs % GROUP:
            raise ValueError(f"int4 needs layers of a multiple of {GROUP} inputs, not {inputs}.")
        parts = [int4_codes(part) for part in weight.split(CHUNK)]
        pairs = torch.cat([codes.to(torch.uint8) for codes, *_ in parts]).unflatten(1, (-1, 2))
        numbers = torch.cat([torch.stack([scales, zeros], -1) for _, scales, zeros in parts])
        self.register_buffer("codes", pairs[..., 0] | pairs[..., 1] << 4, persistent=False)
        self.register_buffer("scales_and_zeros", numbers, persistent=False)

    @property
    def weight(self) -> Tensor:
        """[N, K], in a copy."""
        scales, zeros = self.scales_and_zeros[..., None].unbind(2)
        groups = unpack_pairs(self.codes).unflatten(1, (-1, GROUP)).to(scales.dtype) - 8
        return torch.addcmul(zeros, groups, scales).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            return _Multiply.apply(x, self)
        return F.linear(x, self.weight.to(x.dtype))


LINEARS = {"int8": FrozenInt8, "int4": FrozenInt4}


@torch.no_grad()
def quantize_frozen(model: PaliGemmaForConditionalGeneration, precision: str) -> None:
    """Quantize what is frozen in the decoder to "int8" or "int4", in place.

    The embedding table becomes int8 for int4 too. Raises ValueError if a layer does not fit int4.
    """
    decoder = model.language_model
    for name, module in list(decoder.named_modules()):
        if isinstance(module, nn.Linear) and not module.weight.requires_grad:
            decoder.set_submodule(name, LINEARS[precision](module.weight))
        if isinstance(module, TokenEmbedding) and not module.weight.requires_grad:
            decoder.set_submodule(name, QuantizedEmbedding(module.weight, FrozenInt8))


def quantized_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The buffers of quantized layers by name, in plain order: what `state_dict` leaves out."""
    return {
        f"{name}.{leaf}": buffer
        for name, module in model.named_modules()
        if isinstance(module, Int8Linear | FrozenInt4)
        for leaf, buffer in module.named_buffers(recurse=False)
    }


def pack_frozen(model: PaliGemmaForConditionalGeneration, free: Free = lambda _: None) -> None:
    """Lay layers out for this processor's kernels, in place; `free` gets what was replaced."""
    layers = model.language_model.layers
    for name, module in list(layers.named_modules()):
        if isinstance(module, FrozenInt4):
            layers.set_submodule(name, Int4Linear.from_codes(module.codes, module.scales_and_zeros))
            free(module.codes)
        elif isinstance(module, FrozenInt8):
            layers.set_submodule(name, int8_linear(module))
            free(module.codes)
