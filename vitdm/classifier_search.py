"""A search from Python: images and labels in memory, the result as scikit-optimize gives it."""

from __future__ import annotations

import functools
import hashlib
import numbers
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import OptimizeResult
from sklearn.base import clone
from sklearn.model_selection import train_test_split
from skopt import space as skopt_space

from vitdm.classifier import (
    SECTIONS,
    Images,
    Prepared,
    RandomState,
    ViTClassifier,
    as_images,
    as_labels,
    digest_of,
    seed_of,
)
from vitdm.config import Settings, by_section
from vitdm.config.sections import checked
from vitdm.errors import InputError
from vitdm.model.networks import probabilities
from vitdm.model.training import Learnt, Watch
from vitdm.tuning.objective import METRICS, Params, chance
from vitdm.tuning.search import Callback
from vitdm.tuning.space import entries
from vitdm.tuning.tuner import Tuner


class OnImages:
    """Trials of a classifier on images in memory; each kind of processing is made once."""

    def __init__(
        self,
        classifier: ViTClassifier,
        images: Images,
        labels: np.ndarray,
        rows: dict[str, np.ndarray],
        metric: str,
        epochs: int,
    ):
        self.classifier, self.metric, self.rows = classifier, metric, rows
        self.images, self.labels = images, labels
        self.epochs = epochs
        self._prepared: dict[str, Prepared] = {}

    @functools.cached_property
    def chance(self) -> float:
        return chance(self.metric, self._of({}).targets[self.rows["opt"]])

    def prepare(self, params: Params) -> None:
        self._of(params)

    def _of(self, params: Params) -> Prepared:
        chosen = by_section(params)["preprocess"]
        if (key := repr(sorted(chosen.items()))) not in self._prepared:
            made = with_params(self.classifier, params).prepare(self.images, self.labels)
            self._prepared[key] = made
        return self._prepared[key]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"images": [], "labels": []}  # workers see what was prepared

    def train(self, params: Params, seed: int, watch: Watch) -> tuple[Learnt, float]:
        prepared = self._of(params)
        held = {"epochs": self.epochs, "patience": self.epochs}
        tried = with_params(self.classifier, params).set_params(
            **{f"train__{key}": value for key, value in held.items()}, progress=False
        )
        learnt = tried.learn(
            prepared, self.rows["train"], self.rows["valid"], seed=seed, watch=watch
        )
        images, features, targets = prepared.arrays(self.rows["opt"])
        predicted = probabilities(learnt.model, images, features)
        return learnt, METRICS[self.metric](targets.numpy(), predicted)


def with_params(classifier: ViTClassifier, params: Params) -> ViTClassifier:
    """Return an untrained copy of a classifier with parameters of a search put in."""
    named = {
        f"{section}__{name}": value
        for section, chosen in by_section(params).items()
        for name, value in chosen.items()
    }
    return clone(classifier).set_params(**named)


