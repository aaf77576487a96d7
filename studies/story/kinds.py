"""One kind of substructure against the other in notebook 05: is it CDM or a vortex?

The scores of the test say whether there is substructure. Which kind it is, is another question, and
a mass that one kind has more often than the other would answer it without any morphology. So the
kinds are also compared at equal mass, in pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from vitdm.evaluation import metrics
from vitdm.simulation.classes import AXION, CDM

KINDS = CDM.name, AXION.name
CLOSE = 0.05  # dex: the masses of a pair differ by less
ENDS = 0.025, 0.975
LEAST = np.finfo(np.float64).tiny  # in place of a probability that was rounded to 0


def pairs_of_equal_mass(kind: NDArray, mass: NDArray, close: float = CLOSE) -> NDArray[np.intp]:
    """Return the rows (2, n) of pairs, one of either ``kind`` (bool), of nearly the same mass.

    The logarithms (base 10) of their masses differ by less than ``close``, no row is in two pairs,
    and the sum of the differences is the least.
    """
    first, second = (np.flatnonzero(kind == side) for side in (True, False))
    apart = np.abs(np.log10(mass[first])[:, None] - np.log10(mass[second]))
    i, k = linear_sum_assignment(np.minimum(apart, close))
    near = apart[i, k] < close
    return np.array([first[i[near]], second[k[near]]])


def kind_table(
    networks: Sequence[pd.DataFrame], truth: pd.DataFrame, n_bootstrap: int, seed: int
) -> pd.DataFrame:
    """Return the ROC-AUC of CDM against vortex: lenses, score, images, roc_auc, low, high.

    ``networks`` are the predictions of the trainings, whose mean score is that of one of them;
    ``truth`` is the catalog of the same images. Lenses are all with substructure, or pairs of equal
    mass (which a lens without any has not); scores are p_cdm / (p_cdm + p_axion) and the mass
    alone. Intervals hold the central 95 % of resamplings of the images. Without both kinds the
    table is empty, and where the masses are not known it has the networks on all lenses alone.
    """
    columns = ["lenses", "score", "images", "roc_auc", "low", "high"]
    known = [
        name for name in KINDS if f"p_{name}" in networks[0] and (truth["class"] == name).any()
    ]
    if len(known) < len(KINDS):
        return pd.DataFrame(columns=columns)
    rows = np.flatnonzero(truth["class"].isin(KINDS))
    labels = (truth["class"].to_numpy()[rows] == KINDS[0]).astype(int)
    of_kinds = [t[[f"p_{name}" for name in KINDS]].to_numpy(float)[rows] for t in networks]
    logits = [-np.diff(np.log(np.maximum(p, LEAST)))[:, 0] for p in of_kinds]
    scores, samples = {"networks": logits}, {"all": np.arange(len(rows))}
    if "substructure_mass" in truth:
        mass = truth["substructure_mass"].to_numpy(float)[rows]
        scores["mass"] = [mass]
        heavy = np.flatnonzero(mass > 0)
        pairs = pairs_of_equal_mass(labels[heavy] == 1, mass[heavy])
        samples["equal mass"] = np.sort(heavy[pairs.ravel()])
    table = []
    for lenses, chosen in samples.items():
        if len(np.unique(labels[chosen])) < 2:
            continue
        for name, each in scores.items():
            area = _mean_auc(labels[chosen], [score[chosen] for score in each], n_bootstrap, seed)
            table.append((lenses, name, len(chosen), *area))
    return pd.DataFrame(table, columns=columns)


def _mean_auc(
    labels: NDArray, scores: Sequence[NDArray], n_bootstrap: int, seed: int
) -> tuple[float, float, float]:
    """Return the mean ROC-AUC of some scores of the same images, and its interval."""
    draws = [
        np.mean([metrics.weighted_auc(labels, score, weights) for score in scores], axis=0)
        for weights in metrics.resamplings(labels, n_bootstrap, seed)
    ]
    low, high = np.quantile(np.concatenate(draws), ENDS)
    return float(np.mean([metrics.roc_auc(labels, score) for score in scores])), low, high


def kind_numbers(table: pd.DataFrame) -> dict[str, Any]:
    """Return ``kinds_<all|matched>_<networks|mass>_<auc|low|high|n>`` of a table of kinds."""
    numbers = {}
    for row in table.itertuples():
        key = f"kinds_{'all' if row.lenses == 'all' else 'matched'}_{row.score}"
        numbers |= {f"{key}_auc": row.roc_auc, f"{key}_low": row.low, f"{key}_high": row.high}
        numbers |= {f"{key}_n": int(row.images)}
    return numbers
