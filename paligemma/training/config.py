"""What a training run is: a YAML file of some twenty lines, checked before anything is loaded.

    stage: transfer
    model: built-in
    data: [{jsonl: images/train.jsonl}]
    epochs: 15
    output_dir: runs/mine

`read_config.py` reads it. `STAGES` is the table of the stages: the defaults of each.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from paligemma.checkpoints.lora import ALL_LINEAR
from paligemma.checkpoints.resolve import BUILT_IN
from paligemma.config import MAX_LOC_REACH, TextConfig, VisionConfig
from paligemma.synthetic.world import WORLDS, World, open_world

Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Above0 = Annotated[float, Field(gt=0)]
From0 = Annotated[float, Field(ge=0)]
UserPath = Annotated[Path, AfterValidator(Path.expanduser)]
Metric = Literal["loss", "exact", "accuracy", "cider", "ap50", "map", "miou"]
TaskName = Literal["caption", "ask", "read", "detect", "segment", "region", "question"]


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"it is no regular expression ({error})") from None
    return text


def _world(name: str) -> str:
    if name not in WORLDS:
        raise ValueError(f"there is no such world; choose one of {', '.join(WORLDS)}")
    return name


class Part(BaseModel):
    """Values that may not be changed, and no fields that are not known."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# --- Data -----------------------------------------------------------------------------------------


class JsonlData(Part):
    """JSON lines `{"image", "prefix", "suffix"}`, or of conversations: see `formats.samples`.

    Images lie beside them, or under `images`.
    """

    jsonl: UserPath
    images: UserPath | None = None
    weight: Above0 = 1.0


class CocoData(Part):
    """COCO instances: boxes become `<loc>` for `detect`, masks `<seg>` too for `segment`.

    `coco` may be the folder of a split as Roboflow exports it. `negatives` is the share of prompts
    that name what is not in the image: see `CocoSource`.
    """

    coco: UserPath
    images: UserPath | None = None
    task: Literal["detect", "segment"] = "detect"
    negatives: Share = 0.25
    weight: Above0 = 1.0


class YoloData(Part):
    """A folder of images with YOLO's labels, such as a split of an export: see `formats.yolo`."""

    yolo: UserPath
    task: Literal["detect", "segment"] = "detect"
    negatives: Share = 0.25
    weight: Above0 = 1.0


class VocData(Part):
    """A folder of PASCAL VOC annotations: see `formats.voc`."""

    voc: UserPath
    negatives: Share = 0.25
    weight: Above0 = 1.0


class LabelStudioData(Part):
    """Label Studio's JSON export: see `formats.label_studio`. Its images lie in `images`, or beside
    it."""

    label_studio: UserPath
    images: UserPath | None = None
    task: Literal["detect", "segment"] = "detect"
    negatives: Share = 0.25
    weight: Above0 = 1.0


class ParquetData(Part):
    """A Parquet file, or a pattern of several, with the columns of `datasets`: see
    `formats.parquet`. `prefix` is the prompt where it has none; images that it only names lie
    beside it, or in `images`."""

    parquet: UserPath
    images: UserPath | None = None
    prefix: str | None = None
    weight: Above0 = 1.0


class FolderData(Part):
    """Images with their answer to one `prefix`: in a text file of the same name beside each, or in
    the metadata.jsonl or metadata.csv of the folder."""

    folder: UserPath
    prefix: str
    weight: Above0 = 1.0


class Scenes(Part):
    """`scenes` scenes of a world of `synthetic/`; `tasks` are those asked about (empty: all)."""

    world: Annotated[str, AfterValidator(_world)] = "pictograms"
    scenes: Count
    tasks: tuple[TaskName, ...] = ()


class SyntheticData(Part):
    """Scenes rendered by a program, with samples and labels for all of their content."""

    synthetic: Scenes
    weight: Above0 = 1.0


SOURCES: dict[str, type[Part]] = {
    "jsonl": JsonlData,
    "coco": CocoData,
    "yolo": YoloData,
    "voc": VocData,
    "label_studio": LabelStudioData,
    "parquet": ParquetData,
    "folder": FolderData,
    "synthetic": SyntheticData,
}


def _source_tag(given: Any) -> str | None:
    """The kind of a data source: the one field of `SOURCES` that it has."""
    if isinstance(given, Part):
        return next(tag for tag, kind in SOURCES.items() if isinstance(given, kind))
    tags = [tag for tag in SOURCES if isinstance(given, dict) and tag in given]
    return tags[0] if len(tags) == 1 else None


