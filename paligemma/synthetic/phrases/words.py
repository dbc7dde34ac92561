"""All that may be said in the drawn world, to train a tokenizer on."""

import re
from collections.abc import Iterator
from random import Random

from paligemma.synthetic.grounds import GROUND_COLORS
from paligemma.synthetic.phrases.facts import BACKGROUND, NAMES, POSITIONS, Fact, Group, Term
from paligemma.synthetic.phrases.grammar import MARK, Grammar, sentence
from paligemma.synthetic.phrases.languages import GRAMMARS
from paligemma.synthetic.phrases.search import category_forms
from paligemma.synthetic.phrases.unknown_words import unknown_words
from paligemma.synthetic.restyle import COLORS
from paligemma.tasks import TASKS


def texts() -> Iterator[str]:
    """Prompts and answers in which every form of every name occurs, the same ones every time."""
    random = Random(0)
    for grammar in GRAMMARS.values():
        for text in _texts(grammar, random):
            yield text.replace(MARK, "")


def words() -> list[str]:
    """Every word of `texts`, in alphabetical order."""
    return sorted({word for text in texts() for word in re.findall(r"[^\W\d_]+", text)})


def _texts(grammar: Grammar, random: Random) -> Iterator[str]:
    detect = TASKS["detect"].prompt
    ask = lambda question: TASKS["ask"].prompt(question, grammar.code)
    places, colors = list(POSITIONS), list(COLORS)
    kinds = [Term("kind", name) for name in NAMES]
    categories = [Term("category", name) for name in grammar.categories]
    for style in TASKS["caption"].styles:
        yield TASKS["caption"].prompt(language=grammar.code, style=style)
    for term in (*kinds, *categories):
        other = random.choice(kinds)
        noun = grammar.forms(term)
        yield detect(f"{noun.label} ; {noun.plural}")
        yield f"{noun.a}, {noun.no}"
        yield from [noun.label] * 4  # as an answer: nothing stands before it
        for topic in grammar.questions:
            fact = Fact(topic, (term, other), ("bool", True), random.choice(places))
            yield ask(grammar.question(fact._replace(color=random.choice(colors)), random))
    for term in kinds:
        size, color = random.choice(("large", "small")), random.choice(colors)
        noun = grammar.forms(term)
        one = grammar.forms(Term("kind", term.name, color, size)).a
        place = grammar.places[random.choice(places)]
        yield sentence(grammar.placed.format(one, place=place))
        groups = [Group(term.name, "", 1), Group(random.choice(NAMES), "", random.randint(2, 6))]
        yield grammar.bare_list(groups)
        parts = [grammar.counted(Term("kind", g.name, color), g.count) for g in groups]
        yield f"{grammar.joined(parts)} {grammar.ground(random.choice(list(GROUND_COLORS)))}"
        yield sentence(grammar.several.format(parts[1]))
    for color in colors:
        for term in random.sample(kinds, 15):
            noun = grammar.forms(term._replace(color=color))
            yield detect(f"{noun.label} ; {noun.plural}")
            for topic in ("presence", "count"):
                fact = Fact(topic, (term._replace(color=color),), ("bool", True))
                yield ask(grammar.question(fact, random))
    for color in GROUND_COLORS:
        yield sentence(grammar.the_background.format(color=grammar.colors[color]))
        yield ask(grammar.question(Fact("color", (BACKGROUND,), ("color", color)), random))
    for category in grammar.categories.values():
        yield detect(" ; ".join(category_forms(category)))
    for word in grammar.everything:
        yield detect(word)
    for name in unknown_words():
        noun = grammar.forms(Term("unknown", name))
        yield detect(f"{noun.label} ; {noun.plural}")
    for topic, frames in grammar.questions.items():
        for frame in frames:
            fact = Fact(topic, tuple(random.sample(kinds, 2)), ("bool", True), places[0])
            text = grammar.fill(frame, fact, random.choice(grammar.here))
            start = len(text) - len(text.lstrip("¿"))
            typed = text[:start] + text[start].upper() + text[start + 1 :]
            yield from [text, ask(text), ask(typed)] * 4
    for count in range(7):
        yield from [f"question {grammar.code} {count}"] * 4
    answers = (grammar.yes, grammar.no, grammar.nothing, grammar.unknown)
    yield from [*answers, *grammar.positions.values(), *grammar.colors.values()] * 4
    yield from ["Detect all", "Segment all", "Caption en", "Cap en", "Describe en"] * 4
