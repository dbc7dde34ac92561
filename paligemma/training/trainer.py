"""Train a checkpoint on one's own data: `python -m paligemma train config.yaml`.

    accelerate launch -m paligemma train config.yaml      # many processes: DDP, or FSDP

A step is a function of the weights and its number: which examples it takes, and what is drawn at
random, depend on nothing else. So a run that was killed goes on from its newest whole state and
ends in the same weights. The recipe is that of big_vision's transfers (arXiv 2407.07726, J).
"""

import os
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin, gather_object
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.utils.checkpoint import checkpoint as recomputed
from torch.utils.data import DataLoader
from tqdm import tqdm

from paligemma.checkpoints import hub
from paligemma.checkpoints import lora as adapters
from paligemma.checkpoints.resolve import resolve
from paligemma.devices import best_device
from paligemma.models import gemma, siglip
from paligemma.models.mask_codec import MaskCodec
from paligemma.training import states
from paligemma.training.config import Coco, Drawn, Run
from paligemma.training.data import Batches, Mixture, open_sources
from paligemma.training.initialize import lora_config, start, write
from paligemma.training.objectives import build
from paligemma.training.optimizer import optimizer, set_rates
from paligemma.training.plot import draw_curve
from paligemma.training.sources import BadRow

BLOCKS = (
    siglip.SiglipEncoderLayer,
    gemma.GemmaDecoderLayer,
)  # what is recomputed, and sharded, as a unit
MAY_CHANGE = ("save_every", "workers", "tracker", "micro_batch", "recompute", "out")  # on restart


def train(run: Run) -> None:
    """Take every step that is left, then write the output. ValueError for what cannot be trained.

    SIGINT and SIGTERM end it after the step at hand, its state saved.
    """
    accelerator = Accelerator(
        mixed_precision="bf16" if run.dtype == "bfloat16" else "no",
        cpu=best_device().type == "cpu",
        log_with=run.tracker,
        project_dir=run.out,
        fsdp_plugin=_sharding(),
    )
    trainer = Trainer(run, accelerator)
    if trainer.step < trainer.steps:
        trainer.loop()
    if trainer.step == trainer.steps:
        trainer.finish()
    else:
        accelerator.print(f"Stopped after step {trainer.step} of {trainer.steps}; "
                          "the same command goes on from there.")  # fmt: skip
    accelerator.end_training()


def _sharding() -> FullyShardedDataParallelPlugin | None:
    """FSDP in units of a block, where `accelerate launch --use_fsdp` asks for it."""
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true":
        return None
    return FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy=ModuleWrapPolicy(set(BLOCKS))
    )


