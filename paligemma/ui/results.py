"""The objects of an answer: the drawing, the table, sliders that filter it, and the download.

The sliders act on the last answer; they do not call the model.
"""

import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from html import escape
from itertools import islice
from pathlib import Path
from reprlib import repr as short_repr
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from paligemma.detections import Detection, filter_detections
from paligemma.images import full_size, open_image, read_size
from paligemma.ui.common import (
    FULL_SIZE,
    LATEST,
    PARALLEL,
    PRIVATE,
    open_for_page,
    resize_for_display,
)
from paligemma.ui.inputs import read_number
from paligemma.ui.page import Component, Updates
from visualize import color_map, draw_objects, object_layers
from visualize.export import AnnotatedImage, cutouts, mask_images, to_coco, to_csv
from visualize.masks import MASK_OPACITY

MAX_CUTOUTS = 24  # shown on the page; the download has all


@dataclass(frozen=True)
class DisplayOptions:
    """Which objects are shown, and how masks are drawn; the last two are for masks only.

    Raises ValueError for values that the sliders cannot have.
    """

    min_score: float = 0.0
    max_iou: float = 1.0
    opacity: float = MASK_OPACITY
    outline: bool = True

    def __post_init__(self):
        for name in ("min_score", "max_iou", "opacity"):
            read_number(getattr(self, name), 0, 1, name)
        if not isinstance(self.outline, bool):
            raise ValueError(f"outline is true or false, not {short_repr(self.outline)}.")

    @classmethod
    def of(cls, *values) -> "DisplayOptions":
        """The options of the components' values, in order; a cleared field has its default."""
        names = [field.name for field in fields(cls)]
        chosen = zip(names, values, strict=False)
        return cls(**{name: value for name, value in chosen if value is not None})


@dataclass(frozen=True)
class AnswerObjects:
    """The objects of a whole answer, the path of its image, and how they were drawn first.

    `score_meaning` says what their scores are.
    """

    path: str
    detections: Sequence[Detection]
    masks: Sequence[np.ndarray | None]
    score_meaning: str
    display: DisplayOptions = DisplayOptions()

    def filtered(self, size: tuple[int, int], display: DisplayOptions) -> AnnotatedImage:
        """The objects that the sliders let through, in an image of that width and height."""
        indices = filter_detections(self.detections, display.min_score, display.max_iou)
        return AnnotatedImage(
            "image.png",
            *size,
            [self.detections[index] for index in indices],
            [self.masks[index] for index in indices],
        )


class ObjectsPanel:
    """The components below the drawing: sliders, table and buttons, and cutouts of masks.

    `answer` is the State of the last whole answer's AnswerObjects.
    """

    def __init__(self, drawing: gr.AnnotatedImage, has_masks: bool) -> None:
        self.drawing, self.answer = drawing, gr.State()
        self.cutouts: gr.Gallery | None = None
        default = DisplayOptions()
        fine: dict[str, Any] = {"step": 0.01, "min_width": 140}
        self.display: dict[str, Any] = {}  # the components of DisplayOptions, by name
        with gr.Row():
            self.display["min_score"] = gr.Slider(
                0, 1, default.min_score, label="Minimum confidence", **fine
            )
            self.display["max_iou"] = gr.Slider(
                0, 1, default.max_iou, label="Maximum overlap", **fine
            )
        if has_masks:
            with gr.Row(equal_height=True):
                self.display["opacity"] = gr.Slider(
                    0, 1, default.opacity, step=0.05, label="Opacity", min_width=140
                )
                self.display["outline"] = gr.Checkbox(
                    default.outline, label="Outline", min_width=140
                )
        self.table = gr.HTML(label="Objects")
        with gr.Row():
            self.copy = gr.Button("Copy table", interactive=False, size="md", min_width=130)
            self.save = gr.Button("Download", interactive=False, size="md", min_width=130)
        if has_masks:
            self.cutouts = gr.Gallery(
                label="Cutouts",
                columns=4,
                height="auto",
                format="png",
                object_fit="contain",
                visible=False,
                elem_classes="cutouts",
                buttons=["fullscreen", "download"],
            )
        self.csv = gr.Textbox(visible=False)
        self.zip = gr.File(visible=False)

    @property
    def shown(self) -> list[Component]:
        """What a slider changes."""
        shown = [self.drawing, self.table, self.copy, self.save]
        return [*shown, self.cutouts] if self.cutouts else shown

    @property
    def outputs(self) -> list[Component]:
        return [self.answer, *self.shown]

    def wire(self) -> None:
        inputs = [self.answer, *self.display.values()]
        sliders = [component.input for component in self.display.values()]
        gr.on(sliders, self.redraw, inputs, self.shown, **LATEST)
        for button, pack, packed, js in (
            (self.save, objects_zip, self.zip, "(zip) => saveFile(zip.url, 'objects.zip')"),
            (self.copy, objects_csv, self.csv, "(csv) => copyText(csv)"),
        ):
            done = button.click(pack, inputs, packed, **PARALLEL)
            done.success(None, packed, None, js=js, **PRIVATE)

    def redraw_after(self, run) -> None:
        """Redraw after the event `run` if a slider was moved meanwhile."""
        inputs = [self.answer, *self.display.values()]
        run.success(self._redraw_if_moved, inputs, self.shown, **PARALLEL)

    def show(self, image: Image.Image, answer: AnswerObjects) -> Updates:
        """The outputs for a whole answer about `image`."""
        shown = self._show(image, answer, answer.display)
        return {self.answer: answer} | dict(zip(self.shown, shown, strict=True))

    def reset(self) -> Updates:
        """The outputs without an answer; the sliders stay."""
        disabled = gr.Button(interactive=False)
        nothing = [None, "", disabled, disabled, gr.Gallery([], visible=False)]
        return {self.answer: None} | dict(zip(self.shown, nothing, strict=False))

    def reset_display(self) -> Updates:
        """The sliders at their defaults."""
        return {part: getattr(DisplayOptions(), name) for name, part in self.display.items()}

    def redraw(self, answer: AnswerObjects | None, *display) -> list:
        """The last answer as the sliders are now; while there is none, nothing changes."""
        if answer is None:
            return [gr.skip()] * len(self.shown)
        return self._show(open_for_page(answer.path), answer, DisplayOptions.of(*display))

    def _redraw_if_moved(self, answer: AnswerObjects | None, *display) -> list:
        if answer is None or answer.display == DisplayOptions.of(*display):
            return [gr.skip()] * len(self.shown)
        return self.redraw(answer, *display)

    def _show(self, image: Image.Image, answer: AnswerObjects, display: DisplayOptions) -> list:
        objects = answer.filtered(full_size(image), display)
        drawing = annotated_image(
            resize_for_display(image), objects.detections, objects.masks, display
        )
        hidden = len(answer.detections) - len(objects.detections)
        note = f"<p>The sliders hide {hidden} of {len(answer.detections)}.</p>" if hidden else ""
        button = gr.Button(interactive=bool(objects.detections))
        shown = [drawing, objects_table(objects, answer.score_meaning) + note, button, button]
        if self.cutouts:
            reduced = answer.filtered(image.size, display)
            cuts = [
                (picture, name[3:].removesuffix(".png"))
                for name, picture in islice(cutouts(image, reduced), MAX_CUTOUTS)
            ]
            shown.append(gr.Gallery(cuts, visible=bool(cuts)))
        return shown


