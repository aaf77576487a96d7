"""The final test: the only function that reads the test split, and the numbers that come out.

Two kinds of number come out. *Rates* (ROC-AUC, accuracies, true-positive rates) are the mean over
the seeds: what one trained model reaches. *Counts* and pictures (confusion matrix, misses, false
alarms, completeness) are of the ensemble, the mean of the seeds' probabilities. Thresholds and
temperatures come from images that were held out of the training and are not in the test.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from sklearn import metrics

from vitdm.data.dataset import Dataset, read_catalog, read_features
from vitdm.errors import InputError
from vitdm.evaluation import leakage
from vitdm.evaluation.calibration import (
    UNTEMPERED,
    best_threshold,
    calibration_error,
    calibration_floor,
    fit_temperature,
    tempered,
)
from vitdm.evaluation.metrics import (
    NULL_CLASS,
    Statistic,
    binary_scores,
    bootstrap_interval,
    delong_interval,
    ensemble,
    model_classes,
    multiclass_accuracy,
    per_class_auc,
    probabilities,
    roc_auc,
    weighted_accuracy,
    weighted_auc,
    weighted_average_precision,
    weighted_tpr,
)
from vitdm.model import baselines
from vitdm.model.inputs import Tables
from vitdm.model.runs import load_run, predictions_table
from vitdm.provenance import atomic, check_outputs, check_replaceable, sidecar, write_json
from vitdm.simulation.classes import SUB

EVALUATION_FILES = ("metrics.json", "predictions*.csv", "rival_*.csv", "held_out_*.csv", "roc.csv")
EVALUATION_FILES += ("failures.csv", "neighbours.csv", "evaluation.json")
#: scores beside the models: trees on their features, and one number that learns nothing
BASELINE, UNTRAINED = "boosting", "fit_point_evidence"


# -------------------------------------------------------------------------------------- summary


def summarise(
    predictions: Sequence[pd.DataFrame],
    held_out: Sequence[pd.DataFrame],
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return every number of the final test as a flat dictionary.

    ``predictions`` has one table a seed, of the same test images; ``held_out`` one a seed of
    others, of which threshold and temperature of that seed are chosen, and those of the ensemble
    from their mean. ``test_auc_seed_sd`` is NaN for one seed. ``n_untempered`` counts the seeds
    whose images held out tell no temperature, so that their scores stay as they are. Keys ending
    in ``_low`` and ``_high`` bound a 95 % bootstrap interval over the images, stratified by class,
    or DeLong's.
    """
    both, mean_held_out = ensemble(predictions), ensemble(held_out)
    labels, mean_scores = binary_scores(both)
    scores = [binary_scores(table)[1] for table in predictions]
    thresholds = [best_threshold(*binary_scores(table)) for table in held_out]
    decisions = [(s > t).astype(float) for s, t in zip(scores, thresholds, strict=True)]
    temperatures = [fit_temperature(probabilities(t), t["label"].to_numpy()) for t in held_out]
    calibrated = [
        1 - tempered(probabilities(table), t)[:, model_classes(both).index(NULL_CLASS)]
        for table, t in zip(predictions, temperatures, strict=True)
    ]
    classes, target = model_classes(both), both["label"].to_numpy()
    aucs = [roc_auc(labels, entry) for entry in scores]
    threshold = best_threshold(*binary_scores(mean_held_out))
    wrong = (mean_scores > threshold) != (labels == 1)
    result: dict[str, Any] = {
        "n_seeds": len(predictions),
        "n_test": len(labels),
        "n_held_out": len(mean_held_out),
        "thresholds": thresholds,
        "temperatures": temperatures,
        "test_threshold": threshold,
        "test_temperature": float(np.mean(temperatures)),
        "n_untempered": temperatures.count(UNTEMPERED),
        "test_auc_seeds": aucs,
        "test_auc_seed_sd": float(np.std(aucs, ddof=1)) if len(aucs) > 1 else np.nan,
        "test_multiclass_accuracy": float(np.mean([multiclass_accuracy(t) for t in predictions])),
        "test_ece_floor": float(np.mean([calibration_floor(s, seed) for s in calibrated])),
        "n_test_errors": int(wrong.sum()),
        "n_missed": int((wrong & (labels == 1)).sum()),
        "n_false_alarms": int((wrong & (labels == 0)).sum()),
    }

    def interval(
        key: str, statistic: Statistic, truth: np.ndarray, entries: list[np.ndarray]
    ) -> None:
        strata = both["class"].to_numpy()
        value, low, high = bootstrap_interval(
            statistic, truth, entries, n_bootstrap, seed, strata=strata
        )
        result.update({key: value, f"{key}_low": low, f"{key}_high": high})

    interval("test_auc", weighted_auc, labels, scores)
    _, *ends = delong_interval(labels, scores)
    result |= dict(zip(("test_auc_delong_low", "test_auc_delong_high"), ends, strict=True))
    interval("test_ensemble_auc", weighted_auc, labels, [mean_scores])
    interval("test_average_precision", weighted_average_precision, labels, scores)
    interval("test_accuracy", weighted_accuracy, labels, decisions)
    interval("test_balanced_accuracy", weighted_auc, labels, decisions)  # see notebook 05
    interval("test_tpr_at_fpr_01", partial(weighted_tpr, fpr=0.01), labels, scores)
    interval("test_tpr_at_fpr_001", partial(weighted_tpr, fpr=0.001), labels, scores)
    interval("test_ece", calibration_error, labels, scores)
    interval("test_ece_tempered", calibration_error, labels, calibrated)
    by_class = [probabilities(table) for table in predictions]
    present = [name for name, auc in per_class_auc(both).items() if not np.isnan(auc)]
    for name in present:
        k = classes.index(name)
        one = (target == k).astype(int)
        interval(f"test_auc_{name}", weighted_auc, one, [p[:, k] for p in by_class])

    def macro(_: np.ndarray, table: np.ndarray, weights: np.ndarray) -> np.ndarray:
        ks = [classes.index(name) for name in present]
        return np.mean([weighted_auc((target == k) + 0, table[:, k], weights) for k in ks], axis=0)

    interval("test_auc_macro", macro, labels, by_class)
    return result


