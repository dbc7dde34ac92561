"""The world of stickers, as training sees it: hundreds of kinds of objects, drawn by many artists.

The drawings come from the atlas in `stickers.stickers_cache()` (`atlas.fetch_stickers` makes it).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image

from paligemma.synthetic.atlas import load_atlas
from paligemma.synthetic.compose import Composer, Scene
from paligemma.synthetic.grounds import GROUND_COLORS
from paligemma.synthetic.kinds import all_kinds
from paligemma.synthetic.patches import label_patches
from paligemma.synthetic.restyle import COLORS
from paligemma.synthetic.stickers import stickers_cache
from paligemma.synthetic.words import CHARACTERS
from paligemma.synthetic.world import PatchLabels


@dataclass(frozen=True)
class DrawnScene:
    """A scene with its image [R, R, 3] uint8: both are made in one go."""

    scene: Scene
    image: np.ndarray


class Stickers:
    """A `World` of up to six stickers and up to two blocks of words (see `compose.py`)."""

    kinds = tuple(kind.name for kind in all_kinds())
    colors = tuple(COLORS)
    backgrounds = tuple(GROUND_COLORS)
    characters = CHARACTERS
    max_count = 6
    box_grid = 1023

    @cached_property
    def composer(self) -> Composer:
        return Composer(load_atlas(stickers_cache() / "atlas"))

    def scene(self, seed: int) -> DrawnScene:
        image, scene = self.composer(seed)
        return DrawnScene(scene, image)

    def images(self, scenes: Sequence[DrawnScene], side: int) -> list[Image.Image]:
        """The images as they were composed, whatever the `side`: the processor resizes them."""
        return [Image.fromarray(drawn.image) for drawn in scenes]

    def patch_labels(self, scenes: Sequence[DrawnScene], grid: int) -> PatchLabels:
        labels = label_patches([drawn.scene for drawn in scenes], grid)
        fields = (labels.kind, labels.color, labels.box, labels.mask, labels.characters)
        return PatchLabels(*map(torch.from_numpy, (*fields, labels.ground)))
