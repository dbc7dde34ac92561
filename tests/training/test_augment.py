"""Samples that are mirrored, cropped or changed in color: answers follow, the rest stays."""

import json

import numpy as np
import pytest
import runs
import torch
import yaml
from PIL import Image

from paligemma.__main__ import main
from paligemma.detections import parse
from paligemma.images import open_image
from paligemma.training.augment import MIN_VISIBLE, Augmentation, jitter_colors, mirror, random_crop
from paligemma.training.read_config import parse_run
from paligemma.training.sources import Sample

BOX = "<loc0100><loc0000><loc0300><loc0200>"
MIRRORED = "<loc0100><loc0823><loc0300><loc1023>"


def sample(prefix: str, suffix: str, task: str) -> Sample:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8))
    return Sample(image, prefix, suffix, task)


def test_boxes_turn_with_the_image():
    one = sample("detect cat ; dog", f"{BOX} cat ; {MIRRORED} dog", "detect")
    there = mirror(one)
    assert there.suffix == f"{MIRRORED} cat ; {BOX} dog" and there.prefix == one.prefix
    assert np.array_equal(np.asarray(there.image), np.asarray(one.image)[:, ::-1])
    back = mirror(there)
    assert back.suffix == one.suffix and back.image.tobytes() == one.image.tobytes()
    empty = mirror(sample("detect cat", "", "detect"))
    assert empty.suffix == "" and empty.image.tobytes() != one.image.tobytes()


@pytest.mark.parametrize(
    "prefix, suffix, task",
    [
        ("ocr", "EXIT", "read"),
        ("caption en", "a cat", "caption"),
        ("detect leftover", f"{BOX} leftover", "detect"),
        ("detect right angle", f"{BOX} right angle", "detect"),
        ("detect leftShoe", f"{BOX} leftShoe", "detect"),
        ("segment cat", f"{BOX}{'<seg001>' * 16} cat", "segment"),
        ("detect cat", f"{BOX}{'<seg001>' * 16} cat", "detect"),
        ("detect cat", f"there it is: {BOX} cat", "detect"),
    ],
)
def test_what_would_be_wrong_is_not_mirrored(prefix, suffix, task):
    one = sample(prefix, suffix, task)
    assert mirror(one) is one


@pytest.mark.parametrize(
    "name, there",
    [
        ("left shoe", "right shoe"),
        ("Right_Turn sign", "Left_Turn sign"),
        ("LEFT hand", "RIGHT hand"),
        ("rightmost cat", "leftmost cat"),
        ("bright light", "bright light"),
    ],
)
def test_sides_change_places_in_prompt_and_answer(name, there):
    one = sample(f"detect {name} ; dog", f"{BOX} {name} ; {BOX} dog", "detect")
    turned = mirror(one)
    assert turned.prefix == f"detect {there} ; dog"
    assert turned.suffix == f"{MIRRORED} {there} ; {MIRRORED} dog"
    assert mirror(turned).prefix == one.prefix and mirror(turned).suffix == one.suffix


def painted(*corners: tuple[int, int, int, int]) -> Sample:
    """Red rectangles (left, top, right, bottom), each a thing, on white, 120 x 80."""
    image, boxes = Image.new("RGB", (120, 80), "white"), []
    for x1, y1, x2, y2 in corners:
        image.paste("red", (x1, y1, x2, y2))
        edges = (y1 / 80, x1 / 120, y2 / 80, x2 / 120)
        boxes.append("".join(f"<loc{round(edge * 1023):04d}>" for edge in edges) + " thing")
    return Sample(image, "detect thing", " ; ".join(boxes), "detect")


