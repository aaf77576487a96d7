"""All features: their order, which is that of the columns, and the table that defines them.

The groups *proposal* and *morphology* are measured on the image (``image``); the group *lensfit* on
a smooth lens that is fitted to the image, and on what the fit leaves (``fitted``), the group
*search* on one with a source of free form (``searched``).
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from vitdm.config import Features
from vitdm.features.fitted import LENSFIT
from vitdm.features.registry import Feature, image_features
from vitdm.features.searched import SEARCH


def definitions(settings: Features, groups: Sequence[str] | None = None) -> dict[str, Feature]:
    """Return the features of these settings, or of some groups, by name, in their order."""
    groups = settings.groups if groups is None else groups
    columns = image_features(groups, settings.levels)
    features = {name: entry.at(level) for name, entry, level in columns}
    fitted = (LENSFIT if "lensfit" in groups else {}) | (SEARCH if "search" in groups else {})
    return features | fitted


def feature_names(settings: Features) -> list[str]:
    """Return the names of the features of these settings, in their order."""
    return list(definitions(settings))


def table(settings: Features | None = None, merged: bool = False) -> pd.DataFrame:
    """Return one row a feature: name, group, unit, definition, reference, expects.

    ``merged`` gives the features that differ in a number only one row together: in their level L %,
    in the scale S, in the azimuthal orders A … B, in the number of points K.
    """
    rows = {}
    for name, entry in definitions(settings or Features()).items():
        shown, definition = merged and entry.shared or (name, entry.definition)
        rows.setdefault(
            shown,
            {
                "name": shown,
                "group": entry.group,
                "unit": entry.unit,
                "definition": definition,
                "reference": entry.reference,
                "expects": entry.expects,
            },
        )
    return pd.DataFrame(list(rows.values()))
