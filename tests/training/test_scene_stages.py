"""The stages that make the built-in model, tiny: tower and whole model, with all their options."""

import shutil
from pathlib import Path

import pytest
import runs
import tiny
import torch
from safetensors.torch import load_file

from paligemma.checkpoints.io import read_config
from paligemma.checkpoints.resolve import BUILT_IN_FOLDER, resolve
from paligemma.synthetic.scenes import CHARACTERS
from paligemma.training import checkpoint
from paligemma.training.config import SoftLocTargets
from paligemma.training.objectives import soft_targets
from paligemma.training.read_config import parse_run
from paligemma.training.sources import EVAL_SEED
from paligemma.training.tokenizer import train_tokenizer
from paligemma.training.trainer import Trainer

STAGES = ("tower", "multimodal")


def trained(folder: Path, stage: str, **changes) -> Trainer:
    one = runs.trainer(parse_run(runs.scenes(folder, stage, **changes)))
    one.loop()
    return one


# The first losses of a run, from this project's first trainer of the built-in model (its two loops
# of batches, losses and optimizers had no code in common with these), on the same scenes. Captions
# named things in alphabetical order then.
FIRST_LOSSES = {
    "tower": [31.556625366, 30.873552322, 29.980030060, 28.654914856, 28.626979828],
    "multimodal": [24.361721039, 24.781286240, 22.495311737, 22.646205902, 22.784004211],
}


@pytest.fixture
def alphabetical_captions(monkeypatch):
    def in_order(scene):
        return sorted(scene.items, key=lambda item: (item.kind, item.color, item.y))

    monkeypatch.setattr("paligemma.synthetic.language._top_down", in_order)
    tiny.trained_tokenizer.cache_clear()  # the tokenizer is trained on captions too
    yield
    tiny.trained_tokenizer.cache_clear()


