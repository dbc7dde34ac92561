"""How fast a checkpoint loads and answers, in how much memory, and what recording attention adds.

Run it in a process of its own, as `python -m paligemma bench` does: the peak of memory is the
process's. Times are for one picture and a greedy answer of a set length (the end token is ignored).
"""

import resource
from collections.abc import Callable
from contextlib import nullcontext
from time import perf_counter, process_time

import numpy as np
import psutil
import torch

from paligemma.generation import SamplingOptions, stream
from paligemma.interpret.capture import capture_attention
from paligemma.pipeline import PaliGemma

PROMPT = "caption en"
ROUNDS = 3


def bench(load: Callable[[], PaliGemma], tokens: int) -> dict[str, float | int | str]:
    """Load, then answer with `tokens` tokens. Seconds, bytes, and tokens a second."""
    start = perf_counter()
    pg = load()
    loaded = perf_counter() - start
    resident = psutil.Process().memory_info().rss
    picture = np.random.default_rng(0).integers(0, 256, (448, 448, 3), np.uint8)
    batch = pg.processor(text=[PROMPT], images=[picture])

    with torch.inference_mode():
        start = perf_counter()
        features = pg.model.embed_image(batch.pixel_values.to(pg.device, pg.dtype))
        _wait(pg.device)
        seen = perf_counter() - start
    steps = stream(
        pg.model,
        batch.input_ids.to(pg.device),
        features,
        batch.attention_mask.to(pg.device),
        SamplingOptions(max_new_tokens=tokens),
        eos_token_id=-1,
    )
    times = [perf_counter()]
    for _ in steps:
        times.append(perf_counter())
    return {
        "model": pg.name,
        "facts": pg.facts,
        "load s": loaded,
        "memory after loading": resident,
        "picture s": seen,
        "prompt s": times[1] - times[0],
        "time to first token s": seen + times[1] - times[0],
        "tokens per second": (len(times) - 2) / (times[-1] - times[1]),
        "peak memory": _peak(),
        "threads": torch.get_num_threads(),
    }


def bench_attention(load: Callable[[], PaliGemma], tokens: int) -> dict[str, float | int | str]:
    """Answer with and without `capture_attention`, in turn; the fastest of each counts.

    An answer is picture, prompt and `tokens` tokens. Seconds (of the CPU where it computes, so that
    other programs do not count) and bytes: what the peak rises by after an answer without.
    """
    pg = load()
    clock = process_time if pg.device.type == "cpu" else perf_counter
    picture = np.random.default_rng(0).integers(0, 256, (448, 448, 3), np.uint8)
    batch = pg.processor(text=[PROMPT], images=[picture])
    options = SamplingOptions(max_new_tokens=tokens)

    def answer(recording) -> float:
        start = clock()
        with recording:
            with torch.inference_mode():
                features = pg.model.embed_image(batch.pixel_values.to(pg.device, pg.dtype))
            ids, mask = batch.input_ids.to(pg.device), batch.attention_mask.to(pg.device)
            for _ in stream(pg.model, ids, features, mask, options, eos_token_id=-1):
                pass
        _wait(pg.device)
        return clock() - start

    off, before, on = [answer(nullcontext())], _peak(), []
    for _ in range(ROUNDS):
        on.append(answer(capture_attention(pg.model)))
        off.append(answer(nullcontext()))
    return {
        "model": pg.name,
        "facts": pg.facts,
        "tokens": tokens,
        "answer s": min(off),
        "recorded answer s": min(on),
        "recording adds": min(on) / min(off) - 1,
        "memory that recording adds": _peak() - before,
        "threads": torch.get_num_threads(),
    }


def _peak() -> int:
    """The most bytes this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
