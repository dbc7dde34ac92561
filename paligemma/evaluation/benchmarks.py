"""The benchmarks, one row each: how data is loaded, the prompt, and how answers are scored."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

import numpy as np

from paligemma.detections import Detection, box_iou
from paligemma.evaluation.answers import DecodeMasks, score_answers
from paligemma.evaluation.classes import ClassReport, report_classes
from paligemma.evaluation.datasets import coco, questions
from paligemma.evaluation.datasets.examples import (
    AnswerReferences,
    ChoiceTarget,
    DetectionTarget,
    EvaluationDataset,
    EvaluationExample,
    ReferringTarget,
)
from paligemma.evaluation.metrics.anls import anls
from paligemma.evaluation.metrics.caption_tokens import tokenize_caption
from paligemma.evaluation.metrics.cider import cider_d
from paligemma.evaluation.metrics.detection import (
    coco_average_precisions,
    mean_overlap,
    mean_precision,
)
from paligemma.evaluation.metrics.multiple_choice import parse_choice
from paligemma.evaluation.metrics.relaxed_accuracy import relaxed_match
from paligemma.evaluation.metrics.segmentation import parse_referred_object, referring_iou
from paligemma.evaluation.metrics.vqa import vqa_accuracy
from paligemma.evaluation.predictions import Prediction

MASK_BATCH = 256  # masks decoded together


@dataclass(frozen=True)
class BenchmarkScores:
    """The scores of a benchmark by name, and that of each answer: 0..1, captions 0..10.

    `classes` is the report by class where objects are detected, else None.
    """

    scores: dict[str, float | int]
    per_example: list[float]
    classes: ClassReport | None = None


ScoreFunction = Callable[
    [Sequence[EvaluationExample], Sequence[Prediction], DecodeMasks], BenchmarkScores
]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    template: the prompt, with {text} for the example's text.
    published: {score: {resolution: value}} of PaliGemma 3B fine-tuned on it, from
    `PUBLISHED_SOURCE`.
    """

    key: str
    load: Callable[[Path, str], EvaluationDataset]
    template: str
    score: ScoreFunction
    max_new_tokens: int
    published: dict[str, dict[int, float]] = field(default_factory=dict)

    def prompt(self, example: EvaluationExample) -> str:
        """The example's prompt, in one line."""
        return " ".join(self.template.format(text=example.text).split())


# --- Scores ---------------------------------------------------------------------------------------

T = TypeVar("T")


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def _target(example: EvaluationExample, kind: type[T]) -> T:
    assert isinstance(example.target, kind)
    return example.target


def _mean_of(name: str, score_answer: Callable[[str, EvaluationExample], float]) -> ScoreFunction:
    """The mean score of all answers, and of each group's."""

    def score(
        examples: Sequence[EvaluationExample], predictions: Sequence[Prediction], _: DecodeMasks
    ) -> BenchmarkScores:
        values, groups = [], defaultdict(list)
        for example, prediction in zip(examples, predictions, strict=True):
            values.append(float(score_answer(prediction.text, example)))
            groups[example.group].append(values[-1])
        by_group = {f"{name} of {group}": _mean(groups[group]) for group in sorted(groups)}
        return BenchmarkScores(
            {name: _mean(values)} | (by_group if len(by_group) > 1 else {}), values
        )

    return score


def _vqa_accuracy(answer: str, example: EvaluationExample) -> float:
    return vqa_accuracy(answer, _target(example, AnswerReferences).texts)


def _anls(answer: str, example: EvaluationExample) -> float:
    return anls(answer, _target(example, AnswerReferences).texts)


def _relaxed_match(answer: str, example: EvaluationExample) -> float:
    return relaxed_match(answer, _target(example, AnswerReferences).texts[0])


def _choice_is_correct(answer: str, example: EvaluationExample) -> float:
    target = _target(example, ChoiceTarget)
    return parse_choice(answer, target.options) in target.letters


def _score_captions(
    examples: Sequence[EvaluationExample], predictions: Sequence[Prediction], _: DecodeMasks
) -> BenchmarkScores:
    scores = cider_d(
        [tokenize_caption(prediction.text) for prediction in predictions],
        [
            [tokenize_caption(text) for text in _target(example, AnswerReferences).texts]
            for example in examples
        ],
    )
    return BenchmarkScores({"cider": _mean(scores)}, scores)


