"""The generation loop: against a chain whose answers are known, and against the model uncached."""

import math
from reprlib import repr as short_repr
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from paligemma import generation
from paligemma.config import PaliGemmaConfig, TextConfig, VisionConfig
from paligemma.generation import MAX_NEW_TOKENS, SamplingOptions, Step, sample_tokens, stream
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration

EOS = 1


class Chain:
    """A stand-in model: the next token's logits are a row of `table` [V, V], by the last token."""

    def __init__(self, table: torch.Tensor, positions: int = 64, loc_reach: int | None = None):
        self.table, self.calls = table, []
        text = TextConfig(len(table), 8, 8, 1, 1, 1, 8, max_position_embeddings=positions)
        self.config = SimpleNamespace(text_config=text, loc_reach=loc_reach)

    def prefill(self, input_ids, image_features, attention_mask, kv_cache, answer_ids):
        return self._read(input_ids, kv_cache)

    def decode(self, ids, kv_cache):
        return self._read(ids, kv_cache)

    def _read(self, ids, kv_cache):
        assert torch.is_inference_mode_enabled()
        kv_cache.reserve(torch.ones_like(ids, dtype=torch.bool))
        kv_cache.length += ids.shape[1]
        self.kv_cache = kv_cache
        self.calls.append(ids.tolist())
        return self.table[ids[:, -1]]


def run(model, last: list[int], length: int = 3, eos: int = EOS, loc_ids=(), **options):
    ids = torch.tensor([[5] * (length - 1) + [token] for token in last])
    features = torch.zeros(len(last), 1, 8)
    sampling = SamplingOptions(**options)
    return stream(model, ids, features, torch.ones_like(ids), sampling, eos, loc_ids=loc_ids)


def successor(size: int = 8) -> torch.Tensor:
    """After token n comes n - 1, nearly surely; after 0 comes 0."""
    table = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
    table[torch.arange(size), (torch.arange(size) - 1).clamp(min=0)] = 9.0
    return table


# ------------------------------------------------------------------------------------- the loop


def test_greedy_follows_the_chain_until_eos():
    model = Chain(successor())
    steps = list(run(model, [5]))
    assert [step.ids for step in steps] == [[4], [3], [2], [EOS]]
    assert [step.finished for step in steps] == [[False], [False], [False], [True]]
    assert model.calls == [[[5, 5, 5]], [[4]], [[3]], [[2]]]  # EOS is never read


def test_rows_end_at_different_times():
    steps = list(run(Chain(successor()), [3, 6, 2]))
    rows = list(zip(*(step.ids for step in steps), strict=True))
    assert rows == [(2, 1, 1, 1, 1), (5, 4, 3, 2, 1), (1, 1, 1, 1, 1)]
    assert steps[0].finished == [False, False, True]
    assert steps[-1].finished == [True, True, True]
    assert [step.logprobs[2] for step in steps[1:]] == [0.0] * 4
    assert all(step.logprobs[1] < 0 for step in steps)


def test_a_finished_row_does_not_disturb_the_others():
    alone = list(run(Chain(successor()), [6]))
    together = list(run(Chain(successor()), [2, 6]))
    assert [step.ids[0] for step in alone] == [step.ids[1] for step in together]
    assert [step.logprobs[0] for step in alone] == [step.logprobs[1] for step in together]


def spread() -> torch.Tensor:
    """After any token: nine locations from 3 on share .8, the middle one twice; EOS has .2."""
    shares = torch.tensor([0.0, 0.2, 0.0, *[0.08] * 4, 0.16, *[0.08] * 4, *[0.0] * 4])
    return shares.log().repeat(len(shares), 1)


def test_locations_count_with_their_neighbors():
    def first(loc_reach: int | None, **options) -> Step:
        model, loc_ids = Chain(spread(), loc_reach=loc_reach), range(3, 16)
        return next(run(model, [2], loc_ids=loc_ids, max_new_tokens=1, **options))

    assert first(None).ids == first(1).ids == [EOS]
    assert first(None).logprobs == first(1).logprobs == [pytest.approx(math.log(0.2))]
    middle = first(3)
    assert middle.ids == [7]
    assert middle.logprobs == [pytest.approx(math.log(0.16 + 2 * 0.08 * (2 / 3 + 1 / 3)))]
    drawn = [first(3, temperature=1.0, seed=seed) for seed in range(40)]
    assert len({one.ids[0] for one in drawn}) > 5, "what is drawn is drawn from each alone"
    alone = [one.logprobs[0] for one in drawn if one.ids == [7]]
    assert alone == pytest.approx([math.log(0.16)] * len(alone))


