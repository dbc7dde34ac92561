"""A stranger's path through the app, timed: python scripts/first_visit.py [WIDTH …]

The page with its first cached answer, an own picture, and the first own answer: seconds and clicks
from the start, and how much of the answer is on the screen, for each width of the screen. Prints a
line of JSON for each. Needs Playwright and a Chromium on the PATH.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from playwright.sync_api import Page, expect, sync_playwright
from screenshots import FLAGS, panel

ROOT = Path(__file__).parents[1]
HEIGHTS = {1440: 900, 390: 844}  # width: height of the screen, in pixels
TIMEOUT = 120_000  # milliseconds


def first_visit(page: Page, url: str, picture: Path) -> dict[str, float]:
    """Seconds since the address was entered, by step, and the clicks until the last one."""
    start, clicks, seconds = perf_counter(), 0, {}
    page.goto(url)
    expect(panel(page).locator(".result img.mask").first).to_be_visible(timeout=TIMEOUT)
    seconds["cached_answer_s"] = perf_counter() - start
    page.locator("#image").get_by_label("Remove Image").click()
    page.locator("#image input[type=file]").set_input_files(picture)  # a click on the empty field
    expect(page.locator("#image img")).to_have_js_property("naturalWidth", 640, timeout=TIMEOUT)
    expect(page.locator("#image img")).to_have_attribute("src", re.compile(picture.name))
    clicks += 2
    seconds["own_picture_s"] = perf_counter() - start
    page.locator("#tabs").get_by_role("tab", name="Caption", exact=True).click()
    page.locator("#run-caption").click()
    clicks += 2
    answer = panel(page).locator(".raw textarea")
    expect(answer).to_have_value(re.compile("."), timeout=TIMEOUT)
    seconds["own_answer_s"] = perf_counter() - start
    page.wait_for_timeout(1000)  # smooth scrolling
    box = answer.bounding_box()
    visible = min(box["y"] + box["height"], page.viewport_size["height"]) - max(box["y"], 0)
    share = max(0.0, visible / box["height"])
    rounded = {name: round(value, 2) for name, value in seconds.items()}
    return rounded | {"clicks": clicks, "answer_on_screen": round(share, 2)}


def main(widths: list[int]) -> None:
    from paligemma.pipeline import PaliGemma
    from paligemma.synthetic.scenes import render, sample
    from paligemma.ui.layout import build_app
    from paligemma.ui.model_manager import ModelManager
    from paligemma.ui.theme import LAUNCH_OPTIONS

    demo = build_app(ModelManager(PaliGemma.load()))
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **LAUNCH_OPTIONS)
    with TemporaryDirectory() as folder, sync_playwright() as play:
        picture = Path(folder, "own.png")
        render(sample(1), 640).save(picture)
        chromium = play.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for width in widths:
            page = chromium.new_page(viewport={"width": width, "height": HEIGHTS[width]})
            print(json.dumps({"width": width} | first_visit(page, url, picture)), flush=True)
            page.close()
        chromium.close()
    demo.close()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main([int(width) for width in sys.argv[1:]] or list(HEIGHTS))
