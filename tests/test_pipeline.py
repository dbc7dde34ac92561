"""Load, generate, stream, batch, masks and attention: on a tiny random model, then the built-in."""

import dataclasses
import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from time import perf_counter

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from tiny import GRID, P

from paligemma import generation
from paligemma.checkpoints.resolve import BUILT_IN_FOLDER
from paligemma.detections import Detection, parse
from paligemma.generation import SamplingOptions
from paligemma.interpret.capture import capture_attention
from paligemma.interpret.views import mean_attention
from paligemma.pipeline import FEATURE_CACHE_SIZE, PaliGemma
from paligemma.synthetic.language import questions, search
from paligemma.synthetic.scenes import render, sample
from paligemma.tasks import TASKS

PROMPT = "detect cat ; dog"
TEN = SamplingOptions(max_new_tokens=10)


def noise_image(seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (40, 56, 3), np.uint8)
    return Image.fromarray(noise)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def pg(folder):
    return PaliGemma.load(folder, dtype="float32")  # whatever this machine is quickest in


def counted(monkeypatch, thing, name: str) -> list:
    """The results of every call of `thing.name` from now on."""
    results, call = [], getattr(thing, name)

    def wrapped(*args, **kwargs):
        results.append(call(*args, **kwargs))
        return results[-1]

    monkeypatch.setattr(thing, name, wrapped)
    return results


def same(reply):
    """A reply without its times."""
    return reply.text, reply.detections, reply.tokens, reply.finish_reason


# --- Loading --------------------------------------------------------------------------------------


def test_a_folder_is_loaded(pg, folder):
    assert pg.name == "tiny" and "was not measured here" in pg.description
    assert "32 × 32 pixels · float32" in pg.facts
    assert pg.config == tiny.config() and not pg.model.training
    assert pg.dtype == torch.float32 and pg.device == pg.model.language_model.norm.weight.device
    assert PaliGemma.load(str(folder), "cpu", torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, tmp_path, name):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / name).unlink()
    with pytest.raises(ValueError, match=name):
        PaliGemma.load(copy)


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match="There is no checkpoint"):
        PaliGemma.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("{}")
    with pytest.raises(ValueError, match="is a file; a checkpoint is a folder"):
        PaliGemma.load(tmp_path / "file")


def test_a_tokenizer_of_another_model_is_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"image_token_index": 5}))
    with pytest.raises(ValueError, match="<image> at id"):
        PaliGemma.load(copy)


def test_locations_of_a_model_with_a_reach_count_together(folder, tmp_path):
    alone = PaliGemma.load(folder, dtype="float32")
    reaching = shutil.copytree(folder, tmp_path / "reaching")
    values = json.loads((reaching / "config.json").read_text("utf-8"))
    (reaching / "config.json").write_text(json.dumps(values | {"loc_reach": 100}), "utf-8")
    together, image = PaliGemma.load(reaching, dtype="float32"), noise_image()
    for one in alone, together:  # nearly all tokens are as probable
        one.model.language_model.norm.weight.data.fill_(-0.98)
    prompts = [PROMPT, "caption en", PROMPT]
    replies = together.generate_batch([image] * 3, prompts, TEN)
    assert same(replies[0]) == same(replies[2])
    for prompt, reply in zip(prompts, replies, strict=True):
        assert reply.tokens[0].text.startswith("<loc")
        assert reply.tokens[0].logprob > alone.generate(image, prompt, TEN).tokens[0].logprob
    drawn = SamplingOptions(max_new_tokens=10, temperature=0.7, seed=3)
    assert same(together.generate(image, PROMPT, drawn)) == same(
        alone.generate(image, PROMPT, drawn)
    )


# --- Replies --------------------------------------------------------------------------------------


def test_a_stream_grows_into_what_generate_returns(pg):
    replies = list(pg.stream(noise_image(), PROMPT, TEN))
    assert [len(reply.tokens) for reply in replies] == [*range(1, 11), 10]
    assert [reply.finish_reason for reply in replies] == [None] * 10 + ["length"]
    for before, after in pairwise(replies):
        assert after.tokens[: len(before.tokens)] == before.tokens
        assert after.text.startswith(before.text)
    last = replies[-1]
    assert same(last) == same(pg.generate(noise_image(), PROMPT, TEN))
    assert last.text == "".join(token.text for token in last.tokens)
    assert last.text == pg.processor.decode([token.id for token in last.tokens])
    assert len({token.id for token in last.tokens}) > 3  # it is not one word again and again
    assert all(token.logprob < 0 for token in last.tokens)


