"""Networks on maps of perturbers in notebook 03: where the study is, and its numbers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from studies.config import Config
from studies.story.comparison import EXTENDED


def maps_folder(config: Config, results: Path) -> Path | None:
    """Return the folder of the study: the committed one, or this run's; None without any."""
    folders = [EXTENDED] * config.publish + [results / "maps" / "all"] * bool(config.maps.rows)
    return next((folder for folder in folders if (folder / "maps.csv").exists()), None)


def maps_table(rows: pd.DataFrame, gains: pd.DataFrame) -> pd.DataFrame:
    """Return each row trained on all lenses, and what it gains on others, a line a pair.

    ``rows`` and ``gains`` are those of ``studies.maps.merge``. Columns: population, label, n_train,
    learning_rate, at_end, seeds, roc_auc, low, high, sd; against (the label of another row), gain,
    gain_low, gain_high.
    """
    largest = rows.sort_values("n_train", kind="stable")
    largest = largest.drop_duplicates(["population", "row"], keep="last").sort_index()
    labels = rows.drop_duplicates("row").set_index("row")["label"]
    gains = gains.rename(columns={"low": "gain_low", "high": "gain_high"})
    gains = gains.drop(columns=["n_train", "sd", "p"])
    table = largest.merge(gains, how="left", on=["population", "row"])
    table["against"] = table["against"].map(labels)
    columns = ["population", "label", "n_train", "learning_rate", "at_end", "seeds", "roc_auc"]
    columns += ["low", "high", "sd", "against", "gain", "gain_low", "gain_high"]
    return table[columns]


def maps_numbers(rows: pd.DataFrame, gains: pd.DataFrame) -> dict[str, float]:
    """Return scores and gains by population and row, of the largest number of lenses."""
    numbers = {}
    for row in rows.sort_values("n_train").itertuples():
        numbers[f"maps_{row.population}_{row.row}_auc"] = row.roc_auc
    for row in gains.itertuples():
        key = f"maps_{row.population}_{row.row}_over_{row.against}"
        numbers |= {key: row.gain, f"{key}_sd": row.sd}
    return numbers
