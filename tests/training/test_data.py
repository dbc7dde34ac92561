"""Configs, sources, their order, and the check of data: what is read, and what is refused how."""

import json
import pickle
import runpy
from collections import Counter
from pathlib import Path

import pytest
import runs
import tiny
import torch
import yaml
from PIL import Image

from paligemma import PaliGemma, SamplingOptions
from paligemma.__main__ import main
from paligemma.detections import invalid_objects, parse
from paligemma.evaluation.datasets.coco import load_coco_detection
from paligemma.evaluation.datasets.questions import load_json_lines
from paligemma.formats.coco import find_instances, read_instances
from paligemma.models.paligemma import IGNORE_INDEX
from paligemma.synthetic import scenes
from paligemma.training.config import STAGES, Run, Scenes
from paligemma.training.data import EveryRow, Mixture, SampleBatches
from paligemma.training.read_config import parse_run, read_run
from paligemma.training.sources import (
    CocoSource,
    ImageFolder,
    InvalidSample,
    JsonLines,
    Sample,
    SyntheticScenes,
)

ROOT = Path(__file__).parents[2]
GOOD = {"model": "m", "data": [{"jsonl": "a.jsonl"}], "max_steps": 3, "output_dir": "o"}

# --- Configs --------------------------------------------------------------------------------------

WRONG = {
    "unknown": ({"learning_rte": 1}, "there is no field learning_rte; did you mean learning_rate?"),
    "unknown in a part": ({"lora": {"rnk": 4}}, "there is no field lora.rnk; did you mean rank?"),
    "unknown in a group": (
        {"param_groups": [{"match": "a", "lr_mul": 0}]},
        "there is no field param_groups.0.lr_mul; did you mean lr_mult?",
    ),
    "unknown in data": (
        {"data": [{"jsonl": "a", "wieght": 2}]},
        "there is no field data.0.wieght; did you mean weight?",
    ),
    "data of no kind": (
        {"data": [{"json": "a"}]},
        "data.0 needs just one of the fields jsonl, coco",
    ),
    "data of two kinds": ({"data": [{"jsonl": "a", "coco": "b"}]}, "data.0 needs just one of"),
    "no data": ({"data": []}, "data is []"),
    "data is no list": ({"data": 3}, "data is 3"),
    "missing": ({"output_dir": None}, "output_dir is None"),
    "impossible": (
        {"batch_size": 0},
        "batch_size is 0: input should be greater than or equal to 1.",
    ),
    "no number": ({"learning_rate": "fast"}, "learning_rate is 'fast'"),
    "not a number": ({"learning_rate": float("nan")}, "learning_rate is nan"),
    "endless": ({"learning_rate": float("inf")}, "learning_rate is inf"),
    "no pattern": (
        {"param_groups": [{"match": "("}]},
        "param_groups.0.match is '(': it is no regular expr",
    ),
    "a share of all": ({"warmup_ratio": 1.5}, "warmup_ratio is 1.5: input should be less than 1."),
    "no such stage": ({"stage": "transfr"}, "did you mean transfer?"),
    "stages": ({"stage": ["transfer"]}, "stage is ['transfer']"),
    "no such dtype": ({"dtype": "bfloat"}, "did you mean bfloat16?"),
    "steps and epochs": ({"epochs": 2}, "give either max_steps or epochs."),
    "neither": ({"max_steps": None}, "give either max_steps or epochs."),
    "a fresh adapter": (
        {"random_init": True, "lora": {}},
        "random_init and lora exclude each other",
    ),
    "unknown in scenes": (
        {"data": [{"synthetic": {"scenes": 3, "wrld": "x"}}]},
        "there is no field data.0.synthetic.wrld; did you mean world?",
    ),
    "no such world": (
        {"data": [{"synthetic": {"scenes": 3, "world": "moon"}}]},
        "data.0.synthetic.world is 'moon': there is no such world; choose one of pictograms",
    ),
    "no such optimizer": ({"optimizer": {"name": "muom"}}, "optimizer is"),
    "unknown in an optimizer": (
        {"optimizer": {"name": "muon", "learning_rate": 1, "momntum": 0.9}},
        "there is no field optimizer.momntum; did you mean momentum?",
    ),
    "a new model without sizes": (
        {"model": {"tokenizer": "t.json", "text_config": {}}},
        "the field model.vision_config is missing.",
    ),
    "an unknown size": (
        {"model": {"tokenizer": "t", "vision_config": {"hiden_size": 3}, "text_config": {}}},
        "got an unexpected keyword argument 'hiden_size'.",
    ),
    "no model": ({"model": None}, "the field model is missing"),
    "evaluation on another world": (
        {
            "stage": "tower",
            "data": [{"synthetic": {"scenes": 3}}],
            "eval_data": [{"synthetic": {"world": "stickers", "scenes": 3}}],
        },
        "patches needs synthetic data, all of one world",
    ),
    "unknown in evaluation": (
        {"eval_data": [{"jsonl": "a", "wieght": 2}]},
        "there is no field eval_data.0.wieght; did you mean weight?",
    ),
    "metrics of nothing": ({"eval_metrics": True}, "need eval_data"),
    "the best of nothing": ({"metric_for_best_model": "loss"}, "need eval_data"),
    "the best score without scores": (
        {"eval_data": [{"jsonl": "a"}], "metric_for_best_model": "ap50"},
        "metric_for_best_model ap50 needs eval_metrics: true",
    ),
    "patience alone": ({"early_stopping_patience": 2}, "needs metric_for_best_model, such as loss"),
    "no such metric": ({"metric_for_best_model": "ap"}, "did you mean map?"),
    "auxiliary heads alone": ({"auxiliary": {"words": 1}}, "auxiliary heads need packing"),
    "a tower with other heads": (
        {"stage": "tower", "auxiliary": {"words": 1, "grounding": 1}},
        "auxiliary heads need packing; words alone can go with patches",
    ),
    "a new model with another tokenizer": (
        {"random_init": True, "tokenizer": "t"},
        "tokenizer is for a trained checkpoint",
    ),
    "packing of files": ({"packing": {"max_length": 9}}, "packing needs synthetic data"),
    "a tower on files": ({"stage": "tower"}, "patches needs synthetic data, all of one world"),
    "a weight of no task": (
        {"loss_weights": {"detectt": 1}},
        "loss_weights.detectt is 'detectt'",
    ),
    "siglip in pieces": ({"stage": "siglip", "micro_batch_size": 2}, "leave micro_batch_size out"),
}


