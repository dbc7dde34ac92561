"""A model's answers on disk: JSON lines that several processes write and any of them reads.

A line is `Reply.to_json` without tokens, and the `id` of the example.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from paligemma.detections import Detection
from paligemma.reply import Reply


@dataclass(frozen=True)
class Prediction:
    """A model's answer to the example of this id; `detections` are the objects in `text`."""

    id: str
    prompt: str
    text: str
    detections: tuple[Detection, ...]


class PredictionWriter:
    """Appends to the predictions file of one process in `folder`; a context manager.

    A last line that was cut off is removed first. What was written is with the operating system
    when `write` returns, so that a killed process loses nothing.
    """

    def __init__(self, folder: Path, process: int) -> None:
        path = folder / f"predictions-{process:03d}.jsonl"
        if path.exists():
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        self._file = path.open("ab")

    def __enter__(self) -> "PredictionWriter":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def write(self, replies: Iterable[tuple[str, Reply]]) -> None:
        """Append the replies to the examples of these ids."""
        values = ({"id": example} | reply.to_json(tokens=False) for example, reply in replies)
        lines = (json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in values)
        self._file.write(b"".join(lines))
        self._file.flush()


def read_predictions(folder: Path) -> dict[str, Prediction]:
    """All predictions in a folder by the id of their example, without a last line that is cut off.

    Raises ValueError, with file and line, for any other line that is no prediction.
    """
    predictions: dict[str, Prediction] = {}
    for path in sorted(folder.glob("predictions-*.jsonl")):
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
            try:
                one = _parse_prediction(line)
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{path}, line {number}, is no prediction: remove it.") from None
            predictions.setdefault(one.id, one)
    return predictions


def _parse_prediction(line: bytes) -> Prediction:
    values = json.loads(line)
    detections = (
        Detection(
            label=one["label"],
            box=tuple(one["box_normalized"]),
            codes=None if one["mask_codes"] is None else tuple(one["mask_codes"]),
            score=one["score"],
        )
        for one in values["detections"]
    )
    return Prediction(values["id"], values["prompt"], values["text"], tuple(detections))
