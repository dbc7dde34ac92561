"""The trainer on tiny models: what must be equal, what must stay, and what must come back."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import runs
import tiny
import torch
import yaml
from safetensors.torch import load_file

from paligemma.__main__ import main
from paligemma.checkpoints import lora as adapters
from paligemma.checkpoints.io import load_model
from paligemma.pipeline import PaliGemma
from paligemma.synthetic.stickers import stickers_cache
from paligemma.training import checkpoint
from paligemma.training.config import STAGES
from paligemma.training.initialize import resample
from paligemma.training.objectives import Answers, SigLIP
from paligemma.training.read_config import parse_run, read_run
from paligemma.training.schedule import lr_factor
from paligemma.training.sources import InvalidSample
from paligemma.training.trainer import Trainer, train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A model and data that every test may read, and the twenty steps that some compare with."""
    folder = tmp_path_factory.mktemp("home")
    whole = runs.trainer(runs.run(folder, output_dir=str(folder / "whole")))
    whole.loop()
    whole.finish()
    return folder


def trained(home: Path, tmp_path: Path, **changes) -> Trainer:
    """A run to its end, its output in `tmp_path`/out."""
    one = runs.trainer(runs.run(home, **{"output_dir": str(tmp_path / "out"), **changes}))
    one.loop()
    one.finish()
    return one


# --- The same update, however it is computed ------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3], ids=["four of one", "three and one"])
def test_micro_batches_add_up_to_the_batch(home, tmp_path, size):
    trained(home, tmp_path, micro_batch_size=size)
    one, other = runs.weights(home / "whole"), runs.weights(tmp_path / "out")
    assert runs.furthest(runs.weights(home / "model"), one) > 1e-2
    assert runs.furthest(one, other) < 1e-5


@pytest.mark.parametrize("stage", ["transfer", "siglip"])
@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_are_as_one(home, tmp_path, stage):
    changes = {"stage": stage, "random_init": False}
    launched = runs.values(home, output_dir=str(tmp_path / "two"), **changes)
    runs.launch(launched, tmp_path, "-m", "paligemma", "train")
    trained(home, tmp_path, **changes)
    assert runs.furthest(runs.weights(tmp_path / "out"), runs.weights(tmp_path / "two")) < 1e-5


@pytest.mark.slow
@pytest.mark.distributed
def test_two_shards_of_the_model_are_as_one_and_go_on(home, tmp_path, monkeypatch):
    made = runs.run(home, output_dir=str(tmp_path / "out"), save_steps=5)
    take = Trainer._take

    def take_and_ask(self, micro_batches):
        if self.step == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(self, micro_batches)

    monkeypatch.setattr(Trainer, "_take", take_and_ask)
    runs.trainer(made).loop()  # nine steps of one process, the others of two with half of it each
    assert checkpoint.newest_state(made.output_dir)["step"] == 9
    runs.launch(
        made.model_dump(mode="json"),
        tmp_path,
        str(ROOT / "tests" / "helpers" / "shard_training.py"),
    )
    assert runs.furthest(runs.weights(home / "whole"), runs.weights(tmp_path / "out")) < 1e-5


def test_recomputed_activations_give_the_same_weights(home, tmp_path):
    trained(home, tmp_path, gradient_checkpointing=True)
    assert runs.furthest(runs.weights(home / "whole"), runs.weights(tmp_path / "out")) < 1e-6


def test_bfloat16_computes_over_float32_weights(home, tmp_path):
    one = trained(home, tmp_path, dtype="bfloat16", max_steps=3)
    assert {p.dtype for p in one.objective.parameters()} == {torch.float32}
    moments = [v for o in one.optimizers for s in o.state.values() for v in s.values()]
    assert {moment.dtype for moment in moments} == {torch.float32}
    assert {value.dtype for value in runs.weights(tmp_path / "out").values()} == {torch.bfloat16}


