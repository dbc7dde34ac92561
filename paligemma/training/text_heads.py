"""What teaches a prompt's names to find things: another throw-away head, half way up the decoder.

Every name in a prompt ("detect cat", "is there a cat?", "what color is the background?") must say,
in its own column, whether there is such a thing, where, and in which colour. Without it the answers
alone were slow to teach looking up: after 100,000 pictures the small decoder still listed what it
saw, whatever it was asked for.

A caption has a head of its own, a layer further up: each of its columns must say which group of
like things comes next. The words alone teach that late: captions of four things came out with one
told twice, and its neighbour not at all.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from paligemma.synthetic.language import groups, plural
from paligemma.synthetic.scenes import BACKGROUNDS, COLORS, KINDS, Scene

LAYER = 1  # the decoder layer whose output is asked: those above can use what it found
TOLD_LAYER = -2  # the same for what a caption tells next: the last but one
NAMED = (*KINDS, "background")
SHADES = (*COLORS, *BACKGROUNDS)


def places(scenes: Sequence[Scene]) -> Tensor:
    """What each scene has of each of `NAMED`: [B, names, 6].

    Whether it is there, the topmost one's box, and the number of its colour in `SHADES`.
    """
    table = np.zeros((len(scenes), len(NAMED), 6), np.float32)
    for row, scene in zip(table, scenes, strict=True):
        row[-1] = (1, 0, 0, 1, 1, SHADES.index(scene.background))
        for item in sorted(scene.items, key=lambda item: -item.box[1]):
            row[NAMED.index(item.kind)] = (1, *item.box, SHADES.index(item.color))
    return torch.from_numpy(table)


def name_numbers(tokenizer: Tokenizer) -> Tensor:
    """For each token [V] its number in `NAMED`, from 1; 0 for all that name nothing."""
    numbers = {name: n for n, kind in enumerate(NAMED, 1) for name in (kind, plural(kind))}
    table = torch.zeros(tokenizer.get_vocab_size(), dtype=torch.long)
    for token, number in tokenizer.get_vocab().items():
        if token.startswith("▁"):
            table[number] = numbers.get(token[1:], 0)
    return table


class GroundingHead(nn.Module):
    """Hidden states [B, T, D] and `named` [B, T], the numbers of the names there -> the loss."""

    def __init__(self, width: int):
        super().__init__()
        self.place = nn.Linear(width, 5 + len(SHADES))

    def forward(self, hidden: Tensor, named: Tensor, places: Tensor) -> Tensor:
        rows, columns = named.nonzero(as_tuple=True)
        said = self.place(hidden[rows, columns]).float()
        true = places[rows, named[rows, columns] - 1]
        there = true[:, 0]
        presence = F.binary_cross_entropy_with_logits(said[:, 0], there, reduction="sum")
        off = 5 * (said[:, 1:5] - true[:, 1:5]).abs().mean(1)
        off = off + F.cross_entropy(said[:, 5:], true[:, 5].long(), reduction="none")
        wrong = (off * there).sum() / there.sum().clamp(min=1)
        return presence / max(len(rows), 1) + wrong


def next_told(scene: Scene, numbers: np.ndarray) -> np.ndarray:
    """What a caption tells next, at each column from the one before its first token on: [n+1, 3].

    `numbers` [n]: those of the names in its tokens (`name_numbers`). Kind and colour from 1, and
    how many; all 0 when everything is told.
    """
    rows = [
        (list(KINDS).index(kind) + 1, list(COLORS).index(color) + 1, count)
        for kind, color, count in groups(scene)
    ] + [(0, 0, 0)]
    things = (numbers > 0) & (numbers <= len(KINDS))
    passed = np.minimum(np.cumsum([False, *things]), len(rows) - 1)
    return np.array(rows)[passed]


class NextGroupHead(nn.Module):
    """Hidden states [B, T, D] and `upcoming` [B, T, 3] (-1 outside captions) -> the loss."""

    SIZES = (len(KINDS) + 1, len(COLORS) + 1, 5)

    def __init__(self, width: int):
        super().__init__()
        self.say = nn.Linear(width, sum(self.SIZES))

    def forward(self, hidden: Tensor, upcoming: Tensor) -> Tensor:
        told = upcoming[..., 0] >= 0
        said = self.say(hidden[told]).float().split(self.SIZES, 1)
        true = upcoming[told].unbind(1)
        pairs = zip(said, true, strict=True)
        return sum(F.cross_entropy(s, t, reduction="sum") for s, t in pairs) / max(len(true[0]), 1)
