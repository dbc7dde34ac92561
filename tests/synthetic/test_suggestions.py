"""What is said of names that a model does not know."""

import pytest

from paligemma.synthetic.kinds import all_kinds
from paligemma.synthetic.scenes import KINDS
from paligemma.synthetic.suggestions import suggested_names, unknown_note

EVERY = tuple(sorted(kind.name for kind in all_kinds()))
BROWSE = "See the list."


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("hund", ["dog"]),
        ("Katzen", ["cat"]),
        ("llave inglesa", ["wrench"]),
        ("leaves", ["leaf"]),
        ("pair of scissors", ["scissors"]),
        ("animals", ["dog", "cat", "mouse", "hamster", "rabbit"]),
        ("drink", ["cup", "beer", "wine", "cocktail", "milk"]),
        ("big red apples", ["apple"]),
        ("bicylce", ["bicycle"]),
        ("bycicle", ["bicycle"]),
        ("red", []),
        ("woman", []),
        ("xyz", []),
        ("", []),
    ],
)
def test_what_is_near(name, near):
    assert suggested_names(name, EVERY) == near


def test_a_part_of_a_name_leads_to_it():
    assert suggested_names("ball", ("football", "tennis ball")) == ["football", "tennis ball"]
    assert suggested_names("bag", ("cabbage", "money bag")) == ["money bag"]


def test_only_known_names_are_suggested():
    assert suggested_names("dog", tuple(KINDS)) == []
    assert set(suggested_names("animals", tuple(KINDS))) < set(KINDS)
    assert suggested_names("hund", ("gizmo",)) == []
    assert suggested_names("gizmos", ("gizmo",)) == ["gizmo"], "names of no table, by spelling"


def test_the_note():
    note = "The model does not know “hund”, “woman”. The nearest that it knows: dog."
    assert unknown_note(["hund", "woman"], EVERY, BROWSE) == note
    assert (
        unknown_note(["woman"], EVERY, BROWSE) == "The model does not know “woman”. See the list."
    )
    assert unknown_note([], EVERY, BROWSE) == ""
    many = unknown_note(["animals", "food"], EVERY, BROWSE)
    assert many.count(",") == 1 + 4, "five names at most"


@pytest.mark.parametrize(
    ("name", "label"), [("woman", "woman"), ("hunde", "Hund"), ("dogs", "dog"), ("animals", "cat")]
)
def test_nothing_is_said_of_a_name_that_the_answer_has(name, label):
    assert unknown_note([name], EVERY, BROWSE, {label}) == ""
    assert "know “xyz”." in unknown_note([name, "xyz"], EVERY, BROWSE, {label, "key"})
