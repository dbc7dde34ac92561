"""The page: the image and the tabs side by side, and what happens to all of them together."""

import os
from pathlib import Path

import gradio as gr

from paligemma.images import remove_other_decoders
from paligemma.tasks import TASKS
from paligemma.ui.api import add_endpoints
from paligemma.ui.common import PARALLEL, PRIVATE, UNQUEUED
from paligemma.ui.errors import AppBlocks
from paligemma.ui.image_input import GalleryExample, ImageInput, load_examples, read_drawing
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.model_picker import ModelPicker
from paligemma.ui.page import Component, LastRequest, Page, Tab, Updates, header_html
from paligemma.ui.queue import PRIVATE_LIMITS, Limits, add_queue
from paligemma.ui.settings import create_settings, render_settings
from paligemma.ui.tabs.attention import AttentionTab
from paligemma.ui.tabs.batch import BatchTab
from paligemma.ui.tabs.compare import CompareTab
from paligemma.ui.tabs.how_it_works import HowItWorksTab
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
        last_request, settings = gr.State(), create_settings()
        self.model_version = gr.State(models.version)  # of the model that the page speaks of
        self.key_to_run = gr.Textbox(visible=False)  # the tab that the page runs next, or ""
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                self.input = ImageInput(examples)
            self.page = Page(models, header, self.input.image, last_request, settings, limits)
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
            others = CompareTab(page), BatchTab(page), HowItWorksTab(page)
        self.tabs: list[Tab] = [*self.task_tabs.values(), self.region, self.attention, *others]

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
        return [*outputs, self.page.last_request]

    @property
    def restored(self) -> list[Component]:
        """What an example or the address fills."""
        components = [self.input.image, self.input.note, self.tab_bar, self.key_to_run]
        components += [self.picker.source, *self.url_state.params.values(), *self.tab_outputs]
        components += [part for tab in self.task_tabs.values() for part in tab.saved_outputs]
        return list(dict.fromkeys(components))

    def wire(self) -> None:
        for tab in self.tabs:
            tab.wire(self.page)
        self.page.wire_stop_buttons()
        self.input.wire(self.models)
        image = self.input.image
        for event in image.upload, image.clear:
            event(self.reset_tabs, None, self.tab_outputs, cancels=self.page.run_events, **UNQUEUED)
        drawn = self._wire_drawing()
        self.url_state.wire([image.upload, image.clear, drawn.success])
        for card, example in zip(self.input.cards, self.examples, strict=True):
            self._wire_card(card, example)
        switched = [self.page.header, self.model_version, *self.tab_outputs]
        self.picker.wire(self.page, self.reset_after_switch, switched)
        gr.Timer(SWITCH_CHECK_SECONDS).tick(
            self.follow_switch, self.model_version, switched, **UNQUEUED
        )
        self._wire_share_button()
        # another visitor may have switched the model since the page was built
        header = [self.page.header, self.model_version]
        self.demo.load(self.show_header, None, header, **UNQUEUED)
        restored = self.demo.load(self.restore, None, self.restored, **UNQUEUED)
        restored.then(None, self.key_to_run, js="(key) => finishRestore(key)", **PRIVATE)

    def _wire_drawing(self):
        """Image and tabs change in one event: a visitor may start a run as soon as it is shown."""
        source = self.input
        return source.use_drawing.click(
            self.use_drawing,
            source.canvas,
            [source.image, source.note, source.tabs, *self.tab_outputs],
            preprocess=False,
            cancels=self.page.run_events,
            **PARALLEL,
        )

    def _wire_card(self, card: gr.Button, example: GalleryExample) -> None:
        stopped = card.click(
            None, js="() => scrollToTabs()", cancels=self.page.run_events, **PRIVATE
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

    def show_header(self) -> tuple[str, int]:
        return header_html(self.models), self.models.version

    def reset_tabs(self) -> Updates:
        """All tabs without an answer."""
        updates: Updates = {self.page.last_request: None}
        for tab in self.tabs:
            updates |= tab.reset()
        return updates

    def use_drawing(self, canvas: dict | None) -> Updates:
        """The drawing as the image, and all tabs without an answer."""
        source = self.input
        image, note, tab = read_drawing(source.drawings, canvas)
        return self.reset_tabs() | {source.image: image, source.note: note, source.tabs: tab}

    def reset_after_switch(self) -> Updates:
        """The page after another model was loaded."""
        header, version = self.show_header()
        return self.reset_tabs() | {self.page.header: header, self.model_version: version}

    def follow_switch(self, version: int) -> Updates:
        """The same on the pages of all other visitors: no answer of a former model stays."""
        if version == self.models.version:
            return {self.model_version: version}
        return self.reset_after_switch()

    def show_example(self, example: GalleryExample) -> Updates:
        """An example's image, tab and text, and its saved answer; without one, it is to be run."""
        tab, model = self.task_tabs[example.task], self.models.current
        updates = self.reset_tabs() | {
            self.input.image: example.image,
            self.input.note: "",
            self.tab_bar: gr.Tabs(selected=example.task),
            self.key_to_run: example.task,
        }
        if tab.text:
            updates[tab.text] = example.text
        if model is not None and model.is_built_in and example.tokens:
            prompt = tab.task.prompt(example.text)
            request = LastRequest(prompt, [text for text, _ in example.tokens])
            updates |= tab.show_saved_answer(model, example)
            updates |= {self.page.last_request: request, self.key_to_run: ""}
        return updates

    def restore(self, request: gr.Request) -> Updates:
        """The page as its address says; an address without parameters shows the first example."""
        query, first = dict(request.query_params), self.examples[0] if self.examples else None
        known = {"tab", "image", "example", *self.url_state.params}
        params = {name: value for name, value in query.items() if name in known}
        if first and params.items() <= {first.task: first.text}.items():
            updates = self.show_example(first)
            updates.pop(self.tab_bar)  # it is open already; the visitor may have gone on
            return updates | {self.key_to_run: ""} | self.url_state.restore(query)
        uploads = temp_files(self.demo)
        image = image_from_url(query, self.examples, uploads) or (first and first.image)
        updates = {self.input.image: image, self.key_to_run: ""} | self.url_state.restore(query)
        key = query.get("tab")
        if key in [tab.key for tab in self.tabs]:
            updates[self.tab_bar] = gr.Tabs(selected=key)
            updates[self.key_to_run] = key if image and self._is_ready(key, query) else ""
        return updates

    def _is_ready(self, key: str, query: dict[str, str]) -> bool:
        """Whether the address has what the tab needs to run."""
        if key in self.task_tabs:
            return not self.task_tabs[key].text or bool(query.get(key))
        if key == "region":
            return bool(query.get("region") or query.get("region.answer"))
        return key == "attention" and bool(query.get("attention"))
