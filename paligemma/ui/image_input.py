"""The one picture that all tabs ask about: uploaded, pasted, photographed, drawn, or an example."""

import json
from html import escape
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image

from paligemma.images import open_image
from paligemma.tasks import TASKS
from paligemma.ui.common import ASIDE, picture_path, sentences
from paligemma.ui.model_manager import ModelManager

BROWSERS_SHOW = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif"}
INK = ["#e23636", "#f08c1e", "#f5cf27", "#3aa655", "#2f66d0", "#8a45b5", "#ef7fb0", "#7a4a21",
       "#111111", "#ffffff"]  # fmt: skip
PHOTOGRAPH = (
    "This looks like a photograph. The small built-in model only knows drawn scenes such as the "
    "examples, and will answer as if it were one of them. For photographs, load a published "
    "PaliGemma under **Another model**."
)
SMALL = 48  # pixels a side of the copy that is looked at
FEW_COLORS = 0.62  # share of the four commonest: of 1,500 drawn scenes none lies below .64


class PictureColumn:
    """The picture, a canvas, a word about photographs, and the gallery."""

    def __init__(self, examples: list[dict]) -> None:
        self.sources = gr.Tabs(elem_id="sources")
        with self.sources:
            with gr.Tab("Picture", id="picture"):
                self.picture = gr.Image(
                    examples[0]["image"] if examples else None,
                    label="Picture", type="filepath", image_mode=None, height=380,
                    format="png", sources=["upload", "clipboard", "webcam"],
                    buttons=["fullscreen"], elem_id="picture",
                )  # fmt: skip
            with gr.Tab("Draw one", id="draw"):
                self.canvas = gr.Sketchpad(
                    label="Draw: choose the brush first", type="pil", image_mode="RGBA",
                    height=380, canvas_size=(512, 512),
                    brush=gr.Brush(default_size=16, colors=INK, color_mode="fixed"),
                    layers=False, transforms=(), elem_id="canvas",
                )  # fmt: skip
                self.use = gr.Button("Use this drawing", variant="primary")
        self.note = gr.Markdown(elem_classes="note")
        gr.Markdown("**Or press one of these:**", visible=bool(examples))
        with gr.Row(elem_id="examples"):
            names = [f"{TASKS[row['task']].label}: {row['text']}" for row in examples]
            self.cards = [
                gr.Button(name.rstrip(": "), icon=row["image"])
                for name, row in zip(names, examples, strict=True)
            ]

    def wire(self, seat: ModelManager) -> None:
        shown = [self.picture, self.note]
        self.picture.upload(
            lambda picture: check(seat, picture), self.picture, shown, preprocess=False,
            **ASIDE,
        )  # fmt: skip
        drawn = self.use.click(drawing, self.canvas, [*shown, self.sources], **ASIDE)
        self.changed = [self.picture.upload, self.picture.clear, drawn.success]


def load_examples(folder: Path) -> list[dict]:
    """The rows {"image", "task", "text", "tokens"} of prompts.json, images as full paths."""
    listed = folder / "prompts.json"
    rows = json.loads(listed.read_text(encoding="utf-8")) if listed.exists() else []
    return [row | {"image": str(folder / row["image"])} for row in rows]


def check(seat: ModelManager, picture: dict | None) -> tuple:
    """At upload: refuse what cannot be read, redraw what browsers do not show."""
    try:
        path = picture_path(picture)
        image = open_image(path)
    except ValueError as error:
        gr.Warning(escape(str(error), quote=False))
        return None, ""
    shown = gr.skip() if Path(path).suffix.lower() in BROWSERS_SHOW else image
    stranger = seat.current is not None and seat.current.is_built_in and is_photograph(image)
    return shown, PHOTOGRAPH if stranger else ""


def drawing(canvas: dict | None) -> tuple:
    """What was drawn, on white."""
    with sentences():
        image = (canvas or {}).get("composite")
        if image is None or len(open_image(image).getcolors(2) or "many") == 1:
            raise ValueError("Nothing is drawn yet: pick a colour and draw.")
        return open_image(image), "", gr.Tabs(selected="picture")


def is_photograph(image: Image.Image) -> bool:
    """Whether the picture has more colours than a drawing's ground and few things.

    A guess: photographs in few colours, such as those without any, pass for drawings.
    """
    small = image.resize((SMALL, SMALL), Image.Resampling.BOX)
    coarse = np.asarray(small).reshape(-1, 3) // 32
    counts = np.unique(coarse, axis=0, return_counts=True)[1]
    return bool(np.sort(counts)[-4:].sum() < FEW_COLORS * len(coarse))
