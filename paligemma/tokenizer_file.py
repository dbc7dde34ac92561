"""Reading a tokenizer.json that anyone may have written.

The tokenizers library builds whatever such a file declares: patterns that never end, ids that fill
the memory, parts that panic in Rust. So a file is checked first against what tokenizers of
PaliGemma declare, and the rest of what the library raises becomes a ValueError here.

Source of the format: github.com/huggingface/tokenizers.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from paligemma.config import short_repr

MAX_BYTES = 48_000_000  # the published files have 18 to 35 MB
MAX_OBJECTS = 2_000_000  # lists and objects in a file; 600,000 merges are published
MAX_TOKENS = 1_048_576
MAX_ADDED_TOKENS = 8_192  # they become one pattern that is sought in every prompt
MAX_TOKEN_LENGTH = 1_000
MAX_COMPONENTS = 32  # normalizers, pre-tokenizers, decoders
MAX_GROWTH = 4  # characters that a text may have for each one, once normalised

MODELS = {"BPE", "Unigram", "WordLevel"}
# Parts of a file -> the types that they may have; a Sequence's list has the key given.
COMPONENTS = {
    "normalizer": (
        "normalizers",
        {"Replace", "Prepend", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents"},
    ),
    "pre_tokenizer": (
        "pretokenizers",
        {"Split", "Metaspace", "ByteLevel", "Whitespace", "WhitespaceSplit", "Digits"}
        | {"Punctuation"},
    ),
    "post_processor": ("processors", {"TemplateProcessing", "ByteLevel"}),
    "decoder": ("decoders", {"Replace", "ByteFallback", "Fuse", "Metaspace", "ByteLevel", "Strip"}),
}
# The regular expressions that are run: sets of characters, perhaps with such a set before or after
# them, and nothing that repeats or nests, so that none backtracks.
_SET = r"(?:\[[^\[\]\\&]{1,200}\]|\\p\{\w{1,20}\}|\\[sdw])"
_BRANCH = rf"(?:{_SET}|\(\?<?[=!]{_SET}\)){{1,8}}"
PATTERN = re.compile(rf"{_SET}\+|{_BRANCH}(?:\|{_BRANCH}){{0,7}}")


@contextmanager
def tokenizer_errors(message: str) -> Iterator[None]:
    """Raise what the tokenizers library raises, a panic of Rust included, as a ValueError."""
    try:
        yield
    except BaseException as error:
        # pyo3's PanicException is a BaseException, and cannot be imported
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise ValueError(f"{message}: {reason}.") from error


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json. Raises ValueError if it is damaged, or unlike one of PaliGemma."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ValueError(f"it has {size:,} bytes; at most {MAX_BYTES:,} are read")
        text = path.read_text("utf-8")
        if text.count("[") + text.count("{") > MAX_OBJECTS:
            raise ValueError(f"it has more than {MAX_OBJECTS:,} lists and objects")
        _check_file(json.loads(text))
    except RecursionError as error:
        raise ValueError(f"{str(path)!r} is not a tokenizer file: nested too deeply.") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is not a tokenizer file: {error}.") from error
    with tokenizer_errors(f"{str(path)!r} is not a tokenizer file"):
        return Tokenizer.from_str(text)


def _check_file(values: Any) -> None:
    _require(isinstance(values, dict), "it holds no object")
    model = values.get("model")
    _require(isinstance(model, dict), "it has no model")
    kind = model.get("type", "BPE")
    _require(isinstance(kind, str) and kind in MODELS, f"its model is {short_repr(kind)}")
    _require(not model.get("dropout"), "its model has a dropout")
    _check_vocabulary(model.get("vocab"))
    _check_added_tokens(values.get("added_tokens") or [])
    for part, (key, kinds) in COMPONENTS.items():
        components = _components(part, values.get(part), key)
        _require(len(components) <= MAX_COMPONENTS, f"its {part} has too many parts")
        growth = 1.0
        for component in components:
            kind = component.get("type")
            _require(
                isinstance(kind, str) and kind in kinds, f"its {part} is of type {short_repr(kind)}"
            )
            growth *= _check_component(part, component)
        _require(growth <= MAX_GROWTH, f"its {part} makes texts too long")


def _check_vocabulary(vocabulary: Any) -> None:
    """{token: id} or, of Unigram, [[token, score], …]."""
    _require(isinstance(vocabulary, dict | list) and vocabulary, "its model has no vocab")
    _require(len(vocabulary) <= MAX_TOKENS, f"it has more than {MAX_TOKENS:,} tokens")
    if isinstance(vocabulary, dict):
        ids = list(vocabulary.values())
        _require(all(map(_is_id, ids)), f"its ids are not all from 0 to {MAX_TOKENS - 1:,}")
        _require(len(set(ids)) == len(ids), "two of its tokens have one id")
    else:
        pairs = all(isinstance(pair, list) and len(pair) == 2 for pair in vocabulary)
        _require(pairs, "its vocab has more than tokens and scores")
        numbers = all(
            isinstance(score, int | float) and abs(score) < 1e6 for _, score in vocabulary
        )
        _require(numbers, "its scores are not all numbers")
    tokens = vocabulary if isinstance(vocabulary, dict) else (token for token, _ in vocabulary)
    _require(all(map(_is_token, tokens)), f"a token is no text of {MAX_TOKEN_LENGTH} characters")


def _check_added_tokens(added: Any) -> None:
    _require(isinstance(added, list), "its added_tokens are no list")
    _require(len(added) <= MAX_ADDED_TOKENS, f"it has more than {MAX_ADDED_TOKENS:,} added tokens")
    ids = set()
    for token in added:
        _require(isinstance(token, dict), "its added_tokens hold more than objects")
        content, identifier = token.get("content"), token.get("id")
        _require(_is_token(content) and content, f"an added token is {short_repr(content)}")
        _require(_is_id(identifier), f"the id of {short_repr(content)} is {short_repr(identifier)}")
        _require(identifier not in ids, f"two added tokens have the id {short_repr(identifier)}")
        ids.add(identifier)


def _components(part: str, component: Any, key: str) -> list[dict[str, Any]]:
    """The parts of a Sequence, in one list; no part for null."""
    if component is None:
        return []
    _require(isinstance(component, dict), f"its {part} is no object")
    if component.get("type") != "Sequence":
        return [component]
    parts = component.get(key)
    _require(isinstance(parts, list), f"its {part} has no {key}")
    return [each for inner in parts for each in _components(part, inner, key)]


def _check_component(part: str, component: dict[str, Any]) -> float:
    """How many characters a text can have after it, for each one before it."""
    if component["type"] == "TemplateProcessing":
        for key in ("single", "pair"):
            template = component.get(key)
            _require(isinstance(template, list) and len(template) <= 16, f"its {part} is long")
    if component["type"] == "Strip" and part == "decoder":
        for key in ("start", "stop"):
            cut = component.get(key)
            _require(isinstance(cut, int) and 0 <= cut <= 8, f"its {part} strips {short_repr(cut)}")
    content = component.get("prepend" if component["type"] == "Prepend" else "content", "")
    _require(isinstance(content, str), f"its {part} has no text as content")
    if component["type"] not in ("Replace", "Split"):
        return 1.0 + len(content) * (component["type"] == "Prepend")
    pattern = component.get("pattern")
    if not isinstance(pattern, dict) or len(pattern) != 1:
        raise ValueError(f"its {part} has no pattern")
    ((kind, text),) = pattern.items()
    _require(isinstance(text, str) and text, f"its {part} has an empty pattern")
    if kind == "String":
        _require(len(text) <= MAX_TOKEN_LENGTH, f"its {part} has a long pattern")
    else:
        simple = kind == "Regex" and PATTERN.fullmatch(text)
        _require(simple, f"its {part} has the pattern {short_repr(text)}, not sets of characters")
    return max(1.0, len(content) / (len(text) if kind == "String" else 1))


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_TOKENS


def _is_token(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TOKEN_LENGTH


def _require(holds: Any, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
