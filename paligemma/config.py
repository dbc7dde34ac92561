"""Sizes of a PaliGemma: three frozen dataclasses, config.json in and out, the published variants.

    PaliGemmaConfig(vision_config={"image_size": 448}, text_config={"hidden_size": 2048})

Source: the PaliGemma reports (arXiv 2407.07726 and 2412.03555) for the variants; Hugging Face
transformers (PaliGemmaConfig, GemmaConfig, Gemma2Config, SiglipVisionConfig) for config.json and
for the values that stand in where a published config.json leaves a key out.

Gemma 1 and Gemma 2 are one decoder here: its fields say what differs, never a version name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

# The numbers that a model may have, both ends included: some times those of the largest published
# one. A pair of int is for whole numbers. All is checked before anything of such a size is made.
_SHARED_BOUNDS: dict[str, tuple[float, float]] = {
    "hidden_size": (1, 16_384),
    "intermediate_size": (1, 131_072),
    "num_hidden_layers": (1, 256),
    "num_attention_heads": (1, 256),
}
_VISION_BOUNDS = _SHARED_BOUNDS | {
    "image_size": (1, 4_096),
    "patch_size": (1, 1_024),
    "num_channels": (3, 3),  # images are RGB
    "layer_norm_eps": (1e-12, 1.0),
}
_TEXT_BOUNDS = _SHARED_BOUNDS | {
    "vocab_size": (1, 1_048_576),
    "num_key_value_heads": (1, 256),
    "head_dim": (1, 1_024),
    "max_position_embeddings": (1, 1_048_576),
    "rms_norm_eps": (1e-12, 1.0),
    "rope_theta": (1.0, 1e9),
    "query_pre_attn_scalar": (1e-3, 1e6),
    "attn_logit_softcapping": (1e-3, 1e6),
    "final_logit_softcapping": (1e-3, 1e6),
    "sliding_window": (1, 1_048_576),
}
_TOKEN_BOUNDS = (0, 1_048_576)
_LOC_GRID_BOUNDS = (1, 1_023)
MAX_LOC_REACH = 100
MAX_IMAGE_TOKENS = 16_384  # of one image; 4096 is the most published
MAX_PARAMETERS = 60_000_000_000  # twice those of the largest published model


@dataclass(frozen=True)
class VisionConfig:
    """The SigLIP vision tower. Images are square; `image_size` and `patch_size` are in pixels."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    num_channels: int = 3
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        """Raises ValueError for a number out of bounds, and for sizes that do not fit."""
        _check_numbers("vision_config", self, _VISION_BOUNDS)
        _require_multiple("image_size", self.image_size, "patch_size", self.patch_size)
        _require_multiple(
            "vision hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads
        )
        if self.num_image_tokens > MAX_IMAGE_TOKENS:
            raise ValueError(
                f"vision_config.image_size {self.image_size} and patch_size {self.patch_size} "
                f"make {self.num_image_tokens} image tokens; at most {MAX_IMAGE_TOKENS} can be run."
            )

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def num_image_tokens(self) -> int:
        return self.grid**2


