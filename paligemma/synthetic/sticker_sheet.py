"""A sheet of stickers: one drawing of every kind in a single image, to ship beside a checkpoint.

    paligemma data sticker-sheet --out stickers.webp      # from the atlas of `data fetch-stickers`

The image is a grid of square cells with alpha, COLUMNS a row. Its EXIF description says what they
show, from left to right and top to bottom: a JSON list of [kind, artist, code point]; its EXIF
copyright credits the artists. An app shows the cells as they are. `load_sheet` makes an atlas of
them, from which `compose.Composer` draws scenes without a cache and without a download.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from PIL.ExifTags import Base

from paligemma.synthetic.atlas import Atlas, SpriteRecord, color_sprite, tight_box
from paligemma.synthetic.kinds import all_kinds

CELL = 128  # pixels a side of a new sheet's cells
COLUMNS = 20
QUALITY = 80  # of WebP, for colors and alpha
# Artists whose drawings may be passed on, and their credit; the first that has a kind draws it.
CREDITS = {
    "noto": "Noto Emoji, Copyright Google LLC, Apache License 2.0",
    "fluent": "Fluent Emoji, Copyright Microsoft Corporation, MIT License",
}


class SheetCell(NamedTuple):
    """What a cell shows: a kind, drawn by an artist for a code point."""

    kind: str
    artist: str
    code: str


class StickerSheet:
    """The sheet in a file. `cells` are in its order; `side` is that of a cell in pixels.

    Raises ValueError if the file is no sheet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with Image.open(path, formats=["WEBP"]) as image:
                described = image.getexif().get(Base.ImageDescription, "")
                width, height = image.size
            self.cells = tuple(SheetCell(*map(str, cell)) for cell in json.loads(described))
        except (OSError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no sheet of stickers: {error}.") from error
        self.side, self.rows = width // COLUMNS, -(-len(self.cells) // COLUMNS)
        if not self.cells or (width, height) != (COLUMNS * self.side, self.rows * self.side):
            raise ValueError(
                f"{path} is no sheet of stickers: {len(self.cells)} cells in {width} x {height} "
                f"pixels, not {COLUMNS} a row."
            )

    @cached_property
    def places(self) -> dict[str, tuple[int, int]]:
        """Column and row of each kind's cell."""
        return {cell.kind: (n % COLUMNS, n // COLUMNS) for n, cell in enumerate(self.cells)}


def load_sheet(path: Path) -> Atlas:
    """The sheet as an atlas of the kinds of `kinds.csv`. Raises ValueError if it is no sheet."""
    sheet, names = StickerSheet(path), tuple(kind.name for kind in all_kinds())
    with Image.open(path, formats=["WEBP"]) as image:
        pixels = np.asarray(image.convert("RGBA"))
    sprites, records = [], []
    for kind, artist, code in sheet.cells:
        if kind in names:
            x, y = (sheet.side * place for place in sheet.places[kind])
            sprite = color_sprite(pixels[y : y + sheet.side, x : x + sheet.side])
            box = tight_box(sprite[..., 3])
            sprites.append(sprite)
            records.append(SpriteRecord(kind, artist, code, "color", False, box))
    return Atlas(np.stack(sprites), tuple(records), names)


def save_sheet(atlas: Atlas, path: Path) -> None:
    """Write a sheet of every kind that an artist of CREDITS has drawn.

    Raises ValueError if there is none, and if the file cannot be written.
    """
    chosen: dict[str, int] = {}
    for artist in CREDITS:
        for number, sprite in enumerate(atlas.sprites):
            if sprite.artist == artist:
                chosen.setdefault(sprite.kind, number)
    numbers = [chosen[kind] for kind in atlas.kinds if kind in chosen]
    if not numbers:
        raise ValueError(f"the atlas has nothing by {' or '.join(CREDITS)}")
    rows = -(-len(numbers) // COLUMNS)
    pixels = np.zeros((rows, CELL, COLUMNS, CELL, 4), np.uint8)
    for place, number in enumerate(numbers):
        sprite = np.asarray(atlas.pixels[number])
        small = cv2.resize(sprite, (CELL, CELL), interpolation=cv2.INTER_AREA)
        pixels[place // COLUMNS, :, place % COLUMNS] = small
    records = [atlas.sprites[number] for number in numbers]
    exif = Image.Exif()
    cells = [SheetCell(record.kind, record.artist, record.code) for record in records]
    exif[Base.ImageDescription] = json.dumps(cells)
    exif[Base.Copyright] = "; ".join(
        credit for artist, credit in CREDITS.items() if artist in {cell.artist for cell in cells}
    )
    image = Image.fromarray(pixels.reshape(rows * CELL, COLUMNS * CELL, 4))
    try:
        image.save(path, "WEBP", quality=QUALITY, alpha_quality=QUALITY, exif=exif)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}.") from error
