"""Linear layers in int8, a scale for each output, and the embedding table.

    Int8Linear         the weights as they are: PyTorch's kernel for a few rows
    PackedInt8Linear   in oneDNN's layout: bytes times bytes, for any number of rows

To multiply bytes by bytes, activations become bytes too: a scale for each row, and where that is
too coarse a second row of bytes for what the first one leaves.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW_ROWS = 24  # up to here reading the weights takes longer than multiplying by them
CACHED_WEIGHTS = 1 << 22  # that are turned into bfloat16 at a time
CHUNK = 512  # outputs that are quantized at a time, so that no whole copy in float32 is made
ROWS = 64  # of activations that are turned into bytes at a time, so that they stay in the cache
MOST_STEPS = 127  # the largest value of a row, of weights or activations, in whole steps
FINER = 254  # steps of the second row in one of the first
ZERO = 128  # the byte that stands for 0
COARSE = 0.035  # a step in root mean squares of a row: rounding to it is off by a hundredth


class Int8Linear(nn.Module):
    """A linear layer without bias in int8: `codes` [N, K] times `scales` [N]."""

    codes: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        scales = (weight.abs().amax(1, keepdim=True).float() / MOST_STEPS).clamp(min=1e-12)
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


class PackedInt8Linear(nn.Module):
    """The numbers of an `Int8Linear` in oneDNN's layout, where `can_multiply_bytes()`."""

    packed: Tensor
    scales: Tensor
    zeros: Tensor

    def __init__(self, layer: Int8Linear) -> None:
        super().__init__()
        packed = torch.ops.onednn.qlinear_prepack(layer.codes, None)
        zeros = torch.zeros(len(layer.codes), dtype=torch.int32)
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("scales", layer.scales.float(), persistent=False)
        self.register_buffer("zeros", zeros, persistent=False)

    @property
    def weight(self) -> Tensor:
        """[N, K] in float32, in a copy."""
        return self.packed.to_dense().T * self.scales[:, None]

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            return F.linear(x, self.weight.to(x.dtype))
        rows = x.reshape(-1, x.shape[-1])
        y = rows.new_empty(len(rows), len(self.scales))
        for part, result in zip(rows.split(ROWS), y.split(ROWS), strict=True):
            result.copy_(self._multiply(part, all_coarse=len(rows) <= FEW_ROWS))
        return y.view(*x.shape[:-1], -1)

    def _multiply(self, rows: Tensor, all_coarse: bool) -> Tensor:
        """[n, K] -> [n, N] in float32."""
        step = (rows.abs().amax(-1, keepdim=True).float() / MOST_STEPS).clamp_(min=1e-30)
        steps = rows / step
        whole = steps.round()
        coarse = slice(None)
        if not all_coarse:
            coarse = (steps.square().mean(-1) < COARSE**-2).nonzero()[:, 0]
        rest = (steps[coarse] - whole[coarse]) * FINER
        codes = torch.cat([whole, rest]).add_(ZERO + 0.5).to(torch.uint8)  # which rounds down
        whole, rest = self._multiply_bytes(codes).tensor_split([len(rows)])
        whole[coarse] += rest.mul_(1 / FINER)
        return whole.mul_(step)

    def _multiply_bytes(self, codes: Tensor) -> Tensor:
        """Bytes [n, K], which stand for their value less ZERO -> [n, N] in float32."""
        return torch.ops.onednn.qlinear_pointwise(
            codes, 1.0, ZERO, self.packed, self.scales, self.zeros,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip


@cache
def can_multiply_bytes() -> bool:
    """Whether this processor adds up products of bytes in 32 bits, and this build's oneDNN does."""
    return torch.cpu._is_vnni_supported() and hasattr(torch.ops.onednn, "qlinear_prepack")


class QuantizedEmbedding(nn.Module):
    """`TokenEmbedding` in int8. Its rows are looked up, so it keeps the plain layout."""

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
