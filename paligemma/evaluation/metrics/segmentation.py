"""Segmentation scores: mask IoU, and RefCOCO's as big_vision counts.

Source of the latter: big_vision `evaluators/proj/paligemma/transfers/segmentation.py`.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from paligemma.detections import CODES_PER_MASK, LOC_PATTERN, SEG_PATTERN, Box, Detection, parse
from paligemma.evaluation.metrics.detection import match_detections
from visualize import paste_mask

_WHOLE_OBJECT = re.compile(rf"\s*(?:{LOC_PATTERN}){{4}}(?:{SEG_PATTERN}){{{CODES_PER_MASK}}}")


def mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two bool masks of one shape; 1 where both are empty."""
    union = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / union) if union else 1.0


def parse_referred_object(text: str) -> Detection | None:
    """The object that an answer begins with, or None for an invalid answer.

    It needs four locations, the second pair beyond the first, and all sixteen mask codes; what
    comes after them does not count.
    """
    found = _WHOLE_OBJECT.match(text)
    if found is None:
        return None
    y1, x1, y2, x2 = (int(digits) for digits in re.findall("[0-9]+", found[0])[:4])
    return parse(found[0])[0] if x2 > x1 and y2 > y1 else None


def object_mask_iou(
    a: Detection, mask_a: np.ndarray, b: Detection, mask_b: np.ndarray, side: int = 256
) -> float:
    """IoU of two soft masks [64, 64], each in its object's box, on an image of `side` pixels."""
    return mask_iou(paste_mask(mask_a, a.box, side, side), paste_mask(mask_b, b.box, side, side))


def matched_ious(
    targets: Sequence[Detection],
    found: Sequence[Detection],
    iou: Callable[[int, int], float | None],
) -> list[float]:
    """`iou(target, found)`, by their numbers, of each target and the object that it is matched to.

    Missed and extra objects, and None, count as 0.
    """
    matches = match_detections(targets, found)
    ious = [0.0 if match is None else iou(n, match) or 0.0 for n, match in enumerate(matches)]
    return ious + [0.0] * (len(found) - sum(match is not None for match in matches))


def referring_iou(box: Box, soft_mask: np.ndarray, target: np.ndarray) -> float | None:
    """IoU of a soft mask [64, 64], resized into `box`, with the mask `target` [height, width].

    None for a box that holds no pixel once its edges are rounded down: an invalid answer.
    """
    height, width = target.shape
    left, top, right, bottom = (
        int(edge * side) for edge, side in zip(box, (width, height) * 2, strict=True)
    )
    if right <= left or bottom <= top:
        return None
    resized = Image.fromarray(np.asarray(soft_mask, np.float32)).resize(
        (right - left, bottom - top), Image.Resampling.BILINEAR
    )
    inside = np.asarray(resized) > 0
    shared = (target[top:bottom, left:right] & inside).sum()
    union = target.sum() + inside.sum() - shared
    return float(shared / union) if union else 0.0
