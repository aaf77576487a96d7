"""Finished runs applied to images: processing, features and model in one step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from vitdm import lens
from vitdm.config import RunSettings
from vitdm.data.observation import Observation, as_observations
from vitdm.data.readers import load_observations
from vitdm.data.units import COUNTED
from vitdm.errors import InputError
from vitdm.features import LENSFIT, SEARCH, measure
from vitdm.lens import Fits
from vitdm.lens.fits import middle
from vitdm.model.runs import Run, load_run
from vitdm.preprocess import process

SAME_SCALE = 0.05  # relative: a network knows sizes in pixels about as well
COUNTS = 0.1  # photon noise per brightness from which on a unit is that of counts, and no rate


class Seen(NamedTuple):
    """What networks see of n raw images.

    The processed images ``crops`` (n, size, size), the ``features`` (n rows), what a fitted lens
    leaves as ``residuals`` (n, size, size), its ``maps`` (n, C, side, side;
    ``vitdm.lens.channels``), where a lens was found (n,), the ``fits``, and ``notes`` (n,): what of
    an image is unlike the images that a run was trained on.
    """

    crops: NDArray[np.float32]
    features: pd.DataFrame
    residuals: NDArray[np.float32] | None
    maps: NDArray[np.float32] | None
    lens_found: NDArray[np.bool_]
    fits: Fits | None
    notes: list[str]


def predict(runs: Sequence[Run], images: Observation | ArrayLike | Sequence[Any]) -> pd.DataFrame:
    """Return a row for each image: probabilities, class, and what is known of its fit.

    ``images`` are observations or arrays (H, W), of any size and unit. They are processed as the
    runs' training images were; of an observation its own noise, PSF, mask and photon noise are
    used, what it does not tell is taken to be as in training. Several runs, which must agree in
    classes, processing and features, are averaged.

    Columns: ``p_<class>``, ``class``, ``lens_found`` (0 or 1); if lenses were fitted ``fit_chi2``,
    ``fit_flags`` (``vitdm.lens.fit.FLAGS``) and ``unknown``, what was estimated or assumed;
    ``warning``. InputError if the pixel scale of an image is another than that of the training
    images, or a run needs features that are not measured here.
    """
    settings = runs[0].settings
    needed = [name for run in runs for name in run.feature_names]
    residual = any(run.settings.model.residual for run in runs)
    maps = any(run.settings.model.maps for run in runs)
    seen = prepare(images, settings, needed, residual, maps)
    answers = []
    for run in runs:
        features = seen.features[run.feature_names].to_numpy(np.float32)
        answers.append(run.predict(seen.crops, features, seen.residuals, seen.maps))
    probability = np.mean(answers, axis=0)
    classes = runs[0].classes
    table = pd.DataFrame({f"p_{name}": probability[:, k] for k, name in enumerate(classes)})
    table["class"] = np.array(classes)[probability.argmax(axis=1)]
    table["lens_found"] = seen.lens_found.astype(int)
    if seen.fits is not None:
        table["fit_chi2"] = seen.fits.chi2
        table["fit_flags"] = seen.fits.flags
        table["unknown"] = seen.fits.unknown
    table["warning"] = seen.notes if seen.fits is None else _warnings(seen)
    return table


#: what the flags of a fit mean for the answer
DOUBTS = {
    "blank": "no light was found: the answer means nothing",
    "not_converged": "the fit found no minimum",
    "no_ring": "no ring or arc was fitted",
    "quiet": "chi2 is far below 1: noise or gain are too large, or neighbouring pixels share noise",
}
FAR = 0.5  # arcsec from the middle: two standard deviations of the prior of ``LensFit``


def _warnings(seen: Seen) -> list[str]:
    """Return what speaks against the answer to each image: its notes, and flags of its fit."""
    center = np.hypot(seen.fits.column("center_x"), seen.fits.column("center_y"))
    far_off = seen.fits.converged & (center > FAR)  # else the centre is anywhere
    lines = []
    for note, flags, far in zip(seen.notes, seen.fits.flags, far_off, strict=True):
        words = [note, *(DOUBTS[flag] for flag in flags.split() if flag in DOUBTS)]
        words += ["the lens is far from the middle: cut the image around it"] * bool(far)
        lines.append("; ".join(filter(None, words)))
    return lines


def prepare(
    images: Observation | ArrayLike | Sequence[Any],
    settings: RunSettings,
    names: Sequence[str],
    residual: bool,
    maps: bool = False,
) -> Seen:
    """Return what networks see of raw images, with the features ``names`` and, if they are asked
    for, the residuals and the maps of fitted lenses. InputError as for ``predict``.
    """
    told = as_observations(images)
    observations, notes = _as_trained(told, settings)
    crops, regions = zip(
        *(process(observation.data, settings.preprocess) for observation in observations),
        strict=True,
    )
    measured, fits = pd.DataFrame(index=range(len(observations))), None
    residuals, mapped = None, None
    if set(names) - set(LENSFIT) - set(SEARCH):
        measured = pd.DataFrame(
            [measure(o.data, settings.preprocess, settings.features) for o in observations]
        )
    if set(names) & (set(LENSFIT) | set(SEARCH)) or residual or maps:
        if settings.pixel_scale is None:
            raise InputError("run: needs lens fits, and its config.yaml tells no pixel_scale")
        lensfit = settings.lensfit if maps else settings.lensfit.model_copy(update={"maps": None})
        known = {"pixel_scale": settings.pixel_scale}
        fits = lens.fit(observations, lensfit, **known)
        fits = dataclasses.replace(fits, unknown=[" ".join(o.unknown) for o in told])
        residuals = middle(fits.residual, settings.image_size) if residual else None
        searched = bool(set(names) & set(SEARCH))
        numbers, mapped = lens.perturbers.measure_and_map(
            observations, fits, lensfit, searched=searched, **known
        )
        measured = pd.concat([measured, lens.usable_features(fits), numbers], axis=1)
    if absent := [name for name in names if name not in measured]:
        raise InputError(f"run: needs the feature {absent[0]!r}, which vitdm cannot measure")
    found = np.array([region.found for region in regions])
    mapped = mapped if maps else None
    return Seen(np.stack(crops), measured, residuals, mapped, found, fits, notes)


def _as_trained(
    told: Sequence[Observation], settings: RunSettings
) -> tuple[list[Observation], list[str]]:
    """Return the observations, and what of them is unlike the training images in scale or unit.

    A network knows sizes in pixels, so another pixel scale is an InputError. The photon noise of
    images in counts does not hold in another unit, nor that of another unit for counts: it is
    estimated on the images instead.
    """
    trained, observations, notes = settings.pixel_scale, list(told), [""] * len(told)
    for observation in observations:
        scale = observation.pixel_scale
        if scale and trained and abs(scale / trained - 1) > SAME_SCALE:
            raise InputError(
                f"{observation.name}: found {scale:.4g} arcsec a pixel; the model was trained at "
                f"{trained:.4g}: expected images at that scale, or a model trained on images like "
                "these (if the file is wrong, give the right pixel scale)"
            )
    gain = settings.lensfit.gain
    if trained is None or gain is None:
        return observations, notes
    in_counts = gain >= COUNTS
    others = [
        k
        for k, o in enumerate(observations)
        if o.unit and "gain" in o.unknown and (o.unit in COUNTED) != in_counts
    ]
    if others:
        some = [observations[k] for k in others]
        own = lens.estimate_gain(some, settings.lensfit, pixel_scale=trained)
        usual = "counts" if in_counts else "another unit"
        for k in others:
            notes[k] = (
                f"in {observations[k].unit}; the model was trained on {usual}: the photon noise "
                f"per brightness is taken to be {own:.3g}, as seen in the images, not {gain:.3g}"
            )
            observations[k] = observations[k].replace(gain=own)
    return observations, notes


def predict_files(
    paths: Iterable[str | Path], folders: Sequence[str | Path], **options: Any
) -> pd.DataFrame:
    """Return ``predict`` of images in files or folders, with their names in a column ``file``.

    ``options`` are those of ``vitdm.data.readers.read_observation``. InputError if the runs do not
    belong together or a file cannot be read.
    """
    runs = [load_run(folder) for folder in folders]
    for folder, run in zip(folders, runs, strict=True):
        if _kind(run.settings) != _kind(runs[0].settings):
            raise InputError(
                f"{folder}: found other classes, processing or features than {folders[0]} has; "
                "expected runs that differ in seed or model only"
            )
    names, images = zip(*load_observations(paths, **options), strict=True)
    table = predict(runs, list(images))
    table.insert(0, "file", [str(name) for name in names])
    rounded = {f"p_{name}": 6 for name in runs[0].classes} | {"fit_chi2": 3}
    return table.round(rounded)


def _kind(settings: RunSettings) -> tuple:
    camera = settings.lensfit, settings.pixel_scale
    return settings.classes, settings.preprocess, settings.features, settings.image_size, camera
