"""Sections of YAML that are checked; a wrong one is named: file, key, found and expected value."""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from vitdm.errors import InputError


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def wrong(lines: list[tuple[str, str]]) -> PydanticCustomError:
    """Return the error of a validator that knows which keys below its own are wrong, and why."""
    text = "; ".join(f"{key}: {message}" for key, message in lines)
    return PydanticCustomError("wrong", "{text}", {"text": text, "lines": lines})


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a file of keys and values; InputError if it is none."""
    try:
        content = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected keys and values, found {type(content).__name__}")
    return content


def checked(schema: type[Section], content: dict[str, Any], source: str) -> Any:
    """Return the settings of a section; InputError names each wrong key."""
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        lines = report(error, schema)
        text = "\n".join(f"{source}: {key}: {message}" for key, message in lines)
        raise InputError(text) from error


def report(error: ValidationError, schema: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return each wrong key of pydantic's report, below ``prefix``, and what is wrong with it."""
    lines: list[tuple[str, str]] = []
    for entry in error.errors():
        parts, _ = _follow(schema, entry["loc"])
        key = ".".join([prefix] * bool(prefix) + parts)
        if entry["type"] == "wrong":
            below = entry["ctx"]["lines"]
            lines += [(f"{key}.{name}" if key else name, message) for name, message in below]
            continue
        if entry["type"] == "extra_forbidden":
            _, place = _follow(schema, entry["loc"][:-1])
            allowed = ", ".join(sorted(getattr(place, "model_fields", {})))
            message = "unknown key" + (f"; expected one of: {allowed}" if allowed else "")
        elif entry["type"] == "missing":
            message = "missing"
        else:
            found = entry.get("input")
            message = entry["msg"].removeprefix("Value error, ")
            message += "" if isinstance(found, dict) else f", found {found!r}"
        lines.append((key or "(file)", message))
    return lines


def _follow(schema: Any, location: tuple[Any, ...]) -> tuple[list[str], Any]:
    """Return a place of pydantic's report as the user wrote it, and the type expected there.

    Pydantic adds parts that are not in the file: the member of a union that ``type`` chose, and
    ``[key]`` where a name in a dictionary is wrong.
    """
    parts = []
    for part in location:
        while typing.get_origin(schema) is Annotated:
            schema = typing.get_args(schema)[0]
        origin, members = typing.get_origin(schema), typing.get_args(schema)
        if origin in (types.UnionType, typing.Union):
            chosen = [m for m in members if part in _tags(m)]
            schema = chosen[0] if chosen else None
            if chosen:
                continue
        elif origin in (dict, list):
            schema = members[-1]
        else:
            field = getattr(schema, "model_fields", {}).get(part)
            schema = field.annotation if field else None
        if part != "[key]":
            parts.append(str(part))
    return parts, schema


def _tags(member: Any) -> tuple[Any, ...]:
    field = getattr(member, "model_fields", {}).get("type")
    return typing.get_args(field.annotation) if field else ()
