"""The image that all tabs use: uploaded, pasted, photographed, drawn, or an example."""

import json
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from threading import Lock

import gradio as gr
import numpy as np
from gradio.components.base import server
from gradio.components.image_editor import AcceptBlobs
from gradio.utils import get_upload_folder
from PIL import Image

from paligemma.images import open_image
from paligemma.tasks import TASKS
from paligemma.ui.common import (
    FULL_SIZE,
    PARALLEL,
    drop_oldest,
    open_for_page,
    upload_path,
)
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.temp_files import save_pil_to_cache

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
MAX_DRAWING_BYTES = 8 * 2**20  # of the file of one drawing
MAX_DRAWINGS_BYTES = 64 * 2**20  # of all pages' drawings that wait to be used
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
                self.drawings = Drawings()
                self.canvas = gr.Sketchpad(
                    label="Canvas",
                    height=380,
                    canvas_size=(512, 512),
                    brush=gr.Brush(default_size=16, colors=BRUSH_COLORS, color_mode="fixed"),
                    layers=False,
                    transforms=(),
                    elem_id="canvas",
                )
                self.canvas.accept_blobs = self.drawings.accept
                self.use_drawing = gr.Button("Use this drawing", variant="primary")
        self.note = gr.Markdown(elem_classes="note")
        gr.Markdown("**Try an example**", visible=bool(examples))
        with gr.Row(elem_id="examples"):
            self.cards = [gr.Button(example.label, icon=example.image) for example in examples]

    def wire(self, models: ModelManager) -> None:
        self.image.upload(
            lambda image: check_upload(models, image),
            self.image,
            [self.image, self.note],
            preprocess=False,
            **PARALLEL,
        )


def check_upload(models: ModelManager, file: dict | None) -> tuple:
    """The image and the note: unreadable files are refused, and formats converted for browsers."""
    try:
        path = upload_path(file)
        image = open_for_page(path)
        shown = gr.skip() if Path(path).suffix.lower() in BROWSER_FORMATS else save_png(path)
    except ValueError as error:
        gr.Warning(escape(str(error), quote=False))
        return None, ""
    model = models.current
    is_unknown = model is not None and model.is_built_in and is_photograph(image)
    return shown, PHOTO_NOTE if is_unknown else ""


def save_png(path: str) -> str:
    """The image in a format that browsers show, of the same size: the path of its file."""
    with FULL_SIZE:
        return save_pil_to_cache(open_image(path), get_upload_folder(), format="png")


class Drawings:
    """What the canvas of each page has sent, as the bytes of image files; the oldest give way.

    In place of gradio's own storage, which has no bounds and is decoded without `open_image`.
    """

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._lock = Lock()

    @server
    def accept(self, data: AcceptBlobs) -> None:
        """Take a drawing from a page, under the id that it will be asked for by."""
        name, files = str(data.data.get("id")), data.files
        if data.data.get("type") != "composite" or len(files) != 1 or len(name) > 100:
            return  # background and layers are not needed
        if len(files[0][1]) > MAX_DRAWING_BYTES:
            return
        with self._lock:
            self._files.pop(name, None)
            self._files[name] = files[0][1]
            drop_oldest(self._files, MAX_DRAWINGS_BYTES, len)

    def pop(self, name: str) -> bytes | None:
        with self._lock:
            return self._files.pop(name, None)


def read_drawing(drawings: Drawings, canvas: dict | None) -> tuple:
    """The drawing on white as the image, an empty note, and the tab that shows the image.

    `canvas` is the component's raw value: a file, or the id of one of the `drawings`.
    """
    canvas = canvas if isinstance(canvas, dict) else {}
    if canvas.get("id") is not None:
        drawing = drawings.pop(str(canvas["id"]))
    else:
        drawing = canvas.get("composite") and upload_path(canvas["composite"])
    image = open_for_page(drawing) if drawing else None
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
