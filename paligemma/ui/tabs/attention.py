"""The attention explorer: where the decoder attended when it predicted a token of the answer.

Maps stay in memory: another token, layer or head does not call the model. Gradients, and the
attention of a patch inside the vision tower, are computed when they are asked for.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import ref

import gradio as gr
from PIL import Image

from paligemma.generation import SamplingOptions
from paligemma.interpret.explain import CHEAP_VIEWS, DEFAULT_VIEW, VIEWS
from paligemma.prompts import likely_prompt, prompt_note
from paligemma.reply import Token
from paligemma.ui.attention_maps import (
    VIEW_NAMES,
    ExplainedAnswer,
    ExplanationStore,
    ShownMap,
    change_opacity,
    draw_answer,
    layer_slider,
    show_head,
    show_token,
    tokens_at_patch,
)
from paligemma.ui.common import (
    LATEST,
    PARALLEL,
    PRIVATE,
    UNQUEUED,
    WAITING,
    Upload,
    answer_notes,
    in_model_queue,
    open_for_page,
    open_upload,
    raw_prompt,
    text_status,
    timing_text,
    with_notes,
)
from paligemma.ui.errors import escape_markdown
from paligemma.ui.inputs import read_choice, read_number, read_text
from paligemma.ui.page import Component, LastRequest, Page, ShownAnswer, Updates
from paligemma.ui.settings import sampling_options
from visualize import contact_sheet, visible

ADVICE = "press Show attention again"
STATE_SECONDS = 1800  # that a visitor's maps stay in memory
NOTE = """
**What this shows.** A token is predicted at the position before it; the map is the attention from
that position to the patches of the picture. "Middle layers" comes first because more of it lies in
the named object than of any other view, measured on 500 scenes of pictograms: see
`docs/pointing.md`.

