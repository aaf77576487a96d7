"""Fits of the smooth lenses of a whole dataset on disk: written in shards, merged, read again."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from vitdm.config import CHANNELS, SPLITS, LensFit
from vitdm.data import dataset
from vitdm.data.observation import as_observations
from vitdm.errors import InputError
from vitdm.lens import matched, perturbers
from vitdm.lens.fit import SAMPLE, Fits, estimate_gain, fit
from vitdm.lens.parameters import parameters
from vitdm.lens.residuals import features
from vitdm.provenance import atomic, check_replaceable, sidecar

FITS_FILES = ("fits.csv", "residuals.npy", "provenance.json")
MAPS = "maps.npy"  # beside them if ``LensFit.maps`` asks for it


def fit_dataset(
    dataset_folder: str | Path,
    out: str | Path,
    settings: LensFit,
    shard: tuple[int, int] = (0, 1),
    progress: bool = True,
) -> None:
    """Fit a smooth lens to the images of a dataset; write shard ``(k, of)`` to the folder ``out``.

    ``fits.csv`` has id, ``fit_converged`` (0 or 1), ``fit_flags``, the parameters with their errors
    (``fit_..._error``) and the ``residuals.COLUMNS``; with ``settings.search`` the
    ``perturbers.COLUMNS``, too. What has no value is an empty cell.
    ``residuals.npy`` is (n, size, size) float32; with ``settings.maps`` there is ``maps.npy``, too,
    (n, C, side, side) float16, the channels of ``vitdm.lens.channels``. A shard consists of whole
    batches, so that the shards, merged, are the same bytes whatever their number. InputError if the
    dataset does not state its pixel scale.
    """
    started = time.time()
    k, of = shard
    if not 0 <= k < of:
        raise InputError(f"shard {k}/{of}: expected k/n with 0 <= k < n")
    check_replaceable(out, (*FITS_FILES, MAPS))
    source = dataset.Dataset.open(dataset_folder)
    source.check_raw()
    pixel_scale = source.pixel_scale
    if pixel_scale is None:
        raise InputError(
            f"{source.folder / 'dataset.json'}: found no pixel_scale; expected arcsec per pixel "
            "(vitdm ingest --pixel-scale)"
        )
    n = len(source.images)
    gain = settings.gain
    if gain is None:
        known = np.flatnonzero(source.catalog["split"].isin(SPLITS[:-1]))
        spread = known[np.unique(np.linspace(0, len(known) - 1, SAMPLE).round().astype(int))]
        gain = estimate_gain(source.images[spread], settings, pixel_scale=pixel_scale)
    batches = math.ceil(n / settings.batch)
    first, last = (min(n, batches * i // of * settings.batch) for i in (k, k + 1))
    bar = tqdm(
        range(first, last, settings.batch),
        desc=f"lensfit {k + 1}/{of}",
        unit="batch",
        disable=not progress,
    )
    tables = []
    with atomic(out) as folder:
        folder.mkdir()
        with contextlib.ExitStack() as files:
            written = {
                name: files.enter_context(open(folder / name, "wb")) for name in _shapes(settings)
            }
            for name, shape in _shapes(settings).items():
                _header(written[name], (last - first, *shape), TYPES[name])
            for start in bar:
                rows = slice(start, min(start + settings.batch, last))
                images, known = source.images[rows], {"pixel_scale": pixel_scale, "gain": gain}
                fits = fit(images, settings, **known)
                table = rows_of(fits, source.catalog["id"].to_numpy()[rows])
                more, maps = perturbers.measure_and_map(
                    as_observations(images), fits, settings, searched=settings.search, **known
                )
                for name, values in (("residuals.npy", fits.residual), (MAPS, maps)):
                    if name in written:
                        written[name].write(values.astype(TYPES[name]).tobytes())
                tables.append(table if more is None else pd.concat([table, more], axis=1))
        table = pd.concat(tables or [rows_of(_nothing(settings), np.empty(0, str))])
        if settings.search and not tables:
            table = table.reindex(columns=[*table, *perturbers.COLUMNS])
        table.to_csv(folder / "fits.csv", index=False, float_format="%.7g")
        sidecar(
            folder / "provenance.json",
            rule="lensfit",
            config=settings,
            inputs=[source.folder / "images.npy", source.folder / "catalog.csv"],
            outputs=[folder / "fits.csv"],
            started=started,
            rows=[first, last],
            n=n,
            **({"channels": list(CHANNELS)} if settings.maps else {}),
            camera={
                "lensfit": settings.model_copy(update={"gain": gain}),
                "pixel_scale": pixel_scale,
            },
        )


TYPES = {"residuals.npy": "<f4", MAPS: "<f2"}


def _shapes(settings: LensFit) -> dict[str, tuple[int, ...]]:
    """Return the arrays that are written, and the shape of what a lens has in each."""
    shapes: dict[str, tuple[int, ...]] = {"residuals.npy": (settings.size, settings.size)}
    if settings.maps:
        shapes[MAPS] = (len(CHANNELS), settings.map_side, settings.map_side)
    return shapes


def _header(file: BinaryIO, shape: tuple[int, ...], kind: str) -> None:
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _nothing(settings: LensFit) -> Fits:
    """Return fits of no images."""
    names = tuple(row.name for row in parameters(settings.n_lights))
    values, images = np.empty((0, len(names))), np.empty((0, settings.size, settings.size))
    perturbers = np.empty((0, len(matched.NAMES)))
    return Fits(
        names=names,
        values=values,
        errors=values,
        chi2=np.empty(0),
        converged=np.empty(0, bool),
        flags=[],
        perturbers=perturbers,
        maps=images,
        residual=images,
        lensed=images,
        cameras=[],
        gain=np.empty(0),
        unknown=[],
    )


def rows_of(fits: Fits, ids: NDArray) -> pd.DataFrame:
    """Return a row for each fit: id, whether it converged, flags, parameters, errors, features."""
    columns: dict[str, Any] = {
        "id": ids,
        "fit_converged": fits.converged.astype(int),
        "fit_flags": fits.flags,
    }
    for k, name in enumerate(fits.names):
        columns[f"fit_{name}"] = fits.values[:, k]
        columns[f"fit_{name}_error"] = fits.errors[:, k]
    measured = features(fits)
    return pd.DataFrame(columns | {n: measured[n] for n in measured if n not in columns})


def merge_fits(shards: Sequence[str | Path], out: str | Path) -> None:
    """Join the shards of one fit, in any order; the result is that of a fit in one piece.

    InputError if some rows are missing or fitted twice, or if the shards do not belong together.
    """
    started = time.time()
    check_replaceable(out, (*FITS_FILES, MAPS))
    parts = sorted((_provenance(Path(shard)) for shard in shards), key=lambda part: part[0]["rows"])
    if not parts:
        raise InputError(f"{out}: nothing to merge; expected at least one folder")
    whole, origin = parts[0]
    expected = 0
    for other, shard in parts:
        for key in ("config_sha256", "inputs", "n", "camera"):
            # the same images may have been seen from another folder
            found, wanted = (
                sorted(entry[key].values()) if key == "inputs" else entry[key]
                for entry in (other, whole)
            )
            if found != wanted:
                raise InputError(f"{shard}: {key} differs from that of {origin}")
        first, last = other["rows"]
        if first != expected:
            raise InputError(f"{shard}: found rows from {first} on; expected row {expected} next")
        expected = last
    if expected != whole["n"]:
        raise InputError(f"{out}: found {expected} rows in all shards; expected {whole['n']}")
    with atomic(out) as folder:
        folder.mkdir()
        with (folder / "fits.csv").open("w") as table:
            for i, (_, shard) in enumerate(parts):
                lines = (shard / "fits.csv").read_text().splitlines(keepends=True)
                table.writelines(lines[min(i, 1) :])
        for name in ("residuals.npy", *([MAPS] if "channels" in whole else [])):
            _join([shard / name for _, shard in parts], folder / name, whole["n"])
        sidecar(
            folder / "provenance.json",
            rule="lensfit",
            inputs=[shard / "fits.csv" for _, shard in parts],
            outputs=[folder / "fits.csv"],
            started=started,
            config_sha256=whole["config_sha256"],
            made_of=whole["inputs"],  # the images, which the shards' own inputs name
            rows=[0, whole["n"]],
            n=whole["n"],
            **({"channels": whole["channels"]} if "channels" in whole else {}),
            camera=whole["camera"],
        )


def _join(parts: Sequence[Path], out: Path, n: int) -> None:
    """Write the rows of several arrays, n in all, one after the other."""
    with out.open("wb") as file:
        for i, part in enumerate(parts):
            with part.open("rb") as source:
                np.lib.format.read_magic(source)
                shape, _, kind = np.lib.format.read_array_header_1_0(source)
                if i == 0:
                    _header(file, (n, *shape[1:]), kind.str)
                shutil.copyfileobj(source, file)


def _provenance(shard: Path) -> tuple[dict[str, Any], Path]:
    """Return the sidecar of a shard, and its folder."""
    _check_there(shard, FITS_FILES)
    try:
        told = dict(json.loads((shard / "provenance.json").read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(f"{shard / 'provenance.json'}: cannot be read: {error}") from error
    if "channels" in told:
        _check_there(shard, (MAPS,))
    return told, shard


def _check_there(fits: Path, names: Sequence[str]) -> None:
    """Raise InputError unless a folder has these files of fits."""
    if missing := [name for name in names if not (fits / name).is_file()]:
        raise InputError(f"{fits}: no fits of lenses: {', '.join(missing)} missing")


def read_residuals(fits: str | Path, data: dataset.Dataset, size: int) -> NDArray[np.float32]:
    """Return the residual maps (n, size, size) of a dataset, mapped from file, in the noise's unit.

    ``fits`` is a folder of ``fit_dataset``; of larger maps the middle is taken. InputError if
    it is of other images, or another size.
    """
    maps = _opened(fits, data, "residuals.npy")
    ids = data.catalog["id"]
    rim = (maps.shape[-1] - size) // 2
    if maps.shape != (len(ids), size + 2 * rim, size + 2 * rim) or rim < 0:
        raise InputError(
            f"{fits}: found residuals of shape {maps.shape}; expected {(len(ids), size, size)}"
        )
    return middle(maps, size)


def read_maps(fits: str | Path, data: dataset.Dataset) -> NDArray[np.float16]:
    """Return the maps (n, C, side, side) of a dataset, mapped from file, in the order of CHANNELS.

    ``fits`` is a folder of ``fit_dataset``. InputError if it has no maps, or if it is of other
    images, or has other channels.
    """
    told, _ = _provenance(Path(fits))
    if "channels" not in told:
        raise InputError(
            f"{fits}: found no maps; expected fits with lensfit.maps: matched, or free_form"
        )
    maps = _opened(fits, data, MAPS)
    n, expected = len(data.catalog), list(CHANNELS)
    if told["channels"] != expected or maps.ndim != 4 or maps.shape[:2] != (n, len(expected)):
        raise InputError(
            f"{fits}: found maps of shape {maps.shape}, channels {told['channels']}; expected "
            f"{n} lenses and the channels {', '.join(expected)}"
        )
    return maps


def _opened(fits: str | Path, data: dataset.Dataset, name: str) -> NDArray:
    """Return an array of fits, mapped from file; InputError unless it belongs to a dataset."""
    _check_there(Path(fits), FITS_FILES)
    path = Path(fits) / name
    fitted = dataset.read_catalog(Path(fits) / "fits.csv")
    if "id" not in fitted or list(fitted["id"]) != list(data.catalog["id"]):
        raise InputError(f"{fits}: found fits of other images than those of the dataset")
    data.check_same_images(fits, Path(fits) / "provenance.json")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as an array: {error}") from error


def middle(maps: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return the middle (n, size, size) of maps (n, side, side)."""
    rim = (maps.shape[-1] - size) // 2
    return maps[:, rim : rim + size, rim : rim + size]
