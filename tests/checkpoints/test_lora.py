"""LoRA adapters: what is merged, and what is refused before it costs time or memory."""

import dataclasses
import json
import shutil
import time
from pathlib import Path

import pytest
import tiny
import torch
from layouts import LAYOUTS
from PIL import Image
from safetensors.torch import load_file, save_file

from paligemma.__main__ import main
from paligemma.checkpoints import lora
from paligemma.checkpoints.io import load_model
from paligemma.checkpoints.resolve import resolve

ROOT = Path(__file__).parents[2]
TARGETS = ("q_proj", "down_proj")
MODULE = "base_model.model.model.language_model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("models") / "base")


def write_adapter(folder, base, targets=TARGETS, rank=2):
    """An adapter that peft made, of random numbers."""
    model = load_model(base)
    config = lora.Adapter(str(base), rank, 4.0, targets)
    names = lora.attach(model, config)
    torch.manual_seed(0)
    parameters = dict(model.named_parameters())
    lora.save(folder, config, {name: torch.randn(parameters[name].shape) for name in names})
    return folder


@pytest.fixture
def adapter(base, tmp_path):
    return write_adapter(tmp_path / "adapter", base)


def change(folder, **values) -> None:
    path = folder / lora.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def load(folder):
    return resolve(folder).load_model()


def refused(folder) -> str:
    start = time.perf_counter()
    with pytest.raises(ValueError) as caught:
        load(folder)
    assert time.perf_counter() - start < 5 and len(str(caught.value)) < 800
    return str(caught.value)


@pytest.mark.parametrize("changed", [{}, {"use_rslora": True}, {"target_modules": r".*\.q_proj"}])
def test_merging_equals_peft(base, adapter, changed):
    pytest.importorskip("peft")
    if "target_modules" in changed:
        write_adapter(adapter, base, ("q_proj",))
    change(adapter, **changed)
    merged = load(adapter).state_dict()
    model = load_model(base)
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig.from_pretrained(str(adapter)), model)
    tensors = load_file(adapter / lora.WEIGHTS)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in parameters:
            if ".lora_" in name:
                parameters[name].copy_(tensors[lora.to_file_name(name)])
    lora.fold(model)
    for name, expected in model.state_dict().items():
        torch.testing.assert_close(merged[name], expected, rtol=1e-5, atol=1e-5)


KINDS = {
    "plain": {},
    "rank-stabilized": {"use_rslora": True},
    "dora": {"use_dora": True},
    "all-linear": {"target_modules": "all-linear"},
    "a pattern": {"target_modules": r".*language_model.*\.(q_proj|down_proj)"},
    "modules_to_save": {"modules_to_save": ["multi_modal_projector"]},
    "ranks of modules": {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"down_proj": 7}},
    "embeddings": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "dropout": {"lora_dropout": 0.5},
    "some layers": {"layers_to_transform": [1], "layers_pattern": "layers"},
}


@torch.no_grad()
def write_by_peft(folder: Path, base: Path, **options) -> tuple[dict, torch.Tensor]:
    """A random adapter by peft on transformers' model: some inputs, and its logits for them."""
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    theirs = transformers.PaliGemmaForConditionalGeneration.from_pretrained(base).float()
    config = peft.LoraConfig(r=2, lora_alpha=4, **{"target_modules": list(TARGETS)} | options)
    theirs = peft.get_peft_model(theirs, config).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            noise = torch.rand(parameter.shape, generator=generator) - 0.5
            parameter.copy_(parameter * (1 + noise) if "magnitude" in name else noise)
    theirs.save_pretrained(folder)
    batch = tiny.processor()(["caption en"], [Image.new("RGB", (32, 32), "red")], ["a red cat"])
    names = ("input_ids", "pixel_values", "attention_mask", "token_type_ids")
    inputs = {name: getattr(batch, name) for name in names}
    return inputs, theirs(**inputs).logits


