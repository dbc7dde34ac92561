"""Kill a run at random moments, start it again each time, and compare with an undisturbed one.

    python scripts/kill_training.py --kills 20

A tiny model; each start is a fork, so that a run takes a second and not the time of its imports.
"""

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import runs
import torch

from paligemma.training.config import parse_run
from paligemma.training.trainer import train


def _train(given: dict) -> None:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    train(parse_run(given))


def kill_and_compare(folder: Path, kills: int, seed: int = 0) -> tuple[int, int, bool]:
    """(kills that hit a running process, starts, whether the weights are the same bit for bit)."""
    given = runs.values(folder, max_steps=40, save_steps=4)
    fork, rng = multiprocessing.get_context("fork"), random.Random(seed)
    whole = fork.Process(target=_train, args=(given | {"output_dir": str(folder / "undisturbed")},))
    whole.start()
    whole.join()
    assert whole.exitcode == 0
    hits = starts = 0
    while True:
        one = fork.Process(target=_train, args=(given,))
        one.start()
        starts += 1
        # long enough for some to take a step, too short for any to take them all
        one.join(rng.uniform(0.05, 0.9) if hits < kills else None)
        if one.exitcode is None:
            os.kill(one.pid, signal.SIGKILL)
            one.join()
            hits += 1
        else:
            assert one.exitcode == 0, one.exitcode
            break
    one, other = (runs.weights(folder / name) for name in ("undisturbed", "out"))
    return hits, starts, all(torch.equal(value, other[name]) for name, value in one.items())


if __name__ == "__main__":
    torch.set_num_threads(1)  # a process with threads of its own cannot be forked
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    kills = parser.parse_args().kills
    with tempfile.TemporaryDirectory() as folder:
        hits, starts, same = kill_and_compare(Path(folder), kills)
    print(f"{hits} kills, {starts} starts: the weights are {'the same' if same else 'DIFFERENT'}.")
    sys.exit(not same)
