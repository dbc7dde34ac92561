"""Packed sequences: what attends to what, what they hold, and that packing changes no answer."""

from dataclasses import replace

import numpy as np
import pytest
import runs
import tiny
import torch
from reference import ours
from tiny import P

from paligemma.models.paligemma import IGNORE_INDEX, loss_mask
from paligemma.processor import PaliGemmaProcessor
from paligemma.synthetic.scenes import COLORS, KINDS
from paligemma.synthetic.world import Mention, SceneSample, open_world
from paligemma.training.data import SceneBatches
from paligemma.training.job import make_job
from paligemma.training.packing import PADDING, Packer, packed_mask
from paligemma.training.read_config import parse_run
from paligemma.training.tokenizer import train_tokenizer

WORLD = open_world("pictograms")
WEIGHTS = {"caption": 3.0, "ask": 1.5, "read": 2.5, "detect": 1.5, "segment": 1.3, "region": 0.7}
QUESTIONS = [
    SceneSample("ask", "answer en what color is the cat?", "red"),
    SceneSample("detect", "detect cat", "<loc0000><loc0128><loc0512><loc1023> cat"),
    SceneSample("read", "ocr", "EXIT"),
]


def packed(*rows, single: bool = False, length: int = 80) -> dict[str, torch.Tensor]:
    """Rows of samples, behind one image each."""
    pack = Packer(tiny.processor(), WORLD, length)
    batch = pack([list(row) for row in rows], WEIGHTS, single)
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return batch | {"pixel_values": pixels.expand(len(rows), -1, -1, -1)}


# --- The mask -------------------------------------------------------------------------------------

# P image, lower case prefix, upper case suffix, one letter a question; "." padding.
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
SINGLE = """
    p p a a A A .
p   1 1 1 1 0 0 0
p   1 1 1 1 0 0 0
a   1 1 1 1 0 0 0
a   1 1 1 1 0 0 0
A   1 1 1 1 1 0 0
A   1 1 1 1 1 1 0
.   0 0 0 0 0 0 1
"""


@pytest.mark.parametrize("table", [SEVERAL, SINGLE], ids=["several questions", "a single one"])
def test_which_token_attends_to_which(table):
    head, *rows = (line.split() for line in table.strip().splitlines())
    numbers = {"P": 0, "p": 1, "a": 1, "b": 2, ".": PADDING}
    segments = torch.tensor([[numbers[c if c == "P" else c.lower()] for c in head]])
    token_type_ids = torch.tensor([[int(c in "AB") for c in head]])
    mask = packed_mask(segments, token_type_ids)
    assert mask.dtype == torch.bool and mask.shape == (1, 1, len(head), len(head))
    for allowed, (name, *expected) in zip(mask[0, 0].int().tolist(), rows, strict=True):
        assert allowed == list(map(int, expected)), name


# --- Sequences ------------------------------------------------------------------------------------


def test_a_sequence_holds_each_question_behind_the_image():
    batch, processor = packed(QUESTIONS), tiny.processor()
    ids, segments, positions = (
        batch[name][0] for name in ("input_ids", "segments", "position_ids")
    )
    assert ids[:P].tolist() == [processor.image_token_id] * P
    assert segments[:P].tolist() == [0] * P and positions[:P].tolist() == [*range(1, P + 1)]
    for number, question in enumerate(QUESTIONS, 1):
        here = segments == number
        prompt = processor.encode_prompt(question.prefix)[P:]
        answer = processor.encode_suffix(question.suffix)
        assert ids[here].tolist() == prompt + answer
        assert positions[here].tolist() == [*range(P + 1, P + 1 + len(prompt + answer))]
        types = batch["token_type_ids"][0][here].tolist()
        assert types == [0] * len(prompt) + [1] * len(answer)
        labeled = here & (batch["labels"][0] != IGNORE_INDEX)
        labels = batch["labels"][0][labeled].tolist()
        assert labels == answer and answer[-1] == processor.eos_token_id
        assert torch.equal(labeled, here & (batch["token_type_ids"][0] == 1))
        assert set(batch["weights"][0][labeled].tolist()) == {np.float32(WEIGHTS[question.task])}
    padding = segments == PADDING
    assert (ids[padding] == processor.pad_token_id).all()
    assert torch.equal(batch["attention_mask"][0] == 0, padding)
    assert not batch["weights"][0][batch["labels"][0] == IGNORE_INDEX].any()


