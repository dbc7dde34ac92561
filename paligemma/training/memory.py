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
from paligemma.models import gemma, siglip
from paligemma.models.frozen import quantize_frozen
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration
from paligemma.training.config import Run
from paligemma.training.initialize import base_dtype, run_adapter
from paligemma.training.optimizer import state_bytes

# What is recomputed, and sharded, as a unit.
BLOCKS = (siglip.SiglipEncoderLayer, gemma.GemmaDecoderLayer)


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes of what a run holds all along, in each of its processes."""

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


def planned_model(run: Run, start: Checkpoint) -> PaliGemmaForConditionalGeneration:
    """The model of a run of the objective `answers`, on the meta device."""
    model = build_on_meta(start.config).to(base_dtype(run))
    if run.lora:
        adapters.attach(model, run_adapter(run, start))
    if run.quantize:
        quantize_frozen(model, run.quantize)
    return model


def needed_memory(
    model: PaliGemmaForConditionalGeneration, run: Run, shards: int = 1
) -> MemoryNeed:
    """What a run of `planned_model` holds, without its auxiliary heads.

    Of a model in several `shards`, one a process, that is what the first one holds: FSDP cuts each
    parameter along its first dimension, and buffers stay whole. What is gathered while a layer is
    computed comes on top: see `gathered_memory`.
    """
    weights = sum(buffer.nbytes for buffer in model.buffers())  # what is quantized
    gradients = optimizer = 0
    for name, whole in model.named_parameters():
        parameter = whole[: -(-len(whole) // shards)]
        weights += parameter.nbytes
        name = f"model.{name}"  # as the objective names it
        group = next((one for one in run.param_groups if re.search(one.match, name)), None)
        if whole.requires_grad and (group is None or group.lr_mult):
            gradients += parameter.nbytes
            optimizer += state_bytes(name, parameter, run)
    return MemoryNeed(weights, gradients, optimizer)


def gathered_memory(model: PaliGemmaForConditionalGeneration) -> int:
    """Bytes of the weights that a process of FSDP has whole at a time, at most.

    A layer, and what belongs to no layer: above all the table of embeddings.
    """
    layers = [
        sum(parameter.nbytes for parameter in block.parameters())
        for block in model.modules()
        if isinstance(block, BLOCKS)
    ]
    whole = sum(parameter.nbytes for parameter in model.parameters())
    return whole - sum(layers) + max(layers)


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
