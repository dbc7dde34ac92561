"""The drawn world of stickers, on a small atlas made here; a few checks of the real one, if any."""

import hashlib
import io
import json
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paligemma.synthetic import fonts, stickers
from paligemma.synthetic.atlas import (
    MARGIN,
    SIDE,
    Atlas,
    SpriteRecord,
    color_sprite,
    glyph_sprite,
    load_atlas,
    save_atlas,
    tight_box,
)
from paligemma.synthetic.canvas import Canvas
from paligemma.synthetic.compose import Composer
from paligemma.synthetic.grounds import GROUND_COLORS, STYLES, draw_ground
from paligemma.synthetic.kinds import (
    LANGUAGES,
    TABLE,
    all_kinds,
    categories,
    kind_number,
    read_kinds,
)
from paligemma.synthetic.patches import label_patches
from paligemma.synthetic.restyle import COLORS, PAINTS, main_color, restyle
from paligemma.synthetic.scene_options import SceneOptions
from paligemma.synthetic.words import CHARACTERS, UNACCENTED, random_line
from paligemma.synthetic.write_lines import write_lines


def drawing(color, round_=True):
    """An RGBA drawing [90, 120, 4]: a filled ellipse or rectangle off its middle."""
    y, x = np.mgrid[0:90, 0:120]
    shape = ((x - 70) / 40) ** 2 + ((y - 45) / 30) ** 2 < 1 if round_ else (x > 30) & (y > 20)
    return np.dstack([np.broadcast_to(color, (90, 120, 3)), shape * 255]).astype(np.uint8)


@pytest.fixture(scope="module")
def atlas():
    """Six kinds by two artists in colours and one of glyphs; one artist is held out."""
    sprites, pixels = [], []
    names = tuple(kind.name for kind in all_kinds())
    colors = [
        (220, 30, 30),
        (30, 60, 220),
        (40, 160, 60),
        (250, 230, 60),
        (150, 70, 190),
        (20,) * 3,
    ]
    for kind, color in zip(("apple", "dog", "cat", "banana", "grapes", "key"), colors, strict=True):
        for artist in ("noto", "fluent", "twemoji"):
            pixels.append(color_sprite(drawing(color, artist != "fluent")))
            sprites.append((kind, artist, "color", artist == "twemoji"))
        ink = drawing(color)[..., 3].copy()
        ink[40:50, 60:80] = 0
        pixels.append(glyph_sprite(ink))
        sprites.append((kind, "dejavu", "glyph", False))
    records = tuple(
        SpriteRecord(kind, artist, "0", style, held_out, tight_box(sprite[..., 3]))
        for (kind, artist, style, held_out), sprite in zip(sprites, pixels, strict=True)
    )
    return Atlas(np.stack(pixels), records, names)


@pytest.fixture(scope="module")
def drawn(atlas):
    composer = Composer(atlas)
    return [composer(seed) for seed in range(150)]


@pytest.fixture(scope="module")
def real():
    folder = stickers.stickers_cache() / "atlas"
    if not (folder / "atlas.json").exists():
        pytest.skip("the sticker atlas is not drawn; run paligemma data fetch-stickers")
    return load_atlas(folder)


# the table


def test_kinds_are_complete_and_distinct():
    kinds = all_kinds()
    assert len(kinds) >= 250
    for language in LANGUAGES:
        plurals = [kind.plural[language] for kind in kinds]
        assert all(plurals) and all(text == text.strip() for text in plurals)
    for kind in kinds:
        assert kind.color in ("", *COLORS), kind.name
        assert all(int(code, 16) > 0x2000 for code in kind.code_points), kind.name
        assert kind.singular["en"].split()[0] in ("a", "an"), kind.name
        assert kind.singular["de"].split()[0] in ("der", "die", "das"), kind.name
        assert kind.singular["fr"].split()[0] in ("un", "une"), kind.name
        assert kind.singular["es"].split()[0] in ("un", "una"), kind.name
    assert 10 <= len(categories()) <= 16


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_two_kinds_share_a_name(language):
    names = [kind.singular[language].lower() for kind in all_kinds()]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_the_small_worlds_kinds_are_in_the_table():
    from paligemma.synthetic.scenes import KINDS

    glyphs = {kind.name: kind.glyph for kind in all_kinds() if kind.glyph}
    assert glyphs == KINDS


