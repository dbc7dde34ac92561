"""Ways to summarise attention weights: plain functions, arrays in, arrays out.

    layer_means(attention)    # each layer, the mean over its heads
    rollout(attention)        # also by way of the prompt's token positions
    relative(maps, neutral)   # divided by the attention of a neutral prompt

Attention weights show which values a position read, not what it used of them. Sources: rollout is
Abnar & Zuidema's (arXiv 2005.00928), relative attention Zhang et al.'s (arXiv 2502.17422), sinks
are described by Kang et al. (arXiv 2503.03321).
"""

from dataclasses import dataclass

import numpy as np

SINK_SHARE = 3.0  # a sink gets at least this many times an equal share of the attention
SINK_QUERIES = 0.9  # from at least this fraction of the queries


@dataclass(frozen=True)
class AttentionWeights:
    """Attention weights of the text positions of one sequence, in every layer and head, float32.

    `image` [L, N, Q, P]: to the image's patches, row by row. `text` [L, N, Q, Q]: to the text
    positions. The Q text positions are BOS, the prompt, its newline and the answer; the two parts
    of a query's weights sum to 1.
    """

    image: np.ndarray
    text: np.ndarray


@dataclass(frozen=True)
class Sink:
    """A patch that nearly every token attends to: where it is, and its mean share, 0..1."""

    row: int
    column: int
    share: float

    def __str__(self) -> str:
        return f"row {self.row + 1}, column {self.column + 1} ({self.share:.0%})"


def head(attention: AttentionWeights, layer: int, number: int) -> np.ndarray:
    """One head: [Q, P]. Raises ValueError if there is no such layer or head."""
    layers, heads = attention.image.shape[:2]
    if not (0 <= layer < layers and 0 <= number < heads):
        raise ValueError(
            f"There is no head {number} in layer {layer}: layers are 0 to {layers - 1}, heads 0 to "
            f"{heads - 1}."
        )
    return attention.image[layer, number]


def layer_means(attention: AttentionWeights) -> np.ndarray:
    """Each layer, the mean over its heads: [L, Q, P]."""
    return attention.image.mean(1)


def mean_attention(attention: AttentionWeights) -> np.ndarray:
    """The mean over all layers and heads: [Q, P]."""
    return attention.image.mean((0, 1))


def middle(attention: AttentionWeights) -> np.ndarray:
    """The mean over heads and the third quarter of the layers: [Q, P].

    In these layers answer tokens attend to the objects they name: earlier layers attend to sinks,
    later ones choose the word (Kaduri et al., arXiv 2411.17491, find that the middle layers
    matter).
    """
    layers = len(attention.image)
    return attention.image[layers // 2 : max(layers // 2 + 1, layers * 3 // 4)].mean((0, 1))


def rollout(attention: AttentionWeights) -> np.ndarray:
    """Attention rollout from each patch to each text position, up to each layer: [L, Q, P].

    A layer's output is taken as half residual and half attention (the mean over heads). Paths begin
    at patches and may lead through text positions, so image -> prompt -> answer counts, and not the
    last step only.
    """
    image, text = attention.image.mean(1), attention.text.mean(1)
    flow = np.zeros(image.shape[1:], np.float32)
    layers = []
    for to_image, to_text in zip(image, text, strict=True):
        flow = (flow + to_text @ flow + to_image) / 2
        layers.append(flow)
    return np.stack(layers)


def relative(maps: np.ndarray, neutral: np.ndarray) -> np.ndarray:
    """Attention divided by that of a neutral prompt: `maps` [..., P] by `neutral` [..., P].

    Sinks come to about 1. So do patches with nearly no attention in both: the mean of the neutral
    map is added to both sides.
    """
    floor = neutral.mean(-1, keepdims=True)
    return (maps + floor) / (neutral + floor)


def between_tokens(attention: AttentionWeights) -> np.ndarray:
    """Attention from each text position to each, the mean over all layers and heads: [Q, Q].

    A row sums to the share that does not go to the image. A key that many queries attend to gathers
    and passes on what the image shows, or is a sink.
    """
    return attention.text.mean((0, 1))


def rank_tokens(maps: np.ndarray, patch: int) -> list[int]:
    """The T tokens in order of their values at one patch, highest first. `maps` [T, P]."""
    return np.argsort(-maps[:, patch], kind="stable").tolist()


def sinks(maps: np.ndarray) -> list[Sink]:
    """Attention sinks, the largest first: patches that nearly every query attends to strongly.

    `maps` [Q, P]. Shares are of a query's attention to the image. A sink has at least `SINK_SHARE`
    equal shares from at least `SINK_QUERIES` of the queries.
    """
    shares = maps / np.maximum(maps.sum(1, keepdims=True), np.finfo(np.float32).tiny)
    side, patches = round(maps.shape[1] ** 0.5), maps.shape[1]
    is_sink = np.quantile(shares, 1 - SINK_QUERIES, axis=0) * patches >= SINK_SHARE
    found = [Sink(*divmod(int(p), side), float(shares[:, p].mean())) for p in is_sink.nonzero()[0]]
    return sorted(found, key=lambda sink: -sink.share)
