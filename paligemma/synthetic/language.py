"""Prompts and true answers in plain English about scenes: their things, words and background."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cache
from typing import Protocol

import numpy as np

from paligemma.detections import Box, Detection, format_box, snap
from paligemma.detections import format as format_objects
from paligemma.synthetic import scenes
from paligemma.synthetic.kinds import all_kinds
from paligemma.synthetic.phrases.broader import BROADER
from paligemma.synthetic.scenes import COLORS
from paligemma.synthetic.world import Mention, SceneSample
from paligemma.tasks import TASKS

PIXELS = 128  # a side; boxes in answers end at whole pixels of an image of this size
CLOSE = 0.06  # positions nearer than this are not compared
NUMBERS = {1: "a", 2: "two", 3: "three", 4: "four"}
# All kinds there are; None: those of the pictograms, to which an example may add one.
Kinds = Collection[str] | None


class Thing(Protocol):
    """Something in a scene, its center at (x, y); `color` is "" if captions do not say it."""

    @property
    def kind(self) -> str: ...
    @property
    def color(self) -> str: ...
    @property
    def x(self) -> float: ...
    @property
    def y(self) -> float: ...
    @property
    def box(self) -> Box: ...


class DescribedLine(Protocol):
    """A written line, its middle at the height `y`."""

    @property
    def text(self) -> str: ...
    @property
    def y(self) -> float: ...


class DescribedScene(Protocol):
    """What is said about a scene; `background` is "" where no color has one word."""

    @property
    def background(self) -> str: ...
    @property
    def items(self) -> Sequence[Thing]: ...
    @property
    def texts(self) -> Sequence[DescribedLine]: ...


def whole_pixels(box: Box) -> Box:
    """The box with its edges at whole pixels of an image of `PIXELS` a side."""
    return snap(box, PIXELS)


def plural(kind: str) -> str:
    return _plurals().get(kind, f"{kind}s")


@cache
def _plurals() -> dict[str, str]:
    return {kind.name: kind.plural["en"] for kind in all_kinds()}


def phrase(*words: str, count: int = 1) -> str:
    """The words, the last a kind, with their number: "a cat", "an orange cat", "two red mice".

    Words that are "" are left out.
    """
    *colors, kind = filter(None, words)
    has_vowel = (*colors, kind)[0].startswith((*"aeiou", "hour"))
    number = "an" if count == 1 and has_vowel else NUMBERS[count]
    return " ".join([number, *colors, kind if count == 1 else plural(kind)])


def groups(scene: DescribedScene) -> list[tuple[str, str, int]]:
    """Groups of like objects, (kind, color, count), in the order of the highest of each."""
    counted = Counter((item.kind, item.color) for item in _top_down(scene))
    return [(kind, color, count) for (kind, color), count in counted.items()]


def mentions(text: str, kinds: Kinds = None) -> tuple[Mention, ...]:
    """The `kinds` in a text, in both numbers, and "background"."""
    pattern, names = _names(tuple(kinds or scenes.KINDS))
    return tuple(Mention(found.end(), names[found[0]]) for found in pattern.finditer(text))


@cache
def _names(kinds: tuple[str, ...]) -> tuple[re.Pattern[str], dict[str, str]]:
    """What finds the names in a text, the longest that fits, and each name by its forms."""
    names = {form: kind for kind in kinds for form in (kind, plural(kind))}
    names["background"] = "background"
    forms = sorted(map(re.escape, names), key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(forms)})\b"), names


def listing(phrases: list[str]) -> str:
    """The phrases as "a, b and c", or "nothing"."""
    return " and ".join(filter(None, [", ".join(phrases[:-1]), *phrases[-1:]])) or "nothing"


def caption(scene: DescribedScene) -> str:
    """Every group of like objects, and the background."""
    objects = listing([phrase(color, kind, count=n) for kind, color, n in groups(scene)])
    return objects + on_background(scene)


def on_background(scene: DescribedScene) -> str:
    return f" on {phrase(scene.background, 'background')}" if scene.background else ""


def short_caption(scene: DescribedScene) -> str:
    """The kinds alone, and how many of each."""
    return listing([phrase(kind, count=count) for kind, _, count in _kinds(scene)])


def _kinds(scene: DescribedScene) -> list[tuple[str, str, int]]:
    """Like `groups`, whatever the colors."""
    counted = Counter(item.kind for item in _top_down(scene))
    return [(kind, "", count) for kind, count in counted.items()]


def description(scene: DescribedScene) -> str:
    """Every object by itself and where it is, from top to bottom; and the background."""
    objects = listing([f"{phrase(i.color, i.kind)} at the {corner(i)}" for i in _top_down(scene)])
    return objects + on_background(scene)


def _top_down(scene: DescribedScene) -> list[Thing]:
    return sorted(scene.items, key=lambda item: item.y)


def corner(item: Thing) -> str:
    """The quarter of the image that its center is in."""
    return f"{'top' if item.y < 0.5 else 'bottom'} {'left' if item.x < 0.5 else 'right'}"


def reading(scene: DescribedScene) -> str:
    """The written words from top to bottom."""
    return " ".join(text.text for text in sorted(scene.texts, key=lambda text: text.y))


def absent_kinds(scene: DescribedScene, kinds: Kinds = None) -> list[str]:
    """Those of `kinds` that are surely not there: nothing there is called so as well."""
    there = {item.kind for item in scene.items}
    called = there.union(*(BROADER.get(kind, ()) for kind in there))
    return [kind for kind in kinds or scenes.KINDS if kind not in called]


def questions(
    scene: DescribedScene,
    rng: np.random.Generator,
    kinds: Kinds = None,
    palette: Collection[str] = tuple(COLORS),
) -> list[tuple[str, str]]:
    """One question and answer of every sort that this scene allows, in random order.

    Of `kinds`, and of the colors of the `palette`, some are asked for that are not there.
    """
    items = scene.items
    counts = Counter(item.kind for item in items)
    colors = Counter(item.color for item in items)
    alone = [item for item in items if counts[item.kind] == 1]
    absent = absent_kinds(scene, kinds)
    pick = lambda options: options[rng.integers(len(options))]
    asked = [("how many things are there?", str(len(items)))]
    if scene.background:
        asked.insert(0, ("what color is the background?", scene.background))
    if items:
        kind = pick(absent) if rng.random() < 0.2 else pick(items).kind
        asked.append((f"how many {plural(kind)} are there?", str(counts[kind])))
        kind, answer = (pick(items).kind, "yes") if rng.random() < 0.5 else (pick(absent), "no")
        asked.append((f"is there {phrase(kind)}?", answer))
    plain = {item.kind for item in items if not item.color}  # of some color, which nobody says
    if painted := [item for item in items if item.kind not in plain]:
        item, answer = pick(painted), "yes"
        color = item.color
        if rng.random() < 0.5:
            here = {other.color for other in items if other.kind == item.kind}
            color, answer = pick([color for color in palette if color not in here]), "no"
        asked.append((f"is there {phrase(color, item.kind)}?", answer))
    if painted := [item for item in alone if item.color]:
        item = pick(painted)
        asked.append((f"what color is the {item.kind}?", item.color))
    if alone:
        item = pick(alone)
        if min(abs(item.x - 0.5), abs(item.y - 0.5)) > CLOSE:
            asked.append((f"where is the {item.kind}?", corner(item)))
    if single := [item for item in items if not plain and colors[item.color] == 1]:
        item = pick(single)
        asked.append((f"what is {item.color}?", item.kind))
    if len(alone) > 1:
        a, b = (alone[n] for n in rng.permutation(len(alone))[:2])
        if abs(a.x - b.x) > CLOSE:
            asked.append((f"is the {a.kind} left of the {b.kind}?", "yes" if a.x < b.x else "no"))
        if abs(a.y - b.y) > CLOSE:
            asked.append((f"is the {a.kind} above the {b.kind}?", "yes" if a.y < b.y else "no"))
    rng.shuffle(asked)
    return [(str(question), str(answer)) for question, answer in asked]


def search(
    scene: DescribedScene,
    task: str,
    rng: np.random.Generator,
    most: int = 4,
    kinds: Kinds = None,
) -> SceneSample:
    """A detection or segmentation prompt for one to `most` of `kinds`, absent ones among them.

    Objects are answered in the order of the names asked for, and from top to bottom within one.
    """
    present = [str(kind) for kind in rng.permutation(sorted({i.kind for i in scene.items}))]
    absent = [str(kind) for kind in rng.permutation(absent_kinds(scene, kinds))]
    names = []
    for _ in range(1 + min(rng.integers(most), rng.integers(most))):  # fewer more often
        names.append((present if present and rng.random() < 0.75 else absent).pop())
    found = tuple(
        item
        for name in names
        for item in sorted(scene.items, key=lambda item: item.box[1])
        if item.kind == name
    )
    boxes = tuple(whole_pixels(item.box) for item in found)
    detections = [Detection(item.kind, box) for item, box in zip(found, boxes, strict=True)]
    suffix = format_objects(detections) if task == "detect" else ""
    prefix, labels = TASKS[task].prompt(" ; ".join(names)), tuple(item.kind for item in found)
    return SceneSample(task, prefix, suffix, found, boxes, labels, names=mentions(prefix, kinds))


def caption_sample(
    scene: DescribedScene, style: str = "caption", kinds: Kinds = None
) -> SceneSample:
    """A caption in one of the styles of PaliGemma: "caption", "cap" or "describe"."""
    match style:
        case "cap":
            text, told = short_caption(scene), _kinds(scene)
        case "describe":
            text = description(scene)
            told = [(item.kind, item.color, 1) for item in _top_down(scene)]
        case _:
            text, told = caption(scene), groups(scene)
    ends = (one.end for one in mentions(text, kinds) if one.name != "background")
    listed = tuple(Mention(end, *group) for end, group in zip(ends, told, strict=True))
    return SceneSample("caption", TASKS["caption"].prompt(style=style), text, groups=listed)


def samples(
    scene: DescribedScene,
    rng: np.random.Generator,
    kinds: Kinds = None,
    palette: Collection[str] = tuple(COLORS),
) -> list[SceneSample]:
    """What is asked about one scene in training, in random order: see `questions`."""
    asked = [caption_sample(scene, kinds=kinds)]
    for question, answer in questions(scene, rng, kinds, palette)[:5]:
        prefix = TASKS["ask"].prompt(question)
        asked.append(SceneSample("ask", prefix, answer, names=mentions(prefix, kinds)))
    if scene.texts or rng.random() < 0.2:
        asked.append(SceneSample("read", TASKS["read"].prompt(), reading(scene)))
    asked.append(search(scene, "detect", rng, kinds=kinds))
    if rng.random() < 0.6:
        asked.append(search(scene, "detect", rng, kinds=kinds))
    if scene.items:
        asked.append(search(scene, "segment", rng, most=2, kinds=kinds))
    if scene.items and rng.random() < 0.4:
        item = scene.items[int(rng.integers(len(scene.items)))]
        where = format_box(whole_pixels(item.box))
        prefix = f"{TASKS['caption'].prompt()} {where}"
        asked.append(SceneSample("region", prefix, phrase(item.color, item.kind)))
    return [asked[n] for n in rng.permutation(len(asked))]
