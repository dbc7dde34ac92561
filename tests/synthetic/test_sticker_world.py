"""The world of stickers behind the interface of training, on a small atlas made here."""

import numpy as np
import pytest
import torch

from paligemma.detections import parse
from paligemma.synthetic.atlas import Atlas, SpriteRecord, color_sprite, glyph_sprite, tight_box
from paligemma.synthetic.compose import Composer
from paligemma.synthetic.kinds import all_kinds, kind_number
from paligemma.synthetic.phrases.facts import Group, said_color
from paligemma.synthetic.phrases.samples import groups
from paligemma.synthetic.world import open_world

KINDS = {"apple": (220, 30, 30), "dog": (30, 60, 220), "eagle": (40, 160, 60)}


def disc(color):
    y, x = np.mgrid[0:90, 0:120]
    shape = ((x - 70) / 40) ** 2 + ((y - 45) / 30) ** 2 < 1
    return np.dstack([np.broadcast_to(color, (90, 120, 3)), shape * 255]).astype(np.uint8)


@pytest.fixture(scope="module")
def world():
    pixels, records = [], []
    for kind, color in KINDS.items():
        for artist, style in (("noto", "color"), ("dejavu", "glyph")):
            image = disc(color)
            sprite = color_sprite(image) if style == "color" else glyph_sprite(image[..., 3])
            pixels.append(sprite)
            box = tight_box(sprite[..., 3])
            records.append(SpriteRecord(kind, artist, "0", style, False, box))
    opened = open_world("stickers")
    names = tuple(kind.name for kind in all_kinds())
    opened.__dict__["composer"] = Composer(Atlas(np.stack(pixels), tuple(records), names))
    return opened


@pytest.fixture(scope="module")
def drawn(world):
    rng = np.random.default_rng(0)
    scenes = [world.scene(seed) for seed in range(60)]
    return [(scene, world.samples(scene, rng)) for scene in scenes]


def test_masks_are_those_of_the_objects_found(world, drawn):
    count = 0
    for scene, asked in drawn:
        for sample in asked:
            if sample.task != "segment":
                assert not sample.suffix or sample.task != "detect" or parse(sample.suffix)
                continue
            for mask, box in zip(sample.objects, sample.boxes, strict=True):
                thing = scene.scene.objects[mask.number]
                assert thing.box == box
                crop = world.crop(mask, box)
                assert crop.shape == (64, 64) and 0 <= crop.min() <= crop.max() <= 1
                area = (box[2] - box[0]) * (box[3] - box[1])
                assert crop.mean() == pytest.approx(thing.area / area, abs=0.08)
                count += 1
    assert count > 20


def test_silhouettes(world):
    rngs = [np.random.default_rng(n) for n in range(5)]
    masks = world.silhouettes(rngs)
    assert masks.shape == (5, 64, 64) and (masks.mean((1, 2)) > 0.3).all()
    assert (masks == world.silhouettes([np.random.default_rng(n) for n in range(5)])).all()


def test_captions_list_things_of_one_color_by_it(drawn):
    said = set()
    for scene, asked in drawn:
        listed = groups(scene.scene)
        for sample in asked:
            if sample.prefix == "caption en":
                assert [Group(*mention[1:]) for mention in sample.groups] == listed
                said |= {mention.color != "" for mention in sample.groups}
        for thing in scene.scene.objects:
            assert said_color(thing) in ("", thing.color)
    assert said == {True, False}


def test_grounding_is_that_of_the_topmost(world, drawn):
    scenes = [scene for scene, _ in drawn]
    table = world.grounding(scenes)
    shades = (*world.colors, *world.backgrounds)
    assert table.shape == (60, len(world.kinds) + 1, 6)
    for row, drawn_scene in zip(table, scenes, strict=True):
        scene = drawn_scene.scene
        assert int(row[:-1, 0].sum()) == len({thing.name for thing in scene.objects})
        for name in KINDS:
            things = [thing for thing in scene.objects if thing.name == name]
            found = row[kind_number(name)]
            if not things:
                assert not found.any()
                continue
            top = min(things, key=lambda thing: thing.box[1])
            assert found[1:5].tolist() == pytest.approx(top.box, abs=1e-6)
            color = int(found[5])
            assert top.color == (shades[color] if color >= 0 else "")
        assert row[-1, :5].tolist() == [1, 0, 0, 1, 1]
        ground = int(row[-1, 5])
        assert scene.background == (shades[ground] if ground >= 0 else "")
        assert ground == -1 or ground >= len(world.colors)


def test_labels_of_patches(world, drawn):
    labels = world.patch_labels([scene for scene, _ in drawn], 10)
    assert labels.kind.shape == (60, 100) and labels.kind.dtype == torch.int64
    assert labels.color.max() <= len(world.colors)
    assert labels.background.max() < len(world.backgrounds)


def test_words_of_every_language(world):
    english, german, french, spanish = world.word_lists()
    mouse, red = world.kinds.index("mouse"), world.colors.index("red")
    assert (english.kinds[mouse], english.plurals[mouse]) == ("mouse", "mice")
    assert (german.kinds[mouse], german.plurals[mouse]) == ("Maus", "Mäuse")
    assert (french.colors[red], spanish.colors[red]) == ("rouge", "rojo")
    for lists in (english, german, french, spanish):
        assert len(lists.kinds) == len(lists.plurals) == len(world.kinds)
        assert len(lists.backgrounds) == len(world.backgrounds)