class Trainer:
    """One run: the data, the objective around the model, its optimizer, and how far it came."""

    def __init__(self, run: Run, accelerator: Accelerator) -> None:
        self.run, self.accelerator = run, accelerator
        self.share, left = divmod(run.batch, accelerator.num_processes)  # examples a process
        if left or not self.share:
            raise ValueError(f"A batch of {run.batch} cannot be shared evenly by "
                             f"{accelerator.num_processes} processes.")  # fmt: skip
        self.found = resolve(run.model)
        model, self.start = start(run, self.found)
        sources = open_sources(run, self._codec())
        self.bad = {str(bad) for source in sources for bad in source.bad}
        if self.bad and run.bad_rows == "refuse":
            raise ValueError(f"{len(self.bad)} rows cannot be trained on, such as {min(self.bad)} "
                             "Mend them, or set bad_rows to skip.")  # fmt: skip
        for source in sources:
            for what, count in source.left_out.items():
                accelerator.print(f"left out: {count} {what}")
        self.mixture = Mixture(sources, [given.weight for given in run.data], run.seed)
        self.steps = run.steps or max(round(run.epochs * len(self.mixture) / run.batch), 1)
        torch.manual_seed(run.seed)
        if run.lora:
            adapters.attach(model, lora_config(run))
        if run.recompute:
            for block in (module for module in model.modules() if isinstance(module, BLOCKS)):
                block.forward = partial(recomputed, block.forward, use_reentrant=False)
        objective = build(run.objective, model.train(), run.label_smoothing)
        adamw = optimizer(objective, run)
        self.objective, self.adamw = accelerator.prepare(objective, adamw)
        self.step, self.losses = 0, torch.zeros(self.steps)
        if (state := states.newest(run.out)) is not None:
            self._resume(state)

    def _codec(self) -> MaskCodec | None:
        """The mask codec, where the data need it."""
        if any(isinstance(given, Drawn) or (isinstance(given, Coco) and given.task == "segment")
               for given in self.run.data):  # fmt: skip
            return MaskCodec.load(self.found.mask_codec or hub.fetch_mask_codec())
        return None

    def loop(self) -> None:
        """Every step that is left, or those until somebody asks to stop."""
        run, accelerator = self.run, self.accelerator
        if run.tracker:
            accelerator.init_trackers("logs", config={"steps": self.steps, "batch": run.batch})
        asked: list[int] = []

        def ask(number: int, _) -> None:
            asked.append(number)
            signal.signal(number, signal.SIG_DFL)  # who asks twice will not wait

        former = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        bar = tqdm(total=self.steps, initial=self.step, desc=run.stage, unit="step",
                   disable=not accelerator.is_main_process)  # fmt: skip
        read = 0  # tokens
        try:
            for micro_batches in self._batches():
                read += self._take(micro_batches)
                loss = self.losses[self.step - 1].item()
                speed = read / max(bar.format_dict["elapsed"], 1e-9)
                bar.set_postfix(loss=f"{loss:.4f}", tokens_s=f"{speed:,.0f}", refresh=False)
                bar.update()
                rate = max(group["lr"] for group in self.adamw.param_groups)
                accelerator.log({"loss": loss, "rate": rate, "tokens_s": speed}, step=self.step)
                if asked:
                    accelerator.set_trigger()
                stop = accelerator.check_trigger()
                if stop or self.step % run.save_every == 0 or self.step == self.steps:
                    self._save()
                if stop:
                    return
        finally:
            bar.close()
            for number, handler in former.items():
                signal.signal(number, handler)

    def _batches(self) -> Iterator[list[dict]]:
        """For each step that is left the micro-batches of this process."""
        size = self.run.micro_batch or self.share
        mine = self.accelerator.process_index * self.share
        cuts = [range(at, min(at + size, self.share)) for at in range(0, self.share, size)]
        numbers = [
            [step * self.run.batch + mine + number for number in cut]
            for step in range(self.step, self.steps)
            for cut in cuts
        ]
        loader = DataLoader(
            Batches(self.mixture, self.start.processor, self.run.tokens),
            batch_size=None,
            sampler=numbers,
            num_workers=self.run.workers,
            worker_init_fn=_leave_stopping_to_the_parent,
        )
        batches = iter(loader)
        for _ in range(self.step, self.steps):
            yield [next(batches) for _ in cuts]

    def _take(self, micro_batches: list[dict]) -> int:
        """One step; how many tokens all processes read in it."""
        accelerator, step = self.accelerator, self.step
        torch.manual_seed(hash((self.run.seed, step, accelerator.process_index)) % 2**32)
        set_rates(self.adamw, step, self.steps)
        sums = torch.zeros(2, device=accelerator.device)  # loss, tokens
        for number, batch in enumerate(micro_batches, 1):
            self._count(batch.pop("skipped"))
            if not batch:
                raise ValueError("No good row is left in one of the sources.")
            batch = {name: value.to(accelerator.device) for name, value in batch.items()}
            last = number == len(micro_batches)
            with nullcontext() if last else accelerator.no_sync(self.objective):
                # a mean over this process's examples, whatever the size of its micro-batches
                loss = self.objective(batch) * (len(batch["input_ids"]) / self.share)
                accelerator.backward(loss)
            sums += torch.stack([loss.detach(), batch["attention_mask"].sum()])
        trained = [p for group in self.adamw.param_groups for p in group["params"]]
        accelerator.clip_grad_norm_(trained, self.run.clip)
        self.adamw.step()
        self.adamw.zero_grad()
        loss, tokens = accelerator.reduce(sums, "sum").tolist()
        self.losses[step] = loss / accelerator.num_processes
        self.step += 1
        return int(tokens)

    def _count(self, skipped: list[str]) -> None:
        if skipped and self.run.bad_rows == "refuse":
            raise BadRow(f"{skipped[0]} Mend it, or set bad_rows to skip.")
        self.bad.update(skipped)

    def _save(self) -> None:
        values = {"run": self.run.model_dump(mode="json"), "steps": self.steps}
        values |= {"step": self.step, "losses": self.losses[: self.step]}
        main = self.accelerator.is_main_process
        states.save(self.run.out, values, self.objective, self.adamw.optimizer, main)
        if main:
            draw_curve(values["losses"].numpy(), self.run.out / "loss.png")
        self.accelerator.wait_for_everyone()

    def _resume(self, state: dict) -> None:
        before = state["run"] | {"steps": state["steps"]}
        now = self.run.model_dump(mode="json") | {"steps": self.steps}
        for name, value in now.items():
            if name not in MAY_CHANGE and before.get(name) != value:
                raise ValueError(
                    f"{self.run.out} holds a run whose {name} is {before.get(name)}, not {value}; "
                    "choose another out, or remove its states."
                )
        states.restore(state, self.objective, self.adamw.optimizer)
        self.step = state["step"]
        self.losses[: self.step] = state["losses"]

    def finish(self) -> None:
        """Write the output."""
        trained = states.gather(self.objective)
        bad = set(gather_object(sorted(self.bad)))
        if self.accelerator.is_main_process:
            of_model = {name.removeprefix("model."): value for name, value in trained.items()
                        if name.startswith("model.")}  # fmt: skip
            write(self.run, self.found, of_model)
            skipped = f" {len(bad)} bad rows were skipped." if bad else ""
            print(f"Wrote {self.run.out} after {self.steps} steps.{skipped}")
        self.accelerator.wait_for_everyone()


def _leave_stopping_to_the_parent(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
