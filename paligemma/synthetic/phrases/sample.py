"""A sample of the drawn world: a prompt about a scene, its answer, and the names in both."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from paligemma.detections import Box, Detection
from paligemma.detections import format as format_detections
from paligemma.synthetic.compose import SceneObject
from paligemma.synthetic.phrases.facts import Term


class Mention(NamedTuple):
    """A name in a text, where it ends: the text is `text[:end]` up to it. `name` is of the table
    of kinds, or "background"; `color` and `count` (0 where no number is meant) belong to it."""

    end: int
    name: str
    color: str = ""
    count: int = 0


@dataclass(frozen=True)
class PhraseSample:
    """A prompt about a scene and its true answer.

    `task` is a key of `tasks.TASKS`, "region" for the caption of a box, or "question" for a
    question to an answer. `objects` are those of a detection or segmentation, in the order of the
    answer, with their `boxes` and `labels`. A segmentation has no `suffix` until `with_codes` gives
    it one. `weight` multiplies its share of the loss. `names` are the kinds in the prefix, and
    `groups` those that a caption lists, in order.
    """

    task: str
    prefix: str
    suffix: str
    objects: tuple[SceneObject, ...] = ()
    boxes: tuple[Box, ...] = ()
    labels: tuple[str, ...] = ()
    weight: float = 1.0
    names: tuple[Mention, ...] = ()
    groups: tuple[Mention, ...] = ()

    def with_codes(self, codes: Sequence[Sequence[int]]) -> "PhraseSample":
        """This segmentation with its answer: 16 mask codes for each object."""
        detections = [
            Detection(label, box, tuple(int(code) for code in row))
            for label, box, row in zip(self.labels, self.boxes, codes, strict=True)
        ]
        return replace(self, suffix=format_detections(detections))


def mentions(ends: Sequence[int], terms: Sequence[Term]) -> tuple[Mention, ...]:
    """The kinds among the terms of a text whose names end there."""
    return tuple(
        Mention(end, term.name, term.color)
        for end, term in zip(ends, terms, strict=True)
        if term.sort in ("kind", "background")
    )
