"""Masks over a picture: a translucent fill, an outline, and the label's chip.

A mask comes as 64 x 64 numbers, about -1..1, that fill the object's box; it is where they are > 0.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageColor

from paligemma.detections import Box, Detection

from .boxes import draw_boxes, draw_chips, edges_of, line_width, outline
from .colors import color_map

FILL = 0.45


def draw_masks(
    image: Image.Image, detections: Sequence[Detection], masks: Sequence[np.ndarray | None]
) -> Image.Image:
    """A new RGB picture with every mask [64, 64] filled and outlined; None draws the box instead.

    Raises ValueError unless there is one mask, or None, for each detection.
    """
    if len(masks) != len(detections):
        raise ValueError(
            f"Each detection needs its mask or None; got {len(masks)} for {len(detections)}."
        )
    pixels = np.array(image.convert("RGB"))
    colors = color_map(d.label for d in detections)
    width = line_width(image.size)
    brush = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    for detection, mask in zip(detections, masks, strict=True):
        if mask is None:
            continue
        color = np.array(ImageColor.getrgb(colors[detection.label]))
        left, top, right, bottom = edges_of(detection.box, *image.size)
        inside = _stretch(mask, right - left, bottom - top)
        if not inside.any():
            continue
        region = pixels[top:bottom, left:right]
        core = cv2.erode(inside.astype(np.uint8), brush, borderValue=0).astype(bool)
        region[core] = np.rint((1 - FILL) * region[core] + FILL * color)
        region[inside & ~core] = color
    canvas = Image.fromarray(pixels)
    for detection, mask in zip(detections, masks, strict=True):
        if mask is None:
            outline(canvas, detection.box, colors[detection.label])
    draw_chips(canvas, detections)
    return canvas


def draw_objects(
    image: Image.Image, detections: Sequence[Detection], masks: Sequence[np.ndarray | None]
) -> Image.Image:
    """A new RGB picture with every object: its mask where it has one, its box and chip on top."""
    return draw_boxes(draw_masks(image, detections, masks), detections)


def paste_mask(mask: np.ndarray, box: Box, width: int, height: int) -> np.ndarray:
    """bool [height, width]: the soft mask stretched into `box` (fractions 0..1), where > 0.

    A box without width or height in whole pixels gives an empty mask.
    """
    left, top, right, bottom = edges_of(box, width, height)
    full = np.zeros((height, width), bool)
    full[top:bottom, left:right] = _stretch(mask, right - left, bottom - top)
    return full


def _stretch(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """bool [height, width], bilinear between the centres of the mask's cells (as big_vision)."""
    if not (width and height):
        return np.zeros((height, width), bool)
    soft = Image.fromarray(np.asarray(mask, np.float32))
    return np.asarray(soft.resize((width, height), Image.Resampling.BILINEAR)) > 0
