"""The training recipe (Lightning), and finished runs."""

from __future__ import annotations

import json
import logging
import math
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from vitdm import config
from vitdm.config import Config, InputError, Model, RunSettings, Train
from vitdm.dataset import Dataset, read_features
from vitdm.model import ViT
from vitdm.provenance import atomic, check_replaceable, sidecar, write_json
from vitdm.residuals import read_residuals

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


class Recipe(lightning.LightningModule):
    """AdamW, warm-up and cosine decay, label smoothing; validation by the binary ROC-AUC."""

    def __init__(self, model: ViT, settings: Train, total_steps: int):
        super().__init__()
        self.model = model
        self.settings = settings
        self.total_steps = total_steps
        self.history: list[dict[str, Any]] = []
        self.seconds = 0.0
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._losses: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], index: int) -> Tensor:
        images, features, labels = batch
        logits = self.model(images, features)
        loss = functional.cross_entropy(
            logits, labels, label_smoothing=self.settings.label_smoothing
        )
        if not torch.isfinite(loss):
            rate = self.optimizers().param_groups[0]["lr"]
            raise Diverged(
                f"the loss became {loss.item()} in epoch {self.current_epoch + 1}, batch "
                f"{index + 1}, at learning rate {rate:.3g}"
            )
        self._losses.append(loss.detach())
        return loss

    def on_train_epoch_start(self) -> None:
        self._started = time.perf_counter()

    def on_validation_epoch_start(self) -> None:
        self._paused = time.perf_counter()

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], index: int) -> None:
        images, features, labels = batch
        self._logits.append(self.model(images, features))
        self._labels.append(labels)

    def on_validation_epoch_end(self) -> None:
        logits, labels = torch.cat(self._logits).cpu(), torch.cat(self._labels).cpu()
        self._logits.clear()
        self._labels.clear()
        scores = 1 - logits.softmax(dim=1)[:, 0]
        auc = roc_auc_score(labels.numpy() > 0, scores.numpy()) if scores.isfinite().all() else 0.5
        self.log("valid_loss", functional.cross_entropy(logits, labels))
        self.log("valid_roc_auc", float(auc))
        self._started += time.perf_counter() - self._paused

    def on_train_epoch_end(self) -> None:
        self.seconds += time.perf_counter() - self._started
        metrics = self.trainer.callback_metrics
        self.history.append(
            {
                "epoch": self.current_epoch + 1,
                "train_loss": torch.stack(self._losses).mean().item(),
                "valid_loss": float(metrics.get("valid_loss", math.nan)),
                "valid_roc_auc": float(metrics.get("valid_roc_auc", math.nan)),
                "learning_rate": self.optimizers().param_groups[0]["lr"],
                "seconds": round(self.seconds, 2),
            }
        )
        self._losses.clear()

    def configure_optimizers(self) -> dict[str, Any]:
        optimiser = torch.optim.AdamW(
            self.model.parameter_groups(self.settings.weight_decay), lr=self.settings.learning_rate
        )
        warmup = max(1, round(self.settings.warmup * self.total_steps))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            decay = max(1, self.total_steps - warmup)
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / decay))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class Progress(Callback):
    """One bar for the whole run, with the best validation ROC-AUC so far."""

    def __init__(self, label: str, total: int):
        self.bar = tqdm(total=total, desc=label, unit="batch", mininterval=5, ncols=100)

    def on_train_batch_end(self, *_: Any) -> None:
        self.bar.update()

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Recipe) -> None:
        aucs = [row["valid_roc_auc"] for row in module.history]
        if aucs and not math.isnan(aucs[-1]):
            self.bar.set_postfix(epoch=len(aucs), best_auc=f"{max(aucs):.4f}", refresh=False)

    def teardown(self, *_: Any, **__: Any) -> None:
        self.bar.close()

    def on_exception(self, *_: Any) -> None:
        self.bar.close()  # what is said next gets a line of its own


@dataclass(frozen=True)
class Run:
    """A trained model and what it needs to be used on new images."""

    settings: RunSettings
    model: ViT

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
        self.model.eval()
        probabilities = []
        with torch.inference_mode():
            for start in range(0, len(images), 256):
                rows = slice(start, start + 256)
                batch = channels(images[rows], None if residuals is None else residuals[rows])
                extra = None
                if self.feature_names:
                    extra = torch.from_numpy(np.array(features[rows], dtype=np.float32))
                probabilities.append(self.model(batch, extra).softmax(dim=1).numpy())
        return np.concatenate(probabilities).astype(np.float64)


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


