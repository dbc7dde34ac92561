"""The command paligemma: what it prints and writes; a mistake is one line and exit code 2."""

import json
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import transformers
from PIL import Image
from scripted import Scripted

from paligemma import bench
from paligemma.__main__ import main
from paligemma.checkpoints import random_weights
from paligemma.config import VARIANTS
from paligemma.evaluation import synthetic
from paligemma.evaluation.world import Score
from paligemma.generation import SamplingOptions
from paligemma.pipeline import PaliGemma

ROOT = Path(__file__).parents[1]
LOCS = ["<loc0256>", "<loc0256>", "<loc0768>", "<loc0768>"]
SEGS = [f"<seg{n:03d}>" for n in range(16)]
ANSWERS = {
    "caption en": ["a", " red", " cat"],
    "detect cat": [*LOCS, " cat"],
    "segment cat": [*LOCS, *SEGS, " cat"],
    "answer en où?": ["là", " ☃"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(tiny.write(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "gray.png"
    Image.new("RGB", (120, 80), "gray").save(path)
    return str(path)


@pytest.fixture
def scripted(monkeypatch):
    """The built-in model, answering from `ANSWERS`."""
    monkeypatch.setattr(PaliGemma, "load", lambda *given: Scripted(ANSWERS))


# --- generate -------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ANSWERS)
def test_the_answer_is_printed(scripted, picture, capsys, prompt):
    assert main(["generate", "--image", picture, "--prompt", prompt]) == 0
    out, err = capsys.readouterr()
    assert out == "".join(ANSWERS[prompt]) + "\n" and err == ""


def test_a_folder_answers_as_its_pipeline_does(folder, picture, capsys):
    asked = ["generate", "--model", folder, "--image", picture, "--prompt", "ocr"]
    options = ["--max-new-tokens", "6", "--temperature", "1", "--top-k", "50", "--seed", "3"]
    assert main([*asked, *options, "--top-p", "0.9"]) == 0
    chosen = SamplingOptions(max_new_tokens=6, temperature=1, top_k=50, top_p=0.9, seed=3)
    expected = PaliGemma.load(folder).generate(picture, "ocr", chosen).text
    assert capsys.readouterr().out == expected + "\n"
    assert main([*asked, "--max-new-tokens", "6"]) == 0
    assert capsys.readouterr().out != expected + "\n"


def test_json_is_the_whole_reply(folder, picture, capsys):
    asked = ["generate", "--model", folder, "--image", picture, "--prompt", "ocr", "--json"]
    assert main([*asked, "--max-new-tokens", "5"]) == 0
    reply = json.loads(capsys.readouterr().out)
    assert set(reply) == {
        "text", "prompt", "width", "height", "detections", "num_tokens", "tokens", "timings",
        "finish_reason",
    }  # fmt: skip
    assert reply["prompt"] == "ocr" and reply["num_tokens"] == 5
    assert reply["finish_reason"] == "length" and len(reply["tokens"]) == 5
    assert set(reply["tokens"][0]) == {"id", "text", "logprob"}
    assert reply["text"] == "".join(token["text"] for token in reply["tokens"])
    assert set(reply["timings"]) == {"image_s", "prefill_s", "decode_s", "steps", "total_s"}


def test_a_cut_answer_is_noted(folder, picture, capsys):
    asked = ["generate", "--model", folder, "--image", picture, "--prompt", "ocr"]
    assert main([*asked, "--max-new-tokens", "5"]) == 0
    assert capsys.readouterr().err == "Cut off at 5 tokens: see --max-new-tokens.\n"


def test_a_prompt_without_a_task_is_noted(scripted, picture, capsys):
    assert main(["generate", "--image", picture, "--prompt", "wheel"]) == 0
    assert "likely meant as: detect wheel" in capsys.readouterr().err


def test_json_holds_the_objects(scripted, picture, capsys):
    assert main(["generate", "--image", picture, "--prompt", "segment cat", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["detections"]
    assert found["label"] == "cat" and found["mask_codes"] == [*range(16)]
    edges = [256 / 1023, 256 / 1023, 768 / 1023, 768 / 1023]
    assert found["box_normalized"] == pytest.approx(edges)
    with Image.open(picture) as image:
        width, height = image.size
    pixels = [edge * side for edge, side in zip(edges, (width, height) * 2, strict=True)]
    assert found["box"] == pytest.approx(pixels)
    assert main(["generate", "--image", picture, "--prompt", "answer en où?", "--json"]) == 0
    assert "là ☃" in capsys.readouterr().out  # as it is, not as \\u escapes


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_out_has_boxes_and_masks_drawn_on_the_picture(scripted, picture, tmp_path, capsys):
    changed = {}
    for prompt in ("detect cat", "segment cat", "caption en"):
        path = tmp_path / "out.png"
        assert main(["generate", "--image", picture, "--prompt", prompt, "--out", str(path)]) == 0
        changed[prompt] = np.abs(pixels(path) - pixels(picture)).max(-1)
    assert capsys.readouterr().out.count("\n") == 3
    boxes, masks = changed["detect cat"], changed["segment cat"] > 8
    assert boxes.shape == (80, 120) and not changed["caption en"].any()
    outline, tint = boxes > 64, boxes[30:50, 40:80]
    assert outline[20:60, 29:32].any(1).all() and 8 < tint.min() == tint.max() < 32
    assert masks[30:50, 40:80].mean() > 0.9 and not masks[65:].any()  # a filling
    assert pixels(picture).std() == 0  # the picture itself is as it was


def test_out_takes_other_formats_too(scripted, picture, tmp_path):
    path = tmp_path / "out.jpg"
    assert main(["generate", "--image", picture, "--prompt", "detect cat", "--out", str(path)]) == 0
    with Image.open(path) as image:
        assert image.format == "JPEG" and image.size == (120, 80)


# --- Mistakes -------------------------------------------------------------------------------------


def complaint(capsys, *argv: str) -> str:
    """The one line that a mistake leaves on stderr."""
    assert main(list(argv)) == 2
    err = capsys.readouterr().err
    assert err.startswith("paligemma: ") and err.endswith("\n") and err.count("\n") == 1
    return err


MISTAKES = {
    "no picture": (["--image", "nowhere.png"], "There is no file 'nowhere.png'"),
    "a folder for a picture": (["--image", "."], "not an image"),
    "text for a picture": (["--image", __file__], "is not an image"),
    "no model": (["--model", "nowhere"], "There is no checkpoint 'nowhere'"),
    "no device": (["--device", "toaster"], "is no device"),
    "no dtype": (["--dtype", "int8"], "not a dtype to run in"),
    "no tokenizer": (["--tokenizer", "nowhere"], "nowhere is not a tokenizer"),
    "no codec": (["--mask-codec", "nowhere.npz"], "no mask codec at nowhere.npz"),
    "another folder": (["--model", str(ROOT / "tests")], "has no config.json"),
    "below zero": (["--temperature=-1"], "temperature is 0 or from"),
    "not a number": (["--temperature", "nan"], "temperature is 0 or from"),
    "no tokens": (["--max-new-tokens", "0"], "max_new_tokens is"),
    "top_p of nothing": (["--top-p", "0"], "top_p is"),
    "top_k below zero": (["--top-k=-1"], "top_k is"),
    "a seed below zero": (["--seed=-1"], "seed is"),
    "int8 on a GPU": (["--quantize", "int8", "--device", "auto"], "int8 runs on the CPU"),
    "a prompt too long": (["--prompt", "cat " * 600], "The prompt has"),
}


@pytest.mark.parametrize("argv, expected", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line(folder, picture, capsys, argv, expected):
    asked = ["--image", picture, "--prompt", "ocr", "--model", folder]
    assert expected in complaint(capsys, "generate", *asked, *argv)


@pytest.mark.parametrize("name", ["no/such/folder.png", "out.nonsense", "out", "taken.png"])
def test_a_picture_that_cannot_be_written(scripted, picture, tmp_path, capsys, name):
    (tmp_path / "taken.png").mkdir()
    argv = ["--image", picture, "--prompt", "detect cat", "--out", str(tmp_path / name)]
    assert "cannot be written to" in complaint(capsys, "generate", *argv)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken.png"]


def test_masks_without_a_codec(folder, picture, tmp_path, capsys, monkeypatch):
    model = PaliGemma.load(folder)
    model.checkpoint = replace(model.checkpoint, mask_codec=tmp_path / "nowhere.npz")
    speaker = Scripted(ANSWERS)
    speaker.masks = model.masks
    monkeypatch.setattr(PaliGemma, "load", lambda *given: speaker)
    argv = ["--image", picture, "--prompt", "segment cat", "--out", str(tmp_path / "out.png")]
    assert "no mask codec" in complaint(capsys, "generate", *argv)


@pytest.mark.parametrize(
    "argv", [[], ["generate"], ["nonsense"], ["evaluate", "--num-scenes", "many"]]
)
def test_words_that_are_no_command(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2 and "usage: paligemma" in capsys.readouterr().err


def test_a_package_of_an_extra_that_is_not_installed(scripted, picture, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "visualize", None)
    asked = ["generate", "--image", picture, "--prompt", "caption en"]
    assert main(asked) == 0 and capsys.readouterr().out == "a red cat\n"
    assert "visualize" in (said := complaint(capsys, *asked, "--out", "out.png"))
    assert "extras" in said


def test_the_app_is_a_command(monkeypatch, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    nowhere = ["--model", "nowhere", "--port", port]
    for argv, code in (["--help"], 0), (nowhere, 2), (["--prot", "1"], 2):
        with pytest.raises(SystemExit) as caught:
            main(["app", *argv])
        assert caught.value.code == code
    out, err = capsys.readouterr()
    assert out.startswith("usage: paligemma app ") and "--port" in out and "--mcp" in out
    assert "paligemma app: There is no checkpoint 'nowhere'" in err
    served = []
    monkeypatch.setattr("paligemma.ui.app.main", lambda argv, prog: served.append((argv, prog)))
    assert main(["app", "--port", "7861"]) == 0 and served == [
        (["--port", "7861"], "paligemma app")
    ]


def test_from_a_shell():
    command = [sys.executable, "-m", "paligemma", "generate", "--prompt", "ocr", "--image"]
    done = subprocess.run([*command, "nowhere.png"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "paligemma: There is no file 'nowhere.png'.\n"


# --- evaluate -------------------------------------------------------------------------------------


def test_evaluate_prints_a_table_and_then_json(folder, capsys, monkeypatch):
    monkeypatch.setattr(synthetic, "OPTIONS", SamplingOptions(max_new_tokens=8))
    assert main(["evaluate", "--model", folder, "--num-scenes", "3"]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    scores = json.loads(last, parse_constant=pytest.fail)  # NaN is no JSON
    assert [line.split()[0] for line in table] == list(scores)
    assert scores["scenes"] == scores["caption_examples"] == scores["detect_examples"] == 3
    for line, score in zip(table, scores.values(), strict=True):
        assert float(line.split()[1]) == pytest.approx(score, abs=5e-4)
    assert all(0 <= score <= 1 for name, score in scores.items() if isinstance(score, float))


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["--num-scenes", "0"], "at least one scene"),
        (["--first-seed=-5"], "from 0, not -5"),
        (["--model", "nowhere"], "There is no checkpoint 'nowhere'"),
    ],
)
def test_evaluate_with_a_mistake(folder, capsys, argv, expected):
    assert expected in complaint(capsys, "evaluate", "--model", folder, "--num-scenes", "1", *argv)


# --- explain and pointing -------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", [[], ["--gradient"]], ids=["cheap", "gradient"])
def test_explain_writes_pictures_and_values(folder, picture, tmp_path, capsys, gradient):
    out = tmp_path / "new" / "folder"
    asked = ["--image", picture, "--prompt", "ocr", "--model", folder, "--max-new-tokens", "4"]
    assert main(["explain", *asked, *gradient, "--out", str(out)]) == 0
    values = json.loads((out / "explanation.json").read_text("utf-8"), parse_constant=pytest.fail)
    options = SamplingOptions(max_new_tokens=4)
    assert values["text"] == PaliGemma.load(folder).generate(picture, "ocr", options).text
    assert capsys.readouterr().out.startswith(values["text"])
    views = {"middle", "mean", "rollout", "relative", "similarity"} | (
        {"gradient"} if gradient else set()
    )
    assert set(values["maps"]) == views
    pictures = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    heads = {f"heads/{n:03d}.png" for n in range(1, 5)}
    assert pictures == {f"{view}.png" for view in views} | heads | {"tokens.png"}
    for name in (*pictures, "answer.gif"):
        with Image.open(out / name) as drawn:
            drawn.load()


def test_explain_with_a_mistake(folder, picture, tmp_path, capsys):
    asked = ["explain", "--image", picture, "--prompt", "ocr", "--model", folder]
    (tmp_path / "file").write_text("")
    assert "cannot be made" in complaint(capsys, *asked, "--out", str(tmp_path / "file"))
    out = str(tmp_path / "out")
    assert "There is no file" in complaint(capsys, *asked, "--image", "nowhere.png", "--out", out)


def test_pointing_writes_table_and_plot(folder, tmp_path, capsys):
    out = tmp_path / "points"
    assert main(["pointing", "--model", folder, "--num-scenes", "2", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {
        f"pointing.{end}" for end in ("md", "json", "png")
    }
    assert (out / "pointing.md").read_text() in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["--num-scenes", "0"], "at least one"),
        (["--first-seed=-5"], "from 0; not 1 from -5"),
        (["--coco", "nowhere.json"], "go together"),
        (["--coco", "nowhere.json", "--images", "."], "nowhere.json cannot be read: No such file"),
    ],
)
def test_pointing_with_a_mistake(folder, tmp_path, capsys, argv, expected):
    asked = [
        "pointing",
        "--model",
        folder,
        "--num-scenes",
        "1",
        "--out",
        str(tmp_path / "out"),
        *argv,
    ]
    assert expected in complaint(capsys, *asked)


# --- bench and random -----------------------------------------------------------------------------


def test_bench_of_attention(folder, capsys):
    assert main(["bench", "--model", folder, "--num-tokens", "3", "--attention"]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    measured = json.loads(last)
    assert len(table) == len(measured) and measured["recording_memory_bytes"] >= 0
    ratio = measured["recorded_generation_s"] / measured["generation_s"]
    assert measured["recording_overhead"] == pytest.approx(ratio - 1)


def test_thin_random_weights_keep_what_attention_is_made_of(tmp_path, monkeypatch):
    written, variant = [], VARIANTS["paligemma2-3b-896"]
    monkeypatch.setattr(random_weights, "random_model", lambda config, dtype: config)
    save = lambda config, folder, initialization: written.append(config)
    monkeypatch.setattr(random_weights, "save_model", save)
    monkeypatch.setattr(random_weights, "_tokenizer", dict)
    for thin in ([], ["--thin"]):
        assert main(["random", "paligemma2-3b-896", str(tmp_path), *thin]) == 0
    whole, narrow = written
    assert whole == variant and narrow.num_parameters < variant.num_parameters / 20
    for name in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"):
        assert getattr(narrow.text_config, name) == getattr(variant.text_config, name)
    assert narrow.vision_config.grid == variant.vision_config.grid == 64


def test_bench_prints_a_table_and_then_json(folder, capsys):
    assert main(["bench", "--model", folder, "--num-tokens", "4"]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    measured = json.loads(last)
    assert len(table) == len(measured)
    assert measured["model"] == "tiny" and measured["tokens_per_second"] > 0
    assert measured["time_to_first_token_s"] == pytest.approx(
        measured["image_encode_s"] + measured["prefill_s"]
    )
    assert measured["peak_memory_bytes"] >= measured["loaded_memory_bytes"] * 0.9
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in measured)
    assert 0 < measured["bandwidth_share"] < 1
    assert "3 to 512" in complaint(capsys, "bench", "--model", folder, "--num-tokens", "2")


@pytest.mark.slow
def test_bench_compares_every_combination(folder, tmp_path, capsys):
    argv = ["bench", "--model", folder, "--num-tokens", "3", "--plot", str(tmp_path / "speed.png")]
    argv += ["--precision", "float32", "int8", "--batch-size", "1", "2"]
    assert main(argv) == 0
    head, *table, last = capsys.readouterr().out.splitlines()
    measured = json.loads(last)
    found = [(one["precision"], one["batch_size"]) for one in measured]
    assert found == [("float32", 1), ("float32", 2), ("int8", 1), ("int8", 2)]
    assert len(table) == 4 and "bandwidth" in head and (tmp_path / "speed.png").stat().st_size
    argv[2] = str(tmp_path / "nothing")
    assert "nothing" in complaint(capsys, *argv)


def test_bench_of_random_weights_needs_no_file(monkeypatch, capsys):
    monkeypatch.setattr(bench, "VARIANTS", {"small": tiny.config()})
    for precision in ("float32", "int8"):
        argv = ["bench", "--variant", "small", "--num-tokens", "3", "--precision", precision]
        assert main(argv) == 0
        measured = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert measured["model"] == "small, random weights"
        assert measured["precision"] == precision and "peak_memory_bytes" not in measured
    assert "no variant" in complaint(capsys, "bench", "--variant", "large")
    assert "leave out" in complaint(capsys, "bench", "--variant", "small", "--model", "x")


@pytest.mark.slow
def test_random_weights_load_and_have_the_published_ids(tmp_path, capsys, monkeypatch, picture):
    small = replace(
        tiny.config(vocab_size=random_weights.TEXT_TOKENS + 1216), image_token_index=257_152
    )
    monkeypatch.setattr(random_weights, "VARIANTS", {"small": small})
    folder = str(tmp_path / "small")
    assert main(["random", "small", folder]) == 0
    assert "noise" in capsys.readouterr().out
    pg = PaliGemma.load(folder, dtype="bfloat16")
    assert pg.checkpoint.is_random
    assert pg.description == "Random weights: what it answers is noise."
    ids = pg.processor.tokenizer.token_to_id
    assert [ids(token) for token in ("<pad>", "<eos>", "<bos>")] == [0, 1, 2]
    assert [ids(token) for token in ("<loc0000>", "<seg127>", "<image>")] == [
        256_000, 257_151, 257_152,
    ]  # fmt: skip
    assert pg.generate(picture, "detect cat", SamplingOptions(max_new_tokens=3)).finished
    theirs = transformers.AutoProcessor.from_pretrained(folder)
    given = theirs(text="<image>detect cat", images=picture, return_tensors="pt")
    ours = pg.processor(["detect cat"], [picture])["input_ids"]
    assert torch.equal(given["input_ids"], ours)
    assert "is no variant" in complaint(capsys, "random", "paligemma-1b", folder)


def test_fetch_stickers_names_the_atlas(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PALIGEMMA_CACHE", str(tmp_path))
    monkeypatch.setattr("paligemma.synthetic.atlas.fetch_packages", lambda cache, say: None)
    monkeypatch.setattr("paligemma.synthetic.atlas.build_atlas", lambda cache, *rest: cache / "a")
    assert main(["data", "fetch-stickers"]) == 0
    assert capsys.readouterr().out == f"Wrote {tmp_path / 'stickers' / 'a'}.\n"


def test_the_names_of_a_model_are_listed(folder, capsys):
    assert main(["names"]) == 0
    assert "anchor" in capsys.readouterr().out.splitlines()
    assert "does not list the names that it knows" in complaint(capsys, "names", "--model", folder)


def test_unknown_names_are_answered_with_near_ones(picture, capsys):
    for prompt, note in (
        ("detect Katze", "The nearest that it knows: cat."),
        ("detect woman", "List all that it knows: paligemma names"),
    ):
        argv = ["generate", "--image", picture, "--prompt", prompt]
        assert main([*argv, "--max-new-tokens", "1"]) == 0
        assert note in capsys.readouterr().err


def test_a_sticker_sheet_needs_the_atlas(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PALIGEMMA_CACHE", str(tmp_path))
    sheet = str(tmp_path / "stickers.webp")
    assert "run paligemma data fetch-stickers" in complaint(
        capsys, "data", "sticker-sheet", "--out", sheet
    )


def test_stickers_are_scored_by_artist(monkeypatch, folder, capsys):
    asked = []

    def evaluate_world(pg, world, scenes, first_seed):
        asked.append((world.options.artists, world.options.held_out_fonts, scenes))
        return {"ask": Score(0.5, 0.25, 0.75, 4)}

    monkeypatch.setattr("paligemma.evaluation.world.evaluate_world", evaluate_world)
    argv = ["evaluate", "--model", folder, "--world", "stickers", "--num-scenes", "3"]
    assert main([*argv, "--artists", "twemoji,openmoji", "--held-out-fonts"]) == 0
    assert main(argv) == 0
    assert asked == [(("twemoji", "openmoji"), True, 3), (None, False, 3)]
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["ask"]["low"] == 0.25


def test_artists_are_those_of_stickers(folder, capsys):
    said = complaint(capsys, "evaluate", "--model", folder, "--artists", "twemoji")
    assert "--artists needs --world stickers" in said


def test_fetch_stickers_without_npm_is_a_mistake(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PALIGEMMA_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "npm is needed" in complaint(capsys, "data", "fetch-stickers")
