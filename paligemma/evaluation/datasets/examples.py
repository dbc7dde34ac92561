"""What an evaluation asks of a model, and the target of each answer: one form for all data sets."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paligemma.detections import Box, Detection, parse
from paligemma.formats.coco import CocoAnnotation, Size, decode_segmentation, pixels_to_box


@dataclass(frozen=True)
class AnswerReferences:
    """Reference texts: captions, or answers to a question."""

    texts: tuple[str, ...]

    @property
    def summary(self) -> str:
        return " · ".join(dict.fromkeys(self.texts))

    @property
    def detections(self) -> list[Detection]:
        """The objects in the first reference."""
        return parse(self.texts[0])


@dataclass(frozen=True)
class ChoiceTarget:
    """Multiple choice: the correct letters (one of them is enough), and the options A, B, …"""

    letters: tuple[str, ...]
    options: tuple[str, ...]

    @property
    def summary(self) -> str:
        return " or ".join(self.letters)

    @property
    def detections(self) -> list[Detection]:
        return []


@dataclass(frozen=True)
class DetectionTarget:
    """COCO annotations of one image, those of the prompt's `categories`: {name: id}."""

    image_id: int
    size: Size
    categories: dict[str, int]
    annotations: tuple[CocoAnnotation, ...]

    @property
    def detections(self) -> list[Detection]:
        """The annotated objects, without crowds."""
        return self._detections(crowds=False)

    @property
    def crowds(self) -> list[Detection]:
        """The regions with objects that are not annotated one by one."""
        return self._detections(crowds=True)

    def _detections(self, crowds: bool) -> list[Detection]:
        names = {number: name for name, number in self.categories.items()}
        return [
            Detection(names[one.category_id], pixels_to_box(one.bbox, self.size))
            for one in self.annotations
            if bool(one.iscrowd) == crowds
        ]

    @property
    def summary(self) -> str:
        return " ; ".join(one.label for one in self.detections) or "no object"


@dataclass(frozen=True)
class ReferringTarget:
    """The object that an expression refers to. `segmentation` is COCO's, in an image of `size`."""

    expression: str
    box: Box
    segmentation: Any
    size: Size

    @property
    def summary(self) -> str:
        return self.expression

    @property
    def detections(self) -> list[Detection]:
        return [Detection(self.expression, self.box)]

    @property
    def mask(self) -> np.ndarray:
        """bool [height, width]"""
        return decode_segmentation(self.segmentation, self.size)


Target = AnswerReferences | ChoiceTarget | DetectionTarget | ReferringTarget


@dataclass(frozen=True)
class EvaluationExample:
    """An image file, the text for the prompt, and the target. A `group` has a score of its own."""

    id: str
    image: Path
    text: str
    target: Target
    group: str = ""


@dataclass(frozen=True)
class EvaluationDataset:
    """The examples, and how many others are left out: {reason: count}."""

    examples: list[EvaluationExample]
    left_out: dict[str, int] = field(default_factory=dict)


def make_dataset(
    examples: Iterable[EvaluationExample], data: Path, left_out: dict[str, int] | None = None
) -> EvaluationDataset:
    """A data set of these examples. Raises ValueError if there are none in `data`."""
    counts = {reason: count for reason, count in (left_out or {}).items() if count}
    dataset = EvaluationDataset(list(examples), counts)
    if not dataset.examples:
        raise ValueError(f"{data} has no example for this task and split.")
    return dataset
