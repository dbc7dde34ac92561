"""Samples in a mirror: the image and its boxes turn together, what cannot turn stays."""

import json

import numpy as np
import pytest
import runs
import torch
from PIL import Image

from paligemma.training.augment import mirror
from paligemma.training.config import parse_run
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
        ("detect left shoe", f"{BOX} left shoe", "detect"),
        ("segment cat", f"{BOX}{'<seg001>' * 16} cat", "segment"),
        ("detect cat", f"{BOX}{'<seg001>' * 16} cat", "detect"),
        ("detect cat", f"there it is: {BOX} cat", "detect"),
    ],
)
def test_what_would_be_wrong_stays(prefix, suffix, task):
    one = sample(prefix, suffix, task)
    assert mirror(one) is one


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


def test_packed_scenes_are_not_mirrored(tmp_path):
    with pytest.raises(ValueError, match="flip mirrors single samples"):
        parse_run(runs.scenes(tmp_path, "multimodal", flip=0.5))
