"""What the browser tests of the built-in app have in common: marks, screens, and a visited page."""

import runpy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
expect = sync_api.expect
MARKS = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # gradio's use of pandas
]
ROOT = Path(__file__).parents[2]
VISITS = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "screenshots.py")))
SCREENS = {1440: 900, 390: 844}  # width: height
PATIENCE = 20_000  # milliseconds


@contextmanager
def visit(browser, url: str, width: int = 1440) -> Iterator:
    """The app's page once it has loaded, as wide as one of SCREENS; no script of it may fail.

    `fetched` of the page are the addresses that it asked for.
    """
    page = browser.new_page(viewport={"width": width, "height": SCREENS[width]})
    page.set_default_timeout(PATIENCE)
    wrong, page.fetched = [], []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: page.fetched.append(request.url))
    page.goto(url)
    page.wait_for_function("window.restored")
    yield page
    page.close()
    assert not wrong
