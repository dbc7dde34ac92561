"""Fine-tune the built-in model on a data set as Roboflow exports it: COCO boxes, few images.

    python examples/own_images.py                   # 90 images, two minutes to ten of training
    python examples/own_images.py --images 300

Draws images of three kinds of objects that the built-in model does not know, with their boxes as
they are, writes them with `train` and `valid`, trains on them (`paligemma train`,
configs/own-images.yaml), and measures unseen images before and after: boxes (AP50), and how often
a name that is not in the image gets a box.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from paligemma import PaliGemma, SamplingOptions
from paligemma.detections import Detection
from paligemma.evaluation.metrics.detection import average_precision
from paligemma.synthetic import scenes

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "own-images.yaml"
KINDS = {"comet": "☄", "pawn": "♟", "recycling": "♻"}
FIRST = 1 << 52  # seed of the first scene
SIDE = 320  # pixels


@contextmanager
def only(kinds: dict[str, str]) -> Iterator[None]:
    """Scenes that are drawn meanwhile have these kinds of objects."""
    known = dict(scenes.KINDS)
    scenes.KINDS.clear()
    scenes.KINDS.update(kinds)
    try:
        yield
    finally:
        scenes.KINDS.clear()
        scenes.KINDS.update(known)


def write_split(folder: Path, count: int, first: int) -> None:
    """`count` images and `_annotations.coco.json`, as Roboflow exports the folder of a split."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ["objects", *KINDS]  # Roboflow's category 0 groups the others
    images, annotations = [], []
    with only(KINDS):
        for number in range(count):
            scene = scenes.sample(first + number)
            name = f"scene_{number:03d}.jpg"
            scenes.render(scene, SIDE).save(folder / name, quality=92)
            size = {"width": SIDE, "height": SIDE}
            images.append({"id": number, "file_name": name} | size)
            for item in scene.items:
                x1, y1, x2, y2 = (edge * SIDE for edge in item.box)
                box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
                box |= {"id": len(annotations), "image_id": number, "iscrowd": 0}
                annotations.append(box | {"category_id": names.index(item.kind)})
    categories = [
        {"id": number, "name": name, "supercategory": names[0] if number else "none"}
        for number, name in enumerate(names)
    ]
    file = {"images": images, "categories": categories, "annotations": annotations}
    (folder / "_annotations.coco.json").write_text(json.dumps(file), "utf-8")


def write_export(folder: Path, images: int = 90) -> None:
    """The folders `train` of `images` images and `valid` of a third of that."""
    write_split(folder / "train", images, FIRST)
    write_split(folder / "valid", images // 3, FIRST + 100_000)


def measure(pg: PaliGemma, count: int) -> dict[str, float]:
    """Scores on `count` unseen images: AP50, and the share of absent names that get a box."""
    with only(KINDS):
        shown = [scenes.sample(FIRST + 200_000 + number) for number in range(count)]
        images = [scenes.render(scene, SIDE) for scene in shown]
    there = [sorted({item.kind for item in scene.items}) for scene in shown]
    absent = [
        (image, kind)
        for image, names in zip(images, there, strict=True)
        for kind in KINDS
        if kind not in names
    ]
    options = SamplingOptions(max_new_tokens=80)
    present = [(image, names) for image, names in zip(images, there, strict=True) if names]
    prompts = [f"detect {' ; '.join(names)}" for _, names in present]
    found = pg.generate_batch([image for image, _ in present], prompts, options)
    targets = [[Detection(one.kind, one.box) for one in scene.items] for scene in shown]
    asked = [f"detect {kind}" for _, kind in absent]
    boxed = pg.generate_batch([image for image, _ in absent], asked, options)
    return {
        "AP50": average_precision(
            [objects for objects in targets if objects], [one.detections for one in found]
        )[0],
        "absent names that get a box": float(np.mean([bool(one.detections) for one in boxed])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=90, help="to train on")
    parser.add_argument("--unseen", type=int, default=60, help="images to measure on")
    parser.add_argument("--out", type=Path, default=Path("runs/own-images"))
    arguments = parser.parse_args()
    write_export(arguments.out / "export", arguments.images)
    config = yaml.safe_load(CONFIG.read_text("utf-8"))
    config["output_dir"] = str(arguments.out / "model")
    config["data"] = [{"coco": str(arguments.out / "export" / "train")}]
    (arguments.out / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    command = [sys.executable, "-m", "paligemma", "train", str(arguments.out / "config.yaml")]
    subprocess.run(command, check=True)
    before, after = PaliGemma.load(), PaliGemma.load(arguments.out / "model", dtype="float32")
    scores = [measure(pg, arguments.unseen) for pg in (before, after)]
    for name in scores[0]:
        print(f"{name:28} {scores[0][name]:.3f} -> {scores[1][name]:.3f}")


if __name__ == "__main__":
    main()
