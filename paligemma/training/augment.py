"""Random changes of training samples, each with its answer changed alike.

Each leaves a sample as it is where its text could become wrong.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from paligemma.detections import Box, Detection, parse
from paligemma.detections import format as format_objects
from paligemma.images import open_image
from paligemma.tasks import LANGUAGES
from paligemma.training.sources import Sample

SCALE = (0.6, 1.25)  # sides of a crop as a share of the image's; beyond 1 it has gray borders
BORDER = (114, 114, 114)
MIN_VISIBLE = 0.3  # of an object's area in a crop, or it is left out of the answer
JITTER = 0.3  # the most that brightness, contrast and saturation change, as a share
HUE_JITTER = 8  # the most that the hue turns, in 256ths of the circle


def _words(pattern: str) -> re.Pattern[str]:
    """The words of a pattern, in any case; an underscore ends a word, as in `left_shoe`."""
    return re.compile(rf"(?<![^\W_])(?:{pattern})(?![^\W_])", re.IGNORECASE)


SIDES = re.compile(
    r"(?<![^\W_])(left|right)(?=(?:most|hand|wards?|side)?(?![^\W_]))", re.IGNORECASE
)
NO_SIDES = re.compile(  # what begins like a side and may be none
    r"(?<![^\W_])(?:left|right)(?!(?:most|hand|wards?|side)?(?![^\W_]))"
    r"|right[ _-](?:angle|triangle|of[ _-]way|whale)|left[ _-]over|all[ _-]right|copy[ _-]right",
    re.IGNORECASE,
)
PLACES = _words(
    "(?:left|right|top|bottom|upper|lower|center|centre|middle|corner|edge|border)(?:most)?"
    "|(?:larg|bigg|small|near|clos|farth)est|first|last"
)
COLORS = _words(
    "(?:red|orange|yellow|green|blue|purple|violet|pink|brown|black|white|gray|grey|beige|teal"
    "|navy|gold|silver|cyan|magenta|turquoise|maroon|crimson|scarlet|tan|cream|ivory|khaki|lilac"
    "|lavender|indigo|olive|bronze|blonde?|dark|light|bright|pale|colou?r)"
    "(?:s|d?ish|er|est|en|ed|ful|less|ly)?"
)


@dataclass(frozen=True)
class Augmentation:
    """The shares of samples that are mirrored, cropped and changed in color, those about several
    images excepted."""

    flip: float = 0.0
    crop: float = 0.0
    color_jitter: float = 0.0

    def __call__(self, sample: Sample, seed: int, number: int) -> Sample:
        """Sample `number` of a run: what happens to it is a function of `seed` and `number`."""
        if sample.more_images:
            return sample
        rng = np.random.default_rng((seed, 2, number))
        flipped, cropped, jittered = rng.random(3) < (self.flip, self.crop, self.color_jitter)
        if cropped:
            sample = random_crop(sample, rng)
        if flipped:
            sample = mirror(sample)
        return jitter_colors(sample, rng) if jittered else sample


def mirror(sample: Sample) -> Sample:
    """A `detect` sample seen in a mirror: its boxes turn, and "left" and "right" change places.

    Others come back as they are: text in an image would be unreadable, and mask codes do not turn
    with a box. So do those with words that may not mean a side.
    """
    objects = _plain_objects(sample)
    if objects is None or NO_SIDES.search(f"{sample.prefix} {sample.suffix}"):
        return sample
    boxes = ((1 - x2, y1, 1 - x1, y2) for x1, y1, x2, y2 in (one.box for one in objects))
    return replace(
        sample,
        image=ImageOps.mirror(open_image(sample.image)),
        prefix=_swap_sides(sample.prefix),
        suffix=_swap_sides(format_objects(_with_boxes(objects, boxes))),
    )


def random_crop(sample: Sample, rng: np.random.Generator) -> Sample:
    """A `detect` sample in a random window of its image, which may reach beyond it.

    Boxes are cut at the window, and objects of which less than `MIN_VISIBLE` is left are no longer
    in the answer. Where none of several objects would be left, and where words name places or
    sizes, the sample comes back as it is, as do those that `mirror` leaves alone.
    """
    objects = _plain_objects(sample)
    if objects is None or PLACES.search(f"{sample.prefix} {sample.suffix}"):
        return sample
    image = open_image(sample.image)
    size = np.array(image.size)
    window = np.maximum(np.rint(size * rng.uniform(*SCALE)), 1)
    corner = np.rint(rng.random(2) * (size - window))
    before = np.array([one.box for one in objects]).reshape(-1, 2, 2)  # object, corner, x and y
    whole = (before * size - corner) / window
    cut = whole.clip(0, 1)
    areas, visible = (np.prod(boxes[:, 1] - boxes[:, 0], axis=1) for boxes in (whole, cut))
    kept = np.flatnonzero(visible >= MIN_VISIBLE * areas)
    if not areas.all() or (objects and not len(kept)):
        return sample
    canvas = Image.new("RGB", tuple(window.astype(int).tolist()), BORDER)
    canvas.paste(image, tuple((-corner).astype(int).tolist()))
    boxes = [tuple(cut[n].flatten().tolist()) for n in kept]
    left = _with_boxes([objects[n] for n in kept], boxes)
    return replace(sample, image=canvas, suffix=format_objects(left))


def jitter_colors(sample: Sample, rng: np.random.Generator) -> Sample:
    """The sample with another brightness, contrast, saturation and hue.

    One whose text names a color, or may do so in another language than English, comes back as it
    is.
    """
    words = sample.prefix.split()
    foreign = len(words) > 1 and words[1] in LANGUAGES.keys() - {"en"}
    if foreign or COLORS.search(f"{sample.prefix} {sample.suffix}"):
        return sample
    image = open_image(sample.image)
    for kind in ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color:
        image = kind(image).enhance(rng.uniform(1 - JITTER, 1 + JITTER))
    hue, saturation, value = image.convert("HSV").split()
    turn = int(rng.integers(-HUE_JITTER, HUE_JITTER + 1))
    hue = hue.point([(number + turn) % 256 for number in range(256)])
    return replace(sample, image=Image.merge("HSV", (hue, saturation, value)).convert("RGB"))


def _plain_objects(sample: Sample) -> list[Detection] | None:
    """The objects of a `detect` sample whose answer is boxes and labels alone; None for others."""
    objects = parse(sample.suffix)
    if sample.task != "detect" or any(one.codes for one in objects):
        return None
    return objects if format_objects(objects) == sample.suffix else None


def _with_boxes(objects: Sequence[Detection], boxes: Iterable[Box]) -> list[Detection]:
    return [replace(one, box=box) for one, box in zip(objects, boxes, strict=True)]


def _swap_sides(text: str) -> str:
    def other(match: re.Match[str]) -> str:
        word = "right" if match[0].lower() == "left" else "left"
        return word.upper() if match[0].isupper() else word.title() if match[0].istitle() else word

    return SIDES.sub(other, text)
