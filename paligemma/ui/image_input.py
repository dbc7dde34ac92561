"""The image that all tabs use: uploaded, pasted, photographed, drawn, or an example."""

import json
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image

from paligemma.images import open_image
from paligemma.tasks import TASKS
from paligemma.ui.common import PARALLEL, upload_path, user_errors
from paligemma.ui.model_manager import ModelManager

BROWSER_FORMATS = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif"}
BRUSH_COLORS: list[str | tuple[str, float]] = [
    *("#e23636", "#f08c1e", "#f5cf27", "#3aa655", "#2f66d0"),
    *("#8a45b5", "#ef7fb0", "#7a4a21", "#111111", "#ffffff"),
]
PHOTO_NOTE = (
    "This looks like a photograph. The built-in model knows drawn scenes only, such as the "
    "examples, and its answers will be wrong. For photographs, load a published PaliGemma under "
    "**Another model**."
)
SAMPLE_SIDE = 48  # pixels a side of the copy whose colours are counted
MIN_TOP_COLORS = 0.62  # share of the four commonest: of 1,500 drawn scenes none lies below .64


@dataclass(frozen=True)
class GalleryExample:
    """An example of the gallery: the path of its image, its task and text, and a cached answer.

    `tokens`: the text and log-probability of each token that the built-in model answered.
    """

    image: str
    task: str
    text: str
    tokens: list[tuple[str, float]]

    @property
    def name(self) -> str:
        """Its name in the address."""
        return Path(self.image).stem

    @property
    def label(self) -> str:
        return f"{TASKS[self.task].label}: {self.text}".rstrip(": ")


def load_examples(folder: Path) -> list[GalleryExample]:
    """The examples listed in the folder's prompts.json; none if there is no such file."""
    listed = folder / "prompts.json"
    if not listed.exists():
        return []
    examples = [
        GalleryExample(row["image"], row["task"], row["text"], row.get("tokens", []))
        for row in json.loads(listed.read_text(encoding="utf-8"))
    ]
    return [replace(example, image=str(folder / example.image)) for example in examples]


class ImageInput:
    """The image, a canvas, a note about photographs, and the gallery of examples."""

    def __init__(self, examples: list[GalleryExample]) -> None:
        self.tabs = gr.Tabs(elem_id="image-sources")
        with self.tabs:
            with gr.Tab("Picture", id="image"):
                self.image = gr.Image(
                    examples[0].image if examples else None,
                    label="Picture",
                    type="filepath",
                    image_mode=None,
                    height=380,
                    format="png",
                    sources=["upload", "clipboard", "webcam"],
                    buttons=["fullscreen"],
                    elem_id="image",
                )
            with gr.Tab("Draw", id="draw"):
                self.canvas = gr.Sketchpad(
                    label="Canvas",
                    type="pil",
                    image_mode="RGBA",
                    height=380,
                    canvas_size=(512, 512),
                    brush=gr.Brush(default_size=16, colors=BRUSH_COLORS, color_mode="fixed"),
                    layers=False,
                    transforms=(),
                    elem_id="canvas",
                )
                self.use_drawing = gr.Button("Use this drawing", variant="primary")
        self.note = gr.Markdown(elem_classes="note")
        gr.Markdown("**Try an example**", visible=bool(examples))
        with gr.Row(elem_id="examples"):
            self.cards = [gr.Button(example.label, icon=example.image) for example in examples]

    def wire(self, models: ModelManager) -> None:
        shown = [self.image, self.note]
        self.image.upload(
            lambda image: check_upload(models, image),
            self.image,
            shown,
            preprocess=False,
            **PARALLEL,
        )
        drawn = self.use_drawing.click(read_drawing, self.canvas, [*shown, self.tabs], **PARALLEL)
        self.new_image_events = [self.image.upload, self.image.clear, drawn.success]


def check_upload(models: ModelManager, file: dict | None) -> tuple:
    """The image and the note: unreadable files are refused, and formats converted for browsers."""
    try:
        path = upload_path(file)
        image = open_image(path)
    except ValueError as error:
        gr.Warning(escape(str(error), quote=False))
        return None, ""
    shown = gr.skip() if Path(path).suffix.lower() in BROWSER_FORMATS else image
    model = models.current
    is_unknown = model is not None and model.is_built_in and is_photograph(image)
    return shown, PHOTO_NOTE if is_unknown else ""


def read_drawing(canvas: dict | None) -> tuple:
    """The drawing on white as the image, an empty note, and the tab that shows the image."""
    with user_errors():
        drawing = (canvas or {}).get("composite")
        image = None if drawing is None else open_image(drawing)
        if image is None or len(image.getcolors(2) or "many") == 1:
            raise ValueError("Nothing is drawn yet: pick a colour and draw.")
        return image, "", gr.Tabs(selected="image")


def is_photograph(image: Image.Image) -> bool:
    """Whether the image has more colours than drawn scenes have.

    A guess: photographs with few colours, such as black and white ones, pass for drawings.
    """
    small = image.resize((SAMPLE_SIDE, SAMPLE_SIDE), Image.Resampling.BOX)
    coarse = np.asarray(small).reshape(-1, 3) // 32
    counts = np.unique(coarse, axis=0, return_counts=True)[1]
    return bool(np.sort(counts)[-4:].sum() < MIN_TOP_COLORS * len(coarse))
