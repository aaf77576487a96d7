"""Networks trained on arrays or on a data set, and finished runs."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional

from studies.config import Config
from vitdm import config
from vitdm.config import Model, RunSettings, Train
from vitdm.data.dataset import Dataset, read_features
from vitdm.errors import InputError
from vitdm.lens.fits import read_residuals
from vitdm.model.networks import NETWORKS, ResNet
from vitdm.model.vit import ViT
from vitdm.provenance import atomic, check_replaceable, sidecar, write_json

#: images (n, C, H, W), features (n, F) and labels (n,)
Arrays = tuple[Tensor, Tensor, Tensor]
#: whether to end a training, from its validation ROC-AUC after each epoch so far
Watch = Callable[[list[float]], bool]
RUN_FILES = ("config.yaml", "metrics.json", "history.csv", "model.safetensors")


class Diverged(RuntimeError):
    """The loss is not finite; the message tells epoch, learning rate and batch."""


class Batches:
    """Batches of arrays held in memory: images (n, C, H, W), features (n, F), labels (n,).

    With a generator they come shuffled and, if ``flips``, with random mirror images; without, in
    order and as they are.
    """

    def __init__(
        self,
        arrays: tuple[Tensor, ...],
        size: int,
        generator: torch.Generator | None = None,
        flips: bool = False,
    ):
        self.arrays = arrays
        self.size = size
        self.generator = generator
        self.flips = flips

    def __len__(self) -> int:
        return math.ceil(len(self.arrays[0]) / self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        if self.generator is None:
            yield from zip(*(array.split(self.size) for array in self.arrays), strict=True)
            return
        order = torch.randperm(len(self.arrays[0]), generator=self.generator)
        for rows in order.split(self.size):
            images, *others = (array[rows] for array in self.arrays)
            if self.flips:
                flip_y, flip_x = torch.rand(2, len(rows), 1, 1, 1, generator=self.generator) < 0.5
                for flip, axis in ((flip_y, 2), (flip_x, 3)):
                    chosen = flip.flatten()
                    images[chosen] = images[chosen].flip(axis)  # a copy: indexed by rows
            yield images, *others


@dataclass(frozen=True)
class Run:
    """A trained model and what it needs to be used on new images."""

    settings: RunSettings
    model: ViT | ResNet

    @property
    def classes(self) -> list[str]:
        return self.settings.classes

    @property
    def feature_names(self) -> list[str]:
        return self.settings.feature_names

    def predict(
        self,
        images: np.ndarray,
        features: np.ndarray | None = None,
        residuals: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the probability of each class, (n, K), of processed images (n, H, W).

        ``features`` (n, F) in the order of ``feature_names``, NaN where missing; ``residuals``
        (n, H, W) what a fitted smooth lens leaves. InputError if the model was trained with them
        and they are not given, or not as many features.
        """
        size = self.settings.image_size
        height, width = (size, size) if isinstance(size, int) else size
        if np.shape(images)[1:] != (height, width):
            raise InputError(
                f"images: found shape {np.shape(images)}; expected (n, {height}, {width})"
            )
        expected = len(self.feature_names)
        found = 0 if features is None else np.shape(features)[1]
        if expected and found != expected:
            raise InputError(
                f"features: found {found} features of each image; expected {expected}: "
                f"{', '.join(self.feature_names)}"
            )
        if not self.settings.model.residual:
            residuals = None
        elif residuals is None:
            raise InputError("residuals: found none; the model was trained with them")
        found = []
        for start in range(0, len(images), 256):
            rows = slice(start, start + 256)
            batch = channels(images[rows], None if residuals is None else residuals[rows])
            extra = None
            if self.feature_names:
                extra = torch.from_numpy(np.array(features[rows], dtype=np.float32))
            found.append(probabilities(self.model, batch, extra))
        return np.concatenate(found)

    def attention(
        self,
        images: np.ndarray,
        features: np.ndarray | None = None,
        residuals: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the last block's attention to each patch (n, rows, columns), mean of the heads.

        What the pooled token looks at; with ``pool: mean``, all tokens on average. Arguments as of
        ``predict``, for a few images; InputError if the network has no attention.
        """
        if not hasattr(self.model, "attention"):
            raise InputError(
                f"attention: found architecture {self.settings.model.architecture}; expected vit"
            )
        chosen = self.settings.model
        batch = channels(images, residuals if chosen.residual else None)
        extra = torch.from_numpy(np.array(features, np.float32)) if self.feature_names else None
        with torch.inference_mode():
            weights = self.model.attention(batch, extra)[-1].mean(dim=1)  # (B, N, N)
        rows, columns = (side // chosen.patch_size for side in batch.shape[2:])
        first = int(chosen.pool == "cls")
        looks = weights[:, 0] if first else weights.mean(dim=1)  # (B, N)
        return looks[:, first : first + rows * columns].reshape(-1, rows, columns).numpy()


def probabilities(
    model: ViT | ResNet, images: Tensor, features: Tensor | None, batch: int = 256
) -> np.ndarray:
    """Return a network's probability of each class, (n, K), of images (n, C, H, W)."""
    model.eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            rows = slice(start, start + batch)
            extra = None if features is None else features[rows]
            found.append(model(images[rows], extra).softmax(dim=1).numpy())
    return np.concatenate(found).astype(np.float64)


def channels(images: np.ndarray, residuals: np.ndarray | None = None) -> Tensor:
    """Return the network's input (n, C, H, W): images (n, H, W), and two channels of residuals.

    A residual r is in units of the noise. One channel is arcsinh(r): linear in the noise,
    logarithmic in what stands out. The other is log(1 + s^2), s being the sum of r over 3 x 3
    pixels in units of its own noise: a local chi^2, which no linear map of a patch can make.
    """
    layers = [torch.from_numpy(np.array(images, dtype=np.float32))]
    if residuals is not None:
        residual = torch.from_numpy(np.array(residuals, dtype=np.float32))
        summed = 3 * functional.avg_pool2d(residual[:, None], 3, stride=1, padding=1)[:, 0]
        layers += [torch.arcsinh(residual), torch.log1p(summed**2)]
    return torch.stack(layers, dim=1)


def new_model(
    model: Model, size: int | tuple[int, int], n_classes: int, n_features: int
) -> ViT | ResNet:
    """Return an untrained network for these settings."""
    network = NETWORKS[model.architecture]
    return network(model, size, n_classes, n_features, channels=3 if model.residual else 1)


def load_run(folder: str | Path) -> Run:
    """Open a finished run; InputError names what an incomplete folder lacks."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such run folder")
    missing = [name for name in RUN_FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder}: incomplete run; missing {', '.join(missing)}")
    settings = config.load_run_settings(folder / "config.yaml")
    weights = folder / "model.safetensors"
    try:
        model = new_model(
            settings.model, settings.image_size, len(settings.classes), len(settings.feature_names)
        )
        model.load_state_dict(load_file(weights))
    except Exception as error:  # safetensors and torch raise many kinds
        raise InputError(f"{weights}: does not fit config.yaml of the run ({error})") from error
    return Run(settings, model.eval())


def fit(
    processed: str | Path,
    features_csv: str | Path | None,
    settings: Config,
    model: Model,
    train: Train,
    *,
    train_splits: tuple[str, ...],
    out: str | Path | None = None,
    valid_split: str | None = None,
    score_split: str | None = None,
    seed: int = 0,
    n_train: int | None = None,
    feature_names: list[str] | None = None,
    fits: str | Path | None = None,
    label: str = "train",
    progress: bool = True,
    keep_checkpoint: bool = False,
) -> dict[str, Any]:
    """Train one model, write its run folder (if ``out`` is given) and return its metrics.

    ``processed`` is a data set folder of processed images. With ``valid_split`` the weights of the
    epoch with the best validation ROC-AUC are kept and training stops early; without, all epochs
    are run and the last weights kept. ``score_split`` is predicted at the end, in
    ``predictions.csv``. ``n_train`` limits the training images. ``feature_names`` are the columns
    of the feature table that join the image if ``model.features`` is on (default: all of them;
    ``selection.joined_features`` gives those that ``model.feature_set`` asks for). ``fits`` is the
    folder of lens fits that ``model.residual`` needs. Killed and called again, it goes on from the
    checkpoint that it keeps in a hidden file beside ``out`` meanwhile (``learn``), or longer if
    ``keep_checkpoint``. Raises Diverged if the loss or a weight becomes NaN or infinite, and says
    so in ``<out>.failed.json``, which the next attempt deletes.
    """
    started = time.time()
    if out is not None:
        check_replaceable(out, (*RUN_FILES, "predictions.csv", "run.json"))
    data = Dataset.open(processed)
    height, width = data.images.shape[1:]
    size = height if height == width else (height, width)
    config.check_patches(model, size)
    _, classes = data.labels(settings.task)
    arrays, names = inputs_for(model, data, settings.task, features_csv, feature_names, fits)
    rows = first_rows(data.rows(*train_splits), n_train, seed)
    checkpoint = failure = None
    if out is not None:
        checkpoint = checkpoint_of(out)
        failure = Path(f"{Path(out)}.failed.json")  # without a slash at the end
        failure.unlink(missing_ok=True)
    try:
        learnt = learn(
            arrays(rows),
            arrays(data.rows(valid_split)) if valid_split else None,
            len(classes),
            model,
            train,
            seed=seed,
            checkpoint=checkpoint,
            label=label,
            progress=progress,
        )
    except Diverged as error:
        if out is not None:
            write_json(failure, {"error": str(error), "seed": seed})
            checkpoint.unlink(missing_ok=True)
        raise

    run = Run(
        RunSettings(
            classes=classes,
            image_size=size,
            feature_names=names,
            model=model,
            train=train,
            preprocess=settings.preprocess,
            features=settings.features,
            **camera_of(features_csv if model.features else None, fits),
            task=settings.task,
            train_splits=list(train_splits),
            n_train=len(rows),
            seed=seed,
        ),
        learnt.model,
    )
    metrics, predictions = learnt.metrics(len(rows)), None
    if score_split:
        scored = data.rows(score_split)
        predictions = predictions_table(run, data, scored, features_csv, settings.task, fits)
        score = 1 - predictions[f"p_{classes[0]}"]
        metrics["roc_auc"] = float(roc_auc_score(predictions["label"] > 0, score))
    timing = learnt.timing(len(rows))
    if out is not None:
        write_run(
            run,
            out,
            learnt.history,
            metrics,
            predictions,
            rule="train" if valid_split else "train_final",
            inputs=inputs_of(
                processed,
                features_csv if model.features else None,
                fits if model.residual else None,
            ),
            started=started,
            training=timing,
        )
        if not keep_checkpoint:
            checkpoint.unlink(missing_ok=True)
    return metrics | timing


def checkpoint_of(out: str | Path) -> Path:
    """Return the hidden file from which the training of a run folder goes on after a kill."""
    place = Path(out).absolute()
    return place.with_name(f".{place.name}.checkpoint")


def inputs_for(
    model: Model,
    data: Dataset,
    task: str,
    features_csv: str | Path | None = None,
    feature_names: list[str] | None = None,
    fits: str | Path | None = None,
) -> tuple[Callable[[np.ndarray], Arrays], list[str]]:
    """Return the function from rows of a data set to what a network sees, and its features' names.

    ``feature_names`` None: all of the table. InputError if the model needs what is not given.
    """
    labels, _ = data.labels(task)
    features, names = np.empty((len(labels), 0), np.float32), []
    if model.features:
        if features_csv is None:
            raise InputError("model.features is on: a feature table is needed")
        table = read_features(features_csv, data.catalog["id"])
        names = list(table.columns if feature_names is None else feature_names)
        features = columns_of(table, names, features_csv)
    residuals = residuals_of(model, fits, data)

    def arrays(rows: np.ndarray) -> Arrays:
        images = channels(data.images[rows], None if residuals is None else residuals[rows])
        return images, torch.from_numpy(features[rows]), torch.from_numpy(labels[rows]).long()

    return arrays, names


@dataclass(frozen=True)
class Learnt:
    """A trained network, one row of ``history`` an epoch, and the time that its epochs took.

    ``seconds`` by the clock on the wall, ``cpu_seconds`` of all threads; without validation.
    """

    model: ViT | ResNet
    history: pd.DataFrame
    seconds: float
    cpu_seconds: float

    def metrics(self, n_train: int) -> dict[str, Any]:
        """Return what the training came to: the same whenever it is repeated."""
        found = {
            "epochs": len(self.history),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "n_train": n_train,
        }
        if self.history["valid_roc_auc"].notna().any():
            best = self.history["valid_roc_auc"].idxmax()
            found["best_epoch"] = int(self.history["epoch"][best])
            found["valid_roc_auc"] = float(self.history["valid_roc_auc"][best])
        return found

    def timing(self, n_train: int) -> dict[str, float]:
        """Return what it cost: seconds, cpu_seconds and images_per_second."""
        speed = n_train * len(self.history) / self.seconds
        return {
            "seconds": round(self.seconds, 2),
            "cpu_seconds": round(self.cpu_seconds, 2),
            "images_per_second": round(speed, 1),
        }


def learn(
    training: Arrays,
    valid: Arrays | None,
    n_classes: int,
    model: Model,
    train: Train,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    watch: Watch | None = None,
    label: str = "train",
    progress: bool = True,
) -> Learnt:
    """Train one network on arrays in memory: the whole recipe, without files.

    Images (n, C, H, W), features (n, F), F = 0 for none, labels (n,) from 0 to n_classes - 1. With
    ``valid`` the weights of the epoch with the best validation ROC-AUC (class 0, no substructure,
    against the others) are kept and training stops early; without, all epochs are run and the last
    weights kept. ``watch`` may end it earlier. ``checkpoint`` is a file from which the same
    training, if it was killed, goes on; the answer is that of an uninterrupted one, on a CPU to the
    last bit. Raises Diverged if the loss or a weight becomes NaN or infinite.
    """
    # Lightning takes seconds to import, and most commands only read what was trained
    from vitdm.model.recipe import Progress, Recipe, Resume, run_trainer

    images, features, _ = training
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vit = new_model(model, tuple(images.shape[2:]), n_classes, features.shape[1])
        if features.shape[1]:
            vit.standardise(features)
        shuffle = torch.Generator().manual_seed(seed)
        batches = Batches(training, train.batch_size, shuffle, train.flips)
        recipe = Recipe(vit, train, train.epochs * len(batches), shuffle, watch)
        callbacks = []
        if progress:
            callbacks.append(Progress(label, recipe.total_steps))
        resume = None
        if checkpoint is not None:
            told = [seed, n_classes, model.model_dump(), train.model_dump(), torch.__version__]
            callbacks.append(Resume(checkpoint, _hash(told, *training, *(valid or ()))))
            resume = callbacks[-1].found()
        run_trainer(recipe, batches, valid and Batches(valid, 256), train, callbacks, resume)
        if recipe.best:
            vit.load_state_dict(recipe.best)
        if not all(parameter.isfinite().all() for parameter in vit.parameters()):
            raise Diverged(
                f"the weights are not finite after epoch {len(recipe.history)}, "
                f"at learning rate {train.learning_rate:.3g}"
            )
    return Learnt(vit.eval(), pd.DataFrame(recipe.history), *recipe.spent.tolist())


def _hash(told: Any, *arrays: Tensor) -> str:
    digest = hashlib.sha256(repr(told).encode())
    for array in arrays:
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array.numpy()).data)
    return digest.hexdigest()


def first_rows(rows: np.ndarray, n: int | None, seed: int) -> np.ndarray:
    """Return the first n rows (None: all) of an order that depends on the seed, sorted."""
    if n is None or n >= len(rows):
        return rows
    shuffled = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    return np.sort(shuffled.permutation(rows)[:n])


def inputs_of(
    processed: str | Path, features_csv: str | Path | None, fits: str | Path | None = None
) -> list[Path]:
    """Return the files that a training reads, for its sidecar."""
    files = [Path(processed) / "images.npy", Path(processed) / "catalog.csv"]
    files += [Path(features_csv)] if features_csv else []
    return files + ([Path(fits) / "residuals.npy"] if fits else [])


def camera_of(features_csv: str | Path | None, fits: str | Path | None) -> dict[str, Any]:
    """Return what new images must be fitted with, if lenses were fitted: lensfit, pixel_scale."""
    told = [Path(fits) / "provenance.json"] if fits else []
    told += [Path(features_csv).with_suffix(".json")] if features_csv else []
    for file in told:
        content = json.loads(file.read_text()) if file.is_file() else {}
        if isinstance(content, dict) and content.get("camera"):
            return content["camera"]
    return {}


def columns_of(table: pd.DataFrame, names: list[str], path: str | Path) -> np.ndarray:
    """Return some features of a table read from ``path``, (n, F); InputError if one is absent."""
    if absent := [name for name in names if name not in table]:
        raise InputError(
            f"{path}: found no column {absent[0]}; expected the features {', '.join(names)}"
        )
    return table[names].to_numpy(np.float32)


def residuals_of(model: Model, fits: str | Path | None, data: Dataset) -> np.ndarray | None:
    """Return the residual maps that a model needs of all images, None if it needs none."""
    if not model.residual:
        return None
    if fits is None:
        raise InputError("model.residual is on: the folder of the lens fits is needed (--fits)")
    height, width = data.images.shape[1:]
    if height != width:
        raise InputError(
            f"model.residual is on: found images of {height} x {width} pixels; expected square ones"
        )
    return read_residuals(fits, data.catalog["id"], width)


def predictions_table(
    run: Run,
    data: Dataset,
    rows: np.ndarray,
    features_csv: str | Path | None,
    task: str,
    fits: str | Path | None = None,
) -> pd.DataFrame:
    """Return id, label and the probability of each class of some rows of a processed data set.

    InputError if the run needs features that the table does not have, or lens fits.
    """
    labels, _ = data.labels(task)
    ids = data.catalog["id"].iloc[rows]
    features = None
    if names := list(run.feature_names):
        if features_csv is None:
            raise InputError(
                f"features: found no feature table; expected one with {', '.join(names)}"
            )
        features = columns_of(read_features(features_csv, ids), names, features_csv)
    residuals = residuals_of(run.settings.model, fits, data)
    residuals = None if residuals is None else residuals[rows]
    probabilities = run.predict(data.images[rows], features, residuals)
    table = pd.DataFrame({"id": ids.to_numpy(), "label": labels[rows]})
    for k, name in enumerate(run.classes):
        table[f"p_{name}"] = probabilities[:, k]
    return table


def write_run(
    run: Run,
    out: str | Path,
    history: pd.DataFrame,
    metrics: dict[str, Any],
    predictions: pd.DataFrame | None = None,
    **provenance: Any,
) -> None:
    """Write a run folder, whole or not at all; ``provenance`` goes to its sidecar ``run.json``."""
    with atomic(out) as folder:
        folder.mkdir()
        config.save(run.settings, folder / "config.yaml")
        history.to_csv(folder / "history.csv", index=False)
        if predictions is not None:
            predictions.to_csv(folder / "predictions.csv", index=False)
        state = {name: value.contiguous() for name, value in run.model.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        write_json(folder / "metrics.json", metrics)
        sidecar(folder / "run.json", seed=run.settings.seed, config=run.settings, **provenance)
