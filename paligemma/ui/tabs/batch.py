"""Many images, one prompt: answers as they come, a gallery, and all of it in a zip."""

import io
import json
import lzma
import mimetypes
import os
import re
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
from typing import NamedTuple

import gradio as gr
from PIL import Image

from paligemma.generation import MAX_NEW_TOKENS, SamplingOptions
from paligemma.pipeline import PaliGemma
from paligemma.prompts import prompt_note, unknown_names
from paligemma.reply import Reply
from paligemma.synthetic.suggestions import unknown_note
from paligemma.ui.common import (
    BROWSE_NAMES,
    NO_TEXT,
    WAITING,
    open_for_page,
    raw_prompt,
    resize_for_display,
    upload_path,
    with_notes,
)
from paligemma.ui.errors import escape_markdown
from paligemma.ui.model_picker import progress_bar
from paligemma.ui.model_run import ModelRun
from paligemma.ui.page import Component, Page, Updates
from paligemma.ui.settings import sampling_options
from visualize import draw_objects

MAX_IMAGES = 200
MAX_IMAGE_BYTES = 50 * 2**20  # of one file, unpacked
MAX_UPLOAD_BYTES = 300 * 2**20  # of all files
MAX_UNPACKED_BYTES = 2**31  # of all images in zips
MAX_ZIP_ENTRIES = 5_000  # images or not
MAX_ZIP_LIST_BYTES = 2**20  # of the list of the entries, which may say another number than it has
UPDATE_SECONDS = 0.5
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, OSError)


class BatchImage(NamedTuple):
    """The name of a file, and its path or bytes when called."""

    name: str
    read: Callable[[], str | bytes]


@dataclass(frozen=True)
class BatchResult:
    """One image's outcome: a reply and the drawing, or why there is none."""

    name: str
    reply: Reply | None = None
    drawing: Image.Image | None = None
    error: str = ""

    def to_json(self, prompt: str) -> str:
        if self.reply is None:
            return json.dumps({"image": self.name, "error": self.error}, ensure_ascii=False)
        sample = {"image": self.name, "prefix": prompt, "suffix": self.reply.text}
        return json.dumps(sample | self.reply.to_json(tokens=False), ensure_ascii=False)


class BatchTab:
    key = "batch"

    def __init__(self, page: Page) -> None:
        with gr.Tab("Batch", id=self.key, elem_id=f"tab-{self.key}") as self.container:
            self.files = gr.File(
                label=f"Up to {MAX_IMAGES} pictures, or a zip of them",
                file_count="multiple",
                height=140,
                elem_id="files",
            )
            self.prompt = gr.Textbox(
                label="Raw prompt for each picture",
                max_lines=3,
                placeholder="For example: detect cat ; umbrella",
            )
            self.controls = page.run_controls("Run on all images", self.key)
            self.gallery = gr.Gallery(
                label="Drawings",
                columns=4,
                height="auto",
                format="png",
                object_fit="contain",
                visible=False,
                elem_id="drawings",
                buttons=["fullscreen", "download"],
            )
            self.table = gr.HTML(label="Answers")
            self.save = gr.DownloadButton(
                "Download answers.jsonl and the drawings", visible=False, elem_id="download-batch"
            )

    @property
    def url_params(self) -> dict[str, Component]:
        return {"batch": self.prompt}

    @property
    def outputs(self) -> list[Component]:
        return [self.gallery, self.table, self.save, self.controls.status]

    def reset(self) -> Updates:
        return dict.fromkeys(self.outputs) | {
            self.gallery: gr.Gallery([], visible=False),
            self.save: gr.DownloadButton(visible=False),
        }

    def wire(self, page: Page) -> None:
        page.run_on_enter(self.prompt, self.key)
        inputs = {"files": self.files, "prompt": self.prompt}
        page.on_run(self.key, self.controls, partial(run_batch, page), inputs, self.outputs)


