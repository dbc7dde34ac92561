"""A sheet of stickers of a few kinds, drawn here: an ellipse in a color of its own for each."""

from pathlib import Path

import numpy as np

from paligemma.synthetic.atlas import Atlas, SpriteRecord, color_sprite, tight_box
from paligemma.synthetic.kinds import all_kinds
from paligemma.synthetic.sticker_sheet import save_sheet

SHEET_COLORS = {  # in the order of kinds.csv
    "dog": (150, 90, 40),
    "cat": (240, 150, 40),
    "apple": (220, 30, 30),
    "key": (120, 120, 130),
    "anchor": (30, 60, 220),
}


def ellipse(color: tuple[int, int, int]) -> np.ndarray:
    """An RGBA drawing [90, 120, 4]."""
    y, x = np.mgrid[0:90, 0:120]
    shape = ((x - 70) / 40) ** 2 + ((y - 45) / 30) ** 2 < 1
    return np.dstack([np.broadcast_to(color, (90, 120, 3)), shape * 255]).astype(np.uint8)


def sheet_atlas() -> Atlas:
    """Each kind by noto, which the apple lacks, fluent and twemoji, in that color, green, gray."""
    sprites, records = [], []
    for kind, color in SHEET_COLORS.items():
        for artist, paint in ("twemoji", (90, 90, 90)), ("fluent", (20, 160, 60)), ("noto", color):
            if (kind, artist) != ("apple", "noto"):
                sprite = color_sprite(ellipse(paint))
                box = tight_box(sprite[..., 3])
                record = SpriteRecord(kind, artist, "1f40", "color", artist == "twemoji", box)
                sprites.append(sprite)
                records.append(record)
    names = tuple(kind.name for kind in all_kinds())
    return Atlas(np.stack(sprites), tuple(records), names)


def write_sheet(folder: Path) -> Path:
    """The sheet as a file of `folder`."""
    save_sheet(sheet_atlas(), folder / "stickers.webp")
    return folder / "stickers.webp"
