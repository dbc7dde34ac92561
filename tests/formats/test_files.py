"""JSON files against records: what is read, and the one sentence for what does not fit."""

import pytest
from PIL import ExifTags, Image

from paligemma.formats.files import (
    FileRecord,
    check_record,
    find_file,
    find_files,
    iter_lines,
    read_record,
    read_record_lines,
)
from paligemma.formats.image_files import ImageFinder, image_path
from paligemma.formats.samples import SampleRecord
from paligemma.images import open_image, read_size


class Word(FileRecord):
    text: str
    page: int = 0
    score: float = 1.0


class Page(FileRecord):
    words: list[Word]


def test_what_is_declared_is_read_and_the_rest_ignored(tmp_path):
    (tmp_path / "a.json").write_text('{"words": [{"text": "é", "page": 3, "font": 7}], "more": 1}')
    assert read_record(Page, tmp_path / "a.json") == Page(words=[Word(text="é", page=3)])
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\r\n\n  \n{"text": "\xe2\x80\xa8b"}')
    records = read_record_lines(Word, tmp_path / "a.jsonl")
    assert [record.text for record in records] == ["a", "\u2028b"]
    lines = list(iter_lines(tmp_path / "a.jsonl"))
    assert [(number, offset) for number, offset, _ in lines] == [(1, 0), (4, 19)]


REASONS = {
    "no JSON": ('{"words": [', "it is not JSON (EOF while parsing"),
    "nothing": ("", "it is not JSON (EOF while parsing"),
    "a list": ("[]", "it is a list, not an object with words"),
    "null": ("null", "it is null, not an object"),
    "a field is missing": ("{}", "it has no words"),
    "an inner field is missing": ('{"words": [{"page": 1}]}', "words.0 has no text"),
    "no list": ('{"words": true}', "words is true or false, not a list"),
    "no object": ('{"words": [[]]}', "words.0 is a list, not an object"),
    "no text": ('{"words": [{"text": 7}]}', "words.0.text is 7, not text"),
    "no number": (
        '{"words": [{"text": "a", "page": "b"}]}',
        "words.0.page is 'b': input should be",
    ),
    "no finite number": ('{"words": [{"text": "a", "score": NaN}]}', "words.0.score is nan: input"),
    "far too long": ('{"words": "' + "x" * 999 + '"}', "words is text, not a list"),
}


@pytest.mark.parametrize("text, reason", REASONS.values(), ids=REASONS.keys())
def test_what_does_not_fit_is_one_sentence(tmp_path, text, reason):
    path = tmp_path / "page.json"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        read_record(Page, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: {reason}") and message.endswith(".")
    assert "\n" not in message and len(message) < len(str(path)) + 200


def test_a_bad_line_is_named_by_its_number(tmp_path):
    path = tmp_path / "words.jsonl"
    path.write_text('{"text": "a"}\n\n{"txt": "b"}\n')
    with pytest.raises(ValueError, match=r"words\.jsonl, line 3: it has no text\.$"):
        read_record_lines(Word, path)


@pytest.mark.parametrize(
    "read", [lambda path: read_record(Page, path), lambda path: read_record_lines(Word, path)]
)
def test_a_file_that_cannot_be_read(tmp_path, read):
    with pytest.raises(ValueError, match=r"absent cannot be read: No such file"):
        read(tmp_path / "absent")
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        read(tmp_path)


def test_values_are_checked_like_files():
    assert check_record(Word, {"text": "a"}) == Word(text="a")
    with pytest.raises(ValueError, match=r"^text is None, not text$"):
        check_record(Word, {"text": None})


# --- Samples --------------------------------------------------------------------------------------


def test_a_sample_whose_objects_cannot_be_read_back():
    good = {"image": "a.png", "prefix": "detect cat", "suffix": "<loc0001>" * 4 + " cat"}
    assert check_record(SampleRecord, good).suffix == good["suffix"]
    with pytest.raises(ValueError, match=r"^it has 3 <loc> in a row; a box has 4$"):
        check_record(SampleRecord, good | {"suffix": "<loc0001>" * 3})


# --- Files and images -----------------------------------------------------------------------------


def test_files_are_found_by_pattern(tmp_path):
    for name in ("b/val_1.json", "val_2.json", "train.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    found = find_files(tmp_path, "val_*.json")
    assert [path.name for path in found] == ["val_1.json", "val_2.json"]
    assert find_file(tmp_path, "train*.json", "x") == tmp_path / "train.json"
    assert find_file(tmp_path / "train.json", "val_*") == tmp_path / "train.json"
    with pytest.raises(ValueError, match=r"has 2 files for it \(b/val_1.json, val_2.json\); name"):
        find_file(tmp_path, "val_*.json")
    with pytest.raises(ValueError, match=r"has no test\.json or x; name the file, or another"):
        find_file(tmp_path, "test.json", "x")
    with pytest.raises(ValueError, match="There is no file or folder"):
        find_files(tmp_path / "absent", "*")


@pytest.mark.parametrize("name", ["b.png", "", "a" * 300, "data:image/png;base64," + "A" * 5000])
def test_an_image_that_is_not_there_is_a_short_reason(tmp_path, name):
    with pytest.raises(ValueError, match=r"^there is no image") as caught:
        image_path(tmp_path, name)
    assert len(str(caught.value)) < len(str(tmp_path)) + 100
    with pytest.raises(ValueError, match="which is not under") as caught:
        ImageFinder(tmp_path, tmp_path / "a.json")(name)
    assert len(str(caught.value)) < 2 * len(str(tmp_path)) + 150


def test_images_lie_beside_the_annotations_or_under_the_root(tmp_path):
    for name in ("val2017/a.png", "annotations/b.png", "deep/er/c.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("")
    for find in (
        ImageFinder(tmp_path, tmp_path / "annotations" / "x.json"),
        ImageFinder(tmp_path / "annotations" / "x.json", tmp_path / "annotations" / "x.json"),
    ):
        assert find("val2017/a.png") == find("a.png") == tmp_path / "val2017" / "a.png"
        assert find("b.png") == tmp_path / "annotations" / "b.png"
        assert find("c.png") == tmp_path / "deep" / "er" / "c.png"


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_the_size_in_a_header_is_that_of_the_upright_image(tmp_path, orientation):
    image = Image.new("RGB", (30, 20))
    exif = image.getexif()
    if orientation:
        exif[ExifTags.Base.Orientation] = orientation
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_size(tmp_path / "a.jpg") == open_image(tmp_path / "a.jpg").size
    (tmp_path / "b.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"'b\.jpg' is not an image"):
        read_size(tmp_path / "b.jpg")
