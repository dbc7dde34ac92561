"""Files that people upload, by accident or on purpose: written anew into a folder, each by name."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

# Images after all: these must open as RGB. Everything else is refused with a sentence.
ANSWERED = {
    "one_pixel",
    "one_wide_5000_high",
    "5000_wide_one_high",
    "megapixels_24",
    "animated_gif",
    "animated_webp",
    "animated_png",
    "cmyk_jpeg",
    "progressive_jpeg",
    "gray_16_bit_png",
    "gray_16_bit_pgm",
    "gray_alpha_png",
    "transparent_png",
    "transparent_palette_png",
    "color_key_png",
    "one_bit_png",
    "float_tiff",
    "int32_tiff",
    "cmyk_tiff",
    "multi_page_tiff",
    "two_image_jpeg",
    "avif",
    "exif_rotated_jpeg",
    "exif_damaged_jpeg",
    "icc_damaged_png",
    "jpeg_named_png",
    "no_extension",
    "strange_name",
    "html_after_jpeg",
}


def hostile_files(folder: Path) -> dict[str, Path]:
    """Write every file into `folder`; return name -> path (one of them is a folder, one missing).

    The images show red on the left and blue on the right, where they have colours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Path] = {}
    source = Image.new("RGB", (40, 30), (220, 30, 30))
    source.paste((30, 30, 220), (20, 0, 40, 30))
    gray = source.convert("L")
    ramp = np.linspace(0, 1, 40 * 30).reshape(30, 40)

    def write(name: str, file_name: str, data: bytes | str) -> None:
        files[name] = folder / file_name
        files[name].write_bytes(data.encode() if isinstance(data, str) else data)

    def save(name: str, file_name: str, image: Image.Image = source, **options) -> None:
        write(name, file_name, encoded(image, **({"format": "PNG"} | options)))

    png, jpeg = encoded(source, format="PNG"), encoded(source, format="JPEG")
    frames = [source.transpose(Image.Transpose.FLIP_LEFT_RIGHT), gray.convert("RGB")]
    moving = {"save_all": True, "append_images": frames}

    # Odd images.
    save("one_pixel", "one_pixel.png", source.resize((1, 1)))
    save("one_wide_5000_high", "tall.png", source.resize((1, 5000)))
    save("5000_wide_one_high", "wide.png", source.resize((5000, 1)))
    save("megapixels_24", "photo.jpg", source.resize((6000, 4000)), format="JPEG")
    save("animated_gif", "moving.gif", format="GIF", **moving)
    save("animated_webp", "moving.webp", format="WEBP", lossless=True, **moving)
    save("animated_png", "moving.png", **moving)
    save("cmyk_jpeg", "cmyk.jpg", source.convert("CMYK"), format="JPEG")
    save("progressive_jpeg", "progressive.jpg", format="JPEG", progressive=True)
    sixteen = (ramp * 65535).astype(np.uint16)
    save("gray_16_bit_png", "gray16.png", Image.fromarray(sixteen))
    write("gray_16_bit_pgm", "gray16.pgm", b"P5 40 30 65535\n" + sixteen.astype(">u2").tobytes())
    save("gray_alpha_png", "gray_alpha.png", Image.merge("LA", (gray, gray)))
    clear = source.copy()
    clear.putalpha(Image.fromarray((ramp * 255).astype(np.uint8)))
    save("transparent_png", "transparent.png", clear)
    save("transparent_palette_png", "palette.png", source.quantize(8), transparency=0)
    save("color_key_png", "key.png", transparency=(220, 30, 30))
    save("one_bit_png", "one_bit.png", source.convert("1"))
    save("float_tiff", "float.tif", Image.fromarray(ramp.astype(np.float32)), format="TIFF")
    numbers = Image.fromarray((ramp * 2e9 - 1e9).astype(np.int32))
    save("int32_tiff", "int32.tif", numbers, format="TIFF")
    save("cmyk_tiff", "cmyk.tif", source.convert("CMYK"), format="TIFF")
    save("multi_page_tiff", "pages.tif", format="TIFF", **moving)
    save("two_image_jpeg", "two.jpg", format="MPO", **moving)
    save("avif", "image.avif", format="AVIF")
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    turned = source.transpose(Image.Transpose.ROTATE_90)
    save("exif_rotated_jpeg", "rotated.jpg", turned, format="JPEG", exif=exif, quality=95)
    broken = b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40
    save("exif_damaged_jpeg", "exif.jpg", format="JPEG", exif=broken)
    save("icc_damaged_png", "icc.png", icc_profile=b"not a profile")

    # Names that lie, or are odd.
    write("jpeg_named_png", "really_a_jpeg.png", jpeg)
    write("no_extension", "image", png)
    write("strange_name", "..%2f;$(id) {0} <b>\N{GRINNING FACE}'.png", png)
    write("html_after_jpeg", "appended.jpg", jpeg + b"<script>alert(1)</script>")

    # Not images.
    write("empty", "empty.png", b"")
    write("text_named_png", "text.png", "this is not an image\n" * 20)
    write("html_named_jpg", "page.jpg", "<!doctype html><script>alert(1)</script>")
    write("random_named_jpg", "random.jpg", np.random.default_rng(0).bytes(5000))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("image.png", png)
    write("zip_named_png", "zip.png", archive.getvalue())
    drawing = '<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    write("svg", "drawing.svg", drawing)
    write("svg_named_png", "svg.png", drawing)
    write("pdf", "paper.pdf", "%PDF-1.7\n1 0 obj <</Type /Catalog>> endobj\ntrailer <<>>\n%%EOF\n")
    page = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n(hello) show\n%%EOF\n"
    write("eps", "page.eps", page)
    write("eps_named_jpg", "eps.jpg", page)
    save("ico", "favicon.ico", source.resize((16, 16)), format="ICO")
    save("jpeg_2000", "image.jp2", format="JPEG2000")
    write("video_named_gif", "video.gif", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(500))
    array = io.BytesIO()
    np.save(array, ramp)
    write("numpy_named_png", "array.png", array.getvalue())
    files["folder_named_png"] = folder / "folder.png"
    files["folder_named_png"].mkdir(exist_ok=True)
    files["missing"] = folder / "missing.png"

    # Damaged.
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 90, 3), np.uint8))
    for kind, extension in ("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"), ("GIF", "gif"):
        whole = encoded(noise, format=kind)
        write(f"truncated_{kind.lower()}", f"truncated.{extension}", whole[: len(whole) // 2])
    write("truncated_bmp", "truncated.bmp", encoded(noise, format="BMP")[:5000])
    write("truncated_tiff", "truncated.tif", encoded(noise, format="TIFF")[:5000])
    write("signature_only", "signature.png", png[:8])
    write("header_damaged", "header.png", png[:12] + b"XHDR" + png[16:])
    write("pixels_damaged", "pixels.png", png_file(40, 30, b"these are not compressed pixels"))
    write("jpeg_damaged", "damaged.jpg", jpeg[:2] + b"\xff" * 300)

    # Too small, too large.
    write("zero_pixels", "zero.png", png_file(0, 0, zlib.compress(b"")))
    few = zlib.compress(bytes(1000))
    write("bomb_png_header", "bomb_header.png", png_file(50_000, 50_000, few))
    sides = struct.pack("<HH", 65535, 65535)
    animation = encoded(source, format="GIF")
    write("bomb_gif_header", "bomb.gif", animation[:6] + sides + animation[10:])
    bitmap = encoded(source, format="BMP")
    sides = struct.pack("<ii", 60_000, 60_000)
    write("bomb_bmp_header", "bomb.bmp", bitmap[:18] + sides + bitmap[26:])
    animation = encoded(source, format="WEBP", **moving)
    canvas = animation.index(b"VP8X") + 12  # two sides of three bytes, less one
    write(
        "bomb_webp_header",
        "bomb.webp",
        animation[:canvas] + b"\xff\x7f\0" * 2 + animation[canvas + 6 :],
    )
    save("bomb_png_whole", "bomb.png", Image.new("1", (12_000, 12_000)))
    text = b"zTXtcomment\0\0" + zlib.compress(bytes(70_000_000))
    write("bomb_png_text", "bomb_text.png", png[:33] + chunk(text) + png[33:])
    return files


def encoded(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def png_file(width: int, height: int, compressed: bytes) -> bytes:
    """A PNG of 8-bit RGB that claims a size, whatever its pixel data is."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(header) + chunk(b"IDAT" + compressed) + chunk(b"IEND")


def chunk(data: bytes) -> bytes:
    return struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
