"""Damaged data files: every record is read or named. The helper runs a hundred thousand of each."""

import pytest
from fuzz_data import MaskCodec, run

from paligemma.checkpoints.resolve import BUILT_IN_FOLDER
from paligemma.detections import invalid_objects


@pytest.mark.parametrize(
    "text", ["<loc" * 200_000, "<seg" * 200_000, "<loc0001> " * 50_000, "<loc" * 200_000 + ">"]
)
def test_long_suffixes_are_read_in_linear_time(text):
    assert (invalid_objects(text) is None) == (">" not in text)


@pytest.mark.parametrize("token", ["<loc" + "0" * 60 + ">", "<seg 0" + " " * 60 + "1>"])
def test_a_token_of_any_length_is_none(token):
    assert invalid_objects(f"{token} cat") == f"{token[:40]} is none of " + (
        "<loc0000> to <loc1023>" if "loc" in token else "<seg000> to <seg127>"
    )


def test_damaged_records_are_read_or_named(tmp_path):
    counts = run(tmp_path, 1_000, MaskCodec.load(BUILT_IN_FOLDER / "mask_codec.npz"))
    assert counts["valid"] > 50 and counts["invalid"] > 500
