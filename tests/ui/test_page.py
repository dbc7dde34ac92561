"""The parts of the page, as programs use them: regions, comparisons, batches, links, endpoints."""

import asyncio
import gc
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from base64 import b64encode
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from weakref import ref

import gradio as gr
import numpy as np
import pytest
import scripted
import tiny
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from pycocotools import mask as rle
from scripted import Scripted

from paligemma import fetch
from paligemma.checkpoints.resolve import BUILT_IN_FOLDER
from paligemma.detections import parse
from paligemma.generation import SamplingOptions
from paligemma.interpret.anatomy import MAX_MASK_IMAGE_TOKENS, request_mask
from paligemma.pipeline import PaliGemma
from paligemma.tasks import LANGUAGES, TASKS
from paligemma.ui import app, attention_maps, image_input, results, url_state
from paligemma.ui import layout as layout_module
from paligemma.ui.layout import EXAMPLES, Layout, build_app
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.page import LastRequest, Page, header_html
from paligemma.ui.settings import create_settings
from paligemma.ui.tabs import attention, batch, compare, how_it_works, region
from paligemma.ui.tabs.task import TaskTab
from paligemma.ui.theme import LAUNCH_OPTIONS
from visualize import paste_mask
from visualize.anatomy import draw_attention_mask, draw_model, draw_tokens

ROOT = Path(app.__file__).parents[2]
LOCS = ["<loc0000>", "<loc0512>", "<loc1023>", "<loc1023>"]
SEGS = [f"<seg{n:03d}>" for n in range(16)]
ANSWERS = {
    "caption en": ["a", " red", " cat"],
    "cap de": ["eine", " Katze"],
    "answer fr what is it?": ["un", " chat"],
    "question en cat": ["what", " is", " it?"],
    "ocr": ["EXIT"],
    "detect cat": [*LOCS, " cat"],
    "segment cat": [*LOCS, *SEGS, " cat"],
    "caption en <loc0256><loc0256><loc0767><loc0512>": ["a", " red", " box"],
}
ENDPOINTS = ["caption", "ask", "read", "detect", "segment", "region", "question", "generate"]
SETTINGS = (128, 0, 0, 1, 0)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # gradio's use of pandas


