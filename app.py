"""The demo: one picture, a tab for each task of `paligemma.tasks`, and where the decoder looked.

    python app.py [--model M] [--dtype D] [--device D] [--host 127.0.0.1] [--port 7860] [--share]

`build_app(Seat(pg))` is the whole page; `pg` is a `paligemma.pipeline.PaliGemma`, and the seat lets
a visitor change it for another, for everybody. A picture reaches the handlers as the path of the
uploaded file and is read by the pipeline's guarded `open_image` alone, so every file ends in an
answer or in one sentence. Nothing is kept between calls except in the visitor's own page, and all
that needs the model waits in one line (`concurrency_id`): answers, and the change to another model.
"""

import argparse
import io
import json
import os
import time
import zipfile
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads it when imported: stay offline

import gradio as gr
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from paligemma.catalog import PUBLISHED
from paligemma.objects import sift
from paligemma.pipeline import PaliGemma, Reply, SamplingOptions, open_image
from paligemma.seat import Seat
from paligemma.tasks import TASKS, Task
from visualize import color_map, draw_attention, draw_boxes, draw_masks, paste_mask
from visualize.export import Annotated, cut_outs, mask_pictures, to_coco, to_csv

EXAMPLES = Path(__file__).parent / "examples"
SHOWN_SIDE = 640  # pixels of the longer side of a result, so that outlines look alike
BROWSERS_SHOW = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif"}
PLACEHOLDERS = {"ask": "what color is the umbrella?"}
WAITING = "One moment…"
EMPTY = {
    "text": "The model stayed silent: it finds nothing to say or to read here.",
    "boxes": "Nothing found: the model sees none of that in this picture.",
    "masks": "Nothing found: the model sees none of that in this picture.",
}
ATTENTION_NOTE = """
**What this shows.** While the decoder writes a token, it looks back at the patches of the picture.
The glow is the mean of that attention over all layers and heads; the brightest patch is its scale.

**What it does not prove.** Where a model looks is not why it answers. The image tower has mixed the
patches before the decoder sees them, and an answer may stay the same without the brightest one.
"""

# ------------------------------------------------------------------------------------ answering


@dataclass(frozen=True)
class Objects:
    """What a tab has that finds things: `found` keeps them, the rest shows what is sifted out."""

    found: gr.State  # (path of the picture, detections, masks), of the last complete answer
    least: gr.Slider
    most: gr.Slider
    table: gr.HTML
    save: gr.Button
    packed: gr.Textbox


@dataclass(frozen=True)
class Panel:
    """One task's tab; `text`, `seen` and `objects` are None where the task has no use for them."""

    task: Task
    text: gr.Textbox | None
    go: gr.Button
    stop: gr.Button
    line: gr.Markdown
    seen: gr.AnnotatedImage | None
    raw: gr.Textbox
    objects: Objects | None

    @property
    def outputs(self) -> list[gr.components.Component]:
        kept = self.objects and self.objects.found
        return [part for part in (self.raw, self.seen, kept, self.line) if part]


@contextmanager
def sentences() -> Iterator[None]:
    """Show exactly ValueError, which is how the rooms below speak, as a message on the page."""
    try:
        yield
    except ValueError as error:
        words = escape(str(error), quote=False)  # the page would render HTML
        raise gr.Error(words, print_exception=False) from error


def picture_path(picture: dict | None) -> str:
    """The file behind the picture component's raw value."""
    if not picture or not picture.get("path"):
        raise ValueError("There is no picture yet: upload one, paste one, or pick an example.")
    return picture["path"]


def fit(image: Image.Image) -> Image.Image:
    """The picture as results show it, its longer side SHOWN_SIDE."""
    scale = SHOWN_SIDE / max(image.size)
    size = [max(1, round(side * scale)) for side in image.size]
    return image.resize(size, Image.Resampling.LANCZOS)


