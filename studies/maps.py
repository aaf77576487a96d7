"""Maps of perturbers as images: a transformer, a small CNN, trees, and a number that needs neither.

The lenses of a population are fitted, and the fits leave maps (``vitdm.lens.channels``): S/N and
sensitivity of perturbers at each place, the residual. All rows see the same lenses: the first n of
an order that is theirs (``maps.sizes``), others that choose learning rate and epoch, others that
score. Trees get the maps summarised (``vitdm.features.mapped``) beside all features of the fits,
and the evidence of a point mass is a number that nothing is learned for. Learning rates are tuned
as in ``studies.compare``, but a best one at the end of the grid is not taken for the best: the grid
is continued there, and the table tells where it still ended (``at_end``).
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from studies.compare import Bench, Tuned, boosting, network, tune_and_train
from studies.config import Config, MapRow
from studies.efficiency import Sample, epochs_for
from vitdm.data.dataset import Dataset
from vitdm.errors import InputError
from vitdm.evaluation.metrics import delong_interval, delong_p, paired_difference, roc_auc
from vitdm.features.mapped import summary
from vitdm.lens.fits import read_maps
from vitdm.model.inputs import first_rows
from vitdm.provenance import atomic, check_replaceable, sidecar
from vitdm.simulation.classes import NO_SUB

ROW_FILES = ("trials.csv", "history.csv", "predictions*.csv", "maps.json")
FILES = ("maps.csv", "maps_gains.csv", "maps_trials.csv", "maps_history.csv", "maps.json")
BOUND = "bound"  # the row of one who is told the perturbation
ALONE = 1  # seeds of what does not depend on any


def train_row(folder: str | Path, settings: Config, name: str, out: str | Path) -> pd.DataFrame:
    """Tune and train one row on the lenses of a population in ``folder``; write ``out``.

    ``trials.csv``, which is returned, has one line a training, as ``compare.train_row``'s, with
    n_train (0 of what is not trained); ``predictions_n<n>_seed<k>.csv`` are those of the lenses
    that score. InputError if there is no such row, or there are too few lenses.
    """
    started = time.time()
    check_replaceable(out, ROW_FILES)
    chosen = settings.maps
    if name not in chosen.rows:
        known = ", ".join(chosen.rows) or "none"
        raise InputError(f"--row {name}: no such row of maps.rows; expected one of: {known}")
    row, sample = chosen.rows[name], Sample(Path(folder))
    sizes = chosen.n_valid, chosen.sizes[-1]
    bench = Bench.of(sample.processed, settings.task, sizes[1], sizes[0], settings.seed)
    numbers = chosen.sizes if row.curve else chosen.sizes[-1:]
    train = functools.partial(_trained, settings=settings, row=row, name=name, sample=sample)
    with atomic(out) as temporary:
        temporary.mkdir()
        parts, histories = [], []
        for n in [0] if row.kind == "score" else numbers:
            tuned = train(bench, n=n)
            parts.append(pd.DataFrame(tuned.lines).assign(n_train=n))
            histories += [table.assign(n_train=n) for table in tuned.histories]
            for seed, table in tuned.predictions.items():
                table.to_csv(temporary / f"predictions_n{n}_seed{seed}.csv", index=False)
        about = {"population": sample.name, "row": name, "label": row.label}
        trials = pd.concat(parts, ignore_index=True).assign(**about)
        trials.to_csv(temporary / "trials.csv", index=False)
        history = pd.concat(histories or [pd.DataFrame(columns=["epoch", "n_train", "seed"])])
        history.assign(**about).to_csv(temporary / "history.csv", index=False)
        sidecar(
            temporary / "maps.json",
            rule="maps",
            inputs=sample.inputs,
            started=started,
            seed=settings.seed,
            config=recipe(settings, name),
        )
    return trials


def _trained(
    bench: Bench, *, settings: Config, row: MapRow, name: str, sample: Sample, n: int
) -> Tuned:
    """Return a row tuned and trained on n lenses, or its number if it is not trained."""
    chosen, key = settings.maps, f"maps.rows.{name}"
    if row.kind == "score":
        return _scored(bench, sample, row.score, key)
    bench = replace(bench, train=first_rows(bench.train, n, settings.seed))
    if row.kind == "trees":
        learn, rates = boosting(bench, values_of(row, sample, bench.data)), chosen.boosting_rates
    else:
        own = settings.override(row)
        epochs = epochs_for(n, own.train, chosen.min_steps)
        own = own.changed(train={"epochs": epochs})
        copies = sample.copies if row.copies else None
        learn = network(bench, sample, own, f"{sample.name} {name} {n}", copies)
        rates = chosen.rates
    return tune_and_train(bench, learn, rates, chosen, settings.seed, key, chosen.widen)


def values_of(row: MapRow, sample: Sample, data: Dataset) -> np.ndarray:
    """Return what trees see of all lenses, (n, F): features, summarised maps, or both."""
    parts = []
    if row.table != "maps":
        parts.append(sample.table().to_numpy())
    if row.table != "features":
        parts.append(summary(read_maps(sample.fits, data)).to_numpy())
    return np.hstack(parts)


def _scored(bench: Bench, sample: Sample, score: str, key: str) -> Tuned:
    """Return the answers of a feature; a lens in which it has no value gets the median."""
    table = sample.table()
    if score not in table:
        raise InputError(f"{key}.score: found {score!r}; expected one of: {', '.join(table)}")
    values = table[score].fillna(table[score].median()).to_numpy()[bench.scored]
    answers = bench.data.catalog.iloc[bench.scored][["id", "class"]].reset_index(drop=True)
    answers.insert(1, "label", bench.labels[bench.scored])
    answers[f"p_{NO_SUB}"] = -values
    line = {"kind": "final", "seed": 0, "parameters": 0, "cpu_seconds": 0.0}
    line["roc_auc"] = roc_auc(answers["label"] > 0, values)
    return Tuned([line], {0: answers}, [])


def recipe(settings: Config, name: str | None = None) -> dict[str, Any]:
    """Return what the scores of a row, or of all, depend on, but for the lenses."""
    chosen = settings.maps.model_dump(mode="json", exclude={"populations"})
    if name is None:
        return {"seed": settings.seed, "maps": chosen}
    chosen["rows"] = {name: chosen["rows"][name]}
    sections = ("task", "model", "train", "seed")
    return {key: getattr(settings, key) for key in sections} | {"maps": chosen}


# ---------------------------------------------------------------------------------- all together


def merge(
    parts: Sequence[str | Path],
    settings: Config,
    out: str | Path,
    bounds: Sequence[str | Path] = (),
) -> None:
    """Join the rows of all populations; write what is small enough to be kept.

    ``parts`` are the folders ``<population>/rows/<row>``, ``bounds`` the ideal_observer.json of
    some populations, in folders of their names. ``maps.csv``: population, row, label, kind,
    n_train, learning_rate, at_end, epochs, parameters, cpu_seconds (means over the seeds), seeds,
    roc_auc, its low, high (DeLong, over lenses) and sd over the seeds; bounds as rows of their own.
    ``maps_gains.csv``: population, row, against, n_train, gain, low, high, sd over lenses and seeds
    (``metrics.paired_difference``), p (DeLong, the trainings given). ``maps_trials.csv`` and
    ``maps_history.csv`` are those of all rows. InputError if a row is missing.
    """
    started = time.time()
    check_replaceable(out, FILES)
    chosen = settings.maps
    folders = {(Path(part).parents[1].name, Path(part).name): Path(part) for part in parts}
    populations = list(dict.fromkeys(population for population, _ in folders))
    for population in populations:
        if missing := [name for name in chosen.rows if (population, name) not in folders]:
            raise InputError(f"{out}: found no row {missing[0]} of {population}; expected all rows")
    trials, histories, rows, gains = [], [], [], []
    for population in populations:
        answers = {}
        for name, row in chosen.rows.items():
            part = folders[population, name]
            trials.append(_read(part, "trials.csv"))
            histories.append(_read(part, "history.csv"))
            answers[name] = _predictions(part)
            rows += _rows(trials[-1], answers[name], row.kind)
        for name, row in chosen.rows.items():
            largest = max(answers[name])
            for other in row.against:
                pair = answers[other][max(answers[other])], answers[name][largest]
                about = {"population": population, "row": name, "against": other}
                gains.append(about | {"n_train": largest} | _gain(*pair, settings))
    rows += [line for file in bounds for line in _bound(Path(file), populations)]
    with atomic(out) as temporary:
        temporary.mkdir()
        pd.DataFrame(rows).to_csv(temporary / "maps.csv", index=False)
        columns = ["population", "row", "against", "n_train", "gain", "low", "high", "sd", "p"]
        table = pd.DataFrame(gains, columns=columns)
        table.to_csv(temporary / "maps_gains.csv", index=False)
        pd.concat(trials).to_csv(temporary / "maps_trials.csv", index=False)
        pd.concat(histories).to_csv(temporary / "maps_history.csv", index=False)
        told = [json.loads((part / "maps.json").read_text()) for part in folders.values()]
        sidecar(
            temporary / "maps.json",
            rule="merge_maps",
            inputs=[part / "trials.csv" for part in folders.values()],
            started=started,
            seed=settings.seed,
            config=recipe(settings),
            cpu_seconds=round(sum(entry["seconds"] for entry in told), 1),
        )


def _read(part: Path, name: str) -> pd.DataFrame:
    if not (part / name).is_file():
        raise InputError(f"{part}: no row of the study of maps: {name} missing")
    return pd.read_csv(part / name)


def _predictions(part: Path) -> dict[int, dict[int, pd.DataFrame]]:
    """Return the tables of predictions of a row by the number of lenses, and the seed."""
    tables: dict[int, dict[int, pd.DataFrame]] = {}
    for file in sorted(part.glob("predictions_n*_seed*.csv")):
        n, seed = file.stem.removeprefix("predictions_n").split("_seed")
        tables.setdefault(int(n), {})[int(seed)] = pd.read_csv(file, dtype={"id": str})
    if not tables:
        raise InputError(f"{part}: no row of the study of maps: predictions missing")
    return tables


def _rows(
    trials: pd.DataFrame, answers: dict[int, dict[int, pd.DataFrame]], kind: str
) -> list[dict[str, Any]]:
    """Return a line of ``maps.csv`` for each number of lenses."""
    lines = []
    for n, tables in answers.items():
        final = trials[(trials["kind"] == "final") & (trials["n_train"] == n)].dropna(
            subset="roc_auc"
        )
        first = final.iloc[0].to_dict()
        labels, scores = _labels_and_scores(tables)
        auc = delong_interval(labels, scores)
        line = {key: first[key] for key in ("population", "row", "label")} | {"kind": kind}
        line |= {key: first.get(key) for key in ("n_train", "learning_rate", "at_end", "epochs")}
        line |= {"parameters": first["parameters"], "cpu_seconds": final["cpu_seconds"].mean()}
        line |= {"seeds": len(final), "roc_auc": auc.value, "low": auc.low, "high": auc.high}
        lines.append(line | {"sd": final["roc_auc"].std()})
    return lines


def _labels_and_scores(tables: dict[int, pd.DataFrame]) -> tuple[np.ndarray, list[np.ndarray]]:
    first = next(iter(tables.values()))
    scores = [1 - table[f"p_{NO_SUB}"].to_numpy() for table in tables.values()]
    return (first["label"] > 0).to_numpy(int), scores


def _gain(
    without: dict[int, pd.DataFrame], with_: dict[int, pd.DataFrame], settings: Config
) -> dict[str, float]:
    """Return the paired gain; a number that no seed changes is paired with each of the others."""
    if len(without) == ALONE:
        without = dict.fromkeys(with_, next(iter(without.values())))
    if len(with_) == ALONE:
        with_ = dict.fromkeys(without, next(iter(with_.values())))
    both = sorted(set(without) & set(with_))
    tables = [[scores[seed] for seed in both] for scores in (without, with_)]
    gain = paired_difference(*tables, settings.evaluation.bootstrap, settings.seed)
    labels, scores = _labels_and_scores(without)
    p = delong_p(labels, scores, _labels_and_scores(with_)[1])
    return {"gain": gain.value, "low": gain.low, "high": gain.high, "sd": gain.sd, "p": p}


def _bound(file: Path, populations: Sequence[str]) -> list[dict[str, Any]]:
    """Return the line of one who is told the perturbation, but not the smooth lens."""
    population = file.parent.parent.name
    if population not in populations:
        return []
    told = json.loads(file.read_text())
    kinds = [kind for kind in told if kind != NO_SUB]
    auc = told["sub" if "sub" in told else kinds[0]]["auc_ideal_free"]
    about = {"population": population, "row": BOUND, "label": "perturbation known"}
    line = about | {"kind": BOUND, "n_train": 0, "seeds": 0, "roc_auc": auc["value"]}
    return [line | {"low": auc["low"], "high": auc["high"]}]
