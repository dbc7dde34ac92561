"""The scores of answers to prompts of any task."""

import numpy as np
import pytest

from paligemma.detections import Detection, parse
from paligemma.evaluation.answers import score_answers
from paligemma.evaluation.metrics.segmentation import object_mask_iou

BOX = "<loc0100><loc0200><loc0300><loc0400>"
OTHER = "<loc0500><loc0600><loc0900><loc0900>"
MASK = "<seg001>" * 16


def scored(prompt: str, *pairs: tuple[str, str]) -> dict[str, float]:
    found = [[Detection(o.label, o.box, o.codes, 0.9) for o in parse(b)] for _, b in pairs]
    whole = lambda objects: [np.ones((64, 64)) for _ in objects]
    references, answers = zip(*pairs, strict=True)
    return score_answers([prompt] * len(pairs), references, answers, found, whole).scores


def test_text_is_compared_exactly():
    assert scored("ocr", ("EXIT", "EXIT"), ("EXIT", "exit")) == {"exact": 0.5}


def test_questions_are_compared_as_vqa_normalizes_them():
    scores = scored("answer en how many?", ("two", "2"), ("The anchor", "Anchor."), ("no", "yes"))
    assert scores == {"exact": 0.0, "accuracy": pytest.approx(2 / 3)}


def test_captions_have_a_cider():
    scores = scored("caption en", ("a red cat", "a red cat"), ("a blue dog", "a tree"))
    assert scores["exact"] == 0.5 and scores["cider"] > 2


def test_boxes_have_an_average_precision():
    scores = scored("detect cat", (f"{BOX} cat", f"{BOX} cat"), (f"{OTHER} cat", f"{OTHER} cat"))
    assert scores == {"exact": 1.0, "ap50": 1.0, "map": 1.0}
    scores = scored("detect cat", (f"{BOX} cat", f"{OTHER} cat"), ("", f"{BOX} cat"))
    assert scores == {"exact": 0.0, "ap50": 0.0, "map": 0.0}


def test_masks_that_are_missed_or_extra_count_0():
    pair = f"{BOX}{MASK} cat ; {OTHER}{MASK} dog"
    assert scored("segment cat ; dog", (pair, pair))["miou"] == 1
    assert scored("segment cat ; dog", (pair, f"{BOX}{MASK} cat"))["miou"] == 0.5
    assert scored("segment cat ; dog", (f"{BOX}{MASK} cat", pair))["miou"] == 0.5


def test_masks_are_compared_where_they_lie():
    left, right = np.ones((64, 64)), np.ones((64, 64))
    left[:, 32:] = -1
    half, whole = Detection("a", (0, 0, 0.5, 1)), Detection("a", (0, 0, 1, 1))
    assert object_mask_iou(whole, left, half, right) == pytest.approx(1, abs=0.02)
    assert object_mask_iou(whole, right, half, right) == pytest.approx(0.5, abs=0.02)
    assert object_mask_iou(whole, right, Detection("a", (0.5, 0.5, 0.5, 0.5)), right) == 0
