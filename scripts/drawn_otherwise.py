"""How a model does on pictures that other code draws: python scripts/drawn_otherwise.py [--model M]

One to three glyphs of the DejaVu font on a page, drawn by Pillow alone: as in training, and each
time one thing otherwise. The share of boxes that are found (IoU of .5 and above), of colors and
presence that are answered right, of absent names that are denied, and of exact captions.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))

from paligemma import PaliGemma
from paligemma.detections import Box, box_iou
from paligemma.evaluation.classes import MIN_IOU
from paligemma.generation import SamplingOptions
from paligemma.synthetic.canvas import touch
from paligemma.synthetic.language import caption, phrase
from paligemma.synthetic.scenes import BACKGROUNDS, COLORS, FONTS, GAP, KINDS, Item, Scene

SIDE = 256  # pixels
OPTIONS = SamplingOptions(max_new_tokens=64)
BATCH_SIZE = 50
COLUMNS = ("boxes", "color", "is there", "absent", "caption")


@dataclass(frozen=True)
class Style:
    """How pictures are drawn. `sizes` are shares of the shorter side; `stroke` is what is added to
    lines, in 1/100 of the glyph; `finish` is done to the whole picture."""

    page: tuple[int, int] = (SIDE, SIDE)
    sizes: tuple[float, float] = (0.25, 0.42)
    angles: tuple[float, float] = (-25, 25)
    stroke: int = 0
    has_rim: bool = True
    clutter: int = 0
    finish: Callable[[Image.Image], Image.Image] = lambda image: image


def half_contrast(image: Image.Image) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(0.5)


def photograph(image: Image.Image) -> Image.Image:
    """As a screen that a phone photographs: stripes, a color cast, uneven light, noise, blur."""
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(0.8)), np.float32)
    y, x = np.mgrid[0 : image.height, 0 : image.width]
    stripes = 1 + 0.06 * np.sin(1.3 * x + 0.4 * y)
    light = 1.1 - 0.35 * x / image.width
    noise = np.random.default_rng(image.width).normal(0, 5, pixels.shape)
    photo = pixels * (stripes * light)[..., None] * (1.02, 1, 0.93) + noise
    return Image.fromarray(photo.clip(0, 255).astype(np.uint8))


def blurred(radius: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.filter(ImageFilter.GaussianBlur(radius))


STYLES = {
    "as trained": Style(),
    "blur of 2 pixels": Style(finish=blurred(2)),
    "blur of 4 pixels": Style(finish=blurred(4)),
    "large": Style(sizes=(0.5, 0.6)),
    "small": Style(sizes=(0.12, 0.2)),
    "thin lines": Style(stroke=-2),
    "thick lines": Style(stroke=3),
    "turned by 45 to 90°": Style(angles=(45, 90)),
    "upside down": Style(angles=(180, 180)),
    "wide page, 16 : 9": Style(page=(SIDE * 4 // 3, SIDE * 3 // 4)),
    "half contrast": Style(finish=half_contrast),
    "photographed screen": Style(finish=photograph),
    "flat glyph, no rim": Style(has_rim=False),
    "clutter behind": Style(clutter=14),
}


@dataclass(frozen=True)
class Placed:
    """A drawn glyph: what it is, and the box around it as fractions of the page."""

    kind: str
    color: str
    box: Box


@cache
def upright(character: str, stroke: int, has_rim: bool) -> tuple[Image.Image, Image.Image]:
    """Masks of a glyph's lines and of its whole sticker, 280 pixels a side."""
    font = ImageFont.truetype(str(FONTS / "DejaVuSans.ttf"), 300)
    page = Image.new("L", (700, 700))
    ImageDraw.Draw(page).text((350, 350), character, font=font, fill=255, anchor="mm")
    ink = page.crop(page.getbbox())
    scale = 200 / max(ink.size)
    ink = ink.resize((round(ink.width * scale), round(ink.height * scale)))
    lines = Image.new("L", (280, 280))
    lines.paste(ink, ((280 - ink.width) // 2, (280 - ink.height) // 2))
    if stroke:
        widen = ImageFilter.MaxFilter if stroke > 0 else ImageFilter.MinFilter
        lines = lines.filter(widen(2 * abs(stroke) + 1))
    if not has_rim:
        return lines, lines
    outside = lines.filter(ImageFilter.MaxFilter(25)).point([0] * 97 + [255] * 159)
    ImageDraw.floodfill(outside, (0, 0), 128)  # what it does not reach is inside
    return lines, outside.point([0 if value == 128 else 255 for value in range(256)])


def glyph(character: str, size: int, angle: float, style: Style) -> tuple[Image.Image, Image.Image]:
    """Masks of the lines and of the whole sticker, its larger side `size` pixels."""
    masks = upright(character, style.stroke, style.has_rim)
    lines, body = (one.rotate(-angle, Image.Resampling.BICUBIC, expand=True) for one in masks)
    box = body.getbbox()
    lines, body = lines.crop(box), body.crop(box)
    scale = size / max(body.size)
    target = max(1, round(body.width * scale)), max(1, round(body.height * scale))
    return lines.resize(target, Image.Resampling.LANCZOS), body.resize(target)


def draw(seed: int, style: Style, names: Sequence[str]) -> tuple[Image.Image, Scene, list[Placed]]:
    """A picture, what a caption needs to know of it, and where its glyphs are."""
    rng = np.random.default_rng(seed)
    background = str(rng.choice(list(BACKGROUNDS)))
    image = Image.new("RGB", style.page, BACKGROUNDS[background])
    pen, (width, height) = ImageDraw.Draw(image), style.page
    for _ in range(style.clutter):
        x, y, w, h = rng.uniform(0, 1, 4) * (width, height, width / 3, height / 3)
        color = tuple(rng.integers(0, 256, 3).tolist())
        shape = pen.ellipse if rng.random() < 0.5 else pen.rectangle
        shape((x, y, x + w, y + h), outline=color, width=int(rng.integers(1, 5)))
    placed: list[Placed] = []
    for kind in rng.choice(list(names), int(rng.integers(1, 4)), replace=False).tolist():
        color = str(rng.choice(list(COLORS)))
        filling, ink = COLORS[color]
        for _ in range(60):
            size = round(rng.uniform(*style.sizes) * min(style.page))
            lines, body = glyph(KINDS[kind], size, rng.uniform(*style.angles), style)
            left = int(rng.integers(1, max(2, width - body.width)))
            top = int(rng.integers(1, max(2, height - body.height)))
            right, bottom = left + body.width, top + body.height
            box = (left / width, top / height, right / width, bottom / height)
            if (
                right < width
                and bottom < height
                and not any(touch(box, one.box, GAP) for one in placed)
            ):
                image.paste(filling, (left, top), body)
                image.paste(ink, (left, top), lines)
                placed.append(Placed(kind, color, box))
                break
    items = tuple(Item(one.kind, one.color, *center(one.box), 0, 0) for one in placed)
    return style.finish(image), Scene(background, "plain", items, (), seed), placed


def center(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def measure(pg: PaliGemma, style: Style, num_images: int) -> list[float]:
    """The shares of `COLUMNS`."""
    names = sorted(KINDS)
    asked: list[tuple[Image.Image, str, str, str | Placed]] = []  # image, prompt, column, truth
    for seed in range(num_images):
        image, scene, placed = draw(seed, style, names)
        absent = next(name for name in names[seed % 9 :] if name not in {p.kind for p in placed})
        asked.append((image, "caption en", "caption", caption(scene)))
        asked.append((image, f"answer en is there {phrase(absent)}?", "absent", "no"))
        for one in placed:
            question = f"answer en what color is the {one.kind}?"
            asked.append((image, f"detect {one.kind}", "boxes", one))
            asked.append((image, question, "color", one.color))
            asked.append((image, f"answer en is there {phrase(one.kind)}?", "is there", "yes"))
    right: dict[str, list[bool]] = {name: [] for name in COLUMNS}
    for start in range(0, len(asked), BATCH_SIZE):
        batch = asked[start : start + BATCH_SIZE]
        replies = pg.generate_batch([one[0] for one in batch], [one[1] for one in batch], OPTIONS)
        for (_, _, column, truth), reply in zip(batch, replies, strict=True):
            if isinstance(truth, Placed):
                found = max((box_iou(truth.box, d.box) for d in reply.detections), default=0)
                right[column].append(found >= MIN_IOU)
            else:
                right[column].append(reply.text == truth)
    return [float(np.mean(values)) for values in right.values()]


def save_sheet(path: Path) -> None:
    """A picture of each style, to look at."""
    sheet = Image.new("RGB", (7 * 200, 2 * 200), "white")
    for number, style in enumerate(STYLES.values()):
        image, _, _ = draw(3, style, sorted(KINDS))
        image.thumbnail((190, 190))
        sheet.paste(image, (number % 7 * 200 + 5, number // 7 * 200 + 5))
    sheet.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a model on pictures drawn otherwise.")
    parser.add_argument("--model", default="built-in")
    parser.add_argument("--num-images", type=int, default=50, help="of each style")
    parser.add_argument("--sheet", type=Path, help="write a picture of each style to this file")
    arguments = parser.parse_args()
    if arguments.sheet:
        save_sheet(arguments.sheet)
    pg = PaliGemma.load(arguments.model)
    print(f"{'':22}" + "".join(f"{name:>10}" for name in COLUMNS))
    for name, style in tqdm(STYLES.items(), disable=not sys.stderr.isatty()):
        shares = measure(pg, style, arguments.num_images)
        print(f"{name:22}" + "".join(f"{share:10.2f}" for share in shares), flush=True)


if __name__ == "__main__":
    main()
