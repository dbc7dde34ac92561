"""YOLO, VOC and Label Studio exports as the same records that a COCO file gives."""

import json
from pathlib import Path

import pytest
from PIL import Image

from paligemma.formats.label_studio import is_label_studio, read_label_studio
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


def test_yolo_labels_beside_images_in_a_folder_of_that_name(tmp_path):
    folder = yolo(tmp_path, "[cat]", "images/mine", "images/mine", "0 0.5 0.5 1 1")
    assert read_yolo(folder).annotations[0][0].bbox == (0, 0, 80, 40)


@pytest.mark.parametrize("splits", ["{0}/images", "images/{0}"])
def test_the_splits_of_a_data_set_are_not_mixed(tmp_path, splits):
    for split in "train", "valid":
        yolo(tmp_path, "[cat]", splits.format(split), splits.format(split), "0 0.5 0.5 1 1")
    for read in read_yolo, read_voc:
        with pytest.raises(ValueError, match=r"has the splits train and valid; name one, such as"):
            read(tmp_path)
    with pytest.raises(ValueError, match=r"data.yaml is a file; name the folder of a split"):
        read_yolo(tmp_path / "data.yaml")


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


def region(kind="rectanglelabels", **value) -> dict:
    """A region of one label, of which `value` changes the position."""
    place = {"x": 25, "y": 25, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["cat"]}
    sizes = {"original_width": SIZE[0], "original_height": SIZE[1], "image_rotation": 0}
    return {"id": "r", "type": kind, "to_name": "image", "value": place | value} | sizes


def task(*result, number=7, image_file="/data/upload/3/0a1b2c3d-a.jpg", **changes) -> dict:
    annotation = {"id": 1, "result": list(result), "was_cancelled": False, "completed_by": 1}
    data = {"image": image_file}
    return {"id": number, "data": data, "annotations": [annotation], "predictions": []} | changes


def export(folder: Path, *tasks) -> Path:
    image(folder / "a.jpg")
    (folder / "export.json").write_text(json.dumps(tasks))
    return folder / "export.json"


POINTS = [[25, 25], [75, 25], [50, 75]]
CHOICE = {"type": "choices", "value": {"choices": ["good"]}, "to_name": "image"}
REGIONS = {
    "a rectangle": ([region()], (20, 10, 40, 20)),
    "one turned by a right angle": ([region(rotation=90)], (0, 10, 20, 40)),
    "a polygon": (
        [region("polygonlabels", points=POINTS, polygonlabels=["cat"])], (20, 10, 40, 20)
    ),
    "labels of their own": (
        [region("rectangle"), region("labels", labels=["cat"]), CHOICE], (20, 10, 40, 20)
    ),
}  # fmt: skip


@pytest.mark.parametrize("result, box", REGIONS.values(), ids=REGIONS)
def test_label_studio_regions(tmp_path, result, box):
    path = export(tmp_path, task(*result))
    file = read_label_studio(path, tmp_path)
    assert is_label_studio(path) and not file.invalid and not file.left_out
    assert file.categories == {0: "cat"} and [*file.images] == [7]
    assert (file.images[7].file_name, file.images[7].size) == ("a.jpg", SIZE)
    (one,) = file.annotations[7]
    assert one.bbox == pytest.approx(box)
    polygon = [[20, 10, 60, 10, 40, 30]] if result[0]["type"] == "polygonlabels" else None
    assert one.segmentation == polygon


def test_a_label_studio_region_of_two_labels_is_two_objects(tmp_path):
    file = read_label_studio(
        export(tmp_path, task(region(rectanglelabels=["red", "cat"]))), tmp_path
    )
    assert file.categories == {0: "cat", 1: "red"}
    assert sorted(one.category_id for one in file.annotations[7]) == [0, 1]
    assert len({one.bbox for one in file.annotations[7]}) == 1


