"""What damaged and foreign files say: shards, tensors, configs, `.npz`, tokenizers."""

import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from checkpoint_files import SHARD, refused, write_npz
from reference import CONFIGS, ours
from safetensors.torch import load_file, save_file

from paligemma.checkpoints.io import CONFIG, INDEX, WEIGHTS, load_model, save_model
from paligemma.checkpoints.resolve import resolve


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
