"""Device and dtype: what this machine has, where a model fits, and models over several devices.

A model that fits no single device is dispatched by accelerate: over the GPUs, then main memory,
then the disk, from which each layer is loaded when it runs.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from paligemma.config import PaliGemmaConfig
from paligemma.models.int4 import GROUP
from paligemma.models.packed import WEIGHT_BYTES
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MEMORY_FACTOR = 1.1  # of the weights' bytes: with KV cache and activations
CGROUP = Path("/sys/fs/cgroup")
# Modules whose parameters stay on one device.
NO_SPLIT_MODULES = ["SiglipEncoderLayer", "GemmaDecoderLayer", "SiglipEmbeddings"]


@dataclass(frozen=True)
class DeviceMap:
    """All devices. `max_memory` limits some, in bytes, by accelerate's names (0, 1, …, "cpu")."""

    max_memory: dict[int | str, int] = field(default_factory=dict)


def format_bytes(count: float) -> str:
    """Bytes in GB from 0.1 GB, else in MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def best_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 if the device computes in it natively, else float32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "mps":
        native = torch.backends.mps.is_macos_or_newer(14, 0)
    elif device.type == "cpu":
        units = torch.cpu.get_capabilities()
        native = any(units.get(unit) for unit in ("avx512_bf16", "amx_bf16", "bf16"))
    else:
        native = False
    return torch.bfloat16 if native else torch.float32


def parse_device(name: str | torch.device) -> torch.device:
    """A device by its name. Raises ValueError if this machine does not have it."""
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


def parse_dtype(name: str | torch.dtype) -> torch.dtype:
    """A dtype by its name. Raises ValueError if the model does not run in it."""
    dtype = DTYPES.get(str(name).removeprefix("torch."))
    if dtype is None:
        raise ValueError(f"{name!r} is not a dtype to run in; choose {', '.join(DTYPES)}.")
    return dtype


def check_float16(config: PaliGemmaConfig, dtype: torch.dtype, name: object) -> None:
    """Raises ValueError for Gemma 2 in float16, which would overflow. `name` is for the message."""
    if dtype == torch.float16 and config.text_config.post_norms:
        raise ValueError(
            f"{name}: float16 cannot hold Gemma 2, whose activations exceed its largest number, "
            "65504, and become infinite; choose bfloat16."
        )


def weights_memory(config: PaliGemmaConfig, dtype: torch.dtype, quantize: str | None = None) -> int:
    """Bytes of the parameters; `quantize` as in `plan_placement`."""
    if quantize is None:
        return config.num_parameters * dtype.itemsize
    table = config.text_config.vocab_size * config.text_config.hidden_size  # in int8
    layers = config.num_decoder_parameters - table
    others = config.num_parameters - config.num_decoder_parameters
    return int(table + layers * WEIGHT_BYTES[quantize] + others * dtype.itemsize)


def required_memory(
    config: PaliGemmaConfig, dtype: torch.dtype, quantize: str | None = None
) -> int:
    """Bytes that a model takes while it generates, roughly."""
    return int(weights_memory(config, dtype, quantize) * MEMORY_FACTOR)


def free_memory(device: torch.device) -> int:
    """Free bytes of `device`, within the limit of the container if there is one."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    try:
        limit = int((CGROUP / "memory.max").read_text())
        free = min(
            free, max(limit - int((CGROUP / "memory.current").read_text()) + _file_cache(), 0)
        )
    except (OSError, ValueError):  # no such group, or "max"
        pass
    return free


def free_disk_space(folder: Path) -> int:
    """Free bytes on the disk of `folder`, which need not exist yet."""
    folder = folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


def _file_cache() -> int:
    """Bytes of a container's used memory that are cached files and can be reclaimed."""
    try:
        lines = (CGROUP / "memory.stat").read_text().splitlines()
        return int(dict(line.split() for line in lines)["inactive_file"])
    except (OSError, ValueError, KeyError):
        return 0


