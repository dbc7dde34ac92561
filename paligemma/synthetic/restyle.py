"""A drawing changed at random before it is placed, so that an artist never seen is no surprise.

All functions take and return patches of a sprite as it is placed: float32 [h, w, 3] colours and
[h, w] alpha, both 0 to 255.
"""

from functools import cache

import cv2
import numpy as np

from paligemma.synthetic import scenes
from paligemma.synthetic.atlas import disc

# name: (filling, lines), as a sticker of one colour is painted
PAINTS = {
    **scenes.COLORS,
    "black": ((120, 120, 125), (20, 20, 22)),
    "white": ((252, 252, 252), (190, 190, 195)),
    "gray": ((205, 205, 208), (105, 105, 110)),
}
COLORS = tuple(PAINTS)
MAIN_SHARE = 0.6  # of its area, from which on a thing is called by its colour


def mix(first: np.ndarray, second: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """[h, w, 3] from `first` where `alpha` [h, w] is 0 to `second` where it is 255. Either may be
    one colour [3]."""
    weight = np.multiply(alpha, np.float32(1 / 255), dtype=np.float32)
    return first + cv2.merge((weight, weight, weight)) * (second - first)


@cache
def _color_table() -> np.ndarray:
    """[32, 32, 32] uint8: the place in COLORS of each colour, by its top five bits, and
    len(COLORS) for a colour without a word."""
    steps = (np.arange(32) * 8 + 4).astype(np.uint8)
    rgb = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 1, 3)
    hue, saturation, value = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV_FULL).reshape(-1, 3).T / 255.0
    hue *= 360
    names = np.full(len(rgb), "red", dtype="<U6")
    for name, start, end in (
        ("orange", 14, 41),
        ("yellow", 41, 62),
        ("green", 62, 165),
        ("blue", 165, 255),
        ("purple", 255, 292),
        ("pink", 292, 344),
    ):
        names[(hue >= start) & (hue < end)] = name
    names[(hue >= 62) & (hue < 66) & (value > 0.8)] = "yellow"
    names[(hue >= 41) & (hue < 62) & (value < 0.45)] = "brown"
    warm = (hue >= 8) & (hue < 41)
    names[warm & ((value < 0.7) | (saturation < 0.6))] = "brown"
    names[warm & (value > 0.85) & (saturation < 0.42)] = ""  # beige, skin
    rosy = (hue < 20) | (hue >= 344)
    names[rosy & (saturation < 0.52) & (value > 0.75)] = "pink"
    names[saturation < 0.15] = "gray"
    names[(saturation < 0.13) & (value > 0.86)] = "white"
    names[(value < 0.25) | ((value < 0.36) & (saturation < 0.25))] = "black"
    numbers = np.array([[*COLORS, ""].index(name) for name in names], np.uint8)
    return numbers.reshape(32, 32, 32)


def main_color(colors: np.ndarray, alpha: np.ndarray) -> str:
    """The colour word of most of a patch, or "" where none has `MAIN_SHARE` of its area."""
    inside = alpha[::2, ::2] > 200
    bits = colors[::2, ::2][inside].astype(np.uint8) >> 3
    if len(bits) == 0:
        return ""
    counts = np.bincount(_color_table()[bits[:, 0], bits[:, 1], bits[:, 2]], minlength=len(COLORS))
    most = int(counts[: len(COLORS)].argmax())
    return COLORS[most] if counts[most] >= MAIN_SHARE * len(bits) else ""


def restyle(
    rng: np.random.Generator, colors: np.ndarray, alpha: np.ndarray, strength: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """A drawing in colours with other hues, tones and outlines; its outline may grow by a rim."""
    chance = rng.random(8) < strength * np.array([0.5, 0.1, 0.3, 0.35, 0.12, 0.12, 0.1, 0.06])
    scale = max(alpha.shape) / 64  # of lines
    if chance[0]:
        colors = shift_hue(rng, colors)
    if chance[1]:
        colors = np.repeat(colors @ np.array([[0.299], [0.587], [0.114]], np.float32), 3, -1)
    if chance[2]:
        colors = posterize(rng, colors)
    if chance[3]:
        width = max(1, round(scale * float(rng.uniform(0.8, 2.2))))
        colors, alpha = outline(rng, colors, alpha, width, pale=rng.random() < 0.25)
    elif chance[4]:  # the white rim of a sticker
        colors, alpha = add_rim(colors, alpha, max(1, round(scale * 2.5)), (250, 250, 250))
    if chance[5]:  # lit from one side
        colors = shade(rng, colors)
    if chance[6]:
        colors = (colors - 128) * float(rng.uniform(0.5, 1.3)) + 128 + float(rng.uniform(-25, 25))
    if chance[7]:
        alpha = cut_square(rng, alpha)
    return colors.clip(0, 255), alpha


def shift_hue(rng: np.random.Generator, colors: np.ndarray) -> np.ndarray:
    """Another hue (a little, now and then any), saturation and brightness."""
    hsv = cv2.cvtColor(colors.astype(np.uint8), cv2.COLOR_RGB2HSV_FULL)
    turn = rng.uniform(0, 256) if rng.random() < 0.25 else rng.normal(0, 9)
    hsv[..., 0] += np.uint8(int(turn) % 256)
    hsv[..., 1] = cv2.convertScaleAbs(hsv[..., 1], alpha=float(rng.uniform(0.55, 1.4)))
    hsv[..., 2] = cv2.convertScaleAbs(hsv[..., 2], alpha=float(rng.uniform(0.8, 1.15)))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL).astype(np.float32)


