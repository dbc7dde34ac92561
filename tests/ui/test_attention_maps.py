"""The memory that attention maps of all sessions take, and what a visitor gets without theirs."""

from dataclasses import replace
from types import SimpleNamespace
from weakref import ref

import numpy as np
import pytest
from PIL import Image
from scripted import Scripted

from paligemma.generation import SamplingOptions
from paligemma.interpret.explain import CHEAP_VIEWS
from paligemma.ui.attention_maps import (
    DROPPED,
    ExplainedAnswer,
    ExplanationStore,
    change_opacity,
    draw_answer,
    show_head,
    show_token,
    tokens_at_patch,
)
from paligemma.ui.tabs.attention import change_view, tower_at_patch

CLICK = SimpleNamespace(index=(60, 60))


@pytest.fixture(scope="module")
def model():
    return Scripted({"caption en": ["a", " red", " cat"]})


@pytest.fixture(scope="module")
def explanation(model):
    reply = model.generate(Image.new("RGB", (60, 40)), "caption en", SamplingOptions())
    return model.explain_reply(None, "caption en", reply)


@pytest.fixture
def explain(model, explanation, tmp_path):
    """A function that puts the explanation of one more session's answer in a store."""
    path = tmp_path / "picture.png"
    Image.new("RGB", (60, 40), "navy").save(path)

    def put(store: ExplanationStore, explanation=explanation) -> ExplainedAnswer:
        answer = ExplainedAnswer(str(path), "caption en", ref(model), store)
        store.put(answer, explanation)
        return answer

    return put


def has(answer: ExplainedAnswer) -> bool:
    return answer in answer.store._explanations


def test_what_was_not_used_for_longest_gives_way(explain, explanation):
    store = ExplanationStore(3 * explanation.num_bytes)
    first, second, third = (explain(store) for _ in range(3))
    assert has(first) and first.explanation is explanation, "it counts as used now"
    fourth = explain(store)
    assert [has(each) for each in (first, second, third, fourth)] == [True, False, True, True]
    with pytest.raises(ValueError, match="no longer in memory: press Show attention again"):
        _ = second.explanation
    store.put(first, explanation)
    assert has(third), "a new explanation of an answer is in the former's place"


def test_a_hundred_sessions_take_no_more_than_the_budget(explain, explanation):
    large = replace(explanation, heads=np.zeros((2, 2, 3, 64, 64), np.float32))
    store = ExplanationStore(10 * large.num_bytes)
    answers = [explain(store, large) for _ in range(100)]
    assert [has(answer) for answer in answers] == [False] * 90 + [True] * 10


def test_an_explanation_goes_with_its_answer(explain):
    store = ExplanationStore()
    answer, other = explain(store), explain(store)
    del other
    assert len(store._explanations) == 1 and has(answer)


def test_one_that_is_larger_than_the_budget_is_shown(explain):
    store = ExplanationStore(1)
    first, second = explain(store), explain(store)
    assert not has(first) and show_token(second, 0, "middle", 0, 0.5)


def test_what_is_held_is_no_part_of_a_larger_array(explain):
    """A token's map would keep all maps in memory, and not be counted."""
    answer = explain(ExplanationStore())
    for shown in show_token(answer, 1, "middle", 0, 0.5), show_head(answer, 1, 0.5, CLICK):
        assert shown[0].values.shape == (8, 8) and shown[0].values.base is None


def test_every_control_says_that_the_maps_are_gone(explain):
    store = ExplanationStore()
    answer = explain(store)
    shown = show_token(answer, 0, "middle", 0, 0.5)[0]
    store._explanations.clear()
    page = SimpleNamespace(model=None)
    for control in (
        lambda: show_token(answer, 0, "middle", 0, 0.5),
        lambda: show_head(answer, 0, 0.5, CLICK),
        lambda: tokens_at_patch(shown, "middle", CLICK),
        lambda: change_view(page, answer, 0, "rollout", 0, 0.5),
        lambda: list(draw_answer(answer, "middle", 0.5)),
        # the session's State was deleted, by age
        lambda: show_token(None, 0, "middle", 0, 0.5),
        lambda: show_head(None, 0, 0.5, CLICK),
        lambda: tokens_at_patch(None, "middle", CLICK),
        lambda: change_view(page, None, 0, "rollout", 0, 0.5),
    ):
        with pytest.raises(ValueError) as caught:
            control()
        assert str(caught.value) == DROPPED
    assert change_opacity(shown, 1.0), "the map that is shown is there"
    assert show_token(None, None, "middle", 0, 0.5)[0] is None, "no answer yet"
    assert tower_at_patch(page, None, CLICK) is None, "tokens_at_patch says it"


def test_the_bytes_of_an_explanation(explanation):
    views = 2 * 3 * 64 + 3 * 64
    assert explanation.num_bytes == 4 * (4 * 3 * 64 + 4 * 4 + 64 + len(CHEAP_VIEWS) * views)
