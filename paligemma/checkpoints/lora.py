"""LoRA adapters on disk: the folder that peft writes, recognised by its adapter_config.json.

Names in the file are those of transformers 5, so that peft and transformers load an adapter that
was trained here, and the reverse.
"""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from paligemma.checkpoints.io import (
    LM_HEAD_NAMES,
    NEWER_NAMES,
    check_header_size,
    from_hub_name,
    read_json,
    to_hub_names,
)
from paligemma.config import short_repr

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
EMBEDDINGS = "language_model.embed_tokens.weight"  # the output layer is this table, too
PICKLE = "adapter_model.bin"
APART = (
    "trains the embeddings apart from the output layer, which are one table here; train both with "
    "peft's ensure_weight_tying"
)
MERGE_WITH_PEFT = "merge it with peft (merge_and_unload) and load the result"
PREFIX = "base_model.model."  # peft's, before every name
MAGNITUDE = "lora_magnitude_vector"
MAGNITUDE_PART = MAGNITUDE.removeprefix("lora_")
HUB_PREFIXES = {prefix: hub_prefix for hub_prefix, prefix in reversed(NEWER_NAMES.items())}
# Keys of adapter_config.json that ask for what is not read here, and what they stand for.
UNSUPPORTED = {
    "lora_bias": "biases that were trained too",
    "trainable_token_indices": "embeddings that were trained too",
    "target_parameters": "parameters that are no layers",
    "layer_replication": "layers that are repeated",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "block-diagonal LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "velora_config": "VeLoRA",
}
MAX_RANK, MAX_ALPHA = 1024, 1e6
MAX_TARGETS, MAX_TARGET_LENGTH = 10_000, 10_000
# Values of init_lora_weights that begin by changing the base's weights.
CHANGES_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")
MODULE_NAME = re.compile(r"[\w-]+(\.[\w-]+)*", re.ASCII)
ALL_LINEAR = "all-linear"

T = TypeVar("T")


@dataclass(frozen=True)
class Adapter:
    """A LoRA, as an adapter_config.json describes it.

    base: the model that it is trained on: a path or a name of the hub; None if it is not named
    target_modules: ends of module names; None if the file gives a pattern: patterns are never
        run, since one can take for ever, and the weights' names say which modules are adapted
    rank_pattern, alpha_pattern: other ranks and alphas, by the end of a module's name
    partial: whether only some of the modules with such names are adapted
    use_rslora: whether the scale is alpha / sqrt(rank) (arXiv 2312.03732), not alpha / rank
    use_dora: whether a trained magnitude of each output scales the weights (arXiv 2402.09353)
    modules_to_save: ends of the names of modules that are trained whole; the file holds them
    dropout: of the input of A, while it is trained
    """

    base: str | None
    rank: int
    alpha: float
    target_modules: tuple[str, ...] | None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    partial: bool = False
    use_rslora: bool = False
    use_dora: bool = False
    modules_to_save: tuple[str, ...] = ()
    dropout: float = 0.0

    def rank_of(self, module: str) -> int:
        return _of_module(module, self.rank_pattern, self.rank)

    def alpha_of(self, module: str) -> float:
        return _of_module(module, self.alpha_pattern, self.alpha)

    def scale_of(self, module: str) -> float:
        rank = self.rank_of(module)
        return self.alpha_of(module) / (math.sqrt(rank) if self.use_rslora else rank)

    def on_modules(self, modules: Sequence[str]) -> "Adapter":
        """The same adapter, of these modules, with ranks and alphas by their whole names."""
        ranks = {name: self.rank_of(name) for name in modules}
        alphas = {name: self.alpha_of(name) for name in modules}
        return replace(
            self,
            target_modules=tuple(modules),
            rank_pattern={name: rank for name, rank in ranks.items() if rank != self.rank},
            alpha_pattern={name: one for name, one in alphas.items() if one != self.alpha},
            partial=False,
        )

    def expected_modules(self, model: nn.Module) -> set[str]:
        """The layers of `model` that must be in the file."""
        if self.target_modules is None or self.partial:
            return set()
        linear = {
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and not self.saves(name)
        }
        if self.target_modules == (ALL_LINEAR,):
            return linear
        suffixes = set(self.target_modules)
        return {name for name in linear if not suffixes.isdisjoint(_suffixes(name))}

    def saves(self, name: str) -> bool:
        """Whether a module or a parameter is, or is part of, one that is trained whole."""
        parts = name.split(".")
        owners = (".".join(parts[: n + 1]) for n in range(len(parts)))
        return any(not set(self.modules_to_save).isdisjoint(_suffixes(one)) for one in owners)


def _suffixes(name: str) -> set[str]:
    """`a.b.c` -> c, b.c, a.b.c, each also under its names in the hub's layouts."""
    parts = [each.split(".") for each in (name, *to_hub_names(name))]
    return {".".join(each[n:]) for each in parts for n in range(len(each))}


