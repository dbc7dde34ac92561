"""Changing the model that answers: at once and whole, or not at all; and in the app."""

import gc
import time
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest
import tiny
from gradio_client import Client, handle_file
from PIL import Image

from paligemma.checkpoints.resolve import resolve
from paligemma.config import VARIANTS
from paligemma.pipeline import PaliGemma
from paligemma.ui import model_manager, model_picker
from paligemma.ui.image_input import load_examples
from paligemma.ui.layout import EXAMPLES, Layout, build_app
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.page import header_html
from paligemma.ui.theme import LAUNCH_OPTIONS


@pytest.fixture
def folder(tmp_path):
    return str(tiny.write(tmp_path / "one"))


def models() -> list[PaliGemma]:
    gc.collect()
    return [each for each in gc.get_objects() if type(each) is PaliGemma]


@pytest.mark.slow
def test_comparison_models_differ_by_adapter_and_precision(folder, monkeypatch):
    monkeypatch.setattr(model_manager.PaliGemma, "from_checkpoint", lambda *given: object())
    manager = ModelManager(PaliGemma.load())
    found = resolve(folder)
    tuned = replace(found, adapter=Path("tuned"))
    comparison = manager.load_comparison(found, "float32")
    assert manager.load_comparison(found, "float32") is comparison
    half = manager.load_comparison(found, "bfloat16")
    assert half is not comparison
    assert manager.load_comparison(tuned, "bfloat16") is not half


def test_resolve_fails_while_another_model_is_loaded(folder):
    manager = ModelManager(PaliGemma.load())
    manager.current = None
    with pytest.raises(ValueError, match="Another model is being loaded"):
        manager.resolve(folder)


@pytest.mark.slow
def test_the_former_model_is_freed_before_the_next_is_loaded(folder, monkeypatch):
    manager, before = ModelManager(PaliGemma.load()), len(models())
    counts, load = [], PaliGemma.from_checkpoint
    monkeypatch.setattr(
        model_manager.PaliGemma,
        "from_checkpoint",
        lambda *given: counts.append(len(models())) or load(*given),
    )
    manager.switch(manager.resolve(folder))
    assert counts == [before - 1]
    assert manager.current.name == "one"


@pytest.mark.slow
def test_ten_switches_leave_one_model(folder):
    manager, before = ModelManager(PaliGemma.load()), len(models())
    for source in [folder, "built-in"] * 5:
        manager.switch(manager.resolve(source))
    assert len(models()) == before
    assert manager.current.name == "the built-in model"


def test_an_unknown_model_changes_nothing(tmp_path):
    manager = ModelManager(PaliGemma.load())
    old = manager.current
    with pytest.raises(ValueError, match="There is no checkpoint 'nowhere'"):
        manager.resolve("nowhere")
    assert manager.current is old


def test_the_former_model_is_restored_if_loading_fails(folder):
    manager = ModelManager(PaliGemma.load())
    found = manager.resolve(folder)
    file = found.path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        manager.switch(found)
    assert manager.current.name == "the built-in model"
    assert manager.current.generate(Image.new("RGB", (50, 50), "teal"), "ocr") is not None


def test_a_model_that_does_not_fit_is_refused(folder, monkeypatch):
    manager = ModelManager(PaliGemma.load())
    monkeypatch.setattr("paligemma.devices.free_memory", lambda device: -manager.current.memory)
    with pytest.raises(ValueError, match="The model needs"):
        manager.resolve(folder)
    monkeypatch.setattr("paligemma.devices.free_memory", lambda device: 0)
    assert manager.resolve(folder), "the old model's memory counts as free"


def test_fetching_shows_a_bar_and_returns_the_checkpoint(folder, monkeypatch):
    manager = ModelManager(PaliGemma.load())

    def slowly(source, report):
        for done in range(4):
            report(done * 1_000_000, 3_000_000)
            time.sleep(0.25)
        return resolve(source)

    monkeypatch.setattr(manager, "resolve", slowly)
    *bars, (found, last) = model_picker.resolve_with_progress(manager.resolve, folder)
    assert len(bars) >= 3 and all("<progress" in line for _, line in bars)
    assert "2 of 3 MB" in " ".join(line for _, line in bars)
    assert found.path.samefile(folder) and last.startswith("Loading")
    assert model_picker.switch_model(manager, found).startswith("Loaded one in ")


def test_closing_the_bar_cancels_the_download(monkeypatch):
    manager, ended = ModelManager(PaliGemma.load()), []

    def forever(source, report):
        try:
            while True:
                report(1, 2)
                time.sleep(0.01)
        except ValueError as error:
            ended.append(str(error))
            raise

    monkeypatch.setattr(manager, "resolve", forever)
    bars = model_picker.resolve_with_progress(manager.resolve, "owner/model")
    next(bars)
    bars.close()
    assert ended == ["The download was stopped."]


@pytest.mark.parametrize("source", [None, " "])
def test_a_model_must_be_named(source):
    with pytest.raises(ValueError, match="No model is named yet"):
        next(model_picker.resolve_with_progress(ModelManager(PaliGemma.load()).resolve, source))


@pytest.mark.slow
def test_answers_come_from_the_current_model(folder):
    manager = ModelManager(PaliGemma.load())
    demo = build_app(manager)
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **LAUNCH_OPTIONS)
    client, example = Client(url, verbose=False), load_examples(EXAMPLES)[0]
    ask = lambda: client.predict(
        handle_file(example.image), "en", "caption", 8, 0, 0, 1, 0, api_name="/tab_caption"
    )[0]
    first = ask()
    manager.switch(manager.resolve(folder))
    second = ask()
    manager.switch(manager.resolve("built-in"))
    assert ask() == first != second
    demo.close()


