"""Recorded weights against transformers' `output_attentions`; recording changes no answer."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import CONFIGS, IMAGE, VISION, ours, prompts, theirs

from paligemma.generation import SamplingOptions, stream
from paligemma.interpret import capture
from paligemma.interpret.capture import (
    capture_attention,
    gradient_attention,
    tower_attention,
    word_similarity,
)
from paligemma.models.gemma import RECORDER, KVCache

P = VISION.num_image_tokens
both = pytest.mark.parametrize("name", CONFIGS)
ragged = pytest.mark.parametrize("lengths", [(6,), (6, 3)], ids=["single", "ragged"])


def same(actual, expected):
    """Equal to 1e-5, with nothing left out."""
    torch.testing.assert_close(torch.as_tensor(actual), expected, rtol=0, atol=1e-5)


def with_answer(batch: dict, answer: torch.Tensor) -> dict:
    """The batch with an answer [B, T] behind each prompt."""
    suffix = torch.ones_like(answer)
    return batch | {
        "input_ids": torch.cat((batch["input_ids"], answer), 1),
        "attention_mask": torch.cat((batch["attention_mask"], suffix), 1),
        "token_type_ids": torch.cat((batch["token_type_ids"], suffix), 1),
    }


def decoded(model, batch: dict, answer: torch.Tensor):
    """The maps of an answer [B, T] that is decoded a token at a time."""
    kv_cache = KVCache.allocate(model.config.text_config, len(answer), 40)
    features = model.embed_image(batch["pixel_values"])
    with capture_attention(model) as maps:
        model.prefill(batch["input_ids"], features, batch["attention_mask"], kv_cache)
        for step in range(answer.shape[1]):
            model.decode(answer[:, step : step + 1], kv_cache)
    return maps


@both
@ragged
@torch.no_grad()
def test_prefill_equals_transformers(name, lengths):
    batch, model = prompts(*lengths), ours(CONFIGS[name])
    expected = torch.stack(theirs(CONFIGS[name])(**batch, output_attentions=True).attentions)
    with capture_attention(model) as maps:
        model(**batch)
    for row, length in enumerate(lengths):
        text = expected[:, row, :, -length:]
        image = batch["input_ids"][row] == IMAGE
        same(maps[row].image, text[..., image])
        same(maps[row].text, text[..., -length:])


@both
@torch.no_grad()
def test_decoding_equals_transformers(name):
    """Its cache, a token at a time: one row of weights a step."""
    batch, model = prompts(6), ours(CONFIGS[name])
    answer = torch.randint(3, 90, (1, 4), generator=torch.Generator().manual_seed(1))
    maps = decoded(model, batch, answer)[0]
    reference, ids = theirs(CONFIGS[name]), batch["input_ids"]
    out = reference(**batch, output_attentions=True, use_cache=True)
    for step in range(4):
        out = reference(
            answer[:, step : step + 1],
            attention_mask=torch.ones(1, ids.shape[1] + step + 1, dtype=torch.long),
            past_key_values=out.past_key_values,
            output_attentions=True,
        )
        full = P + 7 + step  # a sliding layer's cache has dropped what is outside its window
        rows = [F.pad(row, (full - row.shape[-1], 0)) for row in out.attentions]
        row = torch.stack(rows)[:, 0, :, 0]
        same(maps.image[:, :, 6 + step], row[..., :P])
        same(maps.text[:, :, 6 + step, : 7 + step], row[..., P:])
        assert not maps.text[:, :, 6 + step, 7 + step :].any()


@both
@ragged
@torch.no_grad()
def test_one_pass_over_an_answer_equals_decoding(name, lengths):
    batch, model = prompts(*lengths), ours(CONFIGS[name])
    answer = torch.randint(3, 90, (len(lengths), 4))
    stepwise = decoded(model, batch, answer)
    with capture_attention(model) as whole:
        model(**with_answer(batch, answer))
    for row, length in enumerate(lengths):
        same(stepwise[row].image, torch.as_tensor(whole[row].image))
        same(stepwise[row].text, torch.as_tensor(whole[row].text))
        sums = whole[row].image.sum(-1) + whole[row].text.sum(-1)
        assert sums.shape[2] == length + 4 and sums == pytest.approx(1, abs=1e-5)
        assert not whole[row].text[:, :, :length, length:].any()  # no prompt attends to the answer


@both
def test_recording_changes_no_answer_and_leaves_nothing_behind(name):
    batch, model = prompts(5, 3), ours(CONFIGS[name])

    def steps():
        features = model.embed_image(batch["pixel_values"]).detach()
        options = SamplingOptions(max_new_tokens=8, temperature=1.0, seed=3)
        return list(
            stream(model, batch["input_ids"], features, batch["attention_mask"], options, -1)
        )

    before = steps()
    with pytest.raises(RuntimeError, match="stop"), capture_attention(model) as maps:
        assert steps() == before  # to the last bit of every log-probability
        raise RuntimeError("stop")
    assert RECORDER.get() is None and maps[0].image.shape[2] == 5 + 7
    assert steps() == before and maps[0].image.shape[2] == 5 + 7
    assert not model._forward_hooks and not any(m._forward_hooks for m in model.modules())


@torch.no_grad()
def test_the_last_batch_counts():
    model, first, second = ours(CONFIGS["gemma1"]), prompts(5), prompts(4, 2, seed=1)
    with capture_attention(model) as maps:
        model(**first)
        model(**second)
    with capture_attention(model) as alone:
        model(**second)
    assert (maps[1].image == alone[1].image).all() and maps[1].image.shape[2] == 2


@torch.no_grad()
def test_two_threads_one_recording_do_not_disturb_each_other():
    model, batches = ours(CONFIGS["gemma2"]), (prompts(5), prompts(7, seed=1))
    with capture_attention(model) as expected:
        logits = [model(**batch)["logits"] for batch in batches[:1]]
    logits.append(model(**batches[1])["logits"])
    start = Barrier(2)

    @torch.no_grad()
    def run(number: int):
        start.wait()
        if number:
            return [model(**batches[1])["logits"] for _ in range(20)]
        with capture_attention(model) as maps:
            answers = [model(**batches[0])["logits"] for _ in range(20)]
        return answers, maps[0]

    with ThreadPoolExecutor(2) as pool:
        (recorded, maps), others = pool.map(run, range(2))
    assert all(torch.equal(one, logits[0]) for one in recorded)
    assert all(torch.equal(one, logits[1]) for one in others)
    assert (maps.image == expected[0].image).all() and (maps.text == expected[0].text).all()


@torch.no_grad()
def test_misuse_is_refused():
    batch, model = prompts(5), ours(CONFIGS["gemma1"])
    kv_cache = KVCache.allocate(model.config.text_config, 1, 40)
    features = model.embed_image(batch["pixel_values"])
    model.prefill(batch["input_ids"], features, batch["attention_mask"], kv_cache)
    late = pytest.raises(ValueError, match="before the image is read")
    with capture_attention(model) as maps, late:
        model.decode(torch.tensor([[5]]), kv_cache)
    with pytest.raises(ValueError, match="no attention was recorded"):
        maps[0]
    with capture_attention(model) as maps:
        model(**batch)
        with pytest.raises(ValueError, match="the block is still open"):
            maps[0]


# --- The tower, gradients, words ------------------------------------------------------------------


@torch.no_grad()
def test_tower_equals_transformers():
    batch, model = prompts(5), ours(CONFIGS["gemma1"])
    tower = theirs(CONFIGS["gemma1"]).model.vision_tower
    expected = tower(batch["pixel_values"], output_attentions=True).attentions
    rows = tower_attention(model, batch["pixel_values"], [3, 0, P - 1])
    same(rows, torch.stack(expected)[:, 0, :, [3, 0, P - 1]])


def gradients(model, batch: dict, positions):
    features = model.embed_image(batch["pixel_values"]).detach()
    types = batch["token_type_ids"]
    return gradient_attention(model, batch["input_ids"], features, types, positions)


@both
def test_gradients_equal_those_of_transformers(name):
    """There the weights have gradients; here the whole matrices are multiplied."""
    answer = torch.randint(3, 90, (1, 3), generator=torch.Generator().manual_seed(2))
    batch, model = with_answer(prompts(4), answer), ours(CONFIGS[name])
    positions = [P + 4, P + 6]
    maps = gradients(model, batch, positions)
    out = theirs(CONFIGS[name])(**batch, output_attentions=True)
    for index, position in enumerate(positions):
        logit = out.logits[0, position - 1, batch["input_ids"][0, position]]
        of_weights = torch.autograd.grad(logit, out.attentions, retain_graph=True)
        product = torch.eye(batch["input_ids"].shape[1])
        for layer, pair in enumerate(zip(out.attentions, of_weights, strict=True)):
            weights, gradient = pair
            step = torch.eye(len(product))  # the patches' own rows are left as they are
            step[P:] += (weights * gradient)[0, :, P:].relu().mean(0).detach()
            product = step @ product
            torch.testing.assert_close(
                maps[layer, index], product[position - 1, :P], rtol=1e-3, atol=1e-4
            )
    assert all(p.grad is None for p in model.parameters()) and RECORDER.get() is None


def test_gradients_work_inside_inference_mode():
    model = ours(CONFIGS["gemma1"])
    with torch.inference_mode():
        assert gradients(model, prompts(4), [P + 3]).shape == (4, 1, P)
        assert gradients(model, prompts(4), []).shape == (4, 0, P)


def test_gradients_are_refused_where_they_do_not_fit(monkeypatch):
    batch, model = prompts(4), ours(CONFIGS["gemma1"])
    monkeypatch.setattr(capture, "free_memory", lambda device: 1000)
    with pytest.raises(ValueError, match="cpu has 0 MB free; choose another view"):
        gradients(model, batch, [P + 3])
    model.hf_device_map = {}
    with pytest.raises(ValueError, match="spread over"):
        gradients(model, batch, [P + 3])


@torch.no_grad()
def test_word_similarity():
    model = ours(CONFIGS["gemma1"])
    table = model.language_model.embed_tokens.weight
    features = torch.stack((table[7] * 3, -table[7], table[8], table[7] + table[8]))
    cosines = word_similarity(model, features, [7])
    assert cosines[:2].tolist() == pytest.approx([1, -1], abs=1e-5) and abs(cosines[2]) < 0.9
    assert word_similarity(model, features, [7, 8])[3] == pytest.approx(1, abs=1e-5)


def test_only_rows_of_text_positions_are_computed():
    """The rows of image tokens, 256 times those of an answer, would take the memory."""
    batch, model = prompts(5), ours(CONFIGS["gemma1"])
    computed = []
    with torch.no_grad(), capture_attention(model) as maps:
        record = maps.record

        def spy(layer, weights, value, output):
            record(
                layer, lambda rows: computed.append(weights(rows)) or computed[-1], value, output
            )

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(maps, "record", spy)
            model(**batch)
    assert [tuple(weights.shape) for weights in computed] == [(1, 4, 5, P + 5)] * 4
    stored = maps[0].image.nbytes + maps[0].text.nbytes
    assert stored == 4 * np.prod((4, 4, 5, P + 5))
