"""Every published variant against transformers, shrunk in width and depth and nowhere else.

Real are the grid of patches, the query and key-value heads, the norms, and where the query scale
leaves the root of head_dim. The softcaps are small enough to bite. The published window of 4096
positions ends between the image and the prompt of the 896 px variants: there it is the real one;
elsewhere it is shorter than the image.
"""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from reference import IMAGE, ours, theirs

from paligemma.checkpoints.catalog import PUBLISHED, PURPOSES
from paligemma.checkpoints.io import read_config
from paligemma.checkpoints.resolve import BUILT_IN_FOLDER
from paligemma.config import VARIANTS, PaliGemmaConfig
from paligemma.models.gemma import KVCache
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration

STEPS = 64
LENGTHS = (9, 4)  # text tokens of the rows of a ragged batch; the first is also read alone
WIDTH, HEAD_DIM = 32, 8
SEEDS = {  # of weights and prompts: no two tokens come within 8e-4 of a tie on the way
    "paligemma-3b-896": 4,
    "paligemma2-3b-224": 4,
    "paligemma2-3b-448": 3,
    "paligemma2-3b-896": 3,
    "paligemma2-10b-224": 1,
    "paligemma2-10b-448": 2,
    "paligemma2-10b-896": 1,
    "paligemma2-28b-224": 9,
    "paligemma2-28b-448": 1,
    "paligemma2-28b-896": 3,
}


def is_large(name: str) -> bool:
    return name.endswith("-896")


