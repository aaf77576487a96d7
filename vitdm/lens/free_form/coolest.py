"""Export of a free-form fit in the COOLEST standard (Galan et al. 2023, JOSS 8, 5567).

A folder with ``coolest.json`` and the FITS files that it refers to, as version 0.1 of the package
``coolest`` reads it. The conventions differ from ours in three ways:

- Position angles are from y towards -x, in degrees. Where north is, is not known here: y stands for
  it.
- The shear is about the origin, not about the centre c of the mass. The deflection differs by a
  constant, by which the source is shifted: :math:`\\beta' = \\beta - \\Gamma c`.
- Brightness on a grid is per pixel of the image, that of formulas per square arcsec.

The lens light is a sum of Sérsic profiles of index 1/2, which are Gaussians. The standard has no
multipoles: their potential is written as an image.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from vitdm import __version__
from vitdm.lens.free_form import mass
from vitdm.provenance import atomic, write_json

if TYPE_CHECKING:
    from vitdm.lens.free_form.model import LensModel

JSON = "coolest.json"
SOURCE_PIXELS = 100  # along the box of the source
MULTIPOLES = slice(8, 14)  # of ``mass.NAMES``
NOTES = (
    "Where north is, and the redshifts, are not known: angles are from the y axis of the image "
    "towards negative x, the origin is the middle of the image.",
    "The source is shifted by the shear times the centre of the mass, because the shear is about "
    "the origin here, and about the centre of the mass in the fit.",
    "The lens light is a sum of Sersic profiles of index 0.5, which are Gaussians, and theta_eff "
    "their half-light radius. The sky per pixel is in meta.",
    "Percentiles are those of normal errors.",
)
POTENTIAL = (
    "The standard has no multipoles: their potential is an image (mass field 'multipoles'), and "
    "their amplitudes over theta_E are in meta."
)


def write(model: LensModel, folder: str | Path) -> None:
    """Write ``coolest.json`` and its FITS files into a folder, which is made if need be."""
    folder, export = Path(folder), _Export(model)
    folder.mkdir(parents=True, exist_ok=True)
    content = export.content()
    for name, image in export.images.items():
        with atomic(folder / name) as temporary:
            fits.PrimaryHDU(image).writeto(temporary)
    write_json(folder / JSON, content)


class _Export:
    """The content of the JSON file, and the ``images`` that it refers to, by file name."""

    def __init__(self, model: LensModel) -> None:
        self.model, self.images = model, {}
        self.scale = model.observation.pixel_scale
        self.values = dict(zip(model.names, map(float, model.values), strict=True))
        # the middle of the squares, from that of the image: see ``_square``
        height, width = model.observation.shape
        self.origin = [(max(height, width) - n) % 2 / 2 * self.scale for n in (width, height)]

    def content(self) -> dict[str, Any]:
        observation = self.model.observation
        pixels = self._image("data.fits", observation.data, np.nan)
        noise = self._image("noise.fits", self.model.noise, np.nan)
        mask = self._image("mask.fits", self.model.fitted.astype(np.uint8), 0)
        return {
            "standard": "COOLEST",
            "mode": "MAP",
            "meta": self._meta(),
            "coordinates_origin": {"ra": "00h00m00s", "dec": "+00d00m00s"},
            "cosmology": None,
            "observation": {
                "pixels": pixels,
                "noise": {"type": "NoiseMap", "noise_map": noise},
                "exposure_time": None,
                "mag_zero_point": None,
                "mag_sky_brightness": None,
            },
            "instrument": {
                "name": "",
                "band": "",
                "pixel_size": self.scale,
                "readout_noise": None,
                "psf": self._psf(),
            },
            "lensing_entities": _with_ids(self._entities()),
            "likelihoods": [{"type": "ImagingDataLikelihood", "mask": mask}],
        }

    def _meta(self) -> dict[str, Any]:
        model, multipoles = self.model, self._has_multipoles
        amplitudes = {name: self.values[name] for name in model.names[MULTIPOLES]}
        return {
            "software": "vitdm",
            "version": __version__,
            "name": model.observation.name,
            "unit": model.observation.unit,
            "notes": [*NOTES, *([POTENTIAL] * multipoles)],
            "chi2_per_pixel": model.chi2,
            "flags": list(model.flags),
            "sky": model.galaxy.sky if model.galaxy else None,
            "multipoles": amplitudes if multipoles else {},
        }

    @property
    def _has_multipoles(self) -> bool:
        return bool(np.any(self.model.values[MULTIPOLES]))

    @property
    def _center(self) -> tuple[float, float]:
        return self.values["center_x"], self.values["center_y"]

    def _from_origin(self, place: tuple[float, float]) -> list[float]:
        return [value - zero for value, zero in zip(place, self.origin, strict=True)]

    # ------------------------------------------------------------------------ lenses and source

    def _entities(self) -> list[dict[str, Any]]:
        lens = _entity("Galaxy", "lens", [("PEMD", self._power_law())])
        lens["light_model"] = [_profile("Sersic", light) for light in self._lens_light()]
        shear = _entity("MassField", "external shear", [("ExternalShear", self._shear())])
        source = _entity("Galaxy", "source", [])
        source["light_model"] = [_profile("PixelatedRegularGrid", {"pixels": self._source()})]
        if not self._has_multipoles:
            return [lens, shear, source]
        pixels = {"pixels": self._grid("multipoles.fits", self._potential(), self.scale)}
        potential = [("PixelatedRegularGridPotential", pixels)]
        return [lens, shear, _entity("MassField", "multipoles", potential), source]

    def _power_law(self) -> dict[str, Any]:
        e1, e2 = self.values["e1"], self.values["e2"]
        e = max(math.hypot(e1, e2), 1e-9)
        turned = {"e1": -e2 / (2 * e**2), "e2": e1 / (2 * e**2)}  # of the angle
        rounder = {"e1": -2 * e1 / e / (1 + e) ** 2, "e2": -2 * e2 / e / (1 + e) ** 2}
        center = self._from_origin(self._center)
        return {
            "theta_E": self._parameter(self.values["theta_E"], {"theta_E": 1.0}),
            "gamma": self._parameter(self.values["slope"], {"slope": 1.0}),
            "q": self._parameter((1 - e) / (1 + e), rounder),
            "phi": self._parameter(_angle(e1, e2), turned, math.degrees(1)),
            "center_x": self._parameter(center[0], {"center_x": 1.0}),
            "center_y": self._parameter(center[1], {"center_y": 1.0}),
        }

    def _shear(self) -> dict[str, Any]:
        gamma1, gamma2 = self.values["gamma1"], self.values["gamma2"]
        gamma = max(math.hypot(gamma1, gamma2), 1e-9)
        longer = {"gamma1": gamma1 / gamma, "gamma2": gamma2 / gamma}
        turned = {"gamma1": -gamma2 / (2 * gamma**2), "gamma2": gamma1 / (2 * gamma**2)}
        return {
            "gamma_ext": self._parameter(gamma, longer),
            "phi_ext": self._parameter(_angle(gamma1, gamma2), turned, math.degrees(1)),
        }

    def _parameter(
        self, value: float, slopes: dict[str, float], unit: float = 1.0
    ) -> dict[str, Any]:
        """Return a parameter with its error; ``slopes`` are its derivatives by ours."""
        slope = np.array([slopes.get(name, 0.0) for name in self.model.names]) * unit
        error = math.sqrt(max(float(slope @ self.model.covariance @ slope), 0.0))
        return _parameter(value, error) | {"fixed": error == 0}

    def _potential(self) -> NDArray:
        """Return the potential (n, n) ["^2] of the multipoles, in the square of the images.

        It is z . alpha of their deflection alpha at z, from the centre, as all but that of m = 1
        grow linearly with the radius; there a term is over.
        """
        n = max(self.model.observation.shape)
        axis = (np.arange(n) - (n - 1) / 2) * self.scale
        x, y = np.meshgrid(axis + self.origin[0], axis + self.origin[1])
        smooth = self.model.values.copy()
        smooth[MULTIPOLES] = 0.0
        rays = x.ravel(), y.ravel()
        alpha = mass.deflection(self.model.values, *rays) - mass.deflection(smooth, *rays)
        alpha_x, alpha_y = alpha.reshape(2, *x.shape)
        x, y = x - self._center[0], y - self._center[1]
        rest = self.values["a1_x"] * x + self.values["a1_y"] * y
        return x * alpha_x + y * alpha_y - self.values["theta_E"] / 2 * rest

    def _lens_light(self) -> list[dict[str, Any]]:
        """Return the parameters of a Sérsic profile for each Gaussian that shines."""
        galaxy, profiles = self.model.galaxy, []
        if galaxy is None:
            return []
        center = self._from_origin(galaxy.center)
        for sigma, k, flux in zip(galaxy.sigmas, galaxy.family, galaxy.amplitudes, strict=True):
            if flux <= 0:
                continue
            e = math.hypot(*galaxy.ellipticities[k])
            own = {
                "I_eff": flux / (4 * math.pi * sigma**2),  # half of that in the centre
                "theta_eff": sigma * math.sqrt(2 * math.log(2)),
                "n": 0.5,
                "q": (1 - e) / (1 + e),
                "phi": _angle(*galaxy.ellipticities[k]),
                "center_x": center[0],
                "center_y": center[1],
            }
            profiles.append({name: _parameter(float(value)) for name, value in own.items()})
        return profiles

    def _source(self) -> dict[str, Any]:
        """Return the image of the source.

        It is a square about the origin, because the reader of ``coolest`` 0.1 takes one axis for
        the other.
        """
        source, gamma1, gamma2 = self.model.source, self.values["gamma1"], self.values["gamma2"]
        x, y = self._from_origin(self._center)
        shift = self.origin[0] + gamma1 * x + gamma2 * y, self.origin[1] + gamma2 * x - gamma1 * y
        off = max(abs(c - s) for c, s in zip(source.center, shift, strict=True))
        step = 2 * source.half_width / SOURCE_PIXELS
        n = 2 * math.ceil((source.half_width + off) / step)
        offset = (np.arange(n) - (n - 1) / 2) * step
        brightness = source.brightness(*np.meshgrid(offset + shift[0], offset + shift[1]))
        return self._grid("source.fits", brightness * self.scale**2, step)

    # ----------------------------------------------------------------------------------- images

    def _psf(self) -> dict[str, Any]:
        psf = self.model.observation.psf
        if psf is None:
            return {"type": None, "description": "not known; one was assumed"}
        if not isinstance(psf, np.ndarray):
            return {"type": "GaussianPSF", "description": "", "fwhm": psf / self.scale}
        pixels = self._image("psf.fits", psf, 0.0)
        return {"type": "PixelatedPSF", "description": "as given", "pixels": pixels}

    def _image(self, name: str, image: NDArray, fill: float) -> dict[str, Any]:
        return self._grid(name, _square(image, fill), self.scale)

    def _grid(self, name: str, image: NDArray, step: float) -> dict[str, Any]:
        """Keep an image (n, n) about the origin as a file, and return what refers to it."""
        self.images[name] = image
        n = len(image)
        field = [-n * step / 2, n * step / 2]
        return {
            "fits_file": {"path": name},
            "field_of_view_x": field,
            "field_of_view_y": field,
            "num_pix_x": n,
            "num_pix_y": n,
        }


# -------------------------------------------------------------------------------------- building


def _square(image: NDArray, fill: float) -> NDArray:
    """Return an image (H, W) as a square, for ``coolest`` 0.1 reads no others.

    Where H + W is odd, its middle lies half a pixel above or right of the old one.
    """
    side = max(image.shape)
    missing = [side - n for n in image.shape]
    return np.pad(image, [(k // 2, k - k // 2) for k in missing], constant_values=fill)


def _angle(first: float, second: float) -> float:
    """Return the direction of an ellipticity or shear, degrees from y towards -x, in [-90, 90)."""
    return (math.degrees(math.atan2(second, first) / 2) + 180) % 180 - 90


def _parameter(value: float, error: float = 0.0) -> dict[str, Any]:
    known = error > 0
    names = ("mean", "median", "percentile_16th", "percentile_84th")
    statistics = (value, value, value - error, value + error) if known else (None,) * 4
    return {
        "point_estimate": {"value": value},
        "posterior_stats": dict(zip(names, statistics, strict=True)),
        "prior": {"type": None},
        "fixed": False,
    }


def _profile(kind: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "parameters": parameters}


def _entity(kind: str, name: str, masses: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    model = [_profile(*profile) for profile in masses]
    return {"type": kind, "name": name, "redshift": None, "mass_model": model}


def _with_ids(entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Name profiles and parameters as the standard does, by their places."""
    for i, entity in enumerate(entities):
        for model in ("mass", "light"):
            for j, profile in enumerate(entity.get(f"{model}_model", [])):
                profile["id"] = f"{i}-{entity['type'].lower()}-{model}-{j}-{profile['type']}"
                for name, parameter in profile["parameters"].items():
                    parameter["id"] = f"{profile['id']}-{name}"
    return entities
