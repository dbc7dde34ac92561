"""The world of stickers, as training sees it: hundreds of kinds of objects, drawn by many artists.

The drawings come from the atlas in `stickers.stickers_cache()` (`atlas.fetch_stickers` makes it).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from paligemma.detections import Box
from paligemma.synthetic.atlas import load_atlas
from paligemma.synthetic.compose import Composer
from paligemma.synthetic.composed_scene import ComposedScene
from paligemma.synthetic.grounds import GROUND_COLORS
from paligemma.synthetic.kinds import all_kinds
from paligemma.synthetic.patches import label_patches
from paligemma.synthetic.phrases.facts import Term
from paligemma.synthetic.phrases.grammar import MARK, Grammar
from paligemma.synthetic.phrases.languages import GRAMMARS
from paligemma.synthetic.phrases.samples import samples
from paligemma.synthetic.phrases.words import texts
from paligemma.synthetic.restyle import COLORS
from paligemma.synthetic.scene_options import SceneOptions
from paligemma.synthetic.stickers import stickers_cache
from paligemma.synthetic.words import CHARACTERS
from paligemma.synthetic.world import PatchLabels, SceneSample, WordLists


@dataclass(frozen=True)
class SceneMask:
    """The mask of object `number` (from 0) of a scene."""

    scene: ComposedScene
    number: int


@dataclass(frozen=True)
class DrawnScene:
    """A scene with its image [R, R, 3] uint8: both are made in one go."""

    scene: ComposedScene
    image: np.ndarray


class Stickers:
    """A `World` of up to six stickers and up to two blocks of words (see `compose.py`).

    `options`: what its scenes are like; None for those of training.
    """

    kinds: Sequence[str] = tuple(kind.name for kind in all_kinds())
    colors: Sequence[str] = tuple(COLORS)
    backgrounds: Sequence[str] = tuple(GROUND_COLORS)
    characters = CHARACTERS
    max_count = 6
    box_grid = 1023

    def __init__(self, options: SceneOptions | None = None) -> None:
        self.options = options

    @cached_property
    def composer(self) -> Composer:
        return Composer(load_atlas(stickers_cache() / "atlas"), self.options)

    def scene(self, seed: int) -> DrawnScene:
        image, scene = self.composer(seed)
        return DrawnScene(scene, image)

    def images(self, scenes: Sequence[DrawnScene], side: int) -> list[Image.Image]:
        """The images as they were composed, of `SceneOptions.size` pixels, whatever the `side`."""
        return [Image.fromarray(drawn.image) for drawn in scenes]

    def patch_labels(self, scenes: Sequence[DrawnScene], grid: int) -> PatchLabels:
        return label_patches([drawn.scene for drawn in scenes], grid)

    def samples(self, scene: DrawnScene, rng: np.random.Generator) -> list[SceneSample]:
        drawn = scene.scene
        numbers = {id(thing): number for number, thing in enumerate(drawn.objects)}
        masks = lambda one: tuple(SceneMask(drawn, numbers[id(thing)]) for thing in one.objects)
        return [replace(one, objects=masks(one)) for one in samples(drawn, rng)]

    def crop(self, thing: SceneMask, box: Box) -> np.ndarray:
        return thing.scene.mask_crop(thing.number, box)

    def silhouettes(self, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """Of the things of scenes, cut out by boxes that are a little off."""
        masks = []
        for rng in rngs:
            scene = None
            while scene is None or not scene.objects:
                _, scene = self.composer(int(rng.integers(1 << 40)))
            number = int(rng.integers(len(scene.objects)))
            x1, y1, x2, y2 = np.array(scene.objects[number].box) + rng.normal(0, 0.005, 4)
            masks.append(scene.mask_crop(number, (x1, y1, x2, y2)))
        return np.stack(masks)

    def texts(self, scenes: int, seed: int) -> Iterator[str]:
        """All words, in whatever scenes: a few times each, so that they count as frequent."""
        return chain.from_iterable(texts() for _ in range(5))

    def word_lists(self) -> list[WordLists]:
        return [self._word_lists(grammar) for grammar in GRAMMARS.values()]

    def _word_lists(self, grammar: Grammar) -> WordLists:
        nouns = [grammar.forms(Term("kind", name)) for name in self.kinds]
        return WordLists(
            [noun.label for noun in nouns],
            [noun.plural.removesuffix(MARK) for noun in nouns],
            [grammar.colors[color] for color in self.colors],
            [grammar.colors[color] for color in self.backgrounds],
        )

    def grounding(self, scenes: Sequence[DrawnScene]) -> Tensor:
        table = np.zeros((len(scenes), len(self.kinds) + 1, 6), np.float32)
        for row, drawn in zip(table, scenes, strict=True):
            ground, things = drawn.scene.background, drawn.scene.objects
            shade = len(self.colors) + self.backgrounds.index(ground) if ground else -1
            row[-1] = (1, 0, 0, 1, 1, shade)
            for thing in sorted(things, key=lambda thing: -thing.box[1]):
                color = self.colors.index(thing.color) if thing.color else -1
                row[thing.number] = (1, *thing.box, color)
        return torch.from_numpy(table)
