"""Answers in which some words name one object of the picture, whose box is known.

Of drawn scenes, and of any data in COCO's instances format: what `pointing` asks about.
"""

import contextlib
import io
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

from paligemma.detections import Box, Detection
from paligemma.detections import format as format_objects
from paligemma.images import open_image
from paligemma.synthetic.language import caption, groups, phrase, whole_pixels
from paligemma.synthetic.scenes import Item, Scene, render, sample
from paligemma.tasks import TASKS

SIZE = 256  # pixels a side of drawn pictures


@dataclass(frozen=True)
class Named:
    """The characters `start` to `stop` of an answer name the object in `box`; `tokens` says how."""

    start: int
    stop: int
    box: Box
    tokens: str


@dataclass(frozen=True)
class Question:
    """A picture, a prompt, the true answer, and what of it names one object."""

    image: Image.Image
    prompt: str
    answer: str
    named: tuple[Named, ...]


def drawn_questions(scenes: int, first: int) -> Iterator[Question]:
    """Questions about drawn scenes with seeds from `first` on, each with an object to name.

    ValueError for fewer than one scene and for a seed below 0.
    """
    if scenes < 1 or first < 0:
        raise ValueError(
            f"Scenes are at least one, and seeds whole numbers from 0; not {scenes} from {first}."
        )
    seeds = range(first, first + scenes)
    return (question for seed in seeds for question in scene_questions(sample(seed)))


def scene_questions(scene: Scene) -> list[Question]:
    """Find one kind, its colour, what has a colour, and tell all: of what the scene has one of."""
    rng = np.random.default_rng(scene.seed)
    kinds, colors = ([getattr(i, of) for i in scene.items] for of in ("kind", "color"))
    alone = [item for item in scene.items if kinds.count(item.kind) == 1]
    single = [item for item in alone if colors.count(item.color) == 1]
    image, asked = render(scene, SIZE), []
    if alone:
        item = alone[rng.integers(len(alone))]
        asked.append(detection(image, item.kind, whole_pixels(item.box)))
        item = alone[rng.integers(len(alone))]
        question = TASKS["ask"].prompt(f"what color is the {item.kind}?")
        asked.append(Question(image, question, item.color, (_word(item.color, item, "colour"),)))
    if single:
        item = single[rng.integers(len(single))]
        question = TASKS["ask"].prompt(f"what is {item.color}?")
        asked.append(Question(image, question, item.kind, (_word(item.kind, item, "kind"),)))
    if alone:
        asked.append(_caption(image, scene, alone))
    return asked


def detection(image: Image.Image, label: str, box: Box) -> Question:
    """Where is the `label`? The one answer is `box`."""
    answer = format_objects([Detection(label, box)])
    locations = answer.rindex(">") + 1
    named = (
        Named(0, locations, box, "location"),
        Named(len(answer) - len(label), len(answer), box, "label"),
    )
    return Question(image, TASKS["detect"].prompt(label), answer, named)


def _word(answer: str, item: Item, tokens: str) -> Named:
    return Named(0, len(answer), item.box, tokens)


def _caption(image: Image.Image, scene: Scene, alone: list[Item]) -> Question:
    """The scene's caption, in which each kind that is alone is named once, in order."""
    text, named, at = caption(scene), [], 0
    box_of = {item.kind: item.box for item in alone}
    for kind, color, count in groups(scene):
        told = phrase(color, kind, count=count)
        at = text.index(told, at) + len(told)
        if kind in box_of:
            named.append(Named(at - len(kind), at, box_of[kind], "caption"))
    return Question(image, TASKS["caption"].prompt(), text, tuple(named))


def coco_questions(annotations: Path, images: Path) -> Iterator[Question]:
    """Where is it, for each category that a picture of a COCO instances file has one of.

    Crowds count as more than one. ValueError for a file that cannot be read or is of another form,
    and for a picture that cannot be opened.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it goes
            coco = COCO(str(annotations))
        names = {category["id"]: category["name"] for category in coco.dataset["categories"]}
        pictures = list(coco.imgs.values())
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(f"{annotations} is no COCO instances file: {error!r}.") from error
    return (question for picture in pictures for question in _lonely(coco, picture, names, images))


def _lonely(coco: COCO, picture: dict, names: dict[int, str], images: Path) -> Iterator[Question]:
    """Questions about the things that one picture has one of."""
    by_category = defaultdict(list)
    for annotation in coco.imgToAnns[picture["id"]]:
        by_category[annotation["category_id"]].append(annotation)
    lonely = {key: rows[0] for key, rows in by_category.items()
              if len(rows) == 1 and not rows[0].get("iscrowd")}  # fmt: skip
    if not lonely:
        return
    image = open_image(images / picture["file_name"])
    for key, annotation in lonely.items():
        x, y, width, height = annotation["bbox"]
        edges = (x / image.width, y / image.height,
                 (x + width) / image.width, (y + height) / image.height)  # fmt: skip
        yield detection(image, names[key], tuple(min(max(edge, 0.0), 1.0) for edge in edges))