def annotate(image: Image.Image, detections: tuple, masks: list) -> gr.AnnotatedImage:
    """The picture under its objects, outlined: a mask where there is one, else a box."""
    colors, legend, layers = color_map(found.label for found in detections), {}, []
    for found, mask in zip(detections, masks, strict=True):
        name = found.label or "(no name)"
        name += "" if found.score is None else f" {found.score:.0%}"
        legend[name] = colors[found.label]
        if mask is None:
            area, fill = Image.new("L", image.size), 0.15
            ImageDraw.Draw(area).rectangle([round(v) for v in found.xyxy(*image.size)], fill=255)
        else:
            area, fill = Image.fromarray(paste_mask(mask, found.box, *image.size)).convert("L"), 0.5
        core = ImageOps.crop(ImageOps.expand(area, 3).filter(ImageFilter.MinFilter(7)), 3)
        layers.append(((np.asarray(area) - (1 - fill) * np.asarray(core)) / 255, name))
    return gr.AnnotatedImage((image, layers), color_map=legend)


def clock(reply: Reply) -> str:
    time, count = reply.timings, len(reply.tokens)
    words = f"{time.total_s:.2f} s · {count} token{'s' * (count != 1)}"
    return words + f" · {time.tokens_per_second:.0f} tokens/s" * (count > 1)


def verdict(task: Task, reply: Reply) -> str:
    """A word for the person, once the answer is complete."""
    if not reply.text.strip():
        return EMPTY[task.answers]
    if task.answers == "text":
        return "Done."
    count = len(reply.detections)
    found = f"Found {count} thing{'s' * (count != 1)}."
    return found if count else "There is no whole box in the answer: see the model's own words."


def answer(
    seat: Seat, panel: Panel, picture: dict | None, text: str | None = None, **options
) -> Iterator[dict]:
    """Stream one answer into its panel, an object at a time as soon as it is whole."""
    with sentences():
        path = picture_path(picture)
        image, options = open_image(path), SamplingOptions(**options)
        prompt, pg = panel.task.prompt(str(text or "")), seat.pg
        blank = {panel.seen: None, panel.objects.found: None} if panel.objects else {}
        yield {panel.raw: "", panel.line: WAITING} | blank
        shown, drawn = fit(image), None
        with closing(pg.stream(image, prompt, options)) as replies:  # once closed, the model stops
            for reply in replies:
                update = {panel.raw: reply.text, panel.line: f"{clock(reply)}…"}
                whole = reply.detections if reply.finished else reply.detections[:-1]
                if panel.seen and (reply.finished or len(whole) != drawn):
                    coded = panel.task.answers == "masks"
                    masks = pg.masks(whole) if coded else [None] * len(whole)
                    update[panel.seen] = annotate(shown, whole, masks)
                    drawn = len(whole)
                if reply.finished and panel.objects:
                    update[panel.objects.found] = path, whole, masks
                if reply.finished:
                    update[panel.line] = f"{verdict(panel.task, reply)} {clock(reply)}"
                yield update


def sifted(found: tuple, least: float, most: float) -> tuple[Image.Image, list, list]:
    """The picture of the last answer, and the detections and masks in it that stay."""
    path, detections, masks = found
    stay = sift(detections, least, most)
    return open_image(path), [detections[n] for n in stay], [masks[n] for n in stay]


def show_found(found: tuple | None, least: float, most: float) -> tuple:
    """What of the last answer has a score of `least`, and overlaps by `most` at the most."""
    if found is None:
        return None, "", gr.Button(interactive=False)
    image, kept, masks = sifted(found, least, most)
    seen = annotate(fit(image), kept, masks)
    return seen, table(kept, *image.size), gr.Button(interactive=bool(kept))


def table(detections: list, width: int, height: int) -> str:
    """The objects as an HTML table, boxes in pixels of the picture."""
    colors = color_map(found.label for found in detections)
    rows = [
        f'<tr><td><i style="background:{colors[found.label]}"></i>{escape(found.label)}</td>'
        f"<td>{'' if found.score is None else f'{found.score:.0%}'}</td>"
        + "".join(f"<td>{edge:.0f}</td>" for edge in found.xyxy(width, height))
        + "</tr>"
        for found in detections
    ]
    heads = "".join(f"<th>{name}</th>" for name in ("", "score", "x1", "y1", "x2", "y2"))
    return f'<table class="found"><tr>{heads}</tr>{"".join(rows)}</table>' if rows else ""


