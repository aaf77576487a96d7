r"""Simulated lenses with one thing unlike what a fit is told: rows of ``studies.misspecification``.

Each row has the same lenses: the index and the seed of a lens give its mass, source, substructure
and noise whatever the row, which changes one thing of them, or one that the fit is told.

A clump along the line of sight deflects light in a plane of its own. With the reduced deflections
:math:`\alpha` of the lens and :math:`a` of the clump, both for the source, and
:math:`s_{ij} = D_{ij} D_s / (D_j D_{is})`, the lens equation is

.. math:: \beta = \theta - a(\theta) - \alpha(\theta - s_{cl} a(\theta)), \qquad
    \beta = \theta - \alpha(\theta) - a(\theta - s_{lc} \alpha(\theta))

for a clump before and behind the lens (Schneider, Ehlers & Falco 1992, Gravitational Lenses,
section 9.1). The first is seen where it is, the second through the lens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitdm.config.reading import read_yaml
from vitdm.data.observation import Observation
from vitdm.errors import InputError, shown
from vitdm.lens.free_form import mass
from vitdm.simulation import (
    NO_SUB,
    Population,
    System,
    background_rms,
    draw,
    observe,
    population_file,
    population_of,
)
from vitdm.simulation.cosmology import Cosmology, theta_E_point
from vitdm.simulation.rendering import imaged, rays

NOMINAL = "nominal"
LINE_OF_SIGHT = "line_of_sight"  # its class of perturbed lenses, too
#: of these sections of a population a row changes some keys, the others it replaces
SECTIONS = ("instrument", "halo", "source")
#: a core as wide as a Gaussian of FWHM 0.087"; 6.5 % of the light farther out than 0.2"
WINGS = {"diameter": 2.4, "obscuration": 0.33, "wavelength": 0.8045, "blur": 0.01}
WINGS |= {"blur_exponent": 2.5, "size": 21}
#: star-forming clumps and spiral arms of ``hubble``, the stronger half of them
CLUMPS = {"number": {"uniform": [4.0, 12.0]}, "fraction": {"uniform": [0.2, 0.4]}}
CLUMPS |= {"radius": {"log_uniform": [0.02, 0.08]}}
ARMS = {"number": {"choice": [1.0, 2.0, 3.0]}, "pitch": {"uniform": [12.0, 35.0]}}
ARMS |= {"strength": {"uniform": [0.5, 1.0]}}
#: a galaxy with 500 times the light of a typical source; counts/s/arcsec^2 at 2"
GALAXY = {"R_sersic": 2.0, "n_sersic": 4.0, "ellipticity": {"uniform": [0.0, 0.25]}}
GALAXY_AMP = 100.0
CLUMP_MASSES = 1e9, 1e10  # solar masses, log-uniform
CLUMP_OFFSET = 0.3  # ", of a clump from the Einstein radius, at most
CLUMP_PLANES = 0.4, 0.6  # of the redshift to the lens, and from there to the source
STREAM = 9  # of the random numbers of a clump; the smooth lens, noise, ... have lower ones

Told = Callable[[Observation, System, Population], Observation]


@dataclass(frozen=True)
class Row:
    """A misspecification, in the words of the figure.

    ``changes`` returns the keys that differ from those of the nominal population; ``told`` what a
    fit is told of a lens (nominal population; its ``System``) instead of the truth.
    """

    group: str
    label: str
    changes: Callable[[Population], dict[str, Any]] = field(default=lambda nominal: {})
    told: Told = field(default=lambda observation, system, nominal: observation)


# ------------------------------------------------------------------------- what rows are made of


def _off_centre(pixels: float) -> Row:
    def changes(nominal: Population) -> dict[str, Any]:
        return {"center": {"radius": pixels * nominal.instrument.pixel_scale}}

    return Row("centre", f"{pixels:g} px", changes)


def _multipoles(amplitude: float) -> Row:
    halo = {"multipoles": {"a3": amplitude, "a4": amplitude}}
    return Row("multipoles 3, 4", f"{100 * amplitude:g} %", lambda nominal: {"halo": halo})


def _slope(slope: float) -> Row:
    return Row("slope", f"{slope:g}", lambda nominal: {"halo": {"slope": slope}})


def _psf(change: float) -> Row:
    def changes(nominal: Population) -> dict[str, Any]:
        return {"instrument": {"psf_fwhm": (1 + change) * nominal.instrument.psf_fwhm}}

    return Row("PSF", _percent(change), changes, _nominal_psf)


def _nominal_psf(observation: Observation, system: System, nominal: Population) -> Observation:
    return observation.replace(psf=nominal.instrument.psf_fwhm)


def _source(label: str, **structure: Any) -> Row:
    return Row("source", label, lambda nominal: {"source": {"structure": structure}})


def _light_left(part: float) -> Row:
    light = {"amp": part * GALAXY_AMP, **GALAXY}
    return Row("lens light", f"{100 * part:g} % left", lambda nominal: {"lens_light": light})


def _gain(change: float) -> Row:
    def told(observation: Observation, system: System, nominal: Population) -> Observation:
        """Change the photon noise, which follows from the gain, and not that of the sky."""
        counted = nominal.instrument.output == "counts"
        sky = background_rms(system, nominal) * (system.exposure_time if counted else 1.0)
        variance = observation.noise**2
        return observation.replace(noise=np.sqrt(variance + change * (variance - sky**2)))

    return Row("noise", f"gain {_percent(change)}", told=told)


def _noise(change: float) -> Row:
    return Row("noise", f"map {_percent(change)}", told=lambda observation, *_: observation.replace(
        noise=(1 + change) * observation.noise))  # fmt: skip


def _pixels(change: float) -> Row:
    return Row("pixel scale", _percent(change), told=lambda observation, *_: observation.replace(
        pixel_scale=(1 + change) * observation.pixel_scale))  # fmt: skip


def _percent(change: float) -> str:
    return f"{'−' if change < 0 else '+'}{100 * abs(change):g} %"


def _drizzled(nominal: Population) -> dict[str, Any]:
    scale = nominal.instrument.pixel_scale
    return {"instrument": {"drizzle": {"pixfrac": 1.0, "native_scale": scale}}}


#: all that there are, in the order of the figure
ROWS: dict[str, Row] = {
    NOMINAL: Row(NOMINAL, "as the fit is told"),
    **{f"center_{round(100 * off):03d}": _off_centre(off) for off in (0.1, 0.25, 0.5, 1.0)},
    **{f"multipoles_{round(1000 * a):02d}": _multipoles(a) for a in (0.005, 0.01, 0.02)},
    "slope_18": _slope(1.8),
    "slope_22": _slope(2.2),
    **{f"psf_minus_{p:02d}": _psf(-p / 100) for p in (20, 10, 5)},
    **{f"psf_plus_{p:02d}": _psf(p / 100) for p in (5, 10, 20)},
    "psf_wings": Row("PSF", "wings", lambda nominal: {"instrument": {"psf": WINGS}}, _nominal_psf),
    "clumps": _source("clumps", clumps=CLUMPS),
    "spiral": _source("spiral arms", arms=ARMS),
    "correlated": Row("noise", "correlated", _drizzled),
    "gain_minus": _gain(-0.1),
    "gain_plus": _gain(0.1),
    "noise_minus": _noise(-0.1),
    "noise_plus": _noise(0.1),
    **{f"lens_light_{round(1000 * part):02d}": _light_left(part) for part in (0.002, 0.01)},
    LINE_OF_SIGHT: Row("line of sight", "one clump"),
    "pixel_scale": _pixels(0.03),
}


def row_of(name: str) -> Row:
    """Return a row by its name; InputError if there is none."""
    if name not in ROWS:
        raise InputError(f"row {shown(name)}: unknown; expected one of: {', '.join(ROWS)}")
    return ROWS[name]


# ----------------------------------------------------------------------------------- the lenses


def population_for(row: str, nominal: str) -> Population:
    """Return the population of a row, from the name or file of the nominal one."""
    file = population_file(nominal)
    content: dict[str, Any] = dict(read_yaml(file))
    for key, value in row_of(row).changes(population_of(content, str(file))).items():
        inside = key in SECTIONS and isinstance(value, Mapping)
        content[key] = {**content[key], **value} if inside else value
    return population_of(content, f"{file} ({row})")


def observed(row: str, index: int, kind: str, seed: int, nominal: str) -> Observation:
    """Return lens ``index`` of a class as a row has it, with what the fit is told.

    ``kind``: a class of the population ``nominal`` (name or file), or ``LINE_OF_SIGHT``: a lens
    without substructure, and one clump before or behind it.
    """
    chosen, changed = row_of(row), population_for(row, nominal)
    if kind == LINE_OF_SIGHT:
        clump = draw_clump(index, seed, changed)
        known = observe(index, NO_SUB, seed, changed, render=clump.render)
    else:
        known = observe(index, kind, seed, changed)
    del known["truth"]
    made = Observation(known.pop("image"), name=f"{row} {kind} {index}", **known)
    system = draw(index, NO_SUB if kind == LINE_OF_SIGHT else kind, seed, changed)
    return chosen.told(made, system, population_for(NOMINAL, nominal))


# --------------------------------------------------------------------- a clump on the line of sight


@dataclass(frozen=True)
class Clump:
    """A point mass [solar masses] at redshift ``z``, seen at ``x``, ``y`` ["] from the lens."""

    mass: float
    z: float
    x: float
    y: float

    def render(self, system: System, population: Population) -> NDArray[np.float64]:
        """Return the image without noise of a smooth lens and the clump (``rendering.render``)."""
        columns, rows = rays(system, population)
        x, y = np.meshgrid(columns, rows)
        theta = np.array([x.ravel(), y.ravel()])
        beta = self.source_plane(system, population.cosmology, theta)
        return imaged(system, population, *beta.reshape(2, *x.shape))

    def source_plane(self, system: System, cosmology: Cosmology, theta: NDArray) -> NDArray:
        """Return where rays ``theta`` (2, n) ["] meet the source plane, (2, n) ["]."""
        squared = theta_E_point(self.mass, cosmology.model_copy(update={"z_lens": self.z})) ** 2
        place = np.array([[self.x], [self.y]])
        if self.z < cosmology.z_lens:
            a = _point(squared, theta - place)
            behind = theta - between(self.z, cosmology.z_lens, cosmology) * a
            return theta - a - _smooth(system, behind)
        share = between(cosmology.z_lens, self.z, cosmology)
        alpha = _smooth(system, theta)
        true_place = place - share * _smooth(system, place)
        return theta - alpha - _point(squared, theta - share * alpha - true_place)


def draw_clump(index: int, seed: int, population: Population) -> Clump:
    """Draw the clump of lens ``index``: near its Einstein radius, at any redshift but its own."""
    system, (before, behind) = draw(index, NO_SUB, seed, population), CLUMP_PLANES
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index, STREAM)))
    z_lens, z_source = population.cosmology.z_lens, population.cosmology.z_source
    z = rng.uniform(before * z_lens, z_lens + behind * (z_source - z_lens))
    radius = system.theta_E + rng.uniform(-CLUMP_OFFSET, CLUMP_OFFSET)
    angle = rng.uniform(0, 2 * math.pi)
    solar = float(np.exp(rng.uniform(*np.log(CLUMP_MASSES))))
    return Clump(solar, float(z), radius * math.cos(angle), radius * math.sin(angle))


def between(near: float, far: float, cosmology: Cosmology) -> float:
    """Return D_nf D_s / (D_f D_ns) of two planes: how much of a deflection the second one sees."""
    from astropy.cosmology import FlatLambdaCDM  # late: astropy takes a second to load

    universe = FlatLambdaCDM(H0=cosmology.H0, Om0=cosmology.Om0, Ob0=cosmology.Ob0)
    distance, z_source = universe.angular_diameter_distance, cosmology.z_source
    share = distance(near, far) / distance(far) * distance(z_source) / distance(near, z_source)
    return float(share)


def _point(squared: float, offset: NDArray) -> NDArray:
    """Return the deflection ["] of a point of squared Einstein radius at ``offset`` (2, n) ["]."""
    return squared * offset / np.maximum((offset**2).sum(0), 1e-50)


def _smooth(system: System, theta: NDArray) -> NDArray:
    """Return the deflection ["] of halo and shear at ``theta`` (2, n) ["] from the lens."""
    shape = (system.e1, system.e2, 0.0, 0.0, system.gamma1, system.gamma2, system.slope or 2.0)
    return mass.deflection(
        (system.theta_E_halo, *shape, *(system.multipoles or (0.0,) * 6)), *theta
    )