def new_model(model: Model, size: int | tuple[int, int], n_classes: int, n_features: int) -> ViT:
    """Return an untrained network for these settings."""
    return ViT(model, size, n_classes, n_features, channels=3 if model.residual else 1)


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
) -> dict[str, Any]:
    """Train one model, write its run folder (if ``out`` is given) and return its metrics.

    ``processed`` is a data set folder of processed images. With ``valid_split`` the weights of the
    epoch with the best validation ROC-AUC are kept and training stops early; without, all epochs
    are run and the last weights kept. ``score_split`` is predicted at the end, in
    ``predictions.csv``. ``n_train`` limits the training images. ``feature_names`` are the columns
    of the feature table that join the image if ``model.features`` is on (default: all of them;
    ``selection.joined_features`` gives those that ``model.feature_set`` asks for). ``fits`` is the
    folder of lens fits that ``model.residual`` needs. Raises Diverged if the loss or a weight
    becomes NaN or infinite.
    """
    started = time.time()
    if out is not None:
        check_replaceable(out, (*RUN_FILES, "predictions.csv", "run.json"))
    data = Dataset.open(processed)
    height, width = data.images.shape[1:]
    size = height if height == width else (height, width)
    config.check_patches(model, size)
    labels, classes = data.labels(settings.task)
    features, names = np.empty((len(labels), 0), np.float32), []
    if model.features:
        if features_csv is None:
            raise InputError("model.features is on: a feature table is needed")
        table = read_features(features_csv, data.catalog["id"])
        names = list(table.columns if feature_names is None else feature_names)
        features = columns_of(table, names, features_csv)

    residuals = residuals_of(model, fits, data)

    def arrays(rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        images = channels(data.images[rows], None if residuals is None else residuals[rows])
        return images, torch.from_numpy(features[rows]), torch.from_numpy(labels[rows]).long()

    rows = first_rows(data.rows(*train_splits), n_train, seed)
    training = arrays(rows)

    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as scratch:
        torch.manual_seed(seed)
        vit = new_model(model, size, len(classes), len(names))
        if names:
            vit.standardise(training[1])
        shuffle = torch.Generator().manual_seed(seed)
        batches = Batches(training, train.batch_size, shuffle, train.flips)
        recipe = Recipe(vit, train, total_steps=train.epochs * len(batches))
        callbacks: list[Callback] = []
        if progress:
            callbacks.append(Progress(label, recipe.total_steps))
        valid_batches = None
        if valid_split:
            valid_batches = Batches(arrays(data.rows(valid_split)), 256)
            watch = {"monitor": "valid_roc_auc", "mode": "max"}
            best = ModelCheckpoint(scratch, **watch, save_weights_only=True)
            callbacks += [best, EarlyStopping(**watch, patience=train.patience)]
        _train(recipe, batches, valid_batches, train, callbacks)
        if valid_split:
            state = torch.load(best.best_model_path, weights_only=True)["state_dict"]
            vit.load_state_dict({k.removeprefix("model."): v for k, v in state.items()})
        if not all(parameter.isfinite().all() for parameter in vit.parameters()):
            raise Diverged(
                f"the weights are not finite after epoch {len(recipe.history)}, "
                f"at learning rate {train.learning_rate:.3g}"
            )

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
        vit.eval(),
    )
    history = pd.DataFrame(recipe.history)
    metrics = {
        "epochs": len(history),
        "parameters": sum(p.numel() for p in vit.parameters()),
        "n_train": len(rows),
        "seconds": round(recipe.seconds, 2),
        "images_per_second": round(len(rows) * len(history) / recipe.seconds, 1),
    }
    if valid_split:
        best_row = history["valid_roc_auc"].idxmax()
        metrics["best_epoch"] = int(history["epoch"][best_row])
        metrics["valid_roc_auc"] = float(history["valid_roc_auc"][best_row])
    predictions = None
    if score_split:
        scored = data.rows(score_split)
        predictions = predictions_table(run, data, scored, features_csv, settings.task, fits)
        score = 1 - predictions[f"p_{classes[0]}"]
        metrics["roc_auc"] = float(roc_auc_score(predictions["label"] > 0, score))
    if out is not None:
        provenance = {
            "rule": "train" if valid_split else "train_final",
            "inputs": inputs_of(
                processed,
                features_csv if model.features else None,
                fits if model.residual else None,
            ),
            "started": started,
        }
        _write_run(run, out, history, metrics, predictions, provenance)
    return metrics


def _train(
    recipe: Recipe, batches: Batches, valid: Batches | None, train: Train, callbacks: list[Callback]
) -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    trainer = lightning.Trainer(
        accelerator=train.accelerator,
        devices=1,
        max_epochs=train.epochs,
        gradient_clip_val=train.clip,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
        warnings.filterwarnings("ignore", message=".*isinstance.*LeafSpec.*")
        trainer.fit(recipe, batches, valid)
    recipe.model.to("cpu")


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


def _write_run(
    run: Run,
    out: str | Path,
    history: pd.DataFrame,
    metrics: dict[str, Any],
    predictions: pd.DataFrame | None,
    provenance: dict[str, Any],
) -> None:
    with atomic(out) as folder:
        folder.mkdir()
        config.save(run.settings, folder / "config.yaml")
        history.to_csv(folder / "history.csv", index=False)
        if predictions is not None:
            predictions.to_csv(folder / "predictions.csv", index=False)
        save_file(run.model.state_dict(), folder / "model.safetensors")
        write_json(folder / "metrics.json", metrics)
        sidecar(folder / "run.json", seed=run.settings.seed, config=run.settings, **provenance)