def test_greedy_tokens_equal_those_without_a_cache(pg):
    """An oracle that reads everything from the start for every token."""
    reply = pg.generate(noise_image(), PROMPT, TEN)
    batch = pg.processor(text=[PROMPT], images=[noise_image()])
    ids, types = batch.input_ids, batch.token_type_ids
    for token in reply.tokens:
        with torch.no_grad():
            scores = pg.model(ids, batch.pixel_values, token_type_ids=types)["logits"][0, -1]
        assert int(scores.argmax()) == token.id
        assert scores.log_softmax(-1).max().item() == pytest.approx(token.logprob, abs=1e-4)
        ids = torch.cat([ids, torch.tensor([[token.id]])], 1)
        types = torch.cat([types, torch.ones(1, 1, dtype=torch.long)], 1)


def test_an_answer_ends_before_eos(pg, monkeypatch):
    ids = [token.id for token in pg.generate(noise_image(), PROMPT, TEN).tokens]
    stop = next(n for n in range(2, 10) if ids[n] not in ids[:n])
    monkeypatch.setattr(pg.processor, "eos_token_id", ids[stop])
    decodes = counted(monkeypatch, pg.model, "decode")
    replies = list(pg.stream(noise_image(), PROMPT, TEN))
    assert [token.id for token in replies[-1].tokens] == ids[:stop] and len(decodes) == stop
    assert [reply.finish_reason for reply in replies] == [None] * stop + ["stop"]


def test_a_finished_answer_stays_unchanged_in_its_batch(pg, monkeypatch):
    prompts, images = [PROMPT, "ocr"], [noise_image(), noise_image(1)]
    long = [
        [token.id for token in reply.tokens] for reply in pg.generate_batch(images, prompts, TEN)
    ]
    stop = next(n for n in range(1, 9) if long[0][n] not in long[0][:n] + long[1])
    monkeypatch.setattr(pg.processor, "eos_token_id", long[0][stop])
    first, second = pg.generate_batch(images, prompts, TEN)
    assert [token.id for token in first.tokens] == long[0][:stop] and first.finish_reason == "stop"
    assert [token.id for token in second.tokens] == long[1] and second.finish_reason == "length"


def test_closing_a_stream_stops_the_model(pg, monkeypatch):
    decodes = counted(monkeypatch, pg.model, "decode")
    stream = pg.stream(noise_image(), PROMPT, SamplingOptions(max_new_tokens=100))
    assert decodes == []
    for _ in range(4):
        next(stream)
    assert len(decodes) == 3
    stream.close()
    assert len(decodes) == 3 and list(stream) == []


def test_the_form_that_transformers_asks_for(pg):
    """`<image>` before the prompt, as the collators of many trainings write it."""
    expected = same(pg.generate(noise_image(), PROMPT, TEN))
    for prompt in f"<image>{PROMPT}", f"<image><bos>{PROMPT}":
        reply = pg.generate(noise_image(), prompt, TEN)
        assert same(reply) == expected and reply.prompt == PROMPT


def test_a_batch_equals_single_requests(pg):
    prompts = [PROMPT, "ocr", "answer en is there an orange cat left of the house?", ""]
    images = [noise_image(n) for n in range(3)] + [noise_image(0)]
    batch = pg.generate_batch(images, prompts, TEN)
    for reply, image, prompt in zip(batch, images, prompts, strict=True):
        alone = pg.generate(image, prompt, TEN)
        assert [token.id for token in reply.tokens] == [token.id for token in alone.tokens]
        assert reply.text == alone.text and reply.finished
        assert [token.logprob for token in reply.tokens] == pytest.approx(
            [token.logprob for token in alone.tokens], abs=1e-4
        )
    assert len({reply.text for reply in batch}) == 4


def test_seeds_and_temperature(pg):
    def text(**options):
        return pg.generate(
            noise_image(), PROMPT, SamplingOptions(max_new_tokens=10, **options)
        ).text

    assert text(temperature=1.0, seed=1) == text(temperature=1.0, seed=1)
    assert len({text(temperature=1.0, seed=seed) for seed in range(5)}) > 1
    assert text(temperature=1.0, top_k=1, seed=3) == text()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_cut_answer_goes_on_as_if_it_had_not_been_cut(pg, temperature):
    def answer(limit, tokens=()):
        options = SamplingOptions(limit, temperature, seed=5)
        return pg.generate(noise_image(), PROMPT, options, tokens)

    whole, first = answer(10), answer(4)
    assert whole.finish_reason == first.finish_reason == "length"
    rest = answer(6, first.tokens)
    assert [token.id for token in rest.tokens] == [token.id for token in whole.tokens]
    assert rest.text == whole.text and rest.finish_reason == "length"
    logprobs = [[token.logprob for token in reply.tokens] for reply in (rest, whole)]
    assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-4)


