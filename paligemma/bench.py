"""Loading time, memory and speed of a model, and the cost of recording attention.

Run it in a process of its own, as `paligemma bench` does: the peak memory is that of the process.
The image is noise and the prompt random tokens, as time does not depend on them; the answer is
greedy and of a fixed length (the end token is ignored).
"""

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import psutil
import torch
from torch import Tensor

from paligemma.checkpoints.needs import fastest
from paligemma.checkpoints.random_weights import random_model
from paligemma.config import VARIANTS, PaliGemmaConfig
from paligemma.devices import DeviceMap, plan_placement, synchronize, weights_memory
from paligemma.generation import SamplingOptions, Step, stream
from paligemma.interpret.capture import capture_attention
from paligemma.models.packed import lay_out_weights
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration
from paligemma.pipeline import PaliGemma

TEXT_TOKENS = 8
ROUNDS = 3
BANDWIDTH_BYTES = 1 << 29  # of what is read to measure the bandwidth: more than a cache holds

Measurements = dict[str, float | int | str]


@dataclass(frozen=True)
class LoadedModel:
    """What is measured. `quantize` is "int8", "int4" or None.

    `is_random`: made in memory, which takes more of it than loading does.
    """

    name: str
    model: PaliGemmaForConditionalGeneration
    quantize: str | None
    is_random: bool = False

    @classmethod
    def of(cls, pg: PaliGemma) -> "LoadedModel":
        return cls(pg.name, pg.model, pg.quantize)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.language_model.embed_tokens.dtype

    @property
    def device(self) -> torch.device:
        return self.model.language_model.embed_tokens.device

    @property
    def decoder_bytes(self) -> int:
        """What is read to decode a token: the decoder's weights, its embedding table included."""
        config = self.model.config
        others = config.num_parameters - config.num_decoder_parameters
        return weights_memory(config, self.dtype, self.quantize) - others * self.dtype.itemsize


def load_random(
    variant: str, device: str | None, dtype: str | None, quantize: str | None
) -> LoadedModel:
    """Random weights of a published size, made in memory; the rest is as in `PaliGemma.load`.

    Raises ValueError for another name, and where they do not fit one device.
    """
    if variant not in VARIANTS:
        raise ValueError(f"{variant!r} is no variant; choose {', '.join(VARIANTS)}.")
    config = VARIANTS[variant]
    target, precision = plan_placement(config, device, dtype, name=variant, quantize=quantize)
    if isinstance(target, DeviceMap):
        raise ValueError("Random weights are made on one device: choose one that has the memory.")
    model = random_model(config, precision, target).eval().requires_grad_(False)
    if target.type == "cpu":
        lay_out_weights(model, quantize)
    return LoadedModel(f"{variant}, random weights", model, quantize, is_random=True)


