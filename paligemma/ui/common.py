"""What all parts of the page share: the picture, the settings, and how a model call is wired.

A picture reaches the handlers as the path of the uploaded file and is read by the pipeline's
guarded `open_image` alone, so every file ends in an answer or in one sentence. All that needs the
model waits in one line (`concurrency_id`), and every run can be stopped.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape

import gradio as gr
from gradio.utils import get_upload_folder, is_in_or_equal, is_static_file
from PIL import Image

from paligemma.generation import SamplingOptions
from paligemma.reply import Reply
from paligemma.ui.model_manager import ModelManager

SHOWN_SIDE = 640  # pixels of the longer side of a result, so that outlines look alike
WAITING = "One moment…"
INNER = {"api_visibility": "private", "show_progress": "hidden"}
QUICK = INNER | {"queue": False}  # for what never fails: gradio 6.31 shows no error of it
ASIDE = INNER | {"concurrency_limit": None}  # beside the model's queue
LATEST = ASIDE | {"trigger_mode": "always_last"}  # where a dragged slider stops is what counts

try:
    from spaces import GPU as on_gpu  # ZeroGPU lends its card to functions marked so
except ImportError:

    def on_gpu(handler: Callable) -> Callable:
        return handler


@contextmanager
def sentences() -> Iterator[None]:
    """Show exactly ValueError, which is how the rooms below speak, as a message on the page."""
    try:
        yield
    except ValueError as error:
        words = escape(str(error), quote=False)  # the page would render HTML
        raise gr.Error(words, print_exception=False) from error


def picture_path(picture: dict | None) -> str:
    """The file behind the picture component's raw value: an upload, an example, and no other."""
    if not isinstance(picture, dict) or not (path := picture.get("path")):
        raise ValueError("There is no picture yet: upload one, paste one, or pick an example.")
    path = str(path)
    if not _is_ours(path):
        raise ValueError("That is no picture of this page: upload it first.")
    if not os.path.isfile(path):
        raise ValueError("That picture was deleted, as all are after two hours: upload it again.")
    return path


def _is_ours(path: str) -> bool:
    """Whether a file is an upload or an example; of raw values, gradio does not check it."""
    try:
        return is_in_or_equal(path, get_upload_folder()) or is_static_file(path)
    except OSError:  # a longer name than files have
        return False


def sampling(**options) -> SamplingOptions:
    """The settings; an emptied field is at its usual value."""
    return SamplingOptions(**{name: v for name, v in options.items() if v is not None})


def written(prompt: str | None) -> str:
    """A prompt that goes to the model as it is; ValueError without one."""
    if not (prompt := str(prompt or "").strip()):
        raise ValueError("There is no prompt yet: write one, such as detect cat.")
    return prompt


def fit(image: Image.Image) -> Image.Image:
    """The picture as results show it, its longer side SHOWN_SIDE."""
    scale = SHOWN_SIDE / max(image.size)
    size = [max(1, round(side * scale)) for side in image.size]
    return image.resize(size, Image.Resampling.LANCZOS)


def header(seat: ModelManager) -> str:
    """Which model answers, as HTML."""
    if (pg := seat.current) is None:
        return "<h1>PaliGemma</h1><p>Another model is being loaded.</p>"
    stickers = zip("☀☂⚓❀♜☎☘", (48, 275, 220, 325, 25, 3, 125), strict=True)
    row = "".join(f'<i style="--hue:{hue}">{glyph}\ufe0e</i>' for glyph, hue in stickers)
    return (
        f'<div class="glyphs" aria-hidden="true">{row}</div><h1>PaliGemma</h1>'
        f"<p>Show it a picture and ask. Answering now: <b>{escape(pg.name)}</b>. "
        f"{escape(pg.description)}<br><small>{escape(pg.facts)}</small></p>"
    )


def clock(reply: Reply) -> str:
    time, count = reply.timings, len(reply.tokens)
    words = f"{time.total_s:.2f} s · {count} token{'s' * (count != 1)}"
    return words + f" · {time.tokens_per_second:.0f} tokens/s" * (count > 1)


