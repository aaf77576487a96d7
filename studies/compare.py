"""A fair comparison: each model on the same images, with the same tuning and the same time.

What a row of the table gets: the first ``n_train`` images of a sample to learn from, in an order
that is the same for all rows and seeds, and the next ``n_valid`` to choose learning rate and epoch;
as many learning rates to try, each with one seed and ``trial`` of the epochs; as many seeds
with the best one. Its number of epochs is in the configuration, chosen so that all rows take about
the same time of the processor; what each took is in the table. Split ``opt`` scores, and chooses
nothing.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from studies.config import Comparison, Config, Maps
from studies.efficiency import BOOSTING, Sample
from vitdm.config import Settings
from vitdm.data.dataset import Dataset
from vitdm.errors import InputError
from vitdm.evaluation.metrics import paired_difference, per_class_auc, roc_auc
from vitdm.model import baselines
from vitdm.model.inputs import inputs_for, with_copies
from vitdm.model.networks import probabilities
from vitdm.model.training import Diverged
from vitdm.model.training import learn as learn_network
from vitdm.preprocess import process_dataset
from vitdm.provenance import atomic, check_replaceable, sidecar
from vitdm.simulation.classes import NO_SUB

ROW_FILES = ("trials.csv", "history.csv", "predictions*.csv", "compare.json")
COMPARISON_FILES = (
    "comparison.csv",
    "comparison_gains.csv",
    "comparison_history.csv",
    "comparison.json",
)


@dataclass(frozen=True)
class Trained:
    """A trained model of a row: what it says of images, and what it cost."""

    probabilities: Callable[[np.ndarray], np.ndarray]  # rows of the sample to (m, K)
    history: pd.DataFrame
    cpu_seconds: float
    parameters: int


#: of learning rate, seed and share of the epochs
Learn = Callable[[float, int, float], Trained]


@dataclass(frozen=True)
class Tuned:
    """A model tuned and trained: a line a training, and predictions and histories by seed."""

    lines: list[dict[str, Any]]
    predictions: dict[int, pd.DataFrame]
    histories: list[pd.DataFrame]


@dataclass(frozen=True)
class Bench:
    """The images that all models share: rows of a sample's data set, and their labels."""

    data: Dataset
    labels: np.ndarray
    classes: list[str]
    train: np.ndarray
    valid: np.ndarray
    scored: np.ndarray

    @classmethod
    def of(cls, processed: Path, task: str, n_train: int, n_valid: int, seed: int) -> Bench:
        """Return the rows; InputError if there are too few images."""
        data = Dataset.open(processed)
        labels, classes = data.labels(task)
        rows, wanted = data.rows("train"), n_train + n_valid
        if wanted > len(rows):
            raise InputError(
                f"{processed}: found {len(rows)} images in split train; expected at least "
                f"n_train + n_valid = {wanted}"
            )
        order = np.random.default_rng(np.random.SeedSequence(seed)).permutation(rows)
        parts = order[:n_train], order[n_train:wanted]
        return cls(data, labels, classes, *map(np.sort, parts), data.rows("opt"))

    def predictions(self, rows: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
        """Return a table as in ``vitdm.evaluation.metrics``."""
        table = self.data.catalog.iloc[rows][["id", "class"]].reset_index(drop=True)
        table.insert(1, "label", self.labels[rows])
        table[[f"p_{name}" for name in self.classes]] = probabilities
        return table


def train_row(folder: str | Path, settings: Config, name: str, out: str | Path) -> pd.DataFrame:
    """Tune and train one row of the comparison on the sample in ``folder``; write ``out``.

    ``trials.csv``, which is returned, has one line a training: row, kind (``trial`` or ``final``),
    learning_rate, seed, epochs, valid (mean over the classes of the ROC-AUC on the images that
    choose; NaN if the training diverged), and of the final ones parameters, cpu_seconds, roc_auc
    (any substructure against none) and macro_roc_auc on those that score. ``predictions_seed*.csv``
    are of these, ``history.csv`` tells their epochs. InputError if there is no such row.
    """
    started = time.time()
    check_replaceable(out, ROW_FILES)
    chosen = settings.compare
    if name not in chosen.rows:
        known = ", ".join(chosen.rows) or "none"
        raise InputError(f"--row {name}: no such row of compare.rows; expected one of: {known}")
    row, sample = chosen.rows[name], Sample(Path(folder))
    with tempfile.TemporaryDirectory() as scratch, atomic(out) as temporary:
        temporary.mkdir()
        processed = sample.processed
        if row.preprocess:
            processed = Path(scratch) / "processed"
            process_dataset(sample.folder / "dataset", processed, settings.row(name).preprocess)
        sizes = chosen.n_train, chosen.n_valid
        bench = Bench.of(processed, settings.task, *sizes, settings.seed)
        if row.boosting:
            learn, rates = boosting(bench, sample.table().to_numpy()), chosen.boosting_rates
        else:
            learn, rates = network(bench, sample, settings.override(row), name), chosen.rates
        tuned = tune_and_train(bench, learn, rates, chosen, settings.seed, f"compare.rows.{name}")
        for seed, table in tuned.predictions.items():
            table.to_csv(temporary / f"predictions_seed{seed}.csv", index=False)
        trials = pd.DataFrame(tuned.lines).assign(label=row.label)
        trials.insert(0, "row", name)
        trials.to_csv(temporary / "trials.csv", index=False)
        pd.concat(tuned.histories).assign(row=name).to_csv(temporary / "history.csv", index=False)
        sidecar(
            temporary / "compare.json",
            rule="compare",
            inputs=sample.inputs,
            started=started,
            seed=settings.seed,
            config=recipe(settings, name),
        )
    return trials


def tune_and_train(
    bench: Bench,
    learn: Learn,
    rates: Sequence[float],
    chosen: Comparison | Maps,
    seed: int,
    key: str,
    widen: int = 0,
) -> Tuned:
    """Try learning rates, train with the best one from several seeds, and score.

    The best has the highest mean over the classes of the ROC-AUC on the images that choose. Is it
    the first or the last, up to ``widen`` more are tried beyond it, in the steps of the grid;
    ``at_end`` of the final lines tells whether it still is. InputError, which names ``key``, if
    none trains.
    """
    lines: list[dict[str, Any]] = []
    predictions, histories = {}, []

    def attempt(rate: float, own: int, kind: str, share: float = 1.0) -> Trained | None:
        line = {"kind": kind, "learning_rate": rate, "seed": own}
        try:
            trained = learn(rate, seed + own, share)
            table = bench.predictions(bench.valid, trained.probabilities(bench.valid))
            line |= {"epochs": len(trained.history), "valid": macro(table)}
        except Diverged as error:
            trained, line = None, line | {"valid": np.nan, "error": str(error)}
        lines.append(line)
        return trained

    for rate in rates:
        attempt(rate, 0, "trial", chosen.trial)
    if np.isnan([line["valid"] for line in lines]).all():
        raise InputError(f"{key}: found no learning rate of {list(rates)} that trains")
    while True:
        tried = sorted((line["learning_rate"], line["valid"]) for line in lines)
        place = int(np.nanargmax([valid for _, valid in tried]))
        best, at_end = tried[place][0], place in (0, len(tried) - 1)
        if not at_end or len(lines) >= len(rates) + widen or len(tried) < 2:
            break
        step = tried[-1][0] / tried[-2][0] if place else tried[0][0] / tried[1][0]
        attempt(float(f"{best * step:.3g}"), 0, "trial", chosen.trial)
    for own in range(chosen.seeds):
        trained = attempt(best, own, "final")
        if trained is None:
            continue
        table = bench.predictions(bench.scored, trained.probabilities(bench.scored))
        predictions[own] = table
        lines[-1] |= {"parameters": trained.parameters, "cpu_seconds": trained.cpu_seconds}
        lines[-1] |= {"roc_auc": roc_auc(table["label"] > 0, 1 - table[f"p_{NO_SUB}"])}
        lines[-1] |= {"macro_roc_auc": macro(table), "at_end": at_end}
        share = trained.history["epoch"] / len(trained.history)
        spent = {"seed": own, "cpu_seconds": share * trained.cpu_seconds}
        histories.append(trained.history.assign(**spent))
    return Tuned(lines, predictions, histories)


def macro(predictions: pd.DataFrame) -> float:
    """Return the mean over the classes of the ROC-AUC of each against the rest."""
    return float(np.mean(list(per_class_auc(predictions).values())))


def recipe(settings: Config, name: str | None = None) -> dict[str, Any]:
    """Return what the scores of a row, or of all, depend on, but for the images."""
    chosen = settings.compare.model_dump(mode="json")
    if name is not None:
        chosen["rows"] = {name: chosen["rows"][name]}
    sections = ("task", "model", "train", "preprocess", "seed")
    return {key: getattr(settings, key) for key in sections} | {"compare": chosen}


def network(
    bench: Bench, sample: Sample, chosen: Settings, name: str, copies: Path | None = None
) -> Learn:
    """Return the training of a network: of learning rate, seed, share of its epochs.

    Of the lenses that it learns from, ``copies`` are learned from, too.
    """
    arrays, _ = inputs_for(chosen, bench.data, sample.tables)
    given, valid = arrays(bench.train), arrays(bench.valid)
    if copies:
        given = with_copies(given, chosen, bench.data, bench.train, copies)

    def learn(rate: float, seed: int, share: float) -> Trained:
        epochs = max(1, round(share * chosen.train.epochs))
        told = {"learning_rate": rate, "epochs": epochs, "patience": epochs}
        learnt = learn_network(
            given,
            valid,
            len(bench.classes),
            chosen.model,
            chosen.train.model_copy(update=told),
            seed=seed,
            label=f"{name} {rate:g}",
        )

        def answer(rows: np.ndarray) -> np.ndarray:
            return probabilities(learnt.model, *arrays(rows)[:2], average=chosen.model.average)

        n_parameters = learnt.metrics(len(bench.train))["parameters"]
        return Trained(answer, learnt.history, learnt.cpu_seconds, n_parameters)

    return learn


def boosting(bench: Bench, values: np.ndarray) -> Learn:
    """Return the training of gradient boosting on values (all rows of a sample, F)."""

    def learn(rate: float, seed: int, share: float) -> Trained:
        started = time.process_time()
        labels = bench.labels[bench.train]
        model = baselines.trained(BOOSTING, values[bench.train], labels, seed, learning_rate=rate)
        seconds = time.process_time() - started
        history = pd.DataFrame({"epoch": [1], "valid_macro_roc_auc": [np.nan]})
        return Trained(lambda rows: model(values[rows]), history, seconds, 0)

    return learn


def merge_rows(parts: Sequence[str | Path], settings: Config, out: str | Path) -> None:
    """Join the rows of a comparison; write what is small enough to be kept.

    ``comparison.csv`` and ``comparison_history.csv`` are the trials and histories of all rows;
    ``comparison_gains.csv``: row, against, score (roc_auc or macro_roc_auc), gain, low, high, sd,
    for each row against the one that the configuration names (``metrics.paired_difference``).
    InputError if a row is missing.
    """
    started = time.time()
    check_replaceable(out, COMPARISON_FILES)
    chosen = settings.compare
    folders = {Path(part).name: Path(part) for part in parts}
    if set(folders) != set(chosen.rows):
        raise InputError(
            f"{out}: found rows {', '.join(folders)}; expected {', '.join(chosen.rows)}"
        )
    tables, histories, predictions = [], [], {}
    for name in chosen.rows:
        part = folders[name]
        missing = [file for file in ROW_FILES[:2] + ROW_FILES[3:] if not (part / file).is_file()]
        if missing:
            raise InputError(f"{part}: no row of a comparison: {', '.join(missing)} missing")
        tables.append(pd.read_csv(part / "trials.csv"))
        histories.append(pd.read_csv(part / "history.csv"))
        predictions[name] = {
            seed: pd.read_csv(part / f"predictions_seed{seed}.csv", dtype={"id": str})
            for seed in tables[-1].query("kind == 'final' and valid.notna()")["seed"]
        }
    gains = [
        {"row": name, "against": row.against, "score": score}
        | _gain(predictions[row.against], predictions[name], score, settings)
        for name, row in chosen.rows.items()
        if row.against
        for score in ("roc_auc", "macro_roc_auc")
    ]
    with atomic(out) as temporary:
        temporary.mkdir()
        pd.concat(tables).to_csv(temporary / "comparison.csv", index=False)
        pd.concat(histories).to_csv(temporary / "comparison_history.csv", index=False)
        pd.DataFrame(gains).to_csv(temporary / "comparison_gains.csv", index=False)
        told = [json.loads((folders[name] / "compare.json").read_text()) for name in chosen.rows]
        sidecar(
            temporary / "comparison.json",
            rule="merge_compare",
            inputs=[folders[name] / "trials.csv" for name in chosen.rows],
            started=started,
            seed=settings.seed,
            config=recipe(settings),
            cpu_seconds=round(sum(entry["seconds"] for entry in told), 1),
        )


def _gain(
    without: dict[int, pd.DataFrame], with_: dict[int, pd.DataFrame], score: str, settings: Config
) -> dict[str, float]:
    """Return the paired gain over the seeds that both have."""
    both = sorted(set(without) & set(with_))
    tables = [[scores[seed] for seed in both] for scores in (without, with_)]
    gain = paired_difference(
        *tables, settings.evaluation.bootstrap, settings.seed, macro=score == "macro_roc_auc"
    )
    return {"gain": gain.value, "low": gain.low, "high": gain.high, "sd": gain.sd}
