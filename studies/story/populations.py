"""The populations of a run side by side: their lenses, and what separates their classes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from studies.config import Config
from studies.plots.populations import Example, simulated
from studies.story.folders import population_names
from vitdm.data.dataset import Dataset, read_catalog
from vitdm.evaluation import metrics
from vitdm.simulation import CLASSES, NO_SUB, Population, load_population, population_name

RESAMPLINGS = 500  # of the bootstrap of a single feature's ROC-AUC


def population_of(config: Config) -> Population | None:
    """Return the population of the article's model; None if its images are from files."""
    return load_population(config.population) if config.data == "simulate" else None


def populations_shown(config: Config) -> dict[str, Population]:
    """Return the populations that are set side by side, by the names of their files."""
    files = config.populations.files
    names = population_names(config)
    return {n: load_population(file) for file in files if (n := population_name(file)) in names}


# ------------------------------------------------------------------------------------ lenses


def examples(images: Sequence[np.ndarray], kinds: pd.Series) -> list[Example]:
    """Return lenses to draw: rows of ``images`` (n, H, W) by the index of ``kinds``, their classes.

    Nothing else of them is drawn.
    """
    return [Example(images[row], kind) for row, kind in kinds.items()]


def same_lens(
    image_id: str, kinds: Sequence[str], seed: int, population: Population
) -> list[Example]:
    """Return the noiseless lens of an id once with each class of substructure.

    Halo, shear and source are the same in all of them.
    """
    catalog = pd.DataFrame({"id": image_id, "class": list(kinds), "seed": seed})
    return simulated(catalog, population)


def drawn_again(data: Dataset, rows: Sequence[int], population: Population) -> list[Example]:
    """Return rows of a simulated dataset with their truth and what substructure changed."""
    return simulated(data.catalog.iloc[rows], population, data.images[rows])


# --------------------------------------------------------------------------- class separation


def population_table(
    populations: Mapping[str, Population], folders: Mapping[str, Path], seed: int
) -> pd.DataFrame:
    """Return how well the classes of each population can be told apart before any training.

    ``folders`` hold the results of the ``populations``, by the same names. A row for each
    population and class of substructure, against its smooth lenses: ``population``, ``class``, the
    ROC-AUC of the radius of the ring alone with its 95 % interval in ``auc_size_value``,
    ``auc_size_low`` and ``auc_size_high``, and, if the population has noise, the scores of the
    ideal observer. Without populations the table is empty.
    """
    rows = []
    for name, population in populations.items():
        folder = folders[name]
        classes = Dataset.open(folder / "dataset").catalog["class"]
        radius = read_catalog(folder / "features.csv")["ring_radius"]
        answer = folder / "ideal_observer" / "ideal_observer.json"
        ideal = json.loads(answer.read_text()) if answer.exists() else {}
        for kind in [kind for kind in CLASSES if kind in set(classes) - {NO_SUB}]:
            compared = classes.isin([NO_SUB, kind]) & radius.notna()
            size = class_separation(classes[compared], radius[compared], seed)
            row = {"population": population.name, "class": kind, "auc_size": size._asdict()}
            rows.append(pd.json_normalize(row | ideal.get(kind, {}), sep="_"))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def class_separation(classes: pd.Series, values: pd.Series, seed: int) -> metrics.Interval:
    """Return the ROC-AUC of a feature, substructure against none, with its 95 % interval.

    ``classes`` (n,) are the names of the classes of some images, ``values`` (n,) the feature.
    """
    labels = (classes != NO_SUB).to_numpy(int)
    scores = [values.to_numpy()]
    return metrics.bootstrap_interval(metrics.weighted_auc, labels, scores, RESAMPLINGS, seed)


def population_numbers(table: pd.DataFrame) -> dict[str, Any]:
    """Return each known value of ``population_table`` as ``<column>_<population>_<class>``."""
    numbers = {}
    for row in table.to_dict("records"):
        key = f"{row['population']}_{row['class']}"
        known = {name: row[name] for name in table.columns[2:] if pd.notna(row[name])}
        numbers |= {f"{name}_{key}": value for name, value in known.items()}
    return numbers
