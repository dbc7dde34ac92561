"""The config of a bare `.npz`, recognised by the shapes of its arrays, and what is refused."""

import json
import zipfile

import numpy as np
import pytest
from checkpoint_files import refused
from reference import CONFIGS

from paligemma.checkpoints.big_vision import published_config
from paligemma.checkpoints.convert import convert
from paligemma.checkpoints.io import CONFIG, load_model, read_config_values
from paligemma.checkpoints.resolve import resolve
from paligemma.config import VARIANTS, PaliGemmaConfig


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


def test_an_npz_has_big_visions_keys_and_no_embedding_of_image(sources, tmp_path):
    convert(resolve(sources["gemma1"]), tmp_path / "w.npz")
    with np.load(tmp_path / "w.npz") as arrays:
        shapes = {key: arrays[key].shape for key in arrays.files}
    config = resolve(sources["gemma1"]).config
    assert shapes == {f"params/{key}": shape for key, shape in array_shapes(config).items()}


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