def _of_module(module: str, pattern: dict[str, Any], otherwise: Any) -> Any:
    """The value of the first end that fits, as peft chooses it."""
    ends = _suffixes(module) if pattern else set()
    return next((value for end, value in pattern.items() if end in ends), otherwise)


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter_config.json. Raises ValueError if it is damaged, or no plain LoRA."""
    path = folder / CONFIG
    values = read_json(path)

    def refuse(reason: str) -> NoReturn:
        raise ValueError(f"{path} {reason}")

    def number(name: str, value: Any, highest: float, whole: bool) -> Any:
        kind = int if whole else int | float
        if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value <= highest:
            refuse(f"has {name} {short_repr(value)}; it must be above 0, and {highest:g} at most.")
        return value

    def pattern(name: str, highest: float, whole: bool) -> dict[str, Any]:
        given = values.get(name) or {}
        if not isinstance(given, dict) or len(given) > MAX_TARGETS:
            refuse(f"has a {name} that is no short object of module names.")
        if unusual := [key for key in given if not MODULE_NAME.fullmatch(key)]:
            refuse(f"has a {name} of {short_repr(unusual[0])}, which is no name of a module.")
        return {key: number(f"{name}.{key}", each, highest, whole) for key, each in given.items()}

    if (kind := values.get("peft_type", "LORA")) != "LORA":
        refuse(f"is of a {short_repr(kind)} adapter; only LoRA can be merged.")
    base = values.get("base_model_name_or_path")
    if base is not None and (not isinstance(base, str) or len(base) > 1_000):
        refuse("does not name its base_model_name_or_path.")
    for key, meaning in UNSUPPORTED.items():
        if values.get(key):
            refuse(f"asks for {meaning} ({key}), which cannot be merged here; {MERGE_WITH_PEFT}.")
    if (bias := values.get("bias") or "none") != "none":
        refuse(
            f"asks for biases that were trained too (bias {short_repr(bias)}), which cannot be "
            f"merged here; {MERGE_WITH_PEFT}."
        )
    init = values.get("init_lora_weights")
    if isinstance(init, str) and init.startswith(CHANGES_BASE):
        refuse(
            f"asks for init_lora_weights {short_repr(init)}, which changes the base's weights too; "
            f"{MERGE_WITH_PEFT}."
        )
    saved, dropout = values.get("modules_to_save") or [], values.get("lora_dropout")
    if not isinstance(saved, list) or len(saved) > MAX_TARGETS:
        refuse("has modules_to_save that are no list of module names.")
    targets = values.get("target_modules")
    if isinstance(targets, str) and len(targets) <= MAX_TARGET_LENGTH:
        targets = [ALL_LINEAR] if targets.lower() == ALL_LINEAR else None
    elif not isinstance(targets, list) or not 0 < len(targets) <= MAX_TARGETS:
        refuse("has no target_modules: a list of module names, or one pattern of a usual length.")
    for field_name, names in ("target_modules", targets or ()), ("modules_to_save", saved):
        for name in names:
            if not isinstance(name, str) or not MODULE_NAME.fullmatch(name):
                refuse(f"has {short_repr(name)} in {field_name}, which is no name of a module.")
    return Adapter(
        base=base or None,
        rank=number("r", values.get("r", 8), MAX_RANK, whole=True),
        alpha=number("lora_alpha", values.get("lora_alpha", 8), MAX_ALPHA, whole=False),
        target_modules=None if targets is None else tuple(sorted(targets)),  # peft writes a set
        rank_pattern=pattern("rank_pattern", MAX_RANK, whole=True),
        alpha_pattern=pattern("alpha_pattern", MAX_ALPHA, whole=False),
        partial=bool(values.get("layers_to_transform") or values.get("exclude_modules")),
        use_rslora=values.get("use_rslora") is True,
        use_dora=values.get("use_dora") is True,
        modules_to_save=tuple(saved),
        dropout=float(dropout) if isinstance(dropout, float) and 0 <= dropout < 1 else 0.0,
    )


def _peft_config(adapter: Adapter, ensure_weight_tying: bool = False):
    """peft's config of an adapter."""
    from peft import LoraConfig

    targets = adapter.target_modules or ()
    return LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type] # annotated int; any number is used
        target_modules=ALL_LINEAR if targets == (ALL_LINEAR,) else list(targets),
        rank_pattern=dict(adapter.rank_pattern),
        alpha_pattern=dict(adapter.alpha_pattern),
        use_rslora=adapter.use_rslora,
        use_dora=adapter.use_dora,
        lora_dropout=adapter.dropout,
        modules_to_save=list(adapter.modules_to_save) or None,
        base_model_name_or_path=adapter.base,
        ensure_weight_tying=ensure_weight_tying,
    )


