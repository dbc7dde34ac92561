"""Masks over an image: a translucent fill, an outline, and the label's chip.

A mask is 64 x 64 numbers, about -1..1, that fill the object's box; inside where they are > 0.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from paligemma.detections import Box, Detection

from .boxes import Edges, draw_chips, line_width, pixel_edges
from .colors import color_map, to_rgb

FILL = 0.45  # how opaque draw_masks fills a mask
BOX_OPACITY, MASK_OPACITY = 0.15, 0.5  # how opaque draw_objects fills them


def draw_masks(
    image: Image.Image, detections: Sequence[Detection], masks: Sequence[np.ndarray | None]
) -> Image.Image:
    """A new RGB image with every mask [64, 64] filled and outlined; None draws the box instead.

    Raises ValueError unless there is one mask, or None, for each detection.
    """
    return _draw(image, detections, masks, FILL, True, box_opacity=0.0)


def draw_objects(
    image: Image.Image,
    detections: Sequence[Detection],
    masks: Sequence[np.ndarray | None],
    opacity: float = MASK_OPACITY,
    outline: bool = True,
) -> Image.Image:
    """A new RGB image with every object, as `object_layers` has it, and its chip on top.

    Raises ValueError unless there is one mask, or None, for each detection.
    """
    return _draw(image, detections, masks, opacity, outline, BOX_OPACITY)


def object_layers(
    size: tuple[int, int],
    detections: Sequence[Detection],
    masks: Sequence[np.ndarray | None],
    opacity: float = MASK_OPACITY,
    outline: bool = True,
) -> list[np.ndarray]:
    """How opaque each object covers an image of `size`: float32 [height, width], 0..1.

    A mask is filled with `opacity`, a box (where the mask is None) with BOX_OPACITY. Outlines are
    opaque; `outline` False leaves out those of masks.
    """
    layers = []
    for detection, mask in zip(detections, masks, strict=True):
        (left, top, right, bottom), alpha = _layer(
            size, detection, mask, opacity, outline, BOX_OPACITY
        )
        full = np.zeros((size[1], size[0]), np.float32)
        full[top:bottom, left:right] = alpha
        layers.append(full)
    return layers


def _draw(
    image: Image.Image,
    detections: Sequence[Detection],
    masks: Sequence[np.ndarray | None],
    opacity: float,
    outline: bool,
    box_opacity: float,
) -> Image.Image:
    if len(masks) != len(detections):
        raise ValueError(
            f"Each detection needs its mask or None; got {len(masks)} for {len(detections)}."
        )
    pixels = np.array(image.convert("RGB"))
    colors = color_map(d.label for d in detections)
    for detection, mask in zip(detections, masks, strict=True):
        (left, top, right, bottom), alpha = _layer(
            image.size, detection, mask, opacity, outline, box_opacity
        )
        region = pixels[top:bottom, left:right]
        alpha, color = alpha[:, :, None], np.array(to_rgb(colors[detection.label]), np.float32)
        region[:] = np.rint((1 - alpha) * region + alpha * color)
    canvas = Image.fromarray(pixels)
    draw_chips(canvas, detections)
    return canvas


def _layer(
    size: tuple[int, int],
    detection: Detection,
    mask: np.ndarray | None,
    opacity: float,
    outline: bool,
    box_opacity: float,
) -> tuple[Edges, np.ndarray]:
    """Where an object lies on an image of `size`, and how opaque it is there: float32 [h, w]."""
    left, top, right, bottom = pixel_edges(detection.box, *size)
    width = line_width(size)
    if mask is None:  # a box thinner than its outline becomes a bar of that outline
        left, top = min(left, size[0] - 1), min(top, size[1] - 1)
        right, bottom = max(left + 1, right), max(top + 1, bottom)
        alpha = np.ones((bottom - top, right - left), np.float32)
        alpha[width:-width, width:-width] = box_opacity
    else:
        inside = _stretch(mask, right - left, bottom - top)
        core, alpha = inside, inside.astype(np.float32)
        if outline and inside.any():
            brush = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
            core = cv2.erode(inside.astype(np.uint8), brush, borderValue=0).astype(bool)
        alpha[core] = opacity
    return (left, top, right, bottom), alpha


def paste_mask(mask: np.ndarray, box: Box, width: int, height: int) -> np.ndarray:
    """bool [height, width]: the soft mask stretched into `box` (fractions 0..1), where > 0.

    A box without width or height in whole pixels gives an empty mask.
    """
    left, top, right, bottom = pixel_edges(box, width, height)
    full = np.zeros((height, width), bool)
    full[top:bottom, left:right] = _stretch(mask, right - left, bottom - top)
    return full


def _stretch(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    """bool [height, width], bilinear between the centres of the mask's cells (as big_vision)."""
    if not (width and height):
        return np.zeros((height, width), bool)
    soft = Image.fromarray(np.asarray(mask, np.float32))
    return np.asarray(soft.resize((width, height), Image.Resampling.BILINEAR)) > 0
