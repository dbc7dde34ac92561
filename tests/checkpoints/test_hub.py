"""Downloads from a hub on this machine: what is fetched, what is not, and what failures say."""

import hashlib
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from fakehub import GATED, Refusal, connect
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.utils import close_session

from paligemma.checkpoints import hub, lora
from paligemma.checkpoints.io import load_model, save_model
from paligemma.checkpoints.resolve import resolve
from paligemma.detections import parse
from paligemma.generation import SamplingOptions
from paligemma.pipeline import PaliGemma

NAME = "owner/model"
WEIGHTS = "model.safetensors"
SPACE = f"spaces/{hub.MASK_CODEC_REPO}"
SEGMENT = "<loc0256>" * 4 + "".join(f"<seg{code:03}>" for code in range(16)) + " cat"


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """A tiny checkpoint without a mask codec, and what else lies in such a repository."""
    folder = tiny.write(tmp_path_factory.mktemp("models") / "tiny")
    (folder / "mask_codec.npz").unlink()
    return contents(folder) | {"README.md": b"# A model", "pytorch_model.bin": b"a pickle"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory, files) -> dict[str, bytes]:
    """The same model in several files."""
    folder = tmp_path_factory.mktemp("models") / "cut"
    save_model(tiny.ours(tiny.config()), folder, max_shard_size=100_000)
    return contents(folder) | {"tokenizer.json": files["tokenizer.json"]}


@pytest.fixture(scope="module")
def codec(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("codec") / "codec.npz"
    tiny.codec().save(path)
    return path.read_bytes()


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """An empty hub, an empty cache, nobody's token, and no waiting between attempts."""
    served = connect(monkeypatch, tmp_path)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    yield served
    close_session()
    served.close()


@pytest.fixture
def served(fake, files):
    fake.commit(NAME, files)
    return fake


@pytest.fixture
def cache(fake, tmp_path):
    return tmp_path / "cache"


def refused(call, *arguments) -> str:
    """The words of a ValueError, which is a sentence or two."""
    with pytest.raises(ValueError) as caught:
        call(*arguments)
    words = str(caught.value)
    assert type(caught.value) is ValueError
    assert words.endswith(".") and "\n" not in words and len(words) < 500
    return words


def weights_of(path):
    return load_model(path).state_dict()


def whole_weights(cache) -> list:
    """Everything in the cache under the name of a file of weights."""
    return [path for path in cache.rglob("*.safetensors") if path.exists()]


# --- Models ---------------------------------------------------------------------------------------


def test_a_model_is_downloaded_and_answers(served):
    pg = PaliGemma.load(NAME, "cpu")
    assert pg.name == NAME and pg.config == tiny.config()
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    assert pg.generate(noise, "detect cat", SamplingOptions(max_new_tokens=3)).finished


def test_memory_is_planned_before_weights_are_fetched(served, cache, monkeypatch):
    monkeypatch.setattr(hub, "UNCHECKED_BYTES", 0)
    monkeypatch.setattr("paligemma.devices.free_memory", lambda device: 1000)
    assert "The model needs" in refused(PaliGemma.load, NAME, "cpu")
    assert not whole_weights(cache) and not any(
        line.startswith("GET") and WEIGHTS in line for line in served.asked
    )


@pytest.mark.parametrize("cached", [False, True])
def test_an_adapter_is_downloaded_and_loads_on_its_base(served, tmp_path, cached, monkeypatch):
    folder = tmp_path / "adapter"
    base = load_model(resolve(NAME).path)
    config = lora.Adapter(NAME, 2, 4.0, ("q_proj",))
    names = lora.attach(base, config)
    parameters = dict(base.named_parameters())
    weights = {name: torch.ones_like(parameters[name]) for name in names}
    lora.save(folder, config, weights)
    served.commit("owner/lora", contents(folder))
    if cached:
        resolve("owner/lora")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = resolve("owner/lora")
    assert found.name == found.source == "owner/lora" and found.config == tiny.config()
    name = "language_model.layers.0.self_attn.q_proj.weight"
    change = found.load_model().state_dict()[name] - weights_of(found.path)[name]
    torch.testing.assert_close(change, torch.full_like(change, 4.0))


def test_only_json_and_safetensors_are_fetched(served):
    folder = resolve(NAME).path
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        WEIGHTS,
        "tokenizer.json",
    ]


def test_shards_are_fetched(fake, shards):
    fake.commit(NAME, shards)
    folder = resolve(NAME).path
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert weights_of(folder).keys() == tiny.ours(tiny.config()).state_dict().keys()


def test_cached_files_cause_no_requests(served):
    first = resolve(NAME)
    served.asked.clear()
    assert resolve(NAME).path == first.path
    assert served.asked == []