@pytest.fixture(scope="module", autouse=True)
def uploads(tmp_path_factory):
    """What the tests write counts as uploaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.getbasetemp()))
        yield


@pytest.fixture(scope="module")
def pg():
    return Scripted(ANSWERS)


@pytest.fixture(scope="module")
def url(pg):
    demo = build_app(ModelManager(pg))
    launched = demo.launch(prevent_thread_lock=True, quiet=True, mcp_server=True, **LAUNCH_OPTIONS)
    url = launched[1]
    yield url
    demo.close()


@pytest.fixture(scope="module")
def client(url):
    return Client(url, verbose=False)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    Image.new("RGB", (60, 40), "navy").save(path)
    return path


@pytest.fixture
def page(pg):
    return empty_page(ModelManager(pg))


@pytest.fixture
def layout(pg):
    with gr.Blocks() as demo:
        return Layout(demo, ModelManager(pg), image_input.load_examples(EXAMPLES))


@pytest.fixture
def region_tab(page):
    with gr.Blocks(), gr.Tabs():
        return region.RegionTab(page)


def empty_page(models):
    with gr.Blocks():
        return Page(models, gr.HTML(), gr.Image(), gr.State(), gr.Textbox(), create_settings())


# ------------------------------------------------------------------------------------- endpoints


def test_every_task_is_an_endpoint_with_a_docstring(client):
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert [name.strip("/") for name in named] == ENDPOINTS
    for name, endpoint in named.items():
        assert endpoint["description"], name
        assert endpoint["parameters"][0]["parameter_name"] == "image"


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("caption", {"style": "caption"}, "a red cat"),
        ("caption", {"style": "cap", "language": "de"}, "eine Katze"),
        ("ask", {"question": "what is it?", "language": "fr"}, "un chat"),
        ("read", {}, "EXIT"),
        ("region", {"x1": 0.25, "y1": 0.25, "x2": 0.5, "y2": 0.75}, "a red box"),
        ("question", {"answer": "cat"}, "what is it?"),
        ("generate", {"prompt": "caption en", "max_new_tokens": 2}, "a red"),
        ("caption", {"max_new_tokens": 2}, "a red"),
        ("detect", {"objects": "cat", "max_new_tokens": 1}, "<loc0000>"),
        ("read", {"max_new_tokens": 1}, "EXIT"),
    ],
)
def test_endpoints_return_text(client, path, name, values, text):
    answer = client.predict(image=handle_file(path), **values, api_name=f"/{name}")
    assert answer["text"] == text
    assert (answer["width"], answer["height"]) == (60, 40)
    assert answer["model"] == Scripted.name and answer["detections"] == []
    is_cut = "max_new_tokens" in values and text != "EXIT"
    assert answer["finish_reason"] == ("length" if is_cut else "stop")


def test_endpoints_return_boxes_and_masks(client, path, pg):
    answer = client.predict(image=handle_file(path), objects="cat", api_name="/detect")
    [cat] = answer["detections"]
    assert cat["label"] == "cat" and cat["box"] == pytest.approx([30.03, 0, 60, 40], abs=0.01)
    answer = client.predict(image=handle_file(path), objects="cat", api_name="/segment")
    [cat] = answer["detections"]
    [true] = parse(answer["text"])
    area = paste_mask(pg.masks([true])[0], true.box, 60, 40)
    assert (rle.decode(cat["mask"]).astype(bool) == area).all()


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("ask", {"question": " "}, "Ask needs a question"),
        ("caption", {"language": "<loc0001>"}, "A language is a code"),
        ("region", {"x1": 0.5, "y1": 0, "x2": 0.2, "y2": 1}, "A box has 0"),
    ],
)
def test_endpoints_refuse_bad_values(client, path, name, values, message):
    with pytest.raises(AppError, match=message):
        client.predict(image=handle_file(path), **values, api_name=f"/{name}")


@pytest.mark.parametrize("most", [None, "many", 513])
def test_max_new_tokens_out_of_bounds(client, path, most):
    with pytest.raises(AppError, match="max_new_tokens is a whole number from 1 to 512, not "):
        client.predict(handle_file(path), "ocr", most, api_name="/generate")


@pytest.mark.parametrize("image", [None, {"path": "/etc/hosts"}, {"path": str(ROOT / "README.md")}])
def test_endpoints_read_uploads_only(client, image):
    with pytest.raises(AppError, match=r"send one as a file|no picture of this page"):
        client.predict(image=image, api_name="/read")


def test_endpoints_take_data_urls(client, path):
    data = f"data:image/png;base64,{b64encode(path.read_bytes()).decode()}"
    for image in data, {"url": data}:
        assert client.predict(image=image, api_name="/read")["text"] == "EXIT"
    with pytest.raises(AppError, match="base64 of this data URL is damaged"):
        client.predict(image="data:image/png;base64,%%%", api_name="/read")


def test_endpoints_of_a_private_app_take_addresses_of_public_hosts(client, path, monkeypatch):
    read = partial(client.predict, api_name="/read")
    sent = "http://127.0.0.1:1/a.png"
    for image in sent, {"url": sent}, handle_file(sent):
        with pytest.raises(AppError, match=r"127\.0\.0\.1 is not a host of the public internet"):
            read(image=image)
    monkeypatch.setattr(fetch, "_get", lambda address, *_: path.read_bytes())
    assert read(image=handle_file("https://example.com/a.png"))["text"] == "EXIT"


def test_endpoints_of_a_public_app_fetch_no_address(pg, path, monkeypatch):
    monkeypatch.setattr(fetch, "_get", lambda *_: path.read_bytes())
    demo = build_app(ModelManager(pg, any_model=False))
    read = next(each.fn for each in demo.fns.values() if each.api_name == "read")
    for image in "https://example.com/a.png", {"url": "HTTPS://example.com/a.png"}:
        with pytest.raises(ValueError, match="This app is not private, so it fetches no address"):
            read(image)
    data = f"data:image/png;base64,{b64encode(path.read_bytes()).decode()}"
    assert read(data)["text"] == "EXIT"


def test_a_path_sent_as_a_file_must_be_an_upload(client):
    """Refused by Gradio: it lies outside the folder of uploads."""
    claimed = {"path": str(BUILT_IN_FOLDER / "config.json"), "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(AppError):
        client.predict(image=claimed, api_name="/read")


def test_an_mcp_client_finds_and_calls_the_tools(url, path):
    mcp = pytest.importorskip("mcp", reason="the mcp package is not installed")
    from mcp.client.streamable_http import streamablehttp_client

    async def visit():
        async with (
            streamablehttp_client(f"{url}gradio_api/mcp/") as (read, write, _),
            mcp.ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            [detect] = [tool for name, tool in tools.items() if name.endswith("detect")]
            sent = f"data:image/png;base64,{b64encode(path.read_bytes()).decode()}"
            result = await session.call_tool(detect.name, {"image": sent, "objects": "cat"})
            return tools, detect, result

    tools, detect, result = asyncio.run(visit())
    assert {name.split("_")[-1] for name in tools} == set(ENDPOINTS)
    schema = detect.inputSchema
    assert schema["properties"]["image"]["type"] == "string"
    assert "separated by semicolons" in schema["properties"]["objects"]["description"]
    assert schema["required"] == ["image", "objects"]
    assert not result.isError and "<loc0000>" in result.content[0].text


# ---------------------------------------------------------------------------------------- region


@pytest.mark.parametrize("text", ["10, 20, 50, 60", "50 20 10 60", "50;60 10;20.0"])
def test_any_two_opposite_corners_make_a_box(text):
    assert region.read_box(text) == (0.1, 0.2, 0.5, 0.6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no box yet"),
        (None, "no box yet"),
        ("10, 20, 50", "no box yet"),
        ("10, 10, 10.5, 90", "too thin"),
        ("-1, 10, 20, 30", "0 to 100 per cent"),
        ("0, 10, 20, 130", "0 to 100 per cent"),
    ],
)
def test_invalid_boxes_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        region.read_box(text)


def test_two_clicks_make_a_box_and_a_third_starts_another(path):
    file = {"path": str(path)}
    click = lambda first, x, y: region.add_corner(
        file, first, gr.SelectData(None, {"index": [x, y], "value": None})
    )
    drawn, first, box = click(None, 320, 213)
    assert (first, box) == ((0.5, 213 / 427), "")
    assert drawn.size == (640, 427) and drawn.getpixel((320, 213)) != (0, 0, 128)
    drawn, first, box = click(first, 64, 64)
    assert (first, box) == (None, "10.0, 15.0, 50.0, 49.9")
    assert drawn.getpixel((200, 64)) != (0, 0, 128)
    assert click(None, 9, 9)[2] == ""
    written, _ = region.start_box(file, "10, 15, 50, 50")
    assert written.getpixel((200, 64)) != (0, 0, 128)
    assert region.start_box(file, "10, 15")[0].getpixel((200, 64)) == (0, 0, 128)
    dotted, first = region.follow_box(file, (0.1, 0.15), "")
    assert first == (0.1, 0.15) and dotted.getpixel((64, 64)) != (0, 0, 128)
    drawn, first = region.follow_box(file, (0.1, 0.15), "10, 15, 50, 50")
    assert first is None and drawn.getpixel((200, 64)) != (0, 0, 128)


def test_region_and_question_prompts(page, path, region_tab):
    tab, file = region_tab, {"path": str(path)}
    ask = lambda box, way, reply: list(tab.run(page, file, box, way, reply, "en"))[-1]
    shown = ask("25, 25, 50, 75", "region", "")
    assert shown[tab.raw] == "a red box" and shown[tab.controls.status].startswith("Done.")
    assert shown[page.last_request] == (list(ANSWERS)[-1], ["a", " red", " box"])
    assert ask("", "question", "cat")[tab.raw] == "what is it?"
    with pytest.raises(ValueError, match="no box yet"):
        ask("", "region", "")
    with pytest.raises(ValueError, match="Question needs the answer"):
        ask("", "question", " ")


# ------------------------------------------------------------------------------- answers cut off


def test_a_cut_answer_is_continued_where_it_was_cut(pg, page, path):
    with gr.Blocks(), gr.Tabs():
        tab = TaskTab(page, TASKS["ask"])
    controls, buttons, file = tab.controls, tab.answer_buttons, {"path": str(path)}
    two, asked = {"max_new_tokens": 2}, {"text": "long", "language": "en"}
    pg.answers["answer en long"] = ["0", "1", "2", "3", "4"]
    *_, first = tab.answer(page, file, **asked, **two, history=[("earlier", "yes")])
    assert first[tab.raw] == "01" and first[buttons.resume.button].visible
    assert first[controls.status].startswith("Not complete.")
    assert "cut off at 2 tokens" in first[controls.status]
    assert first[tab.history] == [("earlier", "yes"), ("long", "01")]
    *_, second = tab.continue_answer(page, first[buttons.answer], history=first[tab.history], **two)
    assert second[tab.raw] == "0123" and "cut off at 4 tokens" in second[controls.status]
    *_, last = tab.continue_answer(page, second[buttons.answer], history=second[tab.history], **two)
    assert last[tab.raw] == "01234" and last[controls.status].startswith("Done.")
    assert not last[buttons.answer].is_cut_off and not last[buttons.resume.button].visible
    assert last[tab.history] == [("earlier", "yes"), ("long", "01234")]


def test_objects_that_a_limit_cut_off_are_added(page, path):
    with gr.Blocks(), gr.Tabs():
        tab = TaskTab(page, TASKS["detect"])
    display = {name: None for name in tab.objects.display}
    asked = {"text": "cat", "max_new_tokens": 3} | display
    *_, first = tab.answer(page, {"path": str(path)}, **asked)
    assert first[tab.controls.status].startswith("No complete box")
    *_, whole = tab.continue_answer(page, first[tab.answer_buttons.answer], **display)
    assert whole[tab.controls.status].startswith("Found 1 object.")
    assert [found.label for found in whole[tab.objects.answer].detections] == ["cat"]


def test_a_described_region_is_continued(page, path, region_tab):
    tab, file = region_tab, {"path": str(path)}
    *_, first = tab.run(page, file, "25 25 50 75", "region", "", "en", max_new_tokens=1)
    *_, whole = tab.continue_answer(page, first[tab.answer_buttons.answer])
    assert first[tab.raw] == "a" and whole[tab.raw] == "a red box"


def test_a_cut_answer_is_continued_before_it_is_explained(page, path):
    with gr.Blocks(), gr.Tabs():
        tab = attention.AttentionTab(page)
    file, shown = {"path": str(path)}, {"view": "middle", "opacity": 0.5}
    first = last_of(tab.explain(page, file, "caption en", **shown, max_new_tokens=2))
    assert first[tab.resume.button].visible and len(first[tab.tokens].choices) == 2
    whole = last_of(tab.continue_answer(page, first[tab.resume.answer], **shown))
    assert not whole[tab.resume.button].visible and len(whole[tab.tokens].choices) == 3
    assert whole[tab.answer].token_texts == ["a", " red", " cat"]
    assert whole[tab.controls.status].startswith("Done.")
    with pytest.raises(ValueError, match="to continue here: press Show attention again"):
        list(tab.continue_answer(page, whole[tab.resume.answer], **shown))


def test_the_compared_answers_that_were_cut_are_continued(page, path, pg, monkeypatch):
    with gr.Blocks(), gr.Tabs():
        tab = compare.CompareTab(page)
    others = [Scripted({"caption en": ["a", " red"]})]
    monkeypatch.setattr(page.models, "load_comparison", lambda *_: others[0])
    file, asked = {"path": str(path)}, ("caption en", None, "bfloat16")
    first = last_of(tab.compare(page, file, *asked, max_new_tokens=2))
    assert first[tab.controls.status] == "Same answer so far." and first[tab.resume.button].visible
    asks = len(others[0].log)
    whole = last_of(tab.continue_answers(page, first[tab.resume.answer]))
    assert whole[tab.controls.status] == "Different answers."
    assert "<td>a red cat</td><td>a red</td>" in whole[tab.table]
    assert not whole[tab.resume.button].visible
    assert len(others[0].log) == asks, "its answer was whole"
    others.clear()
    gc.collect()
    with pytest.raises(ValueError, match="no longer loaded: press Compare again"):
        list(tab.continue_answers(page, first[tab.resume.answer]))


def test_there_is_nothing_to_continue(page, pg, path, region_tab):
    with pytest.raises(ValueError, match="no answer to continue here: press Run again"):
        list(region_tab.continue_answer(page, None))
    *_, first = region_tab.run(
        page, {"path": str(path)}, "25 25 50 75", "region", "", "en", max_new_tokens=1
    )
    page.models.current = Scripted(ANSWERS)
    with pytest.raises(ValueError, match="Another model was loaded since: press Run again"):
        list(region_tab.continue_answer(page, first[region_tab.answer_buttons.answer]))


# ------------------------------------------------------------------------------- notes and names


@pytest.fixture
def knowing(pg, monkeypatch):
    """The scripted model as one that knows some names and one spelling."""
    monkeypatch.setattr(Scripted, "is_built_in", True)
    monkeypatch.setattr(Scripted, "known_names", ("cat", "moon"))
    return pg


def last_of(updates):
    """What a handler's updates leave on the screen; of Markdown, the text."""
    screen = {}
    for each in updates:
        screen |= each
    markdown = [part for part in screen if isinstance(part, gr.Markdown)]
    return screen | {part: (screen[part] or "").replace("\\", "") for part in markdown}


