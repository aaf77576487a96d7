"""Sections of YAML that are checked; a wrong one is named: file, key, found and expected value."""

from __future__ import annotations

import types
import typing
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from vitdm.errors import InputError, cut, shown

#: of the wrong keys of a file: what is more is only counted
MOST_LINES = 20


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_values(cls, written: Any) -> Any:
        lines = []
        for name, value in written.items() if isinstance(written, dict) else ():
            if name in cls.model_fields:
                try:
                    no_truth_value(cls.model_fields[name].annotation, value)
                except ValueError as error:
                    lines.append((name, f"{error}, found {shown(value)}"))
        if lines:
            raise wrong(lines)
        return written


def no_truth_value(kind: Any, value: Any) -> Any:
    """Return a value; ValueError where it is true or false and a number is expected.

    Python takes true for 1, and YAML takes ``yes`` and ``on`` for true.
    """
    if _may_be_bool(kind):
        return value
    if _has_bool(value):
        raise ValueError("expected none of true, false, yes, no, on, off, but in quotes")
    return value


def _has_bool(value: Any) -> bool:
    entries = value.values() if isinstance(value, dict) else value
    nested = isinstance(value, dict | list | tuple)
    return any(map(_has_bool, entries)) if nested else isinstance(value, bool)


def _may_be_bool(kind: Any) -> bool:
    """Return whether a type is one of truth values, of sections, which have their own, or any."""
    if isinstance(kind, type) and typing.get_origin(kind) is None:
        return kind in (bool, Any) or issubclass(kind, Section)
    return any(map(_may_be_bool, typing.get_args(kind)))


def value_type(field: FieldInfo) -> Any:
    """Return the type of what a field takes, to check a value outside of its section."""
    kind = field.annotation
    return Annotated[kind, field, BeforeValidator(lambda value: no_truth_value(kind, value))]


def wrong(lines: list[tuple[str, str]]) -> PydanticCustomError:
    """Return the error of a validator that knows which keys below its own are wrong, and why."""
    text = "; ".join(f"{key}: {message}" for key, message in lines)
    return PydanticCustomError("wrong", "{text}", {"text": text, "lines": lines})


def checked(schema: type[Section], content: dict[str, Any], source: str) -> Any:
    """Return the settings of a section; InputError names each wrong key."""
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        lines = report(error, schema)
        text = [f"{source}: {key}: {message}" for key, message in lines[:MOST_LINES]]
        if (more := len(lines) - MOST_LINES) > 0:
            text.append(f"{source}: and {more} more")
        raise InputError("\n".join(text)) from error


def report(error: ValidationError, schema: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return each wrong key of pydantic's report, below ``prefix``, and what is wrong with it."""
    lines: list[tuple[str, str]] = []
    for entry in error.errors(include_url=False):
        parts, _ = _follow(schema, entry["loc"])
        key = ".".join([prefix] * bool(prefix) + parts)
        if entry["type"] == "wrong":
            below = entry["ctx"]["lines"]
            below = [(f"{key}.{name}" if key else name, message) for name, message in below]
            lines += [(cut(name), cut(message, 1000)) for name, message in below]
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
            message += "" if isinstance(found, dict) else f", found {shown(found)}"
        lines.append((cut(key) or "(file)", cut(message, 1000)))
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
