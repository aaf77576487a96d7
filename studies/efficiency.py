"""ROC-AUC against the number of training images, and what is left of it on other lenses.

Everything here happens on images simulated for this alone: split ``train`` to learn from, split
``opt`` to score. Networks and gradient boosting see the same images: the first n of an order that
depends on the seed. Scores of single numbers learn nothing. A model that was trained on one
population may be scored on another as well, in which a shortcut of the first is gone.
"""

from __future__ import annotations

import itertools
import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from studies import sensitivity
from studies.config import Config
from vitdm.config import Train as TrainSettings
from vitdm.data.dataset import Dataset, read_features
from vitdm.errors import InputError
from vitdm.evaluation.metrics import binary_scores, per_class_auc, roc_auc
from vitdm.model import baselines
from vitdm.model.inputs import Tables, first_rows, inputs_of
from vitdm.model.runs import Splits, load_run, predictions_table, train_run
from vitdm.provenance import atomic, check_replaceable, sidecar
from vitdm.simulation.classes import NO_SUB

#: scores that need no training, larger with substructure: features of the fitted smooth lens
UNTRAINED = ("fit_point_evidence", "fit_fourth_power", "fit_theta_E")
KEYS = ["population", "model", "n_train", "seed", "scored_on"]  # identify a score
BOOSTING = "gradient boosting"
EFFICIENCY_FILES = ("efficiency.csv", "sensitivity.csv", "efficiency.json")


@dataclass(frozen=True)
class Sample:
    """The lenses of one population in a folder: processed images, features, lens fits."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def processed(self) -> Path:
        return self.folder / "processed"

    @property
    def features(self) -> Path:
        return self.folder / "features.csv"

    @property
    def fits(self) -> Path:
        return self.folder / "lensfit"

    @property
    def copies(self) -> Path:
        return self.folder / "copies"

    @property
    def tables(self) -> Tables:
        return Tables(self.features, None, self.fits)

    @property
    def inputs(self) -> list[Path]:
        return inputs_of(self.processed, self.tables)

    def table(self) -> pd.DataFrame:
        """Return the features of all images, NaN where one has no value."""
        table = read_features(self.features, Dataset.open(self.processed))
        return table.reset_index(drop=True).astype(float)

    def known(self) -> pd.DataFrame:
        """Return what is known of the images that score (``sensitivity.quantities``)."""
        data = Dataset.open(self.processed)
        rows = data.rows("opt")
        features = self.table().iloc[rows] if self.features.exists() else None
        return sensitivity.quantities(data.catalog.iloc[rows], features)


def epochs_for(n: int, settings: TrainSettings, min_steps: int) -> int:
    """Return the epochs of a training on n images: at least ``min_steps`` steps of the optimiser.

    A dozen epochs of a hundred images would be two dozen steps, too few to leave the start.
    """
    return max(settings.epochs, math.ceil(min_steps / math.ceil(n / settings.batch_size)))


def train_and_score(
    folder: str | Path,
    settings: Config,
    n: int,
    seed: int,
    out: str | Path,
    also: Sequence[str | Path] = (),
    runs: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Train on the first ``n`` images in the order of ``seed``; write ``out`` and return its table.

    Beside it lies sensitivity.csv: what each model finds, by what there is to be found (columns of
    ``sensitivity.binned``, population, model, n_train, seed, scored_on).

    ``folder`` holds the sample of a population, as do those in ``also``, on which the trained
    models are scored too. One row for each model and sample: population, model, label, n_train (0:
    untrained), seed, scored_on, n_scored, roc_auc (any substructure against none), macro_roc_auc,
    roc_auc_<class> (against the rest), epochs, seconds (of training). The networks are
    ``settings.efficiency.runs``, or ``runs``, which see images alone: then no features are needed,
    and nothing else is scored. All epochs are run, nothing is stopped early. InputError if there
    are fewer than n images.
    """
    started = time.time()
    check_replaceable(out, EFFICIENCY_FILES)
    sample = Sample(Path(folder))
    samples = [sample, *(Sample(Path(other)) for other in also)]
    data = Dataset.open(sample.processed)
    if n > len(data.rows("train")):
        raise InputError(
            f"{sample.processed}: found {len(data.rows('train'))} images in split train; "
            f"expected at least {n}"
        )
    rows, sensitive = [], []
    known = [each.known() for each in samples]
    learners = _networks(runs or settings.efficiency.runs, sample, samples, settings, n, seed)
    if not runs:
        others = (_boosted(data, samples, settings, n, seed), *_untrained(samples, settings))
        learners = itertools.chain(learners, others)
    for name, label, told, tables in learners:
        for scored, table, values in zip(samples, tables, known, strict=True):
            row = {"population": sample.name, "model": name, "label": label, "n_train": n}
            row |= {"seed": seed, "scored_on": scored.name} | told
            rows.append(row | scores(table))
            about = {key: row[key] for key in KEYS}
            sensitive.append(sensitivity.binned(table, values).assign(**about))
    table = pd.DataFrame(rows)
    inputs = [file for each in samples for file in each.inputs if file.exists()]
    told = {"started": started, "seed": seed, "config": _recipe(settings)}
    trained = {name: settings.runs[name] for name in runs or settings.efficiency.runs}
    _write(table, pd.concat(sensitive), out, inputs=inputs, runs=trained, **told)
    return table


def _recipe(settings: Config) -> dict[str, Any]:
    """Return the settings that the scores of all networks depend on, but for the images."""
    sections = {name: getattr(settings, name) for name in ("task", "model", "train", "seed")}
    return sections | {"min_steps": settings.efficiency.min_steps}


