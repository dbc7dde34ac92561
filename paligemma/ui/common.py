"""What the parts of the page share: uploads, the queue of the model, short texts."""

import os
from collections.abc import Callable, MutableMapping, Sequence
from math import ceil
from threading import Lock
from typing import Any, NamedTuple, TypeVar

from gradio.utils import get_upload_folder, is_in_or_equal, is_static_file
from PIL import Image

from paligemma.generation import MAX_NEW_TOKENS
from paligemma.images import open_image
from paligemma.pipeline import PaliGemma
from paligemma.prompts import (
    plain_words,
    unknown_names,
    untrained_note,
    without_names,
)
from paligemma.reply import Reply
from paligemma.synthetic.suggestions import unknown_note
from paligemma.ui.errors import escape_markdown
from paligemma.ui.inputs import read_text

# Images on the page have fewer than four times as many: enough for the display and for models of
# 896 x 896 pixels. `images.full_size` has the size of the file's image, which boxes refer to.
PAGE_PIXELS = 2_000_000
FULL_SIZE = Lock()  # held while an image of full size is in memory: one at a time
DISPLAY_SIDE = 640  # pixels of the longer side of a result, so that all outlines look alike
WAITING = "One moment…"
NO_TEXT = "The model returned no text."
BROWSE_NAMES = "“Names it knows”, in the Detect tab, lists all that it knows."

T = TypeVar("T")
Options = dict[str, Any]  # of an event listener
PRIVATE: Options = {"api_visibility": "private", "show_progress": "hidden"}
# For what cannot fail: gradio 6.31 shows no error of events outside the queue.
UNQUEUED: Options = PRIVATE | {"queue": False}
MODEL_QUEUE: Options = {"concurrency_id": "model"}
# Beside the queue of the model.
PARALLEL: Options = PRIVATE | {"concurrency_limit": None}
# The same, of a slider that is dragged: the value where it stops counts.
LATEST: Options = PARALLEL | {"trigger_mode": "always_last"}

try:  # of a ZeroGPU Space
    import spaces  # pyright: ignore[reportMissingImports]
except ImportError:
    spaces = None
MAX_GPU_SECONDS = 120  # that ZeroGPU lends its GPU for to a visitor without an account


def gpu_seconds(*_, files: list | None = None, max_new_tokens: int | None = None, **__) -> int:
    """How long a request may need a lent GPU, from its inputs: shorter requests are served sooner.

    For an answer of a 3B model 5 s, and 0.1 s a token: more than twice of what it takes.
    """
    each = 5 + 0.1 * (MAX_NEW_TOKENS if max_new_tokens is None else max_new_tokens)
    return min(MAX_GPU_SECONDS, ceil(10 + each * max(1, len(files or ()))))


def on_gpu(handler: Callable) -> Callable:
    """The handler, with a GPU lent for each call on ZeroGPU."""
    return spaces.GPU(duration=gpu_seconds)(handler) if spaces else handler


def in_model_queue(handler: Callable) -> Options:
    """Handler and queue of an event that calls the model: all these wait in one queue."""
    return {"fn": on_gpu(handler), **MODEL_QUEUE}


def upload_path(file: dict | None) -> str:
    """The path in a file component's raw value.

    Raises ValueError for anything but an existing upload or example: gradio does not check the
    paths of raw values.
    """
    if not isinstance(file, dict) or not (path := file.get("path")):
        raise ValueError("There is no picture yet: upload one, paste one, or pick an example.")
    path = str(path)
    if not _is_upload_or_example(path):
        raise ValueError("That is no picture of this page: upload it first.")
    if not os.path.isfile(path):
        raise ValueError("That picture was deleted, as all are after two hours: upload it again.")
    return path


def _is_upload_or_example(path: str) -> bool:
    try:
        return is_in_or_equal(path, get_upload_folder()) or is_static_file(path)
    except (OSError, ValueError):  # a longer name than files have, or one with a NUL
        return False


class Upload(NamedTuple):
    path: str
    image: Image.Image  # upright RGB, see PAGE_PIXELS


def open_upload(file: dict | None) -> Upload:
    """Decode the image in a file component's raw value.

    A handler calls this once and hands the image on, so that a request decodes it once. Raises
    ValueError for anything but a readable upload or example.
    """
    path = upload_path(file)
    return Upload(path, open_for_page(path))


def open_for_page(source: str | bytes) -> Image.Image:
    """The one decoder of the page: any file as upright RGB, see PAGE_PIXELS."""
    return open_image(source, PAGE_PIXELS)


def drop_oldest(values: MutableMapping[Any, T], max_bytes: int, size: Callable[[T], int]) -> None:
    """Delete the first values until the others have `max_bytes` at most; the last one stays.

    `size`: the bytes of a value.
    """
    while len(values) > 1 and sum(map(size, values.values())) > max_bytes:
        del values[next(iter(values))]


def asked_prompt(model: PaliGemma, prompt: str) -> tuple[str, str]:
    """A task's prompt as the model gets it, and a note if that is another one than was written.

    The built-in model was trained on one spelling only, and a name that it does not know keeps it
    from finding the others.
    """
    if not model.is_built_in:
        return prompt, ""
    plain, known = plain_words(prompt), model.known_names
    unknown = unknown_names(plain, known)
    asked = without_names(plain, unknown)
    if asked == prompt:
        return prompt, ""
    if asked == plain:
        return plain, f"Asked as: {plain} (the built-in model knows this spelling only)"
    return asked, f"{unknown_note(unknown, known, BROWSE_NAMES)} Asked as: {asked}"


def answer_notes(model: PaliGemma, reply: Reply, *notes: str) -> list[str]:
    """What is said beside an answer: `notes` that are not empty, and names that are not known."""
    labels = {found.label for found in reply.detections}
    prompt, known = reply.prompt or "", model.known_names
    untrained = untrained_note(prompt) if model.is_built_in else ""
    unknown = unknown_note(unknown_names(prompt, known), known, BROWSE_NAMES, labels)
    return [note for note in (*notes, untrained, unknown) if note]


def with_notes(status: str, notes: Sequence[str]) -> str:
    """A status and notes below it, as Markdown."""
    return "\n\n".join([status, *map(escape_markdown, notes)])


def raw_prompt(prompt: str | None) -> str:
    """A prompt that the model gets as it is; raises ValueError for none, and for no text."""
    if not (prompt := read_text(prompt, "A prompt").strip()):
        raise ValueError("There is no prompt yet: write one, such as detect cat.")
    return prompt


def display_size(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of an image as results show it, the longer side DISPLAY_SIDE pixels."""
    width, height = (max(1, round(side * DISPLAY_SIDE / max(size))) for side in size)
    return width, height


def resize_for_display(image: Image.Image) -> Image.Image:
    return image.resize(display_size(image.size), Image.Resampling.LANCZOS)


def timing_text(reply: Reply) -> str:
    """Seconds, tokens and tokens a second, and which limit cut the answer off, if one did."""
    timings, count = reply.timings, len(reply.tokens)
    text = f"{timings.total_s:.2f} s · " + "cut off at " * (reply.finish_reason == "length")
    text += f"{count} token{'s' * (count != 1)}"
    text += f" · {timings.tokens_per_second:.0f} tokens/s" * (count > 1)
    return text + " · cut off at the time limit" * (reply.finish_reason == "time")


def text_status(reply: Reply) -> str:
    """The status of a text answer's last reply: whether it is whole, and `timing_text`."""
    if not reply.text.strip():
        summary = NO_TEXT
    else:
        summary = "Not complete." if reply.is_cut_off else "Done."
    return f"{summary} {timing_text(reply)}"
