"""Packing, soft targets, patch labels, state on disk, and the three loops, all at tiny sizes."""

import json
import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import tiny
import torch
from reference import ours
from tiny import GRID, P
from torch import nn

from paligemma.models.mask_codec import MaskCodec
from paligemma.synthetic.language import Example
from paligemma.synthetic.scenes import (
    BACKGROUNDS,
    CHARACTERS,
    COLORS,
    KINDS,
    Item,
    Scene,
    Text,
    sample,
    silhouette,
)
from paligemma.training import builtin_trainer as trainer
from paligemma.training import checkpoint, tokenizer
from paligemma.training import mask_codec as codec
from paligemma.training.builtin_trainer import (
    Stage,
    Trainer,
    initialise,
    order_locations,
    soft_targets,
)
from paligemma.training.muon import Muon, orthogonal
from paligemma.training.packing import PADDING, WEIGHTS, Packed, PackedScenes
from paligemma.training.patch_heads import (
    PatchHeads,
    PatchLabels,
    PatchScenes,
    patch_labels,
    word_loss,
)
from paligemma.training.text_heads import (
    NAMED,
    SHADES,
    GroundingHead,
    NextGroupHead,
    name_numbers,
    next_told,
    places,
)

QUESTIONS = [
    Example("ask", "answer en what color is the cat?", "red"),
    Example("detect", "detect cat", "<loc0000><loc0128><loc0512><loc1023> cat"),
    Example("read", "ocr", "EXIT"),
]


def packed(*rows, alone: bool = False, length: int = 80) -> Packed:
    """Rows of examples behind one picture each, as `PackedScenes` lays them out."""
    data = PackedScenes(tiny.processor(), tiny.config(), tiny.codec(), 1, seed=0, length=length)
    columns = zip(*(data._row(sample(0), list(row), alone) for row in rows), strict=True)
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    arrays = (torch.from_numpy(np.stack(column)) for column in columns)
    return Packed(*arrays, pixels.expand(len(rows), -1, -1, -1), patches=None, places=None)


# --- Packing --------------------------------------------------------------------------------------

# P picture, lower case prefix, upper case suffix, one letter a question; "." padding.
SEVERAL = """
    P P a a A A b B .
P   1 1 0 0 0 0 0 0 0
P   1 1 0 0 0 0 0 0 0
a   1 1 1 1 0 0 0 0 0
a   1 1 1 1 0 0 0 0 0
A   1 1 1 1 1 0 0 0 0
A   1 1 1 1 1 1 0 0 0
b   1 1 0 0 0 0 1 0 0
B   1 1 0 0 0 0 1 1 0
.   1 1 0 0 0 0 0 0 1
"""
ALONE = """
    p p a a A A .
p   1 1 1 1 0 0 0
p   1 1 1 1 0 0 0
a   1 1 1 1 0 0 0
a   1 1 1 1 0 0 0
A   1 1 1 1 1 0 0
A   1 1 1 1 1 1 0
.   0 0 0 0 0 0 1
"""


@pytest.mark.parametrize("table", [SEVERAL, ALONE], ids=["several questions", "one alone"])
def test_who_may_look_at_whom(table):
    head, *rows = (line.split() for line in table.strip().splitlines())
    numbers = {"P": 0, "p": 1, "a": 1, "b": 2, ".": PADDING}
    segments = torch.tensor([[numbers[c if c == "P" else c.lower()] for c in head]])
    is_suffix = torch.tensor([[c in "AB" for c in head]])
    rest = dict.fromkeys(
        ("input_ids", "positions", "targets", "weights", "upcoming", "pixel_values")
    )
    mask = Packed(segments=segments, is_suffix=is_suffix, patches=None, places=None, **rest).mask()
    assert mask.dtype == torch.bool and mask.shape == (1, 1, len(head), len(head))
    for seen, (name, *expected) in zip(mask[0, 0].int().tolist(), rows, strict=True):
        assert seen == list(map(int, expected)), name


