"""Every layout and dtype of one model, from each to the others."""

import json
import shutil

import numpy as np
import pytest
import tiny
import torch
from checkpoint_files import SHARD, WRITERS, refused
from reference import CONFIGS, IMAGE, ours, prompts, weights
from safetensors import SafetensorError
from safetensors.torch import load_file

from paligemma.__main__ import main
from paligemma.checkpoints import lora
from paligemma.checkpoints.convert import convert
from paligemma.checkpoints.io import CONFIG, INDEX, WEIGHTS, load_model, save_model, save_npz
from paligemma.checkpoints.resolve import resolve

TABLE = "language_model.embed_tokens.weight"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
both = pytest.mark.parametrize("name", CONFIGS)


def state_of(path, dtype=None) -> dict[str, torch.Tensor]:
    return load_model(path, dtype=dtype).state_dict()


def assert_same(found, expected) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name]), name


def without_image_rows(state, image=IMAGE):
    """What an .npz keeps: its table ends before <image>, and what follows comes back as zero."""
    table = state[TABLE].clone()
    table[image:] = 0
    return state | {TABLE: table}


def listing(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# --- Layouts --------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_in_every_dtype_loads_bit_for_bit(tmp_path, name, dtype, layout):
    config = CONFIGS[name]
    path = WRITERS[layout](ours(config).to(dtype), tmp_path / "model")
    assert ("sharded" in layout) == (tmp_path / "model" / INDEX).exists()
    written = {name: tensor.to(dtype) for name, tensor in weights(config).items()}
    if layout == "npz":
        written = without_image_rows(written)
    if dtype == torch.float16 and config.text_config.post_norms:
        refused("float16 cannot hold Gemma 2", load_model, path)
    else:
        assert_same(state_of(path), written)
    for other in (torch.float32, torch.bfloat16):
        assert_same(state_of(path, other), {key: value.to(other) for key, value in written.items()})


@both
@torch.no_grad()
def test_saving_shards_removes_an_older_single_file(tmp_path, name):
    transformers = pytest.importorskip("transformers")
    model, batch = ours(CONFIGS[name]), prompts(5, 3)
    save_model(model, tmp_path)
    save_model(model, tmp_path, max_shard_size=SHARD)
    index = json.loads((tmp_path / INDEX).read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 3 and listing(tmp_path) == sorted([CONFIG, INDEX, *shards])
    assert index["metadata"]["total_size"] == model.config.num_parameters * 4
    held = {shard: set(load_file(tmp_path / shard)) for shard in shards}
    for shard, names in held.items():
        assert names == {key for key, where in index["weight_map"].items() if where == shard}
    assert_same(state_of(tmp_path), weights(CONFIGS[name]))
    reference = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
        tmp_path, attn_implementation="eager"
    )
    read = batch["attention_mask"].bool()
    expected, actual = reference.eval()(**batch).logits[read], model(**batch)["logits"][read]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


# --- convert --------------------------------------------------------------------------------------


def converted(source, destination, dtype=None):
    convert(resolve(source), destination, dtype)
    return destination


@both
def test_from_npz_to_folder_and_back_nothing_changes(sources, tmp_path, name):
    start = sources[name]
    image = resolve(start).config.image_token_index
    first = converted(start, tmp_path / "1" / "w.npz")
    folder = converted(first, tmp_path / "2")
    second = converted(folder, tmp_path / "3" / "w.npz")
    last = converted(second, tmp_path / "4")
    expected = without_image_rows(state_of(start), image)
    for path in (first, folder, second, last):
        assert resolve(path).config == resolve(start).config
        assert_same(state_of(path), expected)
    assert first.read_bytes() == second.read_bytes()
    assert (folder / WEIGHTS).read_bytes() == (last / WEIGHTS).read_bytes()


@both
@pytest.mark.parametrize("suffix", ["", ".npz"], ids=["folder", "npz"])
def test_to_another_dtype_and_back(sources, tmp_path, name, suffix):
    expected = state_of(sources[name])
    if suffix:
        expected = without_image_rows(expected, resolve(sources[name]).config.image_token_index)
    half = {key: tensor.bfloat16() for key, tensor in expected.items()}
    path = converted(sources[name], tmp_path / "1" / f"x{suffix}", torch.bfloat16)
    assert_same(state_of(path), half)
    path = converted(path, tmp_path / "2" / f"x{suffix}", torch.float32)
    assert_same(state_of(path), {key: tensor.float() for key, tensor in half.items()})


def test_only_gemma_1_converts_to_float16(sources, tmp_path):
    path = converted(sources["gemma1"], tmp_path / "1", torch.float16)
    assert json.loads((path / CONFIG).read_text())["torch_dtype"] == "float16"
    assert_same(state_of(path), {k: v.half() for k, v in state_of(sources["gemma1"]).items()})
    found = resolve(sources["gemma2"])
    refused("65504", convert, found, tmp_path / "2", torch.float16)
    assert not (tmp_path / "2").exists()


def test_files_beside_the_weights_are_copied(sources, tmp_path):
    source = sources["gemma1"]
    folder = converted(source, tmp_path / "folder")
    assert {*listing(source)} <= {*listing(folder)}
    for name in ("tokenizer.json", "mask_codec.npz", "generation_config.json"):
        assert (folder / name).read_bytes() == (source / name).read_bytes()
    npz = converted(folder, tmp_path / "npz" / "w.npz")
    assert {*listing(folder), "w.npz"} - {WEIGHTS} == {*listing(npz.parent)}
    found = resolve(npz)
    assert found.mask_codec == npz.parent / "mask_codec.npz"
    assert found.processor.encode_prompt("ocr") == tiny.processor().encode_prompt("ocr")


def test_an_index_is_not_copied(sources, tmp_path):
    source = tmp_path / "sharded"
    save_model(load_model(sources["gemma1"]), source, max_shard_size=SHARD)
    tiny.words().save(str(source / "tokenizer.json"))
    folder = converted(source, tmp_path / "whole")
    assert (source / INDEX).is_file() and not (folder / INDEX).exists()
    assert_same(state_of(folder), state_of(source))


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@both
@pytest.mark.parametrize("via", ["folder", "npz"])
@torch.no_grad()
def test_transformers_loads_weights_tokenizer_and_processor(sources, tmp_path, name, via):
    """Weights, tokenizer and processor: the same ids from the same prompt, and the same logits."""
    transformers = pytest.importorskip("transformers")
    source = sources[name]
    if via == "npz":
        source = converted(source, tmp_path / "npz" / "w.npz")
    folder = converted(source, tmp_path / "folder")
    found, model = resolve(folder), load_model(folder)

    processor = transformers.AutoProcessor.from_pretrained(folder)
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    text, tokenizer = "detect red cat", transformers.AutoTokenizer.from_pretrained(folder)
    theirs_read = processor(text="<image>" + text, images=image, return_tensors="pt")
    batch = found.processor(text=[text], images=[image])
    assert theirs_read["input_ids"].tolist() == batch.input_ids.tolist()
    assert tokenizer(text + "\n", add_special_tokens=False).input_ids == (
        batch.input_ids[0, tiny.P + 1 :].tolist()
    )
    assert (theirs_read["pixel_values"] - batch.pixel_values).abs().max() < 0.05

    reference, report = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
        folder, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report
    read = {
        "input_ids": batch.input_ids,
        "pixel_values": batch.pixel_values,
        "attention_mask": batch.attention_mask,
        "token_type_ids": batch.token_type_ids,
    }
    expected, actual = reference.eval()(**read).logits, model(**read)["logits"]
    assert expected.std() > 1
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("via", ["folder", "npz"])
def test_random_weights_stay_marked_as_random(sources, tmp_path, via):
    """A field of config.json, which transformers accepts, says so: the name does not matter."""
    save_model(load_model(sources["gemma1"]), tmp_path / "one", initialization="random")
    tiny.words().save(str(tmp_path / "one" / "tokenizer.json"))
    source = tmp_path / "one"
    if via == "npz":
        source = converted(source, tmp_path / "npz" / "w.npz")
        assert resolve(source).is_random
    folder = converted(source, tmp_path / "folder")
    assert resolve(folder).is_random and not resolve(sources["gemma1"]).is_random
    transformers = pytest.importorskip("transformers")
    reference, report = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(report.values()), report
    assert reference.config.initialization == "random"


def test_an_adapter_is_merged(sources, tmp_path):
    base = load_model(sources["gemma1"])
    config = lora.Adapter(str(sources["gemma1"]), 2, 4.0, ("q_proj",))
    names = lora.attach(base, config)
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.rand(value.shape, generator=generator)
        for name, value in base.named_parameters()
        if name in names
    }
    lora.save(tmp_path / "adapter", config, state)
    measured = [sources["gemma1"] / name for name in ("score_calibration.json", "known_names.txt")]
    for file in measured:
        file.write_text("{}\n", "utf-8")
    plain = converted(sources["gemma1"], tmp_path / "plain")
    folder = converted(tmp_path / "adapter", tmp_path / "merged")
    merged, before = state_of(folder), state_of(sources["gemma1"])
    changed = {name for name, tensor in merged.items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "q_proj.weight" in name}
    assert_same(merged, resolve(tmp_path / "adapter").load_model().state_dict())
    for file in measured:  # on the base alone
        file.unlink()
        assert (plain / file.name).is_file() and not (folder / file.name).exists()


