"""How far pixels alone carry: python scripts/nearest_drawing.py

Names each drawing of an artist that is never trained on after the nearest drawing of all others, by
squared differences of small images. A model that does no better has learned nothing about things.
Needs the atlas of `paligemma data fetch-stickers`.
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from paligemma.synthetic.atlas import load_atlas
from paligemma.synthetic.stickers import stickers_cache

SIDE = 32  # pixels


def small_images(pixels: np.ndarray) -> np.ndarray:
    """Drawings [N, H, W, 4] uint8, not premultiplied -> on gray, with alpha: [N, SIDE² × 4]."""
    rows = []
    for drawing in pixels:
        alpha = drawing[..., 3:] / np.float32(255)
        image = np.concatenate([drawing[..., :3] * alpha + 128 * (1 - alpha), 255 * alpha], -1)
        rows.append(cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA).ravel())
    return np.stack(rows).astype(np.float32)


def main() -> None:
    atlas = load_atlas(stickers_cache() / "atlas")
    trained = [n for n, one in enumerate(atlas.sprites) if one.artist in atlas.training_artists]
    known = small_images(atlas.pixels[trained])
    report = {}
    for artist in atlas.artists:
        if artist in atlas.training_artists:
            continue
        asked = [n for n, one in enumerate(atlas.sprites) if one.artist == artist]
        images = small_images(atlas.pixels[asked])
        distances = (known**2).sum(1) - 2 * images @ known.T  # without the asked one's own square
        found = distances.argmin(1)
        right = [
            atlas.sprites[number].kind == atlas.sprites[trained[nearest]].kind
            for number, nearest in zip(asked, found, strict=True)
        ]
        report[artist] = float(np.mean(right))
        print(f"{artist:12} {report[artist]:.3f} of {len(asked)} drawings named right")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