def run_batch(page: Page, files: list | None, prompt: str, **settings) -> Iterator[tuple]:
    """Stream the table and a progress bar; at the end, the gallery and the zip.

    An image that cannot be read has its error in the table and does not stop the others.
    """
    unchanged, updated = gr.skip(), perf_counter()
    results: list[BatchResult] = []
    with TemporaryDirectory() as folder:
        yield gr.Gallery([], visible=False), "", gr.DownloadButton(visible=False), WAITING
        if not isinstance(files, list | None):
            raise ValueError("Pictures are sent as a list of files.")
        options, paths = sampling_options(**settings), [upload_path(file) for file in files or []]
        prompt, images = raw_prompt(prompt), unpack(paths)
        run = page.start_run()
        for number, image in enumerate(images):
            if run.is_over:
                break
            for result in stream_result(run, page.model, image, prompt, options):
                if result.drawing or result.error:
                    results.append(result)
                elif perf_counter() - updated > UPDATE_SECONDS:
                    text = f"{escape_markdown(result.name)}, {number + 1} of {len(images)}"
                    bar = progress_bar(number / len(images), text)
                    yield unchanged, results_table(results), unchanged, bar
                    updated = perf_counter()
        drawings = [(result.drawing, result.name) for result in results if result.drawing]
        packed = Path(folder) / "answers.zip"
        packed.write_bytes(results_zip(results, prompt))
        failed = sum(result.reply is None for result in results)
        left = len(images) - len(results)
        status = f"Done: {len(results) - failed} answered"
        cut = sum(result.reply is not None and result.reply.is_cut_off for result in results)
        status += f", {cut} of them cut off" * bool(cut)
        status += f", {failed} not readable" * bool(failed)
        status += f", {left} left out at the time limit" * bool(left)
        known = page.model.known_names
        unknown = unknown_names(prompt, known)
        notes = [prompt_note(prompt), unknown_note(unknown, known, BROWSE_NAMES)]
        yield (
            gr.Gallery(drawings, visible=bool(drawings)),
            results_table(results),
            gr.DownloadButton(value=str(packed), visible=True),
            with_notes(f"{status}.", list(filter(None, notes))),
        )


def unpack(paths: Sequence[str]) -> list[BatchImage]:
    """The images in the uploaded files and in the zips among them, not read yet.

    Raises ValueError for no image at all, more than MAX_IMAGES, and a zip that cannot be read.
    """
    images: list[BatchImage] = []
    unpacked = 0  # bytes of the images in zips
    if sum(os.path.getsize(path) for path in paths) > MAX_UPLOAD_BYTES:
        raise ValueError(f"At most {MAX_UPLOAD_BYTES >> 20} MB of pictures at once.")
    for path in paths:
        _check_count(images)  # before another list is read
        if not zipfile.is_zipfile(path):
            images.append(BatchImage(Path(path).name, partial(_plain_file, path)))
            continue
        try:
            _check_entries(path)
            with zipfile.ZipFile(path) as archive:
                members = [member for member in archive.infolist() if _is_image(member)]
            unpacked += sum(member.file_size for member in members)
            images += [
                BatchImage(member.filename, partial(_read_member, path, member))
                for member in members
            ]
        except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
            raise ValueError(f"The zip {Path(path).name!r} cannot be read: {error}.") from error
        if unpacked > MAX_UNPACKED_BYTES:
            megabytes = MAX_UNPACKED_BYTES >> 20
            raise ValueError(f"At most {megabytes} MB of pictures in zips, unpacked.")
    _check_count(images)
    if not images:
        raise ValueError("There are no pictures yet: add some, or a zip of them.")
    return images


def _check_count(images: Sequence[BatchImage]) -> None:
    if len(images) > MAX_IMAGES:
        raise ValueError(f"At most {MAX_IMAGES} pictures at once.")


