"""PaliGemma from scratch, in plain PyTorch.

    from paligemma import PaliGemma
    pg = PaliGemma.load()
    print(pg.generate("examples/harbour.png", "caption en").text)

Shapes are written with one alphabet everywhere: B batch, T query positions, S key positions,
N heads, K key/value heads, H head dimension, D width, P image tokens, V vocabulary.
"""

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

__all__ = list(_HOME)


def __getattr__(name: str):
    """Import a name when it is first asked for: `paligemma.detections` alone needs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'paligemma' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"paligemma.{_HOME[name]}"), name)
