"""What has to hold on a GPU, checked in a few minutes: parity with the CPU, speed, training.

    python scripts/gpu_check.py [--out gpu_check.json] [--variant paligemma-3b-224]

Runs the built-in model and tiny random ones of both generations on the CPU and on the GPU, in
float32 and bfloat16, alone and in a batch, with attention recorded and without; then
`compare_generation.py` and `compare_speed.py` against transformers. What a package is missing for
is skipped, and said. Prints a table, writes one JSON, and exits with 1 if a check failed.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from paligemma.config import PaliGemmaConfig, TextConfig, VisionConfig
from paligemma.generation import SamplingOptions, stream
from paligemma.interpret.capture import capture_attention
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration

ROOT = Path(__file__).parents[1]
VISION = VisionConfig(64, 128, 2, 4, image_size=56, patch_size=14)
GEMMA_1 = {"vocab_size": 500, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4}
GEMMA_1 |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
GEMMA_2 = GEMMA_1 | {"query_pre_attn_scalar": 20, "attn_logit_softcapping": 5.0}
GEMMA_2 |= {"final_logit_softcapping": 3.0, "sliding_window": 7, "post_norms": True}
IMAGE = 499
TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 0.1}  # of logits, relative to their size
SECONDS = 120  # for each comparison with transformers


def tiny_model(text: dict) -> PaliGemmaForConditionalGeneration:
    torch.manual_seed(0)
    model = PaliGemmaForConditionalGeneration(
        PaliGemmaConfig(VISION, TextConfig(**text), text["hidden_size"], IMAGE)
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2 if parameter.ndim > 1 else 0.3)
    return model.eval().requires_grad_(False)


def run(model, device: str, dtype: torch.dtype, batch: int, record: bool):
    """The logits of the prompt's last token, and the ids of a greedy answer, on the CPU."""
    model = model.to(device, dtype)
    generator = torch.Generator().manual_seed(1)
    P, side = VISION.num_image_tokens, VISION.image_size
    text = torch.randint(3, 400, (batch, 9), generator=generator)
    ids = torch.cat([torch.full((batch, P), IMAGE), text], 1)
    mask = torch.ones_like(ids)
    pixels = torch.rand(batch, 3, side, side, generator=generator) * 2 - 1
    with torch.inference_mode():
        features = model.embed_image(pixels.to(device, dtype))
        hidden = model.forward_features(ids.to(device), features, mask.to(device))
        logits = model.logits(hidden[:, -1]).float().cpu()
    options = SamplingOptions(max_new_tokens=24)
    steps = stream(model, ids.to(device), features, mask.to(device), options, eos_token_id=-1)
    if record:
        with capture_attention(model):
            return logits, [step.ids for step in steps]
    return logits, [step.ids for step in steps]


def check_parity() -> dict[str, str]:
    found = {}
    for name, text in (("gemma 1", GEMMA_1), ("gemma 2", GEMMA_2)):
        for batch, record in ((1, False), (1, True), (4, False)):
            for dtype in (torch.float32, torch.bfloat16):
                expected, ids = run(tiny_model(text), "cpu", torch.float32, batch, record)
                logits, gpu_ids = run(tiny_model(text), "cuda", dtype, batch, record)
                error = float((logits - expected).norm() / expected.norm())
                same = ids == gpu_ids if dtype == torch.float32 else True
                key = f"{name}, batch {batch}, {str(dtype)[6:]}{', recorded' if record else ''}"
                state = "ok" if same and error < TOLERANCE[dtype] else "FAILED"
                found[key] = f"{state}: error {error:.1e}" + ("" if same else ", other tokens")
    return found


def check_built_in() -> dict[str, str]:
    from paligemma.pipeline import PaliGemma

    images = sorted((ROOT / "examples").glob("*.png"))
    prompts = ["caption en", "detect anchor ; wheel", "ocr", "segment anchor"]
    pairs = [(image, prompt) for image in images for prompt in prompts]
    inputs = [image for image, _ in pairs], [prompt for _, prompt in pairs]
    expected = [reply.text for reply in PaliGemma.load(device="cpu").generate_batch(*inputs)]
    found = {}
    for dtype in ("float32", "bfloat16"):
        pg = PaliGemma.load(device="cuda", dtype=dtype)
        texts = [reply.text for reply in pg.generate_batch(*inputs)]
        alone = [pg.generate(*pair).text for pair in pairs[:8]]
        same = sum(a == b for a, b in zip(texts, expected, strict=True))
        state = "ok" if same == len(pairs) or dtype == "bfloat16" else "FAILED"
        found[dtype] = f"{state}: {same} of {len(pairs)} answers as on the CPU"
        same = sum(a == b for a, b in zip(alone, expected, strict=False))
        found[f"{dtype}, one at a time"] = f"{same} of {len(alone)}"
    explanation = pg.explain(images[0], "caption en")
    found["attention maps"] = f"ok: {explanation.maps['middle'].shape}"
    return found


def compare(script: str, *options: str) -> dict:
    """The last line of a script's output, which is JSON."""
    command = [sys.executable, str(ROOT / "scripts" / script), *options, "--device", "cuda"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1]
        missing = last.startswith("ModuleNotFoundError")
        raise ImportError(name="transformers") if missing else RuntimeError(last)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"))
    parser.add_argument("--variant", default="paligemma-3b-224")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "gpu_check: there is no CUDA device.\n")
    checks: dict[str, Callable[[], dict]] = {
        "parity": check_parity,
        "built-in model": check_built_in,
        "generation": lambda: compare(
            "compare_generation.py", "--variant", arguments.variant, "--compile"
        ),
        "generation, batch 8": lambda: compare(
            "compare_generation.py", "--variant", arguments.variant, "--batch", "8"
        ),
        "training": lambda: compare("compare_speed.py", "--model", "medium", "--bfloat16"),
    }
    report: dict[str, dict] = {
        "machine": {
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "python": sys.version.split()[0],
        }
    }
    failed = False
    for name, check in checks.items():
        start = time.perf_counter()
        try:
            report[name] = check()
        except ImportError as error:
            report[name] = {"skipped": f"{error.name} is not installed"}
        except Exception as error:  # the other checks go on, and the report says what it was
            report[name], failed = {"FAILED": f"{type(error).__name__}: {error}"}, True
        failed |= any(str(value).startswith("FAILED") for value in report[name].values())
        print(f"\n{name} ({time.perf_counter() - start:.0f} s)")
        for key, value in report[name].items():
            print(f"  {key:40} {value}")
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
