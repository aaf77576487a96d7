"""The search of the settings in notebook 04: its space, its process, its best trials, its choice.

A trial's value is f = log10(1 - ROC-AUC), the lower the better; ``best`` is the content of
``best.json`` (``vitdm.tuning.result.load_best``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import OptimizeResult

from studies.plots.tuning import COLLAPSED
from studies.plots.words import setting_name
from vitdm.tuning import result

#: beside the learning rate, the setting that says most about a trial: the first that was searched
BESIDE_RATE = ("patch_size", "embed_dim")


# --------------------------------------------------------------------------------- the space


def searched(dimension: Any) -> str:
    """Return the values of a dimension of the search in words: its choices, or its ends."""
    if dimension.type == "categorical":
        return ", ".join(map(str, dimension.choices))
    return f"{dimension.low:g} to {dimension.high:g}"


def bounds(dimension: Any) -> str:
    """Return the values of a dimension of the search and its scale in words."""
    if dimension.type == "categorical":
        return f"one of {searched(dimension)}"
    scale = "logarithmic" if dimension.type == "real" and dimension.log else "linear"
    return f"{searched(dimension)}, {scale}"


# ------------------------------------------------------------------------------- the process


def dependences(
    process: OptimizeResult, names: Sequence[str], seed: int
) -> dict[tuple[str, ...], np.ndarray]:
    """Return the partial dependence of f on each setting, (k,), and on each pair of them, (k, m).

    ``process`` is that of ``vitdm.tuning.result.load_result``; keys are the names of the settings.
    """
    pairs = [(a, b) for k, a in enumerate(names) for b in names[k + 1 :]]
    subsets = [*((name,) for name in names), *pairs]
    return {names: result.partial_dependence(process, names, seed=seed) for names in subsets}


def grids(process: OptimizeResult) -> dict[str, list[Any]]:
    """Return the values of each setting at which ``dependences`` are computed."""
    return {each.name: result.setting_grid(each) for each in process.space.dimensions}


def spreads(dependence: Mapping[tuple[str, ...], np.ndarray]) -> pd.Series:
    """Return the highest minus the lowest mean of f over the values of each setting, descending."""
    single = {names[0]: np.ptp(curve) for names, curve in dependence.items() if len(names) == 1}
    return pd.Series(single).sort_values(ascending=False)


# -------------------------------------------------------------------------------- the trials


def beside_rate(names: Sequence[str]) -> str:
    """Return the setting that colours the trials in the figure of the learning rate."""
    known = [name for name in BESIDE_RATE if name in names]
    others = [name for name in names[::-1] if name != "learning_rate"]
    return [*known, *others, *names][0]


def collapsed(trials: pd.DataFrame) -> int:
    """Return how many trials ended with a ROC-AUC below ``COLLAPSED`` without failing."""
    return int(((trials["status"] != "failed") & (trials["score"] < COLLAPSED)).sum())


def candidates(best: Mapping[str, Any]) -> pd.DataFrame:
    """Return the start and the best trials, trained anew with fresh seeds, a row each.

    Columns: ``setting`` (start, trial 1, …), ``params``, ``found`` (ROC-AUC in the search),
    ``scores`` (with fresh seeds), their ``mean`` and its ``error``, and ``chosen``.
    """
    table = pd.DataFrame(best["candidates"])
    names = ["start", *(f"trial {k}" for k in range(1, len(table)))]
    table.insert(0, "setting", names)
    return table.assign(chosen=[params == best["params"] for params in table["params"]])


def found_too_good(candidates: pd.DataFrame) -> float:
    """Return how much the best trials' ROC-AUC falls with fresh seeds, on average; else NaN."""
    trials = candidates[1:]
    return float((trials["found"] - trials["mean"]).mean()) if len(trials) else np.nan


def settings_table(best: Mapping[str, Any], space: Mapping[str, Any]) -> pd.DataFrame:
    """Return the settings of the start and of the choice as text, a row a dimension of the search.

    Columns: ``parameter``, ``searched``, ``start``, ``best``.
    """
    rows = []
    for name, dimension in space.items():
        values = [best["start"][name], best["params"][name]]
        written = [f"{v:.3g}" if dimension.type == "real" else str(v) for v in values]
        rows.append((setting_name(name), searched(dimension), *written))
    return pd.DataFrame(rows, columns=["parameter", "searched", "start", "best"])


def against_start(folder: Path) -> dict[str, Any] | None:
    """Return by how much the choice exceeds the start on lenses of their own; None without these.

    The content of ``gain.json``: ``auc``, ``against_auc``, ``gain``, ``low``, ``high``,
    ``n_images``.
    """
    file = folder / "gain.json"
    return json.loads(file.read_text())["result"] if file.exists() else None


# ----------------------------------------------------------------------------------- numbers


def search_numbers(
    best: Mapping[str, Any], trials: pd.DataFrame, candidates: pd.DataFrame
) -> dict[str, Any]:
    """Return what the search found and cost, ``tune_…``, and the settings chosen, ``best_…``."""
    start, chosen = candidates.iloc[0], candidates[candidates["chosen"]].iloc[0]
    saved = best["cpu_seconds_saved"]
    in_all = best["cpu_seconds"] + saved  # of tiny trials none
    numbers = {f"best_{name}": value for name, value in best["params"].items()}
    return numbers | {
        "tune_calls": best["calls"],
        "tune_failed": best["failed"],
        "tune_stopped": best["stopped"],
        "tune_noise": best["noise_sd"],
        "tune_start_auc": start["mean"],
        "tune_start_error": start["error"],
        "tune_best_auc": chosen["mean"],
        "tune_best_error": chosen["error"],
        "tune_best_of_trials": best["best_of_trials"],
        "tune_bias": found_too_good(candidates),
        "tune_start_kept": best["params"] == best["start"],
        "tune_median_auc": trials["score"].median(),
        "tune_seconds": best["seconds"],
        "tune_cpu_saved": saved / in_all if in_all else 0.0,
    }


def gain_numbers(gain: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the difference of ``against_start``, its interval and its number of images."""
    keys = {"": "gain", "_low": "low", "_high": "high", "_n": "n_images"}
    return {f"tune_gain{end}": gain[key] for end, key in keys.items()} if gain else {}