def pack(found: tuple | None, least: float, most: float) -> str:
    """A zip of what is shown, in base64: drawing, masks, cut-outs, COCO JSON, CSV."""
    with sentences():
        if found is None:
            raise ValueError("There is nothing to download yet: run this tab first.")
        image, kept, masks = sifted(found, least, most)
        of = Annotated("picture.png", *image.size, kept, masks)
        drawn = draw_boxes(draw_masks(image, kept, masks), kept)
        pictures = [("picture.png", image), ("drawn.png", drawn)]
        pictures += [(f"masks/{name}", mask) for name, mask in mask_pictures(of)]
        pictures += [(f"cutouts/{name}", cut) for name, cut in cut_outs(image, of)]
        whole = io.BytesIO()
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("coco.json", json.dumps(to_coco([of])))
            archive.writestr("objects.csv", to_csv([of]))
            for name, picture in pictures:
                with archive.open(name, "w") as file:
                    picture.save(file, "PNG")
        return b64encode(whole.getvalue()).decode("ascii")


def look(seat: Seat, picture: dict | None, prompt: str | None, **options) -> Iterator[tuple]:
    """Stream the attention tab: what it remembers, its tokens, its picture and its line."""
    prompt, same, pg = str(prompt or "").strip(), gr.skip(), seat.pg
    with sentences():
        image, options = open_image(picture_path(picture)), SamplingOptions(**options)
        if not prompt:
            raise ValueError("There is no prompt yet: write one, such as detect cat.")
        yield None, gr.Radio([], visible=False), None, WAITING
        with closing(pg.stream(image, prompt, options)) as replies:
            for reply in replies:
                yield same, same, same, f"{clock(reply)}…"
        if not reply.tokens:
            yield same, same, same, EMPTY["text"]
            return
        memory = fit(image), pg.attention(image, prompt, reply)
        names = [f"{n} {token.text.strip() or '␣'}" for n, token in enumerate(reply.tokens, 1)]
        choices = [(name, n) for n, name in enumerate(names)]
        yield memory, gr.Radio(choices, value=0, visible=True), *show_token(0, memory)


def show_token(number: int, look: tuple[Image.Image, np.ndarray]) -> tuple[Image.Image, str]:
    """The picture under one token's attention, and a line about it."""
    image, maps = look
    words = f"{maps[number].sum():.0%} of this token's attention is on the picture"
    words += f", {maps[number].max():.1%} on its brightest patch."
    return draw_attention(image, maps[number], opacity=0.5), words


def check(picture: dict | None):
    """At upload: refuse what cannot be read, redraw what browsers do not show."""
    try:
        path = picture_path(picture)
        image = open_image(path)
    except ValueError as error:
        gr.Warning(escape(str(error), quote=False))
        return None
    return gr.skip() if Path(path).suffix.lower() in BROWSERS_SHOW else image


# ------------------------------------------------------------------------------- another model


def fetch(seat: Seat, source: str | None) -> Iterator[tuple]:
    """Find a model, downloading it with a bar; stream what was found and the line."""
    source, told = str(source or "").strip(), [0, 1]
    closed = False

    def report(done: int, total: int) -> None:
        if closed:
            raise ValueError("The download was stopped.")
        told[:] = done, total

    with sentences(), ThreadPoolExecutor(1) as worker:
        if not source:
            raise ValueError("No model is named yet: pick one, or write a folder or owner/model.")
        finding = worker.submit(seat.find, source, report)
        try:
            while not finding.done():
                yield gr.skip(), bar(*told, f"Fetching {source}")
                time.sleep(0.2)
        finally:
            closed = True
        yield finding.result(), f"Loading {escape(source)}…"


def change(seat: Seat, found) -> str:
    """Load what `fetch` found in the old model's place."""
    with sentences():
        start = time.perf_counter()
        seat.change(found)
        return f"Loaded {escape(seat.pg.name)} in {time.perf_counter() - start:.1f} s."


def bar(done: int, total: int, words: str) -> str:
    amount = f" {done / 1e6:,.0f} of {total / 1e6:,.0f} MB" if done else ""
    value = f' value="{done / total:.3f}"' if done else ""
    return f'<progress max="1"{value}></progress> {escape(words)}{amount}…'


def choices() -> list[tuple[str, str]]:
    """The picker's rows: what a person reads, and what is loaded."""
    published = [
        (f"{row.id} ({2 * row.config.num_parameters / 1e9:.0f} GB in bfloat16)", row.id)
        for row in PUBLISHED
    ]
    return [("the built-in model", "built-in"), *published]


