"""What teaches a prompt's names to find things: another throw-away head, half way up the decoder.

Every name of a kind in a prompt ("detect cat", "is there a cat?") must say, in its own column,
whether there is such a thing and where. Without it the answers alone were slow to teach looking
up: after 100,000 pictures the small decoder still listed what it saw, whatever it was asked for.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from paligemma.training.examples import plural
from paligemma.training.scenes import KINDS, Scene

LAYER = 1  # the decoder layer whose output is asked: those above can use what it found


def places(scenes: Sequence[Scene]) -> Tensor:
    """For each scene and kind, whether it is there and the topmost one's box: [B, kinds, 5]."""
    table = np.zeros((len(scenes), len(KINDS), 5), np.float32)
    kinds = list(KINDS)
    for row, scene in zip(table, scenes, strict=True):
        for item in sorted(scene.items, key=lambda item: -item.box[1]):
            row[kinds.index(item.kind)] = (1, *item.box)
    return torch.from_numpy(table)


def kind_numbers(tokenizer: Tokenizer) -> Tensor:
    """For each token [V] the number of the kind that it names, from 1; 0 for all others."""
    numbers = {name: n for n, kind in enumerate(KINDS, 1) for name in (kind, plural(kind))}
    table = torch.zeros(tokenizer.get_vocab_size(), dtype=torch.long)
    for token, number in tokenizer.get_vocab().items():
        if token.startswith("▁"):
            table[number] = numbers.get(token[1:], 0)
    return table


class NameHead(nn.Module):
    """Hidden states [B, T, D] and `named` [B, T], the numbers of the kinds named -> the loss."""

    def __init__(self, width: int):
        super().__init__()
        self.place = nn.Linear(width, 5)

    def forward(self, hidden: Tensor, named: Tensor, places: Tensor) -> Tensor:
        rows, columns = named.nonzero(as_tuple=True)
        said = self.place(hidden[rows, columns]).float()
        true = places[rows, named[rows, columns] - 1]
        there = true[:, 0]
        presence = F.binary_cross_entropy_with_logits(said[:, 0], there, reduction="sum")
        off = (said[:, 1:] - true[:, 1:]).abs().mean(1)
        away = (off * there).sum() / there.sum().clamp(min=1)
        return presence / max(len(rows), 1) + 5 * away
