"""The address bar holds what an address can hold, and opening it restores and runs it.

    ?tab=detect&example=harbour&detect=anchor&max_new_tokens=64&model=owner/model

The picture is named where it is an example's; "Share" names one's own too, by the folder of its
upload, which nobody guesses (gradio 6.31's deep links lose pictures and the words on buttons). The
model is only filled in to be loaded: an address must not change the model for everybody.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from paligemma.ui.common import INNER, picture_path, sentences

LONGEST = 2_000  # characters of a text
PICTURES = ("picture", "example")  # the names of pictures in the address


class Address:
    """Which part of the page is kept under which name."""

    def __init__(
        self,
        tabs: Mapping[str, gr.Tab],
        parts: dict[str, gr.components.Component],
        settings: dict[str, gr.components.Component],
        source: gr.Dropdown,
    ) -> None:
        self.tabs, self.settings, self.source = tabs, settings, source
        self.parts = parts | settings

    def wire(self, new_picture: list) -> None:
        """`new_picture`: the events of one that has no name in the address yet."""
        for key, tab in self.tabs.items():
            tab.select(None, js=f'() => setUrlParam("tab", "{key}")', **INNER)
        for name, part in self.parts.items():
            usual = json.dumps(part.value)
            js = f'(value) => setUrlParam("{name}", value, {usual})'
            part.change(None, part, None, js=js, **INNER)
        self.source.change(
            None,
            self.source,
            None,
            js='(value) => setUrlParam("model", value, "built-in")',
            **INNER,
        )
        for event in new_picture:
            forget = '() => { setUrlParam("picture", null); return setUrlParam("example", null); }'
            event(None, js=forget, **INNER)

    def restore(self, query: Mapping[str, str]) -> dict:
        """What the parts become; a value that a part cannot have is left out."""
        updates = {}
        for name, part in self.parts.items():
            if name in query and (value := self._read(name, part, query[name])) is not None:
                updates[part] = value
        if model := query.get("model"):
            updates[self.source] = model[:LONGEST]
        return updates

    def _read(self, name: str, part: gr.components.Component, written: str):
        if name in self.settings:
            return _number(part, written)
        free = isinstance(part, gr.Textbox) or getattr(part, "allow_custom_value", False)
        if free or written in [value for _, value in part.choices]:
            return written[:LONGEST]
        return None


def _number(part: gr.Slider | gr.Number, written: str) -> float | int | None:
    try:
        value = float(written)
    except ValueError:
        return None
    if isinstance(part, gr.Slider) and not part.minimum <= value <= part.maximum:
        return None
    whole = value == value and value.is_integer() and 0 <= value < 2**53
    if whole or isinstance(part, gr.Number) or part.step == 1:
        return int(value) if whole else None
    return value


def picture_of(query: Mapping[str, str], examples: list[dict], uploads: set[str]) -> str | None:
    """The path of the picture that the address names: one of the uploads, or an example's."""
    if (uploaded := os.path.join(get_upload_folder(), query.get("picture", ""))) in uploads:
        return uploaded
    for row in examples:
        if Path(row["image"]).stem == query.get("example"):
            return row["image"]
    return None


def share(picture: dict | None, uploads: set[str]) -> str:
    """The name of the picture's upload for the address; empty for an example's."""
    with sentences():
        path = picture_path(picture)
        return "/".join(Path(path).parts[-2:]) if path in uploads else ""