@dataclass(frozen=True)
class TextConfig:
    """The Gemma decoder. Everything from `query_pre_attn_scalar` down is what Gemma 2 adds."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int = 8192
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    query_pre_attn_scalar: float | None = None  # scores are divided by its root; None: head_dim
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    sliding_window: int | None = None  # positions that layers 0, 2, 4, … attend to, own included
    post_norms: bool = False  # a norm after attention and after the MLP too: four a layer

    def __post_init__(self) -> None:
        """Raises ValueError for a number out of bounds, and for sizes that do not fit."""
        _check_numbers("text_config", self, _TEXT_BOUNDS)
        _require_multiple(
            "num_attention_heads",
            self.num_attention_heads,
            "num_key_value_heads",
            self.num_key_value_heads,
        )
        _require_multiple("head_dim", self.head_dim, "2 (RoPE rotates pairs)", 2)

    @property
    def attention_scale(self) -> float:
        scalar = self.query_pre_attn_scalar
        return (self.head_dim if scalar is None else scalar) ** -0.5


@dataclass(frozen=True, init=False)
class PaliGemmaConfig:
    """A whole model. `projection_dim`, the connector's output, is the decoder's width.

    `loc_grid`: the model was trained on boxes that end at multiples of 1 / `loc_grid` of a side
    alone; None: at every `<loc>`, as the published ones. `loc_reach`: greedy decoding counts a
    `<loc>` together with its neighbors up to that far away, for a model that was trained to spread
    it over them; None: alone, as in transformers.
    """

    vision_config: VisionConfig
    text_config: TextConfig
    projection_dim: int
    image_token_index: int
    pad_token_id: int
    eos_token_id: int
    bos_token_id: int
    loc_grid: int | None
    loc_reach: int | None

    def __init__(
        self,
        vision_config: VisionConfig | Mapping[str, Any],
        text_config: TextConfig | Mapping[str, Any],
        projection_dim: int = 2048,
        image_token_index: int = 256000,
        pad_token_id: int = 0,
        eos_token_id: int = 1,
        bos_token_id: int = 2,
        loc_grid: int | None = None,
        loc_reach: int | None = None,
    ) -> None:
        """The two configs may be the dictionaries of a config.json: what they leave out is as in
        transformers, and so are the defaults here.

        Raises ValueError if a dictionary asks for what is not built here, if a number is out of
        bounds, and if `projection_dim` is not the decoder's `hidden_size`.
        """
        if not isinstance(vision_config, VisionConfig):
            vision_config = _vision_from_dict(vision_config)
        if not isinstance(text_config, TextConfig):
            text_config = _text_from_dict(text_config)
        _check_number("projection_dim", projection_dim, _SHARED_BOUNDS["hidden_size"])
        _check_number("image_token_index", image_token_index, _TOKEN_BOUNDS)
        _check_number("pad_token_id", pad_token_id, _TOKEN_BOUNDS)
        _check_number("eos_token_id", eos_token_id, _TOKEN_BOUNDS)
        _check_number("bos_token_id", bos_token_id, _TOKEN_BOUNDS)
        if loc_grid is not None:
            _check_number("loc_grid", loc_grid, _LOC_GRID_BOUNDS)
        if loc_reach is not None:
            _check_number("loc_reach", loc_reach, (1, MAX_LOC_REACH))
        if projection_dim != text_config.hidden_size:
            raise ValueError(
                f"projection_dim is {projection_dim}, but the decoder's hidden_size is "
                f"{text_config.hidden_size}: image features could not join the text."
            )
        vars(self).update(  # the class is frozen
            vision_config=vision_config,
            text_config=text_config,
            projection_dim=projection_dim,
            image_token_index=image_token_index,
            pad_token_id=pad_token_id,
            eos_token_id=eos_token_id,
            bos_token_id=bos_token_id,
            loc_grid=loc_grid,
            loc_reach=loc_reach,
        )
        if self.num_parameters > MAX_PARAMETERS:
            raise ValueError(
                f"The config is of {self.num_parameters / 1e9:.0f} billion parameters; at most "
                f"{MAX_PARAMETERS / 1e9:.0f} billion can be loaded."
            )

    @property
    def num_parameters(self) -> int:
        """Of the whole model; the output table is the embedding table."""
        vision = self.vision_config
        width, mlp = vision.hidden_size, vision.intermediate_size
        patch = vision.num_channels * vision.patch_size**2 * width + width
        layer = 4 * (width * width + width) + 2 * width * mlp + mlp + width + 4 * width
        tower = patch + vision.num_image_tokens * width + vision.num_hidden_layers * layer
        tower += 2 * width
        connector = (width + 1) * self.projection_dim
        return tower + connector + self.num_decoder_parameters

    @property
    def num_decoder_parameters(self) -> int:
        """Of the language model, with its table."""
        text = self.text_config
        width, mlp = text.hidden_size, text.intermediate_size
        heads = 2 * (text.num_attention_heads + text.num_key_value_heads) * text.head_dim
        layer = width * heads + 3 * width * mlp + (4 if text.post_norms else 2) * width
        return text.vocab_size * width + text.num_hidden_layers * layer + width

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PaliGemmaConfig:
        """Read the dictionary of a config.json. Raises ValueError for what is not built here."""
        _require_object("config.json", values)
        if (kind := values.get("model_type", "paligemma")) != "paligemma":
            raise ValueError(
                f"config.json is of a {short_repr(kind)} model; only 'paligemma' can be loaded."
            )
        read_quantization(values)
        text_values = values.get("text_config") or {}
        _require_object("text_config", text_values)

        def token(name: str, otherwise: int) -> int:
            given = (values.get(name), text_values.get(name), otherwise)
            found = next(value for value in given if value is not None)
            found = found[0] if isinstance(found, list) and found else found
            return _check_number(name, found, _TOKEN_BOUNDS)

        return cls(
            vision_config=values.get("vision_config") or {},
            text_config=text_values,
            projection_dim=values.get("projection_dim", 2048),
            image_token_index=token("image_token_index", token("image_token_id", 256000)),
            pad_token_id=token("pad_token_id", 0),
            eos_token_id=token("eos_token_id", 1),
            bos_token_id=token("bos_token_id", 2),
            loc_grid=values.get("loc_grid"),
            loc_reach=values.get("loc_reach"),
        )

    def to_dict(self) -> dict[str, Any]:
        """The dictionary of a config.json that transformers loads too."""
        optional = {"loc_grid": self.loc_grid, "loc_reach": self.loc_reach}
        return {name: value for name, value in optional.items() if value is not None} | {
            "architectures": ["PaliGemmaForConditionalGeneration"],
            "model_type": "paligemma",
            "image_token_index": self.image_token_index,
            "projection_dim": self.projection_dim,
            "hidden_size": self.projection_dim,
            "vocab_size": self.text_config.vocab_size,
            "pad_token_id": self.pad_token_id,
            "eos_token_id": self.eos_token_id,
            "bos_token_id": self.bos_token_id,
            "tie_word_embeddings": True,
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_act": "gelu_pytorch_tanh",
                "vision_use_head": False,
                **asdict(self.vision_config),
            },
            "text_config": {
                **_text_to_dict(self.text_config),
                "pad_token_id": self.pad_token_id,
                "eos_token_id": self.eos_token_id,
                "bos_token_id": self.bos_token_id,
            },
        }


def _check_numbers(
    part: str, config: VisionConfig | TextConfig, bounds: dict[str, tuple[float, float]]
) -> None:
    """Raises ValueError if a field of `bounds` is beyond them; None is no number to check."""
    optional = {field.name for field in fields(config) if field.default is None}
    for key, allowed in bounds.items():
        value = getattr(config, key)
        if value is not None or key not in optional:
            _check_number(f"{part}.{key}", value, allowed)


def _check_number(name: str, value: Any, bounds: tuple[float, float]) -> Any:
    """`value`, unless it is beyond `bounds`."""
    low, high = bounds
    whole = isinstance(low, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        kind = "whole number" if whole else "number"
        raise ValueError(f"{name} is {short_repr(value)}; it must be a {kind}.")
    if not low <= value <= high:  # NaN is refused too
        allowed = f"{low:,} to {high:,}" if whole else f"{low:g} to {high:g}"
        if low == 1:
            allowed = f"above 0, and {high:,} at most"
        allowed = allowed if low != high else f"{low}"
        raise ValueError(f"{name} is {short_repr(value)}; it must be {allowed}.")
    return value


def short_repr(value: Any) -> str:
    """A value as Python writes it, for a message: 80 characters at most."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _require_multiple(name: str, value: int, of: str, divisor: int) -> None:
    if value < 1 or divisor < 1 or value % divisor:
        raise ValueError(f"{name} is {value}; it must be a positive multiple of {of}, {divisor}.")