# --- It survives ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--adapter"]], ids=["everything", "an adapter"])
def test_killed_at_random_it_ends_in_the_same_weights(options):
    """`python scripts/kill_training.py --kills 20` does it twenty times."""
    command = [sys.executable, str(ROOT / "scripts" / "kill_training.py"), "--kills", "3", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "3 kills, 4 starts: the weights are the same.\n"


def test_a_request_to_stop_saves_and_the_rest_follows(home, tmp_path, capsys, monkeypatch):
    made = runs.run(home, output_dir=str(tmp_path / "out"))
    take = Trainer._take

    def take_and_ask(self, micro_batches):
        if self.step == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return take(self, micro_batches)

    monkeypatch.setattr(Trainer, "_take", take_and_ask)
    one = runs.trainer(made)
    one.loop()
    assert one.step == 7 and checkpoint.newest_state(made.output_dir)["step"] == 7
    monkeypatch.undo()
    rest = runs.trainer(made)
    assert rest.step == 7
    rest.loop()
    rest.finish()
    one, other = runs.weights(home / "whole"), runs.weights(tmp_path / "out")
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert "Wrote" in capsys.readouterr().out


@pytest.mark.slow
def test_a_request_to_stop_all_processes_saves_too(home, tmp_path):
    """As `timeout` and job schedulers do it: workers get the signal as well."""
    out = tmp_path / "out"
    given = runs.values(home, output_dir=str(out), max_steps=100_000, num_workers=2, save_steps=5)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(given), "utf-8")
    command = [sys.executable, "-m", "paligemma", "train", str(tmp_path / "config.yaml")]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and checkpoint.newest_state(out) is None:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    shown, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors[-3000:]
    step = checkpoint.newest_state(out)["step"]
    assert shown.startswith(f"Stopped after step {step} of 100000;")


def test_a_damaged_state_gives_way_to_the_one_before(home, tmp_path):
    one = trained(home, tmp_path, max_steps=6, save_steps=2)
    files = sorted((tmp_path / "out" / "states").iterdir())
    assert [file.name for file in files] == ["step-00000004.state", "step-00000006.state"]
    files[1].write_bytes(files[1].read_bytes()[:-100])
    assert checkpoint.newest_state(one.run.output_dir)["step"] == 4
    again = runs.trainer(one.run)
    assert again.step == 4 and torch.equal(again.losses[:4], one.losses[:4])


def test_another_run_in_the_same_place_is_refused(home, tmp_path):
    trained(home, tmp_path, max_steps=2)
    with pytest.raises(ValueError, match=r"whose learning_rate is 0.001, not 0.002"):
        trained(home, tmp_path, max_steps=2, learning_rate=2e-3)
    assert trained(home, tmp_path, max_steps=2, micro_batch_size=2).step == 2  # that may change


# --- Numbers that are not finite ------------------------------------------------------------------


