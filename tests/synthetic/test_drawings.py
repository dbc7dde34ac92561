"""The world of drawings: pictograms and stickers in one language, by one list of kinds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sheet import SHEET_COLORS, ellipse, sheet_atlas

from paligemma.detections import box_iou, parse
from paligemma.synthetic.atlas import Atlas, SpriteRecord, glyph_sprite, tight_box
from paligemma.synthetic.compose import Composer
from paligemma.synthetic.drawings import OPTIONS, STICKERS, Drawings, StickerScene
from paligemma.synthetic.kinds import all_kinds
from paligemma.synthetic.language import absent_kinds, corner, mentions, phrase, plural
from paligemma.synthetic.scenes import KINDS
from paligemma.synthetic.varied_pictograms import VariedPictograms
from paligemma.synthetic.world import open_world
from paligemma.training.tokenizer import train_tokenizer

GRID = 8


def atlas() -> Atlas:
    """The sheet's, and glyphs of the same kinds, which scenes paint in one color."""
    drawn, glyph = sheet_atlas(), glyph_sprite(ellipse((0, 0, 0))[..., 3])
    box = tight_box(glyph[..., 3])
    glyphs = [SpriteRecord(kind, "dejavu", "a", "glyph", False, box) for kind in SHEET_COLORS]
    pixels = np.concatenate([drawn.pixels, np.stack([glyph] * len(glyphs))])
    return Atlas(pixels, (*drawn.sprites, *glyphs), drawn.kinds)


@pytest.fixture(scope="module")
def world():
    opened = open_world("drawings")
    options = replace(OPTIONS, effects=0, glyphs=0.5)
    opened.stickers.__dict__["composer"] = Composer(atlas(), options)
    return opened


@pytest.fixture(scope="module")
def drawn(world):
    scenes = [world.scene(seed) for seed in range(120)]
    return [scene for scene in scenes if isinstance(scene, StickerScene)]


def test_kinds_are_known_once_and_take_a_plain_article():
    known = {kind.name: kind for kind in all_kinds()}
    assert len(set(Drawings.kinds)) == len(Drawings.kinds) == len(KINDS) + len(STICKERS) == 191
    for name in Drawings.kinds:
        assert known[name].singular["en"] == phrase(name)
    assert [plural(name) for name in ("mouse", "wolf", "dog")] == ["mice", "wolves", "dogs"]


def test_names_of_several_words_are_whole():
    text = "is there a fire truck left of two maple leaves on a navy background?"
    found = mentions(text, Drawings.kinds)
    assert [one.name for one in found] == ["fire truck", "maple leaf", "background"]
    assert [text[: one.end].rsplit(" ", 1)[1] for one in found] == ["truck", "leaves", "background"]
    assert phrase("", "hourglass") == "an hourglass" and phrase("", "dog", count=2) == "two dogs"


def test_a_share_of_the_scenes_are_the_pictograms_of_old(world, drawn):
    assert 0.55 < len(drawn) / 120 < 0.75
    seed = next(n for n in range(120) if not isinstance(world.scene(n), StickerScene))
    assert world.scene(seed) == VariedPictograms().scene(seed)
    alone = Drawings(pictograms=1)
    assert not any(isinstance(alone.scene(seed), StickerScene) for seed in range(30))


def test_what_is_said_of_stickers_is_true(world, drawn):
    rng = np.random.default_rng(0)
    told = 0
    for scene in drawn:
        kinds = [item.kind for item in sorted(scene.items, key=lambda item: item.y)]
        for sample in world.samples(scene, rng):
            assert {mention.name for mention in sample.names} <= {*world.kinds, "background"}
            if sample.task == "detect":
                labels = [one.label for one in parse(sample.suffix)]
                asked = sample.prefix.removeprefix("detect ").split(" ; ")
                assert labels == [name for name in asked for _ in range(kinds.count(name))]
            elif sample.prefix == "cap en":
                told += 1
                named = [one.name for one in sample.groups for _ in range(one.count)]
                assert named == sorted(kinds, key=kinds.index), "like ones with the highest"
            elif sample.task == "read":
                assert sample.spelled and 0 < sample.weight < 1
            for box, thing in zip(sample.boxes, sample.objects, strict=True):
                assert box_iou(box, thing.box) > 0.8
            assert "on a  " not in sample.suffix and not sample.suffix.endswith(" ")
    assert told > 5


