"""What there is to say about a composed image: its objects, its texts, and what each pixel shows.

Coordinates are fractions of the image's sides.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from paligemma.synthetic.kinds import Kind, all_kinds

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class SceneObject:
    """One thing in a scene.

    `box` (x1, y1, x2, y2) is tight around what is visible of it, `visible` that share of it, and
    `area` that part of the image. `color` is a word of `restyle.COLORS`, or "" for a thing of
    several colours. `angle` is in degrees, clockwise. Objects are in order from back to front.
    """

    name: str
    number: int
    artist: str
    color: str
    box: Box
    visible: float
    area: float
    angle: float
    mirrored: bool

    @property
    def kind(self) -> Kind:
        """The line of the table of kinds."""
        return all_kinds()[self.number]

    @property
    def centre(self) -> tuple[float, float]:
        x1, y1, x2, y2 = self.box
        return (x1 + x2) / 2, (y1 + y2) / 2


@dataclass(frozen=True)
class SceneText:
    """One written line: `character_boxes` (x1, y1, x2, y2), one a character, spaces too."""

    text: str
    font: str
    character_boxes: tuple[Box, ...]

    @property
    def box(self) -> Box:
        x1, y1, x2, y2 = np.array(self.character_boxes).T
        return float(x1.min()), float(y1.min()), float(x2.max()), float(y2.max())


@dataclass(frozen=True)
class ComposedScene:
    """`owners` [R, R] uint8 says which thing each pixel shows: n for `objects[n - 1]`, 0 for none.
    `background` is a word of `grounds.GROUND_COLORS`, or "" where no word says it. `texts` are
    from top to bottom. `effects` are the names of what was done to the whole image."""

    seed: int
    background: str
    ground: str
    objects: tuple[SceneObject, ...]
    texts: tuple[SceneText, ...]
    effects: tuple[str, ...]
    owners: np.ndarray = field(repr=False, compare=False)

    def mask(self, number: int) -> np.ndarray:
        """[R, R] bool: where object `number` (from 0) is visible."""
        return self.owners == number + 1

    def mask_crop(self, number: int, box: Box, size: int = 64) -> np.ndarray:
        """[size, size] float32, 0 to 1: what `box` cuts out of object `number`'s mask, stretched,
        as a mask codec takes it."""
        side = len(self.owners)
        x1, y1, x2, y2 = (v * side for v in box)
        across, down = max(x2 - x1, 1e-6) / size, max(y2 - y1, 1e-6) / size
        # from the pixels of the crop to those of the scene; both have their centres at halves
        warp = np.array([[across, 0, x1 + across / 2 - 0.5], [0, down, y1 + down / 2 - 0.5]])
        mask = self.mask(number).astype(np.float32)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(mask, warp, (size, size), flags=flags))
