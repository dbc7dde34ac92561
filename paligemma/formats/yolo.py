"""YOLO's labels: a text file for each image, a line for each object, and the names in data.yaml.

    0 0.5 0.5 0.25 0.5                     # class, then the box: center x and y, width and height
    0 0.25 0.25 0.75 0.25 0.5 0.75         # class, then the corners x, y of a polygon

All are fractions of the image. The labels of `…/images/a.jpg` are in `…/labels/a.txt`, or beside
the image; an image without such a file has no objects. Format: https://docs.ultralytics.com/datasets.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

from paligemma.formats.coco import CocoAnnotation, CocoImage, CocoInstances, InvalidRecord, Size
from paligemma.formats.files import check_one_split
from paligemma.images import file_extensions, read_size

NAMES = ("data.yaml", "data.yml", "dataset.yaml")
LEVELS = 4  # folders above the images in which the names are looked for


def read_yolo(folder: Path) -> CocoInstances:
    """The images under `folder`, such as a split of an export, and their objects.

    Raises ValueError if there is no such folder, no data.yaml with names in it or above it, or if
    the folder has several splits.
    """
    if folder.is_file():
        raise ValueError(f"{folder} is a file; name the folder of a split, such as its train.")
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    check_one_split(folder)
    names = _read_names(folder)
    images: dict[int, CocoImage] = {}
    annotations: dict[int, list[CocoAnnotation]] = defaultdict(list)
    invalid: list[InvalidRecord] = []
    extensions = file_extensions()
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in extensions)
    for number, path in enumerate(paths):
        name = str(path.relative_to(folder))
        try:
            width, height = read_size(path)
        except ValueError as error:
            invalid.append(InvalidRecord(number, None, str(error)))
            continue
        images[number] = CocoImage(id=number, file_name=name, width=width, height=height)
        labels = _labels_of(path)
        lines = labels.read_text("utf-8", "replace").splitlines() if labels.is_file() else []
        for count, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                category, values = _read_line(line, names)
                one = _annotation(number, category, values, (width, height))
                annotations[number].append(one)
            except ValueError as error:
                reason = f"{error} ({labels.name}, line {count})"
                invalid.append(InvalidRecord(number, None, reason))
    return CocoInstances(folder, images, names, annotations, [], invalid)


def is_yolo(folder: Path) -> bool:
    """Whether a folder looks like a data set of YOLO's, or a split or the images of one."""
    places = (folder, folder.parent) if folder.name == "images" else (folder,)
    return any((one / "labels").is_dir() or (one / NAMES[0]).is_file() for one in places)


def _labels_of(image: Path) -> Path:
    beside, parts = image.with_suffix(".txt"), list(image.parts)
    folders = [n for n, part in enumerate(parts[:-1]) if part == "images"]
    if not folders or beside.is_file():
        return beside
    parts[folders[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _read_names(folder: Path) -> dict[int, str]:
    import yaml

    above = [folder, *folder.resolve().parents][:LEVELS]
    path = next((one / name for one in above for name in NAMES if (one / name).is_file()), None)
    if path is None:
        raise ValueError(f"There is no data.yaml with the names of the classes in {folder}.")
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as YAML.") from error
    names: Any = values.get("names") if isinstance(values, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(isinstance(key, int) for key in names):
        raise ValueError(f"{path} has no names: a list, or numbers with a name each.")
    return {number: str(name) for number, name in names.items()}


def _read_line(line: str, names: dict[int, str]) -> tuple[int, list[float]]:
    try:
        category, *values = (float(word) for word in line.split())
    except ValueError:
        raise ValueError(f"{line.strip()[:40]!r} is not a line of numbers") from None
    if category not in names:
        raise ValueError(f"there is no class {category:g}")
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(f"it has {len(values)} numbers after the class; a box has 4")
    if not all(-0.01 <= value <= 1.01 for value in values):
        raise ValueError(f"{line.strip()[:40]!r} has numbers beyond 0..1")
    return int(category), values


def _annotation(image: int, category: int, values: list[float], size: Size) -> CocoAnnotation:
    width, height = size
    segmentation = None
    if len(values) == 4:
        x, y, w, h = values
        left, top, right, bottom = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    else:
        xs, ys = values[::2], values[1::2]
        left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
        corners = zip(xs, ys, strict=True)
        segmentation = [[v for x, y in corners for v in (x * width, y * height)]]
    bbox = left * width, top * height, (right - left) * width, (bottom - top) * height
    return CocoAnnotation.model_construct(
        image_id=image,
        category_id=category,
        bbox=bbox,
        segmentation=segmentation,
    )
