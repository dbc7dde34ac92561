"""PaliGemma from scratch, in plain PyTorch.

    from paligemma import PaliGemma
    pg = PaliGemma.load()
    print(pg.generate("examples/harbour.png", "caption en").text)

Shapes are written with one alphabet everywhere: B batch, T query positions, S key positions,
N heads, K key/value heads, H head dimension, D width, P image tokens, V vocabulary.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paligemma.config import PaliGemmaConfig
    from paligemma.detections import Detection
    from paligemma.generation import SamplingOptions
    from paligemma.models.gemma import KVCache
    from paligemma.models.mask_codec import MaskCodec
    from paligemma.models.paligemma import PaliGemmaForConditionalGeneration
    from paligemma.pipeline import PaliGemma
    from paligemma.processor import PaliGemmaProcessor
    from paligemma.reply import Reply

__version__ = "0.2.0"

__all__ = [
    "Detection",
    "KVCache",
    "MaskCodec",
    "PaliGemma",
    "PaliGemmaConfig",
    "PaliGemmaForConditionalGeneration",
    "PaliGemmaProcessor",
    "Reply",
    "SamplingOptions",
]

_HOME = {
    "PaliGemma": "pipeline",
    "Reply": "reply",
    "SamplingOptions": "generation",
    "Detection": "detections",
    "PaliGemmaConfig": "config",
    "PaliGemmaProcessor": "processor",
    "PaliGemmaForConditionalGeneration": "models.paligemma",
    "KVCache": "models.gemma",
    "MaskCodec": "models.mask_codec",
}


def __getattr__(name: str):
    """Import a name when it is first asked for: `paligemma.detections` alone needs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'paligemma' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"paligemma.{_HOME[name]}"), name)
