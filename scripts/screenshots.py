"""Screenshots of the app for the README and the docs, with the built-in model.

    python scripts/screenshots.py

Writes docs/tour/TAB-WIDTH-THEME.png, and attention maps of three examples as
docs/explorer-{harbour,music,zoo}.png. Needs Playwright and a Chromium on the PATH.
"""

import re
import shutil
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, expect, sync_playwright

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLES = DOCS.parent / "examples"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HEIGHTS = {1440: 1000, 390: 844}  # width: height of the screen, in pixels
DEFAULT = (1440, "light"), (390, "dark")
ALL = *DEFAULT, (1440, "dark"), (390, "light")
TIMEOUT = 120_000  # milliseconds an answer may take
ATTENTION = {  # example: its card's number, the prompt, and the token whose map is shown
    "harbour": (0, "detect wheel", "wheel"),
    "music": (9, "answer en what color is the star?", "red"),
    "zoo": (12, "caption en", "monkey"),
}


def ask(page: Page) -> None:
    press_example(page, 4, "Ask")
    press_hint = panel(page).get_by_role("button", name="what color is the background?")
    press_hint.click()
    finish(page, "Done")


def draw(page: Page) -> None:
    page.get_by_role("tab", name="Draw", exact=True).click()
    canvas, stamps = page.locator("#canvas"), page.locator("#stamps")
    for name, x, y in (("house", 0.3, 0.35), ("cow", 0.65, 0.7), ("sun", 0.75, 0.2)):
        stamps.get_by_role("button", name=name, exact=True).click()
        side = canvas.locator("canvas").bounding_box()["width"]
        canvas.locator("canvas").click(position={"x": x * side, "y": y * side})
    open_tab(page, "Detect").get_by_role("textbox").first.fill("house ; cow ; sun")
    page.locator("#run-detect").click()
    finish(page, "Found")


def region(page: Page) -> None:
    press_example(page, 0, "Detect")
    area = open_tab(page, "Region").locator("#region-image img")
    area.scroll_into_view_if_needed()
    for share in (0.15, 0.5):  # around the anchor
        before, box = area.get_attribute("src"), area.bounding_box()
        side = min(box["width"], box["height"])
        left, top = (box["width"] - side) / 2, (box["height"] - side) / 2
        area.click(position={"x": left + share * side, "y": top + share * side})
        expect(area).not_to_have_attribute("src", before)
    page.locator("#run-region").click()
    finish(page, "Done")


def attention(page: Page) -> None:
    show_attention(page, *ATTENTION["harbour"])
    panel(page).locator("#attention-map img").click()
    expect(panel(page).locator("#patch li").first).to_be_visible()
    panel(page).get_by_role("button", name="All layers and heads").click()


def compare(page: Page) -> None:
    press_example(page, 2, "Segment")
    open_tab(page, "Compare").get_by_role("textbox").first.fill("detect pig ; sheep")
    page.locator("#run-compare").click()
    finish(page, "Same answer|Different answers")


def batch(page: Page) -> None:
    files = [EXAMPLES / f"{name}.png" for name in ("castle", "faces", "party", "weather")]
    open_tab(page, "Batch").locator("input[type=file]").set_input_files(files)
    expect(panel(page)).to_contain_text(files[0].stem)
    panel(page).get_by_role("textbox").first.fill("caption en")
    page.locator("#run-batch").click()
    finish(page, "Done")


TABS: dict[str, tuple[Callable[[Page], object], tuple]] = {
    "draw": (draw, DEFAULT),
    "caption": (lambda page: press_example(page, 3, "Caption"), DEFAULT),
    "ask": (ask, DEFAULT),
    "read": (lambda page: press_example(page, 8, "Read"), DEFAULT),
    "detect": (lambda page: press_example(page, 1, "Detect"), ALL),
    "segment": (lambda page: press_example(page, 2, "Segment"), DEFAULT),
    "region": (region, DEFAULT),
    "attention": (attention, ALL),
    "compare": (compare, DEFAULT),
    "batch": (batch, DEFAULT),
    "how-it-works": (lambda page: open_tab(page, "How it works"), DEFAULT),
}


def take_screenshots(url: str, folder: Path) -> None:
    """Save every screenshot of the app at `url` into `folder`."""
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for name, (visit, screens) in TABS.items():
            for width, theme in screens:
                page = chromium.new_page(viewport={"width": width, "height": HEIGHTS[width]})
                page.goto(f"{url}?__theme={theme}")
                finish(page, "Saved example answer")
                visit(page)
                save(page, folder / "tour" / f"{name}-{width}-{theme}.png")
                page.close()
        page = chromium.new_page(viewport={"width": 1440, "height": 1000})
        page.goto(url)
        finish(page, "Saved example answer")
        for name, request in ATTENTION.items():
            show_attention(page, *request)
            page.locator("#attention-map").screenshot(path=folder / f"explorer-{name}.png")
        chromium.close()


def panel(page: Page) -> Locator:
    """The panel of the open tab."""
    return page.locator("#tabs").get_by_role("tabpanel").filter(visible=True)


def press_example(page: Page, card: int, tab: str | None = None) -> None:
    page.locator("#examples button").nth(card).click()
    page.wait_for_timeout(1500)
    if tab:
        expect(page.locator("#tabs").get_by_role("tab", selected=True)).to_have_text(tab)


def open_tab(page: Page, name: str) -> Locator:
    """The panel of the tab of that name, opened."""
    page.locator("#tabs").get_by_role("tab", name=name, exact=True).click()
    return panel(page)


def show_attention(page: Page, card: int, prompt: str, token: str) -> None:
    """Explain the answer about an example, and choose that token."""
    press_example(page, card)
    open_tab(page, "Attention").get_by_role("textbox").first.fill(prompt)
    page.locator("#run-attention").click()
    finish(page, "Done")
    panel(page).get_by_label(re.compile(rf"\d+ {token}\s*$")).check()
    page.wait_for_timeout(1000)


def finish(page: Page, status: str) -> None:
    """Wait for a text in the visible tab's status and for its run button."""
    line = panel(page).locator(".prose.status").first
    expect(line).to_contain_text(re.compile(status), timeout=TIMEOUT)
    expect(panel(page).locator("button.primary")).to_be_enabled(timeout=TIMEOUT)


def save(page: Page, path: Path) -> None:
    """The whole page in 256 colours: a third of the bytes."""
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.wait_for_timeout(1000)  # let pictures load and transitions end
    path.parent.mkdir(exist_ok=True)
    shot = Image.open(BytesIO(page.screenshot(full_page=True))).convert("RGB")
    shot.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    sys.path.insert(0, str(DOCS.parent))
    from paligemma.pipeline import PaliGemma
    from paligemma.ui.layout import build_app
    from paligemma.ui.model_manager import ModelManager
    from paligemma.ui.theme import LAUNCH_OPTIONS

    demo = build_app(ModelManager(PaliGemma.load()))
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **LAUNCH_OPTIONS)
    take_screenshots(url, DOCS)
    demo.close()
