"""The world of pictograms, as training sees it: `scenes` and `language` behind one interface."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from paligemma.detections import Box
from paligemma.synthetic import language
from paligemma.synthetic.scenes import (
    BACKGROUNDS,
    CHARACTERS,
    COLORS,
    KINDS,
    Item,
    Scene,
    crop,
    render,
    sample,
    silhouette,
)
from paligemma.synthetic.world import PatchLabels, SceneSample, WordLists

# Glyphs that scenes do not draw: with them the mask codec learns more than thirty-two shapes.
OTHER_SHAPES = "♠♣♦♪★✚✂✌☯♨⚘⚛⚜⚠✦✿❄❆❖➔➤⛃♛♜♝♟♞☃☢☸✒✎▲●■◆◗◖◢◣"
CELL = 8  # pixels a side of a patch's mask
LEAST = 4  # of a patch's 64 mask pixels that an object must cover to own the patch


class Pictograms:
    """A `World` of one to four colored pictograms and up to two words (see `scenes.py`)."""

    kinds = tuple(KINDS)
    colors = tuple(COLORS)
    backgrounds = tuple(BACKGROUNDS)
    characters = CHARACTERS
    max_count = max(language.NUMBERS)
    box_grid = language.PIXELS

    def scene(self, seed: int) -> Scene:
        return sample(seed)

    def images(self, scenes: Sequence[Scene], side: int) -> list[Image.Image]:
        return [render(scene, side) for scene in scenes]

    def samples(
        self, scene: language.DescribedScene, rng: np.random.Generator
    ) -> list[SceneSample]:
        return language.samples(scene, rng, self.kinds, self.colors)

    def crop(self, thing: Item, box: Box) -> np.ndarray:
        return crop(thing, box)

    def silhouettes(self, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        shapes = list(self.kinds) * 4 + list(OTHER_SHAPES)
        return np.concatenate([silhouettes(1, rng, shapes) for rng in rngs])

    def patch_labels(self, scenes: Sequence[Scene], grid: int) -> PatchLabels:
        labels = zip(*(patch_labels(scene, grid) for scene in scenes), strict=True)
        return PatchLabels(*(torch.from_numpy(np.stack(field)) for field in labels))

    def texts(self, scenes: int, seed: int) -> list[str]:
        """Without `<loc>`, and without capitals: written words are."""
        rng = np.random.default_rng(seed)
        asked = [one for number in range(scenes) for one in self.samples(self.scene(number), rng)]
        texts = [text for one in asked for text in (one.prefix, one.suffix)]
        return [text for text in texts if "<loc" not in text and text == text.lower()]

    def word_lists(self) -> list[WordLists]:
        plurals = [language.plural(kind) for kind in self.kinds]
        return [WordLists(self.kinds, plurals, self.colors, self.backgrounds)]

    def grounding(self, scenes: Sequence[language.DescribedScene]) -> Tensor:
        shades = (*self.colors, *self.backgrounds)
        table = np.zeros((len(scenes), len(self.kinds) + 1, 6), np.float32)
        for row, scene in zip(table, scenes, strict=True):
            shade = shades.index(scene.background) if scene.background else -1
            row[-1] = (1, 0, 0, 1, 1, shade)
            for item in sorted(scene.items, key=lambda item: -item.box[1]):
                color = shades.index(item.color) if item.color else -1
                row[self.kinds.index(item.kind)] = (1, *item.box, color)
        return torch.from_numpy(table)


def silhouettes(count: int, rng: np.random.Generator, shapes: Sequence[str]) -> np.ndarray:
    """`count` silhouettes of the given shapes, cropped to their boxes: [count, 64, 64], 0…1."""
    masks = []
    for _ in range(count):
        shape = shapes[int(rng.integers(len(shapes)))]
        item = Item(shape, "", 0, 0, 1, float(rng.uniform(-30, 30)))
        box = np.array(item.box) + rng.normal(0, 0.01, 4)  # answers' boxes end at whole pixels
        masks.append(crop(item, tuple(box)))
    return np.stack(masks)


def patch_labels(scene: Scene, grid: int) -> tuple[np.ndarray, ...]:
    """The `PatchLabels` of one scene, as arrays without the batch dimension."""
    fine = grid * CELL
    owners = np.zeros((fine, fine), np.uint8)
    for number, item in enumerate(scene.items, 1):
        owners[silhouette(item, fine) > 0] = number
    cells = owners.reshape(grid, CELL, grid, CELL).transpose(0, 2, 1, 3).reshape(grid * grid, -1)
    shares = np.stack([(cells == n).sum(1) for n in range(len(scene.items) + 1)], 1)
    owner = (
        np.where(shares[:, 1:].max(1, initial=0) >= LEAST, shares[:, 1:].argmax(1) + 1, 0)
        if scene.items
        else np.zeros(grid * grid, int)
    )
    kinds = np.array([0] + [list(KINDS).index(item.kind) + 1 for item in scene.items])
    colors = np.array([0] + [list(COLORS).index(item.color) + 1 for item in scene.items])
    boxes = np.array([(0, 0, 0, 0)] + [item.box for item in scene.items], np.float32)
    mask = ((cells == owner[:, None]) & (owner[:, None] > 0)).astype(np.float32)
    characters = np.zeros((2 * grid, 2 * grid), int)
    centers = (np.arange(2 * grid) + 0.5) / (2 * grid)
    for text in scene.texts:
        for character, (x1, y1, x2, y2) in zip(text.text, text.character_boxes, strict=True):
            rows = (y1 <= centers) & (centers < y2)
            columns = (x1 <= centers) & (centers < x2)
            characters[np.ix_(rows, columns)] = CHARACTERS.index(character) + 1
    quarters = characters.reshape(grid, 2, grid, 2).transpose(0, 2, 1, 3).reshape(grid * grid, 4)
    number = list(BACKGROUNDS).index(scene.background)
    background = np.where((owner == 0) & (quarters == 0).all(1), number, -1)
    return kinds[owner], colors[owner], boxes[owner], mask, quarters, background
