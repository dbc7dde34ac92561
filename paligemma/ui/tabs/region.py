"""A part of the picture: two clicks make a box; what is in it, or the question to an answer.

The box can be written too, for whoever has no mouse; what is written is what is asked about.
"""

import re
from collections.abc import Iterator
from contextlib import closing
from functools import partial

import gradio as gr
from PIL import Image, ImageDraw

from paligemma.detections import Box, Detection, format_box, snap
from paligemma.images import open_image
from paligemma.tasks import QUESTION, REGION
from paligemma.ui.common import (
    ASIDE,
    LATEST,
    QUICK,
    WAITING,
    Page,
    clock,
    fit,
    picture_path,
    sampling,
    sentences,
)
from paligemma.ui.tabs.task import EMPTY, language_picker
from visualize import draw_boxes

WAYS = [("What is in the box?", "region"), ("Which question has this answer?", "question")]
CLICK = "Click two opposite corners of a box in the picture."
SMALLEST = 0.01  # of a side: a box thinner than that was a slip
NUMBER = re.compile(r"(?<!\d)-?\d+(?:\.\d*)?")  # 10-20 are two numbers, neither below 0
Corner = tuple[float, float]


class RegionTab:
    def __init__(self, page: Page) -> None:
        with gr.Tab("Region", id="region"):
            self.way = gr.Radio(WAYS, value="region", label="Ask", show_label=False)
            self.area = gr.Image(
                label=CLICK, format="png", interactive=False, height=420, elem_id="area",
                buttons=[],
            )  # fmt: skip
            self.box = gr.Textbox(
                label="The box: left, top, right, bottom, in per cent", max_lines=1,
                placeholder="click above, or write: 10, 20, 60, 80",
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
            self.first = gr.State()

    @property
    def in_address(self) -> dict[str, gr.components.Component]:
        """What the address bar keeps, by its name there."""
        parts = {"way": self.way, "reply": self.reply, "language": self.language}
        return {"region": self.box} | {f"region.{name}": part for name, part in parts.items()}

    def wire(self, page: Page) -> None:
        shown, boxed = [self.area, self.first, self.box], [page.picture, self.box]
        page.picture.change(begin, boxed, shown[:2], preprocess=False, **ASIDE)
        self.area.select(corner, [page.picture, self.first], shown, preprocess=False, **ASIDE)
        self.box.input(begin, boxed, shown[:2], preprocess=False, **LATEST)
        of = ("region", "region", "question", "question")
        self.way.change(
            lambda way: [gr.update(visible=(way == each)) for each in of],
            self.way, [self.area, self.box, self.reply, self.note], **QUICK,
        )  # fmt: skip
        named = {"picture": page.picture, "box": self.box, "way": self.way}
        named |= {"reply": self.reply, "language": self.language} | page.settings
        outputs = [self.raw, page.last, self.line]
        for text in self.box, self.reply:
            page.on_enter(text, "region")
        page.run("region", self.go, partial(tell, page), named, outputs)


def begin(picture: dict | None, box: str) -> tuple:
    """The picture under the box, as far as it is written, and no corner clicked yet."""
    try:
        open_image(picture_path(picture))
    except ValueError:  # said already, where it was uploaded
        return None, None
    return outline(picture, box), None


def corner(picture: dict | None, first: Corner | None, where: gr.SelectData) -> tuple:
    """A click: the first corner of a new box, or the second, which makes it whole."""
    with sentences():
        image = fit(open_image(picture_path(picture)))
    x, y = where.index
    clicked = (min(x / image.width, 1.0), min(y / image.height, 1.0))
    if first is None:
        return dot(image, clicked), clicked, ""
    box = ", ".join(f"{100 * edge:.1f}" for edge in between(first, clicked))
    return outline(picture, box), None, box


def dot(image: Image.Image, at: Corner) -> Image.Image:
    canvas, radius = image.copy(), 10
    x, y = at[0] * image.width, at[1] * image.height
    around = (x - radius, y - radius, x + radius, y + radius)
    ImageDraw.Draw(canvas).ellipse(around, fill="#ffb95f", outline="#4a1f00", width=3)
    return canvas


def outline(picture: dict | None, words: str) -> Image.Image:
    """The picture under the box, as far as it is written."""
    with sentences():
        image = fit(open_image(picture_path(picture)))
    try:
        return draw_boxes(image, [Detection("", read_box(words))])
    except ValueError:
        return image


def between(one: Corner, other: Corner) -> Box:
    """The box of two opposite corners, in any order."""
    (x1, x2), (y1, y2) = (sorted(sides) for sides in zip(one, other, strict=True))
    return x1, y1, x2, y2


def read_box(words: str | None) -> Box:
    """A box as it is written, in per cent; ValueError where it is none."""
    edges = [float(number) / 100 for number in NUMBER.findall(str(words or ""))]
    if len(edges) != 4:
        raise ValueError(f"There is no box yet. {CLICK} Or write it: 10, 20, 60, 80.")
    if not all(0 <= edge <= 1 for edge in edges):
        raise ValueError("A box lies within the picture: its edges are 0 to 100 per cent.")
    x1, y1, x2, y2 = between(tuple(edges[:2]), tuple(edges[2:]))
    if min(x2 - x1, y2 - y1) < SMALLEST:
        raise ValueError("That box is too thin to hold anything: give two opposite corners.")
    return x1, y1, x2, y2


def tell(
    page: Page, picture: dict | None, box: str, way: str, reply: str, language: str, **options
) -> Iterator[tuple]:
    """Stream what is in the box, or the question to `reply`."""
    with sentences():
        image, options = open_image(picture_path(picture)), sampling(**options)
        if way == "region":
            edges = snap(read_box(box), page.seat.current.resolution)
            prompt = REGION.prompt(format_box(edges), language)
        else:
            prompt = QUESTION.prompt(str(reply or ""), language)
        yield "", gr.skip(), WAITING
        with closing(page.seat.current.stream(image, prompt, options)) as replies:
            for said in replies:
                yield said.text, gr.skip(), f"{clock(said)}…"
        verdict = "Done." if said.text.strip() else EMPTY["text"]
        last = prompt, [token.text for token in said.tokens]
        yield said.text, last, f"{verdict} {clock(said)}"
