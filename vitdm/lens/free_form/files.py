"""A free-form fit of a lens on disk: its numbers, its images, and what it needs to go on.

``lens.json`` and ``lens.fits`` are to be read by anyone; ``problem.npz`` has what searches and
refits start from, to the last bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.io import fits
from numpy.typing import NDArray

from vitdm.config.free_form import FreeForm
from vitdm.data.foreign import decoding
from vitdm.data.observation import Observation
from vitdm.lens.free_form import archive, mass
from vitdm.lens.free_form.fit import seen
from vitdm.lens.free_form.model import FLAGS, LensModel
from vitdm.lens.free_form.problem import Problem
from vitdm.provenance import atomic, read_json, versions, write_json
from vitdm.threads import one_thread

NUMBERS, IMAGES, PROBLEM = "lens.json", "lens.fits", "problem.npz"
SOURCE_PIXELS = 101  # along each side of the image of the source
GALAXY = ("center", "ellipticities", "sigmas", "family", "amplitudes", "sky", "flux")
GALAXY += ("half_light_radius", "axis_ratio", "position_angle")
NEIGHBOUR = ("x", "y", "flux", "radius", "kind", "masked")
COORDINATES = (
    "arcsec from the middle of the image, x along its columns, y along its rows; angles in degrees "
    "from x towards y. Where north is, is not known"
)
#: extensions of ``lens.fits`` and what they hold
EXTENSIONS = {
    "DATA": "image as given, NaN where missing",
    "NOISE": "rms of the noise",
    "MODEL": "lens light, sky and arcs",
    "LENS_LIGHT": "lens galaxy and sky, through the PSF",
    "ARCS": "lensed source, through the PSF",
    "RESIDUAL": "(data - model) / noise, 0 where missing",
    "FITTED": "1 where a pixel was fitted",
    "SOURCE": "source plane, brightness per arcsec^2",
    "SOURCE_ERROR": "standard deviation of SOURCE",
    "CONVERGENCE": "convergence",
    "MAGNIFICATION": "signed magnification",
}


def write(model: LensModel, folder: str | Path) -> None:
    """Write the files of a fit into a folder, which is made if need be."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / NUMBERS, numbers(model))
    with atomic(folder / IMAGES) as temporary:
        _extensions(model).writeto(temporary)
    archive.write(folder / PROBLEM, problem=model.problem, observation=model.observation)


@one_thread()
def read_model(folder: str | Path) -> LensModel:
    """Return the fit that ``write`` wrote, as it was: its source is solved for again.

    InputError names the file that is wrong or missing.
    """
    folder = Path(folder)
    content = read_json(folder / NUMBERS)
    parts = archive.read(folder / PROBLEM, problem=Problem, observation=Observation)
    problem = parts["problem"]
    with decoding(folder / NUMBERS):
        settings = FreeForm(**content["settings"])
        errors = pd.DataFrame(content["parameters"])["error"].astype(float)
        kept = {
            "errors": errors.to_numpy(),
            "covariance": np.array(content["covariance"], float),
            "converged": bool(content["converged"]),
            "flags": tuple(name for name in FLAGS if name in content["flags"]),
            "neighbours": pd.DataFrame(content["neighbours"], columns=list(NEIGHBOUR)),
        }
    with decoding(folder / PROBLEM):
        found = seen(parts["observation"], problem, problem.point, settings.supersampling)
    return LensModel(problem=problem, settings=settings, **kept, **found)


def read(folder: str | Path) -> dict[str, Any]:
    """Return what ``write`` wrote: tables and arrays by name.

    ``numbers`` (``lens.json``), ``parameters`` (name, value, error, unit, meaning), ``covariance``
    (p, p), ``neighbours``, the images of ``lens.fits`` by their names in small letters, and the
    axes of the source ``source_x``, ``source_y`` ["]. InputError names the file that is wrong.
    """
    folder = Path(folder)
    found = {"numbers": (content := read_json(folder / NUMBERS))}
    with decoding(folder / NUMBERS):
        found["parameters"] = pd.DataFrame(content["parameters"])
        found["parameters"]["error"] = found["parameters"]["error"].astype(float)
        found["covariance"] = np.array(content["covariance"], float)
        found["neighbours"] = pd.DataFrame(content["neighbours"])
    with decoding(folder / IMAGES), fits.open(folder / IMAGES, memmap=False) as extensions:
        found |= {name.lower(): extensions[name].data for name in EXTENSIONS}
        header = extensions["SOURCE"].header
    found["source_x"], found["source_y"] = (axis_of(header, k) for k in (1, 2))
    found["fitted"] = found["fitted"].astype(bool)
    return found


