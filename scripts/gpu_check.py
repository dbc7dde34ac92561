"""What has to hold on a GPU, checked in a few minutes: parity with the CPU, speed, training.

    python scripts/gpu_check.py [--seconds 240] [--out gpu_check.json] [--only parity,speed]

Tiny random models of both generations and the built-in model on the CPU and on the GPU; then 3B
random weights, made on the GPU and shared with transformers, and a training step. The checks come
in the order of their worth. Each prints and writes what it finds as it goes; what there is no time
for, and what a package is missing for, is skipped, and said. Exits with 1 if a check failed.
"""

import argparse
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil
import torch

from paligemma.config import VARIANTS, PaliGemmaConfig, TextConfig, VisionConfig
from paligemma.generation import SamplingOptions, Step, stream
from paligemma.interpret.capture import capture_attention
from paligemma.models import decode_graph
from paligemma.models.decode_graph import CAPTURE, StaticStep, captured_graphs
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration

DEVICE = "cuda"
START = psutil.Process().create_time()
ROOT = Path(__file__).parents[1]
VISION = VisionConfig(64, 128, 2, 4, image_size=56, patch_size=14)
GEMMA_1 = {"vocab_size": 500, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4}
GEMMA_1 |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
GEMMA_2 = GEMMA_1 | {"query_pre_attn_scalar": 20, "attn_logit_softcapping": 5.0}
GEMMA_2 |= {"final_logit_softcapping": 3.0, "sliding_window": 7, "post_norms": True}
IMAGE = 499
TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 0.1}  # of logits, relative to their size
TOKENS, ROUNDS = 32, 5
COPY_BYTES = 1 << 32
Say = Callable[[str, object], None]  # a name, and what was found


class OutOfTime(BaseException):  # no `except Exception` on its way shall hold it
    pass


@contextmanager
def captured(on: bool) -> Iterator[None]:
    """Whether decoding replays a graph inside this block."""
    token = CAPTURE.set(on)
    try:
        yield
    finally:
        CAPTURE.reset(token)


# ------------------------------------------------------------------------- the same as on the CPU


def tiny_model(text: dict) -> PaliGemmaForConditionalGeneration:
    torch.manual_seed(0)
    model = PaliGemmaForConditionalGeneration(
        PaliGemmaConfig(VISION, TextConfig(**text), text["hidden_size"], IMAGE)
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2 if parameter.ndim > 1 else 0.3)
    return model.eval().requires_grad_(False)


class Inputs:
    """Prompts of an image and 9 tokens, or fewer where they are `padded`."""

    def __init__(self, batch: int, padded: bool) -> None:
        generator = torch.Generator().manual_seed(1)
        P, side = VISION.num_image_tokens, VISION.image_size
        text = torch.randint(3, 400, (batch, 9), generator=generator)
        self.ids = torch.cat([torch.full((batch, P), IMAGE), text], 1)
        self.mask = torch.ones_like(self.ids)
        for row in range(batch if padded else 0):
            self.ids[row] = self.ids[row].roll(row)
            self.ids[row, :row], self.mask[row, :row] = 0, 0
            self.ids[row, row : row + P], self.ids[row, row + P :] = IMAGE, text[row, row:]
        self.pixels = torch.rand(batch, 3, side, side, generator=generator) * 2 - 1

    def answer(self, model, record: bool, temperature: float) -> tuple[torch.Tensor, list[Step]]:
        """The logits of the prompts' last tokens, on the CPU, and the steps of an answer."""
        table = model.language_model.embed_tokens
        ids, mask = self.ids.to(table.device), self.mask.to(table.device)
        with torch.inference_mode():
            features = model.embed_image(self.pixels.to(table.device, table.dtype))
            hidden = model.forward_features(ids, features, mask)
            logits = model.logits(hidden[:, -1]).float().cpu()
        options = SamplingOptions(max_new_tokens=24, temperature=temperature, seed=3)
        with capture_attention(model) if record else nullcontext():
            return logits, list(stream(model, ids, features, mask, options, eos_token_id=-1))


