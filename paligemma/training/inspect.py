"""Check samples before training on them: the invalid ones with reasons, and a contact sheet."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageDraw
from tqdm import tqdm

from paligemma.checkpoints import hub
from paligemma.checkpoints.resolve import resolve
from paligemma.detections import Detection, parse
from paligemma.evaluation.answers import DecodeMasks
from paligemma.formats.coco import ROBOFLOW_FILE
from paligemma.formats.label_studio import is_label_studio
from paligemma.formats.yolo import is_yolo
from paligemma.images import open_image
from paligemma.models.mask_codec import MaskCodec
from paligemma.processor import PaliGemmaProcessor
from paligemma.training.augment import Augmentation
from paligemma.training.config import (
    CocoData,
    Data,
    FolderData,
    JsonlData,
    LabelStudioData,
    ParquetData,
    Run,
    VocData,
    YoloData,
)
from paligemma.training.data import (
    Mixture,
    encode,
    open_data,
    open_mask_codec,
    open_sources,
)
from paligemma.training.initialize import find_checkpoint, with_tokenizer
from paligemma.training.sources import InvalidSample, Sample, Source, SyntheticScenes
from visualize import draw_objects
from visualize.boxes import load_font, shorten

COLUMNS, ROWS = 4, 4
SIDE, TEXT, LINES = 300, 15, 4  # pixels of an image, of a line of text below it; lines
PAD = 10


@dataclass(frozen=True)
class DataReport:
    """What `check_data` found in `count` samples.

    `invalid` has a line for each invalid one; `left_out` counts what is no sample but no mistake
    either. `negatives` counts those that ask for objects that their answer lacks; `unasked` names
    those whose answer has objects that the prompt does not ask for. `sheet` shows valid ones, None
    if there are none.
    """

    count: int
    invalid: list[str]
    left_out: Mapping[str, int]
    negatives: int
    unasked: list[str]
    sheet: Image.Image | None


def check_data(
    path: Path,
    images: Path | None,
    task: Literal["detect", "segment"],
    prefix: str,
    model: str | None,
) -> DataReport:
    """Open every image and tokenize every text of the files that `describe_data` knows.

    Raises ValueError if there is no sample.
    """
    found = resolve(model)
    codec = MaskCodec.load(found.mask_codec or hub.fetch_mask_codec())
    source = open_data(describe_data(path, images, task, prefix), codec)
    if not len(source) and not source.invalid:
        reasons = "".join(f", only {count} {what}" for what, count in source.left_out.items())
        raise ValueError(f"{path} has no sample to train on{reasons}.")
    limit = Run.model_fields["max_text_tokens"].default
    checked = _check_samples([source], found.processor, limit)
    room = COLUMNS * ROWS
    shown = [source[row] for _, row in checked.valid[:: max(len(checked.valid) // room, 1)][:room]]
    return checked.report(shown, codec)


def check_run(run: Run) -> DataReport:
    """The same for the `data` and `eval_data` of a run, with its model and its limit of tokens.

    The sheet shows the first samples of training, augmented as the run has them. Samples drawn by a
    program are shown too, and not checked. Raises ValueError if a source is missing or empty, and
    for a run that takes no samples.
    """
    if run.packing or run.objective != "answers":
        raise ValueError("Only the samples of runs of the objective answers are checked, unpacked.")
    start = with_tokenizer(find_checkpoint(run), run.tokenizer)
    codec = open_mask_codec(run, start)
    sources, more = (open_sources(run, field, codec) for field in ("data", "eval_data"))
    files = [one for one in (*sources, *more) if not isinstance(one, SyntheticScenes)]
    checked = _check_samples(files, start.processor, run.max_text_tokens)
    mixture = Mixture(sources, [given.weight for given in run.data], run.seed)
    augment = Augmentation(run.flip, run.crop, run.color_jitter)
    valid, shown = set(checked.valid), []
    for number in range(len(mixture)):
        which, row = mixture.at(number)
        source = sources[which]
        if isinstance(source, SyntheticScenes) or (source, row) in valid:
            shown.append(augment(source[row], run.seed, number))
        if len(shown) == COLUMNS * ROWS:
            break
    if codec is None and start.mask_codec:
        codec = MaskCodec.load(start.mask_codec)
    return checked.report(shown, codec)


@dataclass
class _Checked:
    """What was found in samples so far; `valid` has the source and the row of each good one."""

    count: int = 0
    invalid: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    negatives: int = 0
    unasked: list[str] = field(default_factory=list)
    valid: list[tuple[Source, int]] = field(default_factory=list)

    def report(self, shown: Sequence[Sample], codec: MaskCodec | None) -> DataReport:
        decode_masks = lambda objects: [_decode(codec, one) for one in objects]
        sheet = samples_sheet(shown, decode_masks) if shown else None
        return DataReport(
            self.count, self.invalid, self.left_out, self.negatives, self.unasked, sheet
        )


def _check_samples(
    sources: Sequence[Source], processor: PaliGemmaProcessor, max_text_tokens: int
) -> _Checked:
    """Open every image, and tokenize every text."""
    found = _Checked()
    for source in sources:
        found.count += len(source) + len(source.invalid)
        found.invalid += map(str, source.invalid)
        found.left_out.update(source.left_out)
        for row in tqdm(range(len(source)), unit="sample", leave=False):
            try:
                _, sample = encode(source, row, processor, max_text_tokens)
            except InvalidSample as error:
                found.invalid.append(str(error))
                continue
            found.valid.append((source, row))
            asked, answered = _names(sample)
            found.negatives += bool(asked - answered)
            if asked and (more := sorted(answered - asked)):
                reason = f"{more[0]!r} is answered, but not asked for."
                found.unasked.append(f"{source.place(row)}: {reason}")
    return found


def describe_data(
    path: Path, images: Path | None, task: Literal["detect", "segment"], prefix: str
) -> Data:
    """What a run's `data` would call these files, by their names and by what is in them.

    `task` is what boxes and masks become; `prefix` is the prompt of images with a text only.
    """
    if path.is_dir():
        if (path / ROBOFLOW_FILE).is_file():
            return CocoData(coco=path, images=images, task=task)
        if is_yolo(path):
            return YoloData(yolo=path, task=task)
        if any(path.rglob("*.xml")):
            return VocData(voc=path)
        return FolderData(folder=path, prefix=prefix)
    if path.suffix == ".parquet":
        return ParquetData(parquet=path, images=images, prefix=prefix)
    if path.suffix != ".json":
        return JsonlData(jsonl=path, images=images)
    if is_label_studio(path):
        return LabelStudioData(label_studio=path, images=images, task=task)
    return CocoData(coco=path, images=images, task=task)


def _names(sample: Sample) -> tuple[set[str], set[str]]:
    """The objects that a prompt to detect or to segment asks for, and those in the answer."""
    if sample.task not in ("detect", "segment"):
        return set(), set()
    names = sample.prefix.split(" ", 1)[-1].split(";")
    return {name.strip() for name in names}, {one.label for one in parse(sample.suffix)}


def _decode(codec: MaskCodec | None, one: Detection) -> np.ndarray | None:
    if codec is None or one.codes is None:
        return None
    return codec.decode(torch.tensor([one.codes]))[0].numpy()


def samples_sheet(
    samples: Sequence[Sample], decode_masks: DecodeMasks, titles: Sequence[str] = (">",)
) -> Image.Image:
    """The samples in rows of `COLUMNS`: image with boxes and masks, prompt, answer.

    `titles` stand before the prompts, in turn.
    """
    rows = -(-len(samples) // COLUMNS)
    width, height = SIDE + PAD, SIDE + TEXT * (LINES + 1) + 2 * PAD
    size = (min(len(samples), COLUMNS) * width + PAD, rows * height + PAD)
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), load_font(12)
    for number, sample in enumerate(samples):
        left, top = PAD + number % COLUMNS * width, PAD + number // COLUMNS * height
        sheet.paste(_annotated(sample, decode_masks), (left, top))
        lines = [
            f"{titles[number % len(titles)]} {sample.prefix}",
            *wrap(sample.suffix or "(an empty answer)", SIDE // 8),
        ]
        if len(lines) > LINES + 1:
            lines = [*lines[:LINES], "…"]
        for place, line in enumerate(lines):
            color = "#555555" if place == 0 else "black"
            at = (left, top + SIDE + 4 + place * TEXT)
            pen.text(at, shorten(line, font, SIDE), font=font, fill=color)
    return sheet


def _annotated(sample: Sample, decode_masks: DecodeMasks) -> Image.Image:
    """The image as the model sees it, stretched to a square, with its boxes and masks.

    Several images are small squares in rows, without any.
    """
    if sample.more_images:
        columns = math.ceil(math.sqrt(len(sample.images)))
        side, tiles = SIDE // columns, Image.new("RGB", (SIDE, SIDE), "white")
        for number, one in enumerate(sample.images):
            small = open_image(one).resize((side, side), Image.Resampling.BICUBIC)
            tiles.paste(small, (number % columns * side, number // columns * side))
        return tiles
    image = open_image(sample.image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    has_region = "<loc" in sample.prefix
    objects = parse(f"{sample.prefix} ; {sample.suffix}" if has_region else sample.suffix)
    return draw_objects(image, objects, decode_masks(objects))
