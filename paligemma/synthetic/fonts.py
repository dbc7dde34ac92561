"""The fonts of written words: files of Debian packages, read where the system has them.

    apt-get install --no-install-recommends PACKAGE ...    # `font_packages()` lists them

A family whose files are absent is skipped, and `missing` says which. Three families are held out:
no training scene shows them, and they measure how well words in another font are read.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import ImageFont

ROOTS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts")


@dataclass(frozen=True)
class FontFamily:
    """`files` are its styles, from the most legible; `accents` says whether it has é, ß, ñ and the
    like."""

    name: str
    package: str
    files: tuple[str, ...]
    accents: bool = True
    held_out: bool = False


def _family(name: str, package: str, files: str, **options: bool) -> FontFamily:
    return FontFamily(name, f"fonts-{package}", tuple(files.split(", ")), **options)


# fmt: off
FAMILIES = (
    _family("DejaVu Sans", "dejavu-core", "DejaVuSans-Bold.ttf, DejaVuSans.ttf"),
    _family("DejaVu Serif", "dejavu-core", "DejaVuSerif-Bold.ttf, DejaVuSerif.ttf"),
    _family("Liberation Sans", "liberation", "LiberationSans-Bold.ttf, LiberationSans-Regular.ttf"),
    _family("Liberation Serif", "liberation", "LiberationSerif-Bold.ttf, LiberationSerif-Regular.ttf"),  # noqa: E501
    _family("Liberation Mono", "liberation", "LiberationMono-Bold.ttf, LiberationMono-Regular.ttf"),
    _family("Noto Sans", "noto-core", "NotoSans-Bold.ttf, NotoSans-Regular.ttf"),
    _family("Noto Serif", "noto-core", "NotoSerif-Bold.ttf, NotoSerif-Regular.ttf"),
    _family("Roboto", "roboto-unhinted", "Roboto-Bold.ttf, Roboto-Regular.ttf"),
    _family("Lato", "lato", "Lato-Bold.ttf, Lato-Black.ttf, Lato-Regular.ttf"),
    _family("Inter", "inter", "Inter-Bold.otf, Inter-Black.otf, Inter-Regular.otf"),
    _family("Cabin", "cabin", "Cabin-Bold.otf, Cabin-Regular.otf"),
    _family("Cantarell", "cantarell", "Cantarell-Bold.otf, Cantarell-Regular.otf"),
    _family("Quicksand", "quicksand", "Quicksand-Bold.ttf, Quicksand-Medium.ttf"),
    _family("Comfortaa", "comfortaa", "Comfortaa-Bold.ttf, Comfortaa-Regular.ttf"),
    _family("Dosis", "dosis", "Dosis-Bold.otf, Dosis-Medium.otf"),
    _family("Karla", "karla", "Karla-Bold.otf, Karla-Regular.otf"),
    _family("Manrope", "manrope", "Manrope-Bold.ttf, Manrope-ExtraBold.ttf, Manrope-Regular.ttf"),
    _family("Play", "play", "Play-Bold.otf, Play-Regular.otf"),
    _family("Go", "go", "Go-Bold.ttf, Go-Regular.ttf"),
    _family("League Spartan", "league-spartan", "LeagueSpartan-Bold.otf, LeagueSpartan-Regular.otf"),  # noqa: E501
    _family("Bebas Neue", "bebas-neue", "BebasNeue-Bold.otf, BebasNeue-Regular.otf"),
    _family("Yanone Kaffeesatz", "yanone-kaffeesatz", "YanoneKaffeesatz-Bold.otf, YanoneKaffeesatz-Regular.otf"),  # noqa: E501
    _family("EB Garamond", "ebgaramond", "EBGaramond12-Regular.otf"),
    _family("Caladea", "crosextra-caladea", "Caladea-Bold.ttf, Caladea-Regular.ttf"),
    _family("PT Serif", "paratype", "PTF75F.ttf, PTF55F.ttf"),
    _family("Andika", "sil-andika", "Andika-Bold.ttf, Andika-Regular.ttf"),
    _family("Courier Prime", "courier-prime", "Courier Prime Bold.otf, Courier Prime.otf"),
    _family("JetBrains Mono", "jetbrains-mono", "JetBrainsMono-Bold.ttf, JetBrainsMono-Regular.ttf"),  # noqa: E501
    _family("Lobster", "lobster", "lobster.otf"),
    _family("Dancing Script", "dancingscript", "DancingScript-Bold.otf"),
    _family("Humor Sans", "humor-sans", "Humor-Sans.ttf", accents=False),
    _family("Open Sans", "open-sans", "OpenSans-Bold.ttf, OpenSans-Regular.ttf", held_out=True),
    _family("Roboto Slab", "roboto-slab", "RobotoSlab-Bold.otf, RobotoSlab-Regular.otf", held_out=True),  # noqa: E501
    _family("Comic Neue", "comic-neue", "ComicNeue-Bold.otf, ComicNeue-Regular.otf", held_out=True),
)
# fmt: on


def font_packages() -> tuple[str, ...]:
    """The Debian packages of all families."""
    return tuple(dict.fromkeys(family.package for family in FAMILIES))


@cache
def _font_files() -> dict[str, Path]:
    """File name -> path, of everything under the system's font folders and matplotlib's own."""
    import matplotlib

    own = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    roots = [own, *(Path(root).expanduser() for root in ROOTS)]
    found: dict[str, Path] = {}
    for root in roots:
        for path in sorted(root.rglob("*.[ot]tf")):
            found.setdefault(path.name, path)
    return found


@cache
def installed(held_out: bool = False) -> tuple[FontFamily, ...]:
    """The families, held out or not, whose files are all here; DejaVu comes with matplotlib."""
    files = _font_files()
    return tuple(
        family
        for family in FAMILIES
        if family.held_out == held_out and all(file in files for file in family.files)
    )


def missing() -> tuple[FontFamily, ...]:
    """The families that this machine lacks."""
    present = {*installed(), *installed(held_out=True)}
    return tuple(family for family in FAMILIES if family not in present)


@cache
def load_word_font(file: str, size: int) -> ImageFont.FreeTypeFont:
    """The font of this file name at `size` pixels. Raises ValueError if it is not installed."""
    path = _font_files().get(file)
    if path is None:
        raise ValueError(f"the font {file} is not installed")
    return ImageFont.truetype(str(path), size)
