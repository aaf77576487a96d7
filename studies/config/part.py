"""A part of the configuration: what one stage of the workflow may read, and nothing else."""

from __future__ import annotations

import functools
import typing
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from studies.config.files import load
from studies.config.workflow import Config
from vitdm.config import Settings
from vitdm.config.reading import read_yaml
from vitdm.config.sections import Section, report, value_type
from vitdm.errors import InputError, cut, shown

Content = dict[str, Any]


def load_part(path: str | Path) -> Config:
    """Read the settings of a stage: a ``Config`` that has only what its file has.

    Anything else that is asked of it is an AttributeError. A whole configuration gets its defaults.
    InputError names each wrong key.
    """
    content = read_yaml(path)
    required = {name for name, field in Config.model_fields.items() if field.is_required()}
    return load(path) if required <= content.keys() else part_of(Config, content, str(path))


def part_of(schema: type[Section], content: Content, source: str) -> Any:
    """Return a section with only the keys of ``content``; InputError names each wrong key."""
    return _part(schema, content, source, "")


def _part(schema: type[Section], content: Content, source: str, prefix: str) -> Any:
    values = {}
    if not isinstance(content, dict):
        key = prefix.removesuffix(".")
        raise InputError(f"{source}: {key}: expected keys and values, found {shown(content)}")
    for name, value in content.items():
        key = cut(f"{prefix}{name}")
        if name not in schema.model_fields:
            known = ", ".join(schema.model_fields)
            raise InputError(f"{source}: {key}: unknown key; expected some of: {known}")
        values[name] = _value(schema, name, value, source, key)
    return _only(schema, values)


def _only(schema: type[Section], values: Content) -> Any:
    """Return a section with these values; of the keys that are absent not even the defaults."""
    if absent := schema.model_fields.keys() - values.keys():
        schema = _partial(schema)
    made = schema.model_construct(**values)
    for name in absent:
        made.__dict__.pop(name, None)
    return made


def _value(schema: type[Section], name: str, value: Any, source: str, key: str) -> Any:
    """Return the value of a key, checked; of sections in it, only the keys that are there."""
    kind = schema.model_fields[name].annotation
    inner = typing.get_args(kind)[-1] if typing.get_origin(kind) in (dict, list) else kind
    if isinstance(inner, type) and issubclass(inner, Section):
        if typing.get_origin(kind) is dict and isinstance(value, dict):
            entries = value.items()
            return {name: _part(inner, e, source, f"{key}.{name}.") for name, e in entries}
        if typing.get_origin(kind) is list and isinstance(value, list):
            return [_part(inner, e, source, f"{key}.{k}.") for k, e in enumerate(value)]
        if kind is inner:
            return _part(inner, value, source, f"{key}.")
    try:
        return _adapter(schema, name).validate_python(value)
    except ValidationError as error:
        lines = report(error, None, key)
        raise InputError("\n".join(f"{source}: {k}: {m}" for k, m in lines)) from error


@functools.cache
def _adapter(schema: type[Section], name: str) -> TypeAdapter:
    """Return what checks the values of a key."""
    return TypeAdapter(value_type(schema.model_fields[name]), config=Section.model_config)


@functools.cache
def _partial(schema: type[Section]) -> type[Section]:
    """Return the class of a section of which some keys are absent."""

    class Partial(schema):  # type: ignore[misc, valid-type]
        def __getattr__(self, name: str) -> Any:
            if name in schema.model_fields:
                key = name if schema is Config else f"{schema.__name__.lower()}.{name}"
                raise AttributeError(
                    f"{key}: not in the settings of this stage; expected it to be declared in "
                    "studies/stages.py, for a notebook in studies/contents.py"
                )
            return super().__getattr__(name)

        if issubclass(schema, Config):

            @property
            def settings(self) -> Settings:
                """The settings of the article's model, as far as they are here."""
                own = {n: v for n, v in self.__dict__.items() if n in Settings.model_fields}
                return _only(Settings, own)

    Partial.__name__ = schema.__name__
    return Partial


def text_of(content: Content) -> str:
    """Return the text of a stage's file."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
