"""Questions about a scene as facts: which topics there are, and how often each is asked.

A `Fact` is a question and its answer as data. Every language writes the same facts, so the truth of
an answer does not depend on the language. Each topic is a function that returns a fact, or None
where the scene does not allow it. Answers are not to be guessed from the question: yes and no, and
what is here and what is not, come equally often of each kind.
"""

from collections.abc import Callable
from random import Random

from paligemma.synthetic.composed_scene import SceneObject
from paligemma.synthetic.phrases.facts import (
    APART,
    BACKGROUND,
    CATEGORY,
    NAMES,
    NOTHING,
    OWN_COLOR,
    REGIONS,
    Fact,
    SceneFacts,
    Term,
    box_area,
    is_sure,
    larger,
    position,
    reading,
)
from paligemma.synthetic.restyle import COLORS


def _kind(name: str, color: str = "") -> Term:
    return Term("kind", name, color)


def _count(facts: SceneFacts, random: Random) -> Fact | None:
    chance = random.random()
    if chance < 0.25:
        return Fact("count", (_kind(facts.absent(random)),), ("count", 0))
    if chance < 0.4:
        if random.random() < 0.25 or not (category := facts.category(random)):
            category = facts.absent_category(random)
        count = len(facts.by_category.get(category, ()))
        return Fact("count", (Term("category", category),), ("count", count))
    if chance < 0.5 and (things := facts.colored()):
        thing = random.choice(things)
        alike = [other for other in facts.by_name[thing.name] if other.color == thing.color]
        return Fact("count", (_kind(thing.name, thing.color),), ("count", len(alike)))
    things = [thing for name in facts.present for thing in facts.by_name[name]]
    if not things:
        return None
    name = random.choice(things).name
    return Fact("count", (_kind(name),), ("count", len(facts.by_name[name])))


def _count_all(facts: SceneFacts, random: Random) -> Fact | None:
    if facts.complete:
        return Fact("count_all", (), ("count", len(facts.things)))
    return None


def _color(facts: SceneFacts, random: Random) -> Fact | None:
    if random.random() < 0.12:
        return _not_here("color", facts, random)
    things = [thing for thing in facts.colored() if thing.name in facts.alone]
    telling = [thing for thing in things if thing.color != OWN_COLOR[thing.name]]
    things = telling or (things if random.random() < 0.4 else [])
    if not things:
        return None
    thing = random.choice(things)
    return Fact("color", (_kind(thing.name),), ("color", thing.color))


def _background(facts: SceneFacts, random: Random) -> Fact | None:
    if not facts.scene.background:
        return None
    return Fact("color", (BACKGROUND,), ("color", facts.scene.background))


def _what_color(facts: SceneFacts, random: Random) -> Fact | None:
    if not facts.complete or not all(thing.color for thing in facts.things) or not facts.things:
        return None
    color = random.choice(facts.things).color
    alike = [thing for thing in facts.things if thing.color == color]
    return Fact("what_color", (), ("list", facts.plain_groups(alike)), color=color)


def _region(facts: SceneFacts, random: Random) -> tuple[str, list[SceneObject]] | None:
    """A part of the image and what is in it, where that is sure."""
    place = random.choice(list(REGIONS))
    if facts.things and random.random() < 0.7:
        box = random.choice(facts.things).box
        place = random.choice([name for name in REGIONS if REGIONS[name].holds(box)] or [place])
    region = REGIONS[place]
    held = [region.holds(thing.box) for thing in facts.scene.objects]
    if None in held or not facts.complete:
        return None
    if True not in held and any(region.reached(thing.box) for thing in facts.things):
        return None
    return place, [thing for thing in facts.things if region.holds(thing.box)]


def _what_at(facts: SceneFacts, random: Random) -> Fact | None:
    if (found := _region(facts, random)) is None:
        return None
    place, things = found
    return Fact("what_at", (), ("list", facts.plain_groups(things)), place=place)


def _category_at(facts: SceneFacts, random: Random) -> Fact | None:
    found = _region(facts, random)
    if found is None or len(found[1]) != 1 or not CATEGORY[found[1][0].name]:
        return None
    return Fact("category_at", (), ("category", CATEGORY[found[1][0].name]), place=found[0])


def _category(facts: SceneFacts, random: Random) -> Fact | None:
    if random.random() < 0.3:
        return _not_here("category", facts, random)
    names = [name for name in facts.alone if CATEGORY[name]]
    if not names:
        return None
    name = random.choice(names)
    return Fact("category", (_kind(name),), ("category", CATEGORY[name]))


def _where(facts: SceneFacts, random: Random) -> Fact | None:
    if random.random() < 0.15:
        return _not_here("where", facts, random)
    names = [name for name in facts.alone if is_sure(facts.by_name[name][0].box)]
    if not names:
        return None
    name = random.choice(names)
    return Fact("where", (_kind(name),), ("position", position(facts.by_name[name][0].box)))


def _not_here(topic: str, facts: SceneFacts, random: Random) -> Fact:
    return Fact(topic, (_kind(facts.absent(random)),), ("absent", None))


