"""Populations of simulated lenses: the schema of their files, and those that ship.

Where the published simulations do something that physics does not ask for, that is an option here,
and its field tells why (``quirk``, listed by ``vitdm.simulation.quirks``).
"""

from __future__ import annotations

import functools
import importlib
import importlib.resources
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, create_model, model_validator

from vitdm.bounds import LARGEST_SIDE, PIXEL_SCALES
from vitdm.config.reading import read_yaml
from vitdm.config.sections import checked, wrong
from vitdm.errors import InputError, shown
from vitdm.simulation.classes import CLASSES, NO_SUB, SubstructureClass, simulated
from vitdm.simulation.cosmology import Cosmology
from vitdm.simulation.priors import (
    LARGEST,
    Elliptical,
    Magnitude,
    Mass,
    Part,
    Position,
    Positive,
    Prior,
    SersicIndex,
    Shear,
    Slope,
    absent,
    either,
    quirk,
)
from vitdm.simulation.psf import BEYOND, MOST_STEPS, Psf, steps
from vitdm.simulation.structure import Structure

_SHIPPED = Path(str(importlib.resources.files("vitdm.simulation"))) / "populations"


class Drizzle(Part):
    """How exposures were combined: ``simulation.noise.drizzle_covariance``."""

    pixfrac: float = Field(gt=0, le=1, description="side of the drops / side of the chip's pixels")
    native_scale: float = Field(
        ge=PIXEL_SCALES[0], le=PIXEL_SCALES[1], description="of the chip, arcsec per pixel"
    )


class Instrument(Part):
    """Camera and exposure: numbers, or one of lenstronomy's configurations, which gives them.

    Keys beside ``lenstronomy`` and ``band`` replace what that configuration says.
    """

    lenstronomy: Literal["Euclid", "HST"] | None = Field(
        None, description="take the numbers from lenstronomy.SimulationAPI.ObservationConfig"
    )
    band: str | None = Field(None, description="VIS (Euclid), WFC3_F160W (HST), ...")
    pixel_scale: float = Field(
        ge=PIXEL_SCALES[0], le=PIXEL_SCALES[1], description="arcsec per pixel"
    )
    psf_fwhm: float = Field(
        gt=0, description="FWHM of the Gaussian PSF, or of the Gaussian next to psf, arcsec"
    )
    psf_truncation: float = Field(gt=0, description="PSF kernel cut, in units of its sigma")
    psf: Psf | None = Field(
        None, exclude_if=absent, description="instead: diffraction of a telescope, with a blur"
    )
    supersampling: int = Field(
        1,
        ge=1,
        le=9,
        exclude_if=lambda k: k == 1,
        description="rays on each side of a pixel, over which light is averaged",
    )
    exposure_time: Positive = Field(description="s")
    background_rms: float = Field(
        ge=0, le=LARGEST, description="rms of the sky per pixel, counts/s"
    )
    background_time: float | None = Field(
        None,
        gt=0,
        le=LARGEST,
        description="exposure [s] with that rms, which falls as t^-1/2; null: always that rms",
        json_schema_extra=quirk(
            "null",
            "seconds",
            "the sky's rms is the same in counts/s for every exposure, so that a longer one does "
            "not deepen the sky; without effect where all exposures are equal",
        ),
    )
    zero_point: float | None = Field(None, ge=-100, le=100, description="magnitude of 1 count/s")
    noise: Literal["single", "double_poisson", "none"] = Field(
        "single",
        description="one realisation; Poisson noise twice and a clip at 0; or none",
        json_schema_extra=quirk(
            "double_poisson or none",
            "single",
            "Model I draws Poisson noise twice and clips at 0, which leaves almost half of the "
            "pixels at exactly 0; Models II and III compute the noise and do not add it",
        ),
    )
    double_image: bool = Field(
        False,
        description="add the image to itself",
        json_schema_extra=quirk("true", "false", "the image is added where the noise belongs"),
    )
    drizzle: Drizzle | None = Field(
        None,
        exclude_if=absent,
        description="noise as in drizzled images, where neighbouring pixels share it",
    )
    output: Literal["counts", "counts_per_second"] = Field(
        "counts", description="unit of the images"
    )

    @model_validator(mode="before")
    @classmethod
    def _configured(cls, written: Any) -> Any:
        if not isinstance(written, dict) or written.get("lenstronomy") not in ("Euclid", "HST"):
            return written
        return _observation(written["lenstronomy"], written.get("band")) | written

    @model_validator(mode="after")
    def _psf_fits(self) -> Instrument:
        radius = self.psf_truncation * self.psf_fwhm / self.pixel_scale / 2.355
        if radius > LARGEST_SIDE:
            found = f"reaches {radius:.0e} pixels; expected up to {LARGEST_SIDE}, all in arcsec"
            raise wrong([("psf_fwhm", found)])
        return self

    @model_validator(mode="after")
    def _kernel_fits(self) -> Instrument:
        if self.psf:
            k = self.supersampling
            n = (self.psf.size + 2 * BEYOND) * k * steps(self.psf, self.pixel_scale, k)
            if n > MOST_STEPS:
                found = f"takes {n} steps on a side; expected up to {MOST_STEPS}, so a smaller size"
                raise wrong([("psf", found)])
        return self

    @model_validator(mode="after")
    def _drizzled_once(self) -> Instrument:
        if self.drizzle and self.noise != "single":
            raise wrong([("noise", f"expected single with drizzle, found {self.noise}")])
        return self

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
        json_schema_extra=quirk(
            "true",
            "false",
            "noise around 0 becomes a positive sky, and the light of 1 sigma is lost in it",
        ),
    )
    scaling: Literal["min_max"] | tuple[float, float] = Field(
        "min_max", description="each image's own range, or the values that become 0 and 255"
    )
    jpeg_quality: int | None = Field(None, ge=1, le=100, description="through JPEG compression")