@pytest.mark.usefixtures("alphabetical_captions")
@pytest.mark.parametrize("stage", STAGES)
def test_the_first_losses_are_those_of_the_first_trainer(stage, tmp_path):
    losses = trained(tmp_path, stage).losses.tolist()
    assert losses == pytest.approx(FIRST_LOSSES[stage], rel=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_was_stopped_goes_on_bit_for_bit(stage, tmp_path, monkeypatch):
    undisturbed = trained(tmp_path / "whole", stage)
    start = runs.trainer(parse_run(runs.scenes(tmp_path / "start", stage))).objective.state_dict()
    take = Trainer._take

    def take_and_stop(self, micro_batches):
        if self.step == 3:
            raise KeyboardInterrupt
        return take(self, micro_batches)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_take", take_and_stop)
        trained(tmp_path / "again", stage, save_steps=3)
    resumed = runs.trainer(parse_run(runs.scenes(tmp_path / "again", stage, save_steps=3)))
    assert resumed.step == 3
    resumed.loop()
    finished = undisturbed.objective.state_dict()
    for name, value in resumed.objective.state_dict().items():
        assert torch.equal(value, finished[name]), name
    moved = {name for name, value in finished.items() if not torch.equal(value, start[name])}
    still = {name for name in start if name.startswith(("model.language_model", "model.multi_mod"))}
    assert moved == (start.keys() - still if stage == "tower" else start.keys())


@pytest.mark.parametrize("stage", STAGES)
def test_micro_batches_of_a_stage_add_up(stage, tmp_path):
    whole = trained(tmp_path / "whole", stage, batch_size=4, max_steps=4)
    cut = trained(tmp_path / "cut", stage, batch_size=4, max_steps=4, micro_batch_size=3)
    assert cut.losses.tolist() == pytest.approx(whole.losses.tolist(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_of_a_stage_are_as_one(stage, tmp_path):
    changes = {"batch_size": 4, "max_steps": 4, "eval_data": [{"synthetic": {"scenes": 8}}]}
    one = trained(tmp_path / "one", stage, **changes)
    given = runs.scenes(tmp_path / "two", stage, **changes)
    runs.launch(given, tmp_path, "-m", "paligemma", "train")
    two = checkpoint.newest_state(Path(given["output_dir"]))
    assert two["losses"].tolist() == pytest.approx(one.losses.tolist(), rel=1e-5)
    assert two["eval_losses"] == pytest.approx(one.eval_losses, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_the_loss_falls_on_one_batch(stage, tmp_path):
    first = runs.trainer(parse_run(runs.scenes(tmp_path / "a", stage)))
    batch = first.job.batches[0, [0, 1]]
    counts = first.objective.counts(batch)
    before = first.objective(batch, counts)

    class Same(torch.utils.data.Dataset):
        def __getitem__(self, numbers):
            return dict(batch)

    one = runs.trainer(parse_run(runs.scenes(tmp_path / "b", stage, max_steps=40, warmup_ratio=0)))
    object.__setattr__(one.job, "batches", Same())
    one.loop()
    after = one.objective(batch, counts)
    assert after["loss"] < 0.7 * before["loss"]
    if stage == "multimodal":
        assert after["answers"] < 0.5 * before["answers"]
        assert after["patches"] < 0.7 * before["patches"]


def test_the_loss_is_a_weighted_mean(tmp_path):
    """Twice the weight on all tokens is the same loss; weight on one question is its loss alone."""
    one = runs.trainer(parse_run(runs.scenes(tmp_path, "multimodal")))
    batch = one.job.batches[0, [0, 1]]

    def loss(weights: torch.Tensor) -> torch.Tensor:
        changed = batch | {"weights": weights}
        return one.objective(changed, one.objective.counts(changed))["answers"]

    weights = batch["weights"]
    whole = loss(weights)
    torch.testing.assert_close(loss(weights * 2), whole, rtol=1e-3, atol=0)
    parts = [weights * (batch["segments"] == 1), weights * (batch["segments"] != 1)]
    total = sum(loss(part) * part.sum() for part in parts)
    torch.testing.assert_close(total / weights.sum(), whole, rtol=1e-2, atol=0)


@pytest.mark.usefixtures("alphabetical_captions")
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_evaluated_on_other_scenes(stage, tmp_path):
    data = [{"synthetic": {"scenes": 4}}]
    one = trained(tmp_path, stage, eval_data=data, eval_steps=3)
    assert one.losses.tolist() == pytest.approx(FIRST_LOSSES[stage], rel=1e-5)
    assert [*one.eval_losses] == [3, 5] and min(one.eval_losses.values()) > 0
    seeds = [
        {source.scene(row).seed for row in range(4)}
        for batches in (one.job.batches, one.job.eval_batches)
        for source in batches.mixture.sources
    ]
    assert max(seeds[0]) < EVAL_SEED <= min(seeds[1])


def test_a_stage_goes_on_with_the_heads_of_the_one_before(tmp_path):
    tower = trained(tmp_path / "tower", "tower")
    tower.finish()
    model = {"model": str(tower.run.output_dir)}
    whole = runs.trainer(parse_run(runs.scenes(tmp_path / "whole", "multimodal", **model)))
    for name, value in tower.objective.patch_heads.state_dict().items():
        assert torch.equal(whole.objective.patch_heads.state_dict()[name], value)


def test_heads_that_a_stage_has_no_use_for_stay_for_the_next(tmp_path):
    def heads(stage: str, folder: str, **changes) -> dict[str, torch.Tensor]:
        one = trained(tmp_path / folder, stage, max_steps=1, **changes)
        one.finish()
        return load_file(one.run.output_dir / "auxiliary.safetensors")

    whole = heads("multimodal", "whole")
    tower = heads("tower", "tower", model=str(tmp_path / "whole" / "out"))
    assert whole.keys() == tower.keys()
    same = {name for name in whole if torch.equal(whole[name], tower[name])}
    assert same == {name for name in whole if not name.startswith("patch_heads.")}


def test_a_tower_learns_to_say_words_that_stay_as_they_are(tmp_path):
    auxiliary = {"auxiliary": {"words": 0.5}}
    start = runs.trainer(parse_run(runs.scenes(tmp_path, "tower", **auxiliary)))
    before = {name: value.clone() for name, value in start.objective.state_dict().items()}
    batch = start.job.batches[0, [0, 1]]
    losses = start.objective(batch, start.objective.counts(batch))
    torch.testing.assert_close(losses["loss"], losses["patches"] + 0.5 * losses["words"])
    start.loop()
    after = start.objective.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {
        name for name in before if name.startswith(("model.vision_tower", "patch_heads"))
    }
    plain = trained(tmp_path / "plain", "tower")
    for name, value in plain.objective.model.vision_tower.state_dict().items():
        assert not torch.equal(value, after[f"model.vision_tower.{name}"])  # the words had a say


def test_a_checkpoint_takes_another_vocabulary(tmp_path):
    """Tokens of both tokenizers keep their embeddings, under other ids; new ones are words too."""
    first = trained(tmp_path, "multimodal", max_steps=1)
    first.finish()
    others = train_tokenizer(["two penguins and a cat on a white background"] * 30, CHARACTERS)
    others.save(str(tmp_path / "others.json"))
    changes = {"model": str(tmp_path / "out"), "tokenizer": str(tmp_path / "others.json")}
    changes["resolution"] = 2 * tiny.VISION.image_size
    changes["packing"] = {"max_length": 400, "single_every": 4}
    second = runs.trainer(parse_run(runs.scenes(tmp_path / "second", "multimodal", **changes)))
    old, new = tiny.words().get_vocab(), others.get_vocab()
    table, before = (
        one.job.objective.model.language_model.embed_tokens.weight for one in (second, first)
    )
    assert len(table) == len(new) and "▁penguins" in new.keys() - old.keys()
    for token in new.keys() & old.keys():
        assert torch.equal(table[new[token]], before[old[token]]), token
    size = table[new["▁penguins"]].norm() / before[old["▁background"]].norm()
    assert 0.3 < size < 3
    second.loop()
    second.finish()
    found = resolve(tmp_path / "second" / "out")
    assert found.config.text_config.vocab_size == len(new)
    assert found.config.image_token_index == new["<image>"]
    assert found.config.vision_config.image_size == 2 * tiny.VISION.image_size
    assert found.processor.tokenizer.get_vocab() == new
    gone = parse_run(runs.scenes(tmp_path / "third", "multimodal", **changes | {"tokenizer": "no"}))
    with pytest.raises(ValueError, match="There is no tokenizer at no"):
        runs.trainer(gone)


def test_a_mask_codec_of_any_name_goes_with_the_output(tmp_path):
    given = runs.scenes(tmp_path, "multimodal", max_steps=1)
    (tmp_path / "mask_codec.npz").rename(tmp_path / "mine.npz")
    given["model"]["mask_codec"] = str(tmp_path / "mine.npz")
    one = runs.trainer(parse_run(given))
    one.loop()
    one.finish()
    assert resolve(tmp_path / "out").mask_codec == tmp_path / "out" / "mask_codec.npz"


def test_a_vocabulary_that_the_tokenizer_exceeds_is_refused(tmp_path):
    given = runs.scenes(tmp_path, "multimodal")
    given["model"]["text_config"]["vocab_size"] = 900
    with pytest.raises(ValueError, match=r"vocab_size is 900, but .*tokenizer.json has \d+ tokens"):
        runs.trainer(parse_run(given))


def test_answers_that_weigh_nothing_do_not_stop_a_run(tmp_path):
    weights = dict.fromkeys(("caption", "ask", "read", "detect", "segment", "region"), 0)
    given = runs.scenes(tmp_path, "multimodal", loss_weights=weights, max_steps=2)
    one = runs.trainer(parse_run(given))
    one.loop()
    assert one.losses[:2].isfinite().all()


def test_soft_targets():
    processor, vocabulary = tiny.processor(), tiny.config().text_config.vocab_size
    ids, shares = soft_targets(processor, vocabulary, SoftLocTargets(grid=128))
    assert ids.shape == shares.shape == (vocabulary, 7)
    torch.testing.assert_close(shares.sum(1), torch.ones(vocabulary))
    assert (shares.argmax(1) == 3).all()
    loc = processor.tokenizer.token_to_id
    pixels = [loc(f"<loc{round(n / 128 * 1023):04d}>") for n in range(129)]
    locs = [loc(f"<loc{n:04d}>") for n in range(1024)]
    soft = shares[:, 3] < 1
    assert set(soft.nonzero()[:, 0].tolist()) == set(locs)
    others = ~soft | torch.isin(torch.arange(vocabulary), torch.tensor(pixels))
    assert (ids[others, 3] == torch.arange(vocabulary)[others]).all()
    row = pixels[40]
    assert ids[row].tolist() == pixels[37:44]
    assert torch.equal(shares[row], shares[row].flip(0)) and shares[row, 3] == shares[row].max()
    assert ids[pixels[1]].tolist() == [pixels[n] for n in (0, 0, 0, 1, 2, 3, 4)]
    assert ids[pixels[128]].tolist() == [pixels[n] for n in (125, 126, 127, 128, 128, 128, 128)]
    # between two lines both are right, the nearer one more; what lies there is no target
    assert set(ids[locs].unique().tolist()) == set(pixels)
    between = loc("<loc0322>")  # pixel 40.29
    assert ids[between].tolist() == pixels[37:44]
    expected = torch.softmax(-0.5 * (torch.arange(37, 44) - 322 / 1023 * 128) ** 2, 0)
    torch.testing.assert_close(shares[between], expected)
    hard = soft_targets(processor, vocabulary, None)
    assert torch.equal(hard[0][:, 0], torch.arange(vocabulary)) and (hard[1] == 1).all()


def test_boxes_between_the_lines_of_the_grid_are_moved_onto_them(tmp_path):
    given = runs.values(tmp_path, soft_loc_targets={"grid": 128})
    soft = runs.trainer(parse_run(given)).job.objective
    hard = runs.trainer(parse_run(given | {"soft_loc_targets": None})).job.objective
    tokens = ["<loc0322>", "<loc0320>", "<loc0000>", "<loc1023>", "<bos>", "<eos>"]
    ids = torch.tensor([[tiny.words().token_to_id(token) for token in tokens]])
    assert torch.equal(soft.on_grid(ids), ids[:, [1, 1, 2, 3, 4, 5]])
    assert torch.equal(hard.on_grid(ids), ids)


def test_the_output_says_on_which_grid_it_was_trained(tmp_path):
    def written(**changes) -> tuple[int | None, int | None]:
        one = runs.trainer(parse_run(runs.values(tmp_path, max_steps=1, **changes)))
        one.loop()
        one.finish()
        shutil.rmtree(one.run.output_dir / "states")
        config = read_config(one.run.output_dir)
        return config.loc_grid, config.loc_reach

    everywhere = {"grid": 1023, "reach": 5}
    assert written() == (None, None)
    assert written(soft_loc_targets={"grid": 64}) == (64, None)
    (tmp_path / "out").rename(tmp_path / "on_grid")
    start = str(tmp_path / "on_grid")
    assert written(model=start) == (64, None)
    assert written(model=start, soft_loc_targets={}) == (tiny.VISION.image_size, None)
    assert written(model=start, soft_loc_targets=everywhere) == (None, 5)
    (tmp_path / "out").rename(tmp_path / "everywhere")
    start = str(tmp_path / "everywhere")
    assert written(model=start) == (None, 5)
    assert written(model=start, soft_loc_targets={"grid": 64}) == (64, None)
    assert read_config(BUILT_IN_FOLDER).loc_grid == 128
