"""A model's answers on disk: JSON lines that several processes write and any of them reads."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from paligemma.detections import Detection


@dataclass(frozen=True)
class Prediction:
    """A model's answer to the example of this id; `detections` are the objects in `text`."""

    id: str
    prompt: str
    text: str
    detections: tuple[Detection, ...]


class Appended:
    """The file of one process in `folder`, for more answers; a context manager.

    A last line that was cut off is taken away first. What was added is with the operating system
    when `add` returns, so that only the machine itself can lose it.
    """

    def __init__(self, folder: Path, process: int) -> None:
        path = folder / f"predictions-{process:03d}.jsonl"
        if path.exists():
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        self._file = path.open("ab")

    def __enter__(self) -> "Appended":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def add(self, answers: Iterable[Prediction]) -> None:
        lines = (json.dumps(asdict(one), ensure_ascii=False).encode() + b"\n" for one in answers)
        self._file.write(b"".join(lines))
        self._file.flush()


def read_predictions(folder: Path) -> dict[str, Prediction]:
    """All answers in a folder by the id of their example; a last line that was cut off is none.

    Raises ValueError, with file and line, for any other line that is no answer.
    """
    kept: dict[str, Prediction] = {}
    for path in sorted(folder.glob("predictions-*.jsonl")):
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
            try:
                one = _parse(line)
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{path}, line {number}, is no answer: take it out.") from None
            kept.setdefault(one.id, one)
    return kept


def _parse(line: bytes) -> Prediction:
    row = json.loads(line)
    found = (
        Detection(
            label=one["label"],
            box=tuple(one["box"]),
            codes=None if one["codes"] is None else tuple(one["codes"]),
            score=one["score"],
        )
        for one in row["detections"]
    )
    return Prediction(row["id"], row["prompt"], row["text"], tuple(found))