def test_each_column_of_a_caption_is_told_which_group_comes_next():
    item = next(sample(n).items[0] for n in range(9) if sample(n).items)
    shown = [("star", "blue"), ("cloud", "blue"), ("cat", "red"), ("cloud", "blue")]
    items = tuple(replace(item, kind=kind, color=color) for kind, color in shown)
    words = "a red cat , two blue clouds and a blue star on a gray background".split()
    named = {"cat": "cat", "clouds": "cloud", "star": "star", "background": "background"}
    numbers = np.array([NAMED.index(named[w]) + 1 if w in named else 0 for w in words])
    told = next_told(replace(sample(0), items=items), numbers)
    group = lambda kind, color, n: [list(KINDS).index(kind) + 1, list(COLORS).index(color) + 1, n]
    cat, clouds, star = group("cat", "red", 1), group("cloud", "blue", 2), group("star", "blue", 1)
    rows = [cat] * 3 + [clouds] * 4 + [star] * 4 + [[0, 0, 0]] * 5
    assert told.tolist() == rows


def test_the_head_on_captions_counts_their_columns_only():
    head, hidden = NextGroupHead(8), torch.randn(2, 5, 8)
    upcoming = torch.full((2, 5, 3), -1)
    assert head(hidden, upcoming) == 0
    upcoming[1, 2:4] = torch.tensor([3, 2, 1])
    loss = head(hidden, upcoming)
    hidden[0] += 1
    hidden[1, 4] += 1
    assert head(hidden, upcoming) == loss > 0


def test_a_row_holds_each_question_behind_the_picture():
    batch, processor = packed(QUESTIONS), tiny.processor()
    ids, segments = batch.input_ids[0], batch.segments[0]
    assert ids[:P].tolist() == [processor.image_token_id] * P
    assert segments[:P].tolist() == [0] * P and batch.positions[0, :P].tolist() == [
        *range(1, P + 1)
    ]
    for number, example in enumerate(QUESTIONS, 1):
        here = segments == number
        prompt = processor.encode_prompt(example.prefix)[P:]
        answer = processor.encode_suffix(example.suffix)
        assert ids[here].tolist() == prompt + answer
        assert batch.positions[0][here].tolist() == [*range(P + 1, P + 1 + len(prompt + answer))]
        assert batch.is_suffix[0][here].tolist() == [False] * len(prompt) + [True] * len(answer)
        counted = here & (batch.weights[0] > 0)
        assert batch.targets[0][counted].tolist() == answer and answer[-1] == processor.eos_token_id
        assert ids[1:][counted[:-1]].tolist() == answer  # the target is the token that follows
        assert set(batch.weights[0][counted].tolist()) == {np.float32(WEIGHTS[example.kind])}
    assert (ids[segments == PADDING] == processor.pad_token_id).all()
    assert not batch.weights[0][segments == PADDING].any()


def test_a_question_without_room_makes_way_for_a_shorter_one():
    batch = packed([QUESTIONS[0], QUESTIONS[2]], length=P + 9)
    assert set(batch.segments[0].tolist()) == {0, 2, PADDING}


@torch.no_grad()
def logits(model, batch: Packed) -> torch.Tensor:
    images = model.embed_image(batch.pixel_values)
    x = torch.cat([images, model.embed_tokens(batch.input_ids)[:, P:]], 1)
    return model.logits(model.language_model(x, batch.positions, batch.mask()))


def test_questions_in_one_row_are_answered_as_if_alone():
    model = ours(tiny.config())
    together, apart = packed(QUESTIONS), packed(*([one] for one in QUESTIONS))
    counted, counted_apart = together.weights > 0, apart.weights > 0
    assert together.targets[counted].tolist() == apart.targets[counted_apart].tolist()
    one, other = logits(model, together)[counted], logits(model, apart)[counted_apart]
    assert one.std() > 1  # there is something to differ
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_a_question_alone_is_what_the_model_reads_when_it_answers():
    model, batch = ours(tiny.config()), packed(*([one] for one in QUESTIONS), alone=True)
    real = batch.segments != PADDING
    with torch.no_grad():
        expected = model(
            batch.input_ids, batch.pixel_values, real.long(), token_type_ids=batch.is_suffix.long()
        )["logits"]
    mine = logits(model, batch)
    torch.testing.assert_close(mine[real], expected[real], rtol=0, atol=1e-4)
    several = logits(model, packed(*([one] for one in QUESTIONS)))
    assert (several[real] - mine[real]).abs().max() > 0.1  # here the picture sees the prompt


def scenes(**changes) -> PackedScenes:
    options = {"batch": 2, "seed": 3, "length": 100, "single": 4} | changes
    return PackedScenes(tiny.processor(), tiny.config(), tiny.codec(), **options)


