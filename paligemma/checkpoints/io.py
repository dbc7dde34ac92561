"""Checkpoints on disk: every published layout read, and written. Nothing is ever unpickled.

- a folder of the Hugging Face hub: config.json and safetensors, one file or sharded with an
  index, under the older names (what the hub's PaliGemma files hold) or the newer ones;
- a big_vision `.npz` (paligemma/checkpoints/big_vision.py).

Loading is strict: a missing, an unexpected or a misshapen tensor is an error that names it.
Safetensors are mapped into memory, not read: a tensor costs memory when it is first touched.
"""

import ctypes
import json
import mmap
import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from paligemma.checkpoints import big_vision
from paligemma.checkpoints.big_vision import EMBEDDING
from paligemma.config import PaliGemmaConfig, quantization_values
from paligemma.devices import (
    DTYPES,
    DeviceMap,
    check_float16,
    dispatch,
    format_bytes,
    free_disk_space,
)
from paligemma.models.frozen import quantize_frozen, quantized_tensors
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration
from paligemma.processor import processor_files

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
INITIALIZATION = "initialization"  # a key of config.json; "random": the weights were never trained
QUANTIZED_EMBEDDING = "language_model.embed_tokens.linear.scales"  # of its rows, not the table
MAX_JSON_BYTES = 8_000_000  # the published indexes have 0.1 MB
# Larger models are mapped into memory, not read: only norms, biases and samples are checked there.
FULLY_CHECKED_PARAMETERS = 200_000_000
SAMPLED_NUMBERS = 4_096  # at either end of a tensor
MAX_SHARD_SIZE = "5GB"  # that of the hub's own shards

# --- Names ----------------------------------------------------------------------------------------

# Prefix of a name in a hub file -> prefix of our name. The first that fits is used.
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
# The output layer, a copy of the embedding table in some files.
LM_HEAD_NAMES = ("lm_head.weight", "language_model.lm_head.weight")


def from_hub_name(name: str) -> str:
    """A parameter's name in any of the hub's layouts -> its name in this project."""
    for hub_prefix, prefix in HUB_NAMES.items():
        if name.startswith(hub_prefix):
            return prefix + name.removeprefix(hub_prefix)
    return name


def to_hub_names(name: str) -> list[str]:
    """A name in this project -> its names in all of the hub's layouts."""
    return [
        hub_prefix + name.removeprefix(prefix)
        for hub_prefix, prefix in HUB_NAMES.items()
        if name.startswith(prefix)
    ]


def is_whole_model(folder: Path) -> bool:
    """Whether there are weights in safetensors, not only a config.json."""
    return any((folder / name).is_file() for name in (WEIGHTS, INDEX))


# --- Reading --------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError if it is missing, damaged or no object."""
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent} is not a folder; a checkpoint is one, with a {CONFIG}.")
    if not path.is_file():  # reading a pipe or a device might never end
        raise ValueError(f"{path.parent} has no {path.name}.")
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise ValueError(f"{format_bytes(size)} is more than {format_bytes(MAX_JSON_BYTES)}")
        values = json.loads(path.read_text("utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path} cannot be read as JSON: it is nested too deeply.") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}, not an object.")
    return values


def read_config_values(path: str | Path) -> dict[str, Any]:
    """The config.json of a folder, or beside an `.npz`.

    An `.npz` without one is of a published size: the values are those of that size. Raises
    ValueError if there is no config, or it is damaged.
    """
    path = Path(path)
    if path.suffix != ".npz":
        return read_json(path / CONFIG)
    if (path.parent / CONFIG).is_file():
        return read_json(path.parent / CONFIG)
    return big_vision.published_config(path).to_dict()


def read_config(path: str | Path) -> PaliGemmaConfig:
    """The same as a config. Raises ValueError also if it is one of another model."""
    return PaliGemmaConfig.from_dict(read_config_values(path))