class Multipoles(Part):
    """Amplitudes of circular multipoles over theta_E, at random angles."""

    a1: Prior | None = Field(None, description="amplitude of m = 1, a share of theta_E")
    a3: Prior | None = Field(None, description="amplitude of m = 3")
    a4: Prior | None = Field(None, description="amplitude of m = 4")

    def draw(self, rng: np.random.Generator) -> tuple[float, ...]:
        """Return x and y of each order, 1, 3, 4; 0 for those that are not given."""
        components = []
        for prior in (self.a1, self.a3, self.a4):
            amplitude = prior.draw(rng) if prior else 0.0
            phase = rng.uniform(0, 2 * math.pi)
            components += [amplitude * math.cos(phase), amplitude * math.sin(phase)]
        return tuple(map(float, components))


class Halo(Elliptical):
    """The lens galaxy with its dark halo, an ellipsoid at the centre; isothermal if no slope."""

    theta_E: Positive | None = Field(None, description="Einstein radius of all mass, arcsec")
    mass: Mass | None = Field(None, description="solar masses within theta_E")
    slope: Slope | None = Field(
        None, exclude_if=absent, description="of the density, -dln rho/dln r; 2: isothermal"
    )
    multipoles: Multipoles | None = Field(None, exclude_if=absent)

    @model_validator(mode="after")
    def _one_size(self) -> Halo:
        either(self, ("theta_E",), ("mass",))
        return self


class Light(Elliptical):
    """An elliptical Sérsic profile."""

    amp: Positive | None = Field(None, description="brightness at R_sersic, counts/s/arcsec^2")
    magnitude: Magnitude | None = Field(None, description="of all light; needs a zero_point")
    R_sersic: Positive = Field(description="half-light radius, arcsec")
    n_sersic: SersicIndex = Field(description="Sérsic index")

    @model_validator(mode="after")
    def _one_brightness(self) -> Light:
        either(self, ("amp",), ("magnitude",))
        return self


class Source(Light):
    """The lensed galaxy."""

    position: Position
    structure: Structure | None = Field(
        None, exclude_if=absent, description="clumps, spiral arms, texture"
    )


