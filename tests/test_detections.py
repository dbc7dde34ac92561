"""The answer parser: named rows of tidy and untidy answers, a fuzz, and the way back to text."""

import math
import random
import re
from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paligemma.detections import (
    LOC_PATTERN,
    LOC_TOKENS,
    SEG_PATTERN,
    SEG_TOKENS,
    Detection,
    DetectionParser,
    filter_detections,
    format,
    format_box,
    loc_to_value,
    parse,
    parse_tokens,
    value_to_loc,
)

FUZZ_IN_BULK = 90_000
FUZZ_BY_STRUCTURE = 10_000

A = "<loc0100><loc0200><loc0300><loc0400>"
B = "<loc0500><loc0600><loc0700><loc0800>"
ALL = "<loc0000><loc0000><loc1023><loc1023>"
BOX_A, BOX_B, BOX_ALL = (200, 100, 400, 300), (600, 500, 800, 700), (0, 0, 1023, 1023)
CODES = tuple(range(0, 128, 8))
SEGS = "".join(f"<seg{code:03d}>" for code in CODES)

ROWS = {
    "empty": ("", []),
    "plain text": ("a cat on a mat", []),
    "only separators": (" ; ;; ", []),
    "one box": (f"{A} cat", [("cat", BOX_A)]),
    "order is y1 x1 y2 x2": ("<loc0001><loc0002><loc0003><loc0004> a", [("a", (2, 1, 4, 3))]),
    "whole image": (f"{ALL} sky", [("sky", BOX_ALL)]),
    "no space before label": (f"{A}cat", [("cat", BOX_A)]),
    "many spaces around label": (f"{A}   cat  \n ", [("cat", BOX_A)]),
    "two boxes": (f"{A} cat ; {B} dog", [("cat", BOX_A), ("dog", BOX_B)]),
    "same label twice": (f"{A} cat ; {B} cat", [("cat", BOX_A), ("cat", BOX_B)]),
    "repeated box is repeated": (f"{A} cat ; {A} cat", [("cat", BOX_A), ("cat", BOX_A)]),
    "no spaces at the separator": (f"{A} cat;{B} dog", [("cat", BOX_A), ("dog", BOX_B)]),
    "no separator": (f"{A} cat {B} dog", [("cat", BOX_A), ("dog", BOX_B)]),
    "doubled separator": (f"{A} cat ; ; {B} dog", [("cat", BOX_A), ("dog", BOX_B)]),
    "trailing separator": (f"{A} cat ; ", [("cat", BOX_A)]),
    "leading separator": (f" ; {A} cat", [("cat", BOX_A)]),
    "text before the first box": (f"there it is: {A} cat", [("cat", BOX_A)]),
    "text between objects": (f"{A} cat ; and {B} dog", [("cat", BOX_A), ("dog", BOX_B)]),
    "text after the last object": (f"{A} cat ; that is all", [("cat", BOX_A)]),
    "spaces between locations": (A.replace("><", "> <") + " cat", [("cat", BOX_A)]),
    "last box has one location": (f"{A} cat ; <loc0500>", [("cat", BOX_A)]),
    "last box has three locations": (f"{A} cat ; {B[:27]}", [("cat", BOX_A)]),
    "last location is cut": (f"{A} cat ; {B[:-3]}", [("cat", BOX_A)]),
    "three locations and a label": ("<loc0100><loc0200><loc0300> cat", []),
    "five locations: the first four": (f"{A}<loc0500> cat", [("", BOX_A)]),
    "eight locations: two boxes": (f"{A}{B} dog", [("", BOX_A), ("dog", BOX_B)]),
    "missing label": (A, [("", BOX_A)]),
    "missing label inherits nothing": (f"{A} cat ; {B}", [("cat", BOX_A), ("", BOX_B)]),
    "missing label in the middle": (f"{A} ; {B} dog", [("", BOX_A), ("dog", BOX_B)]),
    "x2 before x1": ("<loc0100><loc0400><loc0300><loc0200> cat", [("cat", BOX_A)]),
    "y2 before y1": ("<loc0300><loc0200><loc0100><loc0400> cat", [("cat", BOX_A)]),
    "both swapped": ("<loc0300><loc0400><loc0100><loc0200> cat", [("cat", BOX_A)]),
    "no width": ("<loc0100><loc0200><loc0300><loc0200> line", [("line", (200, 100, 200, 300))]),
    "no size": ("<loc0007><loc0007><loc0007><loc0007> dot", [("dot", (7, 7, 7, 7))]),
    "apostrophe": (f"{A} driver's seat", [("driver's seat", BOX_A)]),
    "hyphen and brackets": (f"{A} T-shirt (red) ; ", [("T-shirt (red)", BOX_A)]),
    "comma, colon, stop": (f"{A} no. 7, blue: left", [("no. 7, blue: left", BOX_A)]),
    "less and more than": (f"{A} x < y > z", [("x < y > z", BOX_A)]),
    "other angle words": (f"{A} <b>cat</b><eos>", [("<b>cat</b><eos>", BOX_A)]),
    "other scripts": (f"{A} 猫 🐈 é", [("猫 🐈 é", BOX_A)]),
    "label over two lines": (f"{A} black\ncat", [("black\ncat", BOX_A)]),
    "label is digits": (f"{A} 0042", [("0042", BOX_A)]),
    "location above the grid": ("<loc0100><loc0200><loc0300><loc1024> cat", []),
    "location of three digits": ("<loc100><loc0200><loc0300><loc0400> cat", []),
    "location in other digits": (A.replace("0", "\u0660") + " cat", []),
    "location in capitals": (A.upper() + " cat", []),
    "loose location ends a label": (f"{A} cat <loc0001> dog", [("cat", BOX_A)]),
    "loose mask token ends a label": (f"{A} cat <seg001> dog", [("cat", BOX_A)]),
    "wrong location ends a label": (f"{A} cat <loc9999> dog", [("cat", BOX_A)]),
    "masked": (f"{A}{SEGS} cat", [("cat", BOX_A, CODES)]),
    "masked, then boxed": (f"{A}{SEGS} cat ; {B} dog", [("cat", BOX_A, CODES), ("dog", BOX_B)]),
    "two masks": (f"{A}{SEGS} a ; {B}{SEGS} b", [("a", BOX_A, CODES), ("b", BOX_B, CODES)]),
    "mask without label": (f"{A}{SEGS}", [("", BOX_A, CODES)]),
    "space before the mask": (f"{A} {SEGS} cat", [("cat", BOX_A, CODES)]),
    "spaces in the mask": (A + SEGS.replace("><", "> <") + " cat", [("cat", BOX_A, CODES)]),
    "mask of 15": (f"{A}{SEGS[:-8]} cat", [("cat", BOX_A)]),
    "mask of 17: the first 16": (f"{A}{SEGS}<seg001> cat", [("cat", BOX_A, CODES)]),
    "mask of one at the end": (f"{A} cat ; {B}<seg001>", [("cat", BOX_A), ("", BOX_B)]),
    "last mask token is cut": (f"{A}{SEGS[:-4]}", [("", BOX_A)]),
    "mask code above the codebook": (f"{A}{SEGS[:-8]}<seg128> cat", [("", BOX_A)]),
    "mask without a box": (f"{SEGS} cat", []),
    "mask after the label": (f"{A} cat {SEGS}", [("cat", BOX_A)]),
    "lone surrogate": (f"{A} \ud800", [("\ud800", BOX_A)]),
    "null character": (f"{A} c\0t", [("c\0t", BOX_A)]),
}