def test_boxes_are_cut_and_moved_with_a_crop():
    one, widths = painted((30, 20, 66, 50)), set()
    for seed in range(40):
        there = random_crop(one, np.random.default_rng(seed))
        assert there.prefix == one.prefix
        (found,) = parse(there.suffix)
        pixels = np.asarray(there.image)
        rows, columns = np.nonzero((pixels == (255, 0, 0)).all(2))
        height, width = pixels.shape[:2]
        drawn = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        np.testing.assert_allclose(found.xyxy(width, height), drawn, atol=0.2)
        assert len(rows) >= MIN_VISIBLE * 36 * 30 * 0.95
        widths.add(width)
    assert min(widths) < 90 and max(widths) > 130  # it comes nearer, and it goes away


def test_objects_of_which_little_is_left_are_no_longer_in_the_answer():
    one = painted((2, 2, 22, 22), (80, 50, 116, 78))
    counts = set()
    for seed in range(60):
        there = random_crop(one, np.random.default_rng(seed))
        counts.add(len(parse(there.suffix)))
        shown = (np.asarray(there.image) == (255, 0, 0)).all(2).sum()
        if len(parse(there.suffix)) == 1:
            assert shown < 36 * 28 + MIN_VISIBLE * 20 * 20 + 90
    assert counts == {1, 2}
    empty = replace_answer(one, "")
    assert random_crop(empty, np.random.default_rng(0)).suffix == ""
    assert random_crop(empty, np.random.default_rng(0)).image.size != one.image.size


def replace_answer(one: Sample, suffix: str) -> Sample:
    return Sample(one.image, one.prefix, suffix, one.task)


@pytest.mark.parametrize(
    "prefix, suffix, task",
    [
        ("ocr", "EXIT", "read"),
        ("caption en", "a cat", "caption"),
        ("detect top shelf", f"{BOX} top shelf", "detect"),
        ("detect largest_cat", f"{BOX} largest_cat", "detect"),
        ("segment cat", f"{BOX}{'<seg001>' * 16} cat", "segment"),
        ("detect cat", "<loc0100><loc0100><loc0300><loc0100> cat", "detect"),
    ],
)
def test_what_would_be_wrong_is_not_cropped(prefix, suffix, task):
    one = sample(prefix, suffix, task)
    assert all(random_crop(one, np.random.default_rng(seed)) is one for seed in range(5))


@pytest.mark.parametrize(
    "prefix, suffix, task",
    [
        ("caption en", "a cat in the grass", "caption"),
        ("ocr", "EXIT", "read"),
        ("segment cat", f"{BOX}{'<seg001>' * 16} cat", "segment"),
        ("extract JSON.", '{"sum": 3}', ""),
    ],
)
def test_colors_change_and_text_stays(prefix, suffix, task):
    one = sample(prefix, suffix, task)
    there = jitter_colors(one, np.random.default_rng(1))
    assert (there.prefix, there.suffix, there.task) == (prefix, suffix, task)
    assert there.image.size == one.image.size and there.image.tobytes() != one.image.tobytes()


@pytest.mark.parametrize(
    "prefix, suffix",
    [
        ("detect red_car", f"{BOX} red_car"),
        ("caption en", "A Yellowish cat"),
        ("answer en what color is it?", "two"),
        ("answer en is it darker?", "no"),
        ("caption de", "eine rote Katze"),
    ],
)
def test_colors_that_are_named_stay(prefix, suffix):
    one = sample(prefix, suffix, "")
    assert jitter_colors(one, np.random.default_rng(1)) is one


def test_what_happens_to_a_sample_is_a_function_of_seed_and_number():
    one, augment = painted((30, 20, 66, 50)), Augmentation(0.5, 0.5, 0.5)
    shown = [augment(one, 3, number) for number in range(200)]
    again = augment(one, 3, 77)
    assert again.suffix == shown[77].suffix and again.image.tobytes() == shown[77].image.tobytes()
    assert 15 < sum(there is one for there in shown) < 40  # an eighth has none of the three
    assert all(Augmentation()(one, 3, number) is one for number in range(20))
    every = Augmentation(flip=0.999, crop=0.999, color_jitter=0.999)(one, 3, 0)
    assert len({one.suffix, every.suffix}) == 2 and one.image.size != every.image.size


