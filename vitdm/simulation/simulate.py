"""Lens populations: what is drawn for each lens, its image with noise, and the data set.

Image ``i`` of a population depends on the seed, its index and the number of images (from which its
class is drawn), whatever the number of shards. The smooth lens is drawn before the substructure,
from random numbers of its own, so that it is the same whatever the class.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from vitdm.data import dataset
from vitdm.errors import InputError
from vitdm.simulation.population import (
    Cosmology,
    EightBit,
    Halo,
    Light,
    Population,
    Subhalos,
    Vortex,
)
from vitdm.simulation.render import (
    System,
    deflection_scale,
    mass_within,
    render,
    smooth,
    theta_E_point,
    tidal_radius,
    total_flux,
)

__all__ = ["System", "draw", "render", "simulate", "simulate_one", "smooth", "variance"]

LIGHT = ("amp", "R_sersic", "n_sersic", "e1", "e2")
#: columns of the truth in the catalog: arcsec, solar masses, eV, seconds; empty where meaningless
TRUTH = ("theta_E", "theta_E_halo", "e1", "e2", "gamma1", "gamma2", "source_x", "source_y")
TRUTH += tuple(f"source_{name}" for name in LIGHT)
TRUTH += tuple(f"lens_light_{name}" for name in LIGHT)
TRUTH += ("n_subhalos", "f_sub", "substructure_mass", "max_subhalo_mass", "max_subhalo_x")
TRUTH += ("max_subhalo_y", "axion_mass", "vortex_length", "vortex_x", "vortex_y", "vortex_angle")
TRUTH += ("exposure_time", "seed")


# --------------------------------------------------------------------------------------- drawing


def _streams(index: int, seed: int) -> list[np.random.Generator]:
    """Return the random numbers of the smooth lens, of the substructure and of the noise."""
    sequence = np.random.SeedSequence(seed, spawn_key=(index,))
    return [np.random.default_rng(child) for child in sequence.spawn(3)]


def draw(index: int, kind: str, seed: int, population: Population) -> System:
    """Draw lens ``index`` of a population, of class ``no_sub``, ``cdm`` or ``axion``."""
    if kind not in ("no_sub", "cdm", "axion"):
        raise InputError(f"class {kind!r} cannot be simulated; expected no_sub, cdm or axion")
    section = {"cdm": "subhalos", "axion": "vortex"}.get(kind)
    if section and getattr(population, section) is None:
        raise InputError(f"class {kind!r}: population {population.name} has no {section}")
    macro, substructure, _ = _streams(index, seed)
    system = _draw_smooth(macro, population)
    if kind == "cdm":
        system = _with_subhalos(system, substructure, population)
    elif kind == "axion":
        system = _with_vortex(system, substructure, population)
    truth = {"n_subhalos": 0, "substructure_mass": float(system.masses.sum()), **system.truth}
    for name in ("theta_E", "theta_E_halo", "e1", "e2", "gamma1", "gamma2", "exposure_time"):
        truth[name] = getattr(system, name)
    for name in LIGHT:
        truth[f"source_{name}"] = system.source[name]
        if system.lens_light:
            truth[f"lens_light_{name}"] = system.lens_light[name]
    truth |= {"source_x": system.source["center_x"], "source_y": system.source["center_y"]}
    return replace(system, kind=kind, truth=truth | {"seed": seed})


def _draw_smooth(rng: np.random.Generator, population: Population) -> System:
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
    return System(
        theta_E=theta_E,
        theta_E_halo=theta_E,
        e1=e1,
        e2=e2,
        gamma1=gamma1 * scale,
        gamma2=gamma2 * scale,
        source=source | {"center_x": x, "center_y": y},
        lens_light=lens_light,
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


def _with_subhalos(system: System, rng: np.random.Generator, population: Population) -> System:
    """Add clumps of the given mass function, and take their mean mass out of the halo."""
    subhalos, cosmology = population.subhalos, population.cosmology
    truth = {}
    if subhalos.f_sub is None:
        mean_number = subhalos.number
    else:
        # an isothermal halo has the mass theta_E * radius within a radius, in units of angle^2
        f_sub = truth["f_sub"] = subhalos.f_sub.draw(rng)
        held = mass_within(np.sqrt(system.theta_E * subhalos.position.disc), cosmology)
        mean_number = f_sub * held / subhalos.mean_mass
    n = round(mean_number) if subhalos.distribution == "fixed" else rng.poisson(mean_number)
    masses = subhalos.draw_masses(rng, n)
    mean_mass = mean_number * subhalos.mean_mass
    if subhalos.mass_fraction is not None:
        mean_mass = subhalos.mass_fraction.draw(rng) * mass_within(system.theta_E, cosmology)
        masses *= mean_mass / masses.sum() if n else 1
    x, y = subhalos.position.draw(rng, n)
    truth["n_subhalos"] = n
    if n:
        largest = masses.argmax()
        truth |= {"max_subhalo_mass": masses[largest]}
        truth |= {"max_subhalo_x": x[largest], "max_subhalo_y": y[largest]}
    system = replace(system, x=x, y=y, masses=masses, truth=truth)
    return _compensated(system, mean_mass, subhalos, population)


def _with_vortex(system: System, rng: np.random.Generator, population: Population) -> System:
    """Add a straight string of equal point masses, and take its mean mass out of the halo."""
    vortex = population.vortex
    mass = vortex.mass
    if mass is None:
        mass = vortex.mass_fraction.draw(rng) * mass_within(system.theta_E, population.cosmology)
    length, axion_mass = vortex.draw_length(rng)
    (x,), (y,) = vortex.position.draw(rng, 1)
    angle = rng.uniform(0, np.pi)
    truth = {"vortex_length": length, "vortex_x": x, "vortex_y": y, "vortex_angle": angle}
    if axion_mass is not None:
        truth["axion_mass"] = axion_mass
    along = np.linspace(-length / 2, length / 2, vortex.points)
    system = replace(
        system,
        x=x + along * np.cos(angle),
        y=y + along * np.sin(angle),
        masses=np.full(vortex.points, mass / vortex.points),
        truth=truth,
    )
    return _compensated(system, mass, vortex, population)


def _compensated(
    system: System, mean_mass: float, section: Subhalos | Vortex, population: Population
) -> System:
    """Take the mean mass of the substructure within theta_E out of the halo.

    ``mean_mass`` [solar masses] is that of all substructure, given the mass fraction of this lens.
    The halo, isothermal, has the mass theta_E_halo * theta_E within theta_E, and all mass there is
    theta_E^2, in units of angle^2.
    """
    if not population.compensate_mass:
        return system
    radii, fractions = _fraction_within(section, population.halo, population.cosmology)
    enclosed = mean_mass * np.interp(system.theta_E, radii, fractions)
    moved = theta_E_point(enclosed, population.cosmology) ** 2 / system.theta_E
    if moved >= system.theta_E:
        raise InputError(
            f"population {population.name}: found substructure of {enclosed:.3g} solar masses "
            f'within theta_E = {system.theta_E:.3g}"; expected less than all mass there'
        )
    return replace(system, theta_E_halo=system.theta_E - moved)


@functools.cache
def _fraction_within(
    section: Subhalos | Vortex, halo: Halo, cosmology: Cosmology
) -> tuple[np.ndarray, np.ndarray]:
    """Return Einstein radii ["] and the mean fraction of the substructure's mass within each.

    By Monte Carlo with a seed of its own: many small parts of the matter of many lenses.
    """
    n = 100_000
    rng = np.random.default_rng(0)
    x, y = section.position.draw(rng, n)
    angle = rng.uniform(0, 2 * np.pi, n)
    if halo.theta_E is not None:
        radii = np.linspace(*halo.theta_E.bounds, 25) * deflection_scale(cosmology)
    else:
        radii = theta_E_point(halo.mass, cosmology) * np.sqrt([deflection_scale(cosmology)])
    offsets = np.zeros((len(radii), n))
    if isinstance(section, Vortex):
        offsets += section.draw_length(rng, n)[0] * rng.uniform(-0.5, 0.5, n)
    elif section.profile == "pseudo_jaffe":
        # the mass within r, 1 + r/a - sqrt(1 + (r/a)^2), solved for r/a
        rest = rng.uniform(size=n)
        scaled = (1 - rest**2) / (2 * rest)
        theta = theta_E_point(section.draw_masses(rng, n, weighted_by_mass=True), cosmology)
        offsets += scaled * tidal_radius(theta, radii[:, None])
    distance = np.hypot(x + offsets * np.cos(angle), y + offsets * np.sin(angle))
    return radii, (distance < radii[:, None]).mean(axis=1)


# ---------------------------------------------------------------------------------------- noise


def background_rms(system: System, population: Population) -> float:
    """Return the rms of the sky in a pixel, in counts/s."""
    instrument = population.instrument
    if instrument.background_time is None:
        return instrument.background_rms
    return instrument.background_rms * np.sqrt(instrument.background_time / system.exposure_time)


def variance(image: np.ndarray, system: System, population: Population) -> np.ndarray:
    """Return the variance of the noise of an image [counts/s], in (counts/s)^2.

    For ``double_poisson`` it is that before the clip at 0.
    """
    sources = {"none": 0, "single": 1, "double_poisson": 2}[population.instrument.noise]
    photons = sources * np.clip(image, 0, None) / system.exposure_time
    return photons + (background_rms(system, population) ** 2 if sources else 0)


def add_noise(
    image: np.ndarray, system: System, rng: np.random.Generator, population: Population
) -> np.ndarray:
    """Return the image [counts/s] in counts, with noise.

    ``single``: one Poisson realisation of the light plus normal sky noise. ``double_poisson``: as
    in the published code, normal noise of the Poisson variance and sky noise are added, the sum is
    clipped at 0 and drawn from a Poisson distribution.
    """
    t, noise = system.exposure_time, population.instrument.noise
    if noise == "none":
        return t * image
    sky = t * background_rms(system, population) * rng.standard_normal(image.shape)
    if noise == "single":
        return rng.poisson(np.clip(t * image, 0, None)) + sky
    photons = np.sqrt(t * np.abs(image)) * rng.standard_normal(image.shape)
    return rng.poisson(np.clip(t * image + photons + sky, 0, None)).astype(float)


def eight_bit(image: np.ndarray, settings: EightBit) -> np.ndarray:
    """Return the image as whole numbers from 0 to 255."""
    if settings.rectified:
        image = np.abs(image)
    scaling = settings.scaling
    low, high = (image.min(), image.max()) if scaling == "min_max" else scaling
    grey = np.rint(np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    if settings.jpeg_quality is not None:
        _, code = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, settings.jpeg_quality])
        grey = cv2.imdecode(code, cv2.IMREAD_GRAYSCALE)
    return grey


def simulate_one(
    index: int, kind: str, seed: int, population: Population
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return image ``index`` (num_pix, num_pix) float32 as the instrument gives it, and its truth.

    Raises InputError for a class that the population does not have.
    """
    system = draw(index, kind, seed, population)
    instrument = population.instrument
    image = render(system, population)
    if instrument.double_image:
        image = image + image
    image = add_noise(image, system, _streams(index, seed)[2], population)
    if instrument.output == "counts_per_second":
        image = image / system.exposure_time
    if population.eight_bit:
        image = eight_bit(image, population.eight_bit)
    return image.astype(np.float32), system.truth


# -------------------------------------------------------------------------------------- data sets


def class_of_each(n: int, seed: int, population: Population) -> list[str]:
    """Return the classes of images 0 … n-1: exact fractions, in an order drawn from the seed."""
    fractions = population.class_fractions
    names = [name for name in dataset.CLASSES if name in fractions]  # whatever the file's order
    sums = np.cumsum([fractions[name] for name in names])
    edges = np.round(sums / sums[-1] * n).astype(int)
    kinds = np.repeat(names, np.diff(edges, prepend=0))
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(n, 0)))
    return rng.permutation(kinds).tolist()