ELLIPSE = {"type": "ellipselabels", "value": {"x": 1, "y": 1, "radiusX": 5, "ellipselabels": ["a"]}}
BAD_REGIONS = {
    "no label": (region(rectanglelabels=[]), None, "a region has no label"),
    "no shape that is read": (ELLIPSE, 0, "a region of ellipselabels is no rectangle or polygon"),
    "another size": (
        region() | {"original_width": 40}, 0, "the file says 40 x 40, but the image has 80 x 40"
    ),
    "a turned image": (region() | {"image_rotation": 90}, 0, "the image is rotated in Label"),
    "no number": (region(x=None), 0, "x is None: input should be a valid number"),
    "a line": (region("polygonlabels", points=POINTS[:2], polygonlabels=["a"]), 0, "points is [["),
    "text": ("cat", None, "it is text, not an object with type and value"),
}  # fmt: skip


@pytest.mark.parametrize("one, category, reason", BAD_REGIONS.values(), ids=BAD_REGIONS)
def test_a_label_studio_region_that_is_no_object_is_named(tmp_path, one, category, reason):
    file = read_label_studio(export(tmp_path, task(one)), tmp_path)
    (invalid,) = file.invalid
    assert invalid.reason.startswith(reason)
    assert (invalid.image_id, invalid.category_id) == (7, category)
    assert not file.annotations[7]


BAD_TASKS = {
    "no image": (task(image_file="/data/upload/3/0a1b2c3d-b.jpg"), "there is no image /data/upl"),
    "no image in its data": (task(data={"text": "a cat"}), "its data has no image"),
    "two people's": (task(annotations=[{"result": []}] * 2), "it has 2 annotations; keep one"),
    "JSON-MIN": ({"id": 7, "image": "a.jpg", "label": []}, "it has no data"),
}


@pytest.mark.parametrize("one, reason", BAD_TASKS.values(), ids=BAD_TASKS)
def test_a_label_studio_task_that_is_no_image_is_named(tmp_path, one, reason):
    file = read_label_studio(export(tmp_path, one, task(region(), number=8)), tmp_path)
    (invalid,) = file.invalid
    assert invalid.image_id == 7 and invalid.reason.startswith(reason)
    assert [*file.images] == [8]


def test_label_studio_tasks_without_objects_or_annotations(tmp_path):
    cancelled = task(number=3, annotations=[{"result": [], "was_cancelled": True}])
    path = export(tmp_path, task(number=1), task(number=2, annotations=[]), cancelled)
    file = read_label_studio(path, tmp_path)
    assert [*file.images] == [1] and not file.invalid
    assert file.left_out == {"tasks without annotations": 2}
    path.write_text("{}")
    assert not is_label_studio(path) and not is_label_studio(tmp_path)
    with pytest.raises(ValueError, match=r"is not a JSON export of Label Studio: it is an object"):
        read_label_studio(path, tmp_path)


@pytest.mark.parametrize(
    "address, place",
    [
        ("/data/upload/3/0a1b2c3d-a.jpg", "0a1b2c3d-a.jpg"),
        ("/data/upload/3/0a1b2c3d-a.jpg", "a.jpg"),
        ("/data/upload/3/0a1b2c3d-a.jpg", "images/0a1b2c3d-a.jpg"),
        ("/data/upload/3/0a1b2c3d-a.jpg", "upload/3/0a1b2c3d-a.jpg"),
        ("/data/local-files/?d=cats/my%20a.jpg", "cats/my a.jpg"),
        ("s3://bucket/cats/a.jpg", "cats/a.jpg"),
        ("https://example.com/x/a.jpg?width=80", "a.jpg"),
        ("../../a.jpg", "a.jpg"),
    ],
)
def test_images_of_label_studio_lie_beside_the_export(tmp_path, address, place):
    image(tmp_path / "in" / place)
    path = tmp_path / "export.json"
    path.write_text(json.dumps([task(region(), data={"id": "7", "picture": address})]))
    file = read_label_studio(path, tmp_path / "in")
    assert not file.invalid and file.images[7].file_name == place
