"""Public names are the field's: CONTRIBUTING.md's table of names, over all that a person meets.

Training files, the command line, the API and the app's labels; and no two public classes or
functions of the package share a name.
"""

import argparse
import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from scripted import Scripted

from paligemma.__main__ import main
from paligemma.tasks import TASKS
from paligemma.training import config
from paligemma.ui.app import create_parser
from paligemma.ui.layout import build_app
from paligemma.ui.model_manager import ModelManager

ROOT = Path(__file__).parents[1]
# The words of the table's last column, which stand nowhere.
WORDS = (
    "seat thing things heard listens told kept untidy likeliest sift sifted silent weigh "
    "weighed looker lookers recompute bad_rows sandwich_norms"
).split()
PHRASES = ("least score", "most overlap", "longest answer", "the model's words")
# These mean something else, or nothing, as a name; within a sentence they may be right.
NAMES = (
    "rate clip b2 batch tokens row rows fresh said shown nothing go least most column codec "
    "first earlier"
).split()
LABELS = ("go", "said", "shown", "nothing", "earlier")  # the same, of the app's labels
PICTURE = ("picture", "pictures")  # "image", but in text for visitors of the app


def wrong_words(text: str, *more: str) -> list[str]:
    """The words and phrases of `text` that the table rules out, and those of `more` in it."""
    words = re.findall(r"[\w']+", text.lower())
    phrases = [phrase for phrase in PHRASES if phrase in " ".join(words)]
    return phrases + [word for word in (*WORDS, *more) if word in words]


def wrong_name(name: str) -> list[str]:
    """The same for a name such as `max_new_tokens` or `--top-k`: for its parts, and as a whole."""
    plain = name.lstrip("-").replace("-", "_")
    whole = [one for one in NAMES if one == plain]
    return whole + wrong_words(f"{plain} {plain.replace('_', ' ')}", *PICTURE)


def test_wrong_names_are_found():
    assert wrong_name("bad_rows") and wrong_name("--batch") and wrong_name("least_score")
    assert not wrong_name("--batch-size") and not wrong_name("max_new_tokens")
    assert wrong_words("The least score.") and wrong_words("What was told earlier")
    assert not wrong_words("The confidence threshold, at least 0.5")


# --- Training files -------------------------------------------------------------------------------

MODELS = [
    one for one in vars(config).values() if isinstance(one, type) and issubclass(one, BaseModel)
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_training_keys(model):
    assert not {name: wrong for name in model.model_fields if (wrong := wrong_name(name))}
    assert not wrong_words(model.__doc__ or "")


# --- The command line -----------------------------------------------------------------------------


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser, and those of its commands, and theirs."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from parsers(command)


def command_line() -> list[argparse.ArgumentParser]:
    """Every parser of the `paligemma` command."""
    found: list[argparse.ArgumentParser] = []
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(
            argparse.ArgumentParser,
            "parse_args",
            lambda self, *given: (found.extend(parsers(self)), self.exit()),
        )
        main([])
    return [*found, create_parser("paligemma app")]


@pytest.mark.parametrize("parser", command_line(), ids=lambda parser: parser.prog)
def test_command_line(parser):
    assert not wrong_words(parser.format_help(), *PICTURE)
    options = [name for action in parser._actions for name in (*action.option_strings, action.dest)]
    assert not {name: wrong for name in options if (wrong := wrong_name(name))}


# --- The app --------------------------------------------------------------------------------------


# Asked in the language that the built-in model was trained on, where objects are "things".
QUESTIONS = TASKS["ask"].hints


@pytest.fixture(scope="module")
def demo():
    return build_app(ModelManager(Scripted({})))


def test_api(demo):
    endpoints = demo.get_api_info()["named_endpoints"]
    assert "/detect" in endpoints
    found = {}
    for name, endpoint in endpoints.items():
        found[name] = wrong_words(endpoint.get("description") or "", *PICTURE)
        for parameter in endpoint["parameters"]:
            found[name] += wrong_name(parameter["parameter_name"])
            found[name] += wrong_words(parameter["label"])
    assert not {name: wrong for name, wrong in found.items() if wrong}


def test_labels_of_the_app(demo):
    found = {}
    for block in demo.blocks.values():
        given = block.get_config()
        texts = [given.get(key) for key in ("label", "info", "placeholder", "title")]
        if block.get_block_name() in ("button", "markdown", "html", "downloadbutton"):
            texts.append(re.sub("<[^>]+>", " ", str(given.get("value") or "")))
        for text in texts:
            if isinstance(text, str) and text.removeprefix("For example: ") not in QUESTIONS:
                found[text] = wrong_words(text) + [one for one in LABELS if one == text.lower()]
    assert "Minimum confidence" in found
    assert not {text: wrong for text, wrong in found.items() if wrong}


# --- The package ----------------------------------------------------------------------------------

# Functions of modules that stand for each other: programs, groups of commands, languages, and what
# there is to say about the scenes of a world.
SHARED = set(
    "main add_commands entry noun ground caption reading search samples groups mentions".split()
)


def test_no_two_public_things_share_a_name():
    homes = defaultdict(list)
    for path in (*ROOT.glob("paligemma/**/*.py"), *ROOT.glob("visualize/**/*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_":
                homes[node.name].append(str(path.relative_to(ROOT)))
    assert not {
        name: paths for name, paths in homes.items() if len(paths) > 1 and name not in SHARED
    }
