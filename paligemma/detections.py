"""Objects in an answer: location and mask tokens to boxes and codes, and back.

An object is written `<locY1><locX1><locY2><locX2>[16 x <segNNN>] label`; objects are joined by
" ; ". Edges are written on a grid of 1024 lines, line n standing at n / 1023 of the picture's side
(big_vision `pp/proj/paligemma/segmentation.py`; PaliGemma, arXiv 2407.07726, section 3.2).

    parse("<loc0000><loc0512><loc1023><loc1023> cat")  # [Detection("cat", (0.5005, 0, 1, 1))]
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

LAST_LOC = 1023
NUM_CODES = 128
CODES_PER_MASK = 16

Box = tuple[float, float, float, float]

LOC_PATTERN = r"<loc(?:0[0-9]{3}|10[01][0-9]|102[0-3])>"  # regular expressions for one token
SEG_PATTERN = r"<seg(?:0[0-9]{2}|1[01][0-9]|12[0-7])>"
_LABEL = r"[^;<]*(?:<(?!loc|seg)[^;<]*)*"
_OBJECT = re.compile(
    rf"(?P<locs>{LOC_PATTERN}(?:\s*{LOC_PATTERN}){{3}})(?P<segs>(?:\s*{SEG_PATTERN})*)"
    rf"\s*(?P<label>{_LABEL})"
)


@dataclass(frozen=True)
class Detection:
    """One object of an answer.

    box: (x1, y1, x2, y2), fractions 0..1 of the picture's width and height, x1 <= x2, y1 <= y2.
    codes: the 16 mask codes, 0..127, of a segmented object. score: mean probability of its tokens.
    """

    label: str
    box: Box
    codes: tuple[int, ...] | None = None
    score: float | None = None

    def xyxy(self, width: int, height: int) -> Box:
        """The box in pixels (not rounded) of a picture of that size."""
        x1, y1, x2, y2 = self.box
        return x1 * width, y1 * height, x2 * width, y2 * height


def value_to_loc(value: float) -> int:
    """A fraction 0..1 of a side to the nearest grid line 0..1023; values outside are clipped."""
    return round(min(max(value, 0.0), 1.0) * LAST_LOC)


def loc_to_value(loc: int) -> float:
    """A grid line 0..1023 to its fraction of the side. Exact: `value_to_loc` gives `loc` back."""
    return loc / LAST_LOC


def snap(box: Box, side: int) -> Box:
    """The box with its edges on whole pixels of a square picture: a model sees nothing finer."""
    return tuple(min(max(round(edge * side) / side, 0.0), 1.0) for edge in box)


def format_box(box: Box) -> str:
    """A box (x1, y1, x2, y2) as its four location tokens, in the model's order y1, x1, y2, x2.

    Raises ValueError unless 0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1.
    """
    x1, y1, x2, y2 = box
    if not (0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1):
        raise ValueError(f"A box is x1 <= x2 and y1 <= y2, all within 0..1; got {box}.")
    return "".join(f"<loc{value_to_loc(value):04d}>" for value in (y1, x1, y2, x2))


def format(detections: Iterable[Detection]) -> str:
    """The answer text that names these objects; `parse` reads it back (scores are not written).

    Raises ValueError for a box that `format_box` refuses, codes that are not 16 numbers in
    0..127, and a label that could not be read back.
    """
    return " ; ".join(_format_one(detection) for detection in detections)


def _format_one(detection: Detection) -> str:
    label, codes = detection.label, detection.codes or ()
    if label != label.strip() or not re.fullmatch(_LABEL, label):
        raise ValueError(
            f"A label holds no ';', '<loc' or '<seg' and no space at its ends; got {label!r}."
        )
    if detection.codes is not None and len(codes) != CODES_PER_MASK:
        raise ValueError(f"A mask has {CODES_PER_MASK} codes; got {len(codes)}.")
    if wrong := [code for code in codes if code not in range(NUM_CODES)]:
        raise ValueError(f"A mask code is a whole number in 0..{NUM_CODES - 1}; got {wrong[0]}.")
    segs = "".join(f"<seg{int(code):03d}>" for code in codes)
    return f"{format_box(detection.box)}{segs} {label}".rstrip()


def parse(text: str) -> list[Detection]:
    """The objects in an answer, in order. Never raises: it keeps what is whole.

    Text before a box is skipped, and so are fewer than four locations. Fewer than 16 mask tokens
    leave a box without codes, a missing label is "", and swapped edges are put in order.
    """
    return [detection for detection, _ in _find(text)]


def parse_tokens(tokens: Sequence[tuple[str, float]]) -> list[Detection]:
    """`parse` of the joined token texts, each object with its score.

    tokens: (text, natural-log probability) in order. A score is the mean probability, 0..1, of the
    tokens that touch the object's locations or label; mask tokens and separators do not count.
    """
    ends = list(accumulate(len(text) for text, _ in tokens))
    detections = []
    for detection, spans in _find("".join(text for text, _ in tokens)):
        probabilities = [
            math.exp(logprob)
            for (text, logprob), end in zip(tokens, ends, strict=True)
            if any(max(start, end - len(text)) < min(stop, end) for start, stop in spans)
        ]
        score = sum(probabilities) / len(probabilities)
        detections.append(replace(detection, score=score))
    return detections


def invalid_objects(text: str) -> str | None:
    """Why the objects in a text that somebody wrote could not be read back; None if they can.

    Unlike `parse`, which keeps what is whole, this finds the first location or mask token that is
    no token, the first box without four locations in order, and the first mask without 16 codes.
    """
    for run in re.findall(r"(?:<loc[^>]*>\s*)+(?:<seg[^>]*>\s*)*|(?:<seg[^>]*>\s*)+", text):
        locs, segs = re.findall(r"<loc[^>]*>", run), re.findall(r"<seg[^>]*>", run)
        for tokens, pattern, allowed in (
            (locs, LOC_PATTERN, "<loc0000> to <loc1023>"),
            (segs, SEG_PATTERN, "<seg000> to <seg127>"),
        ):
            for token in tokens:
                if not re.fullmatch(pattern, token):
                    return f"{token} is none of {allowed}"
        if len(locs) != 4:
            return f"it has {len(locs)} <loc> in a row; a box has 4"
        if len(segs) not in (0, CODES_PER_MASK):
            return f"it has {len(segs)} <seg> in a row; a mask has {CODES_PER_MASK}"
        y1, x1, y2, x2 = _numbers("".join(locs))
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
    score = lambda index: 1.0 if (s := detections[index].score) is None else s
    kept: list[int] = []
    for index in sorted(range(len(detections)), key=score, reverse=True):
        box, label = detections[index].box, detections[index].label
        same_label = (detections[other].box for other in kept if detections[other].label == label)
        if score(index) >= min_score and all(
            box_iou(box, other) <= max_iou for other in same_label
        ):
            kept.append(index)
    return sorted(kept)


def _find(text: str) -> Iterator[tuple[Detection, tuple[tuple[int, int], ...]]]:
    """Each object, and the character spans (start, stop) of its locations and of its label."""
    for found in _OBJECT.finditer(text):
        y1, x1, y2, x2 = (loc_to_value(number) for number in _numbers(found["locs"]))
        codes = _numbers(found["segs"])[:CODES_PER_MASK]
        label = found["label"].rstrip()
        detection = Detection(
            label=label,
            box=(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)),
            codes=codes if len(codes) == CODES_PER_MASK else None,
        )
        start = found.start("label")
        yield detection, (found.span("locs"), (start, start + len(label)))


def _numbers(tokens: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall("[0-9]+", tokens))
