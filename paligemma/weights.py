"""Checkpoints: read the three published layouts, write the first. Nothing is ever unpickled.

- a folder of the Hugging Face hub: config.json and safetensors, one file or sharded with an
  index, under the older names (what the hub's PaliGemma files hold) or the newer ones;
- a big_vision `.npz` (github.com/google-research/big_vision, where PaliGemma was trained).

Loading is strict: a missing, an unexpected or a misshapen tensor is an error that names it.
Safetensors are mapped into memory, not read: a tensor costs memory when it is first touched.
"""

import json
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from paligemma.config import PaliGemmaConfig
from paligemma.model import PaliGemmaForConditionalGeneration

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TABLE = "language_model.embed_tokens.weight"
# What numpy and torch raise for a damaged archive, a lone array, an array with too few axes.
NPZ_ERRORS = (EOFError, OSError, ValueError, zipfile.BadZipFile, zlib.error)
NPZ_ERRORS += (IndexError, RuntimeError, TypeError)

# --- Names ----------------------------------------------------------------------------------------

# Beginning of a name in a hub file -> beginning of ours. The first that fits is used.
NEWER_NAMES = {
    "model.language_model.": "language_model.",
    "model.vision_tower.vision_model.": "vision_tower.",  # transformers 4.52 to 4.57
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}
OLDER_NAMES = {
    "language_model.model.": "language_model.",
    "vision_tower.vision_model.": "vision_tower.",
    "multi_modal_projector.": "multi_modal_projector.",
}
HUB_NAMES = {
    **NEWER_NAMES,
    **OLDER_NAMES,
    "vision_tower.": "vision_tower.",  # transformers 5 saves the older names without vision_model
}
# A copy of the embedding table that some files hold as well.
OUTPUT_TABLES = ("lm_head.weight", "language_model.lm_head.weight")

Convert = Callable[[Tensor], Tensor]


def _same(x: Tensor) -> Tensor:
    return x


def _from_first(x: Tensor) -> Tensor:
    """[in, *out] -> [out, in]."""
    return x.flatten(1).T


def _from_rest(x: Tensor) -> Tensor:
    """[*in, out] -> [out, in]."""
    return x.flatten(0, -2).T


def _from_heads(x: Tensor) -> Tensor:
    """[heads, in, H] -> [heads * H, in]."""
    return x.mT.flatten(0, 1)


Rows = dict[str, dict[str, Convert]]


def _each_layer(stack: str, layers: str, rows: Rows) -> Rows:
    """`rows` for arrays under `stack` whose first axis is the layer, {i} in the names."""
    return {
        stack + key: {f"{layers}.{{i}}.{name}": convert for name, convert in row.items()}
        for key, row in rows.items()
    }


