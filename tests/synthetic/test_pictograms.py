"""The pictograms as training sees them: labels of patches, and of names."""

import re

import numpy as np
import pytest

from paligemma.synthetic.language import groups, plural
from paligemma.synthetic.pictograms import patch_labels
from paligemma.synthetic.scenes import (
    BACKGROUNDS,
    CHARACTERS,
    COLORS,
    KINDS,
    Item,
    Scene,
    Text,
    sample,
    silhouette,
)
from paligemma.synthetic.world import open_world

WORLD = open_world("pictograms")
NAMES = (*KINDS, "background")
SHADES = (*COLORS, *BACKGROUNDS)


def test_patch_labels():
    sun = Item("sun", "red", 0.25, 0.25, 0.3, 0)
    text = Text("7", 0.7, 0.8, 0.2, (0, 0, 0))
    kind, color, box, mask, characters, ground = patch_labels(
        Scene("white", "plain", (sun,), (text,), 0), 8
    )
    assert kind.shape == color.shape == (64,) and box.shape == (64, 4)
    assert mask.shape == (64, 64) and characters.shape == (64, 4)
    middle, far = 2 * 8 + 2, 7 * 8 + 0  # row by row from the top left
    assert kind[middle] == list(KINDS).index("sun") + 1 and kind[far] == 0
    assert color[middle] == list(COLORS).index("red") + 1 and color[far] == 0
    assert box[middle] == pytest.approx(sun.box) and not box[far].any()
    assert ground[middle] == -1 and ground[far] == list(BACKGROUNDS).index("white")
    assert (ground[characters.any(1)] == -1).all()
    covered = kind > 0
    rows, columns = np.divmod(covered.nonzero()[0], 8)
    assert rows.min() >= 0 and rows.max() <= 3 and columns.max() <= 3  # the sun ends at 0.4
    assert not mask[~covered].any()
    whole = mask.reshape(8, 8, 8, 8).transpose(0, 2, 1, 3).reshape(64, 64) > 0
    truth = silhouette(sun, 64) > 0
    assert not (whole & ~truth).any() and (truth & ~whole).sum() < 4 * (~covered).sum()
    (x1, y1, x2, y2) = text.box
    quarters = characters.reshape(8, 8, 2, 2).transpose(0, 2, 1, 3).reshape(16, 16)
    rows, columns = np.nonzero(quarters)
    assert set(quarters[rows, columns]) == {CHARACTERS.index("7") + 1}
    assert quarters[int((y1 + y2) * 8), int((x1 + x2) * 8)] > 0
    assert y1 * 16 - 1 <= rows.min() and rows.max() <= y2 * 16
    assert x1 * 16 - 1 <= columns.min() and columns.max() <= x2 * 16


def test_patch_labels_of_nothing():
    for labels in patch_labels(Scene("white", "plain", (), (), 0), 4):
        assert not labels.any()


def test_grounding_is_that_of_the_topmost():
    low = Item("cat", "red", 0.5, 0.8, 0.2, 0)
    high = Item("cat", "blue", 0.4, 0.2, 0.2, 0)
    table = WORLD.grounding([Scene("teal", "plain", (high, low), (), 0)])
    assert table.shape == (1, len(NAMES), 6)
    row = table[0, NAMES.index("cat")]
    assert row[0] == 1 and SHADES[int(row[5])] == "blue"
    assert row[1:5].tolist() == pytest.approx(high.box)
    assert table[0, -1, :5].tolist() == [1, 0, 0, 1, 1] and SHADES[int(table[0, -1, 5])] == "teal"
    assert table.sum() == pytest.approx(float(row.sum() + table[0, -1].sum()))


def test_samples_say_where_names_end():
    """In both numbers, and "background"; captions have one for each group."""
    for seed in range(60):
        scene, found = sample(seed), WORLD.samples(sample(seed), np.random.default_rng(seed))
        for one in found:
            for mention in one.names:
                forms = (mention.name, plural(mention.name))
                assert one.prefix[: mention.end].endswith(forms)
            kinds = re.findall(r"\w+", one.prefix) if one.task in ("detect", "ask") else []
            plurals = {plural(kind): kind for kind in NAMES}
            kinds = [plurals.get(word, word) for word in kinds]
            if kinds:
                assert [m.name for m in one.names] == [kind for kind in kinds if kind in NAMES]
            if one.task == "caption":
                assert [tuple(mention)[1:] for mention in one.groups] == groups(scene)
                for mention in one.groups:
                    forms = (mention.name, plural(mention.name))
                    assert one.suffix[: mention.end].endswith(forms)
