"""Raw prompts: their forms, what is likely meant, and names that a model does not know."""

import pytest

from paligemma.checkpoints.resolve import resolve
from paligemma.prompts import (
    likely_prompt,
    plain_words,
    prompt_note,
    strip_image_tokens,
    unknown_names,
    untrained_note,
    without_names,
)
from paligemma.synthetic.world import open_world
from paligemma.tasks import QUESTION, REGION, TASKS


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("anchor", "detect anchor"),
        ("Find the red anchor.", "detect red anchor"),
        ("where is the cat?", "detect cat"),
        ("What color is the wheel?", "answer en What color is the wheel?"),
        ("is there a cat", "answer en is there a cat"),
        ("answer what is it?", "answer en what is it?"),
        ("Detect anchor ; wheel", "detect anchor ; wheel"),
        ("segment: cat", "segment cat"),
        ("caption", "caption en"),
        ("Describe this picture", "describe en"),
        ("caption DE", "caption de"),
        ("OCR", "ocr"),
        ("read the sign", "ocr"),
    ],
)
def test_what_is_likely_meant(text, prompt):
    assert likely_prompt(text) == prompt
    assert prompt_note(text).endswith(f"likely meant as: {prompt}")
    assert "detect (names)" in prompt_note(text)


def test_prompts_that_have_a_form_have_no_note():
    prompts = [task.prompt("cat") for task in (*TASKS.values(), QUESTION)]
    prompts += [REGION.prompt("<loc0001><loc0002><loc0003><loc0004>"), "describe de", ""]
    assert {prompt: prompt_note(prompt) for prompt in prompts} == dict.fromkeys(prompts, "")


@pytest.mark.parametrize(
    ("prompt", "stripped"),
    [
        ("<image>detect anchor ; wheel", "detect anchor ; wheel"),
        ("<image><bos>caption en", "caption en"),
        ("<image><image> ocr", "ocr"),
        ("detect <image>", "detect <image>"),
        ("", ""),
        (None, None),
    ],
)
def test_the_image_token_before_a_prompt(prompt, stripped):
    assert strip_image_tokens(prompt) == stripped


def test_the_words_of_the_built_in_model():
    assert plain_words("detect Anchor. ; wheel.") == "detect anchor ; wheel"
    assert (
        plain_words("answer en What colour is the wheel?") == "answer en what color is the wheel?"
    )
    assert plain_words("detect anchor") == "detect anchor"
    assert plain_words("segment an anchor ; the wheel ; a") == "segment anchor ; wheel ; a"
    assert plain_words("answer en is there a cat?") == "answer en is there a cat?"


def test_what_the_built_in_model_was_not_trained_on():
    for prompt in "cap de", "describe fr", "caption de", "answer fr où?", "question en two":
        assert "was not trained on" in untrained_note(prompt)
    known = "caption en", "cap en", "describe en", "answer en de", "ocr", "detect de"
    for prompt in *known, "caption en <loc0001>":
        assert untrained_note(prompt) == ""


def test_a_task_without_names_is_left_as_it_is():
    for prompt in "detect", "Segment", "find", "find the":
        assert likely_prompt(prompt) == prompt


def test_unknown_names():
    known = ("anchor", "moon", "wheel")
    assert unknown_names("detect anchor ; woman ; wheels", known) == ["woman", "wheels"]
    assert unknown_names("answer en woman", known) == unknown_names("detect woman", ()) == []
    assert without_names("detect anchor ; woman ;", ["woman"]) == "detect anchor"
    assert without_names("detect woman", ["woman"]) == "detect woman"
    assert without_names("detect a ;b", []) == "detect a ;b"


def test_the_built_in_model_lists_the_names_of_its_world():
    known = resolve("built-in").known_names
    assert known == tuple(sorted(open_world("drawings").kinds))
