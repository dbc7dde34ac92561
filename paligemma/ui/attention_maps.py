"""The attention maps of an answer as the Attention tab shows them; nothing here calls the model."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary, ref

import gradio as gr
import numpy as np
from PIL import Image

from paligemma.images import read_size
from paligemma.interpret.explain import VIEWS, Explanation
from paligemma.pipeline import PaliGemma
from paligemma.ui.common import (
    display_size,
    drop_oldest,
    open_for_page,
    resize_for_display,
)
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
MAX_EXPLANATION_BYTES = 10**9  # of all sessions' answers together
DROPPED = "These attention maps are no longer in memory: press Show attention again."
MAX_FRAMES = 60  # tokens of an answer in the animation and the strip
MAX_POSITIONS = 120  # rows and columns of the attention between tokens
LISTED_TOKENS = 6  # at a clicked patch
LEGEND_WIDTH = 320  # pixels


class ExplanationStore:
    """The explanations of the answers of all sessions, within a number of bytes.

    An explanation is dropped with its answer, by whoever has that, and before, where there are too
    many bytes: those first that were not used for longest.
    """

    def __init__(self, max_bytes: int = MAX_EXPLANATION_BYTES) -> None:
        self.max_bytes = max_bytes
        self._explanations: WeakKeyDictionary[ExplainedAnswer, Explanation] = WeakKeyDictionary()
        self._lock = Lock()

    def put(self, answer: "ExplainedAnswer", explanation: Explanation) -> None:
        with self._lock:
            self._explanations.pop(answer, None)
            self._explanations[answer] = explanation
            drop_oldest(self._explanations, self.max_bytes, lambda held: held.num_bytes)

    def get(self, answer: "ExplainedAnswer") -> Explanation:
        """Raises ValueError if it was dropped."""
        with self._lock:
            if (explanation := self._explanations.pop(answer, None)) is None:
                raise ValueError(DROPPED)
            self._explanations[answer] = explanation  # as the newest
            return explanation


@dataclass(frozen=True, eq=False)
class ExplainedAnswer:
    """An answer whose explanation is in a store, the path of the image, and the answer's model."""

    path: str
    prompt: str
    model: ref[PaliGemma]
    store: ExplanationStore

    @property
    def explanation(self) -> Explanation:
        """Raises ValueError if it was dropped."""
        return self.store.get(self)

    @property
    def token_texts(self) -> list[str]:
        return [token.text for token in self.explanation.reply.tokens]

    def maps(self, view: str) -> np.ndarray:
        """[tokens, grid, grid]; raises ValueError if the view was not computed, or is dropped."""
        maps = self.explanation.maps
        if read_choice(view, list(VIEW_NAMES), "A view") not in maps:
            raise ValueError(f"“{VIEW_NAMES[view]}” is not computed yet: choose another view.")
        return maps[view]


@dataclass(frozen=True)
class ShownMap:
    """A map [grid, grid] over an image; `answer` is None for the map of a word.

    The image is read again when it is drawn, and `values` are no part of a larger array: either
    would fill the memory of every session.
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
    if answer is None and token is not None:
        raise ValueError(DROPPED)  # with the session's State
    if answer is None:
        return None, None, gr.Image(visible=False), "", None
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
    shown = ShownMap(answer.path, values.copy(), VIEWS[view].unit, answer.model, answer)
    drawing = shown.draw(image or open_for_page(answer.path), opacity)
    heads = contact_sheet(explanation.heads[:, :, token])
    return shown, drawing, shown.legend(), text, heads


def change_opacity(shown: ShownMap | None, opacity: float) -> Image.Image | None:
    return shown and shown.draw(open_for_page(shown.path), opacity)


def show_head(
    answer: ExplainedAnswer | None, token: int | None, opacity: float, click: gr.SelectData
) -> tuple:
    """The head that was clicked in the contact sheet: ShownMap, drawing, legend, description."""
    if answer is None:
        raise ValueError(DROPPED)
    token = read_index(token, len(answer.token_texts))
    heads = answer.explanation.heads[:, :, token]
    cell = sheet_cell(*click.index, *heads.shape[:2])
    if cell is None:
        return (gr.skip(),) * 4
    values = heads[cell].copy()
    shown = ShownMap(answer.path, values, VIEWS["mean"].unit, answer.model, answer)
    text = f"Layer {cell[0] + 1}, head {cell[1] + 1} alone."
    return shown, shown.draw(open_for_page(answer.path), opacity), shown.legend(), text


def tokens_at_patch(shown: ShownMap | None, view: str, click: gr.SelectData) -> str:
    """The tokens of the answer that attend most to the clicked patch, as HTML."""
    if shown is None:
        raise ValueError(DROPPED)
    if (answer := shown.answer) is None:
        return ""
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
    with TemporaryDirectory() as folder:
        if answer is None:
            raise ValueError("There is no answer yet: press Show attention first.")
        image = resize_for_display(open_for_page(answer.path))
        opacity = read_number(opacity, 0, 1, "Opacity")
        maps, texts = answer.maps(view)[:MAX_FRAMES], answer.token_texts[:MAX_FRAMES]
        animation = Path(folder) / "answer.gif"
        animation.write_bytes(to_gif(token_frames(image, maps, texts, opacity)))
        strip = token_strip(image, maps, texts, opacity, VIEWS[view].unit)
        explanation = answer.explanation
        positions = explanation.positions[:MAX_POSITIONS]
        between = explanation.between_tokens[: len(positions), : len(positions)]
        matrix = token_matrix(between, positions)
        yield (
            gr.Image(str(animation), visible=True),
            gr.Image(strip, visible=True),
            gr.Image(matrix, visible=True),
        )
