"""Pictures of the demo for the README, with the built-in model.

    python docs/screenshots.py

Writes docs/{app,attention}-{1440,390}-{light,dark}.png, docs/{segment,compare,inside}.png, and the
explorer on three scenes, docs/explorer-{harbour,music,zoo}.png. Needs Playwright and a Chromium on
the PATH.
"""

import re
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Locator, Page, expect, sync_playwright

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


EXPLORED = {  # example: its card's number, the prompt, and the token to ask
    "harbour": (0, "detect wheel", "wheel"),
    "music": (2, "answer en what is red?", "star"),
    "zoo": (6, "caption en", "monkey"),
}


def shoot(url: str, folder: Path) -> None:
    """Save every picture of the app at `url` into `folder`."""
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for width, height in HEIGHTS.items():
            for theme in ("light", "dark"):
                page = chromium.new_page(viewport={"width": width, "height": height})
                page.goto(f"{url}?__theme={theme}")
                finish(page, "A kept answer")
                save(page, folder / f"app-{width}-{theme}.png")
                attend(page, *EXPLORED["harbour"][1:])
                save(page, folder / f"attention-{width}-{theme}.png")
                page.close()
        page = chromium.new_page(viewport={"width": 1440, "height": 1000})
        page.goto(url)
        finish(page, "A kept answer")
        press_example(page, 1, "Segment")
        save(page, folder / "segment.png")
        open_tab(page, "Compare").get_by_role("textbox").first.fill("detect crown ; moon")
        page.locator("#go-compare").click()
        finish(page, "say the same|differ")
        save(page, folder / "compare.png")
        open_tab(page, "How it works")
        save(page, folder / "inside.png")
        for name, (card, prompt, token) in EXPLORED.items():
            press_example(page, card)
            attend(page, prompt, token)
            page.locator("#heat").screenshot(path=folder / f"explorer-{name}.png")
        chromium.close()


def press_example(page: Page, card: int, tab: str | None = None) -> None:
    page.locator("#examples button").nth(card).click()
    page.wait_for_timeout(1500)
    if tab:
        expect(page.locator("#tabs").get_by_role("tab", selected=True)).to_have_text(tab)


def open_tab(page: Page, name: str) -> Locator:
    """The panel of the tab of that name, opened."""
    page.locator("#tabs").get_by_role("tab", name=name, exact=True).click()
    return page.locator("#tabs").get_by_role("tabpanel").filter(visible=True)


def attend(page: Page, prompt: str, token: str) -> None:
    """Ask in the attention tab, and choose that token of the answer."""
    panel = open_tab(page, "Attention")
    panel.get_by_role("textbox").first.fill(prompt)
    panel.locator("#go-attention").click()
    finish(page, "Done")
    panel.get_by_label(re.compile(rf"\d+ {token}\s*$")).check()
    page.wait_for_timeout(1000)


def finish(page: Page, words: str) -> None:
    """Wait until the visible tab's line says so and its button can be pressed again."""
    panel = page.locator("#tabs").get_by_role("tabpanel").filter(visible=True)
    expect(panel.locator(".prose.line").first).to_contain_text(re.compile(words), timeout=PATIENCE)
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