@pytest.mark.parametrize("given, expected", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_config_is_one_sentence(given, expected):
    with pytest.raises(ValueError) as error:
        parse_run(GOOD | given)
    text = str(error.value)
    assert expected in text and "\n" not in text


OLD_KEYS = """
    rate recompute clip b2 batch micro_batch tokens bad_rows fresh rows steps out groups warmup
    workers save_every targets
""".split()


def test_the_keys_of_a_config_are_the_fields_names():
    """None is in the column "not" of the glossary in CONTRIBUTING.md."""
    schema = Run.model_json_schema()
    parts = [schema, *schema["$defs"].values()]
    keys = {name for part in parts for name in part.get("properties", {})}
    assert {"lr_mult", "adam_beta2", "on_invalid", "synthetic", "packing"} <= keys
    assert not keys & set(OLD_KEYS)


def test_paths_of_the_home_folder_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    made = parse_run(GOOD | {"output_dir": "~/runs", "data": [{"jsonl": "~/a.jsonl"}]})
    assert made.output_dir == Path("/home/ann/runs")
    assert made.data[0].jsonl == Path("/home/ann/a.jsonl")


def test_a_transfer_of_the_built_in_model_has_defaults_of_its_own():
    given = {"data": [{"jsonl": "a"}], "max_steps": 1, "output_dir": "b"}
    made = parse_run({"model": "built-in"} | given)
    assert made.learning_rate == 3e-4 and made.soft_loc_targets is not None
    other = parse_run({"model": "google/paligemma2-3b-pt-224"} | given)
    assert other.learning_rate == 1e-5 and other.soft_loc_targets is None
    asked = {"model": "built-in", "learning_rate": 1e-4, "soft_loc_targets": None}
    made = parse_run(asked | given)
    assert made.learning_rate == 1e-4 and made.soft_loc_targets is None


def test_a_stage_fills_what_the_file_leaves_out():
    made = parse_run(GOOD | {"stage": "multimodal"})
    assert made.learning_rate == STAGES["multimodal"]["learning_rate"]
    assert made.param_groups[0].match == "vision_tower" and made.param_groups[0].warmup_ratio == 0.5
    assert parse_run(GOOD | {"stage": "multimodal", "param_groups": []}).param_groups == ()
    assert parse_run(GOOD).stage == "transfer" and parse_run(GOOD).adam_beta2 == 0.999


@pytest.mark.parametrize(
    "text, expected",
    [("a: [", "is not YAML: see line"), ("- 1", "no list of fields"), (None, "cannot be read")],
)
def test_a_file_that_is_no_config(tmp_path, text, expected):
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=expected):
        read_run(path)


