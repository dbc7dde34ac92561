"""A part of the picture: two clicks make a box; what is in it, or the question to an answer."""

from collections.abc import Iterator
from contextlib import closing
from functools import partial

import gradio as gr
from PIL import Image, ImageDraw

from paligemma.objects import Box, Detection, format_box, snap
from paligemma.page.asking import EMPTY, language_picker
from paligemma.page.frame import QUICK, WAITING, Page, clock, fit, picture_path, sentences
from paligemma.pipeline import SamplingOptions, open_image
from paligemma.tasks import QUESTION, REGION
from visualize import draw_boxes

WAYS = [("What is in the box?", "region"), ("Which question has this answer?", "question")]
CLICK = "Click two opposite corners of a box in the picture."
SMALLEST = 0.01  # of a side: a box thinner than that was a slip
Corner = tuple[float, float]


class RegionTab:
    def __init__(self, page: Page) -> None:
        with gr.Tab("Region", id="region"):
            self.way = gr.Radio(WAYS, value="region", label="Ask", show_label=False)
            self.area = gr.Image(
                label=CLICK, format="png", interactive=False, height=420, elem_id="area",
                buttons=[],
            )  # fmt: skip
            self.reply = gr.Textbox(
                label="The answer whose question is wanted", visible=False, max_lines=3,
                placeholder="for example: two",
            )  # fmt: skip
            self.note = gr.Markdown(
                "The built-in model never learned to ask questions: this needs a published one.",
                visible=False, elem_classes="note",
            )  # fmt: skip
            self.language = language_picker()
            self.go, _, self.line = page.buttons("Tell", "region")
            self.raw = gr.Textbox(
                label="The model's words", lines=2, interactive=False, elem_classes=["raw", "text"],
            )  # fmt: skip
            self.corners = gr.State([])

    def wire(self, page: Page) -> None:
        shown = [self.area, self.corners]
        page.picture.change(begin, page.picture, shown, preprocess=False, **QUICK)
        self.area.select(corner, [page.picture, self.corners], shown, preprocess=False, **QUICK)
        of = ("region", "question", "question")
        self.way.change(
            lambda way: [gr.update(visible=(way == each)) for each in of],
            self.way, [self.area, self.reply, self.note], **QUICK,
        )  # fmt: skip
        named = {"picture": page.picture, "corners": self.corners, "way": self.way}
        named |= {"reply": self.reply, "language": self.language} | page.settings
        outputs = [self.raw, page.last, self.line]
        events = [self.go.click, self.reply.submit]
        page.run("region", events, partial(tell, page), named, outputs)


def begin(picture: dict | None) -> tuple:
    """A new picture: no corners yet."""
    try:
        return fit(open_image(picture_path(picture))), []
    except ValueError:  # said already, where it was uploaded
        return None, []


def corner(picture: dict | None, corners: list[Corner], where: gr.SelectData) -> tuple:
    """One more click; a third one begins a new box."""
    with sentences():
        image = fit(open_image(picture_path(picture)))
        x, y = where.index
        clicked = (min(x / image.width, 1.0), min(y / image.height, 1.0))
        corners = [*corners, clicked] if len(corners) == 1 else [clicked]
        return mark(image, corners), corners


def mark(image: Image.Image, corners: list[Corner]) -> Image.Image:
    """The picture with its first corner, or with the whole box."""
    if len(corners) == 2:
        return draw_boxes(image, [Detection("", box_of(corners))])
    canvas, radius = image.copy(), 10
    for x, y in corners:
        x, y = x * image.width, y * image.height
        dot = (x - radius, y - radius, x + radius, y + radius)
        ImageDraw.Draw(canvas).ellipse(dot, fill="#ffb95f", outline="#4a1f00", width=3)
    return canvas


def box_of(corners: list[Corner]) -> Box:
    """Two opposite corners, in any order -> a box; ValueError where they are not two."""
    if len(corners) != 2:
        raise ValueError(f"There is no box yet. {CLICK}")
    (x1, x2), (y1, y2) = (sorted(sides) for sides in zip(*corners, strict=True))
    if min(x2 - x1, y2 - y1) < SMALLEST:
        raise ValueError("That box is too thin to hold anything: click two opposite corners.")
    return x1, y1, x2, y2


def tell(
    page: Page, picture: dict | None, corners: list, way: str, reply: str, language: str, **options
) -> Iterator[tuple]:
    """Stream what is in the box, or the question to `reply`."""
    with sentences():
        image, options = open_image(picture_path(picture)), SamplingOptions(**options)
        if way == "region":
            box = snap(box_of(corners), page.seat.pg.resolution)
            prompt = REGION.prompt(format_box(box), language)
        else:
            prompt = QUESTION.prompt(str(reply or ""), language)
        yield "", gr.skip(), WAITING
        with closing(page.seat.pg.stream(image, prompt, options)) as replies:
            for said in replies:
                yield said.text, gr.skip(), f"{clock(said)}…"
        verdict = "Done." if said.text.strip() else EMPTY["text"]
        last = prompt, [token.text for token in said.tokens]
        yield said.text, last, f"{verdict} {clock(said)}"
