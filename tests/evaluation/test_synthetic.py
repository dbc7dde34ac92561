"""Scores worked out by hand, and the measures on models that know everything or nothing."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from paligemma.detections import Detection, box_iou
from paligemma.evaluation import synthetic as drawn
from paligemma.evaluation.metrics.boxes import average_precision, mask_iou, pair
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


def thing(label: str, x: float, score: float | None = None, width: float = 0.1) -> Detection:
    """A box a tenth of the picture high, from `x` on."""
    return Detection(label, (x, 0.0, x + width, 0.1), score=score)


def test_pairs_are_the_best_of_one_label():
    true = [thing("cat", 0.0), thing("cat", 0.2), thing("dog", 0.4)]
    assert pair(true, []) == [None, None, None]
    assert pair([], true) == []
    assert pair(true, true[::-1]) == [2, 1, 0]
    assert pair(true, [thing("dog", 0.4), thing("cow", 0.0)]) == [None, None, 0]
    # Both found cats overlap the first true one: it takes the better, the second what is left.
    assert pair(true, [thing("cat", 0.04), thing("cat", 0.01)]) == [1, 0, None]


# --- Average precision ----------------------------------------------------------------------------

CATS = [[thing("cat", 0.0), thing("cat", 0.5)]]
HALF = 51 / 101  # precision 1 at the recalls 0, 0.01 … 0.5 of COCO's 101


@pytest.mark.parametrize(
    "true, found, ap50",
    [
        (CATS, [[thing("cat", 0.0, 0.9), thing("cat", 0.5, 0.8)]], 1),
        (CATS, [[]], 0),
        (CATS, [[thing("cat", 0.0, 0.9)]], HALF),
        (CATS, [[thing("cat", 0.0, 0.9), thing("cat", 0.0, 0.8)]], HALF),  # twice the same
        (CATS, [[thing("cat", 0.8, 0.9)]], 0),
        (CATS, [[thing("dog", 0.0, 0.9), thing("dog", 0.5, 0.9)]], 0),
        # A wrong box below the right ones costs nothing; above them it costs a third, or half.
        (CATS, [[thing("cat", 0.0, 0.9), thing("cat", 0.5, 0.8), thing("cat", 0.8, 0.1)]], 1),
        (CATS, [[thing("cat", 0.0, 0.5), thing("cat", 0.5, 0.4), thing("cat", 0.8, 0.9)]], 2 / 3),
        ([[thing("cat", 0.0)]], [[thing("cat", 0.0, 0.5), thing("cat", 0.8, 0.9)]], 0.5),
        # Categories count alike, whether one is never found or found where it is not asked about.
        ([[thing("cat", 0.0), thing("dog", 0.5)]], [[thing("cat", 0.0, 0.9)]], 0.5),
        (CATS, [[thing("cat", 0.0, 0.9), thing("cat", 0.5, 0.8), thing("cow", 0.8, 1.0)]], 1),
        # The box of one picture is not that of another, where it is a false one of the same score.
        ([[thing("cat", 0.0)], []], [[], [thing("cat", 0.0, 0.9)]], 0),
        ([[thing("cat", 0.0)], []], [[thing("cat", 0.0, 0.5)], [thing("cat", 0.0, 0.9)]], 0.5),
        ([[]], [[thing("cat", 0.0, 0.9)]], 0),
    ],
)
def test_average_precision(true, found, ap50):
    assert average_precision(true, found)[0] == pytest.approx(ap50, abs=1e-3)


def test_mean_average_precision_counts_thresholds():
    true, found = [[thing("cat", 0.0)]], [[thing("cat", 0.0, 0.9, width=0.0725)]]
    assert box_iou(true[0][0].box, found[0][0].box) == pytest.approx(0.725)
    ap50, ap = average_precision(true, found)
    assert ap50 == pytest.approx(1) and ap == pytest.approx(0.5)  # .50 .55 .60 .65 .70 of ten
    assert average_precision(true, [[thing("cat", 0.0, 0.9)]]) == pytest.approx((1, 1))


def test_average_precision_is_silent(capsys):
    average_precision(CATS, [[thing("cat", 0.0, 0.9)]])
    assert capsys.readouterr().out == ""


# --- The measures ---------------------------------------------------------------------------------

FIRST, SCENES = 1_000_000, 12


class Fake:
    """What evaluation uses of `PaliGemma`. `answers` holds (picture, prompt): (text, objects)."""

    codec = SimpleNamespace(encode=lambda masks: masks, decode=lambda masks: masks * 2 - 1)

    def __init__(self, answers: dict):
        self.answers, self.outlines = answers, []

    def batch(self, images, prompts, options) -> list[Reply]:
        spent = Timings(0.0, 0.0, 0.0, 0)
        replies = []
        for image, prompt in zip(images, prompts, strict=True):
            text, items = self.answers.get((image.tobytes(), prompt), ("", ()))
            found = []
            for item in items:
                codes = (len(self.outlines), *[0] * 15)  # the number of its outline
                self.outlines.append(crop(item, item.box))
                found.append(Detection(item.kind, item.box, codes, score=0.9))
            replies.append(Reply(text, tuple(found), (), spent, finished=True))
        return replies

    def masks(self, detections) -> list[np.ndarray | None]:
        return [self.outlines[one.codes[0]] * 2 - 1 for one in detections]


def truth() -> dict:
    """Every question that `drawn.evaluate` asks about its scenes, answered."""
    known = {}
    scenes = {seed: sample(seed) for seed in range(FIRST, FIRST + SCENES)}
    pictures = {seed: render(scene, drawn.SIZE).tobytes() for seed, scene in scenes.items()}
    for seed, scene in scenes.items():
        known[pictures[seed], "caption en"] = caption(scene), ()
        known[pictures[seed], "ocr"] = reading(scene), ()
    for kind, most in ("detect", 4), ("segment", 2):
        rng = np.random.default_rng(FIRST)
        for seed, scene in scenes.items():
            example = search(scene, kind, rng, most)
            known[pictures[seed], example.prefix] = example.suffix, example.found
    rng = np.random.default_rng(FIRST)
    for seed, scene in scenes.items():
        for question, answer in questions(scene, rng):
            known[pictures[seed], f"answer en {question}"] = answer, ()
    return known


@pytest.fixture(scope="module")
def known():
    return truth()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Batches that end in the middle, and fewer shapes for the codec."""
    monkeypatch.setattr(drawn, "BATCH", 5)
    real = drawn.silhouettes
    monkeypatch.setattr(drawn, "silhouettes", lambda count, rng, shapes: real(40, rng, shapes))


