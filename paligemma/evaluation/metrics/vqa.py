"""VQA accuracy, the score of VQAv2 and TextVQA, as the official `vqaEval.py` counts.

    vqa_accuracy("A dog.", ["dog"] * 7 + ["cat"] * 3)  # 1.0

Source: https://github.com/GT-Vision-Lab/VQA (Antol et al., arXiv 1505.00468).
"""

import re
from collections.abc import Sequence

import numpy as np

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
    word[:n] + word[n + 1 :]: word
    for word in _CONTRACTIONS
    for n, character in enumerate(word)
    if character == "'"
}
_SPELLINGS["somebody'd"] = "somebodyd"  # officially so
_SPELLINGS |= {word: str(n) for n, word in enumerate(_NUMBERS)} | {"none": "0"}
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS = 32  # as many go: officially re.UNICODE stands where the count does


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Agreement of an answer with those of (ten) annotators, 0..1.

    For each annotator left out: a third for each of the others who gave this answer, at most 1; the
    mean of these. Answers are normalised only where the annotators differ; where all agree, the
    comparison is exact, letter case included. TextVQA's own server also splits off "'s" and always
    normalises; big_vision counts it as here.
    """
    answer, *references = (_one_line(text) for text in (answer, *references))
    if len(set(references)) > 1:
        answer, *references = (normalize_answer(text) for text in (answer, *references))
    equal = [text == answer for text in references]
    return float(np.mean([min(1.0, (sum(equal) - one) / 3) for one in equal]))


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation and articles, numbers as digits, apostrophes put back.

    A mark is removed where a space is beside one of its kind, or where any two digits have a comma
    between them; elsewhere it becomes a space. A period stays before a digit.
    """
    comma = _COMMA.search(text) is not None
    out = text
    for mark in _PUNCTUATION:
        remove = comma or f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if remove else " ")
    out = _PERIOD.sub("", out, count=_PERIODS).lower()
    return " ".join(_SPELLINGS.get(word, word) for word in out.split() if word not in _ARTICLES)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
