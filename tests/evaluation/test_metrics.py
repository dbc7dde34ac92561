"""Scores against slow references of the official formulas, and the official packages themselves."""

import math
import random
import re
from functools import cache

import numpy as np
import pytest
from pycocotools import mask as rle

from paligemma.detections import box_iou
from paligemma.evaluation.metrics.anls import anls, edit_distance
from paligemma.evaluation.metrics.caption_tokens import tokenize_caption
from paligemma.evaluation.metrics.cider import cider_d
from paligemma.evaluation.metrics.detection import coco_average_precisions, mean_precision
from paligemma.evaluation.metrics.multiple_choice import parse_choice
from paligemma.evaluation.metrics.relaxed_accuracy import relaxed_match
from paligemma.evaluation.metrics.segmentation import parse_referred_object, referring_iou
from paligemma.evaluation.metrics.vqa import normalize_answer, vqa_accuracy

# --- Caption tokens -------------------------------------------------------------------------------

# Captions and the output of Stanford's PTBTokenizer 3.4.1 (-preserveLines -lowerCase) for them.
RECORDED = {
    "A man's dog, isn't it? (yes)": "a man 's dog , is n't it ? -lrb- yes -rrb-",
    'I can\'t "quote" this -- 3.5 x 4, 1,000 U.S. items... e.g. no. 5':
        "i ca n't `` quote '' this -- 3.5 x 4 , 1,000 u.s. items ... e.g. no. 5",
    "well-known T-shirt and/or $5 50% #1 @home R&B":
        "well-known t-shirt and/or $ 5 50 % # 1 @home r&b",
    "gonna wanna cannot dogs' 80's rock'n'roll": "gon na wan na can not dogs ' 80 's rock 'n' roll",
    "A cat sits.On a mat . mr. smith st. john; a:b 5:30 a.m.":
        "a cat sits.on a mat . mr. smith st. john ; a : b 5:30 a.m.",
    "They're we've I'm he'll she'd don't won't it's John's":
        "they 're we 've i 'm he 'll she 'd do n't wo n't it 's john 's",
    "a man wearing a hat [red] {blue} <green>":
        "a man wearing a hat -lsb- red -rsb- -lcb- blue -rcb- <green>",
    "a \"stop\" sign & a 'go' sign": "a `` stop '' sign & a ` go ' sign",
    "two dogs/cats - one big - one small": "two dogs/cats - one big - one small",
    "the 1990s, '90s and 1/2 of a 3/4 pie": "the 1990s , '90s and 1/2 of a 3/4 pie",
    'a sign that reads "Don\'t walk!"': "a sign that reads `` do n't walk ! ''",
    "A man, woman, and child!!! What??": "a man , woman , and child !!! what ??",
    "a man,woman and child.": "a man , woman and child .",
    "a plate of food...with rice": "a plate of food ... with rice",
    "an u.s. flag on St. Mary's church": "an u.s. flag on st. mary 's church",
    "U.S.A. and U.K. planes at 10:30 p.m.": "u.s.a. and u.k. planes at 10:30 p.m.",
    "a 12-year-old boy's bike": "a 12-year-old boy 's bike",
    "an e-mail to bob@example.com from www.site.com http://site.org/page":
        "an e-mail to bob@example.com from www.site.com http://site.org/page",
    "a ten-foot-tall pole; a 6' tall man, 5'10\" tall":
        "a ten-foot-tall pole ; a 6 ' tall man , 5 ' 10 '' tall",
    "gimme lemme gotta 'tis 'twas d'ye more'n":
        "gim me lem me got ta 't is 't was d'ye more 'n",
    "a cat_on_mat and under_score": "a cat_on_mat and under_score",
    "*star* ~tilde~ ^caret^ =equals= +plus+ \\backslash |pipe|":
        "* star * ~ tilde ~ ^ caret ^ = equals = + plus + \\ backslash | pipe |",
    "café naïve “curly quotes” ‘single’ – en dash — em dash … ellipsis":
        "café naïve `` curly quotes '' ` single ' -- en dash -- em dash ... ellipsis",
    "50% off $20.50 #5 No. 3 jan. 5th, dec. 1": "50 % off $ 20.50 # 5 no. 3 jan. 5th , dec. 1",
    "Mrs. Jones, Dr. Who, Prof. X vs. Mr. T etc.":
        "mrs. jones , dr. who , prof. x vs. mr. t etc.",
    "James' bat and the girls' hats": "james ' bat and the girls ' hats",
    "  leading spaces here": "leading spaces here",
    "o'clock five o'clock O'Brien": "o'clock five o'clock o'brien",
    "rock & roll, r&b, at&t": "rock & roll , r & b , at & t",
    "the number 1,234,567.89 and -5 and +3": "the number 1,234,567.89 and -5 and +3",
    "3-D tv, wi-fi, x-ray": "3-d tv , wi-fi , x-ray",
    "cat..": "cat . .",
    "A sign for 5th Ave. and Main St.": "a sign for 5th ave. and main st.",
    "I'd've could've": "i 'd 've could 've",
    "assistant's' notes": "assistant 's ' notes",
    "c++ and c# on a screen, y'all": "c++ and c# on a screen , y' all",
    "get 'em, 'til 5 or 'cause of it": "get 'em , 'til 5 or 'cause of it",
    "rock 'n' roll at .5 speed": "rock 'n' roll at .5 speed",
    "½ cup and 1½ spoons for €5 or 50¢": "1/2 cup and 1 1/2 spoons for $ 5 or 50 cents",
    "a smile 🙂 ❤️ on a sign": "a smile ❤ on a sign",
    "a letter b.": "a letter b.",
    "plan A. The end of vitamin C.": "plan a . the end of vitamin c.",
    "in Calif. and Tex. at 10:30pm, not tex.": "in calif. and tex. at 10:30 pm , not tex .",
    "a Ph.D. at a U.S.-made desk no.": "a ph.d. at a u.s.-made desk no .",
    "** sale ** _ 50 _": "** sale ** _ 50 _",
}  # fmt: skip
OFFICIALLY_REMOVED = "'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split()


