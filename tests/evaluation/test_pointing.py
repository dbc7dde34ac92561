"""The pointing game on maps that look right, wrong, everywhere; questions whose truth is known."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from PIL import Image

from paligemma.detections import parse
from paligemma.evaluation.named import coco_questions, detection, drawn_questions, scene_questions
from paligemma.evaluation.pointing import (
    centre_prior,
    given,
    measure,
    plot,
    score,
    table,
    winner,
    write,
)
from paligemma.interpret.explain import VIEWS
from paligemma.pipeline import PaliGemma
from paligemma.synthetic.scenes import sample

FIRST = 1_000_000
EVEN = np.ones((4, 4))


def peak(row: int, column: int, grid: int = 4) -> np.ndarray:
    heat = np.zeros((grid, grid))
    heat[row, column] = 1
    return heat


# --- One map --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "heat, box, hit, mass",
    [
        (peak(0, 3), (0.75, 0, 1, 0.25), 1, 1),  # x before y
        (peak(3, 0), (0.75, 0, 1, 0.25), 0, 0),
        (EVEN, (0, 0, 0.5, 0.5), 0.25, 0.25),
        (EVEN, (0, 0, 1, 0.5), 0.5, 0.5),
        (EVEN, (0.1, 0.1, 0.4, 0.4), 0.25, 0.09),  # four centres; its own area
        (peak(1, 1), (0.3, 0.3, 0.4, 0.45), 1, 0.24),  # the patch is larger than the box
        (peak(1, 1), (0.26, 0.26, 0.3, 0.3), 1, 0.0256),  # its centre is outside, the box within
        (peak(1, 2) + peak(3, 0), (0.5, 0.25, 0.75, 0.5), 0.5, 0.5),  # two peaks
        (peak(2, 2) * 3 + EVEN, (0.5, 0.5, 0.75, 0.75), 1, 4 / 19),
        (EVEN * 0, (0, 0, 0.5, 0.5), 0.25, 0),
    ],
)
def test_score(heat, box, hit, mass):
    assert score(heat, box) == pytest.approx((hit, mass))


@pytest.mark.parametrize("grid", [4, 5])
def test_centre_prior(grid):
    prior = centre_prior(grid)
    assert score(prior, (0.3, 0.3, 0.7, 0.7))[0] == 1 and score(prior, (0, 0, 0.2, 0.2))[0] == 0
    assert prior == pytest.approx(prior.T) and prior == pytest.approx(prior[::-1])


# --- Questions ------------------------------------------------------------------------------------


def test_named_words_of_drawn_scenes_are_true():
    asked = Counter()
    for seed in range(FIRST, FIRST + 60):
        scene = sample(seed)
        for question in scene_questions(scene):
            for named in question.named:
                words = question.answer[named.start : named.stop]
                asked[named.tokens] += 1
                if named.tokens == "location":
                    (found,) = parse(question.answer)
                    assert words.count("<loc") == 4 and found.box == pytest.approx(
                        named.box, abs=1e-3
                    )
                    continue
                (item,) = (
                    i for i in scene.items
                    if np.abs(np.subtract(i.box, named.box)).max() < 0.005
                )  # fmt: skip
                assert words == (item.color if named.tokens == "colour" else item.kind)
                assert [i.kind for i in scene.items].count(item.kind) == 1
    assert set(asked) == {"location", "label", "colour", "kind", "caption"}
    assert min(asked.values()) > 30


def test_drawn_questions_are_the_same_again():
    first, second = ([(q.prompt, q.named) for q in drawn_questions(9, FIRST)] for _ in range(2))
    assert first == second and len(first) > 18


@pytest.fixture
def coco(tmp_path):
    """One cat and two dogs in the first picture, a crowd in the second, nothing in the third."""
    for name in ("one.png", "two.png", "three.png"):
        Image.new("RGB", (200, 100), "gray").save(tmp_path / name)
    box = lambda n, image, category, bbox, crowd=0: {
        "id": n, "image_id": image, "category_id": category, "bbox": bbox, "iscrowd": crowd
    }  # fmt: skip
    data = {
        "images": [{"id": n, "file_name": f"{name}.png", "width": 200, "height": 100}
                   for n, name in enumerate(("one", "two", "three"), 1)],
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "traffic light"}],
        "annotations": [
            box(1, 1, 17, [20, 10, 100, 50]),
            box(2, 1, 18, [0, 0, 10, 10]),
            box(3, 1, 18, [50, 50, 10, 10]),
            box(4, 2, 17, [0, 0, 10, 10], crowd=1),
            box(5, 2, 18, [150, 50, 60, 60]),
        ],
    }  # fmt: skip
    (tmp_path / "instances.json").write_text(json.dumps(data))
    return tmp_path


def test_coco_questions(coco, capsys):
    cat, light = coco_questions(coco / "instances.json", coco)
    assert cat.prompt == "detect cat" and light.prompt == "detect traffic light"
    assert cat.named[0].box == pytest.approx((0.1, 0.1, 0.6, 0.6))
    assert light.named[1].box == pytest.approx((0.75, 0.5, 1, 1))  # cut at the picture's edge
    assert light.answer.endswith("> traffic light") and capsys.readouterr().out == ""


def test_coco_mistakes(coco):
    for text in ("{", "[]", '{"images": []}'):
        (coco / "bad.json").write_text(text)
        with pytest.raises(ValueError, match="no COCO instances file"):
            list(coco_questions(coco / "bad.json", coco))
    with pytest.raises(ValueError, match="no COCO instances file"):
        list(coco_questions(coco / "nowhere.json", coco))
    (coco / "one.png").unlink()
    with pytest.raises(ValueError, match=r"one\.png"):
        list(coco_questions(coco / "instances.json", coco))


# --- The measure ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pg(tmp_path_factory):
    return PaliGemma.load(tiny.write(tmp_path_factory.mktemp("models") / "tiny"))


class Looking:
    """A model whose views look at one patch each, whatever the token."""

    def __init__(self, pg, **places: tuple[int, int]):
        self.config, self.processor, self.places = pg.config, pg.processor, places

    def explain_reply(self, image, prompt, reply, views):
        count = len(reply.tokens)
        maps = {view: np.array([peak(*self.places.get(view, (3, 3)))] * count) for view in views}
        layers = {view: np.stack([values] * 2) for view, values in maps.items()}
        heads = np.array([[[peak(0, 0)] * count, [peak(2, 2)] * count]])
        return SimpleNamespace(maps=maps, layers=layers, heads=heads)


def question(box=(0.5, 0.5, 0.75, 0.75)):
    return detection(Image.new("RGB", (8, 8)), "umbrella", box)


def test_measure_counts_tokens_and_finds_the_winner(pg):
    scores = measure(Looking(pg, rollout=(2, 2)), [question(), question((0, 0, 0.25, 0.25))])
    by = {(s.view, s.layer, s.head, s.tokens): s for s in scores}
    label = len(given(pg, question().answer).tokens) - 4
    assert by["rollout", None, None, "location"].count == 8
    assert by["rollout", None, None, "label"].count == 2 * label
    assert by["rollout", None, None, "all"].hit == by["rollout", 1, None, "all"].hit == 0.5
    assert by["gradient", None, None, "all"].hit == by["gradient", None, None, "all"].mass == 0
    assert by["mean", 0, 1, "location"].mass == by["mean", 0, 0, "location"].mass == 0.5
    assert by["chance", None, None, "all"].hit == pytest.approx(1 / 16)
    assert by["centre", None, None, "all"].hit == pytest.approx(1 / 8)  # a quarter, half the time
    assert winner(scores) == "rollout"


def test_all_sorts_of_tokens_weigh_alike(pg):
    """Four locations and one label are not five votes."""
    scores = measure(Looking(pg, mean=(2, 2)), [question()])
    rows = [s for s in scores if (s.view, s.layer, s.head) == ("chance", None, None)]
    assert [s.tokens for s in rows] == ["location", "label", "all"]
    assert rows[-1].count == sum(s.count for s in rows[:-1])


def test_a_model_without_gradients_is_measured_without(pg, monkeypatch):
    def refuse(*given):
        raise ValueError("no room for a backward pass")

    monkeypatch.setattr("paligemma.interpret.explain.gradient_attention", refuse)
    scores = measure(pg, [question()])
    assert {s.view for s in scores} == {*VIEWS, "chance", "centre"} - {"gradient"}


def test_nothing_to_point_at(pg):
    with pytest.raises(ValueError, match="nothing to point at"):
        measure(pg, [])


def test_table_plot_and_files(pg, tmp_path):
    scores = measure(pg, drawn_questions(3, FIRST))
    assert all(0 <= s.hit <= 1 and 0 <= s.mass <= 1 for s in scores)
    write(scores, tmp_path)
    assert json.loads((tmp_path / "pointing.json").read_text())[0]["view"] == "chance"
    with Image.open(tmp_path / "pointing.png") as drawn:
        assert min(drawn.size) > 300
    lines = table(scores).splitlines()
    assert (tmp_path / "pointing.md").read_text().splitlines() == lines
    assert len({line.count("|") for line in lines}) == 1
    for name in ("chance", "centre", *VIEWS, "best of 8 heads"):
        assert any(line.startswith(f"| {name}") for line in lines)
    plot([s for s in scores if s.view != "gradient"], tmp_path / "without.png")
