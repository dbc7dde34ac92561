"""Make scores of the built-in model chances: python scripts/calibrate_scores.py [--num-scenes 2000]

Asks for objects in scenes of the world of drawings (`paligemma data fetch-stickers` fetches them),
fits the chance that a box is right to its score, writes score_calibration.json beside the weights,
and measures it on as many other scenes: the expected calibration error, and a drawing of both
curves.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from matplotlib.figure import Figure
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))

from paligemma import PaliGemma
from paligemma.checkpoints.calibration import CALIBRATION_FILE, ScoreCalibration
from paligemma.checkpoints.io import write_json
from paligemma.checkpoints.resolve import BUILT_IN_FOLDER
from paligemma.detections import box_iou
from paligemma.evaluation.classes import MIN_IOU
from paligemma.evaluation.metrics.calibration import (
    expected_calibration_error,
    fit_platt,
    reliability,
)
from paligemma.evaluation.metrics.detection import match_detections
from paligemma.evaluation.world import CHUNK, ask_scenes, target_objects
from paligemma.synthetic.drawings import OPTIONS, Drawings

DRAWING = Path(__file__).parents[1] / "docs" / "calibration.png"
FITTED_ON, MEASURED_ON = 2_000_000, 1_000_000  # the first seeds
Judged = tuple[list[float], list[bool]]  # scores, and whether each box is right


def judge_boxes(pg: PaliGemma, num_scenes: int, first_seed: int) -> Judged:
    """The score of every box that was found, and whether it is at an object of its name."""
    world = Drawings(OPTIONS.as_drawn(None))
    scores: list[float] = []
    right: list[bool] = []
    for start in tqdm(range(0, num_scenes, CHUNK), desc=f"{CHUNK} scenes at a time"):
        numbers = range(start, min(start + CHUNK, num_scenes))
        for one in ask_scenes(pg, world, numbers, first_seed, ("detect",)):
            objects, found = target_objects(one.sample), one.reply.detections
            matches = match_detections(objects, found)
            at_objects = {
                match
                for target, match in zip(objects, matches, strict=True)
                if match is not None and box_iou(target.box, found[match].box) >= MIN_IOU
            }
            scores += [box.score or 0.0 for box in found]
            right += [number in at_objects for number in range(len(found))]
    return scores, right


def draw(curves: dict[str, Judged], path: Path) -> None:
    """The share of right boxes by score, a dot for each range of scores, by its number of boxes."""
    figure = Figure(figsize=(5, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", lw=1)
    for name, judged in curves.items():
        bins = reliability(*judged)
        error = expected_calibration_error(*judged)
        score, share = [one.score for one in bins], [one.right for one in bins]
        (line,) = axes.plot(score, share, "-", label=f"{name}: error {error:.3f}")
        sizes = [8 + 0.12 * one.count for one in bins]
        axes.scatter(score, share, sizes, color=line.get_color())
    axes.set(xlabel="score", ylabel="share of boxes that are right", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make scores of the built-in model chances.")
    parser.add_argument("--num-scenes", type=int, default=2000)
    num_scenes = parser.parse_args(arguments).num_scenes
    pg = PaliGemma.load()
    pg.score_calibration = None  # the scores as they come
    slope, intercept = fit_platt(*judge_boxes(pg, num_scenes, FITTED_ON))
    where = "drawn scenes like those the model was trained on"
    calibration = ScoreCalibration(slope=slope, intercept=intercept, measured_on=where)
    scores, right = judge_boxes(pg, num_scenes, MEASURED_ON)
    chances = [calibration.chance(score) for score in scores]
    curves = {"mean probability": (scores, right), "calibrated": (chances, right)}
    for name, judged in curves.items():
        print(f"{name}: expected calibration error {expected_calibration_error(*judged):.3f}")
        for one in reliability(*judged):
            print(f"  score {one.score:.3f}: {one.right:.3f} of {one.count} right")
    write_json(BUILT_IN_FOLDER / CALIBRATION_FILE, asdict(calibration))
    draw(curves, DRAWING)


if __name__ == "__main__":
    main()
