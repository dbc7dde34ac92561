"""The attention explorer: any token of an answer can be asked where the decoder looked.

Maps are kept in the visitor's page; choosing a token, a layer or a head asks no model. Gradients,
and where a patch looks inside the vision tower, are worked out when they are asked for.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr
import numpy as np
from PIL import Image

from paligemma.explain import CHEAP_VIEWS, DEFAULT_VIEW, VIEWS, Explanation
from paligemma.page.asking import EMPTY
from paligemma.page.frame import (
    INNER,
    LATEST,
    QUICK,
    WAITING,
    Page,
    clock,
    fit,
    on_gpu,
    picture_path,
    sentences,
    written,
)
from paligemma.pipeline import SamplingOptions, open_image
from visualize import (
    attention_legend,
    contact_sheet,
    draw_attention,
    sheet_cell,
    to_gif,
    token_frames,
    token_matrix,
    token_strip,
    visible,
)

NAMES = {
    "middle": "Middle layers",
    "mean": "All layers",
    "rollout": "Rollout",
    "relative": "Against a neutral prompt",
    "gradient": "Times gradient",
    "similarity": "Alike before any prompt",
}
MOST_FRAMES = 60  # tokens of an answer in the strip
LISTED = 6  # tokens that looked at a patch most
KEPT_SECONDS = 1800  # that a visitor's maps stay in memory
NOTE = """
**What this shows.** A token of the answer was written by the column before it: the glow is where
that column looked. The middle layers come first because on 500 drawn scenes their brightest patch
lies in the named thing most often; `docs/pointing.md` has the table of all these views.

**What it does not prove.** Where a model reads is not why it answers. The image tower has mixed the
patches before the decoder sees them, the prompt's own tokens gather from the picture and hand on,
and an answer may stay the same without its brightest patch. Patches that draw every token, whatever
it says, are sinks: they are named, not hidden.
"""


@dataclass(frozen=True)
class Look:
    """One explained answer: the picture's file, its size as shown, the prompt, and the maps."""

    path: str
    size: tuple[int, int]
    prompt: str
    seen: Explanation

    @property
    def image(self) -> Image.Image:
        """The picture as results show it: read anew, it would fill the memory of every session."""
        return fit(open_image(self.path))

    @property
    def texts(self) -> list[str]:
        return [token.text for token in self.seen.reply.tokens]

    def worked_out(self, view: str) -> np.ndarray:
        """A view's maps, one a token; ValueError if it was too dear for this answer."""
        if view not in self.seen.maps:
            raise ValueError(f"“{NAMES[view]}” is not worked out here: choose another way to look.")
        return self.seen.maps[view]


