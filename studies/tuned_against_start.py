"""What a search brought: its choice against its start, on images that no choice has seen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitdm.data.dataset import Dataset
from vitdm.errors import InputError
from vitdm.evaluation.metrics import binary_scores, paired_difference, roc_auc
from vitdm.model.inputs import Tables
from vitdm.model.runs import load_run, predictions_table
from vitdm.provenance import sidecar


def compare_runs(
    processed: str | Path,
    features_csv: str | Path | None,
    runs: Sequence[str | Path],
    against: Sequence[str | Path],
    out: str | Path,
    *,
    task: str,
    n_bootstrap: int,
    seed: int,
    fits: str | Path | None = None,
) -> dict[str, Any]:
    """Write to ``out`` (JSON) by how much some runs exceed others in ROC-AUC, and return it.

    The k-th of both have the same seed. They are scored on split ``opt`` of a dataset from which
    nothing was learnt or chosen. ``auc`` and ``against_auc`` are means over the runs, ``gain`` with
    ``low`` and ``high`` counts images and seeds (``metrics.paired_difference``). InputError if a
    run does not fit the images.
    """
    started = time.time()
    data = Dataset.open(processed)
    rows = data.rows("opt")
    _, classes = data.labels(task)
    tables: list[list[Any]] = []
    for folders in (against, runs):
        tables.append([])
        for folder in folders:
            run = load_run(folder)
            if list(run.classes) != list(classes):
                raise InputError(
                    f"{folder}: found a model of classes {list(run.classes)}; expected "
                    f"{list(classes)} as in {processed}"
                )
            predictions = predictions_table(run, data, rows, Tables(features_csv, None, fits))
            tables[-1].append(
                predictions.assign(**{"class": data.catalog["class"].to_numpy()[rows]})
            )
    gain = paired_difference(*tables, n_bootstrap, seed)
    aucs = [[roc_auc(*binary_scores(table)) for table in group] for group in tables]
    result = {
        "auc": float(np.mean(aucs[1])),
        "against_auc": float(np.mean(aucs[0])),
        "gain": gain.value,
        "low": gain.low,
        "high": gain.high,
        "n_images": len(rows),
        "n_runs": len(runs),
    }
    inputs = [Path(folder) for folder in (*runs, *against)]
    sidecar(out, rule="gain", seed=seed, inputs=inputs, started=started, result=result)
    return result
