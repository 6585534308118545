"""Runs a command as if only one extra of cnnmod were installed."""

import os
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Hides packages: importing them fails as if they were not installed.
_HIDE = """
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def find_shown(cls, name, *args, **kwargs):
    return None if name.partition(".")[0] in hidden else find(name, *args, **kwargs)
PathFinder.find_spec = classmethod(find_shown)
import runpy
if sys.argv[1:2] == ["-c"]:
    exec(sys.argv[2])
else:
    runpy.run_module("cnnmod", run_name="__main__")
"""


def declared(extra: str | None) -> set[str]:
    """Return the canonical names of the packages that cnnmod and the extra declare, or several: `"report,deploy"`."""
    lines = [*PROJECT["dependencies"]]
    for name in extra.split(",") if extra else ():
        lines += PROJECT["optional-dependencies"][name]
    names: set[str] = set()
    for requirement in map(Requirement, lines):
        if requirement.name == "cnnmod":
            names = names.union(*map(declared, requirement.extras))
        else:
            names.add(canonicalize_name(requirement.name))
    return names


@cache
def owners() -> dict[str, set[str]]:
    """Return the packages that install each module, by canonical name."""
    return {module: {*map(canonicalize_name, names)} for module, names in packages_distributions().items()}


def run_with_extra(extra: str | None, args: Iterable[str], cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run `cnnmod`, or Python code after `-c`, in a new process.

    Only the packages of the extra (or several: `"report,deploy"`), and the packages that these need, can be imported.
    """
    available = _closure(declared(extra) | ({"matplotlib"} if extra == "train" else set()))
    # setuptools has a jaraco of its own. torchmetrics imports matplotlib if its metadata is found.
    never = {"cnnmod", "jaraco"}
    hidden = {module for module, names in owners().items() if module not in never and not available & names}
    return subprocess.run(
        [sys.executable, "-c", f"hidden = {hidden!r}\n{_HIDE}", *args],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )


def _closure(names: set[str]) -> set[str]:
    found: set[str] = set()
    waiting = [(name, frozenset[str]()) for name in names]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = entry = waiting.pop()
        if entry in seen:
            continue
        seen.add(entry)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue
        found.add(name)
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found