def poison(monkeypatch, change) -> None:
    """Make `change` of every loss of step 8, which is the eighth call."""
    calls, answer_loss = [], Answers.answer_loss

    def poisoned(self, hidden, batch, counts):
        calls.append(batch)
        loss = answer_loss(self, hidden, batch, counts)
        return change(loss) if len(calls) == 8 else loss

    monkeypatch.setattr(Answers, "answer_loss", poisoned)


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda loss: loss * torch.nan, "its loss is nan"),
        (lambda loss: loss / 0, "its loss is inf"),
        (lambda loss: loss + torch.sqrt(loss - loss.detach()), "its gradient's norm is nan"),
    ],
    ids=["nan", "infinite", "gradient"],
)
def test_a_step_that_is_not_finite_stops_the_run_before_it(
    home, tmp_path, monkeypatch, capsys, change, reason
):
    out, config = tmp_path / "out", tmp_path / "config.yaml"
    given = runs.values(home, output_dir=str(out), save_steps=5)
    config.write_text(yaml.safe_dump(given), "utf-8")
    poison(monkeypatch, change)
    runs.AcceleratorState._reset_state(True)
    assert main(["train", str(config)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"paligemma: Step 8 was not taken, because {reason} (samples: ")
    names = error.split("samples: ")[1].split(");")[0].split("; ")
    assert len(names) == 4 and names[0].startswith("samples.jsonl, line ")
    assert error.endswith(f"; the last good state, of step 5, is in {out / 'states'}.")
    assert not (out / "model.safetensors").exists()
    monkeypatch.undo()  # the reason is mended: the same command goes on
    runs.AcceleratorState._reset_state(True)
    assert main(["train", str(config)]) == 0
    whole, other = runs.weights(home / "whole"), runs.weights(out)
    assert all(torch.equal(value, other[name]) for name, value in whole.items())


def test_the_micro_batch_that_is_not_finite_is_named(home, tmp_path, monkeypatch):
    poison(monkeypatch, lambda loss: loss * torch.nan)
    with pytest.raises(
        ValueError, match=r"Step 2 .* \(samples: samples.jsonl, line \d+\); no state"
    ):
        trained(home, tmp_path, micro_batch_size=1)


def test_weights_that_are_not_finite_are_not_saved(home, tmp_path):
    changes = {"learning_rate": 1e38, "weight_decay": 1e3, "warmup_ratio": 0, "max_steps": 1}
    with pytest.raises(ValueError, match=r"not finite after step 1, .* no state was saved yet"):
        trained(home, tmp_path, **changes)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_found_first(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    config = tmp_path / "config.yaml"
    given = {"model": "nowhere", "data": [{"jsonl": "nowhere"}], "max_steps": 1}
    config.write_text(yaml.safe_dump(given | {"output_dir": str(tmp_path / "file" / "out")}))
    assert main(["train", str(config)]) == 2
    folder = tmp_path / "file" / "out"
    expected = f"paligemma: output_dir {folder} cannot be written: Not a directory.\n"
    assert capsys.readouterr().err == expected


def test_a_full_disk_is_one_sentence(home, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    one = trained(home, tmp_path, max_steps=2, save_steps=1)
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(ValueError, match=r"step-00000002.state cannot be written: .*No space left"):
        one._save()
    assert checkpoint.newest_step(tmp_path / "out") == 2


# --- What is trained, and what is left ------------------------------------------------------------


def test_frozen_is_frozen_to_the_bit(home, tmp_path):
    groups = [{"match": "vision_tower", "lr_mult": 0}, {"match": "norm", "lr_mult": 0.1}]
    trained(home, tmp_path, param_groups=groups, weight_decay=0.1)
    before, after = runs.weights(home / "model"), runs.weights(tmp_path / "out")
    for name, value in before.items():
        assert torch.equal(value, after[name]) == ("vision_tower" in name), name


def test_a_group_that_fits_nothing_is_refused(home, tmp_path):
    with pytest.raises(ValueError, match="holds 'tower_of_vision'"):
        trained(home, tmp_path, param_groups=[{"match": "tower_of_vision", "lr_mult": 0}])
    with pytest.raises(ValueError, match="every parameter is frozen"):
        trained(home, tmp_path, param_groups=[{"match": "", "lr_mult": 0}])


def test_rates_follow_their_groups(home, tmp_path):
    groups = [{"match": "vision_tower", "lr_mult": 0.5, "warmup_ratio": 0.5}]
    one = runs.trainer(
        runs.run(home, output_dir=str(tmp_path), param_groups=groups, warmup_ratio=0.1)
    )
    peaks = {(g["peak"], g["warmup"]) for g in one.optimizers[0].param_groups}
    assert peaks == {(1e-3, 0.1), (5e-4, 0.5)}


@pytest.mark.parametrize(
    "step, expected", [(0, 0.1), (9, 1.0), (10, 1.0), (55, 0.5), (99, 0.0003)],
    ids=["first", "warm", "top", "half way", "last"],
)  # fmt: skip
def test_the_schedule(step, expected):
    assert lr_factor(step, 100, 0.1) == pytest.approx(expected, abs=1e-4)


def test_a_warm_up_that_takes_every_step():
    assert [lr_factor(step, 4, 0.9) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


# --- Adapters -------------------------------------------------------------------------------------

LORA = {"rank": 3, "alpha": 6.0, "target_modules": ["q_proj", "down_proj", "fc1", "linear"]}


@pytest.fixture(scope="module")
def adapter(home, tmp_path_factory) -> tuple[Path, Trainer]:
    folder = tmp_path_factory.mktemp("lora")
    one = trained(home, folder, lora=LORA, param_groups=[], learning_rate=3e-2)
    return folder / "out", one


def asked() -> dict[str, torch.Tensor]:
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = [(255 * (one + 1) / 2).permute(1, 2, 0).byte().numpy() for one in pixels]
    batch = tiny.processor()(["caption en", "ocr"], images, ["a red cat", "EXIT"])
    names = ("input_ids", "pixel_values", "attention_mask", "token_type_ids")
    return {name: getattr(batch, name) for name in names}


@torch.no_grad()
def test_an_adapter_on_its_base_answers_as_it_was_trained(home, adapter):
    folder, one = adapter
    assert {file.name for file in folder.glob("adapter*")} == {adapters.CONFIG, adapters.WEIGHTS}
    assert not (folder / "model.safetensors").exists()
    unmerged = one.objective.model.eval()(**asked())["logits"]
    pg = PaliGemma.load(folder, dtype="float32")
    merged = pg.model(**asked())["logits"]
    base = load_model(home / "model")(**asked())["logits"]
    assert (base - unmerged).abs().max() > 0.1
    torch.testing.assert_close(merged, unmerged, rtol=0, atol=1e-4)
    assert pg.name == folder.name and not any(
        "lora" in name for name, _ in pg.model.named_modules()
    )


def test_a_merged_adapter_is_a_whole_checkpoint(home, adapter, tmp_path):
    trained(home, tmp_path, lora=LORA | {"merge": True}, param_groups=[], learning_rate=3e-2)
    with torch.no_grad():
        merged = PaliGemma.load(tmp_path / "out", dtype="float32").model(**asked())["logits"]
        unmerged = adapter[1].objective.model.eval()(**asked())["logits"]
    torch.testing.assert_close(merged, unmerged, rtol=0, atol=1e-4)


@pytest.mark.parametrize("merge", [False, True], ids=["adapter", "merged"])
def test_every_option_of_an_adapter_is_trained_saved_and_resumed(home, tmp_path, merge):
    lora = {
        "rank": 3,
        "target_modules": "all-linear",
        "dropout": 0.1,
        "use_rslora": True,
        "use_dora": True,
        "modules_to_save": ["multi_modal_projector"],
        "merge": merge,
    }
    changes = {"lora": lora, "param_groups": [], "learning_rate": 1e-2, "save_steps": 3}
    one = trained(home, tmp_path, max_steps=6, **changes)
    assert one.losses[-1] < one.losses[0]
    (tmp_path / "out" / "states" / "step-00000006.state").unlink()
    again = trained(home, tmp_path, max_steps=6, **changes)  # from step 3
    own, other = one.objective.state_dict(), again.objective.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in own.items())
    with torch.no_grad():
        unmerged = one.objective.model.eval()(**asked())["logits"]
        merged = PaliGemma.load(tmp_path / "out", dtype="float32").model(**asked())["logits"]
    torch.testing.assert_close(merged, unmerged, rtol=0, atol=1e-3)


@torch.no_grad()
def test_an_adapter_is_trained_further(home, adapter, tmp_path):
    folder, _ = adapter
    changes = {"model": str(folder), "param_groups": [], "learning_rate": 1e-2, "max_steps": 3}
    first = runs.trainer(runs.run(home, output_dir=str(tmp_path / "first"), lora={}, **changes))
    merged = PaliGemma.load(folder, dtype="float32").model(**asked())["logits"]
    unmerged = first.objective.model.eval()(**asked())["logits"]
    torch.testing.assert_close(merged, unmerged, rtol=0, atol=1e-4)  # it begins where it ended
    with torch.enable_grad():
        one = trained(home, tmp_path, lora={"rank": 3}, **changes)
    before, after = (adapters.read_adapter(one) for one in (folder, tmp_path / "out"))
    assert after == before and after.base == str(home / "model") and after.rank == 3
    shapes = [load_file(one / adapters.WEIGHTS) for one in (folder, tmp_path / "out")]
    assert shapes[0].keys() == shapes[1].keys()
    further = PaliGemma.load(tmp_path / "out", dtype="float32").model(**asked())["logits"]
    unmerged = one.objective.model.eval()(**asked())["logits"]
    torch.testing.assert_close(further, unmerged, rtol=0, atol=1e-4)
    assert (further - merged).abs().max() > 1e-2
    with pytest.raises(ValueError, match=r"lora.rank is 4, but the adapter .* has 3: leave it out"):
        trained(home, tmp_path / "other", lora={"rank": 4}, **changes)


@pytest.mark.parametrize(
    "values",
    [{"target_modules": r".*(q_proj|down_proj|fc1|linear)"}, {"layers_to_transform": [0, 1]}],
    ids=["a pattern", "some layers"],
)
def test_an_adapter_that_names_its_layers_otherwise_is_trained_further(
    home, adapter, tmp_path, values
):
    folder = tmp_path / "adapter"
    shutil.copytree(adapter[0], folder, ignore=shutil.ignore_patterns("states"))
    config = json.loads((folder / adapters.CONFIG).read_text()) | values
    config["base_model_name_or_path"] = "nowhere"
    (folder / adapters.CONFIG).write_text(json.dumps(config))
    lora = {"base": str(home / "model")}
    changes = {"model": str(folder), "param_groups": [], "max_steps": 1}
    trained(home, tmp_path, lora=lora, **changes)
    before, after = (load_file(one / adapters.WEIGHTS) for one in (folder, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert PaliGemma.load(tmp_path / "out").checkpoint.base == str(home / "model")


def test_a_whole_model_is_trained_from_a_merged_adapter(home, adapter, tmp_path):
    start = runs.trainer(
        runs.run(home, model=str(adapter[0]), output_dir=str(tmp_path / "out"), max_steps=1)
    )
    merged = PaliGemma.load(adapter[0], dtype="float32").model.state_dict()
    own = start.objective.model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in merged.items())
    start.loop()
    start.finish()
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize("change", [{"resolution": 48}, {"soft_loc_targets": {"grid": 64}}])
def test_an_adapter_keeps_the_image_size_and_grid_of_its_base(home, tmp_path, change):
    given = runs.values(home, output_dir=str(tmp_path), lora={}, param_groups=[], **change)
    with pytest.raises(ValueError, match=r"need lora\.merge"):
        runs.trainer(parse_run(given))
    runs.trainer(parse_run(given | {"lora": {"merge": True}}))


@torch.no_grad()
def test_transformers_reads_the_adapter(home, adapter):
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    base = transformers.PaliGemmaForConditionalGeneration.from_pretrained(home / "model")
    theirs = peft.PeftModel.from_pretrained(base.float(), adapter[0]).eval()
    ours = adapter[1].objective.model.eval()(**asked())["logits"]
    batch = asked()
    read = batch["attention_mask"].bool()
    torch.testing.assert_close(theirs(**batch).logits[read], ours[read], rtol=0, atol=1e-4)


def test_an_adapter_for_another_model_is_refused(adapter, tmp_path):
    other = tiny.write(tmp_path / "other", num_hidden_layers=3)
    values = json.loads((adapter[0] / adapters.CONFIG).read_text())
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / adapters.WEIGHTS).write_bytes((adapter[0] / adapters.WEIGHTS).read_bytes())
    for base, problem in (
        (str(other), "does not fit its base"),
        (None, "names no base; name one with --base"),
    ):
        values["base_model_name_or_path"] = base
        (folder / adapters.CONFIG).write_text(json.dumps(values))
        with pytest.raises(ValueError, match=problem):
            PaliGemma.load(folder)


# --- Stages ---------------------------------------------------------------------------------------


def test_position_embeddings_are_resampled_corner_on_corner():
    y, x = torch.meshgrid(torch.linspace(0, 1, 4), torch.linspace(0, 1, 4), indexing="ij")
    plane = torch.stack([y, x, y + 2 * x], -1).reshape(16, 3)
    assert torch.equal(resample(plane, 4), plane)
    finer = resample(plane, 7).reshape(7, 7, 3)
    y, x = torch.meshgrid(torch.linspace(0, 1, 7), torch.linspace(0, 1, 7), indexing="ij")
    torch.testing.assert_close(finer, torch.stack([y, x, y + 2 * x], -1))


def test_siglip_by_hand(home):
    torch.manual_seed(0)
    one = SigLIP(load_model(home / "model"))
    with torch.no_grad():
        one.logit_bias.fill_(-1.0)
    batch = asked() | {
        "labels": asked()["input_ids"].masked_fill((asked()["token_type_ids"] == 0), -100)
    }
    alone = [{name: value[n : n + 1] for name, value in batch.items()} for n in range(2)]
    loss = one(batch, one.counts(batch))["loss"]
    positive = sum(one(part, one.counts(part))["loss"] for part in alone)
    assert loss > positive / 2  # the same plus what the two wrong pairs cost
    loss.backward()
    assert (
        one.logit_scale.grad.abs() > 0
        and one.model.vision_tower.post_layernorm.weight.grad is not None
    )
    assert all(p.grad is None for p in one.model.language_model.parameters())


CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
BUILT_IN = [path for path in CONFIGS if path.parent.name == "builtin"]


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_every_config_is_short_and_right(path):
    assert len(path.read_text("utf-8").splitlines()) <= 30
    read_run(path)


def tiny_stage(given: dict, **changes) -> dict:
    """The values of a stage's config for two steps of two samples."""
    given |= {"batch_size": 2, "max_steps": 2, "num_workers": 0, "tracker": None}
    given |= {"dtype": "float32", "compile": False, "micro_batch_size": None}
    for source in (*given["data"], *given.get("eval_data", ())):
        if "synthetic" in source:
            source["synthetic"]["scenes"] = 8
        else:
            source["jsonl"] = str(ROOT / source["jsonl"])
    return {name: value for name, value in (given | changes).items() if name != "epochs"}


@pytest.mark.slow
def test_the_stages_follow_one_another(home, tmp_path, monkeypatch):
    """Every stage's own config, made tiny, from the output of the one before."""
    monkeypatch.chdir(tmp_path)
    paths = [path for path in CONFIGS if path.parent.name == "configs" and path.stem[0].isdigit()]
    files = [yaml.safe_load(path.read_text("utf-8")) for path in paths]
    in_order = sorted(files, key=lambda given: [*STAGES].index(given["stage"]))
    papers = [stage for stage in STAGES if stage not in ("tokenizer", "mask_codec", "tower")]
    assert [given["stage"] for given in in_order] == papers
    for given, before in zip(in_order[1:], in_order, strict=False):
        # the last one runs in a clone, on the built-in model
        follows = given["stage"] != "transfer"
        assert given["model"] == (before["output_dir"] if follows else "built-in")
    model = str(home / "model")
    for given in in_order:
        sides = {"siglip": 24, "resolution": 40}
        side = {"resolution": sides[given["stage"]]} if "resolution" in given else {}
        one = runs.trainer(parse_run(tiny_stage(given, model=model, **side)))
        one.loop()
        one.finish()
        assert one.losses.isfinite().all()
        model = given["output_dir"]
    assert PaliGemma.load(model).config.vision_config.image_size == 40
    assert (tmp_path / model / "mask_codec.npz").is_file()


def test_the_built_in_model_is_made_by_its_configs(tmp_path, monkeypatch):
    """Tokenizers, mask codec, towers and whole models: tiny, each from the outputs before it."""
    monkeypatch.chdir(tmp_path)
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2}
    has_stickers = (stickers_cache() / "atlas").exists()
    for path in BUILT_IN:
        text = path.read_text("utf-8")
        if "world: drawings" in text and not has_stickers:
            break  # the last stages: they need `paligemma data fetch-stickers`
        given = tiny_stage(yaml.safe_load(text))
        if isinstance(given.get("model"), dict):
            given["model"]["vision_config"] |= sizes | {"image_size": 32, "patch_size": 8}
            given["model"]["text_config"] |= sizes
        if "packing" in given:
            given["packing"] = {"max_length": 120, "single_every": 2}
        if "resolution" in given:
            given["resolution"] = 40
        runs.AcceleratorState._reset_state(True)
        train(parse_run(given))
    tower, whole = (
        runs.weights(tmp_path / "runs" / "builtin" / name) for name in ("1-tower", "2-multimodal")
    )
    assert {value.dtype for value in tower.values()} == {torch.float32}
    assert {value.dtype for value in whole.values()} == {torch.bfloat16}
    folder = tmp_path / "runs" / "builtin" / "2-multimodal"
    pg = PaliGemma.load(folder, dtype="float32")
    assert pg.config.vision_config.image_size == 32
    assert {path.name for path in folder.iterdir()} >= {"mask_codec.npz", "tokenizer.json"}


# --- The output, and the command ------------------------------------------------------------------


@torch.no_grad()
def test_the_output_loads_here_and_in_transformers(home, tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
        home / "whole", attn_implementation="eager"
    )
    pg, batch = PaliGemma.load(home / "whole", dtype="float32"), asked()
    read = batch["attention_mask"].bool()
    expected = theirs.float()(**batch).logits[read]
    torch.testing.assert_close(pg.model(**batch)["logits"][read], expected, rtol=0, atol=1e-4)
    assert transformers.AutoProcessor.from_pretrained(home / "whole") is not None


def test_a_run_is_evaluated_on_data_of_its_own(home, tmp_path):
    samples = str(runs.write_samples(tmp_path / "other", count=9))
    changes = {"eval_data": [{"jsonl": samples}], "eval_steps": 8}
    one = trained(home, tmp_path, **changes)
    assert [*one.eval_losses] == [8, 16, 20]
    assert one.eval_losses[20] < one.eval_losses[8]
    # the last, by hand: over nine samples and the first three again, in three batches
    one.objective.eval()
    parts = [range(at, at + 4) for at in (0, 4, 8)]
    batches = [one.job.eval_batches[step, part] for step, part in enumerate(parts)]
    assert len({place for batch in batches for place in batch["places"]}) == 9
    with torch.no_grad():
        losses = [one.objective(b, one.objective.counts(b))["loss"] for b in batches]
    assert one.eval_losses[20] == pytest.approx(sum(losses).item() / 3, rel=1e-5)
    # and nothing else differs
    whole, other = runs.weights(home / "whole"), runs.weights(tmp_path / "out")
    assert all(torch.equal(value, other[name]) for name, value in whole.items())
    state = checkpoint.newest_state(tmp_path / "out")
    assert state["eval_losses"] == one.eval_losses


def evaluated(tmp_path: Path, **changes) -> dict:
    """The changes of a run that is evaluated every eight steps."""
    samples = str(runs.write_samples(tmp_path / "other", count=9))
    return {"eval_data": [{"jsonl": samples}], "eval_steps": 8} | changes


def test_answers_are_scored_while_a_run_trains(home, tmp_path, capsys):
    one = trained(home, tmp_path, **evaluated(tmp_path, eval_metrics=True, max_eval_samples=6))
    assert [*one.eval_scores] == [8, 16, 20]
    assert {*one.eval_scores[8]} == {"exact", "accuracy", "cider", "ap50", "map"}
    assert checkpoint.newest_state(tmp_path / "out")["eval_scores"] == one.eval_scores
    # the last: the same answers of the output
    samples = one.job.validation.samples
    assert len(samples) == 6
    pg = PaliGemma.load(tmp_path / "out", dtype="float32")
    options = one.job.validation.options
    answers = [pg.generate(one.image, one.prefix, options) for one in samples]
    exact = [reply.text == one.suffix for reply, one in zip(answers, samples, strict=True)]
    assert one.eval_scores[20]["exact"] == pytest.approx(sum(exact) / 6)
    # drawn, and nothing else differs
    names = {path.name for path in (tmp_path / "out" / "predictions").iterdir()}
    assert names == {f"step-{step:08d}.png" for step in (8, 16, 20)}
    by_class = json.loads((tmp_path / "out" / "classes" / "step-00000020.json").read_text())
    cat = next(one for one in by_class["classes"] if one["class"] == "cat")
    boxes = sum("<loc" in one.suffix for one in samples)
    assert cat["objects"] == boxes and cat["ap50"] == one.eval_scores[20]["ap50"]
    assert (tmp_path / "out" / "classes" / "step-00000020.png").is_file()
    whole, other = runs.weights(home / "whole"), runs.weights(tmp_path / "out")
    assert all(torch.equal(value, other[name]) for name, value in whole.items())
    wanted = {"metric_for_best_model": "miou", "eval_metrics": True}
    with pytest.raises(ValueError, match="is miou, but eval_data gives exact, accuracy, cider"):
        trained(home, tmp_path / "b", **evaluated(tmp_path, **wanted))


def test_a_run_stops_early_and_its_output_is_the_best(home, tmp_path, monkeypatch, capsys):
    losses, calls, answer_loss = [5.0, 3.0, 3.0, 4.0, 1.0], [], Answers.answer_loss

    def chosen(self, hidden, batch, counts):
        if self.training:
            return answer_loss(self, hidden, batch, counts)
        calls.append(batch)
        return torch.tensor(losses[(len(calls) - 1) // 3])  # an evaluation has three batches

    monkeypatch.setattr(Answers, "answer_loss", chosen)
    changes = {"eval_steps": 3, "metric_for_best_model": "loss", "early_stopping_patience": 2}
    one = trained(home, tmp_path, **evaluated(tmp_path, **changes))
    assert one.eval_losses == {3: 5.0, 6: 3.0, 9: 3.0, 12: 4.0}
    assert one.step == 12 and one.best_step == 6 and one.is_done
    printed = (
        f"Wrote {tmp_path / 'out'} after 12 steps. The output is that of step 6, the best one."
    )
    assert printed in capsys.readouterr().out
    best = checkpoint.read_tree(tmp_path / "out" / "states" / checkpoint.BEST)
    assert best["step"] == 6
    output = runs.weights(tmp_path / "out")
    for name, value in best["trained"].items():
        assert torch.equal(value, output[name.removeprefix("model.")])
    again = runs.trainer(one.run)
    assert again.is_done and again.best_step == 6


def test_evaluations_on_other_data_are_forgotten(home, tmp_path):
    changes = evaluated(tmp_path, metric_for_best_model="exact", eval_metrics=True, save_steps=8)
    one = trained(home, tmp_path, **changes)
    given = runs.values(home, output_dir=str(one.run.output_dir), **changes)
    fewer = given | {"max_eval_samples": 5}
    assert runs.trainer(parse_run(fewer)).eval_scores == one.eval_scores  # it is whole
    (one.run.output_dir / "states" / "step-00000020.state").unlink()
    assert [*runs.trainer(parse_run(given)).eval_scores] == [8, 16]
    again = runs.trainer(parse_run(fewer))
    assert again.eval_scores == {} and [*again.eval_losses] == [8, 16]
    other = str(runs.write_samples(tmp_path / "third", count=7))
    again = runs.trainer(parse_run(given | {"eval_data": [{"jsonl": other}]}))
    assert again.eval_scores == again.eval_losses == {}


def test_samples_that_cannot_be_evaluated_are_named_or_skipped(home, tmp_path):
    samples = runs.write_samples(tmp_path / "other", count=9)
    (tmp_path / "other" / "4.png").write_bytes(b"no image")
    lines = samples.read_text("utf-8").splitlines()
    lines[6] = json.dumps(json.loads(lines[6]) | {"suffix": "a \0"})
    samples.write_text("\n".join(lines), "utf-8")
    changes = {"eval_data": [{"jsonl": str(samples)}], "eval_metrics": True}
    made = runs.values(home, output_dir=str(tmp_path / "out"), **changes)
    with pytest.raises(InvalidSample, match=r"samples.jsonl, line [57]: "):
        runs.trainer(parse_run(made))
    one = runs.trainer(parse_run(made | {"on_invalid": "skip"}))
    assert len(one.job.validation.samples) == 7


def test_answers_are_of_all_sources_by_their_weights(home, tmp_path):
    few, many = (runs.write_samples(tmp_path / name, count=n) for name, n in (("a", 3), ("b", 90)))
    data = [{"jsonl": str(few), "weight": 1}, {"jsonl": str(many), "weight": 1}]
    changes = {"eval_data": data, "eval_metrics": True, "max_eval_samples": 12}
    job = runs.trainer(runs.run(home, output_dir=str(tmp_path / "out"), **changes)).job
    assert len(job.eval_batches.mixture) == 93
    places = job.validation.places
    assert len(set(places)) == 12 and sum(source == 0 for source, _ in places) == 3


def test_the_loss_falls_and_is_drawn(home):
    state = checkpoint.newest_state(home / "whole")
    losses = state["losses"]
    assert len(losses) == 20 and losses[-5:].mean() < 0.8 * losses[:5].mean()
    assert (home / "whole" / "loss.png").read_bytes()[:4] == b"\x89PNG"


def test_the_command_trains_and_a_mistake_is_one_line(home, tmp_path, capsys):
    path = tmp_path / "config.yaml"
    given = runs.values(home, output_dir=str(tmp_path / "out"), max_steps=2, tracker="tensorboard")
    path.write_text(yaml.safe_dump(given), "utf-8")
    runs.AcceleratorState._reset_state(True)
    assert main(["train", str(path)]) == 0
    assert capsys.readouterr().out == f"Wrote {tmp_path / 'out'} after 2 steps.\n"
    assert list((tmp_path / "out" / "logs").rglob("events*"))
    path.write_text(yaml.safe_dump(given | {"learning_rte": 1}), "utf-8")
    assert main(["train", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "did you mean learning_rate?" in error


def test_a_batch_that_cannot_be_shared_is_refused(home):
    class Three:
        num_processes = 3

    with pytest.raises(ValueError, match="A batch of 4 cannot be shared evenly by 3"):
        Trainer(runs.run(home), Three())