def test_a_samples_own_weight_multiplies_that_of_its_task():
    light = packed([replace(QUESTIONS[0], weight=0.5)])["weights"]
    assert torch.equal(light, packed([QUESTIONS[0]])["weights"] * 0.5) and light.any()


def test_a_question_without_room_makes_way_for_a_shorter_one():
    batch = packed([QUESTIONS[0], QUESTIONS[2]], length=P + 9)
    assert set(batch["segments"][0].tolist()) == {0, 2, PADDING}


def test_a_spelled_answer_is_learned_a_character_a_token():
    processor = tiny.processor()
    sample = SceneSample("read", "ocr", "two cats 7", spelled=True)
    batch = Packer(processor, WORLD, 80)([[sample]], {})
    labels = [i for i in batch["labels"][0].tolist() if i != IGNORE_INDEX]
    tokens = [processor.tokenizer.id_to_token(i) for i in labels]
    assert tokens == [*"two", "▁", *"cats", "▁", "7", "<eos>"]
    assert processor.decode(labels[:-1]) == "two cats 7"
    plain = processor.encode_suffix("two cats 7")
    assert len(plain) < len(labels)


@torch.no_grad()
def logits(model, batch) -> torch.Tensor:
    images = model.embed_image(batch["pixel_values"])
    x = torch.cat([images, model.embed_tokens(batch["input_ids"])[:, P:]], 1)
    mask = packed_mask(batch["segments"], batch["token_type_ids"])
    return model.logits(model.language_model(x, batch["position_ids"], mask))


def test_questions_in_one_sequence_are_answered_as_if_alone():
    model = ours(tiny.config())
    together, apart = packed(QUESTIONS), packed(*([one] for one in QUESTIONS))
    counted, counted_apart = loss_mask(together["labels"]), loss_mask(apart["labels"])
    targets = [
        one["labels"].roll(-1, 1)[at].tolist()
        for one, at in ((together, counted), (apart, counted_apart))
    ]
    assert targets[0] == targets[1]
    one, other = logits(model, together)[counted], logits(model, apart)[counted_apart]
    assert one.std() > 1  # there is something to differ
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_a_single_question_is_what_the_model_reads_when_it_answers():
    model, batch = ours(tiny.config()), packed(*([one] for one in QUESTIONS), single=True)
    real = batch["segments"] != PADDING
    with torch.no_grad():
        expected = model(
            batch["input_ids"],
            batch["pixel_values"],
            real.long(),
            token_type_ids=batch["token_type_ids"],
        )["logits"]
    mine = logits(model, batch)
    torch.testing.assert_close(mine[real], expected[real], rtol=0, atol=1e-4)
    several = logits(model, packed(*([one] for one in QUESTIONS)))
    assert (several[real] - mine[real]).abs().max() > 0.1  # here the image attends to the prompt


# --- Names and groups -----------------------------------------------------------------------------


def letters() -> PaliGemmaProcessor:
    """A processor to which each letter is a token."""
    words = train_tokenizer(["abcdefghijklmnopqrstuvwxyz"])
    return PaliGemmaProcessor(words, P, 32)


@pytest.mark.parametrize("processor", [tiny.processor(), letters()], ids=["words", "letters"])
def test_names_are_where_they_end(processor):
    prefix = "answer en is the cat left of the mouse?"
    names = (Mention(20, "cat"), Mention(38, "mouse"), Mention(9, "background"))
    batch = Packer(processor, WORLD, 80)([[SceneSample("ask", prefix, "no", names=names)]], {})
    [found] = batch["names"].tolist()
    texts = [""] * P + processor.prompt_texts(prefix)
    ends = {found[n]: "".join(texts[: n + 1]) for n in range(len(found)) if found[n]}
    number = [*WORLD.kinds, "background"].index
    start = processor.prompt_texts(prefix)[0]
    assert ends == {
        number("cat") + 1: f"{start}answer en is the cat",
        number("mouse") + 1: f"{start}answer en is the cat left of the mouse",
        number("background") + 1: f"{start}answer en",
    }


