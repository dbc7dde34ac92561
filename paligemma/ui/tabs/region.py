"""A part of the image: two clicks, or four numbers, make a box to describe.

Also the question to an answer, which needs no box.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial

import gradio as gr
from PIL import Image, ImageDraw

from paligemma.detections import Box, Detection, format_box
from paligemma.generation import SamplingOptions
from paligemma.pipeline import PaliGemma
from paligemma.reply import Token
from paligemma.tasks import QUESTION, REGION
from paligemma.ui.common import (
    LATEST,
    PARALLEL,
    PRIVATE,
    UNQUEUED,
    WAITING,
    Upload,
    open_upload,
    resize_for_display,
    text_status,
    timing_text,
)
from paligemma.ui.page import Component, LastRequest, Page, ShownAnswer, Updates
from paligemma.ui.settings import sampling_options
from paligemma.ui.tabs.task import language_choice, language_picker
from visualize import draw_boxes

MODES = [("Describe the box", "region"), ("Find the question to an answer", "question")]
CLICK = "Drag a box over the picture, or click two opposite corners."
HIDDEN = {"__type__": "update", "visible": False}
UNTRAINED_NOTE = "The built-in model was not trained for this: load a published model."
MIN_SIDE = 0.01  # of the image: a thinner box was a slip
NUMBER = re.compile(r"(?<!\d)-?\d+(?:\.\d*)?")  # 10-20 are two numbers, neither below 0
Corner = tuple[float, float]


class RegionTab:
    key = "region"

    def __init__(self, page: Page) -> None:
        with gr.Tab("Region", id=self.key, elem_id=f"tab-{self.key}") as self.container:
            self.mode = gr.Radio(MODES, value="region", label="Mode", show_label=False)
            with gr.Row():
                with gr.Column(scale=3, min_width=280):
                    self.image = gr.Image(
                        label=CLICK,
                        format="png",
                        interactive=False,
                        height=420,
                        elem_id="region-image",
                        buttons=[],
                    )
                    self.text = gr.Textbox(
                        label="Answer", visible=False, max_lines=3, placeholder="For example: two"
                    )
                    self.note = gr.Markdown(UNTRAINED_NOTE, visible=False, elem_classes="note")
                with gr.Column(scale=2, min_width=260):
                    self.box = gr.Textbox(
                        label="Box: left, top, right, bottom, in per cent",
                        max_lines=1,
                        placeholder="Click in the picture, or write: 10, 20, 60, 80",
                        elem_id="box",
                    )
                    self.language = language_picker()
                    self.controls = page.run_controls("Run", self.key)
                    self.raw = gr.Textbox(
                        label="Raw output",
                        lines=2,
                        interactive=False,
                        elem_classes=["raw", "text"],
                    )
                    self.answer_buttons = page.answer_buttons(self.key)
            self.first_corner = gr.State()

    @property
    def url_params(self) -> dict[str, Component]:
        return {
            "region": self.box,
            "region.mode": self.mode,
            "region.answer": self.text,
            "region.language": self.language,
        }

    @property
    def outputs(self) -> list[Component]:
        return [self.raw, *self.answer_buttons.outputs, self.controls.status]

    def reset(self) -> Updates:
        return dict.fromkeys(self.outputs) | self.answer_buttons.reset()

    @property
    def model_outputs(self) -> list[Component]:
        return [self.note, self.language]

    def show_model(self, model: PaliGemma) -> Updates:
        """What the model was not trained for is said, and cannot be chosen."""
        note = UNTRAINED_NOTE if model.is_built_in else ""
        return {self.note: gr.Markdown(note), self.language: language_choice(model)}

    def wire(self, page: Page) -> None:
        # another box or question: the answer of the former one goes, before anything can run
        buttons = self.answer_buttons.buttons
        js = f"() => ['', '', ...Array({len(buttons)}).fill({json.dumps(HIDDEN)})]"
        forgotten = [self.raw, self.controls.status, *buttons]
        for event in self.image.select, self.box.change, self.text.change, self.mode.change:
            event(None, None, forgotten, js=js, **PRIVATE)
        shown = [self.image, self.first_corner]
        page.image.change(start_box, [page.image, self.box], shown, preprocess=False, **PARALLEL)
        self.box.change(
            follow_box, [page.image, self.first_corner, self.box], shown, preprocess=False, **LATEST
        )
        self.mode.change(
            lambda mode: [
                *[gr.update(visible=mode == "region")] * 2,
                *[gr.update(visible=mode == "question")] * 2,
            ],
            self.mode,
            [self.image, self.box, self.text, self.note],
            **UNQUEUED,
        )
        self.answer_buttons.wire_copy(self.raw)
        for text in self.box, self.text:
            page.run_on_enter(text, self.key)
        inputs = {"image": page.image, "box": self.box, "mode": self.mode, "answer": self.text}
        inputs |= {"language": self.language}
        outputs = [page.last_request, *self.outputs]
        ran = page.on_run(self.key, self.controls, partial(self.run, page), inputs, outputs)
        resume, rest = self.answer_buttons.resume, partial(self.continue_answer, page)
        continued = page.on_continue(self.key, self.controls, resume, rest, {}, outputs)
        # by hand alone: an address sets the fields as well, and runs
        for event in self.image.select, self.box.input, self.text.input, self.mode.input:
            stopped = event(None, cancels=[ran, continued], **PRIVATE)
            late = f"() => hasEnded('{self.key}').then({js})"  # its last token may be on its way
            stopped.then(None, None, forgotten, js=late, **PRIVATE)
        # after that: handlers of an event run in order
        self.image.select(
            add_corner,
            [page.image, self.first_corner],
            [*shown, self.box],
            preprocess=False,
            **PARALLEL,
        )

    def run(
        self,
        page: Page,
        image: dict | None,
        box: str,
        mode: str,
        answer: str,
        language: str,
        **settings,
    ) -> Iterator[Updates]:
        """Stream a description of the box, or the question to `answer`."""
        yield self.reset() | {self.controls.status: WAITING}
        upload, options = open_upload(image), sampling_options(**settings)
        if mode == "region":
            prompt = REGION.prompt(format_box(read_box(box)), language)
        else:
            prompt = QUESTION.prompt(str(answer or ""), language)
        yield from self._stream(page, upload, prompt, options)

    def continue_answer(self, page: Page, cut: ShownAnswer | None, **settings) -> Iterator[Updates]:
        """Stream the rest of an answer that was cut off, after what there is of it."""
        cut = page.answer_to_continue(cut, "press Run again")
        yield {self.controls.status: WAITING}
        options = sampling_options(**settings)
        yield from self._stream(page, cut.upload, cut.prompt, options, cut.reply.tokens)

    def _stream(
        self,
        page: Page,
        upload: Upload,
        prompt: str,
        options: SamplingOptions,
        tokens: Sequence[Token] = (),
    ) -> Iterator[Updates]:
        model, run = page.model, page.start_run()
        with closing(run.stream(model, upload.image, prompt, options, tokens)) as replies:
            for reply in replies:
                if not reply.finished:
                    yield {self.raw: reply.text, self.controls.status: f"{timing_text(reply)}…"}
                    continue
                yield {
                    self.raw: reply.text,
                    self.controls.status: text_status(reply),
                    page.last_request: LastRequest.of(reply),
                } | self.answer_buttons.show(upload.path, reply, model)


def start_box(file: dict | None, text: str) -> tuple[Image.Image | None, None]:
    """The image under the box, if one is written, and no corner clicked yet."""
    try:
        image = open_upload(file).image
    except ValueError:  # reported where it was uploaded
        return None, None
    return draw_box(resize_for_display(image), text), None


def follow_box(file: dict | None, first: Corner | None, text: str) -> tuple:
    """The image when the box's text changes, and the first corner while that is alone."""
    image, _ = start_box(file, text)
    if image is None or first is None or str(text or "").strip():
        return image, None
    return draw_dot(image, first), first


