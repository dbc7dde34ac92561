"""A whole checkpoint folder, tiny and random: real tokenizer, mask codec, config and weights.

Not a test file: the tests of training, of the pipeline and of the command line share it. Weights
are as large as those of `reference`, so that answers wander through the vocabulary.
"""

from functools import cache
from pathlib import Path

import torch
from reference import ours
from tokenizers import Tokenizer

from paligemma.checkpoints.io import save_model
from paligemma.config import PaliGemmaConfig, TextConfig, VisionConfig
from paligemma.models.mask_codec import MaskCodec
from paligemma.processor import PaliGemmaProcessor
from paligemma.synthetic.world import open_world
from paligemma.training.tokenizer import train_tokenizer

VISION = VisionConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    image_size=32,
    patch_size=8,
)
P, GRID = VISION.num_image_tokens, VISION.grid


@cache
def trained_tokenizer() -> str:
    return train_tokenizer(open_world("pictograms").texts(1_800, seed=0)).to_str()


def words() -> Tokenizer:
    """The built-in model's tokenizer, of fewer sentences; a new one each time."""
    return Tokenizer.from_str(trained_tokenizer())


def config(**text) -> PaliGemmaConfig:
    sizes = {
        "vocab_size": words().get_vocab_size(),
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    sizes |= text
    image = words().token_to_id("<image>")
    return PaliGemmaConfig(VISION, TextConfig(**sizes), sizes["hidden_size"], image)


def processor() -> PaliGemmaProcessor:
    return PaliGemmaProcessor(words(), P, VISION.image_size)


def codec(encoder=(3, 4, 5, 6), decoder=(7, 6, 5, 4), seed=0) -> MaskCodec:
    """Random, and all its widths differ."""
    torch.manual_seed(seed)
    return MaskCodec(encoder, decoder, codebook_size=128, code_width=8).eval()


def write(folder: Path, **text) -> Path:
    """A folder that `PaliGemma.load` takes."""
    save_model(ours(config(**text)), folder)
    words().save(str(folder / "tokenizer.json"))
    codec().save(folder / "mask_codec.npz")
    return folder
