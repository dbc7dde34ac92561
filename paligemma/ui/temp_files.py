"""Visitors' files on the disk: a folder for each app, deleted by age, by size and when disk is low.

folder/uploads    what was uploaded, and what gradio wrote for the page
folder/work       all other temporary files of the process
folder/lock       locked for as long as the process lives
"""

import errno
import os
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread
from typing import IO

import gradio as gr
from anyio import to_thread
from gradio import processing_utils
from gradio.route_utils import API_PREFIX
from PIL import Image
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

try:
    import fcntl
except ImportError:  # on Windows: there, folders of former runs stay
    fcntl = None

PREFIX = "paligemma-app-"
MAX_AGE_SECONDS = 2 * 3600
MAX_INCOMPLETE_SECONDS = 600  # without a byte more: an upload that was cut off
MAX_BYTES = 10**9
MIN_FREE_BYTES = 500 * 10**6  # of the disk, that the app leaves to others
INTERVAL_SECONDS = 60
UPLOAD = f"{API_PREFIX}/upload"
UPLOAD_INTERVAL_SECONDS = 2  # between clean-ups that uploads cause
NEW_SECONDS = 60  # that a folder may have no lock
DISK_FULL = "The disk of this app is full: try again in some minutes."

_locks: list[IO] = []  # open until the process ends


def use_own_folder() -> Path:
    """Give this process a folder for its files, and delete those of processes that have ended.

    To be called before the app is built. The folder lies where GRADIO_TEMP_DIR says, or in the
    system's folder of temporary files, and only this user can read it. A process that was killed
    deletes nothing; the next one does.

    Raises ValueError if there can be no such folder.
    """
    try:
        return _create_folder()
    except OSError as error:
        raise ValueError(
            f"There can be no folder for temporary files: {error.strerror}."
        ) from error


def _create_folder() -> Path:
    parent = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)
    delete_dead_folders(parent)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))
    lock = open(folder / "lock", "w")  # noqa: SIM115
    if fcntl:
        fcntl.flock(lock, fcntl.LOCK_EX)
    _locks.append(lock)
    for name in ("uploads", "work"):
        (folder / name).mkdir()
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    tempfile.tempdir = str(folder / "work")
    if mcp := sys.modules.get("gradio.mcp"):  # it reads the variable when it is imported
        vars(mcp)["DEFAULT_TEMP_DIR"] = str(folder / "uploads")
    return folder


def delete_dead_folders(parent: Path) -> None:
    """Delete the folders in `parent` that no process holds."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            status = folder.lstat()
            if not _is_held(folder, time.time() - status.st_mtime < NEW_SECONDS):
                shutil.rmtree(folder, ignore_errors=True)


def _is_held(folder: Path, is_new: bool) -> bool:
    try:
        with open(folder / "lock", "r+") as lock:
            if fcntl is None:
                return True
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return is_new
    except OSError:  # another process has the lock, or the folder is another user's
        return True


def save_pil_to_cache(
    img: Image.Image, cache_dir: str, name: str = "image", format: str = "webp"
) -> str:
    """Gradio's function of this name, which wrote a file anew that another visitor was reading.

    The folder is named by the image's bytes, so a file that is there is right: it is only touched,
    because clean-ups go by age. A new one gets its name when it is complete.
    """
    data = processing_utils.encode_pil_to_bytes(img, format)
    folder = Path(cache_dir).resolve() / processing_utils.hash_bytes(data)
    path = folder / f"{name}.{format}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        os.utime(path)
    except FileNotFoundError:
        descriptor, incomplete = tempfile.mkstemp(dir=folder)
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(incomplete, path)
    return str(path)


processing_utils.save_pil_to_cache = save_pil_to_cache  # for every component that shows an image


def temp_files(demo: gr.Blocks) -> set[str]:
    """The paths of what was uploaded to the app and of the files that it wrote."""
    return set().union(*demo.temp_file_sets)


def delete_temp_files(
    demo: gr.Blocks,
    folder: Path,
    max_age: float = MAX_AGE_SECONDS,
    max_bytes: int = MAX_BYTES,
    min_free: int = MIN_FREE_BYTES,
) -> None:
    """Delete the files in `folder` older than that, and all but the newest `max_bytes`.

    By whatever field or route they came; fewer bytes stay where the disk has less than `min_free`.
    Gradio 6.31's own `delete_cache` has no limit of size, leaves the folders behind, and ends for
    good if a file is uploaded while it runs.
    """
    cached = set().union(*(getattr(part, "keep_in_cache", ()) for part in demo.blocks.values()))
    now, files = time.time(), []
    for path in folder.rglob("*"):
        with suppress(OSError):
            status = path.lstat()
            if path.is_dir() and not path.is_symlink():
                if now - status.st_mtime > NEW_SECONDS and path.parent != folder:
                    path.rmdir()  # where it is empty
            elif str(path) not in cached and path.name != "lock":
                files.append((max(status.st_ctime, status.st_mtime), status.st_size, path))
    total, bytes_so_far = sum(size for _, size, _ in files), 0
    max_bytes = min(max_bytes, total + shutil.disk_usage(folder).free - min_free)
    for changed, size, path in sorted(files, reverse=True):
        bytes_so_far += size
        is_incomplete = path.parent == folder / "uploads"
        age = min(max_age, MAX_INCOMPLETE_SECONDS) if is_incomplete else max_age
        if now - changed > age or bytes_so_far > max_bytes:
            with suppress(OSError):  # it is gone already, or its folder holds another file
                path.unlink()
                path.parent.rmdir()
    for names in demo.temp_file_sets:
        names -= {name for name in names.copy() if not _exists(name)}


def _exists(name: str) -> bool:
    try:
        return os.path.lexists(name)
    except ValueError:  # a name that a program sent and no file has
        return False


class Cleanup:
    """Deletes old files every minute, and when an upload comes."""

    def __init__(self, demo: gr.Blocks, folder: Path) -> None:
        self.demo, self.folder = demo, folder
        self._lock, self._last = Lock(), float("-inf")

    def start(self) -> None:
        def repeat() -> None:
            while True:
                time.sleep(INTERVAL_SECONDS)
                self.run()

        Thread(target=repeat, daemon=True).start()

    def run(self) -> None:
        with self._lock, suppress(OSError):
            delete_temp_files(self.demo, self.folder)
            self._last = time.monotonic()

    def make_room(self) -> bool:
        """Whether the disk has room for an upload; files are deleted first."""
        if time.monotonic() - self._last > UPLOAD_INTERVAL_SECONDS:
            self.run()
        return shutil.disk_usage(self.folder).free >= MIN_FREE_BYTES


class DiskGuard:
    """ASGI middleware: an upload that finds the disk full ends in one sentence, status 507."""

    def __init__(self, app: ASGIApp, cleanup: Cleanup) -> None:
        self.app, self.cleanup = app, cleanup

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(UPLOAD):
            return await self.app(scope, receive, send)
        refuse = JSONResponse({"error": DISK_FULL, "detail": DISK_FULL}, 507)
        if not await to_thread.run_sync(self.cleanup.make_room):
            return await refuse(scope, receive, send)
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except OSError as error:
            if started or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            await to_thread.run_sync(self.cleanup.run)
            await refuse(scope, receive, send)
