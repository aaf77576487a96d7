"""Priors of simulated lenses: numbers, ellipticities and places that are fixed or drawn."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field, model_serializer, model_validator
from scipy import special

from vitdm.config.sections import Section
from vitdm.errors import shown

#: of a planet to far more than a cluster of galaxies: powers of it stay finite
Mass = Annotated[float, Field(ge=1e-10, le=1e17, description="solar masses")]
FORMS = "a number, {uniform: [low, high]}, {log_uniform: [low, high]}, {normal: [mean, sd]}, "
FORMS += "{truncated_normal: [mean, sd, low, high]} or {choice: [a, b, ...]}"


class Part(Section):
    """A section of a population."""


def absent(value: Any) -> bool:
    """Tell whether an optional key has no value: ``Field(None, exclude_if=absent)``.

    A population is then written, and hashed into the ids of its images, as before there was the
    key.
    """
    return value is None


def quirk(published: str, asked: str, reason: str) -> dict[str, dict[str, str]]:
    """Return the mark of a field at which published code departs from physics, and why.

    ``published`` is the value, or several joined by "or", that follows the code.
    """
    return {"quirk": {"published": published, "asked": asked, "reason": reason}}


class Prior(Part):
    """A number, or what it is drawn from; in a file it has one of the ``FORMS``.

    Normal draws are cut at five standard deviations, so that every prior has bounds.
    """

    form: str
    values: tuple[float, ...]

    @model_validator(mode="before")
    @classmethod
    def _read(cls, written: Any) -> Any:
        if isinstance(written, Prior):
            return written
        form, values = "fixed", [written]
        if isinstance(written, dict) and len(written) == 1:
            ((form, values),) = written.items()
        try:  # YAML 1.1 reads 1e-3 as text
            given = [values] if isinstance(values, str) else list(values)
            values = () if any(isinstance(v, bool) for v in given) else tuple(map(float, given))
        except (TypeError, ValueError, OverflowError):
            values = ()
        sizes = {"fixed": 1, "choice": len(values), "uniform": 2, "log_uniform": 2, "normal": 2}
        sizes["truncated_normal"] = 4
        if not values or len(values) != sizes.get(form) or not np.isfinite(values).all():
            raise ValueError(f"expected {FORMS}")
        if form == "normal" and values[1] < 0:
            raise ValueError(f"expected [mean, sd] with sd >= 0, found {shown(list(values))}")
        if form == "truncated_normal" and not (values[1] > 0 and values[2] < values[3]):
            found = f"found {shown(list(values))}"
            raise ValueError(f"expected [mean, sd, low, high] with sd > 0 and low < high, {found}")
        if form in ("uniform", "log_uniform") and values[0] > values[1]:
            raise ValueError(f"expected low <= high, found {shown(list(values))}")
        if form == "log_uniform" and values[0] <= 0:
            raise ValueError(f"expected numbers above 0, found {shown(list(values))}")
        return {"form": form, "values": values}

    @model_serializer
    def _written(self) -> float | dict[str, list[float]]:
        return self.values[0] if self.form == "fixed" else {self.form: list(self.values)}

    @property
    def text(self) -> str:
        """The prior in words."""
        first, *others = (f"{value:g}" for value in self.values)
        match self.form:
            case "fixed":
                return first
            case "normal":
                return f"normal, mean {first}, s.d. {others[0]}"
            case "truncated_normal":
                return "normal, mean {}, s.d. {}, from {} to {}".format(first, *others)
            case "choice":
                return "one of " + ", ".join([first, *others])
        scale = " in the logarithm" if self.form == "log_uniform" else ""
        return f"uniform{scale} from {first} to {others[0]}"

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest number that can be drawn."""
        if self.form == "normal":
            mean, sd = self.values
            return mean - 5 * sd, mean + 5 * sd
        if self.form == "truncated_normal":
            return self.values[2:]
        return min(self.values), max(self.values)

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
                return np.clip(rng.normal(*self.values, size=size), *self.bounds)
            case "truncated_normal":  # by inverse CDF
                mean, sd, *ends = self.values
                share = rng.uniform(*special.ndtr((np.array(ends) - mean) / sd), size=size)
                return np.clip(mean + sd * special.ndtri(share), *ends)
            case "choice":
                return rng.choice(self.values, size=size)


def within(low: float, high: float, expected: str) -> AfterValidator:
    """Return a check that all that can be drawn lies from ``low`` to ``high``."""

    def check(prior: Prior) -> Prior:
        if prior.bounds[0] < low or prior.bounds[1] > high:
            found = "" if prior.form == "fixed" else ", found {:g} to {:g}".format(*prior.bounds)
            raise ValueError(f"expected {expected}{found}")
        return prior

    return AfterValidator(check)


_SMALLEST, _BELOW_ONE = np.nextafter(0, 1), np.nextafter(1, 0)
#: what is computed from priors stays finite
LARGEST = 1e15
Positive = Annotated[Prior, within(_SMALLEST, LARGEST, f"more than 0 and at most {LARGEST:g}")]
NotNegative = Annotated[Prior, within(0, LARGEST, f"at least 0 and at most {LARGEST:g}")]
Magnitude = Annotated[Prior, within(-100, 100, "-100 to 100")]
SersicIndex = Annotated[Prior, within(_SMALLEST, 20, "more than 0 and at most 20")]
Modulus = Annotated[Prior, within(0, _BELOW_ONE, "at least 0 and less than 1")]
Slope = Annotated[Prior, within(1.05, 2.95, "1.05 to 2.95")]
AxisRatio = Annotated[Prior, within(_SMALLEST, 1, "more than 0 and at most 1")]


