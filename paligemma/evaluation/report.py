"""The worst answers of an evaluation as one HTML page: image, prompt, answer and target."""

import base64
import io
from collections.abc import Callable, Sequence
from html import escape

import cv2
import numpy as np
from PIL import Image

from paligemma.detections import Detection
from paligemma.evaluation.datasets.examples import EvaluationExample, ReferringTarget
from paligemma.evaluation.predictions import Prediction
from paligemma.images import open_image
from paligemma.models.mask_codec import MASK_SIZE
from visualize import draw_objects

MAX_EXAMPLES = 24
MAX_SIDE = 480  # pixels of the longer side of an image on the page

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem;
       padding: 0 1rem; color: #1b1f24; background: #fff; }
section { border-top: 1px solid #d0d7de; padding: 1rem 0; }
div { display: flex; gap: 1rem; flex-wrap: wrap; }
figure { margin: 0; } img { max-width: 100%; } figcaption { color: #57606a; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0 0 .6rem; }
dt { color: #57606a; } dd { margin: 0; overflow-wrap: anywhere; }
"""


def format_report(
    examples: Sequence[EvaluationExample],
    predictions: Sequence[Prediction],
    scores: Sequence[float],
    decode_masks: Callable[[Sequence[Detection]], Sequence[np.ndarray | None]],
    results: dict,
) -> str:
    """The page. `scores` has one for each answer; `decode_masks` decodes those of detections."""
    worst = sorted(range(len(scores)), key=scores.__getitem__)[:MAX_EXAMPLES]
    sections = "".join(
        _format_example(examples[n], predictions[n], scores[n], decode_masks) for n in worst
    )
    heading = f"{results['task']}: the {len(worst)} worst of {len(scores)} answers"
    totals = "".join(
        f"<dt>{escape(name)}</dt><dd>{score:.3f}</dd>"
        if isinstance(score, float)
        else f"<dt>{escape(name)}</dt><dd>{score}</dd>"
        for name, score in results["scores"].items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(heading)}</title>'
        f"<style>{STYLE}</style><h1>{escape(heading)}</h1>"
        f"<p>{escape(results['model'])} · {escape(results['data'])}</p><dl>{totals}</dl>"
        f"{sections}</html>\n"
    )


def _format_example(
    example: EvaluationExample, prediction: Prediction, score: float, decode_masks: Callable
) -> str:
    image = open_image(example.image)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    target = example.target
    if target.detections or prediction.detections:
        if isinstance(target, ReferringTarget):
            masks = [_mask_in_box(target)]
        else:
            masks = decode_masks(target.detections)
        drawn = draw_objects(image, target.detections, masks)
        answer = draw_objects(image, prediction.detections, decode_masks(prediction.detections))
        figures = _format_figure(drawn, "target") + _format_figure(answer, "answer")
    else:
        figures = _format_figure(image, "")
    values = {
        "prompt": prediction.prompt,
        "answer": prediction.text or "(no text returned)",
        "target": target.summary,
        "score": f"{score:.3f}",
    }
    listed = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in values.items())
    return f"<section><h2>{escape(example.id)}</h2><dl>{listed}</dl><div>{figures}</div></section>"


def _mask_in_box(target: ReferringTarget) -> np.ndarray | None:
    """The target's mask in its box as the codec would decode it: [64, 64], inside where > 0."""
    width, height = target.size
    x1, y1, x2, y2 = (round(v * s) for v, s in zip(target.box, (width, height) * 2, strict=True))
    inside = target.mask[y1:y2, x1:x2].astype(np.float32)
    if not inside.size:
        return None
    return cv2.resize(inside, (MASK_SIZE, MASK_SIZE), interpolation=cv2.INTER_AREA) * 2 - 1


def _format_figure(image: Image.Image, caption: str) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    tag = f'<img src="data:image/jpeg;base64,{data}" alt="{escape(caption)}">'
    return f"<figure>{tag}<figcaption>{escape(caption)}</figcaption></figure>"
