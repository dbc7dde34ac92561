"""A tab for each task of `TASKS`: its inputs, the streamed answer, and the objects in it."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from html import escape
from time import perf_counter

import gradio as gr
import numpy as np

from paligemma.detections import Detection
from paligemma.generation import SamplingOptions
from paligemma.pipeline import PaliGemma
from paligemma.reply import Reply, Token
from paligemma.tasks import LANGUAGES, TASKS, Task
from paligemma.ui.common import (
    NO_TEXT,
    PRIVATE,
    UNQUEUED,
    WAITING,
    Upload,
    answer_notes,
    asked_prompt,
    open_for_page,
    open_upload,
    resize_for_display,
    text_status,
    timing_text,
    with_notes,
)
from paligemma.ui.image_input import GalleryExample
from paligemma.ui.name_list import names_html
from paligemma.ui.page import Component, LastRequest, Page, ShownAnswer, Updates
from paligemma.ui.results import AnswerObjects, DisplayOptions, ObjectsPanel, annotated_image
from paligemma.ui.settings import sampling_options

DRAWING_SHARE = 0.05  # of the time of an answer, that may go into drawing it while it grows
LANGUAGE_CHOICES = sorted((name, code) for code, name in LANGUAGES.items())
MAX_HISTORY = 8  # questions
SAVED_ANSWER = "Saved example answer. Press {label} to run it live."
STYLES = {"caption": "usual", "cap": "short", "describe": "detailed"}


class TaskTab:
    """One task's tab; a component that the task has no use for is None."""

    def __init__(self, page: Page, task: Task) -> None:
        self.task, self.key = task, task.key
        self.objects: ObjectsPanel | None = None
        self.history: gr.State | None = None  # questions and answers about this image
        self.history_list: gr.HTML | None = None
        with gr.Tab(task.label, id=task.key, elem_id=f"tab-{task.key}") as self.container:
            self._create_inputs()
            self.controls = page.run_controls(task.label, task.key)
            with gr.Row():
                if task.answers != "text":
                    drawing = gr.AnnotatedImage(
                        label="Result", elem_classes="result", scale=3, min_width=280, buttons=[]
                    )
                self.raw = gr.Textbox(
                    label="Raw output",
                    lines=3,
                    max_lines=12,
                    scale=2,
                    min_width=200,
                    interactive=False,
                    elem_classes=["raw", task.answers],
                )
            if task.answers != "text":
                self.objects = ObjectsPanel(drawing, task.answers == "masks")
            self.answer_buttons = page.answer_buttons(self.key)
            self.names = self._show_names(page.models.current)
            if task is TASKS["ask"]:
                self.history, self.history_list = gr.State([]), gr.HTML(elem_classes="history")

    def _create_inputs(self) -> None:
        task = self.task
        self.text = self.language = self.style = None
        if task.needs:
            self.text = gr.Textbox(
                label=task.needs[0].upper() + task.needs[1:],
                max_lines=3,
                placeholder=f"For example: {task.hints[0]}",
                elem_id=f"text-{task.key}",
            )
        if task.has_language:
            with gr.Row():
                if len(task.styles) > 1:
                    self.style = gr.Radio(
                        [(STYLES[style], style) for style in task.styles],
                        value=task.styles[0],
                        label="Style",
                        min_width=220,
                    )
                self.language = language_picker()
        self.hints: list[gr.Button] = []
        if len(task.hints) > 1:
            with gr.Row(elem_classes="hints"):
                self.hints = [gr.Button(hint, size="sm", min_width=60) for hint in task.hints]

    @property
    def inputs(self) -> dict[str, Component]:
        """The components of the prompt, by the parameters of `Task.prompt`."""
        inputs = {"text": self.text, "language": self.language, "style": self.style}
        return {name: component for name, component in inputs.items() if component}

    @property
    def url_params(self) -> dict[str, Component]:
        key = self.key
        return {
            key if name == "text" else f"{key}.{name}": component
            for name, component in self.inputs.items()
        }

    @property
    def outputs(self) -> list[Component]:
        objects = self.objects.outputs if self.objects else []
        history = [self.history, self.history_list] if self.history and self.history_list else []
        return [self.raw, *objects, *history, *self.answer_buttons.outputs, self.controls.status]

    def reset(self) -> Updates:
        objects = self.objects.reset() if self.objects else {}
        return dict.fromkeys(self.outputs) | objects | self.answer_buttons.reset()

    @property
    def model_outputs(self) -> list[Component]:
        return [part for part in (self.names, self.language) if part]

    def show_model(self, model: PaliGemma) -> Updates:
        """The names that the model knows; languages that it does not know cannot be chosen."""
        updates: Updates = {self.names: self._show_names(model)}
        if self.language:
            updates[self.language] = language_choice(model)
        return updates

    def _show_names(self, model: PaliGemma | None) -> gr.HTML:
        count = len(model.known_names) if model and self.task.answers != "text" else 0
        html = names_html(count, self.key)
        return gr.HTML(html, visible=bool(count), elem_classes="names", apply_default_css=False)

    def wire(self, page: Page) -> None:
        self.answer_buttons.wire_copy(self.raw)
        if self.text:
            page.run_on_enter(self.text, self.key)
        inputs: dict[str, Component] = dict(self.objects.display) if self.objects else {}
        if self.history:
            inputs["history"] = self.history
        asked = {"image": page.image} | self.inputs | inputs
        outputs = [page.last_request, *self.outputs]
        runs = [
            page.on_run(self.key, self.controls, partial(self.answer, page), asked, outputs),
            page.on_continue(
                self.key,
                self.controls,
                self.answer_buttons.resume,
                partial(self.continue_answer, page),
                inputs,
                outputs,
            ),
        ]
        if self.objects:
            self.objects.wire()
            for run in runs:
                self.objects.redraw_after(run)
        for hint in self.hints:
            chosen = hint.click(lambda text=hint.value: text, None, self.text, **UNQUEUED)
            chosen.then(None, js=f'() => pressRun("{self.key}")', **PRIVATE)

    def answer(self, page: Page, image: dict | None = None, **values) -> Iterator[dict]:
        """Stream one answer; an object is drawn as soon as it is complete."""
        history = values.pop("history", None) or []
        yield self._start()
        upload = open_upload(image)
        parts = {name: values.pop(name) or "" for name in self.inputs}
        written = self.task.prompt(**parts)
        display, options = self._read_options(values)
        prompt, note = asked_prompt(page.model, written)
        for reply, updates in self._stream(page, upload, prompt, options, display, note=note):
            if reply.finished and self.history:
                updates |= self._show_history([*history, (parts["text"], reply.text)])
            yield updates

    def continue_answer(self, page: Page, cut: ShownAnswer | None, **values) -> Iterator[dict]:
        """Stream the rest of an answer that was cut off, after what there is of it."""
        history = values.pop("history", None) or []
        cut = page.answer_to_continue(cut, f"press {self.task.label} again")
        display, options = self._read_options(values)
        yield {self.controls.status: WAITING}
        stream = self._stream(page, cut.upload, cut.prompt, options, display, cut.reply.tokens)
        for reply, updates in stream:
            if reply.finished and history and self.history:
                updates |= self._show_history([*history[:-1], (history[-1][0], reply.text)])
            yield updates

    def _read_options(self, values: dict) -> tuple[DisplayOptions, SamplingOptions]:
        names = self.objects.display if self.objects else ()
        display = DisplayOptions.of(*(values.pop(name) for name in names))
        return display, sampling_options(**values)

    def _stream(
        self,
        page: Page,
        upload: Upload,
        prompt: str,
        options: SamplingOptions,
        display: DisplayOptions,
        tokens: Sequence[Token] = (),
        note: str = "",
    ) -> Iterator[tuple[Reply, Updates]]:
        """Each reply with the outputs that show it; `tokens` are the answer so far."""
        model, run = page.model, page.start_run()
        shown, budget = resize_for_display(upload.image), DrawingBudget()
        with closing(run.stream(model, upload.image, prompt, options, tokens)) as replies:
            for reply in replies:
                if reply.finished:
                    answer = self._show_answer(model, upload, reply, display)
                    notes = answer_notes(model, reply, note)
                    answer[self.controls.status] = with_notes(self._status(reply), notes)
                    yield reply, {page.last_request: LastRequest.of(reply)} | answer
                    continue
                started, complete = perf_counter(), reply.detections[:-1]
                update: Updates = {
                    self.raw: reply.text,
                    self.controls.status: f"{timing_text(reply)}…",
                }
                if self.objects and (draws := budget.allows(len(complete))):
                    masks = self._masks(model, complete)
                    drawing = annotated_image(shown, complete, masks, display)
                    update[self.objects.drawing] = drawing
                yield reply, update
                if self.objects and draws:  # by now the page has it: this is its whole cost
                    budget.add(perf_counter() - started, len(complete))

    def show_saved_answer(self, model: PaliGemma, example: GalleryExample) -> Updates:
        """The answer that the built-in model gave when the example was made."""
        text = "".join(text for text, _ in example.tokens)
        status = SAVED_ANSWER.format(label=self.task.label)
        updates: Updates = {self.raw: text, self.controls.status: status}
        if self.objects:
            detections = model.parse_detections(example.tokens)
            objects = self._answer_objects(model, example.image, detections, DisplayOptions())
            updates |= self.objects.reset_display()
            updates |= self.objects.show(open_for_page(example.image), objects)
        return updates

    @property
    def saved_outputs(self) -> list[Component]:
        return [*self.outputs, *(self.objects.display.values() if self.objects else ())]

    def _start(self) -> Updates:
        """The outputs when a run starts: the history stays."""
        started: Updates = {self.raw: "", self.controls.status: WAITING}
        started |= self.answer_buttons.reset()
        return started | (self.objects.reset() if self.objects else {})

    def _show_answer(
        self, model: PaliGemma, upload: Upload, reply: Reply, display: DisplayOptions
    ) -> Updates:
        """The outputs for a complete answer."""
        shown: Updates = {self.raw: reply.text}
        shown |= self.answer_buttons.show(upload.path, reply, model)
        if self.objects:
            objects = self._answer_objects(model, upload.path, reply.detections, display)
            shown |= self.objects.show(upload.image, objects)
        return shown

    def _show_history(self, history: list[tuple[str, str]]) -> Updates:
        assert self.history and self.history_list
        history = history[-MAX_HISTORY:]
        return {self.history: history, self.history_list: history_html(history[:-1])}

    def _answer_objects(
        self, model: PaliGemma, path: str, detections: Sequence[Detection], display: DisplayOptions
    ) -> AnswerObjects:
        masks = self._masks(model, detections)
        return AnswerObjects(path, detections, masks, model.score_meaning, display)

    def _masks(
        self, model: PaliGemma, detections: Sequence[Detection]
    ) -> Sequence[np.ndarray | None]:
        has_masks = self.task.answers == "masks"
        return model.masks(detections) if has_masks else [None] * len(detections)

    def _status(self, reply: Reply) -> str:
        """What is said of a complete answer."""
        if self.task.answers == "text":
            return text_status(reply)
        if count := len(reply.detections):
            summary = f"Found {count} object{'s' * (count != 1)}."
        elif reply.text.strip():
            summary = "No complete box: see the raw output."
        else:
            summary = "No objects found."
        return f"{summary} {timing_text(reply)}"