Data = Annotated[
    Annotated[JsonlData, Tag("jsonl")]
    | Annotated[CocoData, Tag("coco")]
    | Annotated[YoloData, Tag("yolo")]
    | Annotated[VocData, Tag("voc")]
    | Annotated[LabelStudioData, Tag("label_studio")]
    | Annotated[ParquetData, Tag("parquet")]
    | Annotated[FolderData, Tag("folder")]
    | Annotated[SyntheticData, Tag("synthetic")],
    Discriminator(
        _source_tag,
        custom_error_type="source",
        custom_error_message=f"needs just one of the fields {', '.join(SOURCES)}",
    ),
]

# --- The model ------------------------------------------------------------------------------------


def _vision_sizes(given: dict[str, Any]) -> dict[str, Any]:
    return _sizes(VisionConfig, given, {})


def _text_sizes(given: dict[str, Any]) -> dict[str, Any]:
    return _sizes(TextConfig, given, {"vocab_size": 1})  # the tokenizer's, once it is read


def _sizes(kind: type, given: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    try:
        kind(**more | given)
    except TypeError as error:
        raise ValueError(str(error).partition("() ")[2]) from None
    return given


class NewModel(Part):
    """A model that does not exist yet: its sizes, as config.json names them, and its tokenizer.

    `tokenizer` is a tokenizer.json or the folder that holds one; `mask_codec` an .npz.
    """

    tokenizer: UserPath
    mask_codec: UserPath | None = None
    vision_config: Annotated[dict[str, Any], AfterValidator(_vision_sizes)]
    text_config: Annotated[dict[str, Any], AfterValidator(_text_sizes)]


Model = Annotated[
    Annotated[str, Tag("checkpoint")] | Annotated[NewModel, Tag("new")],
    Discriminator(lambda given: "checkpoint" if isinstance(given, str) else "new"),
]


def _targets(given: Any) -> Any:
    return (given,) if given == ALL_LINEAR else given


class Lora(Part):
    """Low-rank adapters by peft. `merge`: the output is a whole checkpoint, not an adapter.

    The other fields are `Adapter`'s; `target_modules: all-linear` adapts every linear layer.
    A `model` that is an adapter itself is trained further, as it is: `rank`, `alpha` and
    `target_modules` are its own, and `base` is its base, instead of the one that it names.
    """

    rank: Count = 8
    alpha: Above0 = 16.0
    target_modules: Annotated[tuple[str, ...], BeforeValidator(_targets)] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    )
    dropout: Share = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    modules_to_save: tuple[str, ...] = ()
    merge: bool = False
    base: str | None = None


# --- The loss -------------------------------------------------------------------------------------


class Packing(Part):
    """All questions about an image in one sequence of `max_length` tokens (see `packing.py`).

    Every `single_every`-th batch asks one question an image, with the mask of inference. The world
    is asked for questions `rounds` times, for sequences that have room for more than one.
    """

    max_length: Count
    single_every: Count = 8
    rounds: Count = 1


class Auxiliary(Part):
    """Weights of the losses of auxiliary heads, which are no part of the model; 0 leaves one out.

    `patches`: what each image patch shows. `words`: image tokens like the embeddings of their
    words. `grounding`: where the names in a prompt are. `next_group`: what a caption lists next.

    `align_words` starts the connector and the words from the patch heads: see `alignment`.
    """

    patches: From0 = 0.0
    words: From0 = 0.0
    grounding: From0 = 0.0
    next_group: From0 = 0.0
    align_words: bool = False

    @model_validator(mode="after")
    def _has_heads(self) -> "Auxiliary":
        if self.align_words and not self.patches:
            raise ValueError("align_words needs the heads of patches")
        return self


class SoftLocTargets(Part):
    """`<loc>` targets that share their weight with neighbors: a Gaussian of `sigma` pixels, cut
    off at `reach`. A pixel is one of `grid` a side (None: of the model's image), and no box ends
    between pixels; of the grid of all locations, 1023, `reach` becomes the config's `loc_reach`."""

    sigma: Above0 = 1.0
    reach: Annotated[int, Field(ge=1, le=MAX_LOC_REACH)] = 3
    grid: Count | None = None

    def grid_of(self, image_size: int) -> int:
        """The grid for a model whose images have so many pixels a side."""
        return self.grid or image_size


# --- The optimizer --------------------------------------------------------------------------------


class AdamWOptions(Part):
    """AdamW on every parameter."""

    name: Literal["adamw"] = "adamw"


class AdamW8bitOptions(Part):
    """AdamW, its states in 8 bits, on every parameter. See `adamw8bit.py`."""

    name: Literal["adamw8bit"]


class MuonOptions(Part):
    """Muon on the matrices of the layers, AdamW on the rest. See `muon.py`."""

    name: Literal["muon"]
    learning_rate: Above0
    momentum: Share = 0.95
    weight_decay: From0 = 0.02


