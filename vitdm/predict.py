"""Finished runs applied to images: processing, features and model in one step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from vitdm import lens
from vitdm.config import RunSettings
from vitdm.data.observation import Observation, as_observations
from vitdm.data.readers import observations_at, read_observations
from vitdm.data.units import COUNTED
from vitdm.errors import InputError
from vitdm.features import LENSFIT, SEARCH, measure
from vitdm.lens import Fits
from vitdm.lens.fits import middle
from vitdm.model.novelty import UNLIKE
from vitdm.model.runs import Run, load_run
from vitdm.preprocess import Roi, process

SAME_SCALE = 0.05  # relative: a network knows sizes in pixels about as well
COUNTS = 0.1  # photon noise per brightness from which on a unit is that of counts, and no rate


#: the columns after the probabilities, in this order everywhere
COLUMNS = ("class", "lens_found", "fit_chi2", "fit_flags", "ood_pvalue", "unknown", "warning")
#: what a processed image is made with, where nothing is fitted
PROCESSED = ("noise", "pixel_scale")
FAR = 0.5  # arcsec from the middle: two standard deviations of the prior of ``LensFit``

#: what networks are given of n images: crops, features, residuals or None, maps or None
Given = tuple[
    NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32] | None
]
OUTSIDE = "unlike the images that the model was trained on: the answer means nothing"

#: what the flags of a fit mean for the answer
DOUBTS = {
    "blank": "no light was found: the answer means nothing",
    "not_converged": "the fit found no minimum",
    "no_ring": "no ring or arc was fitted",
    "quiet": "chi2 is far below 1: noise or gain are too large, or neighbouring pixels share noise",
}


@dataclass(frozen=True, eq=False)
class Seen:
    """What networks see of n raw images.

    The ``settings`` of the run; the ``observations``, with the photon noise that was taken for
    theirs; the regions of interest and the processed images ``crops`` (n, size, size), the
    ``features`` (n rows), what a fitted lens leaves as ``residuals`` (n, size, size) or None, its
    ``maps`` (n, C, side, side; ``vitdm.lens.channels``) or None, the ``fits`` or None, what was
    estimated or assumed (``unknown``, n), and ``notes`` (n,): what of an image is unlike the images
    that a run was trained on.
    """

    settings: RunSettings
    observations: list[Observation]
    regions: list[Roi]
    crops: NDArray[np.float32]
    features: pd.DataFrame
    residuals: NDArray[np.float32] | None
    maps: NDArray[np.float32] | None
    fits: Fits | None
    unknown: list[str]
    notes: list[str]

    @property
    def lens_found(self) -> NDArray[np.bool_]:
        """Where a region of interest was found (n,)."""
        return np.array([region.found for region in self.regions])

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        arrays = [self.crops, *(o.data for o in self.observations)]
        arrays += [self.fits.residual, self.fits.lensed] if self.fits else []
        arrays += [] if self.maps is None else [self.maps]
        return sum(a.nbytes for a in arrays) + int(self.features.memory_usage().sum())

    def given(self, names: Sequence[str]) -> Given:
        """Return what ``Run.predict`` takes: crops, the features ``names``, residuals and maps."""
        features = self.features[list(names)].to_numpy(np.float32)
        return self.crops, features, self.residuals, self.maps

    def warnings(self, usual: NDArray[np.float64]) -> list[str]:
        """Return what speaks against the answer to each image, empty if nothing does.

        ``usual``: the p-values (n,) of the images among those of the training's kind, or NaN.
        """
        lines = []
        for k, note in enumerate(self.notes):
            words = [note] + [DOUBTS["blank"]] * (not self.regions[k].found)
            if self.fits is not None:
                words += [DOUBTS[flag] for flag in self.fits.flags[k].split() if flag in DOUBTS]
                center = np.hypot(*(self.fits.column(f"center_{x}")[k] for x in "xy"))
                if self.fits.converged[k] and center > FAR:  # else the centre is anywhere
                    words.append("the lens is far from the middle: cut the image around it")
            words += [OUTSIDE] * bool(usual[k] <= UNLIKE)
            lines.append("; ".join(dict.fromkeys(filter(None, words))))
        return lines


class Answers(NamedTuple):
    """The table of ``predict``, and what the networks saw of the images."""

    table: pd.DataFrame
    seen: Seen


def predict(runs: Sequence[Run], images: Observation | ArrayLike | Sequence[Any]) -> pd.DataFrame:
    """Return a row for each image: probabilities, class, and what is known of its fit.

    ``images`` are observations or arrays (H, W), of any size and unit, or a stack (n, H, W). They
    are processed as the runs' training images were; of an observation its own noise, PSF, mask and
    photon noise are used, what it does not tell is taken to be as in training. Several runs, which
    must agree in classes, processing and features, are averaged.

    Columns: ``p_<class>``, and ``COLUMNS``: ``class``, ``lens_found`` (0 or 1), ``fit_chi2`` and
    ``fit_flags`` (``vitdm.lens.fit.FLAGS``), which are NaN and empty if the runs need no fit;
    ``ood_pvalue``, the share of held-out images of the training's kind that look at least as
    unlike the training images (``vitdm.model.novelty``; the mean of several runs, NaN if a run does
    not know): of 0.01 or less, the image is out of distribution and the answer means nothing;
    ``unknown``, what was estimated or assumed; ``warning``, what speaks against the answer.
    InputError if the pixel scale of an image is another than that of the training images, or a run
    needs features that are not measured here.
    """
    return answer(runs, images).table


def answer(runs: Sequence[Run], images: Observation | ArrayLike | Sequence[Any]) -> Answers:
    """Return the table of ``predict`` with what the networks saw, which ``vitdm.plots`` shows."""
    settings = runs[0].settings
    needed = [name for run in runs for name in run.feature_names]
    residual = any(run.settings.model.residual for run in runs)
    maps = any(run.settings.model.maps for run in runs)
    seen = prepare(images, settings, needed, residual, maps)
    answers, usual = [], []
    for run in runs:
        given = seen.given(run.feature_names)
        answers.append(run.predict(*given))
        usual.append(run.p_values(*given))
    means = np.mean(answers, axis=0), np.mean(usual, axis=0)
    return Answers(table_of(*means, runs[0].classes, seen), seen)


def table_of(
    probability: NDArray, usual: NDArray, classes: Sequence[Any], seen: Seen
) -> pd.DataFrame:
    """Return the table of ``predict`` for probabilities (n, K) of K classes and p-values (n,)."""
    table = pd.DataFrame({f"p_{name}": probability[:, k] for k, name in enumerate(classes)})
    fits, n = seen.fits, len(probability)
    told = {
        "class": np.asarray(classes)[probability.argmax(axis=1)],
        "lens_found": seen.lens_found.astype(int),
        "fit_chi2": np.full(n, np.nan) if fits is None else fits.chi2,
        "fit_flags": [""] * n if fits is None else fits.flags,
        "ood_pvalue": usual,
        "unknown": seen.unknown,
        "warning": seen.warnings(usual),
    }
    return table.assign(**{name: told[name] for name in COLUMNS})


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
    for observation in told:
        check(observation, settings)
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
    if fitted := bool(set(names) & (set(LENSFIT) | set(SEARCH)) or residual or maps):
        if settings.pixel_scale is None:
            raise InputError("run: needs lens fits, and its config.yaml tells no pixel_scale")
        lensfit = settings.lensfit if maps else settings.lensfit.model_copy(update={"maps": None})
        known = {"pixel_scale": settings.pixel_scale}
        fits = lens.fit(observations, lensfit, **known)
        residuals = middle(fits.residual, settings.image_size) if residual else None
        searched = bool(set(names) & set(SEARCH))
        numbers, mapped = lens.perturbers.measure_and_map(
            observations, fits, lensfit, searched=searched, **known
        )
        measured = pd.concat([measured, lens.usable_features(fits), numbers], axis=1)
    assumed = [[name for name in o.unknown if fitted or name in PROCESSED] for o in told]
    if absent := [name for name in names if name not in measured]:
        raise InputError(f"run: needs the feature {absent[0]!r}, which vitdm cannot measure")
    return Seen(
        settings=settings,
        observations=observations,
        regions=list(regions),
        crops=np.stack(crops),
        features=measured,
        residuals=residuals,
        maps=mapped if maps else None,
        fits=fits,
        unknown=[" ".join(names) for names in assumed],
        notes=notes,
    )


def check(observation: Observation, settings: RunSettings) -> None:
    """Raise InputError unless an image has the pixel scale of a run's training images.

    A network knows sizes in pixels, so that another scale makes every answer wrong.
    """
    scale, trained = observation.pixel_scale, settings.pixel_scale
    if scale and trained and abs(scale / trained - 1) > SAME_SCALE:
        raise InputError(
            f"{observation.name}: found {scale:.4g} arcsec a pixel; the model was trained at "
            f"{trained:.4g}: expected images at that scale, or a model trained on images like "
            "these (if the file is wrong, give the right pixel scale)"
        )


def _as_trained(
    told: Sequence[Observation], settings: RunSettings
) -> tuple[list[Observation], list[str]]:
    """Return the observations, and what of them is unlike the training images in size or unit.

    The photon noise of images in counts does not hold in another unit, nor that of another unit for
    counts: it is estimated on the images instead.
    """
    trained, observations = settings.pixel_scale, list(told)
    notes = [_smaller(observation, settings) for observation in observations]
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
            unit = (
                f"in {observations[k].unit}, but the model was trained on {usual}: the photon "
                f"noise per brightness is taken to be {own:.3g}, as seen in the images, not "
                f"{gain:.3g}"
            )
            notes[k] = "; ".join(filter(None, [notes[k], unit]))
            observations[k] = observations[k].replace(gain=own)
    return observations, notes


def _smaller(observation: Observation, settings: RunSettings) -> str:
    """Return words for an image that is smaller than what is cut of it, empty for others."""
    size, (height, width) = settings.preprocess.size, observation.shape
    if settings.preprocess.resize or min(height, width) >= size:
        return ""
    return f"{width} x {height} pixels, of the {size} x {size} that the model sees: the rest is sky"


def predict_files(
    paths: Iterable[str | Path], folders: Sequence[str | Path], **options: Any
) -> pd.DataFrame:
    """Return ``predict`` of images in files or folders, with their names in a column ``file``.

    ``options`` are those of ``vitdm.data.readers.read_observations``; the images of a stack are
    ``<file>[k]``. Of a file that cannot be read, or is of another pixel scale, ``warning`` says
    what is wrong and the rest of its row is empty. InputError if the runs do not belong together,
    a path does not exist, or no image can be used.
    """
    return answer_files(paths, folders, **options).table


def answer_files(
    paths: Iterable[str | Path], folders: Sequence[str | Path], **options: Any
) -> Answers:
    """Return the table of ``predict_files`` with what the networks saw of the images.

    Those are of the rows that have a ``class``, in their order. InputError as in ``predict_files``,
    and if there is no such row.
    """
    runs = [load_run(folder) for folder in folders]
    for folder, run in zip(folders, runs, strict=True):
        if _kind(run.settings) != _kind(runs[0].settings):
            raise InputError(
                f"{folder}: found other classes, processing or features than {folders[0]} has; "
                "expected runs that differ in seed or model only"
            )
    read = dict(_read(paths, runs[0].settings, options))
    wrong = {name: str(found) for name, found in read.items() if isinstance(found, InputError)}
    if not read:
        raise InputError("images: found none; expected at least one file")
    if len(wrong) == len(read):
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise InputError(f"{next(iter(wrong.values()))}{more}")
    wrong = {name: text.removeprefix(f"{name}: ") for name, text in wrong.items()}
    table, seen = answer(runs, [found for name, found in read.items() if name not in wrong])
    table.index = [name for name in read if name not in wrong]
    table = table.reindex(list(read))
    table.loc[list(wrong), "warning"] = list(wrong.values())
    table = table.astype({"lens_found": "Int64"} if wrong else {})  # empty where there is none
    table.insert(0, "file", table.index)
    rounded = {f"p_{name}": 6 for name in runs[0].classes} | {"fit_chi2": 3, "ood_pvalue": 4}
    return Answers(table.reset_index(drop=True).round(rounded), seen)


def _read(
    paths: Iterable[str | Path], settings: RunSettings, options: dict[str, Any]
) -> Iterator[tuple[str, Observation | InputError]]:
    """Yield the name of each image, and the image or what is wrong with it."""
    for place in observations_at(paths):
        try:
            found = read_observations(place, **options)
        except InputError as error:
            yield str(place), error
            continue
        for observation in found:
            try:
                check(observation, settings)
            except InputError as error:
                yield observation.name, error
            else:
                yield observation.name, observation


def _kind(settings: RunSettings) -> tuple:
    camera = settings.lensfit, settings.pixel_scale
    return settings.classes, settings.preprocess, settings.features, settings.image_size, camera
