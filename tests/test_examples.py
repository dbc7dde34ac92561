"""The shipped pictures get true answers from the shipped model; the scripts beside them run."""

import json
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paligemma.detections import Detection, box_iou
from paligemma.evaluation.metrics.detection import match_detections
from paligemma.evaluation.metrics.segmentation import mask_iou
from paligemma.pipeline import PaliGemma
from paligemma.synthetic.language import caption, reading
from paligemma.synthetic.scenes import silhouette
from paligemma.synthetic.sticker_world import SceneMask
from paligemma.tasks import TASKS
from visualize import paste_mask

EXAMPLES = Path(__file__).parents[1] / "examples"
DRAW = runpy.run_path(str(EXAMPLES / "draw.py"))
SCENES = DRAW["all_scenes"]()
ROWS = json.loads((EXAMPLES / "prompts.json").read_text(encoding="utf-8"))
SPOKEN = {
    ("music", "how many notes are there?"): "3",
    ("weather", "is the sun above the umbrella?"): "yes",
    ("zoo", "what color is the monkey?"): "brown",
    ("band", "is there a guitar?"): "yes",
}


@pytest.fixture(scope="module")
def pg() -> PaliGemma:
    return PaliGemma.load()


def rows_of(*tasks: str):
    rows = [(Path(row["image"]).stem, row["task"], row["text"]) for row in ROWS]
    return pytest.mark.parametrize(
        ("name", "task", "text"),
        [pytest.param(*row, id=" ".join(row)) for row in rows if row[1] in tasks],
    )


def ask(pg: PaliGemma, name: str, task: str, text: str):
    return pg.generate(EXAMPLES / f"{name}.png", TASKS[task].prompt(text))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['image']} {row['task']}")
def test_the_kept_answers_are_the_models(pg, row):
    kept = "".join(text for text, _ in row["tokens"])
    assert ask(pg, Path(row["image"]).stem, row["task"], row["text"]).text == kept


def test_there_are_examples_of_every_task():
    assert len(ROWS) >= 8
    assert {row["task"] for row in ROWS} == set(TASKS)


@rows_of("caption", "read", "ask")
def test_words(pg, name, task, text):
    scene = SCENES[name]
    truth = {"caption": caption(scene), "read": reading(scene), "ask": SPOKEN.get((name, text))}
    assert ask(pg, name, task, text).text == truth[task]


def test_styles_of_captions(pg):
    image = EXAMPLES / "harbour.png"
    assert pg.generate(image, "cap en").text == "an anchor and a wheel"
    described = pg.generate(image, "describe en").text
    assert "a red anchor at the top left" in described and "teal background" in described


@rows_of("detect", "segment")
def test_objects(pg, name, task, text):
    names = [label.strip() for label in text.split(";")]
    items = [item for item in SCENES[name].items if item.kind in names]
    true = [Detection(item.kind, item.box) for item in items]
    found = ask(pg, name, task, text).detections
    assert len(found) == len(true)
    soft = pg.masks(found)
    for item, truth, match in zip(items, true, match_detections(true, found), strict=True):
        assert match is not None, f"no {item.kind}"
        assert box_iou(truth.box, found[match].box) > 0.7
        if task == "segment":
            drawn = isinstance(item, SceneMask)
            true_mask = item.scene.mask(item.number) if drawn else silhouette(item, 256) > 0
            mask = paste_mask(soft[match], found[match].box, *true_mask.shape)
            assert mask_iou(mask, true_mask) > 0.6


def test_quickstart(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "quickstart.py"), run_name="__main__")
    assert "anchor at [" in capsys.readouterr().out
    files = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert files == {f"runs/quickstart/{name}.png" for name in ("boxes", "masks", "attention")}


def test_the_training_samples_are_the_scripts():
    kept = (EXAMPLES / "train.jsonl").read_text(encoding="utf-8").splitlines()
    made = [one for name, scene in SCENES.items() for one in DRAW["training_samples"](name, scene)]
    assert list(map(json.loads, kept)) == made


def test_the_client_without_an_app():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    client, url = EXAMPLES / "client.py", f"http://127.0.0.1:{port}"
    run = subprocess.run([sys.executable, client, url], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr == f"No app answers at {url}: start one with python app.py.\n"


def test_pictures_are_the_scripts():
    for name, scene in SCENES.items():
        with Image.open(EXAMPLES / f"{name}.png") as kept:
            drawn = np.asarray(DRAW["draw"](scene)).astype(int)
            assert np.abs(drawn - np.asarray(kept)).mean() < 0.5
