"""Words that nothing in this world is called: what the model is to say that it does not know.

`unknown_words.csv` has real ones in the layout of `kinds.csv`. Beside them words are made up, so
that not knowing is learned for any word, and not for a list.
"""

import csv
from functools import cache
from pathlib import Path
from random import Random

from paligemma.synthetic.kinds import LANGUAGES

TABLE = Path(__file__).with_name("unknown_words.csv")
STARTS = (
    "b bl br d dr f fl fr g gl gr h j k kl kr l m n p pl pr qu r s sk sl sn st t tr v w z".split()
)
VOWELS = "a e i o u a e i o u ee oo ai ou".split()
MIDDLES = "b d f g l m n p r s t v z bb dd ff gg ll mm nn pp rr ss tt zz lk mp nd ng rt st".split()
ENDS = "b d f g k l m n p r s t x ck lp mp nd nk rk rp sh".split()
PLURALS = {"en": "s", "de": "e", "fr": "s", "es": "es"}


@cache
def unknown_words() -> dict[str, dict[str, tuple[str, str]]]:
    """The table: by the English singular, without its article, the singular and plural of each
    language as `kinds.csv` writes them."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return {
            line["en"].split(" ", 1)[1]: {
                language: (line[language], line[f"{language}_plural"]) for language in LANGUAGES
            }
            for line in csv.DictReader(file)
        }


def made_up_word(random: Random) -> str:
    """A word that no language has, as far as we know."""
    middle = random.choice(MIDDLES) + random.choice(VOWELS) if random.random() < 0.5 else ""
    return random.choice(STARTS) + random.choice(VOWELS) + middle + random.choice(ENDS)


def unknown_word(name: str, language: str) -> tuple[str, str]:
    """Singular and plural, as `kinds.csv` writes them, of a word of the table or a made-up one."""
    if name in unknown_words():
        return unknown_words()[name][language]
    gender = sum(map(ord, name))
    articles = {"en": ("a",), "de": ("der", "die", "das"), "fr": ("un", "une"), "es": ("un", "una")}
    choices = articles[language]
    written = name.capitalize() if language == "de" else name
    return f"{choices[gender % len(choices)]} {written}", written + PLURALS[language]
