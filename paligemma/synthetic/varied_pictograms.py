"""The world of pictograms, drawn in more ways than one.

A model that saw stickers of one size, upright on clean grounds, knows nothing else. Of these scenes
half are just such; in the others pictograms are small or large, turned, stretched as a wide page
is, thick or thin, or bare lines without a rim, before clutter now and then. Whole images lose
contrast and sharpness. What there is to say about a scene is the same as ever, and short and long
captions besides.
"""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from PIL import Image

from paligemma.synthetic import language
from paligemma.synthetic.effects import degrade
from paligemma.synthetic.grounds import draw_clutter
from paligemma.synthetic.pictograms import Pictograms
from paligemma.synthetic.scenes import STICKERS, Look, Scene, draw_background, paint, sample
from paligemma.synthetic.world import SceneSample

USUAL = 0.5  # the share of scenes of stickers as they are
FLAT = 0.35  # the chances of the other looks, each by itself
ANY_SIZE = 0.5
TURNED = 0.4
WIDE = 0.3
OTHER_LINES = 0.4
CLUTTERED = 0.25
VERY_BLURRED = 0.08
EFFECTS = 1.5  # times the chances of `effects.degrade`
STYLES = {"cap": 0.25, "describe": 0.35}  # of captions: the share of scenes that have each


class VariedPictograms(Pictograms):
    """A `World` with the kinds and the language of `Pictograms`, and all styles of captions."""

    def scene(self, seed: int) -> Scene:
        rng = _rng(seed)
        if rng.random() < USUAL:
            return sample(seed)
        scene = sample(seed, choose_look(rng))
        return replace(scene, ground="cluttered") if rng.random() < CLUTTERED else scene

    def samples(
        self, scene: language.DescribedScene, rng: np.random.Generator
    ) -> list[SceneSample]:
        asked = super().samples(scene, rng)
        for style, share in STYLES.items():
            if rng.random() < share:
                one = language.caption_sample(scene, style, self.kinds)
                asked.insert(int(rng.integers(len(asked) + 1)), one)
        return asked

    def images(self, scenes: Sequence[Scene], side: int) -> list[Image.Image]:
        return [draw(scene, side) for scene in scenes]


def _rng(seed: int) -> np.random.Generator:
    """What the look of a scene is drawn from: not what places its things."""
    return np.random.default_rng((seed, 1))


def choose_look(rng: np.random.Generator) -> Look:
    look = STICKERS
    if rng.random() < ANY_SIZE:
        low = float(rng.uniform(0.11, 0.5))
        look = replace(look, sizes=(low, min(low + 0.15, 0.62)))
    if rng.random() < TURNED:
        look = replace(look, max_angle=180)
    if rng.random() < WIDE:
        look = replace(look, aspect=float(np.exp(rng.uniform(-0.65, 0.65))))
    look = replace(look, has_rim=rng.random() >= FLAT)
    if rng.random() < OTHER_LINES:
        thinnest = -1 if look.has_rim else 0  # thinner lines alone would break
        look = replace(look, thickness=int(rng.integers(thinnest, 4)))
    return look


def draw(scene: Scene, side: int) -> Image.Image:
    """The image of a scene, `side` × `side`, RGB."""
    rng = np.random.default_rng((scene.seed, 2))
    canvas = draw_background(scene, side, rng)
    if scene.ground == "cluttered":
        canvas = draw_clutter(rng, canvas)
    image = np.asarray(paint(scene, canvas, rng))
    if rng.random() < VERY_BLURRED:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.008, 0.018)) * side)
    return Image.fromarray(degrade(rng, image, EFFECTS)[0])