def shrunk(name: str) -> PaliGemmaConfig:
    """The variant with its real structure, small enough for one core.

    With 4096 image tokens transformers takes 67 MB a head, row and layer for the scores alone: at
    896 px Gemma 2 keeps the real two query heads to a key-value head, but one such group only.
    """
    config, large = VARIANTS[name], is_large(name)
    vision, text = config.vision_config, config.text_config
    vision = replace(
        vision,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1 if large else 2,
        num_attention_heads=2,
        image_size=2 * vision.grid,
        patch_size=2,
    )
    groups = 1 if large else text.num_key_value_heads
    small = {
        "vocab_size": 101,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 2 if large else 3,
        "num_attention_heads": text.num_attention_heads * groups // text.num_key_value_heads,
        "num_key_value_heads": groups,
        "head_dim": HEAD_DIM,
    }
    if text.post_norms:
        small |= {
            "query_pre_attn_scalar": text.query_pre_attn_scalar * HEAD_DIM // text.head_dim,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        }
        if not large:
            small["sliding_window"] = vision.num_image_tokens // 3
    return PaliGemmaConfig(vision, replace(text, **small), WIDTH, IMAGE)


def prompts(config: PaliGemmaConfig, seed: int) -> dict[str, torch.Tensor]:
    """`reference.prompts` for any grid: images, then `LENGTHS` tokens, padded on the left."""
    generator = torch.Generator().manual_seed(seed)
    image, side = config.vision_config.num_image_tokens, config.vision_config.image_size
    longest = max(LENGTHS)
    input_ids = torch.zeros(len(LENGTHS), image + longest, dtype=torch.long)
    for row, length in zip(input_ids, LENGTHS, strict=True):
        row[longest - length : -length] = IMAGE
        row[-length:] = torch.randint(3, 90, (length,), generator=generator)
    return {
        "input_ids": input_ids,
        "attention_mask": (input_ids != 0).long(),
        "pixel_values": torch.rand(len(LENGTHS), 3, side, side, generator=generator) * 2 - 1,
        "token_type_ids": torch.zeros_like(input_ids),
    }


def greedy(logits: torch.Tensor, ids: list[torch.Tensor]) -> torch.Tensor:
    """The most probable token [B] that is not in `ids`: models this small repeat themselves."""
    if ids:
        logits = logits.scatter(1, torch.stack(ids, 1), -torch.inf)
    return logits.argmax(-1)


def answers(model, batch) -> tuple[torch.Tensor, torch.Tensor]:
    """`STEPS` tokens [B, STEPS], and the logits [B, T + STEPS - 1, V] of every position."""
    rows, length = batch["input_ids"].shape
    kv_cache = KVCache.allocate(model.config.text_config, rows, length + STEPS)
    logits = [model(**batch, kv_cache=kv_cache)["logits"]]
    ids = [greedy(logits[-1][:, -1], [])]
    while len(ids) < STEPS:
        logits.append(model.decode(ids[-1][:, None], kv_cache)[:, None])
        ids.append(greedy(logits[-1][:, -1], ids))
    return torch.stack(ids, 1), torch.cat(logits, 1)


def their_answers(model, batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of a model of transformers."""
    output, mask = model(**batch, use_cache=True), batch["attention_mask"]
    logits = [output.logits]
    ids = [greedy(logits[-1][:, -1], [])]
    while len(ids) < STEPS:
        mask = F.pad(mask, (0, 1), value=1)
        output = model(
            input_ids=ids[-1][:, None],
            attention_mask=mask,
            past_key_values=output.past_key_values,
        )
        logits.append(output.logits)
        ids.append(greedy(logits[-1][:, -1], ids))
    return torch.stack(ids, 1), torch.cat(logits, 1)


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=() if "-224" in one else pytest.mark.slow) for one in VARIANTS],
)
@torch.no_grad()
def test_a_variant_equals_transformers(name):
    """Logits of every position, 64 greedy tokens: a row alone, and in a ragged batch."""
    config, seed = shrunk(name), SEEDS.get(name, 0)
    batch, model, reference = prompts(config, seed), ours(config, seed), theirs(config, seed)
    if is_large(name):  # what has no softcap needs no scores spelled out, which take long here
        capped = "eager" if config.text_config.attn_logit_softcapping else "sdpa"
        reference.set_attn_implementation({"vision_config": "sdpa", "text_config": capped})
    expected, expected_logits = their_answers(reference, batch)
    read = F.pad(batch["attention_mask"].bool(), (0, STEPS - 1), value=True)
    assert expected_logits[read].std() > 1  # the comparison below is of something
    for rows in (1, len(LENGTHS)):
        ids, logits = answers(model, {key: value[:rows] for key, value in batch.items()})
        torch.testing.assert_close(
            logits[read[:rows]], expected_logits[:rows][read[:rows]], rtol=0, atol=1e-4
        )
        assert ids.tolist() == expected[:rows].tolist()
        greedy, expected_greedy = (x[:rows, -STEPS:].argmax(-1) for x in (logits, expected_logits))
        assert greedy.tolist() == expected_greedy.tolist()


@pytest.mark.parametrize(
    "name",
    [
        "paligemma2-3b-224",
        "paligemma2-28b-224",
        pytest.param("paligemma2-3b-896", marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_parity_would_notice_a_window_one_position_off(name):
    """The prefix is read whole; while decoding, sliding layers no longer attend to the image."""
    config, model = shrunk(name), ours(shrunk(name))
    batch = {key: value[:1] for key, value in prompts(config, seed=0).items()}
    length, window = batch["input_ids"].shape[1], config.text_config.sliding_window
    assert window < length and (window == 4096) == is_large(name)
    prefilled = KVCache.allocate(config.text_config, 1, length + STEPS)
    model(**batch, kv_cache=prefilled)
    answer = torch.randint(3, 90, (STEPS, 1, 1), generator=torch.Generator().manual_seed(1))

    def decoded(window: int | None) -> torch.Tensor:
        text = replace(config.text_config, sliding_window=window)
        model.config, kv_cache = replace(config, text_config=text), deepcopy(prefilled)
        return torch.cat([model.decode(ids, kv_cache) for ids in answer])

    right = decoded(window)
    for wrong in (None, window - 1, window + 1):
        assert (decoded(wrong) - right).abs().max() > 5e-4


# --- The tables -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*VARIANTS, "built-in"])
def test_num_parameters_counts_those_of_the_model(name):
    config = VARIANTS[name] if name in VARIANTS else read_config(BUILT_IN_FOLDER)
    with torch.device("meta"):
        model = PaliGemmaForConditionalGeneration(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == config.num_parameters


def test_every_published_checkpoint_is_of_a_known_variant():
    assert len({row.id for row in PUBLISHED}) == len(PUBLISHED)
    assert {row.variant for row in PUBLISHED} == VARIANTS.keys()
    for row in PUBLISHED:
        family, side = row.variant.rsplit("-", 1)
        assert row.id == f"google/{family}-{row.kind}-{side}"
        assert row.config is VARIANTS[row.variant] and row.purpose == PURPOSES[row.kind]
        assert row.config.vision_config.image_size == int(side)