def test_the_header_names_the_current_model(folder):
    manager = ModelManager(PaliGemma.load(folder))
    assert "<b>one</b>" in header_html(manager)
    assert "million parameters · 32 × 32 pixels · " in header_html(manager)
    manager.current = None
    assert "being loaded" in header_html(manager)


def test_a_public_page_offers_published_models_only():
    pickers = {}
    for any_model in True, False:
        demo = build_app(ModelManager(PaliGemma.load(), any_model=any_model))
        dropdowns = (block for block in demo.blocks.values() if isinstance(block, gr.Dropdown))
        pickers[any_model] = next(each for each in dropdowns if each.label == "Model")
    assert pickers[True].allow_custom_value and not pickers[False].allow_custom_value
    names = [value for _, value in pickers[False].choices]
    assert names[0] == "built-in" and "google/paligemma-3b-mix-224" in names


@pytest.mark.parametrize("load", ["resolve", "resolve_comparison"])
def test_memory_is_planned_before_weights_are_fetched(monkeypatch, load):
    def fetch(source, *, fits, **options):
        fits(VARIANTS["paligemma2-28b-896"])
        raise AssertionError("the weights are fetched")

    monkeypatch.setattr(model_manager, "resolve", fetch)
    monkeypatch.setattr("paligemma.devices.free_memory", lambda device: 10**9)
    with pytest.raises(ValueError, match="The model needs"):
        getattr(ModelManager(PaliGemma.load()), load)("google/paligemma2-28b-pt-896")


def test_a_comparison_is_planned_in_the_precision_asked_for(monkeypatch):
    monkeypatch.setattr("paligemma.devices.free_memory", lambda device: 9 * 10**9)
    fitting = lambda source, *, fits, **options: fits(VARIANTS["paligemma2-3b-224"])
    monkeypatch.setattr(model_manager, "resolve", fitting)
    manager = ModelManager(PaliGemma.load(), device="cpu")
    with pytest.raises(ValueError, match="in float32"):
        manager.resolve_comparison("google/paligemma2-3b-pt-224", dtype="float32")
    with pytest.raises(AttributeError):  # it fits, and then there is no checkpoint
        manager.resolve_comparison("google/paligemma2-3b-pt-224", dtype="bfloat16")


# --- What visitors of a public page may load ------------------------------------------------------

FOREIGN = [
    "owner/private",
    "google/paligemma-3b-mix-224@main",
    "/etc/passwd",
    "..",
    "~",
    "",
    "\0",
    7,
]


@pytest.mark.parametrize("source", FOREIGN)
@pytest.mark.parametrize("load", ["resolve", "resolve_comparison"])
def test_a_public_page_resolves_nothing_but_its_list(folder, monkeypatch, source, load):
    asked = []
    monkeypatch.setattr(model_manager, "resolve", lambda *given, **options: asked.append(given))
    manager = ModelManager(PaliGemma.load(), any_model=False)
    with pytest.raises(ValueError, match=r"^On this page only models of the list can be loaded"):
        getattr(manager, load)(source)
    assert not asked, "neither the disk nor the hub hears of it"


def test_a_checkpoint_of_another_page_is_not_loaded(folder):
    manager = ModelManager(PaliGemma.load(), any_model=False)
    for use in manager.switch, lambda found: manager.load_comparison(found, "float32"):
        with pytest.raises(ValueError, match="On this page only models of the list"):
            use(resolve(folder))
    assert manager.current.is_built_in and manager.version == 0


def test_a_public_page_goes_back_to_the_model_it_was_started_with(folder):
    manager = ModelManager(PaliGemma.load(folder), any_model=False)
    manager.switch(manager.resolve("built-in"))
    manager.switch(manager.resolve(folder))
    assert manager.current.name == "one" and manager.version == 2


@pytest.mark.parametrize("checkpoint", [None, "built-in", {}, 3])
def test_switching_to_nothing_changes_nothing(checkpoint):
    manager = ModelManager(PaliGemma.load())
    with pytest.raises(ValueError, match="There is no model to load yet"):
        model_picker.switch_model(manager, checkpoint)
    with pytest.raises(ValueError, match="The other model is not there yet"):
        manager.load_comparison(checkpoint, "float32")
    assert manager.current is not None and manager.version == 0


def test_a_host_can_keep_its_model():
    manager = ModelManager(PaliGemma.load(), can_switch=False)
    for load in manager.resolve, manager.resolve_comparison:
        with pytest.raises(ValueError, match="The model of this page cannot be changed"):
            load("built-in")
    blocks = build_app(manager).blocks.values()
    assert not next(each for each in blocks if each.elem_id == "models").visible


def test_all_open_pages_follow_a_switch(folder):
    manager = ModelManager(PaliGemma.load())
    with gr.Blocks() as demo:
        layout = Layout(demo, manager, [])
    assert layout.follow_switch(0) == {layout.model_version: 0}, "nothing is reset for nothing"
    manager.switch(manager.resolve(folder))
    updates = layout.follow_switch(0)
    assert "<b>one</b>" in updates[layout.page.header] and updates[layout.model_version] == 1
    assert set(layout.tab_outputs) <= set(updates)
