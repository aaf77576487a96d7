"""What is drawn for each lens of a population, and its image with noise.

Image ``i`` depends on the seed, its index and its class alone. The smooth lens is drawn before the
substructure, from random numbers of its own, so that it is the same whatever the class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from vitdm.errors import InputError
from vitdm.simulation.classes import CLASSES, NO_SUB, simulated, truth_of
from vitdm.simulation.cosmology import deflection_scale, theta_E_point
from vitdm.simulation.light import total_flux
from vitdm.simulation.noise import add_noise, eight_bit, variance
from vitdm.simulation.population import Light, Population
from vitdm.simulation.psf import kernel
from vitdm.simulation.rendering import render
from vitdm.simulation.structure import TRUTH as STRUCTURE
from vitdm.simulation.structure import draw_structure
from vitdm.simulation.system import System

MULTIPOLES = ("a1_x", "a1_y", "a3_x", "a3_y", "a4_x", "a4_y")
LIGHT = ("amp", "R_sersic", "n_sersic", "e1", "e2")
#: of the smooth lens, columns of the truth in the catalog: arcsec, counts/s/arcsec^2
SMOOTH_TRUTH = ("theta_E", "theta_E_halo", "e1", "e2", "gamma1", "gamma2", "source_x", "source_y")
SMOOTH_TRUTH += ("center_x", "center_y")
SMOOTH_TRUTH += tuple(f"source_{name}" for name in LIGHT)
SMOOTH_TRUTH += tuple(f"lens_light_{name}" for name in LIGHT)
SMOOTH_TRUTH += ("slope", *MULTIPOLES, *STRUCTURE)
#: all columns of the truth that the classes of this package have; empty where meaningless
TRUTH = (*SMOOTH_TRUTH, *truth_of(simulated()), "exposure_time", "seed")


def truth_columns(population: Population) -> list[str]:
    """Return the columns of the truth in the catalog of a population.

    They are the same for all populations; only a class that was registered adds columns of its own.
    """
    own = truth_of(list(population.class_fractions))
    return list(dict.fromkeys((*TRUTH, *own)))


def _streams(index: int, seed: int) -> list[np.random.Generator]:
    """Return the random numbers of the smooth lens, substructure, noise, source's structure."""
    sequence = np.random.SeedSequence(seed, spawn_key=(index,))
    return [np.random.default_rng(child) for child in sequence.spawn(4)]


def draw(index: int, kind: str, seed: int, population: Population) -> System:
    """Draw lens ``index`` of a population, of a class ``kind`` that the population has.

    Raises InputError for a class that is unknown, or whose section the population lacks.
    """
    known, names = CLASSES.get(kind), (NO_SUB, *simulated())
    if kind not in names:
        raise InputError(f"class {kind!r} cannot be simulated; expected {', '.join(names)}")
    if known.section and getattr(population, known.section, None) is None:
        raise InputError(f"class {kind!r}: population {population.name} has no {known.section}")
    macro, substructure, _, structure = _streams(index, seed)
    system, of_source = _draw_smooth(macro, population), {}
    if population.source.structure:
        drawn = draw_structure(population.source.structure, system.source, structure)
        system, of_source = replace(system, structure=drawn[0]), drawn[1]
    if known.draw:
        system = known.draw(system, substructure, population)
    truth = {
        **of_source,
        "n_subhalos": 0,
        "substructure_mass": float(system.masses.sum()),
        **system.truth,
    }
    for name in ("theta_E", "theta_E_halo", "e1", "e2", "gamma1", "gamma2", "exposure_time"):
        truth[name] = getattr(system, name)
    for name in LIGHT:
        truth[f"source_{name}"] = system.source[name]
        if system.lens_light:
            truth[f"lens_light_{name}"] = system.lens_light[name]
    truth |= {"source_x": system.source["center_x"], "source_y": system.source["center_y"]}
    truth |= {"center_x": system.center[0], "center_y": system.center[1]}
    if system.slope is not None:
        truth["slope"] = system.slope
    if system.multipoles is not None:
        truth |= dict(zip(MULTIPOLES, system.multipoles, strict=True))
    return replace(system, kind=kind, truth=truth | {"seed": seed})


