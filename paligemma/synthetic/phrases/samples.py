"""Everything that training asks about a scene: `samples(scene, rng)`."""

from random import Random

import numpy as np

from paligemma.detections import Box, box_iou, format_box
from paligemma.synthetic.composed_scene import ComposedScene
from paligemma.synthetic.phrases.facts import (
    Fact,
    Group,
    SceneFacts,
    Term,
    reading,
    said_color,
)
from paligemma.synthetic.phrases.grammar import Grammar, mentions, split_marks
from paligemma.synthetic.phrases.languages import as_typed, random_grammar
from paligemma.synthetic.phrases.questions import UNKNOWN_TOPICS, choose_facts
from paligemma.synthetic.phrases.search import new_word, search
from paligemma.synthetic.phrases.unknown_words import unknown_words
from paligemma.synthetic.world import Mention, SceneSample
from paligemma.tasks import QUESTION, REGION, TASKS

STYLES, STYLE_SHARES = TASKS["caption"].styles, (50, 22, 28)
ALIKE = 0.4  # IoU with a thing from which on a box does not say which is meant
_UNKNOWN = tuple(unknown_words())


def samples(scene: ComposedScene, rng: np.random.Generator) -> list[SceneSample]:
    """Prompts and answers about one scene, some nine, in random order and four languages."""
    random = Random(int(rng.integers(1 << 62)))
    facts = SceneFacts(scene)
    styles = random.choices(STYLES, STYLE_SHARES, k=1 + (random.random() < 0.25))
    found = [
        caption(facts, style, random_grammar(random), random) for style in dict.fromkeys(styles)
    ]
    asked = choose_facts(facts, random, 3 + random.randrange(3))
    found += [question(fact, random_grammar(random), random) for fact in asked]
    if random.random() < 0.2:
        found.append(question(unknown_fact(random), random_grammar(random), random))
    if asked and random.random() < 0.2:
        found.append(question_to_answer(random.choice(asked), random_grammar(random)))
    if random.random() < (0.85 if scene.texts else 0.12):
        found.append(ocr(scene, random))
    found.append(search(facts, "detect", random))
    if random.random() < 0.6:
        found.append(search(facts, "detect", random))
    if random.random() < (0.8 if facts.things else 0.15):
        found.append(search(facts, "segment", random))
    if random.random() < 0.45 and (one := region(facts, random_grammar(random), random)):
        found.append(one)
    random.shuffle(found)
    return found


def groups(scene: ComposedScene) -> list[Group]:
    """The groups that captions of a scene list, in their order."""
    return SceneFacts(scene).groups()


def caption(facts: SceneFacts, style: str, grammar: Grammar, random: Random) -> SceneSample:
    """A caption in one of the three styles of PaliGemma: a sentence with every thing and the
    background ("caption"), only the names ("cap"), or where each thing is ("describe")."""
    listed = facts.plain_groups() if style == "cap" else facts.groups()
    match style:
        case "cap":
            text = grammar.bare_list(facts.plain_groups())
        case "describe":
            text = grammar.description(facts)
        case _:
            text = grammar.caption(facts)
    suffix, ends = split_marks(text)
    marked = zip(ends, listed, strict=True)
    prefix = TASKS["caption"].prompt(language=grammar.code, style=style)
    if random.random() < 0.03:
        prefix = prefix.capitalize()
    found = tuple(Mention(end, *group) for end, group in marked)
    return SceneSample("caption", prefix, suffix, groups=found)


def question(fact: Fact, grammar: Grammar, random: Random) -> SceneSample:
    """A fact as a question, in any of its wordings, and its answer."""
    typed = as_typed(grammar.question(fact, random), grammar, random)
    prefix, ends = split_marks(TASKS["ask"].prompt(typed, grammar.code))
    suffix, _ = split_marks(grammar.answer(fact))
    spelled = fact.answer[0] == "text"
    return SceneSample("ask", prefix, suffix, names=mentions(ends, fact.terms), spelled=spelled)


def unknown_fact(random: Random) -> Fact:
    """A question about a word that nothing is called."""
    word = random.choice(_UNKNOWN) if random.random() < 0.5 else new_word(random)
    return Fact(random.choice(UNKNOWN_TOPICS), (Term("unknown", word),), ("unknown", None))


def question_to_answer(fact: Fact, grammar: Grammar) -> SceneSample:
    """The other way round: a question that an answer is true for."""
    answer, _ = split_marks(grammar.answer(fact))
    suffix, _ = split_marks(grammar.question(fact))
    return SceneSample("question", QUESTION.prompt(answer, grammar.code), suffix)


def ocr(scene: ComposedScene, random: Random) -> SceneSample:
    prefix = TASKS["read"].prompt()
    prefix = prefix.upper() if random.random() < 0.03 else prefix
    return SceneSample("read", prefix, reading(scene), spelled=True)


def region(facts: SceneFacts, grammar: Grammar, random: Random) -> SceneSample | None:
    """What is in a box, drawn by hand: near that of a thing, or now and then around nothing."""
    if not facts.things or random.random() < 0.1:
        box = _empty_box(facts, random)
        return box and _region(box, grammar.nothing, grammar)
    thing = random.choice(facts.things)
    others = (other for other in facts.scene.objects if other is not thing)
    if any(box_iou(thing.box, other.box) > ALIKE for other in others):
        return None
    box = thing.box if random.random() < 0.3 else _by_hand(thing.box, random)
    noun = grammar.forms(Term("kind", thing.name, said_color(thing)))
    return _region(box, split_marks(noun.a)[0], grammar)


def _region(box: Box, answer: str, grammar: Grammar) -> SceneSample:
    return SceneSample("region", REGION.prompt(format_box(box), grammar.code), answer, boxes=(box,))


def _by_hand(box: Box, random: Random) -> Box:
    """A box whose edges are off by up to a fifteenth of its sides."""
    x1, y1, x2, y2 = box
    dx, dy = (x2 - x1) / 15, (y2 - y1) / 15
    off = [random.uniform(-1, 1) for _ in range(4)]
    edges = x1 + dx * off[0], y1 + dy * off[1], x2 + dx * off[2], y2 + dy * off[3]
    return tuple(min(max(edge, 0.0), 1.0) for edge in edges)  # type: ignore[return-value]


def _empty_box(facts: SceneFacts, random: Random) -> Box | None:
    width, height = random.uniform(0.12, 0.3), random.uniform(0.12, 0.3)
    x, y = random.uniform(0, 1 - width), random.uniform(0, 1 - height)
    box = (x, y, x + width, y + height)
    others = (*facts.scene.objects, *facts.scene.texts)
    return None if any(box_iou(box, other.box) > 0 for other in others) else box
