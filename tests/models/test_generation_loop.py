"""The loop that descriptions of PaliGemma print: one call a token, a growing cache and mask."""

import dataclasses

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from reference import CONFIGS, ours, prompts, weights

from paligemma import (
    KVCache,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
)
from paligemma.models import gemma

STEPS = 24
GEMMA2 = {
    "model_type": "gemma2",
    "query_pre_attn_scalar": 7,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
    "sliding_window": 5,
}
both = pytest.mark.parametrize("name", CONFIGS)


def greedy(logits, ids):
    """The most probable token [B, 1] that is not in `ids` yet: models this small repeat one."""
    if ids:
        logits = logits.scatter(1, torch.cat(ids, 1), -torch.inf)
    return torch.argmax(logits, dim=-1, keepdim=True)


def loop(model, inputs, kv_cache, steps=STEPS):
    """Greedy ids [B, steps] and the logits [B, V] behind each."""
    input_ids, attention_mask = inputs["input_ids"], inputs["attention_mask"]
    pixel_values, ids, logits = inputs["pixel_values"], [], []
    for _ in range(steps):
        outputs = model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            kv_cache=kv_cache,
        )
        kv_cache = outputs["kv_cache"]
        logits.append(outputs["logits"][:, -1, :])
        input_ids = greedy(logits[-1], ids)
        ids.append(input_ids)
        ones = torch.ones((len(input_ids), 1))  # floats, as printed
        attention_mask = torch.cat([attention_mask, ones], dim=-1)
    return torch.cat(ids, 1), logits


def prefill_and_decode(model, inputs, kv_cache, steps=STEPS):
    features = model.embed_image(inputs["pixel_values"])
    logits = [model.prefill(inputs["input_ids"], features, inputs["attention_mask"], kv_cache)]
    ids = [greedy(logits[-1], [])]
    while len(ids) < steps:
        logits.append(model.decode(ids[-1], kv_cache))
        ids.append(greedy(logits[-1], ids))
    return torch.cat(ids, 1), logits


def counted(monkeypatch, model):
    """A list that grows by one with each image batch that the tower encodes."""
    encoded, forward = [], model.vision_tower.forward
    spy = lambda pixels: encoded.append(len(pixels)) or forward(pixels)
    monkeypatch.setattr(model.vision_tower, "forward", spy)
    return encoded


@both
@pytest.mark.parametrize("lengths", [(9,), (9, 4, 6)], ids=["single", "left-padded"])
@pytest.mark.parametrize("growth", [1, 7, 256])
@torch.no_grad()
def test_the_loop_equals_prefill_and_decode(name, lengths, growth, monkeypatch):
    monkeypatch.setattr(gemma, "CACHE_GROWTH", growth)
    model, batch = ours(CONFIGS[name]), prompts(*lengths)
    room = batch["input_ids"].shape[1] + STEPS
    fixed = KVCache.allocate(model.config.text_config, len(lengths), room)
    expected, expected_logits = prefill_and_decode(model, batch, fixed)
    encoded = counted(monkeypatch, model)
    kv_cache = KVCache()
    ids, logits = loop(model, batch, kv_cache)
    assert ids.tolist() == expected.tolist()
    assert torch.stack(logits).std(0).max() > 0.3  # the comparison below is of something
    torch.testing.assert_close(logits, expected_logits, rtol=0, atol=1e-5)
    assert encoded == [len(lengths)]
    assert kv_cache.length == room - 1 and 0 <= kv_cache.max_length - kv_cache.length < growth


@pytest.mark.parametrize("text", [{}, GEMMA2], ids=["gemma 1", "gemma 2"])
@torch.no_grad()
def test_from_dictionaries_and_an_image_to_text(text, monkeypatch):
    tokenizer, size = tiny.words(), tiny.VISION.image_size
    fields = dataclasses.asdict(tiny.config().text_config).items()
    sizes = {key: value for key, value in fields if value and key not in GEMMA2}
    config = PaliGemmaConfig(
        vision_config=dataclasses.asdict(tiny.VISION),
        text_config=sizes | text,
        projection_dim=48,
        image_token_index=tokenizer.token_to_id("<image>"),
    )
    assert config.text_config.post_norms == bool(text)
    model = PaliGemmaForConditionalGeneration(config).eval()
    model.load_state_dict(weights(config))
    encoded = counted(monkeypatch, model)
    processor = PaliGemmaProcessor(tokenizer, num_image_tokens=tiny.P, image_size=size)
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    inputs = processor(text=["detect cat", "ocr"], images=[Image.fromarray(noise)] * 2)
    assert (inputs["attention_mask"] == 0).any()
    ids, _ = loop(model, inputs, KVCache())
    assert encoded == [2]
    expected, _ = prefill_and_decode(model, inputs, KVCache())
    assert ids.tolist() == expected.tolist()
    assert processor.decode(ids[0].tolist()) != processor.decode(ids[1].tolist())
    whole = model(**inputs)["logits"]
    assert whole.shape == (2, inputs.input_ids.shape[1], config.text_config.vocab_size)
    torch.testing.assert_close(whole[:, -1].argmax(-1), ids[:, 0])


@torch.no_grad()
def test_mistaken_calls_of_the_loop_are_refused():
    model, batch = ours(CONFIGS["gemma1"]), prompts(5, 3)
    kv_cache = KVCache()
    model(**batch, kv_cache=kv_cache)
    ids, mask, ones = torch.tensor([[7], [8]]), batch["attention_mask"], torch.ones(2, 1)
    with pytest.raises(ValueError, match=r"attention_mask is \[2, 1\]; .* it must be \[2, 22\]"):
        model(ids, attention_mask=ones, kv_cache=kv_cache)
    with pytest.raises(ValueError, match="differs from the one that the cache was filled with"):
        model(ids, attention_mask=torch.ones(2, 22), kv_cache=kv_cache)
    with pytest.raises(ValueError, match="2 rows of 256 positions, 21 filled; 3 rows of 1 more"):
        model(torch.tensor([[7]] * 3), kv_cache=kv_cache)
    with pytest.raises(ValueError, match="on the left"):
        model(batch["input_ids"], batch["pixel_values"], mask.flip(1), KVCache())
    assert kv_cache.length == 21
    logits = model(ids, attention_mask=torch.cat((mask, ones), 1), kv_cache=kv_cache)["logits"]
    assert kv_cache.length == 22 and logits.isfinite().all()


@torch.no_grad()
def test_padding_may_follow_a_finished_sequence():
    """A row whose answer is complete is continued with padding; the other is not disturbed."""
    model, batch = ours(CONFIGS["gemma2"]), prompts(5, 3)
    alone = {key: value[:1] for key, value in batch.items()}
    chosen, expected = loop(model, alone, KVCache(), steps=6)
    kv_cache, mask = KVCache(), batch["attention_mask"]
    logits = model(**batch, kv_cache=kv_cache)["logits"]
    for step in range(1, 6):
        torch.testing.assert_close(logits[0, -1], expected[step - 1][0], rtol=0, atol=1e-4)
        ids = torch.stack((chosen[0, step - 1], torch.tensor(0)))[:, None]
        mask = torch.cat((mask, torch.tensor([[1], [0]])), 1)
        logits = model(ids, batch["pixel_values"], mask, kv_cache)["logits"]
    assert kv_cache.valid[1].sum() == batch["attention_mask"][1].sum()
