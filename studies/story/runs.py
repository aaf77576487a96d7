"""The runs that notebooks 02 and 03 compare: their predictions, and differences of their scores."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from studies.config import Config
from vitdm.evaluation.metrics import Difference, paired_difference, roc_auc
from vitdm.model.runs import Run


def run_folders(name: str, config: Config, results: Path) -> list[Path]:
    """Return the folders of a run, one a seed."""
    return [results / "runs" / f"{name}_seed{k}" for k in range(config.run_seeds)]


def predictions_of(name: str, config: Config, results: Path) -> list[pd.DataFrame]:
    """Return what a run says of the images of opt, a table a seed.

    Columns: ``id``, ``class``, ``label`` and ``p_<class>``, the probability of each class.
    """
    folders = run_folders(name, config, results)
    return [pd.read_csv(folder / "predictions.csv", dtype={"id": str}) for folder in folders]


def differences(
    pairs: Mapping[str, tuple[str, str]], there: Collection[str], config: Config, results: Path
) -> dict[str, Difference]:
    """Return by how much the ROC-AUC of the second run of a pair exceeds that of the first.

    ``pairs`` are by any key; those with a run that is not ``there`` are left out.
    """
    compared = {}
    for key, pair in pairs.items():
        if set(pair) <= set(there):
            tables = [predictions_of(name, config, results) for name in pair]
            compared[key] = paired_difference(*tables, config.evaluation.bootstrap, config.seed)
    return compared


def difference_numbers(key: str, difference: Difference) -> dict[str, float]:
    """Return a difference as ``<key>`` with its interval, _low and _high, and its error, _sd."""
    ends = {"": difference.value, "_low": difference.low, "_high": difference.high}
    return {f"{key}{end}": value for end, value in (ends | {"_sd": difference.sd}).items()}


# ------------------------------------------------------------------------- tables of trainings


def trained_runs(config: Config, results: Path) -> pd.DataFrame:
    """Return what each run scored and cost, a row for each run and seed.

    Columns: ``run``, ``label``, ``seed``, and those of the metrics and the timing of a run.
    """
    rows = []
    for identity, folder in _trainings(config, results):
        written = [json.loads((folder / f"{name}.json").read_text()) for name in ("metrics", "run")]
        rows.append(identity | written[0] | written[1].get("training", {}))
    return pd.DataFrame(rows)


def histories(config: Config, results: Path) -> pd.DataFrame:
    """Return the epochs of all runs: ``run``, ``label``, ``seed``, and those of the history."""
    return pd.concat(
        pd.read_csv(folder / "history.csv").assign(**identity)
        for identity, folder in _trainings(config, results)
    )


def _trainings(config: Config, results: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    """Return an iterator over the identity and the folder of each training."""
    for name, override in config.runs.items():
        for seed, folder in enumerate(run_folders(name, config, results)):
            yield {"run": name, "label": override.label, "seed": seed}, folder


def run_table(trained: pd.DataFrame, runs: Mapping[str, Run]) -> pd.DataFrame:
    """Return the switches of each run and its mean score, a row a run, by its name.

    ``trained`` is that of ``trained_runs``, ``runs`` are the runs themselves. Columns: ``label``,
    the switches ``SPT``, ``LSA``, ``features`` and ``residual``, ``parameters``, ``roc_auc`` and
    its ``sd`` over the seeds, ``seconds``.
    """
    by_run, words = trained.groupby("run", sort=False), {True: "yes", False: "no"}
    models = [run.settings.model for run in runs.values()]
    return pd.DataFrame(
        {
            "label": by_run["label"].first().to_numpy(),
            "SPT": [words[model.spt] for model in models],
            "LSA": [words[model.lsa] for model in models],
            "features": [model.feature_set if model.features else "no" for model in models],
            "residual": [words[model.residual] for model in models],
            "parameters": by_run["parameters"].first().to_numpy(),
            "roc_auc": by_run["roc_auc"].mean().to_numpy(),
            "sd": by_run["roc_auc"].std().to_numpy(),
            "seconds": by_run["seconds"].mean().to_numpy(),
        },
        index=list(runs),
    )


def run_numbers(table: pd.DataFrame) -> dict[str, Any]:
    """Return the scores of ``run_table`` by run, and the name of the best."""
    numbers = {f"run_{name}_auc": table.loc[name, "roc_auc"] for name in table.index}
    numbers |= {f"run_{name}_sd": table.loc[name, "sd"] for name in table.index}
    return numbers | {"best_run": table["roc_auc"].idxmax()}


# ----------------------------------------------------------------------- networks beside trees


def trees_as_tables(networks: Sequence[pd.DataFrame], results: Path) -> list[pd.DataFrame]:
    """Return tables like those of a run with what gradient boosting says of the same images."""
    trees = pd.read_csv(results / "selection" / "predictions.csv", dtype={"id": str})
    score = trees.set_index("id")["gradient_boosting"]
    return [table.assign(p_no_sub=1 - table["id"].map(score)) for table in networks]


def mean_of_log_odds(
    first: Sequence[pd.DataFrame], second: Sequence[pd.DataFrame]
) -> list[pd.DataFrame]:
    """Return the second tables with the mean of both log-odds of a lens without substructure."""
    together = []
    for pair in zip(first, second, strict=True):
        odds = [special.logit(table["p_no_sub"].clip(1e-6, 1 - 1e-6)) for table in pair]
        together.append(pair[1].assign(p_no_sub=special.expit(np.mean(odds, axis=0))))
    return together


def mean_auc(tables: Sequence[pd.DataFrame]) -> float:
    """Return the ROC-AUC of any substructure against none, the mean over the seeds."""
    return float(np.mean([roc_auc(t["label"] > 0, 1 - t["p_no_sub"]) for t in tables]))


def trees_numbers(results: Path) -> dict[str, float]:
    """Return the ROC-AUC on opt of gradient boosting on two groups of features."""
    scores = pd.read_csv(results / "selection" / "scores.csv").set_index(["model", "features"])
    return {
        f"trees_{group}_opt_auc": scores.loc[("gradient boosting", group), "roc_auc"]
        for group in ("lensfit", "selected")
    }