def _check_entries(path: str) -> None:
    """Raises ValueError for a zip with a longer list of entries than any that is of use here.

    `ZipFile` reads the whole list when it opens a file, a kilobyte of memory for each entry. The
    record at the end says how long it is; zipfile's own reader of that record is what counts.
    """
    with open(path, "rb") as file:
        record = zipfile._EndRecData(file)  # pyright: ignore[reportAttributeAccessIssue]
    if record is None:
        raise zipfile.BadZipFile("it has no list of its files")
    entries, list_bytes = record[4], record[5]
    if entries > MAX_ZIP_ENTRIES or list_bytes > MAX_ZIP_LIST_BYTES:
        raise ValueError(
            f"The zip {Path(path).name!r} has too many files: at most {MAX_ZIP_ENTRIES} are read."
        )


def _is_image(member: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(member.filename)
    kind = mimetypes.guess_type(path.name)[0] or "image/unknown"
    ignored = member.is_dir() or path.name.startswith(".") or "__MACOSX" in path.parts
    return kind.startswith("image/") and not ignored


def _plain_file(path: str) -> str:
    """The path of a file that is not unpacked; raises ValueError for a zip that is cut short."""
    if path.lower().endswith(".zip"):
        raise ValueError(f"The zip {Path(path).name!r} is damaged: pack it again.")
    return path


def _read_member(path: str, member: zipfile.ZipInfo) -> bytes:
    """A member's bytes; raises ValueError where it is damaged, locked or too large."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except ZIP_ERRORS as error:
        raise ValueError(f"{member.filename!r} cannot be unpacked: {error!r}.") from error
    if len(data) > MAX_IMAGE_BYTES:
        raise ValueError(f"{member.filename!r} has more than {MAX_IMAGE_BYTES >> 20} MB unpacked.")
    return data


def stream_result(
    run: ModelRun,
    model: PaliGemma,
    batch_image: BatchImage,
    prompt: str,
    options: SamplingOptions,
) -> Iterator[BatchResult]:
    """A result a token; the last one has the drawing, or an error. None past the time limit."""
    name = batch_image.name
    try:
        image = open_for_page(batch_image.read())
    except ValueError as error:
        yield BatchResult(name, error=str(error))
        return
    if run.is_over:  # opening took what was left
        return
    with closing(run.stream(model, image, prompt, options)) as replies:
        for reply in replies:
            drawing = None
            if reply.finished:
                masks = model.masks(reply.detections)
                drawing = draw_objects(resize_for_display(image), reply.detections, masks)
            yield BatchResult(name, reply, drawing)


def results_table(results: Sequence[BatchResult]) -> str:
    rows = (
        f"<tr><td>{escape(each.name)}</td><td>{_answer_cell(each)}</td></tr>" for each in results
    )
    return f'<table class="batch">{"".join(rows)}</table>' if results else ""


def _answer_cell(result: BatchResult) -> str:
    """An answer, or what is said in place of one and of its end, as HTML."""
    if result.reply is None:
        return escape(result.error)
    text = escape(result.reply.text.strip()) or f"<i>{NO_TEXT}</i>"
    return text + f" <i>({_cut_note(result.reply)})</i>" * result.reply.is_cut_off


def _cut_note(reply: Reply) -> str:
    """Which limit cut an answer off, and what to change for a whole one."""
    if reply.finish_reason == "time":
        return "cut off at the time limit: run fewer pictures at once"
    count = len(reply.tokens)
    advice = ": raise Max new tokens in Settings" * (count < MAX_NEW_TOKENS)
    return f"cut off at {count} tokens{advice}"


def results_zip(results: Sequence[BatchResult], prompt: str) -> bytes:
    """A zip: answers.jsonl, a line for each image, and their drawings."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        lines = "".join(result.to_json(prompt) + "\n" for result in results)
        archive.writestr("answers.jsonl", lines)
        for number, result in enumerate(results, 1):
            if result.drawing:
                with archive.open(drawing_name(number, result.name), "w") as file:
                    result.drawing.save(file, "PNG")
    return packed.getvalue()


def drawing_name(number: int, name: str) -> str:
    """The name of a drawing in the zip: no folders, of Windows neither, and no odd characters."""
    stem = PurePosixPath(name.replace("\\", "/")).stem
    plain = re.sub(r"[^\w .()+-]", "_", stem)
    return f"{number:03d}-{plain[:80]}.png"
