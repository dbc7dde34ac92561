"""Label Studio's JSON export: a list of tasks, each an image and the regions drawn on it.

    [{"id": 1, "data": {"image": "/data/upload/3/0a1b2c3d-cat.jpg"},
      "annotations": [{"result": [
        {"type": "rectanglelabels", "original_width": 80, "original_height": 40,
         "value": {"x": 10, "y": 20, "width": 30, "height": 40, "rectanglelabels": ["cat"]}}]}]}]

Positions are percents of the image; a rotated rectangle counts as the box around it, and a polygon
has a mask too. A region of several labels is an object of each of them. Format:
https://labelstud.io/guide/task_format.
"""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import Field

from paligemma.formats.coco import CocoAnnotation, CocoImage, CocoInstances, InvalidRecord, Size
from paligemma.formats.files import FileRecord, check_record, parse_record, read_bytes
from paligemma.formats.image_files import image_path
from paligemma.images import file_extensions, read_size

UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-")  # before the name of a file that was uploaded
LOCAL_FILES = "/data/local-files/"  # ?d=path of a file on the server


class _Annotation(FileRecord):
    result: list[Any]
    was_cancelled: bool = False


class _Task(FileRecord):
    data: dict[str, Any]
    annotations: list[_Annotation]


class _Region(FileRecord):
    type: str
    value: dict[str, Any]
    id: str = ""
    original_width: int = Field(0, ge=0)
    original_height: int = Field(0, ge=0)
    image_rotation: float = 0


class _Rectangle(FileRecord):
    x: float
    y: float
    width: float = Field(ge=0)
    height: float = Field(ge=0)
    rotation: float = 0


class _Polygon(FileRecord):
    points: list[tuple[float, float]] = Field(min_length=3)


class _Object(NamedTuple):
    """A box in pixels as COCO's, or the reason why there is none; label "" if there is none."""

    label: str
    bbox: tuple[float, float, float, float] | str
    segmentation: list[list[float]] | None = None


def is_label_studio(path: Path) -> bool:
    """Whether a JSON file is a list, as Label Studio's export is."""
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip().startswith(b"[")
    except OSError:
        return False


def read_label_studio(path: Path, images: Path) -> CocoInstances:
    """The images of an export, which lie in `images`, and their objects.

    Tasks without an annotation are left out; one with several, by several people, is invalid.
    Raises ValueError for a file that cannot be read or is no list of tasks.
    """
    try:
        values = parse_record(list[Any], read_bytes(path))
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON export of Label Studio: {error}.") from None
    found: dict[int, list[_Object]] = {}
    shown: dict[int, CocoImage] = {}
    invalid: list[InvalidRecord] = []
    unannotated = 0
    for number, value in zip(_ids(values), values, strict=True):
        try:
            task = check_record(_Task, value)
            annotations = [one for one in task.annotations if not one.was_cancelled]
            if not annotations:
                unannotated += 1
                continue
            if len(annotations) > 1:
                raise ValueError(f"it has {len(annotations)} annotations; keep one of them")
            name = _find_image(task.data, images)
            size = read_size(images / name)
        except ValueError as error:
            invalid.append(InvalidRecord(number, None, str(error)))
            continue
        shown[number] = CocoImage(id=number, file_name=name, width=size[0], height=size[1])
        found[number] = list(_read_regions(annotations[0].result, size))
    names = sorted({one.label for objects in found.values() for one in objects if one.label})
    numbers = {name: number for number, name in enumerate(names)}
    boxes: dict[int, list[CocoAnnotation]] = {number: [] for number in shown}
    for image, objects in found.items():
        for one in objects:
            category = numbers.get(one.label)
            if isinstance(one.bbox, str):
                invalid.append(InvalidRecord(image, category, one.bbox))
            elif category is not None:
                boxes[image].append(_annotation(image, category, one))
    left_out = {"tasks without annotations": unannotated} if unannotated else {}
    return CocoInstances(path, shown, dict(enumerate(names)), boxes, [], invalid, left_out)


def _annotation(image: int, category: int, one: _Object) -> CocoAnnotation:
    return CocoAnnotation.model_construct(
        image_id=image,
        category_id=category,
        bbox=one.bbox,
        segmentation=one.segmentation,
    )


def _ids(tasks: list[Any]) -> Sequence[int]:
    """The ids of the tasks, or their numbers from 0 where not each has one of its own."""
    ids = [task.get("id") if isinstance(task, dict) else None for task in tasks]
    numbers = [one for one in ids if isinstance(one, int)]
    return numbers if len(set(numbers)) == len(tasks) else range(len(tasks))


