"""Dataclasses of arrays and numbers on disk: npz archives without pickles, the same to the bit."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitdm.data.foreign import decoding
from vitdm.errors import InputError
from vitdm.provenance import atomic


def write(path: str | Path, **parts: Any) -> None:
    """Write dataclasses by name; their fields may be dataclasses, arrays, numbers, texts, None.

    A field of another kind must have its default, which it gets again when it is read; TypeError
    if it has not.
    """
    arrays: dict[str, NDArray] = {}
    for name, part in parts.items():
        arrays |= _flat(part, name)
    with atomic(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def read(path: str | Path, **classes: type) -> dict[str, Any]:
    """Return what ``write`` wrote, given the class of each part.

    InputError names the file if it lacks something, or is no archive.
    """
    with decoding(path), np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    with decoding(path):
        try:
            return {name: _built(part, arrays, name) for name, part in classes.items()}
        except KeyError as error:
            found = f"found no {error.args[0]}; expected a file of vitdm lens"
            raise InputError(f"{path}: {found}") from error


def _flat(value: Any, name: str) -> dict[str, NDArray]:
    """Return the arrays of a value by name, those of a dataclass as name.field."""
    if value is None:
        return {}
    if not dataclasses.is_dataclass(value):
        return {name: np.asarray(value)}
    arrays: dict[str, NDArray] = {}
    for field in dataclasses.fields(value):
        entry, key = getattr(value, field.name), f"{name}.{field.name}"
        if _can_be_written(entry):
            arrays |= _flat(entry, key)
        elif entry is not field.default:
            raise TypeError(f"{key}: {type(entry).__name__} cannot be written")
    return arrays


def _can_be_written(value: Any) -> bool:
    plain = isinstance(value, (np.ndarray, np.generic, bool, int, float, str, tuple))
    return value is None or plain or dataclasses.is_dataclass(value)


def _built(kind: Any, arrays: Mapping[str, NDArray], name: str) -> Any:
    """Return the value of a type, such as ``Galaxy | None``, from its arrays."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if type(None) in kinds and not _is_there(arrays, name):
        return None
    made = next((k for k in kinds if dataclasses.is_dataclass(k)), None)
    if made:
        hints, given = typing.get_type_hints(made), {}
        for field in dataclasses.fields(made):
            key = f"{name}.{field.name}"
            if field.default is dataclasses.MISSING or _is_there(arrays, key):
                given[field.name] = _built(hints[field.name], arrays, key)
        return made(**given)
    value = arrays[name]
    if typing.get_origin(kind) is tuple:
        return tuple(value.tolist())
    return value.item() if value.ndim == 0 else value  # a number or a text


def _is_there(arrays: Mapping[str, NDArray], name: str) -> bool:
    return name in arrays or any(key.startswith(f"{name}.") for key in arrays)
