"""The address of the page holds its tab, prompt and settings; opening it restores and runs them.

    ?tab=detect&example=harbour&detect=anchor&max_new_tokens=64&model=owner/model

Only the open tab's values are there, and Back and Forward move between tabs.
An example's image is there by its name. "Share" adds a visitor's own, by the folder of its upload,
which cannot be guessed (gradio 6.31's deep links lose images and button labels). The model is only
filled in, to be loaded by a press: an address must not switch the model for everybody.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from paligemma.ui.common import PRIVATE, upload_path
from paligemma.ui.image_input import GalleryExample
from paligemma.ui.page import Component, Tab, Updates

MAX_TEXT = 2_000  # characters


class UrlState:
    """Which component is kept under which name."""

    def __init__(
        self, tabs: Sequence[Tab], settings: dict[str, Component], model: gr.Dropdown
    ) -> None:
        self.tabs, self.settings, self.model = tabs, settings, model
        self.params = {name: part for tab in tabs for name, part in tab.url_params.items()}
        self.params |= settings

    def wire(self, new_image_events: list) -> None:
        """`new_image_events`: those of an image that has no name in the address yet."""
        for tab in self.tabs:
            tab.container.select(None, js=f'() => openTab("{tab.key}")', **PRIVATE)
        for name, part in {**self.params, "model": self.model}.items():
            write = "setModelParam" if name.rpartition(".")[2] == "model" else "setUrlParam"
            js = f'(value) => {write}("{name}", value, {json.dumps(part.value)})'
            part.change(None, part, None, js=js, **PRIVATE)
        for event in new_image_events:
            event(
                None,
                js='() => { setUrlParam("image", null); return setUrlParam("example", null); }',
                **PRIVATE,
            )

    def restore(self, query: Mapping[str, str]) -> Updates:
        """The components' values; one that a component cannot have is left out."""
        updates = {}
        for name, part in self.params.items():
            if name in query and (value := self._read(name, part, query[name])) is not None:
                updates[part] = value
        if model := query.get("model"):
            updates[self.model] = model[:MAX_TEXT]
        return updates

    def _read(self, name: str, part: Any, text: str) -> str | int | float | None:
        if name in self.settings:
            return _read_number(part, text)
        is_free = isinstance(part, gr.Textbox) or getattr(part, "allow_custom_value", False)
        choices = [value for _, value in getattr(part, "choices", ())]
        return text[:MAX_TEXT] if is_free or text in choices else None


def _read_number(part: gr.Slider | gr.Number, text: str) -> float | int | None:
    try:
        value = float(text)
    except ValueError:
        return None
    if isinstance(part, gr.Slider) and not part.minimum <= value <= part.maximum:
        return None
    is_whole = value == value and value.is_integer() and 0 <= value < 2**53
    if is_whole or isinstance(part, gr.Number) or part.step == 1:
        return int(value) if is_whole else None
    return value


def image_from_url(
    query: Mapping[str, str], examples: Sequence[GalleryExample], uploads: set[str]
) -> str | None:
    """The path of the image that the address names: one of the uploads, or an example's."""
    if (upload := os.path.join(get_upload_folder(), query.get("image", ""))) in uploads:
        return upload
    for example in examples:
        if example.name == query.get("example"):
            return example.image
    return None


def name_in_url(image: dict | None, uploads: set[str]) -> str:
    """The name of an upload for the address; empty for an example, which has its own."""
    path = upload_path(image)
    return "/".join(Path(path).parts[-2:]) if path in uploads else ""
