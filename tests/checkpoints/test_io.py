"""Checkpoints in every layout, strictness, and what damaged folders say."""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import LAYOUTS, older
from reference import CONFIGS, ours, prompts, weights
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from paligemma.checkpoints import io
from paligemma.checkpoints.io import (
    INDEX,
    forget_pages,
    load_model,
    read_config_values,
    save_model,
)
from paligemma.models.mask_codec import MaskCodec

ROOT = Path(__file__).parents[2]
TABLE = "language_model.model.embed_tokens.weight"


def load_npz(path, config, **how):
    """Load an .npz with `config` beside it."""
    (path.parent / "config.json").write_text(json.dumps(config.to_dict()))
    return load_model(path, **how)


both = pytest.mark.parametrize("name", CONFIGS)


def folder_with(path, state, config=CONFIGS["gemma1"]):
    """A hub folder: config.json, and `state` in one file of safetensors."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config.to_dict()))
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    return path


def renamed(config=CONFIGS["gemma1"], rename=older, seed=0):
    return {rename(name): tensor for name, tensor in weights(config, seed).items()}


def assert_is(model, config, seed=0):
    expected = weights(config, seed)
    assert model.config == config and not model.training
    assert model.state_dict().keys() == expected.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


# --- Layouts --------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("rename", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_hub_naming_loads(tmp_path, name, rename):
    config = CONFIGS[name]
    assert_is(load_model(folder_with(tmp_path, renamed(config, rename), config)), config)


@both
def test_round_trip_is_exact_and_under_the_older_names(tmp_path, name):
    save_model(ours(CONFIGS[name]), tmp_path / "deep" / "folder")
    assert_is(load_model(tmp_path / "deep" / "folder"), CONFIGS[name])
    with safe_open(tmp_path / "deep" / "folder" / "model.safetensors", "pt") as file:
        assert set(file.keys()) == {older(own) for own in weights(CONFIGS[name])}
        assert file.metadata() == {"format": "pt"}
    assert sorted(os.listdir(tmp_path / "deep" / "folder")) == ["config.json", "model.safetensors"]


@both
@torch.no_grad()
def test_transformers_loads_what_is_saved(tmp_path, name):
    transformers = pytest.importorskip("transformers")
    model, batch = ours(CONFIGS[name]), prompts(5, 3)
    save_model(model, tmp_path)
    reference, report = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
        tmp_path, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report
    read = batch["attention_mask"].bool()
    expected, actual = reference.eval()(**batch).logits, model(**batch)["logits"]
    torch.testing.assert_close(actual[read], expected[read], rtol=0, atol=1e-4)


@both
@pytest.mark.parametrize("size", ["1GB", "100KB"], ids=["one file", "sharded"])
def test_what_transformers_saves_loads(tmp_path, name, size):
    pytest.importorskip("transformers")
    from reference import theirs

    theirs(CONFIGS[name]).save_pretrained(tmp_path, max_shard_size=size)
    assert (tmp_path / INDEX).exists() == (size == "100KB")
    assert_is(load_model(tmp_path), CONFIGS[name])


def test_saving_over_the_folder_it_is_mapped_from(tmp_path):
    save_model(ours(CONFIGS["gemma1"]), tmp_path)
    model = load_model(tmp_path)
    save_model(model, tmp_path)
    assert_is(model, CONFIGS["gemma1"])
    assert_is(load_model(tmp_path), CONFIGS["gemma1"])


@pytest.mark.parametrize("table", ["lm_head.weight", "language_model.lm_head.weight"])
def test_an_lm_head_must_equal_the_embedding_table(tmp_path, table):
    state = renamed()
    state[table] = state[TABLE].clone()
    assert_is(load_model(folder_with(tmp_path, state)), CONFIGS["gemma1"])
    state[table][3, 4] += 1
    with pytest.raises(ValueError, match=f"{table}, which differs"):
        load_model(folder_with(tmp_path, state))


def test_loading_maps_the_file_and_keeps_its_dtype(tmp_path):
    state = {name: tensor.bfloat16() for name, tensor in renamed().items()}
    model = load_model(folder_with(tmp_path, state))
    assert all(p.dtype == torch.bfloat16 and p.requires_grad for p in model.parameters())
    addresses = sorted(p.data_ptr() for p in model.parameters())
    size = (tmp_path / "model.safetensors").stat().st_size
    assert addresses[-1] - addresses[0] < size  # side by side, as they lie in the file
    assert load_model(tmp_path, dtype=torch.float32).logits(torch.ones(48)).dtype == torch.float32


def test_pages_that_were_let_go_are_read_from_the_file_again(tmp_path):
    save_file({"x": torch.arange(100_000.0)}, tmp_path / "x.safetensors")
    tensor = load_file(tmp_path / "x.safetensors")["x"]
    forget_pages(tensor)
    assert torch.equal(tensor, torch.arange(100_000.0))
    forget_pages(tensor[:3])  # no whole page


def test_loaded_model_runs(tmp_path):
    """Nothing that the file does not hold was left behind on the meta device."""
    save_model(ours(CONFIGS["gemma2"]), tmp_path)
    batch = prompts(5, 3)
    expected = ours(CONFIGS["gemma2"])(**batch)["logits"]
    torch.testing.assert_close(load_model(tmp_path)(**batch)["logits"], expected)


def test_loading_imports_no_compiler(tmp_path):
    """torch._dynamo takes longer to import than a small model to load."""
    save_model(ours(CONFIGS["gemma2"]), tmp_path)
    code = (
        "import sys; from paligemma.checkpoints.io import load_model; "
        f"load_model({str(tmp_path)!r}); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# --- Strictness -----------------------------------------------------------------------------------


def test_missing_unexpected_and_misshapen_tensors_are_named(tmp_path):
    state = renamed()
    del state["multi_modal_projector.linear.bias"]
    state["adapter.weight"] = torch.zeros(2)
    state["language_model.model.norm.weight"] = torch.zeros(7)
    with pytest.raises(ValueError) as caught:
        load_model(folder_with(tmp_path, state))
    message = str(caught.value)
    assert "1 missing: multi_modal_projector.linear.bias;" in message
    assert "1 unexpected: adapter.weight;" in message
    assert "1 misshapen: language_model.norm.weight [7] instead of [48]." in message


def test_at_most_ten_names_of_a_kind(tmp_path):
    state = renamed() | {f"extra.{index:02}": torch.zeros(1) for index in range(14)}
    with pytest.raises(ValueError, match=r"14 unexpected: extra\.00.*extra\.09, and 4 more\."):
        load_model(folder_with(tmp_path, state))


def test_the_embedding_must_have_vocab_size_rows(tmp_path):
    state = renamed()
    state[TABLE] = state[TABLE][:-1].clone()
    with pytest.raises(ValueError, match=r"embed_tokens.weight \[100, 48\] instead of \[101, 48\]"):
        load_model(folder_with(tmp_path, state))


def test_a_tensor_under_two_names_is_refused(tmp_path):
    state = renamed()
    state["model.language_model.norm.weight"] = torch.zeros(48)
    with pytest.raises(ValueError, match="twice"):
        load_model(folder_with(tmp_path, state))


def test_float16_is_refused_for_gemma_2_only(tmp_path):
    halves = [{n: t.half() for n, t in renamed(c).items()} for c in CONFIGS.values()]
    first = folder_with(tmp_path / "1", halves[0], CONFIGS["gemma1"])
    second = folder_with(tmp_path / "2", halves[1], CONFIGS["gemma2"])
    assert load_model(first).logits(torch.ones(48).half()).dtype == torch.float16
    with pytest.raises(ValueError, match=r"65504.*bfloat16"):
        load_model(second)
    with pytest.raises(ValueError, match=r"65504.*bfloat16"):
        load_model(second, dtype=torch.float16)
    assert load_model(second, dtype=torch.bfloat16)


def test_other_dtypes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="int8 is not a dtype to run in; choose float32"):
        load_model(folder_with(tmp_path, renamed()), dtype=torch.int8)


def test_a_model_with_other_parameters_is_not_saved(tmp_path):
    model = ours(CONFIGS["gemma1"])
    model.multi_modal_projector.linear = torch.nn.Linear(32, 48, bias=False)
    with pytest.raises(ValueError, match=r"1 missing: multi_modal_projector\.linear\.bias"):
        save_model(model, tmp_path)
    assert not list(tmp_path.iterdir())


# --- Damaged folders ------------------------------------------------------------------------------


def shard(path, weight_map):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(CONFIGS["gemma1"].to_dict()))
    (path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"has no config\.json"):
        read_config_values(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["gemma1"].to_dict()))
    with pytest.raises(ValueError, match=r"neither model\.safetensors nor model\.safetensors\.i"):
        load_model(tmp_path)
    shard(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    with pytest.raises(ValueError, match=r"lacks model-1\.safetensors, model-2\.safetensors"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..\\m.safetensors", ".."]
)
def test_an_index_may_not_point_elsewhere(tmp_path, name):
    folder_with(tmp_path, renamed())
    shard(tmp_path / "inner", {TABLE: name})
    with pytest.raises(ValueError, match="not a file beside it"):
        load_model(tmp_path / "inner")


@pytest.mark.parametrize("text", ["{}", '{"weight_map": {}}', '{"weight_map": []}'])
def test_an_index_without_a_map_is_refused(tmp_path, text):
    shard(tmp_path, {})
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(ValueError, match="has no weight_map"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "cannot be read as JSON"), ("[]", "holds a list"), ("\xff", "cannot be read as JSON")],
)
def test_a_damaged_config_is_refused(tmp_path, text, words):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=words):
        read_config_values(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 300, -1], ids=["empty", "stub", "header", "short"])
def test_a_truncated_file_is_refused(tmp_path, keep):
    file = folder_with(tmp_path, renamed()) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        load_model(tmp_path)


class Trap:
    def __reduce__(self):
        return pytest.fail, ("something was unpickled",)


def test_nothing_is_unpickled(tmp_path):
    file = folder_with(tmp_path, renamed()) / "model.safetensors"
    file.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        load_model(tmp_path)
    np.savez(tmp_path / "w.npz", **{"params/llm/final_norm/scale": np.array([Trap()])})
    with pytest.raises(ValueError, match="cannot be read as a big_vision"):
        load_npz(tmp_path / "w.npz", CONFIGS["gemma1"])


# --- big_vision -----------------------------------------------------------------------------------


def big_vision(config, seed=0):
    """`weights(config)` as big_vision lays them out: its table, from right to left."""
    state = {name: tensor.numpy() for name, tensor in weights(config, seed).items()}
    vision, text = config.vision_config, config.text_config
    n, k, h, d = (
        text.num_attention_heads,
        text.num_key_value_heads,
        text.head_dim,
        text.hidden_size,
    )
    vn, vd = vision.num_attention_heads, vision.hidden_size

    def tower(name, shape=None):
        stack = [
            state[f"vision_tower.encoder.layers.{i}.{name}"]
            for i in range(vision.num_hidden_layers)
        ]
        stack = [x.T if x.ndim == 2 else x for x in stack]
        return np.stack([x if shape is None else x.reshape(shape) for x in stack])

    def decoder(name):
        return [
            state[f"language_model.layers.{i}.{name}.weight"] for i in range(text.num_hidden_layers)
        ]

    def heads(name, count):  # [count * H, D] -> [count, D, H]
        return [x.reshape(count, h, d).transpose(0, 2, 1) for x in decoder(name)]

    block = "img/Transformer/encoderblock"
    attention = f"{block}/MultiHeadDotProductAttention_0"
    arrays = {
        "img/embedding/kernel": state["vision_tower.embeddings.patch_embedding.weight"].transpose(
            2, 3, 1, 0
        ),
        "img/embedding/bias": state["vision_tower.embeddings.patch_embedding.bias"],
        "img/pos_embedding": state["vision_tower.embeddings.position_embedding.weight"][None],
        "img/Transformer/encoder_norm/scale": state["vision_tower.post_layernorm.weight"],
        "img/Transformer/encoder_norm/bias": state["vision_tower.post_layernorm.bias"],
        "img/head/kernel": state["multi_modal_projector.linear.weight"].T,
        "img/head/bias": state["multi_modal_projector.linear.bias"],
        f"{block}/LayerNorm_0/scale": tower("layer_norm1.weight"),
        f"{block}/LayerNorm_0/bias": tower("layer_norm1.bias"),
        f"{block}/LayerNorm_1/scale": tower("layer_norm2.weight"),
        f"{block}/LayerNorm_1/bias": tower("layer_norm2.bias"),
        f"{block}/MlpBlock_0/Dense_0/kernel": tower("mlp.fc1.weight"),
        f"{block}/MlpBlock_0/Dense_0/bias": tower("mlp.fc1.bias"),
        f"{block}/MlpBlock_0/Dense_1/kernel": tower("mlp.fc2.weight"),
        f"{block}/MlpBlock_0/Dense_1/bias": tower("mlp.fc2.bias"),
        f"{attention}/out/kernel": tower("self_attn.out_proj.weight", (vn, -1, vd)),
        f"{attention}/out/bias": tower("self_attn.out_proj.bias"),
        "llm/embedder/input_embedding": state["language_model.embed_tokens.weight"],
        "llm/final_norm/scale": state["language_model.norm.weight"],
        "llm/layers/pre_attention_norm/scale": np.stack(decoder("input_layernorm")),
        "llm/layers/attn/q_einsum/w": np.stack(heads("self_attn.q_proj", n)),
        "llm/layers/attn/kv_einsum/w": np.stack(
            (heads("self_attn.k_proj", k), heads("self_attn.v_proj", k)), axis=1
        ),
        "llm/layers/attn/attn_vec_einsum/w": np.stack(
            [x.T.reshape(n, h, d) for x in decoder("self_attn.o_proj")]
        ),
        "llm/layers/mlp/gating_einsum": np.stack(
            [
                np.stack((gate.T, up.T))
                for gate, up in zip(decoder("mlp.gate_proj"), decoder("mlp.up_proj"), strict=True)
            ]
        ),
        "llm/layers/mlp/linear": np.stack([x.T for x in decoder("mlp.down_proj")]),
    }
    for name, long in (("q", "query"), ("k", "key"), ("v", "value")):
        arrays[f"{attention}/{long}/kernel"] = tower(f"self_attn.{name}_proj.weight", (vd, vn, -1))
        arrays[f"{attention}/{long}/bias"] = tower(f"self_attn.{name}_proj.bias", (vn, -1))
    norms = {"pre_ffw_norm": "post_attention_layernorm"}
    if text.post_norms:
        norms = {
            "post_attention_norm": "post_attention_layernorm",
            "pre_ffw_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        }
    for key, name in norms.items():
        arrays[f"llm/layers/{key}/scale"] = np.stack(decoder(name))
    return arrays


@both
@pytest.mark.parametrize("prefix", ["", "params/"])
def test_big_vision_arrays_load(tmp_path, name, prefix):
    arrays = {prefix + key: array for key, array in big_vision(CONFIGS[name]).items()}
    np.savez(tmp_path / "weights.npz", **arrays)
    assert_is(load_npz(tmp_path / "weights.npz", CONFIGS[name]), CONFIGS[name])


def test_big_vision_projections_give_the_same_outputs(tmp_path):
    """Not only the inverse of a table: the einsum of the original code against our Linear."""
    config, x = CONFIGS["gemma2"], torch.randn(2, 5, 48)
    arrays = {key: torch.from_numpy(array.copy()) for key, array in big_vision(config).items()}
    np.savez(tmp_path / "w.npz", **arrays)
    layer = load_npz(tmp_path / "w.npz", config).language_model.layers[2].self_attn
    q = torch.einsum("btd,ndh->btnh", x, arrays["llm/layers/attn/q_einsum/w"][2])
    k, v = torch.einsum("bsd,ckdh->cbskh", x, arrays["llm/layers/attn/kv_einsum/w"][2])
    out = torch.einsum("btnh,nhd->btd", q, arrays["llm/layers/attn/attn_vec_einsum/w"][2])
    torch.testing.assert_close(layer.q_proj(x), q.flatten(2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.k_proj(x), k.flatten(2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.v_proj(x), v.flatten(2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.o_proj(q.flatten(2)), out, rtol=1e-5, atol=1e-4)


def test_big_vision_embedding_is_padded_and_bfloat16_is_read(tmp_path):
    config, arrays = CONFIGS["gemma1"], big_vision(CONFIGS["gemma1"])
    key = "llm/embedder/input_embedding"
    table = torch.from_numpy(arrays[key][:-4]).bfloat16()
    arrays[key] = table.view(torch.uint16).numpy().view("V2")  # as numpy loads bfloat16
    np.savez(tmp_path / "w.npz", **arrays)
    model = load_npz(tmp_path / "w.npz", config, dtype=torch.float32)
    loaded = model.language_model.embed_tokens.weight
    assert torch.equal(loaded[:-4], table.float()) and not loaded[-4:].any()


def test_big_vision_is_strict(tmp_path):
    arrays = big_vision(CONFIGS["gemma1"])
    del arrays["img/head/bias"]
    np.savez(tmp_path / "w.npz", **arrays, **{"params/opt/step": np.zeros(3)})
    with pytest.raises(ValueError, match=r"projector\.linear\.bias; 1 unexpected: params/opt/step"):
        load_npz(tmp_path / "w.npz", CONFIGS["gemma1"])
    np.savez(tmp_path / "w.npz", **big_vision(CONFIGS["gemma1"]))
    with pytest.raises(ValueError, match=r"missing: .*post_feedforward_layernorm"):
        load_npz(tmp_path / "w.npz", CONFIGS["gemma2"])
    content = (tmp_path / "w.npz").read_bytes()
    for damaged in (b"", content[:100], content[:-100]):
        (tmp_path / "w.npz").write_bytes(damaged)
        with pytest.raises(ValueError, match="cannot be read as a big_vision"):
            load_npz(tmp_path / "w.npz", CONFIGS["gemma1"])


# --- Files that ask for more than they hold -------------------------------------------------------


def zip_of(path, key: str, shape: str, data: bytes, compression=zipfile.ZIP_DEFLATED) -> None:
    """One array under `key`, with a header and bytes of one's choice."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    with zipfile.ZipFile(path, "w", compression) as archive:
        magic = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little")
        archive.writestr(f"params/{key}.npy", magic + header + data)


