"""Detection scores: matches of boxes, and COCO's average precision by pycocotools."""

import contextlib
import io
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from paligemma.detections import Box, Detection, box_iou

IMAGE_SIZE = 1000  # pixels a side in which fractions are compared; scores do not depend on it


class AveragePrecision(NamedTuple):
    """AP at an IoU of .5, and the mean over .50:.95 (COCO's mAP)."""

    ap50: float
    map: float


def match_detections(
    targets: Sequence[Detection], predictions: Sequence[Detection]
) -> list[int | None]:
    """For each target the index of the prediction of its label that overlaps it most.

    The best overlaps are matched first, each prediction once; None where none is left.
    """
    matches = match_best(
        (box_iou(target.box, prediction.box), n, m)
        for n, target in enumerate(targets)
        for m, prediction in enumerate(predictions)
        if target.label == prediction.label
    )
    return [matches.get(n) for n in range(len(targets))]


def match_best(candidates: Iterable[tuple[Any, int, int]]) -> dict[int, int]:
    """{target: prediction} of (rank, target, prediction): the highest first, each of them once."""
    matches: dict[int, int] = {}
    for _, n, m in sorted(candidates, reverse=True):
        if n not in matches and m not in matches.values():
            matches[n] = m
    return matches


def average_precision(
    targets: Sequence[Sequence[Detection]], predictions: Sequence[Sequence[Detection]]
) -> AveragePrecision:
    """AP50 and mAP of predicted boxes, image by image; predictions need scores."""
    return mean_precision(average_precisions(targets, predictions).values())


def average_precisions(
    targets: Sequence[Sequence[Detection]], predictions: Sequence[Sequence[Detection]]
) -> dict[str, AveragePrecision]:
    """The average precision of each label that `targets` have: see `average_precision`."""
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
    found = coco_average_precisions(range(1, len(targets) + 1), annotations, results)
    return {label: found[number] for label, number in category.items()}


def coco_average_precisions(
    image_ids: Sequence[int], annotations: Sequence[dict], results: Sequence[dict]
) -> dict[int, AveragePrecision]:
    """AP50 and mAP of each category that has objects, by pycocotools.

    annotations: COCO's image_id, category_id, bbox (x, y, width, height in pixels), area, iscrowd.
    results: image_id, category_id, bbox, score. 0 of all categories without a result.
    """
    if not results:
        numbers = {one["category_id"] for one in annotations if not one["iscrowd"]}
        return dict.fromkeys(numbers, AveragePrecision(0.0, 0.0))
    if not annotations:
        return {}
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
    # [thresholds, recalls, categories], for areas of all sizes and the most detections an image;
    # -1 for a category of crowds alone
    precision = np.asarray(evaluation.eval["precision"])[..., 0, -1]
    by_category = zip(evaluation.params.catIds, np.moveaxis(precision, 2, 0), strict=True)
    return {
        int(number): AveragePrecision(float(each[0].mean()), float(each.mean()))
        for number, each in by_category
        if each.min() >= 0
    }


def mean_precision(precisions: Collection[AveragePrecision]) -> AveragePrecision:
    """The mean over categories; 0 without any."""
    if not precisions:
        return AveragePrecision(0.0, 0.0)
    return AveragePrecision(*(float(np.mean(each)) for each in zip(*precisions, strict=True)))


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
