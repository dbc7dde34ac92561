"""What an evaluation asks, and the truth about it: one form for all data sets."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pycocotools import mask as rle

from paligemma.detections import Box, Detection, parse


@dataclass(frozen=True)
class Answers:
    """What people say: captions, or answers to a question."""

    texts: tuple[str, ...]

    @property
    def text(self) -> str:
        return " · ".join(dict.fromkeys(self.texts))

    @property
    def detections(self) -> list[Detection]:
        """The objects that the first text names, if it names any."""
        return parse(self.texts[0])


@dataclass(frozen=True)
class Choice:
    """The right letter, or letters, and what there is to choose from: A, B, …"""

    letters: tuple[str, ...]
    options: tuple[str, ...]
    detections = ()

    @property
    def text(self) -> str:
        return " or ".join(self.letters)


@dataclass(frozen=True)
class Objects:
    """All annotated objects of one COCO picture, and the categories asked for: {name: id}."""

    picture: int
    width: int
    height: int
    asked: dict[str, int]
    annotations: tuple[dict, ...]

    @property
    def wanted(self) -> list[dict]:
        """The annotations of the categories asked for."""
        return [one for one in self.annotations if one["category_id"] in self.asked.values()]

    @property
    def detections(self) -> list[Detection]:
        """Those of `wanted` that are single things."""
        names = {number: name for name, number in self.asked.items()}
        return [
            Detection(names[one["category_id"]], fractions(one["bbox"], self.width, self.height))
            for one in self.wanted
            if not one["iscrowd"]
        ]

    @property
    def text(self) -> str:
        return " ; ".join(found.label for found in self.detections) or "nothing"


@dataclass(frozen=True)
class Referred:
    """The object that an expression means. `segmentation` is COCO's: polygons or run lengths."""

    text: str
    box: Box
    segmentation: list | dict
    width: int
    height: int

    @property
    def detections(self) -> list[Detection]:
        return [Detection(self.text, self.box)]

    @property
    def mask(self) -> np.ndarray:
        """bool [height, width]"""
        coded = self.segmentation
        if isinstance(coded, list) or isinstance(coded["counts"], list):
            coded = rle.frPyObjects(coded, self.height, self.width)
        return rle.decode(rle.merge(coded) if isinstance(coded, list) else coded).astype(bool)


@dataclass(frozen=True)
class Example:
    """A picture, what is asked about it, and the truth. `group` names a part with its own score."""

    id: str
    image: Path
    text: str
    truth: Answers | Choice | Objects | Referred
    group: str = ""


@dataclass(frozen=True)
class Loaded:
    """The examples, and how many others were left out for what reason."""

    examples: list[Example]
    left_out: dict[str, int] = field(default_factory=dict)


def fractions(bbox: list[float], width: int, height: int) -> Box:
    x, y, w, h = bbox
    edges = x / width, y / height, (x + w) / width, (y + h) / height
    return tuple(min(max(edge, 0.0), 1.0) for edge in edges)
