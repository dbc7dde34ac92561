"""What training each size holds all along, besides activations: computed by the trainer's own plan.

    python scripts/training_memory.py

Prints a table in Markdown. Nothing is loaded.
"""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from paligemma.checkpoints.resolve import resolve
from paligemma.config import VARIANTS
from paligemma.devices import format_bytes
from paligemma.training.config import parse_run
from paligemma.training.memory import needed_memory

SIZES = {
    "3B": "paligemma-3b-224",
    "PaliGemma 2, 3B": "paligemma2-3b-224",
    "PaliGemma 2, 10B": "paligemma2-10b-224",
}
EIGHT_BITS = {"optimizer": {"name": "adamw8bit"}}
LORA = {"lora": {"rank": 8}}
HALF = LORA | {"dtype": "bfloat16"}
RUNS = {
    "everything trained": {},
    "everything trained, `optimizer: {name: adamw8bit}`": EIGHT_BITS,
    "`lora: {rank: 8}`": LORA,
    "`lora: {rank: 8}`, `dtype: bfloat16`": HALF,
    "the same, `quantize: int8`": HALF | {"quantize": "int8"},
    "the same, `quantize: int4`": HALF | {"quantize": "int4"},
}


def main() -> None:
    start = resolve(None)
    given = {"model": "built-in", "data": [{"jsonl": "-"}], "max_steps": 1, "output_dir": "-"}
    print(f"| besides activations | {' | '.join(SIZES)} |")
    print("|---|" + "---|" * len(SIZES))
    for name, changes in RUNS.items():
        run = parse_run(given | changes)
        needs = [needed_memory(run, replace(start, config=VARIANTS[key])) for key in SIZES.values()]
        print(f"| {name} | {' | '.join(format_bytes(need.total) for need in needs)} |")


if __name__ == "__main__":
    main()