@pytest.mark.parametrize("caption", RECORDED)
def test_tokens_are_those_of_the_official_scorer(caption):
    official = [word for word in RECORDED[caption].split() if word not in OFFICIALLY_REMOVED]
    assert tokenize_caption(caption) == official


def test_a_caption_without_words_has_no_tokens():
    assert tokenize_caption("") == tokenize_caption(" . , ;") == []


# --- CIDEr-D --------------------------------------------------------------------------------------


def slow_cider(answers: list[list[str]], references: list[list[list[str]]]) -> list[float]:
    """The formula, a dense vector for each caption over all n-grams there are."""
    scores = []
    for answer, row in zip(answers, references, strict=True):
        total = 0.0
        for size in (1, 2, 3, 4):
            grams = lambda text, size=size: [
                " ".join(text[n : n + size]) for n in range(len(text) - size + 1)
            ]
            known = sorted(
                {g for refs in references for r in refs for g in grams(r)} | set(grams(answer))
            )
            if not known:
                continue
            df = [sum(any(g in grams(r) for r in refs) for refs in references) for g in known]
            idf = np.log(len(references)) - np.log(np.maximum(df, 1))
            vector = lambda text, known=known, idf=idf, grams=grams: (
                np.array([grams(text).count(g) for g in known]) * idf
            )
            mine = vector(answer)
            for reference in row:
                theirs = vector(reference)
                norm = np.linalg.norm(mine) * np.linalg.norm(theirs)
                gap = max(len(answer) - 1, 0) - max(len(reference) - 1, 0)
                if norm:
                    clipped = (np.minimum(mine, theirs) * theirs).sum()
                    total += clipped / norm * math.exp(-(gap**2) / 72)
        scores.append(total / 4 / len(row) * 10)
    return scores


def corpus(seed: int) -> tuple[list[list[str]], list[list[list[str]]]]:
    """Random captions of a small vocabulary, in which the same n-grams come again."""
    rng = random.Random(seed)
    make_text = lambda: [
        rng.choice("a the cat dog red on sits mat big".split()) for _ in range(rng.randrange(12))
    ]
    references = [
        [make_text() for _ in range(rng.randrange(1, 4))] for _ in range(rng.randrange(1, 6))
    ]
    answers = [
        rng.choice([make_text(), list(rng.choice(row)), make_text() * 4]) for row in references
    ]
    return answers, references


