"""A checkpoint of a published size with random weights: to try loading, speed and memory.

    paligemma random paligemma-3b-224 FOLDER

Its answers are noise; its config.json says `"initialization": "random"`. The tokenizer has the
built-in model's words, and <loc>, <seg> and <image> at the published ids.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch

from paligemma.checkpoints.io import build_on_meta, save_model, write_processor_files
from paligemma.checkpoints.resolve import BUILT_IN_FOLDER
from paligemma.config import VARIANTS, PaliGemmaConfig
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration

TEXT_TOKENS = 256_000  # of the published tokenizer; <loc>, <seg> and <image> follow
THIN_WIDTH = 256


def write_random_checkpoint(
    variant: str, folder: str | Path, dtype: torch.dtype = torch.bfloat16, thin: bool = False
) -> None:
    """Write one of `config.VARIANTS`. Raises ValueError for another name.

    A `thin` one is narrow, but has the decoder layers, heads and patches of the published size.
    """
    if variant not in VARIANTS:
        raise ValueError(f"{variant!r} is no variant; choose {', '.join(VARIANTS)}.")
    folder = Path(folder)
    config = thin_config(VARIANTS[variant]) if thin else VARIANTS[variant]
    save_model(random_model(config, dtype), folder, initialization="random")
    tokenizer = json.dumps(_tokenizer(), ensure_ascii=False)
    (folder / "tokenizer.json").write_text(tokenizer, "utf-8")
    write_processor_files(config, folder)


def random_model(
    config: PaliGemmaConfig, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> PaliGemmaForConditionalGeneration:
    """Weights from a normal distribution of std 0.02, in which activations stay finite."""
    model = build_on_meta(config).to(dtype)
    model.to_empty(device=device)
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return model


def thin_config(config: PaliGemmaConfig) -> PaliGemmaConfig:
    """The same decoder layers, heads and patches; all else small."""
    vision, text = config.vision_config, config.text_config
    return replace(
        config,
        vision_config=replace(
            vision,
            hidden_size=16 * vision.num_attention_heads,
            intermediate_size=THIN_WIDTH,
            num_hidden_layers=2,
        ),
        text_config=replace(text, hidden_size=THIN_WIDTH, intermediate_size=THIN_WIDTH),
        projection_dim=THIN_WIDTH,
    )


def _tokenizer() -> dict:
    """The built-in tokenizer, with ids where the published one has them."""
    tokenizer = json.loads((BUILT_IN_FOLDER / "tokenizer.json").read_text("utf-8"))
    words = tokenizer["model"]["vocab"]
    pieces = [*sorted(words, key=words.__getitem__), "\n"]
    pieces += [f"<unused{n}>" for n in range(TEXT_TOKENS - len(pieces))]
    vocabulary = {piece: n for n, piece in enumerate(pieces)}
    tokenizer["model"]["vocab"] = dict(vocabulary)
    for added in tokenizer["added_tokens"]:
        added["id"] = vocabulary.setdefault(added["content"], len(vocabulary))
    tokenizer["added_tokens"].sort(key=lambda added: added["id"])
    return tokenizer