@torch.no_grad()
def check_logits(folder: Path, base: Path, inputs: dict, expected: torch.Tensor) -> None:
    """Merged, and read back as an adapter that is trained further, it gives `expected`."""
    merged = resolve(folder, base=base).load_model("cpu", torch.float32)(**inputs)["logits"]
    before = load_model(base)(**inputs)["logits"]
    assert (before - merged).abs().max() > 0.05
    torch.testing.assert_close(merged, expected, rtol=0, atol=1e-4)
    model, adapter = load_model(base), lora.read_adapter(folder)
    adapter = adapter.on_modules(lora.adapted_modules(folder))
    attached = lora.attach(model, adapter, folder)
    torch.testing.assert_close(model.eval()(**inputs)["logits"], expected, rtol=0, atol=1e-4)
    parameters, again = dict(model.named_parameters()), folder.parent / "again"
    lora.save(again, adapter, {name: parameters[name] for name in attached})
    first, second = (
        {lora.from_hub_name(name.removeprefix(lora.PREFIX)): value for name, value in file.items()}
        for file in (load_file(one / lora.WEIGHTS) for one in (folder, again))
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    lora.fold(model)
    torch.testing.assert_close(model(**inputs)["logits"], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        resolve(again, base=base).load_model("cpu", torch.float32)(**inputs)["logits"],
        expected, rtol=0, atol=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_peft_and_transformers_give_the_same_logits(base, tmp_path, options):
    check_logits(tmp_path / "adapter", base, *write_by_peft(tmp_path / "adapter", base, **options))


# --- Adapters of other trainers -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TrainerFolder:
    """What a trainer writes: `targets` as peft gets them, and as its file has them (None: the
    same, in the names of `layout`), other values of its config, and files of its own."""

    targets: str | list[str]
    layout: str
    in_file: str | None
    values: dict
    files: tuple[str, ...] = ()


LANGUAGE_MODULES = [
    f"model.language_model.layers.{layer}.{module}"
    for layer in range(2)
    for module in ("self_attn.q_proj", "mlp.down_proj")
]
UNSLOTH_TARGETS = (
    r"(?:.*?(?:vision|image|visual|patch|language|text).*?(?:self_attn|attention|attn|mlp|"
    r"feed_forward|ffn|dense).*?(?:q_proj|down_proj))|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|"
    r"attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:q_proj|down_proj)))"
)
TRAINERS = {
    "peft, older": TrainerFolder(
        ["q_proj", "down_proj"],
        "older",
        None,
        {"base_model_name_or_path": None, "peft_version": None, "exclude_modules": None},
    ),
    "unsloth": TrainerFolder(
        UNSLOTH_TARGETS,
        "newer",
        None,
        {
            "base_model_name_or_path": "unsloth/paligemma2-3b-pt-224-unsloth-bnb-4bit",
            "auto_mapping": {
                "base_model_class": "PaliGemmaForConditionalGeneration",
                "parent_library": "transformers.models.paligemma.modeling_paligemma",
                "unsloth_fixed": True,
            },
            "ensure_weight_tying": False,
        },
        ("README.md", "tokenizer.json", "preprocessor_config.json", "chat_template.jinja"),
    ),
    "LLaMA-Factory": TrainerFolder(
        LANGUAGE_MODULES,
        "newer, inner vision_model",
        None,
        {"base_model_name_or_path": "google/paligemma-3b-mix-448", "task_type": "CAUSAL_LM"},
        ("README.md", "all_results.json", "trainer_state.json", "training_args.bin"),
    ),
    "LLaMA-Factory, older": TrainerFolder(
        r"^(?!.*vision_tower).*(?:q_proj|down_proj)",
        "older",
        r"^(?!.*vision_tower).*(?:q_proj|down_proj).*",
        {"base_model_name_or_path": "google/paligemma-3b-mix-448", "task_type": "CAUSAL_LM"},
    ),
    "ms-swift": TrainerFolder(
        r"^(model\.language_model(?=\.).*\.(q_proj|down_proj))$",
        "older, as transformers 5 saves it",
        r"^(language_model(?=\.).*\.(q_proj|down_proj))$",
        {
            "base_model_name_or_path": "/mnt/.cache/modelscope/hub/models/AI-ModelScope/paligemma",
            "task_type": "CAUSAL_LM",
        },
        ("additional_config.json", "args.json", "configuration.json", "README.md"),
    ),
}
RANKS = dict.fromkeys(LANGUAGE_MODULES[:2], 3)
TRAINER_KINDS = {
    name: options
    for name, options in KINDS.items()
    if name not in ("a pattern", "some layers", "ranks of modules")
} | {"ranks of modules": {"rank_pattern": RANKS, "alpha_pattern": RANKS}}


def rewrite(folder: Path, trainer: TrainerFolder, options: dict) -> None:
    """The folder as if `trainer` had written it."""
    layout = LAYOUTS[trainer.layout]

    def in_layout(name: str) -> str:
        ours = lora.from_hub_name(name)
        return layout(ours) if "." in ours and not ours.startswith("lm_head") else ours

    tensors = load_file(folder / lora.WEIGHTS)
    renamed = {
        lora.PREFIX + in_layout(name.removeprefix(lora.PREFIX)): value
        for name, value in tensors.items()
    }
    save_file(renamed, folder / lora.WEIGHTS, metadata={"format": "pt"})
    values = json.loads((folder / lora.CONFIG).read_text()) | trainer.values
    if isinstance(values["target_modules"], list):
        values["target_modules"] = [in_layout(name) for name in values["target_modules"]]
    elif trainer.in_file and "target_modules" not in options:
        values["target_modules"] = trainer.in_file
    for field in "rank_pattern", "alpha_pattern":
        values[field] = {in_layout(name): value for name, value in values[field].items()}
    (folder / lora.CONFIG).write_text(json.dumps(values, indent=2, sort_keys=True))
    for name in trainer.files:
        (folder / name).write_text("{}")


@pytest.mark.parametrize("options", TRAINER_KINDS.values(), ids=TRAINER_KINDS)
@pytest.mark.parametrize("trainer", TRAINERS.values(), ids=TRAINERS)
def test_adapters_of_other_trainers(base, tmp_path, trainer, options):
    folder = tmp_path / "adapter"
    written = write_by_peft(folder, base, **{"target_modules": trainer.targets} | options)
    rewrite(folder, trainer, options)
    check_logits(folder, base, *written)


@pytest.mark.parametrize("names", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
def test_embeddings_apart_from_the_output_layer_are_refused(base, tmp_path, names):
    write_by_peft(tmp_path / "adapter", base, modules_to_save=names)
    change(tmp_path / "adapter", base_model_name_or_path=str(base))
    assert "trains the embeddings apart from the output layer" in refused(tmp_path / "adapter")


def test_an_adapter_without_a_base_needs_one(base, adapter):
    expected = load(adapter).state_dict()
    for missing in None, "":
        change(adapter, base_model_name_or_path=missing)
        assert refused(adapter).endswith(f"{lora.CONFIG} names no base; name one with --base.")
    found = resolve(adapter, base=base).load_model().state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_a_quantized_base_is_explained(base, adapter, tmp_path):
    quantized = shutil.copytree(base, tmp_path / "paligemma-unsloth-bnb-4bit")
    values = json.loads((quantized / "config.json").read_text())
    values["quantization_config"] = {"load_in_4bit": True, "quant_method": "bitsandbytes"}
    (quantized / "config.json").write_text(json.dumps(values))
    change(adapter, base_model_name_or_path=str(quantized))
    words = refused(adapter)
    assert "the weights are quantised" in words and "take the model that it was made from" in words
    assert words.endswith("Another base can be named with --base.")


def test_a_config_of_the_base_may_lie_beside_an_adapter(base, adapter):
    expected = load(adapter).state_dict()
    shutil.copy(base / "config.json", adapter)
    found = load(adapter).state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_of_two_patterns_that_fit_the_first_counts(base, adapter):
    name = "language_model.layers.0.self_attn.q_proj"
    before = load(adapter).state_dict()[f"{name}.weight"]
    plain = load_model(base).state_dict()[f"{name}.weight"]
    change(adapter, alpha_pattern={"q_proj": 8, f"model.{name}": 16})
    torch.testing.assert_close(load(adapter).state_dict()[f"{name}.weight"], 2 * before - plain)


def test_a_rank_and_an_alpha_of_one_module(base, adapter):
    tensors = load_file(adapter / lora.WEIGHTS)
    a, b = f"{MODULE}.lora_A.weight", f"{MODULE}.lora_B.weight"
    tensors[a], tensors[b] = torch.randn(3, 48), torch.randn(64, 3)
    save_file(tensors, adapter / lora.WEIGHTS)
    assert "does not fit its base" in refused(adapter)
    name = "language_model.layers.0.self_attn.q_proj"
    change(adapter, rank_pattern={name: 3}, alpha_pattern={name: 6})
    weight = "language_model.layers.0.self_attn.q_proj.weight"
    expected = load_model(base).state_dict()[weight] + tensors[b] @ tensors[a] * 2
    torch.testing.assert_close(load(adapter).state_dict()[weight], expected)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"r": 10**9}, "has r 1000000000; it must be above 0, and 1024 at most"),
        ({"r": 0}, "has r 0"),
        ({"r": True}, "has r True"),
        ({"r": "8"}, "has r '8'"),
        ({"r": [8]}, "has r"),
        ({"lora_alpha": float("nan")}, "has lora_alpha nan"),
        ({"lora_alpha": 1e300}, "has lora_alpha"),
        ({"lora_alpha": None}, "has lora_alpha None"),
        ({"target_modules": ["(a+)+$"]}, "which is no name of a module"),
        ({"target_modules": [7]}, "which is no name of a module"),
        ({"target_modules": []}, "has no target_modules"),
        ({"target_modules": {"q_proj": 1}}, "has no target_modules"),
        ({"target_modules": "q" * 10_001}, "has no target_modules"),
        ({"rank_pattern": {"(x+)+": 8}}, "which is no name of a module"),
        ({"rank_pattern": {"q_proj": 10**9}}, "has rank_pattern.q_proj"),
        ({"alpha_pattern": [1]}, "has a alpha_pattern that is no short object"),
        ({"peft_type": "LOHA"}, "is of a 'LOHA' adapter; only LoRA"),
        ({"use_dora": True}, "has only half of the adapter of"),
        ({"modules_to_save": ["multi_modal_projector"]}, "projector.linear.bias' is in one of"),
        ({"modules_to_save": ["(a+)+$"]}, "in modules_to_save, which is no name of a module"),
        ({"modules_to_save": "all"}, "has modules_to_save that are no list"),
        ({"init_lora_weights": "pissa_niter_4"}, "which changes the base's weights too"),
        ({"bias": "lora_only"}, "asks for biases that were trained too (bias 'lora_only')"),
        ({"trainable_token_indices": [1]}, "(trainable_token_indices)"),
        ({"layer_replication": [[0, 10**9]]}, "(layer_replication)"),
        ({"base_model_name_or_path": 7}, "does not name its base_model_name_or_path"),
    ],
)
def test_an_adapter_config_is_refused(adapter, values, words):
    change(adapter, **values)
    assert words in refused(adapter)


