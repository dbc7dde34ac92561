"""The image that all tabs use: uploaded, pasted, photographed, drawn, or an example."""

import json
import secrets
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.utils import get_upload_folder
from PIL import Image

from paligemma.images import open_image
from paligemma.pipeline import PaliGemma
from paligemma.synthetic.compose import Composer
from paligemma.synthetic.scene_options import SceneOptions
from paligemma.synthetic.scenes import render, sample
from paligemma.synthetic.sticker_sheet import load_sheet
from paligemma.tasks import TASKS
from paligemma.ui.common import FULL_SIZE, open_for_page, upload_path
from paligemma.ui.drawing import canvas_html
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.name_list import stamps_html
from paligemma.ui.page import Updates
from paligemma.ui.temp_files import save_pil_to_cache

BROWSER_FORMATS = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif"}
WORLD_NOTE = (
    "The built-in model knows drawn scenes only, such as the examples: its answers about other "
    "pictures will be wrong. For photographs, load a published PaliGemma."
)
GONE_NOTE = "The picture that was here is gone: upload it again, or choose another one."
SCENE_SIDE = 512  # pixels of a random scene
SCENE_STYLE: dict[str, Any] = {"counts": (0, 0, 4, 4, 2), "restyle": 0.1, "effects": 0.0}
FIRST_SEED = 2_000_000  # evaluation takes those below


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
        self.names = gr.HTML(visible="hidden", elem_id="name-list")
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
                self.canvas = gr.HTML(
                    html_template=canvas_html(),
                    js_on_load="createCanvas(element, props, trigger, upload)",
                    apply_default_css=False,
                    elem_id="canvas",
                )
                gr.HTML(stamps_html(), apply_default_css=False, elem_id="stamps")
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


def draw_random_scene(model: PaliGemma) -> str:
    """The path of a new scene of what the model knows, of two objects at least.

    It is composed from the sheet of stickers beside the model; without one it shows pictograms.
    Raises ValueError if the file is no sheet.
    """
    seed, sheet = secrets.randbelow(2**31) + FIRST_SEED, model.sticker_sheet
    if sheet is None:
        scene = sample(seed)
        while len(scene.items) < 2:
            scene = sample(scene.seed + 1)
        image = render(scene, SCENE_SIDE)
    else:
        compose = _composer(sheet, sheet.stat().st_mtime, tuple(model.known_names))
        pixels, scene = compose(seed)
        while len(scene.objects) < 2:
            pixels, scene = compose(scene.seed + 1)
        image = Image.fromarray(pixels)
    return save_pil_to_cache(image, get_upload_folder(), format="png")


@lru_cache(maxsize=1)
def _composer(sheet: Path, changed: float, known_names: tuple[str, ...]) -> Composer:
    options = SceneOptions(size=SCENE_SIDE, kinds=known_names or None, **SCENE_STYLE)
    return Composer(load_sheet(sheet), options)
