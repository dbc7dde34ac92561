"""Look at examples before training on them: bad rows with their reasons, and a contact sheet."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap

from PIL import Image, ImageDraw
from tqdm import tqdm

from paligemma.checkpoints import hub
from paligemma.checkpoints.resolve import resolve
from paligemma.detections import parse
from paligemma.images import open_image
from paligemma.models.mask_codec import MaskCodec
from paligemma.training.config import Run
from paligemma.training.data import encode
from paligemma.training.sources import CocoSource, InvalidSample, JsonLines, Sample
from visualize import draw_objects
from visualize.boxes import load_font

COLUMNS, ROWS = 4, 4
SIDE, TEXT, LINES = 300, 15, 4  # pixels of a picture, of a line of text below it; lines
PAD = 10


def check(
    path: Path, images: Path | None, task: str, model: str | None
) -> tuple[int, list[str], Mapping[str, int], Image.Image | None]:
    """(rows, a line for each bad one, what is left out, a sheet of good ones spread over it).

    Every picture is opened and every text tokenised. `task` is what COCO annotations become.
    Raises ValueError for a file without any row.
    """
    found = resolve(model)
    codec = MaskCodec.load(found.mask_codec or hub.fetch_mask_codec())
    if path.suffix == ".json":
        source = CocoSource(path, images, task, codec)
    else:
        source = JsonLines(path, images)
    if not len(source) and not source.invalid:
        reasons = "".join(f", only {count} {what}" for what, count in source.left_out.items())
        raise ValueError(f"{path} has no row to train on{reasons}.")
    max_text_tokens = Run.model_fields["max_text_tokens"].default
    bad, good = [str(error) for error in source.invalid], []
    for row in tqdm(range(len(source)), desc=path.name, unit="row", leave=False):
        try:
            encode(source, row, found.processor, max_text_tokens)
            good.append(row)
        except InvalidSample as error:
            bad.append(str(error))
    count = COLUMNS * ROWS
    shown = [source[row] for row in good[:: max(len(good) // count, 1)][:count]]
    sheet = contact_sheet(shown, codec) if shown else None
    return len(source) + len(source.invalid), bad, source.left_out, sheet


def contact_sheet(shown: Sequence[Sample], codec: MaskCodec) -> Image.Image:
    """The examples in rows of `COLUMNS`: picture with boxes and masks, prompt, answer."""
    rows = -(-len(shown) // COLUMNS)
    wide, high = SIDE + PAD, SIDE + TEXT * (LINES + 1) + 2 * PAD
    sheet = Image.new("RGB", (min(len(shown), COLUMNS) * wide + PAD, rows * high + PAD), "white")
    pen, font = ImageDraw.Draw(sheet), load_font(12)
    for number, example in enumerate(shown):
        left, top = PAD + number % COLUMNS * wide, PAD + number // COLUMNS * high
        sheet.paste(_drawn(example, codec), (left, top))
        lines = [f"> {example.prefix}", *wrap(example.suffix, SIDE // 7)]
        if len(lines) > LINES + 1:
            lines = [*lines[:LINES], "…"]
        for place, line in enumerate(lines):
            color = "#555555" if place == 0 else "black"
            at = (left, top + SIDE + 4 + place * TEXT)
            pen.text(at, line[: SIDE // 7 + 2], font=font, fill=color)
    return sheet


def _drawn(example: Sample, codec: MaskCodec) -> Image.Image:
    """The picture [SIDE, SIDE], as the model sees it: stretched to a square, then drawn on."""
    picture = open_image(example.image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    found = parse(f"{example.prefix} ; {example.suffix}" if "<loc" in example.prefix
                  else example.suffix)  # fmt: skip
    masks = [None if one.codes is None else codec.decode([one.codes])[0].numpy() for one in found]
    return draw_objects(picture, found, masks)
