"""A Chromium for the browser tests of a module, and the app with the built-in model.

Not for all modules: while Playwright is open, its event loop runs, and no other one can.
"""

import shutil

import pytest

from paligemma.pipeline import PaliGemma
from paligemma.ui.layout import build_app
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.theme import LAUNCH_OPTIONS

FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync""".split()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium on the PATH")
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def built_in_url():
    """The address of an app with the built-in model."""
    demo = build_app(ModelManager(PaliGemma.load()))
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **LAUNCH_OPTIONS)
    yield url
    demo.close()
