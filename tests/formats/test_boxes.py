"""YOLO and VOC exports as the same records that a COCO file gives."""

from pathlib import Path

import pytest
from PIL import Image

from paligemma.formats.voc import read_voc
from paligemma.formats.yolo import read_yolo

SIZE = (80, 40)


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE).save(path)


def yolo(root: Path, names: str, images: str, labels: str, text: str) -> Path:
    image(root / images / "a.jpg")
    image(root / images / "empty.jpg")
    (root / labels).mkdir(parents=True, exist_ok=True)
    (root / labels / "a.txt").write_text(text)
    (root / "data.yaml").write_text(f"names: {names}\n")
    return root / images


@pytest.mark.parametrize(
    "images, labels, names",
    [
        ("train/images", "train/labels", "[cat, dog]"),  # Roboflow's exports
        ("images/train", "labels/train", "{0: cat, 1: dog}"),  # Ultralytics' data sets
        ("all", "all", "[cat, dog]"),
    ],
)
def test_yolo_boxes_and_polygons(tmp_path, images, labels, names):
    lines = "0 0.5 0.5 0.25 0.5\n\n1 0.25 0.25 0.75 0.25 0.5 0.75\n"
    file = read_yolo(yolo(tmp_path, names, images, labels, lines))
    assert file.categories == {0: "cat", 1: "dog"} and not file.invalid
    assert [(one.file_name, one.size) for one in file.images.values()] == [
        ("a.jpg", SIZE),
        ("empty.jpg", SIZE),
    ]
    cat, dog = file.annotations[0]
    assert (cat.category_id, cat.bbox) == (0, pytest.approx((30, 10, 20, 20)))
    assert (dog.category_id, dog.bbox) == (1, pytest.approx((20, 10, 40, 20)))
    assert cat.segmentation is None and dog.segmentation == [[20, 10, 60, 10, 40, 30]]
    assert not file.annotations[1]


def test_a_whole_yolo_split_is_named_by_its_folder(tmp_path):
    yolo(tmp_path, "[cat]", "train/images", "train/labels", "0 0.5 0.5 1 1")
    file = read_yolo(tmp_path / "train")
    assert [one.file_name for one in file.images.values()] == ["images/a.jpg", "images/empty.jpg"]
    assert file.annotations[0][0].bbox == (0, 0, 80, 40)


YOLO_LINES = {
    "0 0.5 0.5 0.5": "it has 3 numbers after the class; a box has 4",
    "7 0.5 0.5 0.5 0.5": "there is no class 7",
    "0 40 20 10 10": "has numbers beyond 0..1",
    "cat 0.5 0.5 0.5 0.5": "is not a line of numbers",
    "0 nan 0.5 0.5 0.5": "has numbers beyond 0..1",
    "0 0.1 0.1 0.2 0.2 0.3": "it has 5 numbers after the class",
}


@pytest.mark.parametrize("line, reason", YOLO_LINES.items())
def test_a_yolo_line_that_is_no_object_is_named(tmp_path, line, reason):
    file = read_yolo(yolo(tmp_path, "[cat]", "images", "labels", "0 0.5 0.5 1 1\n" + line))
    (invalid,) = file.invalid
    assert reason in invalid.reason and invalid.reason.endswith("(a.txt, line 2)")
    assert invalid.image_id == 0 and len(file.annotations[0]) == 1


@pytest.mark.parametrize(
    "text, reason",
    [(None, "There is no data.yaml"), ("names: 3", "has no names"), ("a: [", "be read as YAML")],
)
def test_yolo_names_that_are_missing(tmp_path, text, reason):
    image(tmp_path / "a" / "b" / "c" / "images" / "a.jpg")
    if text:
        (tmp_path / "a" / "data.yaml").write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_yolo(tmp_path / "a" / "b" / "c")
    with pytest.raises(ValueError, match="There is no folder"):
        read_yolo(tmp_path / "nowhere")


VOC = """<annotation><filename>a.jpg</filename><size><width>80</width></size>
<object><name>dog</name><bndbox><xmin>31</xmin><ymin>11</ymin><xmax>50</xmax><ymax>30</ymax></bndbox>
</object>{more}</annotation>"""
NO_BOX = "<object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object>"


@pytest.mark.parametrize("place", ["", "Annotations"])
def test_voc_boxes(tmp_path, place):
    image(tmp_path / ("JPEGImages" if place else "") / "a.jpg")
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "a.xml").write_text(VOC.format(more=NO_BOX))
    (tmp_path / place / "b.xml").write_text("<annotation><filename>b.jpg</filename></annotation>")
    (tmp_path / place / "c.xml").write_text("<annotation>")
    (tmp_path / place / "d.xml").write_text("<!DOCTYPE a []><annotation/>")
    file = read_voc(tmp_path)
    assert file.categories == {0: "dog"} and [*file.images] == [0]
    assert file.images[0].size == SIZE
    assert file.annotations[0][0].bbox == (30, 10, 20, 20)
    reasons = [one.reason for one in file.invalid]
    assert reasons[0] == "the object 'cat' has no box of four numbers (a.xml, object 2)"
    assert reasons[1] == "there is no image 'b.jpg' (b.xml)"
    assert reasons[2].startswith("it is not XML (") and reasons[3].startswith("it is too large, or")


def test_a_folder_without_voc_annotations(tmp_path):
    with pytest.raises(ValueError, match=r"there is no .xml file"):
        read_voc(tmp_path)