def check_parity(say: Say) -> None:
    for name, text in (("gemma 1", GEMMA_1), ("gemma 2", GEMMA_2)):
        models = {dtype: tiny_model(text).to(DEVICE, dtype) for dtype in TOLERANCE}
        on_cpu = tiny_model(text)
        for batch, padded, record in (
            (1, False, False),
            (4, False, False),
            (4, True, False),
            (1, False, True),
        ):
            inputs = Inputs(batch, padded)
            expected, steps = inputs.answer(on_cpu, record, 0.0)
            for dtype, model in models.items():
                key = f"{name}, batch {batch}, {str(dtype)[6:]}"
                key += f"{', padded' if padded else ''}{', recorded' if record else ''}"
                try:
                    say(key, compare_with(model, inputs, record, expected, steps, dtype))
                except (RuntimeError, ValueError) as error:
                    say(key, f"FAILED: {type(error).__name__}: {str(error)[:300]}")


def compare_with(model, inputs: Inputs, record: bool, expected, steps, dtype) -> str:
    logits, replayed = inputs.answer(model, record, 0.0)
    error = float((logits - expected).norm() / expected.norm())
    problems = [] if error < TOLERANCE[dtype] else ["another answer than the CPU's"]
    if not record and not captured_graphs(model):
        problems.append("no graph was captured")
    same = sum(one.ids == other.ids for one, other in zip(replayed, steps, strict=True))
    if dtype == torch.float32 and same < len(steps):
        problems.append("other tokens than the CPU's")
    again = inputs.answer(model, record, 0.0)[1]
    with captured(False):
        eager, drawn = inputs.answer(model, record, 0.0)[1], inputs.answer(model, record, 1.0)[1]
    pairs = [(replayed, again), (eager, replayed), (drawn, inputs.answer(model, record, 1.0)[1])]
    counts = [sum(a.ids == b.ids for a, b in zip(one, other, strict=True)) for one, other in pairs]
    if dtype == torch.float32 and counts != [len(steps)] * 3:
        problems.append("other tokens without a graph")
    said = f"error {error:.1e}; of {len(steps)} tokens as on the CPU {same}, graph again "
    said += f"{counts[0]}, eager {counts[1]}, eager drawn {counts[2]}"
    return f"{'FAILED: ' + '; '.join(problems) if problems else 'ok'}: {said}"


def check_built_in(say: Say) -> None:
    from PIL import Image

    from paligemma.pipeline import PaliGemma

    images = [Image.open(path).convert("RGB") for path in sorted((ROOT / "examples").glob("*.png"))]
    prompts = ["caption en", "detect anchor ; wheel", "ocr", "segment anchor"]
    pairs = [(image, prompt) for image in images[:4] for prompt in prompts]
    inputs = [image for image, _ in pairs], [prompt for _, prompt in pairs]
    expected = [reply.text for reply in PaliGemma.load(device="cpu").generate_batch(*inputs)]
    for dtype in ("float32", "bfloat16"):
        pg = PaliGemma.load(device=DEVICE, dtype=dtype)
        texts = [reply.text for reply in pg.generate_batch(*inputs)]
        same = sum(a == b for a, b in zip(texts, expected, strict=True))
        state = "ok" if same == len(pairs) or dtype == "bfloat16" else "FAILED"
        say(dtype, f"{state}: {same} of {len(pairs)} answers as on the CPU")
        pg.generate(*pairs[0])
        start, alone = time.perf_counter(), [pg.generate(*pair) for pair in pairs[:8]]
        tokens_per_s = sum(len(reply.tokens) for reply in alone) / (time.perf_counter() - start)
        same = sum(a.text == b for a, b in zip(alone, expected, strict=False))
        say(f"{dtype}, one at a time", f"{same} of 8 as on the CPU; {tokens_per_s:.0f} tokens/s")
    explanation = pg.explain(images[0], "caption en", views=["middle", "gradient"])
    say("attention maps", f"ok: {explanation.maps['gradient'].shape}")


