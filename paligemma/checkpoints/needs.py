"""What a published model needs on this machine: memory, disk, and the time of an answer."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import perf_counter

import torch
from huggingface_hub import constants

from paligemma.config import PaliGemmaConfig
from paligemma.devices import (
    best_device,
    best_dtype,
    free_disk_space,
    free_memory,
    parse_device,
    parse_dtype,
    required_memory,
    synchronize,
    weights_memory,
)
from paligemma.models.packed import WEIGHT_BYTES

CAPTION_TOKENS, PROMPT_TOKENS = 20, 10
FILE_BYTES = 2  # a parameter in the files of the hub, which are in bfloat16
MATRIX_SIDE, COPY_BYTES = 1_024, 1 << 26  # of what is timed
ROUNDS = 3


@dataclass(frozen=True)
class ModelNeeds:
    """Bytes that a model needs and that are free, and seconds of a caption, roughly."""

    memory: int
    free_memory: int
    disk: int
    free_disk: int
    caption_s: float
    quantized: dict[str, int]  # bytes of memory, by the other quantizations of this device

    @property
    def fits(self) -> bool:
        return self.memory <= self.free_memory and self.disk <= self.free_disk


def model_needs(
    config: PaliGemmaConfig,
    device: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    freed: int = 0,
) -> ModelNeeds:
    """The needs of a model of the hub; device, dtype and quantize as in `plan_placement`.

    `freed`: bytes of memory that will be free in addition.

    A prompt costs arithmetic, each token of the answer a reading of all weights. Raises ValueError
    for a device that this machine does not have.
    """
    target = best_device() if device in (None, "auto") else parse_device(device)
    precision = best_dtype(target) if dtype is None else parse_dtype(dtype)
    operations, bandwidth = machine_speed(target, precision)
    count = config.num_parameters
    prompt_s = 2 * count * (config.vision_config.grid**2 + PROMPT_TOKENS) / operations
    token_s = weights_memory(config, precision, quantize) / bandwidth
    others = WEIGHT_BYTES if target.type == "cpu" and quantize is None else ()
    return ModelNeeds(
        required_memory(config, precision, quantize),
        free_memory(target) + freed,
        FILE_BYTES * count,
        free_disk_space(Path(constants.HF_HUB_CACHE)),
        prompt_s + CAPTION_TOKENS * token_s,
        {name: required_memory(config, precision, name) for name in others},
    )


@lru_cache
def machine_speed(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Additions and multiplications a second, and bytes of memory a second: measured once."""
    matrix = torch.ones(MATRIX_SIDE, MATRIX_SIDE, device=device, dtype=dtype)
    source = torch.zeros(COPY_BYTES, device=device, dtype=torch.uint8)
    multiply_s = fastest(lambda: matrix @ matrix, device)
    copy_s = fastest(source.clone, device)
    return 2 * MATRIX_SIDE**3 / multiply_s, 2 * COPY_BYTES / copy_s


def fastest(run: Callable[[], torch.Tensor], device: torch.device) -> float:
    """Seconds of the fastest of some rounds, the first of which does not count."""
    seconds = []
    for _ in range(ROUNDS + 1):
        start = perf_counter()
        run()
        synchronize(device)
        seconds.append(perf_counter() - start)
    return min(seconds[1:])


def format_duration(seconds: float) -> str:
    """Seconds below two minutes, else minutes."""
    return f"{max(1, round(seconds))} s" if seconds < 120 else f"{round(seconds / 60)} min"
