"""Objects as files: masks and cut-outs as pictures, COCO JSON, CSV, supervision's Detections."""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as rle

from paligemma.detections import Detection

from .masks import paste_mask


@dataclass(frozen=True)
class Annotated:
    """A picture by its name and size in pixels, and what was found in it.

    `masks`: one [64, 64] for each detection, as the codec decodes it, or None where it has none.
    """

    name: str
    width: int
    height: int
    detections: Sequence[Detection]
    masks: Sequence[np.ndarray | None]

    @property
    def areas(self) -> list[np.ndarray | None]:
        """bool [height, width] for each detection: just the pixels that are drawn as its mask."""
        return [
            None if mask is None else paste_mask(mask, found.box, self.width, self.height)
            for found, mask in zip(self.detections, self.masks, strict=True)
        ]


def mask_pictures(found: Annotated) -> list[tuple[str, Image.Image]]:
    """A name such as "01-cat.png" and a black and white picture for each mask."""
    return [
        (f"{_file_name(number, label)}.png", Image.fromarray(area))
        for number, label, area in _masked(found)
    ]


def cut_outs(image: Image.Image, found: Annotated) -> list[tuple[str, Image.Image]]:
    """Each masked thing by itself, RGBA, cropped to what there is of it, see-through around it."""
    pictures = []
    for number, label, area in _masked(found):
        picture = image.convert("RGBA")
        picture.putalpha(Image.fromarray(area).convert("L"))
        pictures.append((f"{_file_name(number, label)}.png", picture.crop(picture.getbbox())))
    return pictures


def _masked(found: Annotated) -> list[tuple[int, str, np.ndarray]]:
    """Number from 1, label and pixels of each detection that has any."""
    pairs = zip(found.detections, found.areas, strict=True)
    return [
        (number, detection.label, area)
        for number, (detection, area) in enumerate(pairs, 1)
        if area is not None and area.any()
    ]


def _file_name(number: int, label: str) -> str:
    return f"{number:02d}-{re.sub(r'[^a-z0-9]+', '-', label.lower()).strip('-') or 'thing'}"[:60]


def to_csv(pictures: Sequence[Annotated]) -> str:
    """One row an object: picture, label, score, box in pixels, and pixels of its mask."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["picture", "label", "score", "x1", "y1", "x2", "y2", "mask_pixels"])
    for found in pictures:
        for detection, area in zip(found.detections, found.areas, strict=True):
            edges = [round(edge, 2) for edge in detection.xyxy(found.width, found.height)]
            score = "" if detection.score is None else round(detection.score, 4)
            pixels = "" if area is None else int(area.sum())
            table.writerow([found.name, detection.label, score, *edges, pixels])
    return text.getvalue()


def to_coco(pictures: Sequence[Annotated], polygons: bool = False) -> dict:
    """COCO's instances JSON. Masks are run lengths, or `polygons` of the same pixels.

    pycocotools reads both back to just the pixels that are drawn.
    """
    labels = sorted({detection.label for found in pictures for detection in found.detections})
    annotations = []
    for image_id, found in enumerate(pictures, 1):
        for detection, area in zip(found.detections, found.areas, strict=True):
            x1, y1, x2, y2 = detection.xyxy(found.width, found.height)
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": labels.index(detection.label) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1) if area is None else int(area.sum()),
                "iscrowd": 0,
                "segmentation": [],
            }
            if detection.score is not None:
                annotation["score"] = detection.score
            if area is not None:
                annotation["segmentation"] = outlines(area) if polygons else _run_lengths(area)
            annotations.append(annotation)
    return {
        "images": [
            {"id": number, "file_name": found.name, "width": found.width, "height": found.height}
            for number, found in enumerate(pictures, 1)
        ],
        "categories": [{"id": n, "name": label} for n, label in enumerate(labels, 1)],
        "annotations": annotations,
    }


def _run_lengths(area: np.ndarray) -> dict:
    encoded = rle.encode(np.asfortranarray(area, np.uint8))
    return {"size": list(area.shape), "counts": encoded["counts"].decode("ascii")}


def outlines(area: np.ndarray) -> list[list[float]]:
    """bool [height, width] -> polygons [x, y, x, y, …] along the edges of its pixels, one a piece.

    A hole is part of its piece's polygon, joined by a line there and back.
    """
    count, pieces = cv2.connectedComponents(area.astype(np.uint8), connectivity=4)
    polygons = []
    for piece in range(1, count):
        outer, *holes = sorted(_loops(pieces == piece), key=_extent, reverse=True)
        points = list(outer)
        for hole in holes:
            points += [outer[0], *hole, hole[0], outer[0]]
        polygons.append([float(value) for point in points for value in point])
    return polygons


def _extent(loop: list[tuple[int, int]]) -> int:
    return max(x for x, _ in loop) - min(x for x, _ in loop)


def _loops(area: np.ndarray) -> list[list[tuple[int, int]]]:
    """The closed paths around one 4-connected piece: corners (x, y), the piece on their right."""
    wide = np.pad(area, 1)
    inside = wide[1:-1, 1:-1]
    steps: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for (dy, dx), (sy, sx), (ey, ex) in (
        ((-1, 0), (0, 0), (0, 1)),  # the upper edge of a pixel, to the right
        ((0, 1), (0, 1), (1, 1)),  # its right edge, down
        ((1, 0), (1, 1), (1, 0)),  # its lower edge, to the left
        ((0, -1), (1, 0), (0, 0)),  # its left edge, up
    ):
        beyond = wide[1 + dy : wide.shape[0] - 1 + dy, 1 + dx : wide.shape[1] - 1 + dx]
        for y, x in np.argwhere(inside & ~beyond).tolist():
            steps[x + sx, y + sy].append((x + ex, y + ey))
    loops = []
    while steps:
        start = here = next(iter(steps))
        path, came = [], None
        while True:
            onward = steps[here]
            # where two corners of the piece touch, turn right: stay with the same pixel
            turn = 0
            if came is not None and len(onward) > 1:
                way = (here[0] - came[0], here[1] - came[1])
                right = (here[0] - way[1], here[1] + way[0])
                turn = onward.index(right)
            there = onward.pop(turn)
            if not onward:
                del steps[here]
            if came is None or (here[0] - came[0]) * (there[1] - here[1]) != (here[1] - came[1]) * (
                there[0] - here[0]
            ):
                path.append(here)  # a corner
            came, here = here, there
            if here == start:
                break
        loops.append(path)
    return loops


def to_supervision(found: Annotated):
    """`supervision.Detections`; raise ValueError where that library is not installed."""
    try:
        import supervision
    except ImportError:
        raise ValueError("supervision is not installed: pip install supervision.") from None
    count = len(found.detections)
    labels = sorted({detection.label for detection in found.detections})
    scores = [detection.score for detection in found.detections]
    areas = found.areas
    boxes = [detection.xyxy(found.width, found.height) for detection in found.detections]
    return supervision.Detections(
        xyxy=np.array(boxes, np.float32).reshape(count, 4),
        mask=np.stack(areas) if count and all(area is not None for area in areas) else None,
        confidence=None if None in scores or not count else np.array(scores, np.float32),
        class_id=np.array([labels.index(d.label) for d in found.detections], int),
        data={"class_name": np.array([d.label for d in found.detections], str)},
    )