def detection(label, locs, codes=None):
    return Detection(label, tuple(loc / 1023 for loc in locs), codes)


@pytest.mark.parametrize("text, expected", ROWS.values(), ids=ROWS.keys())
def test_parse(text, expected):
    assert parse(text) == [detection(*row) for row in expected]


TOKENS = [A, B, ALL, A + SEGS, SEGS, "<loc0001>", "<loc1023>", "<seg000>", "<seg127>"]
BROKEN = [A[:27], A[:-2], "<loc1024>", "<seg128>", "<loc", "<seg", "<", ">", "<loc\u0660001>"]
PLAIN = ["cat", "driver's seat", "T-shirt (red)", "<eos>", "0", "猫", "\ud800", "\0"]
PIECES = [*TOKENS, *BROKEN, *PLAIN, ";", " ; ", ";;", "", " ", "\n"]


def check(text):
    """What holds for every string: whole, well-formed objects, which survive the way back."""
    found = parse(text)
    for one in found:
        x1, y1, x2, y2 = one.box
        assert 0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1
        assert one.codes is None or (len(one.codes) == 16 and set(one.codes) <= set(range(128)))
        assert ";" not in one.label and one.label == one.label.strip()
    assert parse(format(found)) == found


@pytest.mark.slow
def test_fuzz_in_bulk():
    rng = random.Random(0)
    for _ in range(FUZZ_IN_BULK):
        check("".join(rng.choices(PIECES, k=rng.randrange(12))))