def test_no_pattern_is_run(base, adapter):
    write_adapter(adapter, base, ("q_proj",))
    change(adapter, target_modules=r"(([a-z_.0-9])+)+!")
    start = time.perf_counter()
    load(adapter)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "tensors, words",
    [
        ({f"{MODULE}.lora_magnitude_vector": [64]}, "more than LoRA's A and B"),
        ({"base_model.model.lm_head.lora_embedding_A": [2, 9]}, "it adapts embeddings"),
        ({"base_model.model.lm_head.weight": [2, 9]}, "embeddings apart from the output layer"),
        ({f"{MODULE}.lora_A.weight": [2, 47]}, "has A [2, 47] and B [64, 2] instead of [2, 48]"),
        ({f"{MODULE}x.lora_A.weight": [2, 48]}, "has only half of the adapter"),
    ],
)
def test_tensors_that_do_not_fit_are_named(adapter, tensors, words):
    state = load_file(adapter / lora.WEIGHTS)
    state |= {name: torch.zeros(shape) for name, shape in tensors.items()}
    save_file(state, adapter / lora.WEIGHTS)
    assert words in refused(adapter)


def test_numbers_that_are_not_finite_are_named(adapter):
    state = load_file(adapter / lora.WEIGHTS)
    state[f"{MODULE}.lora_B.weight"][0, 0] = float("nan")
    save_file(state, adapter / lora.WEIGHTS)
    assert "not finite, for language_model.layers.0.self_attn.q_proj" in refused(adapter)


