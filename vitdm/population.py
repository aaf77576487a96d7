"""The schema of ``config/populations/*.yaml``: the settings of simulated lenses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, field_validator

from vitdm.messages import Section


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError("expected low <= high")
    return value


Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Ordered = AfterValidator(_ordered)


class Population(Section):
    """A population of simulated lenses (``config/populations/*.yaml``); see ``docs/data.md``."""

    model_config = ConfigDict(allow_inf_nan=False, validate_default=True)

    name: str
    description: str
    references: list[str] = []
    num_pix: int = Field(150, ge=16, description="pixels on a side")
    pixel_scale: float = Field(0.05, gt=0, description="arcsec per pixel")
    psf_fwhm: float = Field(0.087, gt=0, description="FWHM of the Gaussian PSF, arcsec")
    psf_truncation: float = Field(3.0, gt=0, description="PSF kernel cut, in units of its sigma")
    z_lens: float = Field(0.5, gt=0)
    z_source: float = Field(1.0, gt=0)
    H0: float = Field(70.0, gt=0, description="km/s/Mpc")
    Om0: float = Field(0.3, gt=0, lt=1)
    halo_mass: float = Field(1e12, gt=0, description="solar masses; sets the SIE's theta_E")
    e1: float = 0.1
    e2: float = 0.0
    gamma1: float = 0.05
    gamma2: float = 0.0
    source_amp: float = Field(20.0, gt=0)
    source_R_sersic: float = Field(0.25, gt=0, description="arcsec")
    source_n_sersic: float = Field(1.0, gt=0)
    source_e1: float = -0.1
    source_e2: float = 0.1
    source_offset: float = Field(0.35, ge=0, description="source centre uniform in ± this, arcsec")
    background_rms: float = Field(0.01, ge=0, description="rms of the sky per pixel, counts/s")
    log10_exposure_time: Annotated[tuple[float, float], Ordered] = (3.0, 3.5)
    n_subhalos: int = Field(25, ge=0)
    n_subhalos_distribution: Literal["fixed", "poisson"] = "fixed"
    subhalo_mass_range: Annotated[tuple[Positive, Positive], Ordered] = (1e6, 1e10)
    subhalo_mass_slope: float = Field(-0.9, lt=0, description="dN/dm is proportional to m^slope")
    subhalo_radius_range: Annotated[tuple[NotNegative, NotNegative], Ordered] = (0.25, 2.0)
    log10_axion_mass: Annotated[tuple[float, float], Ordered] = (-24.0, -22.0)
    vortex_mass: float = Field(3e10, gt=0, description="solar masses")
    vortex_points: int = Field(100, ge=1)
    distances: Literal["luminosity", "angular_diameter"] = Field(
        "luminosity", description="the distances that turn a mass into theta_E of a point mass"
    )
    noise: Literal["double_poisson", "single"] = Field(
        "double_poisson", description="Poisson noise twice and a clip, as coded; or one realisation"
    )
    class_fractions: dict[Literal["no_sub", "cdm", "axion"], Positive] = {
        "no_sub": 0.5,
        "cdm": 0.25,
        "axion": 0.25,
    }

    @field_validator("z_source")
    @classmethod
    def _behind_the_lens(cls, value: float, info: ValidationInfo) -> float:
        if value <= info.data.get("z_lens", 0):
            raise ValueError(f"expected more than z_lens = {info.data['z_lens']}")
        return value

    @field_validator("e2", "gamma2", "source_e2")
    @classmethod
    def _below_one(cls, value: float, info: ValidationInfo) -> float:
        first = info.field_name[:-1] + "1"
        other = info.data.get(first, 0)
        if other**2 + value**2 >= 1:
            expected = f"expected {first}^2 + {info.field_name}^2 < 1"
            raise ValueError(f"{expected}, found {first} = {other}")
        return value

    @field_validator("class_fractions")
    @classmethod
    def _with_and_without(cls, value: dict[str, float]) -> dict[str, float]:
        if "no_sub" not in value or len(value) < 2:
            found = ", ".join(value) or "none"
            raise ValueError(f"found {found}; expected no_sub and cdm, axion or both")
        return value
