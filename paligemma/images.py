"""Image files of any origin to upright 8-bit RGB, or a ValueError that says why not.

    image = open_image("photo.jpg")  # a path, bytes, a file object, a PIL image or an array
    image = open_image("https://example.com/photo.jpg")  # or a data URL: see `fetch`
    small = open_image("photo.jpg", max_pixels=2_000_000)  # reduced while it is decoded
    full_size(small)  # the width and height of the file's image, which boxes refer to

Decoding is bounded: images whose decoders take much memory wait for each other.

Source of the orientation table: EXIF 2.32, tag 0x0112.
"""

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from math import isqrt
from pathlib import Path
from threading import Condition
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from paligemma.fetch import is_address, read_address

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF")  # plain rasters only
MAX_PIXELS = 100_000_000  # read from the header, before anything is decoded

MAX_DECODE_BYTES = 10**9  # that all decoders together take at a time, and so one image at most
# Bytes a pixel at the peak of decoding, measured with Pillow 12.3: WebP's lossless buffer, canvas
# and copies, AVIF's and HEIF's planes and copies, the coefficients of a progressive JPEG.
_DECODER_BYTES = {"WEBP": 20, "AVIF": 12, "HEIF": 12, "JPEG": 8, "MPO": 8}
_OTHER_DECODER_BYTES = 5
_BAND_PIXELS = 1_000_000  # that are converted at a time


class _Origin(NamedTuple):
    """In `Image.info` of what `open_image` made; its type counts: a file cannot contain it."""

    full_size: tuple[int, int]
    size: tuple[int, int]  # after reducing