def test_a_repeated_name_is_refused(tmp_path):
    lines = TABLE.read_text("utf-8").splitlines()
    (tmp_path / "kinds.csv").write_text("\n".join([*lines, lines[1]]), "utf-8")
    with pytest.raises(ValueError, match="has dog more than once"):
        read_kinds(tmp_path / "kinds.csv")


def test_kind_number():
    assert all_kinds()[kind_number("cat")].name == "cat"
    with pytest.raises(ValueError, match="no kind is called 'woman'"):
        kind_number("woman")


# packages and drawings


def test_packages_are_pinned():
    for package in stickers.sticker_packages():
        assert len(package.sha256) == 64 and package.version[0].isdigit()
        assert package.file.endswith(f"-{package.version}.tgz")
    held_out = {artist.name for artist in stickers.ARTISTS if artist.held_out}
    assert held_out == {"twemoji", "openmoji"}


def test_another_archive_is_refused_and_removed(tmp_path, monkeypatch):
    package = stickers.sticker_packages()[0]
    monkeypatch.setattr(stickers, "sticker_packages", lambda: (package,))
    (tmp_path / package.file).write_bytes(b"not the archive")
    with pytest.raises(ValueError, match=r"noto 1.2.9 has sha256 \w+, expected 3e918d"):
        stickers.fetch_packages(tmp_path)
    assert not (tmp_path / package.file).exists()


def test_an_archive_in_the_cache_is_not_fetched_again(tmp_path, monkeypatch):
    content = b"an archive"
    package = replace(stickers.sticker_packages()[0], sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(stickers, "sticker_packages", lambda: (package,))
    monkeypatch.setattr(stickers.subprocess, "run", lambda *a, **k: pytest.fail("npm was run"))
    (tmp_path / package.file).write_bytes(content)
    stickers.fetch_packages(tmp_path)


def test_npm_absent_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="npm is needed"):
        stickers.fetch_packages(tmp_path / "cache", say=lambda line: None)


def test_the_cache_may_lie_elsewhere(monkeypatch):
    monkeypatch.setenv("PALIGEMMA_CACHE", "/somewhere")
    assert stickers.stickers_cache() == Path("/somewhere/stickers")


def icon_archive(path, icons, chars, aliases=()):
    """An archive as npm packs an iconify set."""
    table = {
        "icons": {name: {"body": body} for name, body in icons.items()},
        "aliases": dict(aliases),
        "width": 10,
        "height": 10,
    }
    with tarfile.open(path, "w:gz") as tar:
        for name, content in (("icons.json", table), ("chars.json", chars)):
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_drawings_are_matched_by_code_point_and_by_name(tmp_path):
    pytest.importorskip("resvg_py")
    left = '<rect width="5" height="10" fill="#f00"/>'
    for package in stickers.NAMED:
        icon_archive(tmp_path / package.file, {"dog-face": left}, {"1f436": "dog-face"})
    noto_v1 = next(artist for artist in stickers.ARTISTS if artist.name == "noto-v1")
    aliases = {"dog-face": {"parent": "dog", "hFlip": True}}
    icon_archive(tmp_path / noto_v1.package.file, {"dog": left}, {}, aliases)
    dog = [kind for kind in all_kinds() if kind.name == "dog"]
    for artist, red_side in ((stickers.ARTISTS[0], 0), (noto_v1, 1)):
        ((kind, code, image),) = stickers.drawings(artist, dog, tmp_path)
        assert (kind.name, code) == ("dog", "1f436")
        halves = np.split(np.asarray(image), 2, axis=1)
        assert (halves[red_side][5:-5, 5:-5] == (255, 0, 0, 255)).all()
        assert (halves[1 - red_side][5:-5, 5:-5, 3] == 0).all()


def test_the_small_worlds_glyphs_are_an_artist(tmp_path):
    dejavu = next(artist for artist in stickers.ARTISTS if artist.name == "dejavu")
    found = [kind.name for kind, _, image in stickers.drawings(dejavu, all_kinds(), tmp_path)]
    assert len(found) == 32 and "anchor" in found


# sprites and the atlas


