"""The drawn world: pictures, silhouettes, and what is asked and answered about them."""

import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from paligemma.detections import format as format_objects
from paligemma.detections import parse
from paligemma.synthetic.language import (
    caption,
    description,
    phrase,
    questions,
    reading,
    samples,
    search,
    short_caption,
    whole_pixels,
)
from paligemma.synthetic.scenes import (
    CHARACTERS,
    COLORS,
    KINDS,
    Item,
    Scene,
    Text,
    crop,
    render,
    sample,
    silhouette,
)
from paligemma.synthetic.world import SceneSample
from visualize import paste_mask

SCENE = Scene(
    background="navy",
    ground="plain",
    items=(
        Item("mouse", "red", x=0.80, y=0.30, size=0.25, angle=10),
        Item("cat", "orange", x=0.20, y=0.62, size=0.25, angle=-20),
        Item("mouse", "red", x=0.25, y=0.20, size=0.25, angle=0),
        Item("anchor", "blue", x=0.75, y=0.80, size=0.3, angle=0),
    ),
    texts=(
        Text("LOW", x=0.1, y=0.9, size=0.15, color=(255, 255, 255)),
        Text("TOP", x=0.4, y=0.1, size=0.15, color=(255, 255, 255)),
    ),
    seed=5,
)
EMPTY = Scene("white", "plain", (), (), seed=5)
MOUSE_1, CAT, MOUSE_0, ANCHOR = SCENE.items


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(float)


def items(scenes: int) -> list[Item]:
    return [item for seed in range(scenes) for item in sample(seed).items]


# --- Pictures -------------------------------------------------------------------------------------


def test_a_seed_is_a_scene_and_an_image():
    assert sample(3) == sample(3)
    assert render(sample(3), 128).tobytes() == render(sample(3), 128).tobytes()
    assert len({sample(seed) for seed in range(50)}) == 50


def test_a_scene_is_the_same_at_every_size():
    for seed in range(30):
        small, large = render(sample(seed), 128), render(sample(seed), 512)
        assert small.mode == large.mode == "RGB" and large.size == (512, 512)
        difference = np.abs(pixels(small) - pixels(large.resize((128, 128), Image.Resampling.BOX)))
        assert difference.mean() < 10, seed
        assert (difference.max(-1) > 40).mean() < 0.1, seed  # outlines may differ by a pixel
        other = pixels(render(sample(seed + 100), 128))
        assert np.abs(pixels(small) - other).mean() > 2 * difference.mean(), seed


def test_every_thing_is_where_it_is_said_to_be():
    for scene in map(sample, range(30)):
        picture = pixels(render(scene, 256))
        without = pixels(render(Scene(scene.background, scene.ground, (), (), scene.seed), 256))
        changed = np.abs(picture - without).max(-1) > 30
        known = np.zeros((256, 256), bool)
        for x1, y1, x2, y2 in [thing.box for thing in (*scene.items, *scene.texts)]:
            left, top, right, bottom = (int(edge * 256) for edge in (x1, y1, x2, y2))
            assert changed[top:bottom, left:right].any()
            known[max(top - 3, 0) : bottom + 12, max(left - 5, 0) : right + 4] = (
                True  # tails of J, Q
            )
        assert not (changed & ~known).any(), scene.seed


def test_colors_of_a_thing_are_those_it_is_called():
    for color, (filling, _) in COLORS.items():
        scene = Scene("gray", "plain", (Item("sun", color, 0.5, 0.5, 0.5, 0),), (), 0)
        inside = pixels(render(scene, 128))[silhouette(scene.items[0], 128) > 0]
        assert (np.abs(inside - filling).max(1) <= 13).mean() > 0.3, color


# --- Silhouettes ----------------------------------------------------------------------------------


def test_silhouettes_fill_their_boxes_and_nothing_else():
    for item in items(100):
        rows, columns = np.nonzero(silhouette(item, 512))
        edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.abs(np.array(edges) - np.array(item.box) * 512).max() < 1.5, item


def test_things_keep_apart_and_inside():
    for scene in map(sample, range(100)):
        boxes = [thing.box for thing in (*scene.items, *scene.texts)]
        assert np.min(boxes, initial=1) > 0 and np.max(boxes, initial=0) < 1
        assert sum((silhouette(item, 256) > 0).astype(int) for item in scene.items).max() == 1
        for n, (x1, y1, x2, y2) in enumerate(boxes):
            for a, b, c, d in boxes[:n]:
                assert x2 < a or c < x1 or y2 < b or d < y1, scene.seed


def test_a_crop_pasted_back_is_the_silhouette():
    overlaps = []
    for item in items(60):
        for box in item.box, whole_pixels(item.box):
            pasted = paste_mask(crop(item, box) * 2 - 1, box, 256, 256)
            mask = silhouette(item, 256) > 0
            overlaps.append((pasted & mask).sum() / (pasted | mask).sum())
    assert min(overlaps) > 0.9 and np.mean(overlaps) > 0.96


