"""Where things are on the screen, and what the address holds, in Chromium."""

import re

import pytest
from visits import MARKS, ROOT, SCREENS, VISITS, expect, visit

pytestmark = MARKS
RESULTS = ".result, .raw, table.comparison, #drawings, #attention-map"


@pytest.fixture
def page(browser, built_in_url, request):
    width = getattr(request, "param", 1440)
    with visit(browser, built_in_url, width) as page:
        VISITS.finish(page, "Saved example answer")
        yield page


on_both_screens = pytest.mark.parametrize("page", SCREENS, indirect=True)


def tab(page, **chosen):
    return page.locator("#tabs").get_by_role("tab", **chosen)


def run(page, key, status):
    page.locator(f"#run-{key}").click()
    VISITS.finish(page, status)
    page.wait_for_timeout(800)  # smooth scrolling


@on_both_screens
def test_a_result_is_on_the_screen_when_it_arrives(page):
    height = page.viewport_size["height"]
    for key, text in (("detect", "anchor"), ("segment", "anchor"), ("ask", "what is red?")):
        VISITS.open_tab(page, key.title()).get_by_role("textbox").first.fill(text)
        run(page, key, "Done|Found")
        box = VISITS.panel(page).locator(".result, .raw").first.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= height, (key, box)
    VISITS.open_tab(page, "Attention").get_by_role("textbox").first.fill("detect wheel")
    run(page, "attention", "Done")
    box = VISITS.panel(page).locator("#attention-map img").bounding_box()
    assert box["y"] >= 0 and box["y"] + box["height"] <= height + 100, box


@on_both_screens
def test_nothing_jumps_when_an_answer_arrives(page):
    page.locator("#image").get_by_label("Remove Image").click()  # no answer
    expect(VISITS.panel(page).locator(".result img")).to_have_count(0)
    page.locator("#image input[type=file]").set_input_files(ROOT / "examples" / "harbour.png")
    expect(page.locator("#image img")).to_have_count(1)
    expect(page.get_by_text("knows drawn scenes only, such as")).to_be_visible()
    below = [".result", ".raw", ".status", "[aria-label*='Minimum confidence']"]
    where = lambda: [
        VISITS.panel(page).locator(one).first.evaluate("e => e.getBoundingClientRect().y + scrollY")
        for one in below
    ]
    before = where()
    run(page, "detect", "Found 2 objects")
    assert where() == pytest.approx(before, abs=2)


def test_region_and_batch_show_their_pictures_once(page):
    shown = page.locator("#image-sources img, #tabs img").filter(visible=True)
    tab(page, name="Region", exact=True).click()
    expect(page.locator("#region-image img")).to_be_visible()
    expect(shown).to_have_count(1)
    expect(page.locator("#image").get_by_label("Upload file")).to_be_visible()
    tab(page, name="Batch", exact=True).click()
    expect(shown).to_have_count(0)
    tab(page, name="Detect", exact=True).click()
    expect(page.locator("#image img")).to_be_visible()


@on_both_screens
def test_the_drawing_of_a_batch_of_one_is_whole(page):
    batch = VISITS.open_tab(page, "Batch")
    batch.locator("input[type=file]").first.set_input_files(ROOT / "examples" / "harbour.png")
    expect(batch).to_contain_text("harbour")
    batch.get_by_role("textbox").first.fill("detect anchor")
    run(page, "batch", "Done")
    expect(page.locator("#drawings img")).not_to_have_js_property("naturalWidth", 0)
    hidden = page.locator("#drawings .grid-wrap").evaluate("e => e.scrollHeight - e.clientHeight")
    assert hidden <= 0
    whole, image = (page.locator(f"#drawings{part}").bounding_box() for part in ("", " img"))
    assert image["y"] + image["height"] <= whole["y"] + whole["height"]
    assert min(image["width"], image["height"]) > 250


def test_cutouts_are_whole(page):
    VISITS.press_example(page, 6, "Segment")
    cutouts = VISITS.panel(page).locator(".cutouts .thumbnail-item img")
    expect(cutouts).to_have_count(2)
    assert {one.evaluate("e => getComputedStyle(e).objectFit") for one in cutouts.all()} == {
        "contain"
    }


@on_both_screens
def test_a_single_cutout_is_whole(page):
    VISITS.press_example(page, 2, "Segment")
    whole = VISITS.panel(page).locator(".cutouts")
    image = whole.locator(".thumbnail-item img")
    expect(image).to_have_count(1)
    expect(image).not_to_have_js_property("naturalWidth", 0)
    frame, box = whole.bounding_box(), image.bounding_box()
    assert box["y"] + box["height"] <= frame["y"] + frame["height"]
    assert whole.locator(".grid-wrap").evaluate("e => e.scrollHeight - e.clientHeight") <= 0


@on_both_screens
def test_the_footer_has_no_stray_dot(page):
    text = page.locator("footer").inner_text()
    assert re.fullmatch(r"[^·]+(·[^·]+)*", text.strip()), text
    assert not text.strip().startswith("·")


def test_back_and_forward_move_between_tabs(page):
    start = page.url
    for name in "Ask", "Read":
        tab(page, name=name, exact=True).click()
        page.wait_for_function(f"location.search.includes('tab={name.lower()}')")
    page.go_back()
    expect(tab(page, selected=True)).to_have_text("Ask")
    page.go_back()
    expect(tab(page, selected=True)).to_have_text("Detect")
    assert page.url == start
    page.go_forward()
    expect(tab(page, selected=True)).to_have_text("Ask")


def test_the_address_holds_what_the_open_tab_uses(page, tmp_path):
    page.get_by_label("Objects to find").fill("wheel")
    page.wait_for_function("location.search.includes('detect=wheel')")
    tab(page, name="Ask", exact=True).click()
    page.get_by_label("Question").fill("what is red?")
    page.wait_for_function("location.search.includes('ask=what')")
    assert "detect=" not in page.url
    page.locator(".open-models").click()
    model = page.locator("#models").get_by_label("Model", exact=True)
    for source, said in (str(tmp_path), False), ("owner/model", True):
        model.fill(source)
        model.press("Enter")
        page.wait_for_timeout(500)
        assert ("model=" in page.url) is said, page.url
    assert str(tmp_path.name) not in page.url
    tab(page, name="Detect", exact=True).click()
    page.wait_for_function("location.search.includes('detect=wheel')")
    assert "ask=" not in page.url
