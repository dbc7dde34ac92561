"""Kill a run at random moments, start it again each time, and compare with an undisturbed one.

Some are killed while they start, the others soon after they have saved a state.

    python scripts/kill_training.py --kills 20
    python scripts/kill_training.py --kills 20 --adapter    # with all that an adapter may have

A tiny model; each start is a fork, so that a run takes a second and not the time of its imports.
"""

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from multiprocessing.context import ForkProcess
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import runs
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from paligemma.checkpoints.lora import WEIGHTS
from paligemma.training import checkpoint
from paligemma.training.read_config import parse_run
from paligemma.training.trainer import train

# An adapter with dropout on a quantized base, its optimizer's states in 8 bits, answers scored on
# the way, and the best of them kept. The rank is so high that its states are large enough for 8.
ADAPTER = {
    "lora": {"rank": 128, "dropout": 0.1},
    "param_groups": [],
    "quantize": "int8",
    "optimizer": {"name": "adamw8bit"},
    "eval_steps": 5,
    "eval_metrics": True,
    "max_eval_samples": 2,
    "metric_for_best_model": "loss",
}


def _train(given: dict) -> None:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    train(parse_run(given))


def kill_and_compare(
    folder: Path, kills: int, changes: dict, seed: int = 0
) -> tuple[int, int, bool]:
    """(kills that hit a running process, starts, whether the weights are the same bit for bit)."""
    given = runs.values(folder, max_steps=80, save_steps=2, **changes)
    if "eval_metrics" in given:
        given["eval_data"] = given["data"]
        _import_all(given | {"output_dir": str(folder / "first")})
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
        if hits < kills:
            _wait(one, folder / "out", rng)
        else:
            one.join()
        if one.exitcode is None:
            os.kill(one.pid, signal.SIGKILL)
            one.join()
            hits += 1
        else:
            assert one.exitcode == 0, one.exitcode
            break
    one, other = (_weights(folder / name) for name in ("undisturbed", "out"))
    assert one.keys() == other.keys()
    return hits, starts, all(torch.equal(value, other[name]) for name, value in one.items())


def _wait(process: ForkProcess, output: Path, rng: random.Random) -> None:
    """Wait for some part of a second, in two of three times after a state of its own first."""
    before = checkpoint.newest_step(output)
    if rng.random() < 2 / 3:
        while process.is_alive() and checkpoint.newest_step(output) == before:
            time.sleep(0.01)
    process.join(rng.uniform(0, 0.2))


def _import_all(given: dict) -> None:
    """Import what every process would import anew. No backward pass: none could follow a fork."""
    one = runs.trainer(parse_run(given))
    for optimizer in one.optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    AcceleratorState._reset_state(True)


def _weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / WEIGHTS) if (output / WEIGHTS).exists() else runs.weights(output)


if __name__ == "__main__":
    torch.set_num_threads(1)  # a process with threads of its own cannot be forked
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--adapter", action="store_true")
    arguments = parser.parse_args()
    changes = ADAPTER if arguments.adapter else {}
    with tempfile.TemporaryDirectory() as folder:
        hits, starts, same = kill_and_compare(Path(folder), arguments.kills, changes)
    print(f"{hits} kills, {starts} starts: the weights are {'the same' if same else 'DIFFERENT'}.")
    sys.exit(not same)
