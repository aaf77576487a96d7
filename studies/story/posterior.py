"""Posteriors of the mass fraction in subhalos in notebook 03: where they are, and their numbers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from studies.config import Config
from studies.story.comparison import EXTENDED

MEAN = "mean"  # of the posteriors of all seeds, as in ``studies.posterior``


def posterior_folder(config: Config, results: Path) -> Path | None:
    """Return the folder of the study: the committed one, or this run's; None without any."""
    folders = [EXTENDED] * config.publish + [results / "posterior"] * bool(config.posterior.rows)
    return next((folder for folder in folders if (folder / "posterior.csv").exists()), None)


def posterior_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what the posteriors are worth, a line for each number of lenses and range of f_sub.

    ``rows`` are those of ``studies.posterior.merge``: of these the mean posterior of all seeds,
    with the standard deviation of sigma over single seeds (sigma_sd).
    """
    keys = ["population", "row", "label", "n_lenses", "range"]
    single = rows[rows["seed"].astype(str) != MEAN]
    spread = single.groupby(keys, sort=False)["sigma"].std().rename("sigma_sd")
    table = rows[rows["seed"].astype(str) == MEAN].drop(columns="seed")
    table = table.merge(spread.reset_index(), how="left", on=keys)
    first = [*keys, "n", "scatter", "sigma", "sigma_error", "sigma_sd"]
    return table[first + [name for name in table if name not in first]].drop(columns="row")


def posterior_numbers(rows: pd.DataFrame) -> dict[str, float]:
    """Return sigma, bias and coverage by population, row, number of lenses and range of f_sub."""
    numbers = {}
    for line in rows[rows["seed"].astype(str) == MEAN].to_dict("records"):
        key = "posterior_{population}_{row}_{n_lenses}_{range}".format(**line)
        names = ("sigma", "rms", "bias", "coverage_68", "coverage_95", "rank_p", "tarp_p")
        numbers |= {f"{key}_{name}": line[name] for name in names if pd.notna(line[name])}
    return numbers
