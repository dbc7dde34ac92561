"""A folder of images as `datasets` has them: metadata.jsonl or metadata.csv names each one's text.

    {"file_name": "cat.jpg", "text": "a cat"}

The text may also be called `caption` or `suffix`; a `prefix`, where there is one, is the prompt.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paligemma.formats.files import iter_lines, parse_record
from paligemma.formats.samples import SampleRecord, read_columns

METADATA = ("metadata.jsonl", "metadata.csv")


def find_metadata(folder: Path) -> Path | None:
    """The metadata file of a folder, if it has one."""
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def read_metadata(path: Path, prefix: str) -> Iterator[tuple[int, SampleRecord | str]]:
    """The number of each line and its sample, or the reason why it is none.

    Raises ValueError for a file that cannot be read.
    """
    for number, values in _lines(path):
        try:
            yield number, _sample(values, prefix)
        except ValueError as error:
            yield number, str(error)


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    if path.suffix == ".jsonl":
        yield from ((number, line) for number, _, line in iter_lines(path))
        return
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            for values in reader:
                yield reader.line_num, values
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error


def _sample(values: Any, prefix: str) -> SampleRecord:
    if isinstance(values, bytes):
        values = parse_record(dict[str, Any], values)
    if not values.get("file_name"):
        raise ValueError("it has no file_name")
    return read_columns(values, values["file_name"], prefix)