def _pair(facts: SceneFacts, random: Random) -> tuple[SceneObject, SceneObject] | None:
    if len(facts.alone) < 2:
        return None
    a, b = random.sample(facts.alone, 2)
    return facts.by_name[a][0], facts.by_name[b][0]


def _compare(facts: SceneFacts, random: Random) -> Fact | None:
    if (pair := _pair(facts, random)) is None or (first := larger(*pair)) is None:
        return None
    terms = tuple(_kind(thing.name) for thing in pair)
    bigger = random.random() < 0.6
    if random.random() < 0.5:
        topic = "larger_than" if bigger else "smaller_than"
        return Fact(topic, terms, ("bool", first == bigger))
    topic = "larger_of" if bigger else "smaller_of"
    return Fact(topic, terms, ("kind", terms[0 if first == bigger else 1].name))


def _extreme(facts: SceneFacts, random: Random) -> Fact | None:
    if not facts.complete or len(facts.things) < 2:
        return None
    bigger = random.random() < 0.6
    things = sorted(facts.things, key=lambda thing: box_area(thing.box), reverse=bigger)
    if any(larger(things[0], other) is not bigger for other in things[1:]):
        return None
    return Fact("largest" if bigger else "smallest", (), ("kind", things[0].name))


def _relation(facts: SceneFacts, random: Random) -> Fact | None:
    if (pair := _pair(facts, random)) is None:
        return None
    axis = random.randrange(2)
    a, b = ((thing.box[axis] + thing.box[axis + 2]) / 2 for thing in pair)
    if abs(a - b) < APART:
        return None
    before = random.random() < 0.6
    topic = (("right_of", "left_of"), ("below", "above"))[axis][before]
    terms = tuple(_kind(thing.name) for thing in pair)
    return Fact(topic, terms, ("bool", (a < b) == before))


def _presence(facts: SceneFacts, random: Random) -> Fact | None:
    chance = random.random()
    # a scene has few things to say yes to, so that some of those are asked twice and left out
    yes = random.random() < (0.5 if chance < 0.4 else 0.56)
    if not facts.things and random.random() < 0.8:
        return None
    if chance < 0.2:
        category = facts.category(random) if yes else facts.absent_category(random)
        return Fact("presence", (Term("category", category),), ("bool", yes)) if category else None
    if chance < 0.4 and (things := facts.colored()):
        thing = random.choice(things)
        name, color = thing.name, thing.color
        if not yes and color == OWN_COLOR[name]:
            # another thing that is not here: nobody needs to look for what color bananas have
            name = random.choice(_OWN_COLORED)
            color = OWN_COLOR[name]
            if name in facts.by_name or name in facts.unsure:
                return None
        elif not yes:
            here = {other.color for other in facts.by_name[name]}
            color = random.choice([other for other in COLORS if other not in here])
        return Fact("presence", (_kind(name, color),), ("bool", yes))
    if not yes:
        return Fact("presence", (_kind(facts.absent(random)),), ("bool", False))
    if not facts.present:
        return None
    return Fact("presence", (_kind(random.choice(facts.present)),), ("bool", True))


_OWN_COLORED = [name for name in NAMES if OWN_COLOR[name]]


def _written(facts: SceneFacts, random: Random) -> Fact | None:
    if not facts.scene.texts:
        topic = "any_text" if random.random() < 0.4 else "written"
        return Fact(topic, (), ("bool", False) if topic == "any_text" else NOTHING)
    if random.random() < 0.4:
        return Fact("any_text", (), ("bool", True))
    return Fact("written", (), ("text", reading(facts.scene)))


def _what_all(facts: SceneFacts, random: Random) -> Fact | None:
    return Fact("what_all", (), ("list", facts.plain_groups()))


def _which(facts: SceneFacts, random: Random) -> Fact | None:
    if random.random() < 0.3 or not (category := facts.category(random)):
        category = facts.absent_category(random)
    found = facts.plain_groups(facts.by_category.get(category, ()))
    return Fact("which", (Term("category", category),), ("list", found))


TOPICS: tuple[tuple[float, Callable[[SceneFacts, Random], Fact | None]], ...] = (
    (12, _count), (4, _count_all), (8, _color), (4, _background), (3, _what_color), (12, _what_at),
    (3, _category_at), (5, _category), (10, _where), (18, _compare), (4, _extreme), (18, _relation),
    (15, _presence), (4, _written), (5, _what_all), (4, _which),
)  # fmt: skip
_WEIGHTS, _FUNCTIONS = zip(*TOPICS, strict=True)
_CUMULATIVE = [sum(_WEIGHTS[: n + 1]) for n in range(len(_WEIGHTS))]
UNKNOWN_TOPICS = ("presence", "presence", "count", "where", "color", "category")


def choose_facts(facts: SceneFacts, random: Random, count: int) -> list[Fact]:
    """At most `count` different facts of a scene, none of an unknown word."""
    found: dict[tuple, Fact] = {}
    for function in random.choices(_FUNCTIONS, cum_weights=_CUMULATIVE, k=3 * count):
        if fact := function(facts, random):
            found.setdefault((fact.topic, fact.terms, fact.place), fact)
            if len(found) == count:
                break
    return list(found.values())
