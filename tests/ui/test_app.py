"""The demo over HTTP, as programs use it: every tab and sentence, hostile files, visitors."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import gradio as gr
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from hostile import ANSWERED, hostile_files
from PIL import Image
from scripted import Scripted

from paligemma.detections import Detection, parse
from paligemma.generation import SamplingOptions
from paligemma.pipeline import PaliGemma
from paligemma.tasks import TASKS
from paligemma.ui import app, common
from paligemma.ui.image_input import load_examples
from paligemma.ui.layout import EXAMPLES, build_app
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.results import DisplayOptions, annotated_image, objects_table
from paligemma.ui.settings import create_settings, sampling_options
from paligemma.ui.theme import LAUNCH_OPTIONS
from visualize.export import AnnotatedImage

SETTINGS = (128, 0, 0, 1, 0)
LOCS = ["<loc0000>", "<loc0512>", "<loc1023>", "<loc1023>"]
SEGS = [f"<seg{n:03d}>" for n in range(16)]
EVIL = '<img src=x onerror="alert(1)"> **bold**'
ANSWERS = {
    "caption en": ["a", " red", " cat"],
    "answer en what is it?": ["cat"],
    "answer en evil": [EVIL],
    "ocr": ["EXIT"],
    "detect cat ; dog": [*LOCS, " cat", " ;", *LOCS, " cat", " ;", *LOCS, " dog"],
    "detect nonsense": ["no", " box"],
    "detect evil": [*LOCS, " ", EVIL],
    "detect thin": [LOCS[0], LOCS[0], LOCS[0], LOCS[0], " thin"],
    "segment cat": [*LOCS, *SEGS, " cat", " ;", *LOCS, *SEGS[:3], " half"],
    "answer en count": [str(n) for n in range(100)],
}
VALUES = {
    "caption": [],
    "ask": ["what is it?"],
    "read": [],
    "detect": ["cat, dog"],
    "segment": ["cat"],
}
ODDLY_SHAPED = {"one_pixel", "one_wide_5000_high", "5000_wide_one_high", "megapixels_24"}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # gradio's use of pandas


@pytest.fixture(scope="module")
def pg():
    return Scripted(ANSWERS)


def launched(model):
    demo = build_app(ModelManager(model))
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **LAUNCH_OPTIONS)
    yield url
    demo.close()


@pytest.fixture(scope="module")
def url(pg):
    yield from launched(pg)


@pytest.fixture(scope="module")
def client(url):
    return Client(url, verbose=False)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    Image.new("RGB", (60, 40), "navy").save(path)
    return handle_file(path)


def ask(client, key, picture, *values, settings=SETTINGS):
    if key == "attention":
        return attend(client, picture, *values, settings)
    options = {
        "caption": ("en", "caption"),
        "ask": ("en",),
        "detect": (0, 1),
        "segment": (0, 1, 0.5, True),
    }.get(key, ())
    return client.predict(picture, *values, *options, *settings, api_name=f"/tab_{key}")


def error_message(client, key, picture, *values, settings=SETTINGS):
    with pytest.raises(AppError) as caught:
        ask(client, key, picture, *values, settings=settings)
    return str(caught.value)


def test_the_tabs(pg):
    demo = build_app(ModelManager(pg))
    tabs = [block.id for block in demo.blocks.values() if isinstance(block, gr.Tab)]
    tools = ["region", "attention", "compare", "batch", "how-it-works"]
    assert tabs == ["image", "draw", *TASKS, *tools]


def test_text_answers(client, picture):
    for key, text in ("caption", "a red cat"), ("ask", "cat"), ("read", "EXIT"):
        raw, *_, line = ask(client, key, picture, *VALUES[key])
        assert raw == text
        assert re.fullmatch(r"Done\. \d+\.\d\d s · \d+ tokens?( · \d+ tokens/s)?", line)


def test_boxes(client, picture):
    raw, *_, line = ask(client, "detect", picture, "cat, dog")
    assert raw.startswith("<loc0000><loc0512>")
    assert line.startswith("Found 3 objects.")
    shown, legend = annotated(parse(raw), [None] * 3)
    assert [name for _, name in shown] == ["cat", "cat", "dog"]
    assert set(legend) == {"cat", "dog"}
    alpha = shown[0][0]
    assert alpha.shape == (427, 640)
    assert alpha[200, 100] == 0, "outside"
    assert 0 < alpha[200, 480] < 0.25, "inside"
    assert alpha[200, 320] == 1, "on the outline"


def annotated(detections, masks, **display):
    """What the page is given to draw: its layers, and the legend."""
    size, options = (640, 427), DisplayOptions(**display)
    drawing = annotated_image(Image.new("RGB", size), detections, masks, options)
    return drawing.constructor_args["value"][1], drawing.constructor_args["color_map"]


def test_a_box_without_area_is_drawn():
    [(alpha, _)], _ = annotated([Detection("thin", (0.2, 0.2, 0.2, 0.2))], [None])
    assert alpha.max() > 0


def test_masks_and_a_box_without_enough_codes(pg, client, picture):
    raw, *_, line = ask(client, "segment", picture, "cat")
    assert line.startswith("Found 2 objects.")
    detections = parse(raw)
    (cat, _), (half, _) = annotated(detections, pg.masks(detections))[0]
    assert cat[213, 480] == pytest.approx(0.5), "a mask is half see-through"
    assert cat[5, 325] == 0, "the corner of the box is outside the disc"
    assert half[5, 325] > 0
    (cat, _), _ = annotated(detections, pg.masks(detections), opacity=0.8, outline=False)[0]
    assert set(np.unique(cat)) == {0, np.float32(0.8)}, "without an outline, as opaque as asked"


@pytest.mark.parametrize(
    ("key", "values", "line"),
    [
        ("ask", ["?"], "The model returned no text. "),
        ("detect", ["x"], "No objects found. "),
        ("segment", ["x"], "No objects found. "),
        ("detect", ["nonsense"], "No complete box: see the raw output. "),
    ],
)
def test_status_of_empty_answers(client, picture, key, values, line):
    assert ask(client, key, picture, *values)[-1].startswith(line)


def test_attention(client, picture):
    tokens, layer, drawing, scale, description, sheet, *_, line = attend(
        client, picture, "caption en"
    )
    assert tokens["choices"] == [["1 a", 0], ["2 red", 1], ["3 cat", 2]]
    assert layer["maximum"] == 2 and layer["interactive"]
    assert Image.open(drawing).size == (640, 427)
    assert "36% of this token's attention is on the picture" in description
    assert Image.open(sheet).height > 2 * 8 and scale["visible"]
    assert line.startswith("Done.")
    assert "returned no text" in attend(client, picture, "anything")[-1]


def attend(client, picture, prompt, settings=SETTINGS):
    return client.predict(picture, prompt, "middle", 0.5, *settings, api_name="/tab_attention")


@pytest.mark.parametrize(
    ("key", "values", "settings", "message"),
    [
        ("ask", [""], SETTINGS, "Ask needs a question about the picture"),
        ("ask", [None], SETTINGS, "Ask needs a question about the picture"),
        ("detect", [" ; , "], SETTINGS, "Detect needs objects to find"),
        ("attention", [" "], SETTINGS, "There is no prompt yet: write one, such as detect cat."),
        ("read", [], (0, 0, 0, 1, 0), "max_new_tokens is a whole number from 1 to 512, not 0."),
        ("read", [], (9, -1, 0, 1, 0), "temperature is 0 or from 0.001 to 100, not -1."),
        ("read", [], (9, 0, 0, 1, -1), "seed is a whole number from 0 to 2**63 - 1, not -1."),
        ("caption", [5, "cap"], SETTINGS, "Caption takes text, not '' in 5."),
    ],
)
def test_bad_requests_get_one_sentence(client, picture, key, values, settings, message):
    assert error_message(client, key, picture, *values, settings=settings).startswith(message)


def test_no_image(client):
    for key, values in [*VALUES.items(), ("attention", ["ocr"])]:
        message = "There is no picture yet: upload one, paste one, or pick an example."
        assert error_message(client, key, None, *values) == message


def test_a_cleared_setting_has_its_default():
    assert sampling_options(seed=None, top_k=3) == SamplingOptions(top_k=3)


def test_only_uploads_and_examples_are_opened(client, picture, tmp_path):
    """Gradio checks the paths of declared files; a program may send anything."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8), "red").save(secret)
    for path in str(secret), "/etc/passwd", "x" * 5000, f"{tmp_path}/../secret.png", "\0":
        for key, values in ("read", []), ("attention", ["ocr", "middle", 0.5]):
            with pytest.raises(AppError, match=r"no picture of this page|has no NUL"):
                client.predict({"path": path}, *values, *SETTINGS, api_name=f"/tab_{key}")


