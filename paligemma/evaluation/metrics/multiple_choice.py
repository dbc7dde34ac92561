"""The option that an answer chooses, for MMMU's multiple-choice accuracy.

    parse_choice("The answer is (B).", ["cat", "dog"])  # "B"

As MMMU's `parse_multi_choice_response` (Yue et al., arXiv 2311.16502) reads an answer.
"""

from collections.abc import Sequence


def parse_choice(answer: str, options: Sequence[str]) -> str | None:
    """The letter that an answer chooses of `options` (the first is "A"), or None.

    The last "(B)", else the last " B ", else, in an answer of more than five words, the option
    that is quoted last. Where this finds nothing the official script guesses at random; here it
    counts as wrong.
    """
    for mark in ",.!?;:'":
        answer = answer.strip(mark)
    answer = f" {answer} "
    letters = [chr(ord("A") + n) for n in range(len(options))]
    for pattern in ("({})", " {} "):
        places = {letter: answer.rfind(pattern.format(letter)) for letter in letters}
        if max(places.values(), default=-1) >= 0:
            return max(places, key=places.__getitem__)
    if len(answer.split()) > 5:
        lower = answer.lower()
        places = {
            letter: lower.rfind(text.lower()) for letter, text in zip(letters, options, strict=True)
        }
        if max(places.values(), default=-1) >= 0:
            return max(places, key=places.__getitem__)
    return None