def failures(
    predictions: pd.DataFrame, catalog: pd.DataFrame, threshold: float, n: int = 10
) -> pd.DataFrame:
    """Return the ``n`` most confident mistakes of each class.

    Columns: id, class, predicted (``sub`` or ``no_sub``), kind (``miss`` or ``false_alarm``),
    p_true (the probability given to the truth, substructure or not), then the truth columns of
    the catalog. The worst come first.
    """
    labels, scores = binary_scores(predictions)
    table = pd.DataFrame(
        {
            "id": predictions["id"],
            "class": predictions["class"],
            "predicted": np.where(scores > threshold, SUB, NULL_CLASS),
            "kind": np.where(labels == 1, "miss", "false_alarm"),
            "p_true": np.where(labels == 1, scores, 1 - scores),
        }
    )[(scores > threshold) != (labels == 1)]
    table = table.sort_values(["p_true", "id"]).groupby("class", sort=False).head(n)
    truth = catalog.drop(columns=["class", "split", "source"], errors="ignore")
    return table.merge(truth, on="id", how="left", validate="one_to_one").reset_index(drop=True)


# --------------------------------------------------------------------------------- the test split


def held_out(
    folder: Path, train_splits: Sequence[str], dataset: Dataset, task: str
) -> pd.DataFrame:
    """Return a run's own predictions of development images that it did not learn from.

    InputError if the run was trained on another dataset, or its predictions are not those that it
    wrote, or have other labels than the catalog.
    """
    path = folder / "predictions.csv"
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the run's scores of images held out")
    dataset.check_same_images(folder, folder / "run.json")
    check_outputs(folder / "run.json", path.name)
    table, catalog = read_catalog(path), dataset.catalog.set_index("id")
    known = catalog.loc[table["id"]] if table["id"].isin(catalog.index).all() else catalog[:0]
    allowed = {"valid", "opt"} - set(train_splits)
    if not len(known) or not set(known["split"]) <= allowed:
        raise InputError(
            f"{path}: found images of {sorted(set(known['split'])) or 'another data set'}; expected"
            f" a split that the run did not learn from: {' or '.join(sorted(allowed)) or 'none'}"
        )
    _check_predictions(table, path, dataset, task)
    table.insert(2, "class", known["class"].to_numpy())
    table.insert(3, "split", known["split"].to_numpy())
    return table


def _check_predictions(table: pd.DataFrame, path: Path, dataset: Dataset, task: str) -> None:
    """Raise InputError unless a table has the catalog's labels, and probabilities of its classes.

    Of each image one row, the probabilities between 0 and 1 and their sum 1.
    """
    numbers, classes = dataset.labels(task)
    labels = pd.Series(numbers, index=dataset.catalog["id"]).loc[table["id"]].to_numpy()
    columns = [f"p_{name}" for name in classes]
    if list(table) != ["id", "label", *columns] or table["id"].duplicated().any():
        raise InputError(
            f"{path}: found columns {', '.join(table)}; expected id, label, {', '.join(columns)}, "
            "and one row an image"
        )
    if len(wrong := np.flatnonzero(table["label"].to_numpy() != labels)):
        row = table.iloc[wrong[0]]
        raise InputError(
            f"{path}: label: found {row['label']} for id {row['id']!r}; expected "
            f"{labels[wrong[0]]} ({classes[labels[wrong[0]]]}) as in {dataset.folder}/catalog.csv"
        )
    values = table[columns].to_numpy(float)
    good = (values >= 0).all(axis=1) & (np.abs(values.sum(axis=1) - 1) < 1e-3)
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(
            f"{path}: found {values[row].tolist()} for id {table['id'][row]!r}; expected "
            "probabilities, of which the sum is 1"
        )


