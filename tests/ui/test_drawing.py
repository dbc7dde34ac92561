"""The stamps of the canvas, as the page gets them."""

import re

import cv2
import numpy as np
import pytest

from paligemma.synthetic.scenes import COLORS, KINDS, SPRITE, Item, silhouette, sprite
from paligemma.ui.drawing import UNITS, canvas_html, pictogram_svg


def painted(data: str) -> np.ndarray:
    """Where an SVG path of polygons has ink, by the even-odd rule: [SPRITE, SPRITE]."""
    polygons = [
        np.array([[float(edge) for edge in point.split(",")] for point in polygon.split()])
        for polygon in re.findall(r"M([^Z]+)Z", data)
    ]
    side = 4 * SPRITE
    points = [((p / UNITS + 0.5) * side * 16 - 8).round().astype(np.int32) for p in polygons]
    image = cv2.fillPoly(np.zeros((side, side), np.uint8), points, 255, shift=4)
    return cv2.resize(image, (SPRITE, SPRITE), interpolation=cv2.INTER_AREA) > 127


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_a_stamp_is_what_the_scenes_draw(kind):
    filling, lines = re.findall(r' d="([^"]+)"', pictogram_svg(kind))
    body = silhouette(Item(kind, "red", 0.5, 0.5, 1, 0), SPRITE) > 0
    assert overlap(painted(filling), body) > 0.97
    assert overlap(painted(lines), sprite(kind).lines > 127) > 0.9


def test_stamps_have_the_colors_of_the_scenes():
    html = canvas_html()
    for name, colors in COLORS.items():
        [button] = re.findall(f'<button[^>]+aria-label="{name}"[^>]+>', html)
        for color in colors:
            assert "rgb({}, {}, {})".format(*color) in button
