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
from paligemma.images import open_image
from paligemma.pipeline import PaliGemma
from paligemma.reply import Reply
from paligemma.ui.common import (
    WAITING,
    Page,
    clock,
    fit,
    picture_path,
    sampling,
    sentences,
    written,
)
from paligemma.ui.model_picker import choices, fetch
from visualize import draw_objects

DTYPES = ["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Side:
    """What one model made of the prompt."""

    name: str
    facts: str
    reply: Reply
    drawn: Image.Image


class CompareTab:
    """`own`: a folder or a model that is not in the list may be named too."""

    def __init__(self, page: Page, own: bool) -> None:
        with gr.Tab("Compare", id="compare"):
            self.prompt = gr.Textbox(
                label="A prompt, just as the model gets it", max_lines=3,
                placeholder="for example: detect cat",
            )  # fmt: skip
            with gr.Row():
                self.source = gr.Dropdown(
                    choices(), value="built-in", label="The model that answers now, against",
                    allow_custom_value=own, scale=3, min_width=200,
                )  # fmt: skip
                self.dtype = gr.Dropdown(
                    DTYPES, value="bfloat16", label="in", scale=1, min_width=160
                )
            self.go, _, self.line = page.buttons("Compare", "compare")
            self.table = gr.HTML(label="Side by side", elem_classes="sides")
            self.slider = gr.ImageSlider(
                label="Left: the one that answers now", format="png",
                interactive=False, visible=False, elem_id="sides",
            )  # fmt: skip
            self.found = gr.State()

    @property
    def in_address(self) -> dict[str, gr.components.Component]:
        """What the address bar keeps, by its name there."""
        parts = {"model": self.source, "dtype": self.dtype}
        return {"compare": self.prompt} | {f"compare.{name}": part for name, part in parts.items()}

    def wire(self, page: Page) -> None:
        named = {"picture": page.picture, "prompt": self.prompt, "found": self.found}
        named |= {"dtype": self.dtype} | page.settings
        outputs = [self.table, self.slider, self.line]
        asked = [self.source, page.picture, self.prompt]
        fetching = partial(fetch_guest, page), asked, [self.found, self.line]
        page.on_enter(self.prompt, "compare")
        page.run("compare", self.go, partial(compare, page), named, outputs, before=fetching)


def fetch_guest(page: Page, source: str | None, picture: dict | None, prompt: str) -> Iterator:
    """`fetch` the other model, once there is something to ask it."""
    with sentences():
        picture_path(picture), written(prompt)
    yield from fetch(page.seat.resolve_comparison, source)


def compare(
    page: Page, picture: dict | None, prompt: str, found: Checkpoint, dtype: str, **options
) -> Iterator[tuple]:
    """Stream the left answer, the loading of the other model, and its answer."""
    seat, same = page.seat, gr.skip()
    with sentences():
        image, options = open_image(picture_path(picture)), sampling(**options)
        prompt = written(prompt)
        if found is None:
            raise ValueError("The other model is not there yet: press Compare.")
        yield "", gr.ImageSlider(visible=False), WAITING
        sides = []
        for side in _answer(seat.current, image, prompt, options):
            yield table([side]), same, f"{escape(side.name)}: {clock(side.reply)}…"
        sides.append(side)
        yield same, same, "Loading the other model…"
        for side in _answer(seat.load_comparison(found, dtype), image, prompt, options):
            yield table([*sides, side]), same, f"{escape(side.name)}: {clock(side.reply)}…"
        sides.append(side)
        left, right = (side.drawn for side in sides)
        seen = any(side.reply.detections for side in sides)
        alike = sides[0].reply.text == sides[1].reply.text
        verdict = "Both say the same." if alike else "They differ."
        yield table(sides), gr.ImageSlider((left, right), visible=seen), verdict


def _answer(pg: PaliGemma, image, prompt: str, options: SamplingOptions) -> Iterator[Side]:
    shown = fit(image)
    with closing(pg.stream(image, prompt, options)) as replies:
        for reply in replies:
            drawn = shown
            if reply.finished and reply.detections:
                drawn = draw_objects(shown, reply.detections, pg.masks(reply.detections))
            yield Side(pg.name, pg.facts, reply, drawn)


def table(sides: list[Side]) -> str:
    """Models in columns: size, time, tokens, words."""
    rows = {
        "model": [f"<b>{escape(side.name)}</b>" for side in sides],
        "size": [escape(side.facts) for side in sides],
        "time": [clock(side.reply) for side in sides],
        "words": [escape(side.reply.text) or "…" for side in sides],
    }
    lines = (
        f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for name, cells in rows.items()
    )
    return f'<table class="sides">{"".join(lines)}</table>'
