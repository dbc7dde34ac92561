"""What is written in scenes: words of four languages, made-up words, numbers and short lines."""

from functools import cache

import numpy as np

from paligemma.synthetic.kinds import LANGUAGES, all_kinds
from paligemma.synthetic.scenes import WORDS

CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
ACCENTED = "ÄÖÜäöüßÀÂÇÈÉÊËÎÏÔÛàâçèéêëîïôûœÁÍÓÚÑáíóúñ¿¡"
# Every character that a scene may show.
CHARACTERS = CAPITALS + CAPITALS.lower() + DIGITS + ".,:!?&-%$€/+#'" + ACCENTED
UNACCENTED = frozenset(CHARACTERS) - frozenset(ACCENTED + "€")

SIGNS = (
    "open closed exit entry push pull welcome sale stop danger caution hotel bar café bakery "
    "offen geschlossen Ausgang Eingang drücken ziehen willkommen Achtung Bäckerei Bahnhof Straße "
    "ouvert fermé sortie entrée poussez tirez bienvenue soldes boulangerie gare rue à bientôt "
    "abierto cerrado salida entrada empuje tire bienvenido oferta panadería calle mañana aquí"
).split()
CONSONANTS = "b c d f g h j k l m n p r s t v w z br ch cl dr fl gr pl sh st tr".split()
VOWELS = "a e i o u a e i o ai ee oo ou y".split()
ENDINGS = [*"nrstldmx", "", "", "", "", "ck", "nt"]


@cache
def _vocabulary() -> tuple[str, ...]:
    """Words of the small world, of signs, and the kinds' names without their articles."""
    nouns = {
        word
        for kind in all_kinds()
        for language in LANGUAGES
        for word in kind.plural[language].split()
        if len(word) > 2
    }
    return tuple(sorted({*(word.lower() for word in WORDS), *SIGNS, *nouns}))


def random_line(rng: np.random.Generator, accents: bool = True) -> str:
    """One to three words, a number or random characters: at most 14 characters.

    Without `accents` it has plain ASCII only.
    """
    while True:
        line = _line(rng)
        allowed = frozenset(CHARACTERS) if accents else UNACCENTED
        if 0 < len(line) <= 14 and set(line) - {" "} <= allowed:
            return line


def _pick(rng: np.random.Generator, options: "tuple | list | str") -> str:
    return options[int(rng.integers(len(options)))]


def _line(rng: np.random.Generator) -> str:
    sort = rng.random()
    if sort < 0.42:
        return _cased(rng, _pick(rng, _vocabulary()))
    if sort < 0.58:
        return _cased(rng, _made_up(rng))
    if sort < 0.78:
        return _number(rng)
    if sort < 0.86:
        letters = CAPITALS if rng.random() < 0.6 else CAPITALS + CAPITALS.lower() + DIGITS
        return "".join(_pick(rng, letters) for _ in range(rng.integers(1, 6)))
    words = [_pick(rng, _vocabulary()) for _ in range(2)]
    line = _cased(rng, " ".join(words))
    return line + _pick(rng, ["", "", "!", "?", "."])


def _cased(rng: np.random.Generator, word: str) -> str:
    sort = rng.random()
    if sort < 0.4:
        return word if "ß" in word else word.upper()
    return word if sort < 0.7 else word[:1].upper() + word[1:]


def _made_up(rng: np.random.Generator) -> str:
    syllables = [
        _pick(rng, CONSONANTS) + _pick(rng, VOWELS) + _pick(rng, ENDINGS)
        for _ in range(rng.integers(1, 4))
    ]
    return "".join(syllables)[:9]


def _number(rng: np.random.Generator) -> str:
    sort = int(rng.integers(10))
    if sort < 5:
        return str(rng.integers(10 ** int(rng.integers(1, 6))))
    if sort == 5:
        return f"{rng.integers(24)}:{rng.integers(60):02d}"
    if sort == 6:
        price = f"{rng.integers(200)}.{rng.integers(100):02d}"
        return f"${price}" if rng.random() < 0.5 else f"{price} €"
    if sort == 7:
        return f"{rng.integers(1, 100)}%"
    if sort == 8:
        return f"{rng.integers(1, 32)}.{rng.integers(1, 13)}.{rng.integers(1950, 2050)}"
    return f"{_pick(rng, CAPITALS)}{rng.integers(100)}"