AWKWARD = {
    "one image": ([["a", "cat"]], [[["a", "cat"]]]),
    "an empty answer": ([[], ["a"]], [[["a", "cat"]], [["a", "dog"]]]),
    "empty references": ([["a"], ["b"]], [[[]], [["b", "c"]]]),
    "all empty": ([[], []], [[[]], [[]]]),
    "one word": ([["cat"], ["dog"]], [[["cat"]], [["dog"], ["cow"]]]),
    "the same word again and again": ([["cat"] * 20, ["dog"]], [[["cat", "sits"]], [["dog"]]]),
    "far too long": ([list("abcdefgh") * 9, ["x"]], [[list("abcdefgh")], [["x", "y"]]]),
    "in no image": ([["zebra"], ["yak"]], [[["cat"]], [["dog"]]]),
    "in every image": ([["a", "b"], ["a", "b"]], [[["a", "b"]], [["a", "b"]]]),
}
CORPORA = AWKWARD | {f"seed {seed}": corpus(seed) for seed in range(12)}


@pytest.mark.parametrize("answers, references", CORPORA.values(), ids=CORPORA.keys())
def test_cider_is_its_formula(answers, references):
    assert cider_d(answers, references) == pytest.approx(slow_cider(answers, references), abs=1e-9)


@pytest.mark.parametrize("answers, references", CORPORA.values(), ids=CORPORA.keys())
def test_cider_is_the_official_scorers(answers, references):
    official = pytest.importorskip(
        "pycocoevalcap.cider.cider_scorer", reason="pycocoevalcap is not installed"
    )
    scorer = official.CiderScorer(n=4, sigma=6.0)
    for answer, row in zip(answers, references, strict=True):
        scorer += (" ".join(answer), [" ".join(one) for one in row])
    if not any(one for row in references for one in row):
        pytest.skip("without any reference the official scorer fails")
    _, scores = scorer.compute_score()
    assert cider_d(answers, references) == pytest.approx(scores.tolist(), abs=1e-6)


def test_equal_captions_score_ten():
    captions = ["a red cat sits on a mat".split(), "two big dogs run in the park".split()]
    assert cider_d(captions, [[one] for one in captions]) == pytest.approx([10, 10])


# --- VQA accuracy ---------------------------------------------------------------------------------

WITHOUT_APOSTROPHE = dict(
    pair.split(":")
    for pair in (
        "aint:ain't couldnt've:couldn't've couldn'tve:couldn't've hed:he'd hed've:he'd've "
        "'ows'at:'ow's'at ow's'at:'ow's'at 'ow'sat:'ow's'at somebody'd:somebodyd "
        "somebodys:somebody's twas:'twas weve:we've yall:y'all y'allll:y'all'll "
        "yall'd've:y'all'd've youve:you've maam:ma'am oclock:o'clock "
        "shouldn'tve:shouldn't've therere:there're wheres:where's whove:who've"
    ).split()
)
NOT_IN_THE_TABLE = "shes lets im ive id couldntve she'd shed were ill whens've thatd".split()
DIGITS = dict(
    zip(
        "none zero one two three four five six seven eight nine ten".split(),
        "0 0 1 2 3 4 5 6 7 8 9 10".split(),
        strict=True,
    )
)


def test_contractions():
    for word, right in WITHOUT_APOSTROPHE.items():
        assert normalize_answer(word) == right
    for word in NOT_IN_THE_TABLE:
        assert normalize_answer(word) == word


def slow_normalize(text: str) -> str:
    """`processPunctuation`, then `processDigitArticle`, as the paper's page puts them in words."""
    comma = any(
        a.isdigit() and b == "," and c.isdigit()
        for a, b, c in zip(text, text[1:], text[2:], strict=False)
    )
    out = text
    for mark in (";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<",
                 "@", "`", ",", "?", "!"):  # fmt: skip
        joined = comma or (mark + " ") in text or (" " + mark) in text
        out = ("" if joined else " ").join(out.split(mark))
    kept, gone = "", 0
    for n, character in enumerate(out):
        if character == "." and not out[n + 1 : n + 2].isdigit() and gone < int(re.UNICODE):
            gone += 1
        else:
            kept += character
    found = [DIGITS.get(word, word) for word in kept.lower().split()]
    found = [word for word in found if word not in ("a", "an", "the")]
    return " ".join(WITHOUT_APOSTROPHE.get(word, word) for word in found)


