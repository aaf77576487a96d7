"""The fit of a lens with a source of free form, from an image to the model.

1. Scene: noise, PSF, light of the lens galaxy (``scene``).
2. Start: Einstein radii tried one by one, with a coarse source (``start``).
3. The best of them on all pixels; neighbours, which it does not explain, are masked.
4. Finer meshes; slope and multipoles become free; the evidence chooses the source's prior.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.signal import fftconvolve

from vitdm.config.free_form import FreeForm
from vitdm.data.observation import Observation, as_observations
from vitdm.errors import InputError
from vitdm.lens.fit import Fits
from vitdm.lens.free_form import mass
from vitdm.lens.free_form.inversion import Prior
from vitdm.lens.free_form.model import LensModel, SourcePlane
from vitdm.lens.free_form.neighbours import cosmic_rays, find_neighbours
from vitdm.lens.free_form.posterior import Frame, Point, climb
from vitdm.lens.free_form.problem import TOLERANCE, Problem
from vitdm.lens.free_form.scene import scene_of, with_galaxy
from vitdm.lens.free_form.start import (
    LARGEST_STEP,
    MARGIN,
    NARROW,
    SPLINES,
    Box,
    MassPrior,
    brightness,
    magnified_share,
    posterior_of,
    rays,
    scan,
    score,
)
from vitdm.lens.free_form.view import Scene, View
from vitdm.threads import one_thread

Progress = Callable[[str, float], None]

APERTURE = 2.75  # ", radius that is looked at; at most that of the image
FEWEST = 100  # pixels within it, of a fit
INNER = 0.2  # ", radius about the centre that is not: the galaxy is too bright there
TRUSTED = 3.0  # chi^2 of a Sérsic fit up to which its mass is near enough
CLOSE = 20.0  # of the scores of two starts
BRIGHT, MIDDLE = 8.0, 1.0  # sigmas of arcs: pixels divided into most parts, and into two
POOR, QUIET = 1.3, 0.35
SEEN = 1.0  # of the half width of the source's box: pixels that see more than that are fitted
TAPERS = 0.5, 1.0, 2.0, 3.0  # of the source's envelope, that are tried
FOCI = 3.0, 1.5  # how much finer the mesh is in its middle, that are tried
FINER = 24, 32  # splines along each axis, where fewer leave something of the arcs
LEFT = 1.1  # chi^2 of arcs above which they do


@one_thread()
def fit(
    images: Observation | ArrayLike | Sequence[Any],
    settings: FreeForm | None = None,
    *,
    start: Fits | None = None,
    pixel_scale: float | None = None,
    gain: float | None = None,
    progress: Progress | None = None,
) -> LensModel | list[LensModel]:
    """Fit a lens with a source of free form to each image: an image (H, W), observations, or both.

    One image gives one model, a list or an array (n, H, W) a list. ``start``: fits of the same
    images with Sérsic sources, from which those that converged go on, in about a second; the
    others, and real lenses, are begun anew. ``pixel_scale`` [arcsec] and ``gain``, the variance of
    the photon noise per brightness, hold for those that do not tell them.
    ``progress(stage, chi2)`` is called as the fit goes on. InputError if the scale of an image is
    unknown, one is no image, or there are not as many fits as images.
    """
    settings = settings or FreeForm()
    if gain is not None:
        settings = settings.model_copy(update={"gain": gain})
    single = isinstance(images, Observation) or getattr(images, "ndim", None) == 2
    observations = as_observations([images] if single else images, pixel_scale=pixel_scale)
    if start is not None and len(start.chi2) != len(observations):
        found = f"found {len(start.chi2)} fits and {len(observations)} images"
        raise InputError(f"start: {found}; expected one fit for each image")
    models = [
        _fit(observation, settings, progress, _known(start, k))
        for k, observation in enumerate(observations)
    ]
    return models[0] if single else models


def _known(start: Fits | None, k: int) -> NDArray | None:
    """Return the mass (p,) that the Sérsic fit of an image has found, None if it has not."""
    if start is None or not start.converged[k] or not start.chi2[k] < TRUSTED:
        return None
    values = np.zeros(len(mass.NAMES))
    for name in mass.NAMES[:7]:
        values[mass.NAMES.index(name)] = start.column(name)[k]
    values[mass.NAMES.index("slope")] = 2.0
    return values


@dataclass
class _Stage:
    """The state of a fit between two stages."""

    scene: Scene
    settings: FreeForm
    prior: MassPrior
    point: Point
    tell: Progress
    follows: bool = False  # whether the source's box follows the mass

    def fine(
        self,
        fitted: NDArray,
        n: int,
        fixed: Sequence[str],
        steps: int,
        tapers: Sequence[float] = (),
        margin: float = MARGIN,
        foci: Sequence[float] = (),
    ) -> tuple[View, bool]:
        """Climb on the pixels ``fitted`` with n x n splines, some parameters being fixed.

        Of several ``tapers`` and ``foci`` of the mesh the most probable are taken.
        """
        view, self.fitted = self.view(fitted), fitted
        posterior = posterior_of(view, self.prior.only(*fixed) if fixed else self.prior)
        x, y = rays(view, self.point.values)
        box, before = Box(view), self.point.solution.inversion.mesh
        focus = before.focus if self.follows else FOCI[0]
        mesh = box.mesh(x, y, n, margin=margin, focus=focus)
        if self.follows:
            posterior.frame = Frame(mesh, box.weight, x, y)
        meshes = [
            replace(mesh, taper=taper, focus=focus)
            for taper in (tapers or [before.taper])
            for focus in (foci or [mesh.focus])
        ]
        known = self.point.solution.prior
        points = [
            posterior.best_prior(posterior.at(self.point.values, mesh, known)) for mesh in meshes
        ]
        point = max(points, key=lambda point: point.log_probability)
        name = f"source of {n} x {n}"
        self.tell(name, point.chi2)
        self.point, reached = climb(
            posterior,
            point,
            LARGEST_STEP,
            steps,
            TOLERANCE,
            lambda point: self.tell(name, point.chi2),
        )
        self.point = posterior.best_prior(self.point)
        self.posterior = posterior
        return view, reached

    def finer(self, view: View, reached: bool) -> tuple[View, bool]:
        """Make the mesh finer as long as something of the arcs is left, and the evidence grows."""
        for n in FINER:
            if not self.settings.splines < n <= self.settings.most_splines or self.explained(view):
                continue
            before = copy.copy(self)
            done = self.fine(self.fitted, n, (), 10, foci=FOCI)
            if self.point.log_probability < before.point.log_probability:
                self.__dict__.update(before.__dict__)
                break
            view, reached = done
        return view, reached

    def explained(self, view: View) -> bool:
        """Return whether the arcs of a view are fitted to the noise."""
        bright = arcs_of(self.scene, self.point)[view.fitted] > view.noise
        residual = self.point.solution.residual[bright]
        return not len(residual) or float(np.mean(residual**2)) < LEFT

    def view(self, fitted: NDArray) -> View:
        arcs = arcs_of(self.scene, self.point)
        parts = np.where(arcs > MIDDLE * self.scene.noise, 2, 1)
        parts[arcs > BRIGHT * self.scene.noise] = self.settings.supersampling
        parts = np.minimum(parts, self.settings.supersampling)
        self.error = self.noise(arcs)
        return View(self.scene, fitted, self.error, samples=parts)

    def noise(self, arcs: NDArray) -> NDArray:
        """Return the noise (H, W) with the errors of the model, where the ``arcs`` (H, W) are.

        A mesh cannot follow all that is sharp in a bright source.
        """
        return np.hypot(
            self.scene.error(self.settings.model_error), self.settings.source_error * arcs
        )

    def region(self, margin: float) -> NDArray:
        """Return the good pixels (H, W) that see the box of the source, widened by a margin."""
        mesh = self.point.solution.inversion.mesh
        height, width = self.scene.data.shape
        x, y = np.meshgrid(*axes(self.scene))
        beta = np.array([x.ravel(), y.ravel()])
        beta -= mass.deflection(self.point.values, *beta)
        off = np.abs(beta - np.array(mesh.center)[:, None]).max(0)
        inside = (off < margin * mesh.half_width).reshape(height, width)
        side = 2 * math.ceil(0.1 / self.scene.pixel_scale) + 1
        inside = cv2.dilate(inside.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
        aperture = _aperture(self.scene)
        seen = inside & aperture
        return seen if seen.sum() >= FEWEST else aperture


def axes(scene: Scene) -> tuple[NDArray, NDArray]:
    """Return x and y ["] of the columns and rows of a scene."""
    height, width = scene.data.shape
    return tuple((np.arange(n) - (n - 1) / 2) * scene.pixel_scale for n in (width, height))


def arcs_of(
    scene: Scene,
    point: Point,
    parts: int = 2,
    model: mass.MassModel = mass.SMOOTH,
) -> NDArray:
    """Return the lensed source of a point (H, W), as seen through the PSF."""
    mesh, modes = point.solution.inversion.mesh, point.solution.source
    inside = (np.arange(parts) - (parts - 1) / 2) / parts
    # light also comes from beyond the edge; the middle of an even kernel lies between pixels
    y, x = (
        np.add.outer(np.arange(-side, n + side) - (n + side % 2) / 2 + 1, inside).ravel()
        for n, side in zip(scene.data.shape, scene.kernel.shape, strict=True)
    )
    u, v = (grid.ravel() * scene.pixel_scale for grid in np.meshgrid(x, y))
    alpha = model.deflection(point.values, u, v)
    fine = mesh.brightness(modes, u - alpha[0], v - alpha[1]) * scene.pixel_scale**2
    image = fine.reshape(len(y) // parts, parts, len(x) // parts, parts).mean((1, 3))
    tall, wide = scene.kernel.shape
    return fftconvolve(image, scene.kernel, mode="same")[tall:-tall, wide:-wide]


def _aperture(scene: Scene) -> NDArray:
    reach, distance = _reach(scene), scene.distance()
    inner = max(INNER, 2.5 * scene.pixel_scale) if scene.galaxy else 2 * scene.pixel_scale
    return scene.good & (distance < reach) & (distance > inner)


def _reach(scene: Scene) -> float:
    """Return the radius ["] that is looked at."""
    return min(APERTURE, min(scene.data.shape) / 2 * scene.pixel_scale)


def _fit(
    observation: Observation,
    settings: FreeForm,
    progress: Progress | None,
    known: NDArray | None = None,
) -> LensModel:
    tell = progress or (lambda stage, chi2: None)
    scene = scene_of(observation, settings)
    if scene.galaxy:
        tell("light of the lens galaxy", scene.galaxy.chi2)
    scene, points = _started(observation.name, scene, settings, known)
    tell("start", points[0].chi2)
    prior, table = MassPrior.of(scene, settings), _no_neighbours()
    stage = _Stage(scene, settings, prior.tight(scene), points[0], tell)
    if known is None:
        stage.fine(_aperture(scene), 16, (), 6, (1.0,), NARROW)
        if settings.neighbours:
            table, labels = _neighbours(stage)
            stage.scene = replace(scene, good=scene.good & (labels == 0))
        stage.prior, stage.follows = prior, True
        stage.fine(stage.region(SEEN), 20, ("a",), 8, TAPERS)
        stage.fine(stage.region(SEEN), settings.splines, (), 10)
        view, reached = stage.fine(stage.fitted, settings.splines, (), 12)
    else:
        stage.prior, stage.follows = prior, True
        view, reached = stage.fine(stage.region(SEEN), settings.splines, (), 10, TAPERS[1:3])
    view, reached = stage.finer(view, reached)
    return _model(observation, stage, view, reached, points, table)


def _at(values: NDArray, scene: Scene) -> Point:
    """Return the point of a known mass, with a coarse source."""
    view = View(scene, _aperture(scene), scene.noise, samples=np.ones(scene.data.shape, int))
    mesh = Box(view).mesh(*rays(view, values), SPLINES)
    prior = Prior(brightness(view) ** -2.0, 4.0)
    posterior = posterior_of(view, MassPrior(values, np.zeros(len(values))))
    return posterior.best_prior(posterior.at(values, mesh, prior))


def _started(
    name: str, scene: Scene, settings: FreeForm, known: NDArray | None
) -> tuple[Scene, list[Point]]:
    """Return the scene and where its fit may start.

    What looks like a galaxy beside the middle of the image may be an arc of a lens that does not
    shine: the scene without it is tried, too, and the more probable one taken.
    """
    scenes = [scene]
    if scene.galaxy and math.hypot(*scene.center) > settings.center_offset:
        scenes.append(with_galaxy(scene, None, settings))
    if settings.cosmic_rays:
        scenes = [_without_rays(scene) for scene in scenes]
    fitted = np.logical_and.reduce([_aperture(scene) for scene in scenes])
    if fitted.sum() < FEWEST:
        found = (
            f"found {fitted.sum()} pixels that are not missing within {_reach(scene):.2f} arcsec"
        )
        raise InputError(f"{name}: {found} of the lens; expected at least {FEWEST}")
    if known is not None:
        return scenes[0], [_at(known, scenes[0])]
    found = [(scene, scan(scene, settings, fitted)) for scene in scenes]
    return max(found, key=lambda pair: score(pair[1][0]))


def _without_rays(scene: Scene) -> Scene:
    fwhm = _fwhm(scene.kernel)
    rays = cosmic_rays(scene.above, scene.noise, fwhm, ~scene.good)
    return replace(scene, good=scene.good & ~rays)


def _fwhm(kernel: NDArray) -> float:
    """Return the FWHM [px] of the Gaussian with the same peak."""
    return math.sqrt(4 * math.log(2) / (math.pi * float(kernel.max())))


def _no_neighbours() -> pd.DataFrame:
    return pd.DataFrame(columns=["x", "y", "flux", "radius", "kind", "masked"])


def _neighbours(stage: _Stage) -> tuple[pd.DataFrame, NDArray]:
    """Return what stands out of the image and is not explained by the lens, and its labels."""
    scene = stage.scene
    arcs = arcs_of(scene, stage.point)
    keep = cv2.dilate((arcs > 2 * scene.noise).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    noise = scene.error(stage.settings.model_error)
    residual = np.where(scene.good, scene.above - arcs, np.nan)
    keep |= scene.distance() < max(INNER, 0.3 * stage.point.values[0])
    table, labels = find_neighbours(
        residual, noise, _fwhm(scene.kernel) * scene.pixel_scale, scene.pixel_scale, keep
    )
    grown = cv2.dilate((labels > 0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    labels = np.where(grown & ~keep, np.maximum(labels, 1), 0)
    table = table[["x", "y", "flux", "radius", "kind"]].assign(masked=True)
    return table, labels


# ------------------------------------------------------------------------------------- the result


def _model(
    observation: Observation,
    stage: _Stage,
    view: View,
    reached: bool,
    points: list[Point],
    table: pd.DataFrame,
) -> LensModel:
    point, posterior = stage.point, stage.posterior
    _, curvature = posterior.derivatives(point)
    free = posterior.free
    covariance = np.zeros((len(mass.NAMES),) * 2)
    covariance[np.ix_(free, free)] = np.linalg.inv(curvature)
    errors = np.full(len(mass.NAMES), np.nan)
    errors[free] = np.sqrt(np.diag(covariance)[free])
    problem = Problem(
        stage.scene,
        view.fitted,
        stage.error,
        view.samples,
        stage.prior,
        point.values,
        point.solution.inversion.mesh,
        point.solution.prior,
    )
    model = LensModel(
        errors=errors,
        covariance=covariance,
        converged=reached,
        flags=(),
        neighbours=table.reset_index(drop=True),
        problem=problem,
        settings=stage.settings,
        **seen(observation, problem, point, stage.settings.supersampling),
    )
    bright = model.fitted & (model.arcs > model.noise)
    return replace(model, flags=_flags(model, stage, points, bright))


def seen(
    observation: Observation, problem: Problem, point: Point, supersampling: int
) -> dict[str, Any]:
    """Return those fields of a ``LensModel`` that follow from its problem and its point."""
    scene, solution = problem.scene, point.solution
    arcs = arcs_of(scene, point, supersampling)
    lens_light = scene.galaxy_light + np.tensordot(solution.light, scene.light, 1)
    given = ~observation.mask
    residual = np.where(
        given, (np.where(given, observation.data, 0) - lens_light - arcs) / scene.noise, 0.0
    )
    fitted, squares = problem.fitted, residual**2
    bright = fitted & (arcs > scene.noise)
    return {
        "observation": observation,
        "names": mass.NAMES,
        "values": point.values,
        "chi2": float(squares[fitted].mean()),
        "chi2_arcs": float(squares[bright].mean()) if bright.any() else math.nan,
        "n_pixels": int(fitted.sum()),
        "evidence": solution.evidence,
        "noise": scene.noise,
        "fitted": fitted,
        "lens_light": lens_light,
        "arcs": arcs,
        "residual": residual,
        "galaxy": _changed(scene, solution.light),
        "source": SourcePlane(solution.inversion.mesh, solution.source, solution.root),
    }


def _changed(scene: Scene, light: NDArray) -> Any:
    """Return the galaxy with the amplitudes that were fitted together with the source."""
    if scene.galaxy is None:
        return None
    amplitudes = scene.galaxy.amplitudes.copy()
    amplitudes[amplitudes > 0] *= 1 + light[:-1]
    sky = scene.galaxy.sky + float(light[-1]) * float(scene.light[-1].flat[0])
    return replace(scene.galaxy, amplitudes=amplitudes, sky=sky)


def _flags(
    model: LensModel, stage: _Stage, points: list[Point], bright: NDArray
) -> tuple[str, ...]:
    prior, free = stage.prior, np.isfinite(stage.prior.sd) & (stage.prior.sd > 0)
    off = np.abs(model.values - prior.mean)[free] / prior.sd[free]
    ring = cv2.dilate(bright.astype(np.uint8), np.ones((3, 3), np.uint8))
    border = np.ones(bright.shape, bool)
    border[1:-1, 1:-1] = False
    others = [p for p in points if abs(p.values[0] - model.values[0]) > 0.1 * model.values[0]]
    best, source = max(map(score, points)), model.source
    found = {
        "no_arcs": bright.sum() < 9,
        "not_converged": not model.converged,
        "poor": model.chi2_arcs > POOR,
        "quiet": model.chi2 < QUIET,
        "edge": bool((ring[border] > 0).any()),
        "far": bool((off > 3).any()),
        "ambiguous": any(best - score(point) < CLOSE for point in others),
        "single": magnified_share(model.values, source.mesh, source.modes, 2.0) < 0.5,
        "crowded": _crowded(model, bright),
    }
    return tuple(name for name, true in found.items() if true)


def _crowded(model: LensModel, bright: NDArray) -> bool:
    table, (x, y) = model.neighbours, model.values[3:5]
    near = np.hypot(table["x"] - x, table["y"] - y) < 2 * model.values[0]
    fluxes = table["flux"][near & (table["kind"] == "neighbour")]
    return bool(len(fluxes) and fluxes.max() > model.arcs[bright].sum())
