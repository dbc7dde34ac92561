"""Weights as a CPU reads them fastest: bfloat16 in oneDNN's layout, int8, int4.

To decode a token is to multiply one row by every weight, so it takes as long as reading the weights
from memory: a better layout and fewer bytes are what makes it faster. Many rows at once, as in
prefill, are bound by arithmetic instead: there int8 and int4 are turned into the activations' dtype
first, so many outputs at a time that these weights stay in the processor's cache.

    pack_weights(model)              # bfloat16: the same numbers
    quantize_weights(model, "int8")  # one scale for each output
    quantize_weights(model, "int4")  # a scale and a zero point for each group of 32 inputs

It is the decoder's layers that change, and its embedding table, which becomes int8 for int4 too:
its rows are looked up one by one. The vision tower reads hundreds of rows once an image. The
kernels are PyTorch's own; they have no backward pass, so where a gradient is asked for the weights
are laid out as before for the moment.
"""

from collections.abc import Callable, Iterable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paligemma.models.gemma import GemmaDecoder, TokenEmbedding
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration

GROUP = 32  # inputs that share a scale in int4
BLOCK = 64  # outputs that lie together in int4
FEW_ROWS = 24  # up to here the kernels are faster than weights turned into bfloat16
CACHED_WEIGHTS = 1 << 22  # that are turned into bfloat16 at a time
CHUNK = 512  # outputs that are quantized at a time, so that no whole copy in float32 is made

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


