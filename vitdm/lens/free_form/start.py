"""Where the fit of a lens starts: Einstein radii tried one by one, with a coarse free-form source.

Nothing is assumed of the source, so that the evidence tells one radius from another. The image is
binned, its noise enlarged where the arcs are bright, so that a coarse mesh can describe them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitdm.config.free_form import FreeForm
from vitdm.lens.free_form.inversion import Prior
from vitdm.lens.free_form.mass import LARGEST_STEP, NAMES, SMOOTH, MassModel
from vitdm.lens.free_form.posterior import Point, Posterior, climb
from vitdm.lens.free_form.source import Mesh
from vitdm.lens.free_form.view import Scene, View

BLOCK = 0.1  # ", side of the blocks of pixels
SPLINES = 10  # along each axis
FOLLOWS = 0.7  # mean ellipticity of the mass over that of the light
COST = 400.0  # in ln P, of arcs that are not magnified: light that is not lensed imitates them
CELLS, RAYS = 41, 301  # of the grids in source and image plane on which that is counted
LARGEST = 2.3  # ", radius tried if none is given; at most this share of the half side:
WITHIN = 0.75
BRIGHTEST = 30.0  # of the mean chi^2 without arcs: what is above enlarges the noise
#: half width of the box over the radius that holds 90 % of the light; the same at the start
MARGIN, NARROW = 4.0, 1.5
APART = 0.07  # ", of the radii of two starts that are not the same
STEPS = 3


@dataclass(frozen=True)
class MassPrior:
    """Normal prior of the mass: ``mean`` and ``sd`` (p,) (inf: none, 0: fixed)."""

    mean: NDArray
    sd: NDArray

    @classmethod
    def of(cls, scene: Scene, settings: FreeForm) -> MassPrior:
        """Return the prior of a scene."""
        mean, sd = np.zeros((2, len(NAMES)))
        column = {name: k for k, name in enumerate(NAMES)}
        sd[0] = math.inf
        for names, spread in (
            (("e1", "e2"), settings.ellipticity_sd),
            (("center_x", "center_y"), scene.center_sd),
            (("gamma1", "gamma2"), settings.shear_sd),
            (("slope",), settings.slope_sd),
            *((tuple(f"a{m}_{c}" for c in "xy"), getattr(settings, f"m{m}_sd")) for m in (1, 3, 4)),
        ):
            for name in names:
                sd[column[name]] = spread
        mean[column["center_x"]], mean[column["center_y"]] = scene.center
        mean[column["slope"]] = settings.slope
        return cls(mean, sd)

    def tight(self, scene: Scene) -> MassPrior:
        """Return the narrower prior of a start: isothermal, and much like the light.

        What is wrong with the image's other light would else be fitted by odd masses.
        """
        mean, sd = self.mean.copy(), self.sd.copy()
        if scene.galaxy:
            mean[1:3] = FOLLOWS * scene.galaxy.ellipticity
        sd[1:7] = np.minimum(sd[1:7], [0.1, 0.1, 0.02, 0.02, 0.05, 0.05])
        if not scene.galaxy:
            sd[3:5] = self.sd[3:5]
        return MassPrior(mean, sd).only("slope", "a")

    def only(self, *fixed: str) -> MassPrior:
        """Return the prior with parameters, of names that start so, fixed at their means."""
        held = np.array([name.startswith(fixed) for name in NAMES])
        return MassPrior(self.mean, np.where(held, 0.0, self.sd))


def posterior_of(
    view: View, prior: MassPrior, enlarged: float = 1.0, mass: MassModel = SMOOTH
) -> Posterior:
    """Return the posterior of the mass, given what a view shows; its noise may be enlarged."""
    light = view.light, np.zeros(view.light.shape[1]), view.light_sd
    noise = view.noise * enlarged
    return Posterior(view.optics, view.data, noise, *light, prior.mean, prior.sd, mass=mass)


class Box:
    """Where the source is: the box of the source plane that most light of the arcs comes from."""

    def __init__(self, view: View, significance: float = 3.0) -> None:
        bright = np.where(view.fitted, view.image, 0.0)
        noise = np.full(view.fitted.shape, np.inf)
        noise[view.fitted] = view.noise
        bright = np.where(bright > significance * noise, bright, 0.0)
        self.weight = view.optics.at_rays(bright)
        self.smallest = 3 * view.scene.pixel_scale
        self.largest = 0.75 * view.optics.reach

    def mesh(self, x: NDArray, y: NDArray, n: int, margin: float = MARGIN, **shape: float) -> Mesh:
        """Return the mesh of n x n splines for rays that meet the source plane at x, y (rays,).

        Its half width is ``margin`` times the radius that holds 90 % of the light.
        """
        lit = self.weight > 0
        if not lit.any():
            return Mesh((float(np.median(x)), float(np.median(y))), self.largest, n, **shape)
        x, y, weight = x[lit], y[lit], self.weight[lit]
        center_x, center_y = _quantile(x, weight, 0.5), _quantile(y, weight, 0.5)
        distance = np.maximum(np.abs(x - center_x), np.abs(y - center_y))
        half = margin * _quantile(distance, weight, 0.9)
        half = float(np.clip(half, self.smallest, self.largest))
        return Mesh((center_x, center_y), half, n, **shape)


def _quantile(values: NDArray, weight: NDArray, share: float) -> float:
    order = np.argsort(values)
    total = np.cumsum(weight[order])
    return float(values[order[min(np.searchsorted(total, share * total[-1]), len(values) - 1)]])


def rays(view: View, values: NDArray, mass: MassModel = SMOOTH) -> NDArray:
    """Return where (2, rays) the rays of a view meet the source plane."""
    o = view.optics
    return np.array([o.x, o.y]) - mass.deflection(values, o.x, o.y)


def brightness(view: View) -> float:
    """Return a guess of the source's brightness per square arcsec: half that of the arcs."""
    return max(float(view.data.max()), float(view.noise.min())) / view.optics.area / 2


