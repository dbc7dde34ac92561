"""Objects in an answer: location and mask tokens to boxes and codes, and back.

An object is written `<locY1><locX1><locY2><locX2>[16 x <segNNN>] label`; objects are joined by
" ; ". Edges are written on a grid of 1024 lines, line n standing at n / 1023 of the image's side
(big_vision `pp/proj/paligemma/segmentation.py`; PaliGemma, arXiv 2407.07726, section 3.2).

    parse("<loc0000><loc0512><loc1023><loc1023> cat")  # [Detection("cat", (0.5005, 0, 1, 1))]

What the parser expects, where LABEL has no ";", "<loc" or "<seg" in it, and what it skips:

    ... LOC LOC LOC LOC [SEG ...] LABEL ... LOC LOC LOC LOC [SEG ...] LABEL ...
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

LAST_LOC = 1023
NUM_CODES = 128
CODES_PER_MASK = 16

Box = tuple[float, float, float, float]

LOC_TOKENS = tuple(f"<loc{number:04d}>" for number in range(LAST_LOC + 1))
SEG_TOKENS = tuple(f"<seg{code:03d}>" for code in range(NUM_CODES))
LOC_PATTERN = r"<loc(?:0[0-9]{3}|10[01][0-9]|102[0-3])>"  # regular expressions for one token
SEG_PATTERN = r"<seg(?:0[0-9]{2}|1[01][0-9]|12[0-7])>"


@dataclass(frozen=True)
class Detection:
    """One object of an answer.

    box: (x1, y1, x2, y2), fractions 0..1 of the image's width and height, x1 <= x2, y1 <= y2.
    codes: the 16 mask codes, 0..127, of a segmented object. score, 0..1: the mean probability of
        its tokens, or the chance that its box is right where a calibration tells.
    """

    label: str
    box: Box
    codes: tuple[int, ...] | None = None
    score: float | None = None

    def xyxy(self, width: int, height: int) -> Box:
        """The box in pixels (not rounded) of an image of that size."""
        x1, y1, x2, y2 = self.box
        return x1 * width, y1 * height, x2 * width, y2 * height


def value_to_loc(value: float) -> int:
    """A fraction 0..1 of a side to the nearest grid line 0..1023; values outside are clipped."""
    return round(min(max(value, 0.0), 1.0) * LAST_LOC)


def loc_to_value(loc: int) -> float:
    """A grid line 0..1023 to its fraction of the side. Exact: `value_to_loc` gives `loc` back."""
    return loc / LAST_LOC


def snap_value(value: float, grid: int) -> float:
    """A fraction of a side, moved to the nearest multiple of 1 / `grid` in 0..1."""
    return min(max(round(value * grid) / grid, 0.0), 1.0)


def snap(box: Box, side: int) -> Box:
    """The box with its edges on whole pixels of a square image: a model sees nothing finer."""
    x1, y1, x2, y2 = (snap_value(edge, side) for edge in box)
    return x1, y1, x2, y2


def format_box(box: Box) -> str:
    """A box (x1, y1, x2, y2) as its four location tokens, in the model's order y1, x1, y2, x2.

    Raises ValueError unless 0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1.
    """
    x1, y1, x2, y2 = box
    if not (0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1):
        raise ValueError(f"A box is x1 <= x2 and y1 <= y2, all within 0..1; got {box}.")
    return "".join(LOC_TOKENS[value_to_loc(value)] for value in (y1, x1, y2, x2))


def format(detections: Iterable[Detection]) -> str:
    """The answer text that names these objects; `parse` reads it back (scores are not written).

    Raises ValueError for a box that `format_box` refuses, codes that are not 16 numbers in
    0..127, and a label that could not be read back.
    """
    return " ; ".join(_format_one(detection) for detection in detections)


def _format_one(detection: Detection) -> str:
    label, codes = detection.label, detection.codes or ()
    if label != label.strip() or re.search(";|<loc|<seg", label):
        raise ValueError(
            f"A label holds no ';', '<loc' or '<seg' and no space at its ends; got {label!r}."
        )
    if detection.codes is not None and len(codes) != CODES_PER_MASK:
        raise ValueError(f"A mask has {CODES_PER_MASK} codes; got {len(codes)}.")
    if wrong := [code for code in codes if code not in range(NUM_CODES)]:
        raise ValueError(f"A mask code is a whole number in 0..{NUM_CODES - 1}; got {wrong[0]}.")
    segs = "".join(SEG_TOKENS[int(code)] for code in codes)
    return f"{format_box(detection.box)}{segs} {label}".rstrip()


def parse(text: str) -> list[Detection]:
    """The objects in an answer, in order. Never raises: it takes what is whole.

    Text before a box is skipped, and so are fewer than four locations. Fewer than 16 mask tokens
    leave a box without codes, a missing label is "", and swapped edges are put in order.
    """
    return parse_tokens([(text, None)])


def parse_tokens(tokens: Iterable[tuple[str, float | None]]) -> list[Detection]:
    """`parse` of the joined token texts, each object with its score.

    tokens: (text, natural-log probability) in order. A score is the mean probability, 0..1, of the
    tokens that touch the object's locations or label; mask tokens and separators do not count.
    """
    parser = DetectionParser()
    for text, logprob in tokens:
        parser.feed(text, logprob)
    return parser.detections


class DetectionParser:
    """Parses an answer while it is generated, each token once.

    parser = DetectionParser()
    parser.feed("<loc0000>", -0.1)
    parser.detections  # what `parse_tokens` finds in the tokens so far
    """

    def __init__(self) -> None:
        self._complete: list[Detection] = []
        self._current: _Object | None = None  # has its box; mask and label may go on
        self._locs: list[int] = []  # up to three locations of the next object
        self._loc_score = _Score()
        self._space: list[_Piece] = []  # counts only if its locations or its label go on after it
        self._unread = ""  # the beginning of what may become a location or a mask token
        self._tokens: list[_Token] = []  # those that reach into `_unread`
        self._length = 0

    def feed(self, text: str, logprob: float | None = None) -> None:
        """Read the next token: its text and natural-log probability."""
        probability = None if logprob is None else math.exp(logprob)
        self._tokens.append(_Token(self._length, self._length + len(text), probability))
        offset = self._length - len(self._unread)
        self._length += len(text)
        text = self._unread + text
        partial = _PARTIAL.search(text)
        end = len(text) if partial is None else partial.start()
        for lexeme in _LEXEME.finditer(text, 0, end):
            start, stop = offset + lexeme.start(), offset + lexeme.end()
            touching = [t for t in self._tokens if max(t.start, start) < min(t.stop, stop)]
            self._read(lexeme.lastgroup, _Piece(lexeme[0], touching))
        self._unread = text[end:]
        self._tokens = [token for token in self._tokens if token.stop > offset + end]

    @property
    def detections(self) -> list[Detection]:
        """The objects so far. The label of the last one may still grow."""
        if self._current is None:
            return list(self._complete)
        is_label = self._unread and not self._unread.startswith(("<loc", "<seg"))
        rest = [*self._space, _Piece(self._unread, self._tokens)] if is_label else []
        return [*self._complete, self._current.detection(rest)]

    def _read(self, kind: str | None, piece: "_Piece") -> None:
        """One lexeme, of a kind of `_LEXEME`."""
        current = self._current
        if kind == "space":
            if self._locs or (current and current.label):
                self._space.append(piece)
        elif kind == "seg" and current and not current.label:
            current.codes.append(int(piece.text[4:-1]))
        elif kind == "text" and current:
            current.extend_label([*self._space, piece])
            self._space = []
        elif kind == "loc":
            self._end_object()
            for each in (*self._space, piece):
                self._loc_score.add(each.tokens)
            self._space = []
            self._locs.append(int(piece.text[4:-1]))
            if len(self._locs) == 4:
                self._current = _Object(self._locs, self._loc_score)
                self._locs, self._loc_score = [], _Score()
        else:
            self._end_object()
            self._locs, self._loc_score, self._space = [], _Score(), []

    def _end_object(self) -> None:
        if self._current is not None:
            self._complete.append(self._current.detection())
            self._current, self._space = None, []


# What an answer is made of. "end" ends a label: a separator, or a broken location or mask token.
_LEXEME = re.compile(
    rf"(?P<loc>{LOC_PATTERN})|(?P<seg>{SEG_PATTERN})|(?P<end>;|<loc|<seg)"
    r"|(?P<space>\s+)|(?P<text>(?:<(?!loc|seg)|[^;<\s])+)"
)
_PARTIAL = re.compile(r"<(?:l|lo|loc[0-9]{0,4}|s|se|seg[0-9]{0,3})?\Z")


class _Token(NamedTuple):
    """Characters start..stop of the answer, and the probability of the token they are."""

    start: int
    stop: int
    probability: float | None


class _Piece(NamedTuple):
    """A piece of an answer and the tokens that touch it."""

    text: str
    tokens: list[_Token]


@dataclass
class _Score:
    """The mean probability of tokens, each counted once; they are added in order."""

    total: float = 0.0
    count: int = 0
    stop: int = 0  # of the last token added

    def add(self, tokens: Iterable[_Token]) -> None:
        for token in tokens:
            if token.stop > self.stop and token.probability is not None:
                self.total += token.probability
                self.count += 1
            self.stop = max(self.stop, token.stop)


class _Object:
    """An object of which the locations are known."""

    def __init__(self, locs: Sequence[int], score: _Score) -> None:
        y1, x1, y2, x2 = map(loc_to_value, locs)
        self.box = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        self.codes: list[int] = []
        self.label = ""
        self.score = score

    def extend_label(self, pieces: Iterable[_Piece]) -> None:
        for piece in pieces:
            self.label += piece.text
            self.score.add(piece.tokens)

    def detection(self, rest: Sequence[_Piece] = ()) -> Detection:
        """The object if its label ended with `rest`."""
        score = replace(self.score)
        for piece in rest:
            score.add(piece.tokens)
        codes = tuple(self.codes[:CODES_PER_MASK])
        return Detection(
            label=self.label + "".join(piece.text for piece in rest),
            box=self.box,
            codes=codes if len(codes) == CODES_PER_MASK else None,
            score=score.total / score.count if score.count else None,
        )


def invalid_objects(text: str) -> str | None:
    """Why the objects in a text that somebody wrote could not be read back; None if they can.

    Unlike `parse`, which keeps what is whole, this finds the first location or mask token that is
    no token, the first box without four locations in order, and the first mask without 16 codes.
    """
    loc, seg = r"<loc[^>]*>", r"<seg[^>]*>"
    # Behind the last ">" nothing can match, but each "<loc" of many would look for one to the end.
    closed = text[: text.rfind(">") + 1]
    for run in re.findall(rf"(?:{loc}\s*)+(?:{seg}\s*)*|(?:{seg}\s*)+", closed):
        locs, segs = re.findall(loc, run), re.findall(seg, run)
        for tokens, pattern, allowed in (
            (locs, LOC_PATTERN, "<loc0000> to <loc1023>"),
            (segs, SEG_PATTERN, "<seg000> to <seg127>"),
        ):
            for token in tokens:
                if not re.fullmatch(pattern, token):
                    return f"{token[:40]} is none of {allowed}"
        if len(locs) != 4:
            return f"it has {len(locs)} <loc> in a row; a box has 4"
        if len(segs) not in (0, CODES_PER_MASK):
            return f"it has {len(segs)} <seg> in a row; a mask has {CODES_PER_MASK}"
        y1, x1, y2, x2 = (int(token[4:8]) for token in locs)
        if y1 > y2 or x1 > x2:
            return f"the box {''.join(locs)} is not y1 x1 y2 x2"
    return None


def invalid_label(label: str) -> str | None:
    """Why `label` cannot name an object in a prompt and in its answer; None if it can.

    Commas and semicolons separate the names in a prompt, and "<loc" or "<seg" begin an object.
    """
    if not label.strip() or label != label.strip():
        return f"the name {label!r} is empty or has spaces at its ends"
    if found := re.search("[;,]|<loc|<seg", label):
        return f"the name {label!r} holds {found[0]!r}, which separates objects"
    return None


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2); 0 where neither has an area."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    shared = width * height
    return shared / (areas - shared) if areas > shared else 0.0


def filter_detections(
    detections: Sequence[Detection], min_score: float = 0.0, max_iou: float = 1.0
) -> list[int]:
    """The indices of the detections that remain, in order.

    Removes those with a score under `min_score`, and those that overlap a better one of the same
    label by more than `max_iou` (non-maximum suppression). Without a score a detection counts as 1.
    """
    scores = [1.0 if found.score is None else found.score for found in detections]
    remaining: list[int] = []
    for index in sorted(range(len(detections)), key=scores.__getitem__, reverse=True):
        box, label = detections[index].box, detections[index].label
        better = [detections[n].box for n in remaining if detections[n].label == label]
        if scores[index] >= min_score and all(box_iou(box, one) <= max_iou for one in better):
            remaining.append(index)
    return sorted(remaining)
