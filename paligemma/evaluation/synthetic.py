"""Measure a model on drawn scenes that training never draws.

    python -m paligemma evaluate [--model PATH] [--scenes 500] [--first 1000000]

Training takes its scenes from seeds of 2**40 and above; these come from small ones.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from tqdm import tqdm

from paligemma.detections import Detection
from paligemma.evaluation.metrics.boxes import average_precision, mask_iou, pair
from paligemma.generation import SamplingOptions
from paligemma.models.mask_codec import MaskCodec
from paligemma.pipeline import PaliGemma
from paligemma.reply import Reply
from paligemma.synthetic.language import caption, questions, reading, search
from paligemma.synthetic.scenes import KINDS, Scene, render, sample, silhouette
from paligemma.tasks import TASKS
from paligemma.training.mask_codec import silhouettes
from visualize import paste_mask

BATCH = 50
SIZE = 256  # pixels a side of the pictures, and of the masks compared
LONGEST = SamplingOptions(max_new_tokens=160)
# Glyphs that neither the drawn world nor the codec's training has.
UNSEEN_SHAPES = list("☏☚☮♔♗♘♙♩♻✇✍✓✗✚✪✻✽❁❂❇❋❥☻☹⚐✙✤✣❈➲➨")


def evaluate(pg: PaliGemma, scenes: int, first: int) -> dict[str, float | int]:
    """Every score of `pg` on `scenes` scenes with seeds from `first` on.

    A score is 0 where the scenes gave nothing to ask. ValueError for fewer than one scene and for
    a seed below 0.
    """
    if scenes < 1:
        raise ValueError(f"A model is measured on at least one scene, not {scenes}.")
    if first < 0:
        raise ValueError(f"A seed is a whole number from 0, not {first}.")
    drawn = [sample(first + n) for n in range(scenes)]
    scores: dict[str, float | int] = {"scenes": scenes}
    for name, measure in MEASURES.items():
        scores |= measure(pg, drawn, np.random.default_rng(first), name)
    return scores


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def answers(
    pg: PaliGemma, asked: Sequence[tuple[Scene, str]], name: str
) -> Iterable[tuple[Scene, Reply]]:
    """Each scene with its reply, in order, batches of like length together."""
    order = sorted(range(len(asked)), key=lambda n: len(asked[n][1]))
    replies: dict[int, Reply] = {}
    for start in tqdm(range(0, len(order), BATCH), desc=name, unit="batch"):
        rows = order[start : start + BATCH]
        pictures = [render(asked[n][0], SIZE) for n in rows]
        batch = pg.batch(pictures, [asked[n][1] for n in rows], LONGEST)
        replies |= dict(zip(rows, batch, strict=True))
    return [(asked[n][0], replies[n]) for n in range(len(asked))]


def _exact(truth: Callable[[Scene], str], prompt: str, only: Callable[[Scene], bool]):
    def measure(pg: PaliGemma, scenes: Sequence[Scene], _, name: str) -> dict:
        asked = [(scene, prompt) for scene in scenes if only(scene)]
        right = [reply.text == truth(scene) for scene, reply in answers(pg, asked, name)]
        return {f"{name}_exact": _mean(right), f"{name}_asked": len(right)}

    return measure


def _questions(pg: PaliGemma, scenes: Sequence[Scene], rng, name: str) -> dict:
    asked = [(scene, question) for scene in scenes for question in questions(scene, rng)]
    prompts = [(scene, TASKS["ask"].prompt(question)) for scene, (question, _) in asked]
    texts = [reply.text for _, reply in answers(pg, prompts, name)]
    right = [text == answer for text, (_, (_, answer)) in zip(texts, asked, strict=True)]
    return {"ask_accuracy": _mean(right), "ask_asked": len(right)}


def _detect(pg: PaliGemma, scenes: Sequence[Scene], rng, name: str) -> dict:
    asked = [search(scene, "detect", rng) for scene in scenes]
    prompts = [(scene, example.prefix) for scene, example in zip(scenes, asked, strict=True)]
    found = [reply.detections for _, reply in answers(pg, prompts, name)]
    true = [[Detection(item.kind, item.box) for item in example.found] for example in asked]
    ap50, ap = average_precision(true, found)
    return {"detect_ap50": ap50, "detect_map": ap, "detect_asked": len(true)}


def _segment(pg: PaliGemma, scenes: Sequence[Scene], rng, name: str) -> dict:
    asked = [search(scene, "segment", rng, most=2) for scene in scenes]
    prompts = [(scene, example.prefix) for scene, example in zip(scenes, asked, strict=True)]
    overlaps: list[float] = []
    for example, (_, reply) in zip(asked, answers(pg, prompts, name), strict=True):
        true = [Detection(item.kind, item.box) for item in example.found]
        pairs = pair(true, reply.detections)
        overlaps += [0.0] * (len(reply.detections) - sum(m is not None for m in pairs))
        soft = pg.masks(reply.detections)
        for item, m in zip(example.found, pairs, strict=True):
            if m is None or soft[m] is None:
                overlaps.append(0.0)
                continue
            mask = paste_mask(soft[m], reply.detections[m].box, SIZE, SIZE)
            overlaps.append(mask_iou(mask, silhouette(item, SIZE) > 0))
    return {"segment_miou": _mean(overlaps), "segment_objects": len(overlaps)}


def _codec(pg: PaliGemma, scenes: Sequence[Scene], rng, name: str) -> dict:
    return {
        "codec_iou": codec_iou(pg.mask_codec, rng, list(KINDS)),
        "codec_iou_unseen_shapes": codec_iou(pg.mask_codec, rng, UNSEEN_SHAPES),
    }


def codec_iou(codec: MaskCodec, rng: np.random.Generator, shapes: list[str]) -> float:
    """Mean IoU of 1000 silhouettes of these shapes, freshly turned, with their decoded codes."""
    masks = silhouettes(1000, rng, shapes)
    decoded = codec.decode(codec.encode(torch.from_numpy(masks))).numpy() > 0
    return float(np.mean([mask_iou(a, b > 0.5) for a, b in zip(decoded, masks, strict=True)]))


MEASURES = {
    "caption": _exact(caption, TASKS["caption"].prompt(), lambda scene: True),
    "ask": _questions,
    "read": _exact(reading, TASKS["read"].prompt(), lambda scene: bool(scene.texts)),
    "detect": _detect,
    "segment": _segment,
    "codec": _codec,
}
