"""What a grammar is: the forms of nouns and the frames of sentences of one language, as data.

Frames are filled by `str.format` with nouns: "is {0.the} larger than {1.the}?" A noun phrase ends
with `MARK` while a text is made, so that it is known afterwards where each name ends.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

from paligemma.synthetic.kinds import all_kinds
from paligemma.synthetic.phrases.facts import (
    Fact,
    Group,
    SceneFacts,
    Term,
    position,
    said_color,
    size_word,
)
from paligemma.synthetic.phrases.unknown_words import unknown_word
from paligemma.synthetic.world import Mention

MARK = "\0"


@dataclass(frozen=True)
class Entry:
    """A noun of the dictionary.

    `gender` is "m", "f" or "n", "" where a language has none; `article` the indefinite one; `short`
    is what labels and short answers say: "scissors" for "pair of scissors".
    """

    name: str
    plural: str
    gender: str
    article: str
    short: str


@dataclass(frozen=True)
class Noun:
    """The forms of a noun with its adjectives; all but `label` end with `MARK`."""

    label: str  # dog, as a label or a short answer
    plural: str  # dogs
    a: str  # a dog
    the: str  # the dog
    no: str  # no dog


@dataclass(frozen=True, eq=False)
class Grammar:
    """One language.

    `entry(singular, plural)` reads a noun of the table of kinds (with its article, see `kinds.py`);
    `noun(entry, color, size)` gives its forms. `categories`: singular and plural as in that table,
    then other names that prompts have for it. `colors`, `positions`: what answers say; `places`:
    the same in a sentence. `questions`: frames by topic, the usual one first. `here`: what fills
    {here}. `numbers`: from 0. `ground(color)`: the end of a caption.
    """

    code: str
    entry: Callable[[str, str], Entry]
    noun: Callable[[Entry, str, str], Noun]
    categories: Mapping[str, tuple[str, ...]]
    background: str
    colors: Mapping[str, str]
    positions: Mapping[str, str]
    places: Mapping[str, str]
    questions: Mapping[str, tuple[str, ...]]
    here: tuple[str, ...]
    everything: tuple[str, ...]
    numbers: tuple[str, ...]
    yes: str
    no: str
    nothing: str
    unknown: str
    conjunction: str
    ground: Callable[[str], str]
    placed: str  # "{0} is {place}"
    several: str  # "there are {0}"
    the_background: str  # "the background is {color}"

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """The kinds by their English names."""
        return {
            kind.name: self.entry(kind.singular[self.code], kind.plural[self.code])
            for kind in all_kinds()
        }

    @cached_property
    def _forms(self) -> dict[Term, Noun]:
        return {}

    def forms(self, term: Term) -> Noun:
        """The noun of a term."""
        if (noun := self._forms.get(term)) is None:
            noun = self.noun(self._entry(term), term.color, term.size)
            if term.sort != "unknown":  # of those there is no end
                self._forms[term] = noun
        return noun

    def _entry(self, term: Term) -> Entry:
        match term.sort:
            case "kind":
                return self.entries[term.name]
            case "category":
                return self.entry(*self.categories[term.name][:2])
            case "background":
                return self.entry(self.background, self.background)
        return self.entry(*unknown_word(term.name, self.code))

    def counted(self, term: Term, count: int) -> str:
        """A number of things: "a red dog", "two red dogs"."""
        noun = self.forms(term)
        return noun.a if count == 1 else f"{self.numbers[count]} {noun.plural}"

    def question(self, fact: Fact, random: Random | None = None) -> str:
        """The words of a question: the usual ones, or any if there is `random`."""
        frames, here = self.questions[fact.topic], self.here[0]
        frame = frames[0]
        if random is not None and random.random() < 0.5:
            frame, here = random.choice(frames), random.choice(self.here)
        return self.fill(frame, fact, here)

    def fill(self, frame: str, fact: Fact, here: str) -> str:
        return frame.format(
            *map(self.forms, fact.terms),
            here=here,
            place=self.places.get(fact.place),
            color=self.colors.get(fact.color),
        )

    def answer(self, fact: Fact) -> str:
        sort, value = fact.answer
        match sort:
            case "bool":
                return self.yes if value else self.no
            case "count":
                return str(value)
            case "color":
                return self.colors[value]
            case "position":
                return self.positions[value]
            case "kind" | "category":
                return self.forms(Term(sort, value)).label
            case "list":
                return self.bare_list(value)
            case "absent":
                return self.forms(fact.terms[0]).no
            case "unknown":
                return self.unknown
        return value

    def bare_list(self, groups: Sequence[Group]) -> str:
        """Only the names: "car, two dogs"."""
        return ", ".join(self._bare(group) for group in groups) or self.nothing

    def _bare(self, group: Group) -> str:
        term = Term("kind", group.name)
        if group.count == 1:
            return self.forms(term).label + MARK
        return self.counted(term, group.count)

    def joined(self, parts: Sequence[str]) -> str:
        """Parts as a list: "a, b and c"."""
        if len(parts) < 2:
            return "".join(parts)
        return f"{', '.join(parts[:-1])} {self.conjunction} {parts[-1]}"

    def caption(self, facts: SceneFacts) -> str:
        """All groups of like things, and the background where it has a name."""
        groups = [
            self.counted(Term("kind", group.name, group.color), group.count)
            for group in facts.groups()
        ]
        words = self.joined(groups) or self.nothing
        color = facts.scene.background
        return f"{words} {self.ground(color)}" if color else words

    def description(self, facts: SceneFacts) -> str:
        """Where each thing is, and how large; then the background."""
        clauses = []
        for name, color, count in facts.groups():
            if count > 1:
                clauses.append(self.several.format(self.counted(Term("kind", name, color), count)))
                continue
            [box] = [t.box for t in facts.by_name[name] if said_color(t) == color]
            term = Term("kind", name, color, size_word(box))
            place = self.places[position(box)]
            clauses.append(self.placed.format(self.forms(term).a, place=place))
        if len(clauses) > 2:  # two to a sentence
            pairs = [clauses[n : n + 2] for n in range(0, len(clauses), 2)]
            clauses = [self.joined(pair) for pair in pairs]
        if facts.scene.background:
            color = self.colors[facts.scene.background]
            clauses.append(self.the_background.format(color=color))
        return " ".join(sentence(clause) for clause in clauses or [self.nothing])


def sentence(words: str) -> str:
    """With a capital and a full stop."""
    return f"{words[0].upper()}{words[1:]}."


def mentions(ends: Sequence[int], terms: Sequence[Term]) -> tuple[Mention, ...]:
    """The kinds, and the background, among the terms of a text whose names end there."""
    return tuple(
        Mention(end, term.name, term.color)
        for end, term in zip(ends, terms, strict=True)
        if term.sort in ("kind", "background")
    )


def split_marks(text: str) -> tuple[str, list[int]]:
    """A text without its marks, and where they were."""
    parts = text.split(MARK)
    ends, end = [], 0
    for part in parts[:-1]:
        end += len(part)
        ends.append(end)
    return "".join(parts), ends
