"""From a name to a checkpoint on this machine: the built-in model, a folder, an `.npz`, the hub."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from paligemma.checkpoints import hub, lora
from paligemma.checkpoints.calibration import CALIBRATION_FILE, ScoreCalibration
from paligemma.checkpoints.hub import ProgressCallback
from paligemma.checkpoints.io import (
    CONFIG,
    INITIALIZATION,
    is_whole_model,
    load_model,
    read_config,
    read_config_values,
)
from paligemma.config import PaliGemmaConfig, read_quantization
from paligemma.devices import DeviceMap, plan_placement
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration
from paligemma.processor import PaliGemmaProcessor

BUILT_IN = "built-in"
BUILT_IN_FOLDER = Path(__file__).parents[1] / "builtin"
KNOWN_NAMES = "known_names.txt"  # one a line
STICKER_SHEET = "stickers.webp"
SAMPLED_PIECES, SAMPLED_BYTES = 64, 4096  # of each file of weights
MASK_CODEC = "mask_codec.npz"  # beside a checkpoint's weights
MASK_CODEC_FILES = (MASK_CODEC, hub.MASK_CODEC_FILE)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine, its weights not read yet.

    source: the name that was asked for
    path: the folder or the `.npz` of the weights
    mask_codec: its `.npz`; None: the published one, fetched from the hub when it is needed
    initialization: of config.json; "random": the weights were never trained
    quantization: of config.json; "int8" or "int4"
    adapter: the folder of a LoRA adapter to merge into the weights at `path`
    base: the name of the adapter's base
    """

    source: str
    path: Path
    config: PaliGemmaConfig
    processor: PaliGemmaProcessor
    mask_codec: Path | None
    initialization: str | None = None
    quantization: str | None = None
    adapter: Path | None = None
    base: str | None = None

    @property
    def is_built_in(self) -> bool:
        return self.path == BUILT_IN_FOLDER and self.adapter is None

    @property
    def name(self) -> str:
        if self.is_built_in:
            return "the built-in model"
        if _as_path(self.source).exists():
            return (self.adapter or self.path).resolve().name
        return self.source

    @property
    def fingerprint(self) -> str:
        """A digest of samples of the weights' files: a copy has the same, wherever it lies."""
        digest = hashlib.sha256()
        for place in filter(None, (self.path, self.adapter)):
            files = [place] if place.is_file() else sorted(place.glob("*.safetensors"))
            for path in files:
                size = path.stat().st_size
                with path.open("rb") as file:
                    for piece in range(SAMPLED_PIECES):
                        file.seek(piece * size // SAMPLED_PIECES)
                        digest.update(file.read(SAMPLED_BYTES))
        return digest.hexdigest()[:16]

    @property
    def known_names(self) -> tuple[str, ...]:
        """The names of objects that it was trained to find, if a file beside it lists them."""
        listed = self.path / KNOWN_NAMES
        if self.adapter or not listed.is_file():
            return ()
        lines = listed.read_text(encoding="utf-8").split("\n")
        return tuple(name for line in lines if (name := line.strip()))

    @property
    def score_calibration(self) -> ScoreCalibration | None:
        """How often a box of a score is right, if a file beside it says so.

        Raises ValueError if the file is damaged.
        """
        path = self.path / CALIBRATION_FILE
        return None if self.adapter or not path.is_file() else ScoreCalibration.read(path)

    @property
    def sticker_sheet(self) -> Path | None:
        """The image beside it with a drawing of each kind: see `synthetic.sticker_sheet`."""
        path = self.path / STICKER_SHEET
        return None if self.adapter or not path.is_file() else path

    @property
    def is_random(self) -> bool:
        """Whether the weights were never trained."""
        return self.initialization == "random"

    def plan(
        self,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        freed: int = 0,
        quantize: str | None = None,
    ) -> tuple[torch.device | DeviceMap, torch.dtype]:
        """Where the model runs and in which dtype: see `devices.plan_placement`.

        The built-in model is small, and float32 by default. Raises ValueError if the model cannot
        run as asked for.
        """
        if self.quantization and quantize not in (None, self.quantization):
            raise ValueError(f"{self.name} is in {self.quantization} already, not in {quantize}.")
        quantize = quantize or self.quantization
        if dtype is None and self.is_built_in:
            dtype = torch.float32
        placement, dtype = plan_placement(self.config, device, dtype, freed, self.name, quantize)
        if self.adapter and isinstance(placement, DeviceMap):
            raise ValueError(f"{self.name} is an adapter, and its base fits no single device.")
        return placement, dtype

    def load_model(
        self,
        device: torch.device | str | DeviceMap = "cpu",
        dtype: torch.dtype | None = None,
        quantized: bool = False,
    ) -> PaliGemmaForConditionalGeneration:
        """Read the weights, with the adapter merged: see `io.load_model`.

        Raises ValueError also for quantized weights, unless the caller takes them.
        """
        if self.quantization and (self.adapter or not quantized):
            raise ValueError(
                f"{self.base or self.name} is in {self.quantization}, only to answer with: train, "
                "convert and merge the weights that it was made from."
            )
        model = load_model(self.path, device, dtype, self.config, self.quantization)
        if self.adapter:
            lora.merge(model, self.adapter)
        return model


def resolve(
    source: str | Path | None = None,
    tokenizer: str | Path | None = None,
    mask_codec: str | Path | None = None,
    progress: ProgressCallback | None = None,
    fits: Callable[[PaliGemmaConfig], object] | None = None,
    base: str | Path | None = None,
    token: str | None = None,
) -> Checkpoint:
    """Find a checkpoint and download it if necessary. Its weights are not read.

    source: None or "built-in"; a folder; an `.npz`; `owner/model` on the hub, or
        `owner/model@revision`; the folder of an adapter, whose base is resolved the same way
    tokenizer: a tokenizer.json, a folder with one or a model of the hub; needed only if there is
        no tokenizer.json beside the weights
    mask_codec: an `.npz`, instead of the one beside the weights
    progress: called with (bytes done, bytes in all) during downloads
    fits: called with the config before weights are downloaded; refuses them by a ValueError
    base: the base of an adapter, instead of the one that it names
    token: for the hub, in place of this machine's; it is not kept

    Raises ValueError if a part is missing, damaged or does not fit the others.
    """

    def check(folder: Path) -> None:
        if (folder / CONFIG).is_file():
            config = read_config(folder)
            if fits is not None:
                fits(config)

    source = str(source or BUILT_IN)
    path = _locate(source, progress, check, token)
    if not _is_adapter(path):
        if base is not None:
            raise ValueError(f"{source} is no adapter, and only an adapter has a base.")
        return _checkpoint(source, path, tokenizer, mask_codec)
    named, base = base is None, _base_of(path) if base is None else str(base)
    try:
        base_path = _locate(base, progress, check, token)
        if _is_adapter(base_path):
            raise ValueError("it is an adapter itself; merge that one first.")
        checkpoint = _checkpoint(base, base_path, tokenizer, mask_codec)
    except ValueError as error:
        if not named:
            raise
        raise ValueError(
            f"The base {base!r} that {path / lora.CONFIG} names: {error} "
            "Another base can be named with --base."
        ) from error
    return replace(checkpoint, source=source, adapter=path, base=base)


def _is_adapter(path: Path) -> bool:
    """Whether a folder is an adapter; some trainers write the base's config.json beside it."""
    return (path / lora.CONFIG).is_file() and not is_whole_model(path)


def _base_of(folder: Path) -> str:
    """The base that an adapter names: a relative path may start at the adapter's folder too."""
    base = lora.read_adapter(folder).base
    if base is None:
        raise ValueError(f"{folder / lora.CONFIG} names no base; name one with --base.")
    beside = _as_path(folder / base)
    return str(beside) if not _as_path(base).exists() and beside.exists() else base


def _checkpoint(
    source: str, path: Path, tokenizer: str | Path | None, mask_codec: str | Path | None
) -> Checkpoint:
    """The checkpoint whose weights are at `path`."""
    values = read_config_values(path)
    config = PaliGemmaConfig.from_dict(values)
    folder = path if path.is_dir() else path.parent
    if tokenizer is not None:
        folder = _tokenizer_folder(str(tokenizer))
    elif path.suffix == ".npz" and not (folder / "tokenizer.json").is_file():
        raise ValueError(
            f"{path} has no tokenizer.json beside it, and an .npz holds none; give one with "
            "--tokenizer, such as that of google/paligemma-3b-pt-224."
        )
    processor = PaliGemmaProcessor.from_folder(folder, config)
    return Checkpoint(
        source=source,
        path=path,
        config=config,
        processor=processor,
        mask_codec=_find_mask_codec(path, mask_codec),
        initialization=values.get(INITIALIZATION),
        quantization=read_quantization(values),
    )


def _locate(
    source: str,
    progress: ProgressCallback | None,
    check: Callable[[Path], None],
    token: str | None,
) -> Path:
    if source == BUILT_IN:
        return BUILT_IN_FOLDER
    path = _as_path(source)
    if path.is_dir() or (path.is_file() and path.suffix == ".npz"):
        return path
    if path.is_file():
        raise ValueError(
            f"{source} is a file; a checkpoint is a folder with a config.json, or a big_vision "
            ".npz. For safetensors, give their folder."
        )
    if path.suffix != ".npz" and hub.REPO_NAME.fullmatch(source):
        try:
            return hub.fetch_model(source, progress, check, token)
        except ValueError as error:
            if path.parent.is_dir():  # a folder here was meant, more likely than the hub
                raise ValueError(f"There is no folder {source}. As a model: {error}") from error
            raise
    raise ValueError(
        f"There is no checkpoint {source!r}: it is neither {BUILT_IN!r} nor a folder, an .npz or a "
        "model of the hub (owner/model)."
    )


def _tokenizer_folder(tokenizer: str) -> Path:
    path = _as_path(tokenizer)
    if path.is_dir():
        return path
    if path.name == "tokenizer.json":
        return path.parent
    if not path.exists() and hub.REPO_NAME.fullmatch(tokenizer):
        return hub.fetch_tokenizer(tokenizer)
    raise ValueError(
        f"{tokenizer} is not a tokenizer; give a tokenizer.json, its folder, or a model of the hub."
    )


def _find_mask_codec(path: Path, mask_codec: str | Path | None) -> Path | None:
    if mask_codec is not None:
        if not _as_path(mask_codec).is_file():
            raise ValueError(f"There is no mask codec at {mask_codec}.")
        return _as_path(mask_codec)
    folder = path if path.is_dir() else path.parent
    return next((folder / name for name in MASK_CODEC_FILES if (folder / name).is_file()), None)


def _as_path(name: str | Path) -> Path:
    """Raises ValueError if no path can be opened by this name: too long, no permission, …"""
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise ValueError(f"{str(name)[:60]!r} cannot be opened: {reason}.") from error
    return path