@pytest.mark.parametrize(
    "shape, size, words",
    [
        ("(2000000000,)", 8, "it says that it holds 2,000,000,000 numbers; "),
        ("(48, 2)", 8, r"is shorter than its shape \[48, 2\]"),
        ("(1000000,)", 4_000_000, "is compressed more than weights can be"),
        ("(" + "9" * 400 + ",)", 8, "it says that it holds"),
        ("(-1,)", 8, "cannot be read as a big_vision"),
    ],
)
def test_an_npz_that_asks_for_more_than_it_has_is_refused(tmp_path, shape, size, words):
    zip_of(tmp_path / "w.npz", "llm/final_norm/scale", shape, bytes(size))
    with pytest.raises(ValueError, match=words):
        load_npz(tmp_path / "w.npz", CONFIGS["gemma1"])
    with pytest.raises(ValueError, match=r"is not a readable mask codec|is not a PaliGemma mask"):
        MaskCodec.load(tmp_path / "w.npz")


def test_an_npz_of_many_names_is_not_opened(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        for n in range(10_001):
            archive.writestr(str(n), b"")
    monkeypatch.setattr(zipfile, "ZipFile", lambda *given: pytest.fail("it was opened"))
    with pytest.raises(ValueError, match="it lists 10,001 or more arrays"):
        load_npz(tmp_path / "w.npz", CONFIGS["gemma1"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_tensor_that_is_not_finite_is_named(tmp_path, value, dtype):
    state = renamed()
    state[TABLE][3, 4] = value
    with pytest.raises(ValueError, match=r"numbers in language_model\.embed_tokens\.weight that"):
        load_model(folder_with(tmp_path, state), dtype=dtype)


def test_weights_that_do_not_fit_the_dtype_are_named(tmp_path):
    state = renamed()
    state[TABLE][3, 4] = 1e6
    folder = folder_with(tmp_path, state)
    load_model(folder)
    with pytest.raises(ValueError, match="not finite"):
        load_model(folder, dtype=torch.float16)


def test_of_a_large_model_norms_and_samples_are_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(io, "FULLY_CHECKED_PARAMETERS", 0)
    monkeypatch.setattr(io, "SAMPLED_NUMBERS", 4)
    state = renamed()
    state[TABLE][3, 4] = float("nan")
    load_model(folder_with(tmp_path, state))
    state[TABLE][3, 4], state[TABLE][-1, -1] = 0, float("nan")
    with pytest.raises(ValueError, match="not finite"):
        load_model(folder_with(tmp_path, state))


def test_an_index_of_megabytes_and_a_pipe_are_not_read(tmp_path):
    folder = folder_with(tmp_path / "one", renamed())
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": {f"w{n}": "s" for n in range(10**6)}}))
    with pytest.raises(ValueError, match=r"MB is more than 8 MB"):
        load_model(folder)
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(ValueError, match=r"has no config\.json"):
        load_model(folder)
