"""LoRA adapters on disk: the folder that peft writes, recognised by its adapter_config.json.

Names in the file are those of transformers 5, so that peft and transformers load an adapter that
was trained here, and the reverse.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paligemma.checkpoints.io import NEWER_NAMES, from_hub_name, read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # peft's, before every name
HUB_PREFIXES = {prefix: hub_prefix for hub_prefix, prefix in reversed(NEWER_NAMES.items())}


def base_model_name(folder: Path) -> str:
    """The model that an adapter was trained on. Raises ValueError if the config names none."""
    base = read_json(folder / CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(f"{folder / CONFIG} does not name its base_model_name_or_path.")
    return base


def lora_config(base: str, rank: int, alpha: float, targets: Sequence[str]):
    """peft's config of a LoRA on `base`, without dropout."""
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type] # annotated int, but any number is used
        target_modules=list(targets),
        base_model_name_or_path=base,
    )


def attach(model: nn.Module, config) -> list[str]:
    """Add adapters to `model`, freeze all other parameters, and return the adapters' names.

    Raises ValueError if no module fits the adapter's targets.
    """
    from peft import inject_adapter_in_model

    try:
        inject_adapter_in_model(config, model)
    except ValueError as error:
        raise ValueError(f"No module of the model fits the adapter's targets: {error}") from error
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def to_file_name(name: str) -> str:
    """An adapter parameter's name in this project -> its name in an adapter's file."""
    name = name.replace(".default.", ".")
    prefix = next((prefix for prefix in HUB_PREFIXES if name.startswith(prefix)), "")
    return PREFIX + HUB_PREFIXES.get(prefix, "") + name.removeprefix(prefix)


def save(folder: Path, config, tensors: dict[str, Tensor]) -> None:
    """Write an adapter; `tensors` by the names that `attach` returned."""
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    renamed = {to_file_name(name): tensor.contiguous() for name, tensor in tensors.items()}
    save_file(renamed, folder / WEIGHTS, metadata={"format": "pt"})


def merge(model: nn.Module, folder: Path) -> None:
    """Merge the adapter of `folder` into the weights. Raises ValueError if it does not fit."""
    from peft import LoraConfig

    try:
        config = LoraConfig.from_pretrained(str(folder))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError, TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{folder} holds no LoRA that can be read: {error}.") from error
    found = {
        to_file_name(from_hub_name(name.removeprefix(PREFIX))): tensor
        for name, tensor in tensors.items()
    }
    expected = {to_file_name(name): name for name in attach(model, config)}
    if differing := sorted(found.keys() ^ expected.keys()):
        raise ValueError(f"{folder} does not fit its base: {differing[0]} is in one of them only.")
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for key, name in expected.items():
            if parameters[name].shape != found[key].shape:
                raise ValueError(f"{folder} does not fit its base: {key} has another shape.")
            parameters[name].copy_(found[key])
    fold(model)


def fold(model: nn.Module) -> None:
    """Add the adapters that `attach` put into `model` to its weights, and take them out."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, module.get_base_layer())
