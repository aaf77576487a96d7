"""Scores of a model on a set of the benchmark: one row of the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vitdm.benchmark.sets import FULL, BenchmarkSet, definition, opened
from vitdm.benchmark.shortcut import ring_predictions
from vitdm.data.dataset import read_catalog
from vitdm.errors import InputError, shown
from vitdm.evaluation.metrics import (
    Interval,
    bootstrap_interval,
    paired_difference,
    probabilities,
    weighted_accuracy,
    weighted_auc,
)

#: of training images (n, H, W), labels (n,) and test images (m, H, W) to probabilities (m, K)
TrainAndPredict = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
#: columns of the printed table, and the scores in them
SHOWN = {"macro ROC-AUC": "macro_roc_auc", "sub / no sub": "roc_auc", "accuracy": "accuracy"}
SHOWN |= {"above the ring": "above_ring"}
NORMALISED = 0.01  # how far from 1 the probabilities of an image may add up


def score(
    train_and_predict: TrainAndPredict,
    folder: str | Path,
    label: str | None = None,
    n_bootstrap: int = 1000,
) -> dict[str, Any]:
    """Train a model on a set in a folder of ``make``, and return its row of the table.

    ``train_and_predict`` gets the images of training and validation (n, H, W) in the unit of the
    instrument, their labels (n,), 0, 1, 2 for no_sub, cdm, axion, and the test images (m, H, W); it
    returns the probability of each class (m, 3). ``label`` names the model; by default the function
    does. The row is that of ``score_predictions``. InputError if the folder holds no set of the
    benchmark, or if what the function returns are no probabilities.
    """
    chosen, _ = opened(folder)
    label = label or getattr(train_and_predict, "__name__", "model")
    table = answers(train_and_predict, folder)
    return score_predictions(table, chosen.name, chosen.size, label, n_bootstrap)


def answers(train_and_predict: TrainAndPredict, folder: str | Path) -> pd.DataFrame:
    """Return id and the probability of each class, p_<class>, of the test images of a set.

    Arguments and errors are those of ``score``; the table is what ``score_predictions`` takes.
    """
    chosen, data = opened(folder)
    labels, images = chosen.catalog["label"].to_numpy()[chosen.learned], data.images
    given = train_and_predict(images[chosen.learned], labels, images[chosen.test])
    expected = (len(chosen.test), len(chosen.classes))
    if (found := np.shape(given)) != expected:
        raise InputError(f"train_and_predict: returned shape {found}; expected {expected}")
    return chosen.table(np.asarray(given))


def score_predictions(
    predictions: pd.DataFrame | str | Path,
    name: str,
    size: str = FULL,
    label: str | None = None,
    n_bootstrap: int = 1000,
) -> dict[str, Any]:
    """Return the row of the table for answers to the test images of a set.

    ``predictions``, a table or a CSV file, has the columns id, p_no_sub, p_cdm and p_axion, and one
    row for each test image, in any order. ``label`` names the model; by default the file does.

    The row has set, size, version, model and n_test; ``macro_roc_auc``, the mean over the classes
    of the ROC-AUC of each against the rest; ``roc_auc`` of any substructure against none;
    ``accuracy`` of the most probable class, each with its 95 % interval over the test images
    (``_low``, ``_high``; bootstrap); ``ring_macro_roc_auc`` and ``ring_roc_auc``, what the true
    Einstein radius alone has (``shortcut``); and ``above_ring``, by how much the macro ROC-AUC
    exceeds it, with its paired interval. InputError names the file and what is wrong with it.
    """
    chosen = BenchmarkSet(name, size)
    source, table = "predictions", predictions
    if not isinstance(predictions, pd.DataFrame):
        source, table = str(predictions), read_catalog(predictions)
    table = _checked(table, chosen, source)
    ring = _beside(ring_predictions(chosen), chosen)
    known = definition()
    row: dict[str, Any] = {
        "set": chosen.name,
        "size": size,
        "version": known.version,
        "model": label or Path(source).stem,
        "n_test": len(table),
    }
    for key, interval in _scores(table, n_bootstrap, known.seed).items():
        row |= {key: interval.value, f"{key}_low": interval.low, f"{key}_high": interval.high}
    values = _scores(ring, 2, known.seed)
    row |= {f"ring_{key}": values[key].value for key in ("macro_roc_auc", "roc_auc")}
    above = paired_difference([ring], [table], n_bootstrap, known.seed, macro=True)
    return row | {
        "above_ring": above.value,
        "above_ring_low": above.low,
        "above_ring_high": above.high,
    }


def over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each set and model of several trainings: the means of their scores.

    The intervals are those over the test images, on average, with the scatter of the mean of n
    trainings: half widths add in square with 1.96 s / sqrt(n). Of one training they stay.
    """
    merged = []
    for _, group in rows.groupby(["set", "size", "version", "model"], sort=False):
        row, n = group.iloc[0].to_dict(), len(group)
        for key in SHOWN.values():
            value, low, high = (group[f"{key}{end}"] for end in ("", "_low", "_high"))
            scatter = 1.96 * value.std(ddof=1) / n**0.5 if n > 1 else 0.0
            below, above = (np.hypot(half.mean(), scatter) for half in (value - low, high - value))
            mean = float(value.mean())
            row |= {key: mean, f"{key}_low": mean - below, f"{key}_high": mean + above}
            if key != "above_ring":
                row[f"{key}_high"] = min(row[f"{key}_high"], 1.0)
        merged.append(row | {"n_trained": n})
    return pd.DataFrame(merged)