class Int8Linear(nn.Module):
    """A linear layer without bias in int8: `codes` [N, K] times `scales` [N]."""

    codes: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        scales = (weight.abs().amax(1, keepdim=True).float() / 127).clamp(min=1e-12)
        codes = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
        parts = (tensor.split(CHUNK) for tensor in (weight, codes, scales))
        for part, part_codes, scale in zip(*parts, strict=True):
            part_codes.copy_((part.float() / scale).round_())
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scales", scales[:, 0].to(weight.dtype), persistent=False)

    @property
    def weight(self) -> Tensor:
        """[N, K], in a copy."""
        return self.codes.to(self.scales.dtype) * self.scales[:, None]

    def rows(self, ids: Tensor) -> Tensor:
        """The weights of the outputs `ids` [...]: [..., K]."""
        return self.codes[ids].to(self.scales.dtype) * self.scales[ids][..., None]

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            return F.linear(x, self.weight)
        if x.shape[:-1].numel() > FEW_ROWS:
            return self._multiply(x)
        y = torch.ops.aten._weight_int8pack_mm(x.reshape(-1, x.shape[-1]), self.codes, self.scales)
        return y.view(*x.shape[:-1], -1)

    def _multiply(self, x: Tensor) -> Tensor:
        parts = self.codes.split(max(1, CACHED_WEIGHTS // x.shape[-1]))
        weight, outputs = x.new_empty(parts[0].shape), []
        for part in parts:
            outputs.append(F.linear(x, weight[: len(part)].copy_(part)))
        return torch.cat(outputs, -1) * self.scales


class Int4Linear(nn.Module):
    """A linear layer without bias in int4: (code - 8) * scale + zero point.

    `packed` [N, K / 2] holds two codes a byte, in an order that the kernel chose for this
    processor; `scales_and_zeros` is [K / 32, N, 2]. N is padded to whole blocks.
    """

    packed: Tensor
    scales_and_zeros: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.out_features, inputs = weight.shape
        if inputs % GROUP:
            raise ValueError(f"int4 needs layers of a multiple of {GROUP} inputs, not {inputs}.")
        weight = F.pad(weight, (0, 0, 0, -len(weight) % BLOCK))
        self._pack(int4_codes(part) for part in weight.split(CHUNK))

    @classmethod
    def from_codes(cls, codes: Tensor, scales_and_zeros: Tensor) -> "Int4Linear":
        """Of codes [N, K / 2], two a byte with the first in its low half, and [N, K / 32, 2]."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer.out_features, more = len(codes), -len(codes) % BLOCK
        codes = F.pad(codes, (0, 0, 0, more))
        numbers = F.pad(scales_and_zeros, (0, 0, 0, 0, 0, more))
        layer._pack(
            (unpack_pairs(part).int(), both[..., 0], both[..., 1])
            for part, both in zip(codes.split(CHUNK), numbers.split(CHUNK), strict=True)
        )
        return layer

    def _pack(self, parts: Iterable[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Of outputs a part at a time, in whole blocks: codes, scales and zero points."""
        packed, numbers = [], []
        for codes, scales, zeros in parts:
            packed.append(torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1))
            numbers.append(torch.stack([scales, zeros], -1))
        scales_and_zeros = torch.cat(numbers).transpose(0, 1).contiguous()
        self.register_buffer("packed", torch.cat(packed), persistent=False)
        self.register_buffer("scales_and_zeros", scales_and_zeros, persistent=False)

    @property
    def weight(self) -> Tensor:
        """[N, K], in a copy."""
        scales = self.scales_and_zeros
        one_hot = torch.eye(len(scales) * GROUP, dtype=scales.dtype, device=scales.device)
        return self._multiply(one_hot)[:, : self.out_features].T

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            return F.linear(x, self.weight)
        rows = x.reshape(-1, x.shape[-1])
        many = len(rows) > FEW_ROWS and _has_known_order()
        y = self._unpack_and_multiply(rows) if many else self._multiply(rows)
        return y[:, : self.out_features].view(*x.shape[:-1], -1)

    def _multiply(self, rows: Tensor) -> Tensor:
        return torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows, self.packed, GROUP, self.scales_and_zeros
        )

    def _unpack_and_multiply(self, rows: Tensor) -> Tensor:
        inputs = rows.shape[1]
        count = max(1, CACHED_WEIGHTS // inputs // BLOCK) * BLOCK
        weight, outputs = rows.new_empty(inputs, count), []
        for packed, numbers in zip(
            self.packed.split(count), self.scales_and_zeros.split(count, 1), strict=True
        ):
            part = weight if len(packed) == count else rows.new_empty(inputs, len(packed))
            groups = _unpack(packed, part).view(-1, GROUP, len(packed))
            scales, zeros = (numbers[..., n].contiguous()[:, None] for n in (0, 1))
            torch.addcmul(zeros, groups, scales, out=groups)
            outputs.append(rows @ part)
        return torch.cat(outputs, -1)


def _unpack(packed: Tensor, weight: Tensor) -> Tensor:
    """Packed codes [n, K / 2] less 8 into `weight` [K, n], which is returned.

    In the order of processors with AVX-512: of 64 outputs, the codes of the first 32 are in the low
    half of a byte, and those of the others in its high half.
    """
    blocks = packed.view(-1, len(weight), BLOCK // 2)  # [n / 64, K, 32]
    halves = weight.view(len(weight), -1, 2, BLOCK // 2)
    for half, codes in enumerate((blocks & 15, blocks >> 4)):
        halves[:, :, half] = (codes - 8).view(torch.int8).transpose(0, 1)
    return weight


@cache
def _has_known_order() -> bool:
    """Whether `_unpack` reads what the kernel of this processor packs."""
    codes = torch.arange(BLOCK * GROUP, dtype=torch.int32).view(BLOCK, GROUP) * 7 % 16
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    return torch.equal(_unpack(packed, torch.empty(GROUP, BLOCK)), codes.T.float() - 8)


def unpack_pairs(codes: Tensor) -> Tensor:
    """Codes [N, K / 2], two a byte with the first in its low half -> [N, K] uint8."""
    return torch.stack([codes & 15, codes >> 4], -1).flatten(1)


def int4_codes(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[N, K] -> codes 0 to 15 [N, K] int32, scales and zero points [N, K / 32].

    Scales and zero points are rounded to the weight's dtype before the codes are chosen.
    """
    groups = weight.float().unflatten(1, (-1, GROUP))
    low, high = groups.amin(-1), groups.amax(-1)
    scales = ((high - low) / 15).clamp(min=1e-12).to(weight.dtype)
    zeros = (low + 8 * scales.float()).to(weight.dtype)
    codes = (groups - zeros.float()[..., None]) / scales.float()[..., None] + 8
    return codes.round().clamp(0, 15).flatten(1).int(), scales, zeros


class QuantizedEmbedding(nn.Module):
    """`TokenEmbedding` in int8."""

    def __init__(self, weight: Tensor, kind: type[Int8Linear] = Int8Linear) -> None:
        super().__init__()
        self.linear = kind(weight)

    @property
    def device(self) -> torch.device:
        return self.linear.scales.device

    @property
    def dtype(self) -> torch.dtype:
        return self.linear.scales.dtype

    @property
    def weight(self) -> Tensor:
        """[V, D], in a copy."""
        return self.linear.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.linear.rows(ids)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.linear(hidden)


QUANTIZED: dict[str, Callable[[Tensor], Int8Linear | Int4Linear]] = {
    "int8": Int8Linear,
    "int4": Int4Linear,
}
WEIGHT_BYTES = {"int8": 1, "int4": 0.5 + 4 / GROUP}  # of one in a layer, with its part of scales


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this machine's oneDNN multiplies in bfloat16, and the model is in it."""
    return dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def pack_weights(model: PaliGemmaForConditionalGeneration, free: Free = lambda _: None) -> None:
    """Lay the decoder's layers out for oneDNN, in place; `free` is called with each old weight."""
    _replace_linears(model.language_model, PackedLinear, free)


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
