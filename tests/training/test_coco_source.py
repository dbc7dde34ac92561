"""COCO instances as samples: boxes and masks as tokens, and what is refused or left out how."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import runs
import tiny
import torch
from PIL import ExifTags, Image
from pycocotools import mask as rle

from paligemma.__main__ import main
from paligemma.detections import parse
from paligemma.training.data import encode
from paligemma.training.read_config import parse_run
from paligemma.training.sources import CocoSource, InvalidSample


def coco(folder: Path, **changes) -> Path:
    """An image of 80 × 40 with a triangle as polygon, a rectangle as run lengths, and a crowd."""
    Image.new("RGB", (80, 40), "gray").save(folder / "a.png")
    area = np.zeros((40, 80), np.uint8)
    area[10:30, 40:80] = 1
    encoded = rle.encode(np.asfortranarray(area))
    runs_ = {"size": [40, 80], "counts": encoded["counts"].decode()}
    first = {
        "image_id": 7,
        "category_id": 2,
        "bbox": [0, 0, 40, 20],
        "iscrowd": 0,
        "segmentation": [[0, 0, 40, 0, 0, 20]],
    } | changes
    second = {
        "image_id": 7,
        "category_id": 1,
        "bbox": [40, 10, 40, 20],
        "iscrowd": 0,
        "segmentation": runs_,
    }
    crowd = second | {"iscrowd": 1}
    values = {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 80, "height": 40},
            {"id": 8, "file_name": "a.png", "width": 80, "height": 40},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [first, second, crowd],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(values))
    return path


def test_coco_boxes_and_masks_become_tokens(tmp_path):
    codec = tiny.codec()
    path = coco(tmp_path)
    detect = CocoSource(path, None, "detect", None)
    assert len(detect) == 1 and not detect.invalid
    assert detect.left_out == {"images without objects": 1}
    assert detect[0].prefix == "detect cat ; dog"
    cat, dog = parse(detect[0].suffix)
    assert (cat.label, dog.label) == ("cat", "dog")
    assert cat.box == pytest.approx((0.5, 0.25, 1, 0.75), abs=1e-3)
    assert dog.box == pytest.approx((0, 0, 0.5, 0.5), abs=1e-3)
    segment = CocoSource(path, None, "segment", codec)
    masks = []
    encode, codec.encode = codec.encode, lambda m: masks.append(m[0]) or encode(m)
    found = parse(segment[0].suffix)
    assert [one.codes for one in found] == [tuple(encode(m[None])[0].tolist()) for m in masks]
    assert (masks[0] == 1).all()  # the rectangle fills its box
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    assert ((masks[1] > 0.5) == (x + y < 64)).float().mean() > 0.95  # the triangle half of its own


def test_a_sliver_at_the_border_has_a_mask(tmp_path):
    path = coco(tmp_path, bbox=[79.6, 39.7, 0.4, 0.3], segmentation=[[79.6, 39.7, 80, 40, 79, 40]])
    source = CocoSource(path, None, "segment", tiny.codec())
    assert all(len(one.codes) == 16 for one in parse(source[0].suffix))


BAD_OBJECTS = {
    "no category": ({"category_id": 9}, "there is no category 9"),
    "no box": ({"bbox": [1, 2, 3]}, "the box [1, 2, 3] is not x, y, width, height"),
    "no width": ({"bbox": [1, 2, 0, 3]}, "the box [1, 2, 0, 3] has no area"),
    "outside": ({"bbox": [90, 0, 5, 5]}, "the box [90, 0, 5, 5] lies outside the image"),
    "no mask": ({"segmentation": []}, "it has no mask"),
    "an empty polygon": ({"segmentation": [[]]}, "a polygon is a list of at least 6 numbers"),
    "a flat polygon": ({"segmentation": [0, 0, 9, 0, 0, 9]}, "a polygon is a list of at least 6"),
    "pairs": ({"segmentation": [[[0, 0], [9, 0], [0, 9]]]}, "a polygon is a list of at least 6"),
    "text": ({"segmentation": "none"}, "the mask is 'none', not polygons or run lengths"),
    "no counts": ({"segmentation": {"size": [40, 80]}}, "the run lengths of the mask are damaged"),
    "a corner far outside": ({"segmentation": [[-164.1, -39, 2.08e8, 3.5e8, 9, 9]]},
                             "a corner of the mask, x = -164.1, is far outside the image of 80 x"),
}  # fmt: skip


@pytest.mark.parametrize("changes, reason", BAD_OBJECTS.values(), ids=BAD_OBJECTS.keys())
def test_a_bad_object_is_named_and_the_others_are_trained_on(tmp_path, changes, reason, capsys):
    path = coco(tmp_path, **changes)
    assert main(["data", "check", str(path), "--task", "segment"]) == 2
    assert f"instances.json, image 7: {reason}" in capsys.readouterr().out
    source = CocoSource(path, None, "segment", tiny.codec())
    assert [source[0].prefix, len(source.invalid)] == ["segment cat", 1]


def test_a_bad_object_can_be_skipped_by_a_run(tmp_path, capsys):
    path = coco(tmp_path, segmentation=[[]])
    data = [{"coco": str(path), "task": "segment"}]
    given = runs.values(tmp_path / "home", data=data, max_steps=2)
    refused = r"1 samples cannot be trained on, such as instances.json, i"
    with pytest.raises(ValueError, match=refused):
        runs.trainer(parse_run(given))
    one = runs.trainer(parse_run(given | {"on_invalid": "skip"}))
    one.loop()
    one.finish()
    assert "1 invalid samples were skipped." in capsys.readouterr().out


def changed(folder: Path, **changes) -> Path:
    """The file of `coco` with other images, categories or annotations."""
    path = coco(folder)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


IMAGE = {"id": 7, "file_name": "a.png", "width": 80, "height": 40}
BAD_FILES = {
    "another size": ({"images": [IMAGE | {"width": 800, "height": 400}]},
                     "image 7: the file says 800 x 400, but the image has 80 x 40 pixels."),
    "no file": ({"images": [IMAGE | {"file_name": "b.png"}]}, "image 7: there is no image "),
    "no file name": ({"images": [{"id": 7, "width": 80, "height": 40}]},
                     "image 7: it has no file_name."),
    "a long file name": ({"images": [IMAGE | {"file_name": "data:image/png;base64," + "A" * 300}]},
                         "image 7: there is no image "),
    "no id": ({"images": [IMAGE, {"file_name": "a.png"}]},
              "instances.json: images.1: it has no id."),
    "an image that is not listed": (
        {"annotations": [{"id": 3, "image_id": 99, "category_id": 1, "bbox": [0, 0, 9, 9]}]},
        "image 99: the file does not list the image of annotation 3."),
    "a comma": ({"categories": [{"id": 1, "name": "person, individual"}, {"id": 2, "name": "dog"}]},
                "category 1: the name 'person, individual' holds ',', which separates objects."),
    "a semicolon": ({"categories": [{"id": 1, "name": "a;b"}, {"id": 2, "name": "dog"}]},
                    "category 1: the name 'a;b' holds ';', which separates objects."),
}  # fmt: skip


@pytest.mark.parametrize("changes, reason", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_the_check_names_what_does_not_fit(tmp_path, changes, reason, capsys):
    path = changed(tmp_path, **changes)
    assert main(["data", "check", str(path), "--task", "segment"]) == 2
    assert reason in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes, count", [({"annotations": []}, 2), ({"annotations": [], "images": []}, 0)]
)
def test_a_file_without_objects_is_refused(tmp_path, changes, count, capsys):
    assert main(["data", "check", str(changed(tmp_path, **changes))]) == 2
    reason = f", only {count} images without objects" if count else ""
    assert f"instances.json has no sample to train on{reason}." in capsys.readouterr().err


def test_images_without_objects_stay_or_are_counted(tmp_path, capsys):
    path = coco(tmp_path)
    assert main(["data", "check", str(path), "--out", str(tmp_path / "sheet.png")]) == 0
    expected = "1 samples ask for objects that are not in their image.\n2 samples, all valid.\n"
    assert capsys.readouterr().out == expected
    assert Image.open(tmp_path / "sheet.png").size[0] == 2 * 310 + 10
    given = runs.values(tmp_path / "home", data=[{"coco": str(path)}], max_steps=1)
    assert len(runs.trainer(parse_run(given)).job.batches.mixture) == 2
    given["data"] = [{"coco": str(path), "negatives": 0}]
    assert len(runs.trainer(parse_run(given)).job.batches.mixture) == 1
    assert "left out: 1 images without objects" in capsys.readouterr().out


def many(folder: Path, *images: list[dict], names=("cat", "dog", "emu", "fox")) -> Path:
    """A file of `images`, each a list of the changes of its annotations; "fox" is never there."""
    Image.new("RGB", (80, 40), "gray").save(folder / "a.png")
    box = {"bbox": [0, 0, 40, 20], "iscrowd": 0}
    values = {
        "images": [IMAGE | {"id": number} for number in range(len(images))],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
        "annotations": [
            box | {"image_id": number} | one for number, image in enumerate(images) for one in image
        ],
    }
    path = folder / "many.json"
    path.write_text(json.dumps(values))
    return path


CAT, DOG, EMU = ({"category_id": number} for number in range(3))


def test_absent_names_are_asked_for_and_not_answered(tmp_path):
    crowd, broken = DOG | {"iscrowd": 1}, DOG | {"bbox": [0, 0, 0, 9]}
    path = many(tmp_path, [CAT, DOG], [EMU, crowd], [], [CAT, broken], [CAT, DOG, EMU])
    source = CocoSource(path, None, "detect", None, negatives=1.0)
    asked = {number: set() for number in range(5)}
    rows = [source[row] for row in range(len(source))]
    for row, sample in enumerate(rows):
        names = set(sample.prefix.removeprefix("detect ").split(" ; "))
        found = {one.label for one in parse(sample.suffix)}
        assert found <= names and sample.prefix == "detect " + " ; ".join(sorted(names))
        asked[source.rows[row].image.id] |= names - found
    # neither the crowd nor the broken box of a dog is absent, and no fox is known at all
    assert asked[0] == {"emu"} and asked[1] == {"cat"} and asked[3] == {"emu"}
    assert asked[2] and asked[2] <= {"cat", "dog", "emu"} and asked[4] == set()
    assert [row.prefix for row in rows[:2]] == ["detect cat ; dog ; emu", "detect cat ; emu"]
    assert [row.suffix for row in rows[4:]] == [""] * 4  # images 0, 1 and 3 again, and image 2
    again = CocoSource(path, None, "detect", None, negatives=1.0)
    assert [again[n].prefix for n in range(len(again))] == [row.prefix for row in rows]
    plain = CocoSource(path, None, "detect", None)
    assert [plain[n].prefix for n in range(4)] == [
        "detect cat ; dog", "detect emu", "detect cat", "detect cat ; dog ; emu"
    ]  # fmt: skip


def test_a_share_of_the_prompts_has_absent_names(tmp_path):
    path = many(tmp_path, *[[CAT], [DOG]] * 500)
    source = CocoSource(path, None, "detect", None, negatives=0.25)
    mixed = sum(bool(row.absent) for row in source.rows[:1000])
    assert 200 < mixed < 300 and 200 < len(source) - 1000 < 300


def test_labels_that_the_prompt_does_not_name_are_warned_of(tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    box = "<loc0000><loc0000><loc0512><loc0512>"
    line = {"image": "a.png", "prefix": "detect cat", "suffix": f"{box} cat ; {box} dog"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(line))
    assert main(["data", "check", str(tmp_path / "rows.jsonl")]) == 0
    warning = "warning: rows.jsonl, line 1: 'dog' is answered, but not asked for.\n"
    assert capsys.readouterr().out == warning + "1 samples, all valid.\n"


def test_a_category_that_cannot_be_a_label_leaves_the_others(tmp_path):
    names = [{"id": 1, "name": "cat, tabby"}, {"id": 2, "name": "dog"}]
    source = CocoSource(changed(tmp_path, categories=names), None, "detect", None)
    assert source[0].prefix == "detect dog"


def test_a_size_that_the_file_lacks_is_that_of_the_upright_image(tmp_path):
    path = changed(tmp_path, images=[{"id": 7, "file_name": "a.jpg"}])
    turned = Image.new("RGB", (40, 80), "gray")
    exif = turned.getexif()
    exif[ExifTags.Base.Orientation] = 6
    turned.save(tmp_path / "a.jpg", exif=exif)
    cat, dog = parse(CocoSource(path, None, "segment", tiny.codec())[0].suffix)
    assert cat.box == pytest.approx((0.5, 0.25, 1, 0.75), abs=1e-3)
    assert dog.box == pytest.approx((0, 0, 0.5, 0.5), abs=1e-3)


def test_another_size_is_an_invalid_sample_when_it_is_read(tmp_path):
    source = CocoSource(changed(tmp_path, images=[IMAGE | {"width": 81}]), None, "detect", None)
    with pytest.raises(InvalidSample, match=r"instances.json, image 7: the file says 81 x 40, but"):
        encode(source, 0, tiny.processor(), 512)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("{", "it is not JSON"),
        ("[]", r"it is a list, not an object with images, categories and annotations; samples "),
        ('{"images": 3}', "images is a number, not a list"),
        ('{"images": [], "categories": [{"id": 1, "name": 7}], "annotations": []}',
         "categories.0.name is 7, not text"),
        ('{"images": [], "annotations": []}', "it has no categories"),
    ],
)  # fmt: skip
def test_what_is_no_coco_file(tmp_path, text, reason):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"a.json is not a COCO instances file: {reason}"):
        CocoSource(path, None, "detect", None)
    os.truncate(path, 0)
    path.unlink()
    with pytest.raises(ValueError, match=r"a.json cannot be read: No such file"):
        CocoSource(path, None, "detect", None)
