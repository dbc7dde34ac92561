"""The model against transformers, against itself without a cache, and against hand-made tables."""

import dataclasses

import pytest
import torch
from reference import CONFIGS, IMAGE, SHARED, VISION, ours, prompts, theirs

import paligemma.models.gemma
import paligemma.models.paligemma
import paligemma.models.siglip
from paligemma.config import TextConfig
from paligemma.models.gemma import GemmaDecoder, KVCache, attention_output, attention_weights
from paligemma.models.paligemma import loss_mask, prefix_lm_mask, suffix_loss

STEPS = 64
BATCHES = {"single": (9,), "ragged": (9, 4, 6)}
both = pytest.mark.parametrize("name", CONFIGS)


def cache_for(model, input_ids, steps=STEPS) -> KVCache:
    return KVCache.allocate(model.config.text_config, len(input_ids), input_ids.shape[1] + steps)


@torch.no_grad()
def generate(model, batch, steps=STEPS):
    """Greedy ids [B, steps] and the logits [B, V] behind each, with the cache."""
    kv_cache = cache_for(model, batch["input_ids"], steps)
    features = model.embed_image(batch["pixel_values"])
    logits = [model.prefill(batch["input_ids"], features, batch["attention_mask"], kv_cache)]
    ids = [logits[-1].argmax(-1)]
    for _ in range(steps - 1):
        logits.append(model.decode(ids[-1][:, None], kv_cache))
        ids.append(logits[-1].argmax(-1))
    return torch.stack(ids, 1), logits


@torch.no_grad()
def append(model, batch, ids):
    """Logits [B, T + steps, V] of the prompts with `ids` as their suffix, without a cache."""
    suffix = torch.ones_like(ids)
    return model(
        torch.cat((batch["input_ids"], ids), 1),
        batch["pixel_values"],
        torch.cat((batch["attention_mask"], suffix), 1),
        token_type_ids=torch.cat((batch["token_type_ids"], suffix), 1),
    )["logits"]


# --- Parity with transformers ---------------------------------------------------------------------


@both
@pytest.mark.parametrize("lengths", BATCHES.values(), ids=BATCHES.keys())
def test_prompt_logits_equal_transformers(name, lengths):
    batch = prompts(*lengths)
    with torch.no_grad():
        expected = theirs(CONFIGS[name])(**batch).logits
        actual = ours(CONFIGS[name])(**batch)["logits"]
    read = batch["attention_mask"].bool()
    assert expected[read].std() > 1  # the comparison below is of something
    torch.testing.assert_close(actual[read], expected[read], rtol=0, atol=1e-4)


@both
def test_logits_of_prompts_about_several_images_equal_transformers(name):
    side, count = VISION.image_size, VISION.num_image_tokens
    texts = torch.randint(3, 90, (2, 7), generator=torch.Generator().manual_seed(1)).tolist()
    rows = [[IMAGE] * (2 * count) + texts[0], [0] * count + [IMAGE] * count + texts[1]]
    ids = torch.tensor(rows)
    pixels = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(2)) * 2 - 1
    batch = {"input_ids": ids, "pixel_values": pixels, "attention_mask": (ids != 0).long()}
    batch["token_type_ids"] = torch.zeros_like(ids)
    with torch.no_grad():
        expected = theirs(CONFIGS[name])(**batch).logits
        actual = ours(CONFIGS[name])(**batch)["logits"]
        swapped = ours(CONFIGS[name])(**batch | {"pixel_values": pixels.flip(0)})["logits"]
    read = batch["attention_mask"].bool()
    torch.testing.assert_close(actual[read], expected[read], rtol=0, atol=1e-4)
    assert not torch.allclose(actual[read], swapped[read], atol=1e-2)


