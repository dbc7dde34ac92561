"""COCO captions, COCO detection and RefCOCO as examples.

A loader takes a file, or a folder that is searched for the file of a split such as "val".
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from paligemma.evaluation.datasets.examples import (
    AnswerReferences,
    DetectionTarget,
    EvaluationDataset,
    EvaluationExample,
    ReferringTarget,
    make_dataset,
)
from paligemma.formats.coco import (
    ROBOFLOW_FILE,
    CocoImage,
    CocoInstances,
    Size,
    check_category_names,
    check_image_size,
    check_segmentation,
    pixels_to_box,
    read_captions,
    read_references,
    read_valid_instances,
)
from paligemma.formats.files import find_file
from paligemma.formats.image_files import ImageFinder
from paligemma.images import read_size

CATEGORIES_PER_PROMPT = 4  # in a detection prompt


def load_coco_captions(data: Path, split: str) -> EvaluationDataset:
    """COCO's `captions_val2017.json` and the like."""
    source = find_file(data, f"captions_{split}*.json")
    file, find_image = read_captions(source), ImageFinder(data, source)
    captions: dict[int, list[str]] = defaultdict(list)
    for annotation in file.annotations:
        captions[annotation.image_id].append(annotation.caption)
    images = [image for image in file.images if image.id in captions]
    return make_dataset(
        (
            EvaluationExample(
                str(image.id),
                find_image(image.file_name),
                "",
                AnswerReferences(tuple(captions[image.id])),
            )
            for image in images
        ),
        data,
        {"without a caption": len(file.images) - len(images)},
    )


def load_coco_detection(data: Path, split: str) -> EvaluationDataset:
    """COCO's `instances_val2017.json` and the like, or the folder of a Roboflow split.

    Every image gets the same prompts, which name all categories of the file, some at a time: so
    the prompts do not tell what is in the image.
    """
    source = find_file(data, f"instances_{split}*.json", ROBOFLOW_FILE)
    file = read_valid_instances(source)
    return make_dataset(
        _detection_examples(file, ImageFinder(data, source)),
        data,
        {"annotations of images that are not listed": len(file.unlisted)},
    )


def _detection_examples(
    file: CocoInstances, find_image: ImageFinder
) -> Iterator[EvaluationExample]:
    check_category_names(file)
    categories = {name: number for number, name in file.categories.items()}
    for image in file.images.values():
        path = find_image(image.file_name)
        size = _image_size(image, path, file.path)
        for start in range(0, len(categories), CATEGORIES_PER_PROMPT):
            names = list(categories)[start : start + CATEGORIES_PER_PROMPT]
            numbers = {name: categories[name] for name in names}
            annotations = tuple(
                one for one in file.annotations[image.id] if one.category_id in numbers.values()
            )
            target = DetectionTarget(image.id, size, numbers, annotations)
            number = start // CATEGORIES_PER_PROMPT
            yield EvaluationExample(f"{image.id}-{number}", path, " ; ".join(names), target)


def load_refcoco(data: Path, split: str) -> EvaluationDataset:
    """RefCOCO's references as JSON (`refs(unc).json`), with `instances.json` beside them."""
    source = data if data.suffix == ".p" else find_file(data, "refs*.json")
    references = read_references(source)
    file = read_valid_instances(source.parent / "instances.json")
    annotations = {one.id: one for all_of in file.annotations.values() for one in all_of}
    find_image = ImageFinder(data, source)
    examples = []
    for reference in references:
        if reference.split != split:
            continue
        image, one = file.images.get(reference.image_id), annotations.get(reference.ann_id)
        if image is None or one is None or not one.segmentation:
            raise ValueError(
                f"{source}: reference {reference.ref_id} is to object {reference.ann_id} of "
                f"image {reference.image_id}, but {file.path} has no such segmentation."
            )
        path = find_image(image.file_name)
        size = _image_size(image, path, file.path)
        try:
            check_segmentation(one.segmentation, size)
        except ValueError as error:
            raise ValueError(f"{file.path}, annotation {one.id}: {error}.") from None
        for sentence in reference.sentences:
            text = " ".join(sentence.sent.split())
            target = ReferringTarget(text, pixels_to_box(one.bbox, size), one.segmentation, size)
            name = f"{reference.ref_id}-{sentence.sent_id}"
            examples.append(EvaluationExample(name, path, text, target))
    return make_dataset(examples, data)


def _image_size(image: CocoImage, path: Path, source: Path) -> Size:
    size = read_size(path)
    try:
        check_image_size(image, size)
    except ValueError as error:
        raise ValueError(f"{source}, image {image.id}: {error}.") from None
    return size
