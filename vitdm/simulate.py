"""Lens populations: images and a truth catalog, rendered by lenstronomy.

Image ``i`` of a population depends on the seed, its index and the number of images (from which its
class is drawn), whatever the number of shards.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from astropy import constants, units
from astropy.cosmology import FlatLambdaCDM
from lenstronomy.Data.imaging_data import ImageData
from lenstronomy.Data.psf import PSF
from lenstronomy.ImSim.image_model import ImageModel
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel
from tqdm import tqdm

from vitdm import dataset
from vitdm.config import InputError, Population

#: columns of the truth in the catalog: arcsec, solar masses, eV, seconds; empty where meaningless
TRUTH = ("theta_E", "source_x", "source_y", "n_subhalos", "substructure_mass", "max_subhalo_mass")
TRUTH += ("axion_mass", "vortex_length", "exposure_time", "seed")


def theta_E_point(mass: float, population: Population) -> float:
    r"""Return the Einstein radius of a point mass, in arcsec.

    :math:`\theta_E = \sqrt{4GM/c^2 \cdot D_{LS}/(D_L D_S)}` (Narayan & Bartelmann 1996, eq. 20),
    ``mass`` in solar masses. With ``distances: luminosity`` the distances are luminosity distances
    and :math:`D_{LS} = D_S - D_L`, as in the published code of DeepLenseSim.
    """
    return float(np.sqrt(mass) * _theta_E_per_sqrt_mass(population))


@functools.cache
def _cosmology(H0: float, Om0: float) -> FlatLambdaCDM:
    return FlatLambdaCDM(H0=H0, Om0=Om0, Ob0=0.05)


def _theta_E_per_sqrt_mass(population: Population) -> float:
    cosmology = _cosmology(population.H0, population.Om0)
    if population.distances == "luminosity":
        d_l = cosmology.luminosity_distance(population.z_lens)
        d_s = cosmology.luminosity_distance(population.z_source)
        d_ls = d_s - d_l
    else:
        d_l = cosmology.angular_diameter_distance(population.z_lens)
        d_s = cosmology.angular_diameter_distance(population.z_source)
        d_ls = cosmology.angular_diameter_distance(population.z_lens, population.z_source)
    squared = 4 * constants.G * constants.M_sun / constants.c**2 * d_ls / (d_l * d_s)
    return float(np.sqrt(squared.to_value(units.dimensionless_unscaled)) * 180 / np.pi * 3600)


def draw_subhalo_masses(rng: np.random.Generator, n: int, population: Population) -> np.ndarray:
    """Return (n,) masses in solar masses with dN/dm proportional to m^slope, by inverse CDF."""
    low, high = population.subhalo_mass_range
    power = population.subhalo_mass_slope + 1
    u = rng.uniform(size=n)
    if abs(power) < 1e-12:
        return low * (high / low) ** u
    return (u * (high**power - low**power) + low**power) ** (1 / power)


def draw_substructure(
    kind: str, rng: np.random.Generator, population: Population
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, float]]:
    """Return x, y (arcsec) and masses (solar masses) of the point masses, and the truth about them.

    ``kind`` is ``no_sub`` (none), ``cdm`` (subhalos) or ``axion`` (a vortex: a string of equal
    masses through the centre, of full length 0.06" (1e-22 eV / m_axion)).
    """
    if kind == "no_sub":
        return np.empty(0), np.empty(0), np.empty(0), {"n_subhalos": 0, "substructure_mass": 0.0}
    if kind == "cdm":
        n = population.n_subhalos
        if population.n_subhalos_distribution == "poisson":
            n = int(rng.poisson(n))
        masses = draw_subhalo_masses(rng, n, population)
        radius = rng.uniform(*population.subhalo_radius_range, size=n)
        angle = rng.uniform(0, 2 * np.pi, size=n)
        truth = {"n_subhalos": n, "max_subhalo_mass": masses.max(initial=0.0)}
        x, y = radius * np.cos(angle), radius * np.sin(angle)
    elif kind == "axion":
        axion_mass = 10 ** rng.uniform(*population.log10_axion_mass)
        length = 0.06 * 1e-22 / axion_mass
        along = np.linspace(-length / 2, length / 2, population.vortex_points)
        angle = rng.uniform(0, 2 * np.pi)
        x, y = along * np.cos(angle), along * np.sin(angle)
        masses = np.full(population.vortex_points, population.vortex_mass / along.size)
        truth = {"n_subhalos": 0, "axion_mass": axion_mass, "vortex_length": length}
    else:
        raise InputError(f"class {kind!r} cannot be simulated; expected no_sub, cdm or axion")
    return x, y, masses, truth | {"substructure_mass": masses.sum()}


@functools.lru_cache(maxsize=64)
def _image_model(
    n_points: int, num_pix: int, pixel_scale: float, psf_fwhm: float, psf_truncation: float
) -> ImageModel:
    """Return a lenstronomy image model: SIE, shear and n point masses; one Sérsic source."""
    start = -(num_pix - 1) / 2 * pixel_scale
    data = ImageData(
        image_data=np.zeros((num_pix, num_pix)),
        ra_at_xy_0=start,
        dec_at_xy_0=start,
        transform_pix2angle=np.eye(2) * pixel_scale,
    )
    psf = PSF("GAUSSIAN", fwhm=psf_fwhm, truncation=psf_truncation, pixel_size=pixel_scale)
    return ImageModel(
        data,
        psf,
        lens_model_class=LensModel(["SIE", "SHEAR"] + ["POINT_MASS"] * n_points),
        source_model_class=LightModel(["SERSIC_ELLIPSE"]),
        kwargs_numerics={"supersampling_factor": 1, "supersampling_convolution": False},
    )


def render(
    population: Population,
    source_x: float,
    source_y: float,
    x: np.ndarray,
    y: np.ndarray,
    masses: np.ndarray,
) -> np.ndarray:
    """Return the noiseless image, (num_pix, num_pix), in counts per second and pixel.

    ``source_x, source_y`` [arcsec] is the source centre; ``x, y`` [arcsec] and ``masses`` [solar
    masses] are the point masses of the substructure.
    """
    model = _image_model(
        len(masses),
        population.num_pix,
        population.pixel_scale,
        population.psf_fwhm,
        population.psf_truncation,
    )
    centre = {"center_x": 0.0, "center_y": 0.0}
    lens = [
        {
            "theta_E": theta_E_point(population.halo_mass, population),
            "e1": population.e1,
            "e2": population.e2,
            **centre,
        },
        {"gamma1": population.gamma1, "gamma2": population.gamma2, "ra_0": 0.0, "dec_0": 0.0},
    ]
    theta = np.sqrt(masses) * _theta_E_per_sqrt_mass(population)
    lens += [
        {"theta_E": t, "center_x": a, "center_y": b} for t, a, b in zip(theta, x, y, strict=True)
    ]
    source = {
        "amp": population.source_amp,
        "R_sersic": population.source_R_sersic,
        "n_sersic": population.source_n_sersic,
        "e1": population.source_e1,
        "e2": population.source_e2,
        "center_x": source_x,
        "center_y": source_y,
    }
    return model.image(kwargs_lens=lens, kwargs_source=[source])


def add_noise(
    image: np.ndarray, exposure_time: float, rng: np.random.Generator, population: Population
) -> np.ndarray:
    """Return counts: the image [counts/s] exposed for ``exposure_time`` [s], with noise.

    ``single``: one Poisson realisation of the light plus Gaussian sky noise. ``double_poisson``: as
    in the published code, Poisson noise and sky noise are added, then the sum is clipped at 0 and
    drawn from a Poisson distribution once more. (There the first draw is a normal one of the
    Poisson variance; here it is a Poisson draw, of the same mean and variance.)
    """
    t = exposure_time
    counts = rng.poisson(np.clip(image, 0, None) * t).astype(float)
    counts += rng.normal(0.0, population.background_rms * t, image.shape)
    if population.noise == "double_poisson":
        counts = rng.poisson(np.clip(counts, 0, None)).astype(float)
    return counts


def simulate_one(
    index: int, kind: str, seed: int, population: Population
) -> tuple[np.ndarray, dict[str, float]]:
    """Return image ``index`` (num_pix, num_pix) in counts, and its truth."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
    source_x, source_y = rng.uniform(-population.source_offset, population.source_offset, size=2)
    exposure_time = 10 ** rng.uniform(*population.log10_exposure_time)
    x, y, masses, truth = draw_substructure(kind, rng, population)
    image = render(population, source_x, source_y, x, y, masses)
    truth = {
        "theta_E": theta_E_point(population.halo_mass, population),
        "source_x": source_x,
        "source_y": source_y,
        "exposure_time": exposure_time,
        "seed": seed,
        **truth,
    }
    return add_noise(image, exposure_time, rng, population).astype(np.float32), truth


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
        pixel_scale=population.pixel_scale,
    )