def slow_vqa(answer: str, references: list[str]) -> float:
    tidy = lambda text: text.replace("\n", " ").replace("\t", " ").strip()
    answer, references = tidy(answer), [tidy(one) for one in references]
    if len({*references}) > 1:
        answer, references = slow_normalize(answer), [slow_normalize(one) for one in references]
    shares = []
    for n in range(len(references)):
        others = references[:n] + references[n + 1 :]
        shares.append(min(1, sum(one == answer for one in others) / 3))
    return sum(shares) / len(shares)


PIECES = [*WITHOUT_APOSTROPHE, *DIGITS, *'; / [ ( ) = + \\ _ - > < @ ` , ? ! . .. "'.split(),
          *"a an the A The dog Dog yes NO 10,000 3.5 1.000. u.s.a. well-known it's x,y 5,".split(),
          "\n", "\t", "", "é"]  # fmt: skip


def test_vqa_on_random_answers():
    rng = random.Random(0)
    make_text = lambda: "".join(
        rng.choice(PIECES) + rng.choice(["", " ", " "]) for _ in range(rng.randrange(5))
    )
    for _ in range(1500):
        texts = [make_text() for _ in range(rng.randrange(1, 4))]
        references = [rng.choice(texts) for _ in range(10)]
        answer = rng.choice([make_text(), rng.choice(texts), rng.choice(texts).upper() + "."])
        assert normalize_answer(answer) == slow_normalize(answer), answer
        assert vqa_accuracy(answer, references) == pytest.approx(
            slow_vqa(answer, references), abs=1e-9
        )


@pytest.mark.parametrize(
    "answer, references, accuracy",
    [
        ("dog", ["dog"] * 10, 1),
        ("dog\n", ["dog"] * 10, 1),
        ("Dog", ["dog"] * 10, 0),  # all agree: nothing is normalised, not even letter case
        ("a dog", ["dog"] * 10, 0),
        ("Dog", ["dog"] * 9 + ["cat"], 1),
        ("dog", ["Dog"] * 9 + ["cat"], 1),
        ("A dog.", ["dog"] * 9 + ["cat"], 1),
        ("dog", ["dog"] * 3 + ["cat"] * 7, 0.9),  # 3 · 2/3 + 7 · 1, over ten
        ("dog", ["dog"] * 2 + ["cat"] * 8, 0.6),
        ("dog", ["dog"] + ["cat"] * 9, 0.3),
        ("cow", ["dog"] + ["cat"] * 9, 0),
        ("two", ["2"] * 5 + ["3"] * 5, 1),
        ("none", ["0"] * 5 + ["3"] * 5, 1),
        ("10,000", ["10000"] * 5 + ["ten"] * 5, 1),
        ("yes/no", ["yes no"] * 5 + ["no"] * 5, 1),
        ("3.5.", ["3.5"] * 5 + ["35"] * 5, 1),
        ("." * 33 + "x", [".x"] * 5 + ["x"] * 5, 0),  # thirty-two periods go on either side
    ],
)
def test_vqa_accuracy(answer, references, accuracy):
    assert vqa_accuracy(answer, references) == pytest.approx(accuracy)


# --- ANLS -----------------------------------------------------------------------------------------


@cache
def slow_distance(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(
        slow_distance(a[1:], b) + 1,
        slow_distance(a, b[1:]) + 1,
        slow_distance(a[1:], b[1:]) + (a[0] != b[0]),
    )


def test_anls_on_random_answers():
    rng = random.Random(0)
    make_text = lambda: "".join(rng.choice("aAbB  é") for _ in range(rng.randrange(9)))
    for _ in range(800):
        answer, references = make_text(), [make_text() for _ in range(rng.randrange(1, 4))]
        values = []
        for reference in references:
            a, b = (" ".join(text.strip().lower().split()) for text in (answer, reference))
            assert edit_distance(a, b) == slow_distance(a, b)
            longer = max(len(answer), len(reference))
            values.append(slow_distance(a, b) / longer if longer else 0)
        score = 1 - min(values)
        assert anls(answer, references) == pytest.approx(score if score >= 0.5 else 0, abs=1e-9)


@pytest.mark.parametrize(
    "answer, references, score",
    [
        ("July 4", ["july 4"], 1),
        ("july  4", ["july 4"], 1),
        ("abcd", ["abxy"], 0.5),  # just at the threshold
        ("abcd", ["axyz"], 0),
        ("abcde", ["abcdx", "zzzzz"], 0.8),
        ("", [""], 1),
        ("", ["a"], 0),
    ],
)
def test_anls(answer, references, score):
    assert anls(answer, references) == pytest.approx(score)


# --- Relaxed accuracy -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer, reference, matches",
    [
        ("105", "100", True), ("95", "100", True), ("105.1", "100", False), ("94.9", "100", False),
        ("-105", "-100", True), ("105", "-100", False),
        ("12%", "0.12", True), ("12%", "12", False), ("12%", "12%", True), ("12.5%", "12%", True),
        ("0.125", "12%", True), ("0.127", "12%", False), ("12%%", "12%", True),
        ("2009", "2019", True), ("1900", "2019", False),  # a year is a number like others
        ("0", "0", True), ("0.0", "0", False), ("0.001", "0", False), ("0%", "0", False),
        ("1,000", "1000", False), ("1e3", "1000", True), (" 100 ", "100", True),
        ("Yes", "yes", True), ("yes.", "yes", False), ("", "", True), ("", "5", False),
        ("[1, 2]", "[1, 2]", True), ("nan", "5", False), ("5", "nan", False), ("inf", "5", False),
        ("%", "%", True), ("five", "5", False),
    ],
)  # fmt: skip
def test_relaxed_match(answer, reference, matches):
    assert relaxed_match(answer, reference) is matches


