"""Scores as chances: the fit, its error, and the file beside the weights."""

import math
from dataclasses import asdict

import numpy as np
import pytest

from paligemma import PaliGemma
from paligemma.checkpoints.calibration import CALIBRATION_FILE, ScoreCalibration, calibrate
from paligemma.checkpoints.io import write_json
from paligemma.checkpoints.resolve import resolve
from paligemma.detections import Detection, parse_tokens
from paligemma.evaluation.metrics.calibration import (
    expected_calibration_error,
    fit_platt,
    reliability,
)
from paligemma.synthetic.scenes import render, sample

CALIBRATION = ScoreCalibration(slope=10, intercept=-5, measured_on="ten squares")


def test_the_fit_finds_the_chances_again():
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.3, 0.4, 20_000)
    right = rng.random(20_000) < 1 / (1 + np.exp(-(60 * scores - 20)))
    slope, intercept = fit_platt(scores, right)
    assert slope == pytest.approx(60, rel=0.1) and intercept == pytest.approx(-20, rel=0.1)
    chances = 1 / (1 + np.exp(-(slope * scores + intercept)))
    assert expected_calibration_error(chances, right) < 0.02
    assert expected_calibration_error(scores, right) > 0.2


def test_a_score_that_separates_claims_no_certainty():
    slope, intercept = fit_platt([0.1, 0.2, 0.3, 0.4], [False, False, True, True])
    assert math.isfinite(slope) and 0.6 < 1 / (1 + math.exp(-(slope * 0.35 + intercept))) < 0.99


@pytest.mark.parametrize("right", [True, False])
def test_a_fit_needs_right_and_wrong_boxes(right):
    with pytest.raises(ValueError, match="boxes that are right, and boxes that are not"):
        fit_platt([0.2, 0.3], [right, right])


def test_error_by_hand():
    scores, right = [0.9, 0.92, 0.95, 0.2, 1.0], [True, True, False, False, True]
    first, last = reliability(scores, right)
    assert first == (1, 0.2, 0) and last.count == 4 and last.right == 0.75
    expected = (0.2 + 4 * abs((0.9 + 0.92 + 0.95 + 1) / 4 - 0.75)) / 5
    assert expected_calibration_error(scores, right) == pytest.approx(expected)
    assert expected_calibration_error([], []) == 0


def test_detections_are_calibrated_where_that_is_known():
    one, plain = Detection("cat", (0, 0, 1, 1), score=0.5), Detection("dog", (0, 0, 1, 1))
    assert calibrate([one, plain], None) == [one, plain]
    calibrated, same = calibrate([one, plain], CALIBRATION)
    assert calibrated == Detection("cat", (0, 0, 1, 1), score=0.5) and same is plain
    assert CALIBRATION.chance(0.6) == pytest.approx(1 / (1 + math.exp(-1)))
    steep = ScoreCalibration(slope=1e6, intercept=-9e5, measured_on="")
    assert steep.chance(0) == pytest.approx(0) and steep.chance(1) == 1


def test_a_file_is_read_back_and_a_damaged_one_refused(tmp_path):
    path = tmp_path / CALIBRATION_FILE
    write_json(path, asdict(CALIBRATION))
    assert ScoreCalibration.read(path) == CALIBRATION
    negative = '{"slope": -1, "intercept": 0, "measured_on": ""}'
    for damaged in ("", "{}", "[1]", "\x00", '{"a": 1}', negative, negative.replace("-1", "NaN")):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=CALIBRATION_FILE):
            ScoreCalibration.read(path)


def test_the_built_in_model_answers_with_chances():
    pg, scene = PaliGemma.load(), next(s for s in map(sample, range(99)) if s.items)
    reply = pg.generate(render(scene, 128), f"detect {scene.items[0].kind}")
    tokens = [(token.text, token.logprob) for token in reply.tokens]
    (raw, *_), (found, *_) = parse_tokens(tokens), reply.detections
    assert pg.score_calibration and raw.score and found.score
    assert found.score == pytest.approx(pg.score_calibration.chance(raw.score))
    assert found.score > raw.score + 0.3
    assert pg.parse_detections(tokens) == list(reply.detections)
    assert "drawn scenes" in pg.score_meaning


def test_other_checkpoints_keep_their_scores(tmp_path):
    pg = PaliGemma.load()
    pg.score_calibration = None
    assert "mean probability" in pg.score_meaning
    tokens = [("<loc0000>", -1.0)] * 4 + [("cat", -1.0)]
    assert pg.parse_detections(tokens)[0].score == pytest.approx(math.exp(-1))
    assert resolve("built-in").score_calibration is not None
