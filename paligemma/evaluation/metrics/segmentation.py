"""Segmentation scores: mask IoU, and RefCOCO's as big_vision counts.

Source of the latter: big_vision `evaluators/proj/paligemma/transfers/segmentation.py`.
"""

import re

import numpy as np
from PIL import Image

from paligemma.detections import CODES_PER_MASK, LOC_PATTERN, SEG_PATTERN, Box, Detection, parse

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
    return mask_iou(_paste(a.box, mask_a, side), _paste(b.box, mask_b, side))


def _paste(box: Box, soft_mask: np.ndarray, side: int) -> np.ndarray:
    left, top, right, bottom = (round(edge * side) for edge in box)
    full = np.zeros((side, side), bool)
    if right > left and bottom > top:
        soft = Image.fromarray(np.asarray(soft_mask, np.float32))
        resized = soft.resize((right - left, bottom - top), Image.Resampling.BILINEAR)
        full[top:bottom, left:right] = np.asarray(resized) > 0
    return full


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
