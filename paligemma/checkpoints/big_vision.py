"""big_vision's `.npz`, the format that PaliGemma was trained in, both ways. Nothing is unpickled.

Source: github.com/google-research/big_vision (models/vit.py, models/ppp/gemma.py). Layers are
stacked along the first axis of every array, and bfloat16 lies there as raw pairs of bytes. The
file holds no config: `published_config` finds the published variant of the same sizes.
"""

import zipfile
import zlib
from math import isqrt
from pathlib import Path

import numpy as np
import torch
from einops import EinopsError, rearrange
from torch import Tensor

from paligemma.config import VARIANTS, PaliGemmaConfig
from paligemma.npz import check_npz, read_headers

INPUT_EMBEDDING = "llm/embedder/input_embedding"
EMBEDDING = "language_model.embed_tokens.weight"
SPARE_NUMBERS = 2_000_000  # that a file may hold beyond its config's, to be named when it is fitted
# What numpy and torch raise for a damaged archive, a single array, an array with too few axes.
NPZ_ERRORS = (
    *(EOFError, OSError, ValueError, zipfile.BadZipFile, zlib.error),
    *(IndexError, RuntimeError, TypeError),
)

# big_vision's key -> einops pattern and our name. With two names, the first axis holds both.
# N heads, K key/value heads, H head dimension, i in, o out, D width.
KeyMapping = tuple[str, ...]
UNSTACKED: dict[str, KeyMapping] = {
    "img/embedding/kernel": (
        "y x c o -> o c y x",
        "vision_tower.embeddings.patch_embedding.weight",
    ),
    "img/embedding/bias": ("o -> o", "vision_tower.embeddings.patch_embedding.bias"),
    "img/pos_embedding": ("1 P D -> P D", "vision_tower.embeddings.position_embedding.weight"),
    "img/Transformer/encoder_norm/scale": ("D -> D", "vision_tower.post_layernorm.weight"),
    "img/Transformer/encoder_norm/bias": ("D -> D", "vision_tower.post_layernorm.bias"),
    "img/head/kernel": ("i o -> o i", "multi_modal_projector.linear.weight"),
    "img/head/bias": ("o -> o", "multi_modal_projector.linear.bias"),
    INPUT_EMBEDDING: ("V D -> V D", EMBEDDING),
    "llm/final_norm/scale": ("D -> D", "language_model.norm.weight"),
}
TOWER: dict[str, KeyMapping] = {
    "LayerNorm_0/scale": ("D -> D", "layer_norm1.weight"),
    "LayerNorm_0/bias": ("D -> D", "layer_norm1.bias"),
    "LayerNorm_1/scale": ("D -> D", "layer_norm2.weight"),
    "LayerNorm_1/bias": ("D -> D", "layer_norm2.bias"),
    "MlpBlock_0/Dense_0/kernel": ("i o -> o i", "mlp.fc1.weight"),
    "MlpBlock_0/Dense_0/bias": ("o -> o", "mlp.fc1.bias"),
    "MlpBlock_0/Dense_1/kernel": ("i o -> o i", "mlp.fc2.weight"),
    "MlpBlock_0/Dense_1/bias": ("o -> o", "mlp.fc2.bias"),
    "MultiHeadDotProductAttention_0/query/kernel": ("i N H -> (N H) i", "self_attn.q_proj.weight"),
    "MultiHeadDotProductAttention_0/query/bias": ("N H -> (N H)", "self_attn.q_proj.bias"),
    "MultiHeadDotProductAttention_0/key/kernel": ("i N H -> (N H) i", "self_attn.k_proj.weight"),
    "MultiHeadDotProductAttention_0/key/bias": ("N H -> (N H)", "self_attn.k_proj.bias"),
    "MultiHeadDotProductAttention_0/value/kernel": ("i N H -> (N H) i", "self_attn.v_proj.weight"),
    "MultiHeadDotProductAttention_0/value/bias": ("N H -> (N H)", "self_attn.v_proj.bias"),
    "MultiHeadDotProductAttention_0/out/kernel": ("N H o -> o (N H)", "self_attn.out_proj.weight"),
    "MultiHeadDotProductAttention_0/out/bias": ("o -> o", "self_attn.out_proj.bias"),
}
DECODER: dict[str, KeyMapping] = {
    "pre_attention_norm/scale": ("D -> D", "input_layernorm.weight"),
    "attn/q_einsum/w": ("N i H -> (N H) i", "self_attn.q_proj.weight"),
    "attn/kv_einsum/w": (
        "K i H -> (K H) i",
        "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",
    ),
    "attn/attn_vec_einsum/w": ("N H o -> o (N H)", "self_attn.o_proj.weight"),
    "mlp/gating_einsum": ("i o -> o i", "mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "mlp/linear": ("i o -> o i", "mlp.down_proj.weight"),
}
# The norms around the MLP: Gemma 1 and Gemma 2 use one name for different places.
TWO_NORMS: dict[str, KeyMapping] = {
    "pre_ffw_norm/scale": ("D -> D", "post_attention_layernorm.weight"),
}
FOUR_NORMS: dict[str, KeyMapping] = {
    "post_attention_norm/scale": ("D -> D", "post_attention_layernorm.weight"),
    "pre_ffw_norm/scale": ("D -> D", "pre_feedforward_layernorm.weight"),
    "post_ffw_norm/scale": ("D -> D", "post_feedforward_layernorm.weight"),
}


def _mappings(config: PaliGemmaConfig) -> dict[str, KeyMapping]:
    """Every key of a file of this config. {n} in our names is the layer of a stacked array."""
    norms = FOUR_NORMS if config.text_config.post_norms else TWO_NORMS
    stacks = (
        ("img/Transformer/encoderblock/", "vision_tower.encoder.layers.{n}.", TOWER),
        ("llm/layers/", "language_model.layers.{n}.", DECODER | norms),
    )
    mappings = dict(UNSTACKED)
    for key_prefix, name_prefix, table in stacks:
        for key, (pattern, *names) in table.items():
            mappings[key_prefix + key] = (pattern, *(name_prefix + name for name in names))
    return mappings


def published_config(path: Path) -> PaliGemmaConfig:
    """The published variant that an `.npz` has the sizes of.

    Raises ValueError if the file cannot be read, or no published variant has these sizes.
    """
    shapes = _shapes(path)
    try:
        sizes = _sizes(shapes)
    except KeyError as error:
        raise ValueError(f"{path} is not a PaliGemma of big_vision: it lacks {error}.") from error
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path} is not a PaliGemma of big_vision: {error}.") from error
    for config in VARIANTS.values():
        vision, text = config.vision_config, config.text_config
        if sizes == (
            *(vision.hidden_size, vision.num_hidden_layers, vision.grid),
            *(text.hidden_size, text.num_hidden_layers, text.num_attention_heads),
            *(text.num_key_value_heads, text.head_dim, text.post_norms),
        ):
            return config
    raise ValueError(
        f"{path} has the numbers of no published PaliGemma (width {sizes[3]}, {sizes[4]} layers, "
        f"{sizes[2]} × {sizes[2]} patches); put its config.json beside it."
    )


