"""Prompts that search for things by name: `detect` and `segment`."""

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import NamedTuple

from paligemma.detections import Detection
from paligemma.detections import format as format_detections
from paligemma.synthetic.composed_scene import SceneObject
from paligemma.synthetic.phrases.facts import (
    CATEGORY,
    NAMES,
    SceneFacts,
    Term,
    top_down,
)
from paligemma.synthetic.phrases.grammar import MARK, Grammar, mentions, split_marks
from paligemma.synthetic.phrases.languages import GRAMMARS, names_as_typed, random_grammar
from paligemma.synthetic.phrases.unknown_words import made_up_word, unknown_words
from paligemma.synthetic.restyle import COLORS
from paligemma.synthetic.world import SceneSample
from paligemma.tasks import TASKS

EVERYTHING = Term("everything", "")
MOST_NAMES = {"detect": 6, "segment": 3}
MOST_FOUND = {"detect": 8, "segment": 4}


class Meaning(NamedTuple):
    """What a word in a prompt stands for, and the language that labels are in then."""

    term: Term
    grammar: Grammar


@cache
def vocabulary() -> dict[str, Meaning]:
    """What every name may mean, by its letters without case.

    Where a word is of two languages ("hamster"), it is of the first of `GRAMMARS`.
    """
    found: dict[str, Meaning] = {}
    for grammar in GRAMMARS.values():
        for name in NAMES:
            for form in kind_forms(name, grammar):
                found.setdefault(form.casefold(), Meaning(Term("kind", name), grammar))
        for category, forms in grammar.categories.items():
            for form in category_forms(forms):
                found.setdefault(form.casefold(), Meaning(Term("category", category), grammar))
        for form in grammar.everything:
            found.setdefault(form.casefold(), Meaning(EVERYTHING, grammar))
    return found


@cache
def kind_forms(name: str, grammar: Grammar) -> tuple[str, ...]:
    """How a kind may be called in a prompt: its label, its plural, its full name."""
    noun = grammar.forms(Term("kind", name))
    full_name = noun.a.split(" ", 1)[1]
    return tuple(dict.fromkeys(form.rstrip(MARK) for form in (noun.label, noun.plural, full_name)))


def category_forms(forms: tuple[str, ...]) -> tuple[str, ...]:
    singular, *others = forms
    return (singular.split(" ", 1)[1], *others)


def search(facts: SceneFacts, task: str, random: Random) -> SceneSample:
    """A prompt for one to six names, absent and unknown ones among them, and what is found.

    Things are in the order of the names, and from top to bottom within one. Their labels are in the
    language of the name.
    """
    grammar = random_grammar(random)
    asked = _Asked(facts, task, random)
    if random.random() < 0.08 and facts.complete and len(facts.things) <= MOST_FOUND[task]:
        asked.add(EVERYTHING, grammar)
    else:
        most = MOST_NAMES[task]
        for _ in range(1 + min(random.randrange(most), random.randrange(most))):
            mixed = grammar.code != "en" and random.random() < 0.15
            asked.add(_choose(asked, facts, random), GRAMMARS["en"] if mixed else grammar)
    return asked.sample()


class _Asked:
    """The names of a prompt, and what is found for them."""

    def __init__(self, facts: SceneFacts, task: str, random: Random) -> None:
        self.facts, self.task, self.random = facts, task, random
        self.terms: list[Term] = []
        self.words: list[str] = []
        self.objects: list[SceneObject] = []
        self.labels: list[str] = []

    def takes(self, term: Term) -> bool:
        """Whether a term may be asked beside the others: no thing is to be found twice."""
        for other in self.terms:
            if term == other or (term.name == other.name and "" in (term.color, other.color)):
                return False
            if term.name == CATEGORY.get(other.name) or other.name == CATEGORY.get(term.name):
                return False
        return len(self.objects) + len(self.find(term)) <= MOST_FOUND[self.task]

    def find(self, term: Term) -> Sequence[SceneObject]:
        match term.sort:
            case "everything":
                return self.facts.things
            case "category":
                return self.facts.by_category.get(term.name, ())
        found = self.facts.by_name.get(term.name, ())
        return [thing for thing in found if term.color in ("", thing.color)]

    def add(self, term: Term | None, grammar: Grammar) -> None:
        if term is None or not self.takes(term):
            return
        word, grammar = _word(term, grammar, self.random)
        found = top_down(self.find(term))
        self.terms.append(term)
        self.words.append(word + MARK)
        self.objects += found
        self.labels += [
            grammar.forms(Term("kind", thing.name, term.color)).label for thing in found
        ]

    def sample(self) -> SceneSample:
        if not self.terms:
            self.add(Term("kind", self.facts.absent(self.random)), GRAMMARS["en"])
        words = names_as_typed(self.words, self.random)
        prompt = TASKS[self.task].prompt(words)
        if self.random.random() < 0.06:
            prompt = prompt[0].upper() + prompt[1:]
        prefix, ends = split_marks(prompt)
        found = zip(self.labels, self.objects, strict=True)
        detections = [Detection(label, thing.box) for label, thing in found]
        return SceneSample(
            task=self.task,
            prefix=prefix,
            suffix=format_detections(detections) if self.task == "detect" else "",
            objects=tuple(self.objects),
            boxes=tuple(thing.box for thing in self.objects),
            labels=tuple(self.labels),
            names=mentions(ends, self.terms),
        )


def _choose(asked: _Asked, facts: SceneFacts, random: Random) -> Term | None:
    """A name to search for."""
    chance = random.random()
    if chance < 0.06:
        known = random.random() < 0.5
        return Term("unknown", random.choice(_unknown()) if known else new_word(random))
    if chance < 0.16:
        if random.random() < 0.25 or not (category := facts.category(random)):
            category = facts.absent_category(random)
        return Term("category", category)
    if chance < 0.28 and (things := facts.colored()):
        thing = random.choice(things)
        color = thing.color if random.random() < 0.65 else random.choice(COLORS)
        return Term("kind", thing.name, color)
    if chance < 0.76:
        left = [name for name in facts.present if asked.takes(Term("kind", name))]
        if left:
            return Term("kind", random.choice(left))
    return Term("kind", facts.absent(random))


@cache
def _unknown() -> list[str]:
    return list(unknown_words())


def new_word(random: Random) -> str:
    """A made-up word that is none of any language here."""
    while (word := made_up_word(random)) in vocabulary():
        pass
    return word


def _word(term: Term, grammar: Grammar, random: Random) -> tuple[str, Grammar]:
    """A word for a term in a prompt, and the language of its labels."""
    if term.sort == "unknown":
        return grammar.forms(term).label, grammar
    if term.sort == "everything":
        word = random.choice(grammar.everything)
    elif term.color:
        noun = grammar.forms(term)
        return (noun.label if random.random() < 0.8 else noun.plural.rstrip(MARK)), grammar
    elif term.sort == "category":
        forms = category_forms(grammar.categories[term.name])
        word = random.choice(forms) if random.random() < 0.5 else forms[1]
    else:
        forms = kind_forms(term.name, grammar)
        word = forms[0] if random.random() < 0.75 else random.choice(forms)
    meaning = vocabulary()[word.casefold()]
    if meaning.term == term:
        return word, meaning.grammar
    return _word(term, GRAMMARS["en"], random)  # "crayon" is no pencil in English
