"""What attention can be made to say: plain functions of recorded weights, numbers in, numbers out.

    layer_means(attention)    # each layer, its heads averaged
    rollout(attention)        # through the prompt's own columns, too
    relative(maps, neutral)   # beside what a prompt that asks nothing looks at

Attention is where a column read from, weighed before its values: it shows what could have mattered,
not what did. Sources: rollout is Abnar & Zuidema's (arXiv 2005.00928), relative attention Zhang et
al.'s (arXiv 2502.17422), sinks are described by Kang et al. (arXiv 2503.03321).
"""

from dataclasses import dataclass

import numpy as np

SINK_SHARE = 3.0  # a sink draws this many times an equal share
SINK_QUERIES = 0.9  # of this share of all columns


@dataclass(frozen=True)
class AttentionWeights:
    """What the text columns of one sequence looked at, in every layer and head, float32.

    `image` [L, N, Q, P]: the picture's patches, row by row. `text` [L, N, Q, Q]: the text columns.
    The Q columns are BOS, the prompt, its newline, the answer; the two parts of a row sum to 1.
    """

    image: np.ndarray
    text: np.ndarray


@dataclass(frozen=True)
class Sink:
    """A patch that draws attention whatever the token: its place, and its mean share, 0..1."""

    row: int
    column: int
    share: float

    def __str__(self) -> str:
        return f"row {self.row + 1}, column {self.column + 1} ({self.share:.0%})"


def head(attention: AttentionWeights, layer: int, number: int) -> np.ndarray:
    """One head: [Q, P]. ValueError for a layer or a head that there is not."""
    layers, heads = attention.image.shape[:2]
    if not (0 <= layer < layers and 0 <= number < heads):
        raise ValueError(
            f"There is no head {number} in layer {layer}: layers are 0 to {layers - 1}, heads 0 to "
            f"{heads - 1}."
        )
    return attention.image[layer, number]


def layer_means(attention: AttentionWeights) -> np.ndarray:
    """Each layer, the mean of its heads: [L, Q, P]."""
    return attention.image.mean(1)


def mean(attention: AttentionWeights) -> np.ndarray:
    """The mean of all layers and heads: [Q, P]."""
    return attention.image.mean((0, 1))


def middle(attention: AttentionWeights) -> np.ndarray:
    """The heads' mean over the third quarter of the layers: [Q, P].

    That is where an answer's columns look things up: before it they draw on sinks, behind it the
    word is chosen (Kaduri et al., arXiv 2411.17491, find that the middle layers matter).
    """
    layers = len(attention.image)
    return attention.image[layers // 2 : max(layers // 2 + 1, layers * 3 // 4)].mean((0, 1))


def rollout(attention: AttentionWeights) -> np.ndarray:
    """What reached each text column from each patch, from the first layer up to each: [L, Q, P].

    A layer passes on half of what a column held and half of what it looked at (the residual beside
    the heads' mean). Patches are where the paths begin; text columns hand on what they gathered, so
    the way image -> prompt -> answer counts, and not the last step only.
    """
    image, text = attention.image.mean(1), attention.text.mean(1)
    held = np.zeros(image.shape[1:], np.float32)
    reached = []
    for to_image, to_text in zip(image, text, strict=True):
        held = (held + to_text @ held + to_image) / 2
        reached.append(held)
    return np.stack(reached)


def relative(maps: np.ndarray, neutral: np.ndarray) -> np.ndarray:
    """How many times more than a neutral prompt: `maps` [..., P] over `neutral` [..., P].

    Patches that draw every query (sinks) fall to about 1. What is next to nothing in both counts as
    1 too: an equal share of the neutral map is added to both sides.
    """
    floor = neutral.mean(-1, keepdims=True)
    return (maps + floor) / (neutral + floor)


def between_tokens(attention: AttentionWeights) -> np.ndarray:
    """Token by token: what each text column made of each, the mean of all layers and heads: [Q, Q].

    A row's sum is what was not spent on the picture. A column that many rows look at gathers and
    hands on what the picture shows, or is a sink.
    """
    return attention.text.mean((0, 1))


def lookers(maps: np.ndarray, patch: int) -> list[int]:
    """The reverse question: which of T tokens looked at a patch, most first. `maps` [T, P]."""
    return np.argsort(-maps[:, patch], kind="stable").tolist()


def sinks(maps: np.ndarray) -> list[Sink]:
    """Patches that draw far more than their share whatever the token, most first. `maps` [Q, P].

    Shares are of what a query spent on the picture. A sink has at least `SINK_SHARE` equal shares
    from at least `SINK_QUERIES` of the queries.
    """
    shares = maps / np.maximum(maps.sum(1, keepdims=True), np.finfo(np.float32).tiny)
    side, patches = round(maps.shape[1] ** 0.5), maps.shape[1]
    always = np.quantile(shares, 1 - SINK_QUERIES, axis=0) * patches >= SINK_SHARE
    found = [Sink(*divmod(int(p), side), float(shares[:, p].mean())) for p in always.nonzero()[0]]
    return sorted(found, key=lambda sink: -sink.share)
