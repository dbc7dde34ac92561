"""The model as a diagram with its own numbers, one request as a list of tokens, and its mask.

Drawings are SVG and HTML with the page's own colours; a box that has a source file names it in
`data-file`, for the page to open.
"""

from collections.abc import Sequence
from html import escape
from textwrap import wrap

import numpy as np
from PIL import Image

KIND_COLORS = {
    "image": "#56b4e9",
    "bos": "#e69f00",
    "prefix": "#009e73",
    "separator": "#cc79a7",
    "answer": "#d55e00",
}
KIND_NAMES = {
    "image": "image tokens",
    "bos": "beginning of sequence",
    "prefix": "the prompt",
    "separator": "the separator, a line break",
    "answer": "the answer",
}
WIDTH, GAP = 420, 44  # of the diagram, and between its boxes
LINE_CHARACTERS = 54  # of a line of text in a box
MAX_STRIP_IMAGE_TOKENS = 6  # drawn one by one, before the rest is counted

# title, facts, source file, and the shape of the output
Component = tuple[str, Sequence[str], str, str]


def draw_model(components: Sequence[Component]) -> str:
    """A box for each component from top to bottom, the output's shape on each arrow: an SVG."""
    drawn, y = [], 8
    for number, (title, facts, file, output) in enumerate(components, 1):
        lines = [line for fact in facts for line in wrap(fact, LINE_CHARACTERS)]
        drawn.append(_box(y, title, lines, file))
        y += _height(lines)
        if number < len(components):
            drawn.append(_arrow(y, output))
            y += GAP
    return (
        f'<svg class="anatomy" viewBox="0 0 {WIDTH} {y + 8}" role="group" '
        f'aria-label="The model, part by part">{"".join(drawn)}</svg>'
    )


def _height(lines: Sequence[str]) -> int:
    return 34 + 18 * len(lines)


def _box(y: int, title: str, lines: Sequence[str], file: str) -> str:
    texts = "".join(
        f'<text x="24" y="{y + 44 + 18 * n}" class="small">{escape(line)}</text>'
        for n, line in enumerate(lines)
    )
    return (
        f'<g data-file="{escape(file)}" tabindex="0" role="button">'
        f'<rect x="8" y="{y}" width="{WIDTH - 16}" height="{_height(lines)}" rx="12"/>'
        f'<text x="24" y="{y + 24}" class="title">{escape(title)}</text>'
        f'<text x="{WIDTH - 24}" y="{y + 24}" class="file">{escape(file)}</text>'
        f"{texts}</g>"
    )


def _arrow(y: int, label: str) -> str:
    return (
        f'<path d="M36 {y + 4}v{GAP - 14}m-5 -7l5 7l5 -7" class="arrow"/>'
        f'<text x="50" y="{y + GAP / 2 + 4}" class="small">{escape(label)}</text>'
    )


def draw_tokens(tokens: Sequence[tuple[str, str]]) -> str:
    """(kind of KIND_COLORS, text) of each token of a request, as HTML, and a legend with counts."""
    counts = {kind: sum(each == kind for each, _ in tokens) for kind in KIND_COLORS}
    spans, images = [], 0
    for kind, text in tokens:
        images += kind == "image"
        if kind == "image" and images > MAX_STRIP_IMAGE_TOKENS:
            if images == counts["image"]:
                spans.append(f'<i style="--kind:{KIND_COLORS[kind]}">… {images} in all</i>')
            continue
        label = escape(text.replace("\n", "↵").replace(" ", "·")) or "·"
        spans.append(
            f'<i style="--kind:{KIND_COLORS[kind]}" title="{KIND_NAMES[kind]}">{label}</i>'
        )
    legend = "".join(
        f'<li><i style="--kind:{color}">{counts[kind]}</i> {KIND_NAMES[kind]}</li>'
        for kind, color in KIND_COLORS.items()
    )
    return f'<div class="strip">{"".join(spans)}</div><ul class="strip">{legend}</ul>'


def draw_attention_mask(mask: np.ndarray, kinds: Sequence[str], side: int = 480) -> Image.Image:
    """`mask` bool [T, T], queries as rows and keys as columns, coloured by the query's kind."""
    if mask.shape != (len(kinds), len(kinds)):
        raise ValueError(f"A mask of {len(kinds)} tokens is as wide as high; got {mask.shape}.")
    colors = np.array([[int(KIND_COLORS[k][n : n + 2], 16) for n in (1, 3, 5)] for k in kinds])
    pixels = np.where(mask[..., None], colors[:, None], 245).astype(np.uint8)
    side = len(kinds) * max(1, side // len(kinds))
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
