"""The page: the image and the tabs side by side, and what happens to all of them together."""

import os
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from paligemma.images import remove_other_decoders
from paligemma.tasks import TASKS
from paligemma.ui.api import add_endpoints
from paligemma.ui.common import LATEST, PARALLEL, PRIVATE, UNQUEUED
from paligemma.ui.errors import AppBlocks
from paligemma.ui.image_input import (
    GONE_NOTE,
    GalleryExample,
    ImageInput,
    draw_random_scene,
    load_examples,
    readable_path,
)
from paligemma.ui.inputs import read_text
from paligemma.ui.memory import use_small_sessions
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.model_picker import ModelPicker
from paligemma.ui.name_list import name_list_html
from paligemma.ui.page import (
    Component,
    LastRequest,
    Page,
    ShownAnswer,
    Tab,
    Updates,
    header_html,
)
from paligemma.ui.queue import PRIVATE_LIMITS, Limits, add_queue
from paligemma.ui.settings import create_settings, render_settings
from paligemma.ui.tabs.attention import AttentionTab
from paligemma.ui.tabs.batch import BatchTab
from paligemma.ui.tabs.compare import CompareTab
from paligemma.ui.tabs.how_it_works import OTHER_MODEL, HowItWorksTab
from paligemma.ui.tabs.region import RegionTab
from paligemma.ui.tabs.task import TaskTab
from paligemma.ui.temp_files import temp_files
from paligemma.ui.url_state import UrlState, image_from_url, name_in_url

EXAMPLES = Path(__file__).parents[2] / "examples"  # of the repository: an installed app has none
ON_SPACE = "SPACE_ID" in os.environ
DAY_SECONDS = 24 * 3600  # gradio's own clean-up, after that of `temp_files`
SWITCH_CHECK_SECONDS = 5  # between a page's looks whether the model was switched
SHARE_NOTE = (
    "The address of this page keeps tab, prompt, example and settings. The button adds your own "
    "picture: whoever has the link can see it until it is deleted, two hours after upload, sooner "
    "if the server is full, or when the server restarts."
)


def build_app(
    models: ModelManager, examples: Path = EXAMPLES, limits: Limits = PRIVATE_LIMITS
) -> gr.Blocks:
    """The app; launch it with `theme.LAUNCH_OPTIONS`.

    `examples`: a folder with a prompts.json, which may be missing. `limits`: of a request and a
    client.
    """
    remove_other_decoders()  # gradio opens images by code of its own
    use_small_sessions()
    gallery = load_examples(examples)
    if gallery:
        gr.set_static_paths([examples])  # served from there, whatever the working directory
    with AppBlocks(title="PaliGemma", delete_cache=(DAY_SECONDS, DAY_SECONDS)) as demo:
        demo.shows_paths = models.any_model
        layout = Layout(demo, models, gallery, limits)
        layout.wire()
        add_endpoints(layout.page)
    add_queue(demo, limits)
    return demo


