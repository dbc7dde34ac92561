"""Lines of samples and of conversations, and folders with metadata."""

import json

import pytest

from paligemma.formats.image_folder import find_metadata, read_metadata
from paligemma.formats.samples import SampleRecord, parse_samples

CAT = SampleRecord(image="a.jpg", prefix="caption en", suffix="a cat")
TURNS = [
    {"role": "user", "content": "<image>caption en"},
    {"role": "assistant", "content": "a cat"},
]
OTHERS = [{"from": "human", "value": "<image>\ncaption en"}, {"from": "gpt", "value": "a cat"}]
PARTS = [
    {"type": "image", "image": "a.jpg"},
    {"type": "text", "text": "caption en"},
]
LINES = {
    "big_vision": {"image": "a.jpg", "prefix": "caption en", "suffix": "a cat"},
    "messages": {"messages": TURNS, "images": ["a.jpg"]},
    "images with paths": {"messages": TURNS, "images": [{"path": "a.jpg", "bytes": None}]},
    "conversations": {"conversations": OTHERS, "image": "a.jpg"},
    "parts": {"messages": [{"role": "user", "content": PARTS}, TURNS[1]]},
    "a name": {"image": "a.jpg", "prefix": "caption en", "suffix": "a cat", "messages": None},
}


@pytest.mark.parametrize("values", LINES.values(), ids=LINES)
def test_one_sample_in_every_form(values):
    assert parse_samples(json.dumps(values).encode()) == [CAT]


def test_each_answer_of_a_conversation_is_a_sample():
    more = [{"role": "user", "content": "ocr"}, {"role": "model", "content": "EXIT"}]
    line = json.dumps({"messages": TURNS + more, "images": ["a.jpg"]}).encode()
    assert parse_samples(line) == [CAT, SampleRecord(image="a.jpg", prefix="ocr", suffix="EXIT")]


BAD = {
    "a system message": ([{"role": "system", "content": "be brief"}, *TURNS], "is of 'system'"),
    "no answer": (TURNS[:1], "its last message is no answer"),
    "nothing": ([], "its last message is no answer"),
    "two prompts": ([TURNS[0], TURNS[0]], "message 2 is of 'user', not of assistant"),
    "no text": ([{"role": "user", "content": 7}, TURNS[1]], "is 7, not text"),
    "no list": ("hello", "its messages are no list of objects"),
    "half a box": ([TURNS[0], {"role": "assistant", "content": "<loc0001> cat"}], "it has 1 <loc>"),
}


@pytest.mark.parametrize("messages, reason", BAD.values(), ids=BAD)
def test_a_conversation_that_is_no_sample(messages, reason):
    with pytest.raises(ValueError, match=reason):
        parse_samples(json.dumps({"messages": messages, "images": ["a.jpg"]}).encode())


BOTH = SampleRecord(image="a.jpg", prefix="caption en", suffix="a cat", more_images=("b.jpg",))
TEXTS = {"prefix": "caption en", "suffix": "a cat"}
SEVERAL = {
    "image": TEXTS | {"image": ["a.jpg", "b.jpg"]},
    "images": TEXTS | {"images": ["a.jpg", {"path": "b.jpg"}]},
    "messages": {"messages": TURNS, "images": ["a.jpg", "b.jpg"]},
    "parts": {
        "messages": [
            {"role": "user", "content": [PARTS[0], PARTS[0] | {"image": "b.jpg"}, PARTS[1]]},
            TURNS[1],
        ]
    },
}


@pytest.mark.parametrize("values", SEVERAL.values(), ids=SEVERAL)
def test_a_prompt_about_several_images(values):
    assert parse_samples(json.dumps(values).encode()) == [BOTH]


@pytest.mark.parametrize("values", [{"messages": TURNS}, TEXTS], ids=["messages", "lines"])
def test_a_sample_has_an_image(values):
    with pytest.raises(ValueError, match="it has no image"):
        parse_samples(json.dumps(values | {"images": []}).encode())
    with pytest.raises(ValueError, match=r"the image is 7, not a file's name"):
        parse_samples(json.dumps(values | {"images": ["a.jpg", 7]}).encode())


def test_all_images_belong_into_the_first_message():
    line = json.dumps({"messages": TURNS * 2, "images": ["a.jpg", "b.jpg"]}).encode()
    with pytest.raises(ValueError, match="message 3 brings an image: each prompt stands alone"):
        parse_samples(line)


def test_a_folder_with_metadata(tmp_path):
    assert find_metadata(tmp_path) is None
    lines = [
        {"file_name": "a.jpg", "text": "a cat"},
        {"file_name": "a.jpg", "prefix": "ocr", "caption": "EXIT"},
        {"file_name": "a.jpg"},
        {"text": "a cat"},
        [],
    ]
    path = tmp_path / "metadata.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    assert find_metadata(tmp_path) == path
    (_, first), (_, second), *bad = read_metadata(path, "caption en")
    assert first == CAT and (second.prefix, second.suffix) == ("ocr", "EXIT")
    assert [number for number, _ in bad] == [3, 4, 5]
    assert [reason for _, reason in bad] == [
        "it has none of suffix, text, caption",
        "it has no file_name",
        "it is a list, not an object",
    ]


def test_metadata_as_csv(tmp_path):
    path = tmp_path / "metadata.csv"
    path.write_text('\ufefffile_name,text\na.jpg,a cat\nb.jpg,"two\nlines"\n,x\n')
    (_, first), (number, second), (_, third) = read_metadata(path, "caption en")
    assert first == CAT and (number, second.suffix) == (4, "two\nlines")
    assert third == "it has no file_name"
