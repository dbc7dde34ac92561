"""What each patch of composed scenes shows: targets for a tower that learns to see."""

from collections.abc import Sequence

import numpy as np
import torch

from paligemma.synthetic.composed_scene import ComposedScene
from paligemma.synthetic.grounds import GROUND_COLORS
from paligemma.synthetic.restyle import COLORS
from paligemma.synthetic.words import CHARACTERS
from paligemma.synthetic.world import PatchLabels

LEAST_CELLS = 4  # of a patch's 64, from which on a thing counts as what the patch shows


def label_patches(scenes: Sequence[ComposedScene], grid: int) -> PatchLabels:
    """The labels of `grid` × `grid` patches of each scene.

    Kinds are numbered as in `kinds.csv`, colors as `restyle.COLORS`, characters as
    `words.CHARACTERS`, backgrounds as `grounds.GROUND_COLORS`; of what no word says there is none.
    """
    batch = len(scenes)
    cells = np.stack([_cells(scene.owners, grid) for scene in scenes])
    most = max(len(scene.objects) for scene in scenes)
    numbers = range(1, max(most, 1) + 1)
    counts = np.stack([(cells == n).sum(-1, dtype=np.int16) for n in numbers], -1)
    owner = np.where(counts.max(-1) >= LEAST_CELLS, counts.argmax(-1) + 1, 0)
    kinds = np.zeros((batch, most + 1), np.int64)
    colors = np.zeros((batch, most + 1), np.int64)
    boxes = np.zeros((batch, most + 1, 4), np.float32)
    for kind, color, box, scene in zip(kinds, colors, boxes, scenes, strict=True):
        for number, thing in enumerate(scene.objects, 1):
            kind[number] = thing.number + 1
            color[number] = COLORS.index(thing.color) + 1 if thing.color else 0
            box[number] = thing.box
    rows = np.arange(batch)[:, None]
    characters = np.stack([_characters(scene, grid) for scene in scenes])
    names = list(GROUND_COLORS)
    background = np.array([names.index(s.background) if s.background else -1 for s in scenes])
    bare = (owner == 0) & (characters == 0).all(-1)
    return PatchLabels(
        kind=torch.from_numpy(kinds[rows, owner]),
        color=torch.from_numpy(colors[rows, owner]),
        box=torch.from_numpy(boxes[rows, owner]),
        mask=torch.from_numpy((cells == owner[..., None]) & (owner[..., None] > 0)).float(),
        characters=torch.from_numpy(characters),
        background=torch.from_numpy(np.where(bare, background[:, None], -1)),
    )


def _cells(owners: np.ndarray, grid: int) -> np.ndarray:
    """The owners [R, R] at the middle of the 8 × 8 cells of each patch: [P, 64]."""
    places = ((np.arange(8 * grid) + 0.5) * len(owners) / (8 * grid)).astype(int)
    fine = owners[np.ix_(places, places)]
    return fine.reshape(grid, 8, grid, 8).transpose(0, 2, 1, 3).reshape(grid * grid, 64)


def _characters(scene: ComposedScene, grid: int) -> np.ndarray:
    """[P, 4] int64: the character whose box covers the middle of each quarter."""
    fine = 2 * grid
    found = np.zeros((fine, fine), np.int64)
    for text in scene.texts:
        bounds = np.ceil(np.array(text.character_boxes) * fine - 0.5).astype(int).clip(0, fine)
        for character, (x1, y1, x2, y2) in zip(text.text, bounds.tolist(), strict=True):
            if character != " ":
                found[y1:y2, x1:x2] = CHARACTERS.index(character) + 1
    return found.reshape(grid, 2, grid, 2).transpose(0, 2, 1, 3).reshape(grid * grid, 4)
