"""What a person names, found: the built-in model, a folder, an .npz, a model of the hub."""

from dataclasses import dataclass, replace
from pathlib import Path

from paligemma.checkpoints import hub
from paligemma.checkpoints import lora as adapters
from paligemma.checkpoints.hub import Report
from paligemma.checkpoints.io import CONFIG, read_config
from paligemma.config import PaliGemmaConfig
from paligemma.processor import PaliGemmaProcessor

BUILT_IN = "built-in"
BUILT_IN_FOLDER = Path(__file__).parents[1] / "builtin"
CODEC_FILES = ("mask_codec.npz", hub.CODEC_FILE)  # beside a checkpoint's weights


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine. `source` is what was asked for; `codec` None: on the hub.

    `adapter` is the folder of a LoRA that goes on top of `path`.
    """

    source: str
    path: Path
    config: PaliGemmaConfig
    processor: PaliGemmaProcessor
    codec: Path | None
    adapter: Path | None = None

    @property
    def is_built_in(self) -> bool:
        return self.path == BUILT_IN_FOLDER and self.adapter is None

    @property
    def name(self) -> str:
        if self.is_built_in:
            return "the built-in model"
        return (
            (self.adapter or self.path).resolve().name
            if _path(self.source).exists()
            else self.source
        )


def find(
    source: str | Path | None = None,
    tokenizer: str | Path | None = None,
    codec: str | Path | None = None,
    report: Report | None = None,
) -> Checkpoint:
    """Find a checkpoint, downloading it where it has to be; nothing of its weights is read yet.

    `source`: None or "built-in"; a folder; an `.npz`; `owner/model` on the hub, with `@revision`
    where one is to be pinned; the folder of an adapter, whose base is found the same way.
    `tokenizer`: a tokenizer.json, a folder with one or a model of the hub, where there is none
    beside the weights. `codec`: an `.npz` for masks. `report` hears of
    downloads. Raise ValueError where something is missing, damaged or does not belong together.
    """
    source = str(source or BUILT_IN)
    path = _locate(source, report)
    if (path / adapters.CONFIG).is_file() and not (path / CONFIG).is_file():
        if (_path(adapters.base_of(path)) / adapters.CONFIG).is_file():
            raise ValueError(f"{path} is an adapter of an adapter; merge the one it names first.")
        base = find(adapters.base_of(path), tokenizer, codec, report)
        return replace(base, source=source, adapter=path)
    config = read_config(path)
    folder = path if path.is_dir() else path.parent
    if tokenizer is not None:
        folder = _tokenizer_folder(str(tokenizer))
    elif path.suffix == ".npz" and not (folder / "tokenizer.json").is_file():
        raise ValueError(
            f"{path} has no tokenizer.json beside it, and an .npz holds none; give one with "
            "--tokenizer, such as that of google/paligemma-3b-pt-224."
        )
    processor = PaliGemmaProcessor.from_folder(folder, config)
    return Checkpoint(source, path, config, processor, _codec(path, codec))


def _locate(source: str, report: Report | None) -> Path:
    if source == BUILT_IN:
        return BUILT_IN_FOLDER
    path = _path(source)
    if path.is_dir() or (path.is_file() and path.suffix == ".npz"):
        return path
    if path.is_file():
        raise ValueError(
            f"{source} is a file; a checkpoint is a folder with a config.json, or a big_vision "
            ".npz. For safetensors, give their folder."
        )
    if path.suffix != ".npz" and hub.NAME.fullmatch(source):
        return hub.fetch_model(source, report)
    raise ValueError(
        f"There is no checkpoint {source!r}: it is neither {BUILT_IN!r} nor a folder, an .npz or a "
        "model of the hub (owner/model)."
    )


def _tokenizer_folder(given: str) -> Path:
    path = _path(given)
    if path.is_dir():
        return path
    if path.name == "tokenizer.json":
        return path.parent
    if not path.exists() and hub.NAME.fullmatch(given):
        return hub.fetch_tokenizer(given)
    raise ValueError(
        f"{given} is not a tokenizer; give a tokenizer.json, its folder, or a model of the hub."
    )


def _codec(path: Path, given: str | Path | None) -> Path | None:
    if given is not None:
        if not _path(given).is_file():
            raise ValueError(f"There is no mask codec at {given}.")
        return _path(given)
    folder = path if path.is_dir() else path.parent
    return next((folder / name for name in CODEC_FILES if (folder / name).is_file()), None)


def _path(given: str | Path) -> Path:
    """Raise ValueError for what no path can be: too long, closed, the home of nobody."""
    try:
        path = Path(given).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise ValueError(f"{str(given)[:60]!r} cannot be opened: {reason}.") from error
    return path
