"""Tiny models with every effect turned up, and their twins in transformers.

Not a test file: the parity tests of the model, of attention and of the weights share it.
"""

import pytest
import torch
from torch import Tensor

from paligemma.config import PaliGemmaConfig, TextConfig, VisionConfig
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration

VISION = VisionConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    image_size=28,
    patch_size=7,
)
SHARED = {
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
IMAGE = 99  # the image token's id
CONFIGS = {
    "gemma1": PaliGemmaConfig(VISION, TextConfig(**SHARED), 48, IMAGE),
    "gemma2": PaliGemmaConfig(
        VISION,
        TextConfig(
            **SHARED,
            query_pre_attn_scalar=7,  # far from head_dim
            attn_logit_softcapping=2.0,
            final_logit_softcapping=3.0,
            sliding_window=5,  # shorter than every prompt, and than the image
            post_norms=True,
        ),
        48,
        IMAGE,
    ),
}


def weights(config: PaliGemmaConfig, seed: int = 0) -> dict[str, Tensor]:
    """Random parameters, an order of magnitude above those of an ordinary initialisation."""
    generator = torch.Generator().manual_seed(seed)
    shapes = PaliGemmaForConditionalGeneration(config).state_dict()
    return {
        name: torch.randn(tensor.shape, generator=generator) * (0.3 if tensor.ndim > 1 else 0.5)
        for name, tensor in shapes.items()
    }


def ours(config: PaliGemmaConfig, seed: int = 0) -> PaliGemmaForConditionalGeneration:
    model = PaliGemmaForConditionalGeneration(config).eval()
    model.load_state_dict(weights(config, seed))
    return model


def theirs(config: PaliGemmaConfig, seed: int = 0):
    """The same model in transformers, with attention spelled out ("eager")."""
    transformers = pytest.importorskip("transformers")
    model = transformers.PaliGemmaForConditionalGeneration._from_config(
        transformers.PaliGemmaConfig(**config.to_dict()), attn_implementation="eager"
    ).eval()
    state = {f"model.{name}": tensor for name, tensor in weights(config, seed).items()}
    state["lm_head.weight"] = state["model.language_model.embed_tokens.weight"]
    model.load_state_dict(state)
    model.generation_config.eos_token_id = None  # generate exactly as many tokens as asked
    return model


def prompts(*lengths: int, seed: int = 0) -> dict[str, Tensor]:
    """A batch: an image, then `lengths` text tokens in each row, padded on the left."""
    generator = torch.Generator().manual_seed(seed)
    image, longest = VISION.num_image_tokens, max(lengths)
    input_ids = torch.zeros(len(lengths), image + longest, dtype=torch.long)
    for row, length in zip(input_ids, lengths, strict=True):
        row[longest - length : longest - length + image] = IMAGE
        row[longest - length + image :] = torch.randint(3, 90, (length,), generator=generator)
    pixels = torch.rand(len(lengths), 3, 28, 28, generator=generator) * 2 - 1
    return {
        "input_ids": input_ids,
        "attention_mask": (input_ids != 0).long(),
        "pixel_values": pixels,
        "token_type_ids": torch.zeros_like(input_ids),
    }