# --- JSON lines -----------------------------------------------------------------------------------

BOX = "<loc0100><loc0200><loc0300><loc0400>"
ANSWERS = {
    "a box": (f"{BOX} cat", None),
    "two boxes": (f"{BOX} cat ; {BOX} dog", None),
    "a mask": (BOX + "<seg012>" * 16 + " cat", None),
    "no objects": ("a < b", None),
    "three locations": ("<loc0100><loc0200><loc0300> cat", "it has 3 <loc> in a row"),
    "eight in a row": (BOX + BOX, "it has 8 <loc>"),
    "beyond the image": ("<loc0100><loc0200><loc0300><loc1024>", "<loc1024> is none of"),
    "too few digits": ("<loc100><loc0200><loc0300><loc0400>", "<loc100> is none of"),
    "fifteen codes": (BOX + "<seg012>" * 15, "it has 15 <seg>"),
    "codes alone": ("<seg012>" * 16, "it has 0 <loc>"),
    "a code too high": (BOX + "<seg128>" * 16, "<seg128> is none of <seg000> to <seg127>"),
    "upside down": ("<loc0300><loc0200><loc0100><loc0400>", "is not y1 x1 y2 x2"),
}  # fmt: skip


@pytest.mark.parametrize("suffix, reason", ANSWERS.values(), ids=ANSWERS.keys())
def test_answers_that_could_not_be_read_back(suffix, reason):
    found = invalid_objects(suffix)
    assert found is None if reason is None else reason in found


@pytest.fixture
def mixed_file(tmp_path) -> Path:
    """Thirteen lines, three of them good, one blank."""
    Image.new("RGB", (20, 10), "red").save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    good = {"image": "a.png", "prefix": "detect cat", "suffix": f"{BOX} cat"}
    lines = [
        json.dumps(good),
        "{not JSON",
        "[1, 2]",
        json.dumps({"image": "a.png", "prefix": "ocr"}),
        json.dumps(good | {"suffix": 7}),
        "",
        json.dumps(good | {"image": "absent.png"}),
        json.dumps(good | {"suffix": "<loc0001> cat"}),
        json.dumps(good | {"image": "broken.png"}),
        json.dumps(good | {"prefix": "a\u0000b"}),
        json.dumps(good | {"suffix": "cat " * 600}),
        json.dumps(good | {"suffix": "ein schönes Bild"}, ensure_ascii=False),
        json.dumps(good | {"suffix": ""}),
    ]
    path = tmp_path / "samples.jsonl"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


REASONS = {
    2: "it is not JSON",
    3: "it is a list, not an object with image, prefix and suffix",
    4: "it has no suffix",
    5: "suffix is 7, not text",
    7: "there is no image",
    8: "it has 1 <loc>",
    9: "'broken.png' is",
    10: "U+0000",
    11: "tokens of text",
}