# big_vision's key -> our names, each with what turns the array into our tensor.
BIG_VISION: Rows = {
    "img/embedding/kernel": {
        "vision_tower.embeddings.patch_embedding.weight": lambda x: x.permute(3, 2, 0, 1)
    },
    "img/embedding/bias": {"vision_tower.embeddings.patch_embedding.bias": _same},
    "img/pos_embedding": {
        "vision_tower.embeddings.position_embedding.weight": lambda x: x.flatten(0, 1)
    },
    **_each_layer(
        "img/Transformer/encoderblock/",
        "vision_tower.encoder.layers",
        {
            "LayerNorm_0/scale": {"layer_norm1.weight": _same},
            "LayerNorm_0/bias": {"layer_norm1.bias": _same},
            "LayerNorm_1/scale": {"layer_norm2.weight": _same},
            "LayerNorm_1/bias": {"layer_norm2.bias": _same},
            "MlpBlock_0/Dense_0/kernel": {"mlp.fc1.weight": _from_first},
            "MlpBlock_0/Dense_0/bias": {"mlp.fc1.bias": _same},
            "MlpBlock_0/Dense_1/kernel": {"mlp.fc2.weight": _from_first},
            "MlpBlock_0/Dense_1/bias": {"mlp.fc2.bias": _same},
        },
    ),
    **_each_layer(
        "img/Transformer/encoderblock/MultiHeadDotProductAttention_0/",
        "vision_tower.encoder.layers",
        {
            "query/kernel": {"self_attn.q_proj.weight": _from_first},
            "query/bias": {"self_attn.q_proj.bias": torch.flatten},
            "key/kernel": {"self_attn.k_proj.weight": _from_first},
            "key/bias": {"self_attn.k_proj.bias": torch.flatten},
            "value/kernel": {"self_attn.v_proj.weight": _from_first},
            "value/bias": {"self_attn.v_proj.bias": torch.flatten},
            "out/kernel": {"self_attn.out_proj.weight": _from_rest},
            "out/bias": {"self_attn.out_proj.bias": _same},
        },
    ),
    "img/Transformer/encoder_norm/scale": {"vision_tower.post_layernorm.weight": _same},
    "img/Transformer/encoder_norm/bias": {"vision_tower.post_layernorm.bias": _same},
    "img/head/kernel": {"multi_modal_projector.linear.weight": _from_first},
    "img/head/bias": {"multi_modal_projector.linear.bias": _same},
    "llm/embedder/input_embedding": {TABLE: _same},
    **_each_layer(
        "llm/layers/",
        "language_model.layers",
        {
            "pre_attention_norm/scale": {"input_layernorm.weight": _same},
            "attn/q_einsum/w": {"self_attn.q_proj.weight": _from_heads},
            "attn/kv_einsum/w": {
                "self_attn.k_proj.weight": lambda x: _from_heads(x[0]),
                "self_attn.v_proj.weight": lambda x: _from_heads(x[1]),
            },
            "attn/attn_vec_einsum/w": {"self_attn.o_proj.weight": _from_rest},
            "mlp/gating_einsum": {
                "mlp.gate_proj.weight": lambda x: x[0].T,
                "mlp.up_proj.weight": lambda x: x[1].T,
            },
            "mlp/linear": {"mlp.down_proj.weight": _from_first},
        },
    ),
    "llm/final_norm/scale": {"language_model.norm.weight": _same},
}
# The norms that follow, where the two Gemmas give one name to different places.
TWO_NORMS: Rows = _each_layer(
    "llm/layers/",
    "language_model.layers",
    {"pre_ffw_norm/scale": {"post_attention_layernorm.weight": _same}},
)
FOUR_NORMS: Rows = _each_layer(
    "llm/layers/",
    "language_model.layers",
    {
        "post_attention_norm/scale": {"post_attention_layernorm.weight": _same},
        "pre_ffw_norm/scale": {"pre_feedforward_layernorm.weight": _same},
        "post_ffw_norm/scale": {"post_feedforward_layernorm.weight": _same},
    },
)

# --- Reading --------------------------------------------------------------------------------------


def read_config(folder: str | Path) -> PaliGemmaConfig:
    """The config.json of `folder`; raise ValueError where it is missing, damaged or not ours."""
    return PaliGemmaConfig.from_dict(_read_json(Path(folder), CONFIG))


def load_model(
    folder: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> PaliGemmaForConditionalGeneration:
    """Load a hub folder, ready to run on `device` in `dtype` (None: the file's own).

    Raise ValueError for files that are missing, damaged or do not fit their config.json.
    """
    folder = Path(folder)
    config = read_config(folder)
    state: dict[str, Tensor] = {}
    output_tables: dict[str, Tensor] = {}
    for file in _weight_files(folder):
        try:
            tensors = load_file(file)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} cannot be read as safetensors: {error}") from error
        for name, tensor in tensors.items():
            if name in OUTPUT_TABLES:
                output_tables[name] = tensor
            elif (own := _own_name(name)) in state:
                raise ValueError(f"{file} holds {name}, which the checkpoint has twice.")
            else:
                state[own] = tensor
    for name, tensor in output_tables.items():
        if TABLE in state and not torch.equal(tensor, state[TABLE]):
            raise ValueError(
                f"{folder} holds {name}, which differs from the embedding table; "
                "PaliGemma ties the two, and only a tied model can be loaded."
            )
    return _build(config, state, device, dtype, source=folder)


