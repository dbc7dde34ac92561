"""Contact sheets of sprites and of scenes, to look at what a training will see."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from paligemma.synthetic.atlas import Atlas
from paligemma.synthetic.compose import Composer

LINE = 12  # pixels; the height of a line of small letters


def kind_sheet(atlas: Atlas, kinds: Sequence[str], cell: int = 48) -> Image.Image:
    """A row a kind: its name and all its sprites, those of held-out artists on blue."""
    rows = [[n for n, sprite in enumerate(atlas.sprites) if sprite.kind == k] for k in kinds]
    label = 100
    width = label + cell * max([len(row) for row in rows], default=1)
    sheet = Image.new("RGB", (width, cell * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for y, (kind, row) in enumerate(zip(kinds, rows, strict=True)):
        draw.text((2, y * cell + cell // 3), kind, fill="black")
        for x, number in enumerate(row):
            record = atlas.sprites[number]
            small = (cell - 4, cell - 4)
            pixels = cv2.resize(
                np.asarray(atlas.pixels[number]), small, interpolation=cv2.INTER_AREA
            ).astype(np.float32)
            colors, alpha = pixels[..., :3], pixels[..., 3:] / 255
            if record.style == "glyph":
                ink = pixels[..., :1] / 255
                colors = (1 - ink) * np.array([250, 220, 120], np.float32) + ink * np.array(
                    [90, 40, 20], np.float32
                )
            ground = np.array([190, 210, 235] if record.held_out else [255, 255, 255], np.float32)
            shown = (ground + alpha * (colors - ground)).astype(np.uint8)
            sheet.paste(Image.fromarray(shown), (label + x * cell + 2, y * cell + 2))
    return sheet


def scene_sheet(
    composer: Composer, seeds: Sequence[int], columns: int = 8, zoom: int = 1, boxes: bool = False
) -> Image.Image:
    """The scenes of these seeds, with what is in them written below, and their boxes drawn."""
    side = composer.options.size * zoom
    height = side + 2 * LINE
    rows = -(-len(seeds) // columns)
    sheet = Image.new("RGB", (columns * side, rows * height), "black")
    for place, seed in enumerate(seeds):
        image, scene = composer(seed)
        picture = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
        if boxes:
            pen = ImageDraw.Draw(picture)
            for thing in scene.objects:
                pen.rectangle([v * side for v in thing.box], outline="red")
            for text in scene.texts:
                for box in text.character_boxes:
                    pen.rectangle([v * side for v in box], outline="green")
        x, y = place % columns * side, place // columns * height
        sheet.paste(picture, (x, y))
        things = ", ".join(f"{t.color} {t.name}".strip() for t in scene.objects)
        words = " ".join([scene.ground, scene.background, *(t.text for t in scene.texts)])
        draw = ImageDraw.Draw(sheet)
        for line, (text, color) in enumerate([(things, "white"), (words, "yellow")]):
            place_of_line = (x + 1, y + side + line * LINE - 1)
            draw.text(place_of_line, text[: side // 6].encode("ascii", "replace"), fill=color)
    return sheet