def test_the_check_names_every_invalid_line(mixed_file, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert main(["data", "check", str(mixed_file), "--out", str(sheet)]) == 2
    out, err = capsys.readouterr()
    found = {int(line.split("line ")[1].split(":")[0]): line for line in out.splitlines()}
    assert found.keys() == REASONS.keys()
    for number, reason in REASONS.items():
        assert reason in found[number]
    assert "9 of 12 samples cannot be trained on." in err.splitlines()[-1]
    assert Image.open(sheet).size == (3 * 310 + 10, 405)


def test_a_good_file_says_so(tmp_path, capsys):
    assert main(["data", "check", str(runs.write_samples(tmp_path))]) == 0
    assert capsys.readouterr().out == "23 samples, all valid.\n"
    assert main(["data", "check", str(tmp_path / "absent.jsonl")]) == 2


def test_invalid_samples_are_refused_or_skipped_and_counted(mixed_file, tmp_path, capsys):
    given = runs.values(tmp_path / "home", data=[{"jsonl": str(mixed_file)}], max_steps=6)
    with pytest.raises(
        ValueError, match=r"6 samples cannot be trained on, such as samples.jsonl, line"
    ):
        runs.trainer(parse_run(given))
    one = runs.trainer(parse_run(given | {"on_invalid": "skip"}))
    one.loop()
    one.finish()
    assert "9 invalid samples were skipped." in capsys.readouterr().out


def test_an_image_found_broken_during_a_run_is_refused(mixed_file, tmp_path):
    line = mixed_file.read_text("utf-8").splitlines()[8]
    mixed_file.write_text(line + "\n")
    given = runs.values(tmp_path / "home", data=[{"jsonl": str(mixed_file)}], max_steps=1)
    with pytest.raises(ValueError, match="No valid sample is left"):
        runs.trainer(parse_run(given | {"on_invalid": "skip", "num_workers": 1})).loop()
    mixed_file.write_text(line + "\n" + line.replace("broken", "a") + "\n")
    with pytest.raises(InvalidSample, match=r"'broken.png' is .*Mend it, or set on_invalid"):
        runs.trainer(parse_run(given)).loop()


# --- Several images a prompt ----------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path) -> Path:
    """Two questions about two images, one about one."""
    for color in ("red", "blue"):
        Image.new("RGB", (20, 10), color).save(tmp_path / f"{color}.png")
    both = {"image": ["red.png", "blue.png"], "prefix": "answer en the same?", "suffix": "no"}
    one = {"image": "red.png", "prefix": "caption en", "suffix": "a red cat"}
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, [both, one, both | {"image": ["blue.png"] * 2}])))
    return path


def test_a_run_trains_on_prompts_about_several_images(pairs, tmp_path, capsys):
    data = [{"jsonl": str(pairs)}]
    given = runs.values(tmp_path, data=data, max_steps=1, batch_size=3, flip=0.9)
    given |= {"eval_data": data, "eval_metrics": True, "max_text_tokens": 24}
    one = runs.trainer(parse_run(given))
    batch = one.job.batches[0, range(3)]
    assert batch["pixel_values"].shape[0] == 5 and batch["input_ids"].shape[0] == 3
    model, names = one.job.objective.model, ("input_ids", "pixel_values", "attention_mask")
    inputs = {name: batch[name] for name in (*names, "token_type_ids", "labels")}
    counts = one.job.objective.counts(batch)
    loss = one.job.objective(batch, counts)["loss"]
    torch.testing.assert_close(loss, model(**inputs)["loss"])
    one.loop()
    assert one.eval_scores[1].keys() == {"exact", "accuracy", "cider"}
    assert main(["data", "check", str(pairs), "--out", str(tmp_path / "sheet.png")]) == 0
    assert capsys.readouterr().out.endswith("3 samples, all valid.\n")


