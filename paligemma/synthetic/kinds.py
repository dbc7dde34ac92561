"""The table of kinds: every sort of thing that the drawn world shows, and its names.

`kinds.csv` is made to be read and edited. One line is one kind:

- `name`: what an English answer calls it; unique.
- `category`: `animal`, `food`, ...; empty where no category fits.
- `color`: the colour that the thing has in nearly every drawing (a banana is yellow), else empty.
- `code_points`: the emoji that show it, hexadecimal, several where drawings are twins
  (the dog's face and the whole dog are both a dog).
- `glyph`: its character in the DejaVu font, if there is one.
- `en`, `fr`, `es`: the singular with its indefinite article; `de` with its definite article, which
  tells the gender. A Spanish feminine noun that takes "un" is marked by a final " f".
- `en_plural` and so on: the plural without an article.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("kinds.csv")
LANGUAGES = ("en", "de", "fr", "es")


@dataclass(frozen=True)
class Kind:
    """One line of the table. `singular` and `plural` are by language, `singular` with its article
    as the table has it."""

    name: str
    category: str
    color: str
    code_points: tuple[str, ...]
    glyph: str
    singular: dict[str, str]
    plural: dict[str, str]

    @property
    def other_names(self) -> tuple[str, ...]:
        """What it is called besides, without articles: plurals, and in the other languages."""
        forms = [
            form
            for language in LANGUAGES
            for form in (
                self.singular[language].split(" ", 1)[1].removesuffix(" f"),
                self.plural[language],
            )
        ]
        return tuple(form for form in dict.fromkeys(forms) if form != self.name)


def read_kinds(path: Path = TABLE) -> tuple[Kind, ...]:
    """The kinds of a table, in its order. Raises ValueError if a name or code point repeats."""
    with path.open(encoding="utf-8", newline="") as file:
        kinds = tuple(
            Kind(
                line["name"],
                line["category"],
                line["color"],
                tuple(line["code_points"].split()),
                line["glyph"],
                {language: line[language] for language in LANGUAGES},
                {language: line[f"{language}_plural"] for language in LANGUAGES},
            )
            for line in csv.DictReader(file)
        )
    for values in ([kind.name for kind in kinds], [c for kind in kinds for c in kind.code_points]):
        repeated = {value for value in values if values.count(value) > 1}
        if repeated:
            raise ValueError(f"{path.name} has {', '.join(sorted(repeated))} more than once")
    return kinds


@cache
def all_kinds() -> tuple[Kind, ...]:
    """The kinds of `kinds.csv`; a kind's number is its place here."""
    return read_kinds()


@cache
def kind_number(name: str) -> int:
    """The place of the kind called `name`. Raises ValueError if there is none."""
    for number, kind in enumerate(all_kinds()):
        if kind.name == name:
            return number
    raise ValueError(f"no kind is called {name!r}")


@cache
def categories() -> tuple[str, ...]:
    """All categories, in alphabetical order."""
    return tuple(sorted({kind.category for kind in all_kinds()} - {""}))
