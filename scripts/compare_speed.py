"""Tokens per second of a training step, ours and that of transformers, under the same loop.

    python scripts/compare_speed.py [--model built-in|medium|3b] [--batch 16] [--bfloat16]

Batch, dtype and optimizer are the same. Steps of the two alternate, so that other load on the
machine slows both; the median counts. Losses differ a little: transformers takes a mean over all
tokens, ours one for each sample first. The 3B size uses gradient checkpointing in both, and reports
the peak of memory.
"""

import argparse
import json
import statistics
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import transformers
from torch.utils.checkpoint import checkpoint

from paligemma.checkpoints.io import read_config
from paligemma.checkpoints.resolve import BUILT_IN_FOLDER
from paligemma.config import VARIANTS, PaliGemmaConfig, TextConfig, VisionConfig
from paligemma.models import gemma, siglip
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration

PREFIX, SUFFIX = 12, 20  # tokens of text in each sample, give or take a few


def medium() -> PaliGemmaConfig:
    """60 million parameters, half of them in a table of 32,768 rows."""
    vision = VisionConfig(384, 1536, 6, 6, image_size=224, patch_size=14)
    text = TextConfig(32_768, 768, 2_048, 6, 8, 1, 96)
    return PaliGemmaConfig(vision, text, 768, 32_000)


SIZES = {
    "built-in": lambda: read_config(BUILT_IN_FOLDER),
    "medium": medium,
    "3b": lambda: VARIANTS["paligemma-3b-224"],
}


def random_batch(config: PaliGemmaConfig, size: int, device: str) -> dict[str, torch.Tensor]:
    """Right-padded samples of noise of different lengths, like the trainer's batches."""
    generator = torch.Generator().manual_seed(0)
    P = config.vision_config.num_image_tokens
    lengths = [SUFFIX + n % 7 - 3 for n in range(size)]
    width = P + PREFIX + max(lengths)
    ids = torch.randint(3, 300, (size, width), generator=generator)
    ids[:, :P] = config.image_token_index
    position = torch.arange(width)
    ends = torch.tensor([P + PREFIX + length for length in lengths])[:, None]
    valid = position < ends
    suffix = valid & (position >= P + PREFIX)
    side = config.vision_config.image_size
    batch = {
        "input_ids": ids.masked_fill(~valid, 0),
        "attention_mask": valid.long(),
        "token_type_ids": suffix.long(),
        "labels": ids.masked_fill(~suffix, -100),
        "pixel_values": torch.rand(size, 3, side, side, generator=generator) * 2 - 1,
    }
    return {name: value.to(device) for name, value in batch.items()}


def ours(config: PaliGemmaConfig, gradient_checkpointing: bool):
    model = PaliGemmaForConditionalGeneration(config)
    if gradient_checkpointing:
        for block in model.modules():
            if isinstance(block, (gemma.GemmaDecoderLayer, siglip.SiglipEncoderLayer)):
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    return model, lambda batch: model(**batch)["loss"]


def theirs(config: PaliGemmaConfig, gradient_checkpointing: bool):
    """With PyTorch's attention, the fastest that transformers has for this mask."""
    model = transformers.PaliGemmaForConditionalGeneration._from_config(
        transformers.PaliGemmaConfig(**config.to_dict()), attn_implementation="sdpa"
    )
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model, lambda batch: model(**batch).loss


def main(argv: list[str] | None = None) -> dict[str, float | str]:
    """Returns what it prints last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=SIZES, default="built-in")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--bfloat16", action="store_true", help="compute in it, by autocast")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args(argv)
    config, device = SIZES[arguments.model](), arguments.device
    text = replace(config.text_config, max_position_embeddings=8192)
    config = replace(config, text_config=text)
    gradient_checkpointing = arguments.model == "3b"
    batch = random_batch(config, arguments.batch, device)
    tokens = int(batch["attention_mask"].sum())
    steppers = {}
    for name, make in (("ours", ours), ("transformers", theirs)):
        torch.manual_seed(0)
        with torch.device(device):
            model, loss_of = make(config, gradient_checkpointing)
        model.train()
        adamw = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.999))
        steppers[name] = (model, loss_of, adamw)
    # the same weights, so that the losses must agree
    with torch.no_grad():
        state = steppers["ours"][0].state_dict()
        steppers["transformers"][0].model.load_state_dict(state)

    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    peaks, losses = dict.fromkeys(steppers, 0), {}
    for number in range(arguments.steps + 2):
        for name, (model, loss_of, adamw) in steppers.items():
            if device != "cpu":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            start = perf_counter()
            with torch.autocast(device, torch.bfloat16, enabled=arguments.bfloat16):
                loss = loss_of(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adamw.step()
            adamw.zero_grad()
            if device != "cpu":
                torch.cuda.synchronize()
                peaks[name] = max(peaks[name], torch.cuda.max_memory_allocated())
            if number == 0:
                losses[name] = loss.item()
            if number >= 2:  # the first two warm up
                seconds[name].append(perf_counter() - start)
    speeds = {name: tokens / statistics.median(times) for name, times in seconds.items()}
    for name, speed in speeds.items():
        peak = f", peak {peaks[name] / 1e9:.1f} GB" if device != "cpu" else ""
        print(f"{name:13} {speed:10,.0f} tokens/s, first loss {losses[name]:.4f}{peak}")
    ratio = speeds["ours"] / speeds["transformers"]
    report = {"model": arguments.model, "batch": arguments.batch, "ratio": ratio, **speeds}
    print(json.dumps(report))
    return report


if __name__ == "__main__":
    main()
