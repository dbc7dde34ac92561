"""Switches the model for every visitor: what it needs, its licence, the download, loading it.

A token for the hub is used for one download: it is in no session, address, log or file. Only the
owner of the page can give one, because the model is then there for everybody: whoever sits at a
private app, or the signed-in owner of a Space.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from html import escape

import gradio as gr
from huggingface_hub import constants

from paligemma.checkpoints.catalog import PUBLISHED
from paligemma.checkpoints.needs import format_duration
from paligemma.checkpoints.resolve import Checkpoint
from paligemma.devices import format_bytes
from paligemma.ui.common import MODEL_QUEUE, PARALLEL, PRIVATE, UNQUEUED
from paligemma.ui.inputs import read_text
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.page import Component, Page

PHOTOGRAPH_MODEL = "google/paligemma2-3b-mix-224"  # the smallest that answers about photographs
# Whether this is a Space with hf_oauth in its card; the secret signs the cookies of sessions.
HAS_SIGN_IN = {"OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET"} <= os.environ.keys()
TOKEN = re.compile(r"[\w.-]{1,200}", re.ASCII)
NO_LOAD = "Not loaded."


class ModelPicker:
    """The panel below the tabs. `token` is None where no token may be typed."""

    def __init__(self, page: Page) -> None:
        models = page.models
        self.token: gr.Textbox | None = None
        with gr.Accordion(
            "Use it on photographs: another model",
            open=False,
            elem_id="models",
            visible=models.can_switch,
        ) as self.panel:
            self.source = gr.Dropdown(
                model_choices(),
                value=PHOTOGRAPH_MODEL,
                label="Model",
                info="Pick one, or write a folder, an .npz or owner/model of the hub."
                if models.any_model
                else "The published models need their licence accepted on the hub.",
                allow_custom_value=models.any_model,
            )
            self.needs = gr.HTML(elem_classes="needs")
            if models.any_model:
                self.token = gr.Textbox(
                    label="Token of the hub, for this download only",
                    info="It is not stored. Leave it empty after hf auth login, or with HF_TOKEN.",
                    type="password",
                    max_lines=1,
                    html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
                )
            elif HAS_SIGN_IN:
                gr.LoginButton("Sign in as the owner of this Space")
            with gr.Row():
                self.try_it = gr.Button("Try it on my picture", variant="primary", min_width=160)
                self.load = gr.Button("Load", min_width=100)
                self.stop = gr.Button("Stop", variant="stop", min_width=80)
            self.status = gr.HTML(elem_classes="status")
        self.checkpoint = gr.State()

    def wire(self, page: Page, after_switch: Callable[[], dict], outputs: list[Component]) -> None:
        """`after_switch` returns what becomes of `outputs` when another model was loaded."""
        for event in self.panel.expand, self.source.change:
            event(partial(needs_html, page.models), self.source, self.needs, **PARALLEL)
        self._wire_button(self.load, page, after_switch, outputs)
        reset = self._wire_button(self.try_it, page, after_switch, outputs)
        reset.then(None, js="() => captionPicture()", **PRIVATE)

    def _wire_button(self, button: gr.Button, page: Page, after_switch, outputs: list[Component]):
        """Returns the event after another model was loaded."""
        typed = [self.token] if self.token else []
        models = page.models

        def fetch_as_owner(
            source: str | None, profile: gr.OAuthProfile | None, token: gr.OAuthToken | None
        ) -> Iterator[tuple]:  # its hints are needed
            yield from fetch_with_token(models, source, owner_token(profile, token))

        signs_in = HAS_SIGN_IN and not models.any_model
        resolved = button.click(
            fetch_as_owner if signs_in else partial(fetch_with_token, models),
            [self.source, *typed],
            [self.checkpoint, self.status],
            concurrency_limit=4,
            **PRIVATE,
        )
        loaded = resolved.success(
            partial(switch_model, models),
            self.checkpoint,
            self.status,
            **(MODEL_QUEUE | PRIVATE),
        )
        for event in resolved, loaded:
            event.failure(lambda: NO_LOAD, None, self.status, **UNQUEUED)
        for part in typed:
            for event in resolved.success, resolved.failure:
                event(lambda: "", None, part, **UNQUEUED)
        self.stop.click(None, cancels=resolved, **PRIVATE)
        return loaded.then(after_switch, None, outputs, **UNQUEUED)


def needs_html(models: ModelManager, source: str | None) -> str:
    """What a published model needs here, and the steps of its licence; empty for other models."""
    row = next((row for row in PUBLISHED if row.id == source), None)
    if row is None:
        return ""
    needs = models.needs(row)
    hub = escape(constants.ENDPOINT)
    last = (
        "Give the token below"
        if models.any_model
        else "Sign in below, if this Space is yours"
        if HAS_SIGN_IN
        else "Its owner gives this page the token, as HF_TOKEN"
    )
    smaller = "".join(
        f"; {format_bytes(memory)} in {name}, where the app is started with --quantize {name}"
        for name, memory in needs.quantized.items()
    )
    verdict = "It fits here." if needs.fits else "<b>It does not fit on this machine.</b>"
    link = '<a target="_blank" rel="noreferrer" href='
    return (
        f"<p><b>{row.id}</b>: {row.purpose}. {verdict}</p><ul>"
        f"<li>Memory: {format_bytes(needs.memory)}, of {format_bytes(needs.free_memory)} free"
        f"{smaller}.</li>"
        f"<li>Disk: {format_bytes(needs.disk)}, of {format_bytes(needs.free_disk)} free.</li>"
        f"<li>Time: about {format_duration(needs.caption_s)} for a caption, by the measured speed "
        "of this machine.</li></ul><p>Its licence, once:</p><ol>"
        f'<li>Open {link}"{hub}/{row.id}">the model\'s page</a>, sign in, and accept it.</li>'
        f'<li>Make {link}"{hub}/settings/tokens">a token that may read</a>.</li>'
        f"<li>{last}.</li></ol>"
    )


def fetch_with_token(
    models: ModelManager, source: str | None, token: str | None = ""
) -> Iterator[tuple]:
    """Resolve a model with that token, or with this machine's: see `resolve_with_progress`."""
    token = read_text(token, "A token").strip()
    if token and not TOKEN.fullmatch(token):
        raise ValueError("That is no token of the hub: it has letters, digits and _ only.")
    resolve = partial(models.resolve, token=token) if token else models.resolve
    yield from resolve_with_progress(resolve, source)


def owner_token(profile: gr.OAuthProfile | None, token: gr.OAuthToken | None) -> str:
    """The token of a signed-in visitor, if that is the owner of the Space; else none."""
    is_owner = profile and profile.username == os.environ.get("SPACE_AUTHOR_NAME")
    return token.token if is_owner and token else ""


def resolve_with_progress(
    resolve: Callable[..., Checkpoint], source: str | None
) -> Iterator[tuple]:
    """Stream the status; the last one comes with the checkpoint. Closing it stops the download."""
    source, progress = str(source or "").strip(), [0, 1]
    stopped, start = False, time.monotonic()

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
                if 0 < done < total:
                    rest = (time.monotonic() - start) * (total - done) / done
                    amount += f", {format_duration(rest)} left"
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