def _draw_smooth(rng: np.random.Generator, population: Population) -> System:
    """Return a lens without substructure: halo, shear, source, exposure, light of its own."""
    halo, cosmology = population.halo, population.cosmology
    scale = deflection_scale(cosmology)
    if halo.theta_E is not None:
        theta_E = halo.theta_E.draw(rng) * scale
    else:  # the theta_E of a point mass is given to the halo, whose deflection is linear in it
        theta_E = theta_E_point(halo.mass, cosmology) * np.sqrt(scale)
    e1, e2 = halo.draw_ellipticity(rng)
    gamma1, gamma2 = population.shear.draw(rng) if population.shear else (0.0, 0.0)
    (x,), (y,) = population.source.position.draw(rng, 1)
    source = _draw_light(population.source, rng, population)
    exposure_time = population.instrument.exposure_time.draw(rng)
    lens_light = None
    if population.lens_light:
        lens_light = _draw_light(population.lens_light, rng, population)
        lens_light |= {"center_x": 0.0, "center_y": 0.0}
    center = (0.0, 0.0)
    if population.center:
        (x0,), (y0,) = population.center.draw(rng, 1)
        center = (float(x0), float(y0))
    slope = float(halo.slope.draw(rng)) if halo.slope else None
    multipoles = halo.multipoles.draw(rng) if halo.multipoles else None
    return System(
        theta_E=theta_E,
        theta_E_halo=theta_E,
        e1=e1,
        e2=e2,
        gamma1=gamma1 * scale,
        gamma2=gamma2 * scale,
        source=source | {"center_x": x, "center_y": y},
        lens_light=lens_light,
        center=center,
        slope=slope,
        multipoles=multipoles,
        exposure_time=exposure_time,
    )


def _draw_light(light: Light, rng: np.random.Generator, population: Population) -> dict[str, float]:
    """Return the arguments of lenstronomy's SERSIC_ELLIPSE, but for its place."""
    drawn = {"R_sersic": light.R_sersic.draw(rng), "n_sersic": light.n_sersic.draw(rng)}
    drawn["e1"], drawn["e2"] = light.draw_ellipticity(rng)
    if light.amp is not None:
        return {"amp": light.amp.draw(rng), **drawn}
    counts = 10 ** (0.4 * (population.instrument.zero_point - light.magnitude.draw(rng)))
    return {"amp": counts / total_flux(drawn), **drawn}


def simulate_one(
    index: int, kind: str, seed: int, population: Population
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return image ``index`` (num_pix, num_pix) float32 as the instrument gives it, and its truth.

    It is in counts, counts/s or whole numbers from 0 to 255, as the population says; ``kind`` is
    the name of its class. The truth has a value for each column that is known of it. Raises
    InputError for a class that the population does not have.
    """
    image, _, system = _exposed(index, kind, seed, population)
    return image, system.truth


def observe(
    index: int,
    kind: str,
    seed: int,
    population: Population,
    render: Callable[[System, Population], np.ndarray] = render,
) -> dict[str, Any]:
    """Return image ``index`` and its truth, as ``simulate_one``, with what a fit is told of it.

    A dictionary of ``image`` and ``truth``; ``noise``, the rms of each pixel (num_pix, num_pix) in
    the unit of the image, from the true brightness (``variance``), None for images without noise or
    of whole numbers; ``psf``, its kernel (size, size) or the FWHM of a Gaussian ["];
    ``pixel_scale`` ["]; ``unit``, None for whole numbers. ``render`` makes the image without noise;
    another function is for lenses that the model of ``rendering`` does not describe.
    """
    image, noiseless, system = _exposed(index, kind, seed, population, render)
    instrument, unit, noise = population.instrument, None, None
    if not population.eight_bit:
        counted = instrument.output == "counts"
        unit = "counts" if counted else "counts/s"
        if instrument.noise != "none":
            noise = np.sqrt(variance(noiseless, system, population))
            noise = noise * (system.exposure_time if counted else 1.0)
    psf = instrument.psf_fwhm
    if instrument.psf:
        psf = kernel(instrument.psf, instrument.pixel_scale)
    known = {"psf": psf, "pixel_scale": instrument.pixel_scale, "unit": unit}
    return {"image": image, "noise": noise, "truth": system.truth} | known


def _exposed(
    index: int,
    kind: str,
    seed: int,
    population: Population,
    render: Callable[[System, Population], np.ndarray] = render,
) -> tuple[np.ndarray, np.ndarray, System]:
    """Return an image, its noiseless counterpart in counts/s, and the lens."""
    system = draw(index, kind, seed, population)
    noiseless = render(system, population)
    if population.instrument.double_image:
        noiseless = noiseless + noiseless
    image = add_noise(noiseless, system, _streams(index, seed)[2], population)
    if population.instrument.output == "counts_per_second":
        image = image / system.exposure_time
    if population.eight_bit:
        image = eight_bit(image, population.eight_bit)
    return image.astype(np.float32), noiseless, system