def power_law_draw(u: np.ndarray, low: float, high: float, slope: float) -> np.ndarray:
    """Return numbers from ``low`` to ``high`` whose density is proportional to x^slope.

    By inverse CDF, of uniform numbers ``u`` from 0 to 1.
    """
    power = slope + 1
    if abs(power) < 1e-12:
        return low * (high / low) ** u
    return (u * (high**power - low**power) + low**power) ** (1 / power)


def either(section: Part, *choices: tuple[str, ...]) -> None:
    """Raise a ValueError unless exactly one of several groups of keys is given, as a whole."""
    names = [name for group in choices for name in group]
    given = tuple(name for name in names if getattr(section, name) is not None)
    if given not in choices:
        expected = ", or ".join(" and ".join(group) for group in choices)
        raise ValueError(f"expected {expected}; found {' and '.join(given) or 'none'}")


def _turned(modulus: float, angle: Prior | None, rng: np.random.Generator) -> tuple[float, float]:
    """Return the two components of a modulus whose axis lies at an angle [deg], or at any."""
    degrees = rng.uniform(0, 180) if angle is None else angle.draw(rng)
    phase = np.deg2rad(2 * degrees)  # half a turn gives back the same ellipse
    return modulus * np.cos(phase), modulus * np.sin(phase)


def _check_components(section: Part, first: str, second: str) -> None:
    """Raise a ValueError if two components may have a modulus of 1 or more."""
    largest = [max(np.abs(getattr(section, name).bounds)) for name in (first, second)]
    if np.hypot(*largest) >= 1:
        found = f"found up to {first} = {largest[0]:g} and {second} = {largest[1]:g}"
        raise ValueError(f"expected {first}^2 + {second}^2 < 1, {found}")
    if section.angle is not None:
        raise ValueError(f"angle: expected none beside {first} and {second}, which have their own")


class Elliptical(Part):
    r"""An ellipticity: e1 and e2, its modulus, or the axis ratio q, :math:`|e| = (1-q)/(1+q)`."""

    e1: Prior | None = Field(None, description="ellipticity along x, instead of modulus and angle")
    e2: Prior | None = Field(None, description="ellipticity along the diagonal")
    ellipticity: Modulus | None = Field(None, description="modulus")
    axis_ratio: AxisRatio | None = Field(None, description="minor / major axis")
    angle: Prior | None = Field(
        None, description="of the major axis, from x towards y, degrees; null: any"
    )

    @model_validator(mode="after")
    def _one_ellipticity(self) -> Elliptical:
        either(self, ("e1", "e2"), ("ellipticity",), ("axis_ratio",))
        if self.e1 is not None:
            _check_components(self, "e1", "e2")
        return self

    def draw_ellipticity(self, rng: np.random.Generator) -> tuple[float, float]:
        if self.e1 is not None:
            return self.e1.draw(rng), self.e2.draw(rng)
        if self.ellipticity is not None:
            modulus = self.ellipticity.draw(rng)
        else:
            q = self.axis_ratio.draw(rng)
            modulus = (1 - q) / (1 + q)
        return _turned(modulus, self.angle, rng)


class Shear(Part):
    """External shear: its components, or its modulus."""

    gamma1: Prior | None = Field(None, description="along x, instead of modulus and angle")
    gamma2: Prior | None = Field(None, description="along the diagonal")
    gamma: Modulus | None = Field(None, description="modulus")
    angle: Prior | None = Field(
        None, description="along which images are stretched, from x towards y, degrees; null: any"
    )

    @model_validator(mode="after")
    def _one_shear(self) -> Shear:
        either(self, ("gamma1", "gamma2"), ("gamma",))
        if self.gamma1 is not None:
            _check_components(self, "gamma1", "gamma2")
        return self

    def draw(self, rng: np.random.Generator) -> tuple[float, float]:
        if self.gamma1 is not None:
            return self.gamma1.draw(rng), self.gamma2.draw(rng)
        return _turned(self.gamma.draw(rng), self.angle, rng)


class Position(Part):
    """A place: anywhere in a square or in a disc, or at a radius, at any angle."""

    box: float | None = Field(
        None, ge=0, le=LARGEST, description="uniform in ± this on each axis, arcsec"
    )
    disc: float | None = Field(
        None, ge=0, le=LARGEST, description="uniform in a disc of this radius, arcsec"
    )
    radius: NotNegative | None = Field(None, description="distance at a random angle, arcsec")

    @model_validator(mode="after")
    def _one_place(self) -> Position:
        either(self, ("box",), ("disc",), ("radius",))
        return self

    def draw(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y (size,) in arcsec."""
        if self.box is not None:
            return tuple(rng.uniform(-self.box, self.box, size=(2, size)))
        if self.disc is not None:
            radius = self.disc * np.sqrt(rng.uniform(size=size))
        else:
            radius = self.radius.draw(rng, size)
        angle = rng.uniform(0, 2 * np.pi, size=size)
        return radius * np.cos(angle), radius * np.sin(angle)
