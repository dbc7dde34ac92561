"""PASCAL VOC's annotations: an XML file for each image, beside it or in `Annotations`.

    <annotation><filename>a.jpg</filename><object><name>cat</name><bndbox><xmin>1</xmin>…

Corners are pixels counted from 1, both of them inside the box (the VOC development kit).
"""

from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

from paligemma.formats.coco import CocoAnnotation, CocoImage, CocoInstances, InvalidRecord
from paligemma.formats.files import check_one_split, read_bytes
from paligemma.images import read_size

IMAGES = "JPEGImages"  # beside Annotations
MAX_BYTES = 8_000_000


def read_voc(folder: Path) -> CocoInstances:
    """The images that XML files under `folder` name, and their objects.

    Raises ValueError if there is no such folder or no XML file in it, or if it has several splits.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    check_one_split(folder)
    paths = sorted(folder.rglob("*.xml"))
    if not paths:
        raise ValueError(f"{folder} has no annotations: there is no .xml file.")
    images: dict[int, CocoImage] = {}
    found: dict[int, list[tuple[str, tuple[float, ...]]]] = defaultdict(list)
    invalid: list[InvalidRecord] = []
    for number, path in enumerate(paths):
        try:
            root = _parse(path)
            image = _image_of(path, root, folder)
            width, height = read_size(folder / image)
        except ValueError as error:
            invalid.append(InvalidRecord(number, None, f"{error} ({path.name})"))
            continue
        images[number] = CocoImage(id=number, file_name=image, width=width, height=height)
        for count, one in enumerate(root.iterfind("object"), 1):
            try:
                found[number].append(_read_object(one))
            except ValueError as error:
                reason = f"{error} ({path.name}, object {count})"
                invalid.append(InvalidRecord(number, None, reason))
    names = sorted({name for objects in found.values() for name, _ in objects})
    annotations = {
        number: [_annotation(number, names.index(name), box) for name, box in objects]
        for number, objects in found.items()
    }
    return CocoInstances(
        folder, images, dict(enumerate(names)), defaultdict(list, annotations), [], invalid
    )


def _parse(path: Path) -> ElementTree.Element:
    source = read_bytes(path)
    if len(source) > MAX_BYTES or b"<!DOCTYPE" in source or b"<!ENTITY" in source:
        raise ValueError("it is too large, or declares a document type")  # which might never end
    try:
        return ElementTree.fromstring(source)  # noqa: S314
    except ElementTree.ParseError as error:
        raise ValueError(f"it is not XML ({error})") from None


def _image_of(path: Path, root: ElementTree.Element, folder: Path) -> str:
    """The image that a file names: beside it, or in the folder of images, relative to `folder`."""
    name = root.findtext("filename") or ""
    for place in (path.parent, path.parent.parent / IMAGES, folder):
        if name and (place / name).is_file() and (place / name).is_relative_to(folder):
            return str((place / name).relative_to(folder))
    raise ValueError(f"there is no image {name!r:.80}")


def _read_object(one: ElementTree.Element) -> tuple[str, tuple[float, ...]]:
    name, box = (one.findtext("name") or "").strip(), one.find("bndbox")
    try:
        edges = ("xmin", "ymin", "xmax", "ymax")
        texts = [] if box is None else [box.findtext(edge) for edge in edges]
        left, top, right, bottom = (float(text or "") for text in texts)
    except ValueError:
        raise ValueError(f"the object {name!r:.40} has no box of four numbers") from None
    if not all(abs(edge) < 1e9 for edge in (left, top, right, bottom)):
        raise ValueError(f"the box of {name!r:.40} is not in pixels")
    return name, (left - 1, top - 1, right - left + 1, bottom - top + 1)


def _annotation(image: int, category: int, box: tuple[float, ...]) -> CocoAnnotation:
    x, y, width, height = box
    return CocoAnnotation.model_construct(
        image_id=image,
        category_id=category,
        bbox=(x, y, max(width, 0.0), max(height, 0.0)),
    )