# --- Regions --------------------------------------------------------------------------------------


def _read_regions(result: list[Any], size: Size) -> Iterator[_Object]:
    """The objects of a result; what is said of the whole image, such as `choices`, is none."""
    labeled = {one.get("id") for one in result if isinstance(one, dict) and _labels(one)}
    for value in result:
        labels: list[str] = []
        try:
            region = check_record(_Region, value)
            labels = _labels(value)
            shape = region.type in ("rectangle", "polygon", "ellipse", "brush", "keypoint")
            if shape and region.id in labeled:
                continue  # its labels are a result of their own, with the same position
            if not labels and not shape and not region.type.endswith("labels"):
                continue
            if not labels:
                raise ValueError("a region has no label")
            bbox, segmentation = _read_shape(region, size)
        except ValueError as error:
            yield from (_Object(label, str(error)) for label in labels or [""])
            continue
        yield from (_Object(label, bbox, segmentation) for label in labels)


def _labels(region: dict[str, Any]) -> list[str]:
    """The labels of a region, in `value` under the name of its type."""
    value, kind = region.get("value"), region.get("type")
    labels = value.get(kind) if isinstance(value, dict) and isinstance(kind, str) else None
    if not isinstance(labels, list) or not str(kind).endswith("labels"):
        return []
    return [label for label in labels if isinstance(label, str)]


def _read_shape(
    region: _Region, size: Size
) -> tuple[tuple[float, float, float, float], list[list[float]] | None]:
    """The box of a region in pixels, and its mask if it has one."""
    drawn_on = region.original_width, region.original_height
    if all(drawn_on) and drawn_on != size:
        raise ValueError(
            f"the file says {drawn_on[0]} x {drawn_on[1]}, but the image has "
            f"{size[0]} x {size[1]} pixels"
        )
    if region.image_rotation:
        raise ValueError("the image is rotated in Label Studio")
    width, height = size
    if "points" in region.value:
        points = check_record(_Polygon, region.value).points
        corners = [(x * width / 100, y * height / 100) for x, y in points]
        return _box_around(corners), [[edge for corner in corners for edge in corner]]
    if not {"x", "y", "width", "height"} <= region.value.keys():
        raise ValueError(f"a region of {region.type} is no rectangle or polygon")
    one = check_record(_Rectangle, region.value)
    x, w = one.x * width / 100, one.width * width / 100
    y, h = one.y * height / 100, one.height * height / 100
    if not one.rotation:
        return (x, y, w, h), None
    turn = math.radians(one.rotation)  # clockwise, about the upper left corner
    cos, sin = math.cos(turn), math.sin(turn)
    corners = [(x + a * cos - b * sin, y + a * sin + b * cos) for a in (0, w) for b in (0, h)]
    return _box_around(corners), None


def _box_around(corners: list[tuple[float, float]]) -> tuple[float, float, float, float]:
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


# --- Images ---------------------------------------------------------------------------------------


def _find_image(data: dict[str, Any], images: Path) -> str:
    """The name in `images` of a task's image. Raises ValueError with a reason if there is none.

    An upload has a prefix that the original file lacks; a local file, and one on a server or in a
    bucket, may lie there by the end of its path, or by its name.
    """
    address = _address(data)
    parts = urlsplit(address)
    path = parse_qs(parts.query).get("d", [""])[0] if parts.path == LOCAL_FILES else parts.path
    steps = [step for step in unquote(path).split("/") if step not in ("", ".", "..")]
    ends = ["/".join(steps[n:]) for n in range(len(steps))]
    ends += [f"images/{ends[-1]}", UPLOAD_PREFIX.sub("", ends[-1], count=1)] if ends else []
    for name in ends:
        try:
            image_path(images, name)
        except ValueError:
            continue
        return name
    raise ValueError(f"there is no image {address:.80} in {images}")


def _address(data: dict[str, Any]) -> str:
    """The image among a task's data, whatever its field is called."""
    texts = {name: value for name, value in data.items() if isinstance(value, str)}
    extensions = tuple(file_extensions())
    for name, value in texts.items():
        if name == "image" or urlsplit(value).path.lower().endswith(extensions):
            return value
        if value.startswith(LOCAL_FILES):
            return value
    raise ValueError("its data has no image")
