"""The schema of ``config/populations/*.yaml``: lenses, their substructure and the instrument.

Where the published simulations do something that physics does not ask for, that is an option here,
and its field tells why (``_quirk``). ``python -m vitdm.simulation.population`` prints the table of
these options that ``docs/data.md`` shows.
"""

from __future__ import annotations

import glob
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import pandas as pd
import yaml
from pydantic import Field, model_validator

from vitdm.config.sections import checked, read_yaml, wrong
from vitdm.simulation.priors import Elliptical, Part, Position, Positive, Prior, Shear, either

Mass = Annotated[float, Field(gt=0, description="solar masses")]


def _quirk(published: str, asked: str, reason: str) -> dict[str, dict[str, str]]:
    """Mark a field at which published code departs from what physics asks for, and why.

    ``published`` is the value, or several joined by "or", that follows the code.
    """
    return {"quirk": {"published": published, "asked": asked, "reason": reason}}


class Instrument(Part):
    """Camera and exposure: numbers, or one of lenstronomy's configurations, which gives them.

    Keys beside ``lenstronomy`` and ``band`` replace what that configuration says.
    """

    lenstronomy: Literal["Euclid", "HST"] | None = Field(
        None, description="take the numbers from lenstronomy.SimulationAPI.ObservationConfig"
    )
    band: str | None = Field(None, description="VIS (Euclid), WFC3_F160W (HST), ...")
    pixel_scale: float = Field(gt=0, description="arcsec per pixel")
    psf_fwhm: float = Field(gt=0, description="FWHM of the Gaussian PSF, arcsec")
    psf_truncation: float = Field(gt=0, description="PSF kernel cut, in units of its sigma")
    exposure_time: Positive = Field(description="s")
    background_rms: float = Field(ge=0, description="rms of the sky per pixel, counts/s")
    background_time: float | None = Field(
        None,
        gt=0,
        description="exposure [s] with that rms, which falls as t^-1/2; null: always that rms",
        json_schema_extra=_quirk(
            "null",
            "seconds",
            "the sky's rms is the same in counts/s for every exposure, so that a longer one does "
            "not deepen the sky; without effect where all exposures are equal",
        ),
    )
    zero_point: float | None = Field(None, description="magnitude of 1 count/s")
    noise: Literal["single", "double_poisson", "none"] = Field(
        "single",
        description="one realisation; Poisson noise twice and a clip at 0; or none",
        json_schema_extra=_quirk(
            "double_poisson or none",
            "single",
            "Model I draws Poisson noise twice and clips at 0, which leaves almost half of the "
            "pixels at exactly 0; Models II and III compute the noise and do not add it",
        ),
    )
    double_image: bool = Field(
        False,
        description="add the image to itself",
        json_schema_extra=_quirk("true", "false", "the image is added where the noise belongs"),
    )
    output: Literal["counts", "counts_per_second"] = "counts"

    @model_validator(mode="before")
    @classmethod
    def _configured(cls, written: Any) -> Any:
        if not isinstance(written, dict) or written.get("lenstronomy") not in ("Euclid", "HST"):
            return written
        return _observation(written["lenstronomy"], written.get("band")) | written

    @model_validator(mode="after")
    def _doubled_without_noise(self) -> Instrument:
        if self.double_image and self.noise != "none":
            raise wrong([("noise", f"expected none with double_image: true, found {self.noise}")])
        return self


def _observation(name: str, band: str | None) -> dict[str, Any]:
    """Return the numbers of one of lenstronomy's instruments."""
    from lenstronomy.SimulationAPI.observation_api import SingleBand

    module = importlib.import_module(f"lenstronomy.SimulationAPI.ObservationConfig.{name}")
    try:
        chosen = getattr(module, name)(band=band, psf_type="GAUSSIAN").kwargs_single_band()
    except ValueError as error:
        raise wrong([("band", str(error))]) from None
    observed = SingleBand(**chosen)
    return {
        "pixel_scale": observed.pixel_scale,
        "psf_fwhm": observed.kwargs_psf["fwhm"],
        "psf_truncation": observed.kwargs_psf["truncation"],
        "exposure_time": observed.exposure_time,
        "background_rms": float(observed.background_noise),
        "zero_point": chosen["magnitude_zero_point"],
    }