def test_a_crop_is_what_its_box_cuts_out():
    x1, y1, x2, y2 = CAT.box
    whole, left = crop(CAT, CAT.box, 64), crop(CAT, (x1, y1, (x1 + x2) / 2, y2), 64)
    assert whole.dtype == np.float32 and whole.min() == 0 and whole.max() == 1
    stretched = np.repeat(whole[:, :32], 2, axis=1)
    assert ((left > 0.5) == (stretched > 0.5)).mean() > 0.95


@pytest.mark.parametrize("character", CHARACTERS)
def test_ink_lies_in_its_character_box(character):
    size, pixels_a_side = 0.2, 512
    text = Text(character, 0.3, 0.5, size, (0, 0, 0))
    ink = pixels(render(Scene("white", "plain", (), (text,), 0), pixels_a_side)).max(-1) < 128
    x1, y1, x2, y2 = (round(edge * pixels_a_side) for edge in text.character_boxes[0])
    rows, columns = np.nonzero(ink)
    assert columns.min() >= x1 - 6 and columns.max() < x2 + 4
    below = 17 if character in "JQ" else 0  # two letters reach below the line
    assert rows.min() >= y1 - 3 and rows.max() < y2 + below
    assert ink[y1:y2, x1:x2].sum() > 0.75 * ink.sum()


def test_characters_stand_side_by_side():
    boxes = Text("WORD", 0.1, 0.5, 0.2, (0, 0, 0)).character_boxes
    assert len(boxes) == 4 and boxes[0][0] == 0.1
    assert [a[2] for a in boxes[:-1]] == [b[0] for b in boxes[1:]]
    assert boxes[0][2] - boxes[0][0] > boxes[1][2] - boxes[1][0]  # a W is wider than an O


# --- Questions and answers ------------------------------------------------------------------------


def test_phrases():
    assert phrase("cat") == "a cat"
    assert phrase("umbrella") == "an umbrella"
    assert phrase("orange", "cat") == "an orange cat"
    assert phrase("red", "anchor") == "a red anchor"
    assert phrase("red", "mouse", count=2) == "two red mice"
    assert phrase("blue", "horse", count=3) == "three blue horses"


def test_a_caption_goes_from_top_to_bottom():
    assert caption(SCENE) == "two red mice, an orange cat and a blue anchor on a navy background"
    assert caption(EMPTY) == "nothing on a white background"
    one = Scene("black", "noisy", (ANCHOR,), (), 0)
    assert caption(one) == "a blue anchor on a black background"


def test_a_short_caption_has_no_colors_and_no_background():
    assert short_caption(SCENE) == "two mice, a cat and an anchor"
    assert short_caption(EMPTY) == "nothing"


def test_a_description_says_where_each_thing_is():
    assert description(SCENE) == (
        "a red mouse at the top left, a red mouse at the top right, an orange cat at the "
        "bottom left and a blue anchor at the bottom right on a navy background"
    )
    assert description(EMPTY) == "nothing on a white background"


def test_reading_goes_from_top_to_bottom():
    assert reading(SCENE) == "TOP LOW"
    assert reading(EMPTY) == ""


def answers(scene: Scene, draws: int = 400) -> dict[str, str]:
    """Every question that is asked, and its answer, which is always the same."""
    asked: dict[str, str] = {}
    for n in range(draws):
        for question, answer in questions(scene, np.random.default_rng(n)):
            assert asked.setdefault(question, answer) == answer, question
    return asked


def test_questions():
    asked = answers(SCENE)
    expected = {
        "what color is the background?": "navy",
        "how many things are there?": "4",
        "how many mice are there?": "2",
        "how many cats are there?": "1",
        "how many clouds are there?": "0",
        "is there a mouse?": "yes",
        "is there an anchor?": "yes",
        "is there an umbrella?": "no",
        "is there a red mouse?": "yes",
        "is there an orange mouse?": "no",
        "is there an orange cat?": "yes",
        "is there a red cat?": "no",
        "what color is the cat?": "orange",
        "what color is the anchor?": "blue",
        "where is the cat?": "bottom left",
        "where is the anchor?": "bottom right",
        "what is orange?": "cat",
        "what is blue?": "anchor",
        "is the cat left of the anchor?": "yes",
        "is the anchor left of the cat?": "no",
        "is the cat above the anchor?": "yes",
        "is the anchor above the cat?": "no",
    }
    assert {question: asked.get(question) for question in expected} == expected
    ambiguous = {"what color is the mouse?", "where is the mouse?", "what is red?"}
    assert not ambiguous & asked.keys()
    assert not [question for question in asked if "mouse left" in question]


