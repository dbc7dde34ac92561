"""What was found in a picture: the drawing, the table, sliders that filter it, and the download.

The sliders act on the last answer, without asking the model again.
"""

import io
import json
import zipfile
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import gradio as gr
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from paligemma.detections import Detection, filter_detections
from paligemma.images import open_image
from paligemma.ui.common import ASIDE, INNER, LATEST, fit, sentences
from visualize import color_map, draw_objects, paste_mask
from visualize.export import AnnotatedImage, cutouts, mask_images, to_coco, to_csv

BOX_FILL, MASK_FILL = 0.15, 0.5
SHOWN_CUT_OUTS = 24


@dataclass(frozen=True)
class Objects:
    """The parts of a tab that finds things.

    `found` keeps (path of the picture, detections, masks) of the last complete answer. `fill`,
    `outline` and `cuts` are None where there are no masks.
    """

    seen: gr.AnnotatedImage
    found: gr.State
    least: gr.Slider
    most: gr.Slider
    fill: gr.Slider | None
    outline: gr.Checkbox | None
    table: gr.HTML
    cuts: gr.Gallery | None
    copy: gr.Button
    save: gr.Button
    packed: gr.Textbox

    @property
    def chosen(self) -> list[gr.components.Component]:
        """The inputs of `show_found`."""
        parts = (self.found, self.least, self.most, self.fill, self.outline)
        return [part for part in parts if part]

    @property
    def shown(self) -> list[gr.components.Component]:
        """Its outputs."""
        parts = (self.seen, self.table, self.copy, self.save, self.cuts)
        return [part for part in parts if part]

    def at_rest(self, found: tuple) -> dict:
        """All these parts over a whole answer, the sliders where they start."""
        chosen = [found, 0, 1, *((MASK_FILL, True) if self.fill else ())]
        shown = zip(self.shown, show_found(*chosen), strict=True)
        return dict(zip(self.chosen, chosen, strict=True)) | dict(shown)

    def emptied(self) -> dict:
        """What they become while there is no whole answer; the sliders stay."""
        nothing = show_found(None, 0, 1, *((MASK_FILL, True) if self.fill else ()))
        return {self.found: None} | dict(zip(self.shown, nothing, strict=True))

    def wire(self) -> None:
        sifting = self.chosen[:3]
        gr.on(
            [part.input for part in self.chosen[1:]], show_found, self.chosen, self.shown, **LATEST
        )
        self.save.click(pack, sifting, self.packed, **ASIDE).success(
            None, self.packed, None, js="(zip) => saveZip(zip)", **INNER
        )
        self.copy.click(as_csv, sifting, self.packed, **ASIDE).success(
            None, self.packed, None, js="(csv) => copyText(csv)", **INNER
        )


def objects_panel(seen: gr.AnnotatedImage, has_masks: bool) -> Objects:
    """The parts below the drawing `seen`."""
    fill = outline = cuts = None
    with gr.Row(equal_height=True):
        least = gr.Slider(0, 1, 0, step=0.01, label="Least score", scale=2, min_width=140)
        most = gr.Slider(0, 1, 1, step=0.01, label="Most overlap", scale=2, min_width=140)
        if has_masks:
            fill = gr.Slider(0, 1, MASK_FILL, step=0.05, label="Opacity", scale=2, min_width=140)
            outline = gr.Checkbox(True, label="Outline", scale=1, min_width=100)
    table = gr.HTML(label="What was found")
    with gr.Row():
        copy = gr.Button("Copy the table", interactive=False, size="md", min_width=130)
        save = gr.Button("Download", interactive=False, size="md", min_width=130)
    if has_masks:
        cuts = gr.Gallery(
            label="Cut out", columns=4, height="auto", format="png", object_fit="contain",
            visible=False, elem_classes="cuts", buttons=["fullscreen", "download"],
        )  # fmt: skip
    packed = gr.Textbox(visible=False)
    return Objects(seen, gr.State(), least, most, fill, outline, table, cuts, copy, save, packed)


