"""What pyproject.toml declares, and what the installed packages need, all the way down."""

from __future__ import annotations

import importlib.metadata
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {
    name: [Requirement(line) for line in lines]
    for name, lines in PROJECT["optional-dependencies"].items()
}
ALL = CORE + [requirement for lines in EXTRAS.values() for requirement in lines]


def names(requirements: Iterable[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def closure(requirements: Iterable[Requirement]) -> set[str]:
    """Return the names of distributions and of all that they say they need, if it is installed.

    What is not installed here, such as the libraries of another system or of a GPU, is named, too,
    but not what it needs.
    """
    seen = set()
    queue = [(requirement.name, requirement.extras) for requirement in requirements]
    while queue:
        name, extras = queue.pop()
        if (canonicalize_name(name), frozenset(extras)) in seen:
            continue
        seen.add((canonicalize_name(name), frozenset(extras)))
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for needed in map(Requirement, lines):
            if needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in {"", *extras}
            ):
                queue.append((needed.name, needed.extras))
    return {name for name, _ in seen}
