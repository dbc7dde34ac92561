"""Names and stamps of a model with a sheet of stickers, in Chromium."""

import pytest
from sheet import SHEET_COLORS, write_sheet
from visits import MARKS, VISITS, expect, visit

from paligemma.checkpoints.resolve import BUILT_IN_FOLDER, KNOWN_NAMES, STICKER_SHEET
from paligemma.pipeline import PaliGemma
from paligemma.ui.layout import build_app
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.theme import LAUNCH_OPTIONS

pytestmark = MARKS
PIXEL = """(canvas, [x, y]) =>
  [...canvas.getContext("2d").getImageData(x, y, 1, 1).data].slice(0, 3)"""


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """An app with the built-in weights beside a sheet and other names."""
    folder = tmp_path_factory.mktemp("model")
    for file in BUILT_IN_FOLDER.iterdir():
        if file.name not in (KNOWN_NAMES, STICKER_SHEET):
            (folder / file.name).symlink_to(file)
    write_sheet(folder)
    (folder / KNOWN_NAMES).write_text("\n".join([*SHEET_COLORS, "blob"]) + "\n")
    demo = build_app(ModelManager(PaliGemma.load(folder)))
    _, address, _ = demo.launch(prevent_thread_lock=True, quiet=True, **LAUNCH_OPTIONS)
    yield address
    demo.close()


@pytest.fixture
def page(browser, url):
    with visit(browser, url) as page:
        yield page


def shown(picker) -> list[str]:
    names = picker.locator(".kind").filter(visible=True).all()
    return [name.get_attribute("data-name") for name in names]


def test_names_are_found_and_pressed(page):
    detect = VISITS.open_tab(page, "Detect")
    assert not any(STICKER_SHEET in address for address in page.fetched), "not before it is seen"
    with page.expect_response(lambda response: STICKER_SHEET in response.url) as sheet:
        detect.get_by_text("Names it knows (6)").click()
    assert sheet.value.ok
    assert shown(detect) == [*SHEET_COLORS, "blob"]
    field, note = detect.get_by_label("Find a name"), detect.locator(".picker .note")
    field.fill("hun")
    assert shown(detect) == ["dog"]
    expect(detect.locator(".kind:visible small")).to_have_text("Hund")
    expect(note).to_have_text("1 of 6")
    field.fill("CLE")  # clé
    assert shown(detect) == ["key"]
    field.fill("woman")
    expect(note).to_have_text("No name begins like that.")
    field.fill("")
    detect.get_by_label("Category").select_option("animal")
    assert shown(detect) == ["dog", "cat"]
    detect.get_by_label("Objects to find").fill("")
    detect.get_by_role("button", name="cat", exact=True).click()
    expect(detect.get_by_label("Objects to find")).to_have_value("cat")
    detect.get_by_label("Category").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    expect(detect.get_by_role("button", name="dog", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    expect(detect.get_by_label("Objects to find")).to_have_value("cat ; dog")


def test_stamps_are_the_drawings_of_the_sheet(page):
    page.get_by_role("tab", name="Draw", exact=True).click()
    stamps, canvas = page.locator("#stamps"), page.locator("#canvas canvas")
    expect(stamps.locator(".kind").filter(visible=True)).to_have_count(5)  # not the blob
    stamps.get_by_role("button", name="anchor", exact=True).click()
    expect(page.locator("#canvas-hint")).to_contain_text("anchor: click on the canvas")
    canvas.click()
    page.mouse.move(0, 0)
    side = canvas.evaluate("(canvas) => canvas.width")
    pixel = canvas.evaluate(PIXEL, [side // 2, side // 2])
    assert pixel == pytest.approx(SHEET_COLORS["anchor"], abs=12)
    expect(page.locator("#image-sources + *")).not_to_contain_text("knows drawn scenes only")


def test_a_random_scene_is_shown(page):
    before = page.locator("#image img").get_attribute("src")
    page.get_by_role("button", name="New random scene").click()
    expect(page.locator("#image img")).not_to_have_attribute("src", before)