def markdown(rows: pd.DataFrame) -> str:
    """Return rows of ``score`` as a table in Markdown: scores with their intervals.

    Beside the macro ROC-AUC stands that of the Einstein radius alone, as "ring".
    """
    lines = ["| set | model | " + " | ".join([*SHOWN, "ring alone"]) + " |", "|---" * 7 + "|"]
    for row in rows.to_dict("records"):
        name = row["set"] if row["size"] == FULL else f"{row['set']} ({row['size']})"
        cells = [name, row["model"]]
        for key in SHOWN.values():
            value, low, high = (row[f"{key}{end}"] for end in ("", "_low", "_high"))
            cells.append(f"{value:.3f} ({low:.3f} to {high:.3f})")
        lines.append(f"| {' | '.join(cells)} | {row['ring_macro_roc_auc']:.3f} |")
    return "\n".join(lines)


def _scores(table: pd.DataFrame, n: int, seed: int) -> dict[str, Interval]:
    labels, answers = table["label"].to_numpy(), probabilities(table)
    n_classes = answers.shape[1]

    def macro(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        each = [weighted_auc(labels == k, scores[:, k], weights) for k in range(n_classes)]
        return np.mean(each, axis=0)

    def binary(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return weighted_auc((labels > 0).astype(int), 1 - scores[:, 0], weights)

    def accuracy(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return weighted_accuracy(labels, scores.argmax(axis=1), weights)

    statistics = {"macro_roc_auc": macro, "roc_auc": binary, "accuracy": accuracy}
    return {
        key: bootstrap_interval(statistic, labels, [answers], n, seed)
        for key, statistic in statistics.items()
    }


def _checked(table: pd.DataFrame, chosen: BenchmarkSet, source: str) -> pd.DataFrame:
    """Return answers in the order of the catalog, with label; InputError names what is wrong."""
    columns = ["id", *(f"p_{name}" for name in chosen.classes)]
    if absent := [name for name in columns if name not in table]:
        found = ", ".join(map(str, table.columns))
        raise InputError(f"{source}: found columns {found}; {absent[0]} is missing")
    ids = table["id"].astype(str)
    if ids.duplicated().any():
        raise InputError(f"{source}: id {shown(ids[ids.duplicated()].iloc[0])} occurs twice")
    test = chosen.catalog["id"].iloc[chosen.test]
    if len(absent := test[~test.isin(ids)]):
        raise InputError(
            f"{source}: found no row for {len(absent)} of {len(test)} test images of "
            f"{chosen.name}, size {chosen.size}, such as {absent.iloc[0]}"
        )
    if len(strange := ids[~ids.isin(test)]):
        raise InputError(
            f"{source}: id {shown(strange.iloc[0])}: is no test image of {chosen.name}, size "
            f"{chosen.size}; expected those of split test alone"
        )
    values = table[columns[1:]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    right = np.isfinite(values).all(axis=1) & (values >= 0).all(axis=1)
    right &= np.abs(values.sum(axis=1) - 1) <= NORMALISED
    if not right.all():
        k = int(np.flatnonzero(~right)[0])
        found = ", ".join(shown(value) for value in table[columns[1:]].iloc[k].tolist())
        raise InputError(
            f"{source}: id {ids.iloc[k]}: found {found}; expected probabilities of "
            f"{', '.join(chosen.classes)}, from 0 to 1, that add up to 1"
        )
    return _beside(pd.DataFrame(values, columns=columns[1:]).assign(id=ids.to_numpy()), chosen)


def _beside(table: pd.DataFrame, chosen: BenchmarkSet) -> pd.DataFrame:
    """Return the answers in the order of the catalog, with id and label first."""
    known = chosen.catalog[["id", "label"]].iloc[chosen.test]
    return known.merge(table, on="id", how="left", validate="one_to_one")
