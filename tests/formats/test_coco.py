"""COCO's records, one by one, and its boxes and masks against pycocotools."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as pycocotools_mask

from paligemma.detections import invalid_label
from paligemma.formats.coco import (
    check_segmentation,
    decode_segmentation,
    pixels_to_box,
    read_captions,
    read_instances,
    read_references,
)

IMAGE = {"id": 1, "file_name": "a.jpg", "width": 120, "height": 80}
BOX = {
    "id": 1,
    "image_id": 1,
    "category_id": 1,
    "bbox": [20, 10, 40, 40],
    "area": 1600,
    "iscrowd": 0,
    "segmentation": [[20, 10, 60, 10, 60, 50, 20, 50]],
}


def instances(folder: Path, **changes) -> Path:
    path = folder / "ok.json"
    values = {"images": [IMAGE], "categories": [{"id": 1, "name": "box"}], "annotations": [BOX]}
    path.write_text(json.dumps(values | changes))
    return path


def test_records_by_their_ids(tmp_path):
    crowd = BOX | {"id": 2, "iscrowd": 1}
    file = read_instances(instances(tmp_path, annotations=[BOX, crowd]))
    assert file.images[1].size == (120, 80) and file.categories == {1: "box"}
    assert [(one.id, one.iscrowd) for one in file.annotations[1]] == [(1, False), (2, True)]
    assert file.annotations[1][0].bbox == (20, 10, 40, 40)
    assert not file.invalid and not file.unlisted


RECORDS = {
    "a box of three": ({"bbox": [1, 2, 3]}, "the box [1, 2, 3] is not x, y, width, height"),
    "a negative width": ({"bbox": [1, 2, -3, 4]}, "the box [1, 2, -3, 4] is not x, y, width, he"),
    "no number": ({"bbox": [1, 2, "3", 4]}, "the box [1, 2, '3', 4] is not x, y, width, height"),
    "not finite": ({"bbox": [1, 2, float("nan"), 4]}, "the box [1, 2, nan, 4] is not x, y, width"),
    "no box": ({"bbox": None}, "the box None is not x, y, width, height"),
    "no category": ({"category_id": 9}, "there is no category 9"),
    "no category id": ({"category_id": "x"}, "category_id is 'x': input should be a valid integer"),
    "no crowd flag": ({"iscrowd": "perhaps"}, "iscrowd is 'perhaps': input should be a valid bool"),
}


@pytest.mark.parametrize("changes, reason", RECORDS.values(), ids=RECORDS.keys())
def test_a_record_that_does_not_fit_leaves_the_others(tmp_path, changes, reason):
    other = BOX | {"id": 2}
    file = read_instances(instances(tmp_path, annotations=[BOX | changes, other]))
    assert [one.id for one in file.annotations[1]] == [2]
    (invalid,) = file.invalid
    assert invalid.reason.startswith(reason) and invalid.reason.endswith("(annotation 1)")
    assert invalid.image_id == 1 and invalid.category_id in (1, 9, None)


def test_a_record_without_an_id_is_named_by_its_place(tmp_path):
    file = read_instances(instances(tmp_path, annotations=[BOX, [], {"image_id": 1}]))
    assert [record.reason for record in file.invalid] == [
        "it is a list, not an object with image_id, category_id and bbox (annotations.1)",
        "it has no category_id (annotations.2)",
    ]


def test_annotations_of_images_that_are_not_listed(tmp_path):
    lost = BOX | {"id": 2, "image_id": 99}
    file = read_instances(instances(tmp_path, annotations=[BOX, lost]))
    assert [one.id for one in file.unlisted] == [2] and not file.invalid
    # the objects of an image that cannot be used are not listed a second time
    images = [IMAGE, {"id": 99, "width": 3, "height": 4}]
    file = read_instances(instances(tmp_path, annotations=[BOX, lost], images=images))
    assert not file.unlisted
    assert [(record.image_id, record.reason) for record in file.invalid] == [
        (99, "it has no file_name")
    ]


def test_an_image_may_have_no_size(tmp_path):
    file = read_instances(instances(tmp_path, images=[{"id": 1, "file_name": "a.jpg"}]))
    assert file.images[1].size is None
    negative = [IMAGE | {"width": -1}]
    assert read_instances(instances(tmp_path, images=negative)).invalid[0].reason == (
        "width is -1: input should be greater than or equal to 0"
    )


@pytest.mark.parametrize(
    "label, reason",
    [
        ("traffic light", None), ("driver's seat", None), ("a<b", None), ("7", None),
        ("person, individual", "holds ','"), ("a;b", "holds ';'"), ("<loc0001>", "holds '<loc'"),
        ("", "is empty or has spaces"), (" cat", "is empty or has spaces"),
    ],
)  # fmt: skip
def test_labels(label, reason):
    found = invalid_label(label)
    assert found is None if reason is None else reason in found


# --- Boxes and masks ------------------------------------------------------------------------------


def test_boxes_are_fractions_clipped_to_the_image():
    assert pixels_to_box((20, 10, 40, 40), (120, 80)) == (1 / 6, 1 / 8, 0.5, 0.625)
    assert pixels_to_box((-20, 60, 200, 40), (120, 80)) == (0, 0.75, 1, 1)


def test_masks_are_those_of_pycocotools():
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = rng.integers(1, 40, 2).tolist()
        mask = (rng.random((height, width)) < rng.random()).astype(np.uint8)
        if rng.random() < 0.5:  # long runs too
            mask = np.kron(mask, np.ones((9, 12), np.uint8))
        size = mask.shape[1], mask.shape[0]
        coded = pycocotools_mask.encode(np.asfortranarray(mask))
        text = {"size": [size[1], size[0]], "counts": coded["counts"].decode()}
        flat = mask.flatten("F")
        edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), len(flat)]
        counts = ([0] if flat[0] else []) + np.diff(edges).tolist()
        for value in (text, {"size": [size[1], size[0]], "counts": counts}):
            assert (decode_segmentation(value, size) == mask.astype(bool)).all()
        corners = (rng.random((2, 8)) * 2 - 0.5) * np.tile(size, 4)
        polygons = corners.tolist()
        expected = pycocotools_mask.decode(
            pycocotools_mask.merge(pycocotools_mask.frPyObjects(polygons, size[1], size[0]))
        )
        found = decode_segmentation(polygons, size)
        assert found.dtype == bool and (found == expected.astype(bool)).all()


MASKS = {
    "nothing": (None, "it has no mask"),
    "no polygon": ([], "it has no mask"),
    "an empty polygon": ([[]], "a polygon is a list of at least 6 numbers x, y, x, y, …; the mask"),
    "flat": ([20, 10, 60, 10, 60, 50], "a polygon is a list of at least 6 numbers"),
    "pairs": ([[[20, 10], [60, 10], [60, 50]]], "a polygon is a list of at least 6 numbers"),
    "two corners": ([[20, 10, 60, 10]], "a polygon is a list of at least 6 numbers"),
    "an odd number": ([[20, 10, 60, 10, 60, 50, 20]], "a polygon is a list of at least 6 numbers"),
    "no number": ([[20, 10, 60, 10, 60, "x"]], "a polygon is a list of at least 6 numbers"),
    "far outside": ([[-64.1, -21.8, 208e6, 350e6, 225.9, 236.5]],
                    "a corner of the mask, x = 2.08e+08, is far outside the image of 120 x 80"),
    "far above": ([[0, -81, 9, 9, 0, 9]], "a corner of the mask, y = -81, is far outside"),
    "not finite": ([[0, float("nan"), 9, 9, 0, 9]], "a corner of the mask, y = nan, is far"),
    "text": ("none", "the mask is 'none', not polygons or run lengths"),
    "no counts": ({"size": [80, 120]}, "the run lengths of the mask are damaged"),
    "no size": ({"counts": [9600]}, "the mask's size is None, not the image's [80, 120]"),
    "another size": ({"size": [120, 80], "counts": [9600]}, "the mask's size is [120, 80], not"),
    "too few": ({"size": [80, 120], "counts": [5, 5]}, "the run lengths of the mask are damaged"),
    "too many": ({"size": [80, 120], "counts": [9600, 1]}, "the run lengths of the mask are dam"),
    "below zero": ({"size": [80, 120], "counts": [-1, 9601]}, "the run lengths of the mask are"),
    "no whole number": ({"size": [80, 120], "counts": [9599.5, 0.5]}, "the run lengths of the"),
    "short text": ({"size": [80, 120], "counts": "PPYo1"}, "the run lengths of the mask are dam"),
    "cut text": ({"size": [80, 120], "counts": "oooo"}, "the run lengths of the mask are damaged"),
    "other text": ({"size": [80, 120], "counts": "é é"}, "the run lengths of the mask are damaged"),
    "endless text": ({"size": [80, 120], "counts": "o" * 9999}, "the run lengths of the mask are"),
}  # fmt: skip


@pytest.mark.parametrize("value, reason", MASKS.values(), ids=MASKS.keys())
def test_a_mask_that_is_none_has_a_reason(value, reason):
    for check in (check_segmentation, decode_segmentation):
        with pytest.raises(ValueError) as caught:
            check(value, (120, 80))
        assert str(caught.value).startswith(reason) and len(str(caught.value)) < 140


def test_a_polygon_may_reach_a_little_outside():
    found = decode_segmentation([[-60, -20, 60, -20, 60, 40, -60, 40]], (120, 80))
    assert found[:40, :60].all() and found.sum() == 40 * 60


# --- Captions and referring expressions -----------------------------------------------------------


def test_captions_and_references(tmp_path):
    path = tmp_path / "a.json"
    values = {"images": [IMAGE], "annotations": [{"image_id": 1, "caption": "a box"}]}
    path.write_text(json.dumps(values))
    assert read_captions(path).annotations[0].caption == "a box"
    sentences = [{"sent_id": 3, "sent": "left box"}]
    reference = {"ref_id": 1, "ann_id": 1, "image_id": 1, "split": "val", "sentences": sentences}
    path.write_text(json.dumps([reference]))
    assert read_references(path)[0].sentences[0].sent == "left box"
    with pytest.raises(ValueError, match="is a pickle, which is never loaded"):
        read_references(tmp_path / "refs.p")
