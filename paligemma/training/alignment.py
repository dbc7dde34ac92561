"""A start for the connector and for the words of a world, from what its tower has learned.

The tower's patch heads know the direction in which a patch that shows a dog differs from others.
With a connector that passes features on as they are, a word whose embedding leans that way is like
the patches that show what it names, before the decoder has seen a single image: the likeness that
`auxiliary.word_loss` asks for, which otherwise takes some hundred steps to appear.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from paligemma.models.paligemma import PaliGemmaForConditionalGeneration
from paligemma.synthetic.world import World
from paligemma.training.auxiliary import PatchHeads

LEAN = 0.8  # cosine of a word with the direction of what it names
SHARED = 0.45  # with that of its language and number; the rest is its own
MOST_MEANINGS = 3  # a word in more names than that says nothing of what is seen
LEAST_LETTERS = 3  # shorter pieces spell many words


@torch.no_grad()
def align_words(
    model: PaliGemmaForConditionalGeneration,
    heads: PatchHeads,
    tokenizer: Tokenizer,
    world: World,
) -> None:
    """Set the connector to pass features on, and lean the words of `world` towards their patches.

    Raises ValueError if the tower is not as wide as the decoder.
    """
    connector = model.multi_modal_projector.linear
    if connector.in_features != connector.out_features:
        raise ValueError(
            f"align_words needs a tower as wide as the decoder, not {connector.in_features} and "
            f"{connector.out_features}"
        )
    torch.nn.init.eye_(connector.weight)
    torch.nn.init.zeros_(connector.bias)
    table = model.language_model.embed_tokens.weight
    kinds, colors = (_directions(head.weight) for head in (heads.kind, heads.color))
    generator = torch.Generator().manual_seed(0)
    shared = lambda: F.normalize(torch.randn(table.shape[1], generator=generator), dim=0)
    plural = shared()
    names: dict[int, dict[tuple[str, int], Tensor]] = defaultdict(dict)
    traits: dict[int, dict[tuple[int, bool], Tensor]] = defaultdict(dict)
    for language, lists in enumerate(world.word_lists()):
        spoken = shared()
        for words, directions, sort in (
            (lists.kinds, kinds, "kind"),
            (lists.plurals, kinds, "kind"),
            (lists.colors, colors, "color"),
        ):
            is_plural = words is lists.plurals
            for number, word in enumerate(words):
                for token in _tokens(tokenizer, word):
                    names[token][sort, number] = directions[number]
                    traits[token][language, is_plural] = spoken + plural * is_plural
    for token, found in names.items():
        if len(found) <= MOST_MEANINGS:
            row = table[token]
            own = (1 - LEAN**2 - SHARED**2) ** 0.5 * F.normalize(row, dim=0)
            leaning = LEAN * _mean(found.values()) + SHARED * _mean(traits[token].values()) + own
            row.copy_(F.normalize(leaning, dim=0) * row.norm())


def _mean(directions: Iterable[Tensor]) -> Tensor:
    return F.normalize(torch.stack(list(directions)).sum(0), dim=0)


def _directions(weight: Tensor) -> Tensor:
    """Unit vectors [n, D] of the classes of a head [n + 1, D], the first of which is "nothing"."""
    classes = weight[1:].float()
    return F.normalize(classes - classes.mean(0), dim=1)


def _tokens(tokenizer: Tokenizer, word: str) -> Sequence[int]:
    """The tokens of a word as prompts and answers may write it."""
    found = set()
    for form in {word, word.lower(), word[:1].upper() + word[1:]}:
        for text in (form, f" {form}"):
            encoded = tokenizer.encode(text, add_special_tokens=False)
            found |= {
                number
                for number, piece in zip(encoded.ids, encoded.tokens, strict=True)
                if len(piece.strip("▁")) >= LEAST_LETTERS
            }
    return sorted(found)
