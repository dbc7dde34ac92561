"""The components of a model and the token sequence of one request, as plain values to draw."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from paligemma.config import PaliGemmaConfig
from paligemma.models.paligemma import prefix_lm_mask
from paligemma.processor import PaliGemmaProcessor

MAX_MASK_IMAGE_TOKENS = 64  # of a mask that is drawn


class ModelComponent(NamedTuple):
    """A component: its title, facts about it, its source file, and the shape of its output."""

    title: str
    facts: tuple[str, ...]
    file: str
    output: str


def model_components(config: PaliGemmaConfig) -> list[ModelComponent]:
    """The components in the order that a request passes them, with this model's own numbers."""
    vision, text = config.vision_config, config.text_config
    side, grid, count = vision.image_size, vision.grid, vision.num_image_tokens
    return [
        ModelComponent(
            "Image and prompt",
            (f"any image becomes {side} × {side} pixels in −1…1, the prompt becomes token ids",),
            "processor.py",
            f"pixels [3, {side}, {side}]",
        ),
        ModelComponent(
            "SigLIP, the vision tower",
            (
                f"{grid} × {grid} patches of {vision.patch_size} pixels",
                f"{vision.num_hidden_layers} layers, {vision.hidden_size} wide, "
                f"{vision.num_attention_heads} heads",
            ),
            "models/siglip.py",
            f"features [{count}, {vision.hidden_size}]",
        ),
        ModelComponent(
            "The connector",
            (f"one linear layer, {vision.hidden_size} → {config.projection_dim}",),
            "models/paligemma.py",
            f"image tokens [{count}, {text.hidden_size}], not times √{text.hidden_size} as text is",
        ),
        ModelComponent(
            "Gemma, the decoder",
            _decoder_facts(config),
            "models/gemma.py",
            f"logits of {text.vocab_size:,} tokens",
        ),
        ModelComponent(
            "One token at a time",
            ("the token with the highest logit, or a sampled one, is the next input, until <eos>",),
            "generation.py",
            "token ids",
        ),
        ModelComponent(
            "Boxes",
            ("<loc> tokens: y1, x1, y2, x2 on 1024 lines",),
            "detections.py",
            "<seg> codes",
        ),
        ModelComponent(
            "Masks", ("16 codes of a 4 × 4 grid become 64 × 64 pixels",), "models/mask_codec.py", ""
        ),
    ]


def _decoder_facts(config: PaliGemmaConfig) -> tuple[str, ...]:
    text = config.text_config
    facts = (
        f"{text.num_hidden_layers} layers, {text.hidden_size} wide",
        f"{text.num_attention_heads} query heads, {text.num_key_value_heads} key/value "
        f"head{'s' * (text.num_key_value_heads != 1)}, each {text.head_dim} wide",
        f"GeGLU {text.intermediate_size} wide, RoPE with base {text.rope_theta:,.0f}",
    )
    if not text.attn_logit_softcapping:
        return facts
    return (
        *facts,
        f"Gemma 2: softcaps {text.attn_logit_softcapping:g} and "
        f"{text.final_logit_softcapping or 0:g}, window {text.sliding_window}, four norms",
    )


def request_tokens(
    processor: PaliGemmaProcessor, prompt: str, answer: Sequence[str]
) -> list[tuple[str, str]]:
    """(kind, text) of each token of a request: image, bos, prefix, separator, answer."""
    bos, *prefix, newline = processor.prompt_texts(prompt)
    return [
        *[("image", "▦")] * processor.num_image_tokens,
        ("bos", bos),
        *(("prefix", text) for text in prefix),
        ("separator", newline),
        *(("answer", text) for text in answer),
    ]


def request_mask(kinds: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The attention mask of such a request, bool [T, T], and the kind of each of its tokens.

    All image tokens have the same row: at most MAX_MASK_IMAGE_TOKENS of them are included.
    """
    left_out = max(0, kinds.count("image") - MAX_MASK_IMAGE_TOKENS)
    included = list(kinds[left_out:])
    types = torch.tensor([[kind == "answer" for kind in included]]).long()
    return prefix_lm_mask(torch.ones_like(types), types)[0, 0].numpy(), included
