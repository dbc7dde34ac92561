"""What keeps the memory of an app that many visit from growing."""

import ctypes
import sys
import time
from threading import Thread
from types import SimpleNamespace

import gradio as gr
from gradio import state_holder

TRIM_SECONDS = 60
M_ARENA_MAX, MAX_HEAPS = -8, 2  # the number of this option in malloc.h, and its value


class Session(state_holder.SessionState):
    """A visitor's session, without a copy of the page.

    Gradio 6.31 makes the configuration of each component anew for each session, and once more for
    each value that a component gets. Only its deep links read that, which this app does not serve.
    It takes a megabyte for a session, and the time of a short answer before the first one.
    """

    def __init__(self, blocks: gr.Blocks) -> None:
        super().__init__(SimpleNamespace(default_config=blocks.default_config, blocks={}))  # pyright: ignore[reportArgumentType]

    def __setitem__(self, key: int, value: object) -> None:
        super().__setitem__(key, value)
        self.config_values.clear()

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: object) -> None:
        pass


def use_small_sessions() -> None:
    """Make all sessions of gradio's apps in this process a `Session`."""
    state_holder.SessionState = Session


def give_memory_back() -> None:
    """Keep freed memory in few heaps, and give it back to the system every minute, from now on.

    The C library of Linux makes a heap for each thread, and an app's requests run in many threads:
    each heap keeps the gaps of the largest request that it ever served. Other systems have no need
    of this.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(library, "malloc_trim"):  # another system, or another C library than GNU's
        return
    library.mallopt(M_ARENA_MAX, MAX_HEAPS)

    def repeat() -> None:
        while True:
            time.sleep(TRIM_SECONDS)
            library.malloc_trim(0)

    Thread(target=repeat, daemon=True).start()