def test_objects_go_on_where_an_answer_was_cut(pg, monkeypatch):
    """The cut may be in the middle of a box."""
    script = pg.processor.encode_suffix("<loc0100><loc0200><loc0300><loc0400> cat")
    tokens = iter(script)
    monkeypatch.setattr(
        generation, "sample_tokens", lambda logits, *_: torch.tensor([next(tokens)])
    )
    first = pg.generate(noise_image(), PROMPT, SamplingOptions(max_new_tokens=3))
    assert first.detections == () and first.finish_reason == "length"
    tokens = iter([0] * 3 + script[3:])  # those of the answer so far are not drawn again
    rest = pg.generate(noise_image(), PROMPT, TEN, first.tokens)
    assert [found.label for found in rest.detections] == ["cat"]
    assert rest.text == "<loc0100><loc0200><loc0300><loc0400> cat"
    assert rest.finish_reason == "stop"


def test_detections_are_parsed_from_the_text_with_scores(pg, monkeypatch):
    """The likeliest tokens of a random model name nothing, so its words are put in its mouth."""
    answer = "<loc0100><loc0200><loc0300><loc0400> cat ; <loc0000>"
    ids = iter(pg.processor.encode_suffix(answer))
    rows = pg.config.text_config.vocab_size

    def say(*_):
        return torch.full((1, rows), -9.0).index_fill(1, torch.tensor([next(ids)]), 9.0)

    monkeypatch.setattr(pg.model, "prefill", say)
    monkeypatch.setattr(pg.model, "decode", say)
    replies = list(pg.stream(noise_image(), PROMPT))
    assert replies[-1].text == answer
    (found,) = replies[-1].detections
    assert dataclasses.replace(found, score=None) == parse(answer)[0]
    sure = 1 / (1 + (rows - 1) * math.exp(-18))
    assert found.score == pytest.approx(sure, rel=1e-4)
    assert [len(reply.detections) for reply in replies][:5] == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("options", [TEN, SamplingOptions(max_new_tokens=1)], ids=["ten", "one"])
def test_timings_add_up(pg, options):
    start = perf_counter()
    *before, last = pg.stream(noise_image(), PROMPT, options)
    spent, times = perf_counter() - start, last.timings
    assert times.steps == options.max_new_tokens - 1
    assert times.total_s == times.image_s + times.prefill_s + times.decode_s
    assert 0 < times.total_s <= spent and min(times.image_s, times.prefill_s) > 0
    if times.steps:
        assert times.tokens_per_second == pytest.approx(times.steps / times.decode_s)
    else:
        assert times.decode_s == times.tokens_per_second == 0
    totals = [reply.timings.total_s for reply in before]
    assert totals == sorted(totals)


# --- One image, many prompts ------------------------------------------------------------------


def test_an_image_is_encoded_once(pg, monkeypatch, tmp_path):
    encoded = counted(monkeypatch, pg.model, "embed_image")
    first = pg.generate(noise_image(), PROMPT, TEN)
    noise_image().save(tmp_path / "same.png")
    assert same(pg.generate(tmp_path / "same.png", PROMPT, TEN)) == same(first)
    pg.generate(noise_image(), "ocr", TEN)
    assert [len(features) for features in encoded] == [1]
    pg.generate_batch(
        [noise_image(1), noise_image(), noise_image(1), noise_image(2)], ["ocr"] * 4, TEN
    )
    assert [len(features) for features in encoded] == [1, 2]


def test_features_of_the_latest_images_are_cached(pg, monkeypatch):
    encoded = counted(monkeypatch, pg.model, "embed_image")
    one = SamplingOptions(max_new_tokens=1)
    for seed in range(FEATURE_CACHE_SIZE + 1):
        pg.generate(noise_image(seed), "ocr", one)
        pg.generate(noise_image(0), "ocr", one)  # asked for again and again: it stays
    assert len(encoded) == FEATURE_CACHE_SIZE + 1
    pg.generate(noise_image(1), "ocr", one)
    assert len(encoded) == FEATURE_CACHE_SIZE + 2
    count = FEATURE_CACHE_SIZE + 4  # more than are kept, at once
    images = [noise_image(seed) for seed in range(count)]
    assert len(pg.generate_batch(images, ["ocr"] * count, one)) == count