def posterize(rng: np.random.Generator, colors: np.ndarray) -> np.ndarray:
    """Three to five tones a channel."""
    steps = int(rng.integers(2, 5))
    return np.rint(colors * (steps / 255)) * (255 / steps)


def outline(
    rng: np.random.Generator, colors: np.ndarray, alpha: np.ndarray, width: int, pale: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Dark lines around the drawing and along its inner edges, with paled fillings if `pale`."""
    gray = cv2.cvtColor(colors.astype(np.uint8), cv2.COLOR_RGB2GRAY)
    edges = cv2.morphologyEx(gray, cv2.MORPH_GRADIENT, disc(1))
    lines = cv2.threshold(edges, float(rng.uniform(40, 90)), 255, cv2.THRESH_BINARY)[1]
    if width > 1:
        lines = cv2.dilate(lines, disc(width // 2))
    lines = cv2.GaussianBlur(lines, (3, 3), 0)
    if pale:
        colors = colors + (255 - colors) * float(rng.uniform(0.5, 0.95))
    dark = rng.uniform(0, 60, 3).astype(np.float32)
    colors = mix(colors, dark, np.where(alpha > 60, lines, 0))
    return add_rim(colors, alpha, width, dark)


def add_rim(
    colors: np.ndarray, alpha: np.ndarray, width: int, rim: np.ndarray | tuple
) -> tuple[np.ndarray, np.ndarray]:
    """The drawing on a wider copy of its silhouette, painted in the colour `rim`."""
    wide = cv2.dilate(alpha, disc(width))
    return mix(np.array(rim, np.float32), colors, alpha), wide


def shade(rng: np.random.Generator, colors: np.ndarray) -> np.ndarray:
    """Brighter towards one side."""
    height, width = colors.shape[:2]
    turn, depth = rng.uniform(0, 2 * np.pi), rng.uniform(20, 70)
    x = np.linspace(-depth, depth, width, dtype=np.float32) * np.float32(np.cos(turn))
    y = np.linspace(-depth, depth, height, dtype=np.float32) * np.float32(np.sin(turn))
    light = x[None] + y[:, None]
    return colors + cv2.merge((light, light, light))


def cut_square(rng: np.random.Generator, alpha: np.ndarray) -> np.ndarray:
    """A rectangle of up to a third of each side made transparent."""
    height, width = alpha.shape
    h, w = (max(1, int(side * rng.uniform(0.15, 0.33))) for side in (height, width))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    alpha = alpha.copy()
    alpha[top : top + h, left : left + w] = 0
    return alpha


def paint_glyph(
    rng: np.random.Generator, channels: np.ndarray, ground: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """A glyph [h, w, 4] in one colour: (colours, alpha, mask, colour word).

    Flat ink (its mask is the body, holes and all), thick or thin now and then; or a sticker, dark
    ink on a lighter silhouette. The colour is one that differs from the mean colour `ground`.
    """
    ink, body, silhouette = (np.ascontiguousarray(channels[..., n]) for n in (0, 1, 3))
    scale = max(ink.shape) / 64
    if rng.random() < 0.2:
        ink = cv2.dilate(ink, disc(max(1, round(scale))))
        body = cv2.max(body, ink)
    sticker = rng.random() < 0.45
    for _ in range(8):
        name = COLORS[int(rng.integers(len(COLORS)))]
        filling, line = PAINTS[name]
        if not sticker and rng.random() < 0.25:
            line = filling
        shown = np.array(filling if sticker else line, np.float32)
        if float(np.abs(shown - ground).max()) > (60 if sticker else 85):
            break
    jitter = rng.uniform(-14, 14, (2, 3)).astype(np.float32)
    filling, line = np.clip(np.array([filling, line], np.float32) + jitter, 0, 255)
    if sticker:
        return mix(filling, line, ink), silhouette, silhouette, name
    return np.broadcast_to(line, (*ink.shape, 3)), ink, body, name
