"""A scene of the drawn world by its seed: an image, and everything that there is to say about it.

    atlas = load_atlas(stickers_cache() / "atlas")
    image, scene = compose(seed, atlas)        # [160, 160, 3] uint8, ComposedScene

A scene is up to six things and up to two blocks of words on a ground. Everything about it is
a function of the seed, the options and the atlas. Coordinates are fractions of the image's sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np

from paligemma.synthetic import fonts, grounds
from paligemma.synthetic.atlas import MARGIN, SIDE, Atlas
from paligemma.synthetic.kinds import Kind, all_kinds
from paligemma.synthetic.restyle import add_rim, main_color, mix, paint_glyph, restyle
from paligemma.synthetic.words import random_line

Box = tuple[float, float, float, float]

LEAST_VISIBLE = 0.5  # of a thing, below which it is not placed so
LEAST_PIXELS = 12  # of a thing that counts as visible
GAP = 0.01  # of the side between boxes of things that do not overlap
COUNTS = (0.04, 0.2, 0.25, 0.22, 0.15, 0.09, 0.05)  # of zero to six things
# Letters come in these sizes alone, so that each is drawn once.
_TEXT_SIZES = np.array([9, 10, 11, 12, 13, 15, 17, 19, 22, 25, 28, 32, 36, 42, 50, 60, 72, 90])
MOST = (0.6, 0.6, 0.6, 0.5, 0.42, 0.36, 0.34)  # the largest side of one of so many things


@dataclass(frozen=True)
class SceneObject:
    """One thing in a scene.

    `box` (x1, y1, x2, y2) is tight around what is visible of it, `visible` that share of it, and
    `area` that part of the image. `color` is a word of `restyle.COLORS`, or "" for a thing of
    several colours. `angle` is in degrees, clockwise. Objects are in order from back to front.
    """

    name: str
    number: int
    artist: str
    color: str
    box: Box
    visible: float
    area: float
    angle: float
    mirrored: bool

    @property
    def kind(self) -> Kind:
        """The line of the table of kinds."""
        return all_kinds()[self.number]

    @property
    def centre(self) -> tuple[float, float]:
        x1, y1, x2, y2 = self.box
        return (x1 + x2) / 2, (y1 + y2) / 2


@dataclass(frozen=True)
class SceneText:
    """One written line: `character_boxes` (x1, y1, x2, y2), one a character, spaces too."""

    text: str
    font: str
    character_boxes: tuple[Box, ...]

    @property
    def box(self) -> Box:
        x1, y1, x2, y2 = np.array(self.character_boxes).T
        return float(x1.min()), float(y1.min()), float(x2.max()), float(y2.max())


@dataclass(frozen=True)
class ComposedScene:
    """`owners` [R, R] uint8 says which thing each pixel shows: n for `objects[n - 1]`, 0 for none.
    `background` is a word of `grounds.GROUND_COLORS`, or "" where no word says it. `texts` are
    from top to bottom. `effects` are the names of what was done to the whole image."""

    seed: int
    background: str
    ground: str
    objects: tuple[SceneObject, ...]
    texts: tuple[SceneText, ...]
    effects: tuple[str, ...]
    owners: np.ndarray = field(repr=False, compare=False)

    def mask(self, number: int) -> np.ndarray:
        """[R, R] bool: where object `number` (from 0) is visible."""
        return self.owners == number + 1

    def mask_crop(self, number: int, box: Box, size: int = 64) -> np.ndarray:
        """[size, size] float32, 0 to 1: what `box` cuts out of object `number`'s mask, stretched,
        as a mask codec takes it."""
        side = len(self.owners)
        x1, y1, x2, y2 = (v * side for v in box)
        across, down = max(x2 - x1, 1e-6) / size, max(y2 - y1, 1e-6) / size
        # from the pixels of the crop to those of the scene; both have their centres at halves
        warp = np.array([[across, 0, x1 + across / 2 - 0.5], [0, down, y1 + down / 2 - 0.5]])
        mask = self.mask(number).astype(np.float32)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(mask, warp, (size, size), flags=flags))


@dataclass(frozen=True)
class SceneOptions:
    """What scenes are like. `artists` None means those for training. `counts` are the chances of
    zero, one, two … things. `restyle`, `texts` and `effects` are factors of the usual chances.
    `grounds` are weights of `grounds.STYLES`. `kinds` None means all that the atlas has."""

    size: int = 160
    artists: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None
    counts: tuple[float, ...] = COUNTS
    sizes: tuple[float, float] = (0.12, 0.6)
    restyle: float = 1.0
    glyphs: float = 0.22
    texts: float = 1.0
    held_out_fonts: bool = False
    effects: float = 1.0
    overlaps: float = 0.2
    stretch: float = 0.35
    any_angle: float = 0.12
    grounds: tuple[tuple[str, int], ...] = tuple(grounds.STYLES.items())


class Composer:
    """Draws the scene of any seed from an atlas. One a process: it keeps what it has looked up."""

    def __init__(self, atlas: Atlas, options: SceneOptions | None = None) -> None:
        self.atlas, self.options = atlas, options or SceneOptions()
        artists = self.options.artists or atlas.training_artists
        wanted = self.options.kinds
        styles = {sprite.artist: sprite.style for sprite in atlas.sprites}
        # kind: [numbers by artist] in colours, and of glyphs
        self.sprites: dict[str, tuple[list[list[int]], list[list[int]]]] = {}
        for name, by_artist in atlas.by_artist(artists).items():
            if wanted is None or name in wanted:
                groups: dict[str, list[list[int]]] = {"color": [], "glyph": []}
                for artist, numbers in by_artist.items():
                    groups[styles[artist]].append(numbers)
                self.sprites[name] = groups["color"], groups["glyph"]
        if not self.sprites:
            raise ValueError(f"the atlas has nothing by {', '.join(artists)}")
        self.names = tuple(self.sprites)
        self.families = fonts.installed(self.options.held_out_fonts)
        self.weights = dict(self.options.grounds)

    def __call__(self, seed: int) -> tuple[np.ndarray, ComposedScene]:
        return _Drawing(self, seed).finish()

    def sprite(self, number: int) -> np.ndarray:
        return np.asarray(self.atlas.pixels[number])


def compose(seed: int, atlas: Atlas, options: SceneOptions | None = None):
    """The image and `ComposedScene` of one seed; for many, keep a `Composer`."""
    return Composer(atlas, options)(seed)


@dataclass
class _Placed:
    """An object while its scene is drawn: in pixels, not yet covered by later ones."""

    number: int
    artist: str
    color: str
    edges: np.ndarray  # x1, y1, x2, y2 of all of it, in pixels with fractions
    whole: float  # its pixels, those beyond the border too
    angle: float
    mirrored: bool


@dataclass(frozen=True)
class _Plan:
    """How a sprite is to be drawn: `matrix` [2, 2] maps its pixels to fractions of the image."""

    sprite: int
    size: float
    matrix: np.ndarray
    angle: float
    mirrored: bool


class _Drawing:
    """One scene on the way from its seed to its pixels."""

    def __init__(self, composer: Composer, seed: int) -> None:
        self.composer, self.options, self.seed = composer, composer.options, seed
        self.rng = np.random.default_rng(seed)
        self.size = self.options.size
        self.ground = grounds.draw_ground(self.rng, self.size, composer.weights)
        self.canvas = self.ground.pixels
        self.owners = np.zeros((self.size, self.size), np.uint8)
        self.placed: list[_Placed] = []
        self.texts: list[SceneText] = []
        self.taken: list[Box] = []  # by words, which nothing covers; in pixels
        self.effects: list[str] = []
        # a wide or tall page, stretched to a square as every image is
        aspect = np.exp(self.rng.uniform(-0.65, 0.65)) if self._chance(self.options.stretch) else 1
        self.stretch = np.array([min(1, 1 / aspect), min(1, aspect)])

    def _chance(self, chance: float) -> bool:
        return self.rng.random() < chance

    def _pick(self, options: Sequence):
        return options[int(self.rng.integers(len(options)))]

    def finish(self) -> tuple[np.ndarray, ComposedScene]:
        counts = np.cumsum(self.options.counts)
        count = int(np.searchsorted(counts, self.rng.random() * counts[-1], side="right"))
        blocks = int(np.searchsorted((0.5, 0.85), self.rng.random(), side="right"))
        if count == 0 and self._chance(0.7):
            blocks = max(blocks, 1)
        if self.composer.families and self._chance(self.options.texts):
            for _ in range(blocks):
                self._write(large=count < 3)
        for plan in self._plans(self._choose(count)):
            self._place(plan)
        image = self._whole_image()
        return image, ComposedScene(
            seed=self.seed,
            background=self.ground.color,
            ground=self.ground.style,
            objects=self._objects(),
            texts=tuple(sorted(self.texts, key=lambda text: text.box[1])),
            effects=tuple(self.effects),
            owners=self.owners,
        )

    # what is shown

    def _choose(self, count: int) -> list[int]:
        """The numbers of `count` sprites; the same kind comes again now and then, or another of
        its category, so that there is more to count."""
        chosen: list[int] = []
        names: list[str] = []
        kinds = self.composer.names
        for _ in range(count):
            sort = self.rng.random()
            if names and sort < 0.22:
                name = self._pick(names)
                if self._chance(0.6):
                    chosen.append(chosen[names.index(name)])
                    names.append(name)
                    continue
            else:
                name = self._pick(kinds)
                if names and sort < 0.36:
                    categories = _categories()
                    category = categories.get(names[0])
                    for _ in range(30):
                        if category and categories.get(name) == category:
                            break
                        name = self._pick(kinds)
            color, glyph = self.composer.sprites[name]
            artists = glyph if glyph and (not color or self._chance(self.options.glyphs)) else color
            chosen.append(self._pick(self._pick(artists)))
            names.append(name)
        return chosen

    def _plans(self, sprites: Sequence[int]) -> list["_Plan"]:
        """How each sprite is to be drawn, the largest first: they find room most hardly."""
        low, high = self.options.sizes
        high = max(low, min(high, MOST[min(len(sprites), 6)]))
        plans = []
        for sprite in sprites:
            usual = max(low, 0.2), min(high, 0.5)
            if usual[0] >= usual[1] or self._chance(0.15):
                usual = low, high
            any_angle = self._chance(self.options.any_angle)
            angle = self.rng.uniform(-180, 180) if any_angle else self.rng.normal(0, 12)
            sheared = self._chance(0.5 * self.options.restyle)
            aspect, shear = self.rng.uniform((-0.2, -0.18), (0.2, 0.18)) if sheared else (0, 0)
            mirrored = self._chance(0.5)
            matrix = _matrix(angle, aspect, shear, mirrored, self.stretch)
            size = float(self.rng.uniform(*usual))
            plans.append(_Plan(sprite, size, matrix, float(angle), mirrored))
        return sorted(plans, key=lambda plan: -plan.size)

    def _place(self, plan: "_Plan") -> None:
        """Find a place for the sprite, smaller at every try, and draw it; or leave it out."""
        overlapping = self._chance(self.options.overlaps)
        at_border = overlapping and self._chance(0.5)
        x1, y1, x2, y2 = (v - SIDE / 2 for v in self.composer.atlas.sprites[plan.sprite].box)
        corners = plan.matrix @ np.array([[x1, x2, x2, x1], [y1, y1, y2, y2]])
        (left, top), (right, bottom) = corners.min(1).tolist(), corners.max(1).tolist()
        gap = GAP * self.size
        others = [p.edges.tolist() for p in self.placed]
        for attempt, (u, v) in enumerate(self.rng.random((24, 2)).tolist()):
            scale = self.size * max(plan.size * (1 - 0.02 * attempt), self.options.sizes[0])
            width, height = scale * (right - left), scale * (bottom - top)
            edge = -0.3 * min(width, height) if at_border else 1.0
            x = edge + u * (self.size - width - 2 * edge)
            y = edge + v * (self.size - height - 2 * edge)
            box = (x, y, x + width, y + height)
            if self.size < max(width, height) + 2 * edge:
                continue
            if any(_touch(box, other, gap) for other in self.taken):
                continue
            if not overlapping and any(_touch(box, other, gap) for other in others):
                continue
            centre = np.array([x - scale * left, y - scale * top])
            if self._draw(plan, scale * plan.matrix, centre, box):
                return

    def _draw(
        self, plan: "_Plan", matrix: np.ndarray, centre: np.ndarray, box: tuple[float, ...]
    ) -> bool:
        """Draw the sprite around `centre`, unless too much of it or of another thing is hidden.
        `matrix` [2, 2] maps its pixels, from the middle, to those of the image."""
        record = self.composer.atlas.sprites[plan.sprite]
        is_glyph = record.style == "glyph"
        pad = 4
        left, top = (int(np.floor(v)) - pad for v in box[:2])
        width, height = (int(np.ceil(box[n + 2])) + pad - (left, top)[n] for n in (0, 1))
        patch = _warp(
            self.composer.sprite(plan.sprite), matrix, centre - (left, top), (width, height)
        )
        # the part of the patch that lies in the image
        x1, y1 = max(left, 0), max(top, 0)
        x2, y2 = min(left + width, self.size), min(top + height, self.size)
        window = np.s_[y1:y2, x1:x2]
        cut = np.s_[y1 - top : y2 - top, x1 - left : x2 - left]
        ground = self.canvas[window][::3, ::3].mean((0, 1))
        if is_glyph:
            colors, alpha, mask, color = paint_glyph(self.rng, patch, ground)
        else:
            colors, alpha = restyle(
                self.rng,
                np.ascontiguousarray(patch[..., :3]).astype(np.float32),
                np.ascontiguousarray(patch[..., 3]),
                self.options.restyle,
            )
            color = main_color(colors, alpha)
            mask = alpha
            edge = (alpha > 100) & (cv2.erode(alpha, np.ones((3, 3), np.uint8)) < 200)
            rim = colors[edge].mean(0) if edge.any() else ground
            if float(np.abs(rim - ground).max()) < 40 and self._chance(0.75):
                light = (250, 250, 250) if ground.mean() < 150 else (30, 30, 30)
                colors, alpha = add_rim(colors, alpha, 1, light)
                mask = alpha
        solid = mask > 127
        whole = float(solid.sum())
        shown = solid[cut]
        if whole < LEAST_PIXELS or shown.sum() < LEAST_VISIBLE * whole:
            return False
        covered = self.owners[window][shown]
        if covered.any():
            lost = np.bincount(covered, minlength=len(self.placed) + 1)[1:]
            left_over = (
                np.bincount(np.asarray(self.owners).ravel(), minlength=len(self.placed) + 1)[1:]
                - lost
            )
            if any(
                n < LEAST_VISIBLE * p.whole for n, p in zip(left_over, self.placed, strict=True)
            ):
                return False
        target = self.canvas[window]
        if self._chance(0.3 if not is_glyph else 0.1):
            self._shadow(alpha, left, top)
        target[:] = mix(target, colors[cut], alpha[cut])
        self.owners[window][shown] = len(self.placed) + 1
        edges = _edges(mask) + np.array([left, top, left, top])
        self.placed.append(
            _Placed(
                self.composer.atlas.kind_numbers[record.kind],
                record.artist,
                color,
                edges,
                whole,
                plan.angle,
                plan.mirrored,
            )
        )
        return True

    def _shadow(self, alpha: np.ndarray, left: int, top: int) -> None:
        """Darken the canvas beside the thing that is about to be drawn."""
        reach = max(1, round(max(alpha.shape) * 0.05))
        dx, dy = self.rng.integers(-reach, reach + 1, 2).tolist()
        dy = abs(dy)
        soft = cv2.blur(alpha, (2 * reach + 1, 2 * reach + 1))
        left, top = left + dx, top + dy
        x1, y1 = max(left, 0), max(top, 0)
        x2 = min(left + alpha.shape[1], self.size)
        y2 = min(top + alpha.shape[0], self.size)
        if x1 < x2 and y1 < y2:
            depth = np.float32(self.rng.uniform(0.2, 0.55) / 255)
            part = soft[y1 - top : y2 - top, x1 - left : x2 - left][..., None]
            self.canvas[y1:y2, x1:x2] *= 1 - depth * part

    # words

    def _write(self, large: bool) -> None:
        """One line, or two below each other, in one font."""
        rng = self.rng
        family = self._pick(self.composer.families)
        file = self._pick(family.files)
        lines = [random_line(rng, family.accents) for _ in range(1 + self._chance(0.25))]
        for attempt in range(8):
            high = (0.26 if large else 0.18) - 0.015 * attempt
            side = self.size * rng.uniform(min(0.09, high), high)
            pixels = _TEXT_SIZES[side >= _TEXT_SIZES].max(initial=9)
            masks = [_text_mask(file, int(pixels), line, self.stretch) for line in lines]
            pitch = round(1.15 * pixels * self.stretch[1])
            width = max(mask.shape[1] for mask, _ in masks)
            height = pitch * (len(lines) - 1) + masks[-1][0].shape[0]
            room = np.array([self.size - width - 4, self.size - height - 4])
            if (room < 0).any():
                continue
            x, y = (2 + rng.random(2) * room).astype(int).tolist()
            box = (x - 2, y - 2, x + width + 2, y + height + 2)
            if any(_touch(box, other, 0) for other in self.taken):
                continue
            self.taken.append(box)
            ink = self._plate(box)
            centred = self._chance(0.5)
            for n, (line, (mask, ends)) in enumerate(zip(lines, masks, strict=True)):
                left = x + ((width - mask.shape[1]) // 2 if centred else 0)
                self._letters(line, family.name, mask, ends, left, y + n * pitch, ink)
            return

    def _plate(self, box: tuple[int, int, int, int]) -> np.ndarray:
        """The colour of letters that are read well in `box`; a plate behind them if needed."""
        x1, y1, x2, y2 = (max(0, v) for v in box)
        part = self.canvas[y1:y2, x1:x2]
        mean, spread = part.mean((0, 1)), float(part.std((0, 1)).max())
        rng = self.rng
        if spread > 26 or self._chance(0.12):
            mean = rng.uniform(0, 255, 3).astype(np.float32)
            strength = np.float32(rng.uniform(0.8, 1) if spread > 26 else 1)
            part += strength * (mean - part)
        for _ in range(12):
            ink = rng.uniform(0, 255, 3).astype(np.float32)
            if self._chance(0.4):
                ink = np.array([20, 20, 20] if mean.mean() > 128 else [245, 245, 245], np.float32)
            if abs(float((ink - mean) @ np.array([0.3, 0.59, 0.11], np.float32))) > 85:
                return ink
        return np.array([10, 10, 10] if mean.mean() > 128 else [250, 250, 250], np.float32)

    def _letters(
        self,
        line: str,
        font: str,
        mask: np.ndarray,
        ends: np.ndarray,
        left: int,
        top: int,
        ink: np.ndarray,
    ) -> None:
        height, width = mask.shape
        bottom, right = min(top + height, self.size), min(left + width, self.size)
        mask = mask[: bottom - top, : right - left]
        part = self.canvas[top:bottom, left:right]
        part[:] = mix(part, ink, mask)
        rows = np.flatnonzero(mask.max(1) > 60)
        y1, y2 = (rows[0], rows[-1] + 1) if len(rows) else (0, height)
        boxes = tuple(
            (
                float(left + a) / self.size,
                float(top + y1) / self.size,
                float(left + b) / self.size,
                float(top + y2) / self.size,
            )
            for a, b in pairwise(ends)
        )
        self.texts.append(SceneText(line, font, boxes))

    # the whole image

    def _whole_image(self) -> np.ndarray:
        rng, chance = self.rng, self.options.effects
        image = np.clip(self.canvas, 0, 255).astype(np.uint8)
        if self._chance(0.06 * chance):
            image = self._photograph(image)
        if self._chance(0.14 * chance):
            self.effects.append("blur")
            image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.4)) * self.size / 160)
        if self._chance(0.16 * chance):
            self.effects.append("contrast")
            contrast = float(rng.uniform(0.4, 1.1))
            light = float(rng.uniform(-30, 30)) + (1 - contrast) * 128
            image = cv2.addWeighted(image, contrast, image, 0, light)
        if self._chance(0.08 * chance):
            self.effects.append("cast")
            cast = rng.uniform(0.8, 1.1, 3).astype(np.float32)
            image = np.clip(image * cast, 0, 255).astype(np.uint8)
        if self._chance(0.1 * chance):
            self.effects.append("noise")
            grain = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(3, 16))
            image = np.clip(image + grain, 0, 255).astype(np.uint8)
        if self._chance(0.25 * chance):
            self.effects.append("jpeg")
            quality = int(rng.integers(10, 85))
            data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
        return image

    def _photograph(self, image: np.ndarray) -> np.ndarray:
        """The image on a screen, photographed: in perspective, with moiré and uneven light."""
        self.effects.append("screen")
        rng, size = self.rng, self.size
        corners = np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float32)
        moved = corners + rng.uniform(-0.08, 0.08, (4, 2)).astype(np.float32) * size
        moved = (moved - size / 2) * np.float32(rng.uniform(0.85, 1)) + size / 2
        warp = cv2.getPerspectiveTransform(corners, moved)
        frame = rng.integers(0, 120, 3).tolist()
        image = cv2.warpPerspective(image, warp, (size, size), borderValue=frame)
        owners = cv2.warpPerspective(self.owners, warp, (size, size), flags=cv2.INTER_NEAREST)
        self.owners = np.asarray(owners, np.uint8)
        for placed in self.placed:
            placed.edges = _warped_box(placed.edges, warp)
            placed.whole *= float(np.linalg.det(warp[:2, :2]))
        self.texts = [
            replace(
                text,
                character_boxes=tuple(
                    tuple((_warped_box(np.array(box) * size, warp) / size).tolist())
                    for box in text.character_boxes
                ),
            )
            for text in self.texts
        ]
        period, turn = rng.uniform(2.2, 7), rng.uniform(0, np.pi)
        line = np.arange(size, dtype=np.float32) * np.float32(2 * np.pi / period)
        across, down = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        moire = np.sin((line * across)[None] + (line * down)[:, None])
        start, end = rng.uniform(0.7, 1.15, 2).tolist()
        light = np.linspace(start, end, size, dtype=np.float32)
        gain = light[None] * (1 + np.float32(rng.uniform(0.02, 0.1)) * moire)
        return np.clip(image * gain[..., None], 0, 255).astype(np.uint8)

    # the labels

    def _objects(self) -> tuple[SceneObject, ...]:
        """The placed things, as far as they are still visible; `owners` is renumbered if some
        are not."""
        size, objects, kept = self.size, [], []
        counts = np.bincount(np.asarray(self.owners).ravel(), minlength=len(self.placed) + 1)
        for number, placed in enumerate(self.placed, 1):
            count = int(counts[number])
            if count < LEAST_PIXELS:
                continue
            x, y, width, height = cv2.boundingRect((self.owners == number).view(np.uint8))
            seen = np.array([x, y, x + width, y + height], float)
            # where nothing hides an edge, it is known more finely than by whole pixels
            edges = np.where(np.abs(placed.edges - seen) <= 1.5, placed.edges, seen)
            box = np.clip(edges / size, 0, 1)
            kept.append(number)
            objects.append(
                SceneObject(
                    name=self.composer.atlas.kinds[placed.number],
                    number=placed.number,
                    artist=placed.artist,
                    color=placed.color,
                    box=tuple(box.tolist()),
                    visible=min(1.0, count / max(placed.whole, 1)),
                    area=count / size**2,
                    angle=placed.angle,
                    mirrored=placed.mirrored,
                )
            )
        if len(kept) < len(self.placed):
            numbers = np.zeros(len(self.placed) + 1, np.uint8)
            numbers[kept] = np.arange(1, len(kept) + 1)
            self.owners = numbers[self.owners]
        return tuple(objects)


@lru_cache(maxsize=1)
def _categories() -> dict[str, str]:
    return {kind.name: kind.category for kind in all_kinds()}


def _matrix(
    angle: float, aspect: float, shear: float, mirrored: bool, stretch: np.ndarray
) -> np.ndarray:
    """[2, 2]: a sprite's pixels to the unit in which its larger side is 1 before it turns."""
    turn = np.radians(angle)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    shape = np.array([[np.exp(aspect / 2), shear], [0, np.exp(-aspect / 2)]])
    flip = np.diag([-1.0 if mirrored else 1.0, 1.0])
    return np.diag(stretch) @ rotation @ shape @ flip / (SIDE - 2 * MARGIN)


