"""What a network sees of a dataset of processed images: image, residual map, joined features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from vitdm.config import Model, Settings
from vitdm.data.dataset import Dataset, read_features
from vitdm.errors import InputError
from vitdm.features.selected import joined_features
from vitdm.lens.fits import read_residuals
from vitdm.model.training import Arrays
from vitdm.provenance import read_json


@dataclass(frozen=True)
class Tables:
    """What is known of the images of a dataset besides the pixels; each may be absent.

    ``features`` is the table of ``vitdm features`` (CSV), ``selection`` the selection.json that
    keeps some of them, ``fits`` the folder of lens fits.
    """

    features: str | Path | None = None
    selection: str | Path | None = None
    fits: str | Path | None = None

    def needed_by(self, model: Model) -> Tables:
        """Return those that a network with these settings reads."""
        features, selection = (self.features, self.selection) if model.features else (None, None)
        return Tables(features, selection, self.fits if model.residual else None)

    def files(self) -> list[Path]:
        """Return the files of feature table and fits, for a sidecar."""
        files = [Path(self.features)] if self.features else []
        return files + ([Path(self.fits) / "residuals.npy"] if self.fits else [])

    def camera(self) -> dict[str, Any]:
        """Return what new images must be fitted with, if lenses were fitted: lensfit, pixel_scale.

        Read from the sidecar of the fits, or of the features that were measured on them.
        """
        sidecars = [Path(self.fits) / "provenance.json"] if self.fits else []
        sidecars += [Path(self.features).with_suffix(".json")] if self.features else []
        for file in sidecars:
            if camera := read_json(file).get("camera") if file.is_file() else None:
                return camera
        return {}


NO_TABLES = Tables()


def inputs_for(
    settings: Settings, data: Dataset, tables: Tables = NO_TABLES
) -> tuple[Callable[[np.ndarray], Arrays], list[str]]:
    """Return the function from rows of a dataset to what a network sees, and its features' names.

    Which features join is in ``settings.model``. InputError if something it needs is absent.
    """
    model = settings.model
    labels, _ = data.labels(settings.task)
    features, names = np.empty((len(labels), 0), np.float32), []
    if model.features:
        if tables.features is None:
            raise InputError("model.features is on: a feature table is needed")
        table = read_features(tables.features, data)
        chosen = joined_features(model, settings.features, tables.selection)
        names = list(table.columns if chosen is None else chosen)
        features = columns_of(table, names, tables.features)
    residuals = residuals_of(model, tables.fits, data)

    def arrays(rows: np.ndarray) -> Arrays:
        images = channels(data.images[rows], None if residuals is None else residuals[rows])
        return images, torch.from_numpy(features[rows]), torch.from_numpy(labels[rows]).long()

    return arrays, names


def channels(images: np.ndarray, residuals: np.ndarray | None = None) -> Tensor:
    """Return the network's input (n, C, H, W): images (n, H, W), and two channels of residuals.

    A residual r is in units of the noise. One channel is arcsinh(r): linear in the noise,
    logarithmic in what stands out. The other is log(1 + s^2), s being the sum of r over 3 x 3
    pixels in units of its own noise: a local chi^2, which no linear map of a patch can make.
    """
    layers = [torch.from_numpy(np.array(images, dtype=np.float32))]
    if residuals is not None:
        residual = torch.from_numpy(np.array(residuals, dtype=np.float32))
        # the sum of 9 pixels, whose noise is 3, is 9 times their mean: s = 9 mean / 3
        summed = 3 * functional.avg_pool2d(residual[:, None], 3, stride=1, padding=1)[:, 0]
        layers += [torch.arcsinh(residual), torch.log1p(summed**2)]
    return torch.stack(layers, dim=1)


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
    return read_residuals(fits, data, width)


def columns_of(table: pd.DataFrame, names: list[str], path: str | Path) -> np.ndarray:
    """Return some features of a table read from ``path``, (n, F); InputError if one is absent."""
    if absent := [name for name in names if name not in table]:
        raise InputError(
            f"{path}: found no column {absent[0]}; expected the features {', '.join(names)}"
        )
    return table[names].to_numpy(np.float32)


def first_rows(rows: np.ndarray, n: int | None, seed: int) -> np.ndarray:
    """Return the first n rows (None: all) of an order that depends on the seed, sorted."""
    if n is None or n >= len(rows):
        return rows
    shuffled = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    return np.sort(shuffled.permutation(rows)[:n])


def inputs_of(processed: str | Path, tables: Tables = NO_TABLES) -> list[Path]:
    """Return the files that a training reads, for its sidecar."""
    return [Path(processed) / "images.npy", Path(processed) / "catalog.csv", *tables.files()]
