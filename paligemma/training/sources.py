"""Where samples come from: JSON lines, folders, objects as COCO and others have them, scenes.

A source is a sequence of `Sample`. One that is invalid raises `InvalidSample` with its place and
the reason; those that are known without decoding an image are found when the source is opened.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from paligemma.detections import Box, Detection, invalid_label, invalid_objects
from paligemma.detections import format as format_objects
from paligemma.formats.coco import (
    CocoAnnotation,
    CocoImage,
    CocoInstances,
    Size,
    check_image_size,
    check_segmentation,
    decode_segmentation,
    pixels_to_box,
    read_instances,
)
from paligemma.formats.files import check_one_split, iter_lines
from paligemma.formats.image_files import image_path
from paligemma.formats.image_folder import find_metadata, read_metadata
from paligemma.formats.samples import SampleRecord, parse_samples
from paligemma.images import file_extensions, open_image, read_size
from paligemma.models.mask_codec import MASK_SIZE, MaskCodec
from paligemma.synthetic.world import SceneSample, World, open_world
from paligemma.tasks import TASKS, task_of
from paligemma.training.config import Scenes

MAX_ABSENT = 3  # names of absent categories in a prompt
RENDER_SIDE = 256  # pixels; scenes are drawn larger than the model sees them, as photos are
# Seeds of scenes, as many of each; those below are for tests and for measuring the model.
TRAIN_SEED, EVAL_SEED = 1 << 40, 2 << 40
MOST_SCENES = 1_000  # that are drawn in search of one with a sample


class InvalidSample(ValueError):
    """A sample that cannot be trained on; the text is its place and the reason."""


@dataclass(frozen=True)
class Sample:
    """An image (or its path), a prompt and the answer. `task` is a key of `tasks.TASKS`, "region"
    for the caption of a box, or "" for a prompt of none of them. `more_images` follow the first,
    where the prompt is about several."""

    image: Path | Image.Image
    prefix: str
    suffix: str
    task: str
    more_images: tuple[Path | Image.Image, ...] = ()

    @property
    def images(self) -> list[Path | Image.Image]:
        return [self.image, *self.more_images]


class Source(Protocol):
    """A sequence of samples. `invalid` are those left out when it was opened.

    `left_out` counts what is no sample but no mistake either, such as images without objects.
    """

    @property
    def invalid(self) -> Sequence[InvalidSample]: ...

    @property
    def left_out(self) -> Mapping[str, int]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Sample: ...

    def place(self, row: int) -> str:
        """What to call a sample in a message."""
        ...


# --- JSON lines -----------------------------------------------------------------------------------


class JsonLines:
    """The samples of a file's lines, as `parse_samples` reads them; `invalid` names bad lines."""

    left_out: Mapping[str, int] = {}

    def __init__(self, path: Path, images: Path | None = None) -> None:
        if not path.is_file():
            raise ValueError(f"There is no file {path}.")
        self.path, self.images = path, images or path.parent
        self.invalid: list[InvalidSample] = []
        rows = []
        for number, offset, line in iter_lines(path):
            try:
                answers = len(self._read(line, number))
                rows += [(offset, number, answer) for answer in range(answers)]
            except InvalidSample as error:
                self.invalid.append(error)
        # byte and line number of each, and which answer of a conversation it is
        self.rows = np.array(rows, np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Sample:
        offset, number, answer = self.rows[row].tolist()
        with self.path.open("rb") as file:
            file.seek(offset)
            return self._read(file.readline(), number)[answer]

    def place(self, row: int) -> str:
        _, number, answer = self.rows[row].tolist()
        return f"{self.path.name}, line {number}" + (f", answer {answer + 1}" if answer else "")

    def _read(self, line: bytes, number: int) -> list[Sample]:
        try:
            return [_sample_of(record, self.images) for record in parse_samples(line)]
        except ValueError as error:
            raise InvalidSample(f"{self.path.name}, line {number}: {error}.") from None


def _sample_of(record: SampleRecord, images: Path) -> Sample:
    """Raises ValueError with a reason if there is no such image."""
    image, *more = (image_path(images, name) for name in (record.image, *record.more_images))
    return Sample(image, record.prefix, record.suffix, task_of(record.prefix), tuple(more))


# --- folders --------------------------------------------------------------------------------------


class ImageFolder:
    """A folder and those in it: each image with `name.txt`, its answer to `prefix`, beside it."""

    left_out: Mapping[str, int] = {}

    def __init__(self, folder: Path, prefix: str) -> None:
        if not folder.is_dir():
            raise ValueError(f"There is no folder {folder}.")
        check_one_split(folder)
        self.folder, self.prefix = folder, prefix
        self.invalid: list[InvalidSample] = []
        self.rows: list[Path] = []
        extensions = file_extensions()
        images = {
            path.with_suffix(""): path
            for path in sorted(folder.rglob("*"))
            if path.suffix.lower() in extensions and path.is_file()
        }
        for path in sorted(folder.rglob("*.txt")):
            name = path.relative_to(folder)
            if (image := images.get(path.with_suffix(""))) is None:
                self.invalid.append(InvalidSample(f"{name}: there is no image beside it."))
            elif reason := invalid_objects(_text_of(path)):
                self.invalid.append(InvalidSample(f"{name}: {reason}."))
            else:
                self.rows.append(image)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Sample:
        image = self.rows[row]
        suffix = _text_of(image.with_suffix(".txt"))
        return Sample(image, self.prefix, suffix, task_of(self.prefix))

    def place(self, row: int) -> str:
        return str(self.rows[row].relative_to(self.folder))


class MetadataFolder:
    """The samples that a folder's metadata.jsonl or metadata.csv names: see `read_metadata`."""

    left_out: Mapping[str, int] = {}

    def __init__(self, metadata: Path, prefix: str) -> None:
        self.metadata = metadata
        self.invalid: list[InvalidSample] = []
        self.rows: list[tuple[int, Sample]] = []
        for number, record in read_metadata(metadata, prefix):
            try:
                if isinstance(record, str):
                    raise ValueError(record)
                self.rows.append((number, _sample_of(record, metadata.parent)))
            except ValueError as error:
                place = f"{metadata.name}, line {number}"
                self.invalid.append(InvalidSample(f"{place}: {error}."))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Sample:
        return self.rows[row][1]

    def place(self, row: int) -> str:
        return f"{self.metadata.name}, line {self.rows[row][0]}"


def open_folder(folder: Path, prefix: str) -> "MetadataFolder | ImageFolder":
    """The images of a folder with their answers: as its metadata has them, or beside each."""
    metadata = find_metadata(folder)
    return MetadataFolder(metadata, prefix) if metadata else ImageFolder(folder, prefix)


def _text_of(path: Path) -> str:
    return path.read_text("utf-8", errors="replace").strip()


# --- COCO -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _CocoRow:
    """An image, what to answer, and names to ask for that are not in the image."""

    image: CocoImage
    size: Size
    objects: Sequence[CocoAnnotation] = ()
    absent: Sequence[str] = ()


class CocoSource:
    """One sample for each image of a COCO instances file that has objects: all of its categories.

    `read` makes such records of other files, as `read_yolo` and `read_voc` do. An object that
    cannot be used is named in `invalid`, and its category is left out for this image, so that no
    answer lacks an object that the prompt asks for.

    With `negatives` a model learns to answer nothing for what is not there: of the prompts of
    images with objects, this share names absent categories too, and as many more samples name
    nothing else, as do those of images without objects (which are left out at 0). A name is absent
    only if the file's other images have such objects, and this one has not even a crowd or an
    invalid object of it. `seed` is of the choice.
    """

    def __init__(
        self,
        path: Path,
        images: Path | None,
        task: str,
        codec: MaskCodec | None,
        negatives: float = 0.0,
        seed: int = 0,
        read: Callable[[Path], CocoInstances] = read_instances,
    ) -> None:
        file = read(path)
        self.path, self.images, self.task, self.codec = path, images or path.parent, task, codec
        self.names = file.categories
        self.invalid: list[InvalidSample] = []
        self.rows: list[_CocoRow] = []
        empty: list[_CocoRow] = []
        excluded = defaultdict(set)  # categories, by the id of the image
        for record in file.invalid:
            self._reject(record.image_id, record.reason)
            excluded[record.image_id].add(record.category_id)
        for one in file.unlisted:
            self._reject(one.image_id, f"the file does not list the image of annotation {one.id}")
        unusable = set()
        for number, name in file.categories.items():
            if reason := invalid_label(name):
                self.invalid.append(InvalidSample(f"{path.name}, category {number}: {reason}."))
                unusable.add(number)
        for image in file.images.values():
            annotations = [one for one in file.annotations[image.id] if not one.iscrowd]
            if not annotations and (image.id in excluded or not negatives):
                empty += [] if image.id in excluded else [_CocoRow(image, (0, 0))]
                continue
            left_out = excluded[image.id] | unusable
            try:
                size = image.size or read_size(image_path(self.images, image.file_name))
                image_path(self.images, image.file_name)
            except ValueError as error:
                self._reject(image.id, str(error))
                continue
            for one in annotations:
                try:
                    self._check(one, size)
                except ValueError as error:
                    which = "" if one.id is None else f" (annotation {one.id})"
                    self._reject(image.id, f"{error}{which}")
                    left_out.add(one.category_id)
                    excluded[image.id].add(one.category_id)
            objects = [one for one in annotations if one.category_id not in left_out]
            objects.sort(key=lambda one: (self.names[one.category_id], one.bbox[1]))
            if objects:
                self.rows.append(_CocoRow(image, size, objects))
            elif not annotations:
                empty.append(_CocoRow(image, size))
        if negatives and self.rows:
            self._add_negatives(file, excluded, empty, negatives, np.random.default_rng(seed))
            empty = []
        self.left_out = dict(file.left_out)
        if empty:
            self.left_out["images without objects"] = len(empty)

    def _add_negatives(
        self,
        file: CocoInstances,
        excluded: Mapping[int, set[int | None]],
        empty: Sequence[_CocoRow],
        share: float,
        rng: np.random.Generator,
    ) -> None:
        """Put absent names into a share of the rows, and add rows that have nothing else."""
        used = sorted({self.names[one.category_id] for row in self.rows for one in row.objects})

        def choose(row: _CocoRow) -> list[str]:
            numbers = {one.category_id for one in file.annotations[row.image.id]}
            numbers |= excluded[row.image.id]
            there = {name for number, name in self.names.items() if number in numbers}
            absent = [] if None in numbers else [name for name in used if name not in there]
            most = min(len(absent), MAX_ABSENT)
            return list(rng.permutation(absent)[: rng.integers(1, most + 1)]) if most else []

        rows, more = [], [replace(row, absent=choose(row)) for row in empty]
        for row in self.rows:
            rows.append(replace(row, absent=choose(row)) if rng.random() < share else row)
            if rng.random() < share:
                more.append(replace(row, objects=(), absent=choose(row)))
        self.rows = rows + [row for row in more if row.absent]

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, row: int) -> str:
        return f"{self.path.name}, image {self.rows[row].image.id}"

    def __getitem__(self, row: int) -> Sample:
        here = self.rows[row]
        image, size = here.image, here.size
        shown = open_image(image_path(self.images, image.file_name))
        try:
            check_image_size(image, shown.size)
        except ValueError as error:
            raise InvalidSample(f"{self.place(row)}: {error}.") from None
        found = []
        for one in here.objects:
            box = pixels_to_box(one.bbox, size)
            codes = self._codes(one, box, size) if self.task == "segment" else None
            found.append(Detection(self.names[one.category_id], box, codes))
        asked = " ; ".join(sorted({one.label for one in found}.union(here.absent)))
        return Sample(shown, TASKS[self.task].prompt(asked), format_objects(found), self.task)

    def _reject(self, image: int | None, reason: str) -> None:
        place = self.path.name if image is None else f"{self.path.name}, image {image}"
        self.invalid.append(InvalidSample(f"{place}: {reason.removesuffix('.')}."))

    def _check(self, annotation: CocoAnnotation, size: Size) -> None:
        """Raises ValueError with a reason for an object that cannot be an answer."""
        x, y, width, height = annotation.bbox
        box = f"the box [{x:g}, {y:g}, {width:g}, {height:g}]"
        if not width or not height:
            raise ValueError(f"{box} has no area")
        if x + width <= 0 or y + height <= 0 or x >= size[0] or y >= size[1]:
            raise ValueError(f"{box} lies outside the image")
        if self.task == "segment":
            check_segmentation(annotation.segmentation, size)

    def _codes(self, annotation: CocoAnnotation, box: Box, size: Size) -> tuple[int, ...]:
        """The object's mask within its box as codes: resized bilinearly, with antialiasing."""
        width, height = size
        mask = torch.from_numpy(decode_segmentation(annotation.segmentation, size)).float()
        x1 = min(round(box[0] * width), width - 1)
        y1 = min(round(box[1] * height), height - 1)
        x2, y2 = max(round(box[2] * width), x1 + 1), max(round(box[3] * height), y1 + 1)
        within = mask[None, None, y1:y2, x1:x2]
        square = (MASK_SIZE, MASK_SIZE)
        assert self.codec is not None
        within = F.interpolate(within, square, mode="bilinear", antialias=True)[0]
        return tuple(self.codec.encode(within)[0].tolist())