def add_corner(file: dict | None, first: Corner | None, click: gr.SelectData) -> tuple:
    """A click: the first corner of a new box, or the second, which completes it.

    Returns the image, the first corner while it is alone, and the box as text.
    """
    image = resize_for_display(open_upload(file).image)
    x, y = click.index
    corner = (min(x / image.width, 1.0), min(y / image.height, 1.0))
    if first is None:
        return draw_dot(image, corner), corner, ""
    text = ", ".join(f"{100 * edge:.1f}" for edge in box_of_corners(first, corner))
    return draw_box(image, text), None, text


def draw_dot(image: Image.Image, at: Corner) -> Image.Image:
    canvas, radius = image.copy(), 10
    x, y = at[0] * image.width, at[1] * image.height
    around = (x - radius, y - radius, x + radius, y + radius)
    ImageDraw.Draw(canvas).ellipse(around, fill="#ffb95f", outline="#4a1f00", width=3)
    return canvas


def draw_box(image: Image.Image, text: str) -> Image.Image:
    """The image under the box that is written; without one, the image."""
    try:
        return draw_boxes(image, [Detection("", read_box(text))])
    except ValueError:
        return image


def box_of_corners(one: Corner, other: Corner) -> Box:
    """The box of two opposite corners, in any order."""
    (x1, x2), (y1, y2) = (sorted(sides) for sides in zip(one, other, strict=True))
    return x1, y1, x2, y2


def read_box(text: str | None) -> Box:
    """The box written in per cent, as fractions. Raises ValueError if there is none."""
    edges = [float(number) / 100 for number in NUMBER.findall(str(text or ""))]
    if len(edges) != 4:
        raise ValueError(f"There is no box yet. {CLICK} Or write it: 10, 20, 60, 80.")
    if not all(0 <= edge <= 1 for edge in edges):
        raise ValueError("A box lies within the picture: its edges are 0 to 100 per cent.")
    x1, y1, x2, y2 = box_of_corners((edges[0], edges[1]), (edges[2], edges[3]))
    if min(x2 - x1, y2 - y1) < MIN_SIDE:
        raise ValueError("That box is too thin to hold anything: give two opposite corners.")
    return x1, y1, x2, y2
