"""Objects as files: masks and cutouts as images, COCO JSON, CSV, supervision's Detections."""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as rle

from paligemma.detections import Detection

from .masks import paste_mask


@dataclass(frozen=True)
class AnnotatedImage:
    """The objects in an image, which is given by its name and size in pixels.

    `masks`: one [64, 64] for each detection, as the codec decodes it, or None where it has none.
    """

    name: str
    width: int
    height: int
    detections: Sequence[Detection]
    masks: Sequence[np.ndarray | None]

    @property
    def areas(self) -> Iterator[np.ndarray | None]:
        """bool [height, width] for each detection: the pixels that are drawn as its mask.

        One at a time: those of a large image would fill the memory.
        """
        for found, mask in zip(self.detections, self.masks, strict=True):
            yield None if mask is None else paste_mask(mask, found.box, self.width, self.height)


def mask_images(found: AnnotatedImage) -> Iterator[tuple[str, Image.Image]]:
    """A name such as "01-cat.png" and a black and white image for each mask."""
    for number, label, area in _masked(found):
        yield f"{_file_name(number, label)}.png", Image.fromarray(area)


def cutouts(image: Image.Image, found: AnnotatedImage) -> Iterator[tuple[str, Image.Image]]:
    """Each object with a mask by itself: RGBA, cropped to the mask, transparent around it."""
    for number, label, area in _masked(found):
        alpha = Image.fromarray(area).convert("L")
        box = alpha.getbbox()
        cut_out = image.crop(box).convert("RGBA")
        cut_out.putalpha(alpha.crop(box))
        yield f"{_file_name(number, label)}.png", cut_out


def _masked(found: AnnotatedImage) -> Iterator[tuple[int, str, np.ndarray]]:
    """Number from 1, label and pixels of each detection that has any."""
    pairs = zip(found.detections, found.areas, strict=True)
    for number, (detection, area) in enumerate(pairs, 1):
        if area is not None and area.any():
            yield number, detection.label, area


def _file_name(number: int, label: str) -> str:
    return f"{number:02d}-{re.sub(r'[^a-z0-9]+', '-', label.lower()).strip('-') or 'object'}"[:60]


def to_csv(images: Sequence[AnnotatedImage]) -> str:
    """One row an object: image, label, score, box in pixels, and pixels of its mask."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "label", "score", "x1", "y1", "x2", "y2", "mask_pixels"])
    for found in images:
        for detection, area in zip(found.detections, found.areas, strict=True):
            edges = [round(edge, 2) for edge in detection.xyxy(found.width, found.height)]
            score = "" if detection.score is None else round(detection.score, 4)
            pixels = "" if area is None else int(area.sum())
            table.writerow([found.name, detection.label, score, *edges, pixels])
    return text.getvalue()


def to_coco(images: Sequence[AnnotatedImage], polygons: bool = False) -> dict:
    """COCO's instances JSON. Masks are run lengths, or `polygons` of the same pixels.

    pycocotools reads both back to exactly the pixels that are drawn.
    """
    labels = sorted({detection.label for found in images for detection in found.detections})
    annotations = []
    for image_id, found in enumerate(images, 1):
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
                annotation["segmentation"] = outlines(area) if polygons else _encode_rle(area)
            annotations.append(annotation)
    return {
        "images": [
            {"id": number, "file_name": found.name, "width": found.width, "height": found.height}
            for number, found in enumerate(images, 1)
        ],
        "categories": [{"id": n, "name": label} for n, label in enumerate(labels, 1)],
        "annotations": annotations,
    }


def _encode_rle(area: np.ndarray) -> dict:
    counts = rle.encode(np.asfortranarray(area, np.uint8))["counts"]
    assert isinstance(counts, bytes)
    return {"size": list(area.shape), "counts": counts.decode("ascii")}


def outlines(area: np.ndarray) -> list[list[float]]:
    """bool [height, width] -> polygons [x, y, x, y, …] along the edges of its pixels.

    There is one for each connected component. A hole is part of its component's polygon, joined by
    a line there and back.
    """
    count, components = cv2.connectedComponents(area.astype(np.uint8), connectivity=4)
    polygons = []
    for component in range(1, count):
        outer, *holes = sorted(_loops(components == component), key=_width, reverse=True)
        points = list(outer)
        for hole in holes:
            points += [outer[0], *hole, hole[0], outer[0]]
        polygons.append([float(value) for point in points for value in point])
    return polygons


def _width(loop: list[tuple[int, int]]) -> int:
    return max(x for x, _ in loop) - min(x for x, _ in loop)


Corner = tuple[int, int]  # x, y


def _loops(area: np.ndarray) -> list[list[Corner]]:
    """The closed paths around one 4-connected component, which lies on their right."""
    edges = _pixel_edges(area)
    loops = []
    while edges:
        loops.append(_follow(next(iter(edges)), edges))
    return loops


def _pixel_edges(area: np.ndarray) -> dict[Corner, list[Corner]]:
    """For each corner, the ends of the pixel edges that start there and bound the area."""
    padded = np.pad(area, 1)
    inside = padded[1:-1, 1:-1]
    edges: dict[Corner, list[Corner]] = defaultdict(list)
    for (dy, dx), (sy, sx), (ey, ex) in (
        ((-1, 0), (0, 0), (0, 1)),  # the upper edge of a pixel, to the right
        ((0, 1), (0, 1), (1, 1)),  # its right edge, down
        ((1, 0), (1, 1), (1, 0)),  # its lower edge, to the left
        ((0, -1), (1, 0), (0, 0)),  # its left edge, up
    ):
        neighbour = padded[1 + dy : padded.shape[0] - 1 + dy, 1 + dx : padded.shape[1] - 1 + dx]
        for y, x in np.argwhere(inside & ~neighbour).tolist():
            edges[x + sx, y + sy].append((x + ex, y + ey))
    return edges


def _follow(start: Corner, edges: dict[Corner, list[Corner]]) -> list[Corner]:
    """The corners of the loop through `start`, whose edges are removed."""
    path: list[Corner] = []
    before, here = None, start
    while before is None or here != start:
        ends, choice = edges[here], 0
        if before is not None and len(ends) > 1:
            # two corners of the component touch: turn right, to stay with the same pixel
            dx, dy = here[0] - before[0], here[1] - before[1]
            choice = ends.index((here[0] - dy, here[1] + dx))
        after = ends.pop(choice)
        if not ends:
            del edges[here]
        if before is None or not _collinear(before, here, after):
            path.append(here)
        before, here = here, after
    return path


def _collinear(a: Corner, b: Corner, c: Corner) -> bool:
    return (b[0] - a[0]) * (c[1] - b[1]) == (b[1] - a[1]) * (c[0] - b[0])


def to_supervision(found: AnnotatedImage):
    """`supervision.Detections`. Raises ValueError if that library is not installed."""
    try:
        import supervision  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("supervision is not installed: pip install supervision.") from None
    count = len(found.detections)
    labels = sorted({detection.label for detection in found.detections})
    scores = [detection.score for detection in found.detections]
    areas = [area for area in found.areas if area is not None]
    boxes = [detection.xyxy(found.width, found.height) for detection in found.detections]
    return supervision.Detections(
        xyxy=np.array(boxes, np.float32).reshape(count, 4),
        mask=np.stack(areas) if 0 < count == len(areas) else None,
        confidence=None if None in scores or not count else np.array(scores, np.float32),
        class_id=np.array([labels.index(d.label) for d in found.detections], int),
        data={"class_name": np.array([d.label for d in found.detections], str)},
    )
