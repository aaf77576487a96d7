"""Scores by what there is to be seen, in notebook 05: bins of all populations, and their numbers.

A table of bins has the columns of ``studies.sensitivity.binned`` and ``population``; those of
populations with networks of their own have ``n_train`` as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from studies import sensitivity
from studies.config import Config
from studies.story.extended import committed, first_there
from vitdm.simulation import load_population, population_name
from vitdm.simulation.cosmology import mass_within

OTHERS = ("model_i", "realistic")  # populations shown beside that of the run
MODELS = ("spt_lsa_lensfit", "boosting")  # the first that was trained is shown
#: published networks on Model I are blind below this fraction of the halo's mass
#: (Alexander et al. 2020)
COLLAPSE = 10**-2.5


def sensitivity_bins(
    config: Config,
    results: Path,
    predictions: pd.DataFrame,
    truth: pd.DataFrame,
    features: pd.DataFrame,
) -> pd.DataFrame:
    """Return the bins of the test images, and of other populations; none if not simulated.

    ``predictions``, ``truth`` and ``features`` have the test images, row by row.
    """
    if config.data != "simulate":
        return pd.DataFrame(columns=["population", "quantity"])
    main = population_name(config.population)
    own = sensitivity.binned(predictions, sensitivity.quantities(truth, features))
    return pd.concat([own.assign(population=main), *_others(config, results, main)])


def _others(config: Config, results: Path, main: str) -> list[pd.DataFrame]:
    """Return the bins of other populations, scored by networks for these: means over the seeds."""
    own = results / "efficiency" / "all" / "sensitivity.csv"
    file = first_there([*committed(config, "sensitivity.csv"), own])
    if file is None:
        return []
    table = pd.read_csv(file)
    table = table[(table["scored_on"] == table["population"]) & (table["population"] != main)]
    return [
        _of_best_model(part)
        for name, part in table.groupby("population")
        if name in OTHERS and set(MODELS) & set(part["model"])
    ]


def _of_best_model(table: pd.DataFrame) -> pd.DataFrame:
    """Return the bins of one model with the most training images: means over the seeds.

    The seeds share the bins.
    """
    model = next(name for name in MODELS if name in set(table["model"]))
    table = table[table["model"] == model]
    table = table[table["n_train"] == table["n_train"].max()]
    bins = ["population", "quantity", "median", "low", "high", "n"]
    return table.groupby(bins, as_index=False).mean(numeric_only=True)


def collapse_masses(config: Config, bins: pd.DataFrame, theta_E: float) -> dict[str, float]:
    """Return the mass [solar masses] of ``COLLAPSE`` in each population of the ``bins``.

    Populations without a halo of fixed mass have that within an Einstein radius ``theta_E``
    [arcsec].
    """
    masses, main = {}, population_name(config.population)
    for name in dict.fromkeys(bins["population"]):
        population = load_population(config.population if name == main else name)
        halo = population.halo.mass or mass_within(theta_E, population.cosmology)
        masses[name] = COLLAPSE * halo
    return masses


def sensitivity_numbers(bins: pd.DataFrame, collapse: dict[str, float]) -> dict[str, Any]:
    """Return the first and the last bin of each quantity, masses and numbers of training images.

    ``collapse`` is that of ``collapse_masses``.
    """
    numbers: dict[str, Any] = {f"collapse_{name}": mass for name, mass in collapse.items()}
    for (name, quantity), part in bins.groupby(["population", "quantity"]):
        for end, row in (("least", part.iloc[0]), ("most", part.iloc[-1])):
            key = f"{quantity}_{name}_{end}"
            numbers |= {f"{key}_{column}": row[column] for column in ("rate", "auc", "median")}
    if "n_train" in bins:
        for name, n in bins.dropna(subset="n_train").groupby("population")["n_train"].max().items():
            numbers[f"sensitivity_{name}_n_train"] = int(n)
    return numbers