# --- Synthetic scenes -----------------------------------------------------------------------------


class SyntheticScenes:
    """Scenes of a world, row n of a seed: one sample about each, of one of `tasks` (none: any)."""

    invalid: tuple[InvalidSample, ...] = ()
    left_out: Mapping[str, int] = {}

    def __init__(
        self, given: Scenes, codec: MaskCodec | None, seed: int, first_seed: int = TRAIN_SEED
    ) -> None:
        self.world = open_world(given.world)
        self.count, self.tasks, self.codec = given.scenes, given.tasks, codec
        self.seed, self.first_seed = seed, first_seed
        if self.tasks:
            self.samples(0)

    def __len__(self) -> int:
        return self.count

    def place(self, row: int) -> str:
        return f"scene {row}"

    def __getitem__(self, row: int) -> Sample:
        scene, samples = self.samples(row)
        [[sample]] = answer_masks(self.world, [samples[:1]], self.codec)
        [image] = self.world.images([scene], RENDER_SIDE)
        return Sample(image, sample.prefix, sample.suffix, sample.task)

    def scene(self, row: int) -> Any:
        """The scene of a row, for training without samples."""
        return self._draw(np.random.default_rng((self.seed, row)))

    def samples(self, row: int, rounds: int = 1) -> tuple[Any, list[SceneSample]]:
        """The scene of a row, and all samples about it; the first scene that has any.

        The world is asked for samples `rounds` times, which differ; each prompt is there once.
        Raises ValueError if it has none of `tasks`.
        """
        rng, samples = np.random.default_rng((self.seed, row)), {}
        for _ in range(MOST_SCENES):
            scene = self._draw(rng)
            for _ in range(rounds):
                for one in self.world.samples(scene, rng):
                    if not self.tasks or one.task in self.tasks:
                        samples.setdefault(one.prefix, one)
            if samples:
                return scene, list(samples.values())
        raise ValueError(f"its scenes have no samples of the tasks {', '.join(self.tasks or ())}.")

    def _draw(self, rng: np.random.Generator) -> Any:
        return self.world.scene(self.first_seed + int(rng.integers(TRAIN_SEED)))


def answer_masks(
    world: World, samples: Sequence[Sequence[SceneSample]], codec: MaskCodec | None
) -> list[list[SceneSample]]:
    """The same samples, the segmentations answered; all masks are encoded in one call."""
    masks = [
        world.crop(thing, box)
        for row in samples
        for sample in row
        if sample.task == "segment"
        for thing, box in zip(sample.objects, sample.boxes, strict=True)
    ]
    codes = iter(())
    if masks:
        assert codec is not None
        codes = iter(codec.encode(torch.from_numpy(np.stack(masks))).tolist())
    return [
        [
            one.with_codes([next(codes) for _ in one.objects]) if one.task == "segment" else one
            for one in row
        ]
        for row in samples
    ]