fuzz = settings(max_examples=FUZZ_BY_STRUCTURE // 2, deadline=None, database=None)


@fuzz
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
@pytest.mark.slow
def test_fuzz_of_pieces(text):
    check(text)


@fuzz
@given(st.text(max_size=30), st.text(max_size=30), st.integers(0, 16))
@pytest.mark.slow
def test_fuzz_of_any_text(before, after, cut):
    check(before + A[: 36 - cut] + SEGS[: 8 * cut] + after)


LOCS = st.integers(0, 1023)
DETECTIONS = st.builds(
    lambda label, xs, ys, codes: detection(label, (xs[0], ys[0], xs[1], ys[1]), codes),
    st.text(max_size=12)
    .map(str.strip)
    .filter(lambda s: not any(bad in s for bad in (";", "<loc", "<seg"))),
    st.tuples(LOCS, LOCS).map(sorted),
    st.tuples(LOCS, LOCS).map(sorted),
    st.none() | st.tuples(*[st.integers(0, 127)] * 16),
)


@settings(max_examples=500, deadline=None, database=None)
@given(st.lists(DETECTIONS, max_size=4))
@pytest.mark.slow
def test_format_is_read_back(detections):
    assert parse(format(detections)) == detections


def test_format():
    detections = [detection("cat", BOX_A), detection("", BOX_B), detection("dog", BOX_B, CODES)]
    assert format(detections) == f"{A} cat ; {B} ; {B}{SEGS} dog"
    assert format([]) == ""
    assert format_box(detections[0].box) == A


@pytest.mark.parametrize("label", ["a;b", "<loc0001>", "a <seg", "<location>", " a", "a\n"])
def test_format_refuses_a_label_it_could_not_read_back(label):
    with pytest.raises(ValueError, match="label"):
        format([Detection(label, (0, 0, 1, 1))])


@pytest.mark.parametrize(
    "box",
    [(-0.1, 0, 1, 1), (0, 0, 1, 1.01), (0.5, 0, 0.4, 1), (0, 1, 1, 0), (math.nan, 0, 1, 1)],
)
def test_format_refuses_a_box_that_is_none(box):
    with pytest.raises(ValueError, match="box"):
        format([Detection("a", box)])


@pytest.mark.parametrize(
    "codes", [(), (1,) * 15, (1,) * 17, (128,) * 16, (-1,) * 16, (0.5,) * 16], ids=str
)
def test_format_refuses_codes_that_are_no_mask(codes):
    with pytest.raises(ValueError, match="code"):
        format([Detection("a", (0, 0, 1, 1), codes)])


def test_grid_round_trip_is_exact():
    assert [value_to_loc(loc_to_value(loc)) for loc in range(1024)] == list(range(1024))


@pytest.mark.parametrize(
    "value, loc",
    [
        (0, 0),
        (1, 1023),
        (0.25, 256),
        (1 / 2046 - 1e-9, 0),
        (1 / 2046 + 1e-9, 1),
        (-3, 0),
        (7, 1023),
    ],
)
def test_value_to_loc(value, loc):
    assert value_to_loc(value) == loc


def test_xyxy_is_in_pixels():
    assert Detection("a", (0.25, 0.5, 0.75, 1.0)).xyxy(640, 480) == (160, 240, 480, 480)


def tokens(*pairs):
    return [(text, math.log(p)) for text, p in pairs]


FOUR = tokens(("<loc0100>", 0.9), ("<loc0200>", 0.8), ("<loc0300>", 0.7), ("<loc0400>", 0.6))


def test_score_is_the_mean_of_location_and_label_tokens():
    answer = [*FOUR, *tokens((" driver", 0.5), ("'s", 0.1))]
    (found,) = parse_tokens(answer)
    assert (found.label, found.box) == ("driver's", detection("", BOX_A).box)
    assert found.score == pytest.approx((0.9 + 0.8 + 0.7 + 0.6 + 0.5 + 0.1) / 6)


def test_score_leaves_out_masks_separators_and_other_text():
    segs = tokens(*((f"<seg{code:03d}>", 0.01) for code in CODES))
    noise = tokens(("here", 0.02), (" ", 0.02))
    one = [*FOUR, *segs, *tokens((" ", 0.03), ("cat", 0.4), (" ;", 0.04), (" ", 0.05))]
    first, second = parse_tokens([*noise, *one, *FOUR, *tokens(("", 0.01))])
    assert first.codes == CODES and first.score == pytest.approx((3.0 + 0.4) / 5)
    assert second.label == "" and second.score == pytest.approx(3.0 / 4)


def test_score_without_a_label_ignores_the_separator():
    (found,) = parse_tokens([*FOUR, *tokens((" ; ", 0.01))])
    assert found.score == pytest.approx(0.75)


def test_a_token_that_spans_label_and_separator_counts_once():
    (found,) = parse_tokens([*FOUR, *tokens((" cat ;", 0.25))])
    assert found.score == pytest.approx((3.0 + 0.25) / 5)


def test_parse_tokens_finds_what_parse_finds():
    rng = random.Random(1)
    for _ in range(1000):
        pieces = rng.choices(PIECES, k=rng.randrange(12))
        found = parse_tokens([(piece, -rng.random()) for piece in pieces])
        assert [Detection(d.label, d.box, d.codes) for d in found] == parse("".join(pieces))
        assert all(0 < d.score <= 1 for d in found)
    assert parse_tokens([]) == []


def test_long_hostile_text_is_read_in_linear_time():
    for text in ("<loc0001>" * 100_000, A + " " * 10**6, (A + "<" * 50) * 5000, "<" * 10**6):
        parse(text)


# --- The parser, token by token -------------------------------------------------------------------

OBJECT = re.compile(
    rf"(?P<locs>{LOC_PATTERN}(?:\s*{LOC_PATTERN}){{3}})(?P<segs>(?:\s*{SEG_PATTERN})*)"
    r"\s*(?P<label>[^;<]*(?:<(?!loc|seg)[^;<]*)*)"
)


def whole_answer(tokens):
    """The oracle: one regular expression over the whole answer, again for every prefix."""
    ends = list(accumulate(len(text) for text, _ in tokens))
    detections = []
    for match in OBJECT.finditer("".join(text for text, _ in tokens)):
        y1, x1, y2, x2 = (int(number) for number in re.findall("[0-9]+", match["locs"]))
        codes = tuple(int(code) for code in re.findall("[0-9]+", match["segs"]))[:16]
        label = match["label"].rstrip()
        start = match.start("label")
        spans = (match.span("locs"), (start, start + len(label)))
        probabilities = [
            math.exp(logprob)
            for (text, logprob), end in zip(tokens, ends, strict=True)
            if any(max(begin, end - len(text)) < min(stop, end) for begin, stop in spans)
        ]
        locs = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        found = detection(label, locs, codes if len(codes) == 16 else None)
        detections.append((found, sum(probabilities) / len(probabilities)))
    return detections


def check_every_prefix(tokens):
    parser = DetectionParser()
    for count, (text, logprob) in enumerate(tokens, 1):
        parser.feed(text, logprob)
        expected = whole_answer(tokens[:count])
        found = parser.detections
        assert [Detection(d.label, d.box, d.codes) for d in found] == [d for d, _ in expected]
        assert [d.score for d in found] == pytest.approx([score for _, score in expected])
    assert parser.detections == parse_tokens(tokens)
    joined = "".join(text for text, _ in tokens)
    assert parse(joined) == [detection for detection, _ in whole_answer(tokens)]


def cut(text, places):
    """The text in tokens that end at `places`, wherever these are in it."""
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    pieces = [text[start:stop] for start, stop in pairwise(edges)]
    return [(piece, -0.01 * n) for n, piece in enumerate(["", *pieces], 1)]


@settings(max_examples=2_000, deadline=None, database=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=14).map("".join),
    st.lists(st.integers(0, 400), max_size=60),
)
@pytest.mark.slow
def test_every_prefix_in_any_tokens_equals_the_whole(text, places):
    check_every_prefix(cut(text, places))


