"""What is true of a scene, before it has words in any language.

What is asked about must be visible. A thing is clear if 35 % of it is visible, or if what is
visible of it covers 4 % of the image. Of all others nothing is said: captions and lists leave them
out, and whatever they could change (a count, their kind, their category) is not asked.
Nor is a name asked about that another thing here may be called by too (see `broader.py`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from paligemma.detections import Box
from paligemma.synthetic.composed_scene import ComposedScene, SceneObject
from paligemma.synthetic.kinds import all_kinds
from paligemma.synthetic.phrases.broader import BROADER
from paligemma.synthetic.stickers import ARTISTS

MIN_VISIBLE = 0.35  # share of a thing
MIN_AREA = 0.04  # of the image
CLOSE = 0.04  # positions nearer than this to the limit of a region are not asked about
APART = 0.1  # of two things, from which on one is left of the other, or above it
MUCH_LARGER = 1.5  # as many times the area
LARGE, SMALL = 0.4, 0.2  # sides of boxes (of a square of that area) that are called so

CATEGORY = {kind.name: kind.category for kind in all_kinds()}
NAMES = tuple(CATEGORY)
BY_CATEGORY: dict[str, list[str]] = {}
for _kind in all_kinds():
    BY_CATEGORY.setdefault(_kind.category, []).append(_kind.name)
OWN_COLOR = {kind.name: kind.color for kind in all_kinds()}
ONE_COLOR = frozenset(artist.name for artist in ARTISTS if artist.style == "glyph")


class Term(NamedTuple):
    """What a noun stands for: `sort` is "kind", "category", "background", "unknown" for a word that
    nothing in this world is called, or "everything". `size` is "large", "small" or ""."""

    sort: str
    name: str
    color: str = ""
    size: str = ""


BACKGROUND = Term("background", "background")
NOTHING = ("list", ())


class Fact(NamedTuple):
    """A question and its answer.

    `topic` is a key of a grammar's questions, `terms` are the nouns in it, `place` and `color` what
    else its words need. `answer` is (sort, value): a "bool", "count" (int), "color", "position",
    "kind", "category", "list" of groups, "text"; or "absent" and "unknown", said of the first term.
    """

    topic: str
    terms: tuple[Term, ...]
    answer: tuple[str, Any]
    place: str = ""
    color: str = ""


class Group(NamedTuple):
    """Like things of a scene: their name, the colour that a caption says, or "", and how many."""

    name: str
    color: str
    count: int


@dataclass(frozen=True)
class Region:
    """A part of the image by columns and rows of thirds; None where all count."""

    column: int | None
    row: int | None

    def holds(self, box: Box) -> bool | None:
        """Whether the middle of a box is inside; None if it is too close to the limit."""
        inside = [
            _within((box[axis] + box[axis + 2]) / 2, third / 3, (third + 1) / 3)
            for axis, third in ((0, self.column), (1, self.row))
            if third is not None
        ]
        return False if False in inside else None if None in inside else True

    def reached(self, box: Box) -> bool:
        """Whether a box reaches well into it."""
        return all(
            box[axis] < (third + 1) / 3 - CLOSE and box[axis + 2] > third / 3 + CLOSE
            for axis, third in ((0, self.column), (1, self.row))
            if third is not None
        )


def _within(value: float, low: float, high: float) -> bool | None:
    if (low == 0 or value > low + CLOSE) and (high == 1 or value < high - CLOSE):
        return True
    return False if value < low - CLOSE or value > high + CLOSE else None


COLUMNS, ROWS = ("left", "middle", "right"), ("top", "middle", "bottom")
POSITIONS = {
    (row if column == "middle" else column if row == "middle" else f"{row} {column}"): (x, y)
    for y, row in enumerate(ROWS)
    for x, column in enumerate(COLUMNS)
}
# Questions about the left mean all of that third; the middle is the one in both directions.
REGIONS = {name: Region(*cell) for name, cell in POSITIONS.items()} | {
    "left": Region(0, None),
    "right": Region(2, None),
    "top": Region(None, 0),
    "bottom": Region(None, 2),
}


def position(box: Box) -> str:
    """Which of the nine parts of the image the middle of a box is in."""
    x, y = (min(int(1.5 * (box[axis] + box[axis + 2])), 2) for axis in (0, 1))
    return next(name for name, cell in POSITIONS.items() if cell == (x, y))


def is_sure(box: Box) -> bool:
    """Whether the middle of a box is well inside its part."""
    return Region(*POSITIONS[position(box)]).holds(box) is True


def box_area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def size_word(box: Box) -> str:
    side = box_area(box) ** 0.5
    return "large" if side >= LARGE else "small" if side <= SMALL else ""


def said_color(thing: SceneObject) -> str:
    """The colour that captions say: of things painted in one, never of those in colours."""
    return thing.color if thing.artist in ONE_COLOR else ""


def is_clear(thing: SceneObject) -> bool:
    return thing.visible >= MIN_VISIBLE or thing.area >= MIN_AREA


def top_down(things: Sequence[SceneObject]) -> list[SceneObject]:
    return sorted(things, key=lambda thing: thing.box[1])


class SceneFacts:
    """A scene, sorted for questions. `things` are the clear ones; `complete` says that no other is
    there; `unsure` are names and categories that nobody asks about."""

    def __init__(self, scene: ComposedScene) -> None:
        self.scene = scene
        self.things = [thing for thing in scene.objects if is_clear(thing)]
        hidden = [thing for thing in scene.objects if not is_clear(thing)]
        self.complete = not hidden
        self.by_name: dict[str, list[SceneObject]] = {}
        self.by_category: dict[str, list[SceneObject]] = {}
        for thing in self.things:
            self.by_name.setdefault(thing.name, []).append(thing)
            if category := CATEGORY[thing.name]:
                self.by_category.setdefault(category, []).append(thing)
        self.unsure = {thing.name for thing in hidden} | {CATEGORY[t.name] for t in hidden}
        for thing in scene.objects:
            self.unsure.update(BROADER.get(thing.name, ()))
        self.present = [name for name in self.by_name if name not in self.unsure]
        self.alone = [name for name in self.present if len(self.by_name[name]) == 1]

    def groups(self, things: Sequence[SceneObject] | None = None) -> list[Group]:
        """Like things together, in the order of the highest of each, from top to bottom."""
        return self._grouped(things, said_color)

    def plain_groups(self, things: Sequence[SceneObject] | None = None) -> tuple[Group, ...]:
        """The same without colours."""
        return tuple(self._grouped(things, lambda thing: ""))

    def _grouped(
        self, things: Sequence[SceneObject] | None, color: Callable[[SceneObject], str]
    ) -> list[Group]:
        ordered = top_down(self.things if things is None else things)
        counts = Counter((thing.name, color(thing)) for thing in ordered)
        return [Group(*key, count) for key, count in counts.items()]

    def absent(self, random: Random) -> str:
        """A name of nothing that is here; often one of the category of something that is."""
        names: Sequence[str] = NAMES
        if self.things and random.random() < 0.4:
            names = BY_CATEGORY[CATEGORY[random.choice(self.things).name]]
        for _ in range(20):
            name = random.choice(names)
            if name not in self.by_name and name not in self.unsure:
                return name
            names = NAMES
        raise AssertionError("a scene shows a few of hundreds of kinds")

    def absent_category(self, random: Random) -> str:
        """A category of nothing that is here, the large ones more often, as they are shown."""
        while True:
            category = CATEGORY[random.choice(NAMES)]
            if category and category not in self.by_category and category not in self.unsure:
                return category

    def category(self, random: Random) -> str:
        """A category of something that is here, or ""."""
        found = [CATEGORY[thing.name] for thing in self.things]
        found = [category for category in found if category and category not in self.unsure]
        return random.choice(found) if found else ""

    def colored(self) -> list[SceneObject]:
        """Things of one colour whose kind is here in no other way."""
        return [
            thing
            for name in self.present
            for thing in self.by_name[name]
            if all(other.color for other in self.by_name[name])
        ]


def reading(scene: ComposedScene) -> str:
    """The written lines, from top to bottom."""
    return " ".join(text.text for text in scene.texts)


def larger(a: SceneObject, b: SceneObject) -> bool | None:
    """Whether a is larger than b; None if by box or by visible area there is no clear answer."""
    by_box = box_area(a.box) / max(box_area(b.box), 1e-6)
    by_area = a.area / max(b.area, 1e-6)
    if by_box > MUCH_LARGER and by_area > MUCH_LARGER:
        return True
    return False if by_box < 1 / MUCH_LARGER and by_area < 1 / MUCH_LARGER else None