def test_unknown_names_are_named(knowing, layout, path):
    tab, file = layout.task_tabs["detect"], {"path": str(path)}
    display = dict.fromkeys(tab.objects.display)
    line = last_of(tab.answer(layout.page, file, text="Woman.", **display))[tab.controls.status]
    assert line.startswith("No objects found.") and "does not know “woman”" in line
    assert "Asked as: detect woman" in line
    line = last_of(tab.answer(layout.page, file, text="cat", **display))[tab.controls.status]
    assert line.startswith("Found 1 object.") and "know" not in line and "Asked" not in line
    line = last_of(tab.answer(layout.page, file, text="woman, Cat", **display))[tab.controls.status]
    assert line.startswith("Found 1 object.") and "does not know “woman”" in line
    assert line.endswith("Asked as: detect cat")
    shown = layout.show_model()
    assert 'data-tab="detect"' in shown[tab.names].value and "(2)" in shown[tab.names].value
    assert 'data-name="moon"' in shown[layout.input.names]
    assert shown[layout.task_tabs["ask"].language].info == "The built-in model knows English only."


def test_other_models_get_what_was_written(layout, path, pg):
    pg.answers["detect Woman."] = ["yes"]
    tab = layout.task_tabs["detect"]
    display = dict.fromkeys(tab.objects.display)
    screen = last_of(tab.answer(layout.page, {"path": str(path)}, text="Woman.", **display))
    assert screen[tab.raw] == "yes" and "know" not in screen[tab.controls.status]
    shown = layout.show_model()
    assert not shown[tab.names].visible and shown[layout.task_tabs["ask"].language].interactive


@pytest.mark.parametrize(
    ("name", "values", "note"),
    [
        ("detect", {"objects": "Woman"}, "does not know “woman”"),
        ("caption", {"style": "caption"}, None),
        ("caption", {"style": "cap"}, None),
        ("caption", {"language": "de"}, "was not trained on “caption de”"),
        ("generate", {"prompt": "moon"}, "likely meant as: detect moon"),
    ],
)
def test_endpoints_say_what_is_unknown(knowing, client, path, name, values, note):
    notes = client.predict(image=handle_file(path), **values, api_name=f"/{name}")["notes"]
    assert any(note in each for each in notes) if note else notes == []


