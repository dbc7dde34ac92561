"""What is to be said of names that a model does not know: the nearest ones that it does.

unknown_note(["Katze"], pg.known_names, "…")    # … The nearest that it knows: cat.
"""

from collections.abc import Collection
from difflib import get_close_matches
from functools import cache

from paligemma.synthetic.kinds import all_kinds

MAX_SUGGESTIONS = 5
LEAST_LIKENESS = 0.7  # of spellings, as difflib measures it: "woman" is not near "snowman"
LEAST_PART = 4  # letters, to be looked for within words


def suggested_names(name: str, known: Collection[str]) -> list[str]:
    """The known names that a name may mean, at most MAX_SUGGESTIONS; none if nothing is near.

    In this order: those that it is in the plural or another language, or those of the category that
    it is; the same for its last word ("red cars"); those that it is a part of ("ball", "football");
    those of a similar spelling that begin with the same letter.
    """
    asked = name.casefold()
    for words in (asked, asked.rsplit(" ", 1)[-1]):
        if near := [each for each in _meanings().get(words, ()) if each in known]:
            return near[:MAX_SUGGESTIONS]
    near = [each for each in known if asked in (each if len(asked) >= LEAST_PART else each.split())]
    near.sort(key=len)
    alike = [each for each in known if each[:1] == asked[:1]]
    near = near or get_close_matches(asked, alike, MAX_SUGGESTIONS, LEAST_LIKENESS)
    return near[:MAX_SUGGESTIONS]


@cache
def _meanings() -> dict[str, tuple[str, ...]]:
    """The kinds that a word may mean, without case: by their names and by their categories."""
    found: dict[str, tuple[str, ...]] = {}
    for kind in all_kinds():
        category = (kind.category, f"{kind.category}s") if kind.category else ()
        for words in dict.fromkeys([kind.name, *kind.other_names, *category]):
            found[words.casefold()] = (*found.get(words.casefold(), ()), kind.name)
    return found


def unknown_note(
    names: Collection[str], known: Collection[str], browse: str, found: Collection[str] = ()
) -> str:
    """What is to be said of unknown names: what is near, else `browse`, where all are listed.

    `found`: labels in the answer; of a name that they answer, nothing is said.
    """
    answered = {each for label in found for each in (label, *suggested_names(label, known))}
    near = {name: suggested_names(name, known) for name in names}
    near = {name: each for name, each in near.items() if not answered.intersection([name, *each])}
    if not near:
        return ""
    asked = ", ".join(f"“{name}”" for name in near)
    some = list(dict.fromkeys(each for names in near.values() for each in names))
    some = some[:MAX_SUGGESTIONS]
    hint = f"The nearest that it knows: {', '.join(some)}." if some else browse
    return f"The model does not know {asked}. {hint}"
