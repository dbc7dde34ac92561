"""COCO's JSON files: captions, instances with boxes and masks, and RefCOCO's expressions.

    file = read_instances(Path("instances_val2017.json"))
    for image in file.images.values():
        for annotation in file.annotations[image.id]:
            box = pixels_to_box(annotation.bbox, image.size)

Format: https://cocodataset.org/#format-data. `bbox` is x, y, width, height in pixels.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pycocotools import mask as pycocotools_mask
from pydantic import BeforeValidator, Field

from paligemma.detections import Box, invalid_label
from paligemma.formats.files import (
    FileRecord,
    check_one_split,
    check_record,
    parse_record,
    read_bytes,
    read_record,
)

# A polygon's corner may lie outside the image by this many image sides. pycocotools draws a polygon
# pixel by pixel, so that a damaged coordinate would take all memory there is.
MAX_SIDES_OUTSIDE = 1

Size = tuple[int, int]  # width and height in pixels
ROBOFLOW_FILE = "_annotations.coco.json"  # in the folder of a split, beside its images


class CocoImage(FileRecord):
    """`width` and `height` are 0 where the file does not have them."""

    id: int
    file_name: str
    width: Annotated[int, Field(ge=0)] = 0
    height: Annotated[int, Field(ge=0)] = 0

    @property
    def size(self) -> Size | None:
        return (self.width, self.height) if self.width and self.height else None


class CocoCategory(FileRecord):
    id: int
    name: str
    supercategory: str | None = None


def _check_bbox(value: Any) -> Any:
    numbers = isinstance(value, list) and all(isinstance(n, int | float) for n in value)
    if numbers and len(value) == 4 and max(map(abs, value)) < 1e9 and min(value[2:]) >= 0:
        return tuple(value)
    raise ValueError(f"the box {str(value)[:60]} is not x, y, width, height")


class CocoAnnotation(FileRecord):
    """One object. `segmentation` is checked only where its mask is needed: `decode_segmentation`.

    A crowd (`iscrowd`) is a region of many objects of a category.
    """

    id: int | None = None
    image_id: int
    category_id: int
    bbox: Annotated[tuple[float, float, float, float], BeforeValidator(_check_bbox)]
    area: float | None = None
    iscrowd: bool = False
    segmentation: Any = None

    def to_coco(self) -> dict[str, Any]:
        """What pycocotools needs to score boxes; an area that the file lacks is the box's."""
        area = self.bbox[2] * self.bbox[3] if self.area is None else self.area
        return {
            "image_id": self.image_id,
            "category_id": self.category_id,
            "bbox": list(self.bbox),
            "area": area,
            "iscrowd": int(self.iscrowd),
        }


@dataclass(frozen=True)
class InvalidRecord:
    """An image or an annotation that cannot be used, and why; the ids are None if unreadable."""

    image_id: int | None
    category_id: int | None
    reason: str


@dataclass(frozen=True)
class CocoInstances:
    """The records of an instances file that can be used; `invalid` names the others.

    categories: {id: name}. annotations: by the id of their image, in the order of the file.
    unlisted: annotations of images that the file does not list. left_out: {what: count} of what is
    no record but no mistake either.
    """

    path: Path
    images: dict[int, CocoImage]
    categories: dict[int, str]
    annotations: Mapping[int, list[CocoAnnotation]]
    unlisted: list[CocoAnnotation] = field(default_factory=list)
    invalid: list[InvalidRecord] = field(default_factory=list)
    left_out: Mapping[str, int] = field(default_factory=dict)


class _InstancesFile(FileRecord):
    images: list[Any]
    categories: list[CocoCategory]
    annotations: list[Any]


