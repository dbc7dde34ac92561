"""The auxiliary heads: what each reads, and when its loss is 0."""

import pytest
import torch

from paligemma.synthetic.pictograms import patch_labels
from paligemma.synthetic.scenes import Scene
from paligemma.synthetic.world import PatchLabels, open_world
from paligemma.training.auxiliary import GroundingHead, NextGroupHead, PatchHeads, word_loss

WORLD = open_world("pictograms")
NAMES = len(WORLD.kinds) + 1


def test_the_next_group_head_counts_positions_of_captions_only():
    head, hidden = NextGroupHead(8, WORLD), torch.randn(2, 5, 8)
    next_group = torch.full((2, 5, 3), -1)
    assert head(hidden, next_group) == 0
    next_group[1, 2:4] = torch.tensor([3, 2, 1])
    loss = head(hidden, next_group)
    hidden[0] += 1
    hidden[1, 4] += 1
    assert head(hidden, next_group) == loss > 0


def test_the_grounding_head_reads_names_only():
    head = GroundingHead(8, WORLD)
    named = torch.zeros(1, 5, dtype=torch.long)
    named[0, 2] = 1
    hidden = torch.randn(1, 5, 8, requires_grad=True)
    head(hidden, named, torch.zeros(1, NAMES, 6)).backward()
    assert hidden.grad[0, 2].abs().sum() > 0
    assert hidden.grad[0, [0, 1, 3, 4]].abs().sum() == 0


def test_names_are_counted_and_those_that_are_there():
    named, table = torch.tensor([[0, 1, 2], [2, 0, 0]]), torch.zeros(2, NAMES, 6)
    table[0, 1] = table[1, 0] = 1
    counts = GroundingHead.counts(named, table)
    assert {name: count.item() for name, count in counts.items()} == {"names": 3, "present": 1}


def test_the_grounding_loss_is_0_where_all_is_right():
    head, there = GroundingHead(8, WORLD), torch.tensor([1, 0.1, 0.2, 0.3, 0.4, 3])
    table = torch.zeros(1, NAMES, 6)
    table[0, 0] = there
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.fill_(-50)
        head.linear.bias[:5] = torch.tensor([50, 0.1, 0.2, 0.3, 0.4])
        head.linear.bias[5 + 3] = 50
    named = torch.tensor([[1]])
    assert head(torch.zeros(1, 1, 8), named, table).item() == pytest.approx(0, abs=1e-6)
    table[0, 0, 5] = 4
    assert head(torch.zeros(1, 1, 8), named, table) > 10


def test_a_thing_of_several_colors_has_no_color_to_tell():
    head, named = GroundingHead(8, WORLD), torch.tensor([[1]])
    table = torch.zeros(1, NAMES, 6)
    table[0, 0] = torch.tensor([1, 0.1, 0.2, 0.3, 0.4, -1])
    hidden = torch.randn(1, 1, 8)
    head(hidden, named, table).backward()
    assert not head.linear.weight.grad[5:].any() and head.linear.weight.grad[:5].any()


def test_a_patch_that_is_like_its_word_costs_nothing():
    table = torch.eye(8) * 50
    words = [torch.tensor(ids)[:, None] for ids in ([0, 1], [0, 1], [2, 3], [4, 5])]
    labels = PatchLabels(
        torch.tensor([[2, 0]]), torch.tensor([[1, 0]]), None, None, None, torch.tensor([[-1, 1]])
    )
    right = torch.stack([table[1] + table[2], table[5]])[None]
    assert word_loss(right, table, words, labels) == pytest.approx(0, abs=1e-6)
    assert word_loss(right.flip(1), table, words, labels) > 1
    others = [torch.tensor(ids)[:, None] for ids in ([6, 7], [6, 7], [2, 3], [4, 5])]
    assert word_loss(right, table, words + others, labels) > 0.1  # in another language, it is not


def test_images_of_nothing_have_a_finite_loss():
    blank = [torch.from_numpy(a)[None] for a in patch_labels(Scene("navy", "plain", (), (), 0), 4)]
    labels, features = PatchLabels(*blank), torch.randn(1, 16, 8)
    assert PatchHeads(8, WORLD)(features, labels).isfinite()
    words = [torch.tensor([[0], [1]])] * 3 + [torch.arange(6)[:, None]]
    assert word_loss(features, torch.randn(6, 8), words, labels).isfinite()
