"""From a YAML file to a `Run`.

A field that is unknown or impossible is a ValueError of one sentence, with the nearest valid name.
"""

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from paligemma.training.config import (
    SOURCES,
    AdamW8bitOptions,
    AdamWOptions,
    Auxiliary,
    Lora,
    MuonOptions,
    NewModel,
    Packing,
    ParamGroup,
    Part,
    Run,
    Scenes,
    SoftLocTargets,
    SyntheticData,
)


def read_run(path: str | Path) -> Run:
    """The run that a YAML file describes; relative paths in it start at the working folder."""
    path = Path(path)
    try:
        given = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"The config {path} cannot be read: {reason}.") from error
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise ValueError(f"The config {path} is not YAML: see line {line}.") from error
    if not isinstance(given, dict):
        raise ValueError(f"The config {path} is no list of fields and values.")
    try:
        return parse_run(given)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse_run(given: dict) -> Run:
    """The run of these values. Raises ValueError, one sentence for the first that is wrong."""
    try:
        return Run.model_validate(given)
    except ValidationError as error:
        raise ValueError(_sentence(error.errors()[0])) from None


# The parts of a run by the name of their field, or by their tag in a union.
PARTS: dict[str, type[Part]] = SOURCES | {
    "checkpoint": Run,
    "new": NewModel,
    "lora": Lora,
    "packing": Packing,
    "auxiliary": Auxiliary,
    "soft_loc_targets": SoftLocTargets,
    "adamw": AdamWOptions,
    "adamw8bit": AdamW8bitOptions,
    "muon": MuonOptions,
    "param_groups": ParamGroup,
}
# Where the tag is in pydantic's place of an error.
TAG_AT = {"data": 2, "eval_data": 2, "model": 1, "optimizer": 1}


def _sentence(error: Any) -> str:
    """pydantic's first complaint, with the nearest name for a field that there is not."""
    place, owner = _place(error["loc"])
    name = ".".join(place)
    if error["type"] == "extra_forbidden":
        known = list(owner.model_fields)
        near = difflib.get_close_matches(place[-1], known, 1, 0.0)
        return f"there is no field {name}; did you mean {near[0] if near else known[0]}?"
    if error["type"] == "missing":
        return f"the field {name} is missing."
    if error["type"] == "source":
        return f"{name} {error['msg']}."
    reason = error["msg"].removeprefix("Value error, ")
    if error["type"] == "literal_error":
        near = difflib.get_close_matches(
            str(error["input"]),
            error["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", "),
            1,
            0.0,
        )
        reason += f"; did you mean {near[0]}?" if near else ""
    if not name:
        return reason + "."
    return f"{name} is {error['input']!r}: {reason[0].lower()}{reason[1:]}".rstrip(".?") + (
        "?" if reason.endswith("?") else "."
    )


def _place(loc: tuple[str | int, ...]) -> tuple[list[str], type[Part]]:
    """Where an error is, without pydantic's tags of unions, and the part that it is in."""
    place = [str(step) for step in loc if step != "[key]"]
    field = place[0] if place else ""
    owner = PARTS.get(field, Run) if len(place) > 1 else Run
    if len(place) > TAG_AT.get(field, len(place)):
        owner = PARTS[place.pop(TAG_AT[field])]
    if owner is SyntheticData and len(place) > 3:
        owner = Scenes
    return place, owner