def attach(model: nn.Module, adapter: Adapter, folder: Path | None = None) -> list[str]:
    """Add an adapter to `model`, freeze all other parameters, and return the adapter's names.

    `folder` holds the trained numbers of the adapter, which else begins without effect. Raises
    ValueError if no module fits the adapter's targets, or the folder does not fit the model.
    """
    from peft import inject_adapter_in_model

    trained = _read(model, adapter, folder) if folder else None
    modules = tuple(sorted(adapter.expected_modules(model)))
    if not modules:
        names = ", ".join(adapter.target_modules or ())
        raise ValueError(
            f"No linear layer of the model fits the adapter's target_modules: {names}."
        )
    in_peft = replace(adapter.on_modules(modules), modules_to_save=())
    inject_adapter_in_model(_peft_config(in_peft), model)
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        parameter.requires_grad_(".lora_" in name or adapter.saves(name))
        if parameter.requires_grad:  # whatever dtype the model is in
            parameter.data = parameter.data.float()
    with torch.no_grad():
        for name, tensor in trained.saved.items() if trained else ():
            parameters[name].copy_(tensor)
        for module, parts in trained.layers.items() if trained else ():
            for part, tensor in parts.items():
                parameters[f"{module}.lora_{part}.default.weight"].copy_(tensor)
    return [name for name, parameter in parameters.items() if parameter.requires_grad]


def to_file_name(name: str) -> str:
    """An adapter parameter's name in this project -> its name in an adapter's file."""
    name = name.replace(".default.", ".").replace(f"{MAGNITUDE}.weight", MAGNITUDE)
    prefix = next((prefix for prefix in HUB_PREFIXES if name.startswith(prefix)), "")
    return PREFIX + HUB_PREFIXES.get(prefix, "") + name.removeprefix(prefix)


def save(folder: Path, adapter: Adapter, tensors: dict[str, Tensor]) -> None:
    """Write an adapter; `tensors` by the names that `attach` returned.

    For peft, which has them apart, embeddings that were trained are the output layer's weights too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    in_file = lambda name: to_file_name(from_hub_name(name)).removeprefix(PREFIX)
    state = {to_file_name(name): tensor.contiguous() for name, tensor in tensors.items()}
    saved = [*map(in_file, adapter.modules_to_save)]
    if EMBEDDINGS in tensors:
        state[PREFIX + LM_HEAD_NAMES[0]] = tensors[EMBEDDINGS].clone()
        saved.append(LM_HEAD_NAMES[0].removesuffix(".weight"))
    renamed = replace(
        adapter,
        modules_to_save=tuple(dict.fromkeys(saved)),
        target_modules=tuple(map(in_file, adapter.target_modules or ())),
        rank_pattern={in_file(key): rank for key, rank in adapter.rank_pattern.items()},
        alpha_pattern={in_file(key): alpha for key, alpha in adapter.alpha_pattern.items()},
    )
    _peft_config(renamed, EMBEDDINGS in tensors).save_pretrained(str(folder))
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def merge(model: nn.Module, folder: Path) -> None:
    """Add the adapter of `folder` to the weights: W + scale · B A for each layer in its file.

    DoRA then gives each row its magnitude m, m (W + scale · B A) / |W + scale · B A|, and modules
    that were trained whole replace those of the model. Sources: LoRA (arXiv 2106.09685) section
    4.1, DoRA (arXiv 2402.09353) section 4.1; the scale as in peft. Raises ValueError if the
    adapter does not fit the model.
    """
    adapter = read_adapter(folder)
    trained = _read(model, adapter, folder)
    with torch.no_grad():
        for name, tensor in trained.saved.items():
            model.get_parameter(name).copy_(tensor)
        for module, parts in trained.layers.items():
            weight = model.get_parameter(f"{module}.weight")
            change = parts["B"] @ parts["A"] * adapter.scale_of(module)
            merged = weight.float() + change.to(weight.device)
            if MAGNITUDE_PART in parts:
                magnitude = parts[MAGNITUDE_PART].to(weight.device)
                merged *= (magnitude / merged.norm(dim=1))[:, None]
            weight.copy_(merged)


def adapted_modules(folder: Path) -> list[str]:
    """The modules that the adapter in `folder` adapts, by their names here."""
    with _open_weights(folder) as file:
        return sorted(_sort(folder, read_adapter(folder), _shapes(file)).layers)


@contextmanager
def _open_weights(folder: Path) -> Iterator[Any]:
    """The adapter's safetensors. Raises ValueError if they cannot be read."""
    path = folder / WEIGHTS
    if not path.is_file():
        pickle = ": adapter_model.bin is a pickle, and pickles are never loaded"
        raise ValueError(
            f"{folder} has no {WEIGHTS}{pickle if (folder / PICKLE).is_file() else ''}."
        )
    try:
        check_header_size(path)
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder} holds no LoRA that can be read: {error}.") from error


