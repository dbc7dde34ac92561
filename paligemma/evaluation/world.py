"""Measure a model on the scenes of a synthetic world, by everything that the world asks of them.

    paligemma evaluate --world stickers [--artists twemoji] [--num-scenes 1000]

Training takes its scenes from seeds of 2**40 and above; these come from small ones. Exact scores
and IoU have 95 % intervals: scenes, not examples, are resampled, since those of a scene are alike.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from paligemma.detections import Box, Detection
from paligemma.evaluation.metrics.detection import average_precision
from paligemma.evaluation.metrics.segmentation import mask_iou, matched_ious
from paligemma.generation import SamplingOptions
from paligemma.pipeline import PaliGemma
from paligemma.reply import Reply
from paligemma.synthetic.world import SceneSample, World
from visualize import paste_mask

BATCH_SIZE = 50
CHUNK = 100  # scenes in memory at a time
OPTIONS = SamplingOptions(max_new_tokens=200)
RENDER_SIDE = 256  # pixels, for worlds that draw at any size
RESAMPLES = 1000
FRAME = 64  # cells a side in which masks are compared


class Score(NamedTuple):
    """A score, its 95 % interval where it has one, and the examples it is the mean of."""

    value: float
    low: float | None
    high: float | None
    examples: int


class Answered(NamedTuple):
    """A sample of scene number `scene`, the reply to it, and its masks."""

    scene: int
    sample: SceneSample
    reply: Reply
    masks: Sequence[np.ndarray | None]


def evaluate_world(
    pg: PaliGemma, world: World, num_scenes: int, first_seed: int
) -> dict[str, Score]:
    """The scores of `pg` by task: `caption`, `ask`, `read`, `region` and `question` are the shares
    of exact answers, those named `task en` of one language, where `cap en` and `describe en` are
    the other styles of captions; `read` is of what is written, `read nothing` of scenes without
    words; `detect ap50`, `detect map` and `segment iou`; `absent`, the share of things that are
    not there and were not found.

    In `segment iou`, objects that were missed and those that are too many count as 0. Raises
    ValueError for fewer than one scene and for a seed below 0.
    """
    if num_scenes < 1:
        raise ValueError(f"A model is measured on at least one scene, not {num_scenes}.")
    if first_seed < 0:
        raise ValueError(f"A seed is a whole number from 0, not {first_seed}.")
    values: dict[str, list[tuple[int, float]]] = defaultdict(list)  # (scene, 0 to 1)
    targets: list[list[Detection]] = []
    found: list[Sequence[Detection]] = []
    for start in tqdm(range(0, num_scenes, CHUNK), desc=f"{CHUNK} scenes at a time"):
        for one in ask_scenes(pg, world, range(start, min(start + CHUNK, num_scenes)), first_seed):
            sample, reply = one.sample, one.reply
            if sample.task in ("detect", "segment"):
                if not sample.objects:
                    values["absent"].append((one.scene, not reply.detections))
            else:
                for name in _score_names(sample):
                    values[name].append((one.scene, reply.text == sample.suffix))
            if sample.task == "detect":
                targets.append(target_objects(sample))
                found.append(reply.detections)
            elif sample.task == "segment":
                values["segment iou"] += [(one.scene, iou) for iou in _overlaps(world, one)]
    scores = {name: _score(pairs, num_scenes) for name, pairs in sorted(values.items())}
    ap50, mean_ap = average_precision(targets, found)
    scores["detect ap50"] = Score(ap50, None, None, len(targets))
    scores["detect map"] = Score(mean_ap, None, None, len(targets))
    return scores


def _score_names(sample: SceneSample) -> tuple[str, ...]:
    """The scores that an exact answer counts for: see `evaluate_world`."""
    if sample.task == "read":
        return ("read",) if sample.suffix else ("read nothing",)
    first, language = sample.prefix.lower().split()[:2]
    return sample.task, f"{first if sample.task == 'caption' else sample.task} {language}"


def format_scores(scores: dict[str, Score]) -> str:
    """A line for each score."""
    lines = []
    for name, (value, low, high, examples) in scores.items():
        interval = "" if low is None else f"{low:.3f} to {high:.3f}"
        lines.append(f"{name:16} {value:.3f}  {interval:16}  {examples:6}")
    return "\n".join(lines)


def ask_scenes(
    pg: PaliGemma,
    world: World,
    numbers: Iterable[int],
    first_seed: int,
    tasks: Collection[str] | None = None,
) -> Iterable[Answered]:
    """Every sample, or those of `tasks`, of the scenes of these numbers, with its reply."""
    asked: list[tuple[int, Any, SceneSample]] = []  # number, image, sample
    for number in numbers:
        scene = world.scene(first_seed + number)
        [image] = world.images([scene], RENDER_SIDE)
        rng = np.random.default_rng(first_seed + number)
        samples = world.samples(scene, rng)
        asked += [(number, image, one) for one in samples if tasks is None or one.task in tasks]
    asked.sort(key=lambda one: len(one[2].prefix))  # prompts of similar length share a batch
    for start in range(0, len(asked), BATCH_SIZE):
        batch = asked[start : start + BATCH_SIZE]
        images, prompts = [image for _, image, _ in batch], [one.prefix for *_, one in batch]
        replies = pg.generate_batch(images, prompts, OPTIONS)
        for (number, _, sample), reply in zip(batch, replies, strict=True):
            masks = pg.masks(reply.detections) if sample.task == "segment" else []
            yield Answered(number, sample, reply, masks)


def target_objects(sample: SceneSample) -> list[Detection]:
    """The objects that are to be found."""
    return [Detection(*pair) for pair in zip(sample.labels, sample.boxes, strict=True)]


def _overlaps(world: World, one: Answered) -> list[float]:
    """The IoU of each object's mask with that of its detection; 0 for missed and extra ones."""
    sample, found = one.sample, one.reply.detections

    def iou(target: int, match: int) -> float | None:
        if (mask := one.masks[match]) is None:
            return None
        predicted = found[match].box
        frame = _around(sample.boxes[target], predicted)
        inside = paste_mask(mask, _within(predicted, frame), FRAME, FRAME)
        return mask_iou(inside, world.crop(sample.objects[target], frame) > 0.5)

    return matched_ious(target_objects(sample), found, iou)


def _around(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _within(box: Box, frame: Box) -> Box:
    """A box as fractions of `frame`, which holds it."""
    left, top, right, bottom = frame
    width, height = max(right - left, 1e-6), max(bottom - top, 1e-6)
    x1, y1, x2, y2 = box
    return (x1 - left) / width, (y1 - top) / height, (x2 - left) / width, (y2 - top) / height


def _score(pairs: Sequence[tuple[int, float]], num_scenes: int) -> Score:
    """The mean of (scene, value), with its interval by the bootstrap over scenes."""
    scenes, values = np.array([scene for scene, _ in pairs]), np.array([v for _, v in pairs], float)
    sums = np.bincount(scenes, values, num_scenes)
    counts = np.bincount(scenes, minlength=num_scenes)
    drawn = np.random.default_rng(0).integers(num_scenes, size=(RESAMPLES, num_scenes))
    means = sums[drawn].sum(1) / np.maximum(counts[drawn].sum(1), 1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Score(float(values.mean()), float(low), float(high), len(values))
