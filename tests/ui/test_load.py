"""The app as a program, under load, cut-off uploads and kills: a small run of `scripts/load.py`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPTIONS = "--sessions 50 --cancels 20 --uploads 30 --kills 2 --rest 0".split()


@pytest.mark.slow
def test_a_stranger_is_answered_after_load_and_after_kills():
    command = [sys.executable, str(ROOT / "scripts" / "load.py"), *OPTIONS]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, (run.stdout, run.stderr)
    results = json.loads(run.stdout.splitlines()[-1])
    assert results["greedy_client"]["tally"] == {"status 200": 8, "status 429": 56}
    assert results["cut_off_uploads"]["tally"] == {"cut off": 30}
    assert results["after"]["tracebacks"] == 0
    assert results["kill"]["kills"] == 2 and results["kill"]["folders_left"] == 0
