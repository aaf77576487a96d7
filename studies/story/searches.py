"""Kinds of search on equal terms in notebook 04: their choices, and the rule that ends trials.

A kind of search, an ``arm``, is repeated with several seeds, by ``number``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from studies.config import Config
from studies.story.extended import committed, first_there
from vitdm.tuning.trials import replay

SEARCH = ["arm", "number"]
COMPLETE = ("process", "random")  # arms that end no trial early
QUANTILE = 0.5  # of the points before, below which a trial is ended: the median rule


def search_trials(config: Config, results: Path) -> pd.DataFrame | None:
    """Return the trials of all searches that are compared, a row each; None if there are none.

    Those of this run, else the committed ones that the article shows. Columns: ``arm``,
    ``number``, ``label`` and those of ``trials.csv`` of a search.
    """
    file = first_there([results / "searches" / "searches.csv", *committed(config, "searches.csv")])
    return None if file is None else pd.read_csv(file)


def arm_labels(trials: pd.DataFrame) -> dict[str, str]:
    """Return the label of each arm."""
    return dict(trials[["arm", "label"]].drop_duplicates().to_numpy())


def calls_of(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials but those with fresh seeds, with the ``best_so_far`` of their search."""
    calls = trials[trials["stage"] != "again"]
    return calls.assign(best_so_far=calls.groupby(SEARCH)["score"].cummax())


def choices(trials: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the ROC-AUC of the choice of each search: a row a number, a column an arm.

    The choice is, of the points trained anew with fresh seeds, that with the highest mean minus its
    standard error; its mean is the score. ``names`` are the settings searched.
    """
    fresh = trials[trials["stage"] == "again"]
    points = fresh.groupby([*SEARCH, *names], sort=False)["score"].agg(["mean", "sem"])
    points = points.reset_index()
    points["bound"] = points["mean"] - points["sem"]
    choice = points.loc[points.groupby(SEARCH)["bound"].idxmax()]
    choice = choice.pivot(index="number", columns="arm", values="mean")
    return choice[list(arm_labels(trials))]


def searches_table(trials: pd.DataFrame, choice: pd.DataFrame) -> pd.DataFrame:
    """Return means over the searches of each arm, a row an arm.

    ``choice`` is that of ``choices``. Columns: ``best of trials``, ``choice, fresh seeds`` with
    ``its error``, its difference from random points, ``minus random``, with ``error of that``, and
    ``minutes of a core``.
    """
    by_search = calls_of(trials).groupby(SEARCH)
    seconds = by_search["cpu_seconds"].sum().groupby("arm").mean()
    ahead = choice.sub(choice.get("random", np.nan), axis=0)
    table = pd.DataFrame(
        {
            "best of trials": by_search["score"].max().unstack(0).mean(),
            "choice, fresh seeds": choice.mean(),
            "its error": choice.sem(),
            "minus random": ahead.mean(),
            "error of that": ahead.sem(),
            "minutes of a core": seconds / 60,
        }
    )
    return table.loc[list(choice)]


def replayed(trials: pd.DataFrame, names: Sequence[str], patience: int) -> dict[str, Any]:
    """Return what the rule that ends hopeless trials would have done to searches without it.

    ``saved``: the fraction of the epochs; ``lost``: the number of the searches whose best trial it
    would have ended, among ``n``. ``names`` are the settings searched.
    """
    calls = trials[(trials["stage"] != "again") & trials["arm"].isin(COMPLETE)]
    lost, ended, run = 0, 0, 0
    for _, search in calls.groupby(SEARCH):
        epochs = replay(search, list(names), QUANTILE, patience)
        winner = search["score"].to_numpy().argmax()
        lost += epochs[winner] < search["epochs"].iloc[winner]
        ended, run = ended + sum(epochs), run + search["epochs"].sum()
    return {"saved": 1 - ended / run, "lost": lost, "n": calls.groupby(SEARCH).ngroups}


def searches_numbers(
    table: pd.DataFrame, choice: pd.DataFrame, rule: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the scores and the cost of each arm, and what the rule of ``replayed`` did."""
    columns = {
        "auc": "choice, fresh seeds",
        "ahead": "minus random",
        "ahead_error": "error of that",
        "minutes": "minutes of a core",
    }
    numbers = {
        f"search_{arm}_{key}": row[column]
        for arm, row in table.iterrows()
        for key, column in columns.items()
    }
    numbers |= {f"replay_{key}": value for key, value in rule.items()}
    return numbers | {"search_seeds": len(choice)}