def test_two_threads_get_the_same_answers(pg):
    asked = [(noise_image(n % 3), ("ocr", PROMPT, "caption en")[n % 3 - n % 2]) for n in range(8)]
    sampled = SamplingOptions(max_new_tokens=12, temperature=1.0, seed=4)
    answer = lambda pair: same(pg.generate(*pair, sampled))
    expected = [answer(pair) for pair in asked]
    pg._features.clear()
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(answer, asked)) == expected


# --- Masks and attention --------------------------------------------------------------------------


def test_masks(pg):
    codes = [tuple(range(16)), tuple(range(100, 116))]
    found = [
        Detection("cat", (0, 0, 1, 1), codes[0]),
        Detection("dog", (0, 0, 1, 1)),
        Detection("cow", (0, 0, 1, 1), codes[1]),
    ]
    first, none, second = pg.masks(found)
    assert none is None and first.shape == second.shape == (64, 64) and first.dtype == np.float32
    for mask, row in (first, codes[0]), (second, codes[1]):
        assert mask == pytest.approx(tiny.codec().decode(torch.tensor([row]))[0].numpy(), abs=1e-5)
    assert pg.masks([]) == [] and pg.masks(found[1:2]) == [None]


def test_without_a_mask_codec_a_model_still_answers(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "paligemma.checkpoints.hub.fetch_mask_codec", lambda: tmp_path / "not fetched.npz"
    )
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "mask_codec.npz").unlink()
    pg = PaliGemma.load(copy)
    assert pg.generate(noise_image(), PROMPT, TEN).tokens
    assert pg.masks([Detection("dog", (0, 0, 1, 1))]) == [None]
    with pytest.raises(ValueError, match="no mask codec"):
        pg.masks([Detection("cat", (0, 0, 1, 1), tuple(range(16)))])


def test_recorded_attention_equals_that_of_a_forward_pass(pg):
    with capture_attention(pg.model) as maps:
        reply = pg.generate(noise_image(), PROMPT, TEN)
    heat = pg.explain_reply(noise_image(), PROMPT, reply, ("mean",)).maps["mean"]
    assert heat.shape == (10, GRID, GRID) and heat.dtype == np.float32
    sums = heat.sum((1, 2))
    assert heat.min() >= 0 and sums.max() <= 1 + 1e-5 and sums.min() > 0
    prompt = len(pg.processor.encode_prompt(PROMPT)) - P
    assert maps[0].image.shape[2:] == (prompt + 9, P)
    wrote = mean_attention(maps[0])[prompt - 1 :].reshape(10, GRID, GRID)
    assert heat == pytest.approx(wrote, abs=1e-5)
    assert np.ptp(heat, axis=0).max() > 1e-3  # the maps differ from token to token


def test_explaining_an_empty_answer(pg, monkeypatch):
    first = pg.generate(noise_image(), PROMPT, TEN).tokens[0].id
    monkeypatch.setattr(pg.processor, "eos_token_id", first)
    empty = pg.generate(noise_image(), PROMPT, TEN)
    assert empty.text == "" and empty.tokens == () and empty.finished
    assert pg.explain_reply(noise_image(), PROMPT, empty, ("mean",)).maps["mean"].shape == (
        0,
        GRID,
        GRID,
    )


# --- Mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image, prompt, complaint",
    [
        ("nowhere.png", "ocr", "There is no file 'nowhere.png'"),
        (b"no image", "ocr", "not an image"),
        (None, "ocr", "An image is a path"),
        (np.zeros((4, 4, 7)), "ocr", "An image array"),
        (noise_image(), None, "A prompt is a str"),
        (noise_image(), "a\0b", "not text"),
        (noise_image(), "cat " * 600, "tokens"),
    ],
)
def test_invalid_requests_raise_value_error(pg, image, prompt, complaint):
    with pytest.raises(ValueError, match=complaint):
        pg.generate(image, prompt, TEN)


def test_a_batch_of_unequal_lists(pg):
    with pytest.raises(ValueError, match="2 prompts, 1 images"):
        pg.generate_batch([noise_image()], ["ocr", "ocr"], TEN)


def test_a_prompt_as_long_as_the_context(tmp_path):
    pg = PaliGemma.load(tiny.write(tmp_path / "short", max_position_embeddings=P + 8))
    with pytest.raises(ValueError, match="room for at most"):
        pg.generate(noise_image(), "answer en is there an orange cat left of the house?", TEN)
    last = pg.generate(noise_image(), "ocr", TEN)
    assert last.finished and len(last.tokens) == 5  # P + <bos> ocr \n + 5 = P + 8


# --- The built-in model ---------------------------------------------------------------------------

