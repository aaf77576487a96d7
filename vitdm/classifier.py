"""From raw images to classes with the conventions of scikit-learn."""

from __future__ import annotations

import hashlib
import numbers
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import Tags, check_random_state, column_or_1d
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from torch import nn

from vitdm import config
from vitdm.config import Features, LensFit, Model, Preprocess, RunSettings, Train
from vitdm.config.sections import checked
from vitdm.data.dataset import read_catalog
from vitdm.data.observation import Observation, as_observations
from vitdm.errors import InputError
from vitdm.features import feature_names
from vitdm.lens.fit import SAMPLE, estimate_gain
from vitdm.model import novelty
from vitdm.model.inputs import network_input
from vitdm.model.novelty import Novelty
from vitdm.model.runs import RUN_FILES, Run, load_run, write_run
from vitdm.model.training import Arrays, Learnt, Watch, device_of, learn
from vitdm.predict import Answers, Given, Seen, prepare, table_of
from vitdm.provenance import check_replaceable, read_json
from vitdm.simulation.classes import NO_SUB

#: what a classifier takes: (n, H, W), (n, 1, H, W), n arrays (H, W) of several sizes, masked or
#: with NaN in pixels that are missing, or n observations
Images = ArrayLike | Sequence[ArrayLike] | Sequence[Observation]
#: what decides a seed: a number, a generator of NumPy (which moves on), or None for any
RandomState = int | np.random.RandomState | np.random.Generator | None

#: parameters that are sections of the configuration, each a dictionary of some of its keys
SECTIONS = {"preprocess": Preprocess, "model": Model, "train": Train, "lensfit": LensFit}
DEFAULTS = {"model": {"patch_size": 24}}  # where they differ from those of ``vitdm.config``
OWN = ("features", "feature_set")  # keys of the model that the argument ``features`` sets


@dataclass(frozen=True)
class Prepared:
    """What a network sees of n images: the same however it is trained.

    ``crops`` (n, size, size), ``features`` (n, F), ``residuals`` (n, size, size) of fitted lenses
    or None, their ``maps`` (n, C, side, side) or None, ``targets`` (n,) the places of the labels
    among ``settings.classes``.
    """

    settings: RunSettings
    crops: np.ndarray
    features: np.ndarray
    residuals: np.ndarray | None
    maps: np.ndarray | None
    targets: np.ndarray

    def arrays(self, rows: np.ndarray) -> Arrays:
        """Return images (n, C, size, size), features (n, F) and targets (n,) of some rows."""
        given = self.crops, self.residuals, self.maps
        stack = network_input(self.settings.model, rows, *given)
        return stack, torch.from_numpy(self.features[rows]), torch.from_numpy(self.targets[rows])


class NotNumbers(InputError, TypeError):
    """Images of objects: scikit-learn's convention is a TypeError, of this library InputError."""