def baselines_on(
    dataset: Dataset,
    learnt: np.ndarray,
    table: pd.DataFrame,
    features_csv: str | Path,
    seed: int,
    task: str,
) -> dict[str, pd.DataFrame]:
    """Return the predictions of baselines for the images of a table of predictions.

    ``BASELINE``: gradient boosting on all features, which learns from the same images (``learnt``,
    rows of the data set). ``UNTRAINED``: one feature as the score, if it was measured; it has a
    number between 0 and 1 for any substructure, and none for a class.
    """
    features = read_features(features_csv, dataset).astype(float)
    labels, classes = dataset.labels(task)
    about = table[["id", "label", "class", "split"]]
    trees = baselines.trained(
        "gradient boosting", features.to_numpy()[learnt], labels[learnt], seed
    )
    predictions = pd.DataFrame(trees(features.loc[table["id"]].to_numpy()), columns=list(classes))
    tables = {BASELINE: about.join(predictions.add_prefix("p_"))}
    value = features.reindex(columns=[UNTRAINED]).loc[table["id"]].to_numpy().ravel()
    if (known := np.isfinite(value)).any():
        ranks = stats.rankdata(np.where(known, value, np.median(value[known])))
        tables[UNTRAINED] = about.assign(**{f"p_{NULL_CLASS}": 1 - ranks / (len(ranks) + 1)})
    return tables


def evaluate(
    processed_folder: str | Path,
    features_csv: str | Path | None,
    run_folders: Sequence[str | Path],
    out: str | Path,
    *,
    task: str = "multiclass",
    n_bootstrap: int = 2000,
    seed: int = 0,
    fits: str | Path | None = None,
) -> dict[str, Any]:
    """Apply trained runs to the test split, write the folder ``out`` and return its metrics.

    This is the only code that reads the test split. ``out`` gets metrics.json, predictions.csv
    (mean over the runs), predictions_<run>.csv, held_out_<run>.csv (the images that chose the
    thresholds), roc.csv, failures.csv and the sidecar evaluation.json; with features also
    rival_<name>_<run>.csv, predictions of the baselines (``baselines_on``); neighbours.csv tells of
    each image the most similar one of another split. It appears complete or not at all. ``fits`` is
    the folder of lens fits that runs with ``model.residual`` need.
    InputError if a run knows other classes than the data set, was trained on another one, needs
    features that are not given, has no predictions of images that it did not learn from, or the
    test split has one class only.
    """
    started = time.time()
    folders = [Path(folder) for folder in run_folders]
    if not folders or len({folder.name for folder in folders}) < len(folders):
        raise InputError(
            f"run folders: found {[str(folder) for folder in folders]}; "
            "expected at least one, with different names"
        )
    check_replaceable(out, EVALUATION_FILES)
    check_outputs(Path(processed_folder) / "dataset.json", "images.npy")
    dataset = Dataset.open(processed_folder)
    _, classes = dataset.labels(task)
    rows = dataset.rows("test")
    catalog = dataset.catalog.iloc[rows].reset_index(drop=True)
    tables, unseen, others = {}, [], {}
    for folder in folders:
        run = load_run(folder)
        if list(run.classes) != list(classes):
            raise InputError(
                f"{folder}: found a model of classes {list(run.classes)}; "
                f"expected {list(classes)} as in {processed_folder}"
            )
        table = predictions_table(run, dataset, rows, Tables(features_csv, None, fits))
        table.insert(2, "class", catalog["class"])
        table.insert(3, "split", catalog["split"])
        tables[folder.name] = table
        unseen.append(held_out(folder, run.settings.train_splits, dataset, task))
        if features_csv is not None:
            learnt = dataset.rows(*run.settings.train_splits)
            about = pd.concat([unseen[-1], table], ignore_index=True)
            baselines = baselines_on(dataset, learnt, about, features_csv, run.settings.seed, task)
            others |= {f"rival_{name}_{folder.name}.csv": t for name, t in baselines.items()}

    predictions = list(tables.values())
    mean = ensemble(predictions)
    truth, scores = binary_scores(mean)
    fpr, tpr, _ = metrics.roc_curve(truth, scores)
    similar = leakage.nearest(dataset.images, dataset.catalog, seed)
    result = summarise(predictions, unseen, n_bootstrap, seed)
    with atomic(out) as folder:
        folder.mkdir()
        for name, table in tables.items():
            table.to_csv(folder / f"predictions_{name}.csv", index=False)
        for name, table in others.items():
            table.to_csv(folder / name, index=False)
        mean.to_csv(folder / "predictions.csv", index=False)
        for name, table in zip(tables, unseen, strict=True):
            table.to_csv(folder / f"held_out_{name}.csv", index=False)
        pd.DataFrame({"fpr": fpr, "tpr": tpr}).to_csv(folder / "roc.csv", index=False)
        similar.to_csv(folder / "neighbours.csv", index=False)
        worst = failures(mean, catalog, result["test_threshold"])
        worst.to_csv(folder / "failures.csv", index=False)
        write_json(folder / "metrics.json", {"classes": list(classes), "task": task, **result})
        sidecar(
            folder / "evaluation.json",
            rule="evaluate",
            seed=seed,
            config={"task": task, "n_bootstrap": n_bootstrap},
            inputs=[processed_folder, *folders, *(path for path in (features_csv, fits) if path)],
            outputs=sorted(folder.iterdir()),
            started=started,
        )
    return result