class EightBit(Part):
    """Images of whole numbers from 0 to 255, as in jpg files."""

    rectified: bool = Field(
        False,
        description="values below zero are made positive before they are scaled",
        json_schema_extra=_quirk(
            "true",
            "false",
            "noise around 0 becomes a positive sky, and the light of 1 sigma is lost in it",
        ),
    )
    scaling: Literal["min_max"] | tuple[float, float] = Field(
        "min_max", description="each image's own range, or the values that become 0 and 255"
    )
    jpeg_quality: int | None = Field(None, ge=1, le=100, description="through JPEG compression")


class Cosmology(Part):
    """A flat universe with two redshifts, and how angles follow from masses in it."""

    z_lens: float = Field(gt=0)
    z_source: float = Field(gt=0)
    H0: float = Field(70.0, gt=0, description="km/s/Mpc")
    Om0: float = Field(0.3, gt=0, lt=1)
    Ob0: float = Field(0.05, ge=0, lt=1)
    distances: Literal["angular_diameter", "luminosity"] = Field(
        "angular_diameter",
        description="the distances that turn a mass into theta_E of a point mass",
        json_schema_extra=_quirk(
            "luminosity",
            "angular_diameter",
            "luminosity distances, with D_LS = D_S - D_L, give 0.770 times the right theta_E",
        ),
    )
    z_source_convention: float | None = Field(
        None,
        gt=0,
        description="deflections are given for a source here, and rescaled; null: z_source",
        json_schema_extra=_quirk(
            "2.5",
            "null",
            "deflections computed for a source at z = 1 are handed over as if for one at z = 2.5, "
            "which makes all of them, the ring and the shear, 0.634 times as large",
        ),
    )
    Om0_convention: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="matter density with which they are rescaled; null: Om0",
        json_schema_extra=_quirk(
            "0.2814",
            "null",
            "that rescaling uses the cosmology of pyHalo, not the one of the masses",
        ),
    )

    @model_validator(mode="after")
    def _behind_the_lens(self) -> Cosmology:
        for name in ("z_source", "z_source_convention"):
            z = getattr(self, name)
            if z is not None and z <= self.z_lens:
                raise wrong([(name, f"expected more than z_lens = {self.z_lens}, found {z}")])
        return self


class Halo(Elliptical):
    """The lens galaxy with its dark halo, a singular isothermal ellipsoid at the centre."""

    theta_E: Positive | None = Field(None, description="Einstein radius of all mass, arcsec")
    mass: Mass | None = Field(None, description="solar masses within theta_E")

    @model_validator(mode="after")
    def _one_size(self) -> Halo:
        either(self, ("theta_E",), ("mass",))
        return self


class Light(Elliptical):
    """An elliptical Sérsic profile."""

    amp: Positive | None = Field(None, description="brightness at R_sersic, counts/s/arcsec^2")
    magnitude: Prior | None = Field(None, description="of all light; needs a zero_point")
    R_sersic: Positive = Field(description="half-light radius, arcsec")
    n_sersic: Positive

    @model_validator(mode="after")
    def _one_brightness(self) -> Light:
        either(self, ("amp",), ("magnitude",))
        return self


class Source(Light):
    """The lensed galaxy."""

    position: Position


