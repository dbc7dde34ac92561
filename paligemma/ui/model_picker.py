"""Which model answers, and the change to another, for everybody who uses the page."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from html import escape

import gradio as gr

from paligemma.checkpoints.catalog import PUBLISHED
from paligemma.ui.common import INNER, QUICK, Page, sentences
from paligemma.ui.model_manager import ModelManager


def fetch(find: Callable, source: str | None) -> Iterator[tuple]:
    """`find` a model, downloading it with a bar; stream what was found and the line."""
    source, told = str(source or "").strip(), [0, 1]
    closed = False

    def report(done: int, total: int) -> None:
        if closed:
            raise ValueError("The download was stopped.")
        told[:] = done, total

    with sentences(), ThreadPoolExecutor(1) as worker:
        if not source:
            raise ValueError("No model is named yet: pick one, or write a folder or owner/model.")
        finding = worker.submit(find, source, report)
        try:
            while not finding.done():
                done, total = told
                amount = f" {done / 1e6:,.0f} of {total / 1e6:,.0f} MB" if done else ""
                yield gr.skip(), bar(done / total, f"Fetching {escape(source)}{amount}")
                time.sleep(0.2)
        finally:
            closed = True
        yield finding.result(), f"Loading {escape(source)}…"


def change(seat: ModelManager, found) -> str:
    """Load what `fetch` found in the old model's place."""
    with sentences():
        start = time.perf_counter()
        seat.switch(found)
        return f"Loaded {escape(seat.current.name)} in {time.perf_counter() - start:.1f} s."


def bar(share: float, words: str) -> str:
    """A progress bar, `share` of 1 full (0: nobody knows yet), and HTML words behind it."""
    value = f' value="{share:.3f}"' if share else ""
    return f'<progress max="1"{value}></progress> {words}…'


def choices() -> list[tuple[str, str]]:
    """The picker's rows: what a person reads, and what is loaded."""
    published = [
        (f"{row.id} ({2 * row.config.num_parameters / 1e9:.0f} GB in bfloat16)", row.id)
        for row in PUBLISHED
    ]
    return [("the built-in model", "built-in"), *published]


def model_panel(own: bool) -> tuple[gr.Dropdown, gr.Button, gr.Button, gr.Markdown]:
    """The picker. `own`: a folder or a model that is not in the list may be named too."""
    with gr.Accordion("Another model", open=False, elem_id="models"):
        with gr.Row():
            source = gr.Dropdown(
                choices(), value="built-in", label="Model", allow_custom_value=own, scale=4,
                info="Pick one, or write a folder, an .npz or owner/model of the hub."
                if own else "The published models need their licence accepted on the hub.",
            )  # fmt: skip
            go = gr.Button("Load", variant="primary", scale=1, min_width=100)
            stop = gr.Button("Stop", variant="stop", scale=1, min_width=80)
        line = gr.HTML(elem_classes="line")
    return source, go, stop, line


class ModelPicker:
    """The panel above the page."""

    def __init__(self, page: Page, own: bool) -> None:
        self.source, self.go, self.stop, self.line = model_panel(own)
        self.found = gr.State()

    def wire(self, page: Page, forget, forgotten: list) -> None:
        seat = page.seat
        fetched = self.go.click(
            partial(fetch, seat.resolve), self.source, [self.found, self.line],
            concurrency_limit=4, **INNER,
        )  # fmt: skip
        loaded = fetched.success(
            partial(change, seat), self.found, self.line,
            concurrency_id="model", **INNER,
        )  # fmt: skip
        loaded.then(forget, None, forgotten, **QUICK)
        for ended in fetched, loaded:
            ended.failure(lambda: "Not loaded.", None, self.line, **QUICK)
        self.stop.click(None, cancels=fetched, **INNER)
