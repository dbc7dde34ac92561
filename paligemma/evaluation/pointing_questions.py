"""Questions whose answers name single objects with known boxes: what `pointing` measures on.

Of synthetic scenes, and of any data in COCO's instances format.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from paligemma.detections import Box, Detection
from paligemma.detections import format as format_objects
from paligemma.formats.coco import (
    CocoImage,
    CocoInstances,
    check_category_names,
    check_image_size,
    pixels_to_box,
    read_valid_instances,
)
from paligemma.formats.image_files import image_path
from paligemma.images import open_image
from paligemma.synthetic.language import caption, groups, phrase, whole_pixels
from paligemma.synthetic.scenes import Item, Scene, render, sample
from paligemma.tasks import TASKS

SCENE_SIZE = 256  # pixels a side of rendered scenes


@dataclass(frozen=True)
class ObjectMention:
    """The characters `start` to `stop` of an answer name the object in `box`.

    token_type: "location", "label", "colour", "kind" or "caption".
    """

    start: int
    stop: int
    box: Box
    token_type: str


@dataclass(frozen=True)
class PointingQuestion:
    """An image, a prompt, its correct answer, and the mentions of single objects in it."""

    image: Image.Image
    prompt: str
    answer: str
    mentions: tuple[ObjectMention, ...]


def synthetic_questions(scenes: int, first_seed: int) -> Iterator[PointingQuestion]:
    """Questions about scenes with seeds from `first_seed` on, each with an object to name.

    Raises ValueError for fewer than one scene and for a seed below 0.
    """
    if scenes < 1 or first_seed < 0:
        raise ValueError(
            "Scenes are at least one, and seeds whole numbers from 0; "
            f"not {scenes} from {first_seed}."
        )
    seeds = range(first_seed, first_seed + scenes)
    return (question for seed in seeds for question in scene_questions(sample(seed)))


def scene_questions(scene: Scene) -> list[PointingQuestion]:
    """Detection, colour and kind of one object of a kind or colour that is unique; the caption."""
    rng = np.random.default_rng(scene.seed)
    kinds, colors = ([getattr(i, of) for i in scene.items] for of in ("kind", "color"))
    unique_kind = [item for item in scene.items if kinds.count(item.kind) == 1]
    unique = [item for item in unique_kind if colors.count(item.color) == 1]
    image, questions = render(scene, SCENE_SIZE), []
    if unique_kind:
        item = unique_kind[rng.integers(len(unique_kind))]
        questions.append(detection_question(image, item.kind, whole_pixels(item.box)))
        item = unique_kind[rng.integers(len(unique_kind))]
        prompt = TASKS["ask"].prompt(f"what color is the {item.kind}?")
        mention = ObjectMention(0, len(item.color), item.box, "colour")
        questions.append(PointingQuestion(image, prompt, item.color, (mention,)))
    if unique:
        item = unique[rng.integers(len(unique))]
        prompt = TASKS["ask"].prompt(f"what is {item.color}?")
        mention = ObjectMention(0, len(item.kind), item.box, "kind")
        questions.append(PointingQuestion(image, prompt, item.kind, (mention,)))
    if unique_kind:
        questions.append(_caption_question(image, scene, unique_kind))
    return questions


def detection_question(image: Image.Image, label: str, box: Box) -> PointingQuestion:
    """`detect label`, answered with the one `box`."""
    answer = format_objects([Detection(label, box)])
    locations = answer.rindex(">") + 1
    mentions = (
        ObjectMention(0, locations, box, "location"),
        ObjectMention(len(answer) - len(label), len(answer), box, "label"),
    )
    return PointingQuestion(image, TASKS["detect"].prompt(label), answer, mentions)


def _caption_question(
    image: Image.Image, scene: Scene, unique_kind: list[Item]
) -> PointingQuestion:
    """The scene's caption, which names each unique kind once."""
    text, mentions, end = caption(scene), [], 0
    box_of = {item.kind: item.box for item in unique_kind}
    for kind, color, count in groups(scene):
        words = phrase(color, kind, count=count)
        end = text.index(words, end) + len(words)
        if kind in box_of:
            mentions.append(ObjectMention(end - len(kind), end, box_of[kind], "caption"))
    return PointingQuestion(image, TASKS["caption"].prompt(), text, tuple(mentions))


def coco_questions(annotations: Path, images: Path) -> Iterator[PointingQuestion]:
    """A detection question for each category of which an image has exactly one object.

    A crowd counts as more than one. Raises ValueError for a file that cannot be read or is of
    another form, and for an image that cannot be opened.
    """
    file = read_valid_instances(annotations)
    check_category_names(file)
    return (
        question
        for image in file.images.values()
        for question in _single_object_questions(file, image, images)
    )


def _single_object_questions(
    file: CocoInstances, image: CocoImage, folder: Path
) -> Iterator[PointingQuestion]:
    objects = file.annotations[image.id]
    counts = Counter(one.category_id for one in objects)
    single = [one for one in objects if counts[one.category_id] == 1 and not one.iscrowd]
    if not single:
        return
    try:
        pixels = open_image(image_path(folder, image.file_name))
        check_image_size(image, pixels.size)
    except ValueError as error:
        raise ValueError(
            f"{file.path}, image {image.id}: {str(error).removesuffix('.')}."
        ) from None
    for one in single:
        box = pixels_to_box(one.bbox, pixels.size)
        yield detection_question(pixels, file.categories[one.category_id], box)
