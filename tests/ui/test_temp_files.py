"""What is on the disk, for how long, and what happens where the disk is full."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from paligemma.ui import temp_files
from paligemma.ui.temp_files import (
    UPLOAD,
    Cleanup,
    DiskGuard,
    delete_dead_folders,
    delete_temp_files,
)

ROOT = Path(__file__).parents[2]
START = """
import sys, tempfile, time
from gradio.utils import get_upload_folder
from paligemma.ui.temp_files import use_own_folder
folder = use_own_folder()
open(get_upload_folder() + "/cut-off", "w").write("x")
tempfile.NamedTemporaryFile(delete=False).write(b"x")
print(folder, flush=True)
time.sleep(60)
"""


@pytest.fixture
def demo():
    with gr.Blocks() as demo:
        gr.Image()
    return demo


@pytest.fixture
def folder(tmp_path):
    for name in ("uploads", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "lock").touch()
    return tmp_path


def write(path: Path, age: float, size: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.fixture
def by_mtime(monkeypatch):
    """Ages that a test can set: a change of them is itself a change of the file."""
    real = Path.lstat

    def lstat(path):
        status = real(path)
        values = list(status)
        values[9] = values[8]
        return os.stat_result(values)

    monkeypatch.setattr(Path, "lstat", lstat)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_files_of_any_origin_go_by_age(demo, folder, by_mtime):
    write(folder / "uploads" / "hash1" / "old.png", 7300)
    write(folder / "uploads" / "hash2" / "new.png", 7100)
    write(folder / "uploads" / "cut-off", 700)
    write(folder / "uploads" / "going-on", 100)
    write(folder / "uploads" / "deep_links" / "abc" / "state.json", 7300)
    write(folder / "work" / "old.zip", 7300)
    delete_temp_files(demo, folder)
    assert names(folder) == ["going-on", "lock", "new.png"]
    assert not (folder / "uploads" / "hash1").exists()


def test_the_oldest_files_go_where_there_are_too_many_bytes(demo, folder, by_mtime, tmp_path):
    files = [write(folder / "uploads" / str(n) / f"{n}.png", 60 - n) for n in range(5)]
    demo.upload_file_set |= {str(file) for file in files} | {"\0", str(folder / "x" / "y")}
    next(part for part in demo.blocks.values() if isinstance(part, gr.Image)).keep_in_cache.add(
        str(files[0])
    )
    delete_temp_files(demo, folder, 100, 12, 0)
    assert names(folder) == ["0.png", "2.png", "3.png", "4.png", "lock"]
    delete_temp_files(demo, folder, 100, 11, 0)
    assert names(folder) == ["0.png", "3.png", "4.png", "lock"]
    assert demo.upload_file_set == {str(files[n]) for n in (0, 3, 4)}


def test_a_low_disk_frees_room(demo, folder, monkeypatch):
    for n in range(5):
        write(folder / "uploads" / str(n) / f"{n}.png", 0, 100)
    free = temp_files.shutil.disk_usage(folder)
    monkeypatch.setattr(temp_files.shutil, "disk_usage", lambda path: free._replace(free=1000))
    delete_temp_files(demo, folder, min_free=1200)
    assert len(names(folder)) == 3 + 1


def start(parent: Path) -> tuple[subprocess.Popen, Path]:
    environment = {k: v for k, v in os.environ.items() if k != "GRADIO_TEMP_DIR"}
    process = subprocess.Popen(
        [sys.executable, "-c", START],
        env=environment | {"TMPDIR": str(parent), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


@pytest.mark.skipif(temp_files.fcntl is None, reason="folders are locked with fcntl")
@pytest.mark.slow
def test_apps_share_no_folder_and_sweep_those_of_the_killed(tmp_path):
    running = [start(tmp_path) for _ in range(2)]
    try:
        (first, one), (second, other) = running
        assert one != other and one.parent == other.parent == tmp_path
        assert str(first.pid) in one.name and one.name.startswith("paligemma-app-")
        assert names(one)[:2] == ["cut-off", "lock"] and len(names(one)) == 3
        assert one.stat().st_mode & 0o077 == 0
        delete_dead_folders(tmp_path)
        assert one.exists() and other.exists()
        first.send_signal(signal.SIGKILL)
        first.wait(10)
        delete_dead_folders(tmp_path)
        assert not one.exists() and other.exists()
        second.send_signal(signal.SIGHUP)
        second.wait(10)
        (tmp_path / "paligemma-app-new").mkdir()
        delete_dead_folders(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["paligemma-app-new"]
    finally:
        for process, _ in running:
            process.kill()
            process.communicate()


def test_a_folder_that_cannot_be_is_one_sentence(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "file" / "folder"))
    before = tempfile.tempdir
    with pytest.raises(ValueError, match="no folder for temporary files: Not a directory"):
        temp_files.use_own_folder()
    assert tempfile.tempdir == before


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_full_disk_refuses_uploads_in_a_sentence_and_frees_room(
    demo, folder, monkeypatch, by_mtime, when
):
    async def upload(request):
        await request.body()
        if when == "meanwhile":
            raise OSError(errno.ENOSPC, "No space left on device")
        return PlainTextResponse("ok")

    cleanup = Cleanup(demo, folder)
    if when == "before":
        usage = temp_files.shutil.disk_usage(folder)._replace(free=10**6)
        monkeypatch.setattr(temp_files.shutil, "disk_usage", lambda path: usage)
    old = write(folder / "uploads" / "hash" / "old.png", 7300)
    app = Starlette(
        routes=[Route(UPLOAD, upload, methods=["POST"])],
        middleware=[Middleware(DiskGuard, cleanup=cleanup)],
    )
    answer = TestClient(app).post(UPLOAD, content=b"1234")
    assert answer.status_code == 507 and answer.json()["detail"] == temp_files.DISK_FULL
    assert not old.exists()


def test_other_errors_of_uploads_stay_errors(demo, folder):
    async def upload(request):
        raise OSError(errno.EIO, "broken")

    app = Starlette(
        routes=[Route(UPLOAD, upload, methods=["POST"])],
        middleware=[Middleware(DiskGuard, cleanup=Cleanup(demo, folder))],
    )
    with pytest.raises(OSError, match="broken"):
        TestClient(app).post(UPLOAD)


def test_an_image_that_others_may_be_reading_is_not_written_again(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    component = gr.Image(format="png")
    first = Path(component.postprocess(Image.new("RGB", (9, 9), "teal")).path)
    assert Image.open(first).size == (9, 9) and [*first.parent.iterdir()] == [first]
    first.write_bytes(b"as it was")
    os.utime(first, (1, 1))
    again = component.postprocess(Image.new("RGB", (9, 9), "teal")).path
    assert again == str(first) and first.read_bytes() == b"as it was"
    assert first.stat().st_mtime > 1  # it is in use: clean-ups go by age
