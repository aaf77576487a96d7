"""Settings of the fit of one lens with a source of free form."""

from __future__ import annotations

from pydantic import Field, model_validator

from vitdm.config.sections import Section, wrong


class FreeForm(Section):
    """The lens that ``vitdm.lens.fit`` fits to an observation; s.d. are of normal priors."""

    lens_light: bool = Field(True, description="fit the light of the lens galaxy")
    light_left: bool = Field(
        True, description="allow for round light in the middle of images without a lens galaxy"
    )
    neighbours: bool = Field(True, description="find and mask neighbours")
    cosmic_rays: bool = Field(True, description="find and mask cosmic rays")
    psf_fwhm: float = Field(
        0.1, ge=0, description="FWHM of the Gaussian PSF where it is unknown, arcsec"
    )
    gain: float | None = Field(
        None, ge=0, description="photon noise where it is unknown; null: from the image"
    )
    noise_lag: int = Field(
        1, ge=1, le=8, description="px between pixels that share no noise; 2 for drizzled images"
    )
    model_error: float = Field(
        0.03, ge=0, lt=1, description="error of the lens galaxy's model, as a share of its light"
    )
    source_error: float = Field(
        0.01, ge=0, lt=1, description="error of the source's model, as a share of the arcs' light"
    )
    theta_E: tuple[float, float] | None = Field(
        None, description="Einstein radii that are tried, arcsec; null: from the image's size"
    )
    ellipticity_sd: float = Field(0.2, gt=0, description="s.d. of e1 and e2 about 0")
    shear_sd: float = Field(0.1, ge=0, description="s.d. of gamma1 and gamma2; 0: no shear")
    light_offset: float = Field(
        0.05, gt=0, description="s.d. of the mass about the centre of the light, arcsec"
    )
    center_offset: float = Field(
        0.25, gt=0, description="the same about the middle of an image without light, arcsec"
    )
    slope: float = Field(2.08, gt=1.2, lt=2.8, description="mean of the slope; 2: isothermal")
    slope_sd: float = Field(0.1, ge=0, description="its s.d.; 0: fixed")
    m1_sd: float = Field(0.01, ge=0, description="s.d. of the multipole m = 1; 0: none")
    m3_sd: float = Field(0.01, ge=0, description="s.d. of the multipole m = 3; 0: none")
    m4_sd: float = Field(0.01, ge=0, description="s.d. of the multipole m = 4; 0: none")
    splines: int = Field(
        24, ge=8, le=64, description="of the source along each axis: their square are solved for"
    )
    most_splines: int = Field(
        32, ge=8, le=64, description="up to which the mesh becomes finer if arcs are left"
    )
    supersampling: int = Field(
        4, ge=1, le=8, description="parts, along each axis, of a pixel of bright arcs"
    )

    @model_validator(mode="after")
    def _in_order(self) -> FreeForm:
        if self.theta_E is not None and not 0 < self.theta_E[0] < self.theta_E[1]:
            found = f"found {list(self.theta_E)}; expected two numbers above 0 in ascending order"
            raise wrong([("theta_E", found)])
        return self