def test_a_deleted_upload(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with pytest.raises(ValueError, match="deleted, as all are after two hours: upload it again"):
        common.upload_path({"path": str(tmp_path / "gone.png")})


def test_model_text_stays_text(client, picture):
    assert ask(client, "ask", picture, "evil")[0] == EVIL
    raw, *_, line = ask(client, "detect", picture, "evil")
    assert EVIL in raw
    shown = objects_table(AnnotatedImage("", 9, 9, parse(raw), [None]), "")
    assert "&lt;img" in shown and "<img" not in shown
    assert EVIL not in line, "the line is Markdown"


@pytest.mark.slow
def test_every_hostile_file_ends_in_an_answer_or_a_sentence(client, picture, tmp_path):
    outcomes = {}
    files = hostile_files(tmp_path)
    for name, path in files.items():
        if path.is_file():  # clients upload nothing else
            key = "detect" if name in ODDLY_SHAPED else "caption"
            try:
                outcomes[name] = ask(client, key, handle_file(path), *VALUES[key])[-1]
            except AppError as error:
                outcomes[name] = str(error)
    for name, message in outcomes.items():
        assert re.fullmatch(r"\S[^\n]+ [^\n]+", message) and len(message) < 300, name
        assert "Error" not in message and "Traceback" not in message, name
        assert message.startswith(("Found", "Done.")) == (name in ANSWERED), (name, message)
    assert len(outcomes) >= 50
    assert ask(client, "caption", picture)[0] == "a red cat", "the app goes on"


def test_closing_the_run_stops_the_model(picture):
    pg = Scripted(ANSWERS, pause=0.05)
    server = launched(pg)
    client = Client(next(server), verbose=False)
    job = client.submit(picture, "count", "en", *SETTINGS, api_name="/tab_ask")
    while len(job.outputs()) < 5:
        time.sleep(0.02)
    seen = len(job.outputs())
    job.cancel()
    deadline = time.monotonic() + 10
    while not pg.log and time.monotonic() < deadline:
        time.sleep(0.02)
    [(prompt, given, end)] = pg.log
    assert (prompt, end) == ("answer en count", "closed")
    assert given < seen + 10 < 100, "within a few tokens, the way of the request included"
    assert ask(client, "read", picture)[0] == "EXIT"
    server.close()


@pytest.mark.slow
def test_visitors_get_their_own_answers(url, tmp_path):
    def visit(n):
        path = tmp_path / f"{n}.png"
        Image.new("RGB", (100 + n, 100), "navy").save(path)
        client, picture = Client(url, verbose=False), handle_file(path)
        raw, *_ = ask(client, "detect", picture, ("cat, dog", "thin")[n % 2])
        _, _, drawing, *_ = ask(client, "attention", picture, ("ocr", "caption en")[n % 2])
        assert Image.open(drawing).size == (640, round(640 * 100 / (100 + n)))
        return raw[-4:].strip()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(visit, range(4))) == ["dog", "thin"] * 2


