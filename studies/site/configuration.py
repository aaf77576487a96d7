"""The reference of all settings, from the schema: key, type, default, bounds, meaning."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from studies.config import Config
from vitdm.config import RunSettings, Settings
from vitdm.simulation.population import schema
from vitdm.simulation.priors import Prior

INTRODUCTION = """# Configuration

Settings are YAML. A command of `vitdm` takes a file with any of the sections of the first part
(`--config`); what is left out has the default. The workflow takes a whole configuration, such as
`config/paper.yaml`, with the sections of both parts. Populations of simulated lenses are files of
their own, and each finished run keeps the settings it was made with.

A *prior* is a number, or a distribution such as `{uniform: [0.8, 1.2]}` or `{normal: [2.0, 0.1]}`
([populations](../data.md#a-population-of-your-own)); *NAME* and *N* stand for a name or a number of
your own. *Needed* keys have no default.

A key that is unknown, a value out of bounds, and sections that do not go together are refused with
the name of the file and the key before any work starts.
"""
PARTS = {
    "Settings of the library": (Settings, None),
    "Settings of the workflow": (Config, Settings),
    "Populations": (schema, None),
    "A finished run": (RunSettings, Settings),
}
#: bounds of numbers and lengths by the name of pydantic's metadata
BOUNDS = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}", "multiple_of": "multiple of {}"}
BOUNDS |= {"min_length": "at least {}", "max_length": "at most {}"}


def configuration() -> str:
    """Return the page: a table for each section, sections in sections below them."""
    text, told = [INTRODUCTION], set()
    for title, (model, base) in PARTS.items():
        model = model if isinstance(model, type) else model()  # classes of lenses may be added
        text.append(f"## {title}\n\n{_meaning(model)}\n")
        inherited = set(base.model_fields) if base else set()
        own = [name for name in model.model_fields if name not in inherited]
        same = [n for n in inherited if n in model.model_fields and not _is_same(model, base, n)]
        text += _section(model, "", own + sorted(same), told)
    return "\n".join(text)


def _is_same(model: type[BaseModel], base: type[BaseModel], name: str) -> bool:
    one, other = model.model_fields[name], base.model_fields[name]
    return (one.annotation, repr(one.default)) == (other.annotation, repr(other.default))


def _section(
    model: type[BaseModel], path: str, names: list[str], told: set[type[BaseModel]]
) -> Iterator[str]:
    """Yield the table of some fields of a section, then the sections that are among them.

    A section that occurs several times is told once; ``told`` are those that were.
    """
    rows = ["| key | type | default | bounds | meaning |", "|---|---|---|---|---|"]
    below = []
    for name in names:
        field, key = model.model_fields[name], f"{path}{name}"
        rows.append(_row(key, field))
        inside = list(_sections_in(field.annotation))
        for inner, many in inside:
            if inner not in told:
                told.add(inner)
                kind = f" ({inner.__name__.lower()})" if len(inside) > 1 else ""
                below.append((inner, f"{key}.{many}." if many else f"{key}.", kind))
    yield "\n".join(rows) + "\n"
    for inner, inner_path, kind in below:
        yield f"### {inner_path.rstrip('.')}{kind}\n\n{_meaning(inner)}\n"
        yield from _section(inner, inner_path, list(inner.model_fields), told)


def _row(key: str, field: FieldInfo) -> str:
    default = "*needed*" if field.is_required() else _default(field)
    told = field.description
    if not told:
        inner = [m for m, _ in _sections_in(field.annotation)]
        told = _meaning(inner[0]).split("\n\n")[0] if inner else ""
    cells = [f"`{key}`", _code(type_of(field.annotation)), default, _bounds(field), told]
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    """Return a text that stands in one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("``", "`").replace("<", "&lt;")


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, (tuple, list)) and value and isinstance(value[0], BaseModel):
        return "its defaults"
    return _code(json.dumps(value, ensure_ascii=False, default=str))


def _meaning(model: type[BaseModel]) -> str:
    """Return the docstring of a section, None of those that it only inherits."""
    text = vars(model).get("__doc__") or ""
    lines = [line.strip() for line in text.strip().splitlines()]
    return "\n".join(lines).replace("``", "`")


def type_of(kind: Any) -> str:
    """Return a type in words: ``list of number``, ``"cpu" or "auto"``, ``section``."""
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return type_of(members[0])
    if origin is Literal:
        return " or ".join(json.dumps(member) for member in members)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(type_of, members)))
    if origin is dict:
        return f"{type_of(members[1])} by name"
    if origin in (list, tuple, set):
        inner = list(dict.fromkeys(type_of(m) for m in members if m is not Ellipsis))
        many = origin is not tuple or Ellipsis in members
        return f"list of {' or '.join(inner)}" if many else f"{len(members)} × {' or '.join(inner)}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "prior" if issubclass(kind, Prior) else "section"
    words = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    words |= {type(None): "null", Any: "any value"}
    return words.get(kind, getattr(kind, "__name__", str(kind)))


def _bounds(field: FieldInfo) -> str:
    """Return the bounds of a field, or of the entries of a list or dictionary."""
    own = _limits(field.metadata)
    inner = [text for kind in typing.get_args(field.annotation) for text in _inner(kind)]
    return ", ".join(dict.fromkeys([*own, *(f"each {text}" for text in inner)]))


def _inner(kind: Any) -> list[str]:
    found = []
    if typing.get_origin(kind) is Annotated:
        _, *metadata = typing.get_args(kind)
        for entry in metadata:
            found += _limits(entry.metadata if isinstance(entry, FieldInfo) else [entry])
    for part in typing.get_args(kind):
        found += _inner(part) if typing.get_origin(part) is Annotated else []
    return found


def _limits(metadata: list[Any]) -> list[str]:
    found = []
    for entry in metadata:
        for name, words in BOUNDS.items():
            if (value := getattr(entry, name, None)) is not None:
                found.append(words.format(f"{value:,}".replace(",", " ")))
        if pattern := getattr(entry, "pattern", None):
            found.append(_code(pattern))
    return found


def _sections_in(kind: Any, many: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    """Yield the sections that a type has inside, and how one of several is named: ``NAME``."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if not issubclass(kind, Prior):
            yield kind, many
        return
    origin = typing.get_origin(kind)
    inside = {dict: "NAME", list: "N", tuple: "N"}.get(origin, many)
    for part in typing.get_args(kind):
        yield from _sections_in(part, inside)
