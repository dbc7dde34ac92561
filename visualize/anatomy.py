"""The model as a drawing with its own numbers, one request as a strip of tokens, and its mask.

Drawings are SVG and HTML with the page's own colours; a piece that has a source file names it in
`data-file`, for the page to open.
"""

from collections.abc import Sequence
from html import escape
from textwrap import wrap

import numpy as np
from PIL import Image

KINDS = {
    "image": "#56b4e9",
    "bos": "#e69f00",
    "prefix": "#009e73",
    "separator": "#cc79a7",
    "answer": "#d55e00",
}
NAMES = {
    "image": "image tokens",
    "bos": "begin of sequence",
    "prefix": "the prompt",
    "separator": "the separator, a line break",
    "answer": "the answer",
}
LINE = 54  # characters of a line in the drawing
SHOWN_IMAGE_TOKENS = 6  # in the strip, before the rest is counted


# title, lines below it, source file, and the shape that it hands on
Part = tuple[str, Sequence[str], str, str]


def draw_model(parts: Sequence[Part]) -> str:
    """The parts from top to bottom, an arrow with the shape handed on between them: an SVG."""
    width, gap, pieces, y = 420, 44, [], 8
    for number, (title, about, file, gives) in enumerate(parts, 1):
        about = [line for each in about for line in wrap(each, LINE)]
        tall = 34 + 18 * len(about)
        lines = "".join(
            f'<text x="24" y="{y + 44 + 18 * n}" class="small">{escape(line)}</text>'
            for n, line in enumerate(about)
        )
        pieces.append(
            f'<g data-file="{escape(file)}" tabindex="0" role="button">'
            f'<rect x="8" y="{y}" width="{width - 16}" height="{tall}" rx="12"/>'
            f'<text x="24" y="{y + 24}" class="title">{escape(title)}</text>'
            f'<text x="{width - 24}" y="{y + 24}" class="file">{escape(file)}</text>'
            f"{lines}</g>"
        )
        y += tall
        if number < len(parts):
            middle = 36
            pieces.append(
                f'<path d="M{middle} {y + 4}v{gap - 14}m-5 -7l5 7l5 -7" class="arrow"/>'
                f'<text x="{middle + 14}" y="{y + gap / 2 + 4}" class="small">'
                f"{escape(gives)}</text>"
            )
            y += gap
    return (
        f'<svg class="anatomy" viewBox="0 0 {width} {y + 8}" role="group" '
        f'aria-label="The model, part by part">{"".join(pieces)}</svg>'
    )


def draw_strip(pieces: Sequence[tuple[str, str]]) -> str:
    """(kind of KINDS, text) of each token of a request, as HTML, and a legend that counts them."""
    counts = {kind: sum(each == kind for each, _ in pieces) for kind in KINDS}
    spans, images = [], 0
    for kind, text in pieces:
        images += kind == "image"
        if kind == "image" and images > SHOWN_IMAGE_TOKENS:
            if images == counts["image"]:
                spans.append(f'<i style="--kind:{KINDS[kind]}">… {images} in all</i>')
            continue
        shown = escape(text.replace("\n", "↵").replace(" ", "·")) or "·"
        spans.append(f'<i style="--kind:{KINDS[kind]}" title="{NAMES[kind]}">{shown}</i>')
    legend = "".join(
        f'<li><i style="--kind:{color}">{counts[kind]}</i> {NAMES[kind]}</li>'
        for kind, color in KINDS.items()
    )
    return f'<div class="strip">{"".join(spans)}</div><ul class="strip">{legend}</ul>'


def draw_mask(seen: np.ndarray, kinds: Sequence[str], side: int = 480) -> Image.Image:
    """Who sees whom: `seen` bool [T, T], rows look at columns, coloured by the row's kind."""
    if seen.shape != (len(kinds), len(kinds)):
        raise ValueError(f"A mask of {len(kinds)} tokens is as wide as high; got {seen.shape}.")
    colors = np.array([[int(KINDS[kind][n : n + 2], 16) for n in (1, 3, 5)] for kind in kinds])
    pixels = np.where(seen[..., None], colors[:, None], 245).astype(np.uint8)
    scale = max(1, side // len(kinds))
    return Image.fromarray(pixels).resize((scale * len(kinds),) * 2, Image.Resampling.NEAREST)
