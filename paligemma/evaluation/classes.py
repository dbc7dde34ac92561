"""Detection by class: the average precision of each name, and what was found where.

A table to print, and a picture of it beside the confusion matrix.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from paligemma.detections import Box, Detection, box_iou
from paligemma.evaluation.metrics.detection import (
    AveragePrecision,
    average_precisions,
    match_best,
)

MIN_IOU = 0.5  # from here on a box is at an object's place
MAX_NAMES = 40  # in a picture; the others are drawn as one
NOTHING, OTHERS = "nothing", "(others)"
HEADINGS = ("class", "objects", "predicted", "right", "ap50", "map")


@dataclass(frozen=True)
class ClassReport:
    """Detection by class.

    precisions: the average precision of each class that has objects. pairs: how many boxes of a
    predicted class (second) are on objects of a true one (first); None is nothing, so that
    (cat, None) counts missed cats and (None, cat) cats where no object is.
    """

    precisions: Mapping[str, AveragePrecision]
    pairs: Mapping[tuple[str | None, str | None], int]

    @property
    def classes(self) -> list[str]:
        """All true and predicted classes, those with the most objects first."""
        names = {name for pair in self.pairs for name in pair if name is not None}
        return sorted(names, key=lambda name: (-self.count(0, name), -self.count(1, name), name))

    def count(self, place: int, name: str | None) -> int:
        """The objects (`place` 0), or the predicted boxes (1), of a class."""
        return sum(count for pair, count in self.pairs.items() if pair[place] == name)

    def rows(self) -> list[tuple[Any, ...]]:
        """A row for each class, as `HEADINGS` has them; no AP without an object."""
        return [
            (
                name,
                self.count(0, name),
                self.count(1, name),
                self.pairs.get((name, name), 0),
                *self.precisions.get(name, (None, None)),
            )
            for name in self.classes
        ]

    def matrix(self, names: Sequence[str | None]) -> np.ndarray:
        """The confusion matrix [true, predicted] of these names, in this order."""
        return np.array([[self.pairs.get((a, b), 0) for b in names] for a in names])

    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        """A dict for each class, and one for each pair of classes; null is nothing."""
        return {
            "classes": [dict(zip(HEADINGS, row, strict=True)) for row in self.rows()],
            "confusion": [
                {"true": true, "predicted": predicted, "count": count}
                for (true, predicted), count in self.pairs.items()
            ],
        }


def report_classes(
    targets: Sequence[Sequence[Detection]],
    predictions: Sequence[Sequence[Detection]],
    crowds: Sequence[Sequence[Detection]] | None = None,
    precisions: Mapping[str, AveragePrecision] | None = None,
) -> ClassReport:
    """The report of predictions, image by image.

    `crowds`: regions with objects that are not annotated one by one; a box of their name that lies
    in one of them is no mistake. `precisions`: those of the targets, where they are known.
    """
    pairs: Counter[tuple[str | None, str | None]] = Counter()
    for number, (objects, found) in enumerate(zip(targets, predictions, strict=True)):
        matches = _match_by_place(objects, found)
        pairs.update((objects[n].label, found[m].label) for n, m in matches.items())
        missed = (one for n, one in enumerate(objects) if n not in matches)
        pairs.update((one.label, None) for one in missed)
        taken, regions = set(matches.values()), crowds[number] if crowds else ()
        extra = (one for m, one in enumerate(found) if m not in taken)
        pairs.update((None, one.label) for one in extra if not _is_in_crowd(one, regions))
    if precisions is None:
        precisions = average_precisions(targets, predictions)
    return ClassReport(precisions, pairs)


def _match_by_place(
    targets: Sequence[Detection], predictions: Sequence[Detection]
) -> dict[int, int]:
    """For the targets at whose place a prediction is, of any label, the index of that.

    Those of the same label are matched first, then the best overlaps; each prediction once.
    """
    return match_best(
        ((target.label == prediction.label, iou), n, m)
        for n, target in enumerate(targets)
        for m, prediction in enumerate(predictions)
        if (iou := box_iou(target.box, prediction.box)) >= MIN_IOU
    )


def _is_in_crowd(one: Detection, crowds: Sequence[Detection]) -> bool:
    """Whether half of the box is in a crowd of its name, as pycocotools counts."""
    return any(
        crowd.label == one.label and _shared(one.box, crowd.box) >= MIN_IOU for crowd in crowds
    )


def _shared(box: Box, region: Box) -> float:
    """The share of the box's area that is in the region."""
    width = min(box[2], region[2]) - max(box[0], region[0])
    height = min(box[3], region[3]) - max(box[1], region[1])
    area = (box[2] - box[0]) * (box[3] - box[1])
    return max(width, 0.0) * max(height, 0.0) / area if area else 0.0


# --- As text and as a picture ---------------------------------------------------------------------


def format_classes(report: dict[str, list[dict[str, Any]]]) -> str:
    """The classes of `ClassReport.to_json`, a line each below the headings."""
    rows = [list(HEADINGS), *(list(map(_format_cell, one.values())) for one in report["classes"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )


def _format_cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def draw_classes(report: ClassReport, path: Path) -> None:
    """Write a PNG: AP50 and mAP of each class, and the confusion matrix."""
    classes = report.classes[:MAX_NAMES]
    names: list[str | None] = [*classes, None]
    counts = report.matrix(names)
    if len(report.classes) > len(classes):
        counts, names = _add_others(report, classes, counts), [*classes, OTHERS, None]
    labels = [NOTHING if name is None else name for name in names]
    height = max(3.2, 0.26 * len(names) + 1.4)
    figure = Figure(figsize=(height + 5, height), layout="constrained", dpi=110)
    bars, matrix = figure.subplots(1, 2, width_ratios=(3, height + 1))
    _draw_precisions(bars, report, [name for name in classes if name in report.precisions])
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = matrix.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "white" if shares[row, column] > 0.6 else "black"
            matrix.text(column, row, str(count), ha="center", va="center", size=7, color=color)
    matrix.set_xticks(range(len(names)), labels, rotation=90, size=8)
    matrix.set_yticks(range(len(names)), labels, size=8)
    matrix.set(xlabel="predicted", ylabel="true", title=f"Boxes at an IoU of {MIN_IOU} and above")
    figure.colorbar(image, ax=matrix, label="share of the true class", shrink=0.8)
    figure.savefig(path)


def _draw_precisions(axes: Any, report: ClassReport, labels: Sequence[str]) -> None:
    places = range(len(labels))
    precisions = [report.precisions[label] for label in labels]
    axes.barh(places, [one.ap50 for one in precisions], color="#56b4e9", label="AP50")
    axes.barh(places, [one.map for one in precisions], 0.4, color="#0072b2", label="mAP")
    axes.set_yticks(places, labels, size=8)
    axes.set(xlim=(0, 1), ylim=(len(labels) - 0.5, -0.5), title="Average precision")
    axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, -0.08), ncols=2, fontsize=8)
    axes.grid(axis="x", alpha=0.3)


def _add_others(report: ClassReport, classes: Sequence[str], counts: np.ndarray) -> np.ndarray:
    """The matrix with one more row and column, before the last, for all other classes."""
    shown = {*classes, None}
    place = {name: n for n, name in enumerate([*classes, OTHERS, None])}
    wider = np.insert(np.insert(counts, -1, 0, 0), -1, 0, 1)
    for pair, count in report.pairs.items():
        if not shown.issuperset(pair):
            row, column = (place[name if name in shown else OTHERS] for name in pair)
            wider[row, column] += count
    return wider
