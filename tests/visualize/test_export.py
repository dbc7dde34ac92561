"""Exported files: what pycocotools and supervision read back is what was drawn."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from paligemma.detections import Detection
from visualize import draw_masks
from visualize.export import (
    AnnotatedImage,
    cutouts,
    mask_images,
    outlines,
    to_coco,
    to_csv,
    to_supervision,
)

Y, X = np.mgrid[-1:1:64j, -1:1:64j]
DISC = (0.8 - np.hypot(X, Y)).astype(np.float32)
RING = np.minimum(DISC, np.hypot(X, Y) - 0.4).astype(np.float32)
SHAPES = {
    "one pixel": ["#"],
    "a bar": ["####"],
    "a frame": ["####", "#..#", "####"],
    "two holes": ["#####", "#.#.#", "#####"],
    "a hole in the corner": ["###.", "#.##", "####"],
    "two components": ["##..", "....", "..##"],
    "components that touch at a corner": ["#..", ".#.", "..#"],
    "a hole that touches the outside at a corner": ["###", "#.#", "##."],
    "a component inside a hole": ["#####", "#...#", "#.#.#", "#...#", "#####"],
    "a spiral": ["#####", "....#", "###.#", "#...#", "#####"],
}


def pixels(rows):
    return np.array([[cell == "#" for cell in row] for row in rows])


def read_back(polygons, area):
    return rle.decode(rle.merge(rle.frPyObjects(polygons, *area.shape))).astype(bool)


@pytest.fixture
def found():
    detections = (
        Detection("cat", (0.1, 0.2, 0.6, 0.9), tuple(range(16)), 0.5),
        Detection("driver's seat", (0.5, 0, 1, 1), tuple(range(16)), 0.25),
        Detection("cat", (0, 0, 0.25, 0.5)),
    )
    return AnnotatedImage("street.png", 80, 60, detections, (DISC, RING, None))


@pytest.mark.parametrize("rows", SHAPES.values(), ids=SHAPES)
def test_polygons_are_exact(rows):
    area = np.pad(pixels(rows), ((0, 2), (1, 0)))
    assert np.array_equal(read_back(outlines(area), area), area)


def test_polygons_of_noise_are_exact():
    rng = np.random.default_rng(0)
    for _ in range(200):
        area = rng.random(rng.integers(1, 14, 2)) < rng.uniform(0.2, 0.9)
        if area.any():
            assert np.array_equal(read_back(outlines(area), area), area), area.astype(int)


@pytest.mark.parametrize("polygons", [False, True])
def test_coco_reads_back_what_was_drawn(tmp_path, found, polygons):
    path = tmp_path / "found.json"
    path.write_text(json.dumps(to_coco([found, found], polygons)))
    coco = COCO(path)
    assert [row["file_name"] for row in coco.loadImgs(coco.getImgIds())] == ["street.png"] * 2
    assert [row["name"] for row in coco.loadCats(coco.getCatIds())] == ["cat", "driver's seat"]
    first, second, plain = coco.loadAnns(coco.getAnnIds(imgIds=[2]))
    for annotation, area in zip((first, second), list(found.areas)[:2], strict=True):
        assert np.array_equal(coco.annToMask(annotation), area)
        assert annotation["area"] == area.sum()
    assert plain["bbox"] == [0, 0, 20, 30] and plain["area"] == 600
    assert plain["segmentation"] == [] and "score" not in plain
    assert first["score"] == 0.5 and first["bbox"] == pytest.approx([8, 12, 40, 42])


def test_the_drawing_covers_just_the_exported_pixels(found):
    one = AnnotatedImage("x", 80, 60, found.detections[1:2], found.masks[1:2])
    black = Image.new("RGB", (80, 60))
    drawn = np.asarray(draw_masks(black, [Detection("", one.detections[0].box)], [RING]))
    assert np.array_equal(drawn.any(2), next(one.areas))


def test_mask_images_and_cutouts(found):
    [(name, first), (other, _)] = mask_images(found)
    assert (name, other) == ("01-cat.png", "02-driver-s-seat.png")
    assert first.mode == "1" and np.array_equal(np.asarray(first), next(found.areas))
    image = Image.new("RGB", (80, 60), "teal")
    [(_, cat), _] = cutouts(image, found)
    rows, columns = (
        np.flatnonzero(next(found.areas).any(1)),
        np.flatnonzero(next(found.areas).any(0)),
    )
    assert cat.size == (columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
    assert cat.getpixel((cat.width // 2, cat.height // 2)) == (0, 128, 128, 255)
    assert cat.getpixel((0, 0))[3] == 0
    assert image.mode == "RGB"


def test_an_empty_mask_gives_no_image():
    nothing = AnnotatedImage("x", 9, 9, [Detection("a", (0, 0, 1, 1))], [np.full((64, 64), -1.0)])
    assert not list(mask_images(nothing))
    assert to_coco([nothing], True)["annotations"][0]["area"] == 0


def test_csv(found):
    rows = list(csv.DictReader(to_csv([found]).splitlines()))
    assert [row["label"] for row in rows] == ["cat", "driver's seat", "cat"]
    assert rows[0] | {"mask_pixels": ""} == {
        "image": "street.png",
        "label": "cat",
        "score": "0.5",
        "x1": "8.0",
        "y1": "12.0",
        "x2": "48.0",
        "y2": "54.0",
        "mask_pixels": "",
    }
    assert int(rows[0]["mask_pixels"]) == next(found.areas).sum()
    assert rows[2]["score"] == rows[2]["mask_pixels"] == ""


def test_supervision(found):
    pytest.importorskip("supervision")
    detections = to_supervision(AnnotatedImage("x", 80, 60, found.detections[:2], found.masks[:2]))
    assert detections.xyxy[0].tolist() == pytest.approx([8, 12, 48, 54])
    assert np.array_equal(detections.mask[1], list(found.areas)[1])
    assert detections.data["class_name"].tolist() == ["cat", "driver's seat"]
    assert len(to_supervision(AnnotatedImage("x", 80, 60, (), ()))) == 0


def test_without_supervision_it_says_so(found, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(ValueError, match="pip install supervision"):
        to_supervision(found)
