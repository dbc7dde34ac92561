"""The one trainer: `paligemma train config.yaml`.

    accelerate launch -m paligemma train config.yaml      # many processes: DDP, or FSDP

A step is a function of the weights and its number: which samples it takes, and what is drawn at
random, depend on nothing else. So a run that was killed goes on from its newest whole state and
ends in the same weights. The recipe is that of big_vision's transfers (arXiv 2407.07726, J).
"""

import logging
import math
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn, cast

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
    gather_object,
    send_to_device,
)
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from paligemma.checkpoints.io import write_json
from paligemma.devices import best_device
from paligemma.evaluation.classes import draw_classes
from paligemma.training import checkpoint
from paligemma.training.config import AdamW8bitOptions, MuonOptions, Run
from paligemma.training.data import MixtureBatches
from paligemma.training.initialize import compute_dtype
from paligemma.training.job import is_sharded, make_job
from paligemma.training.memory import BLOCKS
from paligemma.training.objectives import Answers
from paligemma.training.optimizer import make_optimizers, set_learning_rates
from paligemma.training.plot import draw_curve
from paligemma.training.read_config import parse_run
from paligemma.training.sources import InvalidSample
from paligemma.training.tokenizer import write_tokenizer
from paligemma.training.validation import ValidationScores

SHOWN_PLACES = 8  # samples that a message names at most
# What may differ when a run goes on.
MAY_CHANGE = (
    "save_steps",
    "num_workers",
    "tracker",
    "micro_batch_size",
    "gradient_checkpointing",
    "compile",
    "output_dir",
    "eval_data",
    "eval_steps",
    "eval_metrics",
    "max_eval_samples",
    "early_stopping_patience",
    "on_invalid",
)


def train(run: Run) -> None:
    """Take every step that is left, then write the output.

    SIGINT and SIGTERM end it after the step at hand, its state saved. Raises ValueError for what
    cannot be trained, and before a step whose loss or gradient is not finite.
    """
    _check_writable(run.output_dir)
    if run.objective == "tokenizer":
        write_tokenizer(run)
        return
    for name in ("torchao", "torch.utils._pytree"):  # peft imports torchao, which warns as it loads
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_flush_denormal(True)  # numbers too small to matter take many times as long
    # at some lengths its gradient is NaN where there is a mask (pytorch/pytorch#196678)
    torch.backends.cuda.enable_cudnn_sdp(False)
    accelerator = Accelerator(
        mixed_precision="bf16" if compute_dtype(run) == torch.bfloat16 else "no",
        cpu=best_device().type == "cpu",
        log_with=run.tracker,
        project_dir=run.output_dir,
        fsdp_plugin=_sharding(run),
        # a quantized base is in buffers, which are the same in all processes and stay so
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=not run.quantize)],
    )
    trainer = Trainer(run, accelerator)
    try:
        if not trainer.is_done:
            trainer.loop()
        if trainer.is_done:
            trainer.finish()
        else:
            accelerator.print(
                f"Stopped after step {trainer.step} of {trainer.steps}; "
                "the same command goes on from there."
            )
    finally:
        accelerator.end_training()