def test_cached_files_need_no_hub(served):
    first = resolve(NAME)
    served.close()
    assert resolve(NAME).path == first.path
    assert (first.path / WEIGHTS).is_file()


def test_a_revision_pins_a_commit(served, files):
    old = served.commit(NAME, files | {"preprocessor_config.json": b"{}"}, "v1.0")
    for name in (f"{NAME}@v1.0", f"{NAME}@{old}"):
        found = resolve(name)
        assert found.path.name == old and found.name == name
        assert (found.path / "preprocessor_config.json").is_file()
    assert resolve(NAME).path.name != old


def test_a_revision_may_have_a_slash(served, files):
    commit = served.commit(NAME, files | {"generation_config.json": b"{}"}, "refs/pr/7")
    assert hub.fetch_model(f"{NAME}@refs/pr/7").name == commit


def test_only_the_tokenizer_is_fetched(served):
    folder = hub.fetch_tokenizer(NAME)
    assert [path.name for path in folder.iterdir()] == ["tokenizer.json"]
    assert not [line for line in served.asked if WEIGHTS in line]


def test_a_cached_tokenizer_is_not_taken_for_a_model(served):
    assert hub.fetch_tokenizer(NAME) == resolve(NAME).path
    assert PaliGemma.load(NAME, "cpu").config == tiny.config()


def test_the_tokenizer_of_another_repository(fake, files):
    fake.commit("owner/words", {"tokenizer.json": files["tokenizer.json"]})
    fake.commit(NAME, {name: files[name] for name in ("config.json", WEIGHTS)})
    assert "There is no tokenizer.json" in refused(resolve, NAME)
    found = resolve(NAME, tokenizer="owner/words")
    assert found.processor.image_token_id == found.config.image_token_index


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_partly_cached_model_is_completed(served, name):
    """It fetched one file: no listing says what else there is."""
    commit = hf_hub_download(NAME, name).split("/")[-2]
    served.commit(NAME, {"config.json": b"{}"})  # main has moved on
    assert resolve(NAME).path.name == commit
    assert weights_of(resolve(NAME).path)


def test_a_model_cached_by_another_program_needs_no_hub(served):
    for name in ("config.json", WEIGHTS, "tokenizer.json"):
        hf_hub_download(NAME, name)
    served.close()
    assert weights_of(resolve(NAME).path)


def test_a_missing_shard_is_fetched(fake, shards):
    fake.commit(NAME, shards)
    first = min(name for name in shards if name.endswith(".safetensors"))
    for name in sorted(shards.keys() - {first}):
        hf_hub_download(NAME, name)
    assert weights_of(resolve(NAME).path)
    assert sum(line.startswith("GET") and first in line for line in fake.asked) == 1


# --- Refusals -------------------------------------------------------------------------------------


def test_an_unknown_model(served):
    words = refused(resolve, "owner/nothing")
    assert words.startswith("owner/nothing cannot be loaded: there is no such model at ")
    assert "private" in words and "HF_TOKEN" in words


@pytest.mark.parametrize("revision", ["v2", "0" * 40])
def test_an_unknown_revision(served, revision):
    words = refused(resolve, f"{NAME}@{revision}")
    assert f"it has no revision '{revision}'" in words and f"{served.url}/{NAME}/tree" in words


@pytest.mark.parametrize("part", ["/resolve/", ""], ids=["its files", "all of it"])
@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_names_its_licence_and_the_token(served, part, status):
    served.refusals = [Refusal(part, status, GATED)]
    words = refused(resolve, NAME)
    assert "licence" in words and f"{served.url}/{NAME}," in words and "HF_TOKEN" in words


def test_a_licence_accepted_later_is_enough(served):
    served.refusals = [Refusal("/resolve/", 403, GATED)]
    refused(resolve, NAME)
    served.refusals = []
    assert weights_of(resolve(NAME).path)


@pytest.mark.parametrize(
    "part, status, words",
    [
        ("/revision/", 401, "refuses this token"),
        ("/resolve/", 403, "refuses this token"),
        ("/revision/", 500, "answered 500; try again later"),
        ("/tree/", 503, "answered 503; try again later"),
        ("/resolve/", 502, "answered 502; try again later"),
        ("/revision/", 429, "answered 429; try again later"),
    ],
)
def test_a_hub_that_refuses(served, part, status, words):
    served.refusals = [Refusal(part, status, {})]
    assert words in refused(resolve, NAME)


@pytest.mark.parametrize("part", ["", "/tree/", "/resolve/"])
def test_a_login_page_in_place_of_the_hub(served, part):
    served.refusals = [Refusal(part, 200, {"Content-Type": "text/html"}, b"<html>Log in</html>")]
    assert "is not the hub" in refused(resolve, NAME)