def _score_detection(
    examples: Sequence[EvaluationExample], predictions: Sequence[Prediction], _: DecodeMasks
) -> BenchmarkScores:
    """COCO's mAP. Labels that the prompt does not name do not count."""
    annotations: list[dict] = []
    results: list[dict] = []
    overlaps, names = [], {}
    # an image has several prompts, which share the categories
    objects, predicted, crowds = (defaultdict[int, list[Detection]](list) for _ in range(3))
    for example, prediction in zip(examples, predictions, strict=True):
        target = _target(example, DetectionTarget)
        found = [one for one in prediction.detections if one.label in target.categories]
        overlaps.append(mean_overlap(target.detections, found))
        names |= {number: name for name, number in target.categories.items()}
        objects[target.image_id] += target.detections
        predicted[target.image_id] += found
        crowds[target.image_id] += target.crowds
        annotations += [one.to_coco() for one in target.annotations]
        for one in found:
            x1, y1, x2, y2 = one.xyxy(*target.size)
            results.append(
                {
                    "image_id": target.image_id,
                    "category_id": target.categories[one.label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": one.score,
                }
            )
    images = sorted(objects)
    by_category = coco_average_precisions(images, annotations, results)
    precisions = {names[number]: each for number, each in by_category.items()}
    classes = report_classes(
        [objects[image] for image in images],
        [predicted[image] for image in images],
        [crowds[image] for image in images],
        precisions,
    )
    ap50, mean_ap = mean_precision(by_category.values())
    scores = {"map": mean_ap, "ap50": ap50, "images": len(images)}
    return BenchmarkScores(scores, overlaps, classes)


def _score_referring(
    examples: Sequence[EvaluationExample],
    predictions: Sequence[Prediction],
    decode_masks: DecodeMasks,
) -> BenchmarkScores:
    found = [parse_referred_object(prediction.text) for prediction in predictions]
    soft_masks = _decode_in_batches([one for one in found if one is not None], decode_masks)
    mask_ious, box_ious, invalid = [], [], 0
    for example, one in zip(examples, found, strict=True):
        target = _target(example, ReferringTarget)
        soft_mask = None if one is None else next(soft_masks)
        iou = None
        if one is not None and soft_mask is not None:
            iou = referring_iou(one.box, soft_mask, target.mask)
        invalid += iou is None
        mask_ious.append(iou or 0.0)
        box_ious.append(0.0 if one is None else box_iou(one.box, target.box))
    accuracy = {f"box_accuracy_{t}": _mean([t <= iou for iou in box_ious]) for t in (0.5, 0.75)}
    scores = {"miou": _mean(mask_ious)} | accuracy | {"invalid": invalid}
    return BenchmarkScores(scores, mask_ious)


def _decode_in_batches(
    detections: Sequence[Detection], decode_masks: DecodeMasks
) -> Iterator[np.ndarray | None]:
    """The mask of each, a batch at a time: all of a benchmark's would not fit in memory."""
    for start in range(0, len(detections), MASK_BATCH):
        yield from decode_masks(detections[start : start + MASK_BATCH])


def _score_json_lines(
    examples: Sequence[EvaluationExample],
    predictions: Sequence[Prediction],
    decode_masks: DecodeMasks,
) -> BenchmarkScores:
    """The metrics of the prompts' tasks: see `score_answers`."""
    references = [_target(example, AnswerReferences) for example in examples]
    exact = [
        prediction.text == reference.texts[0]
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    targets = [reference.detections for reference in references]
    found = [prediction.detections for prediction in predictions]
    scored = score_answers(
        [example.text for example in examples],
        [reference.texts[0] for reference in references],
        [prediction.text for prediction in predictions],
        found,
        decode_masks,
    )
    per_example = [
        mean_overlap(objects, predicted) if objects else float(same)
        for objects, predicted, same in zip(targets, found, exact, strict=True)
    ]
    return BenchmarkScores({**scored.scores}, per_example, scored.classes)


# --- The table ------------------------------------------------------------------------------------

PUBLISHED_SOURCE = "big_vision's PaliGemma README, arXiv 2407.07726 and 2412.03555"
ANSWER = "answer en {text}"

BENCHMARKS: dict[str, Benchmark] = {
    row.key: row
    for row in (
        Benchmark("coco-captions", coco.load_coco_captions, "caption en", _score_captions, 64,
                  {"cider": {224: 1.419, 448: 1.446}}),
        Benchmark("coco-detection", coco.load_coco_detection, "detect {text}", _score_detection,
                  256, {"map": {224: 0.287, 448: 0.370, 896: 0.411}}),
        Benchmark("refcoco", coco.load_refcoco, "segment {text}", _score_referring, 48,
                  {"miou": {224: 0.734, 448: 0.756, 896: 0.769}}),
        Benchmark("vqav2", questions.load_vqav2, ANSWER, _mean_of("accuracy", _vqa_accuracy), 32,
                  {"accuracy": {224: 0.832, 448: 0.856}}),
        Benchmark("textvqa", questions.load_textvqa, ANSWER, _mean_of("accuracy", _vqa_accuracy),
                  32, {"accuracy": {224: 0.555, 448: 0.732, 896: 0.765}}),
        Benchmark("docvqa", questions.load_docvqa, ANSWER, _mean_of("anls", _anls), 64,
                  {"anls": {224: 0.437, 448: 0.780, 896: 0.848}}),
        Benchmark("chartqa", questions.load_chartqa, ANSWER,
                  _mean_of("relaxed_accuracy", _relaxed_match), 48),
        Benchmark("mmmu", questions.load_mmmu, ANSWER, _mean_of("accuracy", _choice_is_correct),
                  32),
        Benchmark("json-lines", questions.load_json_lines, "{text}", _score_json_lines, 256),
    )
}  # fmt: skip


def get_benchmark(key: str) -> Benchmark:
    """The benchmark of this name. Raises ValueError, with the nearest name, if there is none."""
    if key in BENCHMARKS:
        return BENCHMARKS[key]
    near = get_close_matches(key, BENCHMARKS, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(BENCHMARKS)}."
    raise ValueError(f"There is no task {key!r}; {hint}")