def _check_writable(folder: Path) -> None:
    """Raises ValueError, before anything is loaded, if nothing can be written to `folder`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"output_dir {folder} cannot be written: {error.strerror}.") from error


def _sharding(run: Run) -> FullyShardedDataParallelPlugin | None:
    """FSDP in units of a block, where `accelerate launch --use_fsdp` asks for it."""
    if not is_sharded():
        return None
    if isinstance(run.optimizer, MuonOptions):
        raise ValueError("Muon needs whole matrices and cannot be sharded; launch without FSDP.")
    if run.quantize or isinstance(run.optimizer, AdamW8bitOptions):
        raise ValueError(
            "A quantized base, and optimizer states in 8 bits, cannot be sharded; launch without "
            "FSDP."
        )
    return FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy=ModuleWrapPolicy(set(BLOCKS))
    )


class Trainer:
    """One run: its job (objective and data), the optimizers, and how far it came."""

    def __init__(self, run: Run, accelerator: Accelerator) -> None:
        self.run, self.accelerator = run, accelerator
        self.share, left = divmod(run.batch_size, accelerator.num_processes)  # samples a process
        if left or not self.share:
            raise ValueError(
                f"A batch of {run.batch_size} cannot be shared evenly by "
                f"{accelerator.num_processes} processes."
            )
        torch.manual_seed(run.seed)
        self.job = make_job(run)
        if self.job.memory:
            who = "Each process" if is_sharded() else "The run"
            accelerator.print(f"{who} needs {self.job.memory}.", file=sys.stderr)
        sources = self.job.batches.mixture.sources
        self.invalid = {str(one) for source in sources for one in source.invalid}
        for source in sources:
            for what, count in source.left_out.items():
                accelerator.print(f"left out: {count} {what}")
        samples = (run.epochs or 0) * len(self.job.batches.mixture)
        self.steps = run.max_steps or max(round(samples / run.batch_size), 1)
        optimizers = make_optimizers(self.job.objective, run)
        self.objective, *self.prepared = accelerator.prepare(self.job.objective, *optimizers)
        self.optimizers = [prepared.optimizer for prepared in self.prepared]
        self.step, self.losses = 0, torch.zeros(self.steps)
        self.eval_losses: dict[int, float] = {}  # by the number of steps taken
        self.eval_scores: dict[int, dict[str, float]] = {}  # with `eval_metrics`
        if self.job.validation and accelerator.distributed_type == DistributedType.FSDP:
            raise ValueError(
                "eval_metrics cannot ask a model that is sharded; launch without FSDP."
            )
        if (state := checkpoint.newest_state(run.output_dir)) is not None:
            self._resume(state)

    @property
    def is_done(self) -> bool:
        """Whether every step was taken, or the evaluations have stopped to become better."""
        patience, best = self.run.early_stopping_patience, self.best_step
        worse = 0 if best is None else sum(step > best for step in self.eval_losses)
        return self.step == self.steps or (patience is not None and worse >= patience)

    @property
    def best_step(self) -> int | None:
        """The step of the best evaluation by `metric_for_best_model`; the first of equals."""
        name = self.run.metric_for_best_model
        values = {step: -loss for step, loss in self.eval_losses.items()}
        if name != "loss":
            values = {step: scores[name] for step, scores in self.eval_scores.items() if name}
        values = {step: value for step, value in values.items() if math.isfinite(value)}
        return max(values, key=lambda step: (values[step], -step), default=None) if name else None

    def loop(self) -> None:
        """Every step that is left, or those until somebody asks to stop."""
        run, accelerator = self.run, self.accelerator
        if run.tracker:
            accelerator.init_trackers(
                "logs", config={"max_steps": self.steps, "batch_size": run.batch_size}
            )
        stop_signals: list[int] = []

        def ask_to_stop(number: int, _) -> None:
            stop_signals.append(number)
            signal.signal(number, signal.SIG_DFL)  # a second signal does not wait for the step

        former = {
            number: signal.signal(number, ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)
        }
        bar = tqdm(
            total=self.steps,
            initial=self.step,
            desc=run.stage,
            unit="step",
            disable=not accelerator.is_main_process,
        )
        tokens = 0
        try:
            steps = range(self.step, self.steps)
            for taken, micro_batches in enumerate(self._batches(self.job.batches, steps), 1):
                logged = self._take(micro_batches)
                if self.step % run.eval_steps == 0 or self.step == self.steps:
                    logged |= self._evaluate()
                seconds = max(bar.format_dict["elapsed"], 1e-9)
                tokens += logged.pop("tokens")
                speed = {"samples_per_second": taken * run.batch_size / seconds}
                if tokens:
                    speed["tokens_per_second"] = tokens / seconds
                groups = [group for one in self.optimizers for group in one.param_groups]
                rate = max(float(group["lr"]) for group in groups)
                accelerator.log(logged | speed | {"lr": rate}, step=self.step)
                shown = {name: f"{value:.4f}" for name, value in logged.items()}
                bar.set_postfix(
                    {**shown, "samples/s": f"{speed['samples_per_second']:,.1f}"}, refresh=False
                )
                bar.update()
                if stop_signals:
                    accelerator.set_trigger()
                stop = accelerator.check_trigger()
                if stop or self.step % run.save_steps == 0 or self.is_done:
                    self._save()
                if stop or self.is_done:
                    return
        finally:
            bar.close()
            for number, handler in former.items():
                signal.signal(number, handler)

    def _batches(self, batches: MixtureBatches, steps: range) -> Iterator[list[dict]]:
        """For each of the steps the micro-batches of this process."""
        size = self.run.micro_batch_size or self.share
        mine = self.accelerator.process_index * self.share
        cuts = [range(at, min(at + size, self.share)) for at in range(0, self.share, size)]
        numbers = (
            (step, [step * self.run.batch_size + mine + number for number in cut])
            for step in steps
            for cut in cuts
        )
        loader = DataLoader(
            batches,
            batch_size=None,
            sampler=numbers,
            num_workers=self.run.num_workers,
            worker_init_fn=_start_worker,
        )
        loaded = iter(loader)
        for _ in steps:
            yield [next(loaded) for _ in cuts]

    def _take(self, micro_batches: list[dict]) -> dict[str, float]:
        """One step; its losses, and how many tokens all processes read in it."""
        accelerator, run = self.accelerator, self.run
        torch.manual_seed(hash((run.seed, self.step, accelerator.process_index)) % 2**32)
        set_learning_rates(self.optimizers, self.step, self.steps, run)
        on_device, counts, places = self._load(micro_batches)
        sums: dict[str, torch.Tensor] = {}
        each_loss = []
        for number, batch in enumerate(on_device, 1):
            last = number == len(on_device)
            with nullcontext() if last else accelerator.no_sync(self.objective):
                losses = self.objective(batch, counts)
                accelerator.backward(losses["loss"])
            each_loss.append(losses["loss"].detach())
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach()
            if "attention_mask" in batch:
                sums["tokens"] = sums.get("tokens", 0) + batch["attention_mask"].sum()
        trained = [p for p in self.objective.parameters() if p.requires_grad]
        grad_norm = accelerator.clip_grad_norm_(trained, run.max_grad_norm)
        totals = self._reduce(torch.stack([v.float() for v in sums.values()]), "sum")
        logged = dict(zip(sums, totals.tolist(), strict=True))
        tokens = logged.pop("tokens", 0)
        means: dict[str, float] = {
            name: value / accelerator.num_processes for name, value in logged.items()
        }
        means["grad_norm"] = float(_whole(cast(torch.Tensor, grad_norm)))
        if not math.isfinite(means["loss"]):
            finite = [loss.isfinite().item() for loss in each_loss]
            bad = [names for names, good in zip(places, finite, strict=True) if not good]
            self._refuse_step("loss", means["loss"], bad)
        if not math.isfinite(means["grad_norm"]):
            self._refuse_step("gradient's norm", means["grad_norm"], places)
        for optimizer in self.prepared:
            optimizer.step()
            optimizer.zero_grad()
        self.losses[self.step] = means["loss"]
        self.step += 1
        return means | {"tokens": tokens}

    def _refuse_step(self, what: str, value: float, places: list[list[str]]) -> NoReturn:
        """Raises ValueError: `what` of this step is not finite, over samples of these places."""
        names = sorted(set(gather_object([place for batch in places for place in batch])))
        more = f" and {len(names) - SHOWN_PLACES} more" if len(names) > SHOWN_PLACES else ""
        raise ValueError(
            f"Step {self.step + 1} was not taken, because its {what} is {value} "
            f"(samples: {'; '.join(names[:SHOWN_PLACES])}{more}); {self._last_state()}."
        )

    def _last_state(self) -> str:
        """Which state is the last one, for a message."""
        step, folder = checkpoint.newest_step(self.run.output_dir), self.run.output_dir / "states"
        if step is None:
            return "no state was saved yet"
        return f"the last good state, of step {step}, is in {folder}"

    @torch.no_grad()
    def _evaluate(self) -> dict[str, float]:
        """The loss over `eval_data`, a mean over its batches, and the scores; {} without data."""
        batches = self.job.eval_batches
        if batches is None:
            return {}
        steps = range(math.ceil(len(batches.mixture) / self.run.batch_size))
        total = torch.zeros((), device=self.accelerator.device)
        self.objective.eval()
        for micro_batches in self._batches(batches, steps):
            on_device, counts, _ = self._load(micro_batches)
            total += sum(self.objective(batch, counts)["loss"] for batch in on_device)
        scores = self._score_answers()
        self.objective.train()
        loss = (self._reduce(total, "mean") / len(steps)).item()
        self.eval_losses[self.step] = loss
        if self.best_step == self.step:
            main = self.accelerator.is_main_process
            checkpoint.save_best(self.run.output_dir, self.step, self.objective, main)
        return {"eval_loss": loss} | {f"eval_{name}": score for name, score in scores.items()}

    def _score_answers(self) -> dict[str, float]:
        """The scores of answers to `eval_data`, which are drawn too; {} without them."""
        if self.job.validation is None:
            return {}
        size = self.run.micro_batch_size or self.share
        model = cast(Answers, self.job.objective).model
        validation = self.job.validation.measure(model, self.accelerator, size)
        scores = validation.answers.scores
        wanted = self.run.metric_for_best_model
        if wanted not in (None, "loss", *scores):
            raise ValueError(
                f"metric_for_best_model is {wanted}, but eval_data gives {', '.join(scores)}."
            )
        self.eval_scores[self.step] = scores
        if self.accelerator.is_main_process:
            self._draw_answers(validation)
        return scores

    def _draw_answers(self, validation: ValidationScores) -> None:
        """Samples with their answers, and detection by class where objects are detected."""
        name = f"step-{self.step:08d}"
        predictions, classes = (self.run.output_dir / one for one in ("predictions", "classes"))
        predictions.mkdir(parents=True, exist_ok=True)
        validation.sheet.save(predictions / f"{name}.png")
        if report := validation.answers.classes:
            classes.mkdir(parents=True, exist_ok=True)
            draw_classes(report, classes / f"{name}.png")
            write_json(classes / f"{name}.json", report.to_json())

    def _load(
        self, micro_batches: list[dict]
    ) -> tuple[list[dict], dict[str, torch.Tensor], list[list[str]]]:
        """The micro-batches on the device, their counts, and the places of each one's samples.

        Skipped samples are noted. Raises ValueError where a micro-batch is empty.
        """
        for batch in micro_batches:
            self._note_skipped(batch.pop("skipped"))
            if not batch:
                raise ValueError("No valid sample is left in one of the sources.")
        places = [batch.pop("places") for batch in micro_batches]
        device = self.accelerator.device
        on_device = [dict(send_to_device(batch, device)) for batch in micro_batches]
        return on_device, self._counts(on_device), places

    def _counts(self, micro_batches: list[dict]) -> dict[str, torch.Tensor]:
        """What the losses of this step are divided by: counts over its micro-batches, averaged over
        processes as gradients are."""
        each = [self.job.objective.counts(batch) for batch in micro_batches]
        own = [torch.stack([counts[name] for counts in each]).sum() for name in each[0]]
        counts = self._reduce(torch.stack(own), "mean")
        return dict(zip(each[0], counts.unbind(), strict=True))

    def _reduce(self, values: torch.Tensor, how: str) -> torch.Tensor:
        """The "sum" or "mean" of `values` over processes."""
        return cast(torch.Tensor, self.accelerator.reduce(values, how))

    def _note_skipped(self, skipped: list[str]) -> None:
        if skipped and self.run.on_invalid == "refuse":
            raise InvalidSample(f"{skipped[0]} Mend it, or set on_invalid to skip.")
        self.invalid.update(skipped)

    def _save(self) -> None:
        """Write a state and the curve. Raises ValueError if the weights are not finite any more."""
        if not self._weights_are_finite():
            raise ValueError(
                f"The weights are not finite after step {self.step}, so that they were not saved: "
                f"a lower learning_rate may help; {self._last_state()}."
            )
        values = {"run": self.run.model_dump(mode="json"), "steps": self.steps}
        values |= {"step": self.step, "losses": self.losses[: self.step]}
        values |= {"eval_losses": self.eval_losses, "eval_scores": self.eval_scores}
        main = self.accelerator.is_main_process
        checkpoint.save_state(self.run.output_dir, values, self.objective, self.optimizers, main)
        if main:
            path = self.run.output_dir / "loss.png"
            draw_curve(values["losses"].numpy(), self.eval_losses, self.eval_scores, path)
        self.accelerator.wait_for_everyone()

    def _weights_are_finite(self) -> bool:
        trained = [p.detach() for p in self.objective.parameters() if p.requires_grad]
        shards = [p.to_local() if isinstance(p, DTensor) else p for p in trained]
        bad = torch.stack([(~shard.isfinite()).sum() for shard in shards]).sum()
        return not self._reduce(bad.float(), "sum").item()

    def _resume(self, state: dict) -> None:
        # parsed again, so that a field that is new since has its default
        before = parse_run(state["run"]).model_dump(mode="json") | {"steps": state["steps"]}
        now = self.run.model_dump(mode="json") | {"steps": self.steps}
        for name, value in now.items():
            if name not in MAY_CHANGE and before[name] != value:
                raise ValueError(
                    f"{self.run.output_dir} holds a run whose {name} is {before[name]}, "
                    f"not {value}; choose another output_dir, or remove its states."
                )
        checkpoint.restore_state(state, self.objective, self.optimizers)
        self.step = state["step"]
        self.losses[: self.step] = state["losses"]
        # what was measured on other data does not compare; the output of a whole run stays
        is_whole, is_same = self.step == self.steps, before["eval_data"] == now["eval_data"]
        if is_whole or is_same:
            self.eval_losses = state["eval_losses"]
        if is_whole or (is_same and before["max_eval_samples"] == now["max_eval_samples"]):
            self.eval_scores = state.get("eval_scores", {})  # a state of before there were any

    def finish(self) -> None:
        """Write the output: that of the best evaluation where it was asked for, else the last."""
        best = None
        if self.best_step is not None:
            best = checkpoint.restore_best(self.run.output_dir, self.objective)
        state = checkpoint.gather(self.objective, frozen=self.job.saves_all)
        invalid = set(gather_object(sorted(self.invalid)))
        if self.accelerator.is_main_process:
            self.job.write(state)
            skipped = f" {len(invalid)} invalid samples were skipped." if invalid else ""
            chosen = "" if best is None else f" The output is that of step {best}, the best one."
            print(f"Wrote {self.run.output_dir} after {self.step} steps.{chosen}{skipped}")
        self.accelerator.wait_for_everyone()


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, gathered from all processes where it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _start_worker(_: int) -> None:
    """Workers leave stopping to their parent, and take what CPU time the model leaves.

    Who stops a run may send SIGTERM to all of its processes: the parent still needs batches until
    its step is done, so a worker ends a minute later, if nothing has ended it before.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(60))
    os.nice(10)
