"""Scores of short answers, each as its official scorer counts: VQA, ANLS, relaxed, choices.

vqa_accuracy("A dog.", ["dog"] * 7 + ["cat"] * 3)  # 1.0
"""

import re
from collections.abc import Sequence

import numpy as np

# --- VQAv2 and TextVQA ----------------------------------------------------------------------------

# Words whose apostrophes people leave out; any one of them may be missing.
_CONTRACTIONS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't "
    "haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't "
    "mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've "
    "should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've "
    "someone'll someone's something'd something'd've something'll that's there'd there'd've "
    "there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't "
    "what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's "
    "who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll "
    "you'd you'd've you'll you're you've"
).split()
_NUMBERS = "zero one two three four five six seven eight nine ten".split()
_SPELLINGS = {
    **{word[:n] + word[n + 1 :]: word for word in _CONTRACTIONS
       for n, character in enumerate(word) if character == "'"},
    "somebody'd": "somebodyd",  # officially so
    **{word: str(n) for n, word in enumerate(_NUMBERS)}, "none": "0",
}  # fmt: skip
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS = 32  # as many go: officially re.UNICODE stands where the count does


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """How well an answer agrees with those of (ten) people, 0..1, as VQAv2's `vqaEval.py` counts.

    For each person left out: a third for each of the others who said the same, at most 1; the mean
    of these. Where people differ, all answers are normalised first. (TextVQA's own server also
    splits off "'s" and normalises where people agree; big_vision counts it as here.)
    """
    answer, *people = (_one_line(text) for text in (answer, *people))
    if len(set(people)) > 1:
        answer, *people = (normalise(text) for text in (answer, *people))
    same = [text.lower() == answer.lower() for text in people]
    return float(np.mean([min(1.0, (sum(same) - one) / 3) for one in same]))


def normalise(text: str) -> str:
    """Lower case, without punctuation and articles, numbers as digits, apostrophes put back.

    A mark goes where a space is beside one of its kind, or where any two digits have a comma
    between them; elsewhere it becomes a space. A period stays before a digit.
    """
    comma = _COMMA.search(text) is not None
    out = text
    for mark in _PUNCTUATION:
        goes = comma or f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if goes else " ")
    out = _PERIOD.sub("", out, count=_PERIODS).lower()
    return " ".join(_SPELLINGS.get(word, word) for word in out.split() if word not in _ARTICLES)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


# --- DocVQA ---------------------------------------------------------------------------------------

ANLS_THRESHOLD = 0.5


def anls(answer: str, truths: Sequence[str]) -> float:
    """1 - normalised edit distance to the nearest truth, 0 under the threshold of one half.

    As the Robust Reading Competition's script counts: cases and runs of spaces do not matter, but
    the length is that of the longer text as it was written.
    """
    plain = lambda text: " ".join(text.strip().lower().split())
    distances = (
        edit_distance(plain(truth), plain(answer)) / max(len(truth), len(answer), 1)
        for truth in truths
    )
    score = 1 - min(distances)
    return score if score >= ANLS_THRESHOLD else 0.0


def edit_distance(a: str, b: str) -> int:
    """The fewest characters to put in, leave out or change to make one of the other."""
    row = list(range(len(b) + 1))
    for n, mine in enumerate(a, 1):
        corner, row[0] = row[0], n
        for m, theirs in enumerate(b, 1):
            corner, row[m] = row[m], min(row[m] + 1, row[m - 1] + 1, corner + (mine != theirs))
    return row[-1]


# --- ChartQA --------------------------------------------------------------------------------------

TOLERANCE = 0.05


def relaxed(answer: str, truth: str) -> bool:
    """Whether a number is within 5 % of the true one, or a text equal to it but for its case.

    "12%" is 0.12, a year is a number like others, and nothing is near a true 0 (arXiv 2203.10244,
    section 5.1, as pix2struct and big_vision count).
    """
    given, wanted = _number(answer), _number(truth)
    if given is not None and wanted:
        return abs(given - wanted) / abs(wanted) <= TOLERANCE
    return answer.lower() == truth.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


# --- MMMU -----------------------------------------------------------------------------------------


def chosen(answer: str, options: Sequence[str]) -> str | None:
    """The letter that an answer picks of `options` (the first is "A"), or None for none.

    As MMMU's `parse_multi_choice_response` reads it: the last "(B)", else the last " B ", else in
    an answer of more than five words the option that is quoted last. Where that finds nothing the
    official script guesses at random; here no choice is a wrong one.
    """
    for mark in ",.!?;:'":
        answer = answer.strip(mark)
    answer = f" {answer} "
    letters = [chr(ord("A") + n) for n in range(len(options))]
    for form in ("({})", " {} "):
        places = {letter: answer.rfind(form.format(letter)) for letter in letters}
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