def test_a_share_of_the_samples_is_mirrored_and_those_to_evaluate_are_not(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    line = {"image": "a.png", "prefix": "detect cat", "suffix": f"{BOX} cat"}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(line))
    data = [{"jsonl": str(path)}]
    given = runs.values(tmp_path, data=data, eval_data=data, flip=0.5, max_steps=2)
    job = runs.trainer(parse_run(given)).job
    ids = [job.batches[0, range(400)]["input_ids"], job.eval_batches[0, range(9)]["input_ids"]]
    first = ids[1][0]
    same = (ids[0] == first).all(1)
    assert (ids[1] == first).all() and 150 < same.sum() < 250
    again = job.batches[0, range(400)]["input_ids"]
    assert torch.equal(again, ids[0])


def test_a_run_crops_and_changes_colors(tmp_path):
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "a.png")
    line = {"image": "a.png", "prefix": "detect cat", "suffix": f"{BOX} cat"}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(line))
    given = runs.values(tmp_path, data=[{"jsonl": str(path)}], max_steps=2)
    plain = runs.trainer(parse_run(given)).job.batches[0, range(20)]
    for name, what in ("crop", "input_ids"), ("color_jitter", "pixel_values"):
        batches = runs.trainer(parse_run(given | {name: 0.9})).job.batches
        changed = (batches[0, range(20)][what] != plain[what]).flatten(1).any(1)
        assert changed.sum() > 10
        assert torch.equal(batches[0, range(20)][what], batches[0, range(20)][what])


@pytest.mark.parametrize("name", ["flip", "crop", "color_jitter"])
def test_packed_scenes_are_not_augmented(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} changes single samples"):
        parse_run(runs.scenes(tmp_path, "multimodal", **{name: 0.5}))


# --- The contact sheet ----------------------------------------------------------------------------


def test_the_check_of_a_run_shows_its_samples_as_they_are_trained_on(tmp_path, capsys):
    painted((30, 20, 66, 50)).image.save(tmp_path / "a.png")
    line = {"image": "a.png", "prefix": "detect thing", "suffix": painted((30, 20, 66, 50)).suffix}
    path, config = tmp_path / "rows.jsonl", tmp_path / "run.yaml"
    path.write_text((json.dumps(line) + "\n") * 12)
    data = [{"jsonl": str(path)}, {"synthetic": {"scenes": 4, "tasks": ["detect"]}}]
    given = runs.values(tmp_path, data=data, model="built-in")
    sheets = []
    for changes in {}, {"flip": 0.9}, {"flip": 0.9}, {"color_jitter": 0.9}:
        config.write_text(yaml.safe_dump(given | changes))
        assert main(["data", "check", str(config), "--out", str(tmp_path / "sheet.png")]) == 0
        assert capsys.readouterr().out == "12 samples, all valid.\n"
        sheets.append(np.asarray(open_image(tmp_path / "sheet.png")))
    assert sheets[0].shape == (4 * 395 + 10, 4 * 310 + 10, 3)
    assert np.array_equal(sheets[1], sheets[2])
    assert len({sheet.tobytes() for sheet in sheets}) == 3


def test_the_check_of_a_run_has_its_limits(tmp_path, capsys):
    config = tmp_path / "run.yaml"
    given = runs.values(tmp_path, max_text_tokens=16, on_invalid="skip")
    config.write_text(yaml.safe_dump(given | {"eval_data": given["data"]}))
    assert main(["data", "check", str(config)]) == 2
    out, error = capsys.readouterr()
    assert "max_text_tokens is 16." in out and "of 46 samples cannot be trained on." in error
    config.write_text(yaml.safe_dump(runs.scenes(tmp_path / "scenes", "multimodal")))
    assert main(["data", "check", str(config)]) == 2
    assert "Only the samples of runs of the objective answers" in capsys.readouterr().err
    assert main(["data", "check", str(config), "--model", "built-in"]) == 2
    assert "A run's YAML names images, tasks, prompts and model itself." in capsys.readouterr().err
