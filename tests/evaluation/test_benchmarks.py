"""Benchmarks from the official files to the score, and runs that are stopped and resumed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from paligemma.__main__ import main
from paligemma.detections import parse_tokens
from paligemma.evaluation.benchmarks import BENCHMARKS, PUBLISHED_SOURCE, get_benchmark
from paligemma.evaluation.predictions import Prediction, PredictionWriter, read_predictions
from paligemma.evaluation.run import evaluate_benchmark, format_results
from paligemma.images import open_image
from paligemma.pipeline import PaliGemma
from paligemma.reply import Reply, Timings, Token

ROOT = Path(__file__).parents[2]


class FakeModel:
    """What an evaluation uses of `PaliGemma`.

    answers: the answer to (name of the image file, prompt), or to the prompt; else no text.
    prompted: all pairs so far. batches: how many until somebody presses Ctrl-C.
    """

    name, facts, precision = "a fake model", "no parameters", "float32"
    checkpoint = SimpleNamespace(fingerprint="no weights")

    def __init__(self, answers: dict, batches: int = 10**9) -> None:
        self.answers, self.prompted, self.batches = answers, [], batches

    def generate_batch(self, images, prompts, options) -> list[Reply]:
        if not self.batches:
            raise KeyboardInterrupt
        self.batches -= 1
        replies = []
        for image, prompt in zip(images, prompts, strict=True):
            size = open_image(image).size
            pair = Path(image).name, prompt
            self.prompted.append(pair)
            text = self.answers.get(pair, self.answers.get(prompt, ""))
            pieces = [(piece, -0.1) for piece in text.split(" ; ")] if text else []
            spaced = [(piece + " ; ", score) for piece, score in pieces[:-1]] + pieces[-1:]
            tokens = tuple(Token(n, *one) for n, one in enumerate(spaced))
            found = tuple(parse_tokens(spaced))
            timings = Timings(0, 0, 0, 0)
            replies.append(Reply(text, found, tokens, timings, "stop", prompt, size))
        return replies

    def masks(self, detections) -> list[np.ndarray | None]:
        return [None if one.codes is None else np.ones((64, 64)) for one in detections]


def evaluate(pg, key: str, data: Path, out: Path, split: str = "val", **options) -> dict:
    return evaluate_benchmark(lambda device: pg, get_benchmark(key), data, split, out, **options)


def save_image(path: Path, width: int = 100, height: int = 50) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "gray").save(path)


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")


# --- One official folder for each task, and a model's answers -------------------------------------


def coco_captions(folder: Path) -> dict:
    captions = {
        1: ["a red cat sits on a mat", "A cat, on a mat."],
        2: ["two dogs run", "dogs running"],
    }
    for number in (1, 2, 3):
        save_image(folder / f"val2017/{number:012d}.jpg")
    images = [{"id": n, "file_name": f"{n:012d}.jpg"} for n in (1, 2, 3)]
    rows = [
        {"id": n, "image_id": n, "caption": text} for n, texts in captions.items() for text in texts
    ]
    write_json(
        folder / "annotations/captions_val2017.json", {"images": images, "annotations": rows}
    )
    write_json(folder / "annotations/captions_train2017.json", {"images": [], "annotations": []})
    return {(f"{1:012d}.jpg", "caption en"): "A red cat sits on a mat."}


BOXES = ["<loc0000><loc0000><loc0512><loc0512>", "<loc0512><loc0512><loc1023><loc1023>"]


def coco_detection(folder: Path) -> dict:
    names = ["cat", "dog", "cow", "sheep", "potted plant"]
    for number in (1, 2):
        save_image(folder / f"val2017/{number}.jpg", 1023, 1023)
    half = {"bbox": [0, 0, 512, 512], "area": 512 * 512, "iscrowd": 0}
    other = {"bbox": [512, 512, 511, 511], "area": 511 * 511, "iscrowd": 0}
    rows = [
        half | {"image_id": 1, "category_id": 10},
        other | {"image_id": 1, "category_id": 14},
        half | {"image_id": 2, "category_id": 14},
        other | {"image_id": 2, "category_id": 10},
        {
            "image_id": 2,
            "category_id": 10,
            "bbox": [600, 0, 400, 400],
            "area": 160_000,
            "iscrowd": 1,
        },
    ]
    write_json(
        folder / "annotations/instances_val2017.json",
        {
            "images": [
                {"id": n, "file_name": f"{n}.jpg", "width": 1023, "height": 1023} for n in (1, 2)
            ],
            "categories": [{"id": 10 + n, "name": name} for n, name in enumerate(names)],
            "annotations": [row | {"id": n, "segmentation": []} for n, row in enumerate(rows, 1)],
        },
    )
    first, second = "detect cat ; dog ; cow ; sheep", "detect potted plant"
    return {
        (
            "1.jpg",
            first,
        ): f"{BOXES[0]} cat ; {BOXES[1]} potted plant",  # the second is not in the prompt
        ("1.jpg", second): f"{BOXES[1]} potted plant",
        ("2.jpg", first): f"{BOXES[1]} cat ; {BOXES[0]} dog",
    }


SEGS = "".join(f"<seg{n:03d}>" for n in range(16))


def refcoco(folder: Path) -> dict:
    for number in (1, 2):
        save_image(folder / f"images/{number}.jpg", 100, 50)
    square = {"bbox": [0, 0, 50, 25], "area": 1250, "segmentation": [[0, 0, 50, 0, 50, 25, 0, 25]]}
    runs = {"size": [50, 100], "counts": [0, 1250, 3750]}  # the 25 columns on the left
    strip = {"bbox": [0, 0, 25, 50], "area": 1250, "segmentation": runs}
    write_json(
        folder / "refcoco/instances.json",
        {
            "images": [
                {"id": n, "file_name": f"{n}.jpg", "width": 100, "height": 50} for n in (1, 2)
            ],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [
                square | {"id": 7, "image_id": 1, "category_id": 1},
                strip | {"id": 8, "image_id": 2, "category_id": 1},
            ],
        },
    )
    say = lambda *texts: [{"sent_id": n, "sent": text} for n, text in enumerate(texts)]
    write_json(
        folder / "refcoco/refs(unc).json",
        [
            {
                "ref_id": 1,
                "ann_id": 7,
                "image_id": 1,
                "split": "val",
                "sentences": say("cat, left", "the  top one"),
            },
            {"ref_id": 2, "ann_id": 8, "image_id": 2, "split": "val", "sentences": say("strip")},
            {"ref_id": 3, "ann_id": 8, "image_id": 2, "split": "testA", "sentences": say("other")},
        ],
    )
    return {
        "segment cat, left": f"<loc0000><loc0000><loc0512><loc0512>{SEGS} cat, left",
        "segment the top one": "<loc0000><loc0000><loc0512><loc0512> no mask",
        "segment strip": f"<loc0000><loc0000><loc1023><loc0400>{SEGS}",
    }


def vqav2(folder: Path) -> dict:
    for number in (262_148, 9):
        save_image(folder / f"val2014/COCO_val2014_{number:012d}.jpg")
    questions = [
        (262148000, 262_148, "Where is he?"),
        (9001, 9, "How many\ndogs?"),
        (9002, 9, "No?"),
    ]
    write_json(
        folder / "v2_OpenEnded_mscoco_val2014_questions.json",
        {
            "data_type": "mscoco",
            "data_subtype": "val2014",
            "questions": [
                {"question_id": q, "image_id": i, "question": t} for q, i, t in questions
            ],
        },
    )
    answers = {
        262148000: ("other", ["on table"] * 3 + ["table"] * 7),
        9001: ("number", ["2"] * 9 + ["3"]),
    }
    write_json(
        folder / "v2_mscoco_val2014_annotations.json",
        {
            "annotations": [
                {
                    "question_id": q,
                    "image_id": 9,
                    "answer_type": kind,
                    "question_type": "x",
                    "answers": [
                        {"answer": a, "answer_confidence": "yes", "answer_id": n}
                        for n, a in enumerate(texts, 1)
                    ],
                }
                for q, (kind, texts) in answers.items()
            ]
        },
    )
    return {"answer en Where is he?": "On the table.", "answer en How many dogs?": "Two"}


def textvqa(folder: Path) -> dict:
    rows = [("a1b2", "what brand?", ["acme"] * 10), ("a1b2", "what time?", ["5:10"] * 10)]
    save_image(folder / "train_images/a1b2.jpg")
    write_json(
        folder / "TextVQA_0.5.1_val.json",
        {
            "data": [
                {"question_id": n, "image_id": i, "question": q, "answers": a}
                for n, (i, q, a) in enumerate(rows)
            ]
        },
    )
    return {"answer en what brand?": "acme", "answer en what time?": "6:10"}


def docvqa(folder: Path) -> dict:
    save_image(folder / "documents/xnbl0037_1.png")
    questions = [("what date?", ["1/8/93", "Jan 8"]), ("who?", ["Mr. Smith"]), ("where?", ["Ohio"])]
    write_json(
        folder / "val_v1.0_withQT.json",
        {
            "dataset_name": "docvqa",
            "data": [
                {
                    "questionId": n,
                    "question": q,
                    "image": "documents/xnbl0037_1.png",
                    "docId": 1,
                    "answers": a,
                }
                for n, (q, a) in enumerate(questions)
            ],
        },
    )
    return {"answer en what date?": "jan 8", "answer en who?": "Mr Smith", "answer en where?": "x"}


def chartqa(folder: Path) -> dict:
    save_image(folder / "val/png/one.png")
    row = {"imgname": "one.png", "query": "What share?", "label": "20"}
    write_json(folder / "val/val_human.json", [row, row | {"query": "Which?", "label": "Japan"}])
    write_json(folder / "val/val_augmented.json", [row | {"query": "When?", "label": 2019}])
    return {"answer en What share?": "20.9", "answer en Which?": "japan", "answer en When?": "1900"}


def mmmu(folder: Path) -> dict:
    save_image(folder / "images/one.png")
    row = {"question_type": "multiple-choice", "image_1": "images/one.png", "image_2": None}
    rows = [
        {
            "id": "validation_Art_Theory_1",
            "question": "Who painted <image 1>?",
            "options": "['Monet', \"O'Keeffe\"]",
            "answer": "B",
        },
        {
            "id": "validation_Math_2",
            "question": "Which?",
            "options": ["1", "2", "3"],
            "answer": "C",
        },
        {
            "id": "validation_Math_3",
            "question": "Which?",
            "options": ["1"],
            "answer": "A",
            "image_2": "images/one.png",
        },
        {
            "id": "validation_Math_4",
            "question": "How?",
            "question_type": "open",
            "options": "[]",
            "answer": "so",
        },
    ]
    lines = "\n".join(json.dumps(row | one) for one in rows)
    (folder / "mmmu_val.jsonl").write_text(lines + "\n\n", "utf-8")
    return {
        "answer en Who painted ? (A) Monet (B) O'Keeffe": "The answer is (B).",
        "answer en Which? (A) 1 (B) 2 (C) 3": "B",
    }


def json_lines(folder: Path) -> dict:
    save_image(folder / "one.png")
    rows = [
        {"image": "one.png", "prefix": "caption en", "suffix": "a cat"},
        {"image": "one.png", "prefix": "detect cat", "suffix": f"{BOXES[0]} cat"},
        {"image": "one.png", "prefix": "ocr", "suffix": "EXIT"},
    ]
    (folder / "my_val.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return {"caption en": "a cat", "detect cat": f"{BOXES[0]} cat", "ocr": "EXT"}


HALF = pytest.approx(0.5)
EXPECTED = {
    # by hand: 10 · (4 + e^(-4/72) · (√7/3 + 1/√6 + 1/√15)) / 8 for the first, 0 for the second
    "coco-captions": (coco_captions, {"cider": pytest.approx(3.4154, abs=1e-3)}, 2),
    # all cats are found, and one of two potted plants; the dog is no target, nor its category
    "coco-detection": (coco_detection, {"map": pytest.approx(0.75, abs=0.01),
                                        "ap50": pytest.approx(0.75, abs=0.01), "images": 2}, 4),
    # right; no mask; a box of 39 columns for 25, and in it the mask everywhere
    "refcoco": (refcoco, {"miou": pytest.approx((1 + 25 / 39) / 3), "invalid": 1,
                          "box_accuracy_0.5": pytest.approx(2 / 3),
                          "box_accuracy_0.75": pytest.approx(1 / 3)}, 3),
    "vqav2": (vqav2, {"accuracy": pytest.approx(0.95), "accuracy of number": pytest.approx(1),
                      "accuracy of other": pytest.approx(0.9)}, 2),
    "textvqa": (textvqa, {"accuracy": HALF}, 2),
    "docvqa": (docvqa, {"anls": pytest.approx((1 + 8 / 9 + 0) / 3)}, 3),
    "chartqa": (chartqa, {"relaxed_accuracy": pytest.approx(2 / 3),
                          "relaxed_accuracy of human": 1,
                          "relaxed_accuracy of augmented": 0}, 3),
    "mmmu": (mmmu, {"accuracy": HALF, "accuracy of Art_Theory": 1, "accuracy of Math": 0}, 2),
    "json-lines": (json_lines, {"exact": pytest.approx(2 / 3), "cider": 0, "map": pytest.approx(1),
                                "ap50": pytest.approx(1)}, 3),
}  # fmt: skip


def test_every_task_is_tested():
    assert set(EXPECTED) == set(BENCHMARKS)


@pytest.mark.parametrize("key", EXPECTED)
def test_from_the_official_files_to_the_score(key, tmp_path, capsys):
    build, scores, count = EXPECTED[key]
    answers = build(tmp_path / "data")
    pg = FakeModel(answers)
    out = tmp_path / "out"
    results = evaluate(pg, key, tmp_path / "data", out, batch_size=2)
    assert results["scores"] == scores and results["examples"] == count == len(pg.prompted)
    assert json.loads((out / "results.json").read_text("utf-8"))["scores"] == scores
    assert len(read_predictions(out)) == count
    page = (out / "worst.html").read_text("utf-8")
    assert page.count("<section>") == count and "data:image/jpeg;base64," in page


def test_a_file_is_as_good_as_its_folder(tmp_path):
    for key, (build, _, count) in EXPECTED.items():
        folder = tmp_path / key
        build(folder)
        loaded = get_benchmark(key).load(folder, "val")
        named = {
            "coco-captions": "annotations/captions_val2017.json",
            "coco-detection": "annotations/instances_val2017.json",
            "refcoco": "refcoco/refs(unc).json",
            "vqav2": "v2_OpenEnded_mscoco_val2014_questions.json",
            "textvqa": "TextVQA_0.5.1_val.json",
            "docvqa": "val_v1.0_withQT.json",
            "mmmu": "mmmu_val.jsonl",
            "json-lines": "my_val.jsonl",
        }
        if key == "chartqa":  # two files: each is a part
            parts = [
                get_benchmark(key).load(folder / f"val/val_{part}.json", "val")
                for part in ("augmented", "human")
            ]
            assert [one for part in parts for one in part.examples] == loaded.examples
        elif key == "refcoco":  # its images are in another folder than the file's
            with pytest.raises(ValueError, match=r"names 1\.jpg, which is not under"):
                get_benchmark(key).load(folder / named[key], "val")
        else:
            assert get_benchmark(key).load(folder / named[key], "val") == loaded
        assert len(loaded.examples) == count


def test_what_is_left_out_is_counted(tmp_path):
    for key, left_out in {
        "coco-captions": {"without a caption": 1},
        "vqav2": {"without answers": 1},
        "mmmu": {"open questions": 1, "with several images": 1},
        "textvqa": {},
    }.items():
        EXPECTED[key][0](tmp_path / key)
        assert get_benchmark(key).load(tmp_path / key, "val").left_out == left_out


def test_detection_is_scored_as_pycocotools_scores_the_files(tmp_path, capsys):
    answers = coco_detection(tmp_path)
    answers["2.jpg", "detect potted plant"] = (
        f"{BOXES[0]} potted plant ; <loc0700><loc0000><loc0900><loc0300> potted plant"
    )
    answers["2.jpg", "detect cat ; dog ; cow ; sheep"] = (
        "<loc0010><loc0620><loc0300><loc0990> cat ; <loc0530><loc0520><loc1000><loc1023> cat"
    )
    benchmark, out = get_benchmark("coco-detection"), tmp_path / "out"
    results = evaluate(FakeModel(answers), "coco-detection", tmp_path, out)
    official = COCO(tmp_path / "annotations/instances_val2017.json")
    numbers = {one["name"]: number for number, one in official.cats.items()}
    examples = {example.id: example for example in benchmark.load(tmp_path, "val").examples}
    rows = []
    for prediction in read_predictions(out).values():
        target = examples[prediction.id].target
        for one in prediction.detections:
            if one.label in target.categories:
                x1, y1, x2, y2 = one.xyxy(1023, 1023)
                rows.append(
                    {
                        "image_id": target.image_id,
                        "category_id": numbers[one.label],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "score": one.score,
                    }
                )
    write_json(tmp_path / "results.json", rows)
    scored = COCOeval(official, official.loadRes(str(tmp_path / "results.json")), "bbox")
    scored.evaluate(), scored.accumulate(), scored.summarize()
    assert results["scores"]["map"] == pytest.approx(scored.stats[0], abs=1e-6)
    assert results["scores"]["ap50"] == pytest.approx(scored.stats[1], abs=1e-6)
    assert 0.5 < scored.stats[0] < 1
    by_class = {one["class"]: one for one in results["by_class"]["classes"]}
    assert {*by_class} == {"cat", "potted plant"}
    for name, one in by_class.items():
        precision = scored.eval["precision"][:, :, scored.params.catIds.index(numbers[name]), 0, 2]
        assert one["map"] == pytest.approx(precision.mean())
        assert one["ap50"] == pytest.approx(precision[0].mean())
    # one cat is found by two boxes, another lies in the crowd
    assert by_class["cat"] | {"ap50": 0, "map": 0} == {
        "class": "cat", "objects": 2, "predicted": 2, "right": 2, "ap50": 0, "map": 0,
    }  # fmt: skip
    assert (out / "classes.png").read_bytes()[:4] == b"\x89PNG"


def test_published_figures_are_named_as_such(tmp_path):
    coco_detection(tmp_path)
    results = evaluate(FakeModel({}), "coco-detection", tmp_path, tmp_path / "out")
    assert results["scores"]["map"] == 0 and results["published"]["map"][448] == 0.370
    lines = format_results(results).splitlines()
    assert "map" in lines[0] and "0.000" in lines[0] and "published, fine-tuned 3B" in lines[0]
    assert PUBLISHED_SOURCE in lines[-1] and "not measured here" in lines[-1]


def test_the_report_shows_the_worst_first_and_escapes_text(tmp_path):
    folder = tmp_path / "data"
    json_lines(folder)
    answers = {"caption en": "<script>alert(1)</script>", "ocr": "EXIT"}
    out = tmp_path / "out"
    evaluate(FakeModel(answers), "json-lines", folder, out)
    page = (out / "worst.html").read_text("utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page
    assert page.index("caption en") < page.index("<dd>ocr</dd>")
    assert page.count("<img") == 1 + 2 + 1  # target and answer where there are objects


# --- Stop and resume ------------------------------------------------------------------


def numbered_examples(folder: Path, count: int = 11) -> tuple[Path, dict]:
    save_image(folder / "one.png")
    rows = [{"image": "one.png", "prefix": f"say {n}", "suffix": str(n)} for n in range(count)]
    (folder / "val.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return folder / "val.jsonl", {f"say {n}": str(n) for n in range(count)}


def test_a_stopped_evaluation_resumes(tmp_path):
    data, answers = numbered_examples(tmp_path / "data")
    out = tmp_path / "out"
    prompted = []
    for batches in (2, 0, 1):
        pg = FakeModel(answers, batches)
        with pytest.raises(KeyboardInterrupt, match="run the same command to resume"):
            evaluate(pg, "json-lines", data, out, batch_size=2)
        prompted += pg.prompted
        with (out / "predictions-000.jsonl").open("ab") as file:
            file.write(b'{"id": "9", "prompt": "say')  # as after a power failure
    pg = FakeModel(answers)
    results = evaluate(pg, "json-lines", data, out, batch_size=2)
    assert results["scores"] == {"exact": 1.0}
    assert sorted(prompted + pg.prompted) == sorted(("one.png", f"say {n}") for n in range(11))
    pg = FakeModel({})
    assert evaluate(pg, "json-lines", data, out) == results and not pg.prompted


def test_a_limit_can_be_raised(tmp_path):
    data, answers = numbered_examples(tmp_path / "data")
    out, pg = tmp_path / "out", FakeModel(answers)
    assert evaluate(pg, "json-lines", data, out, limit=4)["examples"] == 4
    assert evaluate(pg, "json-lines", data, out, limit=9)["examples"] == 9
    assert len(pg.prompted) == 9


def test_predictions_of_more_processes_than_there_are_now(tmp_path):
    data, answers = numbered_examples(tmp_path / "data")
    out = tmp_path / "out"
    evaluate(FakeModel(answers), "json-lines", data, out)
    lines = (out / "predictions-000.jsonl").read_bytes().splitlines(keepends=True)
    (out / "predictions-000.jsonl").write_bytes(b"".join(lines[:3]))
    (out / "predictions-005.jsonl").write_bytes(b"".join(lines[2:6]) + lines[7][:20])
    pg = FakeModel(answers)
    assert evaluate(pg, "json-lines", data, out)["scores"] == {"exact": 1.0}
    assert [prompt for _, prompt in pg.prompted] == [f"say {n}" for n in range(6, 11)]


def test_a_folder_of_another_evaluation_is_refused(tmp_path):
    data, answers = numbered_examples(tmp_path / "data")
    out = tmp_path / "out"
    evaluate(FakeModel(answers), "json-lines", data, out)
    other = FakeModel(answers)
    other.name = "another model"
    with pytest.raises(ValueError, match=r"for the model 'a fake model'.*another --out"):
        evaluate(other, "json-lines", data, out)
    retrained, quantized = FakeModel(answers), FakeModel(answers)
    retrained.checkpoint, quantized.precision = SimpleNamespace(fingerprint="later weights"), "int8"
    with pytest.raises(ValueError, match="for the weights 'no weights', not 'later weights'"):
        evaluate(retrained, "json-lines", data, out)
    with pytest.raises(ValueError, match="for the precision 'float32', not 'int8'"):
        evaluate(quantized, "json-lines", data, out)
    with pytest.raises(ValueError, match="for the split 'val'"):
        evaluate(FakeModel(answers), "json-lines", data, out, split="test")
    data.write_text(data.read_text("utf-8").replace("say 3", "tell 3"), "utf-8")
    with pytest.raises(ValueError, match=r"example 4 .* was 'say 3' before and is now 'tell 3'"):
        evaluate(FakeModel(answers), "json-lines", data, out)
    (out / "task.json").write_text('{"task": "json-lines"}', "utf-8")
    with pytest.raises(ValueError, match="of an earlier version; give another --out"):
        evaluate(FakeModel(answers), "json-lines", data, out)


def test_predictions_are_read_back(tmp_path):
    found = tuple(
        parse_tokens([(f"{BOXES[0]}{SEGS} cat", -0.5), (" ; ", 0.0), (f"{BOXES[1]} dog", -1.5)])
    )
    timings = Timings(0.1, 0.2, 0.3, 4)
    reply = Reply("text \u2028 <loc", found, (), timings, "stop", "detect ☃", (100, 50))
    with PredictionWriter(tmp_path, 3) as writer:
        writer.write([("1", reply)])
    prediction = Prediction("1", "detect ☃", "text \u2028 <loc", found)
    assert read_predictions(tmp_path) == {"1": prediction}
    path = tmp_path / "predictions-003.jsonl"
    assert json.loads(path.read_text("utf-8")) == {"id": "1"} | reply.to_json(tokens=False)
    with path.open("ab") as file:
        file.write(b'{"id": 2}\n')
    with pytest.raises(ValueError, match=r"predictions-003.jsonl, line 2, is no prediction"):
        read_predictions(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_count_each_example_once(folder, tmp_path):
    data, _ = numbered_examples(tmp_path / "data", 5)
    given = ["evaluate", "--task", "json-lines", "--data", str(data), "--model", str(folder)]
    given += ["--batch-size", "2", "--device", "cpu"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    done = subprocess.run(
        [*torchrun, "2", "-m", "paligemma", *given, "--out", str(tmp_path / "two")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]).keys() == {"exact"}
    ids = [
        [json.loads(line)["id"] for line in path.read_bytes().splitlines()]
        for path in sorted((tmp_path / "two").glob("predictions-*.jsonl"))
    ]
    assert ids == [["1 one.png", "3 one.png", "5 one.png"], ["2 one.png", "4 one.png"]]
    assert main([*given, "--out", str(tmp_path / "one")]) == 0
    one, two = (read_predictions(tmp_path / name) for name in ("one", "two"))
    assert {n: p.text for n, p in one.items()} == {n: p.text for n, p in two.items()}
    results = [(tmp_path / name / "results.json").read_text("utf-8") for name in ("one", "two")]
    assert results[0] == results[1]


# --- The command line -----------------------------------------------------------------------------


@pytest.fixture
def fake_model(monkeypatch):
    pg = FakeModel({"caption en": "a cat"})
    monkeypatch.setattr(PaliGemma, "load", lambda *given: pg)
    return pg


def test_the_command_prints_a_table_and_then_json(fake_model, tmp_path, capsys):
    data = tmp_path / "data"
    json_lines(data)
    given = ["evaluate", "--task", "json-lines", "--data", str(data), "--out", str(tmp_path / "o")]
    assert main(given) == 0
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1])["exact"] == pytest.approx(1 / 3)
    assert lines[0].split() == ["exact", "0.333"] and "worst.html" in lines[-2]


def test_ctrl_c_says_how_to_resume(fake_model, tmp_path, capsys):
    json_lines(tmp_path)
    fake_model.batches = 2
    given = ["evaluate", "--task", "json-lines", "--data", str(tmp_path), "--batch-size", "1"]
    assert main([*given, "--out", str(tmp_path / "o")]) == 130
    err = capsys.readouterr().err
    assert "paligemma: stopped after 2 of 3 examples; run the same command to resume." in err
    assert len(read_predictions(tmp_path / "o")) == 2


def test_ctrl_c_before_the_first_answer(monkeypatch, tmp_path, capsys):
    def load(*given):
        raise KeyboardInterrupt

    json_lines(tmp_path)
    monkeypatch.setattr(PaliGemma, "load", load)
    assert main(["evaluate", "--task", "json-lines", "--data", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "paligemma: stopped.\n"


GOOD = {"image": "one.png", "prefix": "a", "suffix": "b"}
MISTAKES = {
    "no such task": (["--task", "coco-caption"], {}, "did you mean coco-captions?"),
    "no task at all": (["--task", "zzz"], {}, "there are coco-captions, "),
    "no data": (["--task", "vqav2"], {}, "needs --data"),
    "no file": (["--task", "json-lines", "--data", "{}/no"], {}, "There is no file or folder"),
    "an empty folder": (["--task", "vqav2", "--data", "{}"], {}, "has no *val*_questions.json"),
    "no JSON": (["--task", "coco-captions", "--data", "{}/x.json"], {"x.json": "{"},
                "x.json: it is not JSON (EOF while parsing an object"),
    "other JSON": (["--task", "coco-captions", "--data", "{}/x.json"],
                   {"x.json": '{"images": [], "annotations": [{"image_id": 1}]}'},
                   "x.json: annotations.0 has no caption."),
    "a bad line": (["--task", "json-lines", "--data", "{}/x.jsonl"],
                   {"x.jsonl": json.dumps(GOOD) + '\n{"image": "one.png"}\n'},
                   "x.jsonl, line 2: it has no prefix."),
    "nothing in it": (["--task", "json-lines", "--data", "{}/x.jsonl"], {"x.jsonl": "\n"},
                      "has no example"),
    "a lost image": (["--task", "json-lines", "--data", "{}/x.jsonl"],
                       {"x.jsonl": json.dumps(GOOD | {"image": "two.png"})},
                       "x.jsonl names two.png, which is not under"),
    "no image": (["--task", "json-lines", "--data", "{}/x.jsonl"],
                   {"x.jsonl": json.dumps(GOOD | {"image": "x.jsonl"})}, "is not an image"),
    "two files": (["--task", "json-lines", "--data", "{}"],
                  {"a_val.jsonl": "", "b_val.jsonl": ""}, "has 2 files for it (a_val.jsonl"),
    "a pickle": (["--task", "refcoco", "--data", "{}/refs.p"], {"refs.p": ""}, "is a pickle"),
    "no list": (["--task", "mmmu", "--data", "{}/x.jsonl"],
                {"x.jsonl": json.dumps({"id": "a_b_1", "question": "q", "options": "os.getcwd()",
                                        "answer": "A", "image_1": "one.png"})},
                "the options of a_b_1 are no list"),
    "twins": (["--task", "docvqa", "--data", "{}/x.json"],
              {"x.json": json.dumps({"data": [{"questionId": 1, "question": "q", "answers": ["a"],
                                               "image": "one.png"}] * 2})},
              "two examples with the id 1"),
    "no batch": (["--task", "json-lines", "--data", "{}", "--batch-size", "0"], {}, "from 1"),
    "data without a task": (["--data", "{}"], {}, "--data needs a --task"),
    "a limit without a task": (["--limit", "10"], {}, "--limit needs a --task"),
    "scenes for a task": (["--task", "json-lines", "--data", "{}", "--num-scenes", "9"], {},
                          "--num-scenes needs drawn scenes"),
}  # fmt: skip


@pytest.mark.parametrize("argv, files, expected", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line(fake_model, tmp_path, capsys, argv, files, expected):
    save_image(tmp_path / "one.png")
    for name, text in files.items():
        (tmp_path / name).write_text(text, "utf-8")
    argv = [word.replace("{}", str(tmp_path)) for word in argv]
    out = ["--out", str(tmp_path / "o")] if "--task" in argv else []
    assert main(["evaluate", *argv, *out]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("paligemma: ") and expected in err
