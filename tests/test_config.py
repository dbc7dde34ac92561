"""config.json in and out, checked against transformers, and the published variants."""

import dataclasses

import pytest
import torch
from reference import CONFIGS

from paligemma.config import (
    VARIANTS,
    PaliGemmaConfig,
    TextConfig,
    VisionConfig,
    quantization_values,
    read_quantization,
)
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration

# As published with google/paligemma-3b-pt-224: no image_size, no head_dim, no rope_theta.
PUBLISHED_1 = {
    "architectures": ["PaliGemmaForConditionalGeneration"],
    "bos_token_id": 2,
    "eos_token_id": 1,
    "hidden_size": 2048,
    "image_token_index": 257152,
    "model_type": "paligemma",
    "pad_token_id": 0,
    "projection_dim": 2048,
    "text_config": {
        "hidden_size": 2048,
        "intermediate_size": 16384,
        "model_type": "gemma",
        "num_attention_heads": 8,
        "num_hidden_layers": 18,
        "num_image_tokens": 256,
        "num_key_value_heads": 1,
        "torch_dtype": "float32",
        "vocab_size": 257216,
    },
    "vision_config": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "num_image_tokens": 256,
        "patch_size": 14,
        "projection_dim": 2048,
        "projector_hidden_act": "gelu_fast",
        "vision_use_head": False,
    },
}
# The manner of google/paligemma2-3b-pt-448.
PUBLISHED_2 = {
    **PUBLISHED_1,
    "_vocab_size": 257152,
    "projection_dim": 2304,
    "text_config": {
        "attn_logit_softcapping": 50.0,
        "cache_implementation": "hybrid",
        "eos_token_id": [1, 107],
        "final_logit_softcapping": 30.0,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "model_type": "gemma2",
        "num_attention_heads": 8,
        "num_hidden_layers": 26,
        "num_image_tokens": 1024,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "torch_dtype": "bfloat16",
        "vocab_size": 257216,
    },
    "vision_config": {**PUBLISHED_1["vision_config"], "image_size": 448},
}


def transformers_config(values: dict) -> PaliGemmaConfig:
    """`values` by way of transformers' own class, which fills in its own defaults."""
    transformers = pytest.importorskip("transformers")
    return PaliGemmaConfig.from_dict(transformers.PaliGemmaConfig(**values).to_dict())


def test_published_files_are_the_variants():
    assert PaliGemmaConfig.from_dict(PUBLISHED_1) == VARIANTS["paligemma-3b-224"]
    assert PaliGemmaConfig.from_dict(PUBLISHED_2) == VARIANTS["paligemma2-3b-448"]


@pytest.mark.parametrize("kind", ["gemma", "gemma2"])
def test_absent_keys_mean_what_transformers_means(kind):
    width = {"gemma": 3072, "gemma2": 2304}[kind]
    bare = {
        "text_config": {"model_type": kind},
        "vision_config": {"model_type": "siglip_vision_model"},
        "projection_dim": width,
    }
    assert PaliGemmaConfig.from_dict(bare) == transformers_config(bare)


@pytest.mark.parametrize("config", [*CONFIGS.values(), *VARIANTS.values()])
def test_round_trip_and_transformers_agree(config):
    assert PaliGemmaConfig.from_dict(config.to_dict()) == config
    assert transformers_config(config.to_dict()) == config


def test_dictionaries_may_stand_for_the_two_configs():
    published = {k: PUBLISHED_2[k] for k in ("vision_config", "text_config", "projection_dim")}
    assert PaliGemmaConfig(**published, image_token_index=257152) == VARIANTS["paligemma2-3b-448"]
    vision = CONFIGS["gemma1"].vision_config
    mixed = PaliGemmaConfig(vision, {"hidden_size": 2048}, projection_dim=2048)
    assert mixed.vision_config is vision and mixed.text_config.head_dim == 256
    by_default = transformers_config(
        {
            "text_config": {"model_type": "gemma", "hidden_size": 2048},
            "vision_config": {"model_type": "siglip_vision_model"},
        }
    )
    assert dataclasses.replace(mixed, vision_config={}) == by_default