class Subhalos(Part):
    """The clumps of the class ``cdm``."""

    number: int | None = Field(None, ge=0, description="mean number")
    f_sub: Positive | None = Field(
        None, description="instead: mean mass, as a fraction of all mass in the disc they lie in"
    )
    distribution: Literal["poisson", "fixed"] = Field(
        "poisson",
        description="of the number",
        json_schema_extra=_quirk("fixed", "poisson", "a Poisson number is drawn and not used"),
    )
    mass_range: tuple[Mass, Mass] = Field(description="solar masses")
    mass_slope: float = Field(
        description="dN/dm is proportional to m^slope",
        json_schema_extra=_quirk(
            "-0.9",
            "-1.9, with f_sub",
            "the documentation says -1.9, the code has -0.9; 25 subhalos with -1.9 would have so "
            "little mass that no classifier could see them, so it is the mass that must be given",
        ),
    )
    mass_fraction: Positive | None = Field(
        None, description="scale all masses to this total, as a fraction of the halo's mass"
    )
    position: Position
    profile: Literal["point", "pseudo_jaffe"] = Field(
        "point",
        description="point masses, or isothermal spheres cut at their tidal radius",
        json_schema_extra=_quirk("point", "pseudo_jaffe", "subhalos are not points"),
    )

    @model_validator(mode="after")
    def _possible(self) -> Subhalos:
        either(self, ("number",), ("f_sub",))
        low, high = self.mass_range
        if low > high:
            raise wrong([("mass_range", f"expected low <= high, found [{low}, {high}]")])
        if self.f_sub is not None and not self.position.disc:
            raise wrong([("position", "expected {disc: radius}, for f_sub counts the mass in it")])
        if self.f_sub is not None and self.mass_fraction is not None:
            raise wrong([("mass_fraction", "expected none beside f_sub, which gives the mass")])
        return self

    @property
    def mean_mass(self) -> float:
        """The mean of the mass function, in solar masses."""
        low, high = self.mass_range
        return _integral(low, high, self.mass_slope + 1) / _integral(low, high, self.mass_slope)

    def draw_masses(
        self, rng: np.random.Generator, n: int, weighted_by_mass: bool = False
    ) -> np.ndarray:
        """Return (n,) masses in solar masses, by inverse CDF; of subhalos, or of their matter."""
        low, high = self.mass_range
        power = self.mass_slope + 1 + weighted_by_mass
        u = rng.uniform(size=n)
        if abs(power) < 1e-12:
            return low * (high / low) ** u
        return (u * (high**power - low**power) + low**power) ** (1 / power)


def _integral(low: float, high: float, power: float) -> float:
    """Return the mean of m^power over m from low to high."""
    if low == high:
        return low**power
    if abs(power + 1) < 1e-12:
        return np.log(high / low) / (high - low)
    return (high ** (power + 1) - low ** (power + 1)) / (power + 1) / (high - low)


class Vortex(Part):
    """The vortex of the class ``axion``: a straight string of equal point masses."""

    mass: Mass | None = Field(None, description="solar masses")
    mass_fraction: Positive | None = Field(None, description="as a fraction of the halo's mass")
    axion_mass: Positive | None = Field(
        None, description='eV; the length is then 0.06" (1e-22 eV / axion_mass)'
    )
    length: Positive | None = Field(None, description="from end to end, arcsec")
    position: Position = Field(
        description="of its middle",
        json_schema_extra=_quirk(
            "{disc: 0}",
            "{disc: 2}",
            "every vortex goes through the centre; a short one there cannot be told from a little "
            "more ellipticity of the halo",
        ),
    )
    points: int = Field(100, ge=1, description="point masses that it is made of")

    @model_validator(mode="after")
    def _one_of_each(self) -> Vortex:
        either(self, ("mass",), ("mass_fraction",))
        either(self, ("axion_mass",), ("length",))
        return self

    def draw_length(
        self, rng: np.random.Generator, size: int | None = None
    ) -> tuple[Any, Any | None]:
        """Return the length [arcsec], and the mass of the axion [eV] if that is what is drawn."""
        if self.length is not None:
            return self.length.draw(rng, size), None
        axion_mass = self.axion_mass.draw(rng, size)
        return 0.06 * (1e-22 / axion_mass), axion_mass