class AttentionTab:
    def __init__(self, page: Page) -> None:
        with gr.Tab("Attention", id="attention"):
            self.prompt = gr.Textbox(
                label="A prompt, just as the model gets it", max_lines=3,
                placeholder="for example: detect cat",
            )  # fmt: skip
            self.go, _, self.line = page.buttons("Show attention", "attention")
            self.tokens = gr.Radio([], label="The answer, token by token", visible=False)
            views = [(NAMES[name], name) for name in NAMES]
            self.view = gr.Radio(views, value=DEFAULT_VIEW, label="How to look")
            with gr.Row():
                self.layer = gr.Slider(0, 1, 0, step=1, label="Layer (0: all)")
                self.opacity = gr.Slider(0, 1, 0.55, step=0.05, label="Opacity")
            self.word = gr.Textbox(
                label="Or: how alike is each patch to a word, before any prompt is read?",
                placeholder="for example: wheel", max_lines=1,
            )  # fmt: skip
            self.says = gr.Markdown(elem_classes="note")
            self.heat = gr.Image(
                label="Where it looked. Click a patch", format="png", interactive=False,
                buttons=["fullscreen", "download"], elem_id="heat",
            )  # fmt: skip
            self.scale = gr.Image(
                label="The scale of the colours", show_label=False, format="png",
                interactive=False, buttons=[], container=False, elem_id="scale", visible=False,
            )  # fmt: skip
            self.patch = gr.HTML(elem_id="patch")
            with gr.Accordion("Every layer and head: click one to see it large", open=False):
                self.sheet = gr.Image(
                    label="A row each layer, a column each head", show_label=False, format="png",
                    interactive=False, buttons=["fullscreen", "download"], elem_id="sheet",
                )  # fmt: skip
            with gr.Accordion("Where the clicked patch looks, inside the image tower", open=False):
                self.tower = gr.Image(
                    label="Each layer and head of the tower", show_label=False, format="png",
                    interactive=False, buttons=["fullscreen", "download"], elem_id="tower",
                )  # fmt: skip
            with gr.Accordion("The whole answer, and the path through the prompt", open=False):
                self.draw = gr.Button("Draw it", size="md")
                self.film = gr.Image(
                    label="Token by token", interactive=False, format="gif",
                    buttons=["fullscreen", "download"], elem_id="film", visible=False,
                )  # fmt: skip
                self.strip = gr.Image(
                    label="All tokens on one scale", interactive=False, format="png",
                    buttons=["fullscreen", "download"], elem_id="tokens", visible=False,
                )  # fmt: skip
                self.matrix = gr.Image(
                    label="Who reads whom among prompt and answer", interactive=False, format="png",
                    buttons=["fullscreen", "download"], elem_id="matrix", visible=False,
                )  # fmt: skip
            gr.Markdown(NOTE, elem_classes="note")
            self.looked = gr.State(time_to_live=KEPT_SECONDS)

    @property
    def in_address(self) -> dict[str, gr.components.Component]:
        """What the address bar keeps, by its name there."""
        return {"attention": self.prompt, "attention.view": self.view}

    def wire(self, page: Page) -> None:
        named = {"picture": page.picture, "prompt": self.prompt, "view": self.view}
        named |= {"opacity": self.opacity} | page.settings
        shown = [self.heat, self.scale, self.says, self.sheet]
        outputs = [self.looked, self.tokens, self.layer, *shown, page.last, self.line]
        events = [self.go.click, self.prompt.submit]
        page.run("attention", events, partial(look, page), named, outputs)
        chosen = [self.looked, self.tokens, self.view, self.layer, self.opacity]
        for part in self.tokens, self.layer, self.opacity:
            part.input(show, chosen, shown, **LATEST)
        self.view.input(
            on_gpu(partial(switch, page)),
            chosen,
            [self.looked, *shown],
            concurrency_id="model",
            trigger_mode="always_last",
            **INNER,
        )
        self.sheet.select(show_head, chosen, shown[:-1], **QUICK)
        self.heat.select(who_looked, [self.looked, self.view], self.patch, **QUICK)
        alike = [page.picture, self.word, self.opacity]
        self.word.submit(
            on_gpu(partial(like_word, page)), alike, shown[:-1], preprocess=False,
            concurrency_id="model", **INNER,
        )  # fmt: skip

        def tower(looked: Look | None, where: gr.SelectData):  # gradio asks a def for its hints
            return inside_tower(page, looked, where)

        self.heat.select(on_gpu(tower), self.looked, self.tower, concurrency_id="model", **INNER)
        whole = [self.film, self.strip, self.matrix]
        self.draw.click(draw_whole, [self.looked, self.view, self.opacity], whole, **QUICK)
        page.said |= dict.fromkeys([self.patch, self.tower, *whole])

    def nothing(self) -> dict:
        """What the parts become that `None` does not empty."""
        hidden = gr.Image(None, visible=False)
        parts = [self.scale, self.film, self.strip, self.matrix]
        return {self.tokens: gr.Radio([], visible=False)} | dict.fromkeys(parts, hidden)


def look(
    page: Page, picture: dict | None, prompt: str, view: str, opacity: float, **options
) -> Iterator[tuple]:
    """Stream the answer, then explain it: what `outputs` above lists."""
    same, pg = gr.skip(), page.seat.pg
    with sentences():
        path = picture_path(picture)
        image, options = open_image(path), SamplingOptions(**options)
        prompt, rest = written(prompt), [same] * 6
        yield None, gr.Radio([], visible=False), *rest, WAITING
        with closing(pg.stream(image, prompt, options)) as replies:
            for reply in replies:
                yield same, same, *rest, f"{clock(reply)}…"
        if not reply.tokens:
            yield same, same, *rest, EMPTY["text"]
            return
        names = CHEAP_VIEWS if view in CHEAP_VIEWS else (*CHEAP_VIEWS, view)
        looked = Look(path, fit(image).size, prompt, pg.reread(image, prompt, reply, names))
        tokens = [(f"{n} {visible(text)}", n - 1) for n, text in enumerate(looked.texts, 1)]
        layers = looked.seen.heads.shape[0]
        yield (
            looked,
            gr.Radio(tokens, value=0, visible=True),
            gr.Slider(value=0, maximum=layers),
            *show(looked, 0, view, 0, opacity),
            (prompt, looked.texts),
            f"Done. {clock(reply)}",
        )


