"""Sprites on a canvas: how large and how turned each is, where it finds room, and its pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from paligemma.synthetic.atlas import MARGIN, SIDE, Atlas
from paligemma.synthetic.canvas import Canvas, PlacedSprite, touch
from paligemma.synthetic.restyle import add_rim, main_color, mix, paint_glyph, restyle
from paligemma.synthetic.scene_options import SceneOptions

LEAST_PIXELS = 12  # of a thing that counts as visible
LEAST_VISIBLE = 0.5  # of a thing, below which it is not placed so
GAP = 0.01  # of the side between boxes of things that do not overlap
MOST = (0.6, 0.6, 0.6, 0.5, 0.42, 0.36, 0.34)  # the largest side of one of so many things


@dataclass(frozen=True)
class SpritePlan:
    """How a sprite is to be drawn: `matrix` [2, 2] maps its pixels to fractions of the image."""

    sprite: int
    size: float
    matrix: np.ndarray
    angle: float
    mirrored: bool


def plan_sprites(canvas: Canvas, options: SceneOptions, sprites: Sequence[int]) -> list[SpritePlan]:
    """How each sprite is to be drawn, the largest first: they find room most hardly."""
    low, high = options.sizes
    high = max(low, min(high, MOST[min(len(sprites), 6)]))
    plans = []
    for sprite in sprites:
        usual = max(low, 0.2), min(high, 0.5)
        if usual[0] >= usual[1] or canvas.chance(0.15):
            usual = low, high
        any_angle = canvas.chance(options.any_angle)
        angle = canvas.rng.uniform(-180, 180) if any_angle else canvas.rng.normal(0, 12)
        sheared = canvas.chance(0.5 * options.restyle)
        aspect, shear = canvas.rng.uniform((-0.2, -0.18), (0.2, 0.18)) if sheared else (0, 0)
        mirrored = canvas.chance(0.5)
        matrix = _matrix(angle, aspect, shear, mirrored, canvas.stretch)
        size = float(canvas.rng.uniform(*usual))
        plans.append(SpritePlan(sprite, size, matrix, float(angle), mirrored))
    return sorted(plans, key=lambda plan: -plan.size)


def place_sprite(canvas: Canvas, options: SceneOptions, atlas: Atlas, plan: SpritePlan) -> None:
    """Find a place for the sprite, smaller at every try, and draw it; or leave it out."""
    overlapping = canvas.chance(options.overlaps)
    at_border = overlapping and canvas.chance(0.5)
    x1, y1, x2, y2 = (v - SIDE / 2 for v in atlas.sprites[plan.sprite].box)
    corners = plan.matrix @ np.array([[x1, x2, x2, x1], [y1, y1, y2, y2]])
    (left, top), (right, bottom) = corners.min(1).tolist(), corners.max(1).tolist()
    gap = GAP * canvas.size
    others = [p.edges.tolist() for p in canvas.placed]
    for attempt, (u, v) in enumerate(canvas.rng.random((24, 2)).tolist()):
        scale = canvas.size * max(plan.size * (1 - 0.02 * attempt), options.sizes[0])
        width, height = scale * (right - left), scale * (bottom - top)
        edge = -0.3 * min(width, height) if at_border else 1.0
        x = edge + u * (canvas.size - width - 2 * edge)
        y = edge + v * (canvas.size - height - 2 * edge)
        box = (x, y, x + width, y + height)
        if canvas.size < max(width, height) + 2 * edge:
            continue
        if any(touch(box, other, gap) for other in canvas.taken):
            continue
        if not overlapping and any(touch(box, other, gap) for other in others):
            continue
        centre = np.array([x - scale * left, y - scale * top])
        if _draw(canvas, options, atlas, plan, scale * plan.matrix, centre, box):
            return


def _draw(
    canvas: Canvas,
    options: SceneOptions,
    atlas: Atlas,
    plan: SpritePlan,
    matrix: np.ndarray,
    centre: np.ndarray,
    box: tuple[float, ...],
) -> bool:
    """Draw the sprite around `centre`, unless too much of it or of another thing is hidden.
    `matrix` [2, 2] maps its pixels, from the middle, to those of the image."""
    record = atlas.sprites[plan.sprite]
    is_glyph = record.style == "glyph"
    pad = max(4, canvas.size // 40)  # for rim and shadow
    left, top = (int(np.floor(v)) - pad for v in box[:2])
    width, height = (int(np.ceil(box[n + 2])) + pad - (left, top)[n] for n in (0, 1))
    sprite = np.asarray(atlas.pixels[plan.sprite])
    patch = _warp(sprite, matrix, centre - (left, top), (width, height))
    # the part of the patch that lies in the image
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + width, canvas.size), min(top + height, canvas.size)
    window = np.s_[y1:y2, x1:x2]
    cut = np.s_[y1 - top : y2 - top, x1 - left : x2 - left]
    ground = canvas.pixels[window][::3, ::3].mean((0, 1))
    if is_glyph:
        colors, alpha, mask, color = paint_glyph(canvas.rng, patch, ground)
    else:
        colors, alpha = restyle(
            canvas.rng,
            np.ascontiguousarray(patch[..., :3]).astype(np.float32),
            np.ascontiguousarray(patch[..., 3]),
            options.restyle,
        )
        color = main_color(colors, alpha)
        mask = alpha
        edge = (alpha > 100) & (cv2.erode(alpha, np.ones((3, 3), np.uint8)) < 200)
        rim = colors[edge].mean(0) if edge.any() else ground
        if float(np.abs(rim - ground).max()) < 40 and canvas.chance(0.75):
            light = (250, 250, 250) if ground.mean() < 150 else (30, 30, 30)
            colors, alpha = add_rim(colors, alpha, 1, light)
            mask = alpha
    solid = mask > 127
    whole = float(solid.sum())
    shown = solid[cut]
    if whole < LEAST_PIXELS or shown.sum() < LEAST_VISIBLE * whole:
        return False
    covered = canvas.owners[window][shown]
    if covered.any():
        left_over = canvas.count_pixels() - np.bincount(covered, minlength=len(canvas.placed) + 1)
        wholes = (placed.whole for placed in canvas.placed)
        if any(n < LEAST_VISIBLE * all_ for n, all_ in zip(left_over[1:], wholes, strict=True)):
            return False
    target = canvas.pixels[window]
    if canvas.chance(0.3 if not is_glyph else 0.1):
        _draw_shadow(canvas, alpha, left, top)
    target[:] = mix(target, colors[cut], alpha[cut])
    canvas.owners[window][shown] = len(canvas.placed) + 1
    edges = _edges(mask) + np.array([left, top, left, top])
    canvas.placed.append(
        PlacedSprite(
            atlas.kind_numbers[record.kind],
            record.artist,
            color,
            edges,
            whole,
            plan.angle,
            plan.mirrored,
        )
    )
    return True


def _draw_shadow(canvas: Canvas, alpha: np.ndarray, left: int, top: int) -> None:
    """Darken the canvas beside the thing that is about to be drawn."""
    reach = max(1, round(max(alpha.shape) * 0.05))
    dx, dy = canvas.rng.integers(-reach, reach + 1, 2).tolist()
    dy = abs(dy)
    soft = cv2.blur(alpha, (2 * reach + 1, 2 * reach + 1))
    left, top = left + dx, top + dy
    x1, y1 = max(left, 0), max(top, 0)
    x2 = min(left + alpha.shape[1], canvas.size)
    y2 = min(top + alpha.shape[0], canvas.size)
    if x1 < x2 and y1 < y2:
        depth = np.float32(canvas.rng.uniform(0.2, 0.55) / 255)
        part = soft[y1 - top : y2 - top, x1 - left : x2 - left][..., None]
        canvas.pixels[y1:y2, x1:x2] *= 1 - depth * part


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
