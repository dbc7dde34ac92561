"""The benchmarks, one row each: how data is read, how it is asked for, how answers are scored."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from paligemma.detections import Detection, box_iou
from paligemma.evaluation.datasets import coco, questions
from paligemma.evaluation.datasets.examples import Example, Loaded
from paligemma.evaluation.metrics.answers import anls, chosen, relaxed, vqa_accuracy
from paligemma.evaluation.metrics.boxes import (
    average_precision,
    coco_average_precision,
    pair,
    referred_iou,
    whole_object,
)
from paligemma.evaluation.metrics.cider import cider_d, words
from paligemma.evaluation.predictions import Prediction

DECODED = 256  # masks decoded together
Masks = Callable[[Sequence[Detection]], Sequence[np.ndarray | None]]


@dataclass(frozen=True)
class Scored:
    """The scores of a benchmark by name, and how good each answer is: 0..1, captions 0..10."""

    scores: dict[str, float | int]
    each: list[float]


Score = Callable[[Sequence[Example], Sequence[Prediction], Masks], Scored]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    template: the prompt, with {text} for what the example asks. tokens: the longest answer.
    published: {score: {resolution: value}} of PaliGemma 3B fine-tuned on it, from `SOURCE`.
    """

    key: str
    load: Callable[[Path, str], Loaded]
    template: str
    score: Score
    tokens: int
    published: dict[str, dict[int, float]] = field(default_factory=dict)

    def prompt(self, example: Example) -> str:
        """The example's prompt, in one line."""
        return " ".join(self.template.format(text=example.text).split())


# --- Scores ---------------------------------------------------------------------------------------


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def _each(name: str, judge: Callable[[str, Example], float]) -> Score:
    """The mean of what `judge` says of every answer, and of every group's."""

    def score(examples: Sequence[Example], said: Sequence[Prediction], _: Masks) -> Scored:
        each = [float(judge(s.text, example)) for example, s in zip(examples, said, strict=True)]
        groups: dict[str, list[float]] = defaultdict(list)
        for example, value in zip(examples, each, strict=True):
            groups[example.group].append(value)
        parts = {f"{name} of {part}": _mean(values) for part, values in sorted(groups.items())}
        return Scored({name: _mean(each)} | (parts if len(parts) > 1 else {}), each)

    return score


def _captions(examples: Sequence[Example], said: Sequence[Prediction], _: Masks) -> Scored:
    each = cider_d(
        [words(s.text) for s in said],
        [[words(text) for text in example.truth.texts] for example in examples],
    )
    return Scored({"cider": _mean(each)}, each)


def _overlap(true: Sequence[Detection], found: Sequence[Detection]) -> float:
    """The mean box IoU of true objects with theirs; missed and extra ones count 0."""
    matched = [(t, m) for t, m in zip(true, pair(true, found), strict=True) if m is not None]
    total = len(true) + len(found) - len(matched)
    return sum(box_iou(t.box, found[m].box) for t, m in matched) / total if total else 1.0


