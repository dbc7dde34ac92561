"""A checkpoint of a published size with random weights: to try loading, speed and memory.

    python -m paligemma random paligemma-3b-224 FOLDER

What it answers is noise. Its tokenizer has the built-in model's words, and <loc>, <seg> and <image>
at the published ids.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch

from paligemma.checkpoints.io import save_model
from paligemma.checkpoints.resolve import BUILT_IN_FOLDER
from paligemma.config import VARIANTS, PaliGemmaConfig
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration

TEXT_TOKENS = 256_000  # of the published tokenizer; <loc>, <seg> and <image> follow
THIN = 256  # width of a thin model


def write(
    variant: str, folder: str | Path, dtype: torch.dtype = torch.bfloat16, thin: bool = False
) -> None:
    """Write one of config.VARIANTS; ValueError for another, or for a folder not called random.

    A `thin` one is narrow, but has the decoder layers, heads and patches of the published size.
    """
    if variant not in VARIANTS:
        raise ValueError(f"{variant!r} is no variant; choose {', '.join(VARIANTS)}.")
    folder = Path(folder)
    if "random" not in folder.resolve().name:
        raise ValueError(f"The folder's name must say 'random', as its weights are; not {folder}.")
    config = narrow(VARIANTS[variant]) if thin else VARIANTS[variant]
    save_model(random_model(config, dtype), folder)
    tokenizer = json.dumps(_tokenizer(), ensure_ascii=False)
    (folder / "tokenizer.json").write_text(tokenizer, "utf-8")


def random_model(config: PaliGemmaConfig, dtype: torch.dtype) -> PaliGemmaForConditionalGeneration:
    """Normal numbers, of a size that neither vanishes nor overflows."""
    with torch.device("meta"):
        model = PaliGemmaForConditionalGeneration(config).to(dtype)
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return model


def narrow(config: PaliGemmaConfig) -> PaliGemmaConfig:
    """The same decoder layers, heads and patches, with little else."""
    vision, text = config.vision_config, config.text_config
    return replace(
        config,
        vision_config=replace(vision, hidden_size=16 * vision.num_attention_heads,
                              intermediate_size=THIN, num_hidden_layers=2),
        text_config=replace(text, hidden_size=THIN, intermediate_size=THIN),
        projection_dim=THIN,
    )  # fmt: skip


def _tokenizer() -> dict:
    """The built-in tokenizer with its ids where the published one has them."""
    own = json.loads((BUILT_IN_FOLDER / "tokenizer.json").read_text("utf-8"))
    words = own["model"]["vocab"]
    pieces = [*sorted(words, key=words.get), "\n"]
    pieces += [f"<unused{n}>" for n in range(TEXT_TOKENS - len(pieces))]
    vocabulary = {piece: n for n, piece in enumerate(pieces)}
    own["model"]["vocab"] = dict(vocabulary)
    for added in own["added_tokens"]:
        added["id"] = vocabulary.setdefault(added["content"], len(vocabulary))
    own["added_tokens"].sort(key=lambda added: added["id"])
    return own