# --- Where convert may not write ------------------------------------------------------------------

TAKEN = ["out", "out/config.json", "out/tokenizer.json", "out/" + WEIGHTS, "out/" + INDEX]
TAKEN_NPZ = ["out/w.npz", "out/config.json", "out/tokenizer.json"]


@pytest.mark.parametrize(
    ("taken", "destination"),
    [(taken, "out") for taken in TAKEN] + [(taken, "out/w.npz") for taken in TAKEN_NPZ],
)
def test_existing_files_are_not_overwritten(sources, tmp_path, taken, destination):
    (tmp_path / taken).parent.mkdir(exist_ok=True)
    (tmp_path / taken).write_text("precious")
    before = listing(tmp_path)
    found = resolve(sources["gemma1"])
    refused(f"{taken} exists already", convert, found, tmp_path / destination)
    assert listing(tmp_path) == before and (tmp_path / taken).read_text() == "precious"


@pytest.mark.parametrize("destination", ["deep/out", "deep/w.npz"])
def test_a_full_disk_is_reported_before_writing(sources, tmp_path, monkeypatch, destination):
    usage = shutil.disk_usage(tmp_path)._replace(free=12_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    found = resolve(sources["gemma1"])
    refused(r"needs 1 MB, and its disk has 0 MB free", convert, found, tmp_path / destination)
    assert not listing(tmp_path)


@pytest.mark.parametrize("destination", ["file/out", "file/w.npz", "x" * 300, "a.npz", "out"])
def test_an_unwritable_place_is_refused(sources, tmp_path, destination):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "a.npz").mkdir()
    (tmp_path / "out" / WEIGHTS).mkdir(parents=True)  # a folder where a file should go
    before = listing(tmp_path)
    found = resolve(sources["gemma1"])
    refused("cannot be written", convert, found, tmp_path / destination)
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("writer", "error", "destination"),
    [
        ("paligemma.checkpoints.io.save_file", SafetensorError("No space left on device"), "out"),
        ("paligemma.checkpoints.io.save_file", OSError("No space left on device"), "out"),
        (
            "paligemma.checkpoints.big_vision.np.lib.format.write_array",
            OSError("No space left"),
            "out/w.npz",
        ),
    ],
)
def test_a_failed_write_leaves_no_partial_file(
    sources, tmp_path, monkeypatch, writer, error, destination
):
    def fail(*arguments, **how):
        raise error

    monkeypatch.setattr(writer, fail)
    found = resolve(sources["gemma1"])
    refused("cannot be written: No space left", convert, found, tmp_path / destination)
    assert listing(tmp_path) == ["out"]