def test_a_raw_prompt_without_a_task_is_explained(page, path, pg):
    with gr.Blocks(), gr.Tabs():
        tab = attention.AttentionTab(page)
    explain = lambda prompt: last_of(tab.explain(page, {"path": str(path)}, prompt, "middle", 0.5))
    screen = explain("cat")
    assert screen[tab.likely].value == "detect cat" and screen[tab.likely].visible
    assert "likely meant as: detect cat" in screen[tab.controls.status]
    screen = explain("caption en")
    assert not screen[tab.likely].visible and screen[tab.controls.status].startswith("Done.")


def test_an_answer_leads_to_its_attention(layout, path):
    tab = layout.task_tabs["detect"]
    display = dict.fromkeys(tab.objects.display)
    screen = last_of(tab.answer(layout.page, {"path": str(path)}, text="cat", **display))
    assert screen[tab.answer_buttons.attend].visible
    shown = layout.show_attention(screen[tab.answer_buttons.answer])
    assert shown[layout.attention.prompt] == "detect cat"
    assert shown[layout.tab_bar].selected == "attention"


def test_every_tab_shows_what_was_answered_and_nothing_else(layout, path, pg):
    """Success, failure, stop, empty, another picture, another model: compared with the screen."""
    page, file = layout.page, {"path": str(path)}
    pg.answers["answer en cat"] = ["y", "es"]
    region_tab, explorer = layout.region, layout.attention
    runs = {region_tab: lambda image, text: region_tab.run(
        page, image, text and "25, 25, 50, 75", "region", "", "en"
    )}  # fmt: skip
    runs[explorer] = lambda image, text: explorer.explain(
        page, image, text and "caption en", "middle", 0.5
    )
    defaults = {"language": "en", "style": "caption"}
    for tab in layout.task_tabs.values():
        inputs = {name: defaults[name] for name in tab.inputs if name != "text"}
        inputs |= dict.fromkeys(tab.objects.display) if tab.objects else {}
        runs[tab] = lambda image, text, tab=tab, inputs=inputs: tab.answer(
            page, image, **inputs, **({"text": text} if tab.text else {})
        )
    for tab, run in runs.items():
        status, screen = tab.controls.status, {}

        def is_blank(screen, tab=tab):
            shown = screen[tab.raw] if hasattr(tab, "raw") else screen[tab.drawing]
            objects = getattr(tab, "objects", None)
            states = (
                [screen[tab.answer_buttons.answer]] if hasattr(tab, "raw") else [screen[tab.answer]]
            )
            states += [screen[objects.answer]] if objects else []
            return not shown and states == [None] * len(states)

        screen |= last_of(run(file, "cat"))
        assert screen[status].startswith(("Done.", "Found")) and not is_blank(screen), tab.key
        with pytest.raises(ValueError, match="no picture yet"):
            for updates in run(None, "cat"):
                screen |= updates
        assert is_blank(screen), f"{tab.key}: a failure leaves no former answer"
        screen |= last_of(run(file, "cat"))
        stream = run(file, "cat")
        for _, updates in zip(range(2), stream, strict=False):
            screen |= updates
        stream.close()
        if hasattr(tab, "raw"):
            assert screen[tab.answer_buttons.answer] is None, (
                f"{tab.key}: a stopped answer is not whole"
            )
        if getattr(tab, "text", None):
            screen |= last_of(run(file, "unknown")) if tab is not region_tab else {}
            assert tab is region_tab or screen[tab.raw] == ""
        screen |= last_of(run(file, "cat"))
        screen |= layout.take_upload(file)
        assert is_blank(screen) and not screen[status], f"{tab.key}: another picture"
        screen |= last_of(run(file, "cat"))
        screen |= layout.reset_after_switch()
        assert is_blank(screen) and not screen[status], f"{tab.key}: another model"
        assert screen[page.header] == header_html(layout.models)


def test_a_random_scene_is_a_new_picture_that_the_built_in_model_knows(layout, monkeypatch):
    source, pictures = layout.input, set()
    seeds = iter((3, 4))
    monkeypatch.setattr(image_input.secrets, "randbelow", lambda limit: next(seeds))
    for _ in range(2):
        updates = layout.take_random_scene()
        pictures.add(updates[source.image])
        assert not updates[source.note] and not updates[source.open_models].visible
        assert updates[source.tabs].selected == "image", "it is seen where it was asked for"
        assert set(layout.tab_outputs) <= updates.keys(), "no former answer stays beside it"
        assert all(updates[button].interactive for button in layout.page.run_buttons)
    assert len(pictures) == 2 and pictures <= layout_module.temp_files(layout.demo)
    assert {Image.open(path).size for path in pictures} == {(512, 512)}
    button = layout.input.random_scene
    assert layout.show_model()[button].visible == layout.models.loaded.is_built_in


def test_the_inside_of_the_model_is_not_shown_of_a_former_one(layout):
    tab, updates = layout.how_it_works, layout.reset_after_switch()
    assert updates[tab.diagram] == "Another model was loaded: open this tab again."
    assert updates[tab.tokens] == "There was no request yet." and not updates[tab.mask].visible


def test_no_former_comparison_or_batch_stays_beside_a_failure(page, path):
    with gr.Blocks(), gr.Tabs():
        tab = compare.CompareTab(page)
    prepared = tab.resolve(page, "nowhere/at all", "bfloat16", {"path": str(path)}, "ocr")
    screen = next(prepared)
    assert not screen[tab.table] and not screen[tab.slider].visible
    assert screen[tab.checkpoint] is screen[tab.resume.answer] is None
    with pytest.raises(ValueError):
        list(prepared)
    run = batch.run_batch(page, None, "ocr")
    gallery, table, save, _ = next(run)
    assert table == "" and not gallery.visible and not save.visible
    with pytest.raises(ValueError, match="no pictures yet"):
        list(run)


# ---------------------------------------------------------------------------- results, attention


def test_no_export_without_a_complete_answer():
    for take in results.objects_csv, lambda *given: next(results.objects_zip(*given)):
        with pytest.raises(ValueError, match="run this tab first"):
            take(None, 0, 1)


