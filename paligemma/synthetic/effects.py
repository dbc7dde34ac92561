"""What is done to a whole image: blur, contrast, noise, JPEG, a photograph of a screen."""

from dataclasses import replace

import cv2
import numpy as np

from paligemma.synthetic.canvas import Canvas


def apply_effects(canvas: Canvas, factor: float) -> np.ndarray:
    """The image [R, R, 3] uint8; `factor` multiplies the usual chance of each effect."""
    image = np.clip(canvas.pixels, 0, 255).astype(np.uint8)
    if canvas.chance(0.06 * factor):
        image = _photograph(canvas, image)
    image, names = degrade(canvas.rng, image, factor)
    canvas.effects += names
    return image


def degrade(
    rng: np.random.Generator, image: np.ndarray, factor: float
) -> tuple[np.ndarray, list[str]]:
    """The image [R, R, 3] uint8 after those effects that leave all things where they are, and the
    names of what was done."""
    names: list[str] = []
    if rng.random() < 0.14 * factor:
        names.append("blur")
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.4)) * len(image) / 160)
    if rng.random() < 0.16 * factor:
        names.append("contrast")
        contrast = float(rng.uniform(0.4, 1.1))
        light = float(rng.uniform(-30, 30)) + (1 - contrast) * 128
        image = cv2.addWeighted(image, contrast, image, 0, light)
    if rng.random() < 0.08 * factor:
        names.append("cast")
        cast = rng.uniform(0.8, 1.1, 3).astype(np.float32)
        image = np.clip(image * cast, 0, 255).astype(np.uint8)
    if rng.random() < 0.1 * factor:
        names.append("noise")
        grain = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(3, 16))
        image = np.clip(image + grain, 0, 255).astype(np.uint8)
    if rng.random() < 0.25 * factor:
        names.append("jpeg")
        quality = int(rng.integers(10, 85))
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return image, names


def _photograph(canvas: Canvas, image: np.ndarray) -> np.ndarray:
    """The image on a screen, photographed: in perspective, with moiré and uneven light."""
    canvas.effects.append("screen")
    rng, size = canvas.rng, canvas.size
    corners = np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float32)
    moved = corners + rng.uniform(-0.08, 0.08, (4, 2)).astype(np.float32) * size
    moved = (moved - size / 2) * np.float32(rng.uniform(0.85, 1)) + size / 2
    warp = cv2.getPerspectiveTransform(corners, moved)
    frame = rng.integers(0, 120, 3).tolist()
    image = cv2.warpPerspective(image, warp, (size, size), borderValue=frame)
    owners = cv2.warpPerspective(canvas.owners, warp, (size, size), flags=cv2.INTER_NEAREST)
    canvas.owners = np.asarray(owners, np.uint8)
    for placed in canvas.placed:
        placed.edges = _warped_box(placed.edges, warp)
        placed.whole *= float(np.linalg.det(warp[:2, :2]))
    canvas.texts = [
        replace(
            text,
            character_boxes=tuple(
                tuple((_warped_box(np.array(box) * size, warp) / size).tolist())
                for box in text.character_boxes
            ),
        )
        for text in canvas.texts
    ]
    period, turn = rng.uniform(2.2, 7), rng.uniform(0, np.pi)
    line = np.arange(size, dtype=np.float32) * np.float32(2 * np.pi / period)
    across, down = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    moire = np.sin((line * across)[None] + (line * down)[:, None])
    start, end = rng.uniform(0.7, 1.15, 2).tolist()
    light = np.linspace(start, end, size, dtype=np.float32)
    gain = light[None] * (1 + np.float32(rng.uniform(0.02, 0.1)) * moire)
    return np.clip(image * gain[..., None], 0, 255).astype(np.uint8)


def _warped_box(box: np.ndarray, warp: np.ndarray) -> np.ndarray:
    """The box around a box [4] whose corners go through the perspective `warp` [3, 3]."""
    x1, y1, x2, y2 = box
    corners = np.array([[[x1, y1], [x2, y1], [x2, y2], [x1, y2]]], np.float32)
    moved = cv2.perspectiveTransform(corners, warp)[0]
    return np.concatenate([moved.min(0), moved.max(0)]).astype(float)
