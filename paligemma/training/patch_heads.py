"""What teaches the vision tower to see: throw-away heads that say what each patch shows.

A few linear layers on the tower's features predict the kind, colour, box and outline of the thing
that covers a patch, and the characters in its quarters. They are trained first, before there is
any text, and kept at a low weight while the whole model learns; they are not part of the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from paligemma.processor import PaliGemmaProcessor
from paligemma.synthetic.scenes import (
    BACKGROUNDS,
    CHARACTERS,
    COLORS,
    KINDS,
    Scene,
    render,
    sample,
    silhouette,
)

RENDERED = 256  # pixels; scenes are drawn larger than the model sees them, as pictures are
FIRST_SEED = 1 << 40  # training scenes; those below are for tests and evaluation


@dataclass(frozen=True)
class PatchLabels:
    """What each of P patches shows: `kind`, `color` [B, P] (0 = nothing), `box` [B, P, 4] of that
    thing, `mask` [B, P, 64] of it within the patch, `characters` [B, P, 4], one a quarter.
    `ground` [B, P]: the number of the background where nothing else is, -1 elsewhere."""

    kind: Tensor
    color: Tensor
    box: Tensor
    mask: Tensor
    characters: Tensor
    ground: Tensor


@dataclass(frozen=True)
class Patches:
    """One batch for the tower alone: pictures [B, 3, R, R] and what their patches show."""

    pixel_values: Tensor
    patches: PatchLabels


def draw(seed: int, number: int, batch: int) -> tuple[list[Scene], np.random.Generator]:
    """The scenes of batch `number`, and the generator for what is asked about them."""
    rng = np.random.default_rng((seed, number))
    scenes = [sample(int(rng.integers(FIRST_SEED, 2 * FIRST_SEED))) for _ in range(batch)]
    return scenes, rng


def look(
    scenes: Sequence[Scene], processor: PaliGemmaProcessor, grid: int
) -> tuple[Tensor, PatchLabels]:
    """Pixel values [B, 3, R, R] of the scenes, and the labels of their patches."""
    labels = zip(*(patch_labels(scene, grid) for scene in scenes), strict=True)
    return (
        processor.pixel_values([render(scene, RENDERED) for scene in scenes]),
        PatchLabels(*(torch.from_numpy(np.stack(column)) for column in labels)),
    )


def patch_labels(scene: Scene, grid: int) -> tuple[np.ndarray, ...]:
    """The `PatchLabels` of one scene, as arrays without the batch dimension."""
    fine = grid * 8
    owners = np.zeros((fine, fine), np.uint8)
    for number, item in enumerate(scene.items, 1):
        owners[silhouette(item, fine) > 0] = number
    cells = owners.reshape(grid, 8, grid, 8).transpose(0, 2, 1, 3).reshape(grid * grid, 64)
    shares = np.stack([(cells == n).sum(1) for n in range(len(scene.items) + 1)], 1)
    owner = (
        np.where(shares[:, 1:].max(1, initial=0) >= 4, shares[:, 1:].argmax(1) + 1, 0)
        if scene.items
        else np.zeros(grid * grid, int)
    )
    kinds = np.array([0] + [list(KINDS).index(item.kind) + 1 for item in scene.items])
    colors = np.array([0] + [list(COLORS).index(item.color) + 1 for item in scene.items])
    boxes = np.array([(0, 0, 0, 0)] + [item.box for item in scene.items], np.float32)
    mask = ((cells == owner[:, None]) & (owner[:, None] > 0)).astype(np.float32)
    characters = np.zeros((2 * grid, 2 * grid), int)
    centres = (np.arange(2 * grid) + 0.5) / (2 * grid)
    for text in scene.texts:
        for character, (x1, y1, x2, y2) in zip(text.text, text.character_boxes, strict=True):
            rows = (y1 <= centres) & (centres < y2)
            columns = (x1 <= centres) & (centres < x2)
            characters[np.ix_(rows, columns)] = CHARACTERS.index(character) + 1
    quarters = characters.reshape(grid, 2, grid, 2).transpose(0, 2, 1, 3).reshape(grid * grid, 4)
    background = list(BACKGROUNDS).index(scene.background)
    ground = np.where((owner == 0) & (quarters == 0).all(1), background, -1)
    return kinds[owner], colors[owner], boxes[owner], mask, quarters, ground


class PatchScenes(Dataset):
    """Batch number n of an endless series: a function of `seed` and n alone."""

    def __init__(self, processor: PaliGemmaProcessor, grid: int, batch: int, seed: int) -> None:
        self.processor, self.grid, self.batch, self.seed = processor, grid, batch, seed

    def __getitem__(self, number: int) -> Patches:
        scenes, _ = draw(self.seed, number, self.batch)
        return Patches(*look(scenes, self.processor, self.grid))


class PatchHeads(nn.Module):
    """Features [B, P, D] and labels -> the loss, a scalar."""

    def __init__(self, width: int):
        super().__init__()
        self.kind = nn.Linear(width, len(KINDS) + 1)
        self.color = nn.Linear(width, len(COLORS) + 1)
        self.box = nn.Linear(width, 4)
        self.mask = nn.Linear(width, 64)
        self.characters = nn.Linear(width, 4 * (len(CHARACTERS) + 1))

    def forward(self, features: Tensor, labels: PatchLabels) -> Tensor:
        features = features.float()
        covered = labels.kind > 0
        kind = F.cross_entropy(self.kind(features).flatten(0, 1), labels.kind.flatten())
        characters = self.characters(features).unflatten(-1, (4, -1))
        character = F.cross_entropy(characters.flatten(0, 2), labels.characters.flatten())
        features = features[covered]
        if len(features) == 0:  # no picture of the batch shows a thing
            return 2 * kind + 4 * character
        color = F.cross_entropy(self.color(features), labels.color[covered])
        box = F.l1_loss(self.box(features), labels.box[covered])
        mask = F.binary_cross_entropy_with_logits(self.mask(features), labels.mask[covered])
        return 2 * kind + color + 10 * box + mask + 4 * character


def word_loss(
    images: Tensor, table: Tensor, words: Sequence[Tensor], labels: PatchLabels
) -> Tensor:
    """How well image tokens [B, P, D] say, in the words' own rows of `table`, what they show.

    `words` are the ids of the kinds' names, of their plurals, of the colours' and of the
    backgrounds'. A patch that looks like its word is found by that word: what pairs of picture and
    text teach SigLIP, a patch at a time.
    """
    kinds, colors = labels.kind - 1, labels.color - 1
    pairs = zip(words, (kinds, kinds, colors, labels.ground), strict=True)
    return sum(_likeness(images, table[ids], what) for ids, what in pairs)


def _likeness(images: Tensor, rows: Tensor, what: Tensor) -> Tensor:
    """Cross-entropy of which row [n, D] a patch is most like, where `what` [B, P] is not -1."""
    shown = what >= 0
    scores = images[shown].float() @ rows.T
    return F.cross_entropy(scores, what[shown], reduction="sum") / max(len(scores), 1)