def _sizes(shapes: dict[str, tuple[int, ...]]) -> tuple:
    layers, heads, width, head_dim = shapes["llm/layers/attn/q_einsum/w"]
    _, _, kv_heads, _, _ = shapes["llm/layers/attn/kv_einsum/w"]
    _, patches, tower_width = shapes["img/pos_embedding"]
    tower_layers = shapes["img/Transformer/encoderblock/LayerNorm_0/scale"][0]
    post_norms = "llm/layers/post_ffw_norm/scale" in shapes
    grid = isqrt(patches)
    text = (width, layers, heads, kv_heads, head_dim, post_norms)
    return (tower_width, tower_layers, grid, *text)


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every array, from the headers alone."""
    try:
        headers = read_headers(path)
    except NPZ_ERRORS as error:
        raise ValueError(f"{path} cannot be read as a big_vision .npz: {error}") from error
    return {
        name.removesuffix(".npy").removeprefix("params/"): shape
        for name, (shape, _) in headers.items()
    }


def read(path: str | Path, config: PaliGemmaConfig) -> dict[str, Tensor]:
    """The file's arrays under our names. Unknown keys keep theirs.

    The file's embedding table ends before <image>: the rest of its rows is zero. Raises ValueError
    if the file is damaged or has other sizes than the config.
    """
    mappings, state = _mappings(config), {}
    try:
        check_npz(path, int(config.num_parameters * 1.25) + SPARE_NUMBERS)
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                tensor = _to_tensor(arrays[key])
                mapping = mappings.get(key.removeprefix("params/"))
                if mapping is None:
                    state[key] = tensor
                    continue
                pattern, *names = mapping
                heads = _head_counts(config, key.removeprefix("params/"), pattern)
                if "{n}" in names[0]:
                    for n, layer in enumerate(tensor):
                        state |= _convert(
                            layer, pattern, heads, [name.format(n=n) for name in names]
                        )
                else:
                    state |= _convert(tensor, pattern, heads, names)
        if EMBEDDING in state:
            missing = max(config.text_config.vocab_size - len(state[EMBEDDING]), 0)
            state[EMBEDDING] = torch.nn.functional.pad(state[EMBEDDING], (0, 0, 0, missing))
    except NPZ_ERRORS as error:
        raise ValueError(f"{path} cannot be read as a big_vision .npz: {error}") from error
    return state


def _head_counts(config: PaliGemmaConfig, key: str, pattern: str) -> dict[str, int]:
    """The sizes of the head axes in `pattern`: an array of others does not fit the config."""
    vision, text = config.vision_config, config.text_config
    heads = {
        "img": {"N": vision.num_attention_heads},
        "llm": {"N": text.num_attention_heads, "K": text.num_key_value_heads},
    }
    return {axis: n for axis, n in heads.get(key[:3], {}).items() if f"({axis} H)" in pattern}


def _convert(
    array: Tensor, pattern: str, heads: dict[str, int], names: list[str]
) -> dict[str, Tensor]:
    parts = array if len(names) > 1 else [array]
    if len(parts) != len(names):
        raise ValueError(f"{names[0]} and {names[1]} come as {len(parts)} arrays.")
    state = {}
    for name, part in zip(names, parts, strict=True):
        try:
            state[name] = rearrange(part, pattern, **heads).contiguous()
        except EinopsError as error:
            sizes = "".join(f", {axis} = {n}" for axis, n in heads.items())
            raise ValueError(
                f"{name} comes as {list(part.shape)}, not as {pattern.split(' -> ')[0]}{sizes}"
            ) from error
    return state


def _to_tensor(array: np.ndarray) -> Tensor:
    """numpy has no bfloat16: such arrays are read as raw pairs of bytes."""
    if array.dtype == np.dtype("V2"):
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _to_array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view("V2")
    return tensor.numpy()


def write(path: str | Path, config: PaliGemmaConfig, state: dict[str, Tensor]) -> None:
    """Write our tensors as big_vision's arrays, one after the other.

    As in the published files, the embedding table ends before <image>, whose row is never used.
    """
    vision, text = config.vision_config, config.text_config
    layers = {"img": vision.num_hidden_layers, "llm": text.num_hidden_layers}
    with zipfile.ZipFile(path, "w") as archive:
        for key, (pattern, *names) in _mappings(config).items():
            heads = _head_counts(config, key, pattern)
            theirs, ours = pattern.split(" -> ")
            inverse = f"{ours} -> {theirs}"
            stacked = "{n}" in names[0]
            arrays = []
            for n in range(layers[key[:3]] if stacked else 1):
                parts = [rearrange(state[name.format(n=n)], inverse, **heads) for name in names]
                arrays.append(torch.stack(parts) if len(parts) > 1 else parts[0])
            array = torch.stack(arrays) if stacked else arrays[0]
            if key == INPUT_EMBEDDING:
                array = array[: config.image_token_index]
            with archive.open(f"params/{key}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, _to_array(array), allow_pickle=False)
