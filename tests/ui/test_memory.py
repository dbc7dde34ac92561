"""Memory of an app that many visit: small sessions, and freed memory given back."""

import ctypes
import sys
import threading
from types import SimpleNamespace

import gradio as gr
import pytest
from gradio import state_holder

from paligemma.ui import memory


@pytest.fixture
def small_sessions(monkeypatch):
    monkeypatch.setattr(state_holder, "SessionState", state_holder.SessionState)
    memory.use_small_sessions()


def test_a_session_holds_values_and_no_copy_of_the_page(small_sessions):
    with gr.Blocks() as demo:
        count, text = gr.State([]), gr.Textbox("first")
    holder = state_holder.StateHolder()
    holder.set_blocks(demo)
    one, other = holder["one"], holder["other"]
    one[count._id] = [1]
    one[text._id] = gr.Textbox("second", render=False)
    one._update_config(text._id)
    one._update_value_in_config(text._id, "third")
    assert one[count._id] == [1] and one[text._id].value == "second"
    assert other[count._id] == [] and other[text._id].value == "first"
    assert [state for _, state, _ in one.state_components] == [[1]]
    assert one.config_values == other.config_values == {}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's C library keeps freed memory")
def test_freed_memory_goes_back_to_the_system(monkeypatch):
    options, trimmed = [], threading.Event()
    library = SimpleNamespace(
        mallopt=lambda *option: options.append(option), malloc_trim=lambda pad: trimmed.set()
    )
    monkeypatch.setattr(memory, "TRIM_SECONDS", 0.01)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    memory.give_memory_back()
    assert trimmed.wait(30) and options == [(memory.M_ARENA_MAX, 2)]


@pytest.mark.skipif(sys.platform != "linux", reason="the number of the option is glibc's")
def test_the_option_is_known_to_the_library():
    library = ctypes.CDLL(None)
    if not hasattr(library, "malloc_trim"):
        pytest.skip("not the GNU C library")
    assert library.mallopt(memory.M_ARENA_MAX, memory.MAX_HEAPS) == 1