class Recent:
    """The results of the last few calls, up to ``MOST`` of them and ``BYTES`` together."""

    MOST, BYTES = 4, 2**29

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, tuple[int, Any]] = OrderedDict()

    def __call__(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return what was kept for a key, or make it now and keep it."""
        if key not in self._kept:
            made = make()
            self._kept[key] = getattr(made, "nbytes", 0), made
        self._kept.move_to_end(key)
        made = self._kept[key][1]
        while len(self._kept) > self.MOST or sum(n for n, _ in self._kept.values()) > self.BYTES:
            self._kept.popitem(last=False)
        return made


class ViTClassifier(ClassifierMixin, BaseEstimator):
    """A Vision Transformer for raw images of lenses, of any unit.

    Images are arrays (n, H, W) or (n, 1, H, W), or a list of n arrays (H, W) of several sizes or of
    ``vitdm.Observation``. Pixels that are NaN, infinite, or masked (``numpy.ma``, ``mask`` of an
    observation) are missing and left out everywhere.

    ``features``: join the physics features to the image: those measured on it and, if
    ``pixel_scale`` (arcsec) is given, those of a smooth lens fitted to it. ``preprocess``,
    ``model``, ``train`` and ``lensfit``: dictionaries of what to change in these sections of the
    configuration (``vitdm.config`` explains each key); a single key is also a parameter of its own,
    such as ``model__depth`` in a grid search. All epochs are run and the last weights kept, unless
    a ``valid_fraction`` of the images, of each class, is to choose the epoch: the first with the
    best ROC-AUC of one class (``no_sub`` if there is one) against the others. Take hundreds, for
    among few images an early epoch may look perfect. ``class_weight``: None, "balanced" or a
    dictionary from classes to weights, as everywhere in scikit-learn. ``random_state`` (a number,
    or a generator of NumPy) decides that choice, the first weights and the order of the images.
    ``device``: where the network is trained and asked: cpu, cuda, mps, or auto for a GPU if there
    is one. ``progress``: show a bar.

    What was measured on the images of the last few calls, lens fits included, is kept in memory:
    asked again of the same images, nothing is fitted twice. It is neither saved nor copied.

    Fitted: ``classes_`` (K,), ``n_features_in_`` (pixels, if all images are of one shape), ``run_``
    (settings and network), ``history_`` (one row an epoch) and ``metrics_``.
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
        class_weight: Mapping[Any, float] | str | None = None,
        random_state: RandomState = None,
        device: str = "cpu",
        progress: bool = False,
    ):
        self.features = features
        self.pixel_scale = pixel_scale
        self.preprocess = preprocess
        self.model = model
        self.train = train
        self.lensfit = lensfit
        self.valid_fraction = valid_fraction
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device
        self.progress = progress

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name; ``deep``: with each key of the sections."""
        params = super().get_params(deep=False)
        for name, schema in SECTIONS.items() if deep else ():
            values = schema().model_dump() | DEFAULTS.get(name, {}) | _keys(params[name])
            params |= {f"{name}__{key}": values[key] for key in values if key not in OWN}
        return params

    def set_params(self, **params: Any) -> ViTClassifier:
        """Set parameters, or keys of the sections; InputError names one that does not exist."""
        known = self.get_params()
        for key in sorted(params, key=lambda key: "__" in key):  # a section before its keys
            if key not in known:
                raise InputError(f"{key}: no such parameter; expected one of: {', '.join(known)}")
            section, _, name = key.partition("__")
            value = _keys(getattr(self, section)) | {name: params[key]} if name else params[key]
            setattr(self, section, value)
        return self

    def fit(
        self, images: Images, labels: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> ViTClassifier:
        """Train on images and labels (n,).

        ``sample_weight`` (n,) multiplies the loss of each image: on average over the random
        batches, one of weight 2 changes the network as if it were there twice, and one of weight 0
        is left out altogether. The validation of epochs does not weigh. InputError if they do not
        belong together, or a parameter is wrong; Diverged if the training does not converge.
        """
        images, seed = as_images(images), seed_of(self.random_state)
        labels = as_labels(labels, len(images))
        weights = self._weights(labels, sample_weight)
        if not weights.all():
            images = [image for image, weight in zip(images, weights, strict=True) if weight]
            labels, weights = labels[weights > 0], weights[weights > 0]
        prepared = self.prepare(images, labels)
        training, valid = self._split(prepared.targets, seed)
        learnt = self.learn(prepared, training, valid, seed=seed, weights=weights[training])
        told = {"n_train": len(training), "seed": seed}
        self.classes_ = np.unique(labels)
        known = self._known(prepared, training, valid, learnt.model)
        self.run_ = Run(prepared.settings.model_copy(update=told), learnt.model, known)
        self.history_, self.metrics_ = learnt.history, learnt.metrics(len(training))
        self.__dict__.pop("n_features_in_", None)
        if len(shapes := {image.shape for image in images}) == 1:
            self.n_features_in_ = int(np.prod(shapes.pop()))
        return self

    def _known(
        self, prepared: Prepared, training: np.ndarray, valid: np.ndarray, network: nn.Module
    ) -> Novelty | None:
        """Return what tells images that are unlike the training images."""
        network.cpu()
        parts = [novelty.thinned(rows) for rows in (training, valid)]
        return novelty.learn(network, *((prepared.crops[k], prepared.arrays(k)) for k in parts))

    def prepare(self, images: Images, labels: ArrayLike) -> Prepared:
        """Return what the network will see of images and labels as in ``fit``: its first half."""
        images = as_images(images)
        labels = as_labels(labels, len(images))
        names = sorted(map(str, np.unique(labels).tolist()), key=lambda name: name != NO_SUB)
        targets = np.array([names.index(str(label)) for label in labels.tolist()])
        settings = self._settings(images, names)
        return Prepared(settings, *self._inputs(images, settings), targets)

    def _inputs(self, images: Sequence[Observation], settings: RunSettings) -> Given:
        """Return what a network of a run is given of images."""
        return self._seen(images, settings).given(settings.feature_names)

    def _seen(self, images: Sequence[Observation], settings: RunSettings) -> Seen:
        """Return what a network of a run sees of images; kept for the next call."""
        names, residual = settings.feature_names, settings.model.residual
        mapped = bool(settings.model.maps)
        told = settings.model_dump_json(
            include={"preprocess", "features", "lensfit", "pixel_scale"}
        )
        return self._recent(
            ("seen", digest_of(images), told, residual, mapped, *names),
            lambda: prepare(images, settings, names, residual, mapped),
        )

    @property
    def _recent(self) -> Recent:
        """What was measured in the last few calls; not part of what is fitted."""
        return self.__dict__.setdefault("_kept", Recent())

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_kept"}

    def _weights(self, labels: np.ndarray, sample_weight: ArrayLike | None) -> NDArray[np.float64]:
        """Return the weight of each image (n,) in the loss, its own times that of its class."""
        weights = as_weights(sample_weight, len(labels))
        classes = np.unique(labels[weights > 0])
        there = np.isin(labels, classes)
        try:
            of_classes = compute_class_weight(
                self.class_weight,
                classes=classes,
                y=labels[there],
                sample_weight=weights[there],
            )
        except (ValueError, TypeError) as error:
            raise InputError(
                f"class_weight: found {self.class_weight!r}; expected None, 'balanced' or a "
                f"dictionary from classes to weights ({error})"
            ) from error
        weights[there] *= of_classes[np.searchsorted(classes, labels[there])]
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
            raise InputError(f"class_weight: found {self.class_weight!r}; expected weights above 0")
        return weights

    def learn(
        self,
        prepared: Prepared,
        training: np.ndarray,
        valid: np.ndarray,
        *,
        seed: int,
        watch: Watch | None = None,
        weights: NDArray[np.float64] | None = None,
    ) -> Learnt:
        """Train on some rows of what was prepared, with others (or none) to choose the epoch.

        ``weights``: of the rows that are trained on, in the loss.
        """
        train = checked(Train, self._changed("train"), "train")
        return learn(
            prepared.arrays(training),
            prepared.arrays(valid) if len(valid) else None,
            len(prepared.settings.classes),
            checked(Model, self._changed("model"), "model"),
            train,
            seed=seed,
            watch=watch,
            weights=None if weights is None else torch.from_numpy(weights),
            device=train.accelerator if self.device == "cpu" else self.device,
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
        given = getattr(self, name)
        if not isinstance(given, Mapping | None):
            raise InputError(f"{name}: found {given!r}; expected a dictionary of some of its keys")
        changed = DEFAULTS.get(name, {}) | _keys(given)
        if name != "model":
            return changed
        if own := [key for key in OWN if key in changed]:
            raise InputError(f"model: {own[0]}: is set by the argument features of ViTClassifier")
        return changed | {"features": self.features, "feature_set": "all"}

    def _settings(self, images: Sequence[Observation], names: list[str]) -> RunSettings:
        """Return what the run must know to be used again; InputError if it does not fit."""
        sections = {name: checked(SECTIONS[name], self._changed(name), name) for name in SECTIONS}
        _check_positive(self.pixel_scale)
        groups = ["proposal", "morphology"] + ["lensfit"] * (self.pixel_scale is not None)
        measured, cut, fitted = Features(groups=groups), sections["preprocess"], sections["lensfit"]
        model = sections["model"]
        side = model.side(fitted.map_side) if model.maps else cut.size
        config.check_patches(model, side)
        if (model.residual or model.maps) and self.pixel_scale is None:
            key = "residual" if model.residual else "maps"
            raise InputError(f"model.{key} is on: found no pixel_scale; expected arcsec a pixel")
        config.check_joined(model, measured, cut, fitted)
        if self.pixel_scale is not None and fitted.gain is None:
            some = images[:: -(-len(images) // SAMPLE)]
            gain = self._recent(
                ("gain", digest_of(some), self.pixel_scale, fitted.model_dump_json()),
                lambda: estimate_gain(some, fitted, pixel_scale=self.pixel_scale),
            )
            sections["lensfit"] = fitted.model_copy(update={"gain": gain})
        return RunSettings(
            classes=names,
            image_size=side,
            feature_names=feature_names(measured) if self.features else [],
            features=measured,
            pixel_scale=self.pixel_scale,
            task="multiclass",
            train_splits=[],
            n_train=len(images),
            seed=0,
            **sections,
        )

    def predict_proba(self, images: Images) -> NDArray[np.float64]:
        """Return the probability of each of ``classes_``, (n, K), of raw images.

        An array, as scikit-learn's functions expect; ``predict_table`` has the names.
        """
        probability, _ = self._asked(images)
        return probability[:, self._order()]

    def predict_table(self, images: Images) -> pd.DataFrame:
        """Return the table of ``vitdm.predict.predict`` for raw images, a row for each.

        Columns: ``p_<class>`` in the order of ``run_.classes``, no_sub first; ``class``, one of
        ``classes_``; and what is known of the fit, what was assumed, and warnings
        (``vitdm.predict.COLUMNS``).
        """
        return self.answer(images).table

    def answer(self, images: Images) -> Answers:
        """Return ``predict_table`` with what the network saw, which ``vitdm.plots`` shows."""
        probability, seen = self._asked(images)
        usual = self.run_.p_values(*seen.given(self.run_.feature_names))
        names = self.classes_[np.argsort(self._order())].tolist()
        return Answers(table_of(probability, usual, names, seen), seen)

    def _asked(self, images: Images) -> tuple[NDArray[np.float64], Seen]:
        """Return the probabilities (n, K) of ``run_.classes``, and what the network saw."""
        check_is_fitted(self, "run_")
        settings = self.run_.settings
        seen = self._seen(as_images(images), settings)
        try:
            self.run_.model.to(device_of(self.device))
            return self.run_.predict(*seen.given(settings.feature_names)), seen
        finally:
            self.run_.model.cpu()  # where it is saved and copied from

    def _order(self) -> list[int]:
        """Return the place of each of ``classes_`` among those of the run."""
        return [self.run_.classes.index(str(name)) for name in self.classes_.tolist()]

    def predict_log_proba(self, images: Images) -> NDArray[np.float64]:
        """Return the natural logarithm of ``predict_proba``, (n, K); -inf where that is 0."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(images))

    def predict(self, images: Images) -> np.ndarray:
        """Return the most probable class (n,) of raw images."""
        chosen = self.predict_proba(images).argmax(axis=1)
        return self.classes_[chosen]

    def save(self, folder: str | Path) -> None:
        """Write a run folder, which ``load`` and ``vitdm predict`` read; no pickle."""
        check_is_fitted(self, "run_")
        check_replaceable(folder, (*RUN_FILES, novelty.NAME))
        told = {"classes": self.classes_.tolist(), "valid_fraction": self.valid_fraction}
        if isinstance(self.random_state, numbers.Integral):
            told["random_state"] = int(self.random_state)
        if isinstance(self.class_weight, Mapping):  # JSON has no keys but text
            told["class_weight"] = [[np.array(k).item(), v] for k, v in self.class_weight.items()]
        elif self.class_weight is not None:
            told["class_weight"] = self.class_weight
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
        if isinstance(told.get("class_weight"), list):
            told["class_weight"] = dict(told["class_weight"])
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
        tags.input_tags.allow_nan = True
        return tags


