"""Where subhalos are, in notebook 03: the folder of the study, its maps, and numbers of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from studies.config import Config
from studies.story.comparison import EXTENDED


def where_folder(config: Config, results: Path) -> Path | None:
    """Return the folder of the study: the committed one, or this run's; None without any."""
    folders = [EXTENDED] * config.publish + [results / "where"] * bool(config.where.rows)
    return next((folder for folder in folders if (folder / "where.csv").exists()), None)


def read_where(folder: Path) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Return the table of the study and the maps of some lenses."""
    with np.load(folder / "where_maps.npz") as maps:
        return pd.read_csv(folder / "where.csv"), dict(maps)


def drawn(table: pd.DataFrame) -> tuple[str, str]:
    """Return the rows of the network and of the search whose maps are drawn.

    The search is the row without a spread over seeds that finds most, the network the other one.
    """
    best = table.groupby("row", sort=False).agg(found=("found", "mean"), sd=("sd", "count"))
    ends = [best["found"][best["sd"] > 0], best["found"][best["sd"] == 0]]
    network, search = (part.idxmax() if len(part) else best["found"].idxmax() for part in ends)
    return network, search


def where_numbers(table: pd.DataFrame) -> dict[str, float]:
    """Return what is found, and the gain, by row and lower end of log10 of the mass."""
    numbers = {}
    for line in table.to_dict("records"):
        key = f"where_{line['row']}_{round(10 * line['low'])}"
        names = ("found", "chance", "gain", "gain_low", "gain_high")
        numbers |= {f"{key}_{name}": line[name] for name in names if pd.notna(line.get(name))}
    return numbers
