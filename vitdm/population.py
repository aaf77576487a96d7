"""The schema of ``config/populations/*.yaml``: lenses, their priors and the instrument."""

from __future__ import annotations

import importlib
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, model_serializer, model_validator

from vitdm.messages import Section, wrong

CLASSES = Literal["no_sub", "cdm", "axion"]


class Part(Section):
    """A section of finite numbers."""

    model_config = ConfigDict(allow_inf_nan=False)


# ---------------------------------------------------------------------------------------- priors


class Prior(Part):
    """A number, or what it is drawn from: one of the forms in ``FORMS``.

    Normal draws are cut at five standard deviations, so that every prior has bounds.
    """

    form: Literal["fixed", "uniform", "log_uniform", "normal", "choice"]
    values: tuple[float, ...]

    @model_validator(mode="before")
    @classmethod
    def _read(cls, written: Any) -> Any:
        """Accept the forms of a configuration file."""
        if isinstance(written, (int, float, str)) and not isinstance(written, bool):
            try:  # YAML 1.1 reads 1e-3 as text
                return {"form": "fixed", "values": (float(written),)}
            except ValueError:
                raise ValueError(f"expected {FORMS}") from None
        if not isinstance(written, dict) or len(written) != 1:
            raise ValueError(f"expected {FORMS}")
        ((form, values),) = written.items()
        if form not in ("uniform", "log_uniform", "normal", "choice") or (
            not isinstance(values, (list, tuple)) or not values
        ):
            raise ValueError(f"expected {FORMS}")
        return {"form": form, "values": tuple(values)}

    @model_validator(mode="after")
    def _possible(self) -> Prior:
        if self.form in ("uniform", "log_uniform", "normal") and len(self.values) != 2:
            raise ValueError(f"expected two numbers, found {len(self.values)}")
        first, second = self.values[0], self.values[-1]
        if self.form in ("uniform", "log_uniform") and first > second:
            raise ValueError(f"expected low <= high, found [{first}, {second}]")
        if self.form == "log_uniform" and first <= 0:
            raise ValueError(f"expected numbers above 0, found [{first}, {second}]")
        if self.form == "normal" and second < 0:
            raise ValueError(f"expected [mean, sd] with sd >= 0, found [{first}, {second}]")
        return self

    @model_serializer
    def _written(self) -> Any:
        return self.values[0] if self.form == "fixed" else {self.form: list(self.values)}

    @property
    def low(self) -> float:
        return self._centre - 5 * self._spread if self.form == "normal" else min(self.values)

    @property
    def high(self) -> float:
        return self._centre + 5 * self._spread if self.form == "normal" else max(self.values)

    @property
    def _centre(self) -> float:
        return self.values[0]

    @property
    def _spread(self) -> float:
        return self.values[1]

    def draw(self, rng: np.random.Generator, size: int | None = None) -> Any:
        """Return a number, or (size,) numbers."""
        match self.form:
            case "fixed":
                return self.values[0] if size is None else np.full(size, self.values[0])
            case "uniform":
                return rng.uniform(*self.values, size=size)
            case "log_uniform":
                return np.exp(rng.uniform(*np.log(self.values), size=size))
            case "normal":
                drawn = rng.normal(*self.values, size=size)
                return np.clip(drawn, self.low, self.high)
            case "choice":
                return rng.choice(self.values, size=size)


FORMS = "a number, {uniform: [low, high]}, {log_uniform: [low, high]}, {normal: [mean, sd]} or "
FORMS += "{choice: [a, b, ...]}"


def _within(low: float, high: float, name: str) -> AfterValidator:
    def check(prior: Prior) -> Prior:
        if not (low <= prior.low and prior.high <= high):
            raise ValueError(f"expected {name}, found {prior.low:g} to {prior.high:g}")
        return prior

    return AfterValidator(check)


_SMALLEST = np.nextafter(0.0, 1.0)
Positive = Annotated[Prior, _within(_SMALLEST, np.inf, "numbers above 0")]
NotNegative = Annotated[Prior, _within(0.0, np.inf, "numbers from 0 on")]
Modulus = Annotated[Prior, _within(0.0, np.nextafter(1.0, 0.0), "numbers from 0 to below 1")]
AxisRatio = Annotated[Prior, _within(_SMALLEST, 1.0, "numbers above 0, up to 1")]
Number = Annotated[float, Field(gt=0)]


def _either(section: Part, *choices: tuple[str, ...]) -> None:
    """Raise a ValueError unless exactly one of several groups of keys is given, as a whole."""
    names = [name for group in choices for name in group]
    given = tuple(name for name in names if getattr(section, name) is not None)
    if given not in choices:
        expected = ", or ".join(" and ".join(group) for group in choices)
        raise ValueError(f"expected {expected}; found {' and '.join(given) or 'none'}")


def _turned(modulus: float, rng: np.random.Generator) -> tuple[float, float]:
    """Return the two components of an ellipticity or a shear, at a random angle."""
    angle = rng.uniform(0, 2 * np.pi)
    return modulus * np.cos(angle), modulus * np.sin(angle)


