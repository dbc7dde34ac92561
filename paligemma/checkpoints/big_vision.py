"""big_vision's `.npz`, the format that PaliGemma was trained in, both ways. Nothing is unpickled.

Source: github.com/google-research/big_vision (models/vit.py, models/ppp/gemma.py). Layers are
stacked along the first axis of every array, and bfloat16 lies there as raw pairs of bytes. The
file holds no config: `read_config` finds the published variant whose numbers it has.
"""

import json
import zipfile
import zlib
from math import isqrt
from pathlib import Path

import numpy as np
import torch
from einops import EinopsError, rearrange
from torch import Tensor

from paligemma.config import VARIANTS, PaliGemmaConfig

TABLE, OUR_TABLE = "llm/embedder/input_embedding", "language_model.embed_tokens.weight"
# What numpy and torch raise for a damaged archive, a lone array, an array with too few axes.
NPZ_ERRORS = (EOFError, OSError, ValueError, zipfile.BadZipFile, zlib.error)
NPZ_ERRORS += (IndexError, RuntimeError, TypeError)

# big_vision's key -> our name and how the axes go over. Two names: parts along the first axis.
# N heads, K key/value heads, H head dimension, i in, o out, D width.
Row = tuple[str, ...]
ONCE: dict[str, Row] = {
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
    TABLE: ("V D -> V D", OUR_TABLE),
    "llm/final_norm/scale": ("D -> D", "language_model.norm.weight"),
}
TOWER: dict[str, Row] = {
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
DECODER: dict[str, Row] = {
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
# The norms that follow, where the two Gemmas give one name to different places.
TWO_NORMS: dict[str, Row] = {
    "pre_ffw_norm/scale": ("D -> D", "post_attention_layernorm.weight"),
}
FOUR_NORMS: dict[str, Row] = {
    "post_attention_norm/scale": ("D -> D", "post_attention_layernorm.weight"),
    "pre_ffw_norm/scale": ("D -> D", "pre_feedforward_layernorm.weight"),
    "post_ffw_norm/scale": ("D -> D", "post_feedforward_layernorm.weight"),
}


def _rows(config: PaliGemmaConfig) -> dict[str, Row]:
    """Every key of a file of this config; {n} stands in our names where layers are stacked."""
    norms = FOUR_NORMS if config.text_config.post_norms else TWO_NORMS
    stacks = (
        ("img/Transformer/encoderblock/", "vision_tower.encoder.layers.{n}.", TOWER),
        ("llm/layers/", "language_model.layers.{n}.", DECODER | norms),
    )
    rows = dict(ONCE)
    for stack, layers, table in stacks:
        for key, (axes, *names) in table.items():
            rows[stack + key] = (axes, *(layers + name for name in names))
    return rows


def read_config(path: str | Path) -> PaliGemmaConfig:
    """The config of an `.npz`: the config.json beside it, or the published variant it is.

    Raise ValueError where the file cannot be read, or has the numbers of no published variant.
    """
    path = Path(path)
    beside = path.parent / "config.json"
    if beside.is_file():
        try:
            return PaliGemmaConfig.from_dict(json.loads(beside.read_text("utf-8")))
        except (OSError, ValueError) as error:
            raise ValueError(f"{beside} cannot be read as a config: {error}") from error
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
            vision.hidden_size, vision.num_hidden_layers, vision.grid,
            text.hidden_size, text.num_hidden_layers, text.num_attention_heads,
            text.num_key_value_heads, text.head_dim, text.post_norms,
        ):  # fmt: skip
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
    four_norms = "llm/layers/post_ffw_norm/scale" in shapes
    return (
        tower_width, tower_layers, isqrt(patches),
        width, layers, heads, kv_heads, head_dim, four_norms,
    )  # fmt: skip


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every array, from the headers alone."""
    shapes = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    version = np.lib.format.read_magic(file)
                    read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
                        version, np.lib.format.read_array_header_2_0
                    )
                    key = name.removesuffix(".npy").removeprefix("params/")
                    shapes[key] = read(file)[0]
    except NPZ_ERRORS as error:
        raise ValueError(f"{path} cannot be read as a big_vision .npz: {error}") from error
    return shapes


def read(path: str | Path, config: PaliGemmaConfig) -> dict[str, Tensor]:
    """The file's arrays under our names; keys that are not PaliGemma's keep theirs.

    Rows that the table of `config` has beyond the file's (for <image>) are zero. Raise ValueError
    where the file is damaged.
    """
    rows, state = _rows(config), {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                tensor = _tensor(arrays[key])
                bare = key.removeprefix("params/")
                axes, *names = rows.get(bare, ("", key))
                known = _known(config, bare, axes)
                if not axes:
                    state[key] = tensor
                elif "{n}" in names[0]:
                    for n, layer in enumerate(tensor):
                        _split(state, layer, axes, known, [name.format(n=n) for name in names])
                else:
                    _split(state, tensor, axes, known, names)
        if OUR_TABLE in state:
            short = max(config.text_config.vocab_size - len(state[OUR_TABLE]), 0)
            state[OUR_TABLE] = torch.nn.functional.pad(state[OUR_TABLE], (0, 0, 0, short))
    except NPZ_ERRORS as error:
        raise ValueError(f"{path} cannot be read as a big_vision .npz: {error}") from error
    return state


def _known(config: PaliGemmaConfig, key: str, axes: str) -> dict[str, int]:
    """The numbers of heads among `axes`: a file that has others is not of this config."""
    vision, text = config.vision_config, config.text_config
    heads = {
        "img": {"N": vision.num_attention_heads},
        "llm": {"N": text.num_attention_heads, "K": text.num_key_value_heads},
    }
    return {axis: n for axis, n in heads.get(key[:3], {}).items() if f"({axis} H)" in axes}


def _split(
    state: dict[str, Tensor], array: Tensor, axes: str, known: dict[str, int], names: list[str]
) -> None:
    parts = array if len(names) > 1 else [array]
    if len(parts) != len(names):
        raise ValueError(f"{names[0]} and its twin come as {len(parts)} arrays.")
    for name, part in zip(names, parts, strict=True):
        try:
            state[name] = rearrange(part, axes, **known).contiguous()
        except EinopsError as error:
            numbers = "".join(f", {axis} = {n}" for axis, n in known.items())
            raise ValueError(
                f"{name} comes as {list(part.shape)}, not as {axes.split(' -> ')[0]}{numbers}"
            ) from error


def _tensor(array: np.ndarray) -> Tensor:
    """numpy has no bfloat16: such arrays come as raw pairs of bytes."""
    if array.dtype == np.dtype("V2"):
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view("V2")
    return tensor.numpy()


def write(path: str | Path, config: PaliGemmaConfig, state: dict[str, Tensor]) -> None:
    """Write our tensors as big_vision's arrays, one after the other.

    As published, the table ends before <image>, whose row is never looked up.
    """
    vision, text = config.vision_config, config.text_config
    layers = {"img": vision.num_hidden_layers, "llm": text.num_hidden_layers}
    with zipfile.ZipFile(path, "w") as archive:
        for key, (axes, *names) in _rows(config).items():
            theirs, ours = axes.split(" -> ")
            known = _known(config, key, axes)

            def gathered(names: list[str], back=f"{ours} -> {theirs}", known=known) -> Tensor:
                arrays = [rearrange(state[name], back, **known) for name in names]
                return torch.stack(arrays) if len(arrays) > 1 else arrays[0]

            if "{n}" in names[0]:
                stack = [gathered([f.format(n=n) for f in names]) for n in range(layers[key[:3]])]
                array = torch.stack(stack)
            else:
                array = gathered(names)
            if key == TABLE:
                array = array[: config.image_token_index]
            with archive.open(f"params/{key}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, _array(array), allow_pickle=False)