# ------------------------------------------------------------------------------------- the page


def load_examples() -> list[dict[str, str]]:
    """The rows {"image", "task", "text"} of examples/prompts.json, images as full paths."""
    listed = EXAMPLES / "prompts.json"
    rows = json.loads(listed.read_text(encoding="utf-8")) if listed.exists() else []
    return [row | {"image": str(EXAMPLES / row["image"])} for row in rows]


def header(seat: Seat) -> str:
    if (pg := seat.pg) is None:
        return "<h1>PaliGemma</h1><p>Another model is being loaded.</p>"
    stickers = zip("☀☂⚓❀♜☎☘", (48, 275, 220, 325, 25, 3, 125), strict=True)
    row = "".join(f'<i style="--hue:{hue}">{glyph}\ufe0e</i>' for glyph, hue in stickers)
    return (
        f'<div class="glyphs" aria-hidden="true">{row}</div><h1>PaliGemma</h1>'
        f"<p>Show it a picture and ask. Answering now: <b>{escape(pg.name)}</b>. "
        f"{escape(pg.description)}<br><small>{escape(pg.facts)}</small></p>"
    )


def buttons(label: str) -> tuple[gr.Button, gr.Button, gr.Markdown]:
    """Run, stop, and the line that tells how it goes."""
    with gr.Row():
        go = gr.Button(label, variant="primary", scale=3, min_width=120)
        stop = gr.Button("Stop", variant="stop", scale=1, min_width=80, interactive=False)
    return go, stop, gr.Markdown(elem_classes="line", label="Status")


def task_panel(task: Task, value: str | None) -> Panel:
    text = seen = objects = None
    with gr.Tab(task.label, id=task.key):
        if task.needs:
            text = gr.Textbox(
                value, label=task.needs[0].upper() + task.needs[1:], max_lines=3,
                placeholder=f"for example: {PLACEHOLDERS.get(task.key, 'cat ; umbrella')}",
            )  # fmt: skip
        go, stop, line = buttons(task.label)
        with gr.Row():
            if task.answers != "text":
                seen = gr.AnnotatedImage(
                    label="In the picture", elem_classes="seen", scale=3, min_width=280
                )
            raw = gr.Textbox(
                label="The model's words", lines=3, max_lines=12, scale=2, min_width=200,
                interactive=False, elem_classes=["raw", task.answers],
            )  # fmt: skip
        if task.answers != "text":
            objects = objects_panel()
    return Panel(task, text, go, stop, line, seen, raw, objects)


def objects_panel() -> Objects:
    with gr.Row(equal_height=True):
        least = gr.Slider(0, 1, 0, step=0.01, label="Least score", scale=2, min_width=140)
        most = gr.Slider(
            0, 1, 1, step=0.01, label="Most overlap within a name", scale=2, min_width=140
        )
        save = gr.Button("Download", interactive=False, scale=1, min_width=110)
    shown = gr.HTML(label="What was found")
    return Objects(gr.State(), least, most, shown, save, gr.Textbox(visible=False))


def settings_panel() -> dict[str, gr.components.Component]:
    """The fields of SamplingOptions, by name."""
    usual, slider = SamplingOptions(), partial(gr.Slider, step=1)
    with gr.Accordion("Settings", open=False), gr.Row():
        return {
            "max_new_tokens": slider(1, 512, usual.max_new_tokens, label="Longest answer (tokens)"),
            "temperature": slider(
                0, 2, usual.temperature, step=0.05, label="Temperature (0: the likeliest)"
            ),
            "top_k": slider(0, 100, usual.top_k, label="Top k (0: all)"),
            "top_p": slider(0.05, 1, usual.top_p, step=0.05, label="Top p"),
            "seed": gr.Number(usual.seed, precision=0, label="Seed"),
        }


