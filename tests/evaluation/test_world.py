"""Scores on a world's scenes: of its own answers, and of a model that is silent."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from paligemma.detections import parse
from paligemma.evaluation.world import Score, _score, evaluate_world, format_scores
from paligemma.synthetic.world import open_world

SCENES, FIRST_SEED = 30, 500


@pytest.fixture(scope="module")
def world():
    return open_world("pictograms")


@pytest.fixture(scope="module")
def samples(world):
    found = []
    for number in range(SCENES):
        rng = np.random.default_rng(FIRST_SEED + number)
        found += world.samples(world.scene(FIRST_SEED + number), rng)
    return found


class Oracle:
    """Knows the samples, and looks the answer up; `masks` are the world's own."""

    def __init__(self, world, samples) -> None:
        self.world, self.left, self.asked = world, list(samples), []

    def generate_batch(self, images, prompts, options):
        return [self._reply(prompt) for prompt in prompts]

    def _reply(self, prompt):
        # samples of one prompt come in the order of their scenes, as they are asked
        sample = next(one for one in self.left if one.prefix == prompt)
        self.left.remove(sample)
        self.asked.append(sample)
        text = sample.with_codes([[0] * 16] * len(sample.objects)).suffix
        text = text if sample.task in ("detect", "segment") else sample.suffix
        found = [replace(one, score=0.9) for one in parse(text)]
        return SimpleNamespace(text=text, detections=found, sample=sample)

    def masks(self, detections):
        sample = next(
            one
            for one in self.asked
            if one.task == "segment"
            and len(one.objects) == len(detections)
            and all(a == d.label for a, d in zip(one.labels, detections, strict=True))
            and np.allclose(one.boxes, [each.box for each in detections], atol=1e-3)
        )
        pairs = zip(sample.objects, detections, strict=True)
        return [self.world.crop(thing, one.box) * 2 - 1 for thing, one in pairs]


def test_the_world_s_own_answers_are_right(world, samples):
    scores = evaluate_world(Oracle(world, samples), world, SCENES, FIRST_SEED)
    assert {"caption", "caption en", "ask", "read", "segment iou", "absent"} <= scores.keys()
    written = [bool(one.suffix) for one in samples if one.task == "read"]
    assert scores["read"].examples == sum(written) < len(written)
    assert scores["read nothing"].examples == len(written) - sum(written)
    for name, score in scores.items():
        assert score.value > (0.9 if name in ("segment iou", "detect map") else 0.999), name
    counted = sum(one.task == "ask" for one in samples)
    assert scores["ask"].examples == counted > SCENES
    assert len(format_scores(scores).splitlines()) == len(scores)


def test_a_silent_model_finds_nothing_that_is_not_there(world):
    silent = SimpleNamespace(
        generate_batch=lambda images, prompts, options: [
            SimpleNamespace(text="", detections=[]) for _ in prompts
        ],
        masks=lambda detections: [],
    )
    scores = evaluate_world(silent, world, SCENES, FIRST_SEED)
    assert scores["absent"].value == 1
    assert scores["read nothing"].value == 1
    for name in ("caption", "ask", "read", "segment iou", "detect ap50", "detect map"):
        assert scores[name].value == 0, name


def test_the_interval_resamples_scenes_not_examples():
    """Half of the scenes are all right, half all wrong: more examples of each tell nothing new."""
    few = _score([(n, n % 2) for n in range(40)], 40)
    many = _score([(n, n % 2) for n in range(40) for _ in range(50)], 40)
    assert few.value == many.value == 0.5 and many.examples == 2000
    assert (many.low, many.high) == pytest.approx((few.low, few.high))
    assert 0.3 < few.low < 0.4 and 0.6 < few.high < 0.7


def test_scores_are_printed_with_their_intervals():
    lines = format_scores({"ask": Score(0.5, 0.4, 0.6, 10), "detect ap50": Score(1, None, None, 3)})
    assert "0.500  0.400 to 0.600" in lines and "1.000" in lines.splitlines()[1]


@pytest.mark.parametrize(("scenes", "seed"), [(0, 1), (1, -1)])
def test_wrong_numbers_are_refused(world, scenes, seed):
    with pytest.raises(ValueError, match=r"at least one scene|whole number"):
        evaluate_world(SimpleNamespace(), world, scenes, seed)
