"""Parquet files with the columns of image data sets of the hub, as `datasets` writes them.

    image: {"bytes": …, "path": "cat.jpg"}, "cat.jpg" or bytes    prefix: text    suffix: text

The text columns are those of JSON lines (`formats.samples`), conversations too, with `images` or
`image`; or, as in a folder's metadata, `text` or `caption`.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from paligemma.formats.samples import (
    CONVERSATIONS,
    TEXTS,
    SampleRecord,
    read_columns,
    read_conversation,
)

IMAGE_COLUMNS = ("image", "images")


class RowPlace(NamedTuple):
    """A row: its file, its number in the file from 0, its row group, and its number in that."""

    path: Path
    number: int
    group: int
    row: int


def find_parquet(path: Path) -> list[Path]:
    """A file, or all that a pattern such as `data/train-*.parquet` fits.

    Raises ValueError if there is none, and for a folder, which may hold several splits.
    """
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder; name a file in it, or several as {path / 'train-*.parquet'}."
        )
    found = [path] if path.is_file() else sorted(path.parent.glob(path.name))
    if not found:
        raise ValueError(f"There is no file {path}.")
    return found


def read_parquet(
    path: Path, prefix: str | None
) -> Iterator[tuple[RowPlace, list[SampleRecord] | str]]:
    """The place of each row of a file, and its samples, or the reason why it has none.

    No image is read: names in a `SampleRecord` are paths, "" where the file has bytes without one.
    `prefix` is the prompt where the file has none. Raises ValueError for a file that cannot be
    read or has no image column.
    """
    number = 0
    file = _open(path)
    column, columns = _columns(path, file)
    for group in range(file.num_row_groups):
        for row, values in enumerate(_read(path, file, group, columns)):
            place = RowPlace(path, number, group, row)
            names = _names(values.pop(column, None))
            try:
                yield place, _samples(values, names, prefix)
            except ValueError as error:
                yield place, str(error)
            number += 1


def read_parquet_images(place: RowPlace) -> list[bytes | str]:
    """The bytes of each of a row's images, or its path where the file does not hold them."""
    value = _images(place.path, place.group)[place.row]
    values = value if isinstance(value, list) else [value]
    found = [
        one.get("bytes") or one.get("path") if isinstance(one, dict) else one for one in values
    ]
    return [one or "" for one in found]


def _samples(values: dict[str, Any], names: list[str], prefix: str | None) -> list[SampleRecord]:
    turns = next((values[name] for name in CONVERSATIONS if values.get(name)), None)
    if turns is not None and values.get("prefix") is None:
        return read_conversation(turns, names)
    return [read_columns(values, names, prefix)]


def _names(value: Any) -> list[str]:
    """The paths of the images in a cell, "" for one that has none."""
    if isinstance(value, list):
        return [name for one in value for name in _names(one)]
    path = value.get("path") if isinstance(value, dict) else value
    return [path if isinstance(path, str) else ""]


def _columns(path: Path, file: Any) -> tuple[str, list[str]]:
    """The image column, and the leaves to read beside images' bytes, as Parquet names them."""
    given = file.schema_arrow.names
    column = next((name for name in IMAGE_COLUMNS if name in given), None)
    if column is None:
        names = ", ".join(given[:8])
        raise ValueError(f"{path} has no column {' or '.join(IMAGE_COLUMNS)}, only {names}.")
    texts = [name for name in ("prefix", *TEXTS, *CONVERSATIONS) if name in given]
    leaves = [file.schema.column(number) for number in range(len(file.schema))]
    paths = [
        leaf.path
        for leaf in leaves
        if leaf.path.split(".")[0] == column and leaf.logical_type.type == "STRING"
    ]
    return column, texts + paths


def _open(path: Path) -> Any:
    """The opened file, memory-mapped. Raises ValueError if it cannot be read."""
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path, memory_map=True)
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} cannot be read as Parquet.") from error


def _read(path: Path, file: Any, group: int, columns: list[str]) -> list[dict[str, Any]]:
    import pyarrow

    try:
        return file.read_row_group(group, columns=columns).to_pylist()
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: row group {group} cannot be read.") from error


@lru_cache(maxsize=2)
def _images(path: Path, group: int) -> list[Any]:
    """The image column of a row group: `datasets` writes groups of some hundred images."""
    file = _open(path)
    column, _ = _columns(path, file)
    return [values[column] for values in _read(path, file, group, [column])]
