"""The schedule of learning rates: a linear warm-up, then half a cosine."""

import math


def cosine(progress: float, floor: float = 0.0) -> float:
    """From 1 at `progress` 0 down to `floor` at 1."""
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


def lr_factor(
    step: int, steps: int, warmup: float, floor: float = 0.0, overlap: bool = False
) -> float:
    """The learning rate of `step` 0…steps − 1 as a share of its peak.

    The warm-up takes the share `warmup` of the steps. The cosine follows it, or with `overlap` runs
    over all steps and is multiplied with it.
    """
    first = round(warmup * steps)
    ramp = min(1.0, (step + 1) / first) if first else 1.0
    start = 0 if overlap else first
    return ramp * cosine(max(step - start, 0) / max(steps - start, 1), floor)