def test_mistakes_in_dictionaries_are_refused():
    with pytest.raises(ValueError, match=r"projection_dim is 2048.*hidden_size is 3072"):
        PaliGemmaConfig(vision_config={}, text_config={})
    with pytest.raises(ValueError, match=r"vision_config\.patch_size is 0"):
        PaliGemmaConfig({"patch_size": 0}, {"hidden_size": 2048})
    with pytest.raises(ValueError, match="text_config holds a NoneType"):
        PaliGemmaConfig({}, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIGS["gemma1"].projection_dim = 2


def test_variants_are_those_of_the_papers():
    assert len(VARIANTS) == 12
    tokens = {name: v.vision_config.num_image_tokens for name, v in VARIANTS.items()}
    assert {tokens[f"paligemma-3b-{size}"] for size in (224, 448, 896)} == {256, 1024, 4096}
    with torch.device("meta"):
        sizes = {
            name: sum(p.numel() for p in PaliGemmaForConditionalGeneration(config).parameters())
            for name, config in VARIANTS.items()
            if name.endswith("-224")
        }
    billions = {name: round(size / 1e9, 1) for name, size in sizes.items()}
    assert billions == {
        "paligemma-3b-224": 2.9,
        "paligemma2-3b-224": 3.0,
        "paligemma2-10b-224": 9.7,
        "paligemma2-28b-224": 27.7,
    }
    assert VARIANTS["paligemma2-28b-224"].text_config.attention_scale == 144**-0.5
    assert VARIANTS["paligemma-3b-224"].text_config.attention_scale == 256**-0.5


def changed(part: str, **values) -> dict:
    return {**PUBLISHED_2, part: {**PUBLISHED_2[part], **values}}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({**PUBLISHED_2, "model_type": "llava"}, "llava"),
        ({**PUBLISHED_2, "projection_dim": 2048}, "2048.*2304"),
        (changed("text_config", model_type="llama"), "'gemma', 'gemma2'"),
        (changed("text_config", hidden_activation="silu"), "silu"),
        (changed("text_config", attention_bias=True), "attention_bias"),
        (changed("text_config", layer_types=["full_attention"] * 26), "layer_types"),
        (changed("text_config", rope_scaling={"factor": 2.0}), "rope_scaling"),
        (changed("text_config", num_key_value_heads=3), "num_key_value_heads, 3"),
        (changed("text_config", hidden_size="wide"), "hidden_size is 'wide'"),
        (changed("text_config", head_dim=None), "head_dim is None"),
        (changed("vision_config", image_size=225), "image_size is 225"),
        (changed("vision_config", image_size=[224, 224]), "image_size"),
        (changed("vision_config", hidden_act="relu"), "relu"),
    ],
)
def test_what_is_not_built_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        PaliGemmaConfig.from_dict(values)


def test_a_null_switches_an_effect_off():
    values = changed("text_config", sliding_window=None, attn_logit_softcapping=None)
    text = PaliGemmaConfig.from_dict(values).text_config
    assert text.sliding_window is None and text.attn_logit_softcapping is None


def test_a_mix_that_config_json_cannot_hold_is_refused():
    config = CONFIGS["gemma1"]
    mixed = dataclasses.replace(config.text_config, sliding_window=5)
    with pytest.raises(ValueError, match="sliding_window"):
        dataclasses.replace(config, text_config=mixed).to_dict()


BAD_NUMBERS = (0, -1, 10**10, 10**400, 1e400, float("nan"), True, "8", [8], {}, None)
NUMBERS = [
    *(("vision_config", field.name) for field in dataclasses.fields(VisionConfig)),
    *(("text_config", f.name) for f in dataclasses.fields(TextConfig) if f.name != "post_norms"),
]


@pytest.mark.parametrize(("part", "name"), NUMBERS)
def test_every_number_has_bounds(part, name):
    optional = name in ("attn_logit_softcapping", "final_logit_softcapping", "sliding_window")
    for value in BAD_NUMBERS[:-1] if optional else BAD_NUMBERS:
        with pytest.raises(ValueError, match=rf"^{part}\.{name} is ") as caught:
            PaliGemmaConfig.from_dict(changed(part, **{name: value}))
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["projection_dim", "image_token_index", "pad_token_id"])
@pytest.mark.parametrize("value", [-1, 10**10, 1.5, True, "8", float("nan")])
def test_every_id_has_bounds(name, value):
    with pytest.raises(ValueError, match=f"^{name} is "):
        PaliGemmaConfig.from_dict({**PUBLISHED_2, name: value})


@pytest.mark.parametrize(
    ("name", "kept", "above"), [("loc_grid", 128, 1024), ("loc_reach", 12, 101)]
)
def test_what_a_model_learned_of_locations_is_kept_and_has_bounds(name, kept, above):
    assert getattr(PaliGemmaConfig.from_dict(PUBLISHED_2), name) is None
    assert name not in PaliGemmaConfig.from_dict(PUBLISHED_2).to_dict()
    config = PaliGemmaConfig.from_dict({**PUBLISHED_2, name: kept})
    assert getattr(config, name) == kept and PaliGemmaConfig.from_dict(config.to_dict()) == config
    assert transformers_config(config.to_dict()) == config
    for value in 0, above, 1.5, True, str(kept):
        with pytest.raises(ValueError, match=f"^{name} is "):
            PaliGemmaConfig.from_dict({**PUBLISHED_2, name: value})


def test_sizes_are_checked_for_every_caller():
    with pytest.raises(ValueError, match=r"vision_config\.num_hidden_layers is 10000000000"):
        VisionConfig(8, 8, 10**10, 1, image_size=8, patch_size=4)
    with pytest.raises(ValueError, match="make 1048576 image tokens"):
        VisionConfig(8, 8, 1, 1, image_size=4096, patch_size=4)
    text = {"hidden_size": 16384, "intermediate_size": 131072, "num_hidden_layers": 256}
    with pytest.raises(ValueError, match="billion parameters; at most 60 billion"):
        PaliGemmaConfig({}, text, projection_dim=16384)


@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_quantised_weights_are_refused(key):
    with pytest.raises(ValueError, match=r"quantised.*take the model that it was made from"):
        PaliGemmaConfig.from_dict({**PUBLISHED_2, key: {"bits": 6, "group_size": 64}})


@pytest.mark.parametrize("precision", [None, "int8", "int4"])
def test_own_quantization_is_recognised(precision):
    values = {**PUBLISHED_2, **(quantization_values(precision) if precision else {})}
    assert read_quantization(values) == precision
    assert PaliGemmaConfig.from_dict(values) == PaliGemmaConfig.from_dict(PUBLISHED_2)
    with pytest.raises(ValueError, match="quantised"):
        read_quantization(quantization_values("int2"))
