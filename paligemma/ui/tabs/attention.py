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
from weakref import ref

import gradio as gr
import numpy as np
from PIL import Image

from paligemma.images import open_image
from paligemma.interpret.explain import CHEAP_VIEWS, DEFAULT_VIEW, VIEWS, Explanation
from paligemma.pipeline import PaliGemma
from paligemma.ui.common import (
    ASIDE,
    INNER,
    LATEST,
    WAITING,
    Page,
    clock,
    fit,
    on_gpu,
    picture_path,
    sampling,
    sentences,
    written,
)
from paligemma.ui.tabs.task import EMPTY
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
    """One explained answer: the picture's file, the prompt, the maps, and whose answer it is."""

    path: str
    prompt: str
    seen: Explanation
    by: ref[PaliGemma]

    @property
    def texts(self) -> list[str]:
        return [token.text for token in self.seen.reply.tokens]

    def worked_out(self, view: str) -> np.ndarray:
        """A view's maps, one a token; ValueError if it was too dear for this answer."""
        if view not in self.seen.maps:
            raise ValueError(f"“{NAMES[view]}” is not worked out here: choose another way to look.")
        return self.seen.maps[view]


@dataclass(frozen=True)
class Glow:
    """A map [g, g] over a picture; `look` is the answer that it is of, None for a word's map."""

    path: str
    heat: np.ndarray
    unit: str
    by: ref[PaliGemma]
    look: Look | None = None

    def drawn(self, opacity: float) -> Image.Image:
        """The picture is read anew: kept, it would fill the memory of every session."""
        return draw_attention(fit(open_image(self.path)), self.heat, opacity)

    def legend(self) -> gr.Image:
        return gr.Image(attention_legend(float(self.heat.max()), 320, self.unit), visible=True)

    def patch(self, where: gr.SelectData) -> tuple[int, int]:
        """Row and column of the patch that was clicked in the drawing."""
        grid, (x, y) = len(self.heat), where.index
        width, height = fit(open_image(self.path)).size
        return min(int(y / height * grid), grid - 1), min(int(x / width * grid), grid - 1)


def the_same(page: Page, by: ref[PaliGemma]) -> PaliGemma:
    """The model that answers now, if it is the one that was asked."""
    if by() is not page.seat.current:
        raise ValueError("Another model was loaded since: press Show attention again.")
    return page.seat.current


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
            self.glow = gr.State(time_to_live=KEPT_SECONDS)

    @property
    def in_address(self) -> dict[str, gr.components.Component]:
        """What the address bar keeps, by its name there."""
        return {"attention": self.prompt, "attention.view": self.view}

    def wire(self, page: Page) -> None:
        named = {"picture": page.picture, "prompt": self.prompt, "view": self.view}
        named |= {"opacity": self.opacity} | page.settings
        over = [self.glow, self.heat, self.scale, self.says]
        shown, chosen = [*over, self.sheet], [self.looked, self.tokens, self.view, self.layer]
        whole = [self.film, self.strip, self.matrix]
        fresh = [*shown, self.patch, self.tower, *whole, page.last]
        page.on_enter(self.prompt, "attention")
        page.run(
            "attention", self.go, partial(look, page, self), named,
            [self.looked, self.tokens, self.layer, *fresh, self.line],
        )  # fmt: skip
        for part in self.tokens, self.layer:
            part.input(show, [*chosen, self.opacity], shown, preprocess=False, **LATEST)
        self.opacity.input(fade, [self.glow, self.opacity], self.heat, **LATEST)
        self.view.input(
            on_gpu(partial(switch, page)), [*chosen, self.opacity],
            [self.looked, self.layer, *shown, self.patch], preprocess=False,
            concurrency_id="model", trigger_mode="always_last", **INNER,
        )  # fmt: skip
        self.sheet.select(show_head, [self.looked, self.tokens, self.opacity], over, **ASIDE)
        self.heat.select(who_looked, [self.glow, self.view], self.patch, **ASIDE)
        alike = [page.picture, self.word, self.opacity]
        self.word.submit(
            on_gpu(partial(like_word, page)), alike, [*over, self.patch, self.tower],
            preprocess=False, concurrency_id="model", trigger_mode="always_last", **INNER,
        )  # fmt: skip

        def tower(glow: Glow | None, where: gr.SelectData):  # gradio asks a def for its hints
            return inside_tower(page, glow, where)

        self.heat.select(
            on_gpu(tower), self.glow, self.tower,
            concurrency_id="model", trigger_mode="multiple", **INNER,
        )  # fmt: skip
        self.draw.click(draw_whole, [self.looked, self.view, self.opacity], whole, **ASIDE)

    def nothing(self) -> dict:
        """What becomes of all that was explained; `None` would leave empty frames."""
        hidden = gr.Image(None, visible=False)
        parts = [self.scale, self.film, self.strip, self.matrix]
        gone = [self.looked, self.glow, self.heat, self.says, self.sheet, self.patch, self.tower]
        tokens = {self.tokens: gr.Radio([], value=None, visible=False)}
        return tokens | dict.fromkeys(parts, hidden) | dict.fromkeys(gone)


