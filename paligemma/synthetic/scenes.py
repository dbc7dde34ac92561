"""Scenes of pictograms: images rendered from a seed, and what is in them.

A scene is one to four colored pictograms, and sometimes words or numbers, on a plain, shaded or
noisy background. The pictograms are glyphs of the DejaVu font that matplotlib installs, drawn as
stickers: dark lines on a lighter filled silhouette, and that silhouette is the object's mask.
All lengths are fractions of the image's side, so one scene renders at any size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"

KINDS = {
    "anchor": "⚓", "bolt": "⚡", "castle": "♜", "cat": "🐱", "cloud": "☁", "clover": "☘",
    "cow": "🐮", "crown": "♛", "cup": "☕", "envelope": "✉", "flag": "⚑", "flower": "❀",
    "gear": "⚙", "hammer": "⚒", "heart": "♥", "horse": "♞", "house": "⌂", "keyboard": "⌨",
    "monkey": "🐵", "moon": "☽", "mouse": "🐭", "note": "♫", "pencil": "✎", "plane": "✈",
    "skull": "☠", "smiley": "☺", "snowflake": "❄", "star": "★", "sun": "☀", "telephone": "☎",
    "umbrella": "☂", "wheel": "☸",
}  # fmt: skip

# name: (filling, lines)
COLORS = {
    "red": ((255, 120, 110), (190, 15, 20)),
    "orange": ((255, 185, 95), (225, 95, 0)),
    "yellow": ((255, 245, 120), (205, 165, 0)),
    "green": ((140, 225, 130), (10, 115, 35)),
    "blue": ((135, 185, 255), (20, 60, 200)),
    "purple": ((205, 155, 250), (110, 25, 165)),
    "pink": ((255, 190, 225), (230, 40, 150)),
    "brown": ((190, 145, 105), (95, 50, 15)),
}

BACKGROUNDS = {
    "white": (250, 250, 250),
    "gray": (140, 140, 140),
    "black": (15, 15, 15),
    "beige": (240, 225, 190),
    "teal": (20, 130, 135),
    "navy": (20, 25, 85),
}

WORDS = (
    "ABLE ACID APPLE AREA BABY BALL BANK BELL BIRD BLUE BOAT BOOK BREAD BRICK CABLE CAKE CARD "
    "CHAIR CITY CLAY CLOCK COAL COIN COOK COPY CORN DANCE DESK DOOR DREAM DRUM DUCK DUST EARTH "
    "EAST EXIT FARM FIELD FIRE FISH FLOUR FORK FROG FRUIT GAME GATE GIFT GLASS GOLD GRASS GREEN "
    "HAND HAT HELLO HILL HONEY HOTEL ICE IDEA INK IRON JAM JAZZ JOKE JUICE JUMP KEY KING KITE "
    "KNIFE LAKE LAMP LEAF LEMON LIGHT LION MAP MILK MINT MUSIC NAIL NEST NIGHT NORTH OCEAN OIL "
    "OPEN OVEN PAGE PAPER PARK PEN PIANO PIZZA POST QUEEN QUIET QUIZ RADIO RAIN RICE RING RIVER "
    "ROAD ROOF ROPE SALT SAND SHIP SHOE SHOP SILK SNOW SOAP SOUP SOUTH STONE STOP SUGAR TABLE "
    "TAXI TEA TIGER TOWN TRAIN TREE UNCLE VASE VIEW VOICE WATER WAVE WEST WIND WOOD WOOL YARD "
    "YEAR ZEBRA ZERO ZONE"
).split()
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

SPRITE = 160  # pixels; a pictogram is drawn once at this size, then warped into every image
RIM = SPRITE // 12  # pixels around the lines
GAP = 0.02  # at least this much background between any two objects


@dataclass(frozen=True)
class Look:
    """How the pictograms of a scene are drawn: as stickers of usual sizes unless it says otherwise.

    `sizes` are the least and the largest, `max_angle` is in degrees to either side. `thickness`
    is what lines gain or lose, in pixels of a sprite. Without a rim there are only the lines, and
    their outline is the silhouette. `aspect` is how much wider than high everything becomes.
    """

    sizes: tuple[float, float] = (0.22, 0.44)
    max_angle: float = 30
    thickness: int = 0
    has_rim: bool = True
    aspect: float = 1.0


STICKERS = Look()


@dataclass(frozen=True)
class Sprite:
    """A pictogram at unit size, its center at the origin: `lines` [SPRITE, SPRITE] and outlines."""

    lines: np.ndarray
    outlines: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Item:
    """A pictogram in a scene: center, larger side and degrees of rotation."""

    kind: str
    color: str
    x: float
    y: float
    size: float
    angle: float
    look: Look = STICKERS

    @property
    def matrix(self) -> np.ndarray:
        """[2, 2]: a sprite at unit size to the scene."""
        turn = np.radians(self.angle)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        across = self.look.aspect**0.5
        return np.array([[across], [1 / across]]) * rotation * self.size

    @property
    def sprite(self) -> Sprite:
        return sprite(self.kind, self.look.thickness, self.look.has_rim)

    @cached_property
    def outlines(self) -> list[np.ndarray]:
        """The silhouette as polygons [n, 2] of (x, y)."""
        center, matrix = np.array([self.x, self.y]), self.matrix
        return [points @ matrix.T + center for points in self.sprite.outlines]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(x1, y1, x2, y2), tight around the silhouette."""
        points = np.concatenate(self.outlines)
        return (*points.min(0).tolist(), *points.max(0).tolist())


