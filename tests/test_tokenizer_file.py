"""tokenizer.json files that are refused, in a sentence and at once."""

import json
import time

import pytest
import tiny
from tokenizers import Tokenizer

from paligemma.processor import PaliGemmaProcessor
from paligemma.tokenizer_file import MAX_BYTES, read_tokenizer, tokenizer_errors

SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
REPLACE = {"type": "Replace", "pattern": {"String": " "}}


def values() -> dict:
    return json.loads(tiny.words().to_str())


def refused(path, content) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    start = time.perf_counter()
    with pytest.raises(ValueError) as caught:
        read_tokenizer(path)
    assert time.perf_counter() - start < 10
    words = str(caught.value)
    assert words.endswith(".") and "\n" not in words and len(words) < 600
    assert words.startswith(f"{str(path)!r} is not a tokenizer file: ")
    return words


@pytest.mark.parametrize(
    "part, component, words",
    [
        ("pre_tokenizer", SPLIT | {"pattern": {"Regex": "(a+)+$"}}, "not sets of characters"),
        ("pre_tokenizer", SPLIT | {"pattern": {"Regex": "(.*)*x"}}, "not sets of characters"),
        ("pre_tokenizer", SPLIT | {"pattern": {"Regex": "a{9999}{9999}"}}, "not sets of"),
        ("pre_tokenizer", SPLIT | {"pattern": {"Regex": "([a]|[a])" * 50 + "x"}}, "not sets of"),
        ("pre_tokenizer", SPLIT | {"pattern": {"String": ""}}, "an empty pattern"),
        ("pre_tokenizer", SPLIT | {"pattern": "a"}, "has no pattern"),
        ("pre_tokenizer", {"type": "Wonderful"}, "is of type 'Wonderful'"),
        ("pre_tokenizer", {"type": ["Split"]}, "is of type ['Split']"),
        ("pre_tokenizer", {"type": "Sequence", "pretokenizers": 3}, "has no pretokenizers"),
        ("pre_tokenizer", "Split", "is no object"),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "'Precompiled'"),
        ("normalizer", REPLACE | {"content": "a" * 10_000}, "makes texts too long"),
        (
            "normalizer",
            {"type": "Sequence", "normalizers": [REPLACE | {"content": "  "}] * 20},
            "makes texts too long",
        ),
        ("normalizer", {"type": "Prepend", "prepend": "a" * 10**5}, "makes texts too long"),
        ("decoder", {"type": "Strip", "content": "a", "start": 10**9, "stop": 0}, "strips 1000"),
        ("decoder", {"type": "CTC"}, "is of type 'CTC'"),
        (
            "post_processor",
            {
                "type": "TemplateProcessing",
                "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 10**5,
                "pair": [],
                "special_tokens": {},
            },
            "is long",
        ),
    ],
)
def test_a_component_is_refused(tmp_path, part, component, words):
    assert words in refused(tmp_path / "tokenizer.json", values() | {part: component})


@pytest.mark.parametrize(
    "change, words",
    [
        ({"type": "WordPiece"}, "its model is 'WordPiece'"),
        ({"dropout": 0.5}, "its model has a dropout"),
        ({"vocab": {}}, "has no vocab"),
        ({"vocab": {"a": 2**31}}, "not all from 0"),
        ({"vocab": {"a": -1}}, "not all from 0"),
        ({"vocab": {"a": True}}, "not all from 0"),
        ({"vocab": {"a": 1, "b": 1}}, "two of its tokens have one id"),
        ({"vocab": {"a" * 2000: 1}}, "no text of 1000 characters"),
        ({"type": "Unigram", "vocab": [["a"]]}, "more than tokens and scores"),
        ({"type": "Unigram", "vocab": [["a", float("nan")]]}, "not all numbers"),
        ({"type": "Unigram", "vocab": [[7, 1.0]]}, "no text of 1000 characters"),
        ({"merges": [["no", "such"]]}, "out of vocabulary"),
    ],
)
def test_a_model_is_refused(tmp_path, change, words):
    content = values()
    content["model"] |= change
    assert words in refused(tmp_path / "tokenizer.json", content)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"id": 2**40}, "is 1099511627776"),
        ({"id": 1}, "two added tokens have the id 1"),
        ({"content": ""}, "an added token is ''"),
        ({"content": 7}, "an added token is 7"),
    ],
)
def test_an_added_token_is_refused(tmp_path, change, words):
    content = values()
    content["added_tokens"][0] |= change
    assert words in refused(tmp_path / "tokenizer.json", content)


@pytest.mark.parametrize(
    "content, words",
    [("[" * 10**6, "nested too deeply"), ("[" * 3 * 10**6, "lists and objects"), ("{", "Expect")],
)
def test_a_file_is_refused(tmp_path, content, words):
    assert words in refused(tmp_path / "tokenizer.json", content)


def test_a_large_file_is_not_read(tmp_path):
    path = tmp_path / "tokenizer.json"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ValueError, match="has 48,000,001 bytes"):
        read_tokenizer(path)


def test_a_panic_of_rust_is_a_sentence():
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(ValueError, match=r"^Bad: called on"), tokenizer_errors("Bad"):
        raise panic("called on a None value")
    with pytest.raises(KeyboardInterrupt), tokenizer_errors("Bad"):
        raise KeyboardInterrupt


def test_an_encoder_that_panics_is_a_sentence(monkeypatch):
    processor = tiny.processor()
    panic = type("PanicException", (BaseException,), {})

    class Panics:
        def encode(self, *given, **named):
            raise panic("index out of bounds")

        decode = encode

    monkeypatch.setattr(processor, "tokenizer", Panics())
    with pytest.raises(ValueError, match="cannot encode this prompt: index out of bounds"):
        processor.encode_prompt("detect cat")
    with pytest.raises(ValueError, match="cannot decode the answer: index out of bounds"):
        processor.decode([5])


def test_what_published_tokenizers_declare_is_read(tmp_path):
    content = values()
    content["normalizer"] = REPLACE | {"content": "▁"}
    content["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"String": " "},
        "behavior": "MergedWithPrevious",
        "invert": False,
    }
    bos = [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": bos,
        "pair": bos,
        "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}},
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    expected = Tokenizer.from_str(json.dumps(content))
    assert read_tokenizer(path).to_str() == expected.to_str()
    PaliGemmaProcessor.from_folder(tmp_path, tiny.config())
