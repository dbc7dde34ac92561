"""What hosts read: the card of the Space, the Dockerfile, and the sizes of files."""

import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from paligemma.checkpoints.catalog import PUBLISHED
from paligemma.generation import MAX_NEW_TOKENS
from paligemma.ui import common

ROOT = Path(__file__).parents[1]
CARD = yaml.safe_load((ROOT / "README.md").read_text("utf-8").split("---\n")[1])
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
MAX_FILE_BYTES = 10_000_000  # of a file in a Space without LFS


def test_no_file_is_too_large_for_a_space():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    large = [path for path in files if path.is_file() and path.stat().st_size > MAX_FILE_BYTES]
    assert not large, "weights: paligemma convert --max-shard-size 9MB"


def test_the_card_is_the_apps():
    assert f"gradio[mcp,oauth]=={CARD['sdk_version']}\n" in (ROOT / "requirements.txt").read_text(
        "utf-8"
    )
    assert (ROOT / CARD["app_file"]).is_file()
    assert set(CARD["models"]) <= {row.id for row in PUBLISHED}
    assert len(CARD["short_description"]) <= 60, "the hub refuses a longer one"
    assert CARD["suggested_hardware"] == "cpu-basic" and CARD["tags"]


def test_the_image_runs_the_app_as_a_user_and_checks_its_health():
    assert f"FROM python:{CARD['python_version']}-slim\n" in DOCKERFILE
    assert DOCKERFILE.index("USER 1000\n") < DOCKERFILE.index('CMD ["python", "app.py"]')
    assert "/health" in DOCKERFILE[DOCKERFILE.index("HEALTHCHECK") :]
    kept = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE)
    assert {"app.py", "requirements.txt", "paligemma", "visualize", "examples"} == set(kept)
    assert all((ROOT / name).exists() for name in kept)


def test_a_lent_gpu_is_asked_for_as_long_as_the_request_may_need(monkeypatch):
    assert common.gpu_seconds("image", max_new_tokens=10) == 16
    assert common.gpu_seconds("image") == common.gpu_seconds(max_new_tokens=MAX_NEW_TOKENS)
    assert common.gpu_seconds(files=[{}, {}], max_new_tokens=10) == 22
    assert common.gpu_seconds(files=[{}] * 200) == common.MAX_GPU_SECONDS
    asked = []

    def lend(duration):
        return lambda handler: (
            lambda *args, **given: asked.append(duration(*args, **given)) or handler(*args, **given)
        )

    monkeypatch.setattr(common, "spaces", SimpleNamespace(GPU=lend))
    handler = common.in_model_queue(lambda image, max_new_tokens: image)["fn"]
    assert handler("image", max_new_tokens=10) == "image" and asked == [16]