def _boxes(examples: Sequence[Example], said: Sequence[Prediction], _: Masks) -> Scored:
    """COCO's mAP. A label that was not asked for does not count."""
    wanted: dict[tuple[int, int], dict] = {}
    results, each = [], []
    for example, s in zip(examples, said, strict=True):
        truth = example.truth
        found = [d for d in s.detections if d.label in truth.asked]
        each.append(_overlap(truth.detections, found))
        wanted |= {(truth.picture, one["id"]): one for one in truth.wanted}
        for d in found:
            x1, y1, x2, y2 = d.xyxy(truth.width, truth.height)
            results.append({
                "image_id": truth.picture,
                "category_id": truth.asked[d.label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": d.score,
            })  # fmt: skip
    pictures = sorted({example.truth.picture for example in examples})
    ap50, ap = coco_average_precision(pictures, list(wanted.values()), results)
    return Scored({"map": ap, "ap50": ap50, "pictures": len(pictures)}, each)


def _referred(examples: Sequence[Example], said: Sequence[Prediction], masks: Masks) -> Scored:
    found = [whole_object(s.text) for s in said]
    soft = _decoded([one for one in found if one is not None], masks)
    overlaps, boxes, invalid = [], [], 0
    for example, one in zip(examples, found, strict=True):
        overlap = None if one is None else referred_iou(one.box, next(soft), example.truth.mask)
        invalid += overlap is None
        overlaps.append(overlap or 0.0)
        boxes.append(0.0 if one is None else box_iou(one.box, example.truth.box))
    accuracy = {f"box_accuracy_{t}": _mean([t <= iou for iou in boxes]) for t in (0.5, 0.75)}
    return Scored({"miou": _mean(overlaps)} | accuracy | {"invalid": invalid}, overlaps)


def _decoded(found: Sequence[Detection], masks: Masks) -> Iterator[np.ndarray | None]:
    """The mask of each, some at a time: all of a benchmark's would not fit memory."""
    for start in range(0, len(found), DECODED):
        yield from masks(found[start : start + DECODED])


def _lines(examples: Sequence[Example], said: Sequence[Prediction], _: Masks) -> Scored:
    """Exact answers, and where true ones name objects, the average precision of their boxes."""
    exact = [s.text == example.truth.texts[0] for example, s in zip(examples, said, strict=True)]
    scores: dict[str, float | int] = {"exact": _mean(exact)}
    true = [example.truth.detections for example in examples]
    found = [s.detections for s in said]
    if any(true):
        ap50, ap = average_precision(true, found)
        scores |= {"map": ap, "ap50": ap50}
    each = [
        _overlap(t, f) if t else float(same) for t, f, same in zip(true, found, exact, strict=True)
    ]
    return Scored(scores, each)


# --- The table ------------------------------------------------------------------------------------

SOURCE = "big_vision's PaliGemma README, arXiv 2407.07726 and 2412.03555"
ASK = "answer en {text}"

BENCHMARKS: dict[str, Benchmark] = {
    row.key: row
    for row in (
        Benchmark("coco-captions", coco.coco_captions, "caption en", _captions, 64,
                  {"cider": {224: 1.419, 448: 1.446}}),
        Benchmark("coco-detection", coco.coco_detection, "detect {text}", _boxes, 256,
                  {"map": {224: 0.287, 448: 0.370, 896: 0.411}}),
        Benchmark("refcoco", coco.refcoco, "segment {text}", _referred, 48,
                  {"miou": {224: 0.734, 448: 0.756, 896: 0.769}}),
        Benchmark("vqav2", questions.vqav2, ASK,
                  _each("accuracy", lambda said, one: vqa_accuracy(said, one.truth.texts)), 32,
                  {"accuracy": {224: 0.832, 448: 0.856}}),
        Benchmark("textvqa", questions.textvqa, ASK,
                  _each("accuracy", lambda said, one: vqa_accuracy(said, one.truth.texts)), 32,
                  {"accuracy": {224: 0.555, 448: 0.732, 896: 0.765}}),
        Benchmark("docvqa", questions.docvqa, ASK,
                  _each("anls", lambda said, one: anls(said, one.truth.texts)), 64,
                  {"anls": {224: 0.437, 448: 0.780, 896: 0.848}}),
        Benchmark("chartqa", questions.chartqa, ASK,
                  _each("relaxed", lambda said, one: relaxed(said, one.truth.texts[0])), 48),
        Benchmark("mmmu", questions.mmmu, ASK,
                  _each("accuracy", lambda said, one: chosen(said, one.truth.options)
                        in one.truth.letters), 32),
        Benchmark("json-lines", questions.json_lines, "{text}", _lines, 256),
    )
}  # fmt: skip


def benchmark(key: str) -> Benchmark:
    """The row of this name; ValueError with the nearest one where there is none."""
    if key in BENCHMARKS:
        return BENCHMARKS[key]
    near = get_close_matches(key, BENCHMARKS, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(BENCHMARKS)}."
    raise ValueError(f"There is no task {key!r}; {hint}")
