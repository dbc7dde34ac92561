"""Deletes visitors' images and results from the disk: after two hours, or beyond a gigabyte."""

import os
import time
from pathlib import Path
from threading import Thread

import gradio as gr

MAX_AGE_SECONDS = 2 * 3600
MAX_BYTES = 10**9
INTERVAL_SECONDS = 60


def temp_files(demo: gr.Blocks) -> set[str]:
    """The paths of what was uploaded to the app and of the files that it wrote."""
    return set().union(*demo.temp_file_sets)


def delete_temp_files(
    demo: gr.Blocks, max_age: float = MAX_AGE_SECONDS, max_bytes: int = MAX_BYTES
) -> None:
    """Delete the app's temporary files older than that, and all but the newest `max_bytes`.

    Gradio 6.31's own `delete_cache` has no limit of size, leaves the folders behind, and ends for
    good if a file is uploaded while it runs. Files of other programs are not touched.
    """
    cached = set().union(*(getattr(part, "keep_in_cache", ()) for part in demo.blocks.values()))
    files, deleted, bytes_so_far = [], set(), 0
    for name in temp_files(demo) - cached:
        try:
            status = os.stat(name)
            files.append((status.st_ctime, status.st_size, name))
        except (OSError, ValueError):  # deleted, or a name that a program sent and no file has
            deleted.add(name)
    oldest = time.time() - max_age
    for created, size, name in sorted(files, reverse=True):
        bytes_so_far += size
        if created < oldest or bytes_so_far > max_bytes:
            try:
                os.remove(name)
                deleted.add(name)
                Path(name).parent.rmdir()
            except OSError:  # it is gone already, or its folder holds another file
                pass
    for names in demo.temp_file_sets:
        names -= deleted


def start_cleanup(demo: gr.Blocks) -> None:
    """`delete_temp_files` every minute, for as long as the program runs."""

    def repeat() -> None:
        while True:
            time.sleep(INTERVAL_SECONDS)
            delete_temp_files(demo)

    Thread(target=repeat, daemon=True).start()