def test_answers_about_several_images_are_those_of_each_prompt_alone(tmp_path):
    pg = PaliGemma.load(tiny.write(tmp_path / "model"), dtype="float32")
    red, blue = (Image.new("RGB", (20, 10), color) for color in ("red", "blue"))
    options = SamplingOptions(max_new_tokens=6)
    images, prompts = [[red, blue], blue, [blue, red]], ["ocr", "caption en", "ocr"]
    replies = pg.generate_batch(images, prompts, options)
    for image, prompt, reply in zip(images, prompts, replies, strict=True):
        alone = pg.generate(image, prompt, options)
        assert alone.text == reply.text
        expected = [token.logprob for token in alone.tokens]
        assert [token.logprob for token in reply.tokens] == pytest.approx(expected, abs=1e-4)
    first, last = (reply.tokens[0].logprob for reply in (replies[0], replies[2]))
    assert first != pytest.approx(last, abs=1e-6)  # the order of images counts


def test_other_objectives_and_evaluations_take_one_image(pairs, tmp_path):
    given = runs.values(tmp_path, data=[{"jsonl": str(pairs)}], stage="siglip", max_steps=1)
    with pytest.raises(InvalidSample, match="it has 2 images; this objective takes 1"):
        runs.trainer(parse_run(given | {"random_init": False, "batch_size": 3})).loop()
    with pytest.raises(ValueError, match="sample 1: it has 2 images; an evaluation asks about one"):
        load_json_lines(tmp_path, "pairs")


# --- Folders --------------------------------------------------------------------------------------


