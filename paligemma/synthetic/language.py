"""Prompts and true answers about scenes of pictograms."""

import re
from collections import Counter
from functools import cache

import numpy as np

from paligemma.detections import Box, Detection, format_box, snap
from paligemma.detections import format as format_objects
from paligemma.synthetic import scenes
from paligemma.synthetic.scenes import COLORS, KINDS, Item, Scene
from paligemma.synthetic.world import Mention, SceneSample
from paligemma.tasks import TASKS

PIXELS = 128  # a side; boxes in answers end at whole pixels of an image of this size
CLOSE = 0.06  # positions nearer than this are not compared
NUMBERS = {1: "a", 2: "two", 3: "three", 4: "four"}


def whole_pixels(box: Box) -> Box:
    """The box with its edges at whole pixels of an image of `PIXELS` a side."""
    return snap(box, PIXELS)


def plural(kind: str) -> str:
    return "mice" if kind == "mouse" else f"{kind}s"


def phrase(*words: str, count: int = 1) -> str:
    """The words, the last a kind, with their number: "a cat", "an orange cat", "two red mice"."""
    *colors, kind = words
    number = "an" if count == 1 and words[0][0] in "aeiou" else NUMBERS[count]
    return " ".join([number, *colors, kind if count == 1 else plural(kind)])


def groups(scene: Scene) -> list[tuple[str, str, int]]:
    """Groups of like objects in alphabetical order: (kind, color, count)."""
    counted = Counter((item.kind, item.color) for item in scene.items)
    return sorted((kind, color, count) for (kind, color), count in counted.items())


def mentions(text: str) -> tuple[Mention, ...]:
    """The kinds in a text, in both numbers, and "background"."""
    names = _names(tuple(scenes.KINDS))
    found = ((match.end(), names.get(match[0])) for match in re.finditer(r"\w+", text))
    return tuple(Mention(end, name) for end, name in found if name)


@cache
def _names(kinds: tuple[str, ...]) -> dict[str, str]:
    """Each name by its forms. `kinds` may grow: an example adds one."""
    forms = {form: kind for kind in kinds for form in (kind, plural(kind))}
    return forms | {"background": "background"}


def listing(phrases: list[str]) -> str:
    """The phrases as "a, b and c", or "nothing"."""
    return " and ".join(filter(None, [", ".join(phrases[:-1]), *phrases[-1:]])) or "nothing"


def caption(scene: Scene) -> str:
    """Every group of like objects, and the background."""
    objects = listing([phrase(color, kind, count=n) for kind, color, n in groups(scene)])
    return f"{objects} on a {scene.background} background"


def short_caption(scene: Scene) -> str:
    """The kinds alone, and how many of each."""
    return listing([phrase(kind, count=count) for kind, _, count in _kinds(scene)])


def _kinds(scene: Scene) -> list[tuple[str, str, int]]:
    """Like `groups`, whatever the colors."""
    counted = Counter(item.kind for item in scene.items)
    return sorted((kind, "", count) for kind, count in counted.items())


def description(scene: Scene) -> str:
    """Every object by itself and where it is, like ones from top to bottom; and the background."""
    objects = listing([f"{phrase(i.color, i.kind)} at the {corner(i)}" for i in _in_order(scene)])
    return f"{objects} on a {scene.background} background"


def _in_order(scene: Scene) -> list[Item]:
    return sorted(scene.items, key=lambda item: (item.kind, item.color, item.y))


def corner(item: Item) -> str:
    """The quarter of the image that its center is in."""
    return f"{'top' if item.y < 0.5 else 'bottom'} {'left' if item.x < 0.5 else 'right'}"


def reading(scene: Scene) -> str:
    """The written words from top to bottom."""
    return " ".join(text.text for text in sorted(scene.texts, key=lambda text: text.y))


def questions(scene: Scene, rng: np.random.Generator) -> list[tuple[str, str]]:
    """One question and answer of every sort that this scene allows, in random order."""
    items = scene.items
    kinds = Counter(item.kind for item in items)
    colors = Counter(item.color for item in items)
    alone = [item for item in items if kinds[item.kind] == 1]
    absent = [kind for kind in KINDS if kind not in kinds]
    pick = lambda options: options[rng.integers(len(options))]
    asked = [
        ("what color is the background?", scene.background),
        ("how many things are there?", str(len(items))),
    ]
    if items:
        kind = pick(absent) if rng.random() < 0.2 else pick(items).kind
        asked.append((f"how many {plural(kind)} are there?", str(kinds[kind])))
        kind, answer = (pick(items).kind, "yes") if rng.random() < 0.5 else (pick(absent), "no")
        asked.append((f"is there {phrase(kind)}?", answer))
        item, answer = pick(items), "yes"
        color = item.color
        if rng.random() < 0.5:
            here = {other.color for other in items if other.kind == item.kind}
            color, answer = pick([color for color in COLORS if color not in here]), "no"
        asked.append((f"is there {phrase(color, item.kind)}?", answer))
    if alone:
        item = pick(alone)
        asked.append((f"what color is the {item.kind}?", item.color))
        item = pick(alone)
        if min(abs(item.x - 0.5), abs(item.y - 0.5)) > CLOSE:
            asked.append((f"where is the {item.kind}?", corner(item)))
    if single := [item for item in items if colors[item.color] == 1]:
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


def search(scene: Scene, task: str, rng: np.random.Generator, most: int = 4) -> SceneSample:
    """A detection or segmentation prompt for one to `most` kinds, absent ones among them.

    Objects are answered in the order of the names asked for, and from top to bottom within one.
    """
    present = [str(kind) for kind in rng.permutation(sorted({i.kind for i in scene.items}))]
    absent = [str(kind) for kind in rng.permutation([k for k in KINDS if k not in present])]
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
    return SceneSample(task, prefix, suffix, found, boxes, labels, names=mentions(prefix))


def caption_sample(scene: Scene, style: str = "caption") -> SceneSample:
    """A caption in one of the styles of PaliGemma: "caption", "cap" or "describe"."""
    match style:
        case "cap":
            text, told = short_caption(scene), _kinds(scene)
        case "describe":
            text = description(scene)
            told = [(item.kind, item.color, 1) for item in _in_order(scene)]
        case _:
            text, told = caption(scene), groups(scene)
    ends = (one.end for one in mentions(text) if one.name != "background")
    listed = tuple(Mention(end, *group) for end, group in zip(ends, told, strict=True))
    return SceneSample("caption", TASKS["caption"].prompt(style=style), text, groups=listed)


def samples(scene: Scene, rng: np.random.Generator) -> list[SceneSample]:
    """What is asked about one scene in training, in random order."""
    asked = [caption_sample(scene)]
    for question, answer in questions(scene, rng)[:5]:
        prefix = TASKS["ask"].prompt(question)
        asked.append(SceneSample("ask", prefix, answer, names=mentions(prefix)))
    if scene.texts or rng.random() < 0.2:
        asked.append(SceneSample("read", TASKS["read"].prompt(), reading(scene)))
    asked.append(search(scene, "detect", rng))
    if rng.random() < 0.6:
        asked.append(search(scene, "detect", rng))
    if scene.items:
        asked.append(search(scene, "segment", rng, most=2))
    if scene.items and rng.random() < 0.4:
        item = scene.items[rng.integers(len(scene.items))]
        where = format_box(whole_pixels(item.box))
        prefix = f"{TASKS['caption'].prompt()} {where}"
        asked.append(SceneSample("region", prefix, phrase(item.color, item.kind)))
    return [asked[n] for n in rng.permutation(len(asked))]