class ParamGroup(Part):
    """Parameters whose name holds the regular expression `match`; the first group that fits.

    `lr_mult` scales the learning rate, and 0 freezes; `warmup_ratio` is the group's own.
    """

    match: Annotated[str, AfterValidator(_pattern)]
    lr_mult: From0 = 1.0
    warmup_ratio: Share | None = None


# --- The run --------------------------------------------------------------------------------------


class Run(Part):
    """One run. Learning rates and losses are those of big_vision's transfers unless a stage has
    its own.

    `model`: a checkpoint, or the sizes of a new one. `random_init` takes a checkpoint's sizes and
    tokenizer, and new random weights. `tokenizer` gives a checkpoint another one: tokens of both
    keep their embeddings, those of new ones are random. Every `eval_steps` steps, and at the end,
    the loss over `eval_data` is measured; with `eval_metrics` the first `max_eval_samples` of it
    are answered too, and scored by their task's metric: see `evaluation.answers`. With
    `metric_for_best_model` the output is that of the best evaluation, not the last; after
    `early_stopping_patience` evaluations without a better one the run ends. `on_invalid` samples
    are refused, or skipped and counted. `max_text_tokens` is the most text that a sample may have.
    `flip`, `crop` and `color_jitter` are the shares of samples that are mirrored, cropped or
    scaled, and changed in color, as far as `augment` can change the answer alike. `batch_size` is
    over all processes, `micro_batch_size` what one of them computes at once (None: its whole
    share). `warmup_ratio` is a share of the steps; the cosine decay to `min_lr_ratio` of the peak
    follows it, or with `decay_during_warmup` runs over all steps. `weight_decay` is multiplied by
    the learning rate, as AdamW has it: the 3e-7 that big_vision sets beside a rate of 1e-5 is 0.03
    here. `loss_weights` are for the tokens of a task (default 1); with them the loss is a mean over
    tokens, without them over samples. `dtype` is what is computed in, over float32 weights ("auto":
    bfloat16 where the device has it); with `lora` the base is in it too. `quantize` shrinks the
    decoder of the base further: see `models.frozen`. `save_dtype` is that of the output (None: as
    `dtype`; for "auto" float32).
    """

    stage: Literal[
        "tokenizer",
        "mask_codec",
        "siglip",
        "language",
        "tower",
        "multimodal",
        "resolution",
        "transfer",
    ]
    objective: Literal["tokenizer", "mask_codec", "siglip", "language", "patches", "answers"]
    model: Model | None = None
    random_init: bool = False
    tokenizer: UserPath | None = None
    resolution: Count | None = None
    lora: Lora | None = None
    data: tuple[Data, ...] = Field(min_length=1)
    eval_data: tuple[Data, ...] = ()
    eval_steps: Count = 500
    eval_metrics: bool = False
    max_eval_samples: Count = 200
    metric_for_best_model: Metric | None = None
    early_stopping_patience: Count | None = None
    on_invalid: Literal["refuse", "skip"] = "refuse"
    max_text_tokens: Count = 512
    flip: Share = 0.0
    crop: Share = 0.0
    color_jitter: Share = 0.0
    packing: Packing | None = None
    loss_weights: dict[TaskName, From0] = {}
    auxiliary: Auxiliary | None = None
    soft_loc_targets: SoftLocTargets | None = None
    label_smoothing: Share = 0.0
    max_steps: Count | None = None
    epochs: Above0 | None = None
    batch_size: Count = 32
    micro_batch_size: Count | None = None
    optimizer: Annotated[
        AdamWOptions | AdamW8bitOptions | MuonOptions, Field(discriminator="name")
    ] = AdamWOptions()
    learning_rate: Above0 = 1e-5
    adam_beta2: Share = 0.999
    weight_decay: From0 = 0.0
    max_grad_norm: Above0 = 1.0
    warmup_ratio: Share = 0.05
    min_lr_ratio: Share = 0.0
    decay_during_warmup: bool = False
    param_groups: tuple[ParamGroup, ...] = ()
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    quantize: Literal["int8", "int4"] | None = None
    save_dtype: Literal["float32", "bfloat16"] | None = None
    gradient_checkpointing: bool = False
    compile: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
    num_workers: Annotated[int, Field(ge=0)] = 2
    output_dir: UserPath
    save_steps: Count = 500
    tracker: str | None = "tensorboard"

    @model_validator(mode="before")
    @classmethod
    def _fill_from_stage(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        stage = given.get("stage", "transfer")
        if not isinstance(stage, str):
            return given
        defaults = STAGES.get(stage, {}) | {"stage": "transfer"}
        if stage == "transfer" and given.get("model") == BUILT_IN:
            defaults |= TRANSFER_OF_BUILT_IN
        return defaults | given

    @property
    def is_new(self) -> bool:
        """Whether the weights are random at first."""
        return self.random_init or isinstance(self.model, NewModel)

    @model_validator(mode="after")
    def _hangs_together(self) -> "Run":
        if self.objective != "tokenizer" and (self.max_steps is None) == (self.epochs is None):
            raise ValueError("give either max_steps or epochs")
        if self.model is None and self.objective not in ("tokenizer", "mask_codec"):
            raise ValueError("the field model is missing")
        if self.is_new and self.lora:
            raise ValueError(
                "random_init and lora exclude each other: an adapter needs a trained base"
            )
        if self.tokenizer and (self.is_new or self.lora or self.model is None):
            raise ValueError("tokenizer is for a trained checkpoint, and not under an adapter")
        if self.lora and self.objective != "answers":
            raise ValueError("lora adapts a whole model; its objective is answers")
        if self.quantize and not self.lora:
            raise ValueError("quantize shrinks a frozen base, under an adapter: it needs lora")
        if self.quantize and self.lora and self.lora.merge:
            raise ValueError(
                "lora.merge cannot add the adapter to a quantized base: leave it out, and merge "
                "into the whole base with paligemma convert"
            )
        if self.micro_batch_size and self.objective in ("siglip", "mask_codec"):
            raise ValueError(
                f"{self.objective} compares all samples of a batch: leave micro_batch_size out"
            )
        if self.packing and self.objective != "answers":
            raise ValueError("packing belongs to the objective answers")
        if self.auxiliary and not self.packing:
            alone = Auxiliary(words=self.auxiliary.words)
            if self.objective != "patches" or self.auxiliary != alone:
                raise ValueError("auxiliary heads need packing; words alone can go with patches")
        if (self.eval_metrics or self.metric_for_best_model) and not self.eval_data:
            raise ValueError("eval_metrics and metric_for_best_model need eval_data")
        if self.eval_metrics and self.objective != "answers":
            raise ValueError("eval_metrics scores answers; the objective must be answers")
        if self.metric_for_best_model not in (None, "loss") and not self.eval_metrics:
            raise ValueError(
                f"metric_for_best_model {self.metric_for_best_model} needs eval_metrics: true"
            )
        if self.early_stopping_patience and not self.metric_for_best_model:
            raise ValueError("early_stopping_patience needs metric_for_best_model, such as loss")
        augmented = [name for name in ("flip", "crop", "color_jitter") if getattr(self, name)]
        if augmented and (self.packing or self.objective != "answers"):
            raise ValueError(
                f"{augmented[0]} changes single samples of the objective answers, none packed"
            )
        if self.packing or self.objective in ("tokenizer", "mask_codec", "patches"):
            self.open_world()
        return self

    @property
    def scenes(self) -> list[Scenes]:
        """The synthetic sources of all data."""
        data = (*self.data, *self.eval_data)
        return [one.synthetic for one in data if isinstance(one, SyntheticData)]

    def open_world(self) -> World:
        """The world of the data. Raises ValueError unless all are synthetic, of one world."""
        worlds = {scenes.world for scenes in self.scenes}
        if len(self.scenes) < len(self.data) + len(self.eval_data) or len(worlds) > 1:
            name = "packing" if self.packing else self.objective
            raise ValueError(f"{name} needs synthetic data, all of one world")
        return open_world(worlds.pop())


# The defaults of each stage. From siglip on they follow one another (arXiv
# 2407.07726, 3.2): unimodal; everything, the encoder after a slow warm-up; a higher resolution; a
# transfer. The rates of those that start from nothing are this project's own, and "tower" is its
# other way to train the encoder: on labels of patches.
STAGES: dict[str, dict[str, Any]] = {
    "tokenizer": {"objective": "tokenizer"},
    "mask_codec": {"objective": "mask_codec", "learning_rate": 1e-3, "weight_decay": 1e-4,
                   "warmup_ratio": 0.1, "min_lr_ratio": 0.03, "dtype": "auto"},
    "siglip": {"objective": "siglip", "learning_rate": 1e-3, "random_init": True,
               "warmup_ratio": 0.1},
    "language": {"objective": "language", "learning_rate": 1e-3, "adam_beta2": 0.98},
    "tower": {"objective": "patches", "learning_rate": 1e-3, "adam_beta2": 0.98},
    "multimodal": {"objective": "answers", "learning_rate": 1e-3, "adam_beta2": 0.98,
                   "max_text_tokens": 128,
                   "param_groups": [{"match": "vision_tower", "warmup_ratio": 0.5}]},
    "resolution": {"objective": "answers", "learning_rate": 3e-4, "max_text_tokens": 512},
    "transfer": {"objective": "answers", "learning_rate": 1e-5},
}  # fmt: skip

# A model of a thousandth of the size learns at a higher rate; its boxes end at 128ths of a side.
TRANSFER_OF_BUILT_IN: dict[str, Any] = {"learning_rate": 3e-4, "soft_loc_targets": {"grid": 128}}
