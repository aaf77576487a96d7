"""Completeness and ROC-AUC by lens property, of simulated lenses."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from vitdm.evaluation.metrics import binary_scores, delong_interval, threshold_at_fpr
from vitdm.simulation.classes import CLASSES, Quantity, SubstructureClass

BINS = 6
FPR = 0.01  # of all smooth lenses, at the threshold of the completeness
#: of all lenses, smooth ones too: measured, not the truth
FLUX_SNR = Quantity("total_flux_snr", r"S/N of the lensed light ($10^3$)", unit=1e3)


def binning() -> dict[str, Quantity]:
    """Return the quantities by which scores are binned: those of each class, then FLUX_SNR."""
    of_classes = [quantity for known in CLASSES.values() for quantity in known.binned_by]
    return {quantity.column: quantity for quantity in (*of_classes, FLUX_SNR)}


def _is_binned(known: SubstructureClass, column: str) -> bool:
    return column in {quantity.column for quantity in known.binned_by}


def ring_distance(catalog: pd.DataFrame, known: SubstructureClass) -> np.ndarray | None:
    """Return how far ["] substructure of a class lies inside or outside the Einstein radius, (n,).

    That of ``known.middle``: of the heaviest subhalo, or the middle of a vortex. NaN for images
    of which it is not known; None if the catalog does not have it.
    """
    if known.middle is None or not {*known.middle, "theta_E"} <= set(catalog):
        return None
    x, y, theta_E = catalog[[*known.middle, "theta_E"]].to_numpy(float).T
    return np.abs(np.hypot(x, y) - theta_E)


def quantities(catalog: pd.DataFrame, features: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the quantities of ``binning`` that are known of images, rows of both tables together.

    ``ring_distance`` ["] is how far the most massive subhalo lies inside or outside the Einstein
    radius, near which the arcs are; ``total_flux_snr`` is a feature, measured and not the truth.
    """
    values_of = pd.DataFrame(index=range(len(catalog)))
    for name in binning():
        for table in (catalog, features):
            if table is not None and name in table:
                values_of[name] = table[name].to_numpy(float)
    for known in CLASSES.values():
        distance = ring_distance(catalog, known)
        if distance is not None and _is_binned(known, "ring_distance"):
            of_others = values_of.get("ring_distance", np.nan)
            values_of["ring_distance"] = np.where(np.isfinite(distance), distance, of_others)
    return values_of


def binned(predictions: pd.DataFrame, values: pd.DataFrame, bins: int = BINS) -> pd.DataFrame:
    """Return completeness and ROC-AUC in bins of each quantity, with equal numbers of images.

    ``values`` has the ``quantities`` of the same images. Of a quantity of one class the ROC-AUC is
    that of the class's images in the bin against all smooth lenses; of one that all images have, of
    both kinds in the bin. Columns: quantity, median, low, high (of the bin), n (with substructure);
    rate: the fraction of these found at the threshold that lets ``FPR`` of all smooth lenses pass,
    rate_low, rate_high (Wilson); auc, auc_low, auc_high (DeLong); all intervals 95 %.
    """
    labels, scores = binary_scores(predictions)
    detected = scores > threshold_at_fpr(labels, scores, FPR)
    rows = []
    for name in values:
        of_class = [known.name for known in CLASSES.values() if _is_binned(known, name)]
        value = values[name].to_numpy()
        varied = np.isfinite(value)
        if of_class:
            varied &= predictions["class"].isin(of_class).to_numpy()
        if varied.sum() < 2 * bins or np.ptp(value[varied]) == 0:
            continue
        edges = np.unique(np.quantile(value[varied], np.linspace(0, 1, bins + 1)))
        index = np.clip(np.searchsorted(edges, value, side="right") - 1, 0, len(edges) - 2)
        for k in range(len(edges) - 1):
            inside = varied & (index == k)
            with_sub = inside & (labels == 1)
            chosen = inside | (labels == 0) if of_class else inside
            if with_sub.sum() < 2 or (labels[chosen] == 0).sum() < 2:
                continue
            n, hits = int(with_sub.sum()), int(detected[with_sub].sum())
            rate = stats.binomtest(hits, n).proportion_ci(method="wilson")
            auc = delong_interval(labels[chosen], [scores[chosen]])
            bin_ = (np.median(value[inside]), value[inside].min(), value[inside].max(), n)
            rows.append((name, *bin_, hits / n, *rate, *auc))
    columns = ["quantity", "median", "low", "high", "n", "rate", "rate_low", "rate_high"]
    return pd.DataFrame(rows, columns=[*columns, "auc", "auc_low", "auc_high"])