def test_a_folder_of_images_with_their_answers_beside_them(tmp_path):
    (tmp_path / "in").mkdir()
    for name, answer in ("b.png", "two cats\n"), ("in/a.jpg", "<loc0001> half a box"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text(answer)
    (tmp_path / "lonely.txt").write_text("nothing")
    Image.new("RGB", (8, 8)).save(tmp_path / "unlabelled.png")
    source = ImageFolder(tmp_path, "caption en")
    assert [source.place(row) for row in range(len(source))] == ["b.png"]
    assert source[0] == Sample(tmp_path / "b.png", "caption en", "two cats", "caption")
    assert [str(error).split(":")[0] for error in source.invalid] == ["in/a.txt", "lonely.txt"]
    with pytest.raises(ValueError, match="There is no folder"):
        ImageFolder(tmp_path / "nowhere", "ocr")


def test_files_beside_an_image_that_are_no_images_are_passed_over(tmp_path):
    for name in ("cat.jpg", "dog.JPG"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    for name in ("cat.txt", "cat.json", "dog.txt", "dog.npz"):
        (tmp_path / name).write_text("a cat")
    source = ImageFolder(tmp_path, "caption en")
    assert [source.place(row) for row in range(len(source))] == ["cat.jpg", "dog.JPG"]


def test_a_run_trains_on_a_folder(tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in "abc":
        Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("a red cat")
    data = [{"folder": str(folder), "prefix": "caption en"}]
    one = runs.trainer(parse_run(runs.values(tmp_path, data=data, max_steps=2)))
    one.loop()
    assert one.losses.isfinite().all() and len(one.job.batches.mixture) == 3
    assert main(["data", "check", str(folder), "--prefix", "ocr"]) == 0
    assert capsys.readouterr().out == "3 samples, all valid.\n"


# --- Exports --------------------------------------------------------------------------------------


def write_exports(folder: Path) -> None:
    """The same image of a cat as YOLO and VOC have it, as a conversation, and with metadata."""
    for name in ("yolo/images", "voc", "meta", "chat"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (80, 40)).save(folder / name / "a.jpg")
    (folder / "yolo" / "labels").mkdir()
    (folder / "yolo" / "labels" / "a.txt").write_text("0 0.5 0.5 0.25 0.5")
    (folder / "yolo" / "data.yaml").write_text("names: [cat]")
    box = "<xmin>31</xmin><ymin>11</ymin><xmax>50</xmax><ymax>30</ymax>"
    one = f"<object><name>cat</name><bndbox>{box}</bndbox></object>"
    (folder / "voc" / "a.xml").write_text(
        f"<annotation><filename>a.jpg</filename>{one}</annotation>"
    )
    metadata = {"file_name": "a.jpg", "text": "a cat"}
    (folder / "meta" / "metadata.jsonl").write_text(json.dumps(metadata))
    roles = ("user", "<image>caption en"), ("assistant", "a cat"), ("user", "ocr"), ("model", "")
    messages = [{"role": role, "content": content} for role, content in roles]
    line = {"images": ["a.jpg"], "messages": messages}
    (folder / "chat" / "train.jsonl").write_text(json.dumps(line))


def write_newer_exports(folder: Path) -> None:
    """The same image as Roboflow's COCO, Label Studio and Parquet have it."""
    (folder / "coco" / "train").mkdir(parents=True)
    Image.new("RGB", (80, 40)).save(folder / "coco" / "train" / "a.jpg")
    roboflow = {
        "info": {"year": "2026", "url": "https://public.roboflow.com/object-detection"},
        "licenses": [{"id": 1, "url": "", "name": "MIT"}],
        "categories": [
            {"id": 0, "name": "cat", "supercategory": "none"},  # the name of the project
            {"id": 1, "name": "cat", "supercategory": "cat"},
        ],
        "images": [{"id": 0, "license": 1, "file_name": "a.jpg", "height": 40, "width": 80,
                    "date_captured": "2026-01-01T00:00:00+00:00", "extra": {"name": "a.png"}}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [30, 10, 20, 20],
                         "area": 400, "segmentation": [], "iscrowd": 0}],
    }  # fmt: skip
    (folder / "coco" / "train" / "_annotations.coco.json").write_text(json.dumps(roboflow))
    place = {"x": 37.5, "y": 25, "width": 25, "height": 50, "rectanglelabels": ["cat"]}
    result = [{"type": "rectanglelabels", "value": place}]
    task = {"data": {"image": "/data/upload/1/a.jpg"}, "annotations": [{"result": result}]}
    (folder / "coco" / "train" / "studio.json").write_text(json.dumps([task]))
    pixels = (folder / "coco" / "train" / "a.jpg").read_bytes()
    table = {"image": [{"bytes": pixels, "path": "a.jpg"}], "text": ["a cat"]}
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pytest.importorskip("pyarrow").table(table), folder / "a.parquet")


def test_a_run_trains_on_newer_exports(tmp_path, capsys):
    write_newer_exports(tmp_path)
    split = tmp_path / "coco" / "train"
    data = [
        {"coco": str(split)},
        {"label_studio": str(split / "studio.json")},
        {"parquet": str(tmp_path / "*.parquet"), "prefix": "caption en"},
    ]
    given = runs.values(tmp_path, data=data, max_steps=2, num_workers=1)
    one = runs.trainer(parse_run(given))
    one.loop()
    assert one.losses.isfinite().all()
    *boxes, table = one.job.batches.mixture.sources
    for source in boxes:
        box = "<loc0256><loc0384><loc0767><loc0639> cat"
        assert (source[0].prefix, source[0].suffix) == ("detect cat", box)
    assert (table[0].prefix, table[0].suffix) == ("caption en", "a cat")
    assert table[0].image.size == (80, 40) and table.place(0) == "a.parquet, row 0"
    for name in "coco/train", "coco/train/studio.json", "a.parquet":
        assert main(["data", "check", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out.endswith("1 samples, all valid.\n")
    assert read_instances(split / "_annotations.coco.json").categories == {1: "cat"}
    (example,) = load_coco_detection(split, "val").examples
    assert example.text == "cat" and example.image == split / "a.jpg"
    (tmp_path / "coco" / "valid").mkdir()
    assert main(["data", "check", str(tmp_path / "coco")]) == 2
    assert "has the splits train and valid; name one" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"is a folder without _annotations.coco.json"):
        runs.trainer(parse_run(given | {"data": [{"coco": str(tmp_path / "coco" / "valid")}]}))


def test_the_check_names_rows_and_images_of_tables(tmp_path, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = {"image": ["a.jpg", "b.jpg"], "suffix": ["a", None], "prefix": ["ocr", "ocr"]}
    parquet.write_table(pytest.importorskip("pyarrow").table(table), tmp_path / "a.parquet")
    assert main(["data", "check", str(tmp_path / "a.parquet")]) == 2
    out = capsys.readouterr().out
    assert "a.parquet, row 1: it has none of suffix, text, caption." in out
    assert f"a.parquet, row 0: there is no image {tmp_path / 'a.jpg'}." in out


def test_a_run_trains_on_exports(tmp_path, capsys):
    write_exports(tmp_path)
    data = [
        {"yolo": str(tmp_path / "yolo")},
        {"voc": str(tmp_path / "voc")},
        {"folder": str(tmp_path / "meta"), "prefix": "caption en"},
        {"jsonl": str(tmp_path / "chat" / "train.jsonl")},
    ]
    one = runs.trainer(parse_run(runs.values(tmp_path, data=data, max_steps=2)))
    one.loop()
    assert one.losses.isfinite().all()
    yolo, voc, meta, chat = one.job.batches.mixture.sources
    box = "<loc0256><loc0384><loc0767><loc0639> cat"
    assert (yolo[0].prefix, yolo[0].suffix) == ("detect cat", box)
    assert (voc[0].prefix, voc[0].suffix) == ("detect cat", box)
    assert (meta[0].prefix, meta[0].suffix, meta.place(0)) == (
        "caption en", "a cat", "metadata.jsonl, line 1"
    )  # fmt: skip
    assert [(one.prefix, one.suffix) for one in chat] == [("caption en", "a cat"), ("ocr", "")]
    assert [chat.place(0), chat.place(1)] == [
        "train.jsonl, line 1",
        "train.jsonl, line 1, answer 2",
    ]
    for name, count in ("yolo", 1), ("voc", 1), ("meta", 1), ("chat/train.jsonl", 2):
        assert main(["data", "check", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out.endswith(f"{count} samples, all valid.\n")


# --- Synthetic scenes -----------------------------------------------------------------------------


def test_synthetic_samples_are_of_the_tasks_asked_for_and_repeat():
    asked = Scenes(scenes=6, tasks=("segment", "read"))
    source = SyntheticScenes(asked, tiny.codec(), seed=3)
    shown = [source[row] for row in range(len(source))]
    assert {one.prefix.split()[0] for one in shown} <= {"segment", "ocr"}
    again = SyntheticScenes(asked, tiny.codec(), seed=3)[4]
    assert again.suffix == shown[4].suffix and again.image.tobytes() == shown[4].image.tobytes()
    other = SyntheticScenes(Scenes(scenes=6), tiny.codec(), seed=4)[4]
    assert other.image.tobytes() != again.image.tobytes()


def test_a_task_that_a_world_has_not_is_refused(monkeypatch):
    monkeypatch.setattr("paligemma.training.sources.MOST_SCENES", 20)
    with pytest.raises(ValueError, match="no samples of the tasks question"):
        SyntheticScenes(Scenes(scenes=6, tasks=("question",)), tiny.codec(), seed=3)


def test_a_world_asked_twice_asks_more_about_the_same_scene():
    source = SyntheticScenes(Scenes(scenes=6), tiny.codec(), seed=3)
    scene, once = source.samples(4)
    same, twice = source.samples(4, rounds=2)
    prompts = [one.prefix for one in twice]
    assert same == scene and len(prompts) == len(set(prompts)) > len(once)
    assert prompts[: len(once)] == [one.prefix for one in once]


def test_the_example_writes_an_export_of_its_own_objects(tmp_path):
    example = runpy.run_path(str(ROOT / "examples" / "own_images.py"))
    known = dict(scenes.KINDS)
    example["write_export"](tmp_path, 6)
    assert known == scenes.KINDS
    source = CocoSource(find_instances(tmp_path / "train"), None, "detect", None)
    assert len(source) == 6 and not source.invalid and (tmp_path / "valid").is_dir()
    names = {one.label for sample in source for one in parse(sample.suffix)}
    assert names <= example["KINDS"].keys() and not names & known.keys()


def test_the_example_writes_samples_about_its_comet(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "KINDS", dict(scenes.KINDS))
    example = runpy.run_path(str(ROOT / "examples" / "new_pictogram.py"))
    example["write"](tmp_path, 8)
    source = JsonLines(tmp_path / "train.jsonl")
    assert len(source) == 8 and not source.invalid
    assert all("comet" in one.prefix + one.suffix for one in (source[n] for n in range(8)))
    given = yaml.safe_load((ROOT / "configs" / "new-pictogram.yaml").read_text("utf-8"))
    assert given["data"][0]["jsonl"] == "runs/comet-200/data/train.jsonl"


# --- The order ------------------------------------------------------------------------------------


class Numbers(list):
    invalid = ()


def test_an_epoch_has_every_sample_once_and_the_next_in_another_order():
    mixture = Mixture([Numbers(range(37))], [1.0], seed=5)
    epochs = [[mixture.at(37 * e + n)[1] for n in range(37)] for e in range(60)]
    assert all(sorted(epoch) == [*range(37)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 60


def test_what_is_evaluated_is_every_row_once():
    rows = EveryRow([Numbers(range(10)), Numbers(range(190))], seed=5)
    drawn = [rows.at(n) for n in range(200)]
    assert sorted(drawn) == [*((0, n) for n in range(10)), *((1, n) for n in range(190))]
    assert drawn != sorted(drawn) and rows.at(203) == drawn[3]


def test_a_mixture_keeps_its_weights_and_goes_through_each_source_evenly():
    mixture = Mixture([Numbers(range(50)), Numbers(range(7)), Numbers(range(9))], [6, 3, 1], 0)
    drawn = [mixture.at(n) for n in range(3_000)]
    assert Counter(source for source, _ in drawn) == {0: 1800, 1: 900, 2: 300}
    seen = Counter(row for source, row in drawn if source == 1)
    assert max(seen.values()) - min(seen.values()) <= 1
    assert len({source for source, _ in drawn[:40]}) == 3  # mixed from the beginning


def test_the_order_is_a_function_of_seed_and_number():
    sources = [Numbers(range(50)), Numbers(range(7))]
    one, other = (
        Mixture(sources, [1, 2], 3),
        pickle.loads(pickle.dumps(Mixture(sources, [1, 2], 3))),
    )
    far = [2_500, 17, 999, 1_000]
    assert [one.at(n) for n in far] == [other.at(n) for n in far]
    assert [one.at(n) for n in range(90)] != [Mixture(sources, [1, 2], 4).at(n) for n in range(90)]


def test_loss_weights_count_for_the_tokens_of_a_task(tmp_path):
    source, processor = JsonLines(runs.write_samples(tmp_path)), tiny.processor()
    mixture = Mixture([source], [1.0], seed=0)
    numbers = 0, range(6)
    batch = SampleBatches(mixture, processor, 512, {"ask": 0.5})[numbers]
    labeled = batch["labels"] != IGNORE_INDEX
    tasks = [source[mixture.at(n)[1]].task for n in range(6)]
    assert set(tasks) == {"ask", "caption"}
    for task, weights, here in zip(tasks, batch["weights"], labeled, strict=True):
        assert set(weights[here].tolist()) == {0.5 if task == "ask" else 1.0}
        assert not weights[~here].any()
    even = SampleBatches(mixture, processor, 512, {})[numbers]["weights"]
    torch.testing.assert_close(even.sum(1), torch.ones(6))  # each sample counts alike


def test_a_batch_is_what_the_processor_makes(tmp_path):
    source, processor = JsonLines(runs.write_samples(tmp_path)), tiny.processor()
    mixture = Mixture([source], [1.0], seed=0)
    batch = SampleBatches(mixture, processor, 512, {})[0, range(5)]
    shown = [source[mixture.at(n)[1]] for n in range(5)]
    expected = processor(
        [one.prefix for one in shown], [one.image for one in shown], [one.suffix for one in shown]
    )
    for name in ("input_ids", "attention_mask", "token_type_ids", "labels", "pixel_values"):
        assert torch.equal(batch[name], getattr(expected, name)), name
    assert batch["skipped"] == [] and (batch["labels"] != IGNORE_INDEX).any(1).all()