def model_panel(own: bool) -> tuple[gr.Dropdown, gr.Button, gr.Button, gr.Markdown]:
    """The picker. `own`: a folder or a model that is not in the list may be named too."""
    with gr.Accordion("Another model", open=False, elem_id="models"):
        with gr.Row():
            source = gr.Dropdown(
                choices(), value="built-in", label="Model", allow_custom_value=own, scale=4,
                info="Pick one, or write a folder, an .npz or owner/model of the hub."
                if own else "The published models need their licence accepted on the hub.",
            )  # fmt: skip
            go = gr.Button("Load", variant="primary", scale=1, min_width=100)
            stop = gr.Button("Stop", variant="stop", scale=1, min_width=80)
        line = gr.HTML(elem_classes="line")
    return source, go, stop, line


def build_app(seat: Seat | PaliGemma, own: bool = True) -> gr.Blocks:
    """The page over a loaded model; launch it with `**LOOK`.

    `own`: visitors may load what is not in the list of published models, from this machine too.
    """
    seat = seat if isinstance(seat, Seat) else Seat(seat)
    gr.set_static_paths([EXAMPLES])  # served from where they lie, whatever the working directory
    examples = load_examples()
    first = examples[0] if examples else {"image": None, "task": "caption", "text": None}
    with gr.Blocks(title="PaliGemma", delete_cache=(3600, 24 * 3600)) as demo:
        top = gr.HTML(header(seat), elem_id="header")
        source, load, load_stop, load_line = model_panel(own)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                picture = gr.Image(
                    first["image"], label="Picture", type="filepath", image_mode=None, height=400,
                    format="png", sources=["upload", "clipboard", "webcam"], buttons=["fullscreen"],
                    elem_id="picture",
                )  # fmt: skip
                gr.Markdown("**Or press one of these:**", visible=bool(examples))
                with gr.Row(elem_id="examples"):
                    names = [f"{TASKS[row['task']].label}: {row['text']}" for row in examples]
                    cards = [gr.Button(name.rstrip(": "), icon=row["image"])
                             for name, row in zip(names, examples, strict=True)]  # fmt: skip
            with gr.Column(scale=3, min_width=300):
                tabs = gr.Tabs(selected=first["task"], overflow_behavior="wrap", elem_id="tabs")
                with tabs:
                    panels = [task_panel(task, first["text"] if key == first["task"] else None)
                              for key, task in TASKS.items()]  # fmt: skip
                    with gr.Tab("Attention", id="attention"):
                        prompt = gr.Textbox(
                            label="A prompt, just as the model gets it", max_lines=3,
                            placeholder="for example: detect cat",
                        )  # fmt: skip
                        look_go, look_stop, look_line = buttons("Show attention")
                        tokens = gr.Radio([], label="The answer, token by token", visible=False)
                        heat = gr.Image(
                            label="Where it looked", format="png", interactive=False,
                            buttons=["fullscreen"], elem_id="heat",
                        )  # fmt: skip
                        gr.Markdown(ATTENTION_NOTE, elem_classes="note")
                settings = settings_panel()
        looked = gr.State()

        gos = [*(panel.go for panel in panels), look_go, *cards]
        stops = [*(panel.stop for panel in panels), look_stop]
        texts = {panel.task.key: panel.text for panel in panels if panel.text}

        def choose(row: dict):
            fill = [row["text"] if key == row["task"] else gr.skip() for key in texts]
            return [row["image"], gr.Tabs(selected=row["task"]), *fill]

        def busy(running: bool):
            off, on = gr.Button(interactive=not running), gr.Button(interactive=running)
            return [off] * len(gos) + [on] * len(stops)

        def forget():
            """What another model said is gone from the page."""
            return [header(seat), *[None] * len(said), gr.Radio([], visible=False)]

        def settle(line: str | None):
            """After every run: a line that still ends in … is of a run that did not end."""
            line = (line or "").removeprefix(WAITING)
            return [f"Stopped. {line[:-1]}" if line.endswith("…") else line, *busy(False)]

        inner = {"api_visibility": "private", "show_progress": "hidden"}
        quick = inner | {"queue": False}
        runs = []

        def on(events: list, handler, named: dict, outputs: list, **api) -> None:
            """Call the model on these events, its inputs named; the last output is its line."""
            about = [outputs[-1], *gos, *stops]
            ran = gr.on(events, lambda: [WAITING, *busy(True)], None, about, **quick).then(
                handler, None, outputs, inputs_kwargs=named | settings, preprocess=False,
                concurrency_id="model", show_progress="hidden", **api,
            )  # fmt: skip
            for ended in ran.success, ran.failure:  # gradio 6.31: .then skips what failed
                ended(settle, outputs[-1], about, **quick)
            runs.append(ran)

        for panel in panels:
            named = {"picture": picture} | ({"text": panel.text} if panel.text else {})
            events = [panel.go.click] + ([panel.text.submit] if panel.text else [])
            on(events, partial(answer, seat, panel), named, panel.outputs, api_name=panel.task.key)
            if objects := panel.objects:
                chosen = [objects.found, objects.least, objects.most]
                gr.on(
                    [objects.found.change, objects.least.input, objects.most.input],
                    show_found, chosen, [panel.seen, objects.table, objects.save], **quick,
                )  # fmt: skip
                objects.save.click(pack, chosen, objects.packed, **quick).success(
                    None, objects.packed, None, js=SAVE, **inner
                )
        events, named = [look_go.click, prompt.submit], {"picture": picture, "prompt": prompt}
        outputs = [looked, tokens, heat, look_line]
        on(events, partial(look, seat), named, outputs, api_name="attention")
        for card, row in zip(cards, examples, strict=True):
            filled = [picture, tabs, *texts.values()]
            card.click(partial(choose, row), None, filled, js=SHOW_TABS, **quick)
            [panel] = [panel for panel in panels if panel.task.key == row["task"]]
            shown = partial(answer, seat, panel, {"path": row["image"]}, row["text"])
            on([card.click], shown, {}, panel.outputs, api_visibility="private")
        for stop in stops:
            stop.click(None, cancels=runs, **inner)
        said = [*(part for panel in panels for part in panel.outputs), looked, heat, look_line]
        demo.load(partial(header, seat), None, top, **quick)  # another may have changed the model
        found = gr.State()
        fetched = load.click(
            partial(fetch, seat), source, [found, load_line], concurrency_limit=4, **inner
        )
        loaded = fetched.success(
            partial(change, seat), found, load_line, concurrency_id="model", **inner
        )
        loaded.then(forget, None, [top, *said, tokens], **quick)
        fetched.failure(lambda: "", None, load_line, **quick)
        loaded.failure(lambda: "", None, load_line, **quick)
        load_stop.click(lambda: "Stopped.", None, load_line, cancels=fetched, **inner)
        tokens.input(show_token, [tokens, looked], [heat, look_line], **quick)
        picture.upload(check, picture, picture, preprocess=False, concurrency_limit=None, **inner)
    return demo