# What transformers 5.23 assumes where config.json has no such key. The published PaliGemma files
# do leave keys out: no head_dim in any text_config, no image_size in the 224 px vision_configs.
_VISION_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "layer_norm_eps": 1e-6,
}
_TEXT_SHARED = {
    "vocab_size": 256000,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}
_TEXT_DEFAULTS = {
    "gemma": {
        **_TEXT_SHARED,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
    },
    "gemma2": {
        **_TEXT_SHARED,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 4096,
    },
}
_QUANTIZED = ("quantization", "quantization_config")  # keys of mlx and of transformers
_TEXT_MAY_BE_NULL = ("attn_logit_softcapping", "final_logit_softcapping", "sliding_window")


def quantization_values(precision: str) -> dict[str, Any]:
    """What a config.json says of weights that `quantize` int8 or int4 has made."""
    return {"quantization_config": {"quant_method": "paligemma", "weights": precision}}


def read_quantization(values: Mapping[str, Any]) -> str | None:
    """How the weights beside a config.json are quantized: "int8" or "int4", or not at all.

    Raises ValueError for the formats of other programs.
    """
    given = {key: values[key] for key in _QUANTIZED if values.get(key) is not None}
    if not given:
        return None
    for precision in ("int8", "int4"):
        if given == quantization_values(precision):
            return precision
    raise ValueError(
        f"config.json says by {next(iter(given))!r} that the weights are quantised, in a way that "
        "cannot be loaded; take the model that it was made from, in bfloat16 or float32."
    )