def scan(scene: Scene, settings: FreeForm, fitted: NDArray) -> list[Point]:
    """Return the most probable coarse models of a scene, the best first, of different radii."""
    binning = max(1, round(BLOCK / scene.pixel_scale))
    view = View(scene, fitted, scene.error(settings.model_error), binning)
    without = float(np.mean((view.data / view.noise) ** 2))
    enlarged = max(1.0, math.sqrt(without / BRIGHTEST))
    prior = MassPrior.of(scene, settings).tight(scene)
    posterior, box = posterior_of(view, prior, enlarged), Box(view)
    source = Prior(brightness(view) ** -2.0, 4.0)
    points = []
    for theta_E in _radii(scene, settings):
        values = prior.mean.copy()
        values[0] = theta_E
        values[1:3] += 1e-3  # not round, where the axes have no direction
        points.append(_climbed(posterior, view, box, values, source))
    return _distinct(points)


def _radii(scene: Scene, settings: FreeForm) -> NDArray:
    """Return the Einstein radii ["] that are tried."""
    reach = min(scene.data.shape) / 2 * scene.pixel_scale
    smallest, largest = max(0.3, 4 * scene.pixel_scale), min(LARGEST, WITHIN * reach)
    low, high = settings.theta_E or (smallest, max(largest, smallest))
    step = max(BLOCK, 2 * scene.pixel_scale)
    return np.arange(low, high + step / 2, step)


def _climbed(posterior: Posterior, view: View, box: Box, values: NDArray, prior: Prior) -> Point:
    mesh = box.mesh(*rays(view, values), SPLINES, margin=NARROW, focus=1.0, taper=0.0)
    point = posterior.best_prior(posterior.at(values, mesh, prior))
    return climb(posterior, point, LARGEST_STEP, STEPS, 0.5)[0]


def _distinct(points: list[Point]) -> list[Point]:
    """Return the points whose radii differ, the best first."""
    kept: list[Point] = []
    for point in sorted(points, key=score, reverse=True):
        if all(abs(point.values[0] - other.values[0]) > APART for other in kept):
            kept.append(point)
    return kept


def score(point: Point) -> float:
    """Return ln P of a start, less what it costs that its arcs are not magnified."""
    mesh, modes = point.solution.inversion.mesh, point.solution.source
    return point.log_probability - COST * (1 - magnified_share(point.values, mesh, modes))


def magnified_share(values: NDArray, mesh: Mesh, modes: NDArray, by: float = 3.0) -> float:
    """Return which share of the arcs' light comes from places that are magnified ``by`` so much.

    Those are lensed into several images; ``modes`` are of the source on a ``mesh``.
    """
    axis = np.linspace(-1, 1, CELLS) * mesh.half_width
    x, y = np.meshgrid(mesh.center[0] + axis, mesh.center[1] + axis)
    source = np.clip(mesh.brightness(modes, x, y), 0, None)
    # how many rays of a grid in the image plane meet each cell of the source plane
    reach = 2.5 * values[0] + mesh.half_width
    grid = np.linspace(-reach, reach, RAYS)
    theta = np.array(np.meshgrid(values[3] + grid, values[4] + grid)).reshape(2, -1)
    beta = theta - SMOOTH.deflection(values, *theta)
    step = axis[1] - axis[0]
    edges = [np.append(axis - step / 2, axis[-1] + step / 2) + c for c in mesh.center]
    rays = np.histogram2d(beta[1], beta[0], bins=edges[::-1])[0]
    magnification = rays * ((grid[1] - grid[0]) / step) ** 2
    light = source * magnification
    return float(light[magnification > by].sum() / max(light.sum(), 1e-300))
