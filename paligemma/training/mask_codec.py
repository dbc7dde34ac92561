"""The mask codec as an objective: a VQ-VAE with a moving-average codebook, fitted on silhouettes.

The codebook follows the encoder by exponential averages and idle rows restart at live vectors
(van den Oord et al., arXiv 1711.00937, appendix A; restarts as in Jukebox, arXiv 2005.00341).
"""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from paligemma.models.mask_codec import MaskCodec
from paligemma.synthetic.world import World
from paligemma.training.auxiliary import Counts
from paligemma.training.data import MixtureBatches, Numbers, SampleOrder
from paligemma.training.objectives import Batch, Losses, Objective

COMMITMENT = 0.25
DECAY = 0.99
IDLE = 0.05  # a codebook row whose average count falls below this restarts


class SilhouetteBatches(MixtureBatches):
    """Silhouettes of a world, [B, 64, 64], as `masks`; other ones for other `seeds`."""

    def __init__(self, mixture: SampleOrder, world: World, *seeds: int) -> None:
        self.mixture, self.world, self.seeds = mixture, world, seeds

    def __getitem__(self, numbers: Numbers) -> dict[str, Any]:
        step, chosen = numbers
        at = [self.mixture.at(number) for number in chosen]
        rngs = [np.random.default_rng((*self.seeds, *place)) for place in at]
        masks = torch.from_numpy(self.world.silhouettes(rngs))
        places = [self.mixture.sources[source].place(row) for source, row in at]
        return {"masks": masks, "step": torch.tensor(step), "places": places, "skipped": []}


class MaskReconstruction(Objective):
    """The mask codec under its two losses: of the reconstruction, and the encoder's commitment.

    `row_counts` [V] and `row_sums` [V, C] are the running averages whose ratio is the codebook.
    """

    row_counts: Tensor
    row_sums: Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.codec = MaskCodec()
        self.codec.codebook.requires_grad_(False)
        self.seed = seed
        self.register_buffer("row_counts", torch.ones(len(self.codec.codebook)))
        self.register_buffer("row_sums", torch.zeros_like(self.codec.codebook))

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Masks."""
        return {"masks": torch.ones_like(batch["masks"][:, 0, 0]).sum()}

    def forward(self, batch: Batch, counts: Counts) -> Losses:
        masks, codec = batch["masks"], self.codec
        vectors = codec.embed(masks).float()
        everyone = self._all(vectors.detach()).flatten(0, 1)
        rng = np.random.default_rng((self.seed, int(batch["step"])))  # the same on every process
        if self.training and batch["step"] == 0:
            self.row_sums.copy_(_pick(everyone, len(self.row_sums), rng))
        self.sync_codebook()
        with torch.autocast(masks.device.type, enabled=False):
            codes = codec.nearest(vectors.detach())
        quantized = codec.codebook[codes].detach()
        decoded = codec.reconstruct(vectors + (quantized - vectors).detach()).float()
        loss = F.mse_loss(decoded, masks * 2 - 1, reduction="none").mean((1, 2))
        loss = loss + COMMITMENT * F.mse_loss(vectors, quantized, reduction="none").mean((1, 2))
        if self.training:
            self._follow(everyone, self._all(codes).flatten(), rng)
        return {
            "loss": loss.sum() / counts["masks"],
            "iou": iou(decoded.detach(), masks).sum() / counts["masks"],
        }

    def sync_codebook(self) -> None:
        """Set the codebook to the averages."""
        self.codec.codebook.data.copy_(self.row_sums / self.row_counts[:, None])

    @staticmethod
    def _all(values: Tensor) -> Tensor:
        """`values` [n, …] of all processes, [N, …]."""
        if not dist.is_initialized():
            return values
        parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    @torch.no_grad()
    def _follow(self, vectors: Tensor, codes: Tensor, rng: np.random.Generator) -> None:
        """Move the averages toward `vectors` [n, C] of these `codes`; restart idle rows."""
        share = torch.full(codes.shape, 1 - DECAY, device=codes.device)
        self.row_counts.mul_(DECAY).scatter_add_(0, codes, share)
        self.row_sums.mul_(DECAY).index_add_(0, codes, vectors, alpha=1 - DECAY)
        idle = self.row_counts < IDLE
        if idle.any():
            self.row_counts[idle] = 1.0
            self.row_sums[idle] = _pick(vectors, int(idle.sum()), rng)


def _pick(vectors: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """`count` of the vectors [n, C] by chance."""
    return vectors[torch.from_numpy(rng.integers(len(vectors), size=count))]


def iou(decoded: Tensor, masks: Tensor) -> Tensor:
    """Intersection over union of each decoded mask with its original: [n]."""
    a, b = decoded > 0, masks > 0.5
    return (a & b).sum((1, 2)) / (a | b).sum((1, 2)).clamp(min=1)