def test_a_view_that_was_not_computed_is_refused(path, tmp_path):
    pg, image = PaliGemma.load(tiny.write(tmp_path / "little")), Image.open(path)
    reply = pg.generate(image, "detect cat", SamplingOptions(max_new_tokens=2))
    seen = pg.explain_reply(image, "detect cat", reply, ("middle",))
    store = attention_maps.ExplanationStore()
    answer = attention_maps.ExplainedAnswer(str(path), "detect cat", ref(pg), store)
    store.put(answer, seen)
    shown_map, drawn, _, _, _ = attention_maps.show_token(answer, 1, "middle", 0, 0.5)
    assert drawn.size == (640, 427)
    former = attention_maps.show_token(answer, 99, "middle", 0, 0.5)[1]
    assert former == attention_maps.show_token(answer, 0, "middle", 0, 0.5)[1], (
        "a former answer's token"
    )
    clicked = SimpleNamespace(index=(639, 0))
    side = seen.heads.shape[-1]
    assert f"Row 1, column {side}" in attention_maps.tokens_at_patch(shown_map, "middle", clicked)
    for ask in (
        lambda: attention_maps.show_token(answer, 0, "gradient", 0, 0.5),
        lambda: attention_maps.tokens_at_patch(shown_map, "gradient", clicked),
        lambda: list(attention_maps.draw_answer(answer, "gradient", 0.5)),
    ):
        with pytest.raises(ValueError, match="“Attention × gradient” is not computed yet"):
            ask()


def test_maps_of_another_model_are_refused(page, path, tmp_path, monkeypatch):
    """A map is of the model that computed it: another model has another grid."""
    pg, other = (PaliGemma.load(tiny.write(tmp_path / name)) for name in ("one", "two"))
    clicked = SimpleNamespace(index=(5, 5))
    page.models.current = pg
    reply = pg.generate(path, "detect cat", SamplingOptions(max_new_tokens=2))
    store = attention_maps.ExplanationStore()
    answer = attention_maps.ExplainedAnswer(str(path), "detect cat", ref(pg), store)
    store.put(answer, pg.explain_reply(path, "detect cat", reply))
    shown_map = attention_maps.show_token(answer, 0, "mean", 0, 0.5)[0]
    assert attention.tower_at_patch(page, shown_map, clicked)
    page.models.current = other
    for ask in (
        lambda: attention.tower_at_patch(page, shown_map, clicked),
        lambda: attention.change_view(page, answer, 0, "gradient", 0, 0.5),
    ):
        with pytest.raises(ValueError, match="Another model was loaded since"):
            ask()
    page.models.current = pg
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="was stopped"):
        patch.setattr("paligemma.ui.model_run.client_has_gone", lambda: True)
        attention.change_view(page, answer, 0, "gradient", 0, 0.5)
    attention.change_view(page, answer, 0, "gradient", 0, 0.5)
    assert "gradient" in answer.explanation.maps


def test_the_map_of_a_word_belongs_to_no_answer(page, path, tmp_path):
    page.models.current = PaliGemma.load(tiny.write(tmp_path / "one"))
    shown_map, drawn, _, description, *_ = attention.compare_word(
        page, {"path": str(path)}, "cat", 0.5
    )
    assert "each patch and “cat”" in description and drawn.size == (640, 427)
    clicked = SimpleNamespace(index=(5, 5))
    assert attention_maps.tokens_at_patch(shown_map, "mean", clicked) == ""
    assert attention.tower_at_patch(page, shown_map, clicked)
    assert np.any(np.asarray(attention_maps.change_opacity(shown_map, 1.0)) != np.asarray(drawn))
    assert attention_maps.change_opacity(None, 1.0) is None


# --------------------------------------------------------------------------------------- compare


@pytest.mark.slow
def test_two_precisions_side_by_side(tmp_path):
    models = ModelManager(PaliGemma.load())
    page = empty_page(models)
    with gr.Blocks(), gr.Tabs():
        tab = compare.CompareTab(page)
    shown = {"path": shutil.copy(EXAMPLES / "harbour.png", tmp_path)}

    def run(prompt, checkpoint, dtype):
        screen = last_of(tab.compare(page, shown, prompt, checkpoint, dtype))
        return screen[tab.table], screen[tab.slider], screen[tab.controls.status]

    sides = models.resolve_comparison("built-in")
    table, slider, line = run("detect anchor", sides, "bfloat16")
    assert "float32" in table and "bfloat16" in table and table.count("tokens/s") == 2
    assert slider.constructor_args["visible"] and line in ("Same answer.", "Different answers.")
    left, right = slider.constructor_args["value"]
    assert left.size == right.size == (640, 640)
    comparison = models.load_comparison(sides, "bfloat16")
    assert models.load_comparison(sides, "bfloat16") is comparison, "it stays loaded"
    other = models.resolve_comparison(str(tiny.write(tmp_path / "one")))
    assert models.load_comparison(other, "float32").name == "one"
    table, slider, line = run("detect anchor", other, "float32")
    assert "<b>one</b>" in table and models.current.is_built_in
    with pytest.raises(ValueError, match="There is no prompt yet"):
        run(" ", other, "float32")


# ----------------------------------------------------------------------------------------- batch


def test_a_batch_with_unreadable_files(page, path, tmp_path):
    (tmp_path / "note.txt").write_text("no picture")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(path, "in/a.png")
        archive.write(path, "__MACOSX/a.png")
        archive.write(path, "in/.hidden.png")
        archive.writestr("in/b.png", b"damaged")
        archive.writestr("in/read me.txt", "no picture")
    files = [{"path": str(p)} for p in (path, tmp_path / "note.txt", tmp_path / "all.zip")]
    shown, data = [], b""
    for shown in batch.run_batch(page, files, "detect cat"):
        packed = getattr(shown[2], "constructor_args", {}).get("value")
        data = Path(packed).read_bytes() if packed else b""
    gallery, table, _, line = shown
    assert line == "Done: 2 answered, 2 not readable."
    assert [name for _, name in gallery.constructor_args["value"]] == ["picture.png", "in/a.png"]
    assert "&lt;loc0000&gt;" in table and "is not an image" in table
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        rows = [json.loads(row) for row in archive.read("answers.jsonl").splitlines()]
        assert archive.namelist() == ["answers.jsonl", "001-picture.png", "003-a.png"]
        assert Image.open(archive.open("003-a.png")).size == (640, 427)
    assert [row["image"] for row in rows] == ["picture.png", "note.txt", "in/a.png", "in/b.png"]
    assert rows[0]["prefix"] == "detect cat" and rows[0]["suffix"] == "".join(ANSWERS["detect cat"])
    assert rows[0]["detections"][0]["label"] == "cat" and "error" in rows[1]
    assert not Path(packed).exists(), "nothing is left behind"


def test_a_batch_says_what_is_empty_and_what_is_cut_off(page, path):
    *_, (_, table, _, line) = batch.run_batch(page, [{"path": str(path)}], "unknown")
    assert "The model returned no text." in table and "…" not in table
    *_, (_, table, _, line) = batch.run_batch(
        page, [{"path": str(path)}], "caption en", max_new_tokens=2
    )
    assert "a red <i>(cut off at 2 tokens: raise Max new tokens in Settings)</i>" in table
    assert line == "Done: 1 answered, 1 of them cut off."