def flat(batch) -> list:
    patches = [value.tolist() for value in vars(batch.patches).values()]
    return patches + [
        value.tolist() for value in vars(batch).values() if value is not batch.patches
    ]


def test_a_batch_is_a_function_of_seed_and_number():
    data = scenes()
    first, second = data[0], data[1]
    assert flat(scenes()[1]) == flat(second) == flat(data[1])
    assert flat(first) != flat(second) and flat(scenes(seed=4)[0]) != flat(first)
    towers = PatchScenes(tiny.processor(), GRID, batch=2, seed=3)
    assert flat(towers[5]) == flat(PatchScenes(tiny.processor(), GRID, batch=2, seed=3)[5])
    assert flat(towers[5]) != flat(towers[6])


def test_every_few_batches_ask_one_question_a_picture():
    data = scenes()
    for number in range(8):
        segments = data[number].segments
        alone = number % 4 == 3
        assert (segments[:, :P] == (1 if alone else 0)).all()
        assert (segments.max() == 1) == alone


# --- Targets and the first table ------------------------------------------------------------------


def test_soft_targets():
    processor, vocabulary = tiny.processor(), tiny.config().text_config.vocab_size
    ids, weights = soft_targets(processor, vocabulary)
    assert ids.shape == weights.shape == (vocabulary, 7)
    torch.testing.assert_close(weights.sum(1), torch.ones(vocabulary))
    assert (ids[:, 3] == torch.arange(vocabulary)).all() and (weights.argmax(1) == 3).all()
    loc = processor.tokenizer.token_to_id
    pixels = [loc(f"<loc{round(n / 128 * 1023):04d}>") for n in range(129)]
    soft = weights[:, 3] < 1
    assert set(soft.nonzero()[:, 0].tolist()) == set(pixels)
    row = pixels[40]
    assert ids[row].tolist() == pixels[37:44]
    assert torch.equal(weights[row], weights[row].flip(0)) and weights[row, 3] == weights[row].max()
    assert ids[pixels[1]].tolist() == [pixels[n] for n in (0, 0, 0, 1, 2, 3, 4)]
    assert ids[pixels[128]].tolist() == [pixels[n] for n in (125, 126, 127, 128, 128, 128, 128)]


@torch.no_grad()
def test_locations_start_in_order():
    model = ours(tiny.config())
    table = model.language_model.embed_tokens.weight
    before = table.clone()
    words = tiny.words()
    locs = [words.token_to_id(f"<loc{n:04d}>") for n in range(1024)]
    order_locations(model, locs)
    rows = nn.functional.normalize(table[locs], dim=1)
    alike = lambda apart: (rows[apart:] * rows[:-apart]).sum(1).mean()
    assert alike(1) > 0.95 and alike(1) > alike(8) > alike(64) > alike(512)
    assert table[locs].std() == pytest.approx(before.std().item(), rel=1e-3)
    others = torch.ones(len(table), dtype=torch.bool)
    others[locs] = False
    assert torch.equal(table[others], before[others])


@torch.no_grad()
def test_initialise():
    model = ours(tiny.config())
    initialise(model, seed=1)
    state = dict(model.named_parameters())
    for name, value in state.items():
        if "norm" in name:  # LayerNorm multiplies by its weight, RMSNorm by 1 + weight
            expected = float("vision_tower" in name and name.endswith("weight"))
            assert (value == expected).all(), name
        elif value.ndim == 1:
            assert (value == 0).all(), name
    for name, scale in ("k_proj", 1), ("q_proj", 0.3), ("o_proj", 0.3):
        matrix = state[f"language_model.layers.0.self_attn.{name}.weight"]
        assert matrix.std() == pytest.approx(scale * matrix.shape[1] ** -0.5, rel=0.1), name
    again = ours(tiny.config(), seed=5)
    initialise(again, seed=1)
    assert all(torch.equal(value, state[name]) for name, value in again.named_parameters())


# --- Patch labels ---------------------------------------------------------------------------------


