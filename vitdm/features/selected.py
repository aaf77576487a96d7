"""Which features a model joins to the image."""

from __future__ import annotations

from pathlib import Path

from vitdm.config import Features, Model
from vitdm.errors import InputError
from vitdm.features.definitions import definitions
from vitdm.provenance import read_json


def feature_groups(settings: Features) -> dict[str, str]:
    """Return the group of each feature of these settings: proposal, morphology, lensfit."""
    return {name: entry.group for name, entry in definitions(settings).items()}


def read_selection(path: str | Path) -> list[str]:
    """Return the names of the features that a ``selection.json`` keeps."""
    try:
        names = read_json(path).get("features")
    except InputError as error:
        raise InputError(
            f"{path}: found no selection ({error}); expected the selection.json of vitdm select"
        ) from error
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise InputError(f"{path}: features: found {names!r}; expected a list of names")
    return names


def joined_features(
    model: Model, features: Features, selection: str | Path | None
) -> list[str] | None:
    """Return the features that ``model.feature_set`` joins to the image; None means all.

    ``selection`` is a selection.json. InputError if the selected features are wanted, and none is
    given.
    """
    if not model.features or model.feature_set == "all":
        return None
    if model.feature_set in features.groups:
        groups = feature_groups(features)
        return [name for name, group in groups.items() if group == model.feature_set]
    if model.feature_set != "selected":
        raise InputError(f"model.feature_set: {model.feature_set!r} is not among features.groups")
    if selection is None:
        raise InputError(
            "model.feature_set is 'selected': found no selection; expected --selection with the "
            "selection.json of vitdm select, or another feature_set (proposal, all)"
        )
    return read_selection(selection)
