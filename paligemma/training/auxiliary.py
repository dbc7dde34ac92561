"""Auxiliary heads: small layers that help the model learn, and are no part of it.

`PatchHeads` train the vision tower before there is any text: what does each patch show? Then, at
low weights, three more help the whole model. `word_loss` makes image tokens like the embeddings of
their words: what pairs of image and text teach SigLIP, a patch at a time. `GroundingHead`: each
name in a prompt ("detect cat", "is there a cat?", "what color is the background?") must tell, at
its own token position half way up the decoder, whether there is such an object, where, and in
which color. Without it a small decoder listed all objects whatever the prompt asked for, after
100,000 images. `NextGroupHead`: each position of a caption must tell which
group of like objects comes next; without it captions of four objects repeated one and left out its
neighbor.

Every loss is a sum over positions divided by `counts`, how many of them the whole batch has, over
all micro-batches and processes: so its parts add up to the same gradient.
"""

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from paligemma.synthetic.world import PatchLabels, World

Counts = Mapping[str, Tensor]

GROUNDING_LAYER = 1  # the decoder layer whose output is asked: those above can use what it found
NEXT_GROUP_LAYER = -2  # the last but one


def mean(losses: Tensor, count: Tensor) -> Tensor:
    """The sum of `losses` over `count`, which may be 0 where there are none, and below 1 as a mean
    over processes."""
    return losses.sum() / torch.where(count > 0, count, 1)


def true_indices(where: Tensor) -> Tensor:
    """The indices of the true ones of `where`, flattened.

    A GPU must come to rest to count them, as it must for an index of booleans: so once is best.
    """
    return where.flatten().nonzero()[:, 0]


def take(values: Tensor, indices: Tensor) -> Tensor:
    """Those of `values` [B, T, ...] at `indices`, which `true_indices` found: [n, ...]."""
    return values.flatten(0, 1).index_select(0, indices)


class PatchHeads(nn.Module):
    """What each patch shows: kind, color, box, mask and characters, by one linear layer each."""

    def __init__(self, width: int, world: World) -> None:
        super().__init__()
        self.kind = nn.Linear(width, len(world.kinds) + 1)
        self.color = nn.Linear(width, len(world.colors) + 1)
        self.box = nn.Linear(width, 4)
        self.mask = nn.Linear(width, 64)
        self.characters = nn.Linear(width, 4 * (len(world.characters) + 1))

    @staticmethod
    def counts(labels: PatchLabels) -> dict[str, Tensor]:
        """Patches, and those that an object covers."""
        covered = labels.kind > 0
        return {"patches": torch.ones_like(covered).sum().float(), "covered": covered.sum().float()}

    def forward(
        self, features: Tensor, labels: PatchLabels, counts: Counts | None = None
    ) -> Tensor:
        """Features [B, P, D] -> the loss."""
        counts = counts or self.counts(labels)
        patches, covered = counts["patches"], counts["covered"]
        features = features.float()
        shows = true_indices(labels.kind > 0)
        kind = F.cross_entropy(
            self.kind(features).flatten(0, 1), labels.kind.flatten(), reduction="sum"
        )
        characters = self.characters(features).unflatten(-1, (4, -1))
        character = F.cross_entropy(
            characters.flatten(0, 2), labels.characters.flatten(), reduction="sum"
        )
        features = take(features, shows)
        color = F.cross_entropy(self.color(features), take(labels.color, shows), reduction="sum")
        box = F.l1_loss(self.box(features), take(labels.box, shows), reduction="sum")
        mask = F.binary_cross_entropy_with_logits(
            self.mask(features), take(labels.mask, shows), reduction="sum"
        )
        everywhere = 2 * mean(kind, patches) + 4 * mean(character, 4 * patches)
        return (
            everywhere
            + mean(color, covered)
            + 10 * mean(box, 4 * covered)
            + mean(mask, 64 * covered)
        )


WORD_COUNTS = ("word_kinds", "word_plurals", "word_colors", "word_backgrounds")  # as `WordLists`


def word_ids(tokenizer: Tokenizer, world: World) -> list[Tensor]:
    """The ids of a world's words, [n, tokens] padded with -1: of its lists, one after another."""
    lists = [
        [tokenizer.encode(f" {word}", add_special_tokens=False).ids for word in words]
        for words in chain.from_iterable(world.word_lists())
    ]
    longest = max(len(row) for ids in lists for row in ids)
    return [torch.tensor([row + [-1] * (longest - len(row)) for row in ids]) for ids in lists]


