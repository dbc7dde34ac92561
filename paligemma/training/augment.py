"""Random changes of training samples, each with its answer changed alike."""

import re
from dataclasses import replace

from PIL import ImageOps

from paligemma.detections import format as format_objects
from paligemma.detections import parse
from paligemma.images import open_image
from paligemma.training.sources import Sample

SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def mirror(sample: Sample) -> Sample:
    """A `detect` sample seen in a mirror, its boxes too; others come back as they are.

    Text in an image would be unreadable, mask codes do not turn with a box, and "left" would be
    wrong: only `detect` samples without such words are mirrored.
    """
    objects = parse(sample.suffix)
    if sample.task != "detect" or SIDES.search(f"{sample.prefix} {sample.suffix}"):
        return sample
    if any(one.codes for one in objects) or format_objects(objects) != sample.suffix:
        return sample
    boxes = ((1 - x2, y1, 1 - x1, y2) for x1, y1, x2, y2 in (one.box for one in objects))
    mirrored = [replace(one, box=box) for one, box in zip(objects, boxes, strict=True)]
    image = ImageOps.mirror(open_image(sample.image))
    return replace(sample, image=image, suffix=format_objects(mirrored))
