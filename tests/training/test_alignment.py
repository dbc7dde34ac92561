"""Words that start alike to the patches which show what they name."""

from dataclasses import replace

import pytest
import torch

from paligemma import PaliGemma
from paligemma.models.init import initialize
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration
from paligemma.synthetic.world import open_world
from paligemma.training.alignment import LEAN, SHARED, align_words
from paligemma.training.auxiliary import PatchHeads, word_ids
from paligemma.training.config import Auxiliary

WORLD = open_world("pictograms")


@pytest.fixture(scope="module")
def built_in() -> PaliGemma:
    return PaliGemma.load()


@pytest.fixture(scope="module")
def aligned(built_in):
    model = PaliGemmaForConditionalGeneration(built_in.model.config)
    initialize(model, 0)
    before = model.language_model.embed_tokens.weight.detach().clone()
    heads = PatchHeads(built_in.model.config.vision_config.hidden_size, WORLD)
    align_words(model, heads, built_in.processor.tokenizer, WORLD)
    return model, heads, before


def test_a_patch_is_most_like_its_words(aligned, built_in):
    model, heads, _ = aligned
    table = model.language_model.embed_tokens.weight
    kinds, plurals, colors, _ = word_ids(built_in.processor.tokenizer, WORLD)
    for words, head in ((kinds, heads.kind), (plurals, heads.kind), (colors, heads.color)):
        patches = head.weight[1:] - head.weight[1:].mean(0)
        images = model.multi_modal_projector(patches[None])[0]
        rows = torch.stack([table[ids[ids >= 0]].mean(0) for ids in words])
        assert (images @ rows.T).argmax(1).tolist() == list(range(len(words)))


def test_other_words_stay_and_lengths_too(aligned, built_in):
    model, heads, before = aligned
    table = model.language_model.embed_tokens.weight
    torch.testing.assert_close(table.norm(dim=1), before.norm(dim=1))
    ids = built_in.processor.tokenizer.token_to_id
    encode = built_in.processor.tokenizer.encode
    detect, anchor = encode("detect anchor", add_special_tokens=False).ids
    for number in (ids("<loc0000>"), ids("<bos>"), detect):
        assert torch.equal(table[number], before[number])
    row, own = table[anchor], before[anchor]
    direction = heads.kind.weight[1 + WORLD.kinds.index("anchor")] - heads.kind.weight[1:].mean(0)
    assert torch.cosine_similarity(row, direction, dim=0) > LEAN - 0.15
    assert torch.cosine_similarity(row, own, dim=0) > (1 - LEAN**2 - SHARED**2) ** 0.5 - 0.15


def test_plurals_share_a_direction(aligned, built_in):
    model, _, before = aligned
    table = model.language_model.embed_tokens.weight
    kinds, plurals, *_ = word_ids(built_in.processor.tokenizer, WORLD)

    def likeness(table: torch.Tensor) -> torch.Tensor:
        """Of the ways from singulars to plurals, on average."""
        pairs = [(one[0], more[0]) for one, more in zip(kinds, plurals, strict=True)]
        ways = torch.stack([table[more] - table[one] for one, more in pairs if one != more])
        ways = torch.nn.functional.normalize(ways, dim=1)
        return (ways @ ways.T).mean()

    assert likeness(table) > likeness(before) + 0.1


def test_the_tower_must_be_as_wide_as_the_decoder(built_in):
    config = built_in.model.config
    vision = replace(config.vision_config, hidden_size=2 * config.vision_config.hidden_size)
    with torch.device("meta"):
        model = PaliGemmaForConditionalGeneration(replace(config, vision_config=vision))
    with pytest.raises(ValueError, match="as wide as the decoder"):
        align_words(model, PatchHeads(8, WORLD), built_in.processor.tokenizer, WORLD)


def test_it_needs_the_heads_of_patches():
    with pytest.raises(ValueError, match="needs the heads of patches"):
        Auxiliary(words=0.25, align_words=True)
