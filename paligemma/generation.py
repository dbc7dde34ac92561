"""The one generation loop: a generator of token ids that knows no text.

Prefill once, then sample and decode in turn, one token of each sequence a step. Streaming, batch,
command line and evaluation all consume `stream`; closing the generator stops the model.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from reprlib import repr as short_repr

import torch
import torch.nn.functional as F

from paligemma.models.decode_graph import decoder

MAX_NEW_TOKENS = 512  # the longest answers that PaliGemma was trained to give


@dataclass(frozen=True)
class SamplingOptions:
    """How to choose tokens. Raises ValueError for a value that is out of range.

    max_new_tokens: 1 to MAX_NEW_TOKENS
    temperature: 0 for greedy decoding, without effect of top_k, top_p and seed; or 0.001 to 100
    top_k: 0 (every token) to 1,000,000
    top_p: above 0, to 1 (every token)
    seed: 0 to 2**63 - 1
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self):
        for name, kind, allowed, is_allowed in (
            ("max_new_tokens", Integral, f"a whole number from 1 to {MAX_NEW_TOKENS}",
             lambda n: 1 <= n <= MAX_NEW_TOKENS),
            ("temperature", Real, "0 or from 0.001 to 100", lambda t: t == 0 or 1e-3 <= t <= 100),
            ("top_k", Integral, "0 (off) or a whole number to 1000000", lambda k: 0 <= k <= 10**6),
            ("top_p", Real, "above 0 and up to 1", lambda p: 0 < p <= 1),
            ("seed", Integral, "a whole number from 0 to 2**63 - 1", lambda s: 0 <= s < 2**63),
        ):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind) or not is_allowed(value):
                raise ValueError(f"{name} is {allowed}, not {short_repr(value)}.")


@dataclass(frozen=True)
class Step:
    """One token for each of the B sequences.

    logprobs are natural logarithms under the model's own distribution, before temperature, top-k
    and top-p; of a location that counts with its neighbors, theirs together. A sequence is finished
    from the step of its EOS on; later steps give EOS again, at log-probability 0.
    """

    ids: list[int]
    logprobs: list[float]
    finished: list[bool]


def sample_tokens(
    logits: torch.Tensor, options: SamplingOptions, generator: torch.Generator
) -> torch.Tensor:
    """logits [B, V] -> ids [B] int64, drawn with `generator` (on the logits' device)."""
    if options.temperature == 0:
        return logits.argmax(-1)
    logits = logits.float()
    if 0 < options.top_k < logits.shape[-1]:
        top = logits.topk(options.top_k)
        logits = torch.full_like(logits, -math.inf).scatter(-1, top.indices, top.values)
    probabilities = (logits / options.temperature).softmax(-1)
    if options.top_p < 1:
        ordered, order = probabilities.sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered  # mass of the more probable tokens; 0 for the first
        ordered = ordered.masked_fill(before >= options.top_p, 0.0)
        probabilities = torch.zeros_like(ordered).scatter(-1, order, ordered)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def count_neighbors(logprobs: torch.Tensor, loc_ids: torch.Tensor, reach: int) -> torch.Tensor:
    """Log-probabilities [B, V] in which a location has those of its neighbors too, the less of them
    the further away they are: nothing from `reach` on.

    `loc_ids` [1024]: the ids of the locations, in order. A model that was trained with soft targets
    spreads a location over its neighbors, so that even where an object is as good as certain, no
    location alone is as probable as the end of the answer.
    """
    places = F.pad(logprobs[:, None, loc_ids].exp(), (reach - 1, reach - 1))
    for _ in range(2):  # twice a mean over neighbors is a mean with a peak
        places = F.avg_pool1d(places, reach, stride=1)
    return logprobs.index_copy(1, loc_ids, (reach * places[:, 0]).clamp(max=1).log())


