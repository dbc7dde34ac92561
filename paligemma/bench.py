"""Loading time, memory and speed of a checkpoint, and the cost of recording attention.

Run it in a process of its own, as `paligemma bench` does: the peak memory is that of the process.
Times are for one image and a greedy answer of a fixed length (the end token is ignored).
"""

import resource
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter, process_time

import numpy as np
import psutil
import torch

from paligemma.generation import SamplingOptions, stream
from paligemma.interpret.capture import capture_attention
from paligemma.pipeline import PaliGemma

PROMPT = "caption en"
ROUNDS = 3

Measurements = dict[str, float | int | str]


def measure_generation(load: Callable[[], PaliGemma], num_tokens: int) -> Measurements:
    """Load, then generate `num_tokens`. Keys end in their units: _s seconds, _bytes."""
    start = perf_counter()
    pg = load()
    load_s = perf_counter() - start
    loaded_bytes = psutil.Process().memory_info().rss
    batch = pg.processor(text=[PROMPT], images=[_noise_image()])

    with torch.inference_mode():
        start = perf_counter()
        features = pg.model.embed_image(batch.pixel_values.to(pg.device, pg.dtype))
        _synchronize(pg.device)
        image_encode_s = perf_counter() - start
    steps = stream(
        pg.model,
        batch.input_ids.to(pg.device),
        features,
        batch.attention_mask.to(pg.device),
        SamplingOptions(max_new_tokens=num_tokens),
        eos_token_id=-1,
    )
    times = [perf_counter()]
    for _ in steps:
        times.append(perf_counter())
    prefill_s = times[1] - times[0]
    return {
        "model": pg.name,
        "facts": pg.facts,
        "load_s": load_s,
        "loaded_memory_bytes": loaded_bytes,
        "image_encode_s": image_encode_s,
        "prefill_s": prefill_s,
        "time_to_first_token_s": image_encode_s + prefill_s,
        "tokens_per_second": (len(times) - 2) / (times[-1] - times[1]),
        "peak_memory_bytes": _peak_memory(),
        "threads": torch.get_num_threads(),
    }


def measure_attention(load: Callable[[], PaliGemma], num_tokens: int) -> Measurements:
    """Generate with and without `capture_attention`, in turn; the fastest of each counts.

    A generation is image, prompt and `num_tokens`. On the CPU its seconds are CPU time, so that
    other programs do not count. The memory is what the peak rises by after one without recording.
    """
    pg = load()
    clock = process_time if pg.device.type == "cpu" else perf_counter
    batch = pg.processor(text=[PROMPT], images=[_noise_image()])
    options = SamplingOptions(max_new_tokens=num_tokens)

    def generate(recorder: AbstractContextManager) -> float:
        start = clock()
        with recorder:
            with torch.inference_mode():
                features = pg.model.embed_image(batch.pixel_values.to(pg.device, pg.dtype))
            ids, mask = batch.input_ids.to(pg.device), batch.attention_mask.to(pg.device)
            for _ in stream(pg.model, ids, features, mask, options, eos_token_id=-1):
                pass
        _synchronize(pg.device)
        return clock() - start

    plain, peak, recorded = [generate(nullcontext())], _peak_memory(), []
    for _ in range(ROUNDS):
        recorded.append(generate(capture_attention(pg.model)))
        plain.append(generate(nullcontext()))
    return {
        "model": pg.name,
        "facts": pg.facts,
        "num_tokens": num_tokens,
        "generation_s": min(plain),
        "recorded_generation_s": min(recorded),
        "recording_overhead": min(recorded) / min(plain) - 1,
        "recording_memory_bytes": _peak_memory() - peak,
        "threads": torch.get_num_threads(),
    }


def format_measurements(measurements: Measurements) -> str:
    """A line for each: name and value."""
    lines = []
    for name, value in measurements.items():
        if name.endswith("_bytes"):
            value = f"{float(value) / 1e6:,.0f} MB"
        lines.append(f"{name:24} {value:.2f}" if isinstance(value, float) else f"{name:24} {value}")
    return "\n".join(lines)


def _noise_image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (448, 448, 3), np.uint8)


def _peak_memory() -> int:
    """The most bytes that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