class DrawingBudget:
    """Lets the drawings of an unfinished answer take DRAWING_SHARE of its time."""

    def __init__(self) -> None:
        self._start, self._drawn = perf_counter(), 0
        self._spent, self._each = 0.0, 0.02  # seconds: so far, and an object's share of a drawing

    def allows(self, count: int) -> bool:
        """Whether a drawing of `count` objects would show more than the last, and fits."""
        cost, elapsed = self._spent + self._each * count, perf_counter() - self._start
        return count > self._drawn and cost < DRAWING_SHARE * elapsed

    def add(self, seconds: float, count: int) -> None:
        """Count what a drawing of `count` objects cost."""
        self._drawn, self._spent, self._each = count, self._spent + seconds, seconds / count


def history_html(history: list[tuple[str, str]]) -> str:
    """Questions about this image and their answers, the latest first."""
    items = [
        f"<li><q>{escape(question)}</q> <b>{escape(answer) or NO_TEXT}</b></li>"
        for question, answer in reversed(history)
    ]
    return f"<p>Question history</p><ul>{''.join(items)}</ul>" if items else ""


def language_picker() -> gr.Dropdown:
    return gr.Dropdown(
        LANGUAGE_CHOICES,
        value="en",
        label="Language of the answer",
        min_width=180,
    )


def language_choice(model: PaliGemma) -> gr.Dropdown:
    """The picker for a model: the built-in one knows a single language."""
    if model.is_built_in:
        info = "The built-in model knows English only."
        return gr.Dropdown(LANGUAGE_CHOICES, value="en", info=info, interactive=False)
    return gr.Dropdown(info="", interactive=True)