class Population(Part):
    """A population of simulated lenses; what its keys mean: ``docs/data.md``."""

    name: str = Field(description="by which it is known, that of the file")
    description: str = Field(description="in a sentence")
    references: list[str] = Field([], description="works that it follows")
    class_fractions: dict[str, Annotated[float, Field(gt=0)]] = Field(description="of the images")
    num_pix: int = Field(ge=16, le=LARGEST_SIDE, description="pixels on a side")
    instrument: Instrument
    eight_bit: EightBit | None = None
    cosmology: Cosmology
    halo: Halo
    center: Position | None = Field(
        None, description="where the lens lies, from the middle of the image; null: in the middle"
    )
    shear: Shear | None = None
    lens_light: Light | None = None
    source: Source
    compensate_mass: bool = Field(
        True,
        description="take the mean mass of the substructure out of the smooth halo",
        json_schema_extra=quirk(
            "false",
            "true",
            "substructure adds its mass to a halo that is the same in every image, so that it also "
            "shows as a larger Einstein radius",
        ),
    )

    @model_validator(mode="after")
    def _consistent(self) -> Population:
        lines = []
        names = (NO_SUB, *simulated())
        for name in self.class_fractions:
            if name not in names:
                expected = f"unknown class; expected one of: {', '.join(names)}"
                lines.append((f"class_fractions.{name}", expected))
            elif (section := CLASSES[name].section) and getattr(self, section, None) is None:
                lines.append((section, f"missing; the class {name} needs it"))
        if NO_SUB not in self.class_fractions or len(self.class_fractions) < 2:
            found = ", ".join(self.class_fractions) or "none"
            text = f"found {found}; expected {NO_SUB} and at least one of: {', '.join(names[1:])}"
            lines.append(("class_fractions", text))
        for light in ("source", "lens_light"):
            profile = getattr(self, light)
            if profile and profile.magnitude is not None and self.instrument.zero_point is None:
                lines.append((f"{light}.magnitude", "needs instrument.zero_point"))
        if lines:
            raise wrong(lines)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the values alone: the class itself is made anew in another process."""
        return _restored, (self.__getstate__(),)


def schema() -> type[Population]:
    """Return the schema of a population file: a section of each registered class, and the rest."""
    return _with_sections(tuple(CLASSES.values()))


@functools.cache
def _with_sections(classes: tuple[SubstructureClass, ...]) -> type[Population]:
    sections = {known.section: (known.schema | None, None) for known in classes if known.section}
    if taken := sections.keys() & Population.model_fields:
        raise InputError(f"section {taken.pop()!r} of a class: is a key of every population file")
    return create_model("Population", __base__=Population, **sections)


def population_of(content: dict[str, Any], source: str = "population") -> Population:
    """Check a population given as a dictionary; InputError names ``source`` and each wrong key."""
    return checked(schema(), content, source)


def shipped() -> list[str]:
    """Return the names of the populations that come with this package."""
    return sorted(file.stem for file in _SHIPPED.glob("*.yaml"))


def population_file(name: str | Path) -> Path:
    """Return the file of a population: one that ships, by its name, or a path to any other.

    Raises InputError for a name, that is text without "/" or ".yaml", that none has.
    """
    is_path = isinstance(name, Path) or "/" in name or name.endswith((".yaml", ".yml"))
    if is_path:
        return Path(name)
    if name not in shipped():
        raise InputError(
            f"population {shown(name)}: unknown; expected one of: {', '.join(shipped())}, or a "
            "file such as folder/lenses.yaml"
        )
    return _SHIPPED / f"{name}.yaml"


def population_name(name: str | Path) -> str:
    """Return the name of a population in folders of results: that of its file without ending."""
    return Path(name).stem


def load_population(name: str | Path) -> Population:
    """Read and check a population by its name, or from a file; InputError names each wrong key."""
    file = population_file(name)
    return population_of(read_yaml(file), str(file))


def _restored(state: dict[str, Any]) -> Population:
    population = object.__new__(schema())
    population.__setstate__(state)
    return population


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
