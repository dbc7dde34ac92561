"""The memory that a run holds all along, computed before anything is loaded.

Weights, gradients and optimizer states are exact. Activations come on top: they grow with
`micro_batch_size` and the images' resolution, and `gradient_checkpointing` makes them small.
"""

import re
from dataclasses import dataclass

import torch

from paligemma.checkpoints import lora as adapters
from paligemma.checkpoints.io import build_on_meta
from paligemma.checkpoints.resolve import Checkpoint
from paligemma.devices import format_bytes, free_memory
from paligemma.models.frozen import quantize_frozen
from paligemma.training.config import Run
from paligemma.training.initialize import base_dtype, run_adapter
from paligemma.training.optimizer import state_bytes


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes of what a run holds all along."""

    weights: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer

    def __str__(self) -> str:
        parts = self.weights, self.gradients, self.optimizer
        weights, gradients, optimizer = map(format_bytes, parts)
        return (
            f"{format_bytes(self.total)} besides activations ({weights} of weights, {gradients} of "
            f"gradients, {optimizer} of optimizer states)"
        )


def needed_memory(run: Run, start: Checkpoint) -> MemoryNeed:
    """What a run of the objective `answers` holds, without its auxiliary heads."""
    model = build_on_meta(start.config).to(base_dtype(run))
    if run.lora:
        adapters.attach(model, run_adapter(run, start))
    if run.quantize:
        quantize_frozen(model, run.quantize)
    weights = sum(buffer.nbytes for buffer in model.buffers())  # what is quantized
    gradients = optimizer = 0
    for name, parameter in model.named_parameters():
        weights += parameter.nbytes
        name = f"model.{name}"  # as the objective names it
        group = next((one for one in run.param_groups if re.search(one.match, name)), None)
        if parameter.requires_grad and (group is None or group.lr_mult):
            gradients += parameter.nbytes
            optimizer += state_bytes(name, parameter, run)
    return MemoryNeed(weights, gradients, optimizer)


def check_memory(need: MemoryNeed, run: Run, device: torch.device) -> None:
    """Raises ValueError, with what would need less, if the device lacks memory for `need`."""
    free = free_memory(device)
    if need.total <= free:
        return
    hint = "lora: {rank: 8} trains an adapter, which needs far less"
    if run.lora:
        hint = "a smaller model, or another device, would fit"
        if run.quantize != "int4":
            hint = "quantize: int8 or int4 shrinks the frozen decoder"
        if base_dtype(run) == torch.float32:
            hint = "dtype: bfloat16 halves the weights"
    raise ValueError(f"The run needs {need}, and {device} has {format_bytes(free)} free; {hint}.")
