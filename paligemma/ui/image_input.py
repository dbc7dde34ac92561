"""The image that all tabs use: uploaded, pasted, photographed, drawn, or an example."""

import json
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import gradio as gr
from gradio.components import Component
from gradio.components.base import server
from gradio.components.image_editor import AcceptBlobs
from gradio.utils import get_upload_folder

from paligemma.images import open_image
from paligemma.synthetic.scenes import render, sample
from paligemma.tasks import TASKS
from paligemma.ui.common import (
    FULL_SIZE,
    drop_oldest,
    open_for_page,
    upload_path,
)
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.page import Updates
from paligemma.ui.temp_files import save_pil_to_cache

BROWSER_FORMATS = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif"}
BRUSH_COLORS: list[str | tuple[str, float]] = [
    *("#e23636", "#f08c1e", "#f5cf27", "#3aa655", "#2f66d0"),
    *("#8a45b5", "#ef7fb0", "#7a4a21", "#111111", "#ffffff"),
]
WORLD_NOTE = (
    "The built-in model knows drawn scenes only, such as the examples: its answers about other "
    "pictures will be wrong. For photographs, load a published PaliGemma."
)
GONE_NOTE = "The picture that was here is gone: upload it again, or choose another one."
SCENE_SIDE = 512  # pixels of a random scene
FIRST_SEED = 2_000_000  # those below are trained and evaluated on
MAX_DRAWING_BYTES = 8 * 2**20  # of the file of one drawing
MAX_DRAWINGS_BYTES = 64 * 2**20  # of all pages' drawings that wait to be used


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
    """The image, a canvas, a note about unknown pictures, and the gallery of examples."""

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
            with gr.Tab("Draw", id="draw") as self.draw_tab:
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
                gr.Markdown(
                    "Your drawing is the picture. Until you draw, it is the one under **Picture**.",
                    elem_classes="note",
                )
        self.note = gr.Markdown(elem_classes="note")
        self.open_models = gr.Button(
            "Use it on photographs", size="sm", visible=False, elem_classes="open-models"
        )
        self.own_name = gr.Textbox(visible=False)  # of the visitor's picture, for a reload
        with gr.Row(elem_id="examples-head"):
            gr.Markdown("**Try an example**" if examples else "", min_width=80)
            self.random_scene = gr.Button("New random scene", size="sm", scale=0)
        with gr.Row(elem_id="examples"):
            self.cards = [gr.Button(example.label, icon=example.image) for example in examples]

    @property
    def outputs(self) -> list[Component]:
        """What a new picture changes."""
        return [self.image, self.own_name, self.note, self.open_models]

    def show_own(self, models: ModelManager, path: str, is_known: bool = False) -> Updates:
        """A visitor's own picture, and whether the model can know it, where that is not known."""
        model = models.current
        is_unknown = not is_known and model is not None and model.is_built_in
        return {
            self.image: path,
            self.own_name: "/".join(Path(path).parts[-2:]),
            self.note: WORLD_NOTE if is_unknown else "",
            self.open_models: gr.Button(visible=is_unknown and models.can_switch),
        }

    def reset_image(self, note: str = "") -> Updates:
        """No picture, and a note in its place."""
        hidden = gr.Button(visible=False)
        return {self.image: None, self.own_name: "", self.note: note, self.open_models: hidden}


def readable_path(file: dict | None) -> str:
    """The path of an upload as browsers show it. Raises ValueError for what cannot be read."""
    path = upload_path(file)
    open_for_page(path)
    return path if Path(path).suffix.lower() in BROWSER_FORMATS else save_png(path)


def save_png(path: str) -> str:
    """The image in a format that browsers show, of the same size: the path of its file."""
    with FULL_SIZE:
        return save_pil_to_cache(open_image(path), get_upload_folder(), format="png")


def draw_random_scene() -> str:
    """The path of a new scene as the built-in model was trained on, of two objects at least."""
    scene = sample(secrets.randbelow(2**31) + FIRST_SEED)
    while len(scene.items) < 2:
        scene = sample(scene.seed + 1)
    return save_pil_to_cache(render(scene, SCENE_SIDE), get_upload_folder(), format="png")


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


def read_drawing(drawings: Drawings, canvas: dict | None) -> str | None:
    """The path of the drawing on white; None if nothing is drawn.

    `canvas` is the component's raw value: a file, or the id of one of the `drawings`. Raises
    ValueError for a file that cannot be read.
    """
    canvas = canvas if isinstance(canvas, dict) else {}
    if canvas.get("id") is not None:
        drawing = drawings.pop(str(canvas["id"]))
    else:
        drawing = canvas.get("composite") and upload_path(canvas["composite"])
    image = open_for_page(drawing) if drawing else None
    if image is None or len(image.getcolors(2) or "many") == 1:
        return None
    return save_pil_to_cache(image, get_upload_folder(), format="png")
