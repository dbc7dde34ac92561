"""capture_attention against transformers' `output_attentions`, and what it must not disturb."""

import pytest
import torch
from reference import CONFIGS, IMAGE, VISION, ours, prompts, theirs

from paligemma.attention import capture_attention
from paligemma.gemma import RECORDER, KVCache

both = pytest.mark.parametrize("name", CONFIGS)


@both
@pytest.mark.parametrize("lengths", [(6,), (6, 3)], ids=["single", "ragged"])
@torch.no_grad()
def test_mean_equals_transformers(name, lengths):
    batch, model = prompts(*lengths), ours(CONFIGS[name])
    attentions = theirs(CONFIGS[name])(**batch, output_attentions=True).attentions
    everything = torch.stack(attentions).mean((0, 2))  # over layers and heads: [B, T, S]
    with capture_attention(model) as maps:
        model(**batch)
    for row, ids in enumerate(batch["input_ids"]):
        expected = everything[row][:, ids == IMAGE]
        read = batch["attention_mask"][row].bool()
        torch.testing.assert_close(maps.mean[row][read], expected[read], rtol=0, atol=1e-5)
    assert maps.mean.shape == (*batch["input_ids"].shape, VISION.num_image_tokens)


@both
@torch.no_grad()
def test_decoding_adds_a_row_for_each_token(name):
    batch, model = prompts(6, 3), ours(CONFIGS[name])
    ids, answer = batch["input_ids"], torch.randint(3, 90, (2, 4))
    kv_cache = KVCache(model.config.text_config, 2, 40)
    features = model.embed_image(batch["pixel_values"])
    with capture_attention(model) as stepwise:
        model.prefill(ids, features, batch["attention_mask"], kv_cache)
        for step in range(4):
            model.decode(answer[:, step : step + 1], kv_cache)
    with capture_attention(model) as whole:
        suffix = torch.ones_like(answer)
        model(
            torch.cat((ids, answer), 1),
            batch["pixel_values"],
            torch.cat((batch["attention_mask"], suffix), 1),
            token_type_ids=torch.cat((batch["token_type_ids"], suffix), 1),
        )
    read = torch.cat((batch["attention_mask"], suffix), 1).bool()
    torch.testing.assert_close(stepwise.mean[read], whole.mean[read], rtol=0, atol=1e-5)
    assert (stepwise.mean.sum(-1) <= 1 + 1e-5).all()


@both
@torch.no_grad()
def test_recording_changes_no_answer_and_leaves_nothing_behind(name):
    batch, model = prompts(5), ours(CONFIGS[name])
    before = model(**batch)["logits"]
    with pytest.raises(RuntimeError, match="stop"), capture_attention(model) as maps:
        recorded = model(**batch)["logits"]
        raise RuntimeError("stop")
    torch.testing.assert_close(recorded, before, rtol=0, atol=1e-4)
    assert RECORDER.get() is None
    rows = maps.mean.shape[1]
    model(**batch)
    assert maps.mean.shape[1] == rows


@torch.no_grad()
def test_misuse_says_what_is_wrong():
    batch, model = prompts(5), ours(CONFIGS["gemma1"])
    kv_cache = KVCache(model.config.text_config, 1, 40)
    features = model.embed_image(batch["pixel_values"])
    model.prefill(batch["input_ids"], features, batch["attention_mask"], kv_cache)
    late = pytest.raises(ValueError, match="before the picture is read")
    with capture_attention(model) as maps, late:
        model.decode(torch.tensor([[5]]), kv_cache)
    with pytest.raises(ValueError, match="has not run"):
        maps.mean  # noqa: B018