@pytest.mark.parametrize("packing", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_does_not_stop_the_batch(page, path, tmp_path, packing):
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", packing) as archive:
        for name in "abc":
            archive.writestr(f"{name}.png", path.read_bytes())
        middle = archive.infolist()[1]
    data = bytearray(whole.getvalue())
    start = middle.header_offset + 30 + len(middle.filename)
    data[start + 8 : start + middle.compress_size] = b"\xff" * (middle.compress_size - 8)
    (tmp_path / "all.zip").write_bytes(data)
    *_, (_, table, _, line) = batch.run_batch(
        page, [{"path": str(tmp_path / "all.zip")}], "detect cat"
    )
    assert line == "Done: 2 answered, 1 not readable." and "cannot be unpacked" in table


def test_a_batch_has_a_maximum_size(page, path, monkeypatch):
    monkeypatch.setattr(batch, "MAX_UPLOAD_BYTES", 10)
    with pytest.raises(ValueError, match="At most"):
        list(batch.run_batch(page, [{"path": str(path)}], "ocr"))


def test_a_batch_is_stopped_between_tokens(path):
    pg = Scripted({"caption en": ["a"] * 50}, pause=0.01)
    page = empty_page(ModelManager(pg))
    batch.UPDATE_SECONDS, kept = 0.0, batch.UPDATE_SECONDS
    run = batch.run_batch(page, [{"path": str(path)}] * 3, "caption en")
    try:
        for _ in range(4):
            next(run)
        run.close()
    finally:
        batch.UPDATE_SECONDS = kept
    [(_, given, end)] = pg.log
    assert end == "closed" and given < 10


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("cut.zip", lambda zipped: zipped[: len(zipped) // 2], "is damaged: pack it again"),
        ("many.zip", None, "At most 200 pictures"),
    ],
)
def test_bad_zips(page, path, tmp_path, name, data, message):
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for n in range(3 if data else 201):
            archive.write(path, f"{n}.png")
    (tmp_path / name).write_bytes(data(whole.getvalue()) if data else whole.getvalue())
    run = batch.run_batch(page, [{"path": str(tmp_path / name)}], "detect cat")
    if data:
        assert message in list(run)[-1][1]
    else:
        with pytest.raises(ValueError, match=message):
            list(run)


def test_a_zip_of_too_many_files_is_refused_before_its_list_is_read(tmp_path, monkeypatch):
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(batch.MAX_ZIP_ENTRIES + 1):
            archive.writestr(f"{number}.txt", b"")
    monkeypatch.setattr(zipfile, "ZipFile", lambda *given: pytest.fail("it was opened"))
    with pytest.raises(ValueError, match=r"'many.zip' has too many files: at most 5000 are read"):
        batch.unpack([str(path)])
    content = path.read_bytes()
    end = content.rindex(b"PK\5\6")
    lie = content[:end] + content[end : end + 8] + b"\1\0\1\0" + content[end + 12 :]
    path.write_bytes(lie)  # one entry, but as long a list
    monkeypatch.setattr(batch, "MAX_ZIP_LIST_BYTES", 100_000)
    with pytest.raises(ValueError, match=r"'many.zip' has too many files"):
        batch.unpack([str(path)])


def test_pictures_in_zips_have_a_limit_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "MAX_UNPACKED_BYTES", 2**20)
    for number in range(2):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.png", bytes(600_000))
    paths = [str(tmp_path / f"{number}.zip") for number in range(2)]
    assert len(batch.unpack(paths[:1])) == 1
    with pytest.raises(ValueError, match="At most 1 MB of pictures in zips, unpacked"):
        batch.unpack(paths)


