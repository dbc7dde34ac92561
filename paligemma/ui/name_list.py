"""The names that a model knows, each with a picture: the page's one list of them.

Its pickers copy the list when they are first seen (static/names.js): the stamps beside the canvas,
and the names in the tabs.
"""

from collections.abc import Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from urllib.parse import quote

import gradio as gr
from gradio.utils import is_static_file

from paligemma.synthetic.kinds import Kind, all_kinds
from paligemma.synthetic.scenes import KINDS
from paligemma.synthetic.sticker_sheet import COLUMNS, StickerSheet
from paligemma.ui.drawing import pictogram_svg

OTHER = "other"  # the category of what has none


def picker_html(what: str, more: str = "") -> str:
    """An empty picker: a field and a category to find names by, `more` beside them, a grid."""
    return (
        f'<div class="picker"><div class="fields"><input type="search" aria-label="Find a {what}" '
        f'placeholder="Find a {what}"><select aria-label="Category"></select>{more}</div>'
        f'<div class="kinds" role="group" aria-label="{what.capitalize()}s"></div>'
        '<p class="note" role="status"></p></div>'
    )


def stamps_html() -> str:
    """The picker of the stamps; a typed emoji is one too."""
    field = '<input class="emoji" aria-label="Type an emoji" placeholder="Type an emoji">'
    return picker_html("stamp", field)


def names_html(count: int, key: str) -> str:
    """The picker of the names in the tab `key`, folded."""
    summary = f"<summary>Names it knows ({count})</summary>"
    return f'<details data-tab="{key}">{summary}{picker_html("name")}</details>'


def name_list_html(known_names: Sequence[str], sheet: Path | None) -> str:
    """A template with a button for each of `known_names`, or of all kinds if there are none.

    Pictures are those of the sheet of stickers, or the pictograms of the scenes; of other kinds,
    what the visitor's device draws. Raises ValueError if the file is no sheet.
    """
    return _name_list(tuple(known_names), sheet, sheet.stat().st_mtime if sheet else 0)


@lru_cache(maxsize=4)
def _name_list(known_names: tuple[str, ...], path: Path | None, changed: float) -> str:
    sheet = StickerSheet(path) if path else None
    kinds = [kind for kind in all_kinds() if not known_names or kind.name in known_names]
    if sheet is None:
        kinds.sort(key=lambda kind: kind.name not in KINDS)
    buttons = [_kind_button(kind, sheet) for kind in kinds]
    others = set(known_names) - {kind.name for kind in kinds}
    buttons += [_button(name, OTHER) for name in sorted(others)]
    style = "" if sheet is None else f' data-style="{escape(_sheet_style(sheet))}"'
    return f"<template{style}>{''.join(buttons)}</template>"


def _button(name: str, category: str, picture: str = "", words: str = "", text: str = "") -> str:
    style = "kind" if picture else "kind plain"
    return (
        f'<button type="button" class="{style}" data-name="{escape(name)}" title="{escape(name)}" '
        f'data-category="{category}" data-words="{escape(words)}"'
        + f' data-text="{text}"' * bool(text)
        + f">{picture}<span>{escape(name)}</span><small></small></button>"
    )


def _kind_button(kind: Kind, sheet: StickerSheet | None) -> str:
    text = ""
    if sheet and kind.name in sheet.places:
        picture = _cell(sheet, *sheet.places[kind.name])
    elif kind.name in KINDS:
        picture = pictogram_svg(kind.name)
    else:
        text = chr(int(kind.code_points[0], 16))
        picture = f'<i aria-hidden="true">{text}</i>'
    words = "|".join(kind.other_names)
    return _button(kind.name, kind.category or OTHER, picture, words, text)


def _cell(sheet: StickerSheet, column: int, row: int) -> str:
    """A cell as the background of an element; `data-at` is its left, top and side in pixels."""
    x, y = 100 * column / (COLUMNS - 1), 100 * row / max(1, sheet.rows - 1)
    at = f"{column * sheet.side} {row * sheet.side} {sheet.side}"
    style = f"background-position: {x:.4g}% {y:.4g}%"
    return f'<i class="cell" aria-hidden="true" data-at="{at}" style="{style}"></i>'


def _sheet_style(sheet: StickerSheet) -> str:
    """The sheet as one image, which gradio serves once the page is told of it."""
    path = sheet.path.resolve()
    if not is_static_file(path):
        gr.set_static_paths([path])
    url = f"gradio_api/file={quote(path.as_posix())}"
    return f"--sheet: url('{url}'); --size: {100 * COLUMNS}% {100 * sheet.rows}%"
