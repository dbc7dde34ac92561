"""What lies behind the things of a scene: plain, shaded, noisy, textured and cluttered grounds."""

from dataclasses import dataclass

import cv2
import numpy as np

from paligemma.synthetic.scenes import BACKGROUNDS

# The colour words of grounds, which a caption may name.
GROUND_COLORS = {
    **BACKGROUNDS,
    "red": (205, 45, 45),
    "orange": (245, 150, 50),
    "yellow": (250, 225, 90),
    "green": (75, 160, 80),
    "blue": (80, 140, 225),
    "purple": (130, 75, 170),
    "pink": (250, 175, 205),
    "brown": (120, 80, 50),
}
STYLES = {"plain": 26, "shaded": 18, "noisy": 10, "gradient": 8, "texture": 18, "clutter": 20}
NAMED = ("plain", "shaded", "noisy")  # the styles whose colour has one word


@dataclass(frozen=True)
class Ground:
    """`pixels` float32 [R, R, 3], `style` of STYLES, and `color` of GROUND_COLORS, or ""."""

    pixels: np.ndarray
    style: str
    color: str


def draw_ground(
    rng: np.random.Generator, size: int, styles: dict[str, int] | None = None
) -> Ground:
    """A ground of `size` × `size` pixels; `styles` are the weights of its styles."""
    weights = styles or STYLES
    style = list(weights)[
        int(np.searchsorted(np.cumsum([*weights.values()]), _below(rng, weights)))
    ]
    names = list(GROUND_COLORS)
    # half of the time one of the six of old, which are light, dark or in between
    color = names[int(rng.integers(6 if rng.random() < 0.5 else len(names)))]
    base = np.array(GROUND_COLORS[color], np.float32) + rng.uniform(-9, 9, 3).astype(np.float32)
    pixels = _between(np.zeros((size, size), np.float32), base, base)
    if style == "shaded":
        pixels = _between(_slope(rng, size, float(rng.uniform(8, 18))), base, base + 1)
    elif style == "noisy":
        grain = rng.standard_normal((64, 64, 3), np.float32) * np.float32(rng.uniform(4, 10))
        pixels += cv2.resize(grain, (size, size), interpolation=cv2.INTER_LINEAR)
    elif style == "gradient":
        pixels = _between(_slope(rng, size, 0.5) + 0.5, base, _any_color(rng))
    elif style == "texture":
        pixels = _texture(rng, size, base)
    elif style == "clutter":
        if rng.random() < 0.5:
            pixels = _texture(rng, size, base)
        pixels = draw_clutter(rng, pixels)
    return Ground(np.clip(pixels, 0, 255), style, color if style in NAMED else "")


def _below(rng: np.random.Generator, weights: dict[str, int]) -> float:
    return float(rng.random()) * sum(weights.values())


def _any_color(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0, 255, 3).astype(np.float32)


def _between(weight: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[size, size, 3]: the colour `first` [3] where `weight` is 0, `second` where it is 1."""
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    return cv2.merge([(a + weight * (b - a)).astype(np.float32) for a, b in pairs])


def _slope(rng: np.random.Generator, size: int, depth: float) -> np.ndarray:
    """[size, size] from about -depth to depth in a random direction."""
    turn = rng.uniform(0, 2 * np.pi)
    line = np.linspace(-depth, depth, size, dtype=np.float32)
    across, down = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    return (line * across)[None] + (line * down)[:, None]


def _texture(rng: np.random.Generator, size: int, base: np.ndarray) -> np.ndarray:
    """Two colours mixed by stripes, checks, dots, waves, blobs or grain."""
    if rng.random() < 0.6:
        other = base + rng.uniform(-55, 55, 3).astype(np.float32)
    else:
        other = _any_color(rng)
    sort = int(rng.integers(7))
    if sort < 4:
        period = float(rng.uniform(0.06, 0.3)) * size
        turn = rng.uniform(0, np.pi)
        line = np.arange(size, dtype=np.float32) * np.float32(2 * np.pi / period)
        across, down = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        u = (line * across)[None] + (line * down)[:, None]
        if sort == 0:  # stripes
            weight = np.sin(u)
        elif sort == 1:  # checks
            weight = np.sin(u) * np.sin((line * -down)[None] + (line * across)[:, None])
        elif sort == 2:  # dots
            weight = np.sin(u) + np.sin((line * -down)[None] + (line * across)[:, None]) - 0.9
        else:  # waves
            weight = np.sin(u + 1.5 * np.sin(line * np.float32(0.5))[:, None])
        sharpness = np.float32(rng.choice((1.0, 3.0, 8.0)))
        weight = np.clip(weight * sharpness, -1, 1) * 0.5 + 0.5
    elif sort < 6:  # blobs, coarse to fine
        weight = np.zeros((size, size), np.float32)
        cells, height = int(rng.integers(3, 7)), 0.5
        for _ in range(3):
            grid = rng.standard_normal((cells, cells), np.float32) * np.float32(height)
            weight += cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
            cells, height = cells * 3, height * 0.55
        weight = np.clip(weight + 0.5, 0, 1)
    else:  # grain along one direction, like wood
        grid = rng.random((size // 2, 5), np.float32)
        weight = cv2.resize(grid, (size, size), interpolation=cv2.INTER_LINEAR)
        weight = weight.T if rng.random() < 0.5 else weight
    return _between(weight, base, other)


def draw_clutter(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """Small shapes and lines over the ground that are no things."""
    canvas = np.ascontiguousarray(np.clip(pixels, 0, 255).astype(np.uint8))
    size = len(canvas)
    number = int(rng.integers(6, 36))
    shades = rng.integers(0, 256, (number, 3))
    if rng.random() < 0.5:  # faint
        shades = (0.35 * shades + 0.65 * canvas.mean((0, 1))).astype(int)
    sorts = rng.integers(0, 5, number)
    points = rng.integers(0, size, (number, 2))
    reach = rng.uniform(0.02, 0.11, number) * size
    moves = (rng.uniform(-3, 3, (number, 2)) * reach[:, None]).astype(int)
    thick = rng.integers(1, 4, number)
    for sort, point, move, far, width, shade in zip(
        sorts.tolist(),
        points.tolist(),
        moves.tolist(),
        reach.tolist(),
        thick.tolist(),
        shades.tolist(),
        strict=True,
    ):
        x, y = point
        end = (x + move[0], y + move[1])
        if sort == 0:
            cv2.line(canvas, (x, y), end, shade, width, cv2.LINE_AA)
        elif sort == 1:
            cv2.circle(canvas, (x, y), int(far / 2) + 1, shade, cv2.FILLED, cv2.LINE_AA)
        elif sort == 2:
            cv2.rectangle(canvas, (x, y), (x + int(far) + 1, y + abs(move[1]) // 3 + 1), shade, -1)
        elif sort == 3:
            corners = np.array([[x, y], end, (x + int(far), y - int(far))], np.int32)
            cv2.fillPoly(canvas, [corners], shade, cv2.LINE_AA)
        else:
            axes = (int(far) + 1, int(far / 2) + 1)
            cv2.ellipse(
                canvas, (x, y), axes, move[0], 0, 90 + 20 * width, shade, width, cv2.LINE_AA
            )
    return canvas.astype(np.float32)
