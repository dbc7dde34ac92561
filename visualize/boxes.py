"""Boxes over an image, each with a chip that shows its label and score."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from paligemma.detections import Box, Detection

from .colors import color_map, text_color_on

Edges = tuple[int, int, int, int]


def draw_boxes(image: Image.Image, detections: Sequence[Detection]) -> Image.Image:
    """A new RGB image with every box outlined, just inside its edges, and its chip on top."""
    canvas = image.convert("RGB")
    colors = color_map(d.label for d in detections)
    for detection in detections:
        draw_outline(canvas, detection.box, colors[detection.label])
    draw_chips(canvas, detections)
    return canvas


def pixel_edges(box: Box, width: int, height: int) -> Edges:
    """(left, top, right, bottom) of a box in whole pixels; right and bottom are exclusive."""
    x1, y1, x2, y2 = box
    return round(x1 * width), round(y1 * height), round(x2 * width), round(y2 * height)


def line_width(size: tuple[int, int]) -> int:
    """Pixels of an outline on an image of that size."""
    return max(1, round(min(size) / 160))


def load_font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib, at `size` pixels but no smaller than readable."""
    return _load_font(max(9, size))


@cache
def _load_font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)


def draw_outline(canvas: Image.Image, box: Box, color: str) -> None:
    """Draw a box on `canvas`; one thinner than its own outline becomes a bar of that outline."""
    left, top, right, bottom = pixel_edges(box, *canvas.size)
    left, top = min(left, canvas.width - 1), min(top, canvas.height - 1)
    corners = (left, top, max(left, right - 1), max(top, bottom - 1))
    ImageDraw.Draw(canvas).rectangle(corners, outline=color, width=line_width(canvas.size))


def draw_chips(canvas: Image.Image, detections: Sequence[Detection]) -> None:
    """Draw every label on `canvas`, on a chip of its colour: above its box where there is room.

    A chip lies inside the image, and does not overlap those before it if that is possible. A label
    too long is cut short; an image too small for a chip gets none.
    """
    draw = ImageDraw.Draw(canvas)
    font = load_font(round(min(canvas.size) / 28))
    ascent, descent = font.getmetrics()
    pad = round(font.size / 4)
    tall = ascent + descent + pad // 2
    if tall > canvas.height:
        return
    colors = color_map(d.label for d in detections)
    placed: list[Edges] = []
    for detection in detections:
        text = shorten(_caption(detection), font, canvas.width - 2 * pad - 1)
        if not text:
            continue
        wide = int(font.getlength(text)) + 1 + 2 * pad
        left, top, _, bottom = pixel_edges(detection.box, *canvas.size)
        left = min(left, canvas.width - wide)
        tops = (top - tall, top, bottom - tall, bottom)
        tops = [min(max(y, 0), canvas.height - tall) for y in tops]
        spots = [(left, y, left + wide, y + tall) for y in tops]
        free = (s for s in spots if not any(_overlap(s, other) for other in placed))
        spot = next(free, spots[0])
        placed.append(spot)
        color = colors[detection.label]
        draw.rectangle((spot[0], spot[1], spot[2] - 1, spot[3] - 1), fill=color)
        middle = spot[1] + tall / 2 + (ascent - descent) / 2
        draw.text((spot[0] + pad, middle), text, font=font, fill=text_color_on(color), anchor="ls")


def _caption(detection: Detection) -> str:
    score = "" if detection.score is None else f" {detection.score:.0%}"
    words = " ".join(detection.label.split()) + score
    return "".join(c for c in words if c.isprintable()).strip()


def shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, cut short with "…" if it is wider than `width` pixels; "" if that is too."""
    if font.getlength(text) <= width:
        return text
    fits = bisect_right(range(1, len(text)), width, key=lambda n: font.getlength(text[:n] + "…"))
    return text[:fits].rstrip() + "…" if fits else ""


def _overlap(a: Edges, b: Edges) -> bool:
    return max(a[0], b[0]) < min(a[2], b[2]) and max(a[1], b[1]) < min(a[3], b[3])
