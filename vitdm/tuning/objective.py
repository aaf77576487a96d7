"""What one trial of a search is, on a folder of processed images."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from sklearn import metrics

from vitdm.config import Preprocess, Settings
from vitdm.data.dataset import Dataset
from vitdm.model.inputs import Tables, first_rows, inputs_for
from vitdm.model.networks import probabilities
from vitdm.model.training import Diverged, Learnt, Loss, Watch, learn
from vitdm.preprocess import process_dataset
from vitdm.tuning.trials import Trial, hopeless

Params = dict[str, Any]


def _macro(labels: np.ndarray, predicted: np.ndarray) -> float:
    rest = [metrics.roc_auc_score(labels == k, predicted[:, k]) for k in range(predicted.shape[1])]
    return float(np.mean(rest))


#: of labels (n,), 0 for no substructure, and the probability of each class (n, K); 1 is best
METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "roc_auc": lambda labels, predicted: metrics.roc_auc_score(labels > 0, 1 - predicted[:, 0]),
    "macro_roc_auc": _macro,
    "average_precision": lambda labels, predicted: metrics.average_precision_score(
        labels > 0, 1 - predicted[:, 0]
    ),
    "balanced_accuracy": lambda labels, predicted: metrics.balanced_accuracy_score(
        labels, predicted.argmax(axis=1)
    ),
}


def chance(metric: str, labels: np.ndarray) -> float:
    """Return what a metric gives for a network that says the same of all images."""
    n_classes = int(labels.max()) + 1
    return float(METRICS[metric](labels, np.full((len(labels), n_classes), 1 / n_classes)))


class Objective(Protocol):
    """What a search asks: a trial of some parameters, its epochs, what chance would score."""

    chance: float
    epochs: int

    def prepare(self, params: Params) -> None:
        """Make what several trials share; called in the process of the search."""

    def train(self, params: Params, seed: int, watch: Watch) -> tuple[Learnt, float]:
        """Return the trained network and its score on ``opt``."""


def attempt(objective: Objective, params: Params, seed: int, limits: Sequence[float]) -> Trial:
    """Return the outcome of a trial; whatever goes wrong becomes a failed one that tells why."""
    started = time.perf_counter()
    try:
        watch = functools.partial(hopeless, limits=limits)
        learnt, score = objective.train(params, seed, watch)
    except Exception as error:  # a search of hours must not end for one bad point
        outcome = failed(objective, error)
    else:
        curve = learnt.history["valid_roc_auc"].tolist()
        outcome = {
            "score": float(score),
            "status": "stopped" if len(curve) < objective.epochs else "ok",
            "valid_roc_auc": max(curve),
            "epochs": len(curve),
            "cpu_seconds": round(learnt.cpu_seconds, 2),
            "curve": curve,
        }
    return Trial(params, seed, seconds=round(time.perf_counter() - started, 2), **outcome)


def failed(objective: Objective, error: Exception) -> dict[str, Any]:
    """Return what the log keeps of a trial that ended in an error: chance, and the reason."""
    known = isinstance(error, Diverged)
    reason = str(error) if known else f"{type(error).__name__}: {error}"
    return {"score": objective.chance, "status": "failed", "error": " ".join(reason.split())}


@dataclass(frozen=True)
class OnDataset:
    """Trials on a processed dataset: trained on ``train``, stopped on ``valid``, scored on ``opt``.

    ``dataset`` is the folder of the images before processing, needed if the search varies how they
    are processed; what comes out is kept in folders below ``cache``. ``loss`` replaces that of
    ``vitdm.model.training.learn``.
    """

    settings: Settings
    processed: Path
    tables: Tables
    cache: Path
    dataset: Path | None = None
    loss: Loss | None = None

    @functools.cached_property
    def chance(self) -> float:
        data = Dataset.open(self.processed)
        labels, _ = data.labels(self.settings.task)
        return chance(self.settings.tune.metric, labels[data.rows("opt")])

    def check(self) -> None:
        """Raise InputError if something that every trial needs is missing."""
        inputs_for(self.settings, Dataset.open(self.processed), self.tables)

    @property
    def epochs(self) -> int:
        return self.settings.tune.epochs

    def folder(self, cut: Preprocess) -> Path:
        """Return the folder of images that are processed in some way."""
        if cut == self.settings.preprocess:
            return self.processed
        return self.cache / hashlib.sha256(cut.model_dump_json().encode()).hexdigest()[:8]

    def prepare(self, params: Params) -> None:
        cut = self.settings.trial(params).preprocess
        if not (folder := self.folder(cut)).exists():
            process_dataset(self.dataset, folder, cut)

    def train(self, params: Params, seed: int, watch: Watch) -> tuple[Learnt, float]:
        settings, search = self.settings.trial(params), self.settings.tune
        data = Dataset.open(self.folder(settings.preprocess))
        arrays, _ = inputs_for(settings, data, self.tables)
        rows = first_rows(data.rows("train"), search.n_train, seed)
        _, classes = data.labels(settings.task)
        learnt = learn(
            arrays(rows),
            arrays(data.rows("valid")),
            len(classes),
            settings.model,
            settings.train.model_copy(update={"epochs": self.epochs, "patience": self.epochs}),
            seed=seed,
            watch=watch,
            loss=self.loss,
            progress=False,
        )
        images, features, labels = arrays(data.rows("opt"))
        predicted = probabilities(learnt.model, images, features)
        return learnt, METRICS[search.metric](labels.numpy(), predicted)