def test_no_network(served):
    served.close()
    words = refused(resolve, NAME)
    assert words == (
        f"{NAME} cannot be loaded: it is not in the cache, and there is no network to {served.url}."
    )


def test_no_network_and_an_incomplete_model_in_the_cache(served):
    hf_hub_download(NAME, "config.json")
    served.close()
    assert "there is no network" in refused(resolve, NAME)


def test_offline_with_an_empty_cache(served, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    words = refused(resolve, NAME)
    assert "incomplete in the cache" in words and "HF_HUB_OFFLINE" in words
    assert served.asked == []


def test_offline_with_an_incomplete_model_in_the_cache(served, monkeypatch):
    hf_hub_download(NAME, "config.json")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused(resolve, NAME)


def test_offline_with_the_model_in_the_cache(served, monkeypatch):
    first = resolve(NAME).path
    served.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve(NAME).path == first and served.asked == []


@pytest.mark.parametrize(
    "kept, lacking",
    [(["README.md"], "config.json"), (["config.json", "pytorch_model.bin"], WEIGHTS)],
)
def test_a_repository_that_is_no_checkpoint(fake, files, kept, lacking):
    fake.commit(NAME, {name: files[name] for name in kept})
    assert f"it has no {lacking}" in refused(resolve, NAME)


def test_a_repository_without_a_tokenizer(fake, files):
    fake.commit("owner/words", {"README.md": b"none"})
    fake.commit(NAME, files)
    words = refused(resolve, NAME, "owner/words")
    assert words == "owner/words cannot be loaded: it has no tokenizer.json."


@pytest.mark.parametrize("name", ["a--b/model", "owner/model.git", "owner/a..b", "o/" + "m" * 120])
def test_an_invalid_model_name(served, name):
    assert name in refused(resolve, name) and served.asked == []


def test_a_cache_that_cannot_be_written(served, cache):
    cache.write_text("a file")
    assert "cannot be loaded" in refused(resolve, NAME)


# --- The disk -------------------------------------------------------------------------------------


def test_a_full_disk_is_reported_before_downloading(served, monkeypatch, cache):
    asked = []
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: asked.append(path) or SimpleNamespace(free=1000)
    )
    words = refused(resolve, NAME)
    assert "the download takes 1 MB" in words and str(cache) in words
    assert asked and asked[0].exists()
    assert not [line for line in served.asked if line.startswith("GET") and "/resolve/" in line]


def test_cached_files_need_no_disk_space(served, files, monkeypatch):
    hf_hub_download(NAME, WEIGHTS)
    rest = sum(len(files[name]) for name in ("config.json", "tokenizer.json"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=rest))
    assert weights_of(resolve(NAME).path)


# --- Progress -------------------------------------------------------------------------------------


def wanted(files) -> int:
    return sum(len(files[name]) for name in ("config.json", "tokenizer.json", WEIGHTS))


def test_progress_counts_every_byte(served, files):
    counts = []
    resolve(NAME, progress=lambda done, total: counts.append((done, total)))
    assert {total for _, total in counts} == {wanted(files)}
    counts = [done for done, _ in counts]
    assert counts == sorted(counts) and counts[-1] == wanted(files) and len(counts) > 5


def test_progress_counts_missing_files_only(served, files):
    hf_hub_download(NAME, WEIGHTS)
    counts = []
    resolve(NAME, progress=lambda done, total: counts.append((done, total)))
    rest = wanted(files) - len(files[WEIGHTS])
    assert counts[-1] == (rest, rest)


def test_no_progress_for_cached_files(served):
    resolve(NAME)
    resolve(NAME, progress=lambda done, total: pytest.fail("nothing is downloaded"))


def test_progress_may_cancel_the_download(served, cache):
    class StoppedError(Exception):
        pass

    def progress(done, total):
        if done > total / 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        resolve(NAME, progress=progress)
    assert not whole_weights(cache) and not list(cache.rglob("*.incomplete"))
    assert weights_of(resolve(NAME).path)


@pytest.mark.parametrize("error", [OSError("full"), ValueError("The download was stopped.")])
def test_an_exception_of_progress_is_raised(served, error):
    def progress(done, total):
        raise error

    with pytest.raises(type(error)) as caught:
        resolve(NAME, progress=progress)
    assert caught.value is error


@pytest.fixture
def in_xet(served, files, tmp_path):
    """The hub keeps the weights in Xet."""
    xet = pytest.importorskip("hf_xet")
    served.xet_url = f"local://{tmp_path}/xet"
    with xet.XetSession().new_upload_commit(endpoint=served.xet_url) as commit:
        upload = commit.start_upload_bytes(files[WEIGHTS])
    served.xet = {WEIGHTS: upload.result().xet_info.hash}
    return served