def test_patch_labels():
    sun = Item("sun", "red", 0.25, 0.25, 0.3, 0)
    text = Text("7", 0.7, 0.8, 0.2, (0, 0, 0))
    kind, color, box, mask, characters, ground = patch_labels(
        Scene("white", "plain", (sun,), (text,), 0), 8
    )
    assert kind.shape == color.shape == (64,) and box.shape == (64, 4)
    assert mask.shape == (64, 64) and characters.shape == (64, 4)
    middle, far = 2 * 8 + 2, 7 * 8 + 0  # row by row from the top left
    assert kind[middle] == list(KINDS).index("sun") + 1 and kind[far] == 0
    assert color[middle] == list(COLORS).index("red") + 1 and color[far] == 0
    assert box[middle] == pytest.approx(sun.box) and not box[far].any()
    assert ground[middle] == -1 and ground[far] == list(BACKGROUNDS).index("white")
    assert (ground[characters.any(1)] == -1).all()
    covered = kind > 0
    rows, columns = np.divmod(covered.nonzero()[0], 8)
    assert rows.min() >= 0 and rows.max() <= 3 and columns.max() <= 3  # the sun ends at 0.4
    assert not mask[~covered].any()
    whole = mask.reshape(8, 8, 8, 8).transpose(0, 2, 1, 3).reshape(64, 64) > 0
    truth = silhouette(sun, 64) > 0
    assert not (whole & ~truth).any() and (truth & ~whole).sum() < 4 * (~covered).sum()
    (x1, y1, x2, y2) = text.box
    quarters = characters.reshape(8, 8, 2, 2).transpose(0, 2, 1, 3).reshape(16, 16)
    rows, columns = np.nonzero(quarters)
    assert set(quarters[rows, columns]) == {CHARACTERS.index("7") + 1}
    assert quarters[int((y1 + y2) * 8), int((x1 + x2) * 8)] > 0
    assert y1 * 16 - 1 <= rows.min() and rows.max() <= y2 * 16
    assert x1 * 16 - 1 <= columns.min() and columns.max() <= x2 * 16


def test_patch_labels_of_nothing():
    for labels in patch_labels(Scene("white", "plain", (), (), 0), 4):
        assert not labels.any()


# --- State on disk --------------------------------------------------------------------------------


