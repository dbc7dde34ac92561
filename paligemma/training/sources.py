"""Where examples come from: JSON lines, folders, COCO instances and the drawn world.

A source is a sequence of `Sample`. A row that is bad raises a `BadRow` with its place and the
reason; those that can be told without opening a picture are found when the source is opened.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pycocotools import mask as rle

from paligemma.detections import CODES_PER_MASK, Detection
from paligemma.detections import format as format_objects
from paligemma.models.mask_codec import MASK_SIZE, MaskCodec
from paligemma.synthetic.language import Example, examples, whole_pixels
from paligemma.synthetic.scenes import crop, render, sample
from paligemma.tasks import TASKS
from paligemma.training.patch_heads import FIRST_SEED, RENDERED


class BadRow(ValueError):
    """A row that cannot be trained on; the text is its place and the reason."""


@dataclass(frozen=True)
class Sample:
    """One example. `image` is a path or a picture."""

    image: Path | Image.Image
    prefix: str
    suffix: str


class Source(Protocol):
    """A sequence of examples. `bad` are the rows left out when it was opened."""

    bad: Sequence[BadRow]

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Sample: ...

    def place(self, row: int) -> str:
        """What to call a row in a message."""


# --- JSON lines -----------------------------------------------------------------------------------


class JsonLines:
    """The good rows of a file of `{"image", "prefix", "suffix"}`; `bad` names the others."""

    def __init__(self, path: Path, images: Path | None = None) -> None:
        if not path.is_file():
            raise ValueError(f"There is no file {path}.")
        self.path, self.images = path, images or path.parent
        self.bad: list[BadRow] = []
        rows, start = [], 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        self._read(line, number)
                        rows.append((start, number))
                    except BadRow as error:
                        self.bad.append(error)
                start += len(line)
        self.rows = np.array(rows, np.int64).reshape(-1, 2)  # byte and line number of each

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Sample:
        start, number = self.rows[row].tolist()
        with self.path.open("rb") as file:
            file.seek(start)
            return self._read(file.readline(), number)

    def place(self, row: int) -> str:
        return f"{self.path.name}, line {self.rows[row, 1]}"

    def _read(self, line: bytes, number: int) -> Sample:
        def bad(reason: str) -> BadRow:
            return BadRow(f"{self.path.name}, line {number}: {reason}.")

        try:
            values = json.loads(line)
        except ValueError as error:
            raise bad(f"it is not JSON ({error})") from None
        if not isinstance(values, dict):
            raise bad("it is no object with image, prefix and suffix")
        for name in ("image", "prefix", "suffix"):
            if not isinstance(values.get(name), str):
                raise bad(f"{name} is {values[name]!r}, not text" if name in values
                          else f"it has no {name}")  # fmt: skip
        if reason := untidy(values["suffix"]):
            raise bad(reason)
        image = self.images / values["image"]
        if not image.is_file():
            raise bad(f"there is no picture {image}")
        return Sample(image, values["prefix"], values["suffix"])


def untidy(suffix: str) -> str | None:
    """Why the objects of an answer could not be read back; None where they can."""
    for run in re.findall(r"(?:<loc[^>]*>\s*)+(?:<seg[^>]*>\s*)*|(?:<seg[^>]*>\s*)+", suffix):
        locs, segs = re.findall(r"<loc([^>]*)>", run), re.findall(r"<seg([^>]*)>", run)
        for name, found, end in (("loc", locs, 1023), ("seg", segs, 127)):
            digits = len(str(end)) if name == "seg" else 4
            for text in found:
                if not re.fullmatch(rf"[0-9]{{{digits}}}", text) or int(text) > end:
                    return f"<{name}{text}> is none of <{name}{0:0{digits}}> to <{name}{end}>"
        if len(locs) != 4:
            return f"it has {len(locs)} <loc> in a row; a box has 4"
        if len(segs) not in (0, CODES_PER_MASK):
            return f"it has {len(segs)} <seg> in a row; a mask has {CODES_PER_MASK}"
        y1, x1, y2, x2 = map(int, locs)
        if y1 > y2 or x1 > x2:
            return f"the box {''.join(f'<loc{text}>' for text in locs)} is not y1 x1 y2 x2"
    return None


# --- folders --------------------------------------------------------------------------------------


class PictureFolder:
    """A folder and those in it: each picture with `name.txt`, its answer to `prefix`, beside it."""

    def __init__(self, folder: Path, prefix: str) -> None:
        if not folder.is_dir():
            raise ValueError(f"There is no folder {folder}.")
        self.folder, self.prefix = folder, prefix
        self.bad: list[BadRow] = []
        self.rows: list[Path] = []
        texts = sorted(folder.rglob("*.txt"))
        beside = {path.with_suffix(""): path for path in sorted(folder.rglob("*"))
                  if path.is_file() and path.suffix != ".txt"}  # fmt: skip
        for text in texts:
            name = text.relative_to(folder)
            if (picture := beside.get(text.with_suffix(""))) is None:
                self.bad.append(BadRow(f"{name}: there is no picture beside it."))
            elif reason := untidy(_words(text)):
                self.bad.append(BadRow(f"{name}: {reason}."))
            else:
                self.rows.append(picture)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Sample:
        picture = self.rows[row]
        return Sample(picture, self.prefix, _words(picture.with_suffix(".txt")))

    def place(self, row: int) -> str:
        return str(self.rows[row].relative_to(self.folder))


def _words(path: Path) -> str:
    return path.read_text("utf-8", errors="replace").strip()


# --- COCO -----------------------------------------------------------------------------------------


class CocoInstances:
    """One example for each picture of a COCO file that has objects: all of its categories."""

    def __init__(self, path: Path, images: Path | None, task: str, codec: MaskCodec | None) -> None:
        try:
            values = json.loads(path.read_text("utf-8"))
            names = {row["id"]: row["name"] for row in values["categories"]}
            found: dict[int, list[dict]] = {row["id"]: [] for row in values["images"]}
            pictures = {row["id"]: row for row in values["images"]}
            for row in values["annotations"]:
                if not row.get("iscrowd"):
                    found[row["image_id"]].append(row)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a COCO file of instances: {error!r}.") from error
        self.path, self.images, self.task, self.codec = path, images or path.parent, task, codec
        self.bad: list[BadRow] = []
        self.rows: list[tuple[dict, list[tuple[str, dict]]]] = []
        for number, rows in found.items():
            try:
                objects = [self._object(pictures[number], names, row) for row in rows]
                if objects:
                    objects.sort(key=lambda one: (one[0], one[1]["bbox"][1]))
                    self.rows.append((pictures[number], objects))
            except BadRow as error:
                self.bad.append(error)

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, row: int) -> str:
        return f"{self.path.name}, image {self.rows[row][0]['id']}"

    def __getitem__(self, row: int) -> Sample:
        picture, objects = self.rows[row]
        width, height = picture["width"], picture["height"]
        found = []
        for name, annotation in objects:
            x, y, w, h = annotation["bbox"]
            edges = (x / width, y / height, (x + w) / width, (y + h) / height)
            box = tuple(min(max(edge, 0.0), 1.0) for edge in edges)
            codes = self._codes(annotation, box, height, width) if self.task == "segment" else None
            found.append(Detection(name, box, codes))
        asked = " ; ".join(dict.fromkeys(name for name, _ in objects))
        image = self.images / picture["file_name"]
        return Sample(image, TASKS[self.task].prompt(asked), format_objects(found))

    def _object(self, picture: dict, names: dict, row: dict) -> tuple[str, dict]:
        def bad(reason: str) -> BadRow:
            return BadRow(f"{self.path.name}, image {picture['id']}: {reason}.")

        if not (self.images / picture["file_name"]).is_file():
            raise bad(f"there is no picture {self.images / picture['file_name']}")
        name = names.get(row.get("category_id"))
        if name is None:
            raise bad(f"there is no category {row.get('category_id')}")
        if re.search("[;]|<loc|<seg", name) or name != name.strip():
            raise bad(f"the category {name!r} cannot be a label")
        box = row.get("bbox")
        numbers = isinstance(box, list) and len(box) == 4
        if not numbers or not all(isinstance(n, int | float) for n in box) or min(box[2:]) <= 0:
            raise bad(f"the box {box} is not x, y, width, height")
        x, y, w, h = box
        if x + w <= 0 or y + h <= 0 or x >= picture["width"] or y >= picture["height"]:
            raise bad(f"the box {box} lies outside the picture")
        if self.task == "segment" and not row.get("segmentation"):
            raise bad("an object has no mask")
        return name, row

    def _codes(self, row: dict, box: tuple, height: int, width: int) -> tuple[int, ...]:
        """The object's mask within its box as codes: resized bilinearly, with antialiasing."""
        given = row["segmentation"]
        if isinstance(given, list):
            given = rle.merge(rle.frPyObjects(given, height, width))
        elif isinstance(given["counts"], list):
            given = rle.frPyObjects(given, height, width)
        mask = torch.from_numpy(rle.decode(given)).float()
        x1, y1 = round(box[0] * width), round(box[1] * height)
        x2, y2 = max(round(box[2] * width), x1 + 1), max(round(box[3] * height), y1 + 1)
        within = mask[None, None, y1:y2, x1:x2]
        square = (MASK_SIZE, MASK_SIZE)
        within = F.interpolate(within, square, mode="bilinear", antialias=True)[0]
        return tuple(self.codec.encode(within)[0].tolist())


