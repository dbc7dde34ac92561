"""The canvas of the page: its colors, and the pictograms that are placed on it (static/draw.js)."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from paligemma.synthetic.scenes import COLORS, SPRITE, sprite

CANVAS = Path(__file__).parent / "static" / "canvas.html"
BRUSH_COLORS = {
    "red": "#e23636",
    "orange": "#f08c1e",
    "yellow": "#f5cf27",
    "green": "#3aa655",
    "blue": "#2f66d0",
    "purple": "#8a45b5",
    "pink": "#ef7fb0",
    "brown": "#7a4a21",
    "black": "#111111",
    "white": "#ffffff",
}
# Filling and lines of a stamp: those of the scenes, and of the two that these lack.
STAMP_COLORS = COLORS | {
    "black": ((150, 150, 150), (17, 17, 17)),
    "white": ((255, 255, 255), (110, 110, 110)),
}
UNITS = 320  # a stamp's larger side in the units of its paths, which are whole numbers
DETAIL = 3  # the lines are traced in an image so many times as large, so that they are smooth


def canvas_html() -> str:
    """The tools, the colors and the canvas."""
    return CANVAS.read_text("utf-8").replace("<!-- colors -->", "".join(map(_color, BRUSH_COLORS)))


def _color(name: str) -> str:
    brush = BRUSH_COLORS[name]
    filling, lines = ("rgb({}, {}, {})".format(*color) for color in STAMP_COLORS[name])
    return (
        f'<button type="button" class="color" aria-label="{name}" title="{name}" '
        f'data-brush="{brush}" data-fill="{filling}" data-lines="{lines}" '
        f'style="background: {brush}"></button>'
    )


@cache
def pictogram_svg(name: str) -> str:
    """A kind of `scenes.KINDS` as the scenes draw it: its filling, and its lines."""
    corner = -UNITS // 2
    return (
        f'<svg viewBox="{corner} {corner} {UNITS} {UNITS}" aria-hidden="true">'
        f'<path class="filling" d="{path_data(sprite(name).outlines)}"/>'
        f'<path class="lines" fill-rule="evenodd" d="{path_data(_traced_lines(name))}"/>'
        "</svg>"
    )


def _traced_lines(kind: str) -> list[np.ndarray]:
    """The edges of a pictogram's lines, holes too, as its outlines are: polygons [n, 2]."""
    side = DETAIL * SPRITE
    lines = cv2.resize(sprite(kind).lines, (side, side), interpolation=cv2.INTER_CUBIC)
    contours, _ = cv2.findContours(
        (lines > 127).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    smooth = [cv2.approxPolyDP(contour, 0.4 * DETAIL, True)[:, 0] for contour in contours]
    return [(polygon + 0.5) / side - 0.5 for polygon in smooth if len(polygon) > 2]


def path_data(polygons: Iterable[np.ndarray]) -> str:
    """Polygons [n, 2] of (x, y), as shares of a stamp's side, as the data of an SVG path."""
    whole = ((UNITS * polygon).round().astype(int).tolist() for polygon in polygons)
    return "".join("M" + " ".join(f"{x},{y}" for x, y in polygon) + "Z" for polygon in whole)
