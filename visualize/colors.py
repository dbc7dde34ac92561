"""Colours of labels: the same label in the same colour, different labels in different colours.

The palette is Okabe and Ito's (Color Universal Design, 2002; Wong, Nature Methods 8:441, 2011)
without its black: seven colours that stay apart for people with any common colour blindness.

A label's place in the palette is a hash of the label, so it has the same colour in every image. In
one image a label whose place is taken gets the next free one, so that up to seven labels never
share a colour; when a growing answer adds a label, the colours of the others do not change.
"""

import zlib
from collections.abc import Iterable

from PIL import ImageColor

PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")


def color_map(labels: Iterable[str]) -> dict[str, str]:
    """{label: "#rrggbb"} for the labels of one image, in order of first appearance."""
    colors: dict[str, str] = {}
    for label in dict.fromkeys(labels):
        first = zlib.crc32(label.encode("utf-8", "surrogatepass")) % len(PALETTE)
        taken = list(colors.values())
        candidates = PALETTE[first:] + PALETTE[:first]
        colors[label] = min(candidates, key=taken.count)
    return colors


def color_of(label: str) -> tuple[int, int, int]:
    """(r, g, b), 0..255, of the only label in an image."""
    return to_rgb(color_map([label])[label])


def to_rgb(color: str) -> tuple[int, int, int]:
    """(r, g, b), 0..255, of "#rrggbb"."""
    r, g, b = ImageColor.getrgb(color)[:3]
    return r, g, b


def text_color_on(color: str) -> str:
    """Black or white, whichever is easier to read on `color` (WCAG 2 relative luminance)."""
    r, g, b = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (value / 255 for value in to_rgb(color))
    )
    luminance = 0.2126 * r + 0.7152 * g + 0.0722 * b
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"