def check_header_size(path: Path) -> None:
    """Raises ValueError if the header of a safetensors file is too long to be parsed here."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MAX_JSON_BYTES:
        raise ValueError(
            f"{path} cannot be read as safetensors: its header is said to have {length} bytes; at "
            f"most {MAX_JSON_BYTES} are read."
        )


def load_model(
    path: str | Path,
    device: torch.device | str | DeviceMap = "cpu",
    dtype: torch.dtype | None = None,
    config: PaliGemmaConfig | None = None,
    quantization: str | None = None,
) -> PaliGemmaForConditionalGeneration:
    """Load the model of a folder or an `.npz`, for inference on `device` in `dtype`.

    device: a `DeviceMap` for all devices
    dtype: None for that of the file
    config: what the caller has read already; None to read it
    quantization: of its config.json, see `config.read_quantization`; not on a `DeviceMap`

    Raises ValueError if files are missing, damaged or do not fit the config.
    """
    path = Path(path)
    config = config or read_config(path)
    files: dict[str, tuple[Path, str]] = {}
    lm_heads: dict[str, Tensor] = {}
    if path.suffix == ".npz":
        state = big_vision.read(path, config)
    else:
        state, files, lm_heads = _read_safetensors(path)
    model = build_on_meta(config, quantization)
    if quantization:  # nothing is tied to a table of codes
        state, lm_heads = state | lm_heads, {}
    _check_fit(model, state, path)
    for name, tensor in lm_heads.items():
        _check_tied(path, name, tensor, state[EMBEDDING])
    dtype = dtype or state[QUANTIZED_EMBEDDING if quantization else EMBEDDING].dtype
    if dtype not in DTYPES.values():
        raise ValueError(f"{path}: {dtype} is not a dtype to run in; choose {', '.join(DTYPES)}.")
    check_float16(config, dtype, path)
    everything = config.num_parameters <= FULLY_CHECKED_PARAMETERS
    if isinstance(device, DeviceMap):
        for name, tensor in state.items():
            _check_finite(path, name, tensor, everything)
        return dispatch(model.eval(), state, files, device, dtype)
    for name in state:  # one at a time, so that what was read is freed as it is converted
        tensor = state[name]
        if tensor.is_floating_point():
            state[name] = tensor.to(device, dtype)
        else:  # codes: PyTorch's kernel crashes where rows left over from fours are not aligned
            state[name] = tensor.to(device, copy=True)
            forget_pages(tensor)
        _check_finite(path, name, state[name], everything)
    for name in quantized_tensors(model):
        owner, _, leaf = name.rpartition(".")
        model.get_submodule(owner).register_buffer(leaf, state.pop(name), persistent=False)
    model.load_state_dict(state, assign=True)
    return model.eval()


def forget_pages(tensor: Tensor) -> None:
    """Let the system take back the memory of a tensor that nobody will read again.

    Weights are mapped from their file: what was read of them counts as the process's memory until
    the last tensor of the file is gone, so that a copy in another layout would count beside it.
    """
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if start < end:
        libc = ctypes.CDLL(None)
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


class _SkipInitialization(TorchFunctionMode):
    """Makes the functions of `torch.nn.init` return their tensor as it is."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))


def build_on_meta(
    config: PaliGemmaConfig, quantization: str | None = None
) -> PaliGemmaForConditionalGeneration:
    """A model without memory, to be filled by `load_state_dict(…, assign=True)` or `to_empty`.

    Its parameters are not initialised: on `meta`, `normal_` imports all of torch._dynamo, which
    takes longer than all else that loading the built-in model does.
    """
    with torch.device("meta"), _SkipInitialization():
        model = PaliGemmaForConditionalGeneration(config)
        if quantization:
            quantize_frozen(model.requires_grad_(False), quantization)
    return model


