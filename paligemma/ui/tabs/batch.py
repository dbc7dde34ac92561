"""Many pictures, one prompt: answers as they come, a gallery, and all of it in a zip."""

import io
import json
import lzma
import mimetypes
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from time import perf_counter

import gradio as gr
from PIL import Image

from paligemma.generation import SamplingOptions
from paligemma.images import open_image
from paligemma.pipeline import PaliGemma
from paligemma.reply import Reply
from paligemma.ui.common import WAITING, Page, fit, picture_path, sampling, sentences, written
from paligemma.ui.model_picker import bar
from visualize import draw_objects

MOST_PICTURES = 200
MOST_BYTES = 50 * 2**20  # of one picture, unpacked
MOST_AT_ONCE = 300 * 2**20  # of all uploaded files
SHOW_EVERY = 0.5  # seconds
DAMAGES = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, OSError)

Picture = tuple[str, Callable[[], str | bytes]]  # its name, and its path or bytes when called


@dataclass(frozen=True)
class Row:
    """One picture's outcome: a reply and the drawing, or a sentence that says why there is none."""

    name: str
    reply: Reply | None = None
    drawn: Image.Image | None = None
    error: str = ""

    def as_json(self, prompt: str) -> str:
        if self.reply is None:
            return json.dumps({"image": self.name, "error": self.error}, ensure_ascii=False)
        sample = {"image": self.name, "prefix": prompt, "suffix": self.reply.text}
        return json.dumps(sample | self.reply.to_json(tokens=False), ensure_ascii=False)


class BatchTab:
    def __init__(self, page: Page) -> None:
        with gr.Tab("Batch", id="batch"):
            self.files = gr.File(
                label=f"Up to {MOST_PICTURES} pictures, or a zip of them", file_count="multiple",
                height=140, elem_id="files",
            )  # fmt: skip
            self.prompt = gr.Textbox(
                label="The prompt for each, just as the model gets it", max_lines=3,
                placeholder="for example: detect cat ; umbrella",
            )  # fmt: skip
            self.go, _, self.line = page.buttons("Ask them all", "batch")
            self.gallery = gr.Gallery(
                label="Drawings", columns=4, height="auto", format="png", object_fit="contain",
                visible=False, elem_id="drawings", buttons=["fullscreen", "download"],
            )  # fmt: skip
            self.table = gr.HTML(label="Answers")
            self.save = gr.DownloadButton(
                "Download answers.jsonl and the drawings", visible=False, elem_id="save-batch"
            )

    @property
    def in_address(self) -> dict[str, gr.components.Component]:
        """What the address bar keeps, by its name there."""
        return {"batch": self.prompt}

    def wire(self, page: Page) -> None:
        named = {"files": self.files, "prompt": self.prompt} | page.settings
        outputs = [self.gallery, self.table, self.save, self.line]
        page.on_enter(self.prompt, "batch")
        page.run("batch", self.go, partial(answer_all, page), named, outputs)


def answer_all(page: Page, files: list | None, prompt: str, **options) -> Iterator[tuple]:
    """Stream the table and the bar; at the end, the gallery and the zip.

    A picture that cannot be read has its sentence in the table and stops nobody.
    """
    same, rows, shown = gr.skip(), [], perf_counter()
    with sentences(), TemporaryDirectory() as folder:
        options, paths = sampling(**options), [picture_path(file) for file in files or []]
        prompt, pictures = written(prompt), unpack(paths)
        yield gr.Gallery([], visible=False), "", gr.DownloadButton(visible=False), WAITING
        for number, picture in enumerate(pictures):
            for row in _answer(page.seat.current, picture, prompt, options):
                if perf_counter() - shown > SHOW_EVERY:
                    words = f"{escape(row.name)}, {number + 1} of {len(pictures)}"
                    yield same, table(rows), same, bar(number / len(pictures), words)
                    shown = perf_counter()
            rows.append(row)
        drawings = [(row.drawn, row.name) for row in rows if row.drawn]
        packed = Path(folder) / "answers.zip"
        packed.write_bytes(pack(rows, prompt))
        failed = sum(row.reply is None for row in rows)
        line = f"Done: {len(rows) - failed} answered" + f", {failed} not readable" * bool(failed)
        gallery = gr.Gallery(drawings, visible=bool(drawings))
        yield gallery, table(rows), gr.DownloadButton(value=str(packed), visible=True), line + "."


