"""Scores of boxes and masks against the truth."""

import contextlib
import io
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from paligemma.detections import Box, Detection, box_iou, parse

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
        {"image_id": n, "category_id": category[d.label], "iscrowd": 0} | _area(d.box)
        for n, row in enumerate(true, 1)
        for d in row
    ]
    results = [
        {"image_id": n, "category_id": category[d.label], "score": d.score} | _area(d.box)
        for n, row in enumerate(found, 1)
        for d in row
        if d.label in category
    ]
    return coco_average_precision(range(1, len(true) + 1), annotations, results)


def coco_average_precision(
    pictures: Sequence[int], annotations: Sequence[dict], results: Sequence[dict]
) -> tuple[float, float]:
    """(AP50, mAP@[.50:.95]) of results over the pictures of these ids, by pycocotools.

    annotations: COCO's image_id, category_id, bbox (x, y, width, height in pixels), area, iscrowd.
    results: image_id, category_id, bbox, score. 0 where one of them is empty.
    """
    if not results or not annotations:
        return 0.0, 0.0
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": picture} for picture in pictures],
        "categories": [{"id": n} for n in sorted({one["category_id"] for one in annotations})],
        "annotations": [
            one | {"id": number, "bbox": list(one["bbox"])}  # a tuple it takes for a mask
            for number, one in enumerate(annotations, 1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it goes
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(list(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[1]), float(evaluation.stats[0])


def _area(box: Box) -> dict:
    x1, y1, x2, y2 = (value * SIDE for value in box)
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}


# --- Referring expressions, as big_vision's `transfers/segmentation.py` counts -------------------

_LOCS_AND_SEGS = re.compile(r"\s*((?:<loc[0-9]{4}>){4})(?:<seg[0-9]{3}>){16}")


def whole_object(text: str) -> Detection | None:
    """The object that an answer begins with, or None for an invalid answer.

    It needs its four locations, the second pair beyond the first, and all sixteen mask codes; what
    comes after them does not count.
    """
    found = _LOCS_AND_SEGS.match(text)
    if found is None:
        return None
    y1, x1, y2, x2 = (int(digits) for digits in re.findall("[0-9]+", found[1]))
    objects = parse(found[0])
    return objects[0] if objects and objects[0].codes and x2 > x1 and y2 > y1 else None


def referred_iou(box: Box, soft: np.ndarray, mask: np.ndarray) -> float | None:
    """IoU of a soft mask [64, 64] stretched into `box` with the true `mask` [height, width].

    None where the box, its edges cut down to whole pixels, holds none: an invalid answer.
    """
    height, width = mask.shape
    left, top, right, bottom = (
        int(edge * side) for edge, side in zip(box, (width, height) * 2, strict=True)
    )
    if right <= left or bottom <= top:
        return None
    stretched = Image.fromarray(np.asarray(soft, np.float32)).resize(
        (right - left, bottom - top), Image.Resampling.BILINEAR
    )
    inside = np.asarray(stretched) > 0
    shared = (mask[top:bottom, left:right] & inside).sum()
    union = mask.sum() + inside.sum() - shared
    return float(shared / union) if union else 0.0