def stream(
    model,
    input_ids: torch.Tensor,
    image_features: torch.Tensor,
    attention_mask: torch.Tensor,
    options: SamplingOptions,
    eos_token_id: int,
    answer_ids: torch.Tensor | None = None,
    loc_ids: Sequence[int] = (),
) -> Iterator[Step]:
    """Generate from input_ids [B, T] (padded on the left) and image_features [B, P, D].

    `answer_ids` [B, A] are the first tokens of the answers, which are continued as if they had
    been generated with the same seed. `loc_ids` are those of the locations, in order: a model with
    a `loc_reach` needs them.

    One `Step` a token. Ends when every sequence is finished, after `options.max_new_tokens` steps,
    or when the model has no positions left. The same seed gives the same ids (on one device, for
    one batch). Raises ValueError, at once, if the prompt alone takes every position.
    """
    text_config = model.config.text_config
    batch, prompt_length = input_ids.shape
    if answer_ids is None:
        answer_ids = input_ids[:, :0]
    length = prompt_length + answer_ids.shape[1]
    budget = min(options.max_new_tokens, text_config.max_position_embeddings - length)
    if budget < 1:
        text = " and the answer so far" if length > prompt_length else ""
        raise ValueError(
            f"The prompt has {length} tokens with its image{text}; the model has room for at most "
            f"{text_config.max_position_embeddings}, the answer included."
        )
    device, dtype = image_features.device, image_features.dtype
    generator = torch.Generator(device).manual_seed(int(options.seed))
    reach = model.config.loc_reach if options.temperature == 0 and loc_ids else None
    locations = torch.tensor(loc_ids if reach else (), device=device)

    # Inference mode ends before each yield: around one it would stay on in the consumer's code.
    @torch.inference_mode()
    def choose(logits: torch.Tensor, finished: torch.Tensor):
        logprobs = logits.float().log_softmax(-1)
        if reach:
            logits = logprobs = count_neighbors(logprobs, locations, reach)
        ids = sample_tokens(logits, options, generator).masked_fill(finished, eos_token_id)
        logprobs = logprobs.gather(-1, ids[:, None])[:, 0].masked_fill(finished, 0.0)
        finished = finished | (ids == eos_token_id)
        # all that is read comes in one transfer, as a GPU's queue is waited for in each
        numbers = torch.stack((ids, logprobs.view(torch.int32).long(), finished.long()))
        return ids[:, None], finished, _transfer(numbers)

    prefill = torch.inference_mode()(model.prefill)

    def steps() -> Iterator[Step]:
        with decoder(model, batch, length + budget, device, dtype) as decode:
            logits = prefill(input_ids, image_features, attention_mask, decode.kv_cache, answer_ids)
            for _ in range(answer_ids.shape[1]):  # the numbers that drew them
                sample_tokens(logits, options, generator)
            finished = torch.zeros(batch, dtype=torch.bool, device=device)
            for count in range(1, budget + 1):
                ids, finished, numbers = choose(logits, finished)
                # a GPU goes on while its last token is read, for nothing if that was the end
                if is_ahead := decode.is_ahead and count < budget:
                    logits = decode(ids)
                step = _to_step(numbers())
                yield step
                if count == budget or all(step.finished):
                    return
                if not is_ahead:
                    logits = decode(ids)

    return steps()


def _transfer(numbers: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Begin to copy `numbers` to the host; the result waits for that, not for what comes later."""
    if not numbers.is_cuda:
        return numbers.cpu
    copied = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    copied.copy_(numbers, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(numbers.device))  # which need not be the current device

    def wait() -> torch.Tensor:
        done.synchronize()
        return copied

    return wait


def _to_step(numbers: torch.Tensor) -> Step:
    """`numbers` [3, B]: ids, the bits of float32 logprobs, and whether each is finished."""
    ids, logprobs, finished = numbers
    logprobs = logprobs.to(torch.int32).view(torch.float32)
    return Step(ids.tolist(), logprobs.tolist(), finished.bool().tolist())
