"""Detection by class: what is counted where, as JSON, as a table and as a picture."""

import numpy as np
import pytest
from PIL import Image

from paligemma.detections import Box, Detection
from paligemma.evaluation import classes
from paligemma.evaluation.classes import draw_classes, format_classes, report_classes

LEFT: Box = (0, 0, 0.4, 1)
RIGHT: Box = (0.6, 0, 1, 1)
NEAR_LEFT: Box = (0, 0, 0.4, 0.9)


def det(label: str, box: Box, score: float = 0.9) -> Detection:
    return Detection(label, box, None, score)


# a cat found as a dog; a dog found twice, once as a cat; a cat missed; a bird where nothing is
TARGETS = [[det("cat", LEFT)], [det("dog", LEFT)], [det("cat", RIGHT)], []]
PREDICTIONS = [
    [det("dog", LEFT)],
    [det("cat", LEFT), det("dog", NEAR_LEFT)],
    [],
    [det("bird", RIGHT)],
]
EXPECTED = {
    ("cat", "dog"): 1,
    ("dog", "dog"): 1,
    (None, "cat"): 1,
    ("cat", None): 1,
    (None, "bird"): 1,
}


def test_every_object_and_every_box_counts_once():
    report = report_classes(TARGETS, PREDICTIONS)
    assert report.pairs == EXPECTED
    assert report.classes == ["cat", "dog", "bird"]
    expected = [[0, 1, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]]
    assert report.matrix([*report.classes, None]).tolist() == expected


def test_a_box_at_another_place_is_a_miss_and_an_extra():
    report = report_classes([[det("cat", LEFT)]], [[det("cat", (0, 0, 0.4, 0.45))]])
    assert report.pairs == {("cat", None): 1, (None, "cat"): 1}
    assert report.precisions["cat"].ap50 == 0
    report = report_classes([[det("cat", LEFT)]], [[det("cat", (0, 0, 0.4, 0.51))]])
    assert report.pairs == {("cat", "cat"): 1}
    assert report.precisions["cat"] == pytest.approx((1, 0.1))


def test_boxes_in_a_crowd_of_their_name_are_no_mistakes():
    found = [[det("cat", NEAR_LEFT), det("dog", NEAR_LEFT), det("cat", RIGHT)]]
    pairs = report_classes([[]], found, crowds=[[det("cat", LEFT)]]).pairs
    assert pairs == {(None, "dog"): 1, (None, "cat"): 1}


def test_the_table_has_a_line_for_each_class():
    lines = format_classes(report_classes(TARGETS, PREDICTIONS).to_json()).splitlines()
    assert [line.split() for line in lines] == [
        ["class", "objects", "predicted", "right", "ap50", "map"],
        ["cat", "2", "1", "0", "0.000", "0.000"],
        ["dog", "1", "2", "1", "0.500", "0.450"],
        ["bird", "0", "1", "0", "-", "-"],
    ]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize("limit", [2, 40], ids=["some are others", "all"])
def test_the_picture(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(classes, "MAX_NAMES", limit)
    draw_classes(report_classes(TARGETS, PREDICTIONS), tmp_path / "classes.png")
    pixels = np.asarray(Image.open(tmp_path / "classes.png").convert("RGB"))
    assert pixels.std() > 10
    draw_classes(report_classes([[det("cat", LEFT)]], [[]]), tmp_path / "one.png")


def test_classes_that_are_not_drawn_are_counted_as_others():
    report = report_classes(TARGETS, PREDICTIONS)
    counts = report.matrix(["cat", None])
    wider = classes._add_others(report, ["cat"], counts)
    assert wider.tolist() == [[0, 1, 1], [0, 1, 0], [1, 1, 0]]
    assert wider.sum() == sum(report.pairs.values())