def test_a_sprite_fills_its_square_and_keeps_its_colour_at_the_edge():
    sprite = color_sprite(drawing((200, 40, 10)))
    assert sprite.shape == (SIDE, SIDE, 4) and sprite.dtype == np.uint8
    x1, y1, x2, y2 = tight_box(sprite[..., 3], least=128)
    assert abs((x2 - x1) - (SIDE - 2 * MARGIN)) <= 2
    assert abs((y2 - y1) - 0.75 * (SIDE - 2 * MARGIN)) <= 3
    shown = sprite[sprite[..., 3] > 0][:, :3]
    assert np.abs(shown.astype(int) - (200, 40, 10)).max() <= 12


def test_a_glyph_has_ink_a_body_without_holes_and_a_rim():
    ring = drawing((0, 0, 0))[..., 3].copy()
    ring[35:55, 60:80] = 0
    ink, body, empty, silhouette = np.moveaxis(glyph_sprite(ring), -1, 0)
    assert ink[80, 80] == 0 and body[80, 80] == 255 and not empty.any()
    assert (ink > 200).sum() < (body > 200).sum() < (silhouette > 200).sum()


def test_an_empty_drawing_is_refused():
    with pytest.raises(ValueError, match="empty"):
        color_sprite(np.zeros((10, 10, 4), np.uint8))


def test_the_atlas_is_kept_and_mapped(atlas, tmp_path):
    save_atlas(atlas, tmp_path)
    again = load_atlas(tmp_path)
    assert isinstance(again.pixels, np.memmap) and again.sprites == atlas.sprites
    assert (again.pixels == atlas.pixels).all()
    assert again.training_artists == ("noto", "fluent", "dejavu")
    sent = pickle.dumps(Composer(again))
    assert len(sent) < 10 * len(again.sprites) * 100 < again.pixels.nbytes
    assert Composer(again)(5)[1] == pickle.loads(sent)(5)[1]
    with pytest.raises(ValueError, match="no sticker atlas"):
        load_atlas(tmp_path / "elsewhere")


# scenes


def test_a_mapped_atlas_outlives_a_new_one(atlas, tmp_path):
    save_atlas(atlas, tmp_path)
    mapped = load_atlas(tmp_path)
    save_atlas(Atlas(atlas.pixels[:1] * 0, atlas.sprites[:1], atlas.kinds), tmp_path)
    assert (mapped.pixels == atlas.pixels).all()
    assert len(load_atlas(tmp_path).sprites) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"atlas.npy", "atlas.json"}


def test_a_scene_is_a_function_of_its_seed(atlas):
    (a, one), (b, two) = Composer(atlas)(7), Composer(atlas)(7)
    assert one == two and (a == b).all() and (one.owners == two.owners).all()
    assert any((Composer(atlas)(seed)[0] != a).any() for seed in range(3))


def test_scenes_are_of_all_sorts(drawn):
    scenes = [scene for _, scene in drawn]
    assert {len(scene.objects) for scene in scenes} >= {0, 1, 2, 3, 4}
    assert {scene.ground for scene in scenes} == set(STYLES)
    assert {effect for scene in scenes for effect in scene.effects} >= {"jpeg", "blur", "contrast"}
    objects = [thing for scene in scenes for thing in scene.objects]
    assert {thing.mirrored for thing in objects} == {True, False}
    assert any(abs(thing.angle) > 60 for thing in objects)
    assert any(thing.visible < 0.9 for thing in objects)
    assert any(scene.texts for scene in scenes)


def test_boxes_masks_and_owners_agree(drawn):
    for image, scene in drawn:
        size = len(image)
        assert image.shape == (size, size, 3) and image.dtype == np.uint8
        assert scene.owners.shape == (size, size)
        assert scene.owners.max() <= len(scene.objects)
        for number, thing in enumerate(scene.objects):
            mask = scene.mask(number)
            assert np.isclose(mask.mean(), thing.area)
            assert np.abs(np.array(thing.box) * size - tight_box(mask * 255)).max() <= 1.51
            assert 0 < thing.visible <= 1 and thing.kind.name == thing.name
            assert thing.color in ("", *COLORS)


def test_a_mask_is_cut_out_and_stretched(drawn):
    for _, scene in drawn[:40]:
        size = len(scene.owners)
        for number, thing in enumerate(scene.objects):
            whole = scene.mask_crop(number, (0.0, 0.0, 1.0, 1.0), size)
            assert (whole == scene.mask(number)).all()
            crop = scene.mask_crop(number, thing.box)
            assert crop.shape == (64, 64) and 0 <= crop.min() <= crop.max() <= 1
            x1, y1, x2, y2 = thing.box
            assert abs(crop.mean() - thing.area / ((x2 - x1) * (y2 - y1))) < 0.08
            assert crop[:, :4].max() > 0.4 and crop[-4:].max() > 0.4


