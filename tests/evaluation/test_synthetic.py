"""Scores worked out by hand, and the measures on models that answer all or nothing correctly."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from paligemma.detections import Detection, box_iou
from paligemma.evaluation import synthetic
from paligemma.evaluation.metrics.detection import (
    average_precision,
    match_detections,
    mean_overlap,
)
from paligemma.evaluation.metrics.segmentation import mask_iou
from paligemma.reply import Reply, Timings
from paligemma.synthetic.language import caption, questions, reading, search
from paligemma.synthetic.scenes import crop, render, sample

# --- Overlaps -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "a, b, iou",
    [
        ((0, 0, 1, 1), (0, 0, 1, 1), 1),
        ((0, 0, 1, 1), (0, 0, 0.5, 1), 0.5),
        ((0, 0, 0.4, 0.4), (0.2, 0.2, 0.6, 0.6), 0.04 / 0.28),
        ((0, 0, 0.5, 1), (0.5, 0, 1, 1), 0),  # they touch
        ((0, 0, 0.2, 0.2), (0.5, 0.5, 1, 1), 0),
        ((0, 0, 0.2, 1), (0.5, 0, 1, 1), 0),  # the same rows
        ((0.3, 0.3, 0.3, 0.3), (0.3, 0.3, 0.3, 0.3), 0),
    ],
)
def test_box_iou(a, b, iou):
    assert box_iou(a, b) == pytest.approx(iou) and box_iou(b, a) == pytest.approx(iou)


def test_mask_iou():
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    assert mask_iou(a, b) == 1
    a[:2] = True
    assert mask_iou(a, b) == 0 and mask_iou(a, a) == 1
    b[1:3] = True
    assert mask_iou(a, b) == pytest.approx(1 / 3)


def det(label: str, x: float, score: float | None = None, width: float = 0.1) -> Detection:
    """A box a tenth of the image high, from `x` on."""
    return Detection(label, (x, 0.0, x + width, 0.1), score=score)


def test_matches_are_the_best_of_one_label():
    targets = [det("cat", 0.0), det("cat", 0.2), det("dog", 0.4)]
    assert match_detections(targets, []) == [None, None, None]
    assert match_detections([], targets) == []
    assert match_detections(targets, targets[::-1]) == [2, 1, 0]
    assert match_detections(targets, [det("dog", 0.4), det("cow", 0.0)]) == [None, None, 0]
    # Both predicted cats overlap the first target: it takes the better, the second what is left.
    assert match_detections(targets, [det("cat", 0.04), det("cat", 0.01)]) == [1, 0, None]


def test_mean_overlap_counts_missed_and_extra_objects():
    cat, dog = det("cat", 0.0), det("dog", 0.4)
    assert mean_overlap([], []) == 1 and mean_overlap([cat], []) == mean_overlap([], [cat]) == 0
    assert mean_overlap([cat, dog], [dog]) == mean_overlap([dog], [cat, dog]) == 0.5
    assert mean_overlap([cat], [det("cat", 0.05)]) == pytest.approx(1 / 3)


# --- Average precision ----------------------------------------------------------------------------

CATS = [[det("cat", 0.0), det("cat", 0.5)]]
HALF = 51 / 101  # precision 1 at the recalls 0, 0.01 … 0.5 of COCO's 101


@pytest.mark.parametrize(
    "targets, predictions, ap50",
    [
        (CATS, [[det("cat", 0.0, 0.9), det("cat", 0.5, 0.8)]], 1),
        (CATS, [[]], 0),
        (CATS, [[det("cat", 0.0, 0.9)]], HALF),
        (CATS, [[det("cat", 0.0, 0.9), det("cat", 0.0, 0.8)]], HALF),  # twice the same
        (CATS, [[det("cat", 0.8, 0.9)]], 0),
        (CATS, [[det("dog", 0.0, 0.9), det("dog", 0.5, 0.9)]], 0),
        # A wrong box below the right ones costs nothing; above them it costs a third, or half.
        (CATS, [[det("cat", 0.0, 0.9), det("cat", 0.5, 0.8), det("cat", 0.8, 0.1)]], 1),
        (CATS, [[det("cat", 0.0, 0.5), det("cat", 0.5, 0.4), det("cat", 0.8, 0.9)]], 2 / 3),
        ([[det("cat", 0.0)]], [[det("cat", 0.0, 0.5), det("cat", 0.8, 0.9)]], 0.5),
        # Categories count alike, whether one is never found or predicted without being a target.
        ([[det("cat", 0.0), det("dog", 0.5)]], [[det("cat", 0.0, 0.9)]], 0.5),
        (CATS, [[det("cat", 0.0, 0.9), det("cat", 0.5, 0.8), det("cow", 0.8, 1.0)]], 1),
        # The box of one image is not that of another, where it is a false one of the same score.
        ([[det("cat", 0.0)], []], [[], [det("cat", 0.0, 0.9)]], 0),
        ([[det("cat", 0.0)], []], [[det("cat", 0.0, 0.5)], [det("cat", 0.0, 0.9)]], 0.5),
        ([[]], [[det("cat", 0.0, 0.9)]], 0),
    ],
)
def test_average_precision(targets, predictions, ap50):
    assert average_precision(targets, predictions)[0] == pytest.approx(ap50, abs=1e-3)


def test_mean_average_precision_counts_thresholds():
    targets, predictions = [[det("cat", 0.0)]], [[det("cat", 0.0, 0.9, width=0.0725)]]
    assert box_iou(targets[0][0].box, predictions[0][0].box) == pytest.approx(0.725)
    ap50, ap = average_precision(targets, predictions)
    assert ap50 == pytest.approx(1) and ap == pytest.approx(0.5)  # .50 .55 .60 .65 .70 of ten
    assert average_precision(targets, [[det("cat", 0.0, 0.9)]]) == pytest.approx((1, 1))


def test_average_precision_is_silent(capsys):
    average_precision(CATS, [[det("cat", 0.0, 0.9)]])
    assert capsys.readouterr().out == ""


# --- The measures ---------------------------------------------------------------------------------

FIRST, SCENES = 1_000_000, 12


class FakeModel:
    """What evaluation uses of `PaliGemma`. `answers` holds (image, prompt): (text, objects)."""

    mask_codec = SimpleNamespace(encode=lambda masks: masks, decode=lambda masks: masks * 2 - 1)

    def __init__(self, answers: dict):
        self.answers, self.outlines = answers, []

    def generate_batch(self, images, prompts, options) -> list[Reply]:
        spent = Timings(0.0, 0.0, 0.0, 0)
        replies = []
        for image, prompt in zip(images, prompts, strict=True):
            text, items = self.answers.get((image.tobytes(), prompt), ("", ()))
            found = []
            for item in items:
                codes = (len(self.outlines), *[0] * 15)  # the number of its outline
                self.outlines.append(crop(item, item.box))
                found.append(Detection(item.kind, item.box, codes, score=0.9))
            replies.append(Reply(text, tuple(found), (), spent, "stop"))
        return replies

    def masks(self, detections) -> list[np.ndarray | None]:
        return [self.outlines[one.codes[0]] * 2 - 1 for one in detections]


def correct_answers() -> dict:
    """Every question that `synthetic.evaluate_synthetic` asks about its scenes, answered."""
    answers = {}
    scenes = {seed: sample(seed) for seed in range(FIRST, FIRST + SCENES)}
    images = {seed: render(scene, synthetic.SCENE_SIZE).tobytes() for seed, scene in scenes.items()}
    for seed, scene in scenes.items():
        answers[images[seed], "caption en"] = caption(scene), ()
        answers[images[seed], "ocr"] = reading(scene), ()
    for kind, most in ("detect", 4), ("segment", 2):
        rng = np.random.default_rng(FIRST)
        for seed, scene in scenes.items():
            example = search(scene, kind, rng, most)
            answers[images[seed], example.prefix] = example.suffix, example.objects
    rng = np.random.default_rng(FIRST)
    for seed, scene in scenes.items():
        for question, answer in questions(scene, rng):
            answers[images[seed], f"answer en {question}"] = answer, ()
    return answers


@pytest.fixture(scope="module")
def answers():
    return correct_answers()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Batches that end in the middle, and fewer shapes for the codec."""
    monkeypatch.setattr(synthetic, "BATCH_SIZE", 5)
    real = synthetic.silhouettes
    monkeypatch.setattr(synthetic, "silhouettes", lambda count, rng, shapes: real(40, rng, shapes))