@pytest.mark.parametrize("text", [text for text, _ in ROWS.values()], ids=ROWS.keys())
def test_every_prefix_by_character_equals_the_whole(text):
    check_every_prefix(cut(text, range(len(text))))


def test_patterns_are_those_of_the_tokens():
    every = [
        f"<{kind}{'0' * zeros}{n}>"
        for kind in ("loc", "seg")
        for zeros in range(4)
        for n in range(1100)
    ]
    assert {one for one in every if re.fullmatch(LOC_PATTERN, one)} == {*LOC_TOKENS}
    assert {one for one in every if re.fullmatch(SEG_PATTERN, one)} == {*SEG_TOKENS}


@pytest.mark.parametrize(
    "text",
    ["a" * 100_000, A + " a" * 50_000, f"{A} a ;" * 2_000, "<" * 100_000, A + " " * 100_000],
    ids=["text", "a long label", "many objects", "angles", "space"],
)
def test_each_token_is_read_once(text, monkeypatch):
    """One character a token: the lexer never reads more than the few that were undecided."""
    read, tokens = [], DetectionParser._read
    spy = lambda self, kind, piece: read.append(len(piece.text)) or tokens(self, kind, piece)
    monkeypatch.setattr(DetectionParser, "_read", spy)
    parser = DetectionParser()
    for character in text:
        parser.feed(character, -0.5)
        assert len(parser._unread) < 9 and len(parser._tokens) < 9
    parser.detections  # noqa: B018
    assert sum(read) + len(parser._unread) == len(text)


