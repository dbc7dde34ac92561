"""Prompts of every task, from the text that a person types."""

import pytest

from paligemma.tasks import TASKS, task_of


def test_tab_order_and_keys():
    assert list(TASKS) == ["caption", "ask", "read", "detect", "segment"]
    assert all(task.key == key for key, task in TASKS.items())


@pytest.mark.parametrize(
    "key, text, prompt",
    [
        ("caption", "", "caption en"),
        ("caption", "typed in another tab", "caption en"),
        ("read", "", "ocr"),
        ("ask", "what colour is it?", "answer en what colour is it?"),
        ("ask", "  how many,\nor none; {0}? ", "answer en how many, or none; {0}?"),
        ("detect", "cat", "detect cat"),
        ("detect", "cat, dog", "detect cat ; dog"),
        ("detect", "cat; dog", "detect cat ; dog"),
        ("detect", "cat ; dog", "detect cat ; dog"),
        ("detect", ", cat,, black\tdog ;", "detect cat ; black dog"),
        ("detect", "<image>detect cat ; dog", "detect cat ; dog"),
        ("segment", "Detect cat", "segment cat"),
        ("segment", "detector", "segment detector"),
        ("ask", "<image> how many?", "answer en how many?"),
        ("segment", "driver's seat,T-shirt (red)", "segment driver's seat ; T-shirt (red)"),
    ],
)
def test_prompt(key, text, prompt):
    assert TASKS[key].prompt(text) == prompt


def test_language():
    assert TASKS["caption"].prompt(language="de") == "caption de"
    assert TASKS["ask"].prompt("was?", language="zh-Hans") == "answer zh-Hans was?"


@pytest.mark.parametrize("key", [key for key, task in TASKS.items() if task.needs])
@pytest.mark.parametrize("text", ["", " \n"])
def test_missing_text_is_refused(key, text):
    with pytest.raises(ValueError, match=TASKS[key].needs):
        TASKS[key].prompt(text)


def test_separators_alone_are_no_names():
    with pytest.raises(ValueError, match="objects to find"):
        TASKS["detect"].prompt(" , ; ")


@pytest.mark.parametrize("language", ["", "en\n", "e n", "<loc0001>", "1"])
def test_language_must_be_a_code(language):
    with pytest.raises(ValueError, match="language"):
        TASKS["caption"].prompt(language=language)


def test_what_answers_hold():
    assert [task.answers for task in TASKS.values()] == ["text", "text", "text", "boxes", "masks"]
    assert [key for key, task in TASKS.items() if not task.needs] == ["caption", "read"]


@pytest.mark.parametrize(
    "prefix, task",
    [
        ("caption en", "caption"),
        ("describe de", "caption"),
        ("caption en <loc0001><loc0002><loc0003><loc0004>", "region"),
        ("answer en is there a cat?", "ask"),
        ("ocr", "read"),
        ("detect cat ; dog", "detect"),
        ("segment cat", "segment"),
        ("tell me more", ""),
    ],
)
def test_the_task_of_a_prompt(prefix, task):
    assert task_of(prefix) == task
