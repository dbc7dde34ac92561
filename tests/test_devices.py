"""Where a model runs: names, memory, and models dispatched over memory and the disk."""

from types import SimpleNamespace

import pytest
import torch
from reference import CONFIGS, ours, prompts

from paligemma import devices
from paligemma.checkpoints.io import load_model, save_model, save_npz
from paligemma.config import VARIANTS
from paligemma.devices import (
    DeviceMap,
    best_device,
    best_dtype,
    check_float16,
    format_bytes,
    free_memory,
    parse_device,
    parse_dtype,
    plan_placement,
    required_memory,
    weights_memory,
)
from paligemma.generation import SamplingOptions, stream
from paligemma.models.gemma import KVCache

CPU = torch.device("cpu")
SMALL, LARGE = VARIANTS["paligemma-3b-224"], VARIANTS["paligemma2-28b-224"]
both = pytest.mark.parametrize("name", CONFIGS)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


# --- Names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cpu", "cpu:0", CPU])
def test_the_cpu_is_a_device(name):
    assert parse_device(name).type == "cpu"


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1"])
def test_a_gpu_is_a_device(two_gpus, name):
    assert parse_device(name) == torch.device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps", "cpu:1", "meta", "xpu"])
def test_an_absent_device_is_refused(no_gpu, name):
    with pytest.raises(ValueError, match=f"^This machine has no device '{name}'.$"):
        parse_device(name)


def test_a_gpu_index_too_high_is_refused(two_gpus):
    with pytest.raises(ValueError, match="no device 'cuda:2'"):
        parse_device("cuda:2")


