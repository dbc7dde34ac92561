"""Who may import whom: the rooms of the house, read from the source without running it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A row imports rows above it only. Names are those of paligemma; "" is paligemma/__init__.py.
ROWS = (
    (
        "",
        "checkpoints",
        "models",
        "evaluation",
        "training",
    ),  # the packages themselves: words and names, no rooms
    ("config", "detections", "tasks", "interpret.views"),  # without torch
    (
        "models.siglip",
        "models.gemma",
        "models.mask_codec",
        "checkpoints.catalog",
        "devices",
        "checkpoints.big_vision",
        "reply",
    ),
    ("models.paligemma", "processor", "checkpoints.hub"),
    ("generation", "checkpoints.io", "interpret.capture"),
    ("checkpoints.lora",),
    ("checkpoints.resolve", "interpret.explain"),
    ("pipeline", "checkpoints.convert"),
    ("ui.model_manager", "bench", "checkpoints.random_weights", "interpret.anatomy"),
    ("page",),
    ("ui.common", "ui.temp_files"),
    ("ui.results", "ui.model_picker", "ui.image_input", "ui.api", "ui.tabs.how_it_works"),
    ("ui.tabs.task", "ui.tabs.compare", "ui.tabs.batch"),
    ("ui.tabs.region", "ui.tabs.attention", "ui.url_state"),
    ("ui.theme",),
    ("synthetic.scenes", "training.checkpoint", "training.tokenizer", "training.muon"),
    ("training.config", "training.plot", "training.states", "training.objectives"),
    ("synthetic.language", "training.mask_codec", "evaluation.metrics.boxes"),
    (
        "evaluation.metrics.answers",
        "evaluation.metrics.cider",
        "evaluation.datasets.examples",
        "evaluation.predictions",
    ),
    ("evaluation.datasets.files", "evaluation.report"),
    ("evaluation.datasets.coco", "evaluation.datasets.questions"),
    ("evaluation.benchmarks",),
    ("evaluation.run",),
    ("training.patch_heads", "training.text_heads"),
    ("training.packing", "training.sources", "evaluation.synthetic", "evaluation.named"),
    ("training.data", "training.optimizer", "evaluation.pointing"),
    ("training.builtin_trainer", "training.inspect"),
    ("training.initialize",),
    ("training.trainer",),
    ("training.__main__", "__main__"),
)
ROW = {f"paligemma.{name}".rstrip("."): number for number, row in enumerate(ROWS) for name in row}
# Rooms that may import visualize.
DRAW = {
    *(
        "paligemma.evaluation.synthetic",
        "paligemma.evaluation.report",
        "paligemma.training.inspect",
    ),
    "paligemma.__main__",
}
APP = {
    "paligemma.tasks",
    "paligemma.pipeline",
    "paligemma.ui.model_manager",
}  # and the rooms of the page
PAGE = APP | {
    *(
        "paligemma.detections",
        "paligemma.checkpoints.catalog",
        "paligemma.checkpoints.resolve",
        "paligemma.interpret.anatomy",
    ),
    *("paligemma", "paligemma.interpret.explain", "visualize"),
}


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SOURCES = [*ROOT.glob("paligemma/**/*.py"), *ROOT.glob("visualize/**/*.py"), ROOT / "app.py"]
MODULES = {module(path): path for path in sorted(SOURCES)}


def imported(source: str, name: str, is_package: bool = False) -> set[str]:
    """The modules that `source`, the module `name`, imports anywhere in it."""
    found: set[str] = set()
    package = name.split(".") if is_package else name.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found |= {one if one in MODULES else base for one in inner}
    return found


def project_imports(name: str) -> set[str]:
    """What of the project the module `name` imports; all of visualize counts as one room."""
    path = MODULES[name]
    found = imported(path.read_text("utf-8"), name, path.name == "__init__.py")
    ours = {one for one in found if one.split(".")[0] in ("paligemma", "visualize", "app")}
    return {"visualize" if one.startswith("visualize.") else one for one in ours}


@pytest.mark.parametrize(
    "source, expected",
    [
        ("import torch", {"torch"}),
        ("import paligemma.models.paligemma as m, json", {"paligemma.models.paligemma", "json"}),
        ("from paligemma.detections import Box", {"paligemma.detections"}),
        ("from paligemma.training import codec, tower",
         {"paligemma.training.mask_codec", "paligemma.training.patch_heads"}),
        ("from . import packing", {"paligemma.training.packing"}),
        ("from .packing import Packed", {"paligemma.training.packing"}),
        ("from ..config import TextConfig", {"paligemma.config"}),
        ("def f():\n    if x:\n        from visualize import draw_boxes", {"visualize"}),
    ],
)  # fmt: skip
def test_every_form_of_import_is_seen(source, expected):
    assert imported(source, "paligemma.training.builtin_trainer") == expected


def test_every_file_has_a_row():
    assert {name for name in MODULES if name.startswith("paligemma")} == set(ROW)


@pytest.mark.parametrize("name", ROW)
def test_a_row_imports_rows_above_it_only(name):
    below = {
        one for one in project_imports(name) - {"visualize"} if ROW.get(one, len(ROWS)) >= ROW[name]
    }
    assert not below, f"{name} imports {sorted(below)}"


def is_page(name):
    return name.startswith("paligemma.page")


def test_few_rooms_and_the_page_draw():
    drawing = {name for name in ROW if "visualize" in project_imports(name)}
    assert {name for name in drawing if not is_page(name)} <= DRAW


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("visualize")])
def test_visualize_knows_objects_only(name):
    assert project_imports(name) <= {"paligemma.detections", "visualize"}


def test_the_app_knows_tasks_the_pipeline_and_the_page():
    assert {name for name in project_imports("app") if not is_page(name)} <= APP


@pytest.mark.parametrize("name", [name for name in MODULES if is_page(name)])
def test_the_page_has_no_tensors(name):
    assert {one for one in project_imports(name) if not is_page(one)} <= PAGE
    path = MODULES[name]
    found = imported(path.read_text("utf-8"), name, path.name == "__init__.py")
    assert "torch" not in {one.split(".")[0] for one in found}


@pytest.mark.parametrize("name", MODULES)
def test_nobody_imports_transformers(name):
    path = MODULES[name]
    found = imported(path.read_text("utf-8"), name, path.name == "__init__.py")
    assert "transformers" not in {one.split(".")[0] for one in found}


def test_the_first_row_loads_no_torch():
    code = (
        "import sys, paligemma.config, paligemma.detections, paligemma.tasks; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    assert "paligemma.tasks" in loaded and "torch" not in loaded
