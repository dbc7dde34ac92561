"""The notebooks run from the first cell to the last, on fewer images and for two steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
SMALLER = {"images=90": "images=6", "max_steps: 300": "max_steps: 2"}


def code_cells(path: Path) -> list[str]:
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_no_outputs_are_kept(path):
    values = json.loads(path.read_text("utf-8"))
    assert values["nbformat"] == 4 and values["metadata"]["language_info"]["name"] == "python"
    for cell in values["cells"]:
        assert not cell.get("outputs") and not cell.get("execution_count")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_cells_run(path, tmp_path):
    for name in "notebooks", "examples", "paligemma", "visualize":
        (tmp_path / name).symlink_to(ROOT / name)
    program = "\n\n".join(code_cells(path))
    for given, smaller in SMALLER.items():
        assert given in program
        program = program.replace(given, smaller)
    (tmp_path / "cells.py").write_text(program, "utf-8")
    done = subprocess.run(
        [sys.executable, "cells.py"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    adapter = tmp_path / "runs" / "notebook" / "adapter"
    assert (adapter / "adapter_model.safetensors").is_file() and (adapter / "loss.png").is_file()
    assert "samples, all valid." in done.stdout
    assert done.stdout.count('"ap50"') == 2