def test_one_upload_is_not_listed_again_and_again(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(batch.MAX_IMAGES):
            archive.writestr(f"{number}.png", b"")
    with pytest.raises(ValueError, match="At most 200 pictures at once"):
        batch.unpack([str(tmp_path / "a.zip"), str(tmp_path / "a.png")])
    opened, open_zip = [], zipfile.ZipFile
    monkeypatch.setattr(zipfile, "ZipFile", lambda path: opened.append(path) or open_zip(path))
    with pytest.raises(ValueError, match="At most 200 pictures at once"):
        batch.unpack([str(tmp_path / "a.zip")] * 5000)
    assert len(opened) == 2


def test_a_picture_that_takes_the_last_of_the_time_is_left_out(page, path, monkeypatch):
    run = page.start_run()
    read = lambda: monkeypatch.setattr(type(run), "is_over", True) or str(path)
    shown = batch.stream_result(run, page.model, batch.BatchImage("a.png", read), "ocr", None)
    assert list(shown) == []


def test_a_zip_bomb_is_not_unpacked(monkeypatch, tmp_path):
    monkeypatch.setattr(batch, "MAX_IMAGE_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big.png", b"\0" * 100_000)
    [(_, read)] = batch.unpack([str(tmp_path / "bomb.zip")])
    with pytest.raises(ValueError, match="has more than"):
        read()


def test_a_batch_needs_images_and_a_prompt(page, path):
    for files, prompt, message in ([], "ocr", "no pictures yet"), ([path], " ", "no prompt yet"):
        with pytest.raises(ValueError, match=message):
            list(batch.run_batch(page, [{"path": str(file)} for file in files], prompt))


# ---------------------------------------------------------------------------------- how it works


def test_diagram_tokens_and_mask():
    models = ModelManager(PaliGemma.load())
    drawing, strip, mask = how_it_works.show_model(
        models, LastRequest("detect cat", ["<loc0000>", " cat"])
    )
    assert "12 × 12 patches of 16 pixels" in drawing
    assert "3 query heads, 1 key/value head" in drawing
    assert 'data-file="models/gemma.py"' in drawing
    assert "… 144 in all" in strip and "&lt;loc0000&gt;" in strip and "·cat" in strip
    assert mask.constructor_args["visible"]
    assert how_it_works.show_model(models, None)[1] == "There was no request yet."


def test_the_mask_of_a_request():
    kinds = ["image"] * 100 + ["bos", "prefix", "prefix", "separator", "answer", "answer"]
    mask, shown = request_mask(kinds)
    assert len(shown) == MAX_MASK_IMAGE_TOKENS + 6
    prefix = len(shown) - 2
    assert mask[:prefix, :prefix].all() and not mask[:prefix, prefix:].any()
    assert mask[prefix:, :prefix].all()
    assert mask[prefix:, prefix:].tolist() == [[True, False], [True, True]]
    picture = draw_attention_mask(mask, shown)
    assert picture.size[0] == picture.size[1] <= 480
    with pytest.raises(ValueError, match="as wide as high"):
        draw_attention_mask(mask, shown[1:])


def test_drawings_escape_text():
    assert "<img" not in draw_tokens([("answer", "<img src=x>")])
    assert "<img" not in draw_model([("<img>", ("<img>",), "x.py", "<img>")])


def test_only_source_files_are_opened():
    event = lambda file: gr.EventData(None, {"file": file})
    assert (
        "class KVCache"
        in how_it_works.open_source(event("models/gemma.py")).constructor_args["value"]
    )
    for file in "../app.py", "/etc/passwd", "builtin/config.json", None, "":
        assert "value" not in (how_it_works.open_source(event(file)) or {})


# ----------------------------------------------------------------------------------------- address


@pytest.fixture
def tabs(pg):
    page = empty_page(ModelManager(pg, any_model=False))
    others = region.RegionTab, attention.AttentionTab, compare.CompareTab, batch.BatchTab
    with gr.Blocks(), gr.Tabs():
        tabs = [TaskTab(page, task) for task in TASKS.values()]
        return [*tabs, *(tab(page) for tab in (*others, how_it_works.HowItWorksTab))]


@pytest.fixture
def address(page, tabs):
    source = gr.Dropdown(["built-in"], allow_custom_value=True)
    return url_state.UrlState(tabs, page.settings, source)


def test_every_tab_resets_its_outputs_and_nothing_else(tabs):
    for tab in tabs:
        assert set(tab.reset()) == set(tab.outputs), tab.key


@pytest.mark.parametrize(
    ("name", "written", "value"),
    [
        ("detect", "cat ; dog", "cat ; dog"),
        ("detect", "x" * 5_000, "x" * url_state.MAX_TEXT),
        ("caption.language", "de", "de"),
        ("caption.language", "xx", None),
        ("caption.style", "cap", "cap"),
        ("caption.style", "poem", None),
        ("region", "10, 20, 30, 40", "10, 20, 30, 40"),
        ("region.mode", "question", "question"),
        ("attention", "detect cat", "detect cat"),
        ("attention.view", "rollout", "rollout"),
        ("attention.view", "sideways", None),
        ("compare.dtype", "float16", "float16"),
        ("compare.model", "google/paligemma-3b-mix-224", "google/paligemma-3b-mix-224"),
        ("compare.model", "somebody/else", None),
        ("batch", "ocr", "ocr"),
        ("max_new_tokens", "64", 64),
        ("max_new_tokens", "0", None),
        ("max_new_tokens", "64.5", None),
        ("top_k", "2.5", None),
        ("seed", "-5", None),
        ("seed", "1.5", None),
        ("max_new_tokens", "nan", None),
        ("temperature", "0.5", 0.5),
        ("temperature", "inf", None),
        ("seed", "7", 7),
        ("seed", "1e400", None),
        ("seed", "x", None),
    ],
)
def test_an_address_restores_valid_values(address, name, written, value):
    restored = address.restore({name: written})
    assert restored == ({} if value is None else {address.params[name]: value})


def test_an_address_does_not_load_the_model(address):
    assert address.restore({"model": "owner/model"}) == {address.model: "owner/model"}


def test_an_address_names_uploads_and_nothing_else(path, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    upload = tmp_path / ("0f" * 32) / "my picture.png"
    upload.parent.mkdir()
    upload.write_bytes(path.read_bytes())
    uploads = {str(upload)}
    name = url_state.name_in_url({"path": str(upload)}, uploads)
    assert name == upload.parent.name + "/my picture.png"
    assert url_state.image_from_url({"image": name}, [], uploads) == str(upload)
    assert url_state.image_from_url({"image": name}, [], set()) is None, "it is of an earlier start"
    (tmp_path / "secret.png").write_bytes(b"")
    folder = upload.parent.name
    for wrong in ("../" + name, folder + "/../secret.png", "secret.png", folder, "", "x" * 999):
        assert url_state.image_from_url({"image": wrong}, [], uploads) is None
    example = {"path": str(EXAMPLES / "harbour.png")}
    build_app(ModelManager(Scripted({})))
    assert url_state.name_in_url(example, uploads) == "", (
        "an example's picture has a name of its own"
    )
    with pytest.raises(ValueError, match="There is no picture yet"):
        url_state.name_in_url(None, uploads)


# --------------------------------------------------------------------------------------- image


def test_a_drawing_becomes_the_image(layout, tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "drawing.png")
    path = str(tmp_path / "drawing.png")
    drawn = layout.take_drawing({"path": path, "is_known": False})
    assert drawn[layout.input.image] == path
    assert layout.input.tabs not in drawn, "the canvas stays on the screen"
    for nothing in {"path": ""}, {"path": None}, {}, None, "x", [1], 5, {"is_known": True}:
        assert layout.take_drawing(nothing)[layout.input.image] is None


def test_a_drawing_of_stamps_alone_is_known_to_the_built_in_model(layout, tmp_path, monkeypatch):
    monkeypatch.setattr(Scripted, "is_built_in", True)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "drawing.png")
    for is_known, note in (
        (True, ""),
        (False, image_input.WORLD_NOTE),
        ("yes", image_input.WORLD_NOTE),
    ):
        drawing = {"path": str(tmp_path / "drawing.png"), "is_known": is_known}
        assert layout.take_drawing(drawing)[layout.input.note] == note


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../drawing.png", str(ROOT / "README.md"), "http://127.0.0.1/a.png", 5]
)
def test_a_drawing_is_an_upload(layout, path):
    assert layout.take_drawing({"path": path, "is_known": True})[layout.input.image] is None


@pytest.mark.parametrize("kind", ["EPS", "ICNS", "DDS", "SPIDER", "ICO", "JPEG2000"])
def test_the_canvas_opens_only_the_formats_of_the_guard(layout, kind, tmp_path):
    mode = "F" if kind == "SPIDER" else "RGB"
    file = io.BytesIO()  # of a path, the writer of SPIDER takes the extension for its own
    Image.linear_gradient("L").convert(mode).save(file, kind)
    (tmp_path / "drawing.png").write_bytes(file.getvalue())
    taken = layout.take_drawing({"path": str(tmp_path / "drawing.png")})
    assert taken[layout.input.image] is None


OPEN_EVERYTHING = """
import io
from PIL import Image
from scripted import Scripted
from paligemma.images import FORMATS
from paligemma.ui.layout import build_app
from paligemma.ui.model_manager import ModelManager
build_app(ModelManager(Scripted({})))
for kind in ("EPS", "ICNS", "DDS", "ICO", "TGA"):
    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(file, kind)
    try:
        print(kind, Image.open(file).format)
    except Image.UnidentifiedImageError:
        print(kind, "refused")
assert set(Image.OPEN) == set(FORMATS), Image.OPEN
for side in (10_000, 10_001):
    bomb = io.BytesIO()
    Image.new("1", (side, 10_000)).save(bomb, "PNG")
    try:
        print(Image.open(bomb).size)
    except Image.DecompressionBombError:
        print("refused")
"""


