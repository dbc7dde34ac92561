"""Pictograms drawn in more ways than one: things are where they are said to be in all of them."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from paligemma.synthetic.language import plural
from paligemma.synthetic.pictograms import patch_labels
from paligemma.synthetic.scenes import (
    KINDS,
    STICKERS,
    Item,
    Look,
    Scene,
    draw_background,
    paint,
    sample,
    silhouette,
    sprite,
)
from paligemma.synthetic.varied_pictograms import WIDE, draw
from paligemma.synthetic.world import open_world

WORLD = open_world("varied-pictograms")
SIDE = 256
LOOKS = {
    "small": Look(sizes=(0.12, 0.2)),
    "large": Look(sizes=(0.5, 0.62)),
    "turned": Look(max_angle=180),
    "wide": Look(aspect=1.8),
    "tall": Look(aspect=0.55),
    "thick": Look(thickness=3),
    "thin": Look(thickness=-1),
    "flat": Look(has_rim=False),
    "thick and flat": Look(thickness=3, has_rim=False),
}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [WORLD.scene(seed) for seed in range(300)]


def painted(scene: Scene) -> np.ndarray:
    """The pixels that its things and words change, bool [SIDE, SIDE]."""
    rng = np.random.default_rng(scene.seed)
    ground = draw_background(scene, SIDE, rng)
    image = np.asarray(paint(scene, ground.copy(), rng), np.float32)
    return np.abs(image - ground).max(-1) > 25


@pytest.mark.parametrize("name", LOOKS)
def test_a_box_is_around_what_is_drawn(name):
    look = LOOKS[name]
    for number, kind in enumerate(KINDS):
        item = Item(kind, "red", 0.5, 0.5, look.sizes[1], (37 * number) % look.max_angle, look)
        changed = painted(Scene("white", "plain", (item,), (), number))
        rows, columns = np.nonzero(changed)
        edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.abs(np.array(edges) - np.array(item.box) * SIDE).max() < 3, (kind, name)


def test_without_a_rim_there_are_only_lines():
    for kind in KINDS:
        item = Item(kind, "red", 0.5, 0.5, 0.5, 0, Look(has_rim=False))
        changed = painted(Scene("white", "plain", (item,), (), 0))
        assert (changed & (silhouette(item, SIDE) == 0)).sum() < 0.15 * changed.sum(), kind
        with_rim = replace(item, look=STICKERS)
        assert changed.sum() < painted(Scene("white", "plain", (with_rim,), (), 0)).sum(), kind


def test_lines_are_as_thick_as_they_are_said_to_be():
    for kind in KINDS:
        thin, usual, thick = (sprite(kind, by).lines.mean() for by in (-1, 0, 3))
        assert thin < usual < thick, kind


def test_half_are_stickers_as_ever(scenes):
    usual = [scene for scene in scenes if scene == sample(scene.seed)]
    assert 0.4 < len(usual) / len(scenes) < 0.6
    looks = {item.look for scene in scenes for item in scene.items}
    assert len(looks) > 100


def test_there_is_some_of_everything(scenes):
    items = [item for scene in scenes for item in scene.items]
    sizes = [item.size for item in items]
    assert min(sizes) < 0.15 and max(sizes) > 0.5
    assert any(abs(item.angle) > 120 for item in items)
    assert 0.5 < min(item.look.aspect for item in items) < 0.7
    assert 1.4 < max(item.look.aspect for item in items) < np.exp(0.65)
    wide = [scene for scene in scenes if any(item.look.aspect != 1 for item in scene.items)]
    assert 0.1 < len(wide) / len(scenes) < WIDE
    assert {item.look.thickness for item in items} == {-1, 0, 1, 2, 3}
    assert {item.look.has_rim for item in items} == {True, False}
    assert {scene.ground for scene in scenes} == {"plain", "shaded", "noisy", "cluttered"}


def test_things_keep_apart_and_inside(scenes):
    for scene in scenes[:100]:
        boxes = [thing.box for thing in (*scene.items, *scene.texts)]
        assert np.min(boxes, initial=1) > 0 and np.max(boxes, initial=0) < 1
        masks = [silhouette(item, SIDE) > 0 for item in scene.items]
        assert not masks or np.sum(masks, 0).max() == 1


def test_a_seed_is_an_image_and_no_other_is(scenes):
    images = WORLD.images(scenes[:20], 64)
    assert [image.size for image in images] == [(64, 64)] * 20
    again = [draw(WORLD.scene(seed), 64) for seed in range(20)]
    assert [one.tobytes() for one in images] == [one.tobytes() for one in again]
    assert len({one.tobytes() for one in images}) == 20


def test_clutter_is_behind_what_is_shown(scenes):
    cluttered = [scene for scene in scenes if scene.ground == "cluttered"]
    for scene in cluttered[:10]:
        plain = np.asarray(draw(replace(scene, ground="plain"), SIDE), np.float32)
        difference = np.abs(plain - np.asarray(draw(scene, SIDE), np.float32)).max(-1)
        assert (difference > 40).mean() > 0.01, scene.seed


def test_patches_know_what_they_show(scenes):
    for scene in scenes[:60]:
        kind, _, box, _, _, _ = patch_labels(scene, 8)
        shown = {list(KINDS)[number - 1] for number in kind if number}
        assert shown == {item.kind for item in scene.items}, scene.seed
        boxes = np.array([item.box for item in scene.items], np.float32).reshape(-1, 1, 4)
        if len(boxes):
            assert np.abs(boxes - box[kind > 0]).max(-1).min(0).max() == 0


def test_every_style_of_caption_is_trained(scenes):
    asked = [WORLD.samples(scene, np.random.default_rng(scene.seed)) for scene in scenes]
    captions = [[one for one in samples if one.task == "caption"] for samples in asked]
    prompts = Counter(one.prefix for samples in captions for one in samples)
    assert prompts["caption en"] == len(scenes) and len(prompts) == 3
    assert 0.15 < prompts["cap en"] / len(scenes) < 0.35
    assert 0.25 < prompts["describe en"] / len(scenes) < 0.45
    for scene, samples in zip(scenes, captions, strict=True):
        for one in samples:  # what is told is all that there is, and where the text tells it
            assert sum(mention.count for mention in one.groups) == len(scene.items)
            assert {mention.name for mention in one.groups} == {i.kind for i in scene.items}
            for mention in one.groups:
                forms = (mention.name, plural(mention.name))
                assert one.suffix[: mention.end].endswith(forms)