def _warp(
    sprite: np.ndarray, matrix: np.ndarray, centre: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """The sprite [SIDE, SIDE, 4] uint8 mapped into (width, height), its middle at `centre`."""
    while np.sqrt(abs(np.linalg.det(matrix))) < 0.6:  # halve first: the warp would skip pixels
        half = len(sprite) // 2
        sprite = cv2.resize(sprite, (half, half), interpolation=cv2.INTER_AREA)
        matrix = matrix * 2
    middle = len(sprite) / 2 - 0.5
    shift = centre - 0.5 - matrix @ (middle, middle)
    warp = np.column_stack([matrix, shift])
    return cv2.warpAffine(sprite, warp, size, flags=cv2.INTER_LINEAR)


def _touch(box: Sequence[float], other: Sequence[float], gap: float) -> bool:
    return not (
        box[2] + gap < other[0]
        or other[2] + gap < box[0]
        or box[3] + gap < other[1]
        or other[3] + gap < box[1]
    )


def _edges(mask: np.ndarray) -> np.ndarray:
    """(x1, y1, x2, y2) of a soft mask [h, w] uint8 in pixels; the outermost row or column counts
    by as much as it is covered."""
    columns, rows = mask.max(0) / 255.0, mask.max(1) / 255.0
    ends = []
    for profile in (columns, rows):
        inside = np.flatnonzero(profile > 0.12)
        first, last = int(inside[0]), int(inside[-1])
        ends.append((first + 1 - profile[first], last + profile[last]))
    (x1, x2), (y1, y2) = ends
    return np.array([x1, y1, x2, y2])


def _warped_box(box: np.ndarray, warp: np.ndarray) -> np.ndarray:
    """The box around a box [4] whose corners go through the perspective `warp` [3, 3]."""
    x1, y1, x2, y2 = box
    corners = np.array([[[x1, y1], [x2, y1], [x2, y2], [x1, y2]]], np.float32)
    moved = cv2.perspectiveTransform(corners, warp)[0]
    return np.concatenate([moved.min(0), moved.max(0)]).astype(float)


@lru_cache(maxsize=60_000)
def _character(file: str, pixels: int, character: str) -> tuple[np.ndarray, int, int, int]:
    """A character in ink [h, w] uint8, where its corner lies from the pen, and its advance."""
    font = fonts.load_word_font(file, pixels)
    core, (dx, dy) = font.getmask2(character, mode="L", anchor="ls")
    width, height = core.size
    ink = np.asarray(core, np.uint8).reshape(height, width)
    return ink, dx, dy, round(font.getlength(character))


def _text_mask(
    file: str, pixels: int, line: str, stretch: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(ink [h, w] uint8, the ends [len(line) + 1] of the characters in pixels), stretched."""
    drawn = [_character(file, pixels, character) for character in line]
    pens = np.cumsum([0, *(advance for *_, advance in drawn)])
    width, height = int(pens[-1]) + pixels, 2 * pixels
    ink = np.zeros((height, width), np.uint8)
    left = pixels // 2  # room for what hangs out
    for (mask, dx, dy, _), pen in zip(drawn, pens.tolist(), strict=False):
        x, y = max(0, left + pen + dx), max(0, 3 * pixels // 2 + dy)
        target = ink[y : y + mask.shape[0], x : x + mask.shape[1]]
        np.maximum(target, mask[: target.shape[0], : target.shape[1]], out=target)
    x, y, width, height = cv2.boundingRect(ink)
    if not width:
        return np.zeros((1, 1), np.uint8), np.zeros(len(line) + 1)
    ink, ends = ink[y : y + height, x : x + width], pens + left - x
    if (stretch != 1).any():
        size = (max(1, round(width * stretch[0])), max(1, round(height * stretch[1])))
        ink, ends = cv2.resize(ink, size, interpolation=cv2.INTER_AREA), ends * stretch[0]
    return ink, np.clip(ends, 0, ink.shape[1])