def test_a_tree_comes_back(tmp_path):
    shared = torch.arange(6.0).view(2, 3)
    state = {
        "step": 7,
        3: [shared, shared.T, torch.tensor(True)],
        "deep": {"none": None, "rate": 0.1 + 0.2, "half": torch.ones(2, dtype=torch.bfloat16)},
        "pair": (1, "two"),
    }
    checkpoint.save(tmp_path / "a.state", state)
    again = checkpoint.load(tmp_path / "a.state")
    assert list(again) == ["step", 3, "deep", "pair"] and again["step"] == 7
    assert torch.equal(again[3][0], shared) and torch.equal(again[3][1], shared.T)
    assert again[3][2].dtype == torch.bool and again[3][2].shape == ()
    assert again["deep"]["none"] is None and again["deep"]["rate"] == 0.1 + 0.2
    assert again["deep"]["half"].dtype == torch.bfloat16
    assert again["pair"] == [1, "two"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.state"]


def test_an_optimizer_goes_on_from_the_file(tmp_path):
    def parts():
        torch.manual_seed(0)
        layer = nn.Linear(4, 4)
        matrix, rest = [layer.weight], [{"params": [layer.bias], "peak": 0.1}]
        muon = Muon([{"params": matrix, "lr": 0.1}])
        return layer, [muon, torch.optim.AdamW(rest, betas=(0.9, 0.98))]

    def step(layer, optimizers, number):
        torch.manual_seed(number)
        layer(torch.randn(8, 4)).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    layer, optimizers = parts()
    step(layer, optimizers, 1)
    states = [optimizer.state_dict() for optimizer in optimizers]
    checkpoint.save(tmp_path / "a.state", {"layer": layer.state_dict(), "optimizers": states})
    step(layer, optimizers, 2)

    state = checkpoint.load(tmp_path / "a.state")
    again, optimizers = parts()
    again.load_state_dict(state["layer"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    assert optimizers[1].param_groups[0]["peak"] == 0.1
    step(again, optimizers, 2)
    assert torch.equal(again.weight, layer.weight) and torch.equal(again.bias, layer.bias)


@pytest.mark.parametrize("shape", [(6, 16), (16, 6), (8, 8)])
def test_a_step_of_muon_is_that_of_torch(shape):
    """torch's works in bfloat16, hence the tolerance; several matrices of a shape go together."""
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for _ in range(3)]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    rates = (0.1, 0.05, 0.2)
    muon = Muon([{"params": [p], "lr": r} for p, r in zip(ours, rates, strict=True)])
    torchs = [
        torch.optim.Muon([p], lr=r, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
        for p, r in zip(theirs, rates, strict=True)
    ]
    for number in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            torch.manual_seed(number)
            mine.grad = torch.randn(shape)
            other.grad = mine.grad.clone()
        for optimizer in (muon, *torchs):
            optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0.01)
    assert torch.linalg.svdvals(orthogonal(torch.randn(2, *shape))).sub(1).abs().max() < 0.4


def test_an_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.state"
    checkpoint.save(path, {"step": 1, "w": torch.ones(3)})

    def cut_short(tensors, path, metadata):
        path.write_bytes(b"half of i")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", cut_short)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(path, {"step": 2, "w": torch.zeros(3)})
    assert checkpoint.load(path)["step"] == 1
    monkeypatch.undo()
    checkpoint.save(
        path, {"step": 3, "w": torch.zeros(3)}
    )  # what was left does not stand in the way
    assert checkpoint.load(path)["step"] == 3


def test_nothing_is_pickled(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("pickle")

    for module, name in (pickle, "dump"), (pickle, "dumps"), (torch, "save"), (torch, "load"):
        monkeypatch.setattr(module, name, refuse)
    checkpoint.save(tmp_path / "a.state", {"w": torch.ones(3), "step": 1})
    assert checkpoint.load(tmp_path / "a.state")["step"] == 1
    raw = (tmp_path / "a.state").read_bytes()
    assert "__metadata__" in json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    with pytest.raises(TypeError, match="JSON"):
        checkpoint.save(tmp_path / "a.state", {"w": {1, 2}})


# --- The loops ------------------------------------------------------------------------------------


class Stopped(Exception):
    """What a test raises to end a run in its middle."""


@pytest.fixture
def quick(monkeypatch):
    """No compiler, and a short warm-up."""
    monkeypatch.setattr(torch, "compile", lambda module: module)
    monkeypatch.setattr(trainer, "WARM_UP", 2)


def made(name: str, steps: int, data=None) -> Trainer:
    model, heads = ours(tiny.config()), PatchHeads(tiny.VISION.hidden_size)
    initialise(model, seed=0)
    for parameter in heads.parameters():
        nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    if name == "tower":
        data = data or PatchScenes(tiny.processor(), GRID, batch=2, seed=3)
    stage = Stage(name, steps, batch=2, muon=8e-3, adamw=3e-3, tower=0.5)
    return Trainer(stage, model, heads, data or scenes())


def everything(made: Trainer) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": value
        for part, module in (("model", made.model), ("heads", made.heads), ("names", made.names))
        for name, value in module.state_dict().items()
    }


@pytest.mark.parametrize("name", ["tower", "whole"])
def test_a_stage_that_was_stopped_goes_on_bit_for_bit(name, quick, tmp_path, monkeypatch):
    undisturbed = made(name, steps=5)
    start = {key: value.clone() for key, value in everything(undisturbed).items()}
    undisturbed.run(tmp_path / "undisturbed.state")

    monkeypatch.setattr(trainer, "SAVE_EVERY", 3)
    save = Trainer.save

    def save_and_stop(self, path, step):
        save(self, path, step)
        raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Trainer, "save", save_and_stop)
        made(name, steps=5).run(tmp_path / "stopped.state")
    assert checkpoint.load(tmp_path / "stopped.state")["step"] == 3

    resumed = made(name, steps=5)
    resumed.run(tmp_path / "stopped.state")
    finished = everything(undisturbed)
    for key, value in everything(resumed).items():
        assert torch.equal(value, finished[key]), key
    moved = {key for key, value in finished.items() if not torch.equal(value, start[key])}
    blind = ("model.language_model", "model.multi_modal", "names")
    still = {key for key in start if key.startswith(blind)}
    assert moved == (start.keys() - still if name == "tower" else start.keys())

    again = made(name, steps=5)  # a stage that is over is read back and not run again
    monkeypatch.setattr(Trainer, "loss", None)
    again.run(tmp_path / "stopped.state")
    assert all(torch.equal(value, finished[key]) for key, value in everything(again).items())


class Same:
    """The first batch of `data`, again and again."""

    def __init__(self, data):
        self.processor, self.batch = data.processor, data[0]

    def __getitem__(self, number):
        return self.batch


@pytest.mark.parametrize("name", ["tower", "whole"])
@pytest.mark.slow
def test_the_loss_falls(name, quick, tmp_path):
    data = scenes() if name == "whole" else PatchScenes(tiny.processor(), GRID, batch=2, seed=3)
    one = made(name, steps=40, data=Same(data))
    before = [loss.item() for loss in one.loss(one.data.batch)]
    one.run(tmp_path / "a.state")
    after = [loss.item() for loss in one.loss(one.data.batch)]
    assert after[1] < 0.7 * before[1]
    if name == "whole":
        assert after[0] < 0.5 * before[0]


def test_the_loss_is_a_weighted_mean(quick):
    """Twice the weight on all tokens is the same loss; weight on one question is its loss alone."""
    one = made("whole", steps=1)
    batch = one.data[0]
    loss = one.loss(batch)[0]
    doubled = one.loss(replace(batch, weights=batch.weights * 2))[0]
    torch.testing.assert_close(doubled, loss, rtol=1e-3, atol=0)
    first = batch.weights * (batch.segments == 1)
    rest = batch.weights * (batch.segments != 1)
    parts = [one.loss(replace(batch, weights=part))[0] * part.sum() for part in (first, rest)]
    torch.testing.assert_close(sum(parts) / batch.weights.sum(), loss, rtol=1e-2, atol=0)


@pytest.mark.slow
def test_the_codec_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(codec, "BATCH", 2)
    small = partial(MaskCodec, (2, 3, 4, 5), (5, 4, 3, 2), codebook_size=128, code_width=4)
    monkeypatch.setattr(codec, "MaskCodec", small)
    half_way, save = tmp_path / "kept.state", checkpoint.save

    def save_and_keep(path, state):
        save(path, state)
        save(half_way, state)

    monkeypatch.setattr(checkpoint, "save", save_and_keep)
    codec.fit(tmp_path / "undisturbed.npz", steps=253)
    assert checkpoint.load(half_way)["step"] == 250
    half_way.rename(tmp_path / "resumed.state")
    codec.fit(tmp_path / "resumed.npz", steps=253)
    one, other = (MaskCodec.load(tmp_path / f"{n}.npz") for n in ("undisturbed", "resumed"))
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["resumed.npz", "undisturbed.npz"]


# --- The tokenizer --------------------------------------------------------------------------------


def encoded(text: str) -> list[str]:
    return tiny.words().encode(text, add_special_tokens=False).tokens


def test_capitals_are_read_letter_by_letter():
    assert encoded("EXIT") == ["E", "X", "I", "T"]
    assert encoded("ocr") == ["ocr"] and encoded("caption en") == ["caption", "▁en"]


def test_a_word_is_one_token_whatever_mark_follows():
    assert encoded(" cat?")[-2:] == ["▁cat", "?"]
    assert encoded(" cat,") == ["▁cat", ","]
    assert encoded("1024") == ["1", "0", "2", "4"]


def test_capitals_merge_not_even_when_they_repeat():
    words = tokenizer.train(["exit door"] * 50)
    assert words.encode("EXIT exit", add_special_tokens=False).tokens[:4] == ["E", "X", "I", "T"]
    assert "exit" in words.get_vocab()


@pytest.mark.parametrize(
    "text", ["a red cat", "  two  spaces ", "naïve 猫 \N{GRINNING FACE}", "a\nb", "x\ty", "<0x41>"]
)
def test_any_text_comes_back(text):
    words = tiny.words()
    ids = words.encode(text, add_special_tokens=False).ids
    assert words.decode(ids, skip_special_tokens=False) == text
    assert words.token_to_id("<unk>") not in ids


def test_the_newline_is_its_own_token():
    assert encoded(" cat\n cat") == ["▁cat", "\n", "▁cat"]
    assert encoded("\n\n") == ["\n", "\n"]


def test_the_table_is_gemmas():
    words = tiny.words()
    assert [words.token_to_id(f"<{name}>") for name in ("pad", "eos", "bos", "unk")] == [0, 1, 2, 3]
    first = words.token_to_id("<loc0000>")
    assert [words.token_to_id(f"<loc{n:04d}>") for n in range(1024)] == [
        *range(first, first + 1024)
    ]
    first += 1024
    assert [words.token_to_id(f"<seg{n:03d}>") for n in range(128)] == [*range(first, first + 128)]
    assert words.token_to_id("<image>") == first + 128 == words.get_vocab_size() - 1
    assert encoded("<loc0007><seg011> cat") == ["<loc0007>", "<seg011>", "▁cat"]


def test_transformers_reads_the_same_ids(tmp_path):
    transformers = pytest.importorskip("transformers")
    tiny.words().save(str(tmp_path / "tokenizer.json"))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for text in (
        "caption en\n",
        "detect cat ; two red mice",
        "EXIT 42",
        "<loc0000><loc0128><loc0512><loc1023><seg001> cat ; <loc0001>",
        "naïve 猫 \N{GRINNING FACE}\n\n",
    ):
        ids = tiny.words().encode(text, add_special_tokens=False).ids
        assert theirs(text, add_special_tokens=False).input_ids == ids
        assert theirs.decode(ids) == tiny.words().decode(ids, skip_special_tokens=False)


# --- names ----------------------------------------------------------------------------------------


def test_names_in_a_prompt_are_known_in_both_numbers():
    prompts = ["detect cat", "how many cats are there", "what color is the background"]
    words = tokenizer.train(prompts * 50)
    table = name_numbers(words)
    cat, background = (NAMED.index(name) + 1 for name in ("cat", "background"))
    for word, number in (("cat", cat), ("cats", cat), ("background", background)):
        assert table[words.token_to_id(f"▁{word}")] == number
    assert table[words.token_to_id("\n")] == 0
    assert set(table.tolist()) == {0, cat, background}


def test_places_are_those_of_the_topmost():
    low = Item("cat", "red", 0.5, 0.8, 0.2, 0)
    high = Item("cat", "blue", 0.4, 0.2, 0.2, 0)
    table = places([Scene("teal", "plain", (high, low), (), 0)])
    assert table.shape == (1, len(NAMED), 6)
    row = table[0, NAMED.index("cat")]
    assert row[0] == 1 and SHADES[int(row[5])] == "blue"
    assert row[1:5].tolist() == pytest.approx(high.box)
    assert table[0, -1, :5].tolist() == [1, 0, 0, 1, 1] and SHADES[int(table[0, -1, 5])] == "teal"
    assert table.sum() == pytest.approx(float(row.sum() + table[0, -1].sum()))


def test_the_names_head_asks_only_names():
    head = GroundingHead(8)
    named = torch.zeros(1, 5, dtype=torch.long)
    named[0, 2] = 1
    hidden = torch.randn(1, 5, 8, requires_grad=True)
    head(hidden, named, torch.zeros(1, len(NAMED), 6)).backward()
    assert hidden.grad[0, 2].abs().sum() > 0
    assert hidden.grad[0, [0, 1, 3, 4]].abs().sum() == 0


def test_the_names_head_is_content_when_it_is_right():
    head, there = GroundingHead(8), torch.tensor([1, 0.1, 0.2, 0.3, 0.4, 3])
    table = torch.zeros(1, len(NAMED), 6)
    table[0, 0] = there
    with torch.no_grad():
        head.place.weight.zero_()
        head.place.bias.fill_(-50)
        head.place.bias[:5] = torch.tensor([50, 0.1, 0.2, 0.3, 0.4])
        head.place.bias[5 + 3] = 50
    named = torch.tensor([[1]])
    assert head(torch.zeros(1, 1, 8), named, table).item() == pytest.approx(0, abs=1e-6)
    table[0, 0, 5] = 4
    assert head(torch.zeros(1, 1, 8), named, table) > 10


def test_a_patch_that_is_like_its_word_costs_nothing():
    table = torch.eye(8) * 50
    words = [torch.tensor(ids) for ids in ([0, 1], [0, 1], [2, 3], [4, 5])]
    labels = PatchLabels(
        torch.tensor([[2, 0]]), torch.tensor([[1, 0]]), None, None, None, torch.tensor([[-1, 1]])
    )
    right = torch.stack([table[1] + table[2], table[5]])[None]
    assert word_loss(right, table, words, labels) == pytest.approx(0, abs=1e-6)
    assert word_loss(right.flip(1), table, words, labels) > 1


def test_pictures_of_nothing_have_a_finite_loss():
    blank = [torch.from_numpy(a)[None] for a in patch_labels(Scene("navy", "plain", (), (), 0), 4)]
    labels, features = PatchLabels(*blank), torch.randn(1, 16, 8)
    assert PatchHeads(8)(features, labels).isfinite()
    words = [torch.tensor([0, 1])] * 3 + [torch.arange(6)]
    assert word_loss(features, torch.randn(6, 8), words, labels).isfinite()
