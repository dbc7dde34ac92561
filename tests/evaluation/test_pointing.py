"""The pointing game on maps that point right, wrong, everywhere; questions with known objects."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from PIL import Image

from paligemma.detections import parse
from paligemma.evaluation.pointing import (
    best_view,
    centre_prior,
    correct_reply,
    format_pointing,
    measure_pointing,
    plot_pointing,
    save_pointing,
    score_map,
)
from paligemma.evaluation.pointing_questions import (
    coco_questions,
    detection_question,
    scene_questions,
    synthetic_questions,
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
def test_score_map(heat, box, hit, mass):
    assert score_map(heat, box) == pytest.approx((hit, mass))


@pytest.mark.parametrize("grid", [4, 5])
def test_centre_prior(grid):
    prior = centre_prior(grid)
    assert (
        score_map(prior, (0.3, 0.3, 0.7, 0.7))[0] == 1
        and score_map(prior, (0, 0, 0.2, 0.2))[0] == 0
    )
    assert prior == pytest.approx(prior.T) and prior == pytest.approx(prior[::-1])


# --- Questions ------------------------------------------------------------------------------------


def test_mentions_in_answers_about_scenes_are_correct():
    counts = Counter()
    for seed in range(FIRST, FIRST + 60):
        scene = sample(seed)
        for question in scene_questions(scene):
            for mention in question.mentions:
                words = question.answer[mention.start : mention.stop]
                counts[mention.token_type] += 1
                if mention.token_type == "location":
                    (found,) = parse(question.answer)
                    assert words.count("<loc") == 4 and found.box == pytest.approx(
                        mention.box, abs=1e-3
                    )
                    continue
                (item,) = (
                    i for i in scene.items if np.abs(np.subtract(i.box, mention.box)).max() < 0.005
                )
                assert words == (item.color if mention.token_type == "colour" else item.kind)
                assert [i.kind for i in scene.items].count(item.kind) == 1
    assert set(counts) == {"location", "label", "colour", "kind", "caption"}
    assert min(counts.values()) > 30


def test_synthetic_questions_are_deterministic():
    first, second = (
        [(q.prompt, q.mentions) for q in synthetic_questions(9, FIRST)] for _ in range(2)
    )
    assert first == second and len(first) > 18


@pytest.fixture
def coco(tmp_path):
    """A cat and two lights in the first image, a crowd in the second, nothing in the third."""
    for name in ("one.png", "two.png", "three.png"):
        Image.new("RGB", (200, 100), "gray").save(tmp_path / name)
    box = lambda n, image, category, bbox, crowd=0: {
        "id": n,
        "image_id": image,
        "category_id": category,
        "bbox": bbox,
        "iscrowd": crowd,
    }
    data = {
        "images": [
            {"id": n, "file_name": f"{name}.png", "width": 200, "height": 100}
            for n, name in enumerate(("one", "two", "three"), 1)
        ],
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "traffic light"}],
        "annotations": [
            box(1, 1, 17, [20, 10, 100, 50]),
            box(2, 1, 18, [0, 0, 10, 10]),
            box(3, 1, 18, [50, 50, 10, 10]),
            box(4, 2, 17, [0, 0, 10, 10], crowd=1),
            box(5, 2, 18, [150, 50, 60, 60]),
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(data))
    return tmp_path


def test_coco_questions(coco, capsys):
    cat, light = coco_questions(coco / "instances.json", coco)
    assert cat.prompt == "detect cat" and light.prompt == "detect traffic light"
    assert cat.mentions[0].box == pytest.approx((0.1, 0.1, 0.6, 0.6))
    assert light.mentions[1].box == pytest.approx((0.75, 0.5, 1, 1))  # clipped to the image
    assert light.answer.endswith("> traffic light") and capsys.readouterr().out == ""


def test_coco_mistakes(coco):
    bad = coco / "bad.json"
    for text, reason in {
        "{": "bad.json is not a COCO instances file: it is not JSON",
        "[]": "bad.json is not a COCO instances file: it is a list, not an object",
        '{"images": []}': "bad.json is not a COCO instances file: it has no categories",
    }.items():
        bad.write_text(text)
        with pytest.raises(ValueError, match=reason):
            list(coco_questions(bad, coco))
    with pytest.raises(ValueError, match=r"nowhere\.json cannot be read: No such file"):
        list(coco_questions(coco / "nowhere.json", coco))
    values = json.loads((coco / "instances.json").read_text())
    name, box = values["categories"][0], values["annotations"][0]
    for change, reason in (
        (
            {"categories": [name | {"name": "a, b"}, values["categories"][1]]},
            "bad.json, category 17: the name 'a, b' holds ','",
        ),
        ({"annotations": [box | {"bbox": [1, 2]}]}, r"bad.json, image 1: the box \[1, 2\] is not"),
        (
            {"images": [values["images"][0] | {"width": 100}]},
            "bad.json, image 1: the file says 100 x 100, but the image has 200 x 100 pixels",
        ),
        (
            {"images": [values["images"][0] | {"file_name": "no.png"}]},
            "bad.json, image 1: there is no image .*no.png",
        ),
    ):
        bad.write_text(json.dumps(values | change))
        with pytest.raises(ValueError, match=reason):
            list(coco_questions(bad, coco))
    (coco / "one.png").write_text("no image")
    with pytest.raises(ValueError, match=r"image 1: 'one\.png' is not an image"):
        list(coco_questions(coco / "instances.json", coco))


# --- The measure ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pg(tmp_path_factory):
    return PaliGemma.load(tiny.write(tmp_path_factory.mktemp("models") / "tiny"))


class FixedMaps:
    """A model whose views have their peak at one patch each, whatever the token."""

    def __init__(self, pg, **places: tuple[int, int]):
        self.config, self.processor, self.places = pg.config, pg.processor, places

    def explain_reply(self, image, prompt, reply, views):
        count = len(reply.tokens)
        maps = {view: np.array([peak(*self.places.get(view, (3, 3)))] * count) for view in views}
        layers = {view: np.stack([values] * 2) for view, values in maps.items()}
        heads = np.array([[[peak(0, 0)] * count, [peak(2, 2)] * count]])
        return SimpleNamespace(maps=maps, layers=layers, heads=heads)


def question(box=(0.5, 0.5, 0.75, 0.75)):
    return detection_question(Image.new("RGB", (8, 8)), "umbrella", box)


def test_tokens_are_counted_and_the_best_view_found(pg):
    scores = measure_pointing(
        FixedMaps(pg, rollout=(2, 2)), [question(), question((0, 0, 0.25, 0.25))]
    )
    by = {(s.view, s.layer, s.head, s.token_type): s for s in scores}
    label = len(correct_reply(pg, question().answer).tokens) - 4
    assert by["rollout", None, None, "location"].count == 8
    assert by["rollout", None, None, "label"].count == 2 * label
    assert by["rollout", None, None, "all"].hit == by["rollout", 1, None, "all"].hit == 0.5
    assert by["gradient", None, None, "all"].hit == by["gradient", None, None, "all"].mass == 0
    assert by["mean", 0, 1, "location"].mass == by["mean", 0, 0, "location"].mass == 0.5
    assert by["chance", None, None, "all"].hit == pytest.approx(1 / 16)
    assert by["centre", None, None, "all"].hit == pytest.approx(1 / 8)  # a quarter, half the time
    assert best_view(scores) == "rollout"


def test_all_token_types_have_the_same_weight(pg):
    """Four locations and one label do not count as five."""
    scores = measure_pointing(FixedMaps(pg, mean=(2, 2)), [question()])
    rows = [s for s in scores if (s.view, s.layer, s.head) == ("chance", None, None)]
    assert [s.token_type for s in rows] == ["location", "label", "all"]
    assert rows[-1].count == sum(s.count for s in rows[:-1])


def test_a_model_without_gradients_is_measured_without(pg, monkeypatch):
    def refuse(*given):
        raise ValueError("no room for a backward pass")

    monkeypatch.setattr("paligemma.interpret.explain.gradient_attention", refuse)
    scores = measure_pointing(pg, [question()])
    assert {s.view for s in scores} == {*VIEWS, "chance", "centre"} - {"gradient"}


def test_nothing_to_point_at(pg):
    with pytest.raises(ValueError, match="nothing to point at"):
        measure_pointing(pg, [])


def test_table_plot_and_files(pg, tmp_path):
    scores = measure_pointing(pg, synthetic_questions(3, FIRST))
    assert all(0 <= s.hit <= 1 and 0 <= s.mass <= 1 for s in scores)
    save_pointing(scores, tmp_path)
    assert json.loads((tmp_path / "pointing.json").read_text())[0]["view"] == "chance"
    with Image.open(tmp_path / "pointing.png") as figure:
        assert min(figure.size) > 300
    lines = format_pointing(scores).splitlines()
    assert (tmp_path / "pointing.md").read_text().splitlines() == lines
    assert len({line.count("|") for line in lines}) == 1
    for name in ("chance", "centre", *VIEWS, "best of 8 heads"):
        assert any(line.startswith(f"| {name}") for line in lines)
    plot_pointing([s for s in scores if s.view != "gradient"], tmp_path / "without.png")
