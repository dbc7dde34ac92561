"""CIDEr-D, the score of COCO's captions, and the words it is counted in.

    cider_d([words("a red cat")], [[words("A red cat."), words("a cat, red")]])

Vedantam et al., arXiv 1411.5726; the numbers are those of pycocoevalcap's `CiderScorer`.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

LONGEST = 4  # words in an n-gram
SIGMA = 6.0  # of the penalty for another length

_ABBREVIATIONS = (
    "adm ave bros capt co col corp dept dr etc gen gov hon inc jr lt ltd maj mr mrs ms mt pres "
    "prof rep rev sen sgt sr st vs jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues "
    "wed thu thurs fri"
)
_TOKEN = re.compile(
    rf"""
    </?[a-z!][^<>]*>                                  # markup
    | (?:https?://|www\.)[^\s"<>]*[\w/]               # addresses
    | [\w.+-]+@[\w-]+(?:\.[\w-]+)+ | [@#](?-i:[A-Za-z])\w*
    | (?<!\w)(?:[a-z]\.){{2,}}(?!\w)                  # u.s. and e.g.
    | (?<!\w)(?:{"|".join(_ABBREVIATIONS.split())})\.(?!\w)
    | (?<!\w)no\.(?=\s*\d)
    | (?<!\w)'t(?=(?:is|was)\b) | (?<!\w)'[0-9]{{2}}s?\b  # 'tis and '90s
    | (?<=\w)'n'(?=\w) | (?<=\w)'(?:s|m|d|re|ve|ll|n)\b | (?<=\w)n't\b
    | [a-z]+?(?=n't\b)                                # the "is" of "isn't"
    | (?:(?<!\w)[+-](?=\d))?\w+
      (?: [-/._]\w+                                   # well-known, and/or, 3.5
        | (?<=\d)[,:](?=\d)\w+                        # 1,000 and 3:45
        | (?-i:(?<=[A-Z])&(?=[A-Z]))\w+               # R&B
        | (?<=[^\W\d])'(?!(?:s|m|d|re|ve|ll|n)\b)[^\W\d]+ )*   # o'clock
    | [?!]+ | \.+ | -+
    | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)
_PLAIN = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "–": "--", "—": "--", "…": "..."})
_SPLIT = {
    "cannot": "can not", "gimme": "gim me", "gonna": "gon na", "gotta": "got ta",
    "lemme": "lem me", "wanna": "wan na",
}  # fmt: skip
_BRACKETS = dict(zip("()[]{}", "-lrb- -rrb- -lsb- -rsb- -lcb- -rcb-".split(), strict=True))
_LEFT_OUT = re.compile(r"[\"'`.,:;?!]|\.+|-+")


def words(text: str) -> list[str]:
    """A caption in the official scorer's words: lower case, without punctuation.

    That scorer runs Stanford's PTBTokenizer 3.4.1 (in Java) and drops what its list of punctuation
    holds. This follows it through clitics ("is n't", "man 's"), abbreviations, numbers, quotes,
    and what its list forgets: brackets stay, as "-lrb-", and so do "!!" and "$". It may differ in
    rarer abbreviations ("calif."), initials, smileys, telephone numbers, runs of three dashes or
    more, and scripts that write no spaces.
    """
    found: list[str] = []
    for token in _TOKEN.findall(text.translate(_PLAIN)):
        token = token.lower()
        if not _LEFT_OUT.fullmatch(token):
            found += _SPLIT.get(token, _BRACKETS.get(token, token)).split()
    return found


def cider_d(
    answers: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> list[float]:
    """The score of each answer, 0..10, given the references of each picture; all are words.

    An n-gram weighs its count times the logarithm of how many times fewer than all pictures have
    it in their references. Two captions compare by the cosine of these weights, the answer's
    clipped to the reference's, for n-grams of each length up to `LONGEST`; the score is their mean
    over lengths and references, times ten. What papers print is the mean over pictures times 100.
    """
    counted = [[_ngrams(one) for one in row] for row in references]
    pictures = Counter(ngram for row in counted for ngram in set().union(*row))
    scores = []
    for answer, row in zip(answers, counted, strict=True):
        given = _Weighted(_ngrams(answer), pictures, len(counted))
        alike = [given.likeness(_Weighted(one, pictures, len(counted))) for one in row]
        scores.append(10 * sum(alike) / (LONGEST * len(row)))
    return scores


def _ngrams(one: Sequence[str]) -> Counter[tuple[str, ...]]:
    lengths = range(1, LONGEST + 1)
    return Counter(tuple(one[n : n + size]) for size in lengths for n in range(len(one) - size + 1))


class _Weighted:
    """A caption's n-grams with their weights, by length; `length` counts pairs, as officially."""

    def __init__(self, counts: Counter, pictures: Counter, total: int) -> None:
        self.length = sum(count for ngram, count in counts.items() if len(ngram) == 2)
        self.weights: list[dict] = [{} for _ in range(LONGEST)]
        for ngram, count in counts.items():
            rarity = math.log(total) - math.log(max(1, pictures[ngram]))
            self.weights[len(ngram) - 1][ngram] = count * rarity
        self.norms = [math.sqrt(sum(w * w for w in row.values())) for row in self.weights]

    def likeness(self, reference: "_Weighted") -> float:
        """The sum over lengths of the clipped cosine, less for another length."""
        total = 0.0
        for size in range(LONGEST):
            mine, theirs = self.weights[size], reference.weights[size]
            shared = sum(min(w, theirs[ngram]) * theirs[ngram]
                         for ngram, w in mine.items() if ngram in theirs)  # fmt: skip
            norm = self.norms[size] * reference.norms[size]
            total += shared / norm if norm else 0.0
        return total * math.exp(-((self.length - reference.length) ** 2) / (2 * SIGMA**2))
