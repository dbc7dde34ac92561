"""Written lines on a canvas, and the box of each character."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np

from paligemma.synthetic import fonts
from paligemma.synthetic.canvas import Canvas, touch
from paligemma.synthetic.composed_scene import SceneText
from paligemma.synthetic.restyle import mix
from paligemma.synthetic.words import random_line

# Letters come in these sizes alone, so that each is drawn once.
_TEXT_SIZES = np.array([9, 10, 11, 12, 13, 15, 17, 19, 22, 25, 28, 32, 36, 42, 50, 60, 72, 90])


def write_lines(canvas: Canvas, families: Sequence[fonts.FontFamily], large: bool) -> None:
    """One line, or two below each other, in one font."""
    rng = canvas.rng
    family = canvas.pick(families)
    file = canvas.pick(family.files)
    lines = [random_line(rng, family.accents) for _ in range(1 + canvas.chance(0.25))]
    for attempt in range(8):
        high = (0.26 if large else 0.18) - 0.015 * attempt
        side = canvas.size * rng.uniform(min(0.09, high), high)
        pixels = _TEXT_SIZES[side >= _TEXT_SIZES].max(initial=9)
        masks = [_text_mask(file, int(pixels), line, canvas.stretch) for line in lines]
        pitch = round(1.15 * pixels * canvas.stretch[1])
        width = max(mask.shape[1] for mask, _ in masks)
        height = pitch * (len(lines) - 1) + masks[-1][0].shape[0]
        room = np.array([canvas.size - width - 4, canvas.size - height - 4])
        if (room < 0).any():
            continue
        x, y = (2 + rng.random(2) * room).astype(int).tolist()
        box = (x - 2, y - 2, x + width + 2, y + height + 2)
        if any(touch(box, other, 0) for other in canvas.taken):
            continue
        canvas.taken.append(box)
        ink = _choose_ink(canvas, box)
        centred = canvas.chance(0.5)
        for n, (line, (mask, ends)) in enumerate(zip(lines, masks, strict=True)):
            left = x + ((width - mask.shape[1]) // 2 if centred else 0)
            _draw_letters(canvas, line, family.name, mask, ends, left, y + n * pitch, ink)
        return


def _choose_ink(canvas: Canvas, box: tuple[int, int, int, int]) -> np.ndarray:
    """The colour of letters that are read well in `box`; a plate behind them if needed."""
    x1, y1, x2, y2 = (max(0, v) for v in box)
    part = canvas.pixels[y1:y2, x1:x2]
    mean, spread = part.mean((0, 1)), float(part.std((0, 1)).max())
    rng = canvas.rng
    if spread > 26 or canvas.chance(0.12):
        mean = rng.uniform(0, 255, 3).astype(np.float32)
        strength = np.float32(rng.uniform(0.8, 1) if spread > 26 else 1)
        part += strength * (mean - part)
    for _ in range(12):
        ink = rng.uniform(0, 255, 3).astype(np.float32)
        if canvas.chance(0.4):
            ink = np.array([20, 20, 20] if mean.mean() > 128 else [245, 245, 245], np.float32)
        if abs(float((ink - mean) @ np.array([0.3, 0.59, 0.11], np.float32))) > 85:
            return ink
    return np.array([10, 10, 10] if mean.mean() > 128 else [250, 250, 250], np.float32)


def _draw_letters(
    canvas: Canvas,
    line: str,
    font: str,
    mask: np.ndarray,
    ends: np.ndarray,
    left: int,
    top: int,
    ink: np.ndarray,
) -> None:
    height, width = mask.shape
    bottom, right = min(top + height, canvas.size), min(left + width, canvas.size)
    mask = mask[: bottom - top, : right - left]
    part = canvas.pixels[top:bottom, left:right]
    part[:] = mix(part, ink, mask)
    rows = np.flatnonzero(mask.max(1) > 60)
    y1, y2 = (rows[0], rows[-1] + 1) if len(rows) else (0, height)
    boxes = tuple(
        (
            float(left + a) / canvas.size,
            float(top + y1) / canvas.size,
            float(left + b) / canvas.size,
            float(top + y2) / canvas.size,
        )
        for a, b in pairwise(ends)
    )
    canvas.texts.append(SceneText(line, font, boxes))


@lru_cache(maxsize=60_000)
def _character(file: str, pixels: int, character: str) -> tuple[np.ndarray, int, int, int]:
    """A character in ink [h, w] uint8, where its corner lies from the pen, and its advance."""
    font = fonts.load_word_font(file, pixels)
    core, (dx, dy) = font.getmask2(character, mode="L", anchor="ls")
    width, height = core.size
    ink = np.asarray(core, np.uint8).reshape(height, width)
    return ink, dx, dy, round(font.getlength(character))


def _text_mask(
    file: str, pixels: int, line: str, stretch: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(ink [h, w] uint8, the ends [len(line) + 1] of the characters in pixels), stretched."""
    drawn = [_character(file, pixels, character) for character in line]
    pens = np.cumsum([0, *(advance for *_, advance in drawn)])
    width, height = int(pens[-1]) + pixels, 2 * pixels
    ink = np.zeros((height, width), np.uint8)
    left = pixels // 2  # room for what hangs out
    for (mask, dx, dy, _), pen in zip(drawn, pens.tolist(), strict=False):
        x, y = max(0, left + pen + dx), max(0, 3 * pixels // 2 + dy)
        target = ink[y : y + mask.shape[0], x : x + mask.shape[1]]
        np.maximum(target, mask[: target.shape[0], : target.shape[1]], out=target)
    x, y, width, height = cv2.boundingRect(ink)
    if not width:
        return np.zeros((1, 1), np.uint8), np.zeros(len(line) + 1)
    ink, ends = ink[y : y + height, x : x + width], pens + left - x
    if (stretch != 1).any():
        size = (max(1, round(width * stretch[0])), max(1, round(height * stretch[1])))
        ink, ends = cv2.resize(ink, size, interpolation=cv2.INTER_AREA), ends * stretch[0]
    return ink, np.clip(ends, 0, ink.shape[1])