# ----------------------------------------------------------------------- 3B, against transformers


def elapsed(run: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a copy on the device."""
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / min(elapsed(lambda: target.copy_(source)) for _ in range(6))


class Generation:
    """3B random weights in bfloat16, measured in a few ways; transformers has the same ones."""

    def __init__(self, variant: str) -> None:
        self.variant = variant
        self.figures: dict[str, tuple[float, float]] = {}  # seconds to the first token, of a token

    @cached_property
    def model(self) -> PaliGemmaForConditionalGeneration:
        from paligemma.checkpoints.random_weights import random_model

        model = random_model(VARIANTS[self.variant], torch.bfloat16, DEVICE)
        return model.eval().requires_grad_(False)

    @cached_property
    def twin(self):
        from compare_generation import theirs

        return theirs(self.model)

    @cached_property
    def bandwidth(self) -> float:
        return copy_bandwidth()

    @cached_property
    def token_bytes(self) -> int:
        """What a token reads: the decoder's weights."""
        from paligemma.bench import LoadedModel

        return LoadedModel(self.variant, self.model, None).decoder_bytes

    def measure(
        self, say: Say, name: str, generate: Callable[[int], object], batch: int, rounds: int
    ) -> None:
        """Medians, after a round that warms up; compared with `transformers, batch N` if known."""
        first, rest = [], []
        for _ in range(rounds + 1):
            one = elapsed(lambda: generate(1))
            first.append(one)
            rest.append((elapsed(lambda: generate(TOKENS + 1)) - one) / TOKENS)
        first_s, token_s = median(first[1:]), median(rest[1:])
        said = f"first token {first_s * 1e3:.1f} ms, {token_s * 1e3:.2f} ms a token, "
        said += f"{batch / token_s:.0f} tokens/s, "
        said += f"{self.token_bytes / token_s / self.bandwidth:.0%} of the bandwidth"
        for other, (their_first, their_token) in self.figures.items():
            if other.startswith("transformers") and other.endswith(f"batch {batch}"):
                said += f"; of {other}: first token {first_s / their_first:.2f}, "
                said += f"tokens/s {their_token / token_s:.2f}"
        self.figures[f"{name}, batch {batch}"] = first_s, token_s
        say(f"{name}, batch {batch}", said)

    def inputs(self, batch: int) -> dict[str, torch.Tensor]:
        from paligemma.bench import random_inputs

        return random_inputs(self.model.config, batch, DEVICE, torch.bfloat16)

    def ours(self, batch: int) -> Callable[[int], object]:
        from paligemma.bench import greedy_steps

        model, given = self.model, self.inputs(batch)
        return lambda count: [step.ids for step in greedy_steps(model, given, count)]

    def check_ours(self, say: Say) -> None:
        seconds = elapsed(lambda: self.model)
        weights = sum(one.numel() * one.element_size() for one in self.model.parameters())
        say("model", f"made in {seconds:.1f} s, {weights / 1e9:.2f} GB")
        bandwidth = self.bandwidth
        gc.collect()
        torch.cuda.empty_cache()
        say("bandwidth", f"{bandwidth / 1e12:.2f} TB/s copied; {self.token_bytes / 1e9:.2f} GB a "
            f"token allow {bandwidth / self.token_bytes:.0f} tokens/s")  # fmt: skip
        torch.cuda.reset_peak_memory_stats()
        self.measure(say, "graph", self.ours(1), 1, ROUNDS)
        peak = torch.cuda.max_memory_allocated()
        say("peak memory", f"{peak / 1e9:.2f} GB, {peak / weights:.3f} of the weights")
        say("graphs", f"{'ok' if captured_graphs(self.model) else 'FAILED'}: "
            f"{captured_graphs(self.model)} captured")  # fmt: skip
        with captured(False):
            self.measure(say, "eager", self.ours(1), 1, 3)
        self.measure(say, "graph", self.ours(8), 8, 3)
        ratio = 8 * self.figures["graph, batch 1"][1] / self.figures["graph, batch 8"][1]
        say("tokens/s, batch 8 / 1", f"{ratio:.2f}")
        generate = self.ours(1)
        generate(257)
        one = elapsed(lambda: generate(1))
        long = (elapsed(lambda: generate(257)) - one) / 256
        say("256 tokens", f"{long * 1e3:.2f} ms a token, "
            f"{long / self.figures['graph, batch 1'][1]:.2f} of that of {TOKENS}")  # fmt: skip

    def check_profile(self, say: Say) -> None:
        """Where the time of a token goes: the replay alone, and its kernels."""
        static = max(
            (static for *_, static in decode_graph._IDLE[self.model] if static.graph is not None),
            key=lambda static: (static.ids.shape[0] == 1, -static.cache.max_length),
        )
        graph = static.graph
        assert graph is not None

        def replay(times: int) -> None:
            static.index.fill_(270)
            for _ in range(times):
                graph.replay()

        with torch.inference_mode():
            replay(3)
            alone = elapsed(lambda: replay(20)) / 20
            share = self.token_bytes / alone / self.bandwidth
            say("replay alone", f"{alone * 1e3:.3f} ms, {share:.0%} of the bandwidth, "
                f"cache of {static.cache.max_length}, batch {len(static.ids)}")  # fmt: skip
            activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
            with torch.profiler.profile(activities=activities) as profile:
                replay(4)
                torch.cuda.synchronize()
        kernels = [one for one in profile.key_averages() if one.self_device_time_total > 0]
        say("kernels", f"{sum(one.count for one in kernels) / 4:.0f} a token, "
            f"{sum(one.self_device_time_total for one in kernels) / 4e3:.3f} ms")  # fmt: skip
        kernels.sort(key=lambda one: -one.self_device_time_total)
        for one in kernels[:20]:
            say(f"  {one.key[:110]}", f"{one.count / 4:.0f} × "
                f"{one.self_device_time_total / one.count:.1f} µs")  # fmt: skip

    def check_recording(self, say: Say) -> None:
        generate = self.ours(1)

        def recorded(count: int) -> None:
            with capture_attention(self.model):
                generate(count)

        times: dict[str, list[float]] = {"graph": [], "eager": [], "recorded": []}
        for _ in range(4):
            times["graph"].append(elapsed(lambda: generate(TOKENS)))
            with captured(False):
                times["eager"].append(elapsed(lambda: generate(TOKENS)))
            times["recorded"].append(elapsed(lambda: recorded(TOKENS)))
        for name, seconds in times.items():
            say(f"answer of {TOKENS} tokens, {name}", f"{min(seconds[1:]) * 1e3:.0f} ms")

    def check_sides(self, say: Say) -> None:
        for variant in ("paligemma-3b-448", "paligemma-3b-896"):
            other = Generation(variant)  # with figures of its own: its prompt is longer
            other.bandwidth = self.bandwidth
            other.measure(say, variant, other.ours(1), 1, 2)
            del other
            gc.collect()

    def their_generate(self, batch: int, compiled: bool) -> Callable[[int], object]:
        from compare_generation import their_generate

        return their_generate(self.twin, self.inputs(batch), compiled)

    def check_theirs(self, say: Say) -> None:
        import transformers

        say("transformers", transformers.__version__)
        for batch in (1, 8):
            their, generate = self.their_generate(batch, False), self.ours(batch)
            same = sum(a == b for a, b in zip(their(16), generate(16), strict=True))  # type: ignore[arg-type]
            say(f"same tokens, batch {batch}", f"{same} of 16")
            self.measure(say, "transformers", their, batch, 3)
            self.measure(say, "graph", generate, batch, 3)
            with captured(False):
                self.measure(say, "eager", generate, batch, 2)

    def check_compiled(self, say: Say) -> None:
        generate = self.their_generate(1, True)
        seconds = elapsed(lambda: generate(TOKENS + 1))
        say("first call", f"{seconds:.0f} s")
        self.measure(say, "transformers, compiled", generate, 1, 3)
        self.measure(say, "graph", self.ours(1), 1, 3)

    def check_own_compiled(self, say: Say) -> None:
        """Whether fewer, compiled kernels would pay: an experiment, on graphs of their own."""
        plain, former = StaticStep.step, decode_graph._IDLE.pop(self.model, [])
        StaticStep.step = torch.compile(plain, dynamic=False)
        try:
            generate = self.ours(1)
            say("first call", f"{elapsed(lambda: generate(TOKENS + 1)):.0f} s")
            self.measure(say, "graph of compiled kernels", generate, 1, 3)
            self.check_profile(say)
        finally:
            StaticStep.step, decode_graph._IDLE[self.model] = plain, former


def check_training(say: Say) -> None:
    import compare_speed

    arguments = ["--device", DEVICE, "--bfloat16", "--steps", "10"]
    for model, batch in (("medium", "16"), ("built-in", "64")):
        for name, value in compare_speed.main(
            ["--model", model, "--batch", batch, *arguments]
        ).items():
            say(f"{model}, {name}", value)


# ----------------------------------------------------------------------------------------- report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"))
    parser.add_argument("--variant", default="paligemma-3b-224")
    parser.add_argument("--seconds", type=float, default=240, help="for all, from the start on")
    parser.add_argument("--only", help="names of checks, with commas")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "gpu_check: there is no CUDA device.\n")
    torch.backends.cudnn.allow_tf32 = False  # convolutions in float32 would be in TF32
    of_3b = Generation(arguments.variant)
    checks: dict[str, tuple[float, Callable[[Say], None]]] = {  # with the seconds it needs
        "parity": (10, check_parity),
        "built-in": (10, check_built_in),
        "speed": (15, of_3b.check_ours),
        "profile": (5, of_3b.check_profile),
        "recording": (5, of_3b.check_recording),
        "transformers": (25, of_3b.check_theirs),
        "resolutions": (10, of_3b.check_sides),
        "training": (15, check_training),
        "compiled": (40, of_3b.check_compiled),
        "own compiled": (30, of_3b.check_own_compiled),
    }
    if arguments.only:
        checks = {name: checks[name] for name in arguments.only.split(",")}
    machine = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }
    report: dict[str, dict[str, Any]] = {"machine": machine}
    print(json.dumps(machine), flush=True)

    def write() -> None:
        arguments.out.write_text(json.dumps(report, indent=2, default=str) + "\n")

    def stop(*_) -> None:
        raise OutOfTime

    signal.signal(signal.SIGALRM, stop)
    for name, (needed, check) in checks.items():
        found = report[name] = {}

        def say(key: str, value: object, found: dict[str, Any] = found) -> None:
            found[key] = value
            print(f"  {key:44} {value}", flush=True)
            write()

        start = time.time()
        left = arguments.seconds - (start - START)
        print(f"\n{name}, at {start - START:.0f} s", flush=True)
        if left < needed:
            say("skipped", f"it needs about {needed:.0f} s, and {left:.0f} s are left")
            continue
        signal.setitimer(signal.ITIMER_REAL, left)
        try:
            check(say)
        except OutOfTime:
            say("skipped", "the rest: there was no time left")
        except ImportError as error:
            say("skipped", f"{error.name} cannot be imported: {error}")
        except Exception as error:  # the other checks go on, and the report says what it was
            say("FAILED", f"{type(error).__name__}: {str(error)[:600]}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        say("seconds", round(time.time() - start, 1))
    failed = any(
        key == "FAILED" or str(value).startswith("FAILED")
        for found in report.values()
        for key, value in found.items()
    )
    print(f"\n{'FAILED' if failed else 'ok'}, {time.time() - START:.0f} s", flush=True)
    sys.stdout.flush()
    os._exit(1 if failed else 0)  # compilers' processes may still run


if __name__ == "__main__":
    main()