def simulate(
    population: Population,
    n_images: dict[str, int],
    seed: int,
    out: str | Path,
    shard: tuple[int, int] = (0, 1),
    progress: bool = True,
) -> None:
    """Write shard ``(k, of)`` of a data set of ``sum(n_images)`` lenses to the folder ``out``.

    ``n_images`` gives the images of each split. Classes and splits are drawn for the whole data
    set, so that the shards, merged, are the same whatever their number.
    """
    started = time.time()
    k, of = shard
    if not 0 <= k < of:
        raise InputError(f"shard {k}/{of}: expected k/n with 0 <= k < n")
    total = sum(n_images.values())
    kinds = class_of_each(total, seed, population)
    ids = [f"{population.name}_{i:06d}" for i in range(total)]
    splits = dataset.assign_splits(ids, kinds, n_images, seed)
    indices = range(total * k // of, total * (k + 1) // of)
    catalog = pd.DataFrame(
        {
            "id": [ids[i] for i in indices],
            "class": [kinds[i] for i in indices],
            "split": [splits[i] for i in indices],
            "source": population.name,
        }
    )

    truths = np.full((len(indices), len(TRUTH)), np.nan)

    def images() -> Iterator[np.ndarray]:
        bar = tqdm(indices, desc=f"simulate {k + 1}/{of}", disable=not progress, mininterval=5)
        for row, i in enumerate(bar):
            image, truth = simulate_one(i, kinds[i], seed, population)
            truths[row] = [truth.get(name, np.nan) for name in TRUTH]
            yield image[None]
        # The catalog is written after the images: by then the truth is known.
        catalog[list(TRUTH)] = truths
        catalog["n_subhalos"] = catalog["n_subhalos"].astype(int)
        catalog["seed"] = seed

    dataset.write(
        out,
        images(),
        catalog,
        rule="simulate",
        seed=seed,
        config=population,
        started=started,
        pixel_scale=population.instrument.pixel_scale,
    )
