"""Fits of a smooth lens in notebook 01: residual maps, class separation, peaks, real lenses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from studies.config import Cutouts
from studies.plots.lensfit import RealFit
from studies.plots.populations import Example
from studies.plots.style import label_of
from studies.real_lenses import STEPS, fit_cutouts
from studies.story.populations import class_separation
from studies.subhalo_distance import distance_to_subhalo, found_by_mass
from vitdm.data import readers
from vitdm.data.dataset import Dataset, read_catalog
from vitdm.lens import modelled
from vitdm.simulation import NO_SUB


def fits_of(folder: Path) -> pd.DataFrame:
    """Return the table of the fits in a folder of results, with the class of each image."""
    catalog = Dataset.open(folder / "dataset").catalog
    return read_catalog(folder / "lensfit" / "fits.csv").assign(**{"class": catalog["class"]})


def converged(fits: pd.DataFrame) -> pd.DataFrame:
    """Return the fits that converged; the index stays that of the images."""
    return fits[fits["fit_converged"] == 1]


def smooth_explained(fits: pd.DataFrame) -> float:
    """Return the fraction of smooth lenses whose fit converges with chi^2 per d.o.f. below 1.3."""
    smooth = fits[fits["class"] == NO_SUB]
    return float(((smooth["fit_converged"] == 1) & (smooth["fit_chi2"] < 1.3)).mean())


# ------------------------------------------------------------------------------ residual maps


def ranked_rows(fits: pd.DataFrame, column: str, ranks: Mapping[str, Sequence[float]]) -> list[int]:
    """Return the index of the images that stand at some ranks, 0 to 1, within their class.

    ``ranks`` are by class; images are ranked by a ``column`` of ``fits``.
    """
    rank = fits.groupby("class")[column].rank(pct=True)
    return [
        (rank[fits["class"] == kind] - at).abs().idxmin()
        for kind, places in ranks.items()
        for at in places
    ]


def labelled_residuals(
    lenses: Sequence[Example], power: pd.Series, maps: Sequence[np.ndarray]
) -> list[tuple[str, Example, np.ndarray]]:
    """Return label, lens and residual (size, size), as the figure of residual maps takes them.

    ``power`` has the fourth power of the residual of each lens, by the row of its residual in
    ``maps`` (n, size, size), which are those of the whole dataset.
    """
    return [
        (f"{label_of(lens.kind)}\n$S_4$ = {value:.0f}", lens, maps[row])
        for lens, (row, value) in zip(lenses, power.items(), strict=True)
    ]


# ------------------------------------------------------------------- what the fit says of classes


def separations(
    fits: Mapping[str, pd.DataFrame], columns: Sequence[str], seed: int
) -> pd.DataFrame:
    """Return how well single columns of fits separate the classes: substructure against none.

    ``fits`` are tables by population. A row for each population and column: ``population``,
    ``feature``, the ROC-AUC ``value`` and its 95 % interval, ``low`` and ``high``.
    """
    rows = []
    for population, table in fits.items():
        for name in columns:
            auc = class_separation(table["class"], table[name], seed)
            rows.append({"population": population, "feature": name} | auc._asdict())
    return pd.DataFrame(rows, columns=["population", "feature", "value", "low", "high"])


def separation_numbers(table: pd.DataFrame) -> dict[str, float]:
    """Return the rows of ``separations`` as ``<feature>_auc_<population>``, with _low and _high."""
    numbers = {}
    for row in table.itertuples():
        key = f"{row.feature}_auc_{row.population}"
        numbers |= {key: row.value, f"{key}_low": row.low, f"{key}_high": row.high}
    return numbers


def subhalo_distances(folder: Path) -> pd.DataFrame | None:
    """Return how far the residual peaks from the most massive subhalo, of each image in a folder.

    Columns as of ``distance_to_subhalo``; None if the catalog knows no subhalos.
    """
    catalog = Dataset.open(folder / "dataset").catalog
    if "max_subhalo_mass" not in catalog:
        return None
    return distance_to_subhalo(catalog, read_catalog(folder / "lensfit" / "fits.csv"))


def subhalo_numbers(distances: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Return the completeness over all masses and what goes with it, by population.

    ``distances`` are tables of ``subhalo_distances``; one without images gives no numbers.
    """
    numbers = {}
    for name, table in distances.items():
        for whole in found_by_mass(table, (0, 99)).to_dict("records"):
            keys = ("n", "rate", "rate_low", "rate_high", "chance", "distance")
            numbers |= {f"fit_peak_{key}_{name}": whole[key] for key in keys}
    return numbers


# -------------------------------------------------------------------------------- real lenses


def known_cutouts(files: Sequence[Path], known: Cutouts) -> dict[str, np.ndarray]:
    """Return those images (H, W) that ``known`` describes, by the names of their files."""
    chosen = [file for file in files if file.name in known.cutouts]
    return {Path(name).name: image for name, image in readers.load_images(chosen)}


def real_fits(
    cutouts: Mapping[str, np.ndarray], known: Cutouts
) -> tuple[pd.DataFrame, list[RealFit], dict[str, Any]]:
    """Fit smooth lenses to real images: the table of ``fit_cutouts``, lenses to draw, numbers.

    Numbers are the range of each chi^2 over the lenses, the relative differences to the published
    Einstein radii, and how many fits converged and how many are flagged as poor.
    """
    table, images, fit = fit_cutouts(cutouts, known)
    maps = zip(images, *modelled(fit), fit.residual, strict=True)
    labels = table[["name", "theta_E", "chi2_full", "flags"]].itertuples(index=False)
    drawn = [RealFit(*label, *lens) for label, lens in zip(labels, maps, strict=True)]
    numbers = {}
    for name in [f"chi2_{step}" for step in (*STEPS, "beyond")]:
        low, high = table[name].min(), table[name].max()
        numbers |= {f"real_{name}_min": low, f"real_{name}_max": high}
    off = (table["theta_E"] / table["theta_E_published"] - 1).abs()
    numbers |= {"real_theta_E_off_median": off.median(), "real_theta_E_off_max": off.max()}
    numbers |= {"n_real_converged": int(fit.converged.sum())}
    return table, drawn, numbers | {"n_real_poor": int(table["flags"].str.contains("poor").sum())}