def test_the_examples():
    if not (EXAMPLES / "prompts.json").exists():
        pytest.skip("examples/prompts.json is not there")
    examples = load_examples(EXAMPLES)
    assert len(examples) >= 8
    assert {example.task for example in examples} == set(TASKS)
    for example in examples:
        assert TASKS[example.task].prompt(example.text)
        assert Image.open(example.image).mode == "RGB"


def test_without_examples_the_page_still_builds(pg, tmp_path):
    for folder in tmp_path, tmp_path / "missing":
        assert build_app(ModelManager(pg), examples=folder)


def test_command_line(pg, monkeypatch):
    seen = {}
    monkeypatch.setattr(PaliGemma, "load", lambda *given: seen.update(given=given) or pg)
    monkeypatch.setenv("PALIGEMMA_DTYPE", "bfloat16")
    monkeypatch.setattr(gr.Blocks, "launch", lambda self, **options: seen.update(options))
    app.main(["--model", "folder", "--port", "1234", "--share"])
    assert seen["given"] == ("folder", None, "bfloat16", None, None, None, None)
    assert (seen["server_port"], seen["share"]) == (1234, True)
    assert seen["server_name"] == "127.0.0.1"


@pytest.mark.slow
def test_the_built_in_model_answers_in_every_tab():
    server = launched(PaliGemma.load())
    client = Client(next(server), verbose=False)
    for example in load_examples(EXAMPLES):
        values = [example.text] if TASKS[example.task].needs else []
        raw, *_, line = ask(client, example.task, handle_file(example.image), *values)
        assert raw and line.startswith(("Done.", "Found"))
    image = handle_file(load_examples(EXAMPLES)[0].image)
    tokens, _, _, _, description, *_ = ask(client, "attention", image, "caption en")
    assert tokens["choices"] and "of this token's attention" in description
    server.close()


def test_settings_are_the_fields_of_sampling_options(pg):
    settings = create_settings()
    assert {name: part.value for name, part in settings.items()} == asdict(SamplingOptions())
