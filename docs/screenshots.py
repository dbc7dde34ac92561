"""Pictures of the demo for the README: two widths, light and dark, with the built-in model.

    python docs/screenshots.py  # writes docs/{app,attention}-{1440,390}-{light,dark}.png

Needs Playwright and a Chromium on the PATH.
"""

import re
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

DOCS = Path(__file__).parent
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
PATIENCE = 120_000  # milliseconds an answer may take


def shoot(url: str, folder: Path) -> None:
    """Save every picture of the app at `url` into `folder`."""
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for width, height in HEIGHTS.items():
            for theme in ("light", "dark"):
                page = chromium.new_page(viewport={"width": width, "height": height})
                page.goto(f"{url}?__theme={theme}")
                detect(page)
                save(page, folder / f"app-{width}-{theme}.png")
                attend(page)
                save(page, folder / f"attention-{width}-{theme}.png")
                page.close()
        chromium.close()


def detect(page: Page) -> None:
    """Press the first detection among the examples."""
    page.locator("#examples").get_by_role("button", name="Detect").first.click()
    finish(page, "Found")


def attend(page: Page) -> None:
    """Caption the same picture in the attention tab and choose the answer's second token."""
    page.get_by_role("tab", name="Attention").click()
    panel = page.get_by_role("tabpanel").filter(visible=True)
    panel.get_by_role("textbox").fill("caption en")
    panel.get_by_role("button", name="Show attention").click()
    finish(page, "of this token's attention")
    panel.get_by_role("radio").nth(1).check()
    finish(page, "of this token's attention")


def finish(page: Page, words: str) -> None:
    """Wait until the visible tab's line says so and its button can be pressed again."""
    panel = page.get_by_role("tabpanel").filter(visible=True)
    expect(panel.locator(".prose.line")).to_contain_text(re.compile(words), timeout=PATIENCE)
    expect(panel.locator("button.primary")).to_be_enabled(timeout=PATIENCE)


def save(page: Page, path: Path) -> None:
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.wait_for_timeout(1000)  # let pictures load and transitions end
    page.screenshot(path=path, full_page=True)


if __name__ == "__main__":
    sys.path.insert(0, str(DOCS.parent))
    from app import LOOK, PaliGemma, build_app

    demo = build_app(PaliGemma.load())
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **LOOK)
    shoot(url, DOCS)
    demo.close()
