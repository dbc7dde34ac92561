"""The page's list of the names that a model knows, and their pictures."""

import re
from urllib.parse import unquote

import pytest
from gradio.utils import is_static_file
from PIL import Image
from scripted import Scripted
from sheet import SHEET_COLORS, write_sheet

from paligemma.pipeline import PaliGemma
from paligemma.synthetic.kinds import all_kinds
from paligemma.synthetic.scenes import KINDS
from paligemma.ui import image_input
from paligemma.ui.name_list import name_list_html


def names(html: str) -> list[str]:
    return re.findall(r' data-name="([^"]+)"', html)


def test_the_built_in_model_has_its_names_with_stickers():
    pg = PaliGemma.load()
    html = name_list_html(pg.known_names, pg.sticker_sheet)
    assert sorted(names(html)) == sorted(pg.known_names)
    assert html.count('class="cell"') == len(pg.known_names)
    assert "data-text" not in html, "each is drawn as in training"


def test_without_a_sheet_the_small_worlds_names_have_pictograms():
    html = name_list_html(tuple(KINDS), None)
    assert html.count("<svg") == len(KINDS) and "data-text" not in html


def test_without_known_names_all_kinds_are_there():
    every = names(name_list_html((), None))
    assert set(every[: len(KINDS)]) == set(KINDS), "these come first"
    assert sorted(every) == sorted(kind.name for kind in all_kinds())


def test_a_name_without_a_drawing_is_the_devices_own_or_plain():
    html = name_list_html(("a <b>", "dog"), None)
    assert names(html) == ["dog", "a &lt;b&gt;"]
    assert 'data-text="🐶"' in html, "the visitor's device draws it"
    assert html.endswith(">" + "<span>a &lt;b&gt;</span><small></small></button></template>")


def test_names_are_found_in_four_languages_and_by_category():
    html = name_list_html(("dog", "lemon"), None)
    assert 'data-words="dogs|Hund|Hunde|chien|chiens|perro|perros"' in html
    assert 'data-category="animal"' in html and 'data-category="food"' in html


def test_pictures_are_cells_of_the_sheet(tmp_path):
    sheet = write_sheet(tmp_path)
    html = name_list_html(tuple(SHEET_COLORS), sheet)
    assert names(html) == list(SHEET_COLORS)
    assert html.count('class="cell"') == 5 and "<svg" not in html and "data-text" not in html
    assert 'data-at="128 0 128" style="background-position: 5.263% 0%"' in html, "the cat"
    [url] = re.findall(r"gradio_api/file=([^']+?)&#x27;", html)
    assert unquote(url) == str(sheet.resolve()) and is_static_file(sheet)
    assert not is_static_file(tmp_path / "config.json"), "the sheet alone is served"
    assert len(html) < 2500
    Image.new("RGB", (9, 9)).save(sheet)
    with pytest.raises(ValueError, match="is no sheet of stickers"):
        name_list_html(tuple(SHEET_COLORS), sheet)


def test_a_random_scene_is_of_stickers_where_there_is_a_sheet(tmp_path, monkeypatch):
    model = Scripted({})
    seeds = iter(range(99))
    monkeypatch.setattr(image_input.secrets, "randbelow", lambda _: next(seeds))
    drawn = []
    original = image_input._composer

    def composer(*asked):
        compose = original(*asked)
        return lambda seed: drawn.append(compose(seed)) or drawn[-1]

    monkeypatch.setattr(image_input, "_composer", composer)
    assert Image.open(image_input.draw_random_scene(model)).size == (512, 512)
    assert not drawn, "without a sheet it is one of pictograms"
    model.sticker_sheet, model.known_names = write_sheet(tmp_path), ("dog", "key", "moon")
    assert Image.open(image_input.draw_random_scene(model)).size == (512, 512)
    things = drawn[-1][1].objects
    assert len(things) >= 2 and {thing.name for thing in things} <= {"dog", "key"}
