"""What functions of the page refuse, whatever a program sends."""

import math

import gradio as gr
import pytest

from paligemma.ui.inputs import (
    check_click,
    check_values,
    plain_address,
    read_choice,
    read_index,
    read_number,
    read_text,
    takes_click,
)

META = {"_type": "gradio.FileData"}


@pytest.mark.parametrize(
    "value", ["\ud800", ["a", {"b": "\udfff"}], {"\ud800": 1}, [[[["x", "\udc00"]]]]]
)
def test_half_a_character_is_refused(value):
    with pytest.raises(ValueError, match="half a character"):
        check_values(value)


def test_files_are_not_fetched():
    with pytest.raises(ValueError, match="none from an address"):
        check_values([None, [{"path": "https://example.com/a.png", "meta": META}]])
    check_values(["https://example.com/a.png", {"path": "a.png", "meta": META}, "é", 1, None])
    file = {"path": "https://example.com/a.png", "meta": META}
    assert plain_address(file) == "https://example.com/a.png"
    for other in {"path": "a.png", "meta": META}, {"path": None}, "a.png", None, 5:
        assert plain_address(other) == other


def test_names_of_files_have_no_nul():
    with pytest.raises(ValueError, match="has no NUL"):
        check_values([{"path": "/a\0.png"}])


@pytest.mark.parametrize(
    "data",
    [None, "ab", {}, {"index": [1, 1]}, *({"index": index, "value": None} for index in (
        None, "ab", 5, [], [1], [1, 2, 3], [-1, 0], [1e6, 0], [math.nan, 0], [True, 0], ["1", 0]
    ))],
)  # fmt: skip
def test_what_is_no_click(data):
    with pytest.raises(ValueError, match="no click in a picture"):
        check_click(data)


def test_clicks_are_points():
    def clicked(click: gr.SelectData): ...

    check_click({"index": [0, 20.5], "value": None})
    assert takes_click(clicked) and not takes_click(lambda click: click)


@pytest.mark.parametrize("value", [None, "0.5", True, math.nan, math.inf, -0.1, 1.1, 10**400, []])
def test_numbers_have_bounds(value):
    with pytest.raises(ValueError, match="Opacity is a number from 0 to 1, not "):
        read_number(value, 0, 1, "Opacity")


def test_texts_choices_and_indices():
    assert read_text(None, "A word") == "" and read_text("a", "A word") == "a"
    assert read_choice("a", ["a", "b"], "A view") == "a"
    assert [read_index(value, 3) for value in (None, 0, 2, 2.0, 3, 99, 1.5)] == [
        0,
        0,
        2,
        2,
        0,
        0,
        0,
    ]
    for refused in ({}, ["a"], 5, "c" * 9_000):
        with pytest.raises(ValueError, match=r"A view is one of a, b, not .{1,60}\.$"):
            read_choice(refused, ["a", "b"], "A view")
    for refused in (5, [], {"a": 1}):
        with pytest.raises(ValueError, match="A word is text, not "):
            read_text(refused, "A word")
    for refused in ("1", -1, True, math.nan, math.inf, 10**400, []):
        with pytest.raises(ValueError, match="A number of the answer's parts"):
            read_index(refused, 3)