def asked_for_xet(served) -> bool:
    return any("xet-token" in line for line in served.asked)


def test_without_progress_xet_is_used(in_xet):
    assert weights_of(resolve(NAME).path) and asked_for_xet(in_xet)


def test_progress_may_cancel_a_download_of_weights_in_xet(in_xet, cache):
    """Xet swallows what progress raises: such a download uses plain HTTP."""
    counts = []

    def stop(done, total):
        counts.append(done)
        if done > total / 2:
            raise ValueError("The download was stopped.")

    with pytest.raises(ValueError, match=r"^The download was stopped\.$"):
        resolve(NAME, progress=stop)
    assert counts and not whole_weights(cache) and not list(cache.rglob("*.incomplete"))
    assert weights_of(resolve(NAME, progress=lambda done, total: None).path)
    assert not asked_for_xet(in_xet)


# --- Broken downloads -----------------------------------------------------------------------------


def test_an_interrupted_download_resumes(served, files):
    served.broken = 2
    counts = []
    found = resolve(NAME, progress=lambda done, total: counts.append(done))
    assert (found.path / WEIGHTS).read_bytes() == files[WEIGHTS]
    assert served.broken == 0 and max(counts) == wanted(files)


def test_a_download_that_is_always_interrupted_fails(served, files, cache):
    served.broken = 10**9
    words = refused(resolve, NAME)
    assert words.endswith("broke off; try again.")
    assert not whole_weights(cache)
    served.broken = 0
    assert (resolve(NAME).path / WEIGHTS).read_bytes() == files[WEIGHTS]


def test_a_truncated_file_is_not_accepted(served, files, cache):
    served.forged = {WEIGHTS: files[WEIGHTS][:-10]}
    assert "should be of size" in refused(resolve, NAME)
    assert not whole_weights(cache)
    served.forged = {}
    assert (resolve(NAME).path / WEIGHTS).read_bytes() == files[WEIGHTS]


def test_the_hub_fails_during_a_download(served, cache):
    def progress(done, total):
        served.refusals = [Refusal("/resolve/", 503, {})]

    served.broken = 10**9
    refused(resolve, NAME, None, None, progress)
    assert not whole_weights(cache)


# --- The mask codec -------------------------------------------------------------------------------


@pytest.fixture
def published(served, codec, monkeypatch):
    """The hub with a model and with `codec` as the published one."""
    served.commit(SPACE, {hub.MASK_CODEC_FILE: codec})
    monkeypatch.setattr(hub, "MASK_CODEC_SHA256", hashlib.sha256(codec).hexdigest())
    return served


def codec_requests(served) -> list[str]:
    return [line for line in served.asked if hub.MASK_CODEC_FILE in line]


def test_the_mask_codec_is_fetched_once(published, codec):
    assert hub.fetch_mask_codec().read_bytes() == codec
    published.asked.clear()
    assert hub.fetch_mask_codec().read_bytes() == codec
    assert published.asked == []


def test_a_mask_codec_with_another_digest_is_refused(published, codec):
    published.commit(SPACE, {hub.MASK_CODEC_FILE: codec[:-1] + b"?"})
    words = refused(hub.fetch_mask_codec)
    assert "is not the published mask codec" in words
    published.commit(SPACE, {hub.MASK_CODEC_FILE: codec})
    Path(words.split(" is not ")[0]).unlink()
    assert hub.fetch_mask_codec().read_bytes() == codec


def test_the_mask_codec_is_fetched_for_the_first_mask(published):
    pg = PaliGemma.load(NAME, "cpu")
    assert pg.checkpoint.mask_codec is None
    assert pg.masks(parse("<loc0256>" * 4 + " cat")) == [None]
    assert codec_requests(published) == []
    (mask,) = pg.masks(parse(SEGMENT))
    assert mask.shape == (64, 64) and codec_requests(published)


def test_without_a_mask_codec_only_masks_fail(served):
    pg = PaliGemma.load(NAME, "cpu")
    served.close()
    words = refused(pg.masks, parse(SEGMENT))
    assert words.startswith("The mask codec is missing: ")
    assert "no network" in words and "--mask-codec" in words


@pytest.mark.parametrize(
    "status, headers, words",
    [(404, {}, "answered 404"), (403, GATED, f"/{SPACE},"), (503, {}, "answered 503")],
)
def test_a_hub_that_refuses_the_mask_codec(published, status, headers, words):
    published.refusals = [Refusal(hub.MASK_CODEC_FILE, status, headers)]
    assert words in refused(hub.fetch_mask_codec)


def test_the_mask_codec_offline(published, codec, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused(hub.fetch_mask_codec)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.fetch_mask_codec()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.fetch_mask_codec().read_bytes() == codec
