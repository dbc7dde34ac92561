"""How it works: the loaded model as a drawing, the last request token by token, and its mask."""

from functools import partial
from pathlib import Path

import gradio as gr

from paligemma.interpret.anatomy import model_components, request_mask, request_tokens
from paligemma.ui.common import QUICK, Page, sentences
from paligemma.ui.model_manager import ModelManager
from visualize.anatomy import draw_attention_mask, draw_model, draw_tokens

SOURCES = Path(__file__).parents[2]
FIRST = "models/siglip.py"
NOTE = """**The last request, token by token.** Ask something in another tab and come back. Image
and prompt see each other in both directions; the answer sees them, and itself up to where it is.
"""


class InsideTab:
    def __init__(self, page: Page) -> None:
        with gr.Tab("How it works", id="inside") as self.tab:
            with gr.Row():
                with gr.Column(scale=1, min_width=420):
                    gr.Markdown("**The model that answers now.** Press a part to read its source.")
                    self.drawing = gr.HTML(
                        js_on_load="openSourceOnClick(element, trigger)", elem_id="anatomy"
                    )
                with gr.Column(scale=1, min_width=420):
                    gr.Markdown(NOTE)
                    self.strip = gr.HTML(elem_id="strip")
                    self.mask = gr.Image(
                        label="Its mask: a row looks, a column is seen",
                        interactive=False, visible=False, buttons=["fullscreen"], format="png",
                        elem_id="mask",
                    )  # fmt: skip
            self.code = gr.Code(
                read(FIRST), language="python", label=f"paligemma/{FIRST}", interactive=False,
                max_lines=40, elem_id="source",
            )  # fmt: skip

    def wire(self, page: Page) -> None:
        shown = [self.drawing, self.strip, self.mask]
        self.tab.select(partial(show, page.seat), page.last, shown, **QUICK)
        self.drawing.click(open_source, None, self.code, **QUICK)


def show(seat: ModelManager, last: tuple[str, list[str]] | None) -> tuple:
    """The model, and the strip and the mask of the last request."""
    pg = seat.current
    if pg is None:
        return "Another model is being loaded.", "", gr.Image(visible=False)
    drawing = draw_model(model_components(pg.config))
    if last is None:
        return drawing, "Nothing was asked yet.", gr.Image(visible=False)
    with sentences():
        tokens = request_tokens(pg.processor, *last)
    mask, kinds = request_mask([kind for kind, _ in tokens])
    return drawing, draw_tokens(tokens), gr.Image(draw_attention_mask(mask, kinds), visible=True)


def open_source(event: gr.EventData) -> gr.Code:
    """The file behind the pressed part."""
    file = getattr(event, "file", None)
    if file not in {path.relative_to(SOURCES).as_posix() for path in SOURCES.rglob("*.py")}:
        return gr.skip()
    return gr.Code(read(file), label=f"paligemma/{file}")


def read(file: str) -> str:
    return (SOURCES / file).read_text(encoding="utf-8")