class Population(Part):
    """A population of simulated lenses (``config/populations/*.yaml``); see ``docs/data.md``."""

    name: str
    description: str
    references: list[str] = []
    class_fractions: dict[Literal["no_sub", "cdm", "axion"], Annotated[float, Field(gt=0)]] = Field(
        description="of the images"
    )
    num_pix: int = Field(ge=16, description="pixels on a side")
    instrument: Instrument
    eight_bit: EightBit | None = None
    cosmology: Cosmology
    halo: Halo
    shear: Shear | None = None
    lens_light: Light | None = None
    source: Source
    subhalos: Subhalos | None = None
    vortex: Vortex | None = None
    compensate_mass: bool = Field(
        True,
        description="take the mean mass of the substructure out of the smooth halo",
        json_schema_extra=_quirk(
            "false",
            "true",
            "substructure adds its mass to a halo that is the same in every image, so that it also "
            "shows as a larger Einstein radius",
        ),
    )

    @model_validator(mode="after")
    def _consistent(self) -> Population:
        lines = []
        if "no_sub" not in self.class_fractions or len(self.class_fractions) < 2:
            found = ", ".join(self.class_fractions) or "none"
            text = f"found {found}; expected no_sub and cdm, axion or both"
            lines.append(("class_fractions", text))
        for kind, section in (("cdm", "subhalos"), ("axion", "vortex")):
            if kind in self.class_fractions and getattr(self, section) is None:
                lines.append((section, f"missing; the class {kind} needs it"))
        for light in ("source", "lens_light"):
            profile = getattr(self, light)
            if profile and profile.magnitude is not None and self.instrument.zero_point is None:
                lines.append((f"{light}.magnitude", "needs instrument.zero_point"))
        if lines:
            raise wrong(lines)
        return self


def load_population(path: str | Path) -> Population:
    """Read and check a population of lenses; InputError names each wrong key."""
    return checked(Population, read_yaml(path), str(path))


def table(population: Population) -> pd.DataFrame:
    """Return a row for each setting that has a value: setting, value (in words) and meaning."""
    hidden = {"name", "description", "references"}
    rows = [row for row in _rows(population) if row[0] not in hidden]
    return pd.DataFrame(rows, columns=["setting", "value", "meaning"])


def _rows(section: Part, path: str = "") -> Iterator[tuple[str, str, str]]:
    for name, field in type(section).model_fields.items():
        value, setting = getattr(section, name), f"{path}{name}"
        if isinstance(value, Prior):
            yield setting, value.text, field.description or ""
        elif isinstance(value, Part):
            yield from _rows(value, f"{setting}.")
        elif isinstance(value, dict):
            shares = ", ".join(f"{key} {share:g}" for key, share in value.items())
            yield setting, shares, field.description or ""
        elif value is not None:
            numbers = value if isinstance(value, tuple) else (value,)
            texts = [f"{v:g}" if isinstance(v, float) else str(v) for v in numbers]
            texts = [text.lower() if isinstance(value, bool) else text for text in texts]
            yield setting, " to ".join(texts), field.description or ""


# ------------------------------------------------------------------------------------- the quirks


def quirks(populations: list[Population]) -> pd.DataFrame:
    """Return a row for each setting in which published code departs from what physics asks for.

    Columns: setting, published and asked (its values), populations (which have the published one),
    reason.
    """
    rows = []
    for path, quirk in _marked(Population):
        published = quirk["published"].split(" or ")
        have = [p.name for p in populations if _written(p, path) in published]
        rows.append({"setting": ".".join(path), **quirk, "populations": ", ".join(have)})
    return pd.DataFrame(rows)[["setting", "published", "asked", "populations", "reason"]]


def _marked(section: type[Part], *path: str) -> Iterator[tuple[tuple[str, ...], dict[str, str]]]:
    """Yield path and mark of each setting marked as a ``_quirk``, in a section and those below."""
    for name, field in section.model_fields.items():
        if isinstance(field.json_schema_extra, dict):
            yield (*path, name), field.json_schema_extra["quirk"]
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Part):
                yield from _marked(kind, *path, name)


def _written(section: Part, path: tuple[str, ...]) -> str | None:
    """Return a setting as it stands in a file, None if a section above it is missing."""
    for name in path:
        if section is None:
            return None
        section = getattr(section, name)
    value = section.model_dump(exclude_none=True) if isinstance(section, Part) else section
    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    return re.sub(r"\.0\b", "", text)


if __name__ == "__main__":
    files = sys.argv[1:] or sorted(glob.glob("config/populations/*.yaml"))
    found = quirks([checked(Population, read_yaml(file), file) for file in files])
    for name in ("setting", "published", "asked"):
        found[name] = "`" + found[name].str.replace(" or ", "` or `") + "`"
    print("| setting | published code | physics | populations with the former | reason |")
    print("|---|---|---|---|---|")
    for row in found.itertuples(index=False):
        print("|", " | ".join(row), "|")