COUNTS = {"scenes", "segment_objects"} | {
    f"{task}_examples" for task in ("caption", "ask", "read", "detect")
}


def test_a_model_that_answers_all_correctly(answers):
    scores = synthetic.evaluate_synthetic(FakeModel(answers), SCENES, FIRST)
    assert scores["scenes"] == scores["caption_examples"] == scores["detect_examples"] == SCENES
    assert 0 < scores["read_examples"] <= SCENES < scores["ask_examples"]
    assert scores["segment_objects"] > SCENES / 2
    assert scores.pop("segment_miou") > 0.95  # of outlines that are 64 pixels wide
    measured = {name: score for name, score in scores.items() if name not in COUNTS}
    assert measured == pytest.approx(dict.fromkeys(measured, 1.0)) and len(measured) == 7
    json.dumps(scores, allow_nan=False)


def test_a_model_that_returns_no_text():
    scores = synthetic.evaluate_synthetic(FakeModel({}), SCENES, FIRST)
    measured = {name: score for name, score in scores.items() if name not in COUNTS}
    assert {name: score for name, score in measured.items() if score} == {
        "codec_iou": 1.0,
        "codec_iou_unseen_shapes": 1.0,
    }


def test_objects_that_are_not_in_the_image_lower_the_mean_iou(answers):
    twice = {key: (text, (*items, *items)) for key, (text, items) in answers.items()}
    one = synthetic.evaluate_synthetic(FakeModel(answers), SCENES, FIRST)
    two = synthetic.evaluate_synthetic(FakeModel(twice), SCENES, FIRST)
    assert two["segment_objects"] == 2 * one["segment_objects"]
    assert two["segment_miou"] == pytest.approx(one["segment_miou"] / 2)