def look(
    page: Page, tab: AttentionTab, picture: dict | None, prompt: str, view: str, opacity: float,
    **options,
) -> Iterator[dict]:  # fmt: skip
    """Stream the answer, then explain it."""
    pg = page.seat.current
    with sentences():
        path = picture_path(picture)
        image, options, prompt = open_image(path), sampling(**options), written(prompt)
        if view not in list(VIEWS):
            raise ValueError(f"{view!r} is no way to look; choose {', '.join(VIEWS)}.")
        yield tab.nothing() | {tab.line: WAITING}
        with closing(pg.stream(image, prompt, options)) as replies:
            for reply in replies:
                yield {tab.line: f"{clock(reply)}…"}
        if not reply.tokens:
            yield {tab.line: EMPTY["text"]}
            return
        names = CHEAP_VIEWS if view in CHEAP_VIEWS else (*CHEAP_VIEWS, view)
        looked = Look(path, prompt, pg.explain_reply(image, prompt, reply, names), ref(pg))
    tokens = [(f"{n} {visible(text)}", n - 1) for n, text in enumerate(looked.texts, 1)]
    shown = [tab.glow, tab.heat, tab.scale, tab.says, tab.sheet]
    yield {
        tab.looked: looked,
        tab.tokens: gr.Radio(tokens, value=0, visible=True),
        tab.layer: layers_of(looked, view),
        page.last: (prompt, looked.texts),
        tab.line: f"Done. {clock(reply)}",
    } | dict(zip(shown, show(looked, 0, view, 0, opacity), strict=True))


def layers_of(looked: Look, view: str, layer: int = 0) -> gr.Slider:
    """The slider of the layers, at rest where a view has no more than one."""
    count = len(looked.seen.layers[view])
    value = layer if layer <= count > 1 else 0
    return gr.Slider(value=value, maximum=max(count, 1), interactive=count > 1)


def show(
    looked: Look | None, token: int | None, view: str, layer: int, opacity: float
) -> tuple[Glow | None, Image.Image | None, gr.Image, str, Image.Image | None]:
    """One token in one view: the picture under its map, the scale, a sentence, all its heads."""
    if looked is None:
        return None, None, gr.Image(visible=False), "", None
    token = token if token in range(len(looked.texts)) else 0  # it may be a former answer's
    with sentences():
        heat = looked.worked_out(view)[token]
        seen, layers = looked.seen, looked.seen.layers[view]
        if alone := 0 < layer <= len(layers) > 1:
            heat = layers[layer - 1, token]
        says = f"{VIEWS[view].description} " + (f"Here: layer {layer} alone. " if alone else "")
        if view in ("middle", "mean"):
            says += f"{heat.sum():.0%} of this token's attention is on the picture. "
        if seen.sinks:
            says += f"Sinks, which draw every token: {', '.join(map(str, seen.sinks[:4]))}."
        glow = Glow(looked.path, heat, VIEWS[view].unit, looked.by, looked)
        return glow, glow.drawn(opacity), glow.legend(), says, contact_sheet(_heads(seen, token))


