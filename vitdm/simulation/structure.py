r"""Structure of source galaxies: star-forming clumps, spiral arms, irregular texture.

The Sérsic profile :math:`S` is multiplied by arms and by texture, and a part of the light is moved
into clumps, so that the flux stays the same:

.. math:: I = (1 - f) \, c \, S \, e^{s(r) \cos[m (\phi - \ln r / \tan p) + \phi_0]} \, e^{g}
    + f \sum_k L_k G_k

with m arms of pitch angle p, a Gaussian random field g with a power-law spectrum, round Gaussians
G of flux 1, and the c for which the first term has 1 - f of the flux of S. The polar coordinates
r, in units of the half-light radius, and :math:`\phi` are those in the plane of the disc, of which
the ellipticity is the projection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from vitdm.bounds import MOST_CLUMPS
from vitdm.compiled import compiled
from vitdm.config.sections import wrong
from vitdm.simulation.light import add_sersic, total_flux
from vitdm.simulation.priors import (
    Modulus,
    NotNegative,
    Part,
    Prior,
    power_law_draw,
    within,
)

#: columns of the truth
TRUTH = ("source_n_clumps", "source_clump_fraction", "source_n_arms", "source_pitch")
TRUTH += ("source_arm_strength", "source_texture")
N_WAVES = 64  # of the texture: enough for its values to be normally distributed
GRID, EXTENT = 161, 6.0  # pixels, and half-light radii on each side, on which flux is summed
NEGLIGIBLE = 1e-4  # brightness that is left without structure, over that at R_sersic
FAINTEST = 0.03  # luminosity of the faintest clump, in units of that of the brightest possible

Angle = Annotated[Prior, within(1, 89, "1 to 89 degrees")]


class Clumps(Part):
    """Round Gaussians with a power law of luminosities, spread like an exponential disc."""

    number: NotNegative = Field(description="rounded")
    fraction: Modulus = Field(description="of the light of the galaxy")
    radius: Annotated[Prior, within(1e-3, 100, "0.001 to 100 arcsec")] = Field(
        description="half-light radius, arcsec"
    )
    luminosity_slope: float = Field(
        -1.7, ge=-5, le=5, description="dN/dL is proportional to L^slope"
    )

    @model_validator(mode="after")
    def _not_too_many(self) -> Clumps:
        if self.number.bounds[1] > MOST_CLUMPS:
            raise wrong([("number", f"expected at most {MOST_CLUMPS}")])
        return self


class Arms(Part):
    """Logarithmic spiral arms."""

    number: Annotated[Prior, within(1, 12, "1 to 12")] = Field(description="rounded")
    pitch: Angle = Field(description="angle between arms and circles, degrees; either hand")
    strength: Annotated[Prior, within(0, 5, "0 to 5")] = Field(
        description="amplitude of the arms in ln(brightness)"
    )


class Texture(Part):
    """Irregular structure: a log-normal random field."""

    strength: Annotated[Prior, within(0, 3, "0 to 3")] = Field(description="rms of ln(brightness)")
    slope: float = Field(-2.5, ge=-8, le=2, description="power spectrum, P(k) proportional k^slope")
    scales: tuple[float, float] = Field(description="shortest and longest wavelength, arcsec")

    @model_validator(mode="after")
    def _ordered(self) -> Texture:
        if not 1e-3 <= self.scales[0] <= self.scales[1] <= 100:
            raise wrong([("scales", "expected 0.001 <= shortest <= longest <= 100")])
        return self


class Structure(Part):
    """What makes a source galaxy more than a Sérsic profile; each part is optional."""

    clumps: Clumps | None = None
    arms: Arms | None = None
    texture: Texture | None = None


@dataclass(frozen=True)
class SourceStructure:
    """The structure of one galaxy, whose Sérsic profile is given beside it.

    ``arms``: number, tan(pitch), strength, phase. ``waves`` (3, N_WAVES): wave vectors [1/arcsec]
    and phases of the texture, of rms ``texture``. ``clumps`` (3, n): x, y and sigma of each
    [arcsec, from the centre of the galaxy], ``shares`` (n,) of all light. ``norm``: what the smooth
    part is multiplied by.
    """

    arms: tuple[float, float, float, float]
    texture: float
    waves: NDArray[np.float64]
    clumps: NDArray[np.float64]
    shares: NDArray[np.float64]
    norm: float = 1.0

    def brightness(
        self, light: dict[str, float], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return counts/s/arcsec^2 at ``x``, ``y`` (H, W) [arcsec] in the source plane.

        ``light``: the Sérsic profile, arguments of lenstronomy's SERSIC_ELLIPSE.
        """
        image = self._smooth(light, x, y)
        flux = light["amp"] * total_flux(light)
        for (x0, y0, sigma), share in zip(self.clumps.T, self.shares, strict=True):
            u, v = x - light["center_x"] - x0, y - light["center_y"] - y0
            gauss = np.exp(-(u**2 + v**2) / (2 * sigma**2))
            image += share * flux / (2 * math.pi * sigma**2) * gauss
        return image

    def normalised(self, light: dict[str, float]) -> SourceStructure:
        """Return the structure with which a profile keeps its flux, summed over the source."""
        axis = np.linspace(-EXTENT, EXTENT, GRID) * light["R_sersic"]
        x, y = np.meshgrid(axis + light["center_x"], axis + light["center_y"])
        smooth = np.zeros(x.shape)
        add_sersic(smooth, x, y, light)
        kept = self._smooth(light, x, y).sum() / smooth.sum()
        return replace(self, norm=float((1 - self.shares.sum()) * self.norm / kept))

    def _smooth(
        self, light: dict[str, float], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        image = np.zeros(x.shape)
        add_sersic(image, x, y, light)
        u, v = x - light["center_x"], y - light["center_y"]
        shape = _projection(light) / light["R_sersic"]
        faint = NEGLIGIBLE * light["amp"]
        _modulate(image, faint, u, v, shape, self.arms, self.texture, self.waves)
        return self.norm * image


@compiled
def _modulate(image, faint, u, v, shape, arms, texture, waves):
    """Multiply ``image`` by arms and texture at ``u``, ``v`` (H, W) ["] from the galaxy's centre.

    What is fainter than ``faint`` stays as it is. ``shape`` (2, 2) turns places into those in the
    plane of the disc, in half-light radii.
    """
    number, tan_pitch, strength, phase = arms
    amplitude = texture * math.sqrt(2 / waves.shape[1])
    for row in range(image.shape[0]):
        for col in range(image.shape[1]):
            if image[row, col] < faint:
                continue
            dx, dy = u[row, col], v[row, col]
            log_factor = 0.0
            if strength > 0:
                a = shape[0, 0] * dx + shape[0, 1] * dy
                b = shape[1, 0] * dx + shape[1, 1] * dy
                square = max(a * a + b * b, 1e-12)
                turn = math.atan2(b, a) - 0.5 * math.log(square) / tan_pitch
                # no arms in the bulge, where a logarithmic spiral winds up
                inner = square / (square + 0.25)
                log_factor += strength * inner * math.cos(number * turn + phase)
            if texture > 0:
                field = 0.0
                for k in range(waves.shape[1]):
                    field += math.cos(waves[0, k] * dx + waves[1, k] * dy + waves[2, k])
                log_factor += amplitude * field
            image[row, col] *= math.exp(log_factor)


def _projection(light: dict[str, float]) -> NDArray[np.float64]:
    """Return the matrix (2, 2) that makes circles of the ellipses of a Sérsic profile."""
    e1, e2 = light["e1"], light["e2"]
    return np.array([[1 - e1, -e2], [-e2, 1 + e1]]) / math.sqrt(1 - e1**2 - e2**2)


def draw_structure(
    structure: Structure, light: dict[str, float], rng: np.random.Generator
) -> tuple[SourceStructure, dict[str, float]]:
    """Return structure for a galaxy with the Sérsic profile ``light``, and its truth."""
    arms, of_arms = _draw_arms(structure.arms, rng)
    texture, waves = _draw_texture(structure.texture, rng)
    clumps, shares = _draw_clumps(structure.clumps, light, rng)
    truth = {"source_n_clumps": len(shares), "source_clump_fraction": float(shares.sum())}
    truth |= {"source_texture": texture, **of_arms}
    return SourceStructure(arms, texture, waves, clumps, shares).normalised(light), truth


def _draw_arms(
    arms: Arms | None, rng: np.random.Generator
) -> tuple[tuple[float, float, float, float], dict[str, float]]:
    if arms is None:
        return (1.0, 1.0, 0.0, 0.0), {}
    number, pitch = float(np.rint(arms.number.draw(rng))), arms.pitch.draw(rng)
    pitch, strength = float(rng.choice([-1, 1]) * pitch), float(arms.strength.draw(rng))
    phase = rng.uniform(0, 2 * math.pi)
    truth = {"source_n_arms": number, "source_pitch": pitch, "source_arm_strength": strength}
    return (number, math.tan(math.radians(pitch)), strength, phase), truth


def _draw_texture(
    texture: Texture | None, rng: np.random.Generator
) -> tuple[float, NDArray[np.float64]]:
    """Return the rms and the plane waves of a random field with a power-law spectrum."""
    if texture is None:
        return 0.0, np.zeros((3, N_WAVES))
    # wave numbers follow the power in rings of the (kx, ky) plane, k P(k)
    low, high = (2 * math.pi / scale for scale in reversed(texture.scales))
    k = power_law_draw(rng.uniform(size=N_WAVES), low, high, texture.slope + 1)
    angle, phase = rng.uniform(0, 2 * math.pi, (2, N_WAVES))
    waves = np.array([k * np.cos(angle), k * np.sin(angle), phase])
    return float(texture.strength.draw(rng)), waves


def _draw_clumps(
    clumps: Clumps | None, light: dict[str, float], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x, y, sigma (3, n) ["] of clumps and their parts (n,) of the light of the galaxy."""
    n = 0 if clumps is None else round(clumps.number.draw(rng))
    if n == 0:
        return np.zeros((3, 0)), np.zeros(0)
    # an exponential disc: r exp(-1.678 r / R) is a Gamma distribution
    radius, angle = rng.gamma(2, 1 / 1.678, n), rng.uniform(0, 2 * math.pi, n)
    flat = light["R_sersic"] * radius * np.array([np.cos(angle), np.sin(angle)])
    x, y = np.linalg.solve(_projection(light), flat)
    sigma = clumps.radius.draw(rng, n) / math.sqrt(2 * math.log(2))
    luminosity = power_law_draw(rng.uniform(size=n), FAINTEST, 1.0, clumps.luminosity_slope)
    return np.array([x, y, sigma]), clumps.fraction.draw(rng) * luminosity / luminosity.sum()
