"""What a network sees of a dataset: images with residuals, or maps of lenses; joined features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from vitdm.config import CHANNELS, Model, Settings
from vitdm.data.dataset import Dataset, read_features
from vitdm.errors import InputError
from vitdm.features.selected import joined_features
from vitdm.lens.channels import standardised
from vitdm.lens.fits import MAPS, read_maps, read_residuals
from vitdm.lens.resampled import RESAMPLED, read_copies
from vitdm.model.training import Arrays
from vitdm.provenance import read_json
from vitdm.simulation.classes import SUB

AT_ONCE = 1000  # images, or maps of lenses, that are prepared at once


@dataclass(frozen=True)
class Tables:
    """What is known of the images of a dataset besides the pixels; each may be absent.

    ``features`` is the table of ``vitdm features`` (CSV), ``selection`` the selection.json that
    keeps some of them, ``fits`` the folder of lens fits, ``copies`` that of lenses that those fits
    make up (``vitdm.lens.resampled``), of which a training learns, too.
    """

    features: str | Path | None = None
    selection: str | Path | None = None
    fits: str | Path | None = None
    copies: str | Path | None = None

    def needed_by(self, model: Model) -> Tables:
        """Return those that a network with these settings reads."""
        features, selection = (self.features, self.selection) if model.features else (None, None)
        return Tables(features, selection, self.fits if model.sees_fits else None, self.copies)

    def files(self) -> list[Path]:
        """Return the files of feature table and fits, for a sidecar."""
        files = [Path(self.features)] if self.features else []
        if self.fits:
            arrays = Path(self.fits) / "residuals.npy", Path(self.fits) / MAPS
            files += [arrays[0], *(file for file in arrays[1:] if file.is_file())]
        if self.copies:
            files += [Path(self.copies) / name for name in (MAPS, "catalog.csv")]
        return files

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
    given = data.images, *fitted_of(model, tables.fits, data)

    def arrays(rows: np.ndarray) -> Arrays:
        images = network_input(model, rows, *given)
        return images, torch.from_numpy(features[rows]), torch.from_numpy(labels[rows]).long()

    return arrays, names


def channels(images: np.ndarray, residuals: np.ndarray | None = None) -> Tensor:
    """Return the network's input (n, C, H, W): images (n, H, W), and two channels of residuals.

    A residual r is in units of the noise. One channel is arcsinh(r): linear in the noise,
    logarithmic in what stands out. The other is log(1 + s^2), s being the sum of r over 3 x 3
    pixels in units of its own noise: a local chi^2, which no linear map of a patch can make.
    """
    return _channels(np.arange(len(images)), images, residuals)


def _channels(rows: np.ndarray, images: np.ndarray, residuals: np.ndarray | None) -> Tensor:
    """Return the ``channels`` of some rows: a few at a time, or half of the memory is scratch."""
    seen = torch.empty(len(rows), 1 if residuals is None else 3, *images.shape[1:])
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        part = seen[start : start + AT_ONCE]
        part[:, 0] = torch.from_numpy(np.array(images[some], dtype=np.float32))
        if residuals is not None:
            residual = torch.from_numpy(np.array(residuals[some], dtype=np.float32))
            # the sum of 9 pixels, whose noise is 3, is 9 times their mean: s = 9 mean / 3
            summed = 3 * functional.avg_pool2d(residual[:, None], 3, stride=1, padding=1)[:, 0]
            part[:, 1], part[:, 2] = torch.arcsinh(residual), torch.log1p(summed**2)
    return seen


def network_input(
    model: Model,
    rows: np.ndarray | slice,
    images: np.ndarray,
    residuals: np.ndarray | None = None,
    maps: np.ndarray | None = None,
) -> Tensor:
    """Return what a network with these settings sees of some rows, (n, C, H, W).

    Of the processed ``images`` (n, H, W) and, if it sees them, the ``residuals`` (n, H, W) as in
    ``channels``; or else of the ``maps`` (n, all channels, side, side) those of its channels, as
    ``lens.channels.standardised`` makes them, in the half precision that they have on disk.
    """
    if not model.maps:
        residuals = residuals if model.residual else None
        return _channels(np.arange(len(images))[rows], images, residuals)
    return _standardised(model, np.arange(len(maps))[rows], maps, CHANNELS)


def _standardised(
    model: Model, rows: np.ndarray, maps: np.ndarray, names: tuple[str, ...]
) -> Tensor:
    """Return the channels that a network sees of some rows of maps with channels ``names``."""
    chosen = [names.index(name) for name in model.maps]
    side = model.side(maps.shape[-1])
    rim = (maps.shape[-1] - side) // 2
    middle = slice(rim, rim + side)
    parts = [
        standardised(torch.from_numpy(np.array(maps[some][:, chosen, middle, middle])), model.maps)
        for some in np.array_split(rows, -(-len(rows) // AT_ONCE) or 1)
    ]
    return torch.cat([part.half() for part in parts])


def with_copies(
    given: Arrays, settings: Settings, data: Dataset, rows: np.ndarray, copies: str | Path
) -> Arrays:
    """Return what a network learns from: ``given`` of some rows of a dataset, and their copies.

    ``copies`` is a folder of ``vitdm.lens.resampled.resample``. InputError if the network sees what
    copies do not have, or if there is none of these lenses.
    """
    _, classes = data.labels(settings.task)
    images, table = copies_of(settings.model, data.catalog["id"].iloc[rows], copies)
    merged = SUB if SUB in classes else None
    names = table["class"].map(lambda name: name if name in classes else merged)
    if names.isna().any():
        found = table["class"][names.isna()].iloc[0]
        raise InputError(f"{copies}: found class {found}; expected {', '.join(classes)}")
    return joined_with(given, images, torch.tensor([classes.index(name) for name in names]))


def copies_of(
    model: Model, ids: pd.Series, copies: str | Path, classes: Sequence[str] | None = None
) -> tuple[Tensor, pd.DataFrame]:
    """Return what a network sees of the copies of lenses with these ids, and their catalog.

    Of some ``classes`` alone, if any are named. InputError as of ``with_copies``.
    """
    if lacking := [name for name in model.maps if name not in RESAMPLED]:
        raise InputError(f"model.maps: {lacking[0]}: copies have none; expected {RESAMPLED}")
    if not model.maps or model.features:
        raise InputError("copies: found a network that sees more than maps; expected maps alone")
    maps, table = read_copies(copies)
    wanted = table["id"].isin(ids) & (table["class"].isin(classes) if classes else True)
    own = np.flatnonzero(wanted)
    if not len(own):
        raise InputError(f"{copies}: found no copies of the lenses that are learned from")
    images = _standardised(model, own, maps, RESAMPLED)
    return images, table.iloc[own].reset_index(drop=True)


def joined_with(given: Arrays, images: Tensor, targets: Tensor) -> Arrays:
    """Return what a network learns from, and further images with their targets."""
    features = given[1].new_empty(len(images), 0)
    return tuple(torch.cat(pair) for pair in zip(given, (images, features, targets), strict=True))


def fitted_of(
    model: Model, fits: str | Path | None, data: Dataset
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the residuals and the maps of all images, None of those that a model does not need."""
    wanted = {"model.residual": model.residual, "model.maps": bool(model.maps)}
    for name in (name for name, on in wanted.items() if on and fits is None):
        raise InputError(f"{name} is on: the folder of the lens fits is needed (--fits)")
    maps = read_maps(fits, data) if model.maps else None
    if not model.residual:
        return None, maps
    height, width = data.images.shape[1:]
    if height != width:
        raise InputError(
            f"model.residual is on: found images of {height} x {width} pixels; expected square ones"
        )
    return read_residuals(fits, data, width), maps


def size_of(model: Model, data: Dataset, tables: Tables = NO_TABLES) -> int | tuple[int, int]:
    """Return the side, or (height, width), pixels, of what a network sees of a dataset."""
    if model.maps:
        return model.side(fitted_of(model, tables.fits, data)[1].shape[-1])
    height, width = data.images.shape[1:]
    return height if height == width else (height, width)


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
