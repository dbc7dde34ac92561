"""How fast a checkpoint loads and answers, and in how much memory: a table, then one JSON line.

Run it in a process of its own, as `python -m paligemma bench` does: the peak of memory is the
process's. Times are for one picture and a greedy answer of a set length (the end token is ignored).
"""

import resource
from collections.abc import Callable
from time import perf_counter

import numpy as np
import psutil
import torch

from paligemma.pipeline import PaliGemma
from paligemma.sampling import SamplingOptions, stream

PROMPT = "caption en"


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
        "peak memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "threads": torch.get_num_threads(),
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
