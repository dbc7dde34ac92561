"""What training each size holds all along, besides activations: computed by the trainer's own plan.

    python scripts/training_memory.py

Prints two tables in Markdown, the second for models that FSDP shards over processes. Nothing is
loaded, and nothing is measured.
"""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from paligemma.checkpoints.resolve import resolve
from paligemma.config import VARIANTS
from paligemma.devices import format_bytes
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration
from paligemma.training.config import Run
from paligemma.training.memory import gathered_memory, needed_memory, planned_model
from paligemma.training.read_config import parse_run

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


SHARDED = {"everything trained": {}, "`lora: {rank: 8}`": LORA}
SHARDS = (2, 4, 8)


def print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |")


def main() -> None:
    start = resolve(None)
    given = {"model": "built-in", "data": [{"jsonl": "-"}], "max_steps": 1, "output_dir": "-"}
    checkpoints = [replace(start, config=VARIANTS[key]) for key in SIZES.values()]

    def plan(changes: dict) -> tuple[Run, list[PaliGemmaForConditionalGeneration]]:
        run = parse_run(given | changes)
        return run, [planned_model(run, checkpoint) for checkpoint in checkpoints]

    def print_need(name: str, run: Run, models: list, shards: int = 1) -> None:
        needs = [needed_memory(model, run, shards) for model in models]
        print_row(name, *(format_bytes(need.total) for need in needs))

    print_row("besides activations", *SIZES)
    print("|---|" + "---|" * len(SIZES))
    for name, changes in RUNS.items():
        print_need(name, *plan(changes))
    print()
    print_row("each process holds", *SIZES)
    print("|---|" + "---|" * len(SIZES))
    for name, changes in SHARDED.items():
        run, models = plan(changes)
        for shards in SHARDS:
            print_need(f"{name}, {shards} processes", run, models, shards)
    gathered = [gathered_memory(model) for model in models]
    print_row("and, gathered at a time", *map(format_bytes, gathered))


if __name__ == "__main__":
    main()