def test_no_held_out_artist_is_in_training(drawn, atlas):
    assert {t.artist for _, scene in drawn for t in scene.objects} == {"noto", "fluent", "dejavu"}
    options = SceneOptions(artists=("twemoji",))
    scenes = [Composer(atlas, options)(seed)[1] for seed in range(20)]
    assert {thing.artist for scene in scenes for thing in scene.objects} == {"twemoji"}
    with pytest.raises(ValueError, match="nothing by nobody"):
        Composer(atlas, SceneOptions(artists=("nobody",)))


def test_plain_sprites_keep_their_colour(atlas):
    options = SceneOptions(
        restyle=0, effects=0, texts=0, glyphs=0, kinds=("apple", "dog"), grounds=(("plain", 1),)
    )
    composer, expected = Composer(atlas, options), {"apple": "red", "dog": "blue"}
    for seed in range(20):
        _, scene = composer(seed)
        assert scene.background in GROUND_COLORS and scene.ground == "plain"
        for thing in scene.objects:
            assert thing.color == expected[thing.name]


def test_a_scene_has_the_size_asked_for(atlas):
    image, scene = Composer(atlas, SceneOptions(size=224))(3)
    assert image.shape == (224, 224, 3) and scene.owners.shape == (224, 224)


def test_letters_lie_in_their_boxes(atlas):
    options = SceneOptions(counts=(1.0,), effects=0, stretch=0, size=224, grounds=(("plain", 1),))
    composer, found = Composer(atlas, options), 0
    for seed in range(25):
        image, scene = composer(seed)
        ground = np.median(image.reshape(-1, 3), axis=0)
        for text in scene.texts:
            assert len(text.character_boxes) == len(text.text)
            for character, box in zip(text.text, text.character_boxes, strict=True):
                x1, y1, x2, y2 = (round(v * 224) for v in box)
                if character.isalnum() and x2 - x1 > 3:
                    part = image[y1:y2, x1:x2].astype(int)
                    spread = np.abs(part - part[0, 0]).max()
                    assert max(spread, np.abs(part - ground).max()) > 40
                    found += 1
    assert found > 50


# labels


def test_patches_show_the_thing_that_covers_them(atlas):
    composer = Composer(atlas, SceneOptions(size=160))
    images, scenes = zip(*map(composer, range(40)), strict=True)
    assert {image.shape for image in images} == {(160, 160, 3)}
    labels = label_patches(scenes, 10)
    assert labels.kind.shape == (40, 100) and labels.box.shape == (40, 100, 4)
    assert labels.mask.shape == (40, 100, 64) and labels.characters.shape == (40, 100, 4)
    for number, scene in enumerate(scenes):
        for patch in range(100):
            y, x = divmod(patch, 10)
            part = scene.owners[16 * y : 16 * y + 16, 16 * x : 16 * x + 16]
            cells = part[1::2, 1::2]
            kind = labels.kind[number, patch]
            if kind:
                owner = next(
                    n
                    for n, thing in enumerate(scene.objects)
                    if np.allclose(thing.box, labels.box[number, patch])
                )
                assert scene.objects[owner].number + 1 == kind
                assert (labels.mask[number, patch].numpy() == (cells == owner + 1).ravel()).all()
                assert labels.mask[number, patch].sum() >= 4
            else:
                assert not labels.mask[number, patch].any()
                assert all((cells == n + 1).sum() < 4 for n in range(len(scene.objects)))


def test_patches_read_characters_and_grounds(atlas):
    composer = Composer(atlas, SceneOptions(counts=(1.0,), effects=0, grounds=(("plain", 1),)))
    scenes = [composer(seed)[1] for seed in range(20)]
    labels = label_patches(scenes, 10)
    for number, scene in enumerate(scenes):
        read = {CHARACTERS[c - 1] for c in labels.characters[number].ravel().tolist() if c}
        written = {c for text in scene.texts for c in text.text}
        assert read <= written
        background = list(GROUND_COLORS).index(scene.background)
        bare = (labels.characters[number] == 0).all(-1).numpy()
        assert (labels.background[number].numpy() == np.where(bare, background, -1)).all()