def plan_placement(
    config: PaliGemmaConfig,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    freed: int = 0,
    name: object = "The model",
    quantize: str | None = None,
) -> tuple[torch.device | DeviceMap, torch.dtype]:
    """Decide where a model runs, and in which dtype.

    device: a device; "auto" for all devices and the disk; None for the best device, or on a
        machine with a GPU all devices if the model does not fit the best one
    dtype: float32, bfloat16 or float16; None for the best one of the device
    freed: bytes of memory that will be free in addition once the model is loaded
    name: what messages call the model
    quantize: "int8" or "int4" for the decoder's weights, which runs on the CPU; None for neither

    Raises ValueError if a name is unknown, the device lacks memory or the dtype would overflow.
    """
    wanted = None if device in (None, "auto") else parse_device(device)
    target = wanted or best_device()
    dtype = best_dtype(target) if dtype is None else parse_dtype(dtype)
    check_float16(config, dtype, name)
    if quantize is not None:
        _check_quantization(config, quantize, "auto" if device == "auto" else target.type, dtype)
    if device == "auto":
        return DeviceMap(), dtype
    required, free = required_memory(config, dtype, quantize), free_memory(target) + freed
    if required <= free:
        return target, dtype
    if wanted is None and torch.cuda.is_available():
        return DeviceMap(), dtype
    advice = "" if dtype.itemsize == 2 else " --dtype bfloat16 halves that."
    if target.type == "cpu" and quantize is None and dtype != torch.float16:
        least = format_bytes(required_memory(config, dtype, "int4"))
        advice += f" --quantize int4 needs {least}."
    raise ValueError(
        f"The model needs {format_bytes(required)} in {quantize or _name(dtype)}, and "
        f"{target} has {format_bytes(free)} free.{advice} --device auto lays it over all devices "
        "and the disk, which is slow."
    )


def _check_quantization(
    config: PaliGemmaConfig, quantize: str, device: str, dtype: torch.dtype
) -> None:
    if quantize not in WEIGHT_BYTES:
        raise ValueError(f"{quantize!r} is no quantization; choose {' or '.join(WEIGHT_BYTES)}.")
    if device != "cpu":
        raise ValueError(f"{quantize} runs on the CPU, not on {device}; add --device cpu.")
    if dtype == torch.float16:
        raise ValueError(f"{quantize} computes in bfloat16 or float32, not in float16.")
    text = config.text_config
    inputs = (text.hidden_size, text.intermediate_size, text.num_attention_heads * text.head_dim)
    if quantize == "int4" and any(size % GROUP for size in inputs):
        raise ValueError(
            f"int4 needs sizes of a multiple of {GROUP}, and the decoder's are "
            f"{', '.join(map(str, inputs))}; choose int8."
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def dispatch(
    model: PaliGemmaForConditionalGeneration,
    state: dict[str, Tensor],
    files: dict[str, tuple[Path, str]],
    devices: DeviceMap,
    dtype: torch.dtype,
) -> PaliGemmaForConditionalGeneration:
    """Place a model that is on `meta` on all devices, with `state` as its parameters.

    `files` gives for each parameter its safetensors file and its name there: those that do not fit
    in memory are loaded from there each time. Raises ValueError if one is neither in such a file
    nor fits in memory.
    """
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_max_memory

    model.to(dtype)  # on `meta`: accelerate casts what it loads to the dtype that it finds
    memory = get_max_memory()
    if "cpu" in memory:
        memory["cpu"] = min(memory["cpu"], free_memory(torch.device("cpu")))
    memory |= devices.max_memory
    main_device = next(iter(memory))
    # The embedding table is also the output layer: it stays on the main device.
    table_bytes = model.language_model.embed_tokens.weight.numel() * dtype.itemsize
    remaining = memory | {main_device: max(memory[main_device] - table_bytes, 0)}
    device_map: dict[str, Any] = infer_auto_device_map(
        model, remaining, no_split_module_classes=NO_SPLIT_MODULES, dtype=dtype
    )
    for parent in ("", "language_model"):  # split what would include the embedding table
        if parent in device_map:
            device = device_map.pop(parent)
            for child, _ in model.get_submodule(parent).named_children():
                device_map[f"{parent}.{child}".lstrip(".")] = device
    device_map["language_model.embed_tokens"] = main_device
    on_disk = {name for name in state if _device_of(name, device_map) == "disk"}
    if "disk" in device_map.values() and not on_disk <= files.keys():
        raise ValueError(
            "The model fits neither the devices nor the memory, and an .npz cannot be read a layer "
            "at a time; convert it to safetensors first (paligemma convert)."
        )
    for name in state.keys() - on_disk:
        owner, _, leaf = name.rpartition(".")
        weight = state[name].to(torch.device(_device_of(name, device_map)), dtype)
        setattr(model.get_submodule(owner), leaf, nn.Parameter(weight, requires_grad=False))
    offload_index: dict[str, Any] = {
        name: {
            "safetensors_file": str(files[name][0]),
            "weight_name": files[name][1],
            "dtype": str(dtype).removeprefix("torch."),
        }
        for name in on_disk
    }
    dispatch_model(
        model,
        device_map,
        main_device=main_device,
        offload_index=offload_index or None,
        preload_module_classes=["SiglipEmbeddings"],  # it reads its children's weights itself
        force_hooks=True,
    )
    return model


def _device_of(name: str, device_map: dict[str, Any]) -> Any:
    """The device of a parameter: that of the longest prefix of its name in the map."""
    while name not in device_map:
        if "." not in name:
            return device_map[""]
        name = name.rpartition(".")[0]
    return device_map[name]