COUNTED = {"scenes", "caption_asked", "ask_asked", "read_asked", "detect_asked", "segment_objects"}


def test_a_model_that_knows_everything(known):
    scores = drawn.evaluate(Fake(known), SCENES, FIRST)
    assert scores["scenes"] == scores["caption_asked"] == scores["detect_asked"] == SCENES
    assert 0 < scores["read_asked"] <= SCENES < scores["ask_asked"]
    assert scores["segment_objects"] > SCENES / 2
    assert scores.pop("segment_miou") > 0.95  # of outlines that are 64 pixels wide
    measured = {name: score for name, score in scores.items() if name not in COUNTED}
    assert measured == pytest.approx(dict.fromkeys(measured, 1.0)) and len(measured) == 7
    json.dumps(scores, allow_nan=False)


def test_a_model_that_says_nothing():
    scores = drawn.evaluate(Fake({}), SCENES, FIRST)
    measured = {name: score for name, score in scores.items() if name not in COUNTED}
    assert {name: score for name, score in measured.items() if score} == {
        "codec_iou": 1.0,
        "codec_iou_unseen_shapes": 1.0,
    }


def test_objects_that_are_not_there_lower_the_mean_iou(known):
    twice = {key: (text, (*items, *items)) for key, (text, items) in known.items()}
    one = drawn.evaluate(Fake(known), SCENES, FIRST)
    two = drawn.evaluate(Fake(twice), SCENES, FIRST)
    assert two["segment_objects"] == 2 * one["segment_objects"]
    assert two["segment_miou"] == pytest.approx(one["segment_miou"] / 2)


def test_half_of_the_captions(known):
    half = dict(known)
    for seed in range(FIRST, FIRST + SCENES, 2):
        half[render(sample(seed), drawn.SIZE).tobytes(), "caption en"] = "a cat", ()
    assert drawn.evaluate(Fake(half), SCENES, FIRST)["caption_exact"] == pytest.approx(0.5)


@pytest.mark.filterwarnings("error")
def test_a_question_that_no_scene_allows_is_no_hole_in_the_scores():
    wordless = next(seed for seed in range(FIRST, FIRST + 99) if not sample(seed).texts)
    scores = drawn.evaluate(Fake({}), 1, wordless)
    assert scores["read_asked"] == 0
    json.dumps(scores, allow_nan=False)


@pytest.mark.parametrize("scenes", [0, -1])
def test_no_scenes_at_all(scenes):
    with pytest.raises(ValueError, match="scene"):
        drawn.evaluate(Fake({}), scenes, FIRST)


def test_codec_iou_is_that_of_the_codec():
    rng = np.random.default_rng(0)
    left = SimpleNamespace(encode=lambda m: m, decode=lambda m: torch.where(m > 0.5, 1.0, -1.0))
    assert drawn.codec_iou(left, rng, ["sun"]) == 1
    full = SimpleNamespace(encode=lambda m: m, decode=torch.ones_like)
    assert 0.5 < drawn.codec_iou(full, rng, ["sun"]) < 0.9  # the sun's share of its box
