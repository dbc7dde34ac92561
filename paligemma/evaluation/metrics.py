"""Scores of boxes and masks against the truth."""

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from paligemma.objects import Box, Detection, box_iou

SIDE = 1000  # boxes are compared on pictures of this size, which the score does not depend on


def mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two bool masks of one shape; 1 where both are empty."""
    union = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / union) if union else 1.0


def pair(true: Sequence[Detection], found: Sequence[Detection]) -> list[int | None]:
    """For each true object the number of the found one of its label that overlaps it most.

    Best overlaps are paired first, each found object once; None where nothing is left.
    """
    overlaps = sorted(
        ((box_iou(t.box, f.box), n, m) for n, t in enumerate(true) for m, f in enumerate(found)
         if t.label == f.label),
        reverse=True,
    )  # fmt: skip
    pairs: dict[int, int] = {}
    for _, n, m in overlaps:
        if n not in pairs and m not in pairs.values():
            pairs[n] = m
    return [pairs.get(n) for n in range(len(true))]


def average_precision(
    true: Sequence[Sequence[Detection]], found: Sequence[Sequence[Detection]]
) -> tuple[float, float]:
    """(AP50, mAP@[.50:.95]) of found boxes over pictures, by pycocotools; they need scores."""
    labels = sorted({detection.label for row in true for detection in row})
    category = {label: n for n, label in enumerate(labels, 1)}
    annotations = [
        {"id": 0, "image_id": n, "category_id": category[d.label], "iscrowd": 0} | _area(d.box)
        for n, row in enumerate(true, 1)
        for d in row
    ]
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    results = [
        {"image_id": n, "category_id": category[d.label], "score": d.score} | _area(d.box)
        for n, row in enumerate(found, 1)
        for d in row
        if d.label in category
    ]
    if not results or not annotations:
        return 0.0, 0.0
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": n, "width": SIDE, "height": SIDE} for n in range(1, len(true) + 1)],
        "categories": [{"id": n, "name": label} for label, n in category.items()],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it goes
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[1]), float(evaluation.stats[0])


def _area(box: Box) -> dict:
    x1, y1, x2, y2 = (value * SIDE for value in box)
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