def tune(
    images: Images,
    labels: ArrayLike,
    space: Mapping[str, Any] | Sequence[skopt_space.Dimension],
    *,
    classifier: ViTClassifier | None = None,
    valid_fraction: float = 0.2,
    opt_fraction: float = 0.2,
    random_state: RandomState = 0,
    out: str | Path | None = None,
    backend: str = "loky",
    progress: bool = True,
    callback: Callback | Sequence[Callback] | None = None,
    **search: Any,
) -> OptimizeResult:
    """Search the settings of a ViTClassifier for images, as it takes them, and labels (n,).

    ``space``: scikit-optimize's dimensions, each named after a key of the sections model, train or
    preprocess of the configuration, or a dictionary from such names to dimensions or to what the
    configuration would say. ``classifier`` has all other settings (default: ``ViTClassifier()``).
    ``search`` are further keys of the section ``tune``: n_calls, fixed, constraints, x0,
    metric, parallel and others (``vitdm.config.Tune``); its epochs are by default those of the
    classifier. Of the images, ``opt_fraction`` score the trials, ``valid_fraction`` choose their
    epoch, the others are learnt from, all stratified. ``out`` is a folder that keeps the trials
    and from which a search that was killed goes on; ``backend`` see ``search.Workers``.
    ``callback``: one or several of scikit-optimize's callbacks, called with the result so far after
    each trial; the search ends when one returns True. A space without real numbers ends it when
    all its points are tried.

    Returns scikit-optimize's ``OptimizeResult`` of log10(1 - metric), on which its tools work, and
    with it ``message`` (why the search ended), ``best_params`` for
    ``ViTClassifier(**best_params)``, ``best`` (what was measured when the best trials were trained
    anew, ``Tuner.run``) and ``trials``, a table. InputError if something does not fit, before the
    first trial.
    """
    classifier = ViTClassifier() if classifier is None else classifier
    if not isinstance(classifier, ViTClassifier):
        raise InputError(f"classifier: found {classifier!r}; expected a ViTClassifier")
    seed = random_state if isinstance(random_state, numbers.Integral) else seed_of(random_state)
    settings = _settings(classifier, entries(space), seed, search)
    observations = as_images(images)
    labels = as_labels(labels, len(observations))
    rows = _rows(labels, valid_fraction, opt_fraction, seed)
    metric, epochs = settings.tune.metric, settings.tune.epochs
    objective = OnImages(classifier, observations, labels, rows, metric, epochs)
    objective.prepare({})
    told = digest_of(observations) + "".join(map(str, labels))
    identity = {
        "data": hashlib.sha256(told.encode()).hexdigest(),
        "fractions": [valid_fraction, opt_fraction],
        "classifier": repr(sorted(classifier.get_params().items())),
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary if out is None else out)
        tuner = Tuner(objective, settings, folder, identity, backend, progress, callback)
        best = tuner.run()
        result = tuner.result()
        result.trials = tuner.table()
    result.best = best
    chosen = with_params(classifier, settings.tune.fixed | best["params"])
    result.best_params = chosen.get_params(deep=False)
    return result


def _settings(
    classifier: ViTClassifier, space: dict[str, Any], seed: int, search: dict[str, Any]
) -> Settings:
    """Return the settings of a search that starts from those of a classifier."""
    params = classifier.get_params()
    sections: dict[str, dict[str, Any]] = {
        name: {
            key.removeprefix(f"{name}__"): value
            for key, value in params.items()
            if key.startswith(f"{name}__")
        }
        for name in SECTIONS
    }
    sections["model"] |= {"features": classifier.features, "feature_set": "all"}
    groups = ["proposal", "morphology"] + ["lensfit"] * (classifier.pixel_scale is not None)
    search = {"epochs": sections["train"]["epochs"]} | search
    content = {
        "seed": seed,
        "features": {"groups": groups},
        "tune": {"space": space} | search,
    }
    settings = checked(Settings, content | sections, "vitdm.tune")
    settings.check()
    settings.check_search()
    return settings


def _rows(
    labels: np.ndarray, valid_fraction: float, opt_fraction: float, seed: int
) -> dict[str, np.ndarray]:
    """Return the rows that are learnt from, that choose the epoch and that score."""
    rows = np.arange(len(labels))
    try:
        n_valid, n_opt = (round(share * len(rows)) for share in (valid_fraction, opt_fraction))
        rest, opt = train_test_split(rows, test_size=n_opt, stratify=labels, random_state=seed)
        training, valid = train_test_split(
            rest, test_size=n_valid, stratify=labels[rest], random_state=seed
        )
    except (ValueError, TypeError, OverflowError) as error:  # none, text, NaN, infinite
        raise InputError(
            f"valid_fraction, opt_fraction: found {valid_fraction}, {opt_fraction} of {len(rows)} "
            f"images; expected at least one of each class in each part ({error})"
        ) from error
    return {"train": training, "valid": valid, "opt": opt}
