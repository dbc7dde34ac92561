"""What of an exception reaches a visitor, through the queue of a running app."""

import logging
from types import SimpleNamespace

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from scripted import Scripted

from paligemma.ui.errors import DIRECTORY, UNEXPECTED, escape_markdown
from paligemma.ui.layout import build_app
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.tabs.batch import drawing_name
from paligemma.ui.theme import LAUNCH_OPTIONS

SETTINGS = (128, 0, 0, 1, 0)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # gradio's use of pandas


class Panic(BaseException):
    """As those of Rust's extensions."""


class Failing(Scripted):
    error: BaseException = ValueError("The file /srv/models/a.json has no '<loc>' & co.")
    checkpoint = SimpleNamespace(source="scripted")

    def stream(self, image, prompt, options, answer=()):
        raise self.error
        yield


@pytest.fixture(scope="module")
def model():
    return Failing({})


@pytest.fixture(scope="module", params=[True, False], ids=["private", "public"])
def client(request, model):
    demo = build_app(ModelManager(model, any_model=request.param))
    url = demo.launch(prevent_thread_lock=True, quiet=True, **LAUNCH_OPTIONS)[1]
    client = Client(url, verbose=False)
    client.is_public = not request.param
    yield client
    demo.close()


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(path)
    return handle_file(path)


def messages(client, image):
    """Of the API's function, and of the page's."""
    caught = []
    for name, *values in ("/ask", image, "what?"), ("/tab_ask", image, "what?", "en", *SETTINGS):
        with pytest.raises(AppError) as error:
            client.predict(*values, api_name=name)
        caught.append(str(error.value))
    return caught


def test_a_sentence_is_plain_for_programs_and_escaped_for_the_page(client, image):
    folder = "" if client.is_public else "/srv/models/"
    sentence = f"The file {folder}a.json has no '<loc>' & co."
    escaped = sentence.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert messages(client, image) == [sentence, escaped]


@pytest.mark.parametrize("error", [RuntimeError("/srv/secret"), KeyError("x"), Panic("rust")])
def test_anything_else_is_one_sentence_and_logged(client, image, model, error, monkeypatch, caplog):
    monkeypatch.setattr(model, "error", error)
    with caplog.at_level(logging.ERROR, "paligemma.ui.errors"):
        assert messages(client, image) == [UNEXPECTED] * 2
    assert [record.exc_info[1] for record in caplog.records] == [error] * 2


def test_values_that_no_component_sends(client, image):
    for values in (5, "what?"), (image, {"a": 1}), (image, None), ({"path": "/etc/passwd"}, "x"):
        with pytest.raises(AppError) as caught:
            client.predict(*values, api_name="/ask")
        message = str(caught.value)
        assert message.endswith(".") and "object has no attribute" not in message
        assert "/etc/" not in message or not client.is_public


@pytest.mark.parametrize(
    "text, shown",
    [
        ("/home/a/b/model has no config.json.", "model has no config.json."),
        ("No '/tmp/gradio/ab/x.png' here", "No 'x.png' here"),
        ("owner/model and 1/2, https://a.b/c/d, </b>", None),
        ("a / b / c", None),
    ],
)
def test_directories_are_left_out(text, shown):
    assert DIRECTORY.sub("", text) == (shown or text)


def test_markdown_shows_text_as_it_is():
    hostile = "![x](http://a.b/c.png) [y](http://a.b) <img src=x> www.a.b **b** `c` $d$"
    shown = escape_markdown(hostile)
    assert "<" not in shown and r"\!\[x\]\(http\:\/\/a\.b" in shown
    assert r"\*\*b\*\* \`c\` \$d\$" in shown and r"www\.a\.b" in shown
    assert escape_markdown("red cat, 2") == "red cat, 2"


def test_names_in_the_zip_of_answers():
    assert drawing_name(1, "folder/picture.jpg") == "001-picture.png"
    assert drawing_name(2, r"..\..\evil.jpg") == "002-evil.png"
    assert drawing_name(3, 'C:\\a<b>:"|?*.jpg') == "003-a_b______.png"
    assert drawing_name(4, "Übung (2).png") == "004-Übung (2).png"
    assert len(drawing_name(5, "x" * 500)) < 100
