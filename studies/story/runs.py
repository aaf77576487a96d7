"""The runs that notebooks 02 and 03 compare: their predictions, and differences of their scores."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import pandas as pd

from studies.config import Config
from vitdm.evaluation.metrics import Difference, paired_difference


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
    found = {}
    for key, pair in pairs.items():
        if set(pair) <= set(there):
            tables = [predictions_of(name, config, results) for name in pair]
            found[key] = paired_difference(*tables, config.evaluation.bootstrap, config.seed)
    return found


def difference_numbers(key: str, difference: Difference) -> dict[str, float]:
    """Return a difference as ``<key>`` with its interval, _low and _high, and its error, _sd."""
    ends = {"": difference.value, "_low": difference.low, "_high": difference.high}
    return {f"{key}{end}": value for end, value in (ends | {"_sd": difference.sd}).items()}
