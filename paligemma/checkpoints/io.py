"""Checkpoints on disk: read every published layout, write them. Nothing is ever unpickled.

- a folder of the Hugging Face hub: config.json and safetensors, one file or sharded with an
  index, under the older names (what the hub's PaliGemma files hold) or the newer ones;
- a big_vision `.npz` (paligemma/checkpoints/big_vision.py).

Loading is strict: a missing, an unexpected or a misshapen tensor is an error that names it.
Safetensors are mapped into memory, not read: a tensor costs memory when it is first touched.
"""

import json
import os
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from paligemma.checkpoints import big_vision
from paligemma.config import PaliGemmaConfig
from paligemma.devices import DTYPES, DeviceMap, dispatch, free_disk, gigabytes, refuse_float16
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TABLE = "language_model.embed_tokens.weight"
SHARD_BYTES = 5_000_000_000  # as the hub's own files are cut

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

# --- Reading --------------------------------------------------------------------------------------


def read_config(path: str | Path) -> PaliGemmaConfig:
    """The config of a folder or an `.npz`; ValueError where it is missing, damaged or not ours."""
    path = Path(path)
    if path.suffix == ".npz":
        return big_vision.read_config(path)
    return PaliGemmaConfig.from_dict(_read_json(path, CONFIG))


def load_model(
    path: str | Path,
    device: torch.device | str | DeviceMap = "cpu",
    dtype: torch.dtype | None = None,
) -> PaliGemmaForConditionalGeneration:
    """Load a folder or an `.npz`, ready to run on `device` in `dtype` (None: the file's own).

    A `DeviceMap` lays the model over several devices. Raise ValueError for files that are missing,
    damaged or do not fit their config.
    """
    path = Path(path)
    config = read_config(path)
    if path.suffix == ".npz":
        return _build(config, big_vision.read(path, config), {}, device, dtype, source=path)
    state: dict[str, Tensor] = {}
    output_tables: dict[str, Tensor] = {}
    homes: dict[str, tuple[Path, str]] = {}
    for file, expected in _weight_files(path).items():
        try:
            tensors = load_file(file)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} cannot be read as safetensors: {error}") from error
        if lacking := sorted(expected - tensors.keys()):
            raise ValueError(f"{file} lacks {_first(lacking)}, which {INDEX} places there.")
        for name, tensor in tensors.items():
            if name in OUTPUT_TABLES:
                output_tables[name] = tensor
            elif (own := own_name(name)) in state:
                raise ValueError(f"{file} holds {name}, which the checkpoint has twice.")
            else:
                state[own], homes[own] = tensor, (file, name)
    for name, tensor in output_tables.items():
        if TABLE in state and not torch.equal(tensor, state[TABLE]):
            raise ValueError(
                f"{path} holds {name}, which differs from the embedding table; "
                "PaliGemma ties the two, and only a tied model can be loaded."
            )
    return _build(config, state, homes, device, dtype, source=path)


def own_name(name: str) -> str:
    """A parameter's name in any of the hub's layouts -> its name in this project."""
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


def _weight_files(folder: Path) -> dict[Path, set[str]]:
    """The one file of weights, or every shard that the index names, with what must be in it."""
    if (folder / WEIGHTS).is_file():
        return {folder / WEIGHTS: set()}
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder} has neither {WEIGHTS} nor {INDEX}.")
    weight_map = _read_json(folder, INDEX).get("weight_map")
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


# --- Building -------------------------------------------------------------------------------------


def _build(
    config: PaliGemmaConfig,
    state: dict[str, Tensor],
    homes: dict[str, tuple[Path, str]],
    device: torch.device | str | DeviceMap,
    dtype: torch.dtype | None,
    source: Path,
) -> PaliGemmaForConditionalGeneration:
    """A model made of the tensors of `state`; no parameter is ever allocated twice."""
    with torch.device("meta"):
        model = PaliGemmaForConditionalGeneration(config)
    _require_fit(model, state, source)
    dtype = dtype or state[TABLE].dtype
    if dtype not in DTYPES.values():
        raise ValueError(f"{source}: {dtype} is not a dtype to run in; choose {', '.join(DTYPES)}.")
    refuse_float16(config, dtype, source)
    if isinstance(device, DeviceMap):
        return dispatch(model.eval(), state, homes, device, dtype)
    for name in state:  # one at a time, so that what was read is freed as it is converted
        state[name] = state[name].to(device, dtype)
    model.load_state_dict(state, assign=True)
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
    kinds = [f"{name} ({tensor.dtype})" for name, tensor in state.items()
             if tensor.dtype not in DTYPES.values()]  # fmt: skip
    problems = {
        "missing": sorted(shapes.keys() - found.keys()),
        "unexpected": sorted(found.keys() - shapes.keys()),
        "misshapen": misshapen,
        "of another dtype": kinds,
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


def save_model(
    model: PaliGemmaForConditionalGeneration,
    folder: str | Path,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write config.json and safetensors, under the hub's older names, into `folder`.

    transformers loads the result too. A model of more than `shard_bytes` is cut into several files
    with an index. Files that exist are replaced whole, so a model may be saved over the very folder
    it is mapped from. Raise ValueError where the disk has no room.
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
    _make_folder(folder, sum(tensor.nbytes for tensor in renamed.values()))

    cut = split_torch_state_dict_into_shards(renamed, max_shard_size=shard_bytes)
    documents = {CONFIG: values}
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
        if cut.is_sharded:  # else the older single file would be read instead
            (folder / WEIGHTS).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder} cannot be written: {error}.") from error
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def save_npz(model: PaliGemmaForConditionalGeneration, path: str | Path) -> None:
    """Write a big_vision `.npz`. Raise ValueError where the disk has no room."""
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
    """Raise ValueError where it cannot be made, or its disk has fewer bytes free than `needed`."""
    try:
        free = free_disk(folder)
        if needed > free:
            raise ValueError(
                f"{folder} needs {gigabytes(needed)}, and its disk has {gigabytes(free)} free."
            )
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {error}.") from error


def write_text(path: Path, text: str) -> None:
    """Write a small file aside, then rename it: what is there is always whole."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, "utf-8")
    os.replace(part, path)
