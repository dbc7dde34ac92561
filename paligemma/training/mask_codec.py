"""Fit the mask codec on silhouettes: a VQ-VAE with a moving-average codebook.

The codebook follows the encoder by exponential averages and idle rows restart at live vectors
(van den Oord et al., arXiv 1711.00937, appendix A; restarts as in Jukebox, arXiv 2005.00341).
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from paligemma.models.mask_codec import MaskCodec
from paligemma.synthetic.scenes import KINDS, Item, crop
from paligemma.training import checkpoint

STEPS, BATCH, RATE = 1_000, 64, 1e-3
COMMITMENT = 0.25
DECAY = 0.99
# Glyphs outside the drawn world, so that the codes are not only those of thirty-two shapes.
OTHER_SHAPES = "♠♣♦♪★✚✂✌☯♨⚘⚛⚜⚠✦✿❄❆❖➔➤⛃♛♜♝♟♞☃☢☸✒✎▲●■◆◗◖◢◣"


def silhouettes(count: int, rng: np.random.Generator, shapes: list[str]) -> np.ndarray:
    """`count` silhouettes of the given shapes, cropped to their boxes: [count, 64, 64], 0…1."""
    masks = []
    for _ in range(count):
        item = Item(shapes[rng.integers(len(shapes))], "", 0, 0, 1, float(rng.uniform(-30, 30)))
        box = np.array(item.box) + rng.normal(0, 0.01, 4)  # answers' boxes end at whole pixels
        masks.append(crop(item, tuple(box)))
    return np.stack(masks)


def cosine(progress: float, floor: float = 0.03) -> float:
    """The learning-rate factor at `progress` 0…1: from 1 down to `floor`."""
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


def iou(decoded: Tensor, masks: Tensor) -> Tensor:
    """Intersection over union of each decoded mask with its original: [n]."""
    a, b = decoded > 0, masks > 0.5
    return (a & b).sum((1, 2)) / (a | b).sum((1, 2)).clamp(min=1)


def fit(path: Path, steps: int = STEPS, seed: int = 0) -> None:
    """Train for `steps` batches and write the codec to `path`; goes on where it was stopped."""
    torch.manual_seed(seed)
    codec = MaskCodec().to(memory_format=torch.channels_last)
    trained = [*codec.encoder.parameters(), *codec.decoder.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=1e-4)
    average = {"counts": torch.ones(len(codec.codebook)), "sums": torch.zeros_like(codec.codebook)}
    shapes = list(KINDS) * 4 + list(OTHER_SHAPES)
    half_way, first = path.with_suffix(".state"), 0
    if half_way.exists():
        state = checkpoint.load(half_way)
        codec.load_state_dict(state["codec"])
        optimizer.load_state_dict(state["optimizer"])
        average, first = state["average"], state["step"]
    for step in range(first, steps):
        rng = np.random.default_rng((seed, step))  # the data of a step depends on nothing else
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 100) * cosine(step / steps)
        masks = torch.from_numpy(silhouettes(BATCH, rng, shapes))
        with torch.autocast("cpu", torch.bfloat16):
            vectors = codec.embed(masks)
        vectors = vectors.float()
        flat = vectors.detach().flatten(0, 1)
        if step == 0:
            average["sums"].copy_(flat[rng.integers(len(flat), size=len(codec.codebook))])
            codec.codebook.data.copy_(average["sums"])
        codes = codec.nearest(vectors.detach())
        quantised = codec.codebook[codes].detach()
        with torch.autocast("cpu", torch.bfloat16):
            decoded = codec.reconstruct(vectors + (quantised - vectors).detach())
        loss = F.mse_loss(decoded.float(), masks * 2 - 1)
        loss = loss + COMMITMENT * F.mse_loss(vectors, quantised)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        _follow(codec.codebook.data, average["counts"], average["sums"], flat, codes.flatten(), rng)
        if (step + 1) % 250 == 0:
            print(f"codec {step + 1}/{steps} loss {loss:.4f} IoU {iou(decoded, masks).mean():.4f} "
                  f"codes in use {int((average['counts'] > 0.5).sum())}", flush=True)  # fmt: skip
            state = {"codec": codec.state_dict(), "optimizer": optimizer.state_dict()}
            checkpoint.save(half_way, state | {"average": average, "step": step + 1})
    codec.save(path)
    half_way.unlink(missing_ok=True)


def _follow(
    codebook: Tensor,
    counts: Tensor,
    sums: Tensor,
    vectors: Tensor,
    codes: Tensor,
    rng: np.random.Generator,
) -> None:
    """Move each codebook row to the running mean of its vectors; restart idle rows."""
    counts.mul_(DECAY).scatter_add_(0, codes, torch.full(codes.shape, 1 - DECAY))
    sums.mul_(DECAY).index_add_(0, codes, vectors, alpha=1 - DECAY)
    idle = counts < 0.05
    if idle.any():
        counts[idle] = 1.0
        sums[idle] = vectors[rng.integers(len(vectors), size=int(idle.sum()))]
    codebook.copy_(sums / counts[:, None])
