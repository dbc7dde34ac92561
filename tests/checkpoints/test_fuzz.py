"""Hostile checkpoints of every kind: each is loaded, or refused in a sentence."""

from collections import Counter

import fuzz_checkpoints
import pytest

SECONDS, MEMORY = 10, 1_000_000_000  # of one case; of all, beyond the process's start


@pytest.mark.parametrize("count", [24, pytest.param(200, marks=pytest.mark.slow)])
def test_hostile_checkpoints_load_or_are_refused(tmp_path, count):
    outcomes = fuzz_checkpoints.run(tmp_path, count, SECONDS)
    wrong = [one for one in outcomes if one.result not in ("loaded", "refused")]
    assert not wrong and len(outcomes) == count, wrong
    assert max(one.memory for one in outcomes) < MEMORY
    for one in outcomes:
        assert len(one.message) < 2_500 and "Traceback" not in one.message, one.message[:3_000]
    print(Counter((one.kind, one.result) for one in outcomes))
    print(f"slowest {max(one.seconds for one in outcomes):.2f} s")
    print(f"memory {max(one.memory for one in outcomes) / 1e6:.0f} MB")