@pytest.mark.slow
def test_in_the_app_no_library_opens_other_formats():
    folders = [str(ROOT), str(ROOT / "tests" / "helpers")]
    done = subprocess.run(
        [sys.executable, "-c", OPEN_EVERYTHING],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        check=False,
    )
    refused = [f"{kind} refused" for kind in ("EPS", "ICNS", "DDS", "ICO", "TGA")]
    assert done.stdout.splitlines() == [*refused, "(10000, 10000)", "refused"], done.stderr


def test_the_built_in_model_is_noted_with_every_own_picture(tmp_path, monkeypatch):
    """Greyscale ones and screenshots too: it knows its own world only."""
    models = ModelManager(Scripted({}))
    with gr.Blocks() as demo:
        layout = Layout(demo, models, image_input.load_examples(EXAMPLES))
    source, grey = layout.input, tmp_path / "grey.png"
    Image.linear_gradient("L").save(grey)

    def taken(file=grey):
        updates = layout.take_upload({"path": str(file)})
        return updates[source.note], updates[source.open_models].visible

    assert taken() == ("", False)
    monkeypatch.setattr(Scripted, "is_built_in", True)
    assert taken() == (image_input.WORLD_NOTE, True)
    models.can_switch = False
    assert taken() == (image_input.WORLD_NOTE, False)
    for another in layout.show_example(layout.examples[0]), layout.clear_image():
        assert another[source.note] == "" and not another[source.open_models].visible


def test_a_new_picture_resets_every_tab_and_lets_runs_begin(layout, tmp_path):
    Image.new("L", (9, 9)).save(tmp_path / "own.tif")
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "drawing.png")
    converted = layout.take_upload({"path": str(tmp_path / "own.tif")})
    unreadable = layout.take_upload({"path": str(tmp_path / "text.png")})
    drawing = layout.take_drawing({"path": str(tmp_path / "drawing.png")})
    blank = layout.take_drawing({"path": ""})
    assert converted[layout.input.image].endswith(".png")
    assert Image.open(drawing[layout.input.image]).size == (64, 64)
    assert blank[layout.input.image] is unreadable[layout.input.image] is None
    written = {converted[layout.input.image], drawing[layout.input.image]}
    assert written <= layout_module.temp_files(layout.demo), "a reload and a link find them"
    for updates in converted, unreadable, drawing, blank, layout.clear_image():
        assert set(layout.tab_outputs) <= updates.keys()
        assert all(updates[button].interactive for button in layout.page.run_buttons)
    example = layout.show_example(layout.examples[0])
    for updates in converted, unreadable, example:
        assert updates[layout.input.tabs].selected == "image", "it is seen, whatever was open"


def test_a_reload_shows_the_own_picture_or_says_that_it_is_gone(layout, tmp_path, monkeypatch):
    upload = tmp_path / ("0f" * 32) / "own.png"
    upload.parent.mkdir()
    Image.new("RGB", (9, 9)).save(upload)
    monkeypatch.setattr(layout_module, "temp_files", lambda demo: {str(upload)})
    monkeypatch.setattr(url_state, "get_upload_folder", lambda: str(tmp_path))
    name, source = f"{upload.parent.name}/own.png", layout.input

    def restore(own_name, **query):
        return layout.restore(own_name, SimpleNamespace(query_params=query))

    shown = restore(name, tab="caption")
    assert shown[source.image] == str(upload) and shown[source.own_name] == name
    assert shown[layout.key_to_run] == "caption"
    for gone in restore("0f/gone.png", tab="caption"), restore("", tab="caption", image="0f/x.png"):
        assert gone[source.image] is None and gone[layout.key_to_run] == ""
        assert gone[source.note] == image_input.GONE_NOTE
    unknown = restore("", tab="caption", example="unknown")
    assert unknown[source.image] is None and unknown[layout.key_to_run] == ""
    named = restore(name, tab="caption", example=layout.examples[2].name)
    assert named[source.image] == layout.examples[2].image
    assert restore("")[source.image] == layout.examples[0].image


def test_exported_masks_equal_the_drawn_ones(pg, path):
    detections = parse("".join(ANSWERS["segment cat"]))
    masks = pg.masks(detections)
    zipped = results.objects_zip(results.AnswerObjects(str(path), detections, masks, ""))
    with zipfile.ZipFile(next(zipped)) as archive:
        coco = json.loads(archive.read("coco.json"))
        drawn = np.asarray(Image.open(archive.open("masks/01-cat.png"))) > 0
    [annotation] = coco["annotations"]
    area = rle.decode(annotation["segmentation"]).astype(bool)
    assert (area == paste_mask(masks[0], detections[0].box, 60, 40)).all()
    assert (area == drawn).all() and area.any()


def test_there_are_the_papers_35_languages():
    assert len(LANGUAGES) == 35 and LANGUAGES["en"] == "English"


@pytest.mark.slow
def test_on_a_space_model_handlers_get_the_gpu(tmp_path):
    """`spaces.GPU` wraps every handler that calls the model; visitors get the list of models."""
    (tmp_path / "spaces.py").write_text(
        "marked = []\n"
        "def GPU(duration):\n"
        "    assert duration() == 67, 'seconds'\n"
        "    return lambda f: marked.append(f) or f\n"
    )
    code = """
import runpy, sys
import gradio, spaces
from paligemma.pipeline import PaliGemma
from scripted import Scripted
seen = {}
gradio.Blocks.launch = lambda self, **given: seen.update(demo=self, **given)
PaliGemma.load = lambda *given: Scripted({})
sys.argv = ["app.py"]
runpy.run_path("app.py", run_name="__main__")
kinds = [type(block).__name__ for block in seen["demo"].blocks.values() if block.visible]
pickers = {b.allow_custom_value for b in seen["demo"].blocks.values()
           if isinstance(b, gradio.Dropdown)}
print(len(spaces.marked), "DuplicateButton" in kinds, pickers, seen["server_name"])
"""
    paths = [str(tmp_path), str(ROOT), str(Path(scripted.__file__).parent)]
    given = {"PYTHONPATH": os.pathsep.join(paths), "SPACE_ID": "me/here"}
    with socket.socket() as free:  # other tests' apps hold the usual port
        free.bind(("", 0))
        port = str(free.getsockname()[1])
    given |= {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": port}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | given,
        capture_output=True,
        text=True,
        timeout=120,
    )
    marked, duplicate, own, host = done.stdout.split()
    assert int(marked) == len(ENDPOINTS) + 20, "nine tabs, three ways to look again, eight to go on"
    assert (duplicate, own, host) == ("True", "{False}", "0.0.0.0")
