"""A scene on the way from its seed to its pixels: what was drawn so far, and where."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paligemma.synthetic import grounds
from paligemma.synthetic.composed_scene import Box, SceneText


@dataclass
class PlacedSprite:
    """A drawn object, not yet covered by later ones.

    `edges` x1, y1, x2, y2 of all of it, in pixels with fractions; `whole` is how many pixels it
    has, those beyond the border too.
    """

    number: int
    artist: str
    color: str
    edges: np.ndarray
    whole: float
    angle: float
    mirrored: bool


class Canvas:
    """`pixels` [R, R, 3] float32, and `owners` [R, R] uint8: n where `placed[n - 1]` is shown.

    `taken` are the boxes of words, which nothing covers, in pixels. `effects` names what was done
    to the whole image. All that is random comes from `rng`, so that a seed makes one scene.
    """

    def __init__(
        self, seed: int, size: int, ground_weights: dict[str, int], stretch: float
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.size = size
        self.ground = grounds.draw_ground(self.rng, size, ground_weights)
        self.pixels = self.ground.pixels
        self.owners = np.zeros((size, size), np.uint8)
        self.placed: list[PlacedSprite] = []
        self.texts: list[SceneText] = []
        self.taken: list[Box] = []
        self.effects: list[str] = []
        # a wide or tall page, stretched to a square as every image is
        aspect = np.exp(self.rng.uniform(-0.65, 0.65)) if self.chance(stretch) else 1
        self.stretch = np.array([min(1, 1 / aspect), min(1, aspect)])

    def chance(self, chance: float) -> bool:
        return self.rng.random() < chance

    def pick(self, options: Sequence):
        return options[int(self.rng.integers(len(options)))]

    def count_pixels(self) -> np.ndarray:
        """How many pixels show nothing, and each of `placed`."""
        return np.bincount(self.owners.ravel(), minlength=len(self.placed) + 1)


def touch(box: Sequence[float], other: Sequence[float], gap: float) -> bool:
    """Whether the boxes are less than `gap` apart."""
    return not (
        box[2] + gap < other[0]
        or other[2] + gap < box[0]
        or box[3] + gap < other[1]
        or other[3] + gap < box[1]
    )
