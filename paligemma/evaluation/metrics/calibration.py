"""Calibration of scores: of boxes that score 0.8, are 80 % right?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

STEPS = 100  # of Newton's method; some ten are enough
RIDGE = 1e-6  # keeps it finite where a score separates right from wrong


class Bin(NamedTuple):
    """Boxes of similar scores: how many, their mean score, and the share that is right."""

    count: int
    score: float
    right: float


def fit_platt(scores: Sequence[float], is_right: Sequence[bool]) -> tuple[float, float]:
    """Slope and intercept of the chance that a box is right, by logistic regression on its score.

    As Platt (1999), the targets are drawn in a little, so that few examples claim no certainty.
    Raises ValueError without a right and a wrong box.
    """
    score, right = np.asarray(scores, float), np.asarray(is_right, bool)
    num_right, num_wrong = right.sum(), (~right).sum()
    if not num_right or not num_wrong:
        raise ValueError("A calibration needs boxes that are right, and boxes that are not.")
    target = np.where(right, (num_right + 1) / (num_right + 2), 1 / (num_wrong + 2))
    mean, spread = score.mean(), max(score.std(), 1e-9)
    inputs = np.stack([(score - mean) / spread, np.ones_like(score)], 1)
    weights = np.zeros(2)
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(-inputs @ weights))
        gradient = inputs.T @ (chance - target) + RIDGE * weights
        curvature = (inputs.T * (chance * (1 - chance))) @ inputs + RIDGE * np.eye(2)
        weights -= np.linalg.solve(curvature, gradient)
    return float(weights[0] / spread), float(weights[1] - weights[0] * mean / spread)


def reliability(scores: Sequence[float], is_right: Sequence[bool], bins: int = 10) -> list[Bin]:
    """The boxes in `bins` equal ranges of scores, those without a box left out."""
    score, right = np.asarray(scores, float), np.asarray(is_right, float)
    place = np.minimum((score * bins).astype(int), bins - 1)
    return [
        Bin(int(chosen.sum()), float(score[chosen].mean()), float(right[chosen].mean()))
        for number in range(bins)
        if (chosen := place == number).any()
    ]


def expected_calibration_error(
    scores: Sequence[float], is_right: Sequence[bool], bins: int = 10
) -> float:
    """The mean distance of a score from the share that is right, over boxes (arXiv 1706.04599).

    0 without a box.
    """
    parts = reliability(scores, is_right, bins)
    total = sum(one.count for one in parts)
    return sum(one.count * abs(one.score - one.right) for one in parts) / max(total, 1)
