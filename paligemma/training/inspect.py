"""Check samples before training on them: the invalid ones with reasons, and a contact sheet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from paligemma.training.data import encode, open_data
from paligemma.training.sources import InvalidSample, Sample
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
    max_text_tokens = Run.model_fields["max_text_tokens"].default
    invalid, valid = [str(error) for error in source.invalid], []
    count_negatives, unasked = 0, []
    for row in tqdm(range(len(source)), desc=path.name, unit="sample", leave=False):
        try:
            _, sample = encode(source, row, found.processor, max_text_tokens)
            valid.append(row)
            asked, answered = _names(sample)
            count_negatives += bool(asked - answered)
            if asked and (more := sorted(answered - asked)):
                unasked.append(f"{source.place(row)}: {more[0]!r} is answered, but not asked for.")
        except InvalidSample as error:
            invalid.append(str(error))
    room = COLUMNS * ROWS
    shown = [source[row] for row in valid[:: max(len(valid) // room, 1)][:room]]
    decode_masks = lambda objects: [_decode(codec, one) for one in objects]
    sheet = samples_sheet(shown, decode_masks) if shown else None
    count = len(source) + len(source.invalid)
    return DataReport(count, invalid, source.left_out, count_negatives, unasked, sheet)


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


def _decode(codec: MaskCodec, one: Detection) -> np.ndarray | None:
    return None if one.codes is None else codec.decode(torch.tensor([one.codes]))[0].numpy()


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
    """The image as the model sees it, stretched to a square, with its boxes and masks."""
    image = open_image(sample.image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    has_region = "<loc" in sample.prefix
    objects = parse(f"{sample.prefix} ; {sample.suffix}" if has_region else sample.suffix)
    return draw_objects(image, objects, decode_masks(objects))