def as_images(images: Images) -> list[Observation]:
    """Return raw images as observations; InputError names the one that is none."""
    if sparse.issparse(images):
        raise InputError("images: found sparse data; expected dense arrays, (n, H, W)")
    kind = getattr(getattr(images, "dtype", None), "kind", "f")
    if kind == "c":
        raise InputError("images: found complex numbers. Complex data not supported")
    if kind == "O" and getattr(images, "ndim", 1) > 2:
        try:
            images = np.asarray(images).astype(np.float64)
        except (TypeError, ValueError) as error:
            raise NotNumbers(f"images: found objects ({error}); expected real numbers") from error
    if hasattr(images, "__len__") and getattr(images, "ndim", 3) > 2:
        images = [_without_channel(image) for image in images]
    return as_observations(images)


def _without_channel(image: Observation | ArrayLike) -> Observation | ArrayLike:
    """Return an image (1, H, W) as (H, W), any other as it is."""
    if isinstance(image, Observation):
        return image
    shape = np.shape(image)
    return np.ma.asanyarray(image)[0] if len(shape) == 3 and shape[0] == 1 else image


def digest_of(images: Sequence[Observation]) -> str:
    """Return a hash of all that observations hold but their names."""
    digest = hashlib.sha256()
    for image in images:
        for value in (image.data, image.noise, image.psf):
            array = np.asarray(np.nan if value is None else value)
            digest.update(repr((array.shape, array.dtype.str)).encode())
            digest.update(np.ascontiguousarray(array).data)
        digest.update(repr((image.pixel_scale, image.gain, image.unit)).encode())
    return digest.hexdigest()