def test_a_location_has_no_more_than_all_of_them_and_others_keep_theirs():
    logprobs = torch.full((2, 6), -30.0)
    logprobs[0, 4] = logprobs[1, 0] = 0.0
    counted = generation.count_neighbors(logprobs, torch.tensor([5, 4, 3]), 2)
    assert counted[0, 3:].exp().tolist() == pytest.approx([0.5, 1.0, 0.5])
    assert counted[:, :3].tolist() == logprobs[:, :3].tolist() and counted[1].argmax() == 0


def test_the_budget_ends_it():
    model = Chain(successor())
    steps = list(run(model, [7], max_new_tokens=3))
    assert [step.ids for step in steps] == [[6], [5], [4]]
    assert steps[-1].finished == [False]
    assert len(model.calls) == 3  # the last token is not read
    assert model.kv_cache.max_length == 3 + 3


def test_the_positions_end_it():
    model = Chain(successor(), positions=5)
    assert len(list(run(model, [7], max_new_tokens=100))) == 2
    assert model.kv_cache.max_length == 5
    with pytest.raises(ValueError, match=r"has 5 tokens with its image; .* at most 5"):
        run(model, [7], length=5)  # at once, before the first step is asked for


def test_closing_stops_the_model():
    model = Chain(successor())
    steps = run(model, [7])
    assert model.calls == []
    next(steps), next(steps)
    steps.close()
    assert len(model.calls) == 2
    assert list(steps) == []


def test_inference_mode_does_not_reach_the_consumer():
    for step in run(Chain(successor()), [5]):
        assert not torch.is_inference_mode_enabled()
        weight = torch.ones(1, requires_grad=True)
        (weight * step.logprobs[0]).backward()
        assert weight.grad is not None


def test_a_transfer_waits_for_its_own_device(monkeypatch):
    """For a model on a GPU that is not the current one; there is none here, so nothing is run."""
    waited = []

    class Event:
        def record(self, stream):
            waited.append(stream)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: device)
    with FakeTensorMode():
        generation._transfer(torch.zeros(3, 1, dtype=torch.long, device="cuda:1"))
    assert waited == [torch.device("cuda", 1)]


def test_steps_are_plain_values():
    step = next(run(Chain(successor()), [5]))
    assert isinstance(step, Step)
    assert [type(field[0]) for field in (step.ids, step.logprobs, step.finished)] == [
        int,
        float,
        bool,
    ]


@pytest.mark.parametrize("options", [{}, {"temperature": 3.0, "top_k": 4, "top_p": 0.8}])
def test_logprobs_are_those_of_the_untempered_model(options):
    table = torch.randn(8, 8, generator=torch.Generator().manual_seed(3))
    before = 5
    for step in run(Chain(table), [before], eos=99, max_new_tokens=20, **options):
        expected = table[before].log_softmax(-1)[step.ids[0]].item()
        assert step.logprobs[0] == pytest.approx(expected, abs=1e-6)
        before = step.ids[0]


def test_half_precision_logits_have_exact_logprobs():
    table = successor().bfloat16()
    step = next(run(Chain(table), [5], temperature=1.0))
    expected = table[5].float().log_softmax(-1)[step.ids[0]].item()
    assert step.logprobs[0] == pytest.approx(expected, abs=1e-6)


def test_the_seed_decides():
    table = torch.zeros(50, 50)

    def draw(seed):
        options = {"temperature": 1.0, "seed": seed, "max_new_tokens": 30}
        return [step.ids for step in run(Chain(table), [5, 6], eos=99, **options)]

    torch.manual_seed(1)
    first = draw(7)
    torch.manual_seed(2)  # the global generator plays no part, and is left alone
    state = torch.get_rng_state()
    assert draw(7) == first and draw(8) != first
    assert torch.equal(torch.get_rng_state(), state)
    assert first[0] != first[1]


# ------------------------------------------------------------------------------------ one token

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -math.inf])


def frequencies(draws: int = 40_000, **options) -> torch.Tensor:
    rows = LOGITS.expand(draws, -1)
    ids = sample_tokens(rows, SamplingOptions(**options), torch.Generator().manual_seed(0))
    assert ids.shape == (draws,) and ids.dtype == torch.int64
    return torch.bincount(ids, minlength=len(LOGITS)) / draws


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    assert ((found == 0) == (expected == 0)).all(), found
    return bool((found - expected).abs().max() < 0.01)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_temperature(temperature):
    assert close(frequencies(temperature=temperature), (LOGITS / temperature).softmax(-1))


@pytest.mark.parametrize("k", [1, 2, 5, 6, 100])
def test_top_k(k):
    expected = torch.where(torch.arange(6) < k, LOGITS, -math.inf).softmax(-1)
    assert close(frequencies(temperature=1.0, top_k=k), expected)


@pytest.mark.parametrize(
    "p, count", [(1e-9, 1), (0.55, 1), (0.57, 2), (0.75, 2), (0.78, 3), (0.99, 5), (1.0, 5)]
)
def test_top_p_allows_the_fewest_that_reach_it(p, count):
    # Cumulative: 0.56, 0.77, 0.89, 0.97, 1.
    expected = torch.where(torch.arange(6) < count, LOGITS, -math.inf).softmax(-1)
    assert close(frequencies(temperature=1.0, top_p=p), expected)


