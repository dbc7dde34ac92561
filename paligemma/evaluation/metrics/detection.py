"""Detection scores: matches of boxes, and COCO's average precision by pycocotools."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any, cast

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from paligemma.detections import Box, Detection, box_iou

IMAGE_SIZE = 1000  # pixels a side in which fractions are compared; scores do not depend on it


def match_detections(
    targets: Sequence[Detection], predictions: Sequence[Detection]
) -> list[int | None]:
    """For each target the index of the prediction of its label that overlaps it most.

    The best overlaps are matched first, each prediction once; None where none is left.
    """
    overlaps = sorted(
        (
            (box_iou(target.box, prediction.box), n, m)
            for n, target in enumerate(targets)
            for m, prediction in enumerate(predictions)
            if target.label == prediction.label
        ),
        reverse=True,
    )
    matches: dict[int, int] = {}
    for _, n, m in overlaps:
        if n not in matches and m not in matches.values():
            matches[n] = m
    return [matches.get(n) for n in range(len(targets))]


def average_precision(
    targets: Sequence[Sequence[Detection]], predictions: Sequence[Sequence[Detection]]
) -> tuple[float, float]:
    """(AP50, mAP@[.50:.95]) of predicted boxes, image by image; predictions need scores."""
    labels = sorted({target.label for image in targets for target in image})
    category = {label: n for n, label in enumerate(labels, 1)}
    annotations = [
        {"image_id": n, "category_id": category[one.label], "iscrowd": 0} | _bbox_and_area(one.box)
        for n, image in enumerate(targets, 1)
        for one in image
    ]
    results = [
        {"image_id": n, "category_id": category[one.label], "score": one.score}
        | _bbox_and_area(one.box)
        for n, image in enumerate(predictions, 1)
        for one in image
        if one.label in category
    ]
    return coco_average_precision(range(1, len(targets) + 1), annotations, results)


def coco_average_precision(
    image_ids: Sequence[int], annotations: Sequence[dict], results: Sequence[dict]
) -> tuple[float, float]:
    """(AP50, mAP@[.50:.95]) of results over the images of these ids, by pycocotools.

    annotations: COCO's image_id, category_id, bbox (x, y, width, height in pixels), area, iscrowd.
    results: image_id, category_id, bbox, score. 0 if one of them is empty.
    """
    if not results or not annotations:
        return 0.0, 0.0
    coco, found = COCO(), list(results)
    dataset = {
        "info": {},
        "images": [{"id": image_id} for image_id in image_ids],
        "categories": [{"id": n} for n in sorted({one["category_id"] for one in annotations})],
        "annotations": [
            one | {"id": number, "bbox": list(one["bbox"])}  # a tuple would be read as a mask
            for number, one in enumerate(annotations, 1)
        ],
    }
    coco.dataset = cast(Any, dataset)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(cast(Any, found)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[1]), float(evaluation.stats[0])


def mean_overlap(targets: Sequence[Detection], predictions: Sequence[Detection]) -> float:
    """The mean box IoU of matched objects; missed and extra ones count 0. 1 without any object."""
    matches = match_detections(targets, predictions)
    overlaps = [
        box_iou(target.box, predictions[match].box)
        for target, match in zip(targets, matches, strict=True)
        if match is not None
    ]
    total = len(targets) + len(predictions) - len(overlaps)
    return sum(overlaps) / total if total else 1.0


def _bbox_and_area(box: Box) -> dict:
    x1, y1, x2, y2 = (edge * IMAGE_SIZE for edge in box)
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