@both
@pytest.mark.parametrize("lengths", BATCHES.values(), ids=BATCHES.keys())
def test_generation_equals_transformers(name, lengths):
    batch = prompts(*lengths)
    expected = theirs(CONFIGS[name]).generate(
        **batch,
        max_new_tokens=STEPS,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    ids, logits = generate(ours(CONFIGS[name]), batch)
    assert len(expected.logits) == STEPS
    for step, (mine, reference) in enumerate(zip(logits, expected.logits, strict=True)):
        torch.testing.assert_close(
            mine, reference, rtol=0, atol=1e-4, msg=lambda m, step=step: f"step {step}: {m}"
        )
    assert ids.tolist() == expected.sequences[:, -STEPS:].tolist()


def causal_prefix(attention_mask, token_type_ids, window=None):
    return prefix_lm_mask(attention_mask, torch.ones_like(token_type_ids), window)


def windowed_prefix(attention_mask, token_type_ids, window=None):
    mask = prefix_lm_mask(attention_mask, token_type_ids)
    return mask if window is None else mask.tril(window - 1).triu(1 - window)


def scale_image(model, factor):
    encode = model.embed_image
    model.embed_image = lambda pixels: encode(pixels) * factor


def reconfigure(model, **changes):
    text = dataclasses.replace(model.config.text_config, **changes)
    changed = ours(dataclasses.replace(model.config, text_config=text))
    model.language_model, model.config = changed.language_model, changed.config


ROOT = SHARED["hidden_size"] ** 0.5
MISTAKES = {
    "a causal prefix": lambda m, p: p.setattr(
        paligemma.models.paligemma, "prefix_lm_mask", causal_prefix
    ),
    "a prefix cut by the window": lambda m, p: p.setattr(
        paligemma.models.paligemma, "prefix_lm_mask", windowed_prefix
    ),
    "image features scaled with the text": lambda m, p: scale_image(m, ROOT),
    "image features divided by the root": lambda m, p: scale_image(m, 1 / ROOT),
    "text not scaled": lambda m, p: p.setattr(
        m, "embed_tokens", lambda ids: m.language_model.embed_tokens(ids)
    ),
    "head_dim for the query scale": lambda m, p: reconfigure(m, query_pre_attn_scalar=None),
    "no softcap on attention": lambda m, p: reconfigure(m, attn_logit_softcapping=None),
    "no softcap on logits": lambda m, p: reconfigure(m, final_logit_softcapping=None),
    "no sliding window": lambda m, p: reconfigure(m, sliding_window=None),
    "a window one position longer": lambda m, p: reconfigure(m, sliding_window=6),
    "no rotation": lambda m, p: p.setattr(paligemma.models.gemma, "apply_rope", lambda x, *_: x),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_parity_would_notice(mistake, monkeypatch):
    """The tiny models are sharp enough: each classic mistake moves their logits far beyond 1e-4."""
    batch, model = prompts(*BATCHES["ragged"]), ours(CONFIGS["gemma2"])
    suffix = torch.randint(3, 90, (3, 8), generator=torch.Generator().manual_seed(1))
    right = append(model, batch, suffix)[:, -9:]
    mistake(model, monkeypatch)
    wrong = append(model, batch, suffix)[:, -9:]
    assert (right - wrong).abs().max() > 0.05


def training_batch(suffixes=(5, 5, 5), prefixes=(4, 7, 5)):
    """Right-padded examples with labels on their suffixes."""
    batch = prompts(*(p + s for p, s in zip(prefixes, suffixes, strict=True)))
    width = batch["input_ids"].shape[1]
    labels = torch.full_like(batch["input_ids"], -100)
    for row, (p, s) in enumerate(zip(prefixes, suffixes, strict=True)):
        start = VISION.num_image_tokens + p
        for key in ("input_ids", "attention_mask"):  # from the left side to the right
            batch[key][row] = batch[key][row].roll(start + s - width)
        batch["token_type_ids"][row, start:] = 1
        labels[row, start : start + s] = batch["input_ids"][row, start : start + s]
    return {**batch, "labels": labels}


def mean_of_means(logits, labels, smoothing):
    """The loss spelled out over all logits [B, T, V], one example after another."""
    rows = []
    for scores, row in zip(logits[:, :-1].log_softmax(-1), labels[:, 1:], strict=True):
        there = row != -100
        hit = scores[there].gather(1, row[there][:, None])[:, 0]
        rows.append(-((1 - smoothing) * hit + smoothing * scores[there].mean(1)).mean())
    return torch.stack(rows).mean()


@both
@pytest.mark.parametrize(
    ("suffixes", "smoothing"),
    [((5, 5, 5), 0.0), ((2, 9, 4), 0.0), ((2, 9, 4), 0.3)],
    ids=["even", "ragged", "smoothed"],
)
def test_loss_and_gradients_equal_transformers(name, suffixes, smoothing):
    """Where rows have as many labels each, a mean over tokens is also one over examples."""
    batch = training_batch(suffixes)
    model, reference = ours(CONFIGS[name]), theirs(CONFIGS[name])
    with torch.no_grad():  # a little tamer, or rounding alone comes to 1e-5 on the way back
        for parameter in (*model.parameters(), *reference.parameters()):
            parameter *= 0.7
    loss, output = model(**batch, label_smoothing=smoothing)["loss"], reference(**batch)
    expected = mean_of_means(output.logits, batch["labels"], smoothing)
    if len(set(suffixes)) == 1 and not smoothing:
        torch.testing.assert_close(expected, output.loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    loss.backward()
    expected.backward()
    gradients = {key: p.grad for key, p in reference.model.named_parameters()}
    for key, parameter in model.named_parameters():
        if not key.endswith("k_proj.bias"):  # softmax ignores it: its gradient is rounding noise
            size = gradients[key].norm()
            assert size > 1e-4, key
            assert (parameter.grad - gradients[key]).norm() <= 1e-5 * size, key


# --- The loss by hand -----------------------------------------------------------------------------


def test_loss_is_a_mean_for_each_example_then_over_the_batch():
    model, batch = ours(CONFIGS["gemma1"]), training_batch(suffixes=(2, 9, 4))
    with torch.no_grad():
        together = model(**batch)["loss"]
        alone = [
            model(**{key: value[row : row + 1] for key, value in batch.items()})["loss"]
            for row in range(3)
        ]
    torch.testing.assert_close(together, torch.stack(alone).mean())
    tokens = (batch["labels"] != -100).sum(1)
    over_tokens = (torch.stack(alone) * tokens).sum() / tokens.sum()
    assert (together - over_tokens).abs() > 1e-3


def test_loss_counts_the_next_label_and_nothing_ignored():
    logits = torch.log(torch.tensor([[[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]]))
    labels = torch.tensor([[-100, 0, 1]])
    expected = -(torch.tensor(0.5).log() + torch.tensor(0.75).log()) / 2
    assert loss_mask(labels).tolist() == [[True, True, False]]
    torch.testing.assert_close(suffix_loss(logits[loss_mask(labels)], labels), expected)
    nothing = torch.full((1, 3), -100)
    assert suffix_loss(logits[loss_mask(nothing)], nothing) == 0


# --- The mask as a truth table --------------------------------------------------------------------

#                 query  keys: p=padding, P=prefix, S=suffix
FULL = {  # left padding:      p P P P S S
    "pad":      ". x x x . .",
    "prefix 1": ". x x x . .",
    "prefix 2": ". x x x . .",
    "prefix 3": ". x x x . .",
    "suffix 1": ". x x x x .",
    "suffix 2": ". x x x x x",
}  # fmt: skip
LOCAL = {  # the same with a window of two positions
    "pad":      ". x x x . .",
    "prefix 1": ". x x x . .",
    "prefix 2": ". x x x . .",
    "prefix 3": ". x x x . .",
    "suffix 1": ". . . x x .",
    "suffix 2": ". . . . x x",
}  # fmt: skip
RIGHT = {  # right padding:    P P S S p p
    "prefix 1": "x x . . . .",
    "prefix 2": "x x . . . .",
    "suffix 1": "x x x . . .",
    "suffix 2": "x x x x . .",
    "pad 1":    "x x x x . .",
    "pad 2":    "x x x x . .",
}  # fmt: skip


@pytest.mark.parametrize(
    ("table", "attention_mask", "token_type_ids", "window"),
    [
        (FULL, [0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1], None),
        (LOCAL, [0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1], 2),
        (RIGHT, [1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1], None),
    ],
    ids=["full", "local", "right-padded"],
)
def test_prefix_lm_mask_truth_table(table, attention_mask, token_type_ids, window):
    mask = prefix_lm_mask(torch.tensor([attention_mask]), torch.tensor([token_type_ids]), window)
    assert mask.shape == (1, 1, 6, 6) and mask.dtype == torch.bool
    drawn = {
        query: " ".join("x" if allowed else "." for allowed in row)
        for query, row in zip(table, mask[0, 0].tolist(), strict=True)
    }
    assert drawn == table


# --- The cache, batches, entry points -------------------------------------------------------------


@both
def test_cached_equals_uncached(name):
    batch, model = prompts(*BATCHES["ragged"]), ours(CONFIGS[name])
    ids, logits = generate(model, batch, steps=16)
    whole = append(model, batch, ids)[:, -17:-1]
    torch.testing.assert_close(torch.stack(logits, 1), whole, rtol=0, atol=1e-4)


@both
def test_batch_equals_single(name):
    lengths, model = BATCHES["ragged"], ours(CONFIGS[name])
    batch = prompts(*lengths)
    ids, logits = generate(model, batch, steps=16)
    for row, length in enumerate(lengths):
        start = max(lengths) - length
        one = {key: value[row : row + 1] for key, value in batch.items()}
        for key in ("input_ids", "attention_mask", "token_type_ids"):
            one[key] = one[key][:, start:]
        alone, expected = generate(model, one, steps=16)
        assert alone.tolist() == ids[row : row + 1].tolist()
        torch.testing.assert_close(
            torch.stack(logits)[:, row], torch.stack(expected)[:, 0], rtol=0, atol=1e-4
        )


def test_forward_with_a_cache_is_prefill_then_decode():
    batch, model = prompts(5, 3), ours(CONFIGS["gemma1"])
    ids, logits = generate(model, batch, steps=3)
    kv_cache = cache_for(model, batch["input_ids"])
    with torch.no_grad():
        output = model(batch["input_ids"], batch["pixel_values"], batch["attention_mask"], kv_cache)
        assert output["kv_cache"] is kv_cache and kv_cache.length == batch["input_ids"].shape[1]
        torch.testing.assert_close(output["logits"][:, -1], logits[0], rtol=0, atol=1e-5)
        output = model(ids[:, :1], kv_cache=kv_cache)
    assert output["logits"].shape == (2, 1, SHARED["vocab_size"])
    torch.testing.assert_close(output["logits"][:, 0], logits[1])


def test_an_image_token_beyond_the_table_is_never_looked_up():
    config = dataclasses.replace(CONFIGS["gemma1"], image_token_index=5000)
    batch, expected = prompts(4), ours(CONFIGS["gemma1"])(**prompts(4))["logits"]
    batch["input_ids"][batch["input_ids"] == IMAGE] = 5000
    torch.testing.assert_close(ours(config)(**batch)["logits"], expected)


def test_text_alone_needs_no_image():
    ids = torch.randint(3, 90, (2, 7))
    assert ours(CONFIGS["gemma1"])(ids)["logits"].shape == (2, 7, SHARED["vocab_size"])


def test_mistaken_inputs_are_refused():
    model, batch = ours(CONFIGS["gemma1"]), prompts(5, 3)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    features = model.embed_image(batch["pixel_values"])
    with pytest.raises(ValueError, match=r"rows of 8 positions, 0 filled; 2 rows of 21"):
        model.prefill(ids, features, mask, KVCache.allocate(model.config.text_config, 2, 8))
    with pytest.raises(ValueError, match="2 rows of 21"):
        model.prefill(ids, features, mask, KVCache.allocate(model.config.text_config, 3, 64))
    with pytest.raises(ValueError, match=r"\[16, 17\] image tokens"):
        extra = ids.clone()
        extra[1, -1] = IMAGE
        model.prefill(extra, features, mask, cache_for(model, ids))
    with pytest.raises(ValueError, match="each must hold 0"):
        model(ids, attention_mask=mask)
    with pytest.raises(ValueError, match="on the left"):
        model.prefill(ids, features, mask.flip(1), cache_for(model, ids))
    with pytest.raises(ValueError, match="token_type_ids"):
        model(**batch | {"token_type_ids": None}, labels=ids)
    with pytest.raises(ValueError, match=r"takes \[B, 3, 28, 28\]"):
        model.embed_image(torch.zeros(1, 3, 32, 32))
    kv_cache = cache_for(model, ids, steps=1)
    model.prefill(ids, features, mask, kv_cache)
    with pytest.raises(ValueError, match=r"not \[2, 3\]"):
        model.decode(ids[:, :3], kv_cache)
    model.decode(ids[:, -1:], kv_cache)
    with pytest.raises(ValueError, match="22 filled; 2 rows of 1 more"):
        model.decode(ids[:, -1:], kv_cache)


# --- The decoder as a packed trainer uses it ------------------------------------------------------


def packed(x):
    """Two sequences in one row: positions that restart, a mask that keeps them apart."""
    half = x.shape[1] // 2
    positions = torch.arange(half).repeat(2)[None].expand(len(x), -1)
    apart = torch.block_diag(*[torch.ones(half, half, dtype=torch.bool).tril()] * 2)
    return positions, apart.bool()[None, None].expand(len(x), 1, -1, -1)


@both
def test_packed_sequences_do_not_mix(name):
    decoder, x = ours(CONFIGS[name]).language_model, torch.randn(2, 12, SHARED["hidden_size"])
    positions, mask = packed(x)
    together = decoder(x, positions, mask, local_mask=mask)
    alone = decoder(x[:, 6:], positions[:, 6:], mask[:, :, 6:, 6:])
    torch.testing.assert_close(together[:, 6:], alone, rtol=0, atol=1e-4)


@both
@pytest.mark.slow
def test_decoder_compiles_whole_under_autocast(name):
    """No graph breaks, and a backward pass; `aot_eager` traces both without a C++ compiler."""
    decoder, x = ours(CONFIGS[name]).language_model, torch.randn(2, 12, SHARED["hidden_size"])
    positions, mask = packed(x)
    compiled = torch.compile(decoder, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        expected, actual = decoder(x, positions, mask, mask), compiled(x, positions, mask, mask)
    assert actual.dtype == torch.float32 and actual.isfinite().all()
    torch.testing.assert_close(actual, expected, rtol=0.05, atol=0.05)
    actual.square().mean().backward()
    trained = [p for key, p in decoder.named_parameters() if key != "embed_tokens.weight"]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


@pytest.mark.slow
def test_tower_compiles_whole():
    model = ours(CONFIGS["gemma1"])
    pixels = torch.rand(2, 3, 28, 28)
    compiled = torch.compile(model.vision_tower, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(pixels), model.vision_tower(pixels), rtol=0, atol=1e-4)


def test_patches_lie_token_by_token_through_the_whole_tower():
    """With the strides of a convolution, compiled gradients became NaN on processors with AMX."""
    tower, layouts = ours(CONFIGS["gemma1"]).vision_tower, []
    for layer in tower.encoder.layers:
        layer.register_forward_hook(lambda *given: layouts.append(given[2].is_contiguous()))
    tower(torch.rand(2, 3, 28, 28))
    assert layouts == [True] * len(tower.encoder.layers)


def test_plain_and_fused_attention_of_the_tower_have_the_same_gradients(monkeypatch):
    tower, gradients = ours(CONFIGS["gemma1"]).vision_tower, []
    pixels = torch.rand(2, 3, 28, 28)
    for few_patches in 0, 256:
        monkeypatch.setattr(paligemma.models.siglip, "FEW_PATCHES", few_patches)
        tower.zero_grad()
        tower(pixels).square().sum().backward()
        gradients.append([p.grad.clone() for p in tower.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("queries", [1, 4])
def test_attention_output_is_softmax_of_scaled_scores(cap, queries):
    q, k, v = torch.randn(2, 6, queries, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    mask = torch.rand(2, 1, queries, 5) > 0.3
    mask[..., 0] = True
    scores = q @ k.repeat_interleave(3, 1).mT * 0.7
    scores = scores if cap is None else cap * torch.tanh(scores / cap)
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    expected = weights @ v.repeat_interleave(3, 1)
    torch.testing.assert_close(attention_output(q, k, v, mask, 0.7, cap), expected)
    torch.testing.assert_close(attention_weights(q, k, mask, 0.7, cap), weights)


@pytest.mark.parametrize("cap", [None, 2.0])
def test_a_query_without_keys_stays_finite(cap):
    """A row of padding must not turn into NaN, which would spread from its values to all."""
    q = torch.randn(1, 2, 3, 8, requires_grad=True)
    mask = torch.tensor([[False] * 3, [True] * 3, [False] * 3])[None, None]
    output = attention_output(q, q, q, mask, 0.3, cap)
    output.sum().backward()
    assert output.isfinite().all() and q.grad.isfinite().all()


def test_bfloat16_keeps_its_dtype_throughout():
    model, batch = ours(CONFIGS["gemma2"]).bfloat16(), prompts(5)
    kv_cache = KVCache.allocate(model.config.text_config, 1, 40, dtype=torch.bfloat16)
    features = model.embed_image(batch["pixel_values"])
    logits = model.prefill(batch["input_ids"], features, batch["attention_mask"], kv_cache)
    assert features.dtype == logits.dtype == torch.bfloat16 and logits.isfinite().all()
    assert model.decode(logits.argmax(-1, keepdim=True), kv_cache).dtype == torch.bfloat16


def test_meta_device_holds_no_memory():
    with torch.device("meta"):
        decoder = GemmaDecoder(TextConfig(**SHARED))
    assert all(tensor.is_meta for tensor in decoder.state_dict().values())
    assert not list(decoder.buffers())
