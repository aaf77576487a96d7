"""What it takes to be found: scores against the truth of simulated lenses, bin by bin."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from vitdm.evaluation.metrics import binary_scores, delong_interval, threshold_at_fpr

BINS = 6
FPR = 0.01  # of all smooth lenses, at the threshold of the completeness
#: what is varied: the class whose lenses differ in it, None for all of them, smooth ones too
QUANTITIES: dict[str, str | None] = {
    "substructure_mass": "cdm",  # solar masses
    "ring_distance": "cdm",  # arcsec
    "f_sub": "cdm",
    "vortex_length": "axion",  # arcsec
    "axion_mass": "axion",  # eV
    "total_flux_snr": None,
}


def quantities(catalog: pd.DataFrame, features: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the QUANTITIES that are known of images; rows of both tables belong together.

    ``ring_distance`` ["] is how far the most massive subhalo lies inside or outside the Einstein
    radius, near which the arcs are; ``total_flux_snr`` is a feature, measured and not the truth.
    """
    found = pd.DataFrame(index=range(len(catalog)))
    for name in QUANTITIES:
        for table in (catalog, features):
            if table is not None and name in table:
                found[name] = table[name].to_numpy(float)
    if {"max_subhalo_x", "max_subhalo_y", "theta_E"} <= set(catalog):
        radius = np.hypot(*catalog[["max_subhalo_x", "max_subhalo_y"]].to_numpy(float).T)
        found["ring_distance"] = np.abs(radius - catalog["theta_E"].to_numpy(float))
    return found


def binned(predictions: pd.DataFrame, values: pd.DataFrame, bins: int = BINS) -> pd.DataFrame:
    """Return completeness and ROC-AUC in bins of each quantity, with equal numbers of images.

    ``values`` has the ``quantities`` of the same images. Of a quantity of one class the ROC-AUC is
    that of the class's images in the bin against all smooth lenses; of one that all images have, of
    both kinds in the bin. Columns: quantity, median, low, high (of the bin), n (with substructure);
    rate: the fraction of these found at the threshold that lets ``FPR`` of all smooth lenses pass,
    rate_low, rate_high (Wilson); auc, auc_low, auc_high (DeLong); all intervals 95 %.
    """
    labels, scores = binary_scores(predictions)
    found = scores > threshold_at_fpr(labels, scores, FPR)
    rows = []
    for name in values:
        of_class = QUANTITIES[name]
        value = values[name].to_numpy()
        varied = np.isfinite(value)
        if of_class is not None:
            varied &= (predictions["class"] == of_class).to_numpy()
        if varied.sum() < 2 * bins or np.ptp(value[varied]) == 0:
            continue
        edges = np.unique(np.quantile(value[varied], np.linspace(0, 1, bins + 1)))
        index = np.clip(np.searchsorted(edges, value, side="right") - 1, 0, len(edges) - 2)
        for k in range(len(edges) - 1):
            inside = varied & (index == k)
            with_sub = inside & (labels == 1)
            chosen = inside | (labels == 0) if of_class is not None else inside
            if with_sub.sum() < 2 or (labels[chosen] == 0).sum() < 2:
                continue
            n, hits = int(with_sub.sum()), int(found[with_sub].sum())
            rate = stats.binomtest(hits, n).proportion_ci(method="wilson")
            auc = delong_interval(labels[chosen], [scores[chosen]])
            bin_ = (np.median(value[inside]), value[inside].min(), value[inside].max(), n)
            rows.append((name, *bin_, hits / n, *rate, *auc))
    columns = ["quantity", "median", "low", "high", "n", "rate", "rate_low", "rate_high"]
    return pd.DataFrame(rows, columns=[*columns, "auc", "auc_low", "auc_high"])
