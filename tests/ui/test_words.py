"""The page and the API use the words of the glossary in CONTRIBUTING.md, not those it replaces."""

import re

import gradio as gr
import pytest
from scripted import Scripted

from paligemma.detections import Detection
from paligemma.pipeline import UNCALIBRATED_SCORE
from paligemma.tasks import TASKS
from paligemma.ui.layout import build_app
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.results import objects_table
from paligemma.ui.tabs.task import history_html
from visualize.export import AnnotatedImage

REPLACED = re.compile(
    r"\b(things?|seen|kept|told|said|says|silent|seats?|guests?|heard|likeliest|longest|"
    r"least score|most overlap|looks?|looked|words|who)\b",
    re.IGNORECASE,
)
PARAMETERS = {
    "caption": ["image", "language", "style", "max_new_tokens"],
    "ask": ["image", "question", "language", "max_new_tokens"],
    "read": ["image", "max_new_tokens"],
    "detect": ["image", "objects", "max_new_tokens"],
    "segment": ["image", "objects", "max_new_tokens"],
    "region": ["image", "x1", "y1", "x2", "y2", "language", "max_new_tokens"],
    "question": ["image", "answer", "language", "max_new_tokens"],
    "generate": ["image", "prompt", "max_new_tokens"],
}


@pytest.fixture(scope="module")
def demo():
    return build_app(ModelManager(Scripted({})))


def test_labels_and_ids(demo):
    hints = {hint for task in TASKS.values() for hint in task.hints}  # what the model was taught
    for block in demo.blocks.values():
        texts = [getattr(block, name, None) for name in ("label", "placeholder", "info", "elem_id")]
        if isinstance(block, gr.Button | gr.Markdown):
            texts.append(block.value)
        texts += [label for label, _ in getattr(block, "choices", None) or ()]
        for text in texts:
            if isinstance(text, str) and text not in hints | {f"For example: {h}" for h in hints}:
                assert not REPLACED.search(text), text


def test_what_is_written_below_answers():
    history = history_html([("how many?", "two")])
    cat = Detection("cat", (0.1, 0.2, 0.5, 0.6), score=0.4)
    table = objects_table(AnnotatedImage("", 100, 50, [cat], [None]), UNCALIBRATED_SCORE)
    for html in history, table:
        assert not REPLACED.search(html), html
    assert "Question history" in history
    assert "Confidence is the mean probability" in table


def test_parameters_and_their_documentation(demo):
    named = demo.get_api_info()["named_endpoints"]
    found = {
        name.strip("/"): [parameter["parameter_name"] for parameter in endpoint["parameters"]]
        for name, endpoint in named.items()
    }
    assert found == PARAMETERS
    for endpoint in named.values():
        assert not REPLACED.search(endpoint["description"]), endpoint["description"]
