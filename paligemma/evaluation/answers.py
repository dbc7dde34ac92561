"""Scores of answers to prompts of any task, against one reference each.

score_answers(["caption en"], ["a cat"], ["a cat"], [[]], decode_masks).scores  # {"exact": 1.0, …}
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from paligemma.detections import Detection, parse
from paligemma.evaluation.classes import ClassReport, report_classes
from paligemma.evaluation.metrics.caption_tokens import tokenize_caption
from paligemma.evaluation.metrics.cider import cider_d
from paligemma.evaluation.metrics.detection import mean_precision
from paligemma.evaluation.metrics.segmentation import matched_ious, object_mask_iou
from paligemma.evaluation.metrics.vqa import normalize_answer
from paligemma.tasks import task_of

DecodeMasks = Callable[[Sequence[Detection]], Sequence[np.ndarray | None]]


@dataclass(frozen=True)
class AnswerScores:
    """The mean of each metric over the prompts that it is for, and detection by class.

    `exact`: all. `accuracy`: questions, equal once normalized as VQA does. `cider`: captions, of
    0..10. `ap50`, `map`: boxes, where a reference has any. `miou`: the masks of `segment` prompts.
    `classes` is None where no reference has a box.
    """

    scores: dict[str, float]
    classes: ClassReport | None


def score_answers(
    prompts: Sequence[str],
    references: Sequence[str],
    answers: Sequence[str],
    detections: Sequence[Sequence[Detection]],
    decode_masks: DecodeMasks,
) -> AnswerScores:
    """Score each answer by its reference; `detections` are its objects, with their scores."""
    tasks = [task_of(prompt) for prompt in prompts]
    pairs = list(zip(references, answers, strict=True))
    scores = {"exact": _mean([answer == reference for reference, answer in pairs])}
    asked = [pair for task, pair in zip(tasks, pairs, strict=True) if task == "ask"]
    if asked:
        scores["accuracy"] = _mean([normalize_answer(a) == normalize_answer(b) for a, b in asked])
    captions = [
        pair for task, pair in zip(tasks, pairs, strict=True) if task in ("caption", "region")
    ]
    if captions:
        tokens = [(tokenize_caption(a), tokenize_caption(b)) for a, b in captions]
        scores["cider"] = _mean(cider_d([b for _, b in tokens], [[a] for a, _ in tokens]))
    targets = [parse(reference) for reference in references]
    classes = report_classes(targets, detections) if any(targets) else None
    if classes:
        scores["ap50"], scores["map"] = mean_precision(classes.precisions.values())
    segmented = [n for n, task in enumerate(tasks) if task == "segment"]
    if any(targets[n] for n in segmented):
        overlaps = [_mask_ious(targets[n], detections[n], decode_masks) for n in segmented]
        scores["miou"] = _mean([iou for image in overlaps for iou in image])
    return AnswerScores(scores, classes)


def _mask_ious(
    targets: Sequence[Detection], found: Sequence[Detection], decode_masks: DecodeMasks
) -> list[float]:
    """The mask IoU of each object of an image; missed and extra ones are 0."""
    target_masks, masks = decode_masks(targets), decode_masks(found)

    def iou(target: int, match: int) -> float | None:
        mask, target_mask = masks[match], target_masks[target]
        if mask is None or target_mask is None:
            return None
        return object_mask_iou(targets[target], target_mask, found[match], mask)

    return matched_ious(targets, found, iou)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