def annotated_image(
    image: Image.Image,
    detections: Sequence[Detection],
    masks: Sequence[np.ndarray | None],
    display: DisplayOptions,
) -> gr.AnnotatedImage:
    """The image under a layer for each object, with a legend of their labels."""
    colors, legend, names = color_map(each.label for each in detections), {}, []
    for detection in detections:
        name = detection.label or "(no name)"
        name += "" if detection.score is None else f" {detection.score:.0%}"
        legend[name] = colors[detection.label]
        names.append(name)
    layers = object_layers(image.size, detections, masks, display.opacity, display.outline)
    return gr.AnnotatedImage((image, list(zip(layers, names, strict=True))), color_map=legend)


def objects_table(objects: AnnotatedImage, score_meaning: str) -> str:
    """The objects as an HTML table, boxes in pixels of the image, and what their scores are."""
    colors = color_map(each.label for each in objects.detections)
    rows = [
        f'<tr><td><i style="background:{colors[each.label]}"></i>{_label(each)}</td>'
        f"<td>{'' if each.score is None else f'{each.score:.0%}'}</td>"
        + "".join(f"<td>{edge:.0f}</td>" for edge in each.xyxy(objects.width, objects.height))
        + "</tr>"
        for each in objects.detections
    ]
    names = ("object", "confidence", "x1", "y1", "x2", "y2")
    heads = "".join(f"<th>{name}</th>" for name in names)
    if not rows:
        return ""
    caption = f"<caption>{escape(score_meaning, quote=False)}</caption>"
    return f'<table class="objects">{caption}<tr>{heads}</tr>{"".join(rows)}</table>'


def _label(detection: Detection) -> str:
    """A label as a button that segments such objects, as a click into its box in the drawing."""
    if not (name := escape(detection.label)):
        return ""
    box = " ".join(f"{edge:.4f}" for edge in detection.box)
    data = f'data-name="{name}" data-box="{box}"'
    return f'<button class="segment" title="Segment" {data}>{name}</button>'


def objects_csv(answer: AnswerObjects | None, *display) -> str:
    """The objects that are shown, as CSV."""
    with FULL_SIZE:
        answer = _complete(answer)
        return to_csv([answer.filtered(read_size(answer.path), DisplayOptions.of(*display))])


def objects_zip(answer: AnswerObjects | None, *display) -> Iterator[str]:
    """The path of a zip of what is shown: drawing, masks, cutouts, COCO JSON, CSV."""
    answer, options = _complete(answer), DisplayOptions.of(*display)
    with TemporaryDirectory() as folder:
        packed = Path(folder) / "objects.zip"
        with FULL_SIZE:
            image = open_image(answer.path)
            objects = answer.filtered(image.size, options)
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("coco.json", json.dumps(to_coco([objects])))
                archive.writestr("objects.csv", to_csv([objects]))
                for name, picture in _pictures(image, objects, options):
                    with archive.open(name, "w") as file:
                        picture.save(file, "PNG")
        yield str(packed)  # gradio copies it, and serves the copy


def _pictures(
    image: Image.Image, objects: AnnotatedImage, options: DisplayOptions
) -> Iterator[tuple[str, Image.Image]]:
    """Names and pictures for the download, one at a time in memory."""
    yield "image.png", image
    yield (
        "drawing.png",
        draw_objects(image, objects.detections, objects.masks, options.opacity, options.outline),
    )
    for name, mask in mask_images(objects):
        yield f"masks/{name}", mask
    for name, cutout in cutouts(image, objects):
        yield f"cutouts/{name}", cutout


def _complete(answer: AnswerObjects | None) -> AnswerObjects:
    if answer is None:
        raise ValueError("There is no complete answer here yet: run this tab first.")
    return answer
