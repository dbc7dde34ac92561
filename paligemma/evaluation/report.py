"""The worst answers of an evaluation as one HTML file: picture, prompt, answer and truth."""

import base64
import io
from collections.abc import Callable, Sequence
from html import escape

import cv2
import numpy as np
from PIL import Image

from paligemma.detections import Detection
from paligemma.evaluation.datasets.examples import Example, Referred
from paligemma.evaluation.predictions import Prediction
from paligemma.images import open_image
from visualize import draw_objects

SHOWN = 24
SIDE = 480  # pixels of the longer side of a picture on the page

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem;
       padding: 0 1rem; color: #1b1f24; background: #fff; }
section { border-top: 1px solid #d0d7de; padding: 1rem 0; }
div { display: flex; gap: 1rem; flex-wrap: wrap; }
figure { margin: 0; } img { max-width: 100%; } figcaption { color: #57606a; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0 0 .6rem; }
dt { color: #57606a; } dd { margin: 0; overflow-wrap: anywhere; }
"""


def write_page(
    examples: Sequence[Example],
    said: Sequence[Prediction],
    each: Sequence[float],
    masks: Callable[[Sequence[Detection]], Sequence[np.ndarray | None]],
    results: dict,
) -> str:
    """The page. `each` is how good every answer is; `masks` decodes those of detections."""
    worst = sorted(range(len(each)), key=each.__getitem__)[:SHOWN]
    cases = "".join(_case(examples[n], said[n], each[n], masks) for n in worst)
    heading = f"{results['task']}: the {len(worst)} worst of {len(each)} answers"
    scores = "".join(
        f"<dt>{escape(name)}</dt><dd>{score:.3f}</dd>"
        if isinstance(score, float)
        else f"<dt>{escape(name)}</dt><dd>{score}</dd>"
        for name, score in results["scores"].items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(heading)}</title>'
        f"<style>{STYLE}</style><h1>{escape(heading)}</h1>"
        f"<p>{escape(results['model'])} · {escape(results['data'])}</p><dl>{scores}</dl>"
        f"{cases}</html>\n"
    )


def _case(example: Example, said: Prediction, good: float, masks: Callable) -> str:
    image = open_image(example.image)
    image.thumbnail((SIDE, SIDE))
    truth = example.truth
    if truth.detections or said.detections:
        outlines = [_outline(truth)] if isinstance(truth, Referred) else masks(truth.detections)
        figures = _figure(draw_objects(image, truth.detections, outlines), "truth")
        answered = draw_objects(image, said.detections, masks(said.detections))
        figures += _figure(answered, "answer")
    else:
        figures = _figure(image, "")
    rows = {
        "prompt": said.prompt,
        "answer": said.text or "(nothing)",
        "truth": truth.text,
        "score": f"{good:.3f}",
    }
    listed = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in rows.items())
    return f"<section><h2>{escape(example.id)}</h2><dl>{listed}</dl><div>{figures}</div></section>"


def _outline(truth: Referred) -> np.ndarray | None:
    """The true mask in its box as the codec would decode it: [64, 64], inside where > 0."""
    height, width = truth.mask.shape
    x1, y1, x2, y2 = (round(v * s) for v, s in zip(truth.box, (width, height) * 2, strict=True))
    inside = truth.mask[y1:y2, x1:x2].astype(np.float32)
    if not inside.size:
        return None
    return cv2.resize(inside, (64, 64), interpolation=cv2.INTER_AREA) * 2 - 1


def _figure(image: Image.Image, name: str) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    coded = base64.b64encode(file.getvalue()).decode("ascii")
    picture = f'<img src="data:image/jpeg;base64,{coded}" alt="{escape(name)}">'
    return f"<figure>{picture}<figcaption>{escape(name)}</figcaption></figure>"