def test_each_position_of_a_caption_has_the_group_that_comes_next():
    text = "a red cat , two blue clouds and a star on a gray background"
    ends = [text.index(word) + len(word) for word in ("cat", "clouds", "star")]
    listed = [("cat", "red", 1), ("cloud", "blue", 2), ("star", "", 1)]
    groups = tuple(Mention(end, *group) for end, group in zip(ends, listed, strict=True))
    processor = tiny.processor()
    tokens = processor.encode_suffix(text)
    shown = [processor.decode(tokens[:n]) for n in range(len(tokens))]
    pack = Packer(processor, WORLD, 80)
    found = pack.next_groups(SceneSample("caption", "", text, groups=groups), len(tokens))
    group = lambda kind, color, n: [
        list(KINDS).index(kind) + 1,
        list(COLORS).index(color) + 1 if color else 0,
        n,
    ]
    numbers = [*(group(*one) for one in listed), [0, 0, 0]]
    for before, next_group in zip(shown, found.tolist(), strict=True):
        passed = sum(len(before) >= end for end in ends)
        assert next_group == numbers[passed], before
    assert found[0].tolist() == numbers[0] and found[-1].tolist() == [0, 0, 0]
    batch = pack([[SceneSample("caption", "caption en", text, groups=groups)]], {})
    inside = batch["next_group"][0, :, 0] >= 0
    assert inside.sum() == len(tokens)
    assert torch.equal(inside.roll(1), batch["labels"][0] != IGNORE_INDEX)


# --- Batches --------------------------------------------------------------------------------------


def batches(tmp_path, stage: str, **changes) -> SceneBatches:
    return make_job(parse_run(runs.scenes(tmp_path, stage, **changes))).batches


def flat(batch) -> list:
    return [value.tolist() for name, value in batch.items() if isinstance(value, torch.Tensor)] + [
        value.tolist() for value in batch["patch_labels"]
    ]


@pytest.mark.parametrize("stage", ["tower", "multimodal"])
def test_a_batch_is_a_function_of_seed_and_numbers(stage, tmp_path):
    data = batches(tmp_path, stage)
    first, second = data[0, [0, 1]], data[1, [2, 3]]
    assert flat(batches(tmp_path, stage)[1, [2, 3]]) == flat(second) == flat(data[1, [2, 3]])
    assert flat(first) != flat(second)
    assert flat(batches(tmp_path, stage, seed=4)[0, [0, 1]]) != flat(first)


def test_a_batch_can_be_cut(tmp_path):
    """What several processes or micro-batches take of a batch is what the whole holds there."""
    data = batches(tmp_path, "multimodal")
    whole, cut = data[3, [6, 7]], [data[3, [6]], data[3, [7]]]
    for name, value in whole.items():
        if name == "patch_labels":
            for n, field in enumerate(value):
                assert torch.equal(field, torch.cat([one[name][n] for one in cut]))
        elif name == "places":
            assert value == [place for one in cut for place in one[name]] and len(value) == 2
        elif name != "skipped":
            assert torch.equal(value, torch.cat([one[name] for one in cut])), name


def test_every_few_batches_ask_one_question_an_image(tmp_path):
    data = batches(tmp_path, "multimodal")
    for number in range(8):
        segments = data[number, [2 * number, 2 * number + 1]]["segments"]
        single = number % 4 == 3
        assert (segments[:, :P] == (1 if single else 0)).all()
        assert (segments.max() == 1) == single


def test_a_sequence_that_the_image_fills_is_refused():
    with pytest.raises(ValueError, match="max_length 16 leaves no room behind the 16 tokens"):
        Packer(tiny.processor(), WORLD, tiny.P)