**What it does not show.** Attention is not a reason. The vision tower has mixed the patches before
the decoder reads them, the prompt's tokens pass on what they read, and an answer may stay the same
without the patch of the peak. Patches with high attention for every token are attention sinks: they
are listed, not hidden.
"""


class AttentionTab:
    key = "attention"

    def __init__(self, page: Page) -> None:
        with gr.Tab("Attention", id=self.key, elem_id=f"tab-{self.key}") as self.container:
            self.prompt = gr.Textbox(
                label="Raw prompt", max_lines=3, placeholder="For example: detect cat"
            )
            self.controls = page.run_controls("Show attention", self.key)
            self.likely = gr.Button(size="sm", visible=False, elem_id="likely-prompt")
            self.tokens = gr.Radio(
                [], label="Answer, token by token", visible=False, elem_id="tokens"
            )
            with gr.Row(elem_classes="hints"):
                self.resume = page.continue_button(self.key)
            views = [(label, view) for view, label in VIEW_NAMES.items()]
            with gr.Row():
                with gr.Column(scale=3, min_width=280):
                    self.drawing = _image("Attention map. Click a patch", "attention-map")
                    self.legend = gr.Image(
                        label="Colour scale",
                        show_label=False,
                        format="png",
                        interactive=False,
                        buttons=[],
                        container=False,
                        elem_id="legend",
                        visible=False,
                    )
                    self.patch = gr.HTML(elem_id="patch")
                with gr.Column(scale=2, min_width=260):
                    self.description = gr.Markdown(elem_classes="note")
                    self.view = gr.Radio(views, value=DEFAULT_VIEW, label="View")
                    self.layer = gr.Slider(0, 1, 0, step=1, label="Layer (0 = all)")
                    self.opacity = gr.Slider(0, 1, 0.55, step=0.05, label="Opacity")
                    self.word = gr.Textbox(
                        label="Or compare the patches with a word",
                        max_lines=1,
                        placeholder="For example: wheel",
                    )
            with gr.Accordion("All layers and heads: click one to enlarge it", open=False):
                self.heads = _image("Rows are layers, columns are heads", "heads", show_label=False)
            with gr.Accordion("Attention of the clicked patch in the vision tower", open=False):
                self.tower = _image("Layers and heads of the tower", "tower", show_label=False)
            with gr.Accordion("The whole answer, and attention between tokens", open=False):
                self.draw = gr.Button("Draw", size="md")
                self.animation = _image("Animation", "animation", format="gif", visible=False)
                self.strip = _image("All tokens on one scale", "token-strip", visible=False)
                self.matrix = _image(
                    "Attention between prompt and answer tokens", "token-matrix", visible=False
                )
            gr.Markdown(NOTE, elem_classes="note")
            self.answer = gr.State(time_to_live=STATE_SECONDS)  # ExplainedAnswer
            self.shown_map = gr.State(time_to_live=STATE_SECONDS)  # ShownMap
        self.store = ExplanationStore()

    @property
    def url_params(self) -> dict[str, Component]:
        return {"attention": self.prompt, "attention.view": self.view}

    @property
    def outputs(self) -> list[Component]:
        chosen: list[Component] = [self.answer, self.tokens, self.layer]
        shown = [*self._shown, self.patch, self.tower, *self._whole]
        rest = [self.likely, *self.resume.outputs, self.view, self.controls.status]
        return [*chosen, *shown, *rest]

    @property
    def _map(self) -> list[Component]:
        return [self.shown_map, self.drawing, self.legend, self.description]

    @property
    def _shown(self) -> list[Component]:
        return [*self._map, self.heads]

    @property
    def _whole(self) -> list[Component]:
        return [self.animation, self.strip, self.matrix]

    def reset(self) -> Updates:
        hidden = dict.fromkeys([self.legend, *self._whole], gr.Image(None, visible=False))
        tokens = gr.Radio([], value=None, visible=False)
        chosen = {self.tokens: tokens, self.layer: gr.Slider(value=0)}
        others = {self.likely: gr.Button(visible=False), self.view: gr.skip()}  # a choice, kept
        return dict.fromkeys(self.outputs) | chosen | hidden | others | self.resume.reset()

    def wire(self, page: Page) -> None:
        page.run_on_enter(self.prompt, self.key)
        used = self.likely.click(lambda prompt: prompt, self.likely, self.prompt, **UNQUEUED)
        used.then(None, js=f'() => pressRun("{self.key}")', **PRIVATE)
        display: dict[str, Component] = {"view": self.view, "opacity": self.opacity}
        asked = {"image": page.image, "prompt": self.prompt} | display
        outputs = [page.last_request, *self.outputs]
        page.on_run(self.key, self.controls, partial(self.explain, page), asked, outputs)
        rest = partial(self.continue_answer, page)
        page.on_continue(self.key, self.controls, self.resume, rest, display, outputs)
        chosen = [self.answer, self.tokens, self.view, self.layer, self.opacity]
        for part in self.tokens, self.layer:
            part.input(show_token, chosen, self._shown, preprocess=False, **LATEST)
        self.opacity.input(change_opacity, [self.shown_map, self.opacity], self.drawing, **LATEST)
        self.heads.select(
            show_head, [self.answer, self.tokens, self.opacity], self._map, **PARALLEL
        )
        self.drawing.select(tokens_at_patch, [self.shown_map, self.view], self.patch, **PARALLEL)
        self.draw.click(
            draw_answer, [self.answer, self.view, self.opacity], self._whole, **PARALLEL
        )
        in_order = PRIVATE | {"preprocess": False, "trigger_mode": "always_last"}
        self.view.input(
            **in_model_queue(partial(change_view, page)),
            inputs=chosen,
            outputs=[self.layer, *self._shown, self.patch],
            **in_order,
        )
        self.word.submit(
            **in_model_queue(partial(compare_word, page)),
            inputs=[page.image, self.word, self.opacity],
            outputs=[*self._map, self.patch, self.tower],
            **in_order,
        )

        def show_tower(shown: ShownMap | None, click: gr.SelectData):  # its hints are needed
            return tower_at_patch(page, shown, click)

        self.drawing.select(
            **in_model_queue(show_tower),
            inputs=self.shown_map,
            outputs=self.tower,
            trigger_mode="multiple",
            **PRIVATE,
        )

    def explain(
        self, page: Page, image: dict | None, prompt: str, view: str, opacity: float, **settings
    ) -> Iterator[dict]:
        """Stream the answer, then explain it."""
        yield self.reset() | {self.controls.status: WAITING}
        upload, options = open_upload(image), sampling_options(**settings)
        yield from self._stream(page, upload, raw_prompt(prompt), options, view, opacity)

    def continue_answer(
        self, page: Page, cut: ShownAnswer | None, view: str, opacity: float, **settings
    ) -> Iterator[dict]:
        """Stream the rest of an answer that was cut off, then explain the whole."""
        cut = page.answer_to_continue(cut, ADVICE)
        options, tokens = sampling_options(**settings), cut.reply.tokens
        yield {self.controls.status: WAITING}
        yield from self._stream(page, cut.upload, cut.prompt, options, view, opacity, tokens)

    def _stream(
        self,
        page: Page,
        upload: Upload,
        prompt: str,
        options: SamplingOptions,
        view: str,
        opacity: float,
        tokens: Sequence[Token] = (),
    ) -> Iterator[Updates]:
        """The outputs while there is an answer, which begins with `tokens`, and at its end."""
        read_choice(view, list(VIEWS), "A view")
        read_number(opacity, 0, 1, "Opacity")
        model, run = page.model, page.start_run()
        with closing(run.stream(model, upload.image, prompt, options, tokens)) as replies:
            for reply in replies:
                yield {self.controls.status: f"{timing_text(reply)}…"}
        if note := prompt_note(prompt):
            yield {self.likely: gr.Button(likely_prompt(prompt), visible=True)}
        status = with_notes(text_status(reply), answer_notes(model, reply, note))
        if not reply.tokens:
            yield {self.controls.status: status}
            return
        views = CHEAP_VIEWS if view in CHEAP_VIEWS else (*CHEAP_VIEWS, view)
        try:
            explanation = model.explain_reply(upload.image, prompt, reply, views, run.check)
        except ValueError:
            if not run.is_over:
                raise
            view, explanation = DEFAULT_VIEW, model.explain_reply(upload.image, prompt, reply)
            status = with_notes(status, ["The time limit was over before this view was there."])
        answer = ExplainedAnswer(upload.path, prompt, ref(model), self.store)
        self.store.put(answer, explanation)
        texts = answer.token_texts
        choices = [(f"{n} {visible(text)}", n - 1) for n, text in enumerate(texts, 1)]
        shown = show_token(answer, 0, view, 0, opacity, upload.image)
        yield {
            self.answer: answer,
            self.tokens: gr.Radio(choices, value=0, visible=True),
            self.view: view,
            self.layer: layer_slider(answer, view),
            self.controls.status: status,
            page.last_request: LastRequest(prompt, texts),
            **self.resume.show(ShownAnswer(upload.path, reply, ref(model))),
            **dict(zip(self._shown, shown, strict=True)),
        }


def change_view(page: Page, answer: ExplainedAnswer | None, token, view, layer, opacity) -> tuple:
    """Another view, computed first where it costs a backward pass."""
    image = None
    read_choice(view, list(VIEWS), "A view")
    if answer is not None and view not in (known := answer.explanation).maps:
        model, image = page.same_model(answer.model, ADVICE), open_for_page(answer.path)
        check = page.start_run().check
        more = model.explain_reply(image, answer.prompt, known.reply, (view,), check)
        maps, layers = known.maps | more.maps, known.layers | more.layers
        answer.store.put(answer, replace(known, maps=maps, layers=layers))
    slider = gr.skip() if answer is None else layer_slider(answer, view, layer)
    return slider, *show_token(answer, token, view, layer, opacity, image), None


def compare_word(page: Page, image: dict | None, word: str, opacity: float) -> tuple:
    """The similarity of each patch, after the connector, and a word of the visitor's choice."""
    upload, word = open_upload(image), read_text(word, "A word")
    values = page.model.similarity(upload.image, word).clip(0)
    shown = ShownMap(upload.path, values, VIEWS["similarity"].unit, ref(page.model))
    text = f"Cosine similarity of each patch and “{escape_markdown(word)}”, "
    text += "before any prompt is read."
    return shown, shown.draw(upload.image, opacity), shown.legend(), text, None, None


def tower_at_patch(page: Page, shown: ShownMap | None, click: gr.SelectData) -> Image.Image | None:
    """The attention of the clicked patch in every layer and head of the vision tower."""
    if shown is None:
        return None
    model = page.same_model(shown.model, ADVICE)
    return contact_sheet(model.tower_attention(open_for_page(shown.path), *shown.patch(click)))


def _image(label: str, elem_id: str, **options: Any) -> gr.Image:
    """A picture that is shown, with buttons to enlarge and to save it."""
    return gr.Image(
        label=label,
        elem_id=elem_id,
        interactive=False,
        buttons=["fullscreen", "download"],
        **{"format": "png", **options},
    )
