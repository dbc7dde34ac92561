"""One prompt, two models, resolutions or precisions: answers, times and drawings side by side."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from html import escape
from weakref import ref

import gradio as gr
from PIL import Image

from paligemma.checkpoints.resolve import Checkpoint
from paligemma.generation import SamplingOptions
from paligemma.pipeline import PaliGemma
from paligemma.prompts import prompt_note
from paligemma.reply import Reply, Token
from paligemma.ui.common import (
    NO_TEXT,
    WAITING,
    Upload,
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
from paligemma.ui.page import Component, Page, ShownAnswer, Updates
from paligemma.ui.settings import sampling_options
from visualize import draw_objects

ADVICE = "press Compare again"
DTYPES = ["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class ModelAnswer:
    """One model's answer."""

    model: PaliGemma
    reply: Reply

    def draw(self, image: Image.Image) -> Image.Image:
        """Its objects in the image, as large as results are shown."""
        detections = self.reply.detections
        return draw_objects(resize_for_display(image), detections, self.model.masks(detections))


@dataclass(frozen=True)
class Comparison(ShownAnswer):
    """The current model's answer that the tab shows, and the other model's."""

    other: ShownAnswer

    @property
    def is_cut_off(self) -> bool:
        return self.reply.is_cut_off or self.other.reply.is_cut_off


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
            with gr.Row(elem_classes="hints"):
                self.resume = page.continue_button(self.key)
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
        return [self.table, self.slider, *self.resume.outputs, self.controls.status]

    def reset(self) -> Updates:
        hidden = {self.slider: gr.ImageSlider(None, visible=False)}
        return dict.fromkeys(self.outputs) | hidden | self.resume.reset()

    def wire(self, page: Page) -> None:
        page.run_on_enter(self.prompt, self.key)
        asked = {"image": page.image, "prompt": self.prompt}
        asked |= {"checkpoint": self.checkpoint, "dtype": self.dtype}
        page.on_run(
            self.key,
            self.controls,
            partial(self.compare, page),
            asked,
            self.outputs,
            prepare=(
                partial(self.resolve, page),
                [self.source, self.dtype, page.image, self.prompt],
                [self.checkpoint, *self.outputs],
            ),
        )
        rest = partial(self.continue_answers, page)
        page.on_continue(self.key, self.controls, self.resume, rest, {}, self.outputs)

    def resolve(
        self, page: Page, source: str | None, dtype: str, image: dict | None, prompt: str
    ) -> Iterator[Updates]:
        """Resolve the other model, once there are an image and a prompt; a former answer goes."""
        yield self.reset() | {self.checkpoint: None, self.controls.status: WAITING}
        upload_path(image)
        raw_prompt(prompt)
        read_choice(dtype, DTYPES, "The precision")
        resolve = partial(page.models.resolve_comparison, dtype=dtype)
        for checkpoint, status in resolve_with_progress(resolve, source):
            yield {self.checkpoint: checkpoint, self.controls.status: status}

    def compare(
        self,
        page: Page,
        image: dict | None,
        prompt: str,
        checkpoint: Checkpoint | None,
        dtype: str,
        **settings,
    ) -> Iterator[Updates]:
        """Stream the current model's answer, the loading of the other model, and its answer."""
        yield self.reset() | {self.controls.status: WAITING}
        upload, options = open_upload(image), sampling_options(**settings)
        prompt = raw_prompt(prompt)
        read_choice(dtype, DTYPES, "The precision")
        left = right = None
        run = page.start_run()
        for left in stream_answer(run, page.model, upload.image, prompt, options):
            yield self._show_unfinished([left], left)
        assert left
        yield {self.controls.status: "Loading the other model…"}
        other = page.models.load_comparison(checkpoint, dtype)
        for right in stream_answer(run, other, upload.image, prompt, options):
            yield self._show_unfinished([left, right], right)
        assert right
        yield self._show(upload, left, right)

    def continue_answers(self, page: Page, cut: Comparison | None, **settings) -> Iterator[Updates]:
        """Stream the rest of each answer that was cut off, after what there is of it."""
        cut = page.answer_to_continue(cut, ADVICE)
        if (other := cut.other.model()) is None:
            raise ValueError(f"The other model is no longer loaded: {ADVICE}.")
        options, upload = sampling_options(**settings), cut.upload
        yield {self.controls.status: WAITING}
        answers = [ModelAnswer(page.model, cut.reply), ModelAnswer(other, cut.other.reply)]
        run = page.start_run()
        for place, answer in enumerate(answers):
            if not answer.reply.is_cut_off:
                continue
            model, tokens = answer.model, answer.reply.tokens
            for longer in stream_answer(run, model, upload.image, cut.prompt, options, tokens):
                answers[place] = longer
                yield self._show_unfinished(answers, longer)
        yield self._show(upload, *answers)

    def _show_unfinished(self, answers: Sequence[ModelAnswer], growing: ModelAnswer) -> Updates:
        """The outputs while one of the answers grows."""
        status = f"{escape_markdown(growing.model.name)}: {timing_text(growing.reply)}…"
        return {self.table: comparison_table(answers), self.controls.status: status}

    def _show(self, upload: Upload, left: ModelAnswer, right: ModelAnswer) -> Updates:
        """The outputs for two complete answers."""
        has_objects = bool(left.reply.detections or right.reply.detections)
        drawings = left.draw(upload.image), right.draw(upload.image)
        shown = Comparison(
            upload.path,
            left.reply,
            ref(left.model),
            ShownAnswer(upload.path, right.reply, ref(right.model)),
        )
        summary = "Same answer" if left.reply.text == right.reply.text else "Different answers"
        summary += " so far." if shown.is_cut_off else "."
        notes = answer_notes(left.model, left.reply, prompt_note(shown.prompt))
        return {
            self.table: comparison_table([left, right]),
            self.slider: gr.ImageSlider(drawings, visible=has_objects),
            self.controls.status: with_notes(summary, notes),
        } | self.resume.show(shown)


def stream_answer(
    run: ModelRun,
    model: PaliGemma,
    image: Image.Image,
    prompt: str,
    options: SamplingOptions,
    tokens: Sequence[Token] = (),
) -> Iterator[ModelAnswer]:
    """The model's answer after each token; it begins with `tokens`."""
    with closing(run.stream(model, image, prompt, options, tokens)) as replies:
        for reply in replies:
            yield ModelAnswer(model, reply)


def _output(reply: Reply) -> str:
    """What there is of a model's answer, as HTML."""
    return escape(reply.text) or (f"<i>{NO_TEXT}</i>" if reply.finished else "…")


def comparison_table(answers: Sequence[ModelAnswer]) -> str:
    """A column for each model, as HTML."""
    rows = {
        "model": [f"<b>{escape(answer.model.name)}</b>" for answer in answers],
        "size": [escape(answer.model.facts) for answer in answers],
        "time": [timing_text(answer.reply) for answer in answers],
        "output": [_output(answer.reply) for answer in answers],
    }
    lines = (
        f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for name, cells in rows.items()
    )
    return f'<table class="comparison">{"".join(lines)}</table>'
