"""What a training run is: a YAML file of some twenty lines, checked before anything is loaded.

    stage: transfer
    model: built-in
    data: [{rows: pictures/train.jsonl}]
    epochs: 15
    out: runs/mine

A field that is unknown or impossible is a ValueError of one sentence, with the nearest valid name.
`STAGES` is the table of the papers' stages: what each sets where the file says nothing.
"""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Above0 = Annotated[float, Field(gt=0)]
From0 = Annotated[float, Field(ge=0)]


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"it is no regular expression ({error})") from None
    return text


class Part(BaseModel):
    """Values that may not be changed, and no fields that are not known."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Rows(Part):
    """JSON lines `{"image", "prefix", "suffix"}`; pictures lie beside them or under `images`."""

    rows: Path
    images: Path | None = None
    weight: Above0 = 1.0


class Coco(Part):
    """COCO instances: boxes become `<loc>` for `detect`, masks `<seg>` too for `segment`."""

    coco: Path
    images: Path | None = None
    task: Literal["detect", "segment"] = "detect"
    weight: Above0 = 1.0


class Folder(Part):
    """Pictures with their answer in a text file of the same name beside them, to one `prefix`."""

    folder: Path
    prefix: str
    weight: Above0 = 1.0


class Drawn(Part):
    """Examples from the drawn world, one a scene; `tasks` are the kinds asked for."""

    scenes: Count
    tasks: tuple[Literal["caption", "ask", "read", "detect", "segment", "region"], ...] = ()
    weight: Above0 = 1.0


class Group(Part):
    """Parameters whose name holds the regular expression `match`; the first group that fits.

    `rate` scales the learning rate, and 0 freezes; `warmup` is the share of steps of its own.
    """

    match: Annotated[str, AfterValidator(_pattern)]
    rate: From0 = 1.0
    warmup: Share | None = None


class Lora(Part):
    """Low-rank adapters by peft. `merge`: the output is a whole checkpoint, not an adapter."""

    rank: Count = 8
    alpha: Above0 = 16.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    merge: bool = False


class Run(Part):
    """One run. Rates and losses are those of big_vision's transfers unless a stage has its own.

    `fresh` takes the checkpoint's sizes and tokenizer, and new random weights. `batch` is over all
    processes, `micro_batch` what one of them computes at once (None: its whole share). `warmup` is
    a share of the steps. `weight_decay` is multiplied by the rate, as AdamW has it: the 3e-7 that
    big_vision sets beside a rate of 1e-5 is 0.03 here. `tokens` is the most text an example may
    have. `bad_rows` are refused, or skipped and counted.
    """

    stage: Literal["siglip", "language", "multimodal", "resolution", "transfer"]
    objective: Literal["answers", "siglip", "language"]
    model: str
    fresh: bool = False
    data: tuple[Rows | Coco | Folder | Drawn, ...] = Field(min_length=1)
    bad_rows: Literal["refuse", "skip"] = "refuse"
    tokens: Count = 512
    resolution: Count | None = None
    steps: Count | None = None
    epochs: Above0 | None = None
    batch: Count = 32
    micro_batch: Count | None = None
    learning_rate: Above0 = 1e-5
    warmup: Share = 0.05
    weight_decay: From0 = 0.0
    b2: Share = 0.999
    clip: Above0 = 1.0
    label_smoothing: Share = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    recompute: bool = False
    groups: tuple[Group, ...] = ()
    lora: Lora | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    workers: Annotated[int, Field(ge=0)] = 2
    out: Path
    save_every: Count = 500
    tracker: str | None = "tensorboard"

    @model_validator(mode="before")
    @classmethod
    def _fill_from_stage(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return STAGES.get(given.get("stage", "transfer"), {}) | {"stage": "transfer"} | given

    @model_validator(mode="after")
    def _hangs_together(self) -> "Run":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        if self.fresh and self.lora:
            raise ValueError("fresh and lora exclude each other: an adapter needs a trained base")
        if self.lora and self.objective != "answers":
            raise ValueError("lora adapts a whole model; its objective is answers")
        if self.micro_batch and self.objective == "siglip":
            raise ValueError("siglip compares all pairs of a batch: leave micro_batch out")
        return self


# Stages of the papers (arXiv 2407.07726, 3.2): what each sets where a config says nothing.
# 0 is unimodal; 1 trains everything, the encoder after a slow warm-up; 2 raises the resolution,
# 3 transfers. The rates of 0 and 1 are this project's own, for models that start from nothing.
STAGES: dict[str, dict[str, Any]] = {
    "siglip": {"objective": "siglip", "learning_rate": 1e-3, "fresh": True, "warmup": 0.1},
    "language": {"objective": "language", "learning_rate": 1e-3, "b2": 0.98},
    "multimodal": {"objective": "answers", "learning_rate": 1e-3, "b2": 0.98, "tokens": 128,
                   "groups": [{"match": "vision_tower", "warmup": 0.5}]},
    "resolution": {"objective": "answers", "learning_rate": 3e-4, "tokens": 512},
    "transfer": {"objective": "answers", "learning_rate": 1e-5},
}  # fmt: skip


def read(path: str | Path) -> Run:
    """The run that a YAML file describes; relative paths in it start at the working folder."""
    path = Path(path)
    try:
        given = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"The config {path} cannot be read: {reason}.") from error
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise ValueError(f"The config {path} is not YAML: see line {line}.") from error
    if not isinstance(given, dict):
        raise ValueError(f"The config {path} is no list of fields and values.")
    try:
        return check(given)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def check(given: dict) -> Run:
    """The run of these values; ValueError in one sentence for the first that is wrong."""
    data = given.get("data")
    for number, source in enumerate(data if isinstance(data, list) else ()):
        _require_kind(number, source)
    try:
        return Run.model_validate(given)
    except ValidationError as error:
        raise ValueError(_sentence(error.errors()[0])) from None


SOURCES = {"rows": Rows, "coco": Coco, "scenes": Drawn}


def _require_kind(number: int, source: Any) -> None:
    """A source is told by its own field, so that an error in it speaks of that kind alone."""
    if not isinstance(source, dict) or sum(kind in source for kind in SOURCES) != 1:
        raise ValueError(f"data.{number} needs just one of the fields {', '.join(SOURCES)}.")
    kind = next(kind for kind in SOURCES if kind in source)
    try:
        SOURCES[kind].model_validate(source)
    except ValidationError as error:
        raise ValueError(_sentence(error.errors()[0], f"data.{number}", SOURCES[kind])) from None


def _sentence(error: dict, where: str = "", part: type[Part] = Run) -> str:
    """pydantic's first complaint, with the nearest name for a field that there is not."""
    parts = [where, *map(str, error["loc"])]
    name = ".".join(filter(None, parts))
    if error["type"] == "extra_forbidden":
        inner = {"lora": Lora, "groups": Group}.get(str(error["loc"][0]), part)
        known = list(inner.model_fields)
        near = difflib.get_close_matches(str(error["loc"][-1]), known, 1, 0.0)
        return f"there is no field {name}; did you mean {near[0] if near else known[0]}?"
    if error["type"] == "missing":
        return f"the field {name} is missing."
    reason = error["msg"].removeprefix("Value error, ")
    if error["type"] == "literal_error":
        near = difflib.get_close_matches(str(error["input"]), error["ctx"]["expected"].replace(
            " or ", ", ").replace("'", "").split(", "), 1, 0.0)  # fmt: skip
        reason += f"; did you mean {near[0]}?" if near else ""
    if not name:
        return reason + "."
    return f"{name} is {error['input']!r}: {reason[0].lower()}{reason[1:]}".rstrip(".?") + (
        "?" if reason.endswith("?") else "."
    )
