"""Every layout and dtype of one model, from each to the others, and what damaged files say."""

import json
import pickle
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from layouts import LAYOUTS
from reference import CONFIGS, IMAGE, ours, prompts, theirs, weights
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from paligemma.__main__ import main
from paligemma.checkpoints import lora
from paligemma.checkpoints.big_vision import published_config
from paligemma.checkpoints.convert import convert
from paligemma.checkpoints.io import (
    CONFIG,
    INDEX,
    WEIGHTS,
    load_model,
    read_config_values,
    save_model,
    save_npz,
)
from paligemma.checkpoints.resolve import resolve
from paligemma.config import VARIANTS, PaliGemmaConfig

TABLE = "language_model.embed_tokens.weight"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHARD = 100_000  # bytes: several files for the tiny models
GEMMA2 = {
    "query_pre_attn_scalar": 7,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
    "sliding_window": 5,
    "post_norms": True,
}
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


def refused(words: str, call, *arguments) -> None:
    """A ValueError of one line, which a command can print as it is."""
    with pytest.raises(ValueError, match=words) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)


def listing(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# --- Layouts --------------------------------------------------------------------------------------


def write_renamed(rename):
    def write(model, path):
        path.mkdir()
        (path / CONFIG).write_text(json.dumps(model.config.to_dict()))
        state = {rename(name): tensor for name, tensor in model.state_dict().items()}
        save_file(state, path / WEIGHTS, metadata={"format": "pt"})
        return path

    return write


def write_npz(model, path):
    save_npz(model, path / "weights.npz")
    (path / CONFIG).write_text(json.dumps(model.config.to_dict()))
    return path / "weights.npz"


def write_own(model, path, **how):
    save_model(model, path, **how)
    return path


def write_with_transformers(model, path, **how):
    reference = theirs(model.config).to(model.language_model.norm.weight.dtype)
    reference.save_pretrained(path, **how)
    return path


WRITERS = {name: write_renamed(rename) for name, rename in LAYOUTS.items()} | {
    "ours": write_own,
    "ours, sharded": lambda model, path: write_own(model, path, max_shard_size=SHARD),
    "transformers": write_with_transformers,
    "transformers, sharded": lambda model, path: write_with_transformers(
        model, path, max_shard_size=SHARD
    ),
    "npz": write_npz,
}


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


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Whole checkpoints: tokenizer, mask codec, weights."""
    folder = tmp_path_factory.mktemp("models")
    written = {"gemma1": tiny.write(folder / "one"), "gemma2": tiny.write(folder / "two", **GEMMA2)}
    (folder / "one" / "generation_config.json").write_text('{"max_new_tokens": 5}')
    return written


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


def test_an_npz_has_big_visions_keys_and_no_embedding_of_image(sources, tmp_path):
    with np.load(converted(sources["gemma1"], tmp_path / "w.npz")) as arrays:
        shapes = {key: arrays[key].shape for key in arrays.files}
    config = resolve(sources["gemma1"]).config
    assert shapes == {f"params/{key}": shape for key, shape in array_shapes(config).items()}


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
    folder = converted(tmp_path / "adapter", tmp_path / "merged")
    merged, before = state_of(folder), state_of(sources["gemma1"])
    changed = {name for name, tensor in merged.items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "q_proj.weight" in name}
    assert_same(merged, resolve(tmp_path / "adapter").load_model().state_dict())


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


# --- The config of a bare .npz --------------------------------------------------------------------


def array_shapes(config: PaliGemmaConfig) -> dict[str, tuple[int, ...]]:
    """Every array of big_vision's file, by hand."""
    vision, text = config.vision_config, config.text_config
    v, n, layers = vision.hidden_size, vision.num_attention_heads, vision.num_hidden_layers
    mlp, patch, block = vision.intermediate_size, vision.patch_size, "img/Transformer/encoderblock"
    attention = f"{block}/MultiHeadDotProductAttention_0"
    shapes = {
        "img/embedding/kernel": (patch, patch, 3, v),
        "img/embedding/bias": (v,),
        "img/pos_embedding": (1, vision.num_image_tokens, v),
        f"{block}/MlpBlock_0/Dense_0/kernel": (layers, v, mlp),
        f"{block}/MlpBlock_0/Dense_0/bias": (layers, mlp),
        f"{block}/MlpBlock_0/Dense_1/kernel": (layers, mlp, v),
        f"{block}/MlpBlock_0/Dense_1/bias": (layers, v),
        f"{attention}/out/kernel": (layers, n, v // n, v),
        f"{attention}/out/bias": (layers, v),
        "img/head/kernel": (v, text.hidden_size),
        "img/head/bias": (text.hidden_size,),
    }
    for part in ("scale", "bias"):
        shapes |= {f"{block}/LayerNorm_{i}/{part}": (layers, v) for i in (0, 1)}
        shapes[f"img/Transformer/encoder_norm/{part}"] = (v,)
    for part in ("query", "key", "value"):
        shapes[f"{attention}/{part}/kernel"] = (layers, v, n, v // n)
        shapes[f"{attention}/{part}/bias"] = (layers, n, v // n)
    d, h, mlp, layers = (
        text.hidden_size,
        text.head_dim,
        text.intermediate_size,
        text.num_hidden_layers,
    )
    shapes |= {
        "llm/embedder/input_embedding": (config.image_token_index, d),
        "llm/final_norm/scale": (d,),
        "llm/layers/attn/q_einsum/w": (layers, text.num_attention_heads, d, h),
        "llm/layers/attn/kv_einsum/w": (layers, 2, text.num_key_value_heads, d, h),
        "llm/layers/attn/attn_vec_einsum/w": (layers, text.num_attention_heads, h, d),
        "llm/layers/mlp/gating_einsum": (layers, 2, d, mlp),
        "llm/layers/mlp/linear": (layers, mlp, d),
    }
    four = ("pre_attention_norm", "post_attention_norm", "pre_ffw_norm", "post_ffw_norm")
    norms = four if text.post_norms else ("pre_attention_norm", "pre_ffw_norm")
    return shapes | {f"llm/layers/{norm}/scale": (layers, d) for norm in norms}


def write_headers(path, shapes, prefix="params/", dtype="|V2", version=1) -> None:
    """An .npz without its numbers, which `published_config` does not read."""
    write = {1: np.lib.format.write_array_header_1_0, 2: np.lib.format.write_array_header_2_0}
    with zipfile.ZipFile(path, "w") as archive:
        for key, shape in shapes.items():
            with archive.open(f"{prefix}{key}.npy", "w") as file:
                header = {"descr": dtype, "fortran_order": False, "shape": shape}
                write[version](file, header)


@pytest.mark.parametrize("name", VARIANTS)
def test_an_npz_without_config_is_recognised_by_its_shapes(tmp_path, name):
    write_headers(tmp_path / "w.npz", array_shapes(VARIANTS[name]))
    assert published_config(tmp_path / "w.npz") == VARIANTS[name]


@pytest.mark.parametrize(
    "how", [{"prefix": ""}, {"dtype": "<f4"}, {"dtype": "<f2"}, {"version": 2}]
)
def test_prefix_dtype_and_version_of_the_headers_do_not_matter(tmp_path, how):
    config = VARIANTS["paligemma2-3b-448"]
    write_headers(tmp_path / "w.npz", array_shapes(config), **how)
    assert published_config(tmp_path / "w.npz") == config


OTHERS = {
    "llm/layers/attn/q_einsum/w": [(19, 8, 2048, 256), (18, 4, 2048, 256), (18, 8, 2304, 256)],
    "llm/layers/attn/kv_einsum/w": [(18, 2, 2, 2048, 256)],
    "llm/layers/post_ffw_norm/scale": [(18, 2048)],
    "img/pos_embedding": [(1, 784, 1152), (1, 256, 1024)],
    "img/Transformer/encoderblock/LayerNorm_0/scale": [(24, 1152)],
}


@pytest.mark.parametrize(
    ("key", "shape"), [(key, shape) for key, shapes in OTHERS.items() for shape in shapes]
)
def test_other_shapes_are_no_published_variant(tmp_path, key, shape):
    shapes = array_shapes(VARIANTS["paligemma-3b-224"]) | {key: shape}
    write_headers(tmp_path / "w.npz", shapes)
    words = r"no published PaliGemma \(width \d+, \d+ layers, \d+ × \d+ patches\); put its config"
    refused(words, published_config, tmp_path / "w.npz")


@pytest.mark.parametrize("key", [*OTHERS])
def test_an_npz_that_lacks_an_array_is_refused(tmp_path, key):
    shapes = array_shapes(VARIANTS["paligemma2-3b-224"])
    del shapes[key]
    write_headers(tmp_path / "w.npz", shapes)
    words = (
        "no published" if "post_ffw" in key else f"not a PaliGemma of big_vision: it lacks '{key}'"
    )
    refused(words, published_config, tmp_path / "w.npz")


@pytest.mark.parametrize("shape", [(), (18,), (18, 8, 2048, 256, 1)])
@pytest.mark.parametrize("key", [key for key in OTHERS if "post_ffw" not in key])
def test_arrays_with_other_axes_are_refused(tmp_path, key, shape):
    write_headers(tmp_path / "w.npz", array_shapes(VARIANTS["paligemma-3b-224"]) | {key: shape})
    words = "not a PaliGemma of big_vision|no published PaliGemma"
    refused(words, published_config, tmp_path / "w.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"not a zip"])
def test_other_files_named_npz_are_refused(tmp_path, content):
    (tmp_path / "w.npz").write_bytes(content)
    refused("cannot be read as a big_vision .npz", published_config, tmp_path / "w.npz")


def test_the_config_beside_an_npz_is_taken(tmp_path):
    write_headers(tmp_path / "w.npz", array_shapes(VARIANTS["paligemma-3b-224"]))
    (tmp_path / CONFIG).write_text(json.dumps(CONFIGS["gemma2"].to_dict()))
    assert read_config_values(tmp_path / "w.npz") == CONFIGS["gemma2"].to_dict()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"config\.json cannot be read as JSON"),
        ("{", r"config\.json cannot be read as JSON"),
        ("\xff", r"config\.json cannot be read as JSON"),
        ("[]", r"config\.json holds a list, not an object"),
        ('{"model_type": "llama"}', "config.json is of a 'llama' model"),
    ],
)
def test_a_damaged_config_beside_an_npz_is_refused(tmp_path, text, words):
    write_headers(tmp_path / "w.npz", array_shapes(VARIANTS["paligemma-3b-224"]))
    (tmp_path / CONFIG).write_bytes(text.encode("latin-1"))
    refused(words, load_model, tmp_path / "w.npz")


# --- Damages --------------------------------------------------------------------------------------


@pytest.fixture
def whole(tmp_path):
    save_model(ours(CONFIGS["gemma1"]), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def sharded(tmp_path):
    save_model(ours(CONFIGS["gemma1"]), tmp_path / "model", max_shard_size=SHARD)
    return tmp_path / "model"


@pytest.fixture
def npz(tmp_path):
    return write_npz(ours(CONFIGS["gemma1"]), tmp_path / "model")


def exchange(folder):
    first, second, *_ = sorted(folder.glob("*.safetensors"))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def truncate(folder):
    file = sorted(folder.glob("*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:-1])


def point(where):
    """The index places one tensor elsewhere."""

    def change(folder):
        index = json.loads((folder / INDEX).read_text())
        index["weight_map"][next(iter(index["weight_map"]))] = where
        (folder / INDEX).write_text(json.dumps(index))

    return change


def promise(folder):
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["adapter.weight"] = next(iter(index["weight_map"].values()))
    (folder / INDEX).write_text(json.dumps(index))


def turn_into_a_folder(folder):
    file = sorted(folder.glob("*.safetensors"))[1]
    file.unlink()
    file.mkdir()


SHARDED = {
    "two shards exchanged": (exchange, r"00001-of-.* lacks .*, which model.*json places there"),
    "a shard missing": (
        lambda folder: sorted(folder.glob("*.safetensors"))[1].unlink(),
        r"lacks model-00002-of-\d+\.safetensors, which",
    ),
    "a shard truncated": (truncate, r"model-00002-of-.* cannot be read as safetensors"),
    "a shard that is a folder": (turn_into_a_folder, r"lacks model-00002-of-\d+\.safetensors"),
    "a shard twice": (
        lambda folder: shutil.copy(*sorted(folder.glob("*.safetensors"))[:2]),
        "lacks .*, which",
    ),
    "a tensor that no shard has": (promise, "lacks adapter.weight, which"),
    "an index that points at itself": (point("."), "not a file beside it"),
    "an index that points at nothing": (point(""), "not a file beside it"),
    "an index that points the long way": (point("./model.safetensors"), "not a file beside it"),
    "an index that points up": (point("../../etc/passwd"), "not a file beside it"),
    "an index with a NUL": (point("model\0.safetensors"), "lacks model"),
    "an index with a number": (point(5), "lacks 5, which"),
    "an index that points at the config": (point(CONFIG), "cannot be read as safetensors"),
}


@pytest.mark.parametrize(("damage", "words"), SHARDED.values(), ids=SHARDED)
def test_a_damaged_sharded_folder_is_refused(sharded, damage, words):
    damage(sharded)
    refused(words, load_model, sharded)


def changed(change):
    """`change` is done to the tensors of the one file."""

    def rewrite(folder):
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file(state, folder / WEIGHTS)

    return rewrite


def rename(state):
    state["language_model.model.norm.wieght"] = state.pop("language_model.model.norm.weight")


def cast(dtype, only=""):
    def change(state):
        state |= {key: value.to(dtype) for key, value in state.items() if only in key}

    return change


FC1 = "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"
TENSORS = {
    "a key renamed": (rename, r"1 missing: .*norm\.weight; 1 unexpected: .*norm\.wieght\."),
    "a matrix turned": (
        lambda state: state.update({FC1: state[FC1].T.contiguous()}),
        r"1 misshapen: .*fc1\.weight \[32, 48\] instead of \[48, 32\]",
    ),
    "a tensor with an axis more": (
        lambda state: state.update({FC1: state[FC1][None]}),
        r"fc1\.weight \[1, 48, 32\] instead of \[48, 32\]",
    ),
    "nothing in it": (dict.clear, r"missing: .* more"),
    "one tensor int8": (
        cast(torch.int8, FC1),
        r"1 of another dtype: .*fc1\.weight \(torch\.int8\)",
    ),
    "all int8": (cast(torch.int8), r"of another dtype: .*\(torch\.int8\), and \d+ more"),
    "all int64": (cast(torch.int64), r"of another dtype: .*\(torch\.int64\)"),
    "all float64": (cast(torch.float64), r"of another dtype: .*\(torch\.float64\)"),
    "all float8": (cast(torch.float8_e4m3fn), r"of another dtype: .*float8_e4m3fn"),
    "all bool": (cast(torch.bool), r"of another dtype: .*\(torch\.bool\)"),
}


@pytest.mark.parametrize("dtype", [None, torch.float32], ids=["as it is", "float32"])
@pytest.mark.parametrize(("change", "words"), TENSORS.values(), ids=TENSORS)
def test_tensors_that_do_not_fit_are_refused(whole, change, words, dtype):
    changed(change)(whole)
    refused(words, load_model, whole, "cpu", dtype)


class Trap:
    def __reduce__(self):
        return pytest.fail, ("something was unpickled",)


def put(write):
    """Something else under the name of the weights."""

    def replace_file(folder):
        (folder / WEIGHTS).unlink()
        write(folder / WEIGHTS)

    return replace_file


def put_npz(path):
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 10\n"
FILES = {
    "a pickle": (put(lambda path: path.write_bytes(pickle.dumps(Trap()))), "cannot be read as saf"),
    "a torch file": (put(lambda path: torch.save({"a": Trap()}, path)), "cannot be read as safet"),
    "an npz": (put(put_npz), "cannot be read as safetensors"),
    "a pointer": (put(lambda path: path.write_bytes(POINTER)), "cannot be read as safetensors"),
    "a giant header": (put(lambda path: path.write_bytes(b"\xff" * 99)), "cannot be read as safet"),
    "a folder": (put(lambda path: path.mkdir()), r"neither model\.safetensors nor"),
    "a .bin alone": (
        lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"),
        r"neither model\.safetensors nor",
    ),
}


@pytest.mark.parametrize(("damage", "words"), FILES.values(), ids=FILES)
def test_other_files_named_safetensors_are_refused_and_not_unpickled(whole, damage, words):
    damage(whole)
    refused(words, load_model, whole)


def text(**values):
    return lambda config: config["text_config"].update(values)


def vision(**values):
    return lambda config: config["vision_config"].update(values)


def top(**values):
    return lambda config: config.update(values)


SIZES = {
    "more layers": (text(num_hidden_layers=5), r"missing: language_model\.layers\.4\."),
    "fewer layers": (text(num_hidden_layers=3), r"unexpected: language_model\.layers\.3\."),
    "more of the tower": (vision(num_hidden_layers=3), r"missing: vision_tower.encoder.layers.2"),
    "a wider MLP": (text(intermediate_size=80), r"misshapen: .*\[64, 48\] instead of \[80, 48\]"),
    "a wider tower": (vision(hidden_size=64), r"misshapen: .*instead of \[64\]"),
    "more heads": (text(num_attention_heads=6), "8 misshapen"),
    "more positions": (vision(image_size=56), r"\[16, 32\] instead of \[64, 32\]"),
    "a longer table": (text(vocab_size=257216), r"\[101, 48\] instead of \[257216, 48\]"),
    "wider but for the connector": (text(hidden_size=64), "projection_dim is 48"),
}
SICK = {
    "half a layer": (text(num_hidden_layers=2.5), "num_hidden_layers is 2.5; .* whole number"),
    "no layers": (text(num_hidden_layers=0), "num_hidden_layers is 0; .* above 0"),
    "a width below nothing": (text(hidden_size=-48), "hidden_size is -48; .* above 0"),
    "no rows": (text(vocab_size=0), "vocab_size is 0"),
    "no number": (vision(layer_norm_eps=float("nan")), "layer_norm_eps is nan"),
    "a list of layers": (vision(num_hidden_layers=[2]), r"num_hidden_layers is \[2\]"),
    "no parts": (top(text_config=[1]), "text_config holds a list, not an object"),
    "a word for a part": (top(vision_config="siglip"), "vision_config holds a str"),
    "a rope of words": (text(rope_parameters="default"), "rope_parameters holds a str"),
    "a list of kinds": (text(model_type=["gemma"]), "model_type is"),
    "a word for a token": (top(pad_token_id="<pad>"), "pad_token_id is '<pad>'"),
    "no token": (top(eos_token_id=[]), r"eos_token_id is \[\]"),
    "no image": (top(image_token_index=-1), "image_token_index is -1"),
}


@pytest.mark.parametrize(("change", "words"), (SIZES | SICK).values(), ids=SIZES | SICK)
def test_a_config_of_another_size_is_refused(whole, change, words):
    config = json.loads((whole / CONFIG).read_text())
    change(config)
    (whole / CONFIG).write_text(json.dumps(config))
    refused(words, load_model, whole)


def test_null_tokens_in_config_json_are_those_of_gemma(whole):
    config = json.loads((whole / CONFIG).read_text())
    config |= {"pad_token_id": None, "bos_token_id": None, "eos_token_id": [1, 107]}
    config["text_config"] |= {"pad_token_id": None, "bos_token_id": 2}
    (whole / CONFIG).write_text(json.dumps(config))
    assert load_model(whole).config == CONFIGS["gemma1"]


def test_the_other_gemma_is_refused(whole):
    (whole / CONFIG).write_text(json.dumps(CONFIGS["gemma2"].to_dict()))
    refused(r"8 missing: .*post_feedforward_layernorm", load_model, whole)


# --- Damaged .npz ---------------------------------------------------------------------------------


def rewritten(path, change):
    with np.load(path) as arrays:
        arrays = {key: arrays[key] for key in arrays.files}
    change(arrays)
    np.savez(path, **arrays)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def put_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def arrays(change):
    return lambda path: rewritten(path, change)


def with_array(key, change):
    return arrays(lambda found: found.update({"params/" + key: change(found["params/" + key])}))


Q = "img/Transformer/encoderblock/MultiHeadDotProductAttention_0/query/kernel"
NPZ = {
    "an array missing": (
        arrays(lambda found: found.pop("params/llm/layers/mlp/linear")),
        r"4 missing: language_model\.layers\.0\.mlp\.down_proj\.weight",
    ),
    "an object among the arrays": (
        arrays(lambda found: found.update(extra=np.array([Trap()], object))),
        "Object arrays cannot be loaded",
    ),
    "a pickle under its name": (
        lambda path: path.write_bytes(pickle.dumps(Trap())),
        "cannot be read as a big_vision",
    ),
    "a lone array": (put_array, "cannot be read as a big_vision"),
    "a flipped bit": (flip, "cannot be read as a big_vision.*CRC"),
    "a layer less": (
        with_array("llm/layers/mlp/linear", lambda array: array[:-1]),
        r"1 missing: language_model\.layers\.3\.mlp\.down_proj\.weight",
    ),
    "a layer more": (
        with_array("llm/layers/mlp/linear", lambda array: np.concatenate([array, array[:1]])),
        r"1 unexpected: language_model\.layers\.4\.mlp\.down_proj\.weight",
    ),
    "a matrix turned": (
        with_array("img/head/kernel", lambda array: array.T),
        r"linear\.weight \[32, 48\] instead of \[48, 32\]",
    ),
    "an axis less": (
        with_array(Q, lambda array: array[..., 0]),
        r"self_attn\.q_proj\.weight comes as \[32, 4\], not as i N H, N = 4",
    ),
    "heads cut otherwise": (
        with_array(Q, lambda array: array.reshape(2, 32, 2, 16)),
        r"q_proj\.weight comes as \[32, 2, 16\], not as i N H, N = 4",
    ),
    "keys without values": (
        with_array("llm/layers/attn/kv_einsum/w", lambda array: array[:, :1]),
        r"k_proj\.weight and .*v_proj\.weight come as 1 arrays",
    ),
    "whole numbers": (
        with_array("img/head/bias", lambda array: array.astype(np.int64)),
        r"1 of another dtype: multi_modal_projector\.linear\.bias \(torch\.int64\)",
    ),
    "words": (
        with_array("img/head/bias", lambda array: array.astype(str)),
        "cannot be read as a big_vision",
    ),
    "a table of more rows than the config's": (
        with_array("llm/embedder/input_embedding", lambda array: np.tile(array, (2, 1))),
        r"embed_tokens\.weight \[198, 48\] instead of \[101, 48\]",
    ),
}


@pytest.mark.parametrize(("damage", "words"), NPZ.values(), ids=NPZ)
def test_a_damaged_npz_is_refused(npz, damage, words):
    damage(npz)
    refused(words, load_model, npz)


@pytest.mark.parametrize(
    "text", [{"num_attention_heads": 2, "head_dim": 32}, {"num_key_value_heads": 1, "head_dim": 32}]
)
def test_a_config_with_other_heads_than_the_npz_is_refused(npz, text):
    """The matrices would have the right shapes, and the heads the wrong columns."""
    config = CONFIGS["gemma1"]
    config = replace(config, text_config=replace(config.text_config, **text))
    (npz.parent / CONFIG).write_text(json.dumps(config.to_dict()))
    refused(r"_proj\.weight comes as .*, not as [NK] i H, [NK] = ", load_model, npz)


# --- Tokenizers of another model ------------------------------------------------------------------


def foreign(folder, values, **changes):
    """`folder` as a checkpoint whose config.json says otherwise."""
    config = json.loads((folder / CONFIG).read_text())
    config["text_config"] |= values
    (folder / CONFIG).write_text(json.dumps(config | changes))
    return folder


def test_a_tokenizer_of_another_vocabulary_is_refused(sources, tmp_path):
    copy = shutil.copytree(sources["gemma1"], tmp_path / "copy")
    image = resolve(copy).config.image_token_index
    refused(
        rf"has <image> at id {image}, but the config says 7\.",
        resolve,
        foreign(copy, {}, image_token_index=7),
    )
    refused(
        r"has ids up to \d+, but the embedding table has 101 rows\.",
        resolve,
        foreign(copy, {"vocab_size": 101}, image_token_index=image),
    )
    (copy / "tokenizer.json").write_text('{"version": "1.0"}')
    refused(r"tokenizer\.json' is not a tokenizer file", resolve, copy)
    (copy / "tokenizer.json").unlink()
    refused(r"There is no tokenizer\.json in", resolve, copy)


def test_a_tokenizer_of_another_vocabulary_beside_an_npz_is_refused(npz):
    tiny.words().save(str(npz.parent / "tokenizer.json"))
    refused(r"but the config says 99", resolve, npz)
    refused(r"but the config says 99", resolve, npz, npz.parent)


def test_a_checkpoint_is_cut_into_files_of_a_size(sources, tmp_path, capsys):
    source, folder = sources["gemma1"], tmp_path / "cut"
    assert main(["convert", str(source), str(folder), "--max-shard-size", "50KB"]) == 0
    assert (folder / INDEX).is_file() and not (folder / WEIGHTS).exists()
    assert_same(state_of(folder), state_of(source))
    other = ["convert", str(source), str(tmp_path / "other"), "--max-shard-size", "some"]
    assert main(other) == 2
    assert "'some'" in capsys.readouterr().err
