"""`app.py` as a program of its own: for scripts that load it, and for tests of those."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
START_SECONDS = 120


class RunningApp:
    """The app with the built-in model, its temporary files and its log in `folder`.

    `options` are of the command line. It answers when this returns; raises RuntimeError if it
    ends or does not answer in START_SECONDS.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.files_folder, self._log = folder / "gradio", folder / "app.log"
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "app.py", "--port", str(port), *options],
                cwd=ROOT,
                env=os.environ | {"GRADIO_TEMP_DIR": str(self.files_folder)},
                stdout=log,
                stderr=log,
            )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/health")
                return
            except OSError:
                time.sleep(0.2)
        self.kill()
        raise RuntimeError(f"The app did not start: {self.log[-2000:]}")

    @property
    def memory_mb(self) -> float:
        """Resident memory."""
        return psutil.Process(self._process.pid).memory_info().rss / 1e6

    @property
    def file_sizes(self) -> list[int]:
        """The bytes of each temporary file."""
        sizes = []
        for path in self.files_folder.rglob("*"):
            try:
                sizes += [path.stat().st_size] if path.is_file() else []
            except FileNotFoundError:
                continue
        return sizes

    @property
    def log(self) -> str:
        """What it has printed, with that of former apps in the same folder."""
        return self._log.read_text("utf-8", "replace")

    def kill(self) -> None:
        """As `kill -9`."""
        self._process.kill()
        self._process.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
