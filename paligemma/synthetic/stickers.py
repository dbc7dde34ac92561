"""Drawings of the kinds by a dozen artists: emoji sets from npm, fetched by name and version.

Packages are fetched once with `npm pack` into a cache outside the repository, and each is checked
against the sha256 written here. Only a trainer needs them, never the app or a shipped checkpoint.
NOTICE at the root of the repository has the sources and licences. Two artists are held out: no
training scene shows them, and they measure how well another artist's drawings are recognised.
"""

import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from paligemma.synthetic.kinds import Kind

DRAWN = 320  # pixels; the side of a drawing before it is cropped and reduced for the atlas


@dataclass(frozen=True)
class Package:
    """A package of npm, pinned."""

    name: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        """The name that `npm pack` gives its archive."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


@dataclass(frozen=True)
class Artist:
    """One set of drawings. `style` is "color", or "glyph" for drawings in one colour, which a
    scene paints; an artist who is `held_out` is never in a training scene."""

    name: str
    package: Package | None
    licence: str
    style: str = "color"
    held_out: bool = False


def _iconify(name: str, version: str, sha256: str) -> Package:
    return Package(f"@iconify-json/{name}", version, sha256)


# fmt: off
NOTO = _iconify("noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad")
TWEMOJI = _iconify("twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7")  # noqa: E501
FLUENT = _iconify("fluent-emoji-flat", "1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175")  # noqa: E501
OPENMOJI = _iconify("openmoji", "1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5")  # noqa: E501
ARTISTS = (
    Artist("noto", NOTO, "Apache-2.0"),
    Artist("noto-v1", _iconify("noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"), "Apache-2.0"),  # noqa: E501
    Artist("fluent", FLUENT, "MIT"),
    Artist("fluent-3d", Package("@lobehub/fluent-emoji-3d", "1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"), "MIT"),  # noqa: E501
    Artist("emojione", _iconify("emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"), "CC-BY-4.0"),  # noqa: E501
    Artist("fxemoji", _iconify("fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"), "CC-BY-4.0"),  # noqa: E501
    Artist("streamline", _iconify("streamline-emojis", "1.2.4", "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc"), "CC-BY-4.0"),  # noqa: E501
    Artist("fluent-line", _iconify("fluent-emoji-high-contrast", "1.2.6", "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0"), "MIT", "glyph"),  # noqa: E501
    Artist("emojione-line", _iconify("emojione-monotone", "1.2.1", "40b90004bafb406b59266155ef9b7e1dd67bf2947fc8db8d07388776f4d0d04e"), "CC-BY-4.0", "glyph"),  # noqa: E501
    Artist("noto-line", Package("@fontsource/noto-emoji", "5.3.2", "1fe49bb2cf7c2d78f93c0a69b6a431dcfd0d585b7831eba87fae6888ccf8d373"), "OFL-1.1", "glyph"),  # noqa: E501
    Artist("dejavu", None, "Bitstream-Vera", "glyph"),
    Artist("twemoji", TWEMOJI, "CC-BY-4.0", held_out=True),
    Artist("openmoji", OPENMOJI, "CC-BY-SA-4.0", held_out=True),
)
# fmt: on
NAMED = (NOTO, TWEMOJI, FLUENT, OPENMOJI)  # these say which code point each of their names is

# Sets without code points are matched by name; these are the names that no other set has.
OTHER_NAMES = {
    "fxemoji": (
        "1f439 hampster, 1f430 bunny, 1f407 bunnyside, 1f425 frontfacingchick, "
        "1f42a dromedarycamel, 1f42b bactriancamel, 1f406 leopardside, 1f415 dogside, "
        "1f408 catside, 1f401 mouseside, 1f416 pigside, 1f405 tigerside, 1f432 dragonhead, "
        "1f409 dragonside, 1f411 sheep, 1f433 spurtingwhale, 1f332 evergreen, "
        "1f343 leaffluttering, 1f342 fallingleaf, 1f346 aubergine, 1f33d earofmaize, "
        "1f33e earofrice, 1f336 chilipepper, 1f355 sliceofpizza, 1f54a doveofpeace, "
        "1f685 highspeedtrainbulletnose, 1f682 steamlocomotive, 1f3f0 europeancastle, "
        "1f5fc toykotower, 1f5ff moyai, 1f327 raincloud, 1f328 snowcloud, 1f329 stormcloud, "
        "26a1 bolt, 1f30d europeafricaglobe, 1f30e americasglobe, 1f30f asiaaustraliaglobe, "
        "2702 blackscissors, 1f52a hocho, 1f5e1 daggerknife, 1f512 lock, 1f513 openlock, "
        "1f517 linksymbol, 1f526 electrictorch, 1f50d leftmagnifyingglass, "
        "1f50e rightmagnifyingglass, 1f58c lowerleftpaintbrush, 1f455 mansshirt, "
        "1f45b pinkwallet, 1f392 schoolsatchel, 1f45e mensshoe, 1f45f mensrunner, 1f460 heels, "
        "1f461 sandals, 1f462 boot, 1f454 tie, 1f3c0 basketballandhoop, 1f3be tennisball, "
        "1f3b1 billiards, 1f3bf skiandskiboot, 1f3a3 fishingpoleandfish, "
        "1f0cf playingcardblackjoker, 1f3ee izakayalantern, 1f5bc framewithpicture, "
        "1f4eb closedmailboxraised, 1f4ea closedmailboxlowered, 1f4ec openmailboxraised, "
        "1f4ed openmailboxlowered, 1f6ac smokingsymbol, 1f4f1 cellphone, 260e blacktelephone, "
        "1f4bb personalcomputer, 1f5b1 twobuttonmouse, 1f4f9 handheldvideocamera, "
        "1f399 studiomic, 1f508 speaker, 1f509 speakeronesoundwave, 1f50a speaker3soundwaves, "
        "1f4be softshellfloppy, 1f4fc videocasette, 1f6a8 policecarsrevolvinglight, "
        "1f58d lowerleftcrayon, 1f58a lowerleftpen, 1f58b lowerleftfountainpen, "
        "1f4b5 banknotedollar, 1f4b4 banknoteyen, 1f4b6 banknoteeuro, 1f4b7 banknotepound, "
        "1f381 present, 2620 blackskullcrossbones, 1f3b6 multiplemusicalnotes, "
        "1f6a9 triangularflagonpost, 1f48e gem, 1f3ce racecar, 1f699 recreationalvehicle, "
        "1f3d4 snowmountains, 2665 blackheartsuit, 1f374 forkknife, 1f6c1 bath, "
        "1f490 bouquetofflowers, 1f4d3 notebook, 1f5a5 screen"
    ),
    "streamline": "1f3b2 game-dice",
}  # fmt: skip

# Drawings that show something else than the kind, or a whole landscape in a frame.
LEFT_OUT = {
    "fxemoji": "1f6a2 26f5 26fa 1f3a1 1f5fd 1f5fc 26f2 1f308 1f30b 1f5fb 1f576 2328 1f4bb 1f0cf",
    "emojione": "26fa 1f3d4 1f5fb",
    "streamline": "1f6a2 1f3ed 1f3f0 26fa 1f3a1 26f2 1f308",
    "openmoji": "1f4dc",
}


def stickers_cache() -> Path:
    """The folder of packages and atlas: under $PALIGEMMA_CACHE, else under ~/.cache/paligemma."""
    base = os.environ.get("PALIGEMMA_CACHE") or Path.home() / ".cache" / "paligemma"
    return Path(base) / "stickers"


def sticker_packages() -> tuple[Package, ...]:
    return tuple(artist.package for artist in ARTISTS if artist.package)


def fetch_packages(cache: Path, say: Callable[[str], object] = print) -> None:
    """Fetch every package that the cache lacks, with `npm pack`. It can be cut off and run again.

    Raises ValueError if npm is absent or fails, or if an archive is not the one pinned here.
    """
    cache.mkdir(parents=True, exist_ok=True)
    for number, package in enumerate(sticker_packages(), 1):
        target = cache / package.file
        if not target.exists():
            say(f"[{number}/{len(sticker_packages())}] {package.name} {package.version}")
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
                try:
                    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
                except FileNotFoundError:
                    raise ValueError("npm is needed to fetch the stickers, and is absent") from None
                except subprocess.CalledProcessError as error:
                    message = error.stderr.strip() or error.stdout.strip()
                    raise ValueError(f"npm could not fetch {package.name}: {message}") from None
                Path(folder, package.file).replace(target)
        _check_archive(target, package)


def _check_archive(path: Path, package: Package) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != package.sha256:
        path.unlink()
        raise ValueError(
            f"{package.name} {package.version} has sha256 {digest}, expected {package.sha256}; "
            "it was removed"
        )


def drawings(
    artist: Artist, kinds: Iterable[Kind], cache: Path
) -> Iterator[tuple[Kind, str, Image.Image]]:
    """Every drawing that `artist` has of the kinds: (kind, code point or glyph, RGBA image).

    A glyph is black; its alpha is its ink.
    """
    if artist.package is None:
        wanted = [(kind, kind.glyph) for kind in kinds if kind.glyph]
        draw: Callable[[str], Image.Image | None] = _dejavu
    else:
        wanted = [(kind, code) for kind in kinds for code in kind.code_points]
        archive = cache / artist.package.file
        if artist.package.name.startswith("@iconify-json/"):
            draw = _iconify_drawings(artist, archive, cache)
        elif artist.name == "noto-line":
            draw = _noto_line(archive)
        else:
            draw = partial(_webp, dict(_members(archive, ".webp")))
    left_out = LEFT_OUT.get(artist.name, "").split()
    for kind, code in wanted:
        if code not in left_out and (image := draw(code)):
            yield kind, code, image


def _members(archive: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the archive's files that end in `suffix`."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(suffix):
                yield Path(member.name).name, tar.extractfile(member).read()  # type: ignore[union-attr]


def _json_member(archive: Path, name: str) -> dict:
    return json.loads(dict(_members(archive, f"/{name}"))[name])


def _webp(files: dict[str, bytes], code: str) -> Image.Image | None:
    content = files.get(f"{code}.webp") or files.get(f"{code}-fe0f.webp")
    return Image.open(io.BytesIO(content)).convert("RGBA") if content else None


def _dejavu(glyph: str) -> Image.Image:
    from paligemma.synthetic.scenes import FONTS

    font = ImageFont.truetype(str(FONTS / "DejaVuSans.ttf"), DRAWN)
    return _glyph(glyph, font)


def _noto_line(archive: Path) -> Callable[[str], Image.Image | None]:
    """The font is shipped in pieces; `unicode.json` says which characters each has."""
    ranges = _json_member(archive, "unicode.json")
    pieces = dict(_members(archive, "-400-normal.woff"))
    where: dict[int, str] = {}
    for piece, spans in ranges.items():
        for span in spans.replace("U+", "").split(","):
            first, _, last = span.partition("-")
            for point in range(int(first, 16), int(last or first, 16) + 1):
                where.setdefault(point, f"noto-emoji-{piece.strip('[]')}-400-normal.woff")

    def draw(code: str) -> Image.Image | None:
        name = where.get(int(code, 16))
        if name not in pieces:
            return None
        font = ImageFont.truetype(io.BytesIO(pieces[name]), DRAWN)
        return _glyph(chr(int(code, 16)), font)

    return draw


def _glyph(character: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    page = Image.new("L", (2 * DRAWN, 2 * DRAWN))
    ImageDraw.Draw(page).text((DRAWN, DRAWN), character, font=font, fill=255, anchor="mm")
    image = Image.new("RGBA", page.size)
    image.putalpha(page)
    return image


def _iconify_drawings(
    artist: Artist, archive: Path, cache: Path
) -> Callable[[str], Image.Image | None]:
    """A set of SVG bodies; a code point is looked up by the names that it has in other sets."""
    icons = _json_member(archive, "icons.json")
    names = _names_by_code(cache)
    plain = {_letters(name): name for name in [*icons.get("aliases", {}), *icons["icons"]]}
    for name in icons["icons"]:  # streamline numbers its drawings of one thing
        plain.setdefault(_letters(name.removesuffix("-1")), name)
    own = dict(pair.split(" ") for pair in OTHER_NAMES.get(artist.name, "").split(", ") if pair)

    def draw(code: str) -> Image.Image | None:
        if code in own:
            return _render_icon(icons, own[code])
        name = next((plain[n] for n in names.get(code, ()) if n in plain), None)
        return _render_icon(icons, name) if name else None

    return draw


def _letters(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _names_by_code(cache: Path) -> dict[str, list[str]]:
    """Code point (without variation selector) -> its names, as `_letters`, most common first."""
    found: dict[str, list[str]] = {}
    for package in NAMED:
        archive = cache / package.file
        aliases = _json_member(archive, "icons.json").get("aliases", {})
        also: dict[str, list[str]] = {}
        for alias, target in aliases.items():
            also.setdefault(target["parent"], []).append(alias)
        for code, name in _json_member(archive, "chars.json").items():
            names = found.setdefault(code.replace("-fe0f", ""), [])
            names += [_letters(n) for n in [name, *also.get(name, [])]]
    return found


def _render_icon(icons: dict, name: str) -> Image.Image:
    """An icon as it is meant to be seen: aliases may mirror it."""
    import resvg_py

    alias = icons.get("aliases", {}).get(name)
    if alias:
        image = _render_icon(icons, alias["parent"])
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if alias.get("hFlip") else image
    icon = {"left": 0, "top": 0, "width": 16, "height": 16, **icons, **icons["icons"][name]}
    box = f"{icon['left']} {icon['top']} {icon['width']} {icon['height']}"
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    svg = f'<svg {namespaces} viewBox="{box}" color="#000">{icon["body"]}</svg>'
    content = resvg_py.svg_to_bytes(
        svg_string=svg, width=DRAWN, height=DRAWN, skip_system_fonts=True
    )
    return Image.open(io.BytesIO(bytes(content))).convert("RGBA")