def read_instances(path: Path) -> CocoInstances:
    """An instances file such as `instances_val2017.json`, each record checked on its own.

    Raises ValueError for a file that cannot be read or does not have this structure.
    """
    source = read_bytes(path)
    try:
        values = parse_record(_InstancesFile, source)
    except ValueError as error:
        hint = ""
        if str(error).startswith("it is a list"):
            hint = "; samples are written one a line in a .jsonl file"
        raise ValueError(f"{path} is not a COCO instances file: {error}{hint}.") from None
    categories = {one.id: one.name for one in values.categories if not _only_groups(one, values)}
    images: dict[int, CocoImage] = {}
    invalid: list[InvalidRecord] = []
    for number, value in enumerate(values.images):
        try:
            image = check_record(CocoImage, value)
            images[image.id] = image
        except ValueError as error:
            key = _id(value, "id")
            reason = str(error) if key is not None else f"images.{number}: {error}"
            invalid.append(InvalidRecord(key, None, reason))
    invalid_images = {record.image_id for record in invalid}
    annotations: dict[int, list[CocoAnnotation]] = defaultdict(list)
    unlisted = []
    for number, value in enumerate(values.annotations):
        key = _id(value, "id")
        place = f"annotations.{number}" if key is None else f"annotation {key}"
        try:
            annotation = check_record(CocoAnnotation, value)
            if annotation.category_id not in categories:
                raise ValueError(f"there is no category {annotation.category_id}")
        except ValueError as error:
            ids = _id(value, "image_id"), _id(value, "category_id")
            invalid.append(InvalidRecord(*ids, f"{error} ({place})"))
            continue
        if annotation.image_id in images:
            annotations[annotation.image_id].append(annotation)
        elif annotation.image_id not in invalid_images:
            unlisted.append(annotation)
    return CocoInstances(path, images, categories, annotations, unlisted, invalid)


def _only_groups(category: CocoCategory, file: _InstancesFile) -> bool:
    """Whether a category only groups the others, as Roboflow's first does: nothing is of it."""
    groups = {one.supercategory for one in file.categories if one.id != category.id}
    if category.supercategory != "none" or category.name not in groups:
        return False
    return all(_id(one, "category_id") != category.id for one in file.annotations)


def find_instances(path: Path) -> Path:
    """The file itself, or that of a folder as Roboflow exports it. Raises ValueError for others."""
    if not path.is_dir():
        return path
    check_one_split(path)
    if not (path / ROBOFLOW_FILE).is_file():
        raise ValueError(f"{path} is a folder without {ROBOFLOW_FILE}; name its instances file.")
    return path / ROBOFLOW_FILE


def read_valid_instances(path: Path) -> CocoInstances:
    """`read_instances`. Raises ValueError also for the first record that cannot be used."""
    file = read_instances(path)
    for record in file.invalid:
        place = path if record.image_id is None else f"{path}, image {record.image_id}"
        raise ValueError(f"{place}: {record.reason}.")
    return file


def check_category_names(file: CocoInstances) -> None:
    """Raises ValueError for names that could not be told apart in a prompt and its answer."""
    numbers: dict[str, int] = {}
    for number, name in file.categories.items():
        if reason := invalid_label(name):
            raise ValueError(f"{file.path}, category {number}: {reason}.")
        if name in numbers:
            raise ValueError(
                f"{file.path}: the categories {numbers[name]} and {number} are both {name!r}."
            )
        numbers[name] = number


def _id(value: Any, name: str) -> int | None:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, int) else None


# --- Boxes and masks ------------------------------------------------------------------------------


def pixels_to_box(bbox: Sequence[float], size: Size) -> Box:
    """COCO's x, y, width, height in pixels as x1, y1, x2, y2 in 0..1, clipped to the image."""
    (x, y, width, height), (w, h) = bbox, size
    edges = x / w, y / h, (x + width) / w, (y + height) / h
    x1, y1, x2, y2 = (min(max(edge, 0.0), 1.0) for edge in edges)
    return x1, y1, x2, y2


def check_image_size(image: CocoImage, size: Size) -> None:
    """Raises ValueError with a reason if the file gives another size than that of the image."""
    if image.size and image.size != size:
        raise ValueError(
            f"the file says {image.width} x {image.height}, but the image has "
            f"{size[0]} x {size[1]} pixels"
        )


