"""Linear layers in int4: a scale and a zero point for each group of 32 inputs.

A few rows are multiplied by PyTorch's kernel. For many rows, as in prefill, the weights are turned
into the activations' dtype, so many outputs at a time that these stay in the processor's cache.
"""

from collections.abc import Iterable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paligemma.models.int8 import CACHED_WEIGHTS, CHUNK, FEW_ROWS

GROUP = 32  # inputs that share a scale
BLOCK = 64  # outputs that lie together


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