def annotate(
    image: Image.Image,
    detections: Sequence[Detection],
    masks: Sequence[np.ndarray | None],
    fill: float = MASK_FILL,
    outline: bool = True,
) -> gr.AnnotatedImage:
    """The picture under its objects: a mask where there is one, `fill` opaque, else a box."""
    colors, legend, layers = color_map(found.label for found in detections), {}, []
    for found, mask in zip(detections, masks, strict=True):
        name = found.label or "(no name)"
        name += "" if found.score is None else f" {found.score:.0%}"
        legend[name] = colors[found.label]
        if mask is None:
            area = Image.new("L", image.size)
            ImageDraw.Draw(area).rectangle([round(v) for v in found.xyxy(*image.size)], fill=255)
            layers.append((layer(area, BOX_FILL, True), name))
        else:
            area = Image.fromarray(paste_mask(mask, found.box, *image.size)).convert("L")
            layers.append((layer(area, fill, outline), name))
    return gr.AnnotatedImage((image, layers), color_map=legend)


def layer(area: Image.Image, fill: float, outline: bool) -> np.ndarray:
    """How opaque [height, width], 0…1, an object lies on the picture: its outline wholly."""
    core = area
    if outline:
        core = ImageOps.crop(ImageOps.expand(area, 3).filter(ImageFilter.MinFilter(7)), 3)
    return (np.asarray(area) - (1 - fill) * np.asarray(core)) / 255


def sifted(found: tuple | None, least: float, most: float) -> tuple[Image.Image, AnnotatedImage]:
    """The picture of the last answer, and the detections and masks in it that stay."""
    if found is None:
        raise ValueError("There is no whole answer here yet: run this tab first.")
    path, detections, masks = found
    stay, image = filter_detections(detections, least, most), open_image(path)
    kept = [detections[n] for n in stay], [masks[n] for n in stay]
    return image, AnnotatedImage("picture.png", *image.size, *kept)


def show_found(found: tuple | None, least: float, most: float, *style) -> list:
    """What of the last answer has a score of `least`, and overlaps by `most` at the most.

    `style`: the fill and the outline, where there are masks.
    """
    off, nothing = gr.Button(interactive=False), gr.Gallery([], visible=False)
    if found is None:
        return [None, "", off, off, *([nothing] if style else [])]
    with sentences():
        image, kept = sifted(found, least, most)
    on = gr.Button(interactive=bool(kept.detections))
    seen = annotate(fit(image), kept.detections, kept.masks, *style)
    cuts = [
        (picture, name[3:].removesuffix(".png"))
        for name, picture in (cutouts(image, kept)[:SHOWN_CUT_OUTS] if style else [])
    ]
    hidden = len(found[1]) - len(kept.detections)
    told = f"<p>The sliders hide {hidden} of {len(found[1])}.</p>" if hidden else ""
    return [
        seen,
        table(kept) + told,
        on,
        on,
        *([gr.Gallery(cuts, visible=bool(cuts))] if style else []),
    ]


def table(kept: AnnotatedImage) -> str:
    """The objects as an HTML table, boxes in pixels of the picture."""
    colors = color_map(found.label for found in kept.detections)
    rows = [
        f'<tr><td><i style="background:{colors[found.label]}"></i>{escape(found.label)}</td>'
        f"<td>{'' if found.score is None else f'{found.score:.0%}'}</td>"
        + "".join(f"<td>{edge:.0f}</td>" for edge in found.xyxy(kept.width, kept.height))
        + "</tr>"
        for found in kept.detections
    ]
    heads = "".join(f"<th>{name}</th>" for name in ("thing", "score", "x1", "y1", "x2", "y2"))
    return f'<table class="found"><tr>{heads}</tr>{"".join(rows)}</table>' if rows else ""


def as_csv(found: tuple | None, least: float, most: float) -> str:
    with sentences():
        return to_csv([sifted(found, least, most)[1]])


def pack(found: tuple | None, least: float, most: float) -> str:
    """A zip of what is shown, in base64: drawing, masks, cut-outs, COCO JSON, CSV."""
    with sentences():
        image, kept = sifted(found, least, most)
        drawn = draw_objects(image, kept.detections, kept.masks)
        pictures = [("picture.png", image), ("drawn.png", drawn)]
        pictures += [(f"masks/{name}", mask) for name, mask in mask_images(kept)]
        pictures += [(f"cutouts/{name}", cut) for name, cut in cutouts(image, kept)]
        whole = io.BytesIO()
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("coco.json", json.dumps(to_coco([kept])))
            archive.writestr("objects.csv", to_csv([kept]))
            for name, picture in pictures:
                with archive.open(name, "w") as file:
                    picture.save(file, "PNG")
        return b64encode(whole.getvalue()).decode("ascii")
