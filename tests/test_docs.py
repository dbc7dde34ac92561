"""Commands and snippets of README.md and docs/*.md run, in order, in a folder with what they name.

A command is made small by `SMALLER`, or left out for one of the reasons of `LEFT_OUT`.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import tiny
import yaml
from PIL import Image

from paligemma.__main__ import main
from paligemma.checkpoints import random_weights
from paligemma.synthetic.stickers import stickers_cache
from paligemma.training.read_config import parse_run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
LEFT_OUT = {
    r"pip install .*": "installs: .ci/run does it in a fresh environment",
    r"python -m pytest": "runs this file",
    r".* google/.*": "needs published weights",
    r"(paligemma app|python app\.py).*": "serves until it is stopped: tests/ui",
    r"python examples/client\.py": "needs a running app: tests/ui",
    r"accelerate launch .*": "needs several GPUs",
    r"hf .*|git .*|docker .*|sed .*": "changes a Space or a repository, or needs docker",
    r"paligemma data fetch-stickers": "fetches packages",
}
if not (stickers_cache() / "atlas").exists():
    LEFT_OUT[r"paligemma train configs/builtin/[5-8]-.*"] = "needs the drawings of those packages"
SMALLER = [
    (r"--num-scenes \d+", "--num-scenes 2"),
    (r"^(python examples/new_pictogram.py)", r"\1 --examples 4 --scenes 2 --draw comets.png"),
    (r"^(python examples/own_images.py)", r"\1 --images 6 --unseen 3"),
    (r"^(paligemma bench.*) --variant \S+ \S+ (.*)", r"\1 \2"),
    (r"^(paligemma bench.*)", r"\1 --num-tokens 3"),
    (r"^(paligemma explain.*)", r"\1 --max-new-tokens 4"),
]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its text, and the line that it starts at."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(m[1], m[2], text[: m.start()].count("\n") + 2) for m in found]


def commands(block: Block) -> list[str]:
    """The commands of a shell block, without comments, one for each part of `a && b`."""
    lines = block.text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [
        one.strip() for line in words if line for one in shlex.join(line).split(shlex.quote("&&"))
    ]


def run_command(command: str) -> None:
    """Run a command of the pages; an error when it fails, or when nothing here runs it."""
    for pattern, small in SMALLER:
        command = re.sub(pattern, small, command)
    match shlex.split(command):
        case ["paligemma", *argv]:
            assert main(argv) == 0, command
        case ["python", *program]:
            subprocess.run([sys.executable, *program], check=True)
        case _:
            raise AssertionError(f"nothing runs {command!r}: is it a reason for LEFT_OUT?")


def is_left_out(command: str) -> bool:
    return any(re.fullmatch(pattern, command) for pattern in LEFT_OUT)


def small_config(given: dict) -> dict:
    """A training run of two steps on a few scenes, from the built-in model."""
    for source in (*given["data"], *given.get("eval_data", ())):
        if "synthetic" in source:
            source["synthetic"]["scenes"] = 8
    small = {"model": "built-in", "max_steps": 2, "batch_size": 2, "save_steps": 2}
    small |= {"compile": False, "dtype": "float32"}
    return {key: value for key, value in given.items() if key != "epochs"} | small


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with everything that the pages name."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples", "examples", ignore=shutil.ignore_patterns("__pycache__"))
    for package in ("paligemma", "visualize"):
        Path(package).symlink_to(ROOT / package)
    Image.open("examples/harbour.png").save("photo.jpg")
    samples = [
        {"image": "zoo.png", "prefix": "caption en", "suffix": "a cat"},
        {"image": "zoo.png", "prefix": "ocr", "suffix": "ZOO"},
    ]
    Path("images").mkdir()
    shutil.copy("examples/zoo.png", "images")
    Path("images/train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in samples))
    for source in ROOT.glob("configs/**/*.yaml"):
        path = source.relative_to(ROOT)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(small_config(yaml.safe_load(source.read_text("utf-8")))))
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [60, 80, 180, 190], "area": 34200}
    instances = {
        "images": [{"id": 1, "file_name": "zoo.png", "width": 640, "height": 640}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [box | {"iscrowd": 0}],
    }
    Path("instances.json").write_text(json.dumps(instances))
    small = replace(
        tiny.config(vocab_size=random_weights.TEXT_TOKENS + 1216), image_token_index=257_152
    )
    monkeypatch.setattr(random_weights, "VARIANTS", {"paligemma-3b-224": small})
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_snippets_run(page, folder):
    names: dict = {}  # a later snippet goes on where an earlier one of the page ended
    for block in blocks(page):
        if block.language == "sh":
            for command in commands(block):
                if not is_left_out(command):
                    run_command(command)
        elif block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)
        elif block.language == "yaml":
            parse_run(yaml.safe_load(block.text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_has_a_known_language(page):
    assert {block.language for block in blocks(page)} <= {"sh", "python", "yaml", "json", "text"}


def test_commands_are_read():
    block = Block("sh", "a 'b c' && d  # e\n# f\ng \\\n  h\n", 1)
    assert commands(block) == ["a 'b c'", "d", "g h"]
    assert is_left_out("python app.py --share") and not is_left_out("paligemma generate")
    with pytest.raises(AssertionError, match="nothing runs"):
        run_command("rm -r things")
    with pytest.raises(AssertionError):
        run_command("paligemma generate --image nowhere.png --prompt ocr")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name
)
def test_links_lead_somewhere(page):
    text = page.read_text("utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text("utf-8").split("---\n", 2)[2]
    assert len(text.split()) <= 1000


def test_every_page_is_linked_from_the_readme():
    text = (ROOT / "README.md").read_text("utf-8")
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name}" not in text] == []