def check_segmentation(segmentation: Any, size: Size) -> None:
    """Raises ValueError with a reason unless this is a mask of an image of that size.

    A mask is a list of polygons [x1, y1, x2, y2, …] or run lengths {"size", "counts"}.
    """
    if not segmentation:
        raise ValueError("it has no mask")
    if isinstance(segmentation, list):
        _check_polygons(segmentation, size)
    elif isinstance(segmentation, dict):
        _run_lengths(segmentation, size)
    else:
        raise ValueError(f"the mask is {segmentation!r:.40}, not polygons or run lengths")


def _check_polygons(polygons: list, size: Size) -> None:
    for polygon in polygons:
        numbers = isinstance(polygon, list) and all(isinstance(n, int | float) for n in polygon)
        if not numbers or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(
                "a polygon is a list of at least 6 numbers x, y, x, y, …; "
                f"the mask has {str(polygon)[:40]}"
            )
        for side, length, values in zip("xy", size, (polygon[::2], polygon[1::2]), strict=True):
            reach = MAX_SIDES_OUTSIDE * length
            outside = [n for n in values if not -reach <= n <= length + reach]
            if outside:
                raise ValueError(
                    f"a corner of the mask, {side} = {outside[0]:g}, is far outside the image "
                    f"of {size[0]} x {size[1]}"
                )


def _run_lengths(value: dict, size: Size) -> list[int]:
    """The counts of pixels outside and inside, in turn, down the columns."""
    counts, given = value.get("counts"), value.get("size")
    if given != [size[1], size[0]]:
        raise ValueError(f"the mask's size is {given}, not the image's [{size[1]}, {size[0]}]")
    if isinstance(counts, str):
        counts = _uncompress(counts)
    whole = isinstance(counts, list) and all(isinstance(n, int) and n >= 0 for n in counts)
    if counts is None or not whole or sum(counts) != size[0] * size[1]:
        raise ValueError("the run lengths of the mask are damaged")
    return counts


def _uncompress(text: str) -> list[int] | None:
    """The counts in COCO's compressed string; None if it is damaged.

    Six bits a character, lowest first: five of the number, and whether it goes on. From the fourth
    number on, each is the difference to the one before the last (`rleFrString` in `maskApi.c`).
    """
    counts: list[int] = []
    number, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            number -= (bits & 16) << 1 << (shift - 5)  # the highest bit is the sign
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number, shift = 0, 0
    return None if shift else counts


def decode_segmentation(segmentation: Any, size: Size) -> np.ndarray:
    """The mask, bool [height, width]. Raises ValueError as `check_segmentation`."""
    check_segmentation(segmentation, size)
    width, height = size
    if isinstance(segmentation, dict):
        counts = _run_lengths(segmentation, size)
        inside = np.arange(len(counts)) % 2 == 1
        return np.repeat(inside, counts).reshape(width, height).T
    polygons = pycocotools_mask.frPyObjects(segmentation, height, width)
    return pycocotools_mask.decode(pycocotools_mask.merge(polygons)).astype(bool)


# --- Captions and referring expressions -----------------------------------------------------------


class CocoCaption(FileRecord):
    image_id: int
    caption: str


class CocoCaptions(FileRecord):
    """A captions file such as `captions_val2017.json`."""

    images: list[CocoImage]
    annotations: list[CocoCaption]


class RefCocoSentence(FileRecord):
    sent_id: int
    sent: str


class RefCocoReference(FileRecord):
    """The sentences that refer to one annotation of `instances.json`."""

    ref_id: int
    ann_id: int
    image_id: int
    split: str
    sentences: list[RefCocoSentence]


def read_captions(path: Path) -> CocoCaptions:
    """Raises ValueError for a file that cannot be read or is of another form."""
    return read_record(CocoCaptions, path)


def read_references(path: Path) -> list[RefCocoReference]:
    """RefCOCO's `refs(unc).json`. Raises ValueError for another form, and for a pickle."""
    if path.suffix == ".p":
        raise ValueError(f"{path} is a pickle, which is never loaded: write its list as JSON.")
    return read_record(list[RefCocoReference], path)
