"""Checks of what a program sends: values of any type reach every function of the page.

A component of the page is no check: a program posts to the function, and a handler that takes raw
values gets them as they were sent.
"""

from collections.abc import Callable, Sequence
from reprlib import repr as short_repr
from typing import Any

import gradio as gr
from gradio.utils import get_type_hints
from gradio_client.utils import is_http_url_like

MAX_CLICK = 100_000  # pixels from the left or upper edge
UNFIT = "A value of this request does not fit its place: send what the page sends."


def check_values(value: Any) -> None:
    """Raise ValueError for text that is not Unicode, and for files that no page sends.

    Those are files with a NUL in their names, and those that are to be fetched from an address.
    """
    stack = [value]
    while stack:
        each = stack.pop()
        if isinstance(each, str) and not each.isascii():
            try:
                each.encode()
            except UnicodeEncodeError as error:
                raise ValueError("Text is Unicode: this one has half a character.") from error
        elif isinstance(each, list | tuple):
            stack.extend(each)
        elif isinstance(each, dict):
            stack.extend([*each, *each.values()])
            path = each.get("path")
            if isinstance(path, str) and "\0" in path:
                raise ValueError("The name of a file has no NUL.")
            if "meta" in each and is_http_url_like(path):
                raise ValueError("Pictures are uploaded: this page fetches none from an address.")


def plain_address(value: Any) -> Any:
    """The http(s) address of a file, as text, so that gradio does not fetch it; else the value."""
    path = value.get("path") if isinstance(value, dict) else None
    return path if is_http_url_like(path) else value


def takes_click(handler: Callable) -> bool:
    return gr.SelectData in get_type_hints(handler).values()


def check_click(data: Any) -> None:
    """Raise ValueError for anything but a point in a picture: x and y in pixels."""
    index = data.get("index") if isinstance(data, dict) else None
    point = index if isinstance(index, list | tuple) and "value" in data else ()
    if len(point) != 2 or not all(_is_number(edge) and 0 <= edge <= MAX_CLICK for edge in point):
        raise ValueError("That was no click in a picture: its index is [x, y], in pixels.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_text(value: Any, name: str) -> str:
    """A text, or "" for None. Raises ValueError for other types; `name` says of what."""
    if not isinstance(value, str | None):
        raise ValueError(f"{name} is text, not {short_repr(value)}.")
    return value or ""


def read_choice(value: Any, choices: Sequence[str], name: str) -> str:
    """One of `choices`. Raises ValueError for anything else."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is one of {', '.join(choices)}, not {short_repr(value)}.")
    return value


def read_number(value: Any, low: float, high: float, name: str) -> float:
    """A number from `low` to `high`. Raises ValueError for anything else."""
    if not (_is_number(value) and low <= value <= high):
        raise ValueError(f"{name} is a number from {low:g} to {high:g}, not {short_repr(value)}.")
    return float(value)


def read_index(value: Any, count: int) -> int:
    """A whole number below `count`; 0 for one of a former answer, and for None.

    Raises ValueError for anything that is no whole number from 0.
    """
    if value is None:
        return 0
    if not (_is_number(value) and 0 <= value <= 10**6):
        raise ValueError(f"A number of the answer's parts is wanted, not {short_repr(value)}.")
    return int(value) if value < count and value == int(value) else 0