def test_nobody_asks_what_is_too_close_to_call():
    middle = Item("cat", "red", 0.53, 0.2, 0.2, 0)
    below = Item("sun", "blue", 0.50, 0.8, 0.2, 0)
    asked = answers(Scene("white", "plain", (middle, below), (), 0))
    assert not [question for question in asked if "where is" in question or "left of" in question]
    assert asked["is the cat above the sun?"] == "yes"


def test_an_empty_scene_has_its_questions_too():
    assert answers(EMPTY) == {
        "what color is the background?": "white",
        "how many things are there?": "0",
    }


def found(kind: str, draws: int = 600) -> dict[str, SceneSample]:
    drawn = (search(SCENE, kind, np.random.default_rng(n)) for n in range(draws))
    return {example.prefix: example for example in drawn}


def test_detection_answers_in_the_order_asked_and_from_top_to_bottom():
    asked = found("detect")
    for prompt, expected in {
        "detect cat": (CAT,),
        "detect mouse": (MOUSE_0, MOUSE_1),
        "detect cat ; mouse": (CAT, MOUSE_0, MOUSE_1),
        "detect mouse ; cat": (MOUSE_0, MOUSE_1, CAT),
    }.items():
        assert asked[prompt].objects == expected
        seen = parse(asked[prompt].suffix)
        assert [one.label for one in seen] == [item.kind for item in expected]
        for one, item in zip(seen, expected, strict=True):
            assert one.box == pytest.approx(item.box, abs=0.5 / 128 + 0.5 / 1023)
            assert one.box == pytest.approx(whole_pixels(item.box), abs=0.51 / 1023)


def test_what_is_absent_is_not_answered():
    kinds = {item.kind for item in SCENE.items}
    asked = found("detect")
    nothing = [prompt for prompt in asked if not kinds & set(re.split(r"\W+", prompt))]
    assert nothing and all(asked[prompt].suffix == "" for prompt in nothing)
    mixed = [
        prompt for prompt in asked if re.fullmatch(r"detect cat ; (?!anchor|mouse)\w+", prompt)
    ]
    assert mixed and all(asked[prompt].objects == (CAT,) for prompt in mixed)


def test_a_segmentation_is_answered_with_codes():
    example = found("segment")["segment mouse"]
    assert example.suffix == "" and example.objects == (MOUSE_0, MOUSE_1)
    codes = np.arange(32).reshape(2, 16)
    seen = parse(example.with_codes(codes).suffix)
    assert [one.codes for one in seen] == [tuple(range(16)), tuple(range(16, 32))]
    with pytest.raises(ValueError, match="shorter"):
        example.with_codes(codes[:1])


# --- Two hundred scenes ---------------------------------------------------------------------------

KIND_OF = {"mice": "mouse"} | {kind: kind for kind in KINDS} | {f"{kind}s": kind for kind in KINDS}
COUNTS = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4}


def read_caption(text: str) -> tuple[Counter, str]:
    """The things, (kind, color): how many, and the background that a caption names."""
    things, ground = re.fullmatch(r"(.+) on a (\w+) background", text).groups()
    if things == "nothing":
        return Counter(), ground
    counted = (thing.split() for thing in re.split(", | and ", things))
    return Counter({(KIND_OF[kind], color): COUNTS[n] for n, color, kind in counted}), ground


def test_every_answer_can_be_read_back():
    kinds: Counter = Counter()
    for seed in range(200):
        scene, rng = sample(seed), np.random.default_rng(seed)
        for example in samples(scene, rng):
            kinds[example.task] += 1
            if example.task == "caption":
                things = Counter((item.kind, item.color) for item in scene.items)
                assert read_caption(example.suffix) == (things, scene.background)
            elif example.task == "read":
                assert Counter(example.suffix.split()) == Counter(t.text for t in scene.texts)
            elif example.task == "region":
                (region,) = parse(example.prefix.removeprefix("caption en "))
                (item,) = (i for i in scene.items if np.allclose(i.box, region.box, atol=0.006))
                assert example.suffix == phrase(item.color, item.kind)
            elif example.task in ("detect", "segment"):
                if example.task == "segment":
                    example = example.with_codes(rng.integers(128, size=(len(example.objects), 16)))
                seen = parse(example.suffix)
                assert format_objects(seen) == example.suffix
                names = example.prefix.removeprefix(example.task).strip().split(" ; ")
                here = [item for item in scene.items if item.kind in names]
                assert Counter(one.label for one in seen) == Counter(item.kind for item in here)
                order = [(names.index(item.kind), item.box[1]) for item in example.objects]
                assert order == sorted(order)
            else:
                assert example.task == "ask" and example.suffix and example.prefix.endswith("?")
    assert min(kinds.values()) > 50 and len(kinds) == 6
