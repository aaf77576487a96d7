"""What a fitted smooth lens leaves: its features, and the fits of a whole dataset on disk."""

from __future__ import annotations

import functools
import json
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from tqdm import tqdm

from studies.ceiling import fourth_power
from vitdm.config import SPLITS, LensFit
from vitdm.data import dataset
from vitdm.errors import InputError
from vitdm.features.definitions import LENSFIT, ORDERS, SCALES
from vitdm.lens import substructure
from vitdm.lens.lensfit import Fits, estimate_gain, fit, parameter_names
from vitdm.lens.smooth_lens import Camera, SmoothLens
from vitdm.provenance import atomic, check_replaceable, sidecar
from vitdm.simulation.classes import CDM

FILES = ("fits.csv", "residuals.npy", "provenance.json")


def features(fits: Fits) -> pd.DataFrame:
    """Return the ``LENSFIT`` (columns) of each fit (rows); NaN where nothing was fitted.

    "The arcs" are the pixels where the fitted source is brighter than the noise of the sky, and
    their neighbours.
    """
    columns = {f"fit_{name}": fits.values[:, k] for k, name in enumerate(fits.names)}
    rows = [
        _left(residual, lensed, fits.pixel_scale)
        for residual, lensed in zip(fits.residual, fits.lensed, strict=True)
    ]
    values = pd.DataFrame(rows, columns=list(LENSFIT), dtype=float)
    values["fit_chi2"] = fits.chi2
    values[[f"fit_{name}" for name in substructure.NAMES]] = fits.perturbers
    for name in [name for name in LENSFIT if name[4:] in fits.names]:
        values[name] = columns[name]
    return values


def usable_features(fits: Fits) -> pd.DataFrame:
    """Return ``features``; of a fit that did not converge none."""
    found = features(fits)
    found[~fits.converged] = np.nan
    return found


def _left(residual: NDArray, lensed: NDArray, pixel_scale: float) -> dict[str, float]:
    """Return the features of a residual (size, size) in the arcs, (size, size); none without arcs.

    White noise, uncorrelated, leaves what the definitions say that it leaves.
    """
    if not lensed.any():
        return {}
    axis = (np.arange(len(residual)) - (len(residual) - 1) / 2) * pixel_scale
    rows, columns = np.nonzero(lensed)
    r = residual[rows, columns].astype(np.float64)
    s = 3 * cv2.blur(residual, (3, 3), borderType=cv2.BORDER_REFLECT)[rows, columns]
    s = s.astype(np.float64)
    peak = np.abs(s).argmax()
    values = {
        "fit_chi2_arcs": np.mean(r**2),
        "fit_fourth_power": fourth_power(residual.astype(np.float64), lensed),
        "fit_third_power": np.mean(s**3),
        "fit_peak": abs(s[peak]),
        "fit_peak_signed": s[peak],
        "fit_peak_x": axis[columns[peak]],
        "fit_peak_y": axis[rows[peak]],
    }
    for sigma in SCALES:
        filtered = _band_pass(residual, sigma)[rows, columns]
        values[f"fit_power_{sigma:g}px"] = np.mean(filtered**2) / _white_power(sigma)
    turn = (axis[columns] + 1j * axis[rows]) / np.hypot(axis[columns], axis[rows]).clip(1e-9)
    powers = turn ** np.arange(1, ORDERS[-1][1] + 1)[:, None]
    for name, signal in (("", r), ("abs_", (r**2 - 1) / math.sqrt(2))):
        spectrum = np.abs(powers @ signal) ** 2 / r.size
        for low, high in ORDERS:
            values[f"fit_azimuth_{name}{low}_{high}"] = spectrum[low - 1 : high].mean()
    return values


def _band_pass(residual: NDArray, sigma: float) -> NDArray:
    narrow, wide = (cv2.GaussianBlur(residual, (0, 0), s) for s in (sigma / 2, sigma))
    return narrow - wide