def settings_panel() -> dict[str, gr.components.Component]:
    """The fields of SamplingOptions, by name."""
    usual = SamplingOptions()
    with gr.Accordion("Settings", open=False), gr.Row():
        return {
            "max_new_tokens": gr.Slider(
                1, 512, usual.max_new_tokens, step=1, label="Longest answer (tokens)"
            ),
            "temperature": gr.Slider(
                0, 2, usual.temperature, step=0.05, label="Temperature (0: the likeliest)"
            ),
            "top_k": gr.Slider(0, 100, usual.top_k, step=1, label="Top k (0: all)"),
            "top_p": gr.Slider(0.05, 1, usual.top_p, step=0.05, label="Top p"),
            "seed": gr.Number(usual.seed, precision=0, label="Seed"),
        }


@dataclass
class Page:
    """The shared parts, and a note of every button, so that one run at a time is under way.

    `last` holds the visitor's last request: (prompt, the answer's tokens). `said` are the parts
    that show what the model said, each with what empties it.
    """

    seat: ModelManager
    top: gr.HTML
    picture: gr.Image
    last: gr.State
    settings: dict[str, gr.components.Component] = field(default_factory=dict)
    gos: list[gr.Button] = field(default_factory=list)
    stops: list[gr.Button] = field(default_factory=list)
    runs: list = field(default_factory=list)
    said: dict[gr.components.Component, None] = field(default_factory=dict)

    def buttons(self, label: str, key: str) -> tuple[gr.Button, gr.Button, gr.Markdown]:
        """Run, stop, and the line that tells how it goes."""
        with gr.Row():
            go = gr.Button(label, variant="primary", scale=3, min_width=120, elem_id=f"run-{key}")
            stop = gr.Button("Stop", variant="stop", scale=1, min_width=80, interactive=False)
        self.gos.append(go)
        self.stops.append(stop)
        return go, stop, gr.Markdown(elem_classes="line", label="Status")

    def run(
        self, name: str, go: gr.Button, handler: Callable, named: dict, outputs: list, before=()
    ):
        """Call the model on a press of `go`, its inputs named; the last output is its line.

        Every tab must have its buttons by now: all of them rest while one runs. `name` is unique.
        `before`: handler, inputs and outputs of what is done first, outside the model's queue.
        """
        line = outputs[-1]
        about, settled = [line, *self.gos, *self.stops], [self.top, line, *self.gos, *self.stops]
        ran = go.click(lambda: [WAITING, *self._busy(True)], None, about, **QUICK)
        if before:
            ran = ran.then(*before, preprocess=False, concurrency_limit=4, **INNER)
            ran.failure(self._settle, line, settled, **QUICK)
            self.runs.append(ran)
        ran = (ran.success if before else ran.then)(
            on_gpu(handler), None, outputs, inputs_kwargs=named, preprocess=False,
            concurrency_id="model", show_progress="minimal", show_progress_on=line,
            api_visibility="undocumented", api_name=f"tab_{name}",
        )  # fmt: skip
        for ended in ran.success, ran.failure:  # gradio 6.31: .then skips what failed
            ended(self._settle, line, settled, **QUICK)
        self.runs.append(ran)
        self.said |= dict.fromkeys(outputs)
        return ran

    def on_enter(self, text: gr.Textbox, key: str) -> None:
        """Enter presses the button, unless it rests."""
        text.submit(None, js=f'() => pressRun("{key}", 0)', **INNER)

    def wire_stops(self) -> None:
        for stop in self.stops:
            stop.click(None, cancels=self.runs, **INNER)

    def _busy(self, running: bool) -> list[gr.Button]:
        off, on = gr.Button(interactive=not running), gr.Button(interactive=running)
        return [off] * len(self.gos) + [on] * len(self.stops)

    def _settle(self, line: str | None) -> list:
        """After every run: a line that still ends in … is of a run that did not end."""
        line = (line or "").removeprefix(WAITING)
        line = f"Stopped. {line[:-1]}" if line.endswith("…") else line
        return [header(self.seat), line, *self._busy(False)]