def fade(glow: Glow | None, opacity: float) -> Image.Image | None:
    """What is shown, under another opacity."""
    with sentences():
        return glow and glow.drawn(opacity)


def like_word(page: Page, picture: dict | None, word: str, opacity: float) -> tuple:
    """How alike each patch, out of the connector, is to a word of the person's own."""
    with sentences():
        path, word, pg = picture_path(picture), str(word or ""), page.seat.current
        heat = pg.similarity(open_image(path), word).clip(0)
        glow = Glow(path, heat, VIEWS["similarity"].unit, ref(pg))
        says = f"{VIEWS['similarity'].description} Here: alike to “{escape(word)}”."
        return glow, glow.drawn(opacity), glow.legend(), says, None, None


def _heads(seen: Explanation, token: int) -> np.ndarray:
    return seen.heads[:, :, token]


def switch(page: Page, looked: Look | None, token, view, layer, opacity) -> tuple:
    """Another view, worked out first where it costs a backward pass."""
    with sentences():
        if looked is not None and view not in looked.seen.maps:
            pg = the_same(page, looked.by)
            more = pg.explain_reply(looked.path, looked.prompt, looked.seen.reply, (view,))
            seen = replace(
                looked.seen,
                maps=looked.seen.maps | more.maps,
                layers=looked.seen.layers | more.layers,
            )
            looked = replace(looked, seen=seen)
    slider = gr.skip() if looked is None else layers_of(looked, view, layer)
    return looked, slider, *show(looked, token, view, layer, opacity), None


def show_head(looked: Look | None, token: int, opacity: float, where: gr.SelectData) -> tuple:
    """The head that was clicked in the contact sheet, over the picture."""
    if looked is None:
        return None, None, gr.Image(visible=False), ""
    heads = _heads(looked.seen, token)
    cell = sheet_cell(*where.index, *heads.shape[:2])
    if cell is None:
        return (gr.skip(),) * 4
    with sentences():
        glow = Glow(looked.path, heads[cell], VIEWS["mean"].unit, looked.by, looked)
        says = f"Layer {cell[0] + 1}, head {cell[1] + 1} alone."
        return glow, glow.drawn(opacity), glow.legend(), says


def who_looked(glow: Glow | None, view: str, where: gr.SelectData) -> str:
    """The reverse: which tokens of the answer looked at the clicked patch most."""
    if glow is None or glow.look is None:
        return ""
    with sentences():
        row, column = glow.patch(where)
        glow.look.worked_out(view)
    ranked = glow.look.seen.rank_tokens(view, row, column)[:LISTED]
    rows = "".join(
        f"<li><code>{escape(visible(glow.look.texts[token]))}</code> {value:.2g}</li>"
        for token, value in ranked
    )
    title = f"Row {row + 1}, column {column + 1}: who looked here most ({VIEWS[view].unit})"
    return f"<p>{escape(title)}</p><ol>{rows}</ol>"


def inside_tower(page: Page, glow: Glow | None, where: gr.SelectData) -> Image.Image | None:
    """Where the clicked patch looks, in every layer and head of the vision tower."""
    if glow is None:
        return None
    with sentences():
        pg = the_same(page, glow.by)
        return contact_sheet(pg.tower_attention(glow.path, *glow.patch(where)))


def draw_whole(looked: Look | None, view: str, opacity: float) -> Iterator[tuple]:
    """The film and the strip of the whole answer, and who reads whom among its tokens."""
    with sentences(), TemporaryDirectory() as folder:
        if looked is None:
            raise ValueError("There is no answer yet: press Show attention first.")
        image = fit(open_image(looked.path))
        maps, texts = looked.worked_out(view)[:MOST_FRAMES], looked.texts[:MOST_FRAMES]
        film = Path(folder) / "answer.gif"
        film.write_bytes(to_gif(token_frames(image, maps, texts, opacity)))
        yield (
            gr.Image(str(film), visible=True),
            gr.Image(token_strip(image, maps, texts, opacity, VIEWS[view].unit), visible=True),
            gr.Image(token_matrix(looked.seen.between_tokens, looked.seen.positions), visible=True),
        )
