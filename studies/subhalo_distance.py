"""Do residuals of smooth lens fits peak at the most massive subhalo?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from vitdm.simulation import CDM

NEAR = 0.3  # arcsec: a subhalo so close to the ring acts on the arcs
MASS_BINS = (9.25, 9.75, 9.9, 10)  # log10 of solar masses; of 25 subhalos the most massive one
FOUND = 0.2  # arcsec between a subhalo and where the residual peaks


def distance_to_subhalo(catalog: pd.DataFrame, fits: pd.DataFrame) -> pd.DataFrame:
    """Return how far from its image's most massive subhalo each residual peaks.

    ``catalog`` is that of simulated images (class, theta_E, ``max_subhalo_...``), ``fits`` the
    table of their fits, row by row. Rows are the images of ``cdm`` whose most massive subhalo lies
    within ``NEAR`` of the ring and whose fit converged; columns ``mass`` [solar masses],
    ``distance`` ["], ``found`` (within ``FOUND``) and ``chance``: the fraction of the peaks of the
    other rows that lie within ``FOUND`` of this subhalo. The catalog knows no other subhalos: a
    peak at the second most massive one counts as a miss.
    """
    x, y = catalog["max_subhalo_x"], catalog["max_subhalo_y"]
    near = (np.hypot(x, y) - catalog["theta_E"]).abs() < NEAR
    chosen = near & (catalog["class"] == CDM.name) & (fits["fit_converged"] == 1)
    chosen &= fits["fit_peak_x"].notna()
    at = (x + 1j * y)[chosen].to_numpy()
    peak = (fits["fit_peak_x"] + 1j * fits["fit_peak_y"])[chosen].to_numpy()
    apart = np.abs(at[:, None] - peak)  # (subhalos, peaks)
    own = apart.diagonal()
    others = (apart < FOUND).sum(1) - (own < FOUND)
    return pd.DataFrame(
        {
            "mass": catalog["max_subhalo_mass"][chosen].to_numpy(),
            "distance": own,
            "found": own < FOUND,
            "chance": others / max(len(own) - 1, 1),
        }
    )


def found_by_mass(distances: pd.DataFrame, edges: Sequence[float]) -> pd.DataFrame:
    """Return the fraction of ``distance_to_subhalo`` that is found, by bins of log10 of the mass.

    Columns: ``low``, ``high`` (edges), ``n``, ``rate`` with its 95 % interval (Wilson 1927)
    ``rate_low`` and ``rate_high``, ``chance`` and the median ``distance`` ["]; bins without images
    are left out.
    """
    rows = []
    for low, high in zip(edges, edges[1:], strict=False):
        within = np.log10(distances["mass"]).between(low, high, inclusive="left")
        if not within.any():
            continue
        part = distances[within]
        hits, n = int(part["found"].sum()), len(part)
        interval = stats.binomtest(hits, n).proportion_ci(method="wilson")
        rates = (hits / n, interval.low, interval.high, part["chance"].mean())
        rows.append((low, high, n, *rates, part["distance"].median()))
    columns = ["low", "high", "n", "rate", "rate_low", "rate_high", "chance", "distance"]
    return pd.DataFrame(rows, columns=columns, dtype=float).astype({"n": int})