def random_inputs(
    config: PaliGemmaConfig, batch_size: int, device: torch.device | str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` [B, S], `pixel_values` [B, 3, H, W]."""
    generator = torch.Generator().manual_seed(0)
    vision = config.vision_config
    image = torch.full((batch_size, vision.num_image_tokens), config.image_token_index)
    most = min(config.image_token_index, config.text_config.vocab_size)
    text = torch.randint(3, min(most, 1000), (batch_size, TEXT_TOKENS), generator=generator)
    pixels = torch.rand(batch_size, 3, *[vision.image_size] * 2, generator=generator) * 2 - 1
    ids = torch.cat([image, text], 1)
    return {
        "input_ids": ids.to(device),
        "attention_mask": torch.ones_like(ids).to(device),
        "pixel_values": pixels.to(device, dtype),
    }


def greedy_steps(
    model: PaliGemmaForConditionalGeneration, inputs: dict[str, Tensor], num_tokens: int
) -> Iterator[Step]:
    """Encode the images, then generate that many tokens."""
    with torch.inference_mode():
        features = model.embed_image(inputs["pixel_values"])
    options = SamplingOptions(max_new_tokens=num_tokens)
    return stream(
        model, inputs["input_ids"], features, inputs["attention_mask"], options, eos_token_id=-1
    )


def read_bandwidth(device: torch.device) -> float:
    """Bytes a second that `device` reads from its memory: the fastest of some sums."""
    data = torch.ones(BANDWIDTH_BYTES // 4, device=device)
    return BANDWIDTH_BYTES / fastest(data.sum, device)


def measure_generation(
    load: Callable[[], LoadedModel], num_tokens: int, batch_size: int = 1
) -> Measurements:
    """Load, then generate `num_tokens` in each of some rounds, after one to warm up.

    Keys end in their units: _s seconds, medians; _bytes. `bandwidth_share` is how much of the
    memory's measured bandwidth is used to read the decoder's weights once a token. There is no peak
    of memory for random weights, which are made in it.
    """
    start = perf_counter()
    loaded = load()
    load_s = perf_counter() - start
    loaded_bytes = psutil.Process().memory_info().rss
    model, device = loaded.model, loaded.device
    inputs = random_inputs(model.config, batch_size, device, loaded.dtype)

    encode, prefill, decode = [], [], []
    for _ in range(ROUNDS + 1):
        times = [perf_counter()]
        steps = greedy_steps(model, inputs, num_tokens)
        synchronize(device)
        times.append(perf_counter())
        for _ in steps:
            times.append(perf_counter())
        encode.append(times[1] - times[0])
        prefill.append(times[2] - times[1])
        decode.append((times[-1] - times[2]) / (len(times) - 3))
    image_encode_s, prefill_s, token_s = (median(each[1:]) for each in (encode, prefill, decode))
    peak = {} if loaded.is_random else {"peak_memory_bytes": _peak_memory()}
    return {
        "model": loaded.name,
        "precision": loaded.quantize or str(loaded.dtype).removeprefix("torch."),
        "device": str(device),
        "image_size": model.config.vision_config.image_size,
        "batch_size": batch_size,
        "num_tokens": num_tokens,
        "load_s": load_s,
        "loaded_memory_bytes": loaded_bytes,
        **peak,
        "weights_bytes": weights_memory(model.config, loaded.dtype, loaded.quantize),
        "image_encode_s": image_encode_s,
        "prefill_s": prefill_s,
        "time_to_first_token_s": image_encode_s + prefill_s,
        "tokens_per_second": batch_size / token_s,
        "bandwidth_share": loaded.decoder_bytes / token_s / read_bandwidth(device),
        "threads": torch.get_num_threads(),
    }


def measure_attention(load: Callable[[], LoadedModel], num_tokens: int) -> Measurements:
    """Generate with and without `capture_attention`, in turn; the fastest of each counts.

    A generation is image, prompt and `num_tokens`. On the CPU its seconds are CPU time, so that
    other programs do not count. The memory is what the peak rises by after one without recording.
    """
    loaded = load()
    model, device = loaded.model, loaded.device
    clock = process_time if device.type == "cpu" else perf_counter
    inputs = random_inputs(model.config, 1, device, loaded.dtype)

    def generate(recorder: AbstractContextManager) -> float:
        start = clock()
        with recorder:
            for _ in greedy_steps(model, inputs, num_tokens):
                pass
        synchronize(device)
        return clock() - start

    plain, peak, recorded = [generate(nullcontext())], _peak_memory(), []
    for _ in range(ROUNDS):
        recorded.append(generate(capture_attention(model)))
        plain.append(generate(nullcontext()))
    return {
        "model": loaded.name,
        "num_tokens": num_tokens,
        "generation_s": min(plain),
        "recorded_generation_s": min(recorded),
        "recording_overhead": min(recorded) / min(plain) - 1,
        "recording_memory_bytes": _peak_memory() - peak,
        "threads": torch.get_num_threads(),
    }


def measure_each(options: Sequence[Sequence[str]], common: Sequence[str]) -> list[Measurements]:
    """`paligemma bench` with every combination of one of each `options`, each in a process.

    `options` are command-line options with their value, as `--precision=int8`; `common` goes to
    all. Raises ValueError with what the command said if one of them fails.
    """
    results = []
    for chosen in product(*options):
        command = [sys.executable, "-m", "paligemma", "bench", *chosen, *common]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip() or f"it ended with {done.returncode}").splitlines()[-1]
            raise ValueError(f"{' '.join(chosen)}: {last.removeprefix('paligemma: ')}")
        results.append(json.loads(done.stdout.splitlines()[-1]))
    return results


def format_measurements(measurements: Measurements) -> str:
    """A line for each: name and value."""
    lines = []
    for name, value in measurements.items():
        if name.endswith("_bytes"):
            value = f"{float(value) / 1e6:,.0f} MB"
        lines.append(f"{name:24} {value:.2f}" if isinstance(value, float) else f"{name:24} {value}")
    return "\n".join(lines)


def format_comparison(results: Sequence[Measurements]) -> str:
    """A line for each measurement of `measure_generation`."""
    head = f"{'model':36} {'precision':9} batch  load s  vision s  prefill s  tokens/s  bandwidth"
    lines = [f"{head}  peak / weights"]
    for one in results:
        peak = one.get("peak_memory_bytes")
        share = f"{float(peak) / float(one['weights_bytes']):.2f}" if peak else "-"
        lines.append(
            f"{one['model']:36} {one['precision']:9} {one['batch_size']:5} {one['load_s']:7.2f} "
            f"{one['image_encode_s']:9.2f} {one['prefill_s']:10.2f} "
            f"{one['tokens_per_second']:9.2f} {one['bandwidth_share']:10.0%} {share:>15}"
        )
    return "\n".join(lines)


def plot_comparison(results: Sequence[Measurements], path: Path) -> None:
    """Draw seconds to the first token and tokens a second as bars into an image file.

    Raises ValueError if it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [f"{one['model']}\n{one['precision']}, batch {one['batch_size']}" for one in results]
    figure = Figure(figsize=(10, 1.2 + 0.55 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    first, speed = figure.subplots(1, 2, sharey=True)
    vision = [float(one["image_encode_s"]) for one in results]
    prefill = [float(one["prefill_s"]) for one in results]
    first.barh(names, vision, color="#56b4e9", label="vision tower")
    first.barh(names, prefill, left=vision, color="#0072b2", label="prefill")
    first.set(xlabel="seconds to the first token")
    first.legend(frameon=False)
    bars = speed.barh(names, [float(one["tokens_per_second"]) for one in results], color="#009e73")
    speed.bar_label(bars, fmt="%.1f", padding=3)
    speed.set(xlabel="tokens a second")
    first.invert_yaxis()
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise ValueError(f"The plot cannot be written to {path}: {error}.") from error


def _peak_memory() -> int:
    """The most bytes that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