def test_temperature_then_top_k_then_top_p():
    # At temperature 2 the top three have 0.477, 0.29 and 0.233: two reach 0.7.
    expected = torch.where(torch.arange(6) < 2, LOGITS / 2, -math.inf).softmax(-1)
    assert close(frequencies(temperature=2.0, top_k=3, top_p=0.7), expected)


def test_top_k_allows_k_of_equals():
    ids = sample_tokens(
        torch.zeros(2000, 9), SamplingOptions(temperature=1.0, top_k=4), torch.Generator()
    )
    assert len(ids.unique()) == 4


def test_the_coldest_temperature_is_greedy():
    found = frequencies(draws=100, temperature=0.001)
    assert found.tolist() == [1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": 1.5},
        {"max_new_tokens": True},
        {"max_new_tokens": -1},
        {"max_new_tokens": MAX_NEW_TOKENS + 1},
        {"max_new_tokens": 10**4000},
        {"max_new_tokens": 1e30},
        {"max_new_tokens": math.nan},
        {"max_new_tokens": math.inf},
        {"max_new_tokens": "128"},
        {"max_new_tokens": [128]},
        {"temperature": -0.1},
        {"temperature": 100.1},
        {"temperature": True},
        {"temperature": 1e-9},
        {"temperature": math.inf},
        {"temperature": math.nan},
        {"temperature": "0"},
        {"temperature": None},
        {"top_k": -1},
        {"top_k": 2.0},
        {"top_k": 10**6 + 1},
        {"top_k": False},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"top_p": math.inf},
        {"top_p": True},
        {"seed": -1},
        {"seed": 2**63},
        {"seed": 1e30},
        {"seed": "x" * 10**6},
    ],
    ids=short_repr,
)
def test_options_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"^{name} is .*, not .*[.]$") as refused:
        SamplingOptions(**options)
    assert len(str(refused.value)) < 150


# ------------------------------------------------------------------------------------ the model

IMAGE, PAD = 31, 0
GEMMA1 = TextConfig(32, 16, 24, 3, 4, 1, 8)
GEMMA2 = TextConfig(
    32, 16, 24, 4, 4, 2, 8, 8192, 1e-6, 10000.0, 12, 5.0, 3.0, sliding_window=5, post_norms=True
)


def make_model(text: TextConfig) -> PaliGemmaForConditionalGeneration:
    """Small, with weights wide enough that every part of it matters."""
    torch.manual_seed(0)
    vision = VisionConfig(16, 24, 2, 2, image_size=8, patch_size=4)
    model = PaliGemmaForConditionalGeneration(PaliGemmaConfig(vision, text, 16, IMAGE))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model.eval()


def naive(model, prompt: list[int], pixels: torch.Tensor, budget: int):
    """The oracle: the whole sequence anew for every token, no cache, no padding, no batch."""
    ids, logprobs = list(prompt), []
    for _ in range(budget):
        types = [0] * len(prompt) + [1] * (len(ids) - len(prompt))
        with torch.no_grad():
            logits = model(torch.tensor([ids]), pixels[None], token_type_ids=torch.tensor([types]))[
                "logits"
            ][0, -1]
        ids.append(int(logits.argmax()))
        logprobs.append(logits.log_softmax(-1)[ids[-1]].item())
    return ids[len(prompt) :], logprobs


@pytest.mark.parametrize("text", [GEMMA1, GEMMA2], ids=["gemma 1", "gemma 2"])
def test_ragged_batch_equals_the_naive_loop(text):
    model = make_model(text)
    pixels = torch.randn(3, 3, 8, 8)
    prompts = [[IMAGE] * 4 + [2, *range(4, 4 + n), 3] for n in (1, 6, 3)]
    oracle = [naive(model, *pair, budget=12) for pair in zip(prompts, pixels, strict=True)]
    assert len({tuple(ids) for ids, _ in oracle}) == 3  # images and prompts do matter

    width = max(map(len, prompts))
    blanks = [[PAD] * (width - len(prompt)) for prompt in prompts]
    ids = torch.tensor([b + p for b, p in zip(blanks, prompts, strict=True)])
    mask = torch.tensor([[0] * len(b) + [1] * len(p) for b, p in zip(blanks, prompts, strict=True)])
    with torch.no_grad():
        features = model.embed_image(pixels)
    options = SamplingOptions(max_new_tokens=12)
    steps = list(stream(model, ids, features, mask, options, eos_token_id=-1))
    for row, (expected, logprobs) in enumerate(oracle):
        assert [step.ids[row] for step in steps] == expected
        assert [step.logprobs[row] for step in steps] == pytest.approx(logprobs, abs=1e-4)