def test_half_of_the_captions(answers):
    half = dict(answers)
    for seed in range(FIRST, FIRST + SCENES, 2):
        half[render(sample(seed), synthetic.SCENE_SIZE).tobytes(), "caption en"] = "a cat", ()
    assert synthetic.evaluate_synthetic(FakeModel(half), SCENES, FIRST)[
        "caption_exact"
    ] == pytest.approx(0.5)


@pytest.mark.filterwarnings("error")
def test_a_task_without_examples_scores_zero():
    wordless = next(seed for seed in range(FIRST, FIRST + 99) if not sample(seed).texts)
    scores = synthetic.evaluate_synthetic(FakeModel({}), 1, wordless)
    assert scores["read_examples"] == 0
    json.dumps(scores, allow_nan=False)


@pytest.mark.parametrize("scenes", [0, -1])
def test_no_scenes_at_all(scenes):
    with pytest.raises(ValueError, match="scene"):
        synthetic.evaluate_synthetic(FakeModel({}), scenes, FIRST)


def test_codec_iou_is_that_of_the_codec():
    rng = np.random.default_rng(0)
    left = SimpleNamespace(encode=lambda m: m, decode=lambda m: torch.where(m > 0.5, 1.0, -1.0))
    assert synthetic.codec_iou(left, rng, ["sun"]) == 1
    full = SimpleNamespace(encode=lambda m: m, decode=torch.ones_like)
    assert 0.5 < synthetic.codec_iou(full, rng, ["sun"]) < 0.9  # the sun's share of its box
