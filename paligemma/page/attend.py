"""The attention tab: where the decoder looked as it wrote each token."""

from collections.abc import Iterator
from contextlib import closing
from functools import partial

import gradio as gr
import numpy as np
from PIL import Image

from paligemma.page.asking import EMPTY
from paligemma.page.frame import QUICK, WAITING, Page, clock, fit, picture_path, sentences
from paligemma.pipeline import SamplingOptions, open_image
from visualize import draw_attention

ATTENTION_NOTE = """
**What this shows.** While the decoder writes a token, it looks back at the patches of the picture.
The glow is the mean of that attention over all layers and heads; the brightest patch is its scale.

**What it does not prove.** Where a model looks is not why it answers. The image tower has mixed the
patches before the decoder sees them, and an answer may stay the same without the brightest one.
"""


def look(page: Page, picture: dict | None, prompt: str | None, **options) -> Iterator[tuple]:
    """Stream the attention tab: what it remembers, its tokens, its picture and its line."""
    prompt, same, pg = str(prompt or "").strip(), gr.skip(), page.seat.pg
    with sentences():
        image, options = open_image(picture_path(picture)), SamplingOptions(**options)
        if not prompt:
            raise ValueError("There is no prompt yet: write one, such as detect cat.")
        yield None, gr.Radio([], visible=False), None, WAITING
        with closing(pg.stream(image, prompt, options)) as replies:
            for reply in replies:
                yield same, same, same, f"{clock(reply)}…"
        if not reply.tokens:
            yield same, same, same, EMPTY["text"]
            return
        memory = fit(image), pg.attention(image, prompt, reply)
        names = [f"{n} {token.text.strip() or '␣'}" for n, token in enumerate(reply.tokens, 1)]
        choices = [(name, n) for n, name in enumerate(names)]
        yield memory, gr.Radio(choices, value=0, visible=True), *show_token(0, memory)


def show_token(number: int, look: tuple[Image.Image, np.ndarray]) -> tuple[Image.Image, str]:
    """The picture under one token's attention, and a line about it."""
    image, maps = look
    words = f"{maps[number].sum():.0%} of this token's attention is on the picture"
    words += f", {maps[number].max():.1%} on its brightest patch."
    return draw_attention(image, maps[number], opacity=0.5), words


class AttentionTab:
    def __init__(self, page: Page) -> None:
        with gr.Tab("Attention", id="attention"):
            self.prompt = gr.Textbox(
                label="A prompt, just as the model gets it", max_lines=3,
                placeholder="for example: detect cat",
            )  # fmt: skip
            self.go, _, self.line = page.buttons("Show attention", "attention")
            self.tokens = gr.Radio([], label="The answer, token by token", visible=False)
            self.heat = gr.Image(
                label="Where it looked", format="png", interactive=False,
                buttons=["fullscreen"], elem_id="heat",
            )  # fmt: skip
            gr.Markdown(ATTENTION_NOTE, elem_classes="note")
            self.looked = gr.State()

    def wire(self, page: Page) -> None:
        named = {"picture": page.picture, "prompt": self.prompt} | page.settings
        outputs = [self.looked, self.tokens, self.heat, self.line]
        events = [self.go.click, self.prompt.submit]
        page.run("attention", events, partial(look, page), named, outputs)
        shown = [self.heat, self.line]
        self.tokens.input(show_token, [self.tokens, self.looked], shown, **QUICK)
