"""A tab for each row of `TASKS`: what it asks for, the streamed answer, and what it found."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from html import escape
from time import perf_counter

import gradio as gr

from paligemma.detections import parse_tokens
from paligemma.images import open_image
from paligemma.reply import Reply
from paligemma.tasks import LANGUAGES, TASKS, Task
from paligemma.ui.common import (
    ASIDE,
    INNER,
    QUICK,
    WAITING,
    Page,
    clock,
    fit,
    picture_path,
    sampling,
    sentences,
)
from paligemma.ui.results import Objects, annotate, objects_panel, show_found

DRAWING_SHARE = 0.05  # of the time an answer takes, that drawing it on the way may take
EMPTY = {
    "text": "The model stayed silent: it finds nothing to say or to read here.",
    "boxes": "Nothing found: the model sees none of that in this picture.",
    "masks": "Nothing found: the model sees none of that in this picture.",
}
KEPT = "A kept answer of the built-in model. Press {label} to ask again."
STYLES = {"caption": "usual", "cap": "short", "describe": "detailed"}


@dataclass(frozen=True)
class TaskTab:
    """One task's tab; a part that the task has no use for is None."""

    task: Task
    text: gr.Textbox | None
    language: gr.Dropdown | None
    style: gr.Radio | None
    hints: list[gr.Button]
    go: gr.Button
    line: gr.Markdown
    raw: gr.Textbox
    objects: Objects | None
    earlier: gr.State | None
    told: gr.HTML | None

    @property
    def inputs(self) -> dict[str, gr.components.Component]:
        """What the prompt is made of, by the names of `Task.prompt`."""
        parts = {"text": self.text, "language": self.language, "style": self.style}
        return {name: part for name, part in parts.items() if part}

    @property
    def in_address(self) -> dict[str, gr.components.Component]:
        """What the address bar keeps, by its name there."""
        key = self.task.key
        return {key if name == "text" else f"{key}.{name}": p for name, p in self.inputs.items()}

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What one answer fills."""
        found = [self.objects.found, *self.objects.shown] if self.objects else []
        return [self.raw, *found, self.line]

    def wire(self, page: Page) -> None:
        if self.text:
            page.on_enter(self.text, self.task.key)
        named = {"picture": page.picture} | self.inputs | page.settings
        told = [self.earlier, self.told] if self.earlier else []
        if self.earlier:
            named["earlier"] = self.earlier
        outputs = [*self.outputs[:-1], page.last, *told, self.line]
        ran = page.run(self.task.key, self.go, partial(self.answer, page), named, outputs)
        if self.objects:
            objects = self.objects
            objects.wire()
            ran.success(show_found, objects.chosen, objects.shown, **ASIDE)
        for hint in self.hints:
            press = f'() => pressRun("{self.task.key}")'
            hint.click(lambda words=hint.value: words, None, self.text, **QUICK).then(
                None, js=press, **INNER
            )

    def answer(self, page: Page, picture: dict | None = None, **asked) -> Iterator[dict]:
        """Stream one answer, an object at a time as soon as it is whole.

        The whole answer's drawing is left to `show_found`, which knows what the sliders let by.
        """
        objects, earlier = self.objects, asked.pop("earlier", None)
        with sentences():
            path = picture_path(picture)
            image = open_image(path)
            parts = {name: asked.pop(name) or "" for name in self.inputs}
            prompt, options = self.task.prompt(**parts), sampling(**asked)
            pg = page.seat.current
            yield {self.raw: "", self.line: WAITING} | self.nothing()
            shown, drawn, start = fit(image), 0, perf_counter()
            spent, each = 0.0, 0.02  # seconds: on drawing so far, and an object's share of one
            # once the stream is closed, the model stops
            with closing(pg.stream(image, prompt, options)) as replies:
                for reply in replies:
                    now = perf_counter()
                    update = {self.raw: reply.text, self.line: f"{clock(reply)}…"}
                    whole = reply.detections[:-1]
                    draws = (
                        objects
                        and len(whole) > drawn
                        and not reply.finished
                        and spent + each * len(whole) < DRAWING_SHARE * (now - start)
                    )
                    if draws:
                        update[objects.seen] = annotate(shown, whole, self.masks(pg, whole))
                        drawn = len(whole)
                    if reply.finished:
                        update |= self.finished(pg, path, reply)
                        update[page.last] = prompt, [token.text for token in reply.tokens]
                    if reply.finished and self.earlier:
                        said = [*(earlier or []), (parts["text"], reply.text)][-8:]
                        update |= {self.earlier: said, self.told: told_before(said[:-1])}
                    yield update
                    if draws:  # by now the page has it: this is what it cost in all
                        cost = perf_counter() - now
                        spent, each = spent + cost, cost / drawn

    def masks(self, pg, detections: tuple) -> list:
        return pg.masks(detections) if self.task.answers == "masks" else [None] * len(detections)

    def finished(self, pg, path: str, reply: Reply) -> dict:
        update = {self.line: f"{self.verdict(reply)} {clock(reply)}"}
        if self.objects:
            found = path, reply.detections, self.masks(pg, reply.detections)
            update[self.objects.found] = found
        return update

    def verdict(self, reply: Reply) -> str:
        """A word for the person, once the answer is complete."""
        if not reply.text.strip():
            return EMPTY[self.task.answers]
        if self.task.answers == "text":
            return "Done."
        count = len(reply.detections)
        found = f"Found {count} thing{'s' * (count != 1)}."
        return found if count else "There is no whole box in the answer: see the model's own words."

    @property
    def kept_outputs(self) -> list[gr.components.Component]:
        """What `kept` fills."""
        of = self.objects
        return [self.raw, self.line, *([*of.chosen, *of.shown] if of else [])]

    def kept(self, pg, row: dict) -> dict:
        """The answer that an example of the gallery was given when it was drawn."""
        text = "".join(piece for piece, _ in row["tokens"])
        updates = {self.raw: text, self.line: KEPT.format(label=self.task.label)}
        if of := self.objects:
            detections = tuple(parse_tokens(row["tokens"]))
            updates |= of.at_rest((row["image"], detections, self.masks(pg, detections)))
        return updates

    def nothing(self) -> dict:
        """What the parts become, beside the words, while there is no whole answer."""
        return self.objects.emptied() if self.objects else {}


def told_before(earlier: list[tuple[str, str]]) -> str:
    """Earlier questions about this picture and their answers, the latest first."""
    rows = [
        f"<li><q>{escape(question)}</q> <b>{escape(answer) or '…'}</b></li>"
        for question, answer in reversed(earlier)
    ]
    return f"<p>Asked before about this picture</p><ul>{''.join(rows)}</ul>" if rows else ""


def task_tab(page: Page, task: Task) -> TaskTab:
    """Draw one task's tab."""
    text = language = style = objects = earlier = told = None
    hints: list[gr.Button] = []
    with gr.Tab(task.label, id=task.key):
        if task.needs:
            text = gr.Textbox(
                label=task.needs[0].upper() + task.needs[1:], max_lines=3,
                placeholder=f"for example: {task.hints[0]}",
            )  # fmt: skip
        if task.has_language:
            with gr.Row():
                if len(task.styles) > 1:
                    ways = [(STYLES[each], each) for each in task.styles]
                    style = gr.Radio(ways, value=ways[0][1], label="Style", min_width=220)
                language = language_picker()
        if len(task.hints) > 1:
            with gr.Row(elem_classes="hints"):
                hints = [gr.Button(hint, size="sm", min_width=60) for hint in task.hints]
        go, _, line = page.buttons(task.label, task.key)
        with gr.Row():
            if task.answers != "text":
                seen = gr.AnnotatedImage(
                    label="In the picture",
                    elem_classes="seen",
                    scale=3,
                    min_width=280,
                    buttons=[],
                )
            raw = gr.Textbox(
                label="The model's words", lines=3, max_lines=12, scale=2, min_width=200,
                interactive=False, elem_classes=["raw", task.answers],
            )  # fmt: skip
        if task.answers != "text":
            objects = objects_panel(seen, task.answers == "masks")
        if task is TASKS["ask"]:
            earlier, told = gr.State([]), gr.HTML(elem_classes="told")
    return TaskTab(task, text, language, style, hints, go, line, raw, objects, earlier, told)


def language_picker() -> gr.Dropdown:
    named = sorted((name, code) for code, name in LANGUAGES.items())
    return gr.Dropdown(
        named, value="en", label="Language of the answer", min_width=180,
        info="The built-in model knows English only.",
    )  # fmt: skip
