"""What visitors leave on the disk: pictures and answers, for two hours, a gigabyte at most."""

import os
import time
from pathlib import Path
from threading import Thread

import gradio as gr

KEPT_SECONDS = 2 * 3600
MOST_BYTES = 10**9
EVERY_SECONDS = 60


def own_files(demo: gr.Blocks) -> set[str]:
    """The paths of what was uploaded to the page and of what it answered."""
    return set().union(*demo.temp_file_sets)


def tidy(demo: gr.Blocks, seconds: float = KEPT_SECONDS, most: int = MOST_BYTES) -> None:
    """Delete the page's temporary files older than that, and all but the newest `most` bytes.

    Gradio 6.31's own `delete_cache` knows no size, leaves the folders behind, and ends for good if
    a file is uploaded while it looks. What other programs wrote is not touched.
    """
    stays = set().union(*(getattr(part, "keep_in_cache", ()) for part in demo.blocks.values()))
    files, gone, bytes_so_far = [], set(), 0
    for name in own_files(demo) - stays:
        try:
            about = os.stat(name)
            files.append((about.st_ctime, about.st_size, name))
        except (OSError, ValueError):  # deleted, or a name that a program sent and no file has
            gone.add(name)
    oldest = time.time() - seconds
    for written, size, name in sorted(files, reverse=True):
        bytes_so_far += size
        if written < oldest or bytes_so_far > most:
            try:
                os.remove(name)
                gone.add(name)
                Path(name).parent.rmdir()
            except OSError:  # it is gone already, or its folder holds another file
                pass
    for names in demo.temp_file_sets:
        names -= gone


def keep_tidy(demo: gr.Blocks) -> None:
    """`tidy` once a minute, for as long as the program runs."""

    def rounds() -> None:
        while True:
            time.sleep(EVERY_SECONDS)
            tidy(demo)

    Thread(target=rounds, daemon=True).start()
