"""Checks of an `.npz` before any of its arrays is read: what it says of its size may be untrue."""

import zipfile
from math import prod
from pathlib import Path

import numpy as np

MAX_ARRAYS = 10_000  # a published checkpoint has some 40
MAX_DIRECTORY_BYTES = 4_000_000  # of the list of names at the end of a zip
MAX_COMPRESSION = 100  # times; weights hardly compress at all, a zip bomb 1000 times
MAX_NAME_LENGTH = 500

Header = tuple[tuple[int, ...], np.dtype]


def read_headers(path: str | Path) -> dict[str, Header]:
    """The shape and dtype of every array, from the headers alone, by its name in the zip.

    Raises ValueError, zipfile.BadZipFile or what else zipfile and numpy raise for a damaged file.
    """
    headers = {}
    _check_directory(Path(path))
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if len(entry.filename) > MAX_NAME_LENGTH or entry.filename in headers:
                raise ValueError(f"the name {entry.filename[:40]!r} is too long or there twice")
            with archive.open(entry) as file:
                version = np.lib.format.read_magic(file)
                read = getattr(np.lib.format, f"read_array_header_{version[0]}_0", None)
                if read is None:
                    raise ValueError(f"{entry.filename} is of an unknown version, {version}")
                shape, _, dtype = read(file)
                headers[entry.filename] = shape, dtype
    return headers


def check_npz(path: str | Path, max_numbers: int) -> None:
    """Raises ValueError if the arrays hold more than `max_numbers`, or more than the file has.

    And what `read_headers` raises.
    """
    headers = read_headers(path)
    numbers = sum(prod(shape) for shape, _ in headers.values())
    if numbers > max_numbers:
        raise ValueError(f"it says that it holds {numbers:,} numbers; {max_numbers:,} can belong")
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            shape, dtype = headers[entry.filename]
            if prod(shape) * dtype.itemsize > entry.file_size:
                raise ValueError(f"{entry.filename} is shorter than its shape {list(shape)}")
            if entry.file_size > MAX_COMPRESSION * (entry.compress_size + 10_000):
                raise ValueError(f"{entry.filename} is compressed more than weights can be")


def _check_directory(path: Path) -> None:
    """Raises ValueError if the zip lists more entries than are read, before it is opened."""
    with path.open("rb") as file:
        file.seek(0, 2)
        size = file.tell()
        file.seek(max(0, size - 66_000))
        tail = file.read()
    end = tail.rfind(b"PK\5\6")
    if end < 0 or len(tail) < end + 22:
        raise zipfile.BadZipFile("File is not a zip file")
    entries = int.from_bytes(tail[end + 10 : end + 12], "little")
    directory = int.from_bytes(tail[end + 12 : end + 16], "little")
    wide = tail[max(0, end - 76) : end]  # where zipfile looks for a zip64's record
    if wide.startswith(b"PK\6\6"):
        entries = int.from_bytes(wide[32:40], "little")
        directory = int.from_bytes(wide[40:48], "little")
    if entries > MAX_ARRAYS or directory > MAX_DIRECTORY_BYTES:
        raise ValueError(f"it lists {entries:,} or more arrays; at most {MAX_ARRAYS:,} are read")