_ORIGIN_KEY = "upright RGB"
_ALLOWED = "allowed are " + ", ".join(FORMATS[:-1]) + f" and {FORMATS[-1]}"
_TRANSPOSE = {  # EXIF orientation -> what brings the image upright (EXIF 2.32, tag 0x0112)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {_TRANSPOSE[number] for number in (5, 6, 7, 8)}  # width becomes height


def open_image(
    source: str | os.PathLike | bytes | BinaryIO | Image.Image | np.ndarray,
    max_pixels: int | None = None,
) -> Image.Image:
    """Any image -> an upright 8-bit RGB `PIL.Image`, a new one.

    An image that this function made is returned as it is, so that each layer may call it without
    decoding or copying again.

    `source` is a path, an address (see `fetch`), the bytes of a file, a binary file object, a PIL
    image or an array ([height, width] or [height, width, 1 to 4]; see `_to_uint8` for its range).
    EXIF orientation is applied, transparency lies on white, 16-bit and float images are scaled into
    8 bits, and of an animation or a multi-page file the first image is taken.

    An image of at least four times `max_pixels` is reduced by a whole factor, to `max_pixels` or a
    little more, and fewer than four times that; the memory of the full size is then taken by the
    decoder only. `full_size` keeps the size that it had.

    Raises ValueError, in one sentence, for everything that is not a whole image in one of
    `FORMATS` with 1 to `MAX_PIXELS` pixels, fewer where its decoder would take more than
    `MAX_DECODE_BYTES`.
    """
    if isinstance(source, str) and is_address(source):
        source = read_address(source)
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    if isinstance(source, Image.Image):
        _check_size(source, "The image")
        return _upright_rgb(source, "The image", max_pixels)
    with _read_header(source) as (image, name):
        _check_size(image, name)
        with _DECODERS.reserve(_decoder_bytes(image, name)):
            return _upright_rgb(image, name, max_pixels)


def full_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the upright image in the file that `open_image` may have reduced."""
    origin = image.info.get(_ORIGIN_KEY)
    if isinstance(origin, _Origin) and origin.size == image.size:  # not resized since
        return origin.full_size
    return image.size


def remove_other_decoders() -> None:
    """Take from Pillow, for the whole process, the decoders of all formats but `FORMATS`.

    For programs that serve strangers: other libraries open images by code of their own, and some
    decoders start programs (EPS runs Ghostscript) or are rarely tested. Pillow itself then refuses
    images of more than `MAX_PIXELS`, too.
    """
    Image.init()
    _add_heif()
    for name in set(Image.OPEN) - set(FORMATS):
        del Image.OPEN[name]
    Image.ID[:] = [name for name in Image.ID if name in Image.OPEN]
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # it warns above that, and refuses above twice that
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def file_extensions() -> set[str]:
    """Of the formats that are read: ".png", ".jpg", …"""
    known = Image.registered_extensions()
    return {extension for extension, kind in known.items() if kind in FORMATS}


def read_size(source: str | os.PathLike | bytes | BinaryIO) -> tuple[int, int]:
    """Width and height of the upright image that `open_image` gives.

    From the header alone, but for a PNG, which may have its orientation behind the pixels.
    Raises ValueError, in one sentence, for a file whose header cannot be read, and for more pixels
    than `open_image` takes.
    """
    with _read_header(source) as (image, name):
        _check_size(image, name)
        width, height = image.size
        if image.format == "TIFF":  # Pillow swaps them itself
            return width, height
        needed = _decoder_bytes(image, name) if image.format == "PNG" else 0
        with _DECODERS.reserve(needed):
            return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


@contextmanager
def _read_header(
    source: str | os.PathLike | bytes | BinaryIO,
) -> Iterator[tuple[Image.Image, str]]:
    """The image, not decoded yet, and what to call it in a message."""
    name, stream = _open_stream(source)
    with stream, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")  # what it hints at is refused below
        _add_heif()
        if not stream.read(1):
            raise ValueError(f"{name} is empty (0 bytes); {_ALLOWED}.")
        try:
            image = Image.open(stream, formats=FORMATS)
        except UnidentifiedImageError:
            raise ValueError(f"{name} is not an image, or a damaged one; {_ALLOWED}.") from None
        except Image.DecompressionBombError as error:
            raise ValueError(
                f"{name} has far more than the {MAX_PIXELS // 10**6} megapixels that are allowed."
            ) from error
        except Exception as error:  # the decoders raise some dozen types on damaged headers
            raise ValueError(f"{name} is damaged or incomplete and cannot be read.") from error
        yield image, name


@cache
def _add_heif() -> None:
    """Let Pillow open HEIC and HEIF, once."""
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False)


def _open_stream(source: str | os.PathLike | bytes | BinaryIO) -> tuple[str, BinaryIO]:
    """(what to call it in a message, an open binary stream)."""
    if isinstance(source, str | os.PathLike):
        path = Path(os.fsdecode(source))
        name = repr(path.name[-60:])
        try:
            if path.is_dir():
                raise ValueError(f"{name} is a folder, not an image.")
            if not path.is_file():
                raise ValueError(f"There is no file {name}.")
            return name, path.open("rb")
        except OSError as error:
            raise ValueError(f"{name} cannot be opened: {error.strerror}.") from error
    data = source
    if not isinstance(source, bytes) and hasattr(source, "read"):
        data = source.read()
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ValueError(
            "An image is a path, an address, bytes, a binary file, a PIL image or a numpy array, "
            f"not {type(data).__name__}."
        )
    return "The file", BytesIO(data)


class _Reservations:
    """Bytes that the threads of this process may take at a time."""

    def __init__(self, limit: int) -> None:
        self._free, self._changed = limit, Condition()

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Wait until that many are free; `size` is at most the limit."""
        with self._changed:
            self._changed.wait_for(lambda: size <= self._free)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


_DECODERS = _Reservations(MAX_DECODE_BYTES)


def _decoder_bytes(image: Image.Image, name: str) -> int:
    """The memory that decoding takes; raises ValueError if it is more than MAX_DECODE_BYTES."""
    each = _DECODER_BYTES.get(image.format or "", _OTHER_DECODER_BYTES)
    width, height = image.size
    if width * height * each > MAX_DECODE_BYTES:
        raise ValueError(
            f"{name} has {width} x {height} pixels; of a {image.format} file "
            f"at most {MAX_DECODE_BYTES // each // 10**6} megapixels are allowed."
        )
    return width * height * each


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height == 0:
        raise ValueError(f"{name} has no pixels: it is {width} x {height}.")
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{name} has {width} x {height} pixels; "
            f"at most {MAX_PIXELS // 10**6} megapixels are allowed."
        )


