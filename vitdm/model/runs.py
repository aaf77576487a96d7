"""Finished runs: a network trained on a dataset of processed images, written, read and applied."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from torch import nn

from vitdm import config
from vitdm.config import RunSettings, Settings
from vitdm.config.reading import read_yaml
from vitdm.data.dataset import Dataset, read_features
from vitdm.errors import InputError
from vitdm.model import novelty
from vitdm.model.inputs import (
    NO_TABLES,
    Tables,
    columns_of,
    first_rows,
    fitted_of,
    inputs_for,
    inputs_of,
    network_input,
    size_of,
    with_copies,
)
from vitdm.model.networks import new_network, probabilities
from vitdm.model.training import Arrays, Diverged, learn
from vitdm.provenance import (
    atomic,
    check_outputs,
    check_replaceable,
    config_hash,
    read_json,
    sidecar,
    write_json,
)
from vitdm.threads import one_thread

RUN_FILES = ("config.yaml", "metrics.json", "history.csv", "model.safetensors", "run.json")


@dataclass(frozen=True)
class Run:
    """A trained network and what it needs to be used on new images.

    ``novelty`` tells images that are unlike the training images; None of a run that an earlier
    version has written.
    """

    settings: RunSettings
    model: nn.Module
    novelty: novelty.Novelty | None = None

    @property
    def classes(self) -> list[str]:
        return self.settings.classes

    @property
    def feature_names(self) -> list[str]:
        return self.settings.feature_names

    @one_thread()
    def predict(
        self,
        images: np.ndarray,
        features: np.ndarray | None = None,
        residuals: np.ndarray | None = None,
        maps: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the probability of each class, (n, K), of processed images (n, H, W).

        ``features`` (n, F) in the order of ``feature_names``, NaN where missing; ``residuals``
        (n, H, W) what a fitted smooth lens leaves; ``maps`` (n, C, side, side) all channels of
        ``vitdm.lens.channels``. InputError if the model was trained with them and they are not
        given, or not as many features.
        """
        self._check(images, features, residuals, maps)
        model, batches = self.settings.model, []
        for start in range(0, len(images), 256):
            rows = slice(start, start + 256)
            batch = network_input(model, rows, images, residuals, maps)
            extra = None
            if self.feature_names:
                extra = torch.from_numpy(np.array(features[rows], dtype=np.float32))
            batches.append(probabilities(self.model, batch, extra, average=model.average))
        return np.concatenate(batches)

    def p_values(
        self,
        images: np.ndarray,
        features: np.ndarray | None = None,
        residuals: np.ndarray | None = None,
        maps: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return how usual images are (n,): the p-value of ``vitdm.model.novelty``, NaN if unknown.

        Arguments and errors as of ``predict``.
        """
        if self.novelty is None:
            self._check(images, features, residuals, maps)
            return np.full(len(images), np.nan)
        return self.novelty.p_values(self.numbers(images, features, residuals, maps))

    def numbers(
        self,
        images: np.ndarray,
        features: np.ndarray | None = None,
        residuals: np.ndarray | None = None,
        maps: np.ndarray | None = None,
    ) -> novelty.Numbers:
        """Return the numbers of images that ``novelty`` compares; arguments as of ``predict``."""
        self._check(images, features, residuals, maps)
        extra = features if self.feature_names else np.empty((len(images), 0))
        parts = []
        for start in range(0, len(images), 256):
            rows = slice(start, start + 256)
            batch = network_input(self.settings.model, rows, images, residuals, maps)
            joined = torch.from_numpy(np.array(extra[rows], np.float32))
            parts.append(novelty.numbers_of(self.model, images[rows], batch, joined))
        return {kind: np.concatenate([part[kind] for part in parts]) for kind in parts[0]}

    def _check(
        self,
        images: np.ndarray,
        features: np.ndarray | None,
        residuals: np.ndarray | None,
        maps: np.ndarray | None,
    ) -> None:
        """Raise InputError unless the network can be applied to these."""
        size = self.settings.image_size
        height, width = (size, size) if isinstance(size, int) else size
        if self.settings.model.maps:
            side = self.settings.lensfit.map_side
            shape = len(images), len(config.CHANNELS), side, side
            if np.shape(maps) != shape:
                raise InputError(f"maps: found shape {np.shape(maps)}; expected {shape}")
        elif np.shape(images)[1:] != (height, width):
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
        if expected and np.isinf(features).any():
            row, column = np.argwhere(np.isinf(features))[0]
            raise InputError(
                f"features: {self.feature_names[column]}: found an infinite value in row {row}; "
                "expected a number, or NaN where there is none"
            )
        if self.settings.model.residual and residuals is None:
            raise InputError("residuals: found none; the model was trained with them")

    def attention(
        self,
        images: np.ndarray,
        features: np.ndarray | None = None,
        residuals: np.ndarray | None = None,
        maps: np.ndarray | None = None,
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
        batch = network_input(chosen, slice(None), images, residuals, maps).float()
        extra = torch.from_numpy(np.array(features, np.float32)) if self.feature_names else None
        with torch.inference_mode():
            weights = self.model.attention(batch, extra)[-1].mean(dim=1)  # (B, N, N)
        rows, columns = (side // chosen.patch_size for side in batch.shape[2:])
        first = int(chosen.pool == "cls")
        looks = weights[:, 0] if first else weights.mean(dim=1)  # (B, N)
        return looks[:, first : first + rows * columns].reshape(-1, rows, columns).numpy()


@dataclass(frozen=True)
class Splits:
    """Which splits of a dataset are trained on, choose the epoch, and are predicted at the end.

    Without ``valid`` all epochs are run and the last weights kept; without ``score`` nothing is
    predicted.
    """

    train: tuple[str, ...] = ("train",)
    valid: str | None = "valid"
    score: str | None = "opt"


DEVELOPMENT = Splits()  # of all trainings but the final one


def train_run(
    processed: str | Path,
    out: str | Path,
    settings: Settings,
    *,
    tables: Tables = NO_TABLES,
    splits: Splits = DEVELOPMENT,
    n_train: int | None = None,
    label: str | None = None,
    progress: bool = True,
    keep_checkpoint: bool = False,
) -> dict[str, Any]:
    """Train one network on a dataset of processed images, write its folder, return its metrics.

    ``settings.seed`` decides all that is random; the sections model and train say what is trained;
    how images are processed and features measured is kept in the run's config.yaml, for predictions
    from raw images. ``n_train`` limits the training images; ``label`` stands at the progress bar.
    If it is killed and called again, it continues from the checkpoint that it keeps in a hidden
    file beside ``out`` until the run is written, or longer if ``keep_checkpoint``. Raises Diverged
    if the loss or a weight becomes NaN or infinite, and writes ``<out>.failed.json``, which the
    next attempt deletes.
    """
    started = time.time()
    check_replaceable(out, (*RUN_FILES, novelty.NAME, "predictions.csv"))
    check_outputs(Path(processed) / "dataset.json", "images.npy")  # hashed once, for run.json too
    data = Dataset.open(processed)
    size = size_of(settings.model, data, tables)
    config.check_patches(settings.model, size)
    arrays, names = inputs_for(settings, data, tables)
    rows = first_rows(data.rows(*splits.train), n_train, settings.seed)
    training = arrays(rows)
    if tables.copies:
        training = with_copies(training, settings, data, rows, tables.copies)
    with _note_of_failure(out, settings.seed):
        learnt = learn(
            training,
            arrays(data.rows(splits.valid)) if splits.valid else None,
            len(data.labels(settings.task)[1]),
            settings.model,
            settings.train,
            seed=settings.seed,
            checkpoint=checkpoint_of(out),
            label=label or Path(out).name,
            progress=progress,
        )
    held_out = splits.valid or splits.score

    def seen(rows: np.ndarray) -> tuple[np.ndarray, Arrays]:
        rows = novelty.thinned(rows)
        return data.images[rows], arrays(rows)

    known = novelty.learn(learnt.model, seen(rows), seen(data.rows(held_out)) if held_out else None)
    used = tables.needed_by(settings.model)
    described = {"feature_names": names, "train_splits": list(splits.train), "n_train": len(rows)}
    described |= {"pixel_scale": data.pixel_scale} | used.camera()
    described |= {"image_size": size}
    run = Run(_run_settings(settings, data, **described), learnt.model, known)
    metrics, predictions = learnt.metrics(len(rows)), None
    if splits.score:
        predictions = predictions_table(run, data, data.rows(splits.score), tables)
        score = 1 - predictions[f"p_{run.classes[0]}"]
        metrics["roc_auc"] = float(roc_auc_score(predictions["label"] > 0, score))
    write_run(
        run,
        out,
        learnt.history,
        metrics,
        predictions,
        rule="train" if splits.valid else "train_final",
        inputs=inputs_of(processed, used),
        started=started,
        training=learnt.timing(len(rows)),
    )
    if not keep_checkpoint:
        checkpoint_of(out).unlink(missing_ok=True)
    return metrics | learnt.timing(len(rows))


@contextlib.contextmanager
def _note_of_failure(out: str | Path, seed: int) -> Iterator[None]:
    """Write ``<out>.failed.json`` if a training diverges, and delete the one of an earlier try."""
    note = Path(f"{Path(out)}.failed.json")  # without a slash at the end
    note.unlink(missing_ok=True)
    try:
        yield
    except Diverged as error:
        write_json(note, {"error": str(error), "seed": seed})
        checkpoint_of(out).unlink(missing_ok=True)
        raise


def _run_settings(settings: Settings, data: Dataset, **described: Any) -> RunSettings:
    """Return what the run must know to be used again."""
    kept = ("model", "train", "preprocess", "features", "task", "seed")
    return RunSettings(
        classes=data.labels(settings.task)[1],
        **{name: getattr(settings, name) for name in kept},
        **described,
    )


def checkpoint_of(out: str | Path) -> Path:
    """Return the hidden file from which the training of a run folder continues after a kill."""
    place = Path(out).absolute()
    return place.with_name(f".{place.name}.checkpoint")


def predictions_table(
    run: Run, data: Dataset, rows: np.ndarray, tables: Tables = NO_TABLES
) -> pd.DataFrame:
    """Return id, label and the probability of each class of some rows of a processed dataset.

    InputError if the run needs features that the table does not have, or lens fits.
    """
    labels, _ = data.labels(run.settings.task)
    ids = data.catalog["id"].iloc[rows]
    features = None
    if names := list(run.feature_names):
        if tables.features is None:
            raise InputError(
                f"features: found no feature table; expected one with {', '.join(names)}"
            )
        table = read_features(tables.features, data).iloc[rows]
        features = columns_of(table, names, tables.features)
    fitted = fitted_of(run.settings.model, tables.fits, data)
    fitted = [None if array is None else array[rows] for array in fitted]
    probabilities = run.predict(data.images[rows], features, *fitted)
    table = pd.DataFrame({"id": ids.to_numpy(), "label": labels[rows]})
    for k, name in enumerate(run.classes):
        table[f"p_{name}"] = probabilities[:, k]
    return table


def load_run(folder: str | Path) -> Run:
    """Open a finished run.

    InputError if the folder is incomplete, if weights or configuration are not those that
    ``run.json`` was written with, or if a weight is NaN or infinite.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such run folder")
    missing = [name for name in RUN_FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder}: incomplete run; missing {', '.join(missing)}")
    settings = config.load_run_settings(folder / "config.yaml")
    weights = folder / "model.safetensors"
    try:
        model = new_network(
            settings.model, settings.image_size, len(settings.classes), len(settings.feature_names)
        )
        model.load_state_dict(load_file(weights))
    except Exception as error:  # safetensors and torch raise many kinds
        raise InputError(f"{weights}: does not fit config.yaml of the run ({error})") from error
    _check_trained(folder, model)
    file = folder / novelty.NAME
    known = novelty.load(file) if file.is_file() else None
    return Run(settings, model.eval(), known)


def _check_trained(folder: Path, model: nn.Module) -> None:
    """Raise InputError unless weights and settings are those that were trained together.

    The same weights under other settings, such as classes in another order, give answers that look
    as good as the right ones.
    """
    weights, file = folder / "model.safetensors", folder / "config.yaml"
    for name, values in model.state_dict().items():
        if not values.isfinite().all():
            raise InputError(f"{weights}: {name}: found NaN or infinity; expected finite weights")
    # of what is written, not of what is read: a key that a later version adds changes nothing
    if read_json(folder / "run.json").get("config_sha256") != config_hash(read_yaml(file)):
        raise InputError(
            f"{file}: is not the configuration that the weights were trained with: its hash is not "
            "config_sha256 of run.json; expected the file as vitdm train wrote it"
        )
    known = [novelty.NAME] if (folder / novelty.NAME).is_file() else []  # archives may lack it
    check_outputs(folder / "run.json", weights.name, *known)


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
        if run.novelty is not None:
            run.novelty.save(folder / novelty.NAME)
        write_json(folder / "metrics.json", metrics)
        about = {"seed": run.settings.seed, "config": run.settings}
        sidecar(folder / "run.json", outputs=sorted(folder.iterdir()), **about, **provenance)