# ------------------------------------------------------------------------------------- the look

PAPER = gr.themes.Color("#fffdf8", "#fbf6ec", "#efe5d2", "#e2d4bb", "#b9a994", "#78685a",
                        "#6a5c4e", "#4a4034", "#332b23", "#27211b", "#1c1814")  # fmt: skip
STICKER = {
    "button_primary_background_fill": "#ffb95f", "button_primary_background_fill_hover": "#ffc87f",
    "button_primary_border_color": "#e15f00", "button_primary_text_color": "#4a1f00",
    "checkbox_label_background_fill_selected": "#ffb95f",
    "checkbox_label_text_color_selected": "#4a1f00",
}  # fmt: skip
THEME = gr.themes.Base(
    primary_hue="orange", secondary_hue="amber", neutral_hue=PAPER, radius_size="lg",
    font=("ui-rounded", "Nunito", "Segoe UI", "system-ui", "sans-serif"),
    font_mono=("ui-monospace", "DejaVu Sans Mono", "monospace"),
).set(
    body_background_fill="*neutral_100", block_background_fill="*neutral_50",
    input_background_fill="*neutral_100", input_background_fill_dark="*neutral_950",
    block_border_width="2px", block_border_width_dark="2px", button_border_width="2px",
    button_secondary_background_fill="*neutral_50",
    button_secondary_background_fill_dark="*neutral_900",
    **STICKER, **{f"{name}_dark": color for name, color in STICKER.items()},
)  # fmt: skip
CSS = """
.gradio-container { min-height: 100vh; background-size: 22px 22px !important;
  background-image: radial-gradient(#8a6d4a22 1.5px, transparent 1.5px) !important; }
#header { padding: .5rem 0; overflow: visible; }
#header h1 { margin: 0; font-size: 2.1rem; font-weight: 800; }
#header p { margin: .25rem 0 0; max-width: 56rem; }
.glyphs { float: right; font-size: 2.2rem; line-height: 1.5; }
.glyphs i { display: inline-block; margin: 0 .3rem; font-style: normal; paint-order: stroke;
  color: hsl(var(--hue) 80% 38%); -webkit-text-stroke: 7px hsl(var(--hue) 95% 78%); }
.glyphs i:nth-child(odd) { rotate: -12deg; }
.glyphs i:nth-child(even) { rotate: 9deg; }
button.primary, button.stop { border-radius: 999px !important; }
#examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(104px, 1fr));
  gap: 10px; align-items: stretch; contain: inline-size; }
#examples button { flex-direction: column; justify-content: flex-start; gap: 6px; min-width: 0;
  padding: 6px; font-size: .78rem; font-weight: 500; line-height: 1.25; }
#examples img { width: 100%; max-width: none; height: auto; aspect-ratio: 1; margin: 0;
  object-fit: cover; border-radius: 8px; }
#models { margin-top: -.5rem; }
#models button:is(.primary, .stop) { align-self: center; max-height: 3rem; }
.line progress { vertical-align: middle; accent-color: #e15f00; width: 12rem; max-width: 40%; }
.line { min-height: 1.6rem; font-variant-numeric: tabular-nums; }
.raw.boxes textarea, .raw.masks textarea { font-family: var(--font-mono); font-size: .8rem; }
.raw.text textarea { font-size: 1.15rem; }
.seen .mask { opacity: 1 !important; }
.prose table.found { width: auto; font-size: .85rem; font-variant-numeric: tabular-nums; }
.prose table.found, .prose table.found tr { border: 0; }
.prose table.found :is(td, th) { border: 0; padding: .15rem .5rem; text-align: right; }
.prose table.found :is(td, th):first-child { text-align: left; white-space: nowrap; }
.found i { display: inline-block; width: .8em; height: .8em; margin-right: .5em;
  border-radius: 3px; }
#heat img { max-height: 480px; object-fit: contain; }
.note { color: var(--body-text-color-subdued); }
@media (max-width: 700px) {
  .glyphs { float: none; font-size: 1.7rem; }
  #examples { display: flex; flex-wrap: nowrap; overflow-x: auto; }
  #examples button { flex: 0 0 104px; }
  footer .divider { display: none; }
}
"""
SHOW_TABS = """() => {
  if (innerWidth < 700) document.getElementById("tabs").scrollIntoView({behavior: "smooth"});
  return [];
}"""
SAVE = """(zip) => {
  const bytes = Uint8Array.from(atob(zip), (letter) => letter.charCodeAt(0));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes], {type: "application/zip"}));
  link.download = "found.zip";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  return [];
}"""
LOOK = {
    "theme": THEME, "css": CSS, "footer_links": ["api", "settings"], "run_history": False,
    "ssr_mode": False, "show_error": True, "max_file_size": "50mb",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the PaliGemma demo.")
    wish = lambda name: os.environ.get(f"PALIGEMMA_{name}") or None
    parser.add_argument(
        "--model", default=wish("MODEL"),
        help="a folder, an .npz or owner/model of the hub (default: the built-in model)",
    )  # fmt: skip
    parser.add_argument("--dtype", default=wish("DTYPE"), help="float32, bfloat16 or float16")
    parser.add_argument("--device", default=wish("DEVICE"), help="cpu, cuda, cuda:1, mps or auto")
    parser.add_argument("--tokenizer", help="a tokenizer.json, where the weights have none")
    parser.add_argument("--codec", help="the .npz of the mask codec, where the weights have none")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--share", action="store_true", help="a public link through gradio.live")
    args = parser.parse_args()
    try:
        pg = PaliGemma.load(args.model, args.device, args.dtype, args.tokenizer, args.codec)
    except ValueError as error:
        parser.exit(2, f"app.py: {error}\n")
    private = args.host in ("127.0.0.1", "localhost") and not args.share
    demo = build_app(Seat(pg, args.device, args.dtype, args.codec), own=private)
    demo.launch(server_name=args.host, server_port=args.port, share=args.share, **LOOK)


if __name__ == "__main__":
    main()