def word_numbers(labels: PatchLabels) -> tuple[Tensor, ...]:
    """Which word of each of a world's `WordLists` a patch has [B, P]; below 0 for none."""
    return labels.kind - 1, labels.kind - 1, labels.color - 1, labels.background


def word_counts(labels: PatchLabels) -> dict[str, Tensor]:
    """How many patches have a word of each of a world's `WordLists`."""
    sums = [(numbers >= 0).sum().float() for numbers in word_numbers(labels)]
    return dict(zip(WORD_COUNTS, sums, strict=True))


def word_loss(
    images: Tensor,
    table: Tensor,
    words: Sequence[Tensor],
    labels: PatchLabels,
    counts: Counts | None = None,
) -> Tensor:
    """How unlike image tokens [B, P, D] are to the embeddings of what they show.

    Cross-entropy of which word of a list (`word_ids`; the mean of its tokens' rows in `table`)
    a patch is most like, where it shows one of them; a mean over languages.
    """
    counts = counts or word_counts(labels)
    ids = torch.cat(list(words))
    is_token = (ids >= 0).to(table.dtype)
    rows = (F.embedding(ids.clamp(min=0), table) * is_token[..., None]).sum(1)
    rows = (rows / is_token.sum(1)[:, None]).split([len(one) for one in words])
    total = torch.zeros((), device=images.device)
    for which, (name, numbers) in enumerate(zip(WORD_COUNTS, word_numbers(labels), strict=True)):
        spoken = rows[which :: len(WORD_COUNTS)]  # once in each language
        shown = true_indices(numbers >= 0)
        scores = take(images, shown).float() @ torch.cat(spoken).T
        losses = [
            F.cross_entropy(one, take(numbers, shown), reduction="sum")
            for one in scores.split([len(one) for one in spoken], 1)
        ]
        total = total + mean(torch.stack(losses), counts[name])
    return total / (len(words) // len(WORD_COUNTS))


class GroundingHead(nn.Module):
    """Whether a name's object is there, its box and its color, by one linear layer."""

    def __init__(self, width: int, world: World) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 5 + len(world.colors) + len(world.backgrounds))

    @staticmethod
    def counts(names: Tensor, grounding: Tensor) -> dict[str, Tensor]:
        """Names, and those of objects that are there."""
        named = names > 0
        present = grounding[..., 0].gather(1, (names - 1).clamp(min=0)) * named
        return {"names": named.sum().float(), "present": present.sum()}

    def forward(
        self, hidden: Tensor, names: Tensor, grounding: Tensor, counts: Counts | None = None
    ) -> Tensor:
        """Hidden states [B, T, D], `names` [B, T], from 1, of those that a token ends (0: none),
        and the world's `grounding` [B, names, 6] -> the loss."""
        counts = counts or self.counts(names, grounding)
        rows, positions = names.nonzero(as_tuple=True)
        predicted = self.linear(hidden[rows, positions]).float()
        true = grounding[rows, names[rows, positions] - 1]
        present = true[:, 0]
        presence = F.binary_cross_entropy_with_logits(predicted[:, 0], present, reduction="sum")
        place = 5 * (predicted[:, 1:5] - true[:, 1:5]).abs().mean(1)
        color = true[:, 5].long()  # -1 where no word says it
        place = place + F.cross_entropy(predicted[:, 5:], color, ignore_index=-1, reduction="none")
        return mean(presence, counts["names"]) + mean(place * present, counts["present"])


class NextGroupHead(nn.Module):
    """Kind, color and count of the next group of a caption, by one linear layer."""

    def __init__(self, width: int, world: World) -> None:
        super().__init__()
        self.sizes = (len(world.kinds) + 1, len(world.colors) + 1, world.max_count + 1)
        self.linear = nn.Linear(width, sum(self.sizes))

    @staticmethod
    def counts(next_group: Tensor) -> dict[str, Tensor]:
        """Token positions of captions."""
        return {"next_group": (next_group[..., 0] >= 0).sum().float()}

    def forward(self, hidden: Tensor, next_group: Tensor, counts: Counts | None = None) -> Tensor:
        """Hidden states [B, T, D] and `next_group` [B, T, 3] (-1 outside captions) -> the loss."""
        counts = counts or self.counts(next_group)
        inside = true_indices(next_group[..., 0] >= 0)
        predicted = self.linear(take(hidden, inside)).float().split(self.sizes, 1)
        true = take(next_group, inside).unbind(1)
        losses = [
            F.cross_entropy(one, other, reduction="sum")
            for one, other in zip(predicted, true, strict=True)
        ]
        return mean(torch.stack(losses), counts["next_group"])
