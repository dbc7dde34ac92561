"""Where a model runs and in which numbers: what this machine has, and whether the model fits.

A model that no single device can hold is spread by accelerate: over the GPUs, then main memory,
then the disk, from where each layer is fetched when its turn comes.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from paligemma.config import PaliGemmaConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ALLOWANCE = 1.1  # of the weights: what cache and activations take beside them
CGROUP = Path("/sys/fs/cgroup")
# Modules that stay on one device.
UNDIVIDED = ["SiglipEncoderLayer", "GemmaDecoderLayer", "SiglipEmbeddings"]


@dataclass(frozen=True)
class DeviceMap:
    """Over all devices. `memory` limits them, in bytes by accelerate's names (0, 1, …, "cpu")."""

    memory: dict[int | str, int] = field(default_factory=dict)


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def best_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes in it, else float32."""
    native = {
        "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
        "mps": lambda: torch.backends.mps.is_macos_or_newer(14, 0),
        "cpu": lambda: any(torch.cpu.get_capabilities().get(unit)
                           for unit in ("avx512_bf16", "amx_bf16", "bf16")),
    }  # fmt: skip
    return torch.bfloat16 if native.get(device.type, bool)() else torch.float32


def read_device(name: str | torch.device) -> torch.device:
    """A device by its name. Raise ValueError for one that this machine has not."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"{name!r} is no device; choose cpu, cuda, cuda:1, mps or auto.") from None
    counts = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if (device.index or 0) >= counts.get(device.type, 0):
        raise ValueError(f"This machine has no device {str(device)!r}.")
    return device


def read_dtype(name: str | torch.dtype) -> torch.dtype:
    """A dtype by its name. Raise ValueError for one that the model does not run in."""
    dtype = DTYPES.get(str(name).removeprefix("torch."))
    if dtype is None:
        raise ValueError(f"{name!r} is not a dtype to run in; choose {', '.join(DTYPES)}.")
    return dtype


def refuse_float16(config: PaliGemmaConfig, dtype: torch.dtype, name: object) -> None:
    """Raise ValueError where Gemma 2 would overflow."""
    if dtype == torch.float16 and config.text_config.post_norms:
        raise ValueError(
            f"{name}: float16 cannot hold Gemma 2, whose activations exceed its largest number, "
            "65504, and become infinite; choose bfloat16."
        )


def needed_bytes(config: PaliGemmaConfig, dtype: torch.dtype) -> int:
    """What a model takes in memory while it answers, roughly."""
    return int(config.num_parameters * dtype.itemsize * ALLOWANCE)


def free_bytes(device: torch.device) -> int:
    """Memory that `device` has free. A container's own limit counts."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    try:
        limit = int((CGROUP / "memory.max").read_text())
        free = min(free, max(limit - int((CGROUP / "memory.current").read_text()) + _cached(), 0))
    except (OSError, ValueError):  # no such group, or "max"
        pass
    return free


def free_disk(folder: Path) -> int:
    """Bytes free on the disk that `folder` lies on, or will lie on once it is made."""
    folder = folder.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


def _cached() -> int:
    """Of a container's used memory: files read or written lately, which give way when asked."""
    try:
        rows = (CGROUP / "memory.stat").read_text().splitlines()
        return int(dict(row.split() for row in rows)["inactive_file"])
    except (OSError, ValueError, KeyError):
        return 0


def place(config: PaliGemmaConfig, device: torch.device | None, dtype: torch.dtype, freed: int = 0):
    """Where the model will run: `device`, for None the best one that it fits, else a `DeviceMap`.

    `freed` bytes will be free on top before it is loaded. Raise ValueError where a device that was
    asked for has no room, in one sentence with what is needed and what there is.
    """
    asked, device = device is not None, device or best_device()
    needed, free = needed_bytes(config, dtype), free_bytes(device) + freed
    if needed <= free:
        return device
    if not asked and torch.cuda.is_available():
        return DeviceMap()
    half = "" if dtype.itemsize == 2 else " --dtype bfloat16 halves that."
    raise ValueError(
        f"The model needs {gigabytes(needed)} in {str(dtype).removeprefix('torch.')}, and "
        f"{device} has {gigabytes(free)} free.{half} --device auto lays it over all devices and "
        "the disk, which is slow."
    )


def dispatch(
    model: nn.Module,
    state: dict[str, Tensor],
    homes: dict[str, tuple[Path, str]],
    over: DeviceMap,
    dtype: torch.dtype,
) -> nn.Module:
    """Lay a model on `meta` over all devices, with `state` as its parameters.

    `homes` says which file has a tensor, and under which name: those that stay on the disk are
    fetched from there. Raise ValueError for what has no such file and fits nowhere.
    """
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_max_memory

    model.to(dtype)  # still on `meta`: accelerate casts what it fetches to the dtype it finds
    memory = get_max_memory()
    if "cpu" in memory:
        memory["cpu"] = min(memory["cpu"], free_bytes(torch.device("cpu")))
    memory |= over.memory
    main = next(iter(memory))
    # The table is looked up and multiplied with: it stays where answers begin and end.
    table_bytes = model.language_model.embed_tokens.weight.numel() * dtype.itemsize
    room = memory | {main: max(memory[main] - table_bytes, 0)}
    device_map = infer_auto_device_map(
        model,
        room,
        no_split_module_classes=UNDIVIDED,
        dtype=dtype,
    )
    for whole in ("", "language_model"):  # what lies in one place, but for the table
        if whole in device_map:
            where = device_map.pop(whole)
            for child, _ in model.get_submodule(whole).named_children():
                device_map[f"{whole}.{child}".lstrip(".")] = where
    device_map["language_model.embed_tokens"] = main
    on_disk = {name: (file, key) for name, (file, key) in homes.items()
               if _of(device_map, name) == "disk"}  # fmt: skip
    if "disk" in device_map.values() and not on_disk:
        raise ValueError(
            "The model fits neither the devices nor the memory, and an .npz cannot be read a layer "
            "at a time; convert it to safetensors first (python -m paligemma convert)."
        )
    for name in state:
        where = _of(device_map, name)
        if where != "disk":
            owner, _, leaf = name.rpartition(".")
            weight = state[name].to("cpu" if where == "cpu" else torch.device(where), dtype)
            setattr(model.get_submodule(owner), leaf, nn.Parameter(weight, requires_grad=False))
    index = {
        name: {
            "safetensors_file": str(file),
            "weight_name": key,
            "dtype": str(dtype).removeprefix("torch."),
        }
        for name, (file, key) in on_disk.items()
    }
    return dispatch_model(
        model,
        device_map,
        main_device=main,
        offload_index=index or None,
        preload_module_classes=["SiglipEmbeddings"],  # it reads the weights of its parts itself
        force_hooks=True,
    )


def _of(device_map: dict[str, int | str], name: str) -> int | str:
    """The device of the longest beginning of `name` that the map has."""
    while name not in device_map:
        if "." not in name:
            return device_map[""]
        name = name.rpartition(".")[0]
    return device_map[name]