def _read_safetensors(
    folder: Path,
) -> tuple[dict[str, Tensor], dict[str, tuple[Path, str]], dict[str, Tensor]]:
    """Each parameter by its name here, for each its file and its name in that file; output layers.

    Nothing but the headers is read yet.
    """
    state: dict[str, Tensor] = {}
    files: dict[str, tuple[Path, str]] = {}
    lm_heads: dict[str, Tensor] = {}
    for file, expected in _weight_files(folder).items():
        try:
            check_header_size(file)
            tensors = load_file(file)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} cannot be read as safetensors: {error}") from error
        if missing := sorted(expected - tensors.keys()):
            raise ValueError(f"{file} lacks {_first(missing)}, which {INDEX} places there.")
        for hub_name, tensor in tensors.items():
            if hub_name in LM_HEAD_NAMES:
                lm_heads[hub_name] = tensor
            elif (name := from_hub_name(hub_name)) in state:
                raise ValueError(f"{file} holds {hub_name}, which the checkpoint has twice.")
            else:
                state[name], files[name] = tensor, (file, hub_name)
    return state, files, lm_heads


def _check_tied(folder: Path, name: str, lm_head: Tensor, embedding: Tensor) -> None:
    if lm_head.dtype != embedding.dtype or not torch.equal(lm_head, embedding):
        raise ValueError(
            f"{folder} holds {name}, which differs from the embedding table; "
            "PaliGemma ties the two, and only a tied model can be loaded."
        )


def _check_finite(path: Path, name: str, tensor: Tensor, everything: bool) -> None:
    """Raises ValueError for NaN and infinity: anywhere, or at both ends of a large table."""
    if not everything and tensor.dim() > 1:
        flat = tensor.flatten()
        tensor = torch.cat([flat[:SAMPLED_NUMBERS], flat[-SAMPLED_NUMBERS:]])
    if not tensor.isfinite().all():
        raise ValueError(
            f"{path} holds numbers in {name} that are not finite (NaN or infinity): it is damaged, "
            "its training went wrong, or it does not fit the dtype."
        )


def _weight_files(folder: Path) -> dict[Path, set[str]]:
    """The single file, or every shard of the index; each with the names that must be in it."""
    if (folder / WEIGHTS).is_file():
        return {folder / WEIGHTS: set()}
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder} has neither {WEIGHTS} nor {INDEX}.")
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{folder / INDEX} has no weight_map.")
    shards: dict[str, set[str]] = {}
    for name, shard in weight_map.items():
        shards.setdefault(str(shard), set()).add(name)
    for shard in shards:
        if "/" in shard or "\\" in shard or shard in ("", ".", ".."):
            raise ValueError(f"{folder / INDEX} names {shard!r}, which is not a file beside it.")
    if absent := sorted(shard for shard in shards if not (folder / shard).is_file()):
        raise ValueError(f"{folder} lacks {_first(absent)}, which {INDEX} names.")
    return {folder / shard: names for shard, names in sorted(shards.items())}


def _check_fit(
    model: PaliGemmaForConditionalGeneration, state: dict[str, Tensor], source: Path | str
) -> None:
    expected = model.state_dict() | quantized_tensors(model)
    shapes = {name: list(tensor.shape) for name, tensor in expected.items()}
    found = {name: list(tensor.shape) for name, tensor in state.items()}
    misshapen = [
        f"{name} {found[name]} instead of {shape}"
        for name, shape in shapes.items()
        if found.get(name, shape) != shape
    ]
    codes = {name: one.dtype for name, one in expected.items() if not one.is_floating_point()}
    dtypes = [
        f"{name} ({tensor.dtype})"
        for name, tensor in state.items()
        if tensor.dtype not in ([codes[name]] if name in codes else DTYPES.values())
    ]
    problems = {
        "missing": sorted(shapes.keys() - found.keys()),
        "unexpected": sorted(found.keys() - shapes.keys()),
        "misshapen": misshapen,
        "of another dtype": dtypes,
    }
    if any(problems.values()):
        listed = "; ".join(
            f"{len(names)} {kind}: {_first(names)}" for kind, names in problems.items() if names
        )
        raise ValueError(f"{source} does not fit its config. {listed}.")


def _first(names: list[str], limit: int = 10) -> str:
    names = [name if len(name) <= 200 else name[:200] + "…" for name in names]
    more = [f"and {len(names) - limit} more"] if len(names) > limit else []
    return ", ".join(names[:limit] + more)


