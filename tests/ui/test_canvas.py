"""Stamps and emoji on the canvas, in Chromium."""

import pytest
from visits import MARKS, SCREENS, VISITS, expect, visit

pytestmark = MARKS
# The box around what is not white, [left, top, right, bottom] in pixels; null if all is white.
INK = """(canvas) => {
  const {data} = canvas.getContext("2d").getImageData(0, 0, 512, 512), xs = [], ys = [];
  for (let i = 0; i < data.length; i += 4) {
    if (data[i] + data[i + 1] + data[i + 2] > 740) continue;
    xs.push((i / 4) % 512);
    ys.push(Math.floor(i / 4 / 512));
  }
  const least = (values) => values.reduce((a, b) => Math.min(a, b));
  const most = (values) => values.reduce((a, b) => Math.max(a, b)) + 1;
  return xs.length ? [least(xs), least(ys), most(xs), most(ys)] : null;
}"""


@pytest.fixture
def page(browser, built_in_url, request):
    width = getattr(request, "param", 1440)
    with visit(browser, built_in_url, width) as page:
        page.get_by_role("tab", name="Draw", exact=True).click()
        expect(page.locator("#canvas canvas")).to_be_visible()
        expect(page.locator("#stamps .kind")).to_have_count(191)
        yield page


def stamp(page, name, x, y):
    """Choose a stamp and click on the canvas, at shares of its width and height."""
    page.locator("#stamps").get_by_role("button", name=name, exact=True).click()
    put(page, x, y)


def put(page, x, y):
    canvas = page.locator("#canvas canvas")
    canvas.scroll_into_view_if_needed()
    side = canvas.bounding_box()["width"]
    canvas.click(position={"x": x * side, "y": y * side})


def ink(page) -> list[int] | None:
    page.mouse.move(0, 0)
    return page.locator("#canvas canvas").evaluate(INK)


def center_and_size(page) -> tuple[float, float, int]:
    left, top, right, bottom = ink(page)
    return (left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top)


def detect(page, text):
    VISITS.open_tab(page, "Detect").get_by_role("textbox").first.fill(text)
    page.locator("#run-detect").click()  # while the drawing may be on its way
    VISITS.finish(page, "Found")


@pytest.mark.parametrize("page", SCREENS, indirect=True)
def test_stamps_are_placed_and_found(page):
    stamp(page, "anchor", 0.3, 0.3)
    page.locator("#canvas").get_by_role("button", name="blue", exact=True).click()
    stamp(page, "wheel", 0.7, 0.65)
    expect(page.get_by_text("knows drawn scenes only, such as")).to_have_count(0)
    detect(page, "anchor ; wheel")
    found = VISITS.panel(page).locator("table.objects tr th, table.objects tr td:first-child")
    assert {"anchor", "wheel"} <= {text.strip() for text in found.all_inner_texts()}
    undo = page.locator("#canvas").get_by_role("button", name="Undo", exact=True)
    undo.click()
    expect(VISITS.panel(page).locator("table.objects tr")).to_have_count(0)  # no longer its answer
    detect(page, "anchor ; wheel")
    expect(VISITS.panel(page).locator(".prose.status").first).to_contain_text("Found 1 object.")
    undo.click()
    assert ink(page) is None
    redo = page.locator("#canvas").get_by_role("button", name="Redo", exact=True)
    redo.click()
    assert ink(page)
    stamp(page, "moon", 0.5, 0.5)
    undo.click()
    expect(redo).to_be_enabled()
    page.locator("#canvas").get_by_role("button", name="Clear canvas", exact=True).click()
    expect(redo).to_be_disabled()


def test_an_emoji_is_typed_and_placed(page):
    field = page.locator("#stamps").get_by_label("Type an emoji")
    field.fill("☂")
    expect(page.locator("#canvas-hint")).to_contain_text("the built-in model may not know it")
    put(page, 0.25, 0.5)
    expect(page.get_by_text("knows drawn scenes only, such as")).to_be_visible()
    assert center_and_size(page) == pytest.approx((128, 256, 160), abs=4)
    page.locator("#canvas").get_by_label("Size").fill("80")
    page.locator("#canvas").get_by_role("button", name="Clear canvas").click()
    put(page, 0.5, 0.5)
    assert center_and_size(page) == pytest.approx((256, 256, 80), abs=4)


def test_stamps_are_placed_with_keys(page):
    page.locator("#stamps").get_by_label("Find a stamp").fill("Anch")
    shown = page.locator("#stamps .kind").filter(visible=True)
    expect(shown).to_have_count(1)
    shown.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#canvas canvas")).to_be_focused()
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert center_and_size(page) == pytest.approx((256 - 4 * 16, 256, 160), abs=4)
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Control+z")
    assert ink(page) is None


def test_an_example_or_an_upload_is_seen_although_the_canvas_was_open(page):
    stamp(page, "anchor", 0.5, 0.5)
    page.locator("#examples button").nth(1).click()
    expect(page.locator("#image img")).to_be_visible()
    expect(page.locator("#canvas canvas")).to_be_hidden()
    page.get_by_role("tab", name="Draw", exact=True).click()
    expect(page.locator("#canvas canvas")).to_be_visible()
    detect(page, "anchor")
    expect(VISITS.panel(page).locator(".prose.status").first).to_contain_text("Found 1 object.")