def scores(predictions: pd.DataFrame) -> dict[str, float]:
    """Return n_scored, roc_auc, and of several classes macro_roc_auc and roc_auc_<class>."""
    row = {"n_scored": len(predictions), "roc_auc": roc_auc(*binary_scores(predictions))}
    classes = per_class_auc(predictions)
    if len(classes) > 2:
        row |= {"macro_roc_auc": float(np.mean(list(classes.values())))}
        row |= {f"roc_auc_{name}": value for name, value in classes.items()}
    return row


Scored = tuple[str, str, dict[str, Any], list[pd.DataFrame]]


def _networks(
    names: Sequence[str],
    sample: Sample,
    samples: list[Sample],
    settings: Config,
    n: int,
    seed: int,
) -> Iterator[Scored]:
    """Train each network; yield name, label, what is told of it, predictions of each sample."""
    for name in names:
        override = settings.runs[name]
        chosen = settings.run(name)
        epochs = epochs_for(n, chosen.train, settings.efficiency.min_steps)
        chosen = chosen.changed(train={"epochs": epochs})
        with tempfile.TemporaryDirectory() as scratch:
            metrics = train_run(
                sample.processed,
                Path(scratch) / "run",
                chosen.model_copy(update={"seed": settings.seed + seed}),
                tables=sample.tables,
                splits=Splits(valid=None, score=None),
                n_train=n,
                label=f"{sample.name} {n} {name}",
            )
            run = load_run(Path(scratch) / "run")
        tables = []
        for each in samples:
            data = Dataset.open(each.processed)
            scored = data.rows("opt")
            table = predictions_table(run, data, scored, each.tables)
            table.insert(2, "class", data.catalog["class"].to_numpy()[scored])
            tables.append(table)
        told = {"epochs": metrics["epochs"], "seconds": metrics["seconds"]}
        yield name, override.label, told, tables


def _boosted(data: Dataset, samples: list[Sample], settings: Config, n: int, seed: int) -> Scored:
    """Train gradient boosting on all features of the same images."""
    labels, classes = data.labels(settings.task)
    rows = first_rows(data.rows("train"), n, settings.seed + seed)
    started = time.perf_counter()
    values = samples[0].table().to_numpy()[rows]
    probabilities = baselines.trained(BOOSTING, values, labels[rows], settings.seed + seed)
    told = {"seconds": round(time.perf_counter() - started, 2)}
    tables = []
    for each in samples:
        table, values = _scored(each, settings)
        table[[f"p_{name}" for name in classes]] = probabilities(values.to_numpy())
        tables.append(table)
    return "boosting", "gradient boosting on all features", told, tables


def _untrained(samples: list[Sample], settings: Config) -> Iterator[Scored]:
    """Score single numbers; an image in which one has no value gets the median."""
    for name in UNTRAINED:
        tables = []
        for each in samples:
            table, values = _scored(each, settings)
            table[f"p_{NO_SUB}"] = -values[name].fillna(values[name].median()).to_numpy()
            tables.append(table)
        yield name, name, {"n_train": 0, "seed": 0}, tables


def _scored(sample: Sample, settings: Config) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return id, label and class of the images that score, and their features."""
    data = Dataset.open(sample.processed)
    rows, (labels, _) = data.rows("opt"), data.labels(settings.task)
    table = data.catalog.iloc[rows][["id", "class"]].reset_index(drop=True)
    table.insert(1, "label", labels[rows])
    return table, sample.table().iloc[rows]


def merge_scores(parts: Sequence[str | Path], out: str | Path) -> None:
    """Join the tables of several trainings; what needs none is in it once.

    Of the sensitivity, the models trained on most images are kept. InputError if a part is missing,
    or made with other settings, or with another network of the same name.
    """
    started = time.time()
    check_replaceable(out, EFFICIENCY_FILES)
    if not parts:
        raise InputError(f"{out}: nothing to merge; expected at least one folder")
    tables, sensitive, told, runs = [], [], [], {}
    for part in map(Path, parts):
        missing = [file for file in EFFICIENCY_FILES if not (part / file).is_file()]
        if missing:
            raise InputError(f"{part}: no scores of efficiency: {', '.join(missing)} missing")
        tables.append(pd.read_csv(part / "efficiency.csv"))
        sensitive.append(pd.read_csv(part / "sensitivity.csv"))
        told.append(json.loads((part / "efficiency.json").read_text()))
        trained = told[-1]["runs"]
        same = all(runs.setdefault(name, run) == run for name, run in trained.items())
        if not same or told[-1]["config_sha256"] != told[0]["config_sha256"]:
            raise InputError(f"{part}: made with other settings than {parts[0]}; expected the same")
    table = pd.concat(tables).drop_duplicates(KEYS, ignore_index=True)
    bins = pd.concat(sensitive).drop_duplicates([*KEYS, "quantity", "median"], ignore_index=True)
    most = bins.groupby(["population", "model"])["n_train"].transform("max")
    _write(
        table,
        bins[bins["n_train"] == most],
        out,
        inputs=[Path(part) / "efficiency.csv" for part in parts],
        started=started,
        config_sha256=told[0]["config_sha256"],
        runs=runs,
        cpu_seconds=round(sum(entry["seconds"] for entry in told), 1),
    )


def _write(
    table: pd.DataFrame, sensitive: pd.DataFrame, out: str | Path, **provenance: Any
) -> None:
    """Write tables of scores and their sidecar to the folder ``out``, or nothing."""
    with atomic(out) as temporary:
        temporary.mkdir()
        sensitive.to_csv(temporary / "sensitivity.csv", index=False)
        table.to_csv(temporary / "efficiency.csv", index=False)
        sidecar(temporary / "efficiency.json", rule="efficiency", **provenance)
