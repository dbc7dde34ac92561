"""Measure a model on rendered scenes that training never uses.

    paligemma evaluate [--model PATH] [--num-scenes 500] [--first-seed 1000000]

Training takes its scenes from seeds of 2**40 and above; these come from small ones.
"""

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from tqdm import tqdm

from paligemma.detections import Detection
from paligemma.evaluation.metrics.detection import average_precision
from paligemma.evaluation.metrics.segmentation import mask_iou, matched_ious
from paligemma.generation import SamplingOptions
from paligemma.models.mask_codec import MaskCodec
from paligemma.pipeline import PaliGemma
from paligemma.reply import Reply
from paligemma.synthetic.language import caption, questions, reading, search
from paligemma.synthetic.pictograms import silhouettes
from paligemma.synthetic.scenes import KINDS, Item, Scene, render, sample, silhouette
from paligemma.tasks import TASKS
from visualize import paste_mask

BATCH_SIZE = 50
SCENE_SIZE = 256  # pixels a side of rendered scenes, and of the masks compared
OPTIONS = SamplingOptions(max_new_tokens=160)
NUM_SILHOUETTES = 1000
# Glyphs that neither the scenes nor the codec's training have.
UNSEEN_SHAPES = list("☏☚☮♔♗♘♙♩♻✇✍✓✗✚✪✻✽❁❂❇❋❥☻☹⚐✙✤✣❈➲➨")

Scores = dict[str, float | int]


def evaluate_synthetic(pg: PaliGemma, scenes: int, first_seed: int) -> Scores:
    """Every score of `pg` on `scenes` scenes with seeds from `first_seed` on.

    A score without any example is 0. Raises ValueError for fewer than one scene and for a seed
    below 0.
    """
    if scenes < 1:
        raise ValueError(f"A model is measured on at least one scene, not {scenes}.")
    if first_seed < 0:
        raise ValueError(f"A seed is a whole number from 0, not {first_seed}.")
    sampled = [sample(first_seed + n) for n in range(scenes)]
    scores: Scores = {"scenes": scenes}
    for measure in (
        measure_captions,
        measure_answers,
        measure_reading,
        measure_detection,
        measure_segmentation,
        measure_codec,
    ):
        scores |= measure(pg, sampled, np.random.default_rng(first_seed))
    return scores


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def _replies(pg: PaliGemma, prompts: Sequence[tuple[Scene, str]], name: str) -> list[Reply]:
    """The reply to each (scene, prompt), in order; prompts of similar length share a batch."""
    order = sorted(range(len(prompts)), key=lambda n: len(prompts[n][1]))
    replies: dict[int, Reply] = {}
    for start in tqdm(range(0, len(order), BATCH_SIZE), desc=name, unit="batch"):
        batch = order[start : start + BATCH_SIZE]
        images = [render(prompts[n][0], SCENE_SIZE) for n in batch]
        answers = pg.generate_batch(images, [prompts[n][1] for n in batch], OPTIONS)
        replies |= dict(zip(batch, answers, strict=True))
    return [replies[n] for n in range(len(prompts))]


def _exact_match(
    pg: PaliGemma, scenes: Sequence[Scene], task: str, reference: Callable[[Scene], str]
) -> Scores:
    replies = _replies(pg, [(scene, TASKS[task].prompt()) for scene in scenes], task)
    correct = [reply.text == reference(scene) for scene, reply in zip(scenes, replies, strict=True)]
    return {f"{task}_exact": _mean(correct), f"{task}_examples": len(correct)}


def measure_captions(pg: PaliGemma, scenes: Sequence[Scene], rng: np.random.Generator) -> Scores:
    return _exact_match(pg, scenes, "caption", caption)


def measure_reading(pg: PaliGemma, scenes: Sequence[Scene], rng: np.random.Generator) -> Scores:
    return _exact_match(pg, [scene for scene in scenes if scene.texts], "read", reading)


def measure_answers(pg: PaliGemma, scenes: Sequence[Scene], rng: np.random.Generator) -> Scores:
    examples = [(scene, *pair) for scene in scenes for pair in questions(scene, rng)]
    prompts = [(scene, TASKS["ask"].prompt(question)) for scene, question, _ in examples]
    replies = _replies(pg, prompts, "ask")
    correct = [
        reply.text == answer for reply, (_, _, answer) in zip(replies, examples, strict=True)
    ]
    return {"ask_accuracy": _mean(correct), "ask_examples": len(correct)}


def _find_objects(
    pg: PaliGemma, scenes: Sequence[Scene], rng: np.random.Generator
) -> tuple[list[list[Detection]], list[tuple[Detection, ...]]]:
    """What there is, and what was found, of the one to four kinds that each scene is asked for."""
    examples = [search(scene, "detect", rng) for scene in scenes]
    prompts = [(scene, one.prefix) for scene, one in zip(scenes, examples, strict=True)]
    found = [reply.detections for reply in _replies(pg, prompts, "detect")]
    return [[Detection(item.kind, item.box) for item in one.objects] for one in examples], found


def measure_detection(pg: PaliGemma, scenes: Sequence[Scene], rng: np.random.Generator) -> Scores:
    targets, found = _find_objects(pg, scenes, rng)
    ap50, mean_ap = average_precision(targets, found)
    return {"detect_ap50": ap50, "detect_map": mean_ap, "detect_examples": len(targets)}


def measure_segmentation(
    pg: PaliGemma, scenes: Sequence[Scene], rng: np.random.Generator
) -> Scores:
    """Mean IoU of masks over all objects; missed and extra ones count 0."""
    examples = [search(scene, "segment", rng, most=2) for scene in scenes]
    prompts = [(scene, one.prefix) for scene, one in zip(scenes, examples, strict=True)]
    overlaps: list[float] = []
    for example, reply in zip(examples, _replies(pg, prompts, "segment"), strict=True):
        targets = [Detection(item.kind, item.box) for item in example.objects]
        soft_masks = pg.masks(reply.detections)

        def iou(target: int, match: int, example=example, reply=reply, soft_masks=soft_masks):
            if (soft_mask := soft_masks[match]) is None:
                return None
            mask = paste_mask(soft_mask, reply.detections[match].box, SCENE_SIZE, SCENE_SIZE)
            return mask_iou(mask, silhouette(cast(Item, example.objects[target]), SCENE_SIZE) > 0)

        overlaps += matched_ious(targets, reply.detections, iou)
    return {"segment_miou": _mean(overlaps), "segment_objects": len(overlaps)}


def measure_codec(pg: PaliGemma, scenes: Sequence[Scene], rng: np.random.Generator) -> Scores:
    return {
        "codec_iou": codec_iou(pg.mask_codec, rng, list(KINDS)),
        "codec_iou_unseen_shapes": codec_iou(pg.mask_codec, rng, UNSEEN_SHAPES),
    }


def codec_iou(codec: MaskCodec, rng: np.random.Generator, shapes: list[str]) -> float:
    """Mean IoU of silhouettes of these shapes, randomly rotated, and of their decoded codes."""
    masks = silhouettes(NUM_SILHOUETTES, rng, shapes)
    decoded = codec.decode(codec.encode(torch.from_numpy(masks))).numpy() > 0
    return float(np.mean([mask_iou(a, b > 0.5) for a, b in zip(decoded, masks, strict=True)]))