# --- Multiple choice ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer, letter",
    [
        ("B", "B"), ("B.", "B"), ("(B)", "B"), ("The answer is (B)", "B"), ("'C'", "C"),
        ("(A) or (B)", "B"), ("A or C", "C"), ("C and (A)", "A"),  # brackets go first
        ("A, so (B", None), ("b", None), ("E", None), ("AB", None), ("", None),
        ("it is clearly a picture of a Dog and nothing else", "B"),
        ("first a dog and then after it a cat", "A"),  # the option that is quoted last
        ("a dog", None),  # too short to be searched for the option's words
    ],
)  # fmt: skip
def test_parse_choice(answer, letter):
    assert parse_choice(answer, ["cat", "dog", "cow"]) == letter


# --- Average precision ----------------------------------------------------------------------------


def coco_mean_precision(images, annotations, results):
    return mean_precision(coco_average_precisions(images, annotations, results).values())


def slow_average_precision(annotations: list[dict], results: list[dict]) -> tuple[float, float]:
    """COCO's protocol for areas of all sizes, without crowds: greedy matches, 101 recalls."""
    table = []
    for category in sorted({one["category_id"] for one in annotations}):
        mine = [one for one in results if one["category_id"] == category]
        mine.sort(key=lambda one: -one["score"])
        theirs = [one for one in annotations if one["category_id"] == category]
        row = []
        for threshold in np.linspace(0.5, 0.95, 10):
            taken: set[int] = set()
            hits = []
            for one in mine:
                best, match = threshold, None
                for n, other in enumerate(theirs):
                    if n in taken or other["image_id"] != one["image_id"]:
                        continue
                    iou = box_iou(corners(one["bbox"]), corners(other["bbox"]))
                    if iou >= best:
                        best, match = iou, n
                taken |= {match} - {None}
                hits.append(match is not None)
            right = np.cumsum(hits)
            precision = right / np.arange(1, len(hits) + 1)
            recall = right / len(theirs)
            steps = [
                max(precision[recall >= level], default=0.0) for level in np.linspace(0, 1, 101)
            ]
            row.append(np.mean(steps))
        table.append(row)
    return float(np.mean([row[0] for row in table])), float(np.mean(table))


def corners(bbox: list[float]) -> tuple[float, float, float, float]:
    x, y, w, h = bbox
    return x, y, x + w, y + h


@pytest.mark.parametrize("seed", range(8))
def test_average_precision_follows_the_protocol(seed):
    rng = np.random.default_rng(seed)
    scores = iter(rng.permutation(10_000) / 10_000)  # no two alike
    annotations, results = [], []
    for image in range(1, 6):
        for _ in range(rng.integers(1, 6)):
            box = [*rng.uniform(0, 60, 2), *rng.uniform(5, 40, 2)]
            category = int(rng.integers(1, 4))
            ids = {"image_id": image, "category_id": category}
            annotations.append(ids | {"bbox": box, "iscrowd": 0, "area": box[2] * box[3]})
            for _ in range(rng.integers(3)):
                near = (np.array(box) * rng.uniform(0.85, 1.15, 4)).tolist()
                results.append(
                    {
                        "image_id": image,
                        "category_id": category,
                        "bbox": near,
                        "score": float(next(scores)),
                    }
                )
        lost = [*rng.uniform(0, 60, 2).tolist(), 9.0, 9.0]
        results.append(
            {"image_id": image, "category_id": 1, "bbox": lost, "score": float(next(scores))}
        )
    found = coco_mean_precision(range(1, 6), annotations, results)
    assert found == pytest.approx(slow_average_precision(annotations, results), abs=1e-6)
    assert 0 < found[1] < 1


