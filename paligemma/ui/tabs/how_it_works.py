"""How it works: the model as a diagram, the last request token by token, and its mask."""

from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from paligemma.interpret.anatomy import model_components, request_mask, request_tokens
from paligemma.ui.common import UNQUEUED
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.page import Component, LastRequest, Page, Updates
from visualize.anatomy import draw_attention_mask, draw_model, draw_tokens

PACKAGE = Path(__file__).parents[2]
FIRST_FILE = "models/siglip.py"
NO_REQUEST = "There was no request yet."
OTHER_MODEL = "Another model was loaded: open this tab again."
NOTE = """**The last request, token by token.** Run another tab, then come back. Image and prompt
attend to each other in both directions; the answer attends to them and to its own earlier tokens.
"""


class HowItWorksTab:
    key = "how-it-works"

    def __init__(self, page: Page) -> None:
        with gr.Tab("How it works", id=self.key, elem_id=f"tab-{self.key}") as self.container:
            with gr.Row():
                with gr.Column(scale=1, min_width=420):
                    gr.Markdown("**The current model.** Press a part to read its source.")
                    self.diagram = gr.HTML(
                        js_on_load="openSourceOnClick(element, trigger)", elem_id="model-diagram"
                    )
                with gr.Column(scale=1, min_width=420):
                    gr.Markdown(NOTE)
                    self.tokens = gr.HTML(elem_id="sequence")
                    self.mask = gr.Image(
                        label="Attention mask: rows are queries, columns are keys",
                        interactive=False,
                        visible=False,
                        buttons=["fullscreen"],
                        format="png",
                        elem_id="attention-mask",
                    )
            self.code = gr.Code(
                read_source(FIRST_FILE),
                language="python",
                label=f"paligemma/{FIRST_FILE}",
                interactive=False,
                max_lines=40,
                elem_id="source",
            )

    @property
    def url_params(self) -> dict[str, Component]:
        return {}

    @property
    def outputs(self) -> list[Component]:
        return [self.tokens, self.mask]

    def reset(self) -> Updates:
        return {self.tokens: NO_REQUEST, self.mask: gr.Image(visible=False)}

    def wire(self, page: Page) -> None:
        shown = [self.diagram, self.tokens, self.mask]
        self.container.select(
            partial(show_model, page.models), page.last_request, shown, **UNQUEUED
        )
        self.diagram.click(open_source, None, self.code, **UNQUEUED)


def show_model(models: ModelManager, last_request: LastRequest | None) -> tuple:
    """The model's diagram, and the tokens and the mask of the last request."""
    model = models.current
    if model is None:
        return "Another model is being loaded.", "", gr.Image(visible=False)
    diagram = draw_model(model_components(model.config))
    if last_request is None:
        return diagram, NO_REQUEST, gr.Image(visible=False)
    tokens = request_tokens(model.processor, *last_request)
    mask, kinds = request_mask([kind for kind, _ in tokens])
    return diagram, draw_tokens(tokens), gr.Image(draw_attention_mask(mask, kinds), visible=True)


def open_source(event: gr.EventData) -> Any:
    """The file behind the part that was pressed."""
    file = getattr(event, "file", None)
    if not isinstance(file, str) or file not in {
        path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")
    }:
        return gr.skip()
    return gr.Code(read_source(file), label=f"paligemma/{file}")


def read_source(file: str) -> str:
    return (PACKAGE / file).read_text(encoding="utf-8")
