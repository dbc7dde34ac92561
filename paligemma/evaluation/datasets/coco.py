"""COCO on disk: captions, instances, and RefCOCO's expressions.

A loader takes a file, or a folder that is searched for the file of a split ("val").
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from paligemma.evaluation.datasets.examples import (
    Answers,
    Example,
    Loaded,
    Objects,
    Referred,
    fractions,
)
from paligemma.evaluation.datasets.files import Pictures, Row, find_one, read_json, some

NAMES = 4  # categories that one detection prompt asks for


class _Image(Row):
    id: int
    file_name: str
    width: int = 0
    height: int = 0


class _Caption(Row):
    image_id: int
    caption: str


class _Captions(Row):
    images: list[_Image]
    annotations: list[_Caption]


class _Category(Row):
    id: int
    name: str


class _RunLengths(Row):
    size: tuple[int, int]
    counts: str | list[int]


class _Instance(Row):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: int = 0
    segmentation: list[list[float]] | _RunLengths | None = None


class _Instances(Row):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Instance]


def coco_captions(data: Path, split: str) -> Loaded:
    """COCO's `captions_val2017.json` and the like."""
    source = find_one(data, f"captions_{split}*.json")
    read, picture = read_json(_Captions, source), Pictures(data, source)
    said: dict[int, list[str]] = defaultdict(list)
    for one in read.annotations:
        said[one.image_id].append(one.caption)
    asked = [image for image in read.images if said[image.id]]
    return some(
        (Example(str(i.id), picture(i.file_name), "", Answers(tuple(said[i.id]))) for i in asked),
        data,
        {"without a caption": len(read.images) - len(asked)},
    )


def coco_detection(data: Path, split: str) -> Loaded:
    """COCO's `instances_val2017.json` and the like.

    Each picture is asked for all categories of the file, `NAMES` in a prompt: the same prompts for
    every picture, so that they give nothing away.
    """
    source = find_one(data, f"instances_{split}*.json")
    return some(_searches(data, source), data)


def _searches(data: Path, source: Path) -> Iterator[Example]:
    read, picture = read_json(_Instances, source), Pictures(data, source)
    held: dict[int, list[dict]] = defaultdict(list)
    for one in read.annotations:
        held[one.image_id].append(one.model_dump())
    for image in read.images:
        path = picture(_sized(image, source).file_name)
        for start in range(0, len(read.categories), NAMES):
            asked = {one.name: one.id for one in read.categories[start : start + NAMES]}
            truth = Objects(image.id, image.width, image.height, asked, tuple(held[image.id]))
            yield Example(f"{image.id}-{start // NAMES}", path, " ; ".join(asked), truth)


def _sized(image: _Image, source: Path) -> _Image:
    if image.width < 1 or image.height < 1:
        raise ValueError(f"{source}: picture {image.id} has no width and height.")
    return image


class _Sentence(Row):
    sent_id: int
    sent: str


class _Reference(Row):
    ref_id: int
    ann_id: int
    image_id: int
    split: str
    sentences: list[_Sentence]


def refcoco(data: Path, split: str) -> Loaded:
    """RefCOCO's references as JSON (`refs(unc).json`), with `instances.json` beside them."""
    if data.suffix == ".p":
        raise ValueError(f"{data} is a pickle, which is never loaded: write its list as JSON.")
    source = find_one(data, "refs*.json")
    beside = source.parent / "instances.json"
    read, picture = read_json(_Instances, beside), Pictures(data, source)
    images = {image.id: _sized(image, beside) for image in read.images}
    instances = {one.id: one for one in read.annotations if one.segmentation}
    examples = []
    for reference in read_json(list[_Reference], source):
        if reference.split != split:
            continue
        image, one = images.get(reference.image_id), instances.get(reference.ann_id)
        if image is None or one is None:
            raise ValueError(
                f"{source}: reference {reference.ref_id} means object {reference.ann_id} of "
                f"picture {reference.image_id}, but {beside} has no such segmentation."
            )
        box = fractions(one.bbox, image.width, image.height)
        mask = one.model_dump()["segmentation"]
        for said in reference.sentences:
            text = " ".join(said.sent.split())
            truth = Referred(text, box, mask, image.width, image.height)
            name = f"{reference.ref_id}-{said.sent_id}"
            examples.append(Example(name, picture(image.file_name), text, truth))
    return some(examples, data)
