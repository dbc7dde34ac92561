"""All drawings of all kinds as one memory-mapped array, cheap to open in many processes.

    paligemma data fetch-stickers        # fetch every package, draw the atlas

A sprite is [SIDE, SIDE, 4] uint8, its drawing in the middle with the larger side at
SIDE - 2 MARGIN. The channels of a drawing in colours are red, green, blue and alpha (not
premultiplied). A glyph has no colours of its own: its channels are the ink, the body, nothing and
the silhouette. The body is the ink with gaps closed and holes filled; the silhouette has a rim
around that. A scene paints the ink alone, or the ink on the silhouette.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from paligemma.synthetic.kinds import Kind, all_kinds
from paligemma.synthetic.stickers import (
    ARTISTS,
    LEFT_OUT,
    OTHER_NAMES,
    Artist,
    drawings,
    fetch_packages,
    stickers_cache,
)

SIDE = 160  # pixels
MARGIN = 4
VERSION = 3  # of what this file makes of a drawing


@dataclass(frozen=True)
class SpriteRecord:
    """What one sprite shows. `artist` is a name of `stickers.ARTISTS`, `box` (x1, y1, x2, y2) the
    tight box of its alpha in pixels of the sprite."""

    kind: str
    artist: str
    code: str
    style: str
    held_out: bool
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Atlas:
    """`pixels` [N, SIDE, SIDE, 4] uint8 and one record a sprite. `kinds` are the names in the order
    of their numbers; a kind may have no sprite."""

    pixels: np.ndarray
    sprites: tuple[SpriteRecord, ...]
    kinds: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.pixels) != len(self.sprites):
            raise ValueError(f"{len(self.pixels)} sprites, but {len(self.sprites)} records")

    def __reduce__(self) -> tuple:
        """A worker process maps the file again instead of being sent its pixels."""
        if isinstance(self.pixels, np.memmap) and self.pixels.filename:
            return load_atlas, (Path(self.pixels.filename).parent,)
        return Atlas, (self.pixels, self.sprites, self.kinds)

    @cached_property
    def kind_numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.kinds)}

    @cached_property
    def artists(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(sprite.artist for sprite in self.sprites))

    def by_artist(self, artists: Sequence[str]) -> dict[str, dict[str, list[int]]]:
        """{kind: {artist: [sprite number, ...]}}, of these artists alone."""
        found: dict[str, dict[str, list[int]]] = {}
        for number, sprite in enumerate(self.sprites):
            if sprite.artist in artists:
                found.setdefault(sprite.kind, {}).setdefault(sprite.artist, []).append(number)
        return found

    @cached_property
    def training_artists(self) -> tuple[str, ...]:
        held_out = {sprite.artist for sprite in self.sprites if sprite.held_out}
        return tuple(artist for artist in self.artists if artist not in held_out)


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / "atlas.npy", folder / "atlas.json"


def load_atlas(folder: Path) -> Atlas:
    """The atlas in `folder`, its pixels mapped from the disk.

    Raises ValueError if it is absent.
    """
    pixels, records = _files(folder)
    if not records.exists():
        raise ValueError(f"{folder} has no sticker atlas; run paligemma data fetch-stickers")
    table = json.loads(records.read_text("utf-8"))
    sprites = tuple(SpriteRecord(**{**s, "box": tuple(s["box"])}) for s in table["sprites"])
    return Atlas(np.load(pixels, mmap_mode="r"), sprites, tuple(table["kinds"]))


def save_atlas(atlas: Atlas, folder: Path, digest: str = "") -> None:
    """Write the atlas; the records last, so that what is cut off does not count as an atlas.

    The pixels go into a new file, so that a training which has mapped the old one keeps it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pixels, records = _files(folder)
    records.unlink(missing_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as file:
        np.save(file, atlas.pixels)
    Path(file.name).replace(pixels)
    table = {
        "digest": digest,
        "kinds": atlas.kinds,
        "sprites": [asdict(sprite) for sprite in atlas.sprites],
    }
    records.write_text(json.dumps(table, ensure_ascii=False, indent=0), "utf-8")


def build_atlas(cache: Path, kinds: Sequence[Kind], say: Callable[[str], object] = print) -> Path:
    """Draw every kind by every artist into `cache`/atlas, unless that is up to date already."""
    folder = cache / "atlas"
    digest = _digest(kinds)
    records = _files(folder)[1]
    if records.exists() and json.loads(records.read_text("utf-8"))["digest"] == digest:
        return folder
    pixels, sprites, known = [], [], set()
    for artist in ARTISTS:
        for record, sprite in _sprites(artist, kinds, cache):
            content = hashlib.sha256(sprite.tobytes()).digest()
            if content not in known:
                known.add(content)
                sprites.append(record)
                pixels.append(sprite)
        say(f"{artist.name}: {sum(s.artist == artist.name for s in sprites)} drawings")
    atlas = Atlas(np.stack(pixels), tuple(sprites), tuple(kind.name for kind in kinds))
    save_atlas(atlas, folder, digest)
    return folder


def fetch_stickers(cache: Path | None = None, say: Callable[[str], object] = print) -> Path:
    """Fetch the packages and draw the atlas where either is absent or out of date.

    Returns the folder of the atlas. Raises ValueError as `fetch_packages` does.
    """
    cache = cache or stickers_cache()
    fetch_packages(cache, say)
    return build_atlas(cache, all_kinds(), say)


def _digest(kinds: Sequence[Kind]) -> str:
    """Changes when the atlas must be drawn anew."""
    table = [(kind.name, kind.code_points, kind.glyph) for kind in kinds]
    return hashlib.sha256(
        repr((VERSION, SIDE, MARGIN, ARTISTS, OTHER_NAMES, LEFT_OUT, table)).encode()
    ).hexdigest()


def _sprites(
    artist: Artist, kinds: Iterable[Kind], cache: Path
) -> Iterable[tuple[SpriteRecord, np.ndarray]]:
    for kind, code, image in drawings(artist, kinds, cache):
        drawn = np.asarray(image)
        sprite = glyph_sprite(drawn[..., 3]) if artist.style == "glyph" else color_sprite(drawn)
        box = tight_box(sprite[..., 3])
        yield (
            SpriteRecord(kind.name, artist.name, code, artist.style, artist.held_out, box),
            sprite,
        )


def tight_box(alpha: np.ndarray, least: int = 16) -> tuple[int, int, int, int]:
    """(x1, y1, x2, y2) around all of `alpha` [H, W] that is at least `least`.

    Raises ValueError if nothing is.
    """
    rows, columns = np.flatnonzero((alpha >= least).any(1)), np.flatnonzero((alpha >= least).any(0))
    if len(rows) == 0:
        raise ValueError("the drawing is empty")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _centred(channels: np.ndarray) -> np.ndarray:
    """[H, W, C], its last channel the alpha, cropped and scaled into [SIDE, SIDE, C]."""
    x1, y1, x2, y2 = tight_box(channels[..., -1])
    crop = channels[y1:y2, x1:x2]
    scale = (SIDE - 2 * MARGIN) / max(crop.shape[:2])
    width, height = (max(1, round(scale * side)) for side in (x2 - x1, y2 - y1))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    crop = np.clip(cv2.resize(crop, (width, height), interpolation=method), 0, 255)
    canvas = np.zeros((SIDE, SIDE, channels.shape[2]), np.float32)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    canvas[top : top + height, left : left + width] = crop
    return canvas


def color_sprite(image: np.ndarray) -> np.ndarray:
    """An RGBA drawing [H, W, 4] uint8 -> a sprite. Colours reach a little beyond the edge, so that
    none of the transparent black comes in when the sprite is scaled."""
    alpha = image[..., 3:].astype(np.float32)
    premultiplied = np.concatenate([image[..., :3] * (alpha / 255), alpha], -1)
    sprite = _centred(premultiplied)
    alpha = sprite[..., 3:]
    wide = cv2.blur(sprite, (7, 7))
    inside = sprite[..., :3] * (255 / np.maximum(alpha, 1))
    outside = wide[..., :3] * (255 / np.maximum(wide[..., 3:], 1e-3))
    colors = np.where(alpha >= 1, inside, outside)
    return np.concatenate([colors, alpha], -1).clip(0, 255).round().astype(np.uint8)


def glyph_sprite(ink: np.ndarray) -> np.ndarray:
    """The ink [H, W] uint8 of a glyph -> a sprite: ink, body, 0, silhouette."""
    x1, y1, x2, y2 = tight_box(ink)
    ink = ink[y1:y2, x1:x2]
    scale = SIDE / max(ink.shape)
    size = (max(1, round(scale * (x2 - x1))), max(1, round(scale * (y2 - y1))))
    ink = cv2.resize(ink, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    ink = np.pad(ink, SIDE // 2)
    rim = SIDE // 12
    closed = cv2.morphologyEx(ink, cv2.MORPH_CLOSE, disc(rim))
    body = cv2.max(ink, cv2.GaussianBlur(_filled(closed), (0, 0), 1))
    silhouette = cv2.GaussianBlur(cv2.dilate(_filled(closed), disc(rim // 2)), (0, 0), 1)
    empty = np.zeros_like(ink)
    sprite = _centred(np.stack([ink, body, empty, silhouette], -1).astype(np.float32))
    return sprite.round().astype(np.uint8)


def _filled(mask: np.ndarray) -> np.ndarray:
    """The mask [H, W] uint8 with its holes filled: 0 or 255."""
    solid = (mask > 96).astype(np.uint8)
    contours, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(mask)
    cv2.drawContours(filled, contours, -1, 255, cv2.FILLED)
    return filled


def disc(radius: int) -> np.ndarray:
    """A round structuring element."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