def test_predictions_inside_a_crowd_do_not_count():
    one = {"image_id": 1, "category_id": 1, "iscrowd": 0}
    annotations = [
        one | {"bbox": [0, 0, 10, 10], "area": 100},
        one | {"bbox": [50, 50, 40, 40], "area": 1600, "iscrowd": 1},
    ]
    inside = {"image_id": 1, "category_id": 1, "bbox": [55, 55, 10, 10], "score": 0.9}
    right = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.5}
    assert coco_mean_precision([1], annotations, [inside, right]) == pytest.approx((1, 1))
    annotations[1]["iscrowd"] = 0
    assert coco_mean_precision([1], annotations, [inside, right])[0] < 0.5


# --- Referring expressions ------------------------------------------------------------------------

LOCS = "<loc0100><loc0200><loc0500><loc0600>"
SEGS = "".join(f"<seg{n:03d}>" for n in range(16))


@pytest.mark.parametrize(
    "text, valid",
    [
        (f"{LOCS}{SEGS} cat", True), (f"{LOCS}{SEGS}", True), (f" {LOCS}{SEGS} cat ; more", True),
        (f"{LOCS} cat", False), (f"{LOCS}{SEGS[:-8]} cat", False), (f"a {LOCS}{SEGS}", False),
        ("", False), ("cat", False), (f"{LOCS[9:]}{SEGS}", False),
        (f"<loc0500><loc0200><loc0100><loc0600>{SEGS}", False),  # upside down
        (f"<loc0100><loc0200><loc0100><loc0600>{SEGS}", False),  # flat
        (f"<loc9999><loc0200><loc0500><loc0600>{SEGS}", False),
        (f"{LOCS}<seg128>{SEGS[8:]}", False),
    ],
)  # fmt: skip
def test_parse_referred_object(text, valid):
    found = parse_referred_object(text)
    assert (found is not None) is valid
    if found:
        assert found.codes == tuple(range(16))
        assert found.box == pytest.approx((200 / 1023, 100 / 1023, 600 / 1023, 500 / 1023))


def test_referring_iou():
    mask = np.zeros((40, 100), bool)
    mask[10:30, 20:60] = True  # 800 pixels
    full, none = np.ones((64, 64)), -np.ones((64, 64))
    assert referring_iou((0.2, 0.25, 0.6, 0.75), full, mask) == 1
    assert referring_iou((0.2, 0.25, 0.4, 0.75), full, mask) == 0.5
    assert referring_iou((0.0, 0.0, 1.0, 1.0), full, mask) == pytest.approx(800 / 4000)
    assert referring_iou((0.209, 0.27, 0.609, 0.79), full, mask) == pytest.approx(
        (40 * 20) / (40 * 21), abs=1e-9
    )  # edges are rounded down: 20, 10, 60, 31
    assert referring_iou((0.2, 0.25, 0.6, 0.75), none, mask) == 0
    assert referring_iou((0.201, 0.25, 0.209, 0.75), full, mask) is None
    assert referring_iou((0.2, 0.25, 0.6, 0.75), full, np.zeros_like(mask)) == 0


def test_referring_iou_on_random_masks():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = np.zeros((50, 70), np.uint8), np.zeros((50, 70), np.uint8)
        x1, y1 = rng.integers(0, 30, 2)
        x2, y2 = x1 + rng.integers(5, 40), y1 + rng.integers(5, 20)
        a[y1:y2, x1:x2] = 1
        b[:] = rng.random(b.shape) < 0.4
        official = rle.iou(
            [rle.encode(np.asfortranarray(a))], [rle.encode(np.asfortranarray(b))], [0]
        )[0, 0]
        box = (x1 / 70 + 1e-9, y1 / 50 + 1e-9, x2 / 70 + 1e-9, y2 / 50 + 1e-9)
        found = referring_iou(box, np.ones((64, 64)), b.astype(bool))
        assert found == pytest.approx(official, abs=1e-6)