def unpack(paths: Sequence[str]) -> list[Picture]:
    """Uploaded files -> the name of each picture and how to read it, zips taken apart.

    ValueError for no picture at all, more than MOST_PICTURES, and a zip that cannot be read.
    """
    pictures: list[Picture] = []
    if sum(os.path.getsize(path) for path in paths) > MOST_AT_ONCE:
        raise ValueError(f"At most {MOST_AT_ONCE >> 20} MB of pictures at once.")
    for path in paths:
        if not zipfile.is_zipfile(path):
            pictures.append((Path(path).name, partial(_file, path)))
            continue
        try:
            with zipfile.ZipFile(path) as archive:
                pictures += [
                    (member.filename, partial(_read, path, member))
                    for member in archive.infolist()
                    if _is_picture(member)
                ]
        except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
            raise ValueError(f"The zip {Path(path).name!r} cannot be read: {error}.") from error
    if not pictures:
        raise ValueError("There are no pictures yet: add some, or a zip of them.")
    if len(pictures) > MOST_PICTURES:
        raise ValueError(f"At most {MOST_PICTURES} pictures at once, not {len(pictures)}.")
    return pictures


def _is_picture(member: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(member.filename)
    kind = mimetypes.guess_type(path.name)[0] or "image/unknown"
    aside = member.is_dir() or path.name.startswith(".") or "__MACOSX" in path.parts
    return kind.startswith("image/") and not aside


def _file(path: str) -> str:
    """A file that is not taken apart; ValueError for a zip that is cut short."""
    if path.lower().endswith(".zip"):
        raise ValueError(f"The zip {Path(path).name!r} is damaged: pack it again.")
    return path


def _read(path: str, member: zipfile.ZipInfo) -> bytes:
    """A member's bytes; ValueError where it is damaged, locked or too large."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            data = file.read(MOST_BYTES + 1)
    except DAMAGES as error:
        raise ValueError(f"{member.filename!r} cannot be unpacked: {error!r}.") from error
    if len(data) > MOST_BYTES:
        raise ValueError(f"{member.filename!r} has more than {MOST_BYTES >> 20} MB unpacked.")
    return data


def _answer(
    pg: PaliGemma, picture: Picture, prompt: str, options: SamplingOptions
) -> Iterator[Row]:
    """A row a token, the last one whole."""
    name, read = picture
    try:
        image = open_image(read())
    except ValueError as error:
        yield Row(name, error=str(error))
        return
    with closing(pg.stream(image, prompt, options)) as replies:
        for reply in replies:
            if not reply.finished:
                yield Row(name, reply)
    drawn = draw_objects(fit(image), reply.detections, pg.masks(reply.detections))
    yield Row(name, reply, drawn)


def table(rows: Sequence[Row]) -> str:
    lines = (
        f"<tr><td>{escape(row.name)}</td>"
        f"<td>{escape(row.reply.text if row.reply else row.error) or '…'}</td></tr>"
        for row in rows
    )
    return f'<table class="batch">{"".join(lines)}</table>' if rows else ""


def pack(rows: Sequence[Row], prompt: str) -> bytes:
    """A zip: answers.jsonl, a row a picture, and the drawing of each."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        lines = "".join(row.as_json(prompt) + "\n" for row in rows)
        archive.writestr("answers.jsonl", lines)
        for number, row in enumerate(rows, 1):
            if row.drawn:
                with archive.open(f"{number:03d}-{Path(row.name).stem}.png", "w") as file:
                    row.drawn.save(file, "PNG")
    return whole.getvalue()