def test_a_pickle_is_never_loaded(adapter):
    (adapter / lora.WEIGHTS).rename(adapter / lora.PICKLE)
    assert "adapter_model.bin is a pickle, and pickles are never loaded" in refused(adapter)


def test_a_header_of_gigabytes_is_not_read(adapter):
    (adapter / lora.WEIGHTS).write_bytes((2**40).to_bytes(8, "little") + b"{}")
    assert "its header is said to have 1099511627776 bytes" in refused(adapter)


def test_a_relative_base_may_lie_beside_the_adapter(base, adapter, monkeypatch):
    shutil.copytree(base, adapter.parent / "base")
    change(adapter, base_model_name_or_path="../base")
    monkeypatch.chdir("/")
    assert resolve(adapter).config == tiny.config()


def test_a_missing_base_is_explained(adapter):
    change(adapter, base_model_name_or_path="nowhere")
    words = refused(adapter)
    assert words.startswith(f"The base 'nowhere' that {adapter / lora.CONFIG} names: ")


def test_another_base_is_named(base, adapter, tmp_path, capsys, monkeypatch):
    expected = load(adapter).state_dict()
    change(adapter, base_model_name_or_path="nowhere")
    assert refused(adapter).endswith("Another base can be named with --base.")
    found = resolve(adapter, base=base)
    assert found.base == str(base) and found.name == adapter.name
    for name, value in found.load_model().state_dict().items():
        assert torch.equal(value, expected[name])
    asked = ["--image", "examples/zoo.png", "--prompt", "ocr", "--max-new-tokens", "2"]
    monkeypatch.chdir(ROOT)
    assert main(["generate", "--model", str(adapter), "--base", str(base), *asked]) == 0
    assert main(["convert", str(adapter), str(tmp_path / "merged"), "--base", str(base)]) == 0
    for name, value in load_model(tmp_path / "merged").state_dict().items():
        assert torch.equal(value, expected[name])
    capsys.readouterr()
    assert main(["generate", "--model", str(base), "--base", str(base), *asked]) == 2
    assert "is no adapter, and only an adapter has a base." in capsys.readouterr().err


def test_the_app_takes_the_base_of_an_adapter(monkeypatch):
    app = pytest.importorskip("paligemma.ui.app")
    given = []

    def load(*arguments):
        given.append(arguments)
        raise ValueError("enough")

    monkeypatch.setattr(app.PaliGemma, "load", load)
    monkeypatch.setattr(app, "check_port", lambda *_: None)
    with pytest.raises(SystemExit):
        app.main(["--model", "a", "--base", "b"])
    assert given[0][:6] == ("a", None, None, None, None, "b")


def test_an_adapter_of_itself_is_refused(adapter):
    change(adapter, base_model_name_or_path=str(adapter))
    assert "it is an adapter itself; merge that one first" in refused(adapter)