def show(looked: Look | None, token: int, view: str, layer: int, opacity: float) -> tuple:
    """One token in one view: the picture under its map, the scale, a sentence, all its heads."""
    if looked is None:
        return None, gr.Image(visible=False), "", None
    with sentences():
        heat = looked.worked_out(view)[token]
    seen, layers = looked.seen, looked.seen.layers[view]
    if alone := 0 < layer <= len(layers) > 1:
        heat = layers[layer - 1, token]
    says = f"{VIEWS[view].says} Here: layer {layer} alone. " if alone else f"{VIEWS[view].says} "
    if view in ("middle", "mean"):
        says += f"{heat.sum():.0%} of this token's attention is on the picture. "
    if seen.sinks:
        says += f"Sinks, which draw every token: {', '.join(map(str, seen.sinks[:4]))}."
    return (
        *_drawn(looked.image, heat, VIEWS[view].unit, opacity),
        says,
        contact_sheet(_heads(seen, token)),
    )


def _drawn(image: Image.Image, heat: np.ndarray, unit: str, opacity: float) -> tuple:
    scale = attention_legend(float(heat.max()), 320, unit)
    return draw_attention(image, heat, opacity), gr.Image(scale, visible=True)


def like_word(page: Page, picture: dict | None, word: str, opacity: float) -> tuple:
    """How alike each patch, out of the connector, is to a word of the person's own."""
    with sentences():
        image, word = open_image(picture_path(picture)), str(word or "")
        heat = page.seat.pg.similarity(image, word).clip(0)
        says = f"{VIEWS['similarity'].says} Here: alike to “{escape(word)}”."
        return *_drawn(fit(image), heat, VIEWS["similarity"].unit, opacity), says


def _heads(seen: Explanation, token: int) -> np.ndarray:
    return seen.heads[:, :, token]


def switch(page: Page, looked: Look | None, token, view, layer, opacity) -> tuple:
    """Another view, worked out first where it costs a backward pass."""
    with sentences():
        if looked is not None and view not in looked.seen.maps:
            more = page.seat.pg.reread(looked.path, looked.prompt, looked.seen.reply, (view,))
            seen = replace(
                looked.seen,
                maps=looked.seen.maps | more.maps,
                layers=looked.seen.layers | more.layers,
            )
            looked = replace(looked, seen=seen)
        return looked, *show(looked, token, view, layer, opacity)


def show_head(
    looked: Look | None, token: int, view: str, layer: int, opacity: float, where: gr.SelectData
) -> tuple:
    """The head that was clicked in the contact sheet, over the picture."""
    if looked is None:
        return None, gr.Image(visible=False), ""
    heads = _heads(looked.seen, token)
    cell = sheet_cell(*where.index, *heads.shape[:2])
    if cell is None:
        return gr.skip(), gr.skip(), gr.skip()
    says = f"Layer {cell[0] + 1}, head {cell[1] + 1} alone."
    return *_drawn(looked.image, heads[cell], VIEWS["mean"].unit, opacity), says


def patch_at(looked: Look, where: gr.SelectData) -> tuple[int, int]:
    """Row and column of the clicked patch."""
    grid, (x, y) = looked.seen.heads.shape[-1], where.index
    width, height = looked.size
    return min(int(y / height * grid), grid - 1), min(int(x / width * grid), grid - 1)


def who_looked(looked: Look | None, view: str, where: gr.SelectData) -> str:
    """The reverse: which tokens looked at the clicked patch most."""
    if looked is None:
        return ""
    row, column = patch_at(looked, where)
    with sentences():
        looked.worked_out(view)
    ranked = looked.seen.lookers(view, row, column)[:LISTED]
    rows = "".join(
        f"<li><code>{escape(visible(looked.texts[token]))}</code> {value:.2g}</li>"
        for token, value in ranked
    )
    unit = escape(VIEWS[view].unit)
    return (
        f"<p>Row {row + 1}, column {column + 1}: who looked here most ({unit})</p><ol>{rows}</ol>"
    )


def inside_tower(page: Page, looked: Look | None, where: gr.SelectData) -> Image.Image | None:
    """Where the clicked patch looks, in every layer and head of the vision tower."""
    if looked is None:
        return None
    with sentences():
        row, column = patch_at(looked, where)
        return contact_sheet(page.seat.pg.tower_attention(looked.path, row, column))


def draw_whole(looked: Look | None, view: str, opacity: float) -> Iterator[tuple]:
    """The film and the strip of the whole answer, and who reads whom among its tokens."""
    with sentences(), TemporaryDirectory() as folder:
        if looked is None:
            raise ValueError("There is no answer yet: press Show attention first.")
        image = looked.image
        maps, texts = looked.worked_out(view)[:MOST_FRAMES], looked.texts[:MOST_FRAMES]
        film = Path(folder) / "answer.gif"
        film.write_bytes(to_gif(token_frames(image, maps, texts, opacity)))
        yield (
            gr.Image(str(film), visible=True),
            gr.Image(token_strip(image, maps, texts, opacity, VIEWS[view].unit), visible=True),
            gr.Image(token_matrix(looked.seen.between_tokens, looked.seen.columns), visible=True),
        )
