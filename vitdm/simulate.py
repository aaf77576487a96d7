"""Lens populations: what is drawn for each lens, its image with noise, and the data set.

Image ``i`` of a population depends on the seed, its index and the number of images (from which its
class is drawn), whatever the number of shards. The smooth lens is drawn before the substructure,
so that it is the same for every class.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from astropy import constants, units
from astropy.cosmology import FlatLambdaCDM
from tqdm import tqdm

from vitdm import dataset
from vitdm.messages import InputError
from vitdm.population import Light, Population
from vitdm.render import brightness

#: columns of the truth in the catalog: arcsec, solar masses, eV, seconds; empty where meaningless
TRUTH = ("theta_E", "theta_E_halo", "e1", "e2", "gamma1", "gamma2", "source_x", "source_y")
TRUTH += tuple(f"source_{name}" for name in ("amp", "R_sersic", "n_sersic", "e1", "e2"))
TRUTH += tuple(f"lens_light_{name}" for name in ("amp", "R_sersic", "n_sersic", "e1", "e2"))
TRUTH += ("n_subhalos", "f_sub", "substructure_mass", "max_subhalo_mass", "max_subhalo_x")
TRUTH += ("max_subhalo_y", "axion_mass", "vortex_length", "vortex_x", "vortex_y", "vortex_angle")
TRUTH += ("exposure_time", "seed")

NO_POINTS = np.empty(0)


@dataclass(frozen=True)
class System:
    """One lens, with everything that its image depends on.

    ``theta_E`` ["] is the Einstein radius as drawn, of all mass; ``theta_E_halo`` that of the
    smooth halo, from which the mean mass of the substructure may have been taken. ``source`` and
    ``lens_light`` are arguments of lenstronomy's SERSIC_ELLIPSE. ``x``, ``y`` ["] and ``masses``
    [solar masses] are (n,): the subhalos, or the points of the vortex. ``truth`` is the row of the
    catalog, by the names of ``TRUTH``.
    """

    kind: str
    theta_E: float
    theta_E_halo: float
    e1: float
    e2: float
    gamma1: float
    gamma2: float
    source: dict[str, float]
    lens_light: dict[str, float] | None
    exposure_time: float
    x: np.ndarray = field(default_factory=lambda: NO_POINTS)
    y: np.ndarray = field(default_factory=lambda: NO_POINTS)
    masses: np.ndarray = field(default_factory=lambda: NO_POINTS)
    truth: dict[str, float] = field(default_factory=dict)


# -------------------------------------------------------------------------------- mass and angle


def theta_E_point(mass: float | np.ndarray, population: Population) -> float | np.ndarray:
    r"""Return the Einstein radius of point masses in arcsec, ``mass`` in solar masses.

    :math:`\theta_E = \sqrt{4GM/c^2 \cdot D_{LS}/(D_L D_S)}` (Narayan & Bartelmann 1996, eq. 20).
    With ``distances: luminosity`` the distances are luminosity distances and
    :math:`D_{LS} = D_S - D_L`, as in the published code of DeepLenseSim.
    """
    return np.sqrt(mass) * _theta_E_per_sqrt_mass(population.cosmology)


@functools.cache
def _theta_E_per_sqrt_mass(cosmology) -> float:
    universe = FlatLambdaCDM(H0=cosmology.H0, Om0=cosmology.Om0, Ob0=cosmology.Ob0)
    z_lens, z_source = cosmology.z_lens, cosmology.z_source
    if cosmology.distances == "luminosity":
        d_l, d_s = universe.luminosity_distance([z_lens, z_source])
        d_ls = d_s - d_l
    else:
        d_l, d_s = universe.angular_diameter_distance([z_lens, z_source])
        d_ls = universe.angular_diameter_distance(z_lens, z_source)
    squared = 4 * constants.G * constants.M_sun / constants.c**2 * d_ls / (d_l * d_s)
    return np.rad2deg(np.sqrt(squared.to_value(units.dimensionless_unscaled))) * 3600


def halo_mass(theta_E: float, population: Population) -> float:
    """Return the mass of a point mass with this Einstein radius ["], in solar masses."""
    return float((theta_E / theta_E_point(1.0, population)) ** 2)


# --------------------------------------------------------------------------------------- drawing


def draw(index: int, kind: str, seed: int, population: Population) -> System:
    """Draw lens ``index`` of a population, of class ``no_sub``, ``cdm`` or ``axion``."""
    macro, substructure, _ = streams(index, seed)
    system = _draw_smooth(macro, population)
    if kind == "cdm":
        system = _add_subhalos(system, substructure, population)
    elif kind == "axion":
        system = _add_vortex(system, substructure, population)
    elif kind != "no_sub":
        raise InputError(f"class {kind!r} cannot be simulated; expected no_sub, cdm or axion")
    truth = {name: getattr(system, name) for name in TRUTH if hasattr(system, name)}
    truth |= {"n_subhalos": 0, "substructure_mass": float(system.masses.sum()), "seed": seed}
    for light in ("source", "lens_light"):
        for name, value in (getattr(system, light) or {}).items():
            truth[f"{light}_{name.removeprefix('center_')}"] = value
    truth = {name: value for name, value in (truth | system.truth).items() if name in TRUTH}
    return replace(system, kind=kind, truth=truth)


def streams(index: int, seed: int) -> list[np.random.Generator]:
    """Return the random numbers of the smooth lens, of the substructure and of the noise."""
    sequence = np.random.SeedSequence(seed, spawn_key=(index,))
    return [np.random.default_rng(child) for child in sequence.spawn(3)]


def _draw_smooth(rng: np.random.Generator, population: Population) -> System:
    halo = population.halo
    theta_E = theta_E_point(halo.mass, population) if halo.mass else halo.theta_E.draw(rng)
    e1, e2 = halo.draw_ellipticity(rng)
    gamma1, gamma2 = population.shear.draw(rng) if population.shear else (0.0, 0.0)
    (x,), (y,) = population.source.position.draw(rng, 1)
    source = _draw_light(population.source, rng, population) | {"center_x": x, "center_y": y}
    exposure_time = population.instrument.exposure_time.draw(rng)
    lens_light = None
    if population.lens_light:
        lens_light = _draw_light(population.lens_light, rng, population)
        lens_light |= {"center_x": 0.0, "center_y": 0.0}
    return System(
        kind="no_sub",
        theta_E=float(theta_E),
        theta_E_halo=float(theta_E),
        e1=e1,
        e2=e2,
        gamma1=gamma1,
        gamma2=gamma2,
        source=source,
        lens_light=lens_light,
        exposure_time=exposure_time,
    )


def _draw_light(light: Light, rng: np.random.Generator, population: Population) -> dict:
    """Return the arguments of lenstronomy's SERSIC_ELLIPSE, without its place."""
    chosen = {"R_sersic": light.R_sersic.draw(rng), "n_sersic": light.n_sersic.draw(rng)}
    chosen["e1"], chosen["e2"] = light.draw_ellipticity(rng)
    if light.amp is not None:
        return chosen | {"amp": light.amp.draw(rng)}
    counts = 10 ** (0.4 * (population.instrument.zero_point - light.magnitude.draw(rng)))
    return chosen | {"amp": counts / total_flux(chosen)}


def total_flux(light: dict[str, float]) -> float:
    """Return the counts/s of all light of a Sérsic profile with brightness 1 at R_sersic."""
    from lenstronomy.LightModel.light_model import LightModel

    place = {"center_x": 0.0, "center_y": 0.0}
    return LightModel(["SERSIC_ELLIPSE"]).total_flux([light | place | {"amp": 1.0}], norm=True)[0]


def _add_subhalos(system: System, rng: np.random.Generator, population: Population) -> System:
    """Add clumps of the given mass function, and take their mean mass out of the halo."""
    subhalos = population.subhalos
    truth = {}
    if subhalos.f_sub is not None:
        f_sub = truth["f_sub"] = subhalos.f_sub.draw(rng)
        # an isothermal lens has the mass theta_E * radius within a radius, in units of theta_E^2
        held = system.theta_E * subhalos.position.disc
        mean = f_sub * held / theta_E_point(subhalos.mean_mass, population) ** 2
    else:
        mean = subhalos.number
    n = int(rng.poisson(mean)) if subhalos.distribution == "poisson" else round(mean)
    masses = subhalos.draw_masses(rng, n)
    total = mean * subhalos.mean_mass
    if subhalos.mass_fraction is not None:
        total = subhalos.mass_fraction.draw(rng) * halo_mass(system.theta_E, population)
        masses *= total / masses.sum() if n else 1
    x, y = subhalos.position.draw(rng, n)
    truth["n_subhalos"] = n
    if n:
        largest = masses.argmax()
        names = ("max_subhalo_mass", "max_subhalo_x", "max_subhalo_y")
        truth |= dict(zip(names, (masses[largest], x[largest], y[largest]), strict=True))
    system = replace(system, x=x, y=y, masses=masses, truth=truth)
    return _compensated(system, "cdm", total, population)


def _add_vortex(system: System, rng: np.random.Generator, population: Population) -> System:
    """Add a straight string of equal point masses, and take its mean mass out of the halo."""
    vortex = population.vortex
    truth = {}
    mass = vortex.mass
    if mass is None:
        mass = vortex.mass_fraction.draw(rng) * halo_mass(system.theta_E, population)
    if vortex.length is None:
        truth["axion_mass"] = vortex.axion_mass.draw(rng)
    length = vortex_length(truth.get("axion_mass"), rng, population)
    (middle_x,), (middle_y,) = vortex.position.draw(rng, 1)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.linspace(-length / 2, length / 2, vortex.points)
    truth |= {"vortex_length": length, "vortex_angle": angle}
    truth |= {"vortex_x": middle_x, "vortex_y": middle_y}
    system = replace(
        system,
        x=middle_x + along * np.cos(angle),
        y=middle_y + along * np.sin(angle),
        masses=np.full(vortex.points, mass / vortex.points),
        truth=truth,
    )
    return _compensated(system, "axion", mass, population)


def vortex_length(axion_mass: float | None, rng, population: Population) -> float:
    """Return the length ["]: drawn, or the de Broglie wavelength of the axion's mass [eV]."""
    if axion_mass is None:
        return population.vortex.length.draw(rng)
    return 0.06 * 1e-22 / axion_mass


def _compensated(system: System, kind: str, mass: float, population: Population) -> System:
    """Take the mean mass of the substructure within theta_E out of the halo.

    ``mass`` [solar masses] is the mean mass of the substructure. The halo is isothermal, with the
    mass theta_E_halo * theta_E within theta_E; all mass within theta_E is theta_E^2.
    """
    if not population.compensate_mass:
        return system
    radii = _radii(kind, population)
    within = np.searchsorted(radii, system.theta_E) / len(radii)
    enclosed = theta_E_point(mass, population) ** 2 * within
    return replace(system, theta_E_halo=system.theta_E - float(enclosed) / system.theta_E)


@functools.lru_cache(maxsize=32)
def _sorted_radii(section, kind: str) -> np.ndarray:
    """Return distances from the centre ["] of many mass elements of the substructure, sorted."""
    n = 200_000
    rng = np.random.default_rng(0)
    x, y = section.position.draw(rng, n)
    if kind == "axion":
        if section.length is not None:
            length = section.length.draw(rng, n)
        else:
            length = 0.06 * 1e-22 / section.axion_mass.draw(rng, n)
        along = length * rng.uniform(-0.5, 0.5, n)
        angle = rng.uniform(0, 2 * np.pi, n)
        x, y = x + along * np.cos(angle), y + along * np.sin(angle)
    return np.sort(np.hypot(x, y))


def _radii(kind: str, population: Population) -> np.ndarray:
    return _sorted_radii(population.subhalos if kind == "cdm" else population.vortex, kind)


def smooth(system: System) -> System:
    """Return the lens without substructure, its mass back in the halo."""
    points = {"x": NO_POINTS, "y": NO_POINTS, "masses": NO_POINTS}
    return replace(system, kind="no_sub", theta_E_halo=system.theta_E, **points)


# ------------------------------------------------------------------------------ image and noise


def render(system: System, population: Population) -> np.ndarray:
    """Return the image without noise, (num_pix, num_pix), in counts/s and pixel."""
    theta = theta_E_point(system.masses, population)
    return brightness(system, theta, population)


def variance(image: np.ndarray, system: System, population: Population) -> np.ndarray:
    """Return the variance of the noise of an image [counts/s], in its unit squared.

    ``double_poisson``: before the clip at zero.
    """
    instrument = population.instrument
    photons = np.clip(image, 0, None) / system.exposure_time
    return {
        "none": np.zeros_like(image),
        "single": photons + instrument.background_rms**2,
        "double_poisson": 2 * photons + instrument.background_rms**2,
    }[instrument.noise]


def add_noise(
    image: np.ndarray, exposure_time: float, rng: np.random.Generator, population: Population
) -> np.ndarray:
    """Return the image [counts/s] as exposed for ``exposure_time`` [s], with noise, in counts/s.

    ``single``: one Poisson realisation of the light plus Gaussian sky noise. ``double_poisson``: as
    in the published code, normal noise of the Poisson variance and sky noise are added, then the
    sum is clipped at 0 and drawn from a Poisson distribution.
    """
    instrument = population.instrument
    if instrument.noise == "none":
        return image
    t = exposure_time
    sky = rng.normal(0.0, instrument.background_rms, image.shape)
    if instrument.noise == "single":
        return rng.poisson(np.clip(image, 0, None) * t) / t + sky
    photons = rng.normal(size=image.shape) * np.sqrt(np.abs(image) / t)
    return rng.poisson(np.clip(t * (image + photons + sky), 0, None)) / t


def simulate_one(
    index: int, kind: str, seed: int, population: Population
) -> tuple[np.ndarray, dict[str, float]]:
    """Return image ``index`` (num_pix, num_pix) in the unit of the instrument, and its truth."""
    system = draw(index, kind, seed, population)
    image = render(system, population)
    instrument = population.instrument
    noise = streams(index, seed)[2]
    image = add_noise(image, system.exposure_time, noise, population)
    if instrument.double_image:
        image = image + image
    if instrument.output == "counts":
        image = image * system.exposure_time
        if instrument.noise == "double_poisson":
            image = np.rint(image)
    return image.astype(np.float32), system.truth


# -------------------------------------------------------------------------------------- data sets


def class_of_each(n: int, seed: int, population: Population) -> list[str]:
    """Return the classes of images 0 … n-1: exact fractions, in an order drawn from the seed."""
    fractions = population.class_fractions
    edges = np.round(np.cumsum(list(fractions.values())) / sum(fractions.values()) * n).astype(int)
    kinds = np.repeat(list(fractions), np.diff(edges, prepend=0))
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

    def images() -> Iterator[np.ndarray]:
        truths = []
        bar = tqdm(indices, desc=f"simulate {k + 1}/{of}", disable=not progress, mininterval=5)
        for i in bar:
            image, truth = simulate_one(i, kinds[i], seed, population)
            truths.append(truth)
            yield image[None]
        # The catalog is written after the images: by then the truth is known.
        catalog[list(TRUTH)] = pd.DataFrame(truths, columns=TRUTH)

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
