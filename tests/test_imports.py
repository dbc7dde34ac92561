"""Who may import whom: the rooms of the house, read from the source without running it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Layers from the top down, by the names of rooms and files in `paligemma`: a file imports from its
# own layer and those above it, and no two files import each other in a circle.
LAYERS = (
    "config tasks prompts detections images fetch npz tokenizer_file interpret.views",
    "models devices reply",
    "processor generation checkpoints interpret",
    "pipeline",
    "bench synthetic formats",
    "evaluation",
    "training",
    "ui",
    "cli",
    "__main__",
)
LAYER = {room: number for number, rooms in enumerate(LAYERS) for room in rooms.split()}
# Rooms that may import visualize, besides `ui`.
DRAW = {
    "evaluation.synthetic",
    "evaluation.world",
    "evaluation.metrics.segmentation",
    "evaluation.report",
}
DRAW |= {"training.inspect", "cli.inference"}
# What the app and `ui` may import: what a program outside would.
APP = set(
    "tasks prompts fetch detections images devices reply generation pipeline "
    "checkpoints interpret synthetic".split()
)


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
        ("from paligemma.training import mask_codec, muon",
         {"paligemma.training.mask_codec", "paligemma.training.muon"}),
        ("from . import packing", {"paligemma.training.packing"}),
        ("from .packing import Packed", {"paligemma.training.packing"}),
        ("from ..config import TextConfig", {"paligemma.config"}),
        ("def f():\n    if x:\n        from visualize import draw_boxes", {"visualize"}),
    ],
)  # fmt: skip
def test_every_form_of_import_is_seen(source, expected):
    assert imported(source, "paligemma.training.trainer") == expected


def layer(name: str) -> int | None:
    """The number of the layer that the module `name` is in; that of its longest known beginning."""
    parts = name.split(".")[1:]
    known = (LAYER.get(".".join(parts[:n])) for n in range(len(parts), 0, -1))
    return next((number for number in known if number is not None), None)


OURS = [name for name in MODULES if name.startswith("paligemma.")]


@pytest.mark.parametrize("name", OURS)
def test_imports_point_down(name):
    if MODULES[name].name == "__init__.py":  # words about the room, and no imports
        assert not project_imports(name)
        return
    assert layer(name) is not None, f"{name} is in no layer"
    found = {one for one in project_imports(name) if one.startswith("paligemma.")}
    assert not {one for one in found if layer(one) > layer(name)}


def test_no_imports_in_circles():
    left = {name: project_imports(name) & set(OURS) for name in OURS}
    while free := {name for name, needs in left.items() if not needs & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in free}
    assert not left, f"these import each other: {sorted(left)}"


def is_ui(name):
    return name.startswith("paligemma.ui")


def test_few_rooms_and_the_ui_draw():
    drawing = {name for name in OURS if "visualize" in project_imports(name)}
    assert {name.removeprefix("paligemma.") for name in drawing if not is_ui(name)} <= DRAW


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("visualize")])
def test_visualize_knows_detections_only(name):
    assert project_imports(name) <= {"paligemma.detections", "visualize"}


@pytest.mark.parametrize("name", ["app", *(name for name in OURS if is_ui(name))])
def test_the_app_has_no_tensors(name):
    found = {one for one in project_imports(name) if not is_ui(one)} - {"paligemma", "visualize"}
    assert {one.split(".")[1] for one in found} <= APP
    path = MODULES[name]
    outside = imported(path.read_text("utf-8"), name, path.name == "__init__.py")
    assert name == "paligemma.ui.model_manager" or "torch" not in {
        one.split(".")[0] for one in outside
    }


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


def test_inference_imports_no_extras():
    code = (
        "import sys; from paligemma import PaliGemma\n"
        "reply = PaliGemma.load().generate('examples/harbour.png', 'segment anchor')\n"
        "assert reply.detections; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    extras = "gradio transformers pytest peft pydantic cv2 matplotlib pycocotools tensorboard"
    assert not loaded & set(extras.split())
