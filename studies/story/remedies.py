"""Remedies for errors in notebook 05: averages of models, and networks that see more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from vitdm.data.dataset import read_catalog
from vitdm.evaluation import metrics

SEEDS, TREES = "averaging the seeds", "averaging with gradient boosting"
BOTH, MORE = "both", "showing all features and the residual map"
KEYS = {SEEDS: "seeds", TREES: "trees", BOTH: "both", MORE: "all"}
SELECTED_RUN, ALL_RUN = "spt_lsa_features", "spt_lsa_all"  # without MORE, and with it

Pair = tuple[Sequence[pd.DataFrame], Sequence[pd.DataFrame]]


def averages(networks: Sequence[pd.DataFrame], trees: Sequence[pd.DataFrame]) -> dict[str, Pair]:
    """Return predictions without and with each remedy that needs no training.

    ``networks`` and ``trees`` are of the same images, one table a seed; there may be no trees.
    """
    n = len(networks)
    tried: dict[str, Pair] = {SEEDS: (networks, [metrics.ensemble(networks)] * n)}
    if trees:
        pairs = [metrics.ensemble(pair) for pair in zip(networks, trees, strict=True)]
        tried[TREES] = (networks, pairs)
        tried[BOTH] = (networks, [metrics.ensemble(pairs)] * n)
    return tried


def showing_more(results: Path, classes: Sequence[str]) -> dict[str, Pair]:
    """Return predictions of the images of opt by runs of notebook 03; empty if one was not made.

    ``classes`` are those of the models, in the order of the labels.
    """
    without, more = (_of_run(results, run, np.array(classes)) for run in (SELECTED_RUN, ALL_RUN))
    return {MORE: (without, more)} if without and more else {}


def _of_run(results: Path, run: str, classes: np.ndarray) -> list[pd.DataFrame]:
    """Return the predictions of a run with the class of each image, one table a seed."""
    files = sorted(results.glob(f"runs/{run}_seed*/predictions.csv"))
    tables = [read_catalog(file) for file in files]
    return [table.assign(**{"class": classes[table["label"]]}) for table in tables]


def remedies_table(tried: Mapping[str, Mapping[str, Pair]], n: int, seed: int) -> pd.DataFrame:
    """Return what each remedy brings; ``tried`` are those of each split by the split's name.

    ``n`` resamplings with a ``seed`` give the intervals. Columns: ``split``, ``remedy``, the
    difference of the ROC-AUC, ``gain``, with ``low`` and ``high``; ``errors before`` and ``errors
    after``, mean fractions of the two classes at the best threshold.
    """
    rows = []
    for split, remedies in tried.items():
        for name, pair in remedies.items():
            difference = metrics.paired_difference(*pair, n, seed)
            errors = [np.mean([metrics.fewest_errors(table) for table in side]) for side in pair]
            rows.append((split, name, *difference[:3], *errors))
    columns = ["split", "remedy", "gain", "low", "high", "errors before", "errors after"]
    return pd.DataFrame(rows, columns=columns)


def remedy_numbers(table: pd.DataFrame) -> dict[str, float]:
    """Return the differences of ``remedies_table`` but those on the test, ``remedy_…``."""
    numbers = {}
    for row in table[table["split"] != "test"].to_dict("records"):
        key = f"remedy_{KEYS[row['remedy']]}"
        numbers |= {key: row["gain"], f"{key}_low": row["low"], f"{key}_high": row["high"]}
    return numbers
