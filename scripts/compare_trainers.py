"""Steps of `paligemma train` against those of transformers' Trainer, with the same settings.

    python scripts/compare_trainers.py [--cases full lora dropout int8] [--rounds 3]
    paligemma random paligemma-3b-224 FOLDER
    python scripts/compare_trainers.py --model FOLDER --dtype bfloat16 --batch-size 1 --cases lora

Both train the built-in model, or that of a folder, on the CPU in this process, on the samples of
examples/train.jsonl, with the same batch size, dtype, optimizer and clipping, and without packing;
theirs as notebooks of the hub do it, with PyTorch's attention. Runs alternate, so that other load
on the machine slows both. What counts is the median time between the ends of steps, in which
samples are decoded and tokenized too. Prints a line for each case, then one line of JSON. The
counterpart of int8 is the same adapter on a base that is not quantized.
"""

import argparse
import json
import logging
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import transformers
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch.utils.data import Dataset

from paligemma.checkpoints.resolve import BUILT_IN_FOLDER
from paligemma.training.config import Lora
from paligemma.training.read_config import parse_run
from paligemma.training.trainer import Trainer

SAMPLES = Path(__file__).parents[1] / "examples" / "train.jsonl"
WARM_UP = 2  # steps of each run that are not counted
LEARNING_RATE = 1e-4
CASES = {
    "full": {},
    "lora": {"lora": {"rank": 8}},
    "dropout": {"lora": {"rank": 8, "dropout": 0.05}},
    "int8": {"lora": {"rank": 8, "dropout": 0.05}, "quantize": "int8"},
}


def our_ends(case: dict, given: argparse.Namespace) -> list[float]:
    """When each step of a run of `paligemma train` ended."""
    AcceleratorState._reset_state(True)
    ends = []
    with tempfile.TemporaryDirectory() as folder:
        values = {"model": str(given.model), "data": [{"jsonl": str(SAMPLES)}]}
        values |= {"dtype": given.dtype, "learning_rate": LEARNING_RATE}
        values |= {"max_steps": WARM_UP + given.steps, "batch_size": given.batch_size}
        values |= {"num_workers": 0, "tracker": None, "output_dir": folder}
        trainer = Trainer(parse_run(values | case), Accelerator(cpu=True))
        take = trainer._take

        def take_and_note(micro_batches):
            logged = take(micro_batches)
            ends.append(perf_counter())
            return logged

        trainer._take = take_and_note
        trainer.loop()
    return ends


class Samples(Dataset):
    """Prompts, answers and images, opened when they are asked for."""

    def __init__(self) -> None:
        self.rows = [json.loads(line) for line in SAMPLES.read_text("utf-8").splitlines()]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict:
        row = self.rows[number]
        return row | {"image": Image.open(SAMPLES.parent / row["image"]).convert("RGB")}


def collate(processor, rows: list[dict]) -> dict:
    return processor(
        text=["<image>" + row["prefix"] for row in rows],
        images=[row["image"] for row in rows],
        suffix=[row["suffix"] for row in rows],
        return_tensors="pt",
        padding="longest",
    )


class NoteEnds(transformers.TrainerCallback):
    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *args, **kwargs) -> None:
        self.ends.append(perf_counter())


def their_ends(case: dict, given: argparse.Namespace) -> list[float]:
    """When each step of a run of transformers' Trainer ended."""
    AcceleratorState._reset_state(True)
    frozen = torch.bfloat16 if given.dtype == "bfloat16" else torch.float32
    model = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
        given.model,
        dtype=frozen if "lora" in case else torch.float32,  # what is trained is float32 in both
        attn_implementation="sdpa",
    )
    if "lora" in case:
        lora = Lora(**case["lora"])
        targets = list(lora.target_modules)
        adapter = LoraConfig(
            r=lora.rank,
            lora_alpha=int(lora.alpha),
            lora_dropout=lora.dropout,
            target_modules=targets,
        )
        model = get_peft_model(model, adapter)
    note = NoteEnds()
    with tempfile.TemporaryDirectory() as folder:
        options = transformers.TrainingArguments(
            output_dir=folder,
            max_steps=WARM_UP + given.steps,
            per_device_train_batch_size=given.batch_size,
            bf16=given.dtype == "bfloat16",
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="cosine",
            optim="adamw_torch_fused",
            max_grad_norm=1.0,
            save_strategy="no",
            report_to="none",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
        )
        processor = transformers.AutoProcessor.from_pretrained(given.model)
        transformers.Trainer(
            model=model,
            args=options,
            train_dataset=Samples(),
            data_collator=partial(collate, processor),
            callbacks=[note],
        ).train()
    return note.ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--model", type=Path, default=BUILT_IN_FOLDER, help="a folder")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6, help="of each run, besides two to warm up")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each of the two")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    ratios = {}
    for name in arguments.cases:
        seconds: dict[str, list[float]] = {"ours": [], "transformers": []}
        for _ in range(arguments.rounds):
            for who, run in ("ours", our_ends), ("transformers", their_ends):
                ends = run(CASES[name], arguments)
                pairs = zip(ends[WARM_UP - 1 :], ends[WARM_UP:], strict=False)
                seconds[who] += [end - start for start, end in pairs]
        times = {who: statistics.median(values) for who, values in seconds.items()}
        ratios[name] = times["transformers"] / times["ours"]
        shown = ", ".join(f"{who} {value:.3f} s a step" for who, value in times.items())
        print(f"{name:8} {shown}: {ratios[name]:.2f} times as fast", flush=True)
    print(json.dumps(vars(arguments) | {"model": str(arguments.model), "ratios": ratios}))


if __name__ == "__main__":
    main()
