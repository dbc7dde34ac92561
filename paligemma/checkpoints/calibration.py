"""How often a box of a score is right, where that was measured: a file beside the weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from paligemma.checkpoints.io import read_json
from paligemma.detections import Detection

CALIBRATION_FILE = "score_calibration.json"


@dataclass(frozen=True)
class ScoreCalibration:
    """Platt scaling: the chance that a box is right is 1 / (1 + exp(-(slope * score + intercept))).

    A box is right if its IoU with an object of its name is 0.5 or more. `measured_on` says on which
    images, to end a sentence. Raises ValueError if a higher score is not a higher chance.
    """

    slope: float
    intercept: float
    measured_on: str

    def __post_init__(self) -> None:
        numbers = self.slope, self.intercept
        if not all(isinstance(one, int | float) and math.isfinite(one) for one in numbers):
            raise ValueError(f"slope and intercept are numbers, not {numbers}")
        if self.slope <= 0 or not isinstance(self.measured_on, str):
            raise ValueError("slope is above 0, and measured_on a text")

    @classmethod
    def read(cls, path: Path) -> "ScoreCalibration":
        """Raises ValueError if the file is not the JSON of these fields."""
        values = read_json(path)
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a calibration of scores: {error}.") from None

    def chance(self, score: float) -> float:
        """The chance, 0..1, that a box of this score is right."""
        return 1 / (1 + math.exp(-max(self.slope * score + self.intercept, -700)))


def calibrate(
    detections: Sequence[Detection], calibration: ScoreCalibration | None
) -> list[Detection]:
    """The same objects, each with the chance that its box is right as its score, where known."""
    if calibration is None:
        return list(detections)
    return [
        one if one.score is None else replace(one, score=calibration.chance(one.score))
        for one in detections
    ]
