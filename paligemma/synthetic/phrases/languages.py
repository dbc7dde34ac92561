"""The languages of the drawn world, and how people write in them."""

from random import Random

from paligemma.synthetic.phrases.english import ENGLISH
from paligemma.synthetic.phrases.french import FRENCH
from paligemma.synthetic.phrases.german import GERMAN
from paligemma.synthetic.phrases.grammar import Grammar
from paligemma.synthetic.phrases.spanish import SPANISH

GRAMMARS = {grammar.code: grammar for grammar in (ENGLISH, GERMAN, FRENCH, SPANISH)}
SHARES = (40, 20, 20, 20)  # of training, in that order
_CUMULATIVE = [sum(SHARES[: n + 1]) for n in range(len(SHARES))]
_LIST = list(GRAMMARS.values())


def random_grammar(random: Random) -> Grammar:
    return random.choices(_LIST, cum_weights=_CUMULATIVE)[0]


def as_typed(question: str, grammar: Grammar, random: Random) -> str:
    """A question as somebody may type it: other cases, other spellings, without its marks."""
    if grammar.code == "en":
        question = _british(question, random)
    if random.random() < 0.25:
        question = question.rstrip("?. ")
    elif question.endswith(" ?") and random.random() < 0.3:
        question = question[:-2] + "?"
    if question[0] == "¿" and random.random() < 0.4:
        question = question[1:]
    chance = random.random()
    if chance < 0.05:
        return question.upper()
    if chance < 0.1:
        return question.lower()
    if chance < 0.28:
        start = question[0] == "¿"
        return question[:start] + question[start].upper() + question[start + 1 :]
    return question


def names_as_typed(names: list[str], random: Random) -> str:
    """Names to search for, as somebody may type them."""
    chance = random.random()
    if chance < 0.08:
        names = [name[0].upper() + name[1:] for name in names]
    text = " ; ".join(names)
    if chance < 0.08 or chance > 0.24:
        return text
    if chance < 0.12:
        return text.upper()
    return text.lower() if chance < 0.18 else text[0].upper() + text[1:]


def _british(text: str, random: Random) -> str:
    if ("color" in text or "gray" in text) and random.random() < 0.35:
        return text.replace("color", "colour").replace("gray", "grey")
    return text
