"""One prompt, two models, resolutions or precisions: answers, times and drawings side by side."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from html import escape

import gradio as gr
from PIL import Image

from paligemma.checkpoints.resolve import Checkpoint
from paligemma.generation import SamplingOptions
from paligemma.pipeline import PaliGemma
from paligemma.prompts import prompt_note
from paligemma.reply import Reply
from paligemma.ui.common import (
    NO_TEXT,
    WAITING,
    answer_notes,
    open_upload,
    raw_prompt,
    resize_for_display,
    timing_text,
    upload_path,
    with_notes,
)
from paligemma.ui.errors import escape_markdown
from paligemma.ui.inputs import read_choice
from paligemma.ui.model_picker import model_choices, resolve_with_progress
from paligemma.ui.model_run import ModelRun
from paligemma.ui.page import Component, Page, Updates
from paligemma.ui.settings import sampling_options
from visualize import draw_objects

DTYPES = ["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class ModelAnswer:
    """One model's answer."""

    name: str
    facts: str
    reply: Reply
    drawing: Image.Image


class CompareTab:
    key = "compare"

    def __init__(self, page: Page) -> None:
        with gr.Tab("Compare", id=self.key, elem_id=f"tab-{self.key}") as self.container:
            self.prompt = gr.Textbox(
                label="Raw prompt", max_lines=3, placeholder="For example: detect cat"
            )
            with gr.Row():
                self.source = gr.Dropdown(
                    model_choices(),
                    value="built-in",
                    label="Compare the current model with",
                    allow_custom_value=page.models.any_model,
                    scale=3,
                    min_width=200,
                )
                self.dtype = gr.Dropdown(
                    DTYPES, value="bfloat16", label="Precision", scale=1, min_width=160
                )
            self.controls = page.run_controls("Compare", self.key)
            self.table = gr.HTML(label="Side by side")
            self.slider = gr.ImageSlider(
                label="Left: the current model",
                format="png",
                interactive=False,
                visible=False,
                elem_id="comparison",
            )
            self.checkpoint = gr.State()

    @property
    def url_params(self) -> dict[str, Component]:
        return {
            "compare": self.prompt,
            "compare.model": self.source,
            "compare.dtype": self.dtype,
        }

    @property
    def outputs(self) -> list[Component]:
        return [self.table, self.slider, self.controls.status]

    def reset(self) -> Updates:
        return dict.fromkeys(self.outputs) | {self.slider: gr.ImageSlider(None, visible=False)}

    def wire(self, page: Page) -> None:
        page.run_on_enter(self.prompt, self.key)
        page.on_run(
            self.key,
            self.controls,
            partial(compare, page),
            {
                "image": page.image,
                "prompt": self.prompt,
                "checkpoint": self.checkpoint,
                "dtype": self.dtype,
            },
            self.outputs,
            prepare=(
                partial(resolve_comparison, page),
                [self.source, page.image, self.prompt],
                [self.checkpoint, self.controls.status, self.table, self.slider],
            ),
        )


def resolve_comparison(
    page: Page, source: str | None, image: dict | None, prompt: str
) -> Iterator[tuple]:
    """Resolve the other model, once there are an image and a prompt; a former answer goes."""
    hidden = "", gr.ImageSlider(None, visible=False)
    yield None, WAITING, *hidden
    upload_path(image)
    raw_prompt(prompt)
    for checkpoint, status in resolve_with_progress(page.models.resolve_comparison, source):
        yield checkpoint, status, *hidden


def compare(
    page: Page,
    image: dict | None,
    prompt: str,
    checkpoint: Checkpoint | None,
    dtype: str,
    **settings,
) -> Iterator[tuple]:
    """Stream the current model's answer, the loading of the other model, and its answer."""
    unchanged = gr.skip()
    upload, options, prompt = (
        open_upload(image),
        sampling_options(**settings),
        raw_prompt(prompt),
    )
    read_choice(dtype, DTYPES, "The precision")
    yield "", gr.ImageSlider(visible=False), WAITING
    left = right = None
    run = page.start_run()
    for left in stream_answer(run, page.model, upload.image, prompt, options):
        yield comparison_table([left]), unchanged, status_text(left)
    assert left
    yield unchanged, unchanged, "Loading the other model…"
    other = page.models.load_comparison(checkpoint, dtype)
    for right in stream_answer(run, other, upload.image, prompt, options):
        yield comparison_table([left, right]), unchanged, status_text(right)
    assert right
    has_objects = bool(left.reply.detections or right.reply.detections)
    slider = gr.ImageSlider((left.drawing, right.drawing), visible=has_objects)
    summary = "Same answer." if left.reply.text == right.reply.text else "Different answers."
    notes = answer_notes(page.model, left.reply, prompt_note(prompt))
    yield comparison_table([left, right]), slider, with_notes(summary, notes)


def stream_answer(
    run: ModelRun, model: PaliGemma, image: Image.Image, prompt: str, options: SamplingOptions
) -> Iterator[ModelAnswer]:
    shown = resize_for_display(image)
    with closing(run.stream(model, image, prompt, options)) as replies:
        for reply in replies:
            drawing = shown
            if reply.finished and reply.detections:
                drawing = draw_objects(shown, reply.detections, model.masks(reply.detections))
            yield ModelAnswer(model.name, model.facts, reply, drawing)


def status_text(answer: ModelAnswer) -> str:
    return f"{escape_markdown(answer.name)}: {timing_text(answer.reply)}…"


def _output(reply: Reply) -> str:
    """What there is of a model's answer, as HTML."""
    return escape(reply.text) or (f"<i>{NO_TEXT}</i>" if reply.finished else "…")


def comparison_table(answers: list[ModelAnswer]) -> str:
    """A column for each model, as HTML."""
    rows = {
        "model": [f"<b>{escape(answer.name)}</b>" for answer in answers],
        "size": [escape(answer.facts) for answer in answers],
        "time": [timing_text(answer.reply) for answer in answers],
        "output": [_output(answer.reply) for answer in answers],
    }
    lines = (
        f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for name, cells in rows.items()
    )
    return f'<table class="comparison">{"".join(lines)}</table>'
