"""Decoding within a memory budget: reduced images, the size of the file, and what waits."""

import io
import subprocess
import sys
from pathlib import Path
from threading import Thread

import numpy as np
import pillow_heif
import pytest
import tiny
from PIL import Image

from paligemma import images
from paligemma.images import full_size, open_image, read_size

ROOT = Path(__file__).parents[1]
PEAK = """
import resource, sys
from threading import Thread
from paligemma.images import full_size, open_image
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before = peak()
threads = [Thread(target=open_image, args=(sys.argv[1], 2_000_000)) for _ in range(int(sys.argv[2]))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(peak() - before)
"""  # noqa: E501


def encoded(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def ramp(width: int, height: int) -> Image.Image:
    """Red from left to right, green from top to bottom."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 0 * x], 2).astype(np.uint8))


LARGE = {
    "rgb": (ramp(403, 302), {"format": "PNG"}),
    "transparent": (ramp(403, 302).convert("RGBA"), {"format": "PNG"}),
    "gray": (ramp(403, 302).convert("L"), {"format": "TIFF"}),
    "palette": (ramp(403, 302).convert("P"), {"format": "GIF"}),
    "16 bit": (Image.fromarray(np.asarray(ramp(403, 302))[..., 0] * np.uint16(257)), {}),
    "float": (Image.fromarray(np.asarray(ramp(403, 302))[..., 0] / np.float32(7)), {}),
    "jpeg": (ramp(403, 302), {"format": "JPEG", "quality": 95}),
    "webp": (ramp(403, 302), {"format": "WEBP"}),
}


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("kind", LARGE)
def test_a_reduced_image_is_the_image_made_smaller(kind, orientation):
    image, options = LARGE[kind]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, **{"format": "TIFF"} | options, exif=exif)
    whole, reduced = open_image(data), open_image(data, max_pixels=7_000)
    assert whole.size == full_size(whole) == full_size(reduced) == read_size(data)
    assert 7_000 <= reduced.width * reduced.height < 28_000
    expected = whole.resize(reduced.size, Image.Resampling.BOX)
    assert np.abs(np.subtract(reduced, expected, dtype=int)).mean() < 3
    assert open_image(reduced) is reduced


def test_an_image_that_is_not_large_is_not_reduced():
    data = encoded(ramp(40, 30), format="PNG")
    assert np.array_equal(open_image(data, max_pixels=301), open_image(data))
    assert open_image(data, max_pixels=300).size == (20, 15)
    assert open_image(np.asarray(ramp(40, 30)), max_pixels=300).size == (20, 15)


def test_the_size_of_what_was_made_of_an_opened_image_is_its_own():
    reduced = open_image(ramp(40, 30), max_pixels=300)
    assert full_size(reduced) == (40, 30)
    assert full_size(reduced.resize((10, 10))) == (10, 10)
    assert full_size(Image.new("RGB", (5, 6))) == (5, 6)


def test_boxes_refer_to_the_image_of_the_file():
    data = encoded(ramp(400, 300), format="PNG")
    batch = tiny.processor()(["x"], [open_image(data, max_pixels=7_000)])
    assert batch.image_sizes == ((400, 300),)


def test_a_decoder_that_takes_more_memory_has_a_lower_limit(monkeypatch):
    monkeypatch.setattr(images, "MAX_DECODE_BYTES", 20_000_000)
    image = Image.new("RGB", (1001, 1000))
    assert open_image(encoded(image, format="PNG")).size == (1001, 1000)
    with pytest.raises(ValueError, match="1001 x 1000 pixels; of a WEBP file at most 1 mega"):
        open_image(encoded(image, format="WEBP"))


def test_heic_from_a_phone():
    """Upright already, whatever its EXIF block says: the decoder has turned it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pillow_heif.register_heif_opener()
    data = encoded(Image.new("RGB", (60, 40), "teal"), format="HEIF", exif=exif.tobytes())
    image = open_image(data)
    assert image.size == images.read_size(data) == (40, 60)
    assert np.abs(np.asarray(image, int) - (0, 128, 128)).max() < 8
    with pytest.raises(ValueError, match="damaged"):
        open_image(data[: len(data) // 2])


def test_decoders_wait_for_each_other():
    decoders, order = images._Reservations(10), []

    def decode(size):
        with decoders.reserve(size):
            order.append(size)

    with decoders.reserve(8):
        threads = [Thread(target=decode, args=(size,)) for size in (3, 10)]
        for thread in threads:
            thread.start()
        decode(2)
        assert order == [2]
    for thread in threads:
        thread.join(10)
    assert sorted(order) == [2, 3, 10]
    with pytest.raises(KeyError), decoders.reserve(10):
        raise KeyError
    decode(10)  # what failed has given its bytes back


@pytest.mark.parametrize(
    ("options", "mode", "count", "megabytes"),
    [
        ({"format": "PNG", "compress_level": 1}, "RGBA", 1, 170),  # 4 bytes a pixel
        ({"format": "WEBP", "lossless": True, "quality": 0, "method": 0}, "RGB", 6, 1_050),
    ],
)
def test_bombs_stay_within_the_memory_budget(tmp_path, options, mode, count, megabytes):
    side = 5_000
    Image.new(mode, (side, side), "red").save(tmp_path / "bomb", **options)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "bomb"), str(count)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < megabytes * 10**6
