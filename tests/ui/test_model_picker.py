"""From the button "Use it on photographs" to a caption: needs, licence, token, download, answer."""

import json
import re
from types import SimpleNamespace

import pytest
from fakehub import connect
from gradio import oauth
from huggingface_hub.utils import close_session
from scripted import Scripted

from paligemma.checkpoints.catalog import PUBLISHED
from paligemma.checkpoints.resolve import BUILT_IN_FOLDER, resolve
from paligemma.pipeline import PaliGemma
from paligemma.ui import model_picker
from paligemma.ui.layout import build_app
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.theme import LAUNCH_OPTIONS

NAME, TOKEN = "owner/model", "hf_secret123"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # gradio's use of pandas


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with the built-in model as a gated one."""
    served = connect(monkeypatch, tmp_path)
    files = {path.name: path.read_bytes() for path in BUILT_IN_FOLDER.iterdir() if path.is_file()}
    served.commit(NAME, files)
    served.token = TOKEN
    yield served
    close_session()
    served.close()


def fetched(models, token):
    return list(model_picker.fetch_with_token(models, NAME, token))[-1][0]


# --- What it needs, and its licence ---------------------------------------------------------------


@pytest.mark.parametrize("any_model", [True, False])
def test_the_panel_says_needs_and_licence_of_published_models(any_model):
    models = ModelManager(PaliGemma.load(), any_model=any_model)
    for row in PUBLISHED[:2]:
        html = model_picker.needs_html(models, row.id)
        assert f'/{row.id}">' in html and "accept it" in html and "Memory: " in html
        assert ("token below" in html) is any_model
    for other in "built-in", NAME, "", None, ["google/paligemma-3b-mix-224"], {}:
        assert model_picker.needs_html(models, other) == ""


# --- Whose token ----------------------------------------------------------------------------------


def test_a_token_is_used_for_one_download_and_kept_nowhere(hub, tmp_path):
    models = ModelManager(PaliGemma.load())
    with pytest.raises(Exception, match="its licence must be accepted once"):
        fetched(models, "")
    checkpoint = fetched(models, f" {TOKEN}\n")
    assert TOKEN not in repr(checkpoint) + repr(vars(models))
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size < 10**6]
    assert files and not [path for path in files if TOKEN.encode() in path.read_bytes()]


@pytest.mark.parametrize("token", ["two words", "hf_\nX: y", "hf_ü", "a" * 201, ["hf_a"], {"a": 1}])
def test_what_is_no_token_is_not_sent_and_not_repeated(hub, token):
    with pytest.raises(Exception, match="token") as caught:
        fetched(ModelManager(PaliGemma.load()), token)
    assert "hf_" not in str(caught.value).replace(repr(token), "") and hub.asked == []


def test_a_public_page_takes_no_token():
    demo = build_app(ModelManager(Scripted({}), any_model=False))
    texts = json.dumps(demo.config["components"], default=str)
    assert "Token of the hub" not in texts
    assert "Token of the hub" in json.dumps(
        build_app(ModelManager(Scripted({}))).config["components"], default=str
    )


def test_only_the_owner_of_a_space_may_sign_in_for_everybody(monkeypatch):
    monkeypatch.setenv("SPACE_AUTHOR_NAME", "owner")
    token = SimpleNamespace(token=TOKEN)
    owner, visitor = SimpleNamespace(username="owner"), SimpleNamespace(username="visitor")
    assert model_picker.owner_token(owner, token) == TOKEN
    assert model_picker.owner_token(visitor, token) == ""
    assert model_picker.owner_token(None, token) == model_picker.owner_token(owner, None) == ""
    monkeypatch.delenv("SPACE_AUTHOR_NAME")
    assert model_picker.owner_token(SimpleNamespace(username=None), None) == ""


def test_a_space_with_sign_in_shows_the_button(monkeypatch):
    monkeypatch.setattr(model_picker, "HAS_SIGN_IN", True)
    monkeypatch.setenv("SYSTEM", "spaces")
    monkeypatch.setenv("SPACE_ID", "owner/space")
    for name in "CLIENT_ID", "CLIENT_SECRET", "SCOPES":
        monkeypatch.setattr(oauth, f"OAUTH_{name}", "a")
    monkeypatch.setattr(oauth, "OPENID_PROVIDER_URL", "http://127.0.0.1:1")
    demo = build_app(ModelManager(Scripted({}), any_model=False))
    assert demo.expects_oauth
    private = build_app(ModelManager(Scripted({})))
    assert not private.expects_oauth


# --- In the page ----------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.slow
def test_from_the_click_to_the_caption(browser, hub, monkeypatch, capfd):
    expect = pytest.importorskip("playwright.sync_api").expect
    choices = [("the photographs' model", NAME)]
    monkeypatch.setattr(model_picker, "model_choices", lambda: choices)
    monkeypatch.setattr(model_picker, "PHOTOGRAPH_MODEL", NAME)
    row = SimpleNamespace(id=NAME, purpose="for this test", config=resolve().config)
    monkeypatch.setattr(model_picker, "PUBLISHED", (row,))
    demo = build_app(ModelManager(PaliGemma.load()))
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **LAUNCH_OPTIONS)
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(20_000)
    page.goto(url)
    page.wait_for_function("window.restored")
    page.get_by_role("button", name="Use it on photographs", exact=True).click()
    panel = page.locator("#models")
    expect(panel).to_contain_text(re.compile(r"Memory: \d+ MB, of "))
    expect(panel.get_by_role("link", name="the model's page")).to_have_attribute(
        "href", f"{hub.url}/{NAME}"
    )
    go = panel.get_by_role("button", name="Try it on my picture")
    go.click()
    expect(page.locator(".toast-body").first).to_contain_text("its licence must be accepted once")
    page.get_by_label("Close").first.click()
    token = panel.get_by_label("Token of the hub")
    assert token.get_attribute("type") == "password"
    token.fill(TOKEN)
    go.click()
    expect(page.locator("#header")).to_contain_text(NAME)
    answer = page.locator("#tab-caption").get_by_label("Raw output")
    expect(answer).to_have_value("a red anchor and a brown wheel on a teal background")
    expect(token).to_have_value("")
    assert TOKEN not in page.url and TOKEN not in page.content()
    assert TOKEN not in "".join(capfd.readouterr())
    page.close()
    demo.close()