# --------------------------------------------------------------------------------------- numbers


def numbers(model: LensModel) -> dict[str, Any]:
    """Return the fit without its images, as ``lens.json`` has it."""
    observation, galaxy = model.observation, model.galaxy
    return {
        "name": observation.name,
        "parameters": model.table().to_dict("records"),
        "covariance": model.covariance,
        "chi2": model.chi2,
        "chi2_arcs": model.chi2_arcs,
        "n_pixels": model.n_pixels,
        "evidence": model.evidence,
        "converged": bool(model.converged),
        "flags": {flag: FLAGS[flag] for flag in model.flags},
        "neighbours": model.neighbours.to_dict("records"),
        "galaxy": galaxy and {key: getattr(galaxy, key) for key in GALAXY},
        "source": {"center": model.source.center, "half_width": model.source.half_width},
        "unit": observation.unit,
        "pixel_scale": observation.pixel_scale,
        "estimated_or_assumed": observation.unknown,
        "coordinates": COORDINATES,
        "settings": model.settings,
        "versions": versions(),
    }


# ---------------------------------------------------------------------------------------- images


def positions(model: LensModel) -> tuple[NDArray, NDArray]:
    """Return x and y (H, W) ["] of the pixels from the middle of the image."""
    height, width = model.observation.shape
    row, column = np.mgrid[:height, :width]
    scale = model.observation.pixel_scale
    return (column - (width - 1) / 2) * scale, (row - (height - 1) / 2) * scale


def images(model: LensModel) -> dict[str, NDArray]:
    """Return the images of ``lens.fits`` by the names of ``EXTENSIONS``."""
    source, offset = model.source.image(SOURCE_PIXELS)
    x, y = positions(model)
    place = model.values, x.ravel(), y.ravel()
    center_x, center_y = model.source.center
    return {
        "DATA": model.observation.data,
        "NOISE": model.noise,
        "MODEL": model.lens_light + model.arcs,
        "LENS_LIGHT": model.lens_light,
        "ARCS": model.arcs,
        "RESIDUAL": model.residual,
        "FITTED": model.fitted.astype(np.uint8),
        "SOURCE": source,
        "SOURCE_ERROR": model.source.errors(*np.meshgrid(center_x + offset, center_y + offset)),
        "CONVERGENCE": mass.convergence(*place).reshape(x.shape),
        "MAGNIFICATION": mass.magnification(*place).reshape(x.shape),
    }


def _extensions(model: LensModel) -> fits.HDUList:
    unit, scale, made = model.observation.unit or "", model.observation.pixel_scale, []
    step = 2 * model.source.half_width / (SOURCE_PIXELS - 1)
    units = {"SOURCE": f"{unit} arcsec-2", "RESIDUAL": "", "FITTED": ""}
    units |= {"SOURCE_ERROR": units["SOURCE"], "CONVERGENCE": "", "MAGNIFICATION": ""}
    for name, image in images(model).items():
        precise = image if name == "FITTED" else image.astype(np.float32)
        in_source_plane = name.startswith("SOURCE")
        grid = (step, model.source.center) if in_source_plane else (scale, (0.0, 0.0))
        header = header_of(*grid, image.shape)
        header["BUNIT"] = (units.get(name, unit).strip(), EXTENSIONS[name])
        made.append(fits.ImageHDU(precise, header, name))
    return fits.HDUList([fits.PrimaryHDU(), *made])


def header_of(step: float, center: tuple[float, float], shape: tuple[int, ...]) -> fits.Header:
    """Return linear coordinates in arcsec, in the manner of a WCS; the sky's are not known."""
    header = fits.Header()
    for k in (1, 2):
        header[f"CTYPE{k}"] = "xy"[k - 1]
        header[f"CUNIT{k}"] = "arcsec"
        header[f"CRPIX{k}"] = (shape[-k] + 1) / 2
        header[f"CRVAL{k}"] = float(center[k - 1])
        header[f"CDELT{k}"] = step
    return header


def axis_of(header: fits.Header, k: int) -> NDArray:
    """Return the positions ["] of the pixels along an axis of ``header_of``."""
    pixel = np.arange(header[f"NAXIS{k}"]) + 1 - header[f"CRPIX{k}"]
    return header[f"CRVAL{k}"] + pixel * header[f"CDELT{k}"]
