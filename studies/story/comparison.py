"""Models on equal terms in notebook 03: where the comparison is, its table and numbers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from studies.config import Config

EXTENDED = Path("paper/extended")  # results of config/extended.yaml, which the article shows


def comparison_folder(config: Config, results: Path) -> Path | None:
    """Return the folder of the comparison: the committed one, or this run's; None without any."""
    folders = [EXTENDED] * config.publish + [results / "compare" / "all"] * bool(
        config.compare.rows
    )
    return next((folder for folder in folders if (folder / "comparison.csv").exists()), None)


def comparison_table(trials: pd.DataFrame, differences: pd.DataFrame) -> pd.DataFrame:
    """Return the means over the seeds, a row for each row of the comparison, by its name.

    ``trials`` and ``differences`` are those of ``studies.compare``. Columns: ``label``,
    ``learning_rate``, ``epochs``, ``parameters``, ``cpu_seconds``, ``roc_auc``, ``macro_roc_auc``
    and its ``sd``; and against the label of another row, ``against``, the difference of the macro
    ROC-AUC, ``gain``, with its 95 % interval, ``low`` and ``high``.
    """
    final = trials[trials["kind"] == "final"]
    table = final.groupby("row", sort=False).agg(
        label=("label", "first"),
        learning_rate=("learning_rate", "first"),
        epochs=("epochs", "first"),
        parameters=("parameters", "first"),
        cpu_seconds=("cpu_seconds", "mean"),
        roc_auc=("roc_auc", "mean"),
        macro_roc_auc=("macro_roc_auc", "mean"),
        sd=("macro_roc_auc", "std"),
    )
    macro = differences[differences["score"] == "macro_roc_auc"].set_index("row")
    table = table.join(macro[["against", "gain", "low", "high"]])
    return table.assign(against=table["against"].map(table["label"]))


def comparison_numbers(table: pd.DataFrame, differences: pd.DataFrame) -> dict[str, float]:
    """Return scores, seconds and differences by the name of the row."""
    numbers = {}
    for row in differences.to_dict("records"):
        key = f"fair_{row['row']}_{row['score']}_gain"
        numbers |= {key: row["gain"], f"{key}_low": row["low"], f"{key}_high": row["high"]}
    for name, row in table.iterrows():
        numbers |= {f"fair_{name}_auc": row["roc_auc"], f"fair_{name}_macro": row["macro_roc_auc"]}
        numbers |= {f"fair_{name}_macro_sd": row["sd"], f"fair_{name}_seconds": row["cpu_seconds"]}
    return numbers
