"""Settings of the search for perturbers in one fitted lens."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vitdm.bounds import LARGEST_SEED
from vitdm.config.sections import Section, wrong

Kind = Literal["point", "isothermal", "nfw_10", "nfw_30", "nfw_100", "string"]


class Perturbers(Section):
    """What ``vitdm.lens.search`` looks for in the lens that ``vitdm.lens.fit`` has fitted."""

    profiles: tuple[Kind, ...] = Field(
        ("point", "isothermal", "nfw_10", "nfw_30", "nfw_100", "string"),
        min_length=1,
        description="of the perturbers that are mapped",
    )
    detect: Kind = Field(
        "isothermal", description="the profile whose map gives score, peaks and p-value"
    )
    truncation: float = Field(
        0.2, gt=0, le=5, description="radius at which the isothermal profile is cut, arcsec"
    )
    length: float = Field(1.0, gt=0, le=10, description="of strings, arcsec")
    spacing: float = Field(0.1, gt=0, le=1, description="between places, arcsec")
    z_lens: float | None = Field(
        None, gt=0, lt=100, description="redshift of the lens; null: masses in arcsec^2"
    )
    z_source: float | None = Field(None, gt=0, lt=100, description="that of the source")
    psf_sd: float = Field(
        0.05, ge=0, le=0.5, description="s.d. of the width of the PSF about the given one; 0: exact"
    )
    peaks: int = Field(3, ge=0, le=20, description="highest peaks that are fitted; 0: none")
    twins: int = Field(
        200, ge=0, le=10_000, description="smooth twins of the lens, searched without refits"
    )
    refitted_twins: int = Field(
        0, ge=0, le=1000, description="smooth twins that are simulated, fitted and searched"
    )
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="of the twins")

    @model_validator(mode="after")
    def _go_together(self) -> Perturbers:
        if self.detect not in self.profiles:
            raise wrong([("detect", f"expected one of profiles, found {self.detect!r}")])
        z_lens, z_source = self.z_lens, self.z_source
        if (z_lens is None) != (z_source is None):
            raise wrong([("z_lens", "expected both redshifts, z_lens and z_source, or none")])
        if z_lens is not None and z_source <= z_lens:
            raise wrong([("z_source", f"expected more than z_lens = {z_lens}, found {z_source}")])
        return self
