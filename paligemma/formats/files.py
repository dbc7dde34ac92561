"""JSON files checked against pydantic models, so that every mistake is one sentence with its place.

    class Caption(FileRecord):
        image_id: int
        caption: str

    captions = read_record_lines(Caption, path)

Raises ValueError, for instance "captions.jsonl, line 3: it has no caption."
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

T = TypeVar("T")


class FileRecord(BaseModel):
    """An object in a file: the declared fields must be there, all others are ignored."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


def read_record(kind: type[T], path: Path) -> T:
    """The JSON of a file as `kind`.

    Raises ValueError, in one sentence that names the file and the place in it, for a file that
    cannot be read, is not JSON or does not fit `kind`.
    """
    source = read_bytes(path)
    try:
        return parse_record(kind, source)
    except ValueError as error:
        raise ValueError(f"{path}: {error}.") from None


def read_record_lines(kind: type[T], path: Path) -> list[T]:
    """Each line of a file as `kind`, without the empty ones. Raises ValueError as `read_record`."""
    records = []
    for number, _, line in iter_lines(path):
        try:
            records.append(parse_record(kind, line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}.") from None
    return records


def iter_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(number from 1, byte offset, line) of each line of a file that is not empty."""
    offset = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, offset, line
                offset += len(line)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error


def parse_record(kind: type[T], source: bytes) -> T:
    """`source` as `kind`. Raises ValueError with a reason, such as "it has no caption"."""
    try:
        return _adapter(kind).validate_json(source)
    except ValidationError as error:
        raise ValueError(_reason(error, kind)) from None


def check_record(kind: type[T], value: Any) -> T:
    """A value of parsed JSON as `kind`. Raises ValueError with a reason, as `parse_record`."""
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        raise ValueError(_reason(error, kind)) from None


@lru_cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)


def _reason(error: ValidationError, record: Any) -> str:
    """The first complaint of pydantic in plain words, without a full stop."""
    first = error.errors()[0]
    kind, path, value = first["type"], [str(part) for part in first["loc"]], first["input"]
    place = ".".join(path) or "it"
    if kind == "json_invalid":
        return f"it is not JSON ({first['msg'].removeprefix('Invalid JSON: ')})"
    if kind == "missing":
        return f"{'.'.join(path[:-1]) or 'it'} has no {path[-1]}"
    if kind == "value_error":
        return first["msg"].removeprefix("Value error, ")
    if kind == "string_type":
        return f"{place} is {value!r:.60}, not text"
    if kind in ("model_type", "dict_type"):
        return f"{place} is {_json_name(value)}, not an object{'' if path else _fields(record)}"
    if kind in ("list_type", "tuple_type"):
        return f"{place} is {_json_name(value)}, not a list"
    return f"{place} is {value!r:.60}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _fields(record: Any) -> str:
    """ " with a, b and c", the fields that a record must have."""
    fields = getattr(record, "model_fields", {})
    *names, last = [name for name, field in fields.items() if field.is_required()] or [""]
    return f" with {', '.join(names)}{' and ' if names else ''}{last}" if last else ""


def _json_name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return names.get(type(value), "null" if value is None else "a number")


# --- Files in folders -----------------------------------------------------------------------------


def find_files(data: Path, *patterns: str) -> list[Path]:
    """`data` itself if it is a file; else all files under it whose names fit a glob pattern.

    Raises ValueError if there are none.
    """
    if data.is_file():
        return [data]
    if not data.is_dir():
        raise ValueError(f"There is no file or folder {data}.")
    found = sorted(path for pattern in patterns for path in data.rglob(pattern))
    if not found:
        names = " or ".join(patterns)
        raise ValueError(f"{data} has no {names}; name the file, or another --split.")
    return found


def find_file(data: Path, *patterns: str) -> Path:
    """`find_files` if it finds exactly one. Raises ValueError otherwise."""
    found = find_files(data, *patterns)
    if len(found) > 1:
        some = ", ".join(str(path.relative_to(data)) for path in found[:4])
        raise ValueError(f"{data} has {len(found)} files for it ({some}); name one of them.")
    return found[0]


SPLITS = ("train", "valid", "val", "test")


def check_one_split(folder: Path) -> None:
    """Raises ValueError for a whole data set, whose splits must not be mixed."""
    for place in (folder, folder / "images"):
        splits = [name for name in SPLITS if (place / name).is_dir()]
        if len(splits) > 1:
            raise ValueError(
                f"{place} has the splits {' and '.join(splits)}; name one, such as "
                f"{place / splits[0]}."
            )
