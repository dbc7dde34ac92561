"""What a person may name, and what is found: folders, an .npz, tokenizers, mask codecs, names."""

import json
import os
import shutil
from pathlib import Path

import pytest
import tiny

from paligemma.checkpoints import big_vision, hub
from paligemma.checkpoints.big_vision import write as write_npz
from paligemma.checkpoints.resolve import BUILT_IN_FOLDER, MASK_CODEC_FILES, resolve
from paligemma.pipeline import PaliGemma
from paligemma.processor import PaliGemmaProcessor


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder with weights, tokenizer and mask codec; no test changes it."""
    return tiny.write(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "tiny")


@pytest.fixture
def npz(whole, tmp_path) -> Path:
    """An .npz with its config beside it, and no tokenizer."""
    path = tmp_path / "big" / "weights.npz"
    path.parent.mkdir()
    write_npz(path, tiny.config(), tiny.ours(tiny.config()).state_dict())
    (path.parent / "config.json").write_text(json.dumps(tiny.config().to_dict()))
    return path


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(autouse=True)
def asked(monkeypatch) -> list[str]:
    """What the hub is asked for: these tests have none."""
    names = []

    def fetch(name: str, progress=None, check=None, token=None) -> Path:
        names.append(name)
        raise ValueError(f"{name} cannot be loaded: there is no hub.")

    monkeypatch.setattr(hub, "fetch_model", fetch)
    monkeypatch.setattr(hub, "fetch_tokenizer", fetch)
    monkeypatch.setattr(hub, "fetch_mask_codec", lambda: pytest.fail("no mask is needed yet"))
    return names


def refused(source, **given) -> str:
    """The words of a ValueError, which is a sentence or two."""
    with pytest.raises(ValueError) as caught:
        resolve(source, **given)
    words = str(caught.value)
    assert type(caught.value) is ValueError
    assert "\n" not in words and len(words) < 500
    return words


# --- Weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [None, "", "built-in", BUILT_IN_FOLDER, str(BUILT_IN_FOLDER)])
def test_the_built_in_model(source, asked):
    found = resolve(source)
    assert found.is_built_in and found.name == "the built-in model"
    assert found.path == BUILT_IN_FOLDER and found.mask_codec == BUILT_IN_FOLDER / "mask_codec.npz"
    assert isinstance(found.processor, PaliGemmaProcessor) and asked == []


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder(whole, kind, asked):
    found = resolve(kind(whole))
    assert found.path == whole and found.source == str(whole) and found.config == tiny.config()
    assert found.name == "tiny" and not found.is_built_in
    assert found.mask_codec == whole / "mask_codec.npz" and asked == []


def test_a_folder_that_looks_like_a_name_of_the_hub(folder, monkeypatch, asked):
    monkeypatch.chdir(folder.parents[1])
    source = str(folder.relative_to(folder.parents[1]))
    assert hub.REPO_NAME.fullmatch(source)
    assert resolve(source).name == "tiny" and asked == []


def test_the_working_directory(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert resolve(".").name == "tiny"


def test_a_folder_in_the_home(folder, home):
    found = resolve("~/tiny")
    assert found.path == folder and found.name == "tiny"


@pytest.mark.parametrize(
    "name, words",
    [("config.json", "has no config.json"), ("tokenizer.json", "There is no tokenizer.json in")],
)
def test_a_missing_file_is_named(folder, name, words):
    (folder / name).unlink()
    assert words in refused(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_damaged_file_is_named(folder, name):
    (folder / name).write_text("{")
    assert str(folder / name) in refused(folder)


def test_weights_are_not_read_yet(folder):
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert resolve(folder).config == tiny.config()


def test_an_npz_uses_the_tokenizer_beside_it(npz, whole):
    shutil.copy(whole / "tokenizer.json", npz.parent)
    found = resolve(npz)
    assert found.path == npz and found.config == tiny.config() and found.name == "weights.npz"
    assert found.mask_codec is None


def test_an_npz_without_a_tokenizer_is_refused(npz):
    words = refused(npz)
    assert "no tokenizer.json beside it" in words and "--tokenizer" in words


def test_an_npz_of_another_size_needs_its_config(npz):
    (npz.parent / "config.json").unlink()
    assert "put its config.json beside it" in refused(npz)


def test_a_damaged_npz(npz):
    (npz.parent / "config.json").unlink()
    npz.write_bytes(b"damaged")
    assert "cannot be read as a big_vision .npz" in refused(npz)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_other_files_are_no_checkpoint(whole, name, asked):
    words = refused(whole / name)
    assert "is a file" in words and "give their folder" in words and asked == []


@pytest.mark.parametrize(
    "source",
    [
        "nonsense",
        " ",
        "built in",
        "one two/three",
        "a/b/c",
        "/nowhere/at/all",
        "nowhere/",
        "./nowhere",
        "../nowhere",
        "~/nowhere",
        "models/weights.npz",
        "weights.npz",
        "https://huggingface.co/owner/model",
        "owner/model@",
        "owner/model@../main",
        "öwner/model",
        "owner/model\n",
        "\0",
        "C:\\models\\tiny",
    ],
)
def test_nonsense_is_no_checkpoint(source, asked):
    words = refused(source)
    assert words.startswith("There is no checkpoint ") and repr(source) in words
    assert asked == []


@pytest.mark.parametrize("source", ["a" * 5000, "~nobody-of-this-name/tiny"])
def test_names_that_cannot_be_paths(source, asked):
    words = refused(source)
    assert "cannot be opened: " in words and source[:60] in words and asked == []


@pytest.mark.parametrize(
    "source", ["owner/model", "owner/model@v1.0", "o/m@refs/pr/7", "google/paligemma2-3b-mix-224"]
)
def test_a_model_of_the_hub_is_fetched(source, asked):
    assert refused(source) == f"{source} cannot be loaded: there is no hub."
    assert asked == [source]


def test_a_missing_folder_beside_others_is_named(tmp_path, monkeypatch, asked):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert refused("runs/mine").startswith("There is no folder runs/mine. As a model: ")


@pytest.mark.parametrize("source", ["owner/model", "owner/model@v1.0"])
def test_a_model_of_the_hub_keeps_its_name(whole, source, monkeypatch):
    requests = []
    monkeypatch.setattr(hub, "fetch_model", lambda *given: requests.append(given) or whole)
    found = resolve(source, progress=print)
    assert (
        found.name == source
        and found.path == whole
        and [given[:2] for given in requests] == [(source, print)]
    )


@pytest.mark.parametrize("kind", ["folder", "npz", "npz without a config"])
def test_the_config_is_read_once(whole, npz, kind, monkeypatch):
    shutil.copy(whole / "tokenizer.json", npz.parent)
    source = whole if kind == "folder" else npz
    if kind == "npz without a config":
        (npz.parent / "config.json").unlink()
        monkeypatch.setattr(big_vision, "VARIANTS", {"tiny": tiny.config()})
    opened = []
    with monkeypatch.context() as patch:
        original = Path.read_text
        read = lambda path, *given: opened.append(path.name) or original(path, *given)
        patch.setattr(Path, "read_text", read)
        shapes = big_vision._shapes
        patch.setattr(big_vision, "_shapes", lambda path: opened.append("shapes") or shapes(path))
        checkpoint = resolve(source)
        model = checkpoint.load_model(*checkpoint.plan("cpu", "float32"))
    assert model.config is checkpoint.config
    once = "shapes" if kind == "npz without a config" else "config.json"
    assert [name for name in opened if name in ("config.json", "shapes")] == [once]


def test_random_weights_are_marked_in_config_json(folder):
    assert not resolve(folder).is_random
    values = json.loads((folder / "config.json").read_text()) | {"initialization": "random"}
    (folder / "config.json").write_text(json.dumps(values))
    assert resolve(folder).is_random
    assert PaliGemma.from_checkpoint(resolve(folder)).description.startswith("Random weights")


# --- Tokenizers -----------------------------------------------------------------------------------


@pytest.fixture
def words(tmp_path) -> Path:
    """A folder with a tokenizer alone."""
    folder = tmp_path / "words"
    folder.mkdir()
    tiny.words().save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("name", ["", "tokenizer.json"], ids=["folder", "file"])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_tokenizer_by_its_path(npz, words, name, kind):
    assert resolve(npz, tokenizer=kind(words / name)).config == tiny.config()


@pytest.mark.parametrize("given", ["~/words", "~/words/tokenizer.json"])
def test_a_tokenizer_in_the_home(npz, words, home, given):
    assert resolve(npz, tokenizer=given).config == tiny.config()


def test_a_tokenizer_of_the_hub(npz, words, monkeypatch):
    monkeypatch.setattr(hub, "fetch_tokenizer", {"owner/words": words}.__getitem__)
    assert resolve(npz, tokenizer="owner/words").config == tiny.config()


def test_an_explicit_tokenizer_overrides_the_one_beside_the_weights(folder, words):
    (folder / "tokenizer.json").write_text("damaged")
    assert resolve(folder, tokenizer=words).config == tiny.config()


def test_a_tokenizer_of_another_model_is_refused(folder):
    words = refused(folder, tokenizer=BUILT_IN_FOLDER)
    assert "embedding table" in words or "<image>" in words


@pytest.mark.parametrize("name", ["empty", "nowhere/tokenizer.json", "empty/tokenizer.json"])
def test_a_missing_tokenizer(npz, tmp_path, name):
    (tmp_path / "empty").mkdir()
    assert "There is no tokenizer.json in" in refused(npz, tokenizer=tmp_path / name)


@pytest.mark.parametrize("given", ["nonsense", "/nowhere/at/all", "./words", "~/words.json", "\0"])
def test_other_names_are_no_tokenizer(npz, home, given, asked):
    assert "is not a tokenizer; give" in refused(npz, tokenizer=given)
    assert asked == []


def test_a_tokenizer_file_must_be_called_tokenizer_json(npz, words):
    path = (words / "tokenizer.json").rename(words / "other.json")
    assert "is not a tokenizer; give" in refused(npz, tokenizer=path)


def test_a_tokenizer_name_that_cannot_be_a_path(npz):
    assert "cannot be opened: " in refused(npz, tokenizer="~nobody-of-this-name/words")


# --- Mask codecs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MASK_CODEC_FILES)
def test_a_mask_codec_beside_the_weights(folder, name):
    (folder / "mask_codec.npz").rename(folder / name)
    assert resolve(folder).mask_codec == folder / name


def test_a_mask_codec_beside_an_npz(npz, words, folder):
    shutil.copy(folder / "mask_codec.npz", npz.parent)
    assert resolve(npz, tokenizer=words).mask_codec == npz.parent / "mask_codec.npz"


def test_a_models_own_mask_codec_overrides_the_published_one(folder):
    shutil.copy(folder / "mask_codec.npz", folder / hub.MASK_CODEC_FILE)
    assert resolve(folder).mask_codec == folder / "mask_codec.npz"


def test_without_a_mask_codec(folder):
    (folder / "mask_codec.npz").unlink()
    assert resolve(folder).mask_codec is None


@pytest.mark.parametrize("kind", [str, Path])
def test_an_explicit_mask_codec_overrides_the_one_beside_the_weights(folder, kind):
    assert resolve(folder, mask_codec=kind(BUILT_IN_FOLDER / "mask_codec.npz")).mask_codec == (
        BUILT_IN_FOLDER / "mask_codec.npz"
    )


def test_a_mask_codec_in_the_home(folder, home):
    found = resolve(folder, mask_codec="~/tiny/mask_codec.npz")
    assert found.mask_codec == folder / "mask_codec.npz"


@pytest.mark.parametrize("given", ["nowhere.npz", "owner/codec", ".", "\0"])
def test_a_missing_mask_codec(folder, given, asked):
    assert refused(folder, mask_codec=given).startswith("There is no mask codec at ")
    assert asked == []


def test_a_mask_codec_name_that_cannot_be_a_path(folder):
    assert "cannot be opened: " in refused(folder, mask_codec="~nobody-of-this-name/codec.npz")


# --- Names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, fits",
    [
        ("owner/model", True),
        ("google/paligemma2-3b-pt-896", True),
        ("o_1/m.v2@main", True),
        ("o/m@refs/pr/3", True),
        ("model", False),
        ("a/b/c", False),
        ("./model", False),
        ("../model", False),
        ("-o/model", False),
        ("owner/.model", False),
        ("owner/model@", False),
        ("owner/model@/etc/passwd", False),
        ("owner /model", False),
        ("owner/model\n", False),
        ("", False),
    ],
)
def test_names_of_hub_models(name, fits):
    assert bool(hub.REPO_NAME.fullmatch(name)) == fits


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read it all")
def test_a_folder_without_permission(folder):
    folder.parent.chmod(0)
    try:
        assert "cannot be opened: Permission denied." in refused(folder)
    finally:
        folder.parent.chmod(0o700)


def test_a_fingerprint_is_of_the_weights_wherever_they_lie(tmp_path):
    one = tiny.write(tmp_path / "one")
    shutil.copytree(one, tmp_path / "copy")
    first = resolve(one).fingerprint
    assert resolve(tmp_path / "copy").fingerprint == first != resolve("built-in").fingerprint
    weights = one / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    weights.write_bytes(content)
    assert resolve(one).fingerprint != first