class Elliptical(Part):
    r"""An ellipticity: e1 and e2, its modulus, or the axis ratio q, :math:`|e| = (1-q)/(1+q)`.

    Modulus and axis ratio have a random orientation.
    """

    e1: Prior | None = None
    e2: Prior | None = None
    ellipticity: Modulus | None = Field(None, description="modulus, at a random angle")
    axis_ratio: AxisRatio | None = Field(None, description="minor / major, at a random angle")

    @model_validator(mode="after")
    def _one_ellipticity(self) -> Elliptical:
        _either(self, ("e1", "e2"), ("ellipticity",), ("axis_ratio",))
        if self.e1 is not None:
            _check_components(self.e1, self.e2, "e1", "e2")
        return self

    def draw_ellipticity(self, rng: np.random.Generator) -> tuple[float, float]:
        if self.e1 is not None:
            return self.e1.draw(rng), self.e2.draw(rng)
        if self.ellipticity is not None:
            return _turned(self.ellipticity.draw(rng), rng)
        q = self.axis_ratio.draw(rng)
        return _turned((1 - q) / (1 + q), rng)


def _check_components(first: Prior, second: Prior, *names: str) -> None:
    largest = [max(abs(prior.low), abs(prior.high)) for prior in (first, second)]
    if np.hypot(*largest) >= 1:
        text = f"expected {names[0]}^2 + {names[1]}^2 < 1, found up to "
        raise ValueError(text + f"{names[0]} = {largest[0]:g} and {names[1]} = {largest[1]:g}")


