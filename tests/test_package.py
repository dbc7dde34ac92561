"""The package's own words agree: versions, dependencies, and the names that it gives."""

import re
import tomllib
from importlib import import_module
from pathlib import Path

import paligemma

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PATTERN = re.compile(r"([A-Za-z0-9_.-]+)(\[[a-z,]+\])?([<>=,.0-9]*)")


def requirements(lines: list[str]) -> dict[str, str]:
    """The wanted versions of packages by name, without a package's own extras."""
    found = {}
    for line in lines:
        name, extras, versions = PATTERN.fullmatch(line).groups()
        if name != PROJECT["name"]:
            found[name + (extras or "")] = versions
    return found


def pinned(file: str) -> dict[str, str]:
    lines = (ROOT / file).read_text("utf-8").splitlines()
    return requirements([line for line in lines if line and line[0] not in "#-"])


def declared(*extras: str) -> dict[str, str]:
    return requirements([one for name in extras for one in PROJECT["optional-dependencies"][name]])


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_requirements_pin_what_the_package_declares():
    base = requirements(PROJECT["dependencies"])
    app, others = base | declared("draw", "app"), declared("train", "eval", "dev")
    assert pinned("requirements.txt").keys() == app.keys(), "what a Space installs"
    assert pinned("requirements-dev.txt").keys() == others.keys() - app.keys()
    wanted = others | app
    for name, version in (pinned("requirements.txt") | pinned("requirements-dev.txt")).items():
        assert version.startswith("==")
        tested, (least, *below) = numbers(version[2:]), wanted[name].split(",")
        assert least.startswith(">=") and tested >= numbers(least[2:])
        assert all(bound[0] == "<" and tested < numbers(bound[1:]) for bound in below)


def test_every_public_name_is_there_with_its_type():
    assert paligemma._HOME.keys() == set(paligemma.__all__)
    for name, home in paligemma._HOME.items():
        assert getattr(paligemma, name) is getattr(import_module(f"paligemma.{home}"), name)
        assert f"    from paligemma.{home} import {name}\n" in Path(paligemma.__file__).read_text()
    assert (ROOT / "paligemma" / "py.typed").exists()


def test_ci_runs_the_readmes_test_command():
    commands = re.search(r"```sh\n(.+?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)[1]
    (tests,) = (line.split("#")[0].strip() for line in commands.splitlines() if "pytest" in line)
    assert f"  {tests} || exit\n" in (ROOT / ".ci" / "run").read_text("utf-8")
