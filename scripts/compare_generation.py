"""Time to the first token and tokens per second, ours and those of transformers, in one run.

    python scripts/compare_generation.py [--variant paligemma-3b-224] [--quantize int8] [--batch 1]

Both have the same random weights, made in memory, and answer greedily. Rounds of the two alternate,
so that other load on the machine slows both; the medians count. On a GPU, transformers is also
timed with its compiled static cache by --compile. The cosine is that of the logits after the
prompt's tokens with those of the same weights as they are.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from transformers.initialization import no_init_weights

from paligemma.bench import TEXT_TOKENS, greedy_steps, random_inputs
from paligemma.checkpoints.random_weights import random_model
from paligemma.config import VARIANTS
from paligemma.devices import weights_memory
from paligemma.models.packed import lay_out_weights
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration

Generate = Callable[[int], object]  # that many tokens


def theirs(model: PaliGemmaForConditionalGeneration):
    """The same tensors in transformers."""
    config = transformers.PaliGemmaConfig(**model.config.to_dict())
    with model.language_model.embed_tokens.device, no_init_weights():
        twin = transformers.PaliGemmaForConditionalGeneration._from_config(
            config, attn_implementation="sdpa", dtype=torch.bfloat16
        )
    twin.model.load_state_dict(model.state_dict(), assign=True)
    twin.lm_head.weight = twin.model.language_model.embed_tokens.weight
    return twin.eval()


def our_generate(model: PaliGemmaForConditionalGeneration, given: dict[str, Tensor]) -> Generate:
    return lambda count: [step.ids for step in greedy_steps(model, given, count)]


def their_generate(model, given: dict[str, Tensor], compiled: bool) -> Generate:
    model.generation_config.eos_token_id = None
    cache = {"cache_implementation": "static"} if compiled else {}
    given = given | {"token_type_ids": torch.zeros_like(given["input_ids"])}

    def generate(count: int) -> list:
        ids = model.generate(**given, max_new_tokens=count, do_sample=False, **cache)
        return ids[:, given["input_ids"].shape[1] :].T.tolist()

    return generate


def text_logits(model: PaliGemmaForConditionalGeneration, given: dict[str, Tensor]) -> Tensor:
    """The logits after each token of the text, [B, T, V] in float32."""
    with torch.inference_mode():
        features = model.embed_image(given["pixel_values"])
        hidden = model.forward_features(given["input_ids"], features, given["attention_mask"])
        return model.logits(hidden[:, -TEXT_TOKENS:]).float()


def seconds(generate: Generate, count: int, device: str) -> float:
    start = perf_counter()
    generate(count)
    if device != "cpu":
        torch.cuda.synchronize()
    return perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=VARIANTS, default="paligemma-3b-224")
    parser.add_argument("--layers", type=int, help="of the decoder, to try it with fewer")
    parser.add_argument("--quantize", choices=("int8", "int4"), action="append", default=[])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="transformers' static cache too")
    arguments = parser.parse_args()
    device, config = arguments.device, VARIANTS[arguments.variant]
    if arguments.layers:
        text = replace(config.text_config, num_hidden_layers=arguments.layers)
        config = replace(config, text_config=text)
    given = random_inputs(config, arguments.batch, device, torch.bfloat16)

    plain = random_model(config, torch.bfloat16, device).eval().requires_grad_(False)
    twin = theirs(plain)
    generators = {"transformers": their_generate(twin, given, False)}
    if arguments.compile:
        generators["transformers, compiled"] = their_generate(twin, given, True)
    expected, cosines = text_logits(plain, given), {}
    for precision in ("bfloat16", *arguments.quantize):
        with torch.device("meta"):
            model = PaliGemmaForConditionalGeneration(config)
        model.load_state_dict(plain.state_dict(), assign=True)
        model.eval().requires_grad_(False)
        if device == "cpu":
            lay_out_weights(model, None if precision == "bfloat16" else precision)
        generators[precision] = our_generate(model, given)
        logits = text_logits(model, given)
        cosines[precision] = F.cosine_similarity(logits, expected, dim=-1).mean().item()

    first: dict[str, list[float]] = {name: [] for name in generators}
    rate: dict[str, list[float]] = {name: [] for name in generators}
    for number in range(arguments.rounds + 1):
        for name, generate in generators.items():
            one = seconds(generate, 1, device)
            decode = seconds(generate, arguments.tokens, device) - one
            if number > 0:  # the first round warms up
                first[name].append(one)
                rate[name].append(arguments.batch * (arguments.tokens - 1) / decode)
    report = {}
    for name in generators:
        ttft, speed = statistics.median(first[name]), statistics.median(rate[name])
        report[name] = {"first_token_s": ttft, "tokens_per_second": speed}
        their = report["transformers"]
        line = f"{name:24} first token {ttft:7.3f} s ({ttft / their['first_token_s']:.2f}), "
        line += f"{speed:7.2f} tokens/s ({speed / their['tokens_per_second']:.2f})"
        if name in cosines:
            quantize = None if name == "bfloat16" else name
            report[name]["cosine"] = cosines[name]
            line += f", cosine of logits {cosines[name]:.4f}"
            line += f", weights {weights_memory(config, torch.bfloat16, quantize) / 1e9:.2f} GB"
        print(line)
    print(json.dumps(vars(arguments) | {"report": report}))


if __name__ == "__main__":
    main()