@dataclass(frozen=True)
class Text:
    """A written word: left end, middle line, letter height and color."""

    text: str
    x: float
    y: float
    size: float
    color: tuple[int, int, int]

    @property
    def character_boxes(self) -> list[tuple[float, float, float, float]]:
        """(x1, y1, x2, y2) of every character."""
        ends = [
            self.x + _font(100).getlength(self.text[:n]) / 100 * self.size
            for n in range(len(self.text) + 1)
        ]
        top, bottom = self.y - 0.38 * self.size, self.y + 0.38 * self.size
        return [(a, top, b, bottom) for a, b in pairwise(ends)]

    @property
    def box(self) -> tuple[float, float, float, float]:
        boxes = self.character_boxes
        return boxes[0][0], boxes[0][1], boxes[-1][2], boxes[-1][3]


@dataclass(frozen=True)
class Scene:
    """Everything in one image. `ground` is plain, shaded or noisy."""

    background: str
    ground: str
    items: tuple[Item, ...]
    texts: tuple[Text, ...]
    seed: int


@cache
def _font(size: int, bold: bool = True) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONTS / f"DejaVuSans{'-Bold' * bold}.ttf"), size)


@cache
def sprite(kind: str, thickness: int = 0, has_rim: bool = True) -> Sprite:
    """The pictogram of `kind`, a key of `KINDS` or the glyph itself; drawn once."""
    lines = _glyph(KINDS.get(kind, kind))
    if thickness:
        lines = (cv2.dilate if thickness > 0 else cv2.erode)(lines, _disc(abs(thickness)))
    # the silhouette: gaps closed, holes filled, and a rim around everything
    wide = cv2.copyMakeBorder(lines, SPRITE, SPRITE, SPRITE, SPRITE, cv2.BORDER_CONSTANT)
    body = (cv2.morphologyEx(wide, cv2.MORPH_CLOSE, _disc(RIM)) if has_rim else wide) > 96
    body = cv2.dilate(body.astype(np.uint8), _disc(RIM // 2 + 2 if has_rim else 0))
    contours, _ = cv2.findContours(body, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contours = [
        c[:, 0] + 0.5 - 1.5 * SPRITE
        for c in contours
        if cv2.contourArea(c) > (60 if has_rim else 8)
    ]
    reach = np.concatenate(contours)
    extent = (reach.max(0) - reach.min(0)).max()
    middle = (reach.max(0) + reach.min(0)) / 2
    outlines = [cv2.approxPolyDP(c.astype(np.float32)[:, None], 0.7, True)[:, 0] for c in contours]
    # move the lines like the outlines: middle to the center, extent to the whole side
    shift = np.array([[1, 0, -middle[0]], [0, 1, -middle[1]]], np.float32)
    grow = cv2.getRotationMatrix2D((SPRITE / 2, SPRITE / 2), 0, SPRITE / extent)
    for warp in (shift, grow):
        lines = cv2.warpAffine(lines, warp, (SPRITE, SPRITE))
    return Sprite(lines, tuple((outline - middle) / extent for outline in outlines))


def _glyph(character: str) -> np.ndarray:
    """The character in white on black [SPRITE, SPRITE], in the middle, with room for the rim."""
    page = Image.new("L", (2 * SPRITE, 2 * SPRITE))
    font = _font(SPRITE, bold=False)
    ImageDraw.Draw(page).text((SPRITE, SPRITE), character, font=font, fill=255, anchor="mm")
    ink = np.asarray(page.crop(page.getbbox()))
    scale = (SPRITE - 2 * RIM - 2) / max(ink.shape)
    ink = cv2.resize(ink, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    canvas = np.zeros((SPRITE, SPRITE), np.uint8)
    top, left = (SPRITE - ink.shape[0]) // 2, (SPRITE - ink.shape[1]) // 2
    canvas[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return canvas


def _disc(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def sample(seed: int, look: Look = STICKERS) -> Scene:
    """The scene of a seed, the same on every machine."""
    rng = np.random.default_rng(seed)
    background = _pick(rng, tuple(BACKGROUNDS))
    count = 1 + int(rng.integers(4))
    taken: list[tuple[float, float, float, float]] = []
    texts, items = [], []
    for _ in range(_pick(rng, (0,) * 5 + (1,) * 12 + (2,) * 3)):
        if text := _place_text(rng, background, taken):
            texts.append(text)
    objects: list[tuple[str, str]] = []
    for _ in range(count):
        kind, color = _pick(rng, tuple(KINDS)), _pick(rng, tuple(COLORS))
        if objects and rng.random() < 0.3:  # the same kind again, so that there is more to count
            kind, other = _pick(rng, objects)
            color = other if rng.random() < 0.5 else color
        objects.append((kind, color))
    for kind, color in objects:
        if item := _place_item(rng, kind, color, look, taken):
            items.append(item)
    ground = _pick(rng, ("plain", "shaded", "noisy"))
    return Scene(background, ground, tuple(items), tuple(texts), seed)


def _pick(rng: np.random.Generator, options: Sequence) -> Any:
    return options[int(rng.integers(len(options)))]


def _clear(box: tuple, taken: list[tuple]) -> bool:
    x1, y1, x2, y2 = box
    inside = min(x1, y1) >= 0.01 and max(x2, y2) <= 0.99
    return inside and all(
        x2 + GAP < a or c + GAP < x1 or y2 + GAP < b or d + GAP < y1 for a, b, c, d in taken
    )


def _place_item(
    rng: np.random.Generator, kind: str, color: str, look: Look, taken: list
) -> Item | None:
    low, high = look.sizes
    for attempt in range(60):
        size = rng.uniform(low, max(low, high - 0.0025 * attempt))
        x, y = rng.uniform(size / 2, 1 - size / 2, 2)
        angle = rng.uniform(-look.max_angle, look.max_angle)
        item = Item(kind, color, float(x), float(y), float(size), float(angle), look)
        if _clear(item.box, taken):
            taken.append(item.box)
            return item
    return None


def _place_text(rng: np.random.Generator, background: str, taken: list) -> Text | None:
    what = rng.random()
    if what < 0.55:
        string = _pick(rng, WORDS)
    elif what < 0.85:
        string = "".join(_pick(rng, CHARACTERS[26:]) for _ in range(rng.integers(1, 5)))
    else:
        string = "".join(_pick(rng, CHARACTERS) for _ in range(rng.integers(1, 5)))
    dark = sum(BACKGROUNDS[background]) < 300
    low, high = (185, 256) if dark else (0, 70)
    for _ in range(30):
        size = float(rng.uniform(0.15, 0.22))
        red, green, blue = rng.integers(low, high, 3).tolist()
        color = (red, green, blue)
        width = Text(string, 0, 0, size, color).box[2]
        if width > 0.9:
            continue
        x, y = rng.uniform(0.02, 0.98 - width), rng.uniform(0.1, 0.9)
        text = Text(string, float(x), float(y), size, color)
        if _clear(text.box, taken):
            taken.append(text.box)
            return text
    return None


def render(scene: Scene, size: int = 256) -> Image.Image:
    """The image of a scene, `size` × `size`, RGB."""
    rng = np.random.default_rng(scene.seed + 1)
    return paint(scene, draw_background(scene, size, rng), rng)


def paint(scene: Scene, canvas: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """The image of a scene on its ground `canvas` [R, R, 3] float32, which is drawn upon."""
    size = len(canvas)
    for item in scene.items:
        filling, lines = (
            np.clip(np.array(c) + rng.integers(-12, 13, 3), 0, 255) for c in COLORS[item.color]
        )
        if item.look.has_rim:
            _blend(canvas, silhouette(item, size, smooth=True), filling)
        scale = item.size * size / SPRITE
        turn = item.matrix * size / SPRITE
        shift = np.array([item.x, item.y]) * size - turn @ (SPRITE / 2, SPRITE / 2)
        warp = np.column_stack([turn, shift])
        source = item.sprite.lines
        if scale < 0.6:  # halve first: the warp alone would skip pixels
            source = cv2.resize(source, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            warp[:, :2] *= 2
        _blend(canvas, cv2.warpAffine(source, warp, (size, size), flags=cv2.INTER_LINEAR), lines)
    image = Image.fromarray(canvas.round().astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for text in scene.texts:
        font = _font(round(text.size * size))
        pen.text((text.x * size, text.y * size), text.text, font=font, fill=text.color, anchor="lm")
    return image


def draw_background(scene: Scene, size: int, rng: np.random.Generator) -> np.ndarray:
    """[size, size, 3] float32, 0 to 255."""
    base = np.array(BACKGROUNDS[scene.background], np.float32) + rng.uniform(-8, 8, 3)
    canvas = np.broadcast_to(base, (size, size, 3)).astype(np.float32)
    if scene.ground == "shaded":
        turn, depth = rng.uniform(0, 2 * np.pi), rng.uniform(15, 35)
        y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
        canvas += (depth / 2 * (np.cos(turn) * x + np.sin(turn) * y))[..., None]
    elif scene.ground == "noisy":
        grain = rng.normal(0, rng.uniform(4, 10), (64, 64, 3)).astype(np.float32)
        canvas += cv2.resize(grain, (size, size), interpolation=cv2.INTER_LINEAR)
    return np.clip(canvas, 0, 255)


def _blend(canvas: np.ndarray, alpha: np.ndarray, color: np.ndarray) -> None:
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    if len(rows) == 0:
        return
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    weight = alpha[window][..., None].astype(np.float32) / 255
    canvas[window] += weight * (color.astype(np.float32) - canvas[window])


def silhouette(item: Item, size: int, smooth: bool = False) -> np.ndarray:
    """The item's mask [size, size] uint8: 0 or 255, with soft edges if `smooth`."""
    outlines = [outline * size for outline in item.outlines]
    return _fill(outlines, size, cv2.LINE_AA if smooth else cv2.LINE_8)


def crop(item: Item, box: tuple[float, float, float, float], size: int = 64) -> np.ndarray:
    """The item's silhouette as `box` cuts it out, stretched to [size, size]: 0…1, soft edges."""
    corner = np.array(box[:2])
    stretch = size / np.maximum(np.array(box[2:]) - corner, 1e-6)
    outlines = [(outline - corner) * stretch for outline in item.outlines]
    return _fill(outlines, size, cv2.LINE_AA).astype(np.float32) / 255


def _fill(outlines: Sequence[np.ndarray], size: int, line: int) -> np.ndarray:
    """Polygons of (x, y) in pixels, filled together: [size, size] uint8."""
    mask = np.zeros((size, size), np.uint8)
    # pixel centers lie at half numbers; four bits of sub-pixel position
    points = [((outline - 0.5) * 16).round().astype(np.int32) for outline in outlines]
    cv2.fillPoly(mask, points, 255, line, shift=4)
    return mask
