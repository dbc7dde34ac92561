"""The mask codec's training: it goes on bit for bit, does not care how it is cut, and learns."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import runs
import torch

from paligemma.models.mask_codec import MaskCodec
from paligemma.training import checkpoint, mask_codec
from paligemma.training.read_config import parse_run
from paligemma.training.trainer import Trainer


def given(folder: Path, **changes) -> dict:
    values = {
        "stage": "mask_codec",
        "data": [{"synthetic": {"scenes": 100}}],
        "max_steps": 8,
        "batch_size": 4,
        "num_workers": 0,
        "tracker": None,
        "dtype": "float32",
        "output_dir": str(folder / "out"),
    }
    return values | changes


@pytest.fixture
def small(monkeypatch):
    """A codec of few channels."""
    small = partial(MaskCodec, (2, 3, 4, 5), (5, 4, 3, 2), codebook_size=128, code_width=4)
    monkeypatch.setattr(mask_codec, "MaskCodec", small)


def fitted(folder: Path, **changes) -> Trainer:
    one = runs.trainer(parse_run(given(folder, **changes)))
    one.loop()
    one.finish()
    return one


def test_it_goes_on_where_it_was_stopped(small, tmp_path, monkeypatch):
    fitted(tmp_path / "whole")
    take = Trainer._take

    def take_and_stop(self, micro_batches):
        if self.step == 5:
            raise KeyboardInterrupt
        return take(self, micro_batches)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_take", take_and_stop)
        fitted(tmp_path / "again", save_steps=5)
    assert checkpoint.newest_state(tmp_path / "again" / "out")["step"] == 5
    fitted(tmp_path / "again", save_steps=5)
    one, other = (
        MaskCodec.load(tmp_path / n / "out" / "mask_codec.npz") for n in ("whole", "again")
    )
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_it_is_evaluated_on_other_masks(small, tmp_path):
    scenes = [{"synthetic": {"scenes": 3}}]
    job = runs.trainer(parse_run(given(tmp_path, data=scenes, eval_data=scenes))).job
    trained, unseen = (
        {mask.numpy().tobytes() for mask in batches[0, range(3)]["masks"]}
        for batches in (job.batches, job.eval_batches)
    )
    assert len(trained) == len(unseen) == 3 and not trained & unseen


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_are_as_one(tmp_path):
    one = fitted(tmp_path / "one", max_steps=3)
    runs.launch(given(tmp_path / "two", max_steps=3), tmp_path, "-m", "paligemma", "train")
    two = checkpoint.newest_state(tmp_path / "two" / "out")
    assert two["losses"].tolist() == pytest.approx(one.losses.tolist(), rel=1e-4)


@torch.no_grad()
def test_the_codebook_follows_its_vectors_and_idle_rows_restart():
    one = mask_codec.MaskReconstruction(seed=0)
    width = one.row_sums.shape[1]
    one.row_sums.copy_(torch.arange(128.0)[:, None].expand(-1, width))
    one.row_counts[7] = 0.05  # 0.0495 once it has decayed: idle
    vectors = torch.full((6, width), 300.0)
    vectors[0] = 200.0
    one._follow(vectors, torch.tensor([3, 5, 5, 5, 5, 5]), np.random.default_rng(0))
    one.sync_codebook()
    book = one.codec.codebook[:, 0]
    assert book[3] == pytest.approx((3 * 0.99 + 200 * 0.01) / (0.99 + 0.01))
    assert book[5] == pytest.approx((5 * 0.99 + 5 * 300 * 0.01) / (0.99 + 5 * 0.01))
    assert book[4] == pytest.approx(4)  # nothing came: sum and count decay alike
    assert book[7] in (200, 300)  # one of the live vectors
