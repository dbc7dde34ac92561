"""The attention maps of an answer as the Attention tab shows them; nothing here calls the model."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from weakref import ref

import gradio as gr
import numpy as np
from PIL import Image

from paligemma.images import read_size
from paligemma.interpret.explain import VIEWS, Explanation
from paligemma.pipeline import PaliGemma
from paligemma.ui.common import display_size, open_for_page, resize_for_display, user_errors
from paligemma.ui.inputs import read_choice, read_index, read_number
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

VIEW_NAMES = {
    "middle": "Middle layers",
    "mean": "All layers",
    "rollout": "Rollout",
    "relative": "Relative to an empty prompt",
    "gradient": "Attention × gradient",
    "similarity": "Similarity before any prompt",
}
MAX_FRAMES = 60  # tokens of an answer in the animation and the strip
LISTED_TOKENS = 6  # at a clicked patch
LEGEND_WIDTH = 320  # pixels


@dataclass(frozen=True)
class ExplainedAnswer:
    """An answer with its attention maps, the path of the image, and the model that gave it."""

    path: str
    prompt: str
    explanation: Explanation
    model: ref[PaliGemma]

    @property
    def token_texts(self) -> list[str]:
        return [token.text for token in self.explanation.reply.tokens]

    def maps(self, view: str) -> np.ndarray:
        """[tokens, grid, grid]; raises ValueError if the view was not computed."""
        if read_choice(view, list(VIEW_NAMES), "A view") not in self.explanation.maps:
            raise ValueError(f"“{VIEW_NAMES[view]}” is not computed yet: choose another view.")
        return self.explanation.maps[view]


@dataclass(frozen=True)
class ShownMap:
    """A map [grid, grid] over an image; `answer` is None for the map of a word.

    The image is read again when it is drawn: kept, it would fill the memory of every session.
    """

    path: str
    values: np.ndarray
    unit: str
    model: ref[PaliGemma]
    answer: ExplainedAnswer | None = None

    def draw(self, image: Image.Image, opacity: float) -> Image.Image:
        opacity = read_number(opacity, 0, 1, "Opacity")
        return draw_attention(resize_for_display(image), self.values, opacity)

    def legend(self) -> gr.Image:
        legend = attention_legend(float(self.values.max()), LEGEND_WIDTH, self.unit)
        return gr.Image(legend, visible=True)

    def patch(self, click: gr.SelectData) -> tuple[int, int]:
        """Row and column of the patch that was clicked in the drawing."""
        grid, (x, y) = len(self.values), click.index
        width, height = display_size(read_size(self.path))
        return min(int(y / height * grid), grid - 1), min(int(x / width * grid), grid - 1)


def layer_slider(answer: ExplainedAnswer, view: str, layer: int = 0) -> gr.Slider:
    """The slider of the layers, disabled where a view has no more than one."""
    count = len(answer.explanation.layers[view])
    value = read_index(layer, count + 1) if count > 1 else 0
    return gr.Slider(value=value, maximum=max(count, 1), interactive=count > 1)


def show_token(
    answer: ExplainedAnswer | None,
    token: int | None,
    view: str,
    layer: int,
    opacity: float,
    image: Image.Image | None = None,
) -> tuple:
    """One token in one view: ShownMap, drawing, legend, description, and all its heads.

    `image` is the answer's, if it was decoded already.
    """
    if answer is None:
        return None, None, gr.Image(visible=False), "", None
    with user_errors():
        token = read_index(token, len(answer.token_texts))
        explanation, values = answer.explanation, answer.maps(view)[token]
        layers = explanation.layers[view]
        layer = read_index(layer, len(layers) + 1)
        if is_one_layer := 0 < layer <= len(layers) > 1:
            values = layers[layer - 1, token]
        text = f"{VIEWS[view].description} "
        text += f"Here: layer {layer} alone. " if is_one_layer else ""
        if view in ("middle", "mean"):
            text += f"{values.sum():.0%} of this token's attention is on the picture. "
        if sinks := explanation.sinks:
            text += f"Attention sinks, high for every token: {', '.join(map(str, sinks[:4]))}."
        shown = ShownMap(answer.path, values, VIEWS[view].unit, answer.model, answer)
        drawing = shown.draw(image or open_for_page(answer.path), opacity)
        return shown, drawing, shown.legend(), text, contact_sheet(heads_of(explanation, token))


def heads_of(explanation: Explanation, token: int) -> np.ndarray:
    """[layers, heads, grid, grid] of one token."""
    return explanation.heads[:, :, token]


def change_opacity(shown: ShownMap | None, opacity: float) -> Image.Image | None:
    with user_errors():
        return shown and shown.draw(open_for_page(shown.path), opacity)


def show_head(
    answer: ExplainedAnswer | None, token: int | None, opacity: float, click: gr.SelectData
) -> tuple:
    """The head that was clicked in the contact sheet: ShownMap, drawing, legend, description."""
    if answer is None:
        return None, None, gr.Image(visible=False), ""
    with user_errors():
        token = read_index(token, len(answer.token_texts))
    heads = heads_of(answer.explanation, token)
    cell = sheet_cell(*click.index, *heads.shape[:2])
    if cell is None:
        return (gr.skip(),) * 4
    with user_errors():
        shown = ShownMap(answer.path, heads[cell], VIEWS["mean"].unit, answer.model, answer)
        text = f"Layer {cell[0] + 1}, head {cell[1] + 1} alone."
        return shown, shown.draw(open_for_page(answer.path), opacity), shown.legend(), text


def tokens_at_patch(shown: ShownMap | None, view: str, click: gr.SelectData) -> str:
    """The tokens of the answer that attend most to the clicked patch, as HTML."""
    if shown is None or shown.answer is None:
        return ""
    answer = shown.answer
    with user_errors():
        row, column = shown.patch(click)
        answer.maps(view)
    ranked = answer.explanation.rank_tokens(view, row, column)[:LISTED_TOKENS]
    items = "".join(
        f"<li><code>{escape(visible(answer.token_texts[token]))}</code> {value:.2g}</li>"
        for token, value in ranked
    )
    title = f"Row {row + 1}, column {column + 1}: tokens by value here ({VIEWS[view].unit})"
    return f"<p>{escape(title)}</p><ol>{items}</ol>"


def draw_answer(answer: ExplainedAnswer | None, view: str, opacity: float) -> Iterator[Any]:
    """The animation and the strip of the whole answer, and the attention between its tokens."""
    with user_errors(), TemporaryDirectory() as folder:
        if answer is None:
            raise ValueError("There is no answer yet: press Show attention first.")
        image = resize_for_display(open_for_page(answer.path))
        opacity = read_number(opacity, 0, 1, "Opacity")
        maps, texts = answer.maps(view)[:MAX_FRAMES], answer.token_texts[:MAX_FRAMES]
        animation = Path(folder) / "answer.gif"
        animation.write_bytes(to_gif(token_frames(image, maps, texts, opacity)))
        strip = token_strip(image, maps, texts, opacity, VIEWS[view].unit)
        explanation = answer.explanation
        matrix = token_matrix(explanation.between_tokens, explanation.positions)
        yield (
            gr.Image(str(animation), visible=True),
            gr.Image(strip, visible=True),
            gr.Image(matrix, visible=True),
        )