# --- The command ----------------------------------------------------------------------------------


def test_the_command_converts(sources, tmp_path, capsys):
    source, npz, folder = map(str, (sources["gemma2"], tmp_path / "1" / "w.npz", tmp_path / "2"))
    assert main(["convert", source, npz, "--dtype", "bfloat16"]) == 0
    (tmp_path / "1" / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    assert main(["convert", npz, folder, "--tokenizer", str(tmp_path / "tokenizer.json")]) == 0
    assert capsys.readouterr().out == f"Wrote {npz}.\nWrote {folder}.\n"
    image = resolve(source).config.image_token_index
    expected = without_image_rows(state_of(source, torch.bfloat16), image)
    assert_same(state_of(folder), expected)


def damaged(source, path):
    shutil.copytree(source, path)
    (path / WEIGHTS).write_bytes((path / WEIGHTS).read_bytes()[:-1])
    return path


MISTAKES = {  # what was asked, with {one} and {two} for sources -> words of the complaint
    "no source": ("{here}/nowhere out", "no checkpoint"),
    "no npz": ("{here}/nowhere.npz out", "no checkpoint"),
    "a file": ("{one}/model.safetensors out", "For safetensors, give their folder"),
    "a damaged source": ("{here}/damaged out", "cannot be read as safetensors"),
    "an npz without a tokenizer": ("{here}/bare.npz out", "--tokenizer"),
    "a tokenizer that is none": ("{one} out --tokenizer {one}/config.json", "not a tokenizer"),
    "a tokenizer that is not there": ("{one} out --tokenizer {here}/none/tokenizer.json", "no tok"),
    "no dtype": ("{one} out --dtype int8", "choose float32, bfloat16, float16"),
    "float16 for Gemma 2": ("{two} out --dtype float16", "65504"),
    "a place that is taken": ("{one} {one}", "config.json exists already"),
    "a place that is a file": ("{one} {here}/bare.npz", "exists already"),
    "a place below a file": ("{one} {here}/bare.npz/out", "cannot be written"),
}


@pytest.mark.parametrize(("asked", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(sources, tmp_path, capfd, asked, words):
    damaged(sources["gemma1"], tmp_path / "damaged")
    save_npz(ours(CONFIGS["gemma1"]), tmp_path / "bare.npz")
    (tmp_path / CONFIG).write_text(json.dumps(CONFIGS["gemma1"].to_dict()))
    before = listing(tmp_path)
    paths = {"one": sources["gemma1"], "two": sources["gemma2"], "here": tmp_path}
    arguments = [word.format(**paths) for word in asked.split()]
    arguments[1] = str(tmp_path / arguments[1])  # which leaves an absolute path as it is
    assert main(["convert", *arguments]) == 2
    out, err = capfd.readouterr()
    assert not out and err.startswith("paligemma: ") and words in err
    assert err.count("\n") == 1 and err.endswith("\n")
    assert listing(tmp_path) == before


def test_a_checkpoint_is_cut_into_files_of_a_size(sources, tmp_path, capsys):
    source, folder = sources["gemma1"], tmp_path / "cut"
    assert main(["convert", str(source), str(folder), "--max-shard-size", "50KB"]) == 0
    assert (folder / INDEX).is_file() and not (folder / WEIGHTS).exists()
    assert_same(state_of(folder), state_of(source))
    other = ["convert", str(source), str(tmp_path / "other"), "--max-shard-size", "some"]
    assert main(other) == 2
    assert "'some'" in capsys.readouterr().err