def _check_positive(pixel_scale: Any) -> None:
    known = pixel_scale is None or (
        isinstance(pixel_scale, numbers.Real) and 0 < pixel_scale < np.inf
    )
    if not known:
        raise InputError(
            f"pixel_scale: found {pixel_scale!r}; expected a positive number, arcsec, or None"
        )


def as_labels(labels: ArrayLike, n: int) -> np.ndarray:
    """Return the labels (n,) of at least two classes."""
    if labels is None:
        raise InputError("labels: fit requires y to be passed, but the target y is None")
    names = np.asarray(labels)
    if names.shape == (n, 1):
        names = column_or_1d(names, warn=True)
    if names.shape != (n,):
        raise InputError(f"labels: found shape {names.shape}; expected ({n},), one for each image")
    if missing := np.flatnonzero(pd.isna(names)).tolist():
        raise InputError(f"labels: found none (NaN) at {missing[0]}; expected a class")
    try:
        check_classification_targets(names)
    except ValueError as error:
        raise InputError(f"labels: {error}; expected classes") from error
    if len(kinds := np.unique(names)) < 2:
        raise InputError(
            f"labels: found {kinds.tolist()[0]!r} only; expected at least two classes, "
            "not one class"
        )
    return names


def as_weights(sample_weight: ArrayLike | None, n: int) -> NDArray[np.float64]:
    """Return the weights (n,) of images, 1 if none are given; InputError if they are none."""
    if sample_weight is None:
        return np.ones(n)
    try:
        weights = np.array(sample_weight, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"sample_weight: {error}; expected ({n},) numbers") from error
    if weights.shape != (n,):
        raise InputError(
            f"sample_weight: found shape {weights.shape}; expected ({n},), one for each image"
        )
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise InputError("sample_weight: expected finite numbers, none below 0")
    if not weights.any():
        raise InputError("sample_weight: every weight is zero; expected some above")
    return weights


def seed_of(random_state: RandomState) -> int:
    """Return a seed; of a generator the next, of None any. InputError if it is none of these."""
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31 - 1))
    try:
        return int(check_random_state(random_state).randint(2**31 - 1))
    except ValueError as error:
        raise InputError(f"random_state: {error}; expected a number from 0 on") from error


def _keys(section: Any) -> dict[str, Any]:
    """Return what a section changes; none if it is no dictionary, which ``fit`` will say."""
    return dict(section) if isinstance(section, Mapping) else {}
