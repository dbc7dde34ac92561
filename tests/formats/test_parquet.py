"""Parquet files with the columns of image data sets."""

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from paligemma.formats.parquet import find_parquet, read_parquet, read_parquet_images
from paligemma.formats.samples import SampleRecord

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
TURNS = [
    {"role": "user", "content": "<image>caption en"},
    {"role": "assistant", "content": "a cat"},
]


def png(color: str) -> bytes:
    file = BytesIO()
    Image.new("RGB", (8, 8), color).save(file, "PNG")
    return file.getvalue()


def write(path: Path, **columns) -> Path:
    parquet.write_table(pa.table(columns), path, row_group_size=2)
    return path


RED, GREEN, BLUE = map(png, ("red", "green", "blue"))
IMAGES = {
    "structs": [{"bytes": one, "path": f"{n}.png"} for n, one in enumerate((RED, GREEN, BLUE))],
    "structs without paths": [{"bytes": one, "path": None} for one in (RED, GREEN, BLUE)],
    "bytes": [RED, GREEN, BLUE],
    "paths": ["a.png", "b.png", "c.png"],
    "structs of paths": [{"bytes": None, "path": f"{name}.png"} for name in "abc"],
}


@pytest.mark.parametrize("images", IMAGES.values(), ids=IMAGES)
def test_images_and_texts_of_each_form(tmp_path, images):
    path = write(tmp_path / "train.parquet", image=images, text=["one", "two", None], id=[1, 2, 3])
    first, second, third = read_parquet(path, "caption en")
    assert [record.suffix for record in first[1]] == ["one"]
    assert [record.prefix for record in second[1]] == ["caption en"]
    assert third[1] == "it has none of suffix, text, caption"
    assert [place.number for place, _ in (first, second, third)] == [0, 1, 2]
    found = [one for place, _ in (first, second, third) for one in read_parquet_images(place)]
    values = (list(one.values()) if isinstance(one, dict) else [one] for one in images)
    assert found == [next(filter(None, value)) for value in values]


def test_prompts_and_answers(tmp_path):
    columns = {"prefix": ["ocr", None], "suffix": ["EXIT", "a cat"], "text": ["x", "x"]}
    path = write(tmp_path / "a.parquet", image=IMAGES["paths"][:2], **columns)
    (_, first), (_, second) = read_parquet(path, None)
    assert first == [SampleRecord(image="a.png", prefix="ocr", suffix="EXIT")]
    assert second == "it has no prefix, and none is given for all"


@pytest.mark.parametrize("name", ["messages", "conversations"])
def test_conversations(tmp_path, name):
    images = [[IMAGES["structs"][0]], IMAGES["structs"][:2]]
    more = [{"role": "user", "content": "ocr"}, {"role": "assistant", "content": ""}]
    path = write(tmp_path / "a.parquet", images=images, **{name: [TURNS + more, TURNS]})
    (place, first), (other, second) = read_parquet(path, None)
    one = SampleRecord(image="0.png", prefix="caption en", suffix="a cat")
    assert first == [one, SampleRecord(image="0.png", prefix="ocr", suffix="")]
    assert second == [one.model_copy(update={"more_images": ("1.png",)})]
    assert read_parquet_images(place) == [RED] and len(read_parquet_images(other)) == 2


BAD = {
    "half a box": ({"suffix": ["<loc0001> cat"]}, "it has 1 <loc>"),
    "a number": ({"suffix": [7]}, "suffix is 7, not text"),
    "no images": (
        {"suffix": ["a"], "image": pa.array([[]], pa.list_(pa.string()))},
        "it has no image",
    ),
}


@pytest.mark.parametrize("columns, reason", BAD.values(), ids=BAD)
def test_a_row_that_is_no_sample_is_named(tmp_path, columns, reason):
    path = write(tmp_path / "a.parquet", **{"image": ["a.png"]} | columns)
    [(_, found)] = read_parquet(path, "detect cat")
    assert found.startswith(reason)


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "train.parquet"
    path.write_bytes(b"PAR1" + bytes(40))
    with pytest.raises(ValueError, match=r"train.parquet cannot be read as Parquet"):
        [*read_parquet(path, None)]
    write(path, pixels=[1], text=["a"])
    with pytest.raises(ValueError, match=r"no column image or images, only pixels, text"):
        [*read_parquet(path, None)]


def test_a_pattern_names_the_files_of_a_split(tmp_path):
    for name in "train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001":
        write(tmp_path / f"{name}.parquet", image=["a.png"], text=["a"])
    found = find_parquet(tmp_path / "train-*.parquet")
    assert [one.name[:11] for one in found] == ["train-00000", "train-00001"]
    assert find_parquet(found[0]) == found[:1]
    with pytest.raises(ValueError, match=r"is a folder; name a file in it, or several as"):
        find_parquet(tmp_path)
    with pytest.raises(ValueError, match="There is no file"):
        find_parquet(tmp_path / "valid-*.parquet")