# --- Writing --------------------------------------------------------------------------------------


def config_values(
    config: PaliGemmaConfig, initialization: str | None, quantization: str | None = None
) -> dict[str, Any]:
    """The content of a config.json."""
    values = config.to_dict()
    if initialization is not None:
        values[INITIALIZATION] = initialization
    return values if quantization is None else values | quantization_values(quantization)


def save_model(
    model: PaliGemmaForConditionalGeneration,
    folder: str | Path,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    initialization: str | None = None,
    quantization: str | None = None,
) -> None:
    """Write config.json and safetensors, with the hub's older names, into `folder`.

    transformers loads the result too, unless `quantize_frozen` made the model's weights
    `quantization` "int8" or "int4". A model of more than `max_shard_size`, in bytes or as "9MB",
    becomes several files with an index. Existing files are replaced atomically, so a model may be
    saved over the folder that it is mapped from. `initialization` "random" marks weights that were
    never trained. Raises ValueError if the folder cannot be written or its disk lacks space.
    """
    folder = Path(folder)
    state = model.state_dict() | quantized_tensors(model)
    _check_fit(build_on_meta(model.config, quantization), state, "the model")
    hub_prefixes = {prefix: hub_prefix for hub_prefix, prefix in OLDER_NAMES.items()}
    renamed = {}
    for name, tensor in state.items():
        prefix = next(prefix for prefix in hub_prefixes if name.startswith(prefix))
        renamed[hub_prefixes[prefix] + name.removeprefix(prefix)] = tensor.contiguous()
    _make_folder(folder, sum(tensor.nbytes for tensor in renamed.values()))

    cut = split_torch_state_dict_into_shards(renamed, max_shard_size=max_shard_size)
    table = state[QUANTIZED_EMBEDDING if quantization else EMBEDDING]
    values = config_values(model.config, initialization, quantization)
    documents = {CONFIG: values | {"torch_dtype": str(table.dtype).removeprefix("torch.")}}
    if cut.is_sharded:
        documents[INDEX] = {"metadata": cut.metadata, "weight_map": cut.tensor_to_filename}
    parts = {name: folder / f".{name}.part" for name in (*cut.filename_to_tensors, *documents)}
    try:
        for shard, names in cut.filename_to_tensors.items():
            tensors = {name: renamed[name] for name in names}
            save_file(tensors, parts[shard], metadata={"format": "pt"})
        for name, document in documents.items():
            parts[name].write_text(json.dumps(document, indent=2) + "\n", "utf-8")
        for name, part in parts.items():
            os.replace(part, folder / name)
        if cut.is_sharded:  # else an existing single file would be read instead
            (folder / WEIGHTS).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder} cannot be written: {error}.") from error
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def save_npz(model: PaliGemmaForConditionalGeneration, path: str | Path) -> None:
    """Write a big_vision `.npz`. Raises ValueError if it cannot be written or the disk is full."""
    path, state = Path(path), model.state_dict()
    _make_folder(path.parent, sum(tensor.nbytes for tensor in state.values()))
    part = path.with_name(f".{path.name}.part")
    try:
        big_vision.write(part, model.config, state)
        os.replace(part, path)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error}.") from error
    finally:
        part.unlink(missing_ok=True)


def _make_folder(folder: Path, needed: int) -> None:
    """Raises ValueError if it cannot be made, or its disk has fewer bytes free than `needed`."""
    try:
        free = free_disk_space(folder)
        if needed > free:
            raise ValueError(
                f"{folder} needs {format_bytes(needed)}, "
                f"and its disk has {format_bytes(free)} free."
            )
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {error}.") from error


def write_text(path: Path, text: str) -> None:
    """Write a small file atomically: under another name first, which is then changed."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, "utf-8")
    os.replace(part, path)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a small JSON file atomically."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def write_processor_files(config: PaliGemmaConfig, folder: Path) -> None:
    """Write what transformers' processor reads, besides tokenizer.json, into `folder`."""
    for name, values in processor_files(config).items():
        write_json(folder / name, values)
