"""The DeepLense benchmark in notebook 03: its table and numbers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from studies.config import Config
from studies.story.extended import committed, first_there
from vitdm.benchmark.scoring import SHOWN, over_seeds


def benchmark_table(config: Config, results: Path) -> pd.DataFrame | None:
    """Return the means over the seeds, the committed ones or this run's; None without any.

    A row for each set and model: the columns of ``vitdm.benchmark.over_seeds``.
    """
    own = [results / "benchmark/all/benchmark.csv"] * bool(config.benchmark.sets)
    file = first_there([*own, *committed(config, "benchmark.csv")])
    return None if file is None else over_seeds(pd.read_csv(file, dtype={"version": str}))


def benchmark_numbers(table: pd.DataFrame) -> dict[str, float]:
    """Return the scores of each model on each set, with their intervals, by their names."""
    numbers: dict[str, float] = {}
    for row in table.to_dict("records"):
        key = f"benchmark_{row['set']}_{row['rival']}"
        for score in SHOWN.values():
            numbers |= {
                f"{key}_{score}{end}": row[f"{score}{end}"] for end in ("", "_low", "_high")
            }
        numbers[f"benchmark_{row['set']}_ring"] = row["ring_macro_roc_auc"]
    return numbers
