"""The page for keyboards, screen readers and weak eyes, in Chromium: axe-core, and by hand."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

axe = pytest.importorskip("axe_playwright_python", reason="axe-core is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # gradio's use of pandas
]
ROOT = Path(__file__).parents[2]
AXE = Path(axe.__file__).with_name("axe.min.js").read_text("utf-8")
VISITS = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "screenshots.py")))
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# What each violation is, how severe, where, and why.
FIND = """async (tags) => {
  const page = {include: document, exclude: [".symbols"]}; // decoration
  const found = await axe.run(page, {runOnly: tags});
  return found.violations.flatMap((rule) => rule.nodes.map((node) =>
    [rule.impact, `${rule.id}: ${node.target.join(" ")}: ${node.failureSummary}`]));
}"""
# What a pointer cannot hit easily. The skip link and tabs that do not fit are not to be seen.
SMALL = """() => [...document.querySelectorAll("button, a[href], input[type=number]")]
  .filter((target) => target.offsetParent && !target.matches(".skip, .visually-hidden *"))
  .map((target) => [target, target.getBoundingClientRect()])
  .filter(([, {width, height}]) => width < 24 || height < 24)
  .map(([{ariaLabel, innerText}, {width, height}]) =>
    `${ariaLabel || innerText}: ${width} × ${height}`)
"""
OPEN_NAMES = "for (const names of document.querySelectorAll('.names details')) names.open = true"
PATIENCE = 20_000  # milliseconds
expect = sync_api.expect


@pytest.fixture
def page(browser, built_in_url):
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.goto(built_in_url)
    page.wait_for_function("window.restored")
    yield page
    page.close()


def tab(page, **chosen):
    return page.locator("#tabs").get_by_role("tab", **chosen)


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_axe_finds_nothing_serious_on_any_tab(browser, built_in_url, width, theme):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.goto(f"{built_in_url}?__theme={theme}")
    VISITS.finish(page, "Saved example answer")
    page.evaluate(AXE)
    plain = ".gradio-container, .tab-container { background-image: none !important; }"
    page.add_style_tag(content=plain)  # axe passes over text on patterns
    for name, (visit, _) in VISITS.TABS.items():
        visit(page)
        page.evaluate(OPEN_NAMES)
        page.wait_for_timeout(300)  # transitions of colours
        found = page.evaluate(FIND, RULES)
        assert [what for impact, what in found if impact in ("serious", "critical")] == [], name
    page.close()


def test_targets_have_24_pixels(page):
    VISITS.finish(page, "Saved example answer")
    for name in "Detect", "Region", "Attention":
        tab(page, name=name, exact=True).click()
        page.wait_for_timeout(300)
        assert page.evaluate(SMALL) == [], name
    page.get_by_role("tab", name="Draw", exact=True).click()
    expect(page.locator("#stamps .kind")).not_to_have_count(0)
    assert page.evaluate(SMALL) == []


def test_the_keyboard_skips_to_the_tabs_and_moves_between_them(page):
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the tabs")
    expect(skip).to_be_focused()
    assert skip.bounding_box()["height"] >= 24, "it is shown while it has the focus"
    page.keyboard.press("Enter")
    expect(tab(page, selected=True)).to_be_focused()
    moves = {"ArrowRight": "Segment", "Home": "Caption", "ArrowLeft": "How it works"}
    moves |= {"ArrowRight ": "Caption", "End": "How it works"}
    for key, name in moves.items():
        page.keyboard.press(key.strip())
        expect(tab(page, selected=True)).to_have_text(name)
        expect(tab(page, name=name, exact=True)).to_be_focused()


def test_status_and_answer_are_spoken_once_they_are_whole(page):
    spoken = page.get_by_role("status").and_(page.locator("#spoken"))
    expect(spoken).to_contain_text("anchor")  # the first example's
    tab(page, name="Ask", exact=True).click()
    page.get_by_role("textbox").and_(page.get_by_label("Question")).fill(
        "how many things are there?"
    )
    page.locator("#run-ask").click()
    expect(spoken).to_contain_text("Done.")
    assert spoken.inner_text().endswith(" 2") and spoken.bounding_box()["height"] <= 1


def test_images_say_what_they_show(page):
    expect(page.get_by_alt_text("Result: anchor")).to_be_visible()
    expect(page.locator("#image img")).to_have_attribute("alt", "Picture")
    assert {mask.get_attribute("alt") for mask in page.locator(".result .mask").all()} == {""}
    tab(page, name="Region", exact=True).click()
    page.get_by_label("Box: left, top").fill("10, 10, 45, 55")
    expect(page.get_by_alt_text("10, 10, 45, 55")).to_be_visible()