def test_colors_are_said_of_what_is_painted_in_one(world, drawn):
    """And none is denied, or given to one thing alone, where another may have it as well."""
    rng, asked = np.random.default_rng(0), {"what": 0, "there": 0, "color": 0}
    denied = set()
    for scene in drawn:
        said = [
            (thing.color * (thing.artist == "dejavu"), thing.name) for thing in scene.scene.objects
        ]
        colors = [color for color, _ in said]
        for sample in world.samples(scene, rng):
            question = sample.prefix.removeprefix("answer en ").removesuffix("?")
            if question.startswith("what is "):
                color = question.removeprefix("what is ")
                assert "" not in colors and said.count((color, sample.suffix)) == 1
                asked["what"] += 1
            elif question.startswith("what color is the ") and "background" not in question:
                kind = question.removeprefix("what color is the ")
                assert [one for one in said if one[1] == kind] == [(sample.suffix, kind)]
                asked["color"] += 1
            elif question.startswith("is there ") and question.split()[3] in world.colors:
                color, kind = question.split(maxsplit=4)[3:]
                assert sample.suffix == ("yes" if (color, kind) in said else "no")
                assert ("", kind) not in said
                asked["there"] += 1
                denied |= {color} if sample.suffix == "no" else set()
            elif question.startswith("where is "):
                [item] = [
                    i for i in scene.items if i.kind == question.removeprefix("where is the ")
                ]
                assert sample.suffix == corner(item)
    assert min(asked.values()) > 5 and denied & {"black", "white", "gray"}


def test_nothing_is_denied_that_a_thing_is_called_as_well(world, drawn):
    things = replace(drawn[0].scene.objects[0], name="penguin")
    scene = StickerScene(replace(drawn[0].scene, objects=(things,)), drawn[0].image)
    absent = absent_kinds(scene, world.kinds)
    assert "penguin" not in absent and "bird" not in absent and "dog" in absent


def test_silhouettes_are_of_both(world):
    masks = world.silhouettes([np.random.default_rng(seed) for seed in range(8)])
    assert masks.shape == (8, 64, 64) and 0.2 < masks.mean() < 0.95


def test_masks_are_those_of_the_stickers(world, drawn):
    count = 0
    for scene in drawn:
        for item in scene.items:
            crop = world.crop(item, item.box)
            area = scene.scene.objects[item.number].area
            box = (item.box[2] - item.box[0]) * (item.box[3] - item.box[1])
            assert crop.shape == (64, 64) and crop.mean() == pytest.approx(area / box, abs=0.08)
            count += 1
    assert count > 50


def test_labels_of_patches_are_in_the_numbers_of_this_world(world, drawn):
    labels = world.patch_labels(drawn, GRID)
    seen, written = set(), 0
    for n, scene in enumerate(drawn):
        kinds = {item.kind for item in scene.items}
        named = {world.kinds[k - 1] for k in labels.kind[n].unique().tolist() if k}
        assert named <= kinds
        seen |= named
        letters = {world.characters[c - 1] for c in labels.characters[n].unique().tolist() if c}
        assert letters <= set("".join(line.text for line in scene.texts))
        written += len(letters)
        for color in labels.color[n].unique().tolist():
            assert not color or world.colors[color - 1] in {o.color for o in scene.scene.objects}
        boxes = [item.box for item in scene.items]
        for box in labels.box[n][labels.kind[n] > 0].unique(dim=0).tolist():
            assert any(np.allclose(box, other, atol=1e-6) for other in boxes)
        shown = labels.background[n].unique().tolist()
        assert {world.backgrounds[b] for b in shown if b >= 0} <= {scene.background}
    assert seen == {*SHEET_COLORS} & {*world.kinds} and written > 50


def test_a_batch_may_have_scenes_of_both_sorts(world, drawn):
    pictograms = VariedPictograms()
    scene = pictograms.scene(1)
    labels = world.patch_labels([drawn[0], scene], GRID)
    own = pictograms.patch_labels([scene], GRID)
    assert torch.equal(labels.kind[1:], own.kind)  # the first kinds are theirs
    assert torch.equal(labels.characters[1:], own.characters)
    assert torch.equal(labels.background[1:], own.background)
    assert [image.mode for image in world.images([drawn[0], scene], 64)] == ["RGB", "RGB"]
    table = world.grounding([drawn[0], scene])
    for row, one in zip(table, (drawn[0], scene), strict=True):
        there = {world.kinds[n] for n in row[:-1, 0].nonzero()[:, 0].tolist()}
        assert there == {item.kind for item in one.items}


def test_every_name_has_tokens_of_its_own(world):
    tokenizer = train_tokenizer(world.texts(20, 0), world.characters)
    for kind in world.kinds:
        for name in (kind, plural(kind)):
            for text in (name, f" {name}"):
                assert len(tokenizer.encode(text).tokens) == len(name.split())