def load_npz(
    path: str | Path,
    config: PaliGemmaConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> PaliGemmaForConditionalGeneration:
    """Load a big_vision `.npz`, which holds no config: `config` is one of config.VARIANTS.

    Rows that the table of `config` has beyond the file's (for <image>) are zero.
    """
    path, text = Path(path), config.text_config
    table = BIG_VISION | (FOUR_NORMS if text.sandwich_norms else TWO_NORMS)
    state: dict[str, Tensor] = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                array = _tensor(arrays[key])
                for name, convert in table.get(key.removeprefix("params/"), {key: _same}).items():
                    if "{i}" in name:
                        for index, layer in enumerate(array):
                            state[name.format(i=index)] = convert(layer).contiguous()
                    else:
                        state[name] = convert(array).contiguous()
        if TABLE in state and (short := text.vocab_size - len(state[TABLE])) > 0:
            state[TABLE] = torch.nn.functional.pad(state[TABLE], (0, 0, 0, short))
    except NPZ_ERRORS as error:
        raise ValueError(f"{path} cannot be read as a big_vision .npz: {error}") from error
    return _build(config, state, device, dtype, source=path)


def _tensor(array: np.ndarray) -> Tensor:
    """numpy has no bfloat16: such arrays come as raw pairs of bytes."""
    if array.dtype == np.dtype("V2"):
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _own_name(name: str) -> str:
    for beginning, own in HUB_NAMES.items():
        if name.startswith(beginning):
            return own + name.removeprefix(beginning)
    return name


def _read_json(folder: Path, name: str) -> dict:
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; a checkpoint is one, with a {CONFIG} in it.")
    try:
        values = json.loads((folder / name).read_text("utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{folder} has no {name}.") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder / name} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{folder / name} holds a {type(values).__name__}, not an object.")
    return values


def _weight_files(folder: Path) -> list[Path]:
    """The one file of weights, or every shard that the index names."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder} has neither {WEIGHTS} nor {INDEX}.")
    weight_map = _read_json(folder, INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{folder / INDEX} has no weight_map.")
    shards = sorted(set(map(str, weight_map.values())))
    for shard in shards:
        if "/" in shard or "\\" in shard or shard in ("", ".", ".."):
            raise ValueError(f"{folder / INDEX} names {shard!r}, which is not a file beside it.")
    if absent := [shard for shard in shards if not (folder / shard).is_file()]:
        raise ValueError(f"{folder} lacks {_first(absent)}, which {INDEX} names.")
    return [folder / shard for shard in shards]


# --- Building -------------------------------------------------------------------------------------


def _build(
    config: PaliGemmaConfig,
    state: dict[str, Tensor],
    device: torch.device | str,
    dtype: torch.dtype | None,
    source: Path,
) -> PaliGemmaForConditionalGeneration:
    """A model made of the tensors of `state`; no parameter is ever allocated twice."""
    with torch.device("meta"):
        model = PaliGemmaForConditionalGeneration(config)
    _require_fit(model, state, source)
    dtype = dtype or state[TABLE].dtype
    if dtype not in DTYPES:
        allowed = ", ".join(str(allowed).removeprefix("torch.") for allowed in DTYPES)
        raise ValueError(f"{source}: {dtype} is not a dtype to run in; choose {allowed}.")
    if dtype == torch.float16 and config.text_config.sandwich_norms:
        raise ValueError(
            f"{source}: float16 cannot hold Gemma 2, whose activations exceed its largest number, "
            "65504, and become infinite; choose bfloat16."
        )
    moved = {name: tensor.to(device, dtype) for name, tensor in state.items()}
    model.load_state_dict(moved, assign=True)
    return model.eval()


def _require_fit(
    model: PaliGemmaForConditionalGeneration, state: dict[str, Tensor], source: Path | str
) -> None:
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: list(tensor.shape) for name, tensor in state.items()}
    misshapen = [
        f"{name} {found[name]} instead of {shape}"
        for name, shape in shapes.items()
        if found.get(name, shape) != shape
    ]
    problems = {
        "missing": sorted(shapes.keys() - found.keys()),
        "unexpected": sorted(found.keys() - shapes.keys()),
        "misshapen": misshapen,
    }
    if any(problems.values()):
        listed = "; ".join(
            f"{len(names)} {kind}: {_first(names)}" for kind, names in problems.items() if names
        )
        raise ValueError(f"{source} does not fit its config. {listed}.")


def _first(names: list[str], limit: int = 10) -> str:
    more = [f"and {len(names) - limit} more"] if len(names) > limit else []
    return ", ".join(names[:limit] + more)


# --- Writing --------------------------------------------------------------------------------------


def save_model(model: PaliGemmaForConditionalGeneration, folder: str | Path) -> None:
    """Write config.json and model.safetensors, under the hub's older names, into `folder`.

    transformers loads the result too. Files that exist are replaced whole or not at all, so a
    model may be saved over the very folder it is mapped from.
    """
    folder = Path(folder)
    state = model.state_dict()
    with torch.device("meta"):
        _require_fit(PaliGemmaForConditionalGeneration(model.config), state, "the model")
    dtype = str(state[TABLE].dtype).removeprefix("torch.")
    values = model.config.to_dict() | {"torch_dtype": dtype}
    hub = {own: beginning for beginning, own in OLDER_NAMES.items()}
    renamed = {}
    for name, tensor in state.items():
        own = next(own for own in hub if name.startswith(own))
        renamed[hub[own] + name.removeprefix(own)] = tensor.contiguous()

    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: folder / f".{name}.part" for name in (WEIGHTS, CONFIG)}
    try:
        save_file(renamed, parts[WEIGHTS], metadata={"format": "pt"})
        parts[CONFIG].write_text(json.dumps(values, indent=2) + "\n", "utf-8")
        for name, part in parts.items():
            os.replace(part, folder / name)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
