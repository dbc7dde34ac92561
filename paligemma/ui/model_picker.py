"""Switches the model for every visitor: resolving it, with a download bar, then loading it."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from html import escape

import gradio as gr

from paligemma.checkpoints.catalog import PUBLISHED
from paligemma.checkpoints.resolve import Checkpoint
from paligemma.ui.common import MODEL_QUEUE, PRIVATE, UNQUEUED
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.page import Component, Page


class ModelPicker:
    """The panel below the tabs."""

    def __init__(self, page: Page) -> None:
        with gr.Accordion(
            "Another model", open=False, elem_id="models", visible=page.models.can_switch
        ):
            with gr.Row():
                self.source = gr.Dropdown(
                    model_choices(),
                    value="built-in",
                    label="Model",
                    info="Pick one, or write a folder, an .npz or owner/model of the hub."
                    if page.models.any_model
                    else "The published models need their licence accepted on the hub.",
                    allow_custom_value=page.models.any_model,
                    scale=4,
                )
                self.load = gr.Button("Load", variant="primary", scale=1, min_width=100)
                self.stop = gr.Button("Stop", variant="stop", scale=1, min_width=80)
            self.status = gr.HTML(elem_classes="status")
        self.checkpoint = gr.State()

    def wire(self, page: Page, after_switch: Callable[[], dict], outputs: list[Component]) -> None:
        """`after_switch` returns what becomes of `outputs` when another model was loaded."""
        resolved = self.load.click(
            partial(resolve_with_progress, page.models.resolve),
            self.source,
            [self.checkpoint, self.status],
            concurrency_limit=4,
            **PRIVATE,
        )
        loaded = resolved.success(
            partial(switch_model, page.models),
            self.checkpoint,
            self.status,
            **(MODEL_QUEUE | PRIVATE),
        )
        loaded.then(after_switch, None, outputs, **UNQUEUED)
        for event in resolved, loaded:
            event.failure(lambda: "Not loaded.", None, self.status, **UNQUEUED)
        self.stop.click(None, cancels=resolved, **PRIVATE)


def resolve_with_progress(
    resolve: Callable[..., Checkpoint], source: str | None
) -> Iterator[tuple]:
    """Stream the status; the last one comes with the checkpoint. Closing it stops the download."""
    source, progress = str(source or "").strip(), [0, 1]
    stopped = False

    def report(done: int, total: int) -> None:
        if stopped:
            raise ValueError("The download was stopped.")
        progress[:] = done, total

    with ThreadPoolExecutor(1) as worker:
        if not source:
            raise ValueError("No model is named yet: pick one, or write a folder or owner/model.")
        resolving = worker.submit(resolve, source, report)
        try:
            while not resolving.done():
                done, total = progress
                amount = f" {done / 1e6:,.0f} of {total / 1e6:,.0f} MB" if done else ""
                yield gr.skip(), progress_bar(done / total, f"Fetching {escape(source)}{amount}")
                time.sleep(0.2)
        finally:
            stopped = True
        yield resolving.result(), f"Loading {escape(source)}…"


def switch_model(models: ModelManager, checkpoint: Checkpoint | None) -> str:
    """Load a checkpoint in place of the current model; returns the status."""
    start = time.perf_counter()
    models.switch(checkpoint)
    seconds = time.perf_counter() - start
    return f"Loaded {escape(models.loaded.name)} in {seconds:.1f} s."


def progress_bar(share: float, html: str) -> str:
    """A bar, `share` of 1 full (0: not known yet), and what stands behind it."""
    value = f' value="{share:.3f}"' if share else ""
    return f'<progress max="1"{value}></progress> {html}…'


def model_choices() -> list[tuple[str, str]]:
    """Labels and values of the models to pick from."""
    published = [
        (f"{row.id} ({2 * row.config.num_parameters / 1e9:.0f} GB in bfloat16)", row.id)
        for row in PUBLISHED
    ]
    return [("the built-in model", "built-in"), *published]
