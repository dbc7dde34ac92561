"""Attention over a picture: where the model looked while it wrote one token of the answer.

Colours are matplotlib's inferno, whose steps look equally large to the eye. The scale runs from 0
to the map's own largest value, so two maps compare by their legends and not by colour alone.
"""

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from .boxes import load_font

COLORS = (matplotlib.colormaps["inferno"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def draw_attention(image: Image.Image, heat: np.ndarray, opacity: float = 0.6) -> Image.Image:
    """A new RGB picture under the map `heat` [g, g] (weights >= 0), enlarged bicubically.

    opacity: 0 shows the picture alone, 1 the map alone. Raises ValueError for another opacity
    and for a map that is not two-dimensional, finite and >= 0.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"Opacity is within 0..1; got {opacity}.")
    heat = np.asarray(heat, np.float32)
    if heat.ndim != 2 or not np.isfinite(heat).all() or heat.min() < 0:
        raise ValueError(f"An attention map is [g, g] finite numbers >= 0; got {heat}.")
    share = heat / max(heat.max(), np.finfo(np.float32).tiny)
    smooth = np.array(Image.fromarray(share).resize(image.size, Image.Resampling.BICUBIC))
    levels = np.rint(np.clip(smooth, 0, 1) * 255).astype(np.uint8)
    return Image.blend(image.convert("RGB"), Image.fromarray(COLORS[levels]), opacity)


def attention_legend(largest: float, width: int = 256) -> Image.Image:
    """The scale of a map whose largest value is `largest`: a colour bar from 0 to it."""
    font = load_font(12)
    bar = Image.fromarray(COLORS[None]).resize((width, 12), Image.Resampling.BILINEAR)
    legend = Image.new("RGB", (width, 30), "white")
    legend.paste(bar)
    draw = ImageDraw.Draw(legend)
    draw.text((2, 15), "0", font=font, fill="black")
    draw.text((width - 2, 15), f"{largest:.2g}", font=font, fill="black", anchor="ra")
    return legend
