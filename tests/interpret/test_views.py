"""Each view on weights small enough to compute by hand."""

import numpy as np
import pytest

from paligemma.interpret.views import (
    AttentionWeights,
    Sink,
    between_tokens,
    head,
    layer_means,
    mean_attention,
    middle,
    rank_tokens,
    relative,
    rollout,
    sinks,
)

L, N, Q, P = 3, 2, 4, 9


@pytest.fixture
def attention() -> AttentionWeights:
    """Random rows that sum to 1; no other position attends to the last one, an answer's."""
    rows = np.random.default_rng(0).random((L, N, Q, P + Q), np.float32)
    rows[:, :, :-1, -1] = 0
    rows /= rows.sum(-1, keepdims=True)
    return AttentionWeights(rows[..., :P], rows[..., P:])


def test_heads_and_means(attention):
    assert (head(attention, 2, 1) == attention.image[2, 1]).all()
    pairs = [head(attention, 2, n) for n in range(N)]
    assert layer_means(attention)[2] == pytest.approx(np.mean(pairs, axis=0))
    assert mean_attention(attention) == pytest.approx(layer_means(attention).mean(0))
    assert middle(attention) == pytest.approx(layer_means(attention)[1])  # one of three
    total = mean_attention(attention).sum(1) + between_tokens(attention).sum(1)
    assert total == pytest.approx(1, abs=1e-5) and between_tokens(attention).shape == (Q, Q)


@pytest.mark.parametrize(
    "layers, expected",
    [(1, [0]), (2, [1]), (4, [2]), (18, [9, 10, 11, 12]), (26, [*range(13, 19)])],
)
def test_middle_is_the_third_quarter_of_the_layers(layers, expected):
    image = np.zeros((layers, N, Q, P), np.float32)
    image[expected] = 1
    assert (middle(AttentionWeights(image, image)) == 1).all() and image.mean() == len(
        expected
    ) / layers


@pytest.mark.parametrize("layer, number", [(-1, 0), (L, 0), (0, -1), (0, N)])
def test_no_such_head(attention, layer, number):
    with pytest.raises(ValueError, match="layers are 0 to 2, heads 0 to 1"):
        head(attention, layer, number)


def test_rollout_is_the_product_of_whole_matrices(attention):
    """Abnar & Zuidema's, with the rows of the patches left as they are."""
    product = np.eye(P + Q)
    for layer, flow in enumerate(rollout(attention)):
        step = np.eye(P + Q)
        step[P:, :P], step[P:, P:] = attention.image[layer].mean(0), attention.text[layer].mean(0)
        step[P:] = (step[P:] + np.eye(P + Q)[P:]) / 2
        product = step @ product
        assert flow == pytest.approx(product[P:, :P], abs=1e-6)


def test_rollout_goes_by_way_of_the_prompt():
    """The answer attends to no patch; its prompt attends to patch 2 a layer before."""
    image, text = np.zeros((2, 1, 2, 4), np.float32), np.zeros((2, 1, 2, 2), np.float32)
    image[0, 0, 0, 2] = text[0, 0, 1, 1] = text[1, 0, 0, 0] = text[1, 0, 1, 0] = 1
    maps = rollout(AttentionWeights(image, text))
    assert mean_attention(AttentionWeights(image, text))[1].tolist() == [0, 0, 0, 0]
    assert maps[1, 1].tolist() == [0, 0, 0.25, 0] and maps[0, 1].tolist() == [0, 0, 0, 0]


def test_relative_removes_the_sinks():
    neutral = np.array([0.5, 0.1, 0.0, 0.0])
    maps = np.array([[0.5, 0.1, 0.0, 0.0], [0.5, 0.1, 0.3, 0.0]])
    same, other = relative(maps, neutral)
    assert same == pytest.approx(1)
    assert other.argmax() == 2 and other[2] == pytest.approx(3) and other[0] == pytest.approx(1)
    assert maps[1].argmax() == 0  # which the plain map does not show


def test_tokens_are_ranked_by_their_value_at_a_patch():
    maps = np.array([[0.1, 0.2], [0.3, 0.2], [0.2, 0.9]])
    assert rank_tokens(maps, 0) == [1, 2, 0] and rank_tokens(maps, 1) == [2, 0, 1]


def test_sinks_get_attention_from_every_token():
    maps = np.full((20, P), 0.01)
    maps[:, 5] = 0.3  # from every token
    maps[:15, 2] = 0.3  # as much, but not from every token
    (sink,) = sinks(maps)
    assert (sink.row, sink.column) == (1, 2) and 0.4 < sink.share < 0.6
    assert str(Sink(1, 2, 0.496)) == "row 2, column 3 (50%)"
    assert sinks(np.full((20, P), 0.01)) == [] and sinks(np.zeros((20, P))) == []
    both = np.full((3, 100), 0.001)
    both[:, 7], both[:, 93] = 0.1, 0.2
    assert [(sink.row, sink.column) for sink in sinks(both)] == [(9, 3), (0, 7)]