@functools.cache
def _white_power(sigma: float) -> float:
    """Return the mean square of white noise of variance 1 after the band-pass."""
    side = 2 * math.ceil(6 * sigma) + 1
    point = np.zeros((side, side), np.float32)
    point[side // 2, side // 2] = 1
    return float((_band_pass(point, sigma).astype(np.float64) ** 2).sum())


NEAR = 0.3  # arcsec: a subhalo so close to the ring acts on the arcs
MASS_BINS = (9.25, 9.75, 9.9, 10)  # log10 of solar masses; of 25 subhalos the most massive one
FOUND = 0.2  # arcsec between a subhalo and where the residual peaks


def distance_to_subhalo(catalog: pd.DataFrame, fits: pd.DataFrame) -> pd.DataFrame:
    """Return how far from its image's most massive subhalo each residual peaks.

    ``catalog`` is that of simulated images (class, theta_E, ``max_subhalo_...``), ``fits`` the
    table of their fits, row by row. Rows are the images of ``cdm`` whose most massive subhalo lies
    within ``NEAR`` of the ring and whose fit converged; columns ``mass`` [solar masses],
    ``distance`` ["], ``found`` (within ``FOUND``) and ``chance``: the fraction of the peaks of the
    other rows that lie within ``FOUND`` of this subhalo. The catalog knows no other subhalos: a
    peak at the second most massive one counts as a miss.
    """
    x, y = catalog["max_subhalo_x"], catalog["max_subhalo_y"]
    near = (np.hypot(x, y) - catalog["theta_E"]).abs() < NEAR
    chosen = near & (catalog["class"] == CDM.name) & (fits["fit_converged"] == 1)
    chosen &= fits["fit_peak_x"].notna()
    at = (x + 1j * y)[chosen].to_numpy()
    peak = (fits["fit_peak_x"] + 1j * fits["fit_peak_y"])[chosen].to_numpy()
    apart = np.abs(at[:, None] - peak)  # (subhalos, peaks)
    own = apart.diagonal()
    others = (apart < FOUND).sum(1) - (own < FOUND)
    return pd.DataFrame(
        {
            "mass": catalog["max_subhalo_mass"][chosen].to_numpy(),
            "distance": own,
            "found": own < FOUND,
            "chance": others / max(len(own) - 1, 1),
        }
    )


def found_by_mass(distances: pd.DataFrame, edges: Sequence[float]) -> pd.DataFrame:
    """Return the fraction of ``distance_to_subhalo`` that is found, by bins of log10 of the mass.

    Columns: ``low``, ``high`` (edges), ``n``, ``rate`` with its 95 % interval (Wilson 1927)
    ``rate_low`` and ``rate_high``, ``chance`` and the median ``distance`` ["]; bins without images
    are left out.
    """
    rows = []
    for low, high in zip(edges, edges[1:], strict=False):
        within = np.log10(distances["mass"]).between(low, high, inclusive="left")
        if not within.any():
            continue
        part = distances[within]
        hits, n = int(part["found"].sum()), len(part)
        interval = stats.binomtest(hits, n).proportion_ci(method="wilson")
        rates = (hits / n, interval.low, interval.high, part["chance"].mean())
        rows.append((low, high, n, *rates, part["distance"].median()))
    columns = ["low", "high", "n", "rate", "rate_low", "rate_high", "chance", "distance"]
    return pd.DataFrame(rows, columns=columns, dtype=float).astype({"n": int})


# ------------------------------------------------------------------------------------ data sets

SAMPLE = 64  # images at most, of all splits but the last, that tell the photon noise of all


def fit_dataset(
    dataset_folder: str | Path,
    out: str | Path,
    settings: LensFit,
    shard: tuple[int, int] = (0, 1),
    progress: bool = True,
) -> None:
    """Fit a smooth lens to the images of a dataset; write shard ``(k, of)`` to the folder ``out``.

    ``fits.csv`` has id, ``fit_converged`` (0 or 1), ``fit_flags``, the parameters with their errors
    (``fit_..._error``) and ``LENSFIT``; what has no value is an empty cell.
    ``residuals.npy`` is (n, size, size) float32. A shard consists of whole batches, so that the
    shards, merged, are the same bytes whatever their number (unless a batch ran out of time).
    InputError if the dataset does not tell its pixel scale.
    """
    started = time.time()
    k, of = shard
    if not 0 <= k < of:
        raise InputError(f"shard {k}/{of}: expected k/n with 0 <= k < n")
    check_replaceable(out, FILES)
    source = dataset.Dataset.open(dataset_folder)
    pixel_scale = json.loads((source.folder / "dataset.json").read_text()).get("pixel_scale")
    if pixel_scale is None:
        raise InputError(
            f"{source.folder / 'dataset.json'}: found no pixel_scale; expected arcsec per pixel "
            "(vitdm ingest --pixel-scale)"
        )
    n, size = len(source.images), settings.size
    gain = settings.gain
    if gain is None:
        known = np.flatnonzero(source.catalog["split"].isin(SPLITS[:-1]))
        spread = known[np.unique(np.linspace(0, len(known) - 1, SAMPLE).round().astype(int))]
        gain = estimate_gain(source.images[spread], pixel_scale, settings)
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
        with open(folder / "residuals.npy", "wb") as file:
            _header(file, last - first, size)
            for start in bar:
                rows = slice(start, min(start + settings.batch, last))
                fits = fit(source.images[rows], pixel_scale, settings, gain)
                file.write(fits.residual.astype("<f4").tobytes())
                tables.append(_rows(fits, source.catalog["id"].to_numpy()[rows]))
        table = pd.concat(tables or [_rows(_nothing(settings), np.empty(0, str))])
        table.to_csv(folder / "fits.csv", index=False, float_format="%.7g")
        sidecar(
            folder / "provenance.json",
            rule="lensfit",
            config=settings,
            inputs=[source.folder / "images.npy", source.folder / "catalog.csv"],
            started=started,
            rows=[first, last],
            n=n,
            camera={
                "lensfit": settings.model_copy(update={"gain": gain}),
                "pixel_scale": pixel_scale,
            },
        )


def _header(file: BinaryIO, n: int, size: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (n, size, size)}
    np.lib.format.write_array_header_1_0(file, header)


def _nothing(settings: LensFit) -> Fits:
    """Return fits of no images."""
    names = parameter_names(SmoothLens(Camera(settings.size, 1.0), settings.n_lights))
    values, images = np.empty((0, len(names))), np.empty((0, settings.size, settings.size))
    perturbers = np.empty((0, len(substructure.NAMES)))
    return Fits(
        names=names,
        values=values,
        errors=values,
        chi2=np.empty(0),
        converged=np.empty(0, bool),
        flags=[],
        perturbers=perturbers,
        residual=images,
        lensed=images,
        pixel_scale=1.0,
        gain=0.0,
    )


def _rows(fits: Fits, ids: NDArray) -> pd.DataFrame:
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


def merge(shards: Sequence[str | Path], out: str | Path) -> None:
    """Join the shards of one fit, in any order; the result is that of a fit in one piece.

    InputError if some rows are missing or fitted twice, or if the shards do not belong together.
    """
    started = time.time()
    check_replaceable(out, FILES)
    parts = sorted((_told(Path(shard)) for shard in shards), key=lambda part: part[0]["rows"])
    if not parts:
        raise InputError(f"{out}: nothing to merge; expected at least one folder")
    told, origin = parts[0]
    expected = 0
    for other, shard in parts:
        for key in ("config_sha256", "inputs", "n", "camera"):
            # the same images may have been seen from another folder
            found, wanted = (
                sorted(entry[key].values()) if key == "inputs" else entry[key]
                for entry in (other, told)
            )
            if found != wanted:
                raise InputError(f"{shard}: {key} differs from that of {origin}")
        first, last = other["rows"]
        if first != expected:
            raise InputError(f"{shard}: found rows from {first} on; expected row {expected} next")
        expected = last
    if expected != told["n"]:
        raise InputError(f"{out}: found {expected} rows in all shards; expected {told['n']}")
    with atomic(out) as folder:
        folder.mkdir()
        with (folder / "fits.csv").open("w") as table:
            for i, (_, shard) in enumerate(parts):
                lines = (shard / "fits.csv").read_text().splitlines(keepends=True)
                table.writelines(lines[min(i, 1) :])
        with (folder / "residuals.npy").open("wb") as file:
            for i, (_, shard) in enumerate(parts):
                with (shard / "residuals.npy").open("rb") as source:
                    np.lib.format.read_magic(source)
                    shape, _, _ = np.lib.format.read_array_header_1_0(source)
                    if i == 0:
                        _header(file, told["n"], shape[1])
                    shutil.copyfileobj(source, file)
        sidecar(
            folder / "provenance.json",
            rule="lensfit",
            inputs=[shard / "fits.csv" for _, shard in parts],
            started=started,
            config_sha256=told["config_sha256"],
            rows=[0, told["n"]],
            n=told["n"],
            camera=told["camera"],
        )


def _told(shard: Path) -> tuple[dict[str, Any], Path]:
    """Return what the sidecar of a shard tells."""
    missing = [name for name in FILES if not (shard / name).is_file()]
    if missing:
        raise InputError(f"{shard}: no fits of lenses: {', '.join(missing)} missing")
    try:
        return dict(json.loads((shard / "provenance.json").read_text())), shard
    except (ValueError, TypeError) as error:
        raise InputError(f"{shard / 'provenance.json'}: cannot be read: {error}") from error


def read_residuals(fits: str | Path, ids: pd.Series, size: int) -> NDArray[np.float32]:
    """Return the residual maps (n, size, size) of images, mapped from file, in units of the noise.

    ``fits`` is a folder of ``fit_dataset``; of larger maps the middle is taken. InputError if
    it is of other images, or another size.
    """
    missing = [name for name in FILES if not (Path(fits) / name).is_file()]
    if missing:
        raise InputError(f"{fits}: no fits of lenses: {', '.join(missing)} missing")
    found = dataset.read_catalog(Path(fits) / "fits.csv")["id"]
    maps = np.load(Path(fits) / "residuals.npy", mmap_mode="r")
    if list(found) != list(ids):
        raise InputError(f"{fits}: found fits of other images than those of the dataset")
    rim = (maps.shape[-1] - size) // 2
    if maps.shape != (len(ids), size + 2 * rim, size + 2 * rim) or rim < 0:
        raise InputError(
            f"{fits}: found residuals of shape {maps.shape}; expected {(len(ids), size, size)}"
        )
    return middle(maps, size)


def middle(maps: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return the middle (n, size, size) of maps (n, side, side)."""
    rim = (maps.shape[-1] - size) // 2
    return maps[:, rim : rim + size, rim : rim + size]