def test_scenes_without_things_have_labels(atlas):
    composer = Composer(atlas, SceneOptions(counts=(1.0,), texts=0))
    labels = label_patches([composer(1)[1]], 4)
    assert not labels.kind.any() and not labels.mask.any() and not labels.box.any()


# colours, grounds, words, fonts


@pytest.mark.parametrize("name", COLORS)
def test_colours_are_called_by_their_words(name):
    filling, line = PAINTS[name]
    alpha = np.full((20, 20), 255, np.uint8)
    said = {
        main_color(np.broadcast_to(np.float32(shade), (20, 20, 3)), alpha)
        for shade in ((line,) if name in ("black", "white", "gray") else (filling, line))
    }
    assert name in said or (name == "white" and said == {"gray"})


def test_several_colours_have_no_word():
    halves = np.zeros((20, 20, 3), np.float32)
    halves[:, :10] = (220, 20, 20)
    halves[:, 10:] = (20, 40, 220)
    assert main_color(halves, np.full((20, 20), 255, np.uint8)) == ""
    assert main_color(halves, np.zeros((20, 20), np.uint8)) == ""


def test_restyling_stays_within_bounds(atlas):
    sprite = atlas.pixels[0]
    changed = 0
    for seed in range(60):
        colors, alpha = restyle(
            np.random.default_rng(seed),
            np.ascontiguousarray(sprite[..., :3]).astype(np.float32),
            np.ascontiguousarray(sprite[..., 3]),
        )
        assert colors.shape == (SIDE, SIDE, 3) and alpha.shape == (SIDE, SIDE)
        assert colors.min() >= 0 and colors.max() <= 255 and np.isfinite(colors).all()
        changed += bool((colors != sprite[..., :3]).any() or (alpha != sprite[..., 3]).any())
    assert 40 <= changed < 60


@pytest.mark.parametrize("style", STYLES)
def test_grounds(style):
    for seed in range(10):
        ground = draw_ground(np.random.default_rng(seed), 96, {style: 1})
        assert ground.pixels.shape == (96, 96, 3) and ground.style == style
        assert ground.pixels.min() >= 0 and ground.pixels.max() <= 255
        assert bool(ground.color) == (style in ("plain", "shaded", "noisy"))
        if ground.color:
            mean = ground.pixels.mean((0, 1))
            assert np.abs(mean - GROUND_COLORS[ground.color]).max() < 25


def test_lines_are_short_and_known():
    rng = np.random.default_rng(0)
    lines = [random_line(rng) for _ in range(2000)]
    assert all(0 < len(line) <= 14 and set(line) <= {*CHARACTERS, " "} for line in lines)
    assert set("".join(lines)) >= set(CHARACTERS[:62])
    assert all(set(random_line(rng, accents=False)) <= UNACCENTED | {" "} for _ in range(500))


def test_fonts_that_are_absent_are_skipped(monkeypatch):
    held_out = [family.name for family in fonts.FAMILIES if family.held_out]
    assert len(held_out) == 3 and len(fonts.FAMILIES) - 3 >= 20
    assert "DejaVu Sans" in {family.name for family in fonts.installed()}
    assert not set(fonts.installed()) & set(fonts.installed(held_out=True))
    assert not {*fonts.installed()} & {*fonts.missing()}
    with pytest.raises(ValueError, match=r"Absent.ttf is not installed"):
        fonts.load_word_font("Absent.ttf", 20)


# the real atlas


def test_every_kind_has_its_drawings(real):
    by_artist = real.by_artist(real.training_artists)
    names = {kind.name for kind in all_kinds()}
    assert set(by_artist) == names == set(real.kinds)
    few = {name for name, artists in by_artist.items() if len(artists) < 6} - {"wheel"}
    assert few == set()
    held_out = real.by_artist(("twemoji", "openmoji"))
    assert len(held_out) >= len(names) - 1


def test_real_scenes_show_every_kind(real):
    composer = Composer(real)
    scenes = [composer(seed)[1] for seed in range(60)]
    assert len({thing.name for scene in scenes for thing in scene.objects}) > 80


def test_words_that_find_no_room_are_left_out(atlas):
    canvas = Canvas(0, 160, dict(SceneOptions().grounds), stretch=0)
    canvas.taken.append((0, 0, canvas.size, canvas.size))
    for _ in range(20):
        write_lines(canvas, Composer(atlas).families, large=False)
    assert not canvas.texts