# --- Filtering ------------------------------------------------------------------------------------

LEFT, SHIFTED, RIGHT = (0, 0, 0.5, 1), (0.1, 0, 0.6, 1), (0.5, 0, 1, 1)


@pytest.mark.parametrize(
    ("found", "min_score", "max_iou", "expected"),
    [
        ([("cat", LEFT, 0.9), ("cat", SHIFTED, 0.8)], 0, 1, [0, 1]),
        ([("cat", LEFT, 0.8), ("cat", SHIFTED, 0.9)], 0, 0.5, [1]),
        ([("cat", LEFT, 0.9), ("dog", SHIFTED, 0.8)], 0, 0.5, [0, 1]),
        ([("cat", LEFT, 0.9), ("cat", RIGHT, 0.8)], 0, 0, [0, 1]),
        ([("cat", LEFT, 0.3), ("cat", RIGHT, 0.8)], 0.5, 1, [1]),
        ([("cat", LEFT, None), ("cat", SHIFTED, 0.99)], 1, 0.5, [0]),
        ([("a", LEFT, 0.2), ("a", SHIFTED, 0.3), ("a", RIGHT, 0.1)], 0, 0.5, [1, 2]),
        ([], 0, 1, []),
    ],
)
def test_filter_detections(found, min_score, max_iou, expected):
    detections = [Detection(label, box, score=score) for label, box, score in found]
    assert filter_detections(detections, min_score, max_iou) == expected