class Position(Part):
    """Where something lies: in a square or a disc, evenly, or at a radius and any angle."""

    box: float | None = Field(None, ge=0, description="uniform in ± this on each axis, arcsec")
    disc: float | None = Field(None, ge=0, description="uniform in a disc of this radius, arcsec")
    radius: NotNegative | None = Field(None, description="distance at a random angle, arcsec")

    @model_validator(mode="after")
    def _one_place(self) -> Position:
        _either(self, ("box",), ("disc",), ("radius",))
        return self

    def draw(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y (size,) in arcsec."""
        if self.box is not None:
            x, y = rng.uniform(-self.box, self.box, size=(2, size))
            return x, y
        if self.disc is not None:
            radius = self.disc * np.sqrt(rng.uniform(size=size))
        else:
            radius = self.radius.draw(rng, size)
        angle = rng.uniform(0, 2 * np.pi, size=size)
        return radius * np.cos(angle), radius * np.sin(angle)


# -------------------------------------------------------------------------------------- sections


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
    zero_point: float | None = Field(None, description="magnitude of 1 count/s")
    noise: Literal["single", "double_poisson", "none"] = Field(
        "single", description="one realisation; Poisson noise twice and a clip; or none"
    )
    double_image: bool = Field(False, description="add the image to itself")
    output: Literal["counts", "counts_per_second"] = "counts"

    @model_validator(mode="before")
    @classmethod
    def _configured(cls, written: Any) -> Any:
        if not isinstance(written, dict) or written.get("lenstronomy") not in ("Euclid", "HST"):
            return written
        return _observation(written["lenstronomy"], written.get("band")) | written


def _observation(name: str, band: str | None) -> dict[str, Any]:
    """Return the numbers of one of lenstronomy's instruments."""
    from lenstronomy.SimulationAPI.observation_api import SingleBand

    module = importlib.import_module(f"lenstronomy.SimulationAPI.ObservationConfig.{name}")
    try:
        chosen = getattr(module, name)(band=band, psf_type="GAUSSIAN").kwargs_single_band()
    except ValueError as error:
        raise wrong([("band", str(error))]) from None
    single = SingleBand(**chosen)
    return {
        "pixel_scale": single.pixel_scale,
        "psf_fwhm": single.kwargs_psf["fwhm"],
        "psf_truncation": single.kwargs_psf["truncation"],
        "exposure_time": single.exposure_time,
        "background_rms": float(single.background_noise),
        "zero_point": chosen["magnitude_zero_point"],
    }


class Cosmology(Part):
    """A flat universe, and which distances turn a mass into an angle."""

    z_lens: float = Field(gt=0)
    z_source: float = Field(gt=0)
    H0: float = Field(70.0, gt=0, description="km/s/Mpc")
    Om0: float = Field(0.3, gt=0, lt=1)
    Ob0: float = Field(0.05, ge=0, lt=1)
    distances: Literal["angular_diameter", "luminosity"] = Field(
        "angular_diameter", description="the distances that turn a mass into theta_E of a point"
    )

    @model_validator(mode="after")
    def _behind_the_lens(self) -> Cosmology:
        if self.z_source <= self.z_lens:
            text = f"expected more than z_lens = {self.z_lens}, found {self.z_source}"
            raise wrong([("z_source", text)])
        return self


class Halo(Elliptical):
    """The smooth lens, a singular isothermal ellipsoid at the centre."""

    theta_E: Positive | None = Field(None, description="Einstein radius of all mass, arcsec")
    mass: Number | None = Field(None, description="solar masses; theta_E is that of a point mass")

    @model_validator(mode="after")
    def _one_size(self) -> Halo:
        _either(self, ("theta_E",), ("mass",))
        return self


class Shear(Part):
    """External shear: its components, or its modulus at a random angle."""

    gamma1: Prior | None = None
    gamma2: Prior | None = None
    gamma: Modulus | None = Field(None, description="modulus, at a random angle")

    @model_validator(mode="after")
    def _one_shear(self) -> Shear:
        _either(self, ("gamma1", "gamma2"), ("gamma",))
        if self.gamma1 is not None:
            _check_components(self.gamma1, self.gamma2, "gamma1", "gamma2")
        return self

    def draw(self, rng: np.random.Generator) -> tuple[float, float]:
        if self.gamma1 is not None:
            return self.gamma1.draw(rng), self.gamma2.draw(rng)
        return _turned(self.gamma.draw(rng), rng)


class Light(Elliptical):
    """An elliptical Sérsic profile."""

    amp: Positive | None = Field(None, description="brightness at R_sersic, counts/s/arcsec^2")
    magnitude: Prior | None = Field(None, description="of all its light; needs a zero_point")
    R_sersic: Positive = Field(description="half-light radius, arcsec")
    n_sersic: Positive

    @model_validator(mode="after")
    def _one_brightness(self) -> Light:
        _either(self, ("amp",), ("magnitude",))
        return self


class Source(Light):
    """The lensed galaxy."""

    position: Position


class Subhalos(Part):
    """Clumps of the class ``cdm``, with dN/dm proportional to m^mass_slope."""

    number: int | None = Field(None, ge=0, description="mean number")
    f_sub: Positive | None = Field(
        None, description="mean mass, as a fraction of the halo's within the disc they lie in"
    )
    distribution: Literal["poisson", "fixed"] = Field("poisson", description="of the number")
    mass_range: tuple[Number, Number] = Field(description="solar masses")
    mass_slope: float = Field(description="dN/dm is proportional to m^slope")
    mass_fraction: Positive | None = Field(
        None, description="scale the masses to this total, as a fraction of the halo's mass"
    )
    position: Position
    profile: Literal["point", "pseudo_jaffe"] = "point"

    @model_validator(mode="after")
    def _possible(self) -> Subhalos:
        _either(self, ("number",), ("f_sub",))
        low, high = self.mass_range
        if low > high:
            raise wrong([("mass_range", f"expected low <= high, found [{low}, {high}]")])
        if self.f_sub is not None and not self.position.disc:
            raise wrong([("position", "expected {disc: radius}, for f_sub counts the mass in it")])
        return self

    @property
    def mean_mass(self) -> float:
        """The mean of the mass function, in solar masses."""
        return _moment(*self.mass_range, self.mass_slope + 1) / _moment(
            *self.mass_range, self.mass_slope
        )

    def draw_masses(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Return (n,) masses in solar masses, by inverse CDF."""
        low, high = self.mass_range
        power = self.mass_slope + 1
        u = rng.uniform(size=n)
        if abs(power) < 1e-12:
            return low * (high / low) ** u
        return (u * (high**power - low**power) + low**power) ** (1 / power)


def _moment(low: float, high: float, power: float) -> float:
    """Return the integral of m^power from low to high, or of a delta function if they are equal."""
    if low == high:
        return low**power
    if abs(power + 1) < 1e-12:
        return np.log(high / low)
    return (high ** (power + 1) - low ** (power + 1)) / (power + 1)


class Vortex(Part):
    """The vortex of the class ``axion``: a straight string of equal point masses."""

    mass: Number | None = Field(None, description="solar masses")
    mass_fraction: Positive | None = Field(None, description="as a fraction of the halo's mass")
    axion_mass: Positive | None = Field(
        None, description='eV; the length is 0.06" (1e-22 eV / axion_mass)'
    )
    length: Positive | None = Field(None, description="from end to end, arcsec")
    position: Position = Field(description="of its middle")
    points: int = Field(100, ge=1, description="point masses that it is made of")

    @model_validator(mode="after")
    def _one_of_each(self) -> Vortex:
        _either(self, ("mass",), ("mass_fraction",))
        _either(self, ("axion_mass",), ("length",))
        return self


class EightBit(Part):
    """Images of whole numbers from 0 to 255, as in jpg files."""

    scaling: Literal["min_max"] | tuple[float, float] = Field(
        "min_max", description="each image's own range, or the counts that become 0 and 255"
    )
    jpeg_quality: int | None = Field(None, ge=1, le=100, description="through JPEG compression")


class Population(Part):
    """A population of simulated lenses (``config/populations/*.yaml``); see ``docs/data.md``."""

    name: str
    description: str
    references: list[str] = []
    class_fractions: dict[CLASSES, Number]
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
        True, description="take the mean mass of the substructure out of the smooth halo"
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