HELD_OUT = 2_000_000  # seeds from here on: scenes of no training and no other evaluation


@pytest.fixture(scope="module")
def builtin():
    return PaliGemma.load(dtype=torch.float32)


@pytest.fixture(scope="module")
def held_out():
    """A hundred (image, prompt), twenty for each task."""
    asked = []
    for n in range(100):
        scene, rng = sample(HELD_OUT + n), np.random.default_rng(n)
        key = list(TASKS)[n % len(TASKS)]
        prompt = {
            "ask": lambda scene=scene, rng=rng: f"answer en {questions(scene, rng)[0][0]}",
            "detect": lambda scene=scene, rng=rng: search(scene, "detect", rng).prefix,
            "segment": lambda scene=scene, rng=rng: search(scene, "segment", rng, most=2).prefix,
        }.get(key, TASKS[key].prompt)()
        asked.append((render(scene, 256), prompt))
    return asked


def test_the_builtin_model_answers(builtin):
    assert builtin.name == "the built-in model"
    assert "small model that was trained on drawn scenes only" in builtin.description
    reply = builtin.generate(render(sample(HELD_OUT), 256), "caption en")
    assert reply.finished and " on a " in reply.text and reply.text.endswith(" background")
    assert all(token.logprob <= 0 for token in reply.tokens)


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_the_builtin_model_answers_quantized(builtin, quantize):
    image = BUILT_IN_FOLDER.parents[1] / "examples/harbour.png"
    pg = PaliGemma.load(quantize=quantize)
    assert quantize in pg.facts and pg.memory < builtin.memory / 1.4
    expected, reply = builtin.generate(image, "caption en"), pg.generate(image, "caption en")
    assert reply.text == expected.text
    assert reply.tokens[0].logprob != expected.tokens[0].logprob
    maps = pg.explain(image, "caption en", views=["middle", "gradient"]).maps
    assert maps["gradient"].shape == maps["middle"].shape and maps["gradient"].any()
    assert np.isfinite(pg.similarity(image, "anchor")).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_gives_the_same_answers(held_out):
    images, prompts = zip(*held_out, strict=True)
    texts = []
    for device in ("cpu", "cuda"):
        pg = PaliGemma.load(device=device, dtype="float32")
        texts.append([reply.text for reply in pg.generate_batch(images, prompts)])
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_transformers_gives_the_same_answers(builtin, held_out):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
        BUILT_IN_FOLDER, dtype=torch.float32
    ).eval()
    different, spoken = [], set()
    for task in range(len(TASKS)):
        images, prompts = zip(*held_out[task :: len(TASKS)], strict=True)
        mine = builtin.generate_batch(images, prompts, SamplingOptions(max_new_tokens=128))
        batch = builtin.processor(text=prompts, images=images)
        with torch.inference_mode():
            ids = theirs.generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                pixel_values=batch.pixel_values,
                token_type_ids=batch.token_type_ids,
                max_new_tokens=128,
                do_sample=False,
                eos_token_id=builtin.processor.eos_token_id,
                pad_token_id=builtin.processor.pad_token_id,
            )
        texts = map(builtin.processor.decode, ids[:, batch.input_ids.shape[1] :].tolist())
        for prompt, reply, text in zip(prompts, mine, texts, strict=True):
            spoken.add(text)
            if reply.text != text:
                different.append(f"{prompt!r}: {reply.text!r}, but transformers says {text!r}")
    assert not different, "\n".join(different)
    assert len(spoken) > 30


def test_auto_tokenizer_gives_the_same_ids(builtin, held_out):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(BUILT_IN_FOLDER)
    for _, prompt in held_out[:20]:
        text = prompt + "\n"
        ours = builtin.processor.encode_prompt(prompt)[builtin.config.vision_config.grid**2 + 1 :]
        assert theirs(text, add_special_tokens=False).input_ids == ours
    special = (theirs.pad_token_id, theirs.eos_token_id, theirs.bos_token_id)
    config = builtin.config
    assert special == (config.pad_token_id, config.eos_token_id, config.bos_token_id)


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_auto_processor_gives_the_same_batch(builtin, held_out):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoProcessor.from_pretrained(BUILT_IN_FOLDER)
    for image, prompt in held_out[:10]:
        batch = builtin.processor(text=[prompt], images=[image])
        expected = theirs(text=prompt, images=image, return_tensors="pt")
        assert batch.input_ids.tolist() == expected["input_ids"].tolist()
        difference = (batch.pixel_values - expected["pixel_values"]).abs()
        assert difference.max() < 0.05  # a few of 255 levels, where its backend is torchvision
