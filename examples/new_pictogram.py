"""Teach the built-in model a new kind of object: a comet.

    python examples/new_pictogram.py                    # 200 examples
    python examples/new_pictogram.py --examples 2000    # how much more would give

Writes the examples, trains on them (`paligemma train`, configs/new-pictogram.yaml), measures
the model on unseen images before and after, and draws some of the answers.
"""

import argparse
import json
import subprocess
import sys
from itertools import count, islice
from pathlib import Path
from textwrap import wrap

import numpy as np
import yaml
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[1]))

from paligemma import PaliGemma, SamplingOptions
from paligemma.detections import Detection
from paligemma.evaluation.metrics.detection import average_precision
from paligemma.synthetic import scenes
from paligemma.synthetic.language import groups, phrase, samples
from visualize import draw_boxes
from visualize.boxes import load_font

ROOT = Path(__file__).parents[1]
KIND, GLYPH = "comet", "☄"
CONFIG = ROOT / "configs" / "new-pictogram.yaml"
TRAIN, TEST = 1 << 50, 1 << 51  # seeds of the first scenes
TASKS = ("detect", "ask", "detect", "caption")
OPTIONS = SamplingOptions(max_new_tokens=80)


def with_comets(first: int, known: bool = False):
    """Scenes from seed `first` on that have a comet; with `known`, those that have none."""
    scenes.KINDS[KIND] = GLYPH
    for seed in count(first):
        scene = scenes.sample(seed)
        if any(item.kind == KIND for item in scene.items) != known and scene.items:
            yield scene


def about(scene, task: str, rng: np.random.Generator):
    """A sample of `task` whose text names the comet, or None."""
    asked = [s for s in samples(scene, rng) if s.task == task and KIND in s.prefix + s.suffix]
    return asked[0] if asked else None


def write(folder: Path, number: int) -> None:
    """`number` images, each with one sample, as JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, lines = np.random.default_rng(0), []
    for scene in with_comets(TRAIN):
        sample = about(scene, TASKS[len(lines) % len(TASKS)], rng)
        if sample is None:
            continue
        name = f"{len(lines):04d}.png"
        scenes.render(scene).save(folder / name)
        values = {"image": name, "prefix": sample.prefix, "suffix": sample.suffix}
        lines.append(json.dumps(values) + "\n")
        if len(lines) == number:
            break
    (folder / "train.jsonl").write_text("".join(lines), "utf-8")


def measure(pg: PaliGemma, number: int, known: bool = False) -> dict[str, float]:
    """Scores on unseen scenes: detection of comets (or of the first object), answers, captions."""
    rng = np.random.default_rng(1)
    shown = list(islice(with_comets(TEST, known), number))
    images = [scenes.render(scene) for scene in shown]
    kinds = [scene.items[0].kind if known else KIND for scene in shown]

    def replies(prompts: list[str], images: list[Image.Image]) -> list:
        cuts = range(0, len(prompts), 50)
        ask = lambda part: pg.generate_batch(images[part], prompts[part], OPTIONS)
        return [reply for n in cuts for reply in ask(slice(n, n + 50))]

    detected = replies([f"detect {kind}" for kind in kinds], images)
    targets = [
        [Detection(i.kind, i.box) for i in scene.items if i.kind == kind]
        for scene, kind in zip(shown, kinds, strict=True)
    ]
    questions = [
        (image, sample)
        for scene, image in zip(shown, images, strict=True)
        for sample in samples(scene, rng)
        if sample.task == "ask" and (known or KIND in sample.prefix + sample.suffix)
    ]
    answers = replies([one.prefix for _, one in questions], [image for image, _ in questions])
    right = [
        reply.text == sample.suffix for reply, (_, sample) in zip(answers, questions, strict=True)
    ]
    captions = replies(["caption en"] * number, images)
    named = [
        all(
            phrase(color, kind, count=n) in reply.text
            for kind, color, n in groups(scene)
            if known or kind == KIND
        )
        for scene, reply in zip(shown, captions, strict=True)
    ]
    return {
        "detection AP50": average_precision(targets, [one.detections for one in detected])[0],
        "questions right": float(np.mean(right)),
        "captions that name it right": float(np.mean(named)),
    }


def draw(before: PaliGemma, after: PaliGemma, path: Path) -> None:
    """Images with detections and captions, before training in the upper row, after in the lower."""
    columns, side, pad, text = 4, 280, 12, 58
    size = (columns * (side + pad) + pad, 2 * (side + text + pad) + pad)
    sheet = Image.new("RGB", size, "white")
    pen, font, small = ImageDraw.Draw(sheet), load_font(14), load_font(12)
    for column, scene in enumerate(islice(with_comets(TEST + 50_000), columns)):
        image, left = scenes.render(scene, side), pad + column * (side + pad)
        for row, (name, pg) in enumerate((("before", before), ("after", after))):
            top = pad + row * (side + text + pad)
            found = pg.generate(image, f"detect {KIND}", OPTIONS).detections
            sheet.paste(draw_boxes(image, found), (left, top))
            pen.text((left, top + side + 4), f"{name}: detect {KIND}", font=small, fill="#555555")
            lines = wrap(pg.generate(image, "caption en", OPTIONS).text, 36)[:2]
            pen.text((left, top + side + 20), "\n".join(lines), font=font, fill="black")
    sheet.save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--scenes", type=int, default=200, help="unseen ones, to measure on")
    parser.add_argument("--draw", type=Path, default=ROOT / "docs" / "finetune.png")
    arguments = parser.parse_args()
    out = Path("runs") / f"{KIND}-{arguments.examples}"
    if not (out / "data" / "train.jsonl").exists():
        write(out / "data", arguments.examples)
    config = yaml.safe_load(CONFIG.read_text("utf-8"))
    config["output_dir"], config["data"][0]["jsonl"] = str(out), str(out / "data" / "train.jsonl")
    (out / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    # in a process of its own: scenes of this one have comets, and those trained on must not
    command = [sys.executable, "-m", "paligemma", "train", str(out / "config.yaml")]
    subprocess.run(command, check=True)
    before, after = PaliGemma.load(), PaliGemma.load(out, dtype="float32")
    for what, known in (("comets", False), ("other kinds", True)):
        scores = [measure(pg, arguments.scenes, known) for pg in (before, after)]
        for name in scores[0]:
            print(f"{what}: {name:28} {scores[0][name]:.3f} -> {scores[1][name]:.3f}")
    draw(before, after, arguments.draw)


if __name__ == "__main__":
    main()