def _shapes(file: Any) -> dict[str, list[int]]:
    return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


@dataclass(frozen=True)
class _Contents(Generic[T]):
    """What a file holds: parts of each adapted layer (A, B, DoRA's magnitude), and parameters of
    the modules that were trained whole, by their names here. `output` are the output layer's
    weights, which must be the embeddings."""

    layers: dict[str, dict[str, T]]
    saved: dict[str, T]
    output: T | None = None


def _read(model: nn.Module, adapter: Adapter, folder: Path) -> _Contents[Tensor]:
    """The tensors of an adapter, in float32.

    Shapes are compared before a tensor is read. Raises ValueError if they do not fit the model.
    """
    with _open_weights(folder) as file:
        shapes = _shapes(file)
        contents = _sort(folder, adapter, shapes)
        _check_fit(folder, adapter, model, contents, shapes)

        def read(name: str, place: str) -> Tensor:
            tensor = file.get_tensor(name).float()
            if not tensor.isfinite().all():
                raise ValueError(f"{folder} has numbers that are not finite, for {place}.")
            return tensor

        layers = {
            module: {part: read(name, module) for part, name in parts.items()}
            for module, parts in contents.layers.items()
        }
        saved = {place: read(name, place) for place, name in contents.saved.items()}
        if contents.output and not torch.equal(read(contents.output, "lm_head"), saved[EMBEDDINGS]):
            raise ValueError(f"{folder} {APART}.")
    return _Contents(layers, saved)


def _sort(folder: Path, adapter: Adapter, shapes: dict[str, list[int]]) -> _Contents[str]:
    """What the names in a file stand for. Raises ValueError for one that is not read here."""
    needed = {"A", "B", MAGNITUDE_PART} if adapter.use_dora else {"A", "B"}
    layers: dict[str, dict[str, str]] = {}
    saved: dict[str, str] = {}
    output = None
    for name in shapes:
        ours = from_hub_name(name.removeprefix(PREFIX))
        module, _, part = ours.partition(".lora_")
        part = part.removesuffix(".weight")
        if part in needed:
            layers.setdefault(module, {})[part] = name
        elif ours in LM_HEAD_NAMES:
            output = name
        elif not part and adapter.saves(ours):
            saved[ours] = name
        else:
            whole = "embeddings" if part.startswith("embedding") else "more than LoRA's A and B"
            raise ValueError(
                f"{folder} holds {short_repr(name)}: it adapts {whole}, which cannot be merged "
                f"here; {MERGE_WITH_PEFT}."
            )
    for module, parts in layers.items():
        if len(parts) != len(needed):
            raise ValueError(f"{folder} has only half of the adapter of {short_repr(module)}.")
    if (output is None) != (EMBEDDINGS not in saved):
        raise ValueError(f"{folder} {APART}.")
    return _Contents(layers, saved, output)


def _check_fit(
    folder: Path,
    adapter: Adapter,
    model: nn.Module,
    contents: _Contents[str],
    shapes: dict[str, list[int]],
) -> None:
    if not contents.layers:
        raise ValueError(f"{folder} adapts no layer at all.")
    layers = {n: module for n, module in model.named_modules() if isinstance(module, nn.Linear)}
    parameters = {name: list(one.shape) for name, one in model.named_parameters()}
    saved = {name for name in parameters if adapter.saves(name)}
    differing = sorted(
        (contents.layers.keys() - layers.keys())
        | (adapter.expected_modules(model) - contents.layers.keys())
        | (contents.saved.keys() ^ saved)
    )
    if differing:
        raise ValueError(
            f"{folder} does not fit its base: {short_repr(differing[0])} is in one of them only."
        )
    for module, parts in contents.layers.items():
        rank, layer = adapter.rank_of(module), layers[module]
        a, b = shapes[parts["A"]], shapes[parts["B"]]
        magnitude = shapes[parts[MAGNITUDE_PART]] if MAGNITUDE_PART in parts else None
        if (
            a != [rank, layer.in_features]
            or b != [layer.out_features, rank]
            or magnitude not in (None, [layer.out_features])
        ):
            raise ValueError(
                f"{folder} does not fit its base: {module} has A {a} and B {b} instead of "
                f"{[rank, layer.in_features]} and {[layer.out_features, rank]}."
            )
    for place, name in contents.saved.items():
        if shapes[name] != parameters[place]:
            raise ValueError(
                f"{folder} does not fit its base: {place} is {shapes[name]}, not "
                f"{parameters[place]}."
            )


def fold(model: nn.Module) -> None:
    """Add the adapters that `attach` put into `model` to its weights, and take them out."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, module.get_base_layer())
