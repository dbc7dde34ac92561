"""An upload is decoded once a request, from the handler to the drawing."""

import pytest
from gradio_client import Client, handle_file
from PIL import Image, ImageFile
from scripted import Scripted

from paligemma.ui.layout import build_app
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.theme import LAUNCH_OPTIONS

LOCS = ["<loc0000>", "<loc0512>", "<loc1023>", "<loc1023>"]
SEGS = [f"<seg{n:03d}>" for n in range(16)]
ANSWERS = {
    "caption en": ["a", " cat"],
    "detect cat": [*LOCS, " cat", " ;", *LOCS, " cat"],
    "segment cat": [*LOCS, *SEGS, " cat"],
}
SIZE = (613, 417)  # of the upload, and of no other image
SETTINGS = (128, 0, 0, 1, 0)
REQUESTS = {
    "/tab_caption": ("en", "caption", *SETTINGS),
    "/tab_detect": ("cat", 0, 1, *SETTINGS),
    "/tab_segment": ("cat", 0, 1, 0.5, True, *SETTINGS),
    "/tab_region": ("10, 10, 50, 50", "region", "", "en", *SETTINGS),
    "/tab_attention": ("caption en", "middle", 0.5, *SETTINGS),
    "/caption": (),
    "/detect": ("cat",),
    "/segment": ("cat",),
}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # gradio's use of pandas


@pytest.fixture(scope="module")
def client():
    demo = build_app(ModelManager(Scripted(ANSWERS)))
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **LAUNCH_OPTIONS)
    yield Client(url, verbose=False)
    demo.close()


@pytest.mark.parametrize("name", REQUESTS)
def test_an_upload_is_decoded_once(client, name, tmp_path, monkeypatch):
    path, decodes, load = tmp_path / "own.png", [], ImageFile.ImageFile.load
    Image.new("RGB", SIZE, "teal").save(path)

    def counted(image):
        if image.size == SIZE and image.tile:
            decodes.append(image)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counted)
    client.predict(handle_file(path), *REQUESTS[name], api_name=name)
    assert len(decodes) == 1
