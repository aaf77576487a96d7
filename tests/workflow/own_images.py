"""The images of the worked examples in docs/data.md, made by the simulator."""

import csv

import numpy as np
from astropy.io import fits
from files import npy, zipped

from vitdm.config.reading import read_yaml
from vitdm.simulation import noise, population_file, population_of
from vitdm.simulation.drawing import draw, simulate_one
from vitdm.simulation.rendering import render

SCALE = 0.05  # arcsec per pixel
FWHM = 0.087  # arcsec
SIDE = 32  # px, of the images of data sets, which nobody looks at
#: a lens galaxy that shines
GALAXY = {"amp": 20.0, "R_sersic": 0.6, "n_sersic": 3.0, "ellipticity": 0.2}


def population(name="marginal", **changes):
    """Return a population that ships, with some keys of its file replaced."""
    return population_of(read_yaml(population_file(name)) | changes)


def header(scale=SCALE, unit="ELECTRONS"):
    """Return the header of an image with world coordinates, as HST's have them."""
    told = fits.Header({"BUNIT": unit})
    for k, kind, sign in ((1, "RA---TAN", -1), (2, "DEC--TAN", 1)):
        told.update({f"CTYPE{k}": kind, f"CD{k}_{k}": sign * scale / 3600})
    return told


def kernel(fwhm=FWHM, scale=SCALE):
    """Return a Gaussian PSF of 11 x 11 pixels."""
    sigma = fwhm / np.sqrt(8 * np.log(2)) / scale
    row = np.exp(-(np.arange(-5, 6) ** 2) / (2 * sigma**2))
    return np.outer(row, row)


def smooth_lens(seed=4, **changes):
    """Return image, rms of its noise, both in electrons, and the truth of a smooth lens."""
    lenses = population(**changes)
    system = draw(0, "no_sub", seed, lenses)
    image, truth = simulate_one(0, "no_sub", seed, lenses)
    variance = noise.variance(render(system, lenses), system, lenses)
    return image, system.exposure_time * np.sqrt(variance).astype(np.float32), truth


def hst_cutout(path, **changes):
    """Write image, noise map and PSF of a smooth lens to one FITS file; return the truth."""
    image, rms, truth = smooth_lens(**changes)
    images = [
        fits.ImageHDU(image, header(), name="SCI"),
        fits.ImageHDU(rms, header(), name="ERR"),
        fits.ImageHDU(kernel(), name="PSF"),
    ]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(path)
    return truth


def survey(folder, n=10):
    """Write FITS files, n of each class, and a table with the class and split of each."""
    lenses = population(num_pix=SIDE)
    (folder / "images").mkdir(parents=True)
    rows = []
    for k in range(2 * n):
        name, kind = f"lens_{k:02d}.fits", ("no_sub", "cdm")[k % 2]
        image, _ = simulate_one(k, kind, 1, lenses)
        fits.writeto(folder / "images" / name, image, header())
        split = ("train", "train", "train", "val", "test")[k // 2 % 5]
        rows.append((name, {"no_sub": "smooth", "cdm": "clumpy"}[kind], split))
    with (folder / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "class", "split"), *rows])


def deeplense(path, n=10):
    """Write an archive in the layout of DeepLense's three-class set: n images of each class."""
    lenses, members = population("model_i", num_pix=SIDE), {}
    for j, (folder, kind) in enumerate({"no": "no_sub", "sphere": "cdm", "vort": "axion"}.items()):
        for k in range(n):
            image, _ = simulate_one(n * j + k, kind, 2, lenses)
            split = "val" if k % 5 == 4 else "train"
            members[f"dataset/{split}/{folder}/{k + 1}.npy"] = npy(image[None])
    return zipped(path, members)


def write(root):
    """Write the images of all examples into a folder."""
    survey(root / "survey")
    deeplense(root / "dataset.zip")
    hst_cutout(root / "lens.fits")