def _numbers(part: str, values: Mapping[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The keys of `defaults`, as given or by default; null switches an optional effect off."""
    chosen = {key: values.get(key, default) for key, default in defaults.items()}
    for key, value in chosen.items():
        if value is None and key not in _TEXT_MAY_BE_NULL:
            raise ValueError(f"{part}.{key} is None; it must be a number.")
    return chosen


def _vision_from_dict(values: Mapping[str, Any]) -> VisionConfig:
    _require_object("vision_config", values)
    _require("vision_config.hidden_act", values.get("hidden_act"), ("gelu_pytorch_tanh",))
    return VisionConfig(**_numbers("vision_config", values, _VISION_DEFAULTS))


def _text_from_dict(values: Mapping[str, Any]) -> TextConfig:
    _require_object("text_config", values)
    kind = values.get("model_type", "gemma")
    if not isinstance(kind, str) or kind not in _TEXT_DEFAULTS:
        allowed = ", ".join(map(repr, _TEXT_DEFAULTS))
        raise ValueError(
            f"text_config.model_type is {short_repr(kind)}; it must be one of {allowed}."
        )

    rope = values.get("rope_parameters") or {}  # where transformers 5 keeps rope_theta
    _require_object("text_config.rope_parameters", rope)
    _require("text_config.rope_type", rope.get("rope_type"), ("default",))
    _require("text_config.rope_scaling", values.get("rope_scaling"), ())
    _require("text_config.attention_bias", values.get("attention_bias"), (False,))
    # Gemma 1 reads hidden_act, where a bare "gelu" means the tanh form; Gemma 2 hidden_activation.
    activation = values.get("hidden_act" if kind == "gemma" else "hidden_activation")
    spellings = ("gelu_pytorch_tanh", "gelu") if kind == "gemma" else ("gelu_pytorch_tanh",)
    _require("text_config's activation", activation, spellings)

    given = {"rope_theta": rope.get("rope_theta", 10000.0), **values}
    numbers = _numbers("text_config", given, _TEXT_DEFAULTS[kind])
    config = TextConfig(post_norms=kind == "gemma2", **numbers)
    alternating = [
        "full_attention" if index % 2 else "sliding_attention"
        for index in range(config.num_hidden_layers)
    ]
    if kind == "gemma2":
        _require("text_config.layer_types", values.get("layer_types"), (alternating,))
    return config


def _text_to_dict(config: TextConfig) -> dict[str, Any]:
    values = asdict(config)
    kind = "gemma2" if values.pop("post_norms") else "gemma"
    if kind == "gemma2":
        values["hidden_activation"] = "gelu_pytorch_tanh"
        if config.query_pre_attn_scalar is None:
            values["query_pre_attn_scalar"] = config.head_dim
    else:
        values["hidden_act"] = "gelu_pytorch_tanh"
        for key in _TEXT_DEFAULTS["gemma2"].keys() - _TEXT_DEFAULTS["gemma"].keys():
            if values.pop(key) is not None:
                raise ValueError(f"config.json cannot hold {key} without post_norms.")
    return {"model_type": kind, **values}


def _require_object(name: str, values: Any) -> None:
    if not isinstance(values, Mapping):
        raise ValueError(f"{name} holds a {type(values).__name__}, not an object.")


def _require(name: str, value: Any, allowed: tuple) -> None:
    if value is not None and value not in allowed:
        expected = " or ".join(map(short_repr, allowed)) or "absent"
        raise ValueError(f"{name} is {short_repr(value)}; it must be {expected}.")


# The table of 257216 rows: 256000 text tokens, 1024 <loc>, 128 <seg>, <image>, and padding.
_gemma = partial(TextConfig, vocab_size=257216)
_gemma2 = partial(
    _gemma,
    attn_logit_softcapping=50.0,
    final_logit_softcapping=30.0,
    sliding_window=4096,
    post_norms=True,
)
_DECODERS = {  # layers, heads, key-value heads, head_dim: arXiv 2403.08295 and 2408.00118, table 1
    "paligemma-3b": _gemma(
        hidden_size=2048,
        intermediate_size=16384,
        num_hidden_layers=18,
        num_attention_heads=8,
        num_key_value_heads=1,
        head_dim=256,
    ),
    "paligemma2-3b": _gemma2(
        hidden_size=2304,
        intermediate_size=9216,
        num_hidden_layers=26,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
        query_pre_attn_scalar=256,
    ),
    "paligemma2-10b": _gemma2(
        hidden_size=3584,
        intermediate_size=14336,
        num_hidden_layers=42,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=256,
        query_pre_attn_scalar=256,
    ),
    "paligemma2-28b": _gemma2(
        hidden_size=4608,
        intermediate_size=36864,
        num_hidden_layers=46,
        num_attention_heads=32,
        num_key_value_heads=16,
        head_dim=128,
        query_pre_attn_scalar=144,
    ),
}
VARIANTS: dict[str, PaliGemmaConfig] = {
    f"{name}-{size}": PaliGemmaConfig(
        vision_config=VisionConfig(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=27,
            num_attention_heads=16,
            image_size=size,
            patch_size=14,
        ),
        text_config=decoder,
        projection_dim=decoder.hidden_size,
        image_token_index=257152,
    )
    for name, decoder in _DECODERS.items()
    for size in (224, 448, 896)
}
