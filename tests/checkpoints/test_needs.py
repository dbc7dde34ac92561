"""What a published model needs on a machine."""

import pytest
import torch

from paligemma.checkpoints import needs as model_needs
from paligemma.config import VARIANTS


def test_the_needs_are_those_of_size_dtype_and_speed(monkeypatch):
    monkeypatch.setattr(model_needs, "machine_speed", lambda device, dtype: (1e12, 1e10))
    monkeypatch.setattr(model_needs, "free_memory", lambda device: 1_000)
    monkeypatch.setattr(model_needs, "free_disk_space", lambda folder: 10**12)
    config = VARIANTS["paligemma2-3b-224"]
    needs = model_needs.model_needs(config, "cpu", "bfloat16", freed=500)
    count = config.num_parameters
    assert needs.memory == pytest.approx(2.2 * count, rel=1e-6) and needs.free_memory == 1_500
    assert needs.disk == 2 * count and not needs.fits
    assert needs.caption_s == pytest.approx(2 * count * 266 / 1e12 + 20 * 2 * count / 1e10)
    assert needs.memory > needs.quantized["int8"] > needs.quantized["int4"] > count / 2
    small = model_needs.model_needs(config, "cpu", "bfloat16", "int4", freed=500)
    assert small.memory == needs.quantized["int4"] and small.caption_s < needs.caption_s
    assert small.quantized == {}
    double = model_needs.model_needs(config, "cpu", "float32", freed=10**12)
    assert double.memory == pytest.approx(2 * needs.memory, rel=1e-6) and double.fits


def test_the_speed_is_measured():
    operations, bandwidth = model_needs.machine_speed(torch.device("cpu"), torch.float32)
    assert 1e8 < operations < 1e16 and 1e8 < bandwidth < 1e14


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.1, "1 s"), (27.4, "27 s"), (119, "119 s"), (150, "2 min")]
)
def test_durations(seconds, text):
    assert model_needs.format_duration(seconds) == text
