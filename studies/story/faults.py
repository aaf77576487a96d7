"""The audit of the precursor in notebook 05: each fault fixed, alone and with those before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from studies.config import Config
from studies.story.extended import committed, first_there

OF_SCORE = "hard_labels"  # a fault of the score that was claimed, not of the model
OF_NETWORK = "post_norm"  # the last fault of the recipe and the first of the network


def audit_rows(config: Config, results: Path) -> pd.DataFrame | None:
    """Return the table of ``studies.audit``; None if there is none.

    The committed one that the article shows, else that of this run.
    """
    own = results / "audit" / "table" / "audit.csv"
    file = first_there([*committed(config, "audit.csv"), own])
    return None if file is None else pd.read_csv(file)


def faults_alone(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of one fault of the model fixed alone."""
    return rows[(rows["kind"] == "alone") & (rows["mended"] != OF_SCORE)]


def key_rows(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the rows that the article quotes.

    ``published``: the precursor as it was; ``mended``: all faults fixed; ``before15``: all but
    those of the network (if there are others); ``largest`` and ``smallest``: the single faults with
    the largest and the smallest difference; ``ours0``, ``ours1``, …: the recipes of this work.
    """
    alone, ours = faults_alone(rows), rows[rows["kind"] == "ours"].reset_index(drop=True)
    quoted = {"published": rows.iloc[0], "mended": rows[rows["kind"] != "ours"].iloc[-1]}
    quoted |= {"largest": alone.loc[alone["gain"].idxmax()]}
    quoted |= {"smallest": alone.loc[alone["gain"].idxmin()]}
    steps = rows[rows["kind"] == "cumulative"]
    before = steps[[OF_NETWORK not in names.split() for names in steps["mended"]]]
    if 0 < len(before) < len(steps):
        quoted["before15"] = before.iloc[-1]
    return quoted | {f"ours{k}": row for k, row in ours.iterrows()}


def audit_numbers(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the columns of ``key_rows``, and how many single faults change the ROC-AUC."""
    numbers: dict[str, Any] = {}
    for name, row in key_rows(rows).items():
        known = row.drop(["kind", "mended"]).dropna().to_dict()
        numbers |= {f"audit_{name}_{key}": value for key, value in known.items()}
    alone = faults_alone(rows)
    clear = (alone["gain_low"] > 0) | (alone["gain_high"] < 0)
    seconds = float((rows["cpu_seconds"] * rows["seeds"]).sum())
    counts = {"audit_n_clear": int(clear.sum()), "audit_n_alone": len(alone)}
    return numbers | counts | {"audit_seconds": seconds}
