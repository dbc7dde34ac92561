"""Attention maps over an image, one or many, and what a token attends to among the tokens.

Colours are matplotlib's inferno, whose steps look equally large to the eye. The scale runs from 0
to the map's own largest value unless another is given, so two maps compare by their legends and
not by colour alone; where one drawing has several maps, its docstring says whether they share a
scale.
"""

from collections.abc import Sequence
from io import BytesIO

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from .boxes import load_font, shorten

COLORS = (matplotlib.colormaps["inferno"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
CELL = 72  # pixels a side of a head's map on the contact sheet
MARGIN = 34  # pixels beside and above the sheet's cells, where their numbers stand
LINE = 16  # pixels of a line of text
FONT = 12
STRIP_COLUMNS = 8


def draw_attention(
    image: Image.Image, heat: np.ndarray, opacity: float = 0.6, largest: float | None = None
) -> Image.Image:
    """A new RGB image under the map `heat` [g, g] (weights >= 0), enlarged bicubically.

    opacity: 0 shows the image alone, 1 the map alone. largest: the value of the brightest colour,
    by default the map's own largest. Raises ValueError for another opacity and for a map that is
    not two-dimensional, finite and >= 0.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"Opacity is within 0..1; got {opacity}.")
    heat = _check_map(heat)
    smooth = Image.fromarray(_normalized(heat, largest)).resize(
        image.size, Image.Resampling.BICUBIC
    )
    return Image.blend(image.convert("RGB"), _colored(np.array(smooth)), opacity)


def attention_legend(largest: float, width: int = 256, unit: str = "") -> Image.Image:
    """The scale of a map whose largest value is `largest`, in `unit`: a colour bar from 0 to it."""
    font = load_font(FONT)
    bar = Image.fromarray(COLORS[None]).resize((width, 12), Image.Resampling.BILINEAR)
    legend = Image.new("RGB", (width, 30), "white")
    legend.paste(bar)
    draw = ImageDraw.Draw(legend)
    draw.text((2, 15), "0", font=font, fill="black")
    end = f"{largest:.2g} {unit}".strip()
    draw.text((width - 2, 15), end, font=font, fill="black", anchor="ra")
    return legend


def contact_sheet(heads: np.ndarray) -> Image.Image:
    """Every head's map in one image: `heads` [L, N, g, g], a row a layer, a column a head, both
    labelled from 1.

    Each cell has a scale of its own; the number below it is its largest value. `sheet_cell` finds
    the head under a pixel.
    """
    heads = np.stack([[_check_map(heat) for heat in layer] for layer in heads])
    layers, count = heads.shape[:2]
    sheet = Image.new("RGB", (MARGIN + count * CELL, MARGIN + layers * (CELL + LINE)), "white")
    draw, font = ImageDraw.Draw(sheet), load_font(FONT)
    draw.text((2, 2), "layer", font=font, fill="black")
    for number in range(count):
        middle = MARGIN + number * CELL + CELL // 2
        draw.text((middle, MARGIN - 4), f"head {number + 1}", font=font, fill="black", anchor="ms")
    for layer, row in enumerate(heads):
        top = MARGIN + layer * (CELL + LINE)
        draw.text(
            (MARGIN // 2, top + CELL // 2), str(layer + 1), font=font, fill="black", anchor="mm"
        )
        for number, heat in enumerate(row):
            left = MARGIN + number * CELL
            cell = _colored(_normalized(heat)).resize(
                (CELL - 4, CELL - 4), Image.Resampling.NEAREST
            )
            sheet.paste(cell, (left + 2, top + 2))
            largest = f"{heat.max():.2g}"
            below = (left + CELL // 2, top + CELL + LINE - 5)
            draw.text(below, largest, font=font, fill="black", anchor="ms")
    return sheet


def sheet_cell(x: int, y: int, layers: int, heads: int) -> tuple[int, int] | None:
    """(layer, head), from 0, at the pixel (x, y) of a contact sheet of that size, or None."""
    layer, head = (y - MARGIN) // (CELL + LINE), (x - MARGIN) // CELL
    return (layer, head) if 0 <= layer < layers and 0 <= head < heads else None


def token_strip(
    image: Image.Image,
    heats: np.ndarray,
    texts: Sequence[str],
    opacity: float = 0.6,
    unit: str = "",
    side: int = 160,
) -> Image.Image:
    """The whole answer in one image: each token's map `heats` [T, g, g] over it, its text below.

    All cells share one scale, which the bar at the bottom gives. `side` is the longer side of a
    cell in pixels. Raises ValueError unless there is one text for each map, and at least one.
    """
    frames = token_frames(image, heats, texts, opacity, side)
    columns = min(len(frames), STRIP_COLUMNS)
    rows = -(-len(frames) // columns)
    width, height = frames[0].size
    strip = Image.new("RGB", (columns * width, rows * height + 30), "white")
    for number, frame in enumerate(frames):
        strip.paste(frame, (number % columns * width, number // columns * height))
    bar = attention_legend(float(np.max(heats)), min(256, strip.width), unit)
    strip.paste(bar, (0, rows * height))
    return strip


def token_frames(
    image: Image.Image,
    heats: np.ndarray,
    texts: Sequence[str],
    opacity: float = 0.6,
    side: int = 480,
) -> list[Image.Image]:
    """One image a token, all of one size and on one scale: to play in turn, or to save as GIF."""
    if not 0 < len(heats) == len(texts):
        raise ValueError(f"Each map needs its token; got {len(heats)} maps, {len(texts)} texts.")
    scale = side / max(image.size)
    small = image.convert("RGB").resize([max(1, round(edge * scale)) for edge in image.size])
    largest, font = float(np.max(heats)), load_font(FONT if side < 320 else 20)
    below, frames = round(2 * font.size), []
    for heat, text in zip(heats, texts, strict=True):
        frame = Image.new("RGB", (small.width + 4, small.height + below), "white")
        frame.paste(draw_attention(small, heat, opacity, largest), (2, 0))
        center = (frame.width // 2, small.height + below // 2)
        label = shorten(visible(text), font, frame.width)
        ImageDraw.Draw(frame).text(center, label, font=font, fill="black", anchor="mm")
        frames.append(frame)
    return frames


def to_gif(frames: Sequence[Image.Image], seconds: float = 0.8) -> bytes:
    """An endless animated GIF, each frame shown for so long. Raises ValueError without frames."""
    if not frames:
        raise ValueError("A GIF has at least one frame.")
    # One palette for all: the frames do not flicker, and equal ones are not merged by mistake.
    palette = Image.new("RGB", (frames[0].width, frames[0].height * min(len(frames), 8)))
    for number, frame in enumerate(frames[:8]):
        palette.paste(frame, (0, number * frame.height))
    palette = palette.quantize(256)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    file = BytesIO()
    timing = {"duration": round(1000 * seconds), "loop": 0}
    indexed[0].save(file, "GIF", save_all=True, append_images=indexed[1:], **timing)
    return file.getvalue()


def token_matrix(weights: np.ndarray, texts: Sequence[str]) -> Image.Image:
    """Attention among tokens, `weights` [Q, Q] >= 0: queries as rows, keys as columns.

    Raises ValueError unless there is one text for each row and column.
    """
    weights = _check_map(weights)
    if weights.shape != (len(texts), len(texts)) or not texts:
        raise ValueError(f"{len(texts)} tokens make a square, not a map {list(weights.shape)}.")
    font = load_font(FONT)
    labels = [shorten(visible(text), font, 120) for text in texts]
    cell = max(14, min(28, 640 // len(texts)))
    margin = 8 + max(int(font.getlength(label)) for label in labels)
    across = cell * len(texts)
    image = Image.new("RGB", (margin + max(across, 140), margin + across + 38), "white")
    grid = _colored(_normalized(weights)).resize((across, across), Image.Resampling.NEAREST)
    image.paste(grid, (margin, margin))
    draw = ImageDraw.Draw(image)
    for number, label in enumerate(labels):
        middle = margin + number * cell + cell // 2
        draw.text((margin - 4, middle), label, font=font, fill="black", anchor="rm")
        upright = Image.new("RGB", (margin - 4, cell), "white")
        pen = ImageDraw.Draw(upright)
        pen.text((0, cell // 2), label, font=font, fill="black", anchor="lm")
        image.paste(upright.transpose(Image.Transpose.ROTATE_90), (margin + number * cell, 0))
    bar = attention_legend(float(weights.max()), max(across, 140), "of a row")
    image.paste(bar, (margin, margin + across + 8))
    return image


def visible(text: str) -> str:
    """A token's text with symbols for a newline and for a space alone."""
    shown = "".join("⏎" if c == "\n" else c for c in text if c == "\n" or c.isprintable())
    return shown.strip() or "␣"


def _check_map(heat: np.ndarray) -> np.ndarray:
    heat = np.asarray(heat, np.float32)
    if heat.ndim != 2 or not np.isfinite(heat).all() or heat.min() < 0:
        raise ValueError(f"An attention map is [g, g] finite numbers >= 0; got {heat}.")
    return heat


def _normalized(heat: np.ndarray, largest: float | None = None) -> np.ndarray:
    """Values as fractions of `largest`, by default the map's own: float32."""
    largest = float(heat.max()) if largest is None else largest
    return (heat / max(largest, float(np.finfo(np.float32).tiny))).astype(np.float32)


def _colored(values: np.ndarray) -> Image.Image:
    return Image.fromarray(COLORS[np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)])