@pytest.mark.parametrize("name", ["", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:99999999999", "auto"])
def test_unknown_devices_are_refused(name):
    with pytest.raises(ValueError, match=f"^'{name}' is no device; choose cpu, cuda, cuda:1, mps"):
        parse_device(name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_dtype_by_its_name(dtype):
    assert parse_dtype(dtype) is parse_dtype(str(dtype)) is dtype
    assert parse_dtype(str(dtype).removeprefix("torch.")) is dtype


@pytest.mark.parametrize("name", ["", "fp16", "float64", "int8", "Float32", torch.int8])
def test_unknown_dtypes_are_refused(name):
    with pytest.raises(ValueError, match=r"choose float32, bfloat16, float16\.$"):
        parse_dtype(name)


def test_the_best_device_is_the_fastest_there_is(monkeypatch, no_gpu):
    assert best_device() == CPU
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert best_device() == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert best_device() == torch.device("cuda")


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_best_if_the_device_computes_in_it(monkeypatch, native):
    units = {"avx2": True, "amx_bf16": native}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *version: native)
    expected = torch.bfloat16 if native else torch.float32
    assert {best_dtype(torch.device(name)) for name in ("cpu", "cuda:1", "mps")} == {expected}
    assert best_dtype(torch.device("meta")) == torch.float32


def test_float16_is_refused_for_gemma_2_alone():
    for dtype in (torch.float32, torch.bfloat16):
        check_float16(LARGE, dtype, "it")
    check_float16(SMALL, torch.float16, "it")
    with pytest.raises(ValueError, match=r"^google/it: float16 .* 65504, .*; choose bfloat16\.$"):
        check_float16(LARGE, torch.float16, "google/it")


# --- Memory ---------------------------------------------------------------------------------------


def test_required_memory_is_the_weights_and_a_tenth():
    whole, half = required_memory(LARGE, torch.float32), required_memory(LARGE, torch.bfloat16)
    assert whole == pytest.approx(LARGE.num_parameters * 4.4, rel=1e-6)
    assert half == pytest.approx(whole / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 MB"), (99e6, "99 MB"), (1e8, "0.1 GB"), (6.36e9, "6.4 GB"), (122e9, "122.0 GB")],
)
def test_format_bytes(count, words):
    assert format_bytes(count) == words


def test_the_container_limits_free_memory(monkeypatch, tmp_path):
    machine = SimpleNamespace(available=64_000)
    monkeypatch.setattr(devices.psutil, "virtual_memory", lambda: machine)
    monkeypatch.setattr(devices, "CGROUP", tmp_path)
    assert free_memory(CPU) == 64_000  # no such group
    (tmp_path / "memory.current").write_text("7000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(CPU) == 64_000
    (tmp_path / "memory.max").write_text("10000\n")
    assert free_memory(CPU) == 3000
    machine.available = 2000
    assert free_memory(CPU) == 2000


def test_cached_files_of_a_container_count_as_free(monkeypatch, tmp_path):
    """What was just downloaded counts as used there, and must not keep it from being loaded."""
    available = SimpleNamespace(available=64_000)
    monkeypatch.setattr(devices.psutil, "virtual_memory", lambda: available)
    monkeypatch.setattr(devices, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("10000\n")
    (tmp_path / "memory.current").write_text("9500\n")
    (tmp_path / "memory.stat").write_text("anon 1500\nfile 8000\ninactive_file 7000\n")
    assert free_memory(CPU) == 7500
    (tmp_path / "memory.current").write_text("20000\n")  # the limit was lowered
    assert free_memory(CPU) == 0


def test_free_memory_of_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5_000, 80_000))
    assert free_memory(torch.device("cuda:1")) == 5_000


def test_a_model_that_fits_is_placed_on_the_given_device(monkeypatch):
    monkeypatch.setattr(
        devices, "free_memory", lambda device: required_memory(SMALL, torch.float32)
    )
    assert plan_placement(SMALL, CPU, torch.float32) == (CPU, torch.float32)


def test_a_device_without_memory_is_refused_with_the_numbers(monkeypatch):
    monkeypatch.setattr(devices, "free_memory", lambda device: 8_000_000_000)
    with pytest.raises(ValueError) as caught:
        plan_placement(SMALL, CPU, torch.float32)
    assert str(caught.value) == (
        "The model needs 12.9 GB in float32, and cpu has 8.0 GB free. --dtype bfloat16 halves "
        "that. --quantize int4 needs 3.8 GB. --device auto lays it over all devices and the disk, "
        "which is slow."
    )
    assert plan_placement(SMALL, CPU, torch.bfloat16) == (CPU, torch.bfloat16)
    with pytest.raises(
        ValueError, match=r"needs 60\.8 GB in bfloat16, and cpu has 8\.0 GB free\. "
    ):
        plan_placement(LARGE, CPU, torch.bfloat16)


def test_a_quantized_decoder_needs_less():
    half, int8, int4 = (
        weights_memory(SMALL, torch.bfloat16, quantize) for quantize in (None, "int8", "int4")
    )
    table = SMALL.text_config.vocab_size * SMALL.text_config.hidden_size
    layers = SMALL.num_decoder_parameters - table
    assert half - int8 == table + layers and half - int4 == table + 1.375 * layers


@pytest.mark.parametrize(
    ("quantize", "device", "dtype", "sentence"),
    [
        ("int2", "cpu", None, "'int2' is no quantization; choose int8 or int4."),
        ("int8", "auto", None, "int8 runs on the CPU, not on auto; add --device cpu."),
        ("int4", "cpu", torch.float16, "int4 computes in bfloat16 or float32, not in float16."),
    ],
)
def test_what_cannot_be_quantized_is_refused(quantize, device, dtype, sentence):
    with pytest.raises(ValueError) as caught:
        plan_placement(SMALL, device, dtype, quantize=quantize)
    assert str(caught.value) == sentence


def test_bfloat16_is_not_suggested_for_a_half_precision_model(monkeypatch):
    monkeypatch.setattr(devices, "free_memory", lambda device: 0)
    with pytest.raises(ValueError) as caught:
        plan_placement(SMALL, CPU, torch.float16)
    assert "0 MB free. --device auto" in str(caught.value)


def test_memory_to_be_freed_counts(monkeypatch):
    needed = required_memory(SMALL, torch.float32)
    monkeypatch.setattr(devices, "free_memory", lambda device: needed - 1000)
    assert plan_placement(SMALL, CPU, torch.float32, freed=1000) == (CPU, torch.float32)
    with pytest.raises(ValueError, match="The model needs"):
        plan_placement(SMALL, CPU, torch.float32, freed=999)


def test_a_model_too_large_for_the_best_device_is_dispatched(monkeypatch, two_gpus):
    free = {"cuda": required_memory(SMALL, torch.bfloat16)}
    monkeypatch.setattr(devices, "free_memory", lambda device: free[device.type])
    assert plan_placement(SMALL, None, torch.bfloat16) == (torch.device("cuda"), torch.bfloat16)
    assert plan_placement(LARGE, None, torch.bfloat16) == (DeviceMap(), torch.bfloat16)
    with pytest.raises(ValueError, match="cuda has"):
        plan_placement(LARGE, torch.device("cuda"), torch.bfloat16)


def test_without_a_gpu_nothing_is_dispatched_by_default(monkeypatch, no_gpu):
    monkeypatch.setattr(devices, "free_memory", lambda device: 0)
    with pytest.raises(ValueError, match="--device auto lays it over all devices"):
        plan_placement(SMALL, None, torch.bfloat16)


# --- Over memory and the disk ---------------------------------------------------------------------

# Bytes of memory -> what of the tiny models then stays on the disk. The table never does.
PLACEMENTS = {
    "nothing in memory": (0, {"vision_tower", "multi_modal_projector", "language_model"}),
    "a part of the tower": (150_000, {"vision_tower", "multi_modal_projector", "language_model"}),
    "the tower": (200_000, {"language_model"}),
    "all": (1_000_000, set()),
}
placements = pytest.mark.parametrize(
    ("limit", "on_disk_modules"), PLACEMENTS.values(), ids=PLACEMENTS
)


@pytest.fixture
def no_gpu_to_dispatch_to(monkeypatch, no_gpu):
    pytest.importorskip("accelerate")


def folder(tmp_path, name, **how):
    """The tiny model as a folder; `how` as in `save_model`."""
    save_model(ours(CONFIGS[name]), tmp_path / "model", **how)
    return tmp_path / "model"


@torch.inference_mode()
def greedy(model, batch, steps=12):
    """Ids [steps, B] by way of `stream`, and the logits behind a prefill and two decodes."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    features = model.embed_image(batch["pixel_values"])
    options = SamplingOptions(max_new_tokens=steps)
    tokens = [step.ids for step in stream(model, ids, features, mask, options, eos_token_id=-1)]
    kv_cache = KVCache.allocate(
        model.config.text_config, *ids.shape[:1], ids.shape[1] + 2, dtype=features.dtype
    )
    logits = [model.prefill(ids, features, mask, kv_cache)]
    for column in tokens[:2]:
        logits.append(model.decode(torch.tensor(column)[:, None], kv_cache))
    return tokens, torch.stack(logits)


@both
@placements
@torch.no_grad()
def test_a_dispatched_model_gives_the_same_outputs(
    tmp_path, no_gpu_to_dispatch_to, name, limit, on_disk_modules
):
    path, batch = folder(tmp_path, name), prompts(9, 4)
    plain, dispatched = load_model(path), load_model(path, DeviceMap({"cpu": limit}))
    on_disk = {key for key, value in dispatched.named_parameters() if value.is_meta}
    assert {key.partition(".")[0] for key in on_disk} == on_disk_modules
    assert not dispatched.language_model.embed_tokens.weight.is_meta and not dispatched.training
    torch.testing.assert_close(dispatched(**batch)["logits"], plain(**batch)["logits"])
    (tokens, logits), (expected, expected_logits) = greedy(dispatched, batch), greedy(plain, batch)
    assert tokens == expected
    torch.testing.assert_close(logits, expected_logits)
    assert {key for key, value in dispatched.named_parameters() if value.is_meta} == on_disk


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_offloaded_weights_have_the_given_dtype(tmp_path, no_gpu_to_dispatch_to, name, dtype):
    """Neither the file's own nor the one that a fresh model would have."""
    path, batch = tmp_path / "model", prompts(9, 4)
    other = {torch.float32: torch.bfloat16, torch.bfloat16: torch.float32}[dtype]
    save_model(ours(CONFIGS[name]).to(other), path)
    dispatched = load_model(path, DeviceMap({"cpu": 0}), dtype)
    tokens, logits = greedy(dispatched, batch)
    expected, expected_logits = greedy(load_model(path, dtype=dtype), batch)
    assert logits.dtype == dtype and tokens == expected
    torch.testing.assert_close(logits, expected_logits)


def test_layers_are_loaded_from_their_shards(tmp_path, no_gpu_to_dispatch_to):
    path, batch = folder(tmp_path, "gemma2", max_shard_size=50_000), prompts(9, 4)
    assert len(list(path.glob("*.safetensors"))) > 4
    tokens, logits = greedy(load_model(path, DeviceMap({"cpu": 0})), batch)
    expected, expected_logits = greedy(load_model(path), batch)
    assert tokens == expected
    torch.testing.assert_close(logits, expected_logits)


def test_by_default_all_memory_is_used(tmp_path, no_gpu_to_dispatch_to):
    model = load_model(folder(tmp_path, "gemma1"), DeviceMap())
    assert not any(value.is_meta for value in model.parameters())


def test_dispatch_respects_the_containers_limit(tmp_path, monkeypatch, no_gpu_to_dispatch_to):
    monkeypatch.setattr(devices, "free_memory", lambda device: 200_000)
    model = load_model(folder(tmp_path, "gemma1"), DeviceMap())
    assert any(value.is_meta for value in model.parameters())


def test_an_npz_that_does_not_fit_is_refused(tmp_path, no_gpu_to_dispatch_to):
    path = folder(tmp_path, "gemma1") / "weights.npz"  # beside its config.json
    save_npz(ours(CONFIGS["gemma1"]), path)
    with pytest.raises(ValueError, match=r"an \.npz cannot be read a layer at a time; convert it"):
        load_model(path, DeviceMap({"cpu": 200_000}))
    assert (
        load_model(path, DeviceMap({"cpu": 1_000_000})).embed_image(prompts(9)["pixel_values"])
        is not None
    )


def test_float16_is_refused_for_a_dispatched_gemma_2(tmp_path, no_gpu_to_dispatch_to):
    path = folder(tmp_path, "gemma2")
    with pytest.raises(ValueError, match="65504"):
        load_model(path, DeviceMap({"cpu": 0}), torch.float16)