# --- The drawn world ------------------------------------------------------------------------------


class DrawnScenes:
    """Example n of a seed: one question about one scene, of one of `tasks` (none: of any)."""

    bad: tuple[BadRow, ...] = ()

    def __init__(self, count: int, tasks: Sequence[str], codec: MaskCodec, seed: int) -> None:
        self.count, self.tasks, self.codec, self.seed = count, tuple(tasks), codec, seed

    def __len__(self) -> int:
        return self.count

    def place(self, row: int) -> str:
        return f"scene {row}"

    def __getitem__(self, row: int) -> Sample:
        rng, asked = np.random.default_rng((self.seed, row)), []
        while not asked:
            scene = sample(int(rng.integers(FIRST_SEED, 2 * FIRST_SEED)))
            asked = [one for one in examples(scene, rng)
                     if not self.tasks or one.kind in self.tasks]  # fmt: skip
        example = answered(asked[0], self.codec)
        return Sample(render(scene, RENDERED), example.prefix, example.suffix)


def answered(example: Example, codec: MaskCodec) -> Example:
    """The example; a segmentation with the codes of its masks."""
    if example.kind != "segment":
        return example
    masks = [crop(item, whole_pixels(item.box)) for item in example.found]
    codes = codec.encode(torch.from_numpy(np.stack(masks))).tolist() if masks else []
    return example.with_codes(codes)
