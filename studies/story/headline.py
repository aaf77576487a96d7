"""The lenses of the last figure of notebook 05: alike but for their substructure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from vitdm.data.dataset import read_catalog
from vitdm.evaluation.metrics import NULL_CLASS

SOURCE = (0.14, 0.10)  # x, y ["]: where the source of a lens shown lies
BRIGHT = 0.75  # quantile of the source's flux
FAR = 10.0  # added where the fit failed, or leaves too little to be seen


def typical(truth: pd.DataFrame) -> pd.Series:
    """Return how far each lens is from a typical one with a source at ``SOURCE``; by row.

    ``truth`` is the catalog; the sum of differences in position and Einstein radius ["], and of the
    logarithm of the flux. 0 for all images that were not simulated.
    """
    if not {"source_x", "source_y"} <= set(truth):
        return pd.Series(0.0, index=truth.index)
    distance = np.hypot(truth["source_x"] - SOURCE[0], truth["source_y"] - SOURCE[1])
    distance += (truth["theta_E"] - truth["theta_E"].median()).abs()
    flux = np.log(truth["source_amp"] * truth["source_R_sersic"] ** 2)
    return distance + 0.2 * (flux - flux.quantile(BRIGHT)).abs()


def visible(results: Path, truth: pd.DataFrame) -> pd.Series:
    """Return of which lenses the residual of the fit is worth a picture; boolean, by row.

    Those with substructure whose fit leaves more than the median of their class, and all smooth
    ones whose fit converged.
    """
    fits = read_catalog(results / "lensfit" / "fits.csv").set_index("id")
    fits = fits.loc[truth["id"]].reset_index()
    power = fits["fit_fourth_power"].where(fits["fit_converged"] == 1)
    upper = power.groupby(truth["class"]).rank(pct=True) >= 0.5
    return upper | (truth["class"] == NULL_CLASS) & power.notna()


def one_of_each(truth: pd.DataFrame, distance: pd.Series, classes: list[str]) -> pd.Series:
    """Return the id of the lens of each class that has the smallest distance."""
    rows = [distance[truth["class"] == name].idxmin() for name in classes]
    return truth["id"].iloc[rows]
