"""A sheet of stickers as a file: what it holds, credits and refuses, and scenes from it."""

import json

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import Base
from sheet import SHEET_COLORS, sheet_atlas, write_sheet

from paligemma.checkpoints.resolve import BUILT_IN_FOLDER, resolve
from paligemma.synthetic.atlas import Atlas
from paligemma.synthetic.compose import Composer
from paligemma.synthetic.scene_options import SceneOptions
from paligemma.synthetic.sticker_sheet import CELL, COLUMNS, StickerSheet, load_sheet, save_sheet


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_sheet(tmp_path_factory.mktemp("sheet"))


def test_each_kind_is_there_once_by_an_artist_who_may_be_passed_on(path):
    sheet = StickerSheet(path)
    assert {cell.kind: cell.artist for cell in sheet.cells} == {
        "dog": "noto",
        "cat": "noto",
        "apple": "fluent",  # noto lacks it
        "key": "noto",
        "anchor": "noto",
    }
    assert [cell.kind for cell in sheet.cells] == list(SHEET_COLORS)
    assert sheet.places["cat"] == (1, 0) and (sheet.side, sheet.rows) == (CELL, 1)
    credit = Image.open(path).getexif()[Base.Copyright]
    assert "Google LLC, Apache License 2.0" in credit and "Microsoft" in credit


def test_a_sheet_is_an_atlas_again(path):
    atlas = load_sheet(path)
    for number, record in enumerate(atlas.sprites):
        color = (20, 160, 60) if record.kind == "apple" else SHEET_COLORS[record.kind]
        assert atlas.pixels[number][80, 80, :3].tolist() == pytest.approx(color, abs=12), (
            record.kind
        )
        x1, y1, x2, y2 = record.box
        assert x2 - x1 == pytest.approx(152, abs=2) and y2 - y1 == pytest.approx(114, abs=4)
        assert atlas.pixels[number][80, 80, 3] == 255 and atlas.pixels[number][2, 2, 3] == 0


def test_scenes_are_composed_from_a_sheet(path):
    composer = Composer(load_sheet(path), SceneOptions(size=160, kinds=("dog", "key")))
    found = [thing for seed in range(20) for thing in composer(seed)[1].objects]
    assert {thing.name for thing in found} == {"dog", "key"}
    assert {thing.artist for thing in found} == {"noto"}
    assert np.array_equal(composer(3)[0], composer(3)[0])


def test_what_is_no_sheet_is_refused(tmp_path, path):
    with pytest.raises(ValueError, match="is no sheet of stickers"):
        StickerSheet(tmp_path / "absent.webp")
    plain = tmp_path / "plain.webp"
    Image.new("RGBA", (COLUMNS * CELL, CELL)).save(plain)
    with pytest.raises(ValueError, match="is no sheet of stickers"):
        load_sheet(plain)
    exif = Image.Exif()
    for described in ("[1, 2]", "{}", '"x"', json.dumps([["dog", "noto", "1f436"]])):
        exif[Base.ImageDescription] = described
        Image.new("RGBA", (COLUMNS * CELL, 2 * CELL)).save(plain, exif=exif)
        with pytest.raises(ValueError, match="is no sheet of stickers"):
            StickerSheet(plain)


def test_an_atlas_without_such_artists_gives_no_sheet(tmp_path):
    atlas = sheet_atlas()
    held_out = [n for n, sprite in enumerate(atlas.sprites) if sprite.held_out]
    records = tuple(atlas.sprites[n] for n in held_out)
    with pytest.raises(ValueError, match="nothing by noto or fluent"):
        save_sheet(Atlas(atlas.pixels[held_out], records, atlas.kinds), tmp_path / "a.webp")
    with pytest.raises(ValueError, match=r"a\.webp cannot be written: No such file"):
        save_sheet(atlas, tmp_path / "absent" / "a.webp")


def test_a_checkpoint_has_the_sheet_of_its_folder(tmp_path):
    for file in BUILT_IN_FOLDER.iterdir():
        (tmp_path / file.name).symlink_to(file)
    sheet = tmp_path / "stickers.webp"
    sheet.unlink(missing_ok=True)
    assert resolve(tmp_path).sticker_sheet is None
    write_sheet(tmp_path)
    assert resolve(tmp_path).sticker_sheet == sheet
