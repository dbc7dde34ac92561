"""Data sets as files: found in folders, read as JSON and checked, with their pictures.

What files hold is declared as pydantic models, so that a file which is broken or of another kind
is one sentence with its name and the place in it.
"""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from paligemma.evaluation.datasets.examples import Example, Loaded

T = TypeVar("T")


class Row(BaseModel):
    """An object in a file; what it declares must be there, what else there is does not matter."""

    model_config = ConfigDict(coerce_numbers_to_str=True)


def read_json(kind: type[T], path: Path) -> T:
    """The JSON of a file, as `kind`; ValueError in one sentence for what is not that."""
    return _checked(TypeAdapter(kind), _bytes(path), str(path))


def read_lines(kind: type[T], path: Path) -> list[T]:
    """The same of every line of a file; empty lines do not count."""
    reader = TypeAdapter(kind)
    rows = []
    for number, line in enumerate(_bytes(path).splitlines(), 1):
        if line.strip():
            rows.append(_checked(reader, line, f"{path}, line {number}"))
    return rows


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error


def _checked(reader: TypeAdapter, source: bytes, name: str):
    try:
        return reader.validate_json(source)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{name}: {place + ': ' if place else ''}{first['msg']}.") from None


def find(data: Path, *names: str) -> list[Path]:
    """`data` where it is a file; else all files under it of these names (with * for anything)."""
    if data.is_file():
        return [data]
    if not data.is_dir():
        raise ValueError(f"There is no file or folder {data}.")
    found = sorted(path for name in names for path in data.rglob(name))
    if not found:
        raise ValueError(f"{data} has no {' or '.join(names)}; name the file, or another --split.")
    return found


def find_one(data: Path, *names: str) -> Path:
    """The same where there may be one only."""
    found = find(data, *names)
    if len(found) > 1:
        some = ", ".join(str(path.relative_to(data)) for path in found[:4])
        raise ValueError(f"{data} has {len(found)} files for it ({some}); name one of them.")
    return found[0]


class Pictures:
    """Pictures by the names that the annotations in `source` give them."""

    def __init__(self, data: Path, source: Path) -> None:
        above = source.parent.parent if source.parent.name == "annotations" else source.parent
        self.source, self.root = source, data if data.is_dir() else above

    def __call__(self, name: str) -> Path:
        for folder in (self.source.parent, self.root):
            if (folder / name).is_file():
                return folder / name
        found = self._by_name.get(Path(name).name)
        if found is None:
            raise ValueError(f"{self.source} names {name}, which is not under {self.root}.")
        return found

    @cached_property
    def _by_name(self) -> dict[str, Path]:
        return {path.name: path for path in sorted(self.root.rglob("*.*"), reverse=True)}


def some(examples: Iterable[Example], data: Path, left_out: dict[str, int] | None = None) -> Loaded:
    """These examples, of which there must be one at least."""
    loaded = Loaded(list(examples), {why: n for why, n in (left_out or {}).items() if n})
    if not loaded.examples:
        raise ValueError(f"{data} has no example for this task and split.")
    return loaded
