"""What a synthetic world is: the interface between drawn scenes and training, and worlds by name.

A world draws a scene from a seed and knows everything there is to say about it. Training takes from
it images, samples (prompt and answer), and labels for its auxiliary heads, whose sizes are those of
the world's lists. `synthetic: {world: NAME}` in a config names a world of `WORLDS`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from paligemma.detections import Box, Detection
from paligemma.detections import format as format_detections

# name: module and class. Modules are imported when the world is opened.
WORLDS = {
    "pictograms": "paligemma.synthetic.pictograms:Pictograms",
    "varied-pictograms": "paligemma.synthetic.varied_pictograms:VariedPictograms",
    "drawings": "paligemma.synthetic.drawings:Drawings",
    "stickers": "paligemma.synthetic.sticker_world:Stickers",
}


class Mention(NamedTuple):
    """A name in a text, which ends before its character `end`.

    `name` is one of the world's kinds, or "background"; `color` and `count` are what the text says
    of it, "" and 0 if it says none.
    """

    end: int
    name: str
    color: str = ""
    count: int = 0


@dataclass(frozen=True)
class SceneSample:
    """A prompt about a scene and its true answer.

    `task` is a key of `tasks.TASKS`, "region" for the caption of one box, or "question" for a
    question to an answer. `objects` are those of a detection or segmentation, in the order of the
    answer, as the world's `crop` takes them; `boxes` and `labels` are theirs as the answer writes
    them. A segmentation has no `suffix` until `with_codes` gives it one. `weight` multiplies its
    share of the loss. `names` are those in the prefix, and `groups` those that a caption lists:
    like objects together, in the order of the text. An answer that is `spelled` is read from the
    image: it is learned one character a token.
    """

    task: str
    prefix: str
    suffix: str
    objects: tuple[Any, ...] = ()
    boxes: tuple[Box, ...] = ()
    labels: tuple[str, ...] = ()
    weight: float = 1.0
    names: tuple[Mention, ...] = ()
    groups: tuple[Mention, ...] = ()
    spelled: bool = False

    def with_codes(self, codes: Sequence[Sequence[int]]) -> "SceneSample":
        """This segmentation with its answer: 16 mask codes for each object."""
        detections = [
            Detection(label, box, tuple(int(code) for code in row))
            for label, box, row in zip(self.labels, self.boxes, codes, strict=True)
        ]
        return replace(self, suffix=format_detections(detections))


class PatchLabels(NamedTuple):
    """What each of the P patches of B images shows.

    `kind`, `color` [B, P]: numbers from 1 in the world's lists, 0 where no object covers the patch.
    `box` [B, P, 4]: that object's box. `mask` [B, P, 64]: the 8 × 8 pixels of it in the patch.
    `characters` [B, P, 4]: numbers from 1 of the character in each quarter, 0 for none.
    `background` [B, P]: the number from 0 where nothing else is, -1 elsewhere.
    """

    kind: Tensor
    color: Tensor
    box: Tensor
    mask: Tensor
    characters: Tensor
    background: Tensor


class WordLists(NamedTuple):
    """What a language calls the `kinds`, one and several, the `colors` and the `backgrounds`."""

    kinds: Sequence[str]
    plurals: Sequence[str]
    colors: Sequence[str]
    backgrounds: Sequence[str]


class World(Protocol):
    """A source of scenes. Everything is a function of the seed, the same on every machine.

    `kinds`, `colors`, `backgrounds` and `characters` are the classes of the labels, and the words
    that captions use. At most `max_count` objects of a scene are alike. Boxes in answers end on a
    grid of `box_grid` cells a side.
    """

    kinds: Sequence[str]
    colors: Sequence[str]
    backgrounds: Sequence[str]
    characters: str
    max_count: int
    box_grid: int

    def scene(self, seed: int) -> Any:
        """The scene of a seed."""
        ...

    def images(self, scenes: Sequence[Any], side: int) -> list[Image.Image]:
        """The images of scenes, RGB, `side` × `side` pixels."""
        ...

    def samples(self, scene: Any, rng: np.random.Generator) -> list[SceneSample]:
        """Prompts and answers about one scene, in random order."""
        ...

    def crop(self, thing: Any, box: Box) -> np.ndarray:
        """The mask of one of a sample's `objects` within `box`, stretched to [64, 64]: 0…1."""
        ...

    def silhouettes(self, rngs: Sequence[np.random.Generator]) -> np.ndarray:
        """A mask to train the mask codec on for each generator: [n, 64, 64], 0…1."""
        ...

    def patch_labels(self, scenes: Sequence[Any], grid: int) -> PatchLabels:
        """The labels of scenes whose images are cut into grid × grid patches."""
        ...

    def texts(self, scenes: int, seed: int) -> Iterable[str]:
        """Texts to train a tokenizer on: prompts and answers about so many scenes, or all words."""
        ...

    def word_lists(self) -> Sequence[WordLists]:
        """The words of the labels, once for each language of the captions and questions."""
        ...

    def grounding(self, scenes: Sequence[Any]) -> Tensor:
        """What each scene has of each name: [B, kinds + 1, 6], the last name "background".

        1 where it is there, the box of the topmost one, and the number of its color among `colors`
        and then `backgrounds`, -1 if no word says it.
        """
        ...


def open_world(name: str) -> World:
    """The world of that name. Raises ValueError for a name that `WORLDS` lacks."""
    if name not in WORLDS:
        raise ValueError(f"there is no world {name!r}; choose one of {', '.join(WORLDS)}")
    module, _, kind = WORLDS[name].partition(":")
    return getattr(import_module(module), kind)()