class Layout:
    """The components of the page, and the events that concern more than one tab."""

    def __init__(
        self,
        demo: gr.Blocks,
        models: ModelManager,
        examples: list[GalleryExample],
        limits: Limits = PRIVATE_LIMITS,
    ) -> None:
        self.demo, self.models, self.examples = demo, models, examples
        header = gr.HTML(header_html(models), elem_id="header")
        last_request, last_prompt = gr.State(), gr.Textbox(visible=False)
        settings = create_settings()
        self.model_version = gr.State(models.version)  # of the model that the page speaks of
        self.key_to_run = gr.Textbox(visible=False)  # the tab that the page runs next, or ""
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                self.input = ImageInput(examples)
            image = self.input.image
            self.page = Page(models, header, image, last_request, last_prompt, settings, limits)
            with gr.Column(scale=3, min_width=300):
                self._create_tabs()
                render_settings(settings)
                self.picker = ModelPicker(self.page)
                self._create_share_panel()
        self.url_state = UrlState(self.tabs, settings, self.picker.source)

    def _create_tabs(self) -> None:
        page = self.page
        selected = self.examples[0].task if self.examples else None
        self.tab_bar = gr.Tabs(selected=selected, overflow_behavior="wrap", elem_id="tabs")
        with self.tab_bar:
            self.task_tabs = {task.key: TaskTab(page, task) for task in TASKS.values()}
            self.region = RegionTab(page)
            self.attention = AttentionTab(page)
            others = CompareTab(page), BatchTab(page)
            self.how_it_works = HowItWorksTab(page)
        self.tabs: list[Tab] = [*self.task_tabs.values(), self.region, self.attention, *others]
        self.tabs.append(self.how_it_works)

    def _create_share_panel(self) -> None:
        with gr.Accordion("Share", open=False):
            gr.Markdown(SHARE_NOTE)
            self.share = gr.Button("Copy a link to this page with its picture")
            self.image_name = gr.Textbox(visible=False)
            self.share_status = gr.Markdown()
            gr.DuplicateButton(visible=ON_SPACE)

    @property
    def tab_outputs(self) -> list[Component]:
        outputs = [component for tab in self.tabs for component in tab.outputs]
        return [*outputs, *self.page.request_outputs]

    @property
    def restored(self) -> list[Component]:
        """What an example or the address fills."""
        components = [*self.input.outputs, self.input.tabs, self.tab_bar, self.key_to_run]
        components += self.model_outputs
        components += [self.picker.source, *self.url_state.params.values(), *self.tab_outputs]
        components += [part for tab in self.task_tabs.values() for part in tab.saved_outputs]
        return list(dict.fromkeys(components))

    def wire(self) -> None:
        for tab in self.tabs:
            tab.wire(self.page)
        self.page.wire_stop_buttons()
        self._wire_image()
        for card, example in zip(self.input.cards, self.examples, strict=True):
            self._wire_card(card, example)
        switched = [*self.model_outputs, self.how_it_works.diagram, *self.tab_outputs]
        self.picker.wire(self.page, self.reset_after_switch, switched)
        gr.Timer(SWITCH_CHECK_SECONDS).tick(
            self.follow_switch, self.model_version, switched, **UNQUEUED
        )
        self._wire_share_button()
        self._wire_prompts()
        restored = self.demo.load(
            self.restore,
            self.input.own_name,
            self.restored,
            js="() => rememberedImage()",
            **UNQUEUED,
        )
        restored.then(None, self.key_to_run, js="(key) => finishRestore(key)", **PRIVATE)

    def _wire_image(self) -> None:
        """A new picture and the reset of the tabs are one event, and runs wait for its end."""
        source, image, page = self.input, self.input.image, self.page
        shown = [*source.outputs, source.tabs, *self.tab_outputs, *page.run_buttons]
        shown = list(dict.fromkeys(shown))
        for event, handler, value in (
            (image.upload, self.take_upload, image),
            (source.canvas.input, self.take_drawing, source.canvas),
            (source.random_scene.click, self.take_random_scene, None),
        ):
            page.hold_runs(event)
            taken = event(handler, value, shown, preprocess=False, **LATEST)
            taken.failure(page.allow_runs, None, page.run_buttons, **UNQUEUED)
            taken.then(None, js="() => endTaking()", **PRIVATE)
            js = "(name) => rememberImage(name)"
            taken.success(None, source.own_name, None, js=js, **PRIVATE)
        source.draw_tab.select(None, js="() => returnToDrawing()", **PRIVATE)
        image.clear(None, js="() => rememberImage('')", cancels=page.run_events, **PRIVATE)
        image.clear(self.clear_image, None, shown[1:], **UNQUEUED)  # another may be there by then
        new_picture = [image.upload, source.canvas.input, image.clear, source.random_scene.click]
        self.url_state.wire(new_picture)

    def _wire_card(self, card: gr.Button, example: GalleryExample) -> None:
        stopped = card.click(
            None,
            js="() => { rememberImage(''); return scrollToTabs(); }",
            cancels=self.page.run_events,
            **PRIVATE,
        )
        shown = stopped.then(lambda: self.show_example(example), None, self.restored, **UNQUEUED)
        js = f'(key) => showExample("{example.name}", "{example.task}", key)'
        shown.then(None, self.key_to_run, js=js, **PRIVATE)

    def _wire_share_button(self) -> None:
        named = self.share.click(
            lambda image: name_in_url(image, temp_files(self.demo)),
            self.input.image,
            self.image_name,
            preprocess=False,
            **PARALLEL,
        )
        js = "(name) => shareLink(name)"
        named.success(None, self.image_name, self.share_status, js=js, **PRIVATE)

    def _wire_prompts(self) -> None:
        """A prompt follows to tabs that have none yet, and each answer leads to its attention."""
        tasks = self.task_tabs
        follows: list[tuple[Tab, Any, Any]] = [  # a tab, its text, and where that comes from
            (tab, prompt, self.page.last_prompt)
            for tab in self.tabs
            if (prompt := getattr(tab, "prompt", None))
        ]
        detect, segment = tasks["detect"], tasks["segment"]
        follows += [(detect, detect.text, segment.text), (segment, segment.text, detect.text)]
        for tab, own, other in follows:
            # in the browser, at once: what is typed meanwhile must not be lost
            js = "(own, other) => own?.trim() ? own : other || own"
            tab.container.select(None, [own, other], own, js=js, **PRIVATE)
        js = f"() => pressRun('{self.attention.key}')"
        for tab in (*tasks.values(), self.region):
            shown = tab.answer_buttons.attend.click(
                self.show_attention,
                tab.answer_buttons.answer,
                [self.attention.prompt, self.tab_bar],
                **UNQUEUED,
            )
            shown.then(None, js=js, **PRIVATE)

    def show_attention(self, answer: ShownAnswer | None) -> Updates:
        """The Attention tab with the prompt of an answer."""
        if not isinstance(answer, ShownAnswer):
            return {self.tab_bar: gr.Tabs()}
        key = self.attention.key
        return {self.attention.prompt: answer.prompt, self.tab_bar: gr.Tabs(selected=key)}

    @property
    def model_tabs(self) -> list[TaskTab | RegionTab]:
        """The tabs that show what the model knows."""
        return [*self.task_tabs.values(), self.region]

    @property
    def model_outputs(self) -> list[Component]:
        parts = [part for tab in self.model_tabs for part in tab.model_outputs]
        shown = [self.page.header, self.model_version, self.input.random_scene, self.input.names]
        return [*shown, *parts]

    def show_model(self) -> Updates:
        """What the page says of the model."""
        updates: Updates = {
            self.page.header: header_html(self.models),
            self.model_version: self.models.version,
        }
        if (model := self.models.current) is not None:
            updates[self.input.random_scene] = gr.Button(
                visible=model.is_built_in or model.sticker_sheet is not None
            )
            updates[self.input.names] = name_list_html(model.known_names, model.sticker_sheet)
            for tab in self.model_tabs:
                updates |= tab.show_model(model)
        return updates

    def reset_tabs(self) -> Updates:
        """All tabs without an answer."""
        updates = self.page.show_request(None)
        for tab in self.tabs:
            updates |= tab.reset()
        return updates

    def take_upload(self, file: dict | None) -> Updates:
        """An upload as the image, where it is seen, and all tabs without an answer."""
        return self._take_file(file) | {self.input.tabs: gr.Tabs(selected="image")}

    def _take_file(self, file: dict | None, is_known: bool = False) -> Updates:
        updates = self.page.allow_runs() | self.reset_tabs()
        try:
            return updates | self.show_own(readable_path(file), is_known)
        except ValueError as error:
            gr.Warning(escape(str(error), quote=False))
            return updates | self.input.reset_image()

    def take_drawing(self, drawing: dict | None) -> Updates:
        """What is drawn as the image, and all tabs without an answer.

        `drawing`: the path of its file, empty for an empty canvas, and whether it has only what
        the built-in model knows.
        """
        drawing = drawing if isinstance(drawing, dict) else {}
        if drawing.get("path"):
            return self._take_file(drawing, drawing.get("is_known") is True)
        return self.page.allow_runs() | self.reset_tabs() | self.input.reset_image()

    def take_random_scene(self) -> Updates:
        """A new scene as the image, and all tabs without an answer."""
        scene = self.show_own(draw_random_scene(self.models.loaded), is_known=True)
        scene[self.input.tabs] = gr.Tabs(selected="image")  # whatever was open
        return self.page.allow_runs() | self.reset_tabs() | scene

    def show_own(self, path: str, is_known: bool = False) -> Updates:
        """A visitor's own picture, whose file counts as an upload, whoever wrote it."""
        # of a component that a handler has updated, gradio forgets the files
        self.demo.upload_file_set.add(path)
        return self.input.show_own(self.models, path, is_known)

    def clear_image(self) -> Updates:
        image = self.input.reset_image()
        del image[self.input.image]
        return self.page.allow_runs() | self.reset_tabs() | image

    def reset_after_switch(self) -> Updates:
        """The page after another model was loaded."""
        return self.reset_tabs() | self.show_model() | {self.how_it_works.diagram: OTHER_MODEL}

    def follow_switch(self, version: int) -> Updates:
        """The same on the pages of all other visitors: no answer of a former model stays."""
        if version == self.models.version:
            return {self.model_version: version}
        return self.reset_after_switch()

    def show_example(self, example: GalleryExample) -> Updates:
        """An example's image, tab and text, and its saved answer; without one, it is to be run."""
        tab, model = self.task_tabs[example.task], self.models.current
        updates = (
            self.reset_tabs()
            | self.input.reset_image()
            | {
                self.input.image: example.image,
                self.input.tabs: gr.Tabs(selected="image"),
                self.tab_bar: gr.Tabs(selected=example.task),
                self.key_to_run: example.task,
            }
        )
        if tab.text:
            updates[tab.text] = example.text
        if model is not None and model.is_built_in and example.tokens:
            prompt = tab.task.prompt(example.text)
            request = LastRequest(prompt, [text for text, _ in example.tokens])
            updates |= tab.show_saved_answer(model, example)
            updates |= self.page.show_request(request) | {self.key_to_run: ""}
        return updates

    def restore(self, own_name: str | None, request: gr.Request) -> Updates:
        """The page as its address says; an address without parameters shows the first example.

        `own_name` is that of the visitor's own picture before a reload, or empty.
        """
        restored, model = self._restore(own_name, dict(request.query_params)), self.models.current
        # another visitor may have switched the model since the page was built
        if model is not None and model.is_built_in:  # what it does not know cannot be restored
            return restored | self.show_model()
        return self.show_model() | restored

    def _restore(self, own_name: str | None, query: dict[str, str]) -> Updates:
        first = self.examples[0] if self.examples else None
        if own_name and not query.keys() & {"image", "example"}:
            query["image"] = read_text(own_name, "The name of a picture")
        known = {"tab", "image", "example", *self.url_state.params}
        params = {name: value for name, value in query.items() if name in known}
        if first and params.items() <= {first.task: first.text}.items():
            updates = self.show_example(first)
            for tabs in self.tab_bar, self.input.tabs:  # open already; the visitor may have gone on
                updates.pop(tabs)
            return updates | {self.key_to_run: ""} | self.url_state.restore(query)
        updates = self._restore_image(query) | {self.key_to_run: ""} | self.url_state.restore(query)
        key = query.get("tab")
        if key in [tab.key for tab in self.tabs]:
            updates[self.tab_bar] = gr.Tabs(selected=key)
            is_ready = updates[self.input.image] and self._is_ready(key, query)
            updates[self.key_to_run] = key if is_ready else ""
        return updates

    def _restore_image(self, query: dict[str, str]) -> Updates:
        """The image that the address names; no other one in its place."""
        uploads = temp_files(self.demo)
        path = image_from_url(query, self.examples, uploads)
        if path in uploads:
            return self.input.show_own(self.models, path)
        if path is None and query.keys() & {"image", "example"}:
            return self.input.reset_image(GONE_NOTE)
        first = self.examples[0].image if self.examples else None
        return self.input.reset_image() | {self.input.image: path or first}

    def _is_ready(self, key: str, query: dict[str, str]) -> bool:
        """Whether the address has what the tab needs to run."""
        if key in self.task_tabs:
            return not self.task_tabs[key].text or bool(query.get(key))
        if key == "region":
            return bool(query.get("region") or query.get("region.answer"))
        return key == "attention" and bool(query.get("attention"))
