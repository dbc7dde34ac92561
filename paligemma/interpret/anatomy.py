"""The inside of a model and of one request, as plain values for a drawing."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from paligemma.config import PaliGemmaConfig
from paligemma.models.paligemma import prefix_lm_mask
from paligemma.processor import PaliGemmaProcessor

MOST_IMAGE_TOKENS = 64  # in a mask that people look at


class Part(NamedTuple):
    """A part of the model: its title, lines about it, its source file, the shape it hands on."""

    title: str
    lines: tuple[str, ...]
    file: str
    gives: str


def parts(config: PaliGemmaConfig) -> list[Part]:
    """The way of a request through the model, with this model's own numbers."""
    vision, text = config.vision_config, config.text_config
    side, grid, count = vision.image_size, vision.grid, vision.num_image_tokens
    extras = [
        f"{text.num_attention_heads} query heads, {text.num_key_value_heads} key/value "
        f"head{'s' * (text.num_key_value_heads != 1)}, each {text.head_dim} wide",
        f"GeGLU {text.intermediate_size} wide, RoPE with base {text.rope_theta:,.0f}",
    ]
    if text.attn_logit_softcapping:
        extras.append(
            f"Gemma 2: softcaps {text.attn_logit_softcapping:g} and "
            f"{text.final_logit_softcapping or 0:g}, window {text.sliding_window}, four norms"
        )
    return [
        Part(
            "Picture and prompt",
            (f"any picture becomes {side} × {side} pixels in −1…1, the prompt becomes ids",),
            "processor.py",
            f"pixels [3, {side}, {side}]",
        ),
        Part(
            "SigLIP, the vision tower",
            (
                f"{grid} × {grid} patches of {vision.patch_size} pixels",
                f"{vision.num_hidden_layers} layers, {vision.hidden_size} wide, "
                f"{vision.num_attention_heads} heads",
            ),
            "models/siglip.py",
            f"features [{count}, {vision.hidden_size}]",
        ),
        Part(
            "The connector",
            (f"one linear layer, {vision.hidden_size} → {config.projection_dim}",),
            "models/paligemma.py",
            f"image tokens [{count}, {text.hidden_size}], not times √{text.hidden_size} as text is",
        ),
        Part(
            "Gemma, the decoder",
            (f"{text.num_hidden_layers} layers, {text.hidden_size} wide", *extras),
            "models/gemma.py",
            f"scores of {text.vocab_size:,} tokens",
        ),
        Part(
            "One token at a time",
            ("the likeliest token, or a drawn one, into the key/value cache, until <eos>",),
            "generation.py",
            "ids",
        ),
        Part(
            "Boxes", ("<loc> tokens: y1, x1, y2, x2 on 1024 lines",), "detections.py", "<seg> codes"
        ),
        Part(
            "Masks", ("16 codes of a 4 × 4 grid become 64 × 64 pixels",), "models/mask_codec.py", ""
        ),
    ]


def pieces(
    processor: PaliGemmaProcessor, prompt: str, answer: Sequence[str]
) -> list[tuple[str, str]]:
    """(kind, text) of each token of a request: image, bos, prefix, separator, answer."""
    ids = processor.encode_prompt(prompt)[processor.num_image_tokens + 1 : -1]
    prefix = [processor.tokenizer.id_to_token(i).replace("▁", " ") for i in ids]
    return [
        *[("image", "▦")] * processor.num_image_tokens,
        ("bos", "<bos>"),
        *(("prefix", text) for text in prefix),
        ("separator", "\n"),
        *(("answer", text) for text in answer),
    ]


def mask(kinds: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Who sees whom in such a request, bool [T, T], and its rows' kinds.

    Of many image tokens, which are all alike here, MOST_IMAGE_TOKENS stand for the rest.
    """
    images = kinds.count("image")
    shown = list(kinds[max(0, images - MOST_IMAGE_TOKENS) :])
    types = torch.tensor([[kind == "answer" for kind in shown]]).long()
    return prefix_lm_mask(torch.ones_like(types), types)[0, 0].numpy(), shown
