"""From raw images to classes with the conventions of scikit-learn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import Tags, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from vitdm import config
from vitdm.config import Features, LensFit, Model, Preprocess, RunSettings, Train
from vitdm.config.sections import checked
from vitdm.data.dataset import read_catalog
from vitdm.errors import InputError
from vitdm.features import feature_names
from vitdm.lens.fit import estimate_gain
from vitdm.lens.fits import SAMPLE
from vitdm.model.inputs import channels
from vitdm.model.runs import RUN_FILES, Run, load_run, write_run
from vitdm.model.training import Arrays, Learnt, Watch, learn
from vitdm.predict import predict, prepare
from vitdm.provenance import check_replaceable, read_json
from vitdm.simulation.classes import NO_SUB

#: parameters that are sections of the configuration, each a dictionary of some of its keys
SECTIONS = {"preprocess": Preprocess, "model": Model, "train": Train, "lensfit": LensFit}
DEFAULTS = {"model": {"patch_size": 24}}  # where they differ from those of ``vitdm.config``
OWN = ("features", "feature_set")  # keys of the model that the argument ``features`` sets


@dataclass(frozen=True)
class Prepared:
    """What a network sees of n images: the same however it is trained.

    ``crops`` (n, size, size), ``features`` (n, F), ``maps`` (n, size, size) of what fitted lenses
    leave or None, ``targets`` (n,) the places of the labels among ``settings.classes``.
    """

    settings: RunSettings
    crops: np.ndarray
    features: np.ndarray
    maps: np.ndarray | None
    targets: np.ndarray

    def arrays(self, rows: np.ndarray) -> Arrays:
        """Return images (n, C, size, size), features (n, F) and targets (n,) of some rows."""
        stack = channels(self.crops[rows], None if self.maps is None else self.maps[rows])
        return stack, torch.from_numpy(self.features[rows]), torch.from_numpy(self.targets[rows])


class ViTClassifier(ClassifierMixin, BaseEstimator):
    """A Vision Transformer for raw images of lenses (n, H, W), of any unit.

    ``features``: join the physics features to the image: those measured on it and, if
    ``pixel_scale`` (arcsec) is given, those of a smooth lens fitted to it. ``preprocess``,
    ``model``, ``train`` and ``lensfit``: dictionaries of what to change in these sections of the
    configuration (``vitdm.config`` explains each key); a single key is also a parameter of its own,
    such as ``model__depth`` in a grid search. All epochs are run and the last weights kept, unless
    a ``valid_fraction`` of the images, of each class, is to choose the epoch: the first with the
    best ROC-AUC of one class (``no_sub`` if there is one) against the others. Take hundreds, for
    among few images an early epoch may look perfect. ``random_state`` decides that choice, the
    first weights and the order of the images. ``progress``: show a bar.

    Fitted: ``classes_`` (K,), ``run_`` (settings and network), ``history_`` (one row an epoch) and
    ``metrics_``.
    """

    def __init__(
        self,
        features: bool = False,
        *,
        pixel_scale: float | None = None,
        preprocess: dict[str, Any] | None = None,
        model: dict[str, Any] | None = None,
        train: dict[str, Any] | None = None,
        lensfit: dict[str, Any] | None = None,
        valid_fraction: float = 0.0,
        random_state: int | np.random.RandomState | None = None,
        progress: bool = False,
    ):
        self.features = features
        self.pixel_scale = pixel_scale
        self.preprocess = preprocess
        self.model = model
        self.train = train
        self.lensfit = lensfit
        self.valid_fraction = valid_fraction
        self.random_state = random_state
        self.progress = progress

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name; ``deep``: with each key of the sections."""
        params = super().get_params(deep=False)
        for name, schema in SECTIONS.items() if deep else ():
            values = schema().model_dump() | DEFAULTS.get(name, {}) | (params[name] or {})
            params |= {f"{name}__{key}": values[key] for key in values if key not in OWN}
        return params

    def set_params(self, **params: Any) -> ViTClassifier:
        """Set parameters, or keys of the sections; InputError names one that does not exist."""
        known = self.get_params()
        for key in sorted(params, key=lambda key: "__" in key):  # a section before its keys
            if key not in known:
                raise InputError(f"{key}: no such parameter; expected one of: {', '.join(known)}")
            section, _, name = key.partition("__")
            value = {**(getattr(self, section) or {}), name: params[key]} if name else params[key]
            setattr(self, section, value)
        return self

    def fit(self, images: ArrayLike | Sequence[ArrayLike], labels: ArrayLike) -> ViTClassifier:
        """Train on images (n, H, W), or n arrays (H, W) of several sizes, and labels (n,).

        InputError if they do not belong together, or a parameter is wrong; Diverged if the training
        does not converge.
        """
        images, labels = as_images(images), np.asarray(labels)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        prepared = self.prepare(images, labels)
        training, valid = self._split(prepared.targets, seed)
        learnt = self.learn(prepared, training, valid, seed=seed)
        told = {"n_train": len(training), "seed": seed}
        self.classes_ = np.unique(labels)
        self.run_ = Run(prepared.settings.model_copy(update=told), learnt.model)
        self.history_, self.metrics_ = learnt.history, learnt.metrics(len(training))
        return self

    def prepare(self, images: ArrayLike | Sequence[ArrayLike], labels: ArrayLike) -> Prepared:
        """Return what the network will see of images and labels as in ``fit``: its first half."""
        images = as_images(images)
        labels = as_labels(labels, len(images))
        names = sorted(map(str, np.unique(labels).tolist()), key=lambda name: name != NO_SUB)
        targets = np.array([names.index(str(label)) for label in labels.tolist()])
        settings = self._settings(images, names)
        joined, residual = settings.feature_names, settings.model.residual
        crops, table, maps, _ = prepare(images, settings, joined, residual)
        features = table[joined].to_numpy(np.float32)
        return Prepared(settings, crops, features, maps if residual else None, targets)

    def learn(
        self,
        prepared: Prepared,
        training: np.ndarray,
        valid: np.ndarray,
        *,
        seed: int,
        watch: Watch | None = None,
    ) -> Learnt:
        """Train on some rows of what was prepared, with others (or none) to choose the epoch."""
        return learn(
            prepared.arrays(training),
            prepared.arrays(valid) if len(valid) else None,
            len(prepared.settings.classes),
            checked(Model, self._changed("model"), "model"),
            checked(Train, self._changed("train"), "train"),
            seed=seed,
            watch=watch,
            label=type(self).__name__,
            progress=self.progress,
        )

    def _split(self, targets: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows to train on and those that validate, stratified."""
        rows = np.arange(len(targets))
        if not self.valid_fraction:
            return rows, rows[:0]
        try:
            return train_test_split(
                rows, test_size=self.valid_fraction, stratify=targets, random_state=seed
            )
        except ValueError as error:
            raise InputError(
                f"valid_fraction: found {self.valid_fraction} of {len(rows)} images; expected at "
                f"least one of each class to train on and to validate, or 0 ({error})"
            ) from error

    def _changed(self, name: str) -> dict[str, Any]:
        """Return the keys of a section that are not as in ``vitdm.config``."""
        changed = DEFAULTS.get(name, {}) | (getattr(self, name) or {})
        if name != "model":
            return changed
        if own := [key for key in OWN if key in changed]:
            raise InputError(f"model: {own[0]}: is set by the argument features of ViTClassifier")
        return changed | {"features": self.features, "feature_set": "all"}

    def _settings(self, images: Sequence[np.ndarray], names: list[str]) -> RunSettings:
        """Return what the run must know to be used again; InputError if it does not fit."""
        sections = {name: checked(SECTIONS[name], self._changed(name), name) for name in SECTIONS}
        groups = ["proposal", "morphology"] + ["lensfit"] * (self.pixel_scale is not None)
        measured, cut, fitted = Features(groups=groups), sections["preprocess"], sections["lensfit"]
        config.check_patches(sections["model"], cut.size)
        if sections["model"].residual and self.pixel_scale is None:
            raise InputError("model.residual is on: found no pixel_scale; expected arcsec a pixel")
        config.check_joined(sections["model"], measured, cut, fitted)
        if self.pixel_scale is not None and fitted.gain is None:
            if len({image.shape for image in images}) > 1:
                raise InputError(
                    "lensfit.gain: found none, and images of several sizes; expected the variance "
                    "of the photon noise per brightness"
                )
            some = np.stack(images[:: -(-len(images) // SAMPLE)])
            gain = estimate_gain(some, self.pixel_scale, fitted)
            sections["lensfit"] = fitted.model_copy(update={"gain": gain})
        return RunSettings(
            classes=names,
            image_size=cut.size,
            feature_names=feature_names(measured) if self.features else [],
            features=measured,
            pixel_scale=self.pixel_scale,
            task="multiclass",
            train_splits=[],
            n_train=len(images),
            seed=0,
            **sections,
        )

    def predict_proba(self, images: ArrayLike | Sequence[ArrayLike]) -> np.ndarray:
        """Return the probability of each of ``classes_``, (n, K), of raw images (n, H, W)."""
        check_is_fitted(self, "run_")
        probability, _ = predict([self.run_], as_images(images))
        order = [self.run_.classes.index(str(name)) for name in self.classes_.tolist()]
        return probability[:, order]

    def predict(self, images: ArrayLike | Sequence[ArrayLike]) -> np.ndarray:
        """Return the most probable class (n,) of raw images (n, H, W)."""
        chosen = self.predict_proba(images).argmax(axis=1)
        return self.classes_[chosen]

    def save(self, folder: str | Path) -> None:
        """Write a run folder, which ``load`` and ``vitdm predict`` read; no pickle."""
        check_is_fitted(self, "run_")
        check_replaceable(folder, RUN_FILES)
        told = {"classes": self.classes_.tolist(), "valid_fraction": self.valid_fraction}
        if isinstance(self.random_state, int):
            told["random_state"] = self.random_state
        write_run(
            self.run_,
            folder,
            self.history_,
            self.metrics_,
            rule=type(self).__name__,
            started=time.time(),
            classifier=told,
        )

    @classmethod
    def load(cls, folder: str | Path) -> ViTClassifier:
        """Return the classifier of a folder of ``save``, or of ``vitdm train``.

        Fitted again, one of ``vitdm train`` joins all features, whatever were selected.
        """
        run, folder = load_run(folder), Path(folder)
        told = read_json(folder / "run.json").get("classifier", {"classes": sorted(run.classes)})
        classes, settings = told.pop("classes"), run.settings
        parts = {name: getattr(settings, name).model_dump() for name in SECTIONS}
        parts["model"] = {key: parts["model"][key] for key in parts["model"] if key not in OWN}
        made = cls(settings.model.features, pixel_scale=settings.pixel_scale, **parts, **told)
        made.classes_, made.run_ = np.array(classes), run
        made.history_ = read_catalog(folder / "history.csv")
        made.metrics_ = read_json(folder / "metrics.json")
        return made

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        return tags


def as_images(images: ArrayLike | Sequence[ArrayLike]) -> Sequence[np.ndarray]:
    """Return the images as a sequence of arrays (H, W); InputError names the one that is none."""
    arrays = [np.asarray(image) for image in images] if hasattr(images, "__len__") else []
    if not arrays:
        raise InputError("images: found none; expected at least one, (n, H, W)")
    for k, image in enumerate(arrays):
        if image.ndim != 2 or image.dtype.kind not in "buif" or not image.size:
            raise InputError(
                f"images: found {image.dtype} values of shape {image.shape} at {k}; "
                "expected (n, H, W) real numbers"
            )
    return arrays


def as_labels(labels: ArrayLike, n: int) -> np.ndarray:
    """Return the labels (n,) of at least two classes."""
    names = np.asarray(labels)
    if names.shape != (n,):
        raise InputError(f"labels: found shape {names.shape}; expected ({n},), one for each image")
    if missing := np.flatnonzero(pd.isna(names)).tolist():
        raise InputError(f"labels: found none (NaN) at {missing[0]}; expected a class")
    try:
        check_classification_targets(names)
    except ValueError as error:
        raise InputError(f"labels: {error}; expected classes") from error
    if len(kinds := np.unique(names)) < 2:
        raise InputError(f"labels: found {kinds.tolist()[0]!r} only; expected at least two classes")
    return names
