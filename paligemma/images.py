"""Image files of any origin to upright 8-bit RGB, or a ValueError that says why not.

    image = open_image("photo.jpg")  # a path, bytes, a file object, a PIL image or an array

Source of the orientation table: EXIF 2.32, tag 0x0112.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")  # plain rasters only
MAX_PIXELS = 100_000_000  # read from the header, before anything is decoded

# In `Image.info` of what `open_image` made. Its identity counts: a file cannot contain it.
_MARK_KEY, _MARK = "upright RGB", object()
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
) -> Image.Image:
    """Any image -> an upright 8-bit RGB `PIL.Image`, a new one.

    An image that this function made is returned as it is, so that each layer may call it without
    decoding or copying again.

    `source` is a path, the bytes of a file, a binary file object, a PIL image or an array
    ([height, width] or [height, width, 1 to 4]; see `_to_uint8` for its range). EXIF orientation is
    applied, transparency lies on white, 16-bit and float images are scaled into 8 bits, and of
    an animation or a multi-page file the first image is taken.

    Raises ValueError, in one sentence, for everything that is not a whole image in one of
    `FORMATS` with 1 to `MAX_PIXELS` pixels.
    """
    if isinstance(source, np.ndarray):
        return _upright_rgb(_from_array(source), "The image")
    if isinstance(source, Image.Image):
        return _upright_rgb(source, "The image")
    with _read_header(source) as (image, name):
        return _upright_rgb(image, name)


def read_size(source: str | os.PathLike | bytes | BinaryIO) -> tuple[int, int]:
    """Width and height of the upright image that `open_image` gives, from the header alone.

    Raises ValueError, in one sentence, for a file whose header cannot be read.
    """
    with _read_header(source) as (image, _):
        width, height = image.size
        return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


@contextmanager
def _read_header(
    source: str | os.PathLike | bytes | BinaryIO,
) -> Iterator[tuple[Image.Image, str]]:
    """The image, not decoded yet, and what to call it in a message."""
    name, stream = _open_stream(source)
    with stream, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")  # what it hints at is refused below
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
            "An image is a path, bytes, a binary file, a PIL image or a numpy array, "
            f"not {type(data).__name__}."
        )
    return "The file", BytesIO(data)


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if width * height == 0:
        raise ValueError(f"{name} has no pixels: it is {width} x {height}.")
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{name} has {width} x {height} pixels; "
            f"at most {MAX_PIXELS // 10**6} megapixels are allowed."
        )
    if image.mode == "RGB" and image.info.get(_MARK_KEY) is _MARK:
        return image
    try:
        image.load()
        transpose = _orientation(image)
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            image = Image.fromarray(_to_uint8(np.asarray(image)))
        if image.has_transparency_data:
            transparent = image.convert("RGBA")
            image = Image.new("RGBA", transparent.size, "white")
            image.alpha_composite(transparent)
        image = image.convert("RGB")  # a copy, also of what is RGB already
        if transpose is not None:
            image = image.transpose(transpose)
    except Exception as error:  # as above: hostile bytes find every exception a decoder has
        raise ValueError(f"{name} is damaged or incomplete and cannot be read.") from error
    image.info = {_MARK_KEY: _MARK}  # without the EXIF block, which would turn it once more
    return image


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
    return Image.fromarray(_to_uint8(array))


def _to_uint8(values: np.ndarray) -> np.ndarray:
    """Numbers of any kind -> uint8 of the same shape, scaled and never clipped.

    White is the most that uint8, uint16 and bool can hold. For other types it is the first of 1
    (floats only), 255 and 65535 that holds every value; beyond those, or below zero, the range from
    the smallest to the largest is stretched over black to white. NaN is as the smallest.
    """
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "u" and size == 1:
        return values
    scaled = values.astype(np.float32 if size <= 4 else np.float64)
    known = np.isfinite(scaled)
    low = float(scaled.min(where=known, initial=np.inf)) if known.any() else 0.0
    high = float(scaled.max(where=known, initial=-np.inf)) if known.any() else 0.0
    np.nan_to_num(scaled, copy=False, nan=low, posinf=high, neginf=low)
    whites = (65535,) if kind == "u" and size == 2 else (255, 65535)
    whites = (1, *whites) if kind in "bf" else whites
    white = next((white for white in whites if high <= white), None)
    if low < 0 or white is None:
        scaled -= low
        white = high - low or 1
    scaled *= 255 / white
    return np.rint(scaled, out=scaled).astype(np.uint8)