def _upright_rgb(image: Image.Image, name: str, max_pixels: int | None) -> Image.Image:
    if image.mode == "RGB" and isinstance(image.info.get(_ORIGIN_KEY), _Origin):
        return image
    try:
        width, height = image.size
        if max_pixels and (factor := _factor(image, max_pixels)) > 1:
            image.draft(None, (width // factor, height // factor))  # what a JPEG decoder can do
        image.load()
        transpose = _orientation(image)
        reduced = _reduced_rgb(image, _factor(image, max_pixels) if max_pixels else 1)
        if transpose is not None:
            reduced = reduced.transpose(transpose)
    except Exception as error:  # as above: hostile bytes find every exception a decoder has
        raise ValueError(f"{name} is damaged or incomplete and cannot be read.") from error
    size = (height, width) if transpose in _SIDEWAYS else (width, height)
    # without the EXIF block, which would turn it once more
    reduced.info = {_ORIGIN_KEY: _Origin(size, reduced.size)}
    return reduced


def _factor(image: Image.Image, max_pixels: int) -> int:
    return max(1, isqrt(image.width * image.height // max_pixels))


def _reduced_rgb(image: Image.Image, factor: int) -> Image.Image:
    """A new RGB image, its sides divided by `factor`; band by band, for converting takes memory."""
    rows = max(1, _BAND_PIXELS // image.width // factor) * factor
    bands = [
        (0, top, image.width, min(top + rows, image.height)) for top in range(0, image.height, rows)
    ]
    is_wide = image.mode in ("I", "F") or image.mode.startswith("I;16")
    low, high = _value_range(np.asarray(image.crop(b)) for b in bands) if is_wide else (0, 0)
    is_transparent = image.has_transparency_data
    reduced = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    for box in bands:
        band = image.crop(box)
        if is_wide:
            band = Image.fromarray(_to_uint8(np.asarray(band), low, high))
        if is_transparent:
            transparent = band.convert("RGBA")
            band = Image.new("RGBA", transparent.size, "white")
            band.alpha_composite(transparent)
        reduced.paste(band.convert("RGB").reduce(factor), (0, box[1] // factor))
    return reduced


def _orientation(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TRANSPOSE.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged EXIF block says nothing against the image
        return None


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (2, 3, 4)):
        raise ValueError(
            "An image array is [height, width] or [height, width, 1 to 4], "
            f"not {list(array.shape)}."
        )
    if array.dtype.kind not in "buif":
        raise ValueError(f"An image array holds numbers, not {array.dtype}.")
    height, width = array.shape[:2]
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(
            f"An image has from 1 to {MAX_PIXELS // 10**6} million pixels, not {width} x {height}."
        )
    return Image.fromarray(_to_uint8(array, *_value_range([array])))


def _value_range(parts: Iterable[np.ndarray]) -> tuple[float, float]:
    """The smallest and the largest of all numbers that are finite; 0 and 0 if there are none."""
    low, high = np.inf, -np.inf
    for part in parts:
        values = _as_float(part)
        known = np.isfinite(values)
        low = min(low, float(values.min(where=known, initial=np.inf)))
        high = max(high, float(values.max(where=known, initial=-np.inf)))
    return (low, high) if low <= high else (0.0, 0.0)


def _to_uint8(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Numbers of any kind -> uint8 of the same shape, scaled and never clipped.

    `low` and `high` are the `_value_range` of the image. White is the most that uint8, uint16 and
    bool can hold. For other types it is the first of 1 (floats only), 255 and 65535 that holds
    every value; beyond those, or below zero, the range from the smallest to the largest is
    stretched over black to white. NaN is as the smallest.
    """
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "u" and size == 1:
        return values
    scaled = _as_float(values)
    np.nan_to_num(scaled, copy=False, nan=low, posinf=high, neginf=low)
    whites = (65535,) if kind == "u" and size == 2 else (255, 65535)
    whites = (1, *whites) if kind in "bf" else whites
    white = next((white for white in whites if high <= white), None)
    if low < 0 or white is None:
        scaled -= low
        white = high - low or 1
    scaled *= 255 / white
    return np.rint(scaled, out=scaled).astype(np.uint8)


def _as_float(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32 if values.dtype.itemsize <= 4 else np.float64)
