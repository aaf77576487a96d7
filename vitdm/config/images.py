"""Settings of images: where they come from, how they are processed, what is measured."""

from __future__ import annotations

import typing
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from vitdm.bounds import LARGEST_SIDE, MOST_PARTS, MOST_STEPS, PIXEL_SCALES
from vitdm.config.sections import Section

SPLITS = ("train", "valid", "opt", "test")
#: perturbers whose S/N and sensitivity are mapped, in the order of the channels of ``maps.npy``
PROFILES = ("point", "clump", "string")
Channel = Literal[
    "snr_point",
    "snr_clump",
    "snr_string",
    "sensitivity_point",
    "sensitivity_clump",
    "sensitivity_string",
    "residual",
    "chi2",
    "image",
]
CHANNELS: tuple[str, ...] = typing.get_args(Channel)  # vitdm.lens.channels says what they are
#: of the residual of a fit, whose power is a feature: sigma of the wider Gaussian of each band-pass
#: (px; of the narrower, half), and azimuthal orders over which it is averaged
SCALES = (1.0, 2.0, 4.0)
ORDERS = ((1, 2), (3, 4), (5, 8), (9, 16))
PLACES = 48  # along a side of a map, about: the pixels of the square that is fitted, binned


def binning(size: int, places: int = PLACES) -> int:
    """Return how many of ``size`` pixels, along a side, are one place of about as many."""
    k = max(1, round(size / places))
    while size % k:
        k -= 1
    return k


def _names(given: Any) -> Any:
    """Return names as text: YAML reads 0 as a number, and no as false."""
    if not isinstance(given, dict):
        return given
    for entry in (*given, *given.values()):
        if isinstance(entry, bool) or not isinstance(entry, (str, int)):
            raise ValueError(f"found {entry!r}; expected text or a number: quote it")
    return {str(name): str(kind) for name, kind in given.items()}


class Ingest(Section):
    """What becomes of images in files; see ``vitdm ingest --help``."""

    resplit: bool = Field(False, description="draw all splits anew, whatever was published")
    skip_bad: bool = Field(False, description="leave out files that cannot be used, list them")
    drop_duplicates: bool = Field(False, description="keep one of several images that are equal")
    pixel_scale: float | None = Field(
        None, gt=PIXEL_SCALES[0], lt=PIXEL_SCALES[1], description="arcsec; default: FITS headers"
    )
    classes: Annotated[dict[str, str], BeforeValidator(_names)] = Field(
        {}, description="folder or label: class, such as wdm: cdm or 0: no_sub; wdm: wdm is new"
    )
    labels: str | None = Field(None, description="table (CSV, TSV) with columns file and class")


class Preprocess(Section):
    """From an image of any size to the square array that the network sees."""

    derotate: bool = Field(
        False, description="turn and mirror the lensed light: its longer tails to +x and +y"
    )
    crop: Literal["centre", "roi"] = Field(
        "centre", description="cut around the image centre, or around the region of interest"
    )
    resize: bool = Field(
        False, description="scale the image or region to fill the cut; else its native resolution"
    )
    size: int = Field(
        96, ge=8, le=LARGEST_SIDE, description="side of the cut, in pixels of what the network sees"
    )
    stretch: Literal["arcsinh", "linear"] = Field("arcsinh", description="of (x - sky) / sigma")
    softening: float = Field(2.0, gt=0, description="arcsinh(x / (softening sigma))")
    threshold: float = Field(5.0, gt=0, description="region of interest: above this many sigma")


class Features(Section):
    """Which features are measured (``vitdm.features.definitions``)."""

    groups: list[Literal["proposal", "morphology", "lensfit", "search"]] = Field(
        ["proposal", "morphology"],
        description="lensfit: of a fitted smooth lens; search: of one with a source of free form, "
        "if lensfit.search is on; images in files: if their scale is known",
    )
    levels: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.2, 0.4, 0.6, 0.8], description="of bright points, fractions of the peak above the sky"
    )

    @field_validator("groups")
    @classmethod
    def _measured(cls, groups: list[str]) -> list[str]:
        if "morphology" not in groups or len(set(groups)) < len(groups):
            raise ValueError(f"found {groups}; expected morphology among them, each group once")
        return groups


class Selection(Section):
    """How features are judged, and which are kept (``vitdm.evaluation.selection``)."""

    fdr: float = Field(0.05, gt=0, lt=1, description="false discoveries among those significant")
    correlation: float = Field(
        0.9, gt=0, le=1, description="features of a cluster: |rank correlation| at least this"
    )
    importance_sd: float = Field(
        2.0, ge=0, description="permutation importance that counts, in its s.d."
    )
    n_bootstrap: int = Field(500, ge=10, le=MOST_STEPS, description="resamplings of the images")
    n_subsamples: int = Field(
        50, ge=2, le=MOST_STEPS, description="half samples, for the mutual information"
    )
    n_repeats: int = Field(
        20, ge=2, le=MOST_STEPS, description="shufflings for the permutation importance"
    )


class LensFit(Section):
    """The smooth lens that is fitted to each image (``vitdm.lens.fit``)."""

    size: int = Field(
        96, ge=24, le=LARGEST_SIDE, multiple_of=2, description="side of the square fitted, px"
    )
    # Of simulated lenses the population tells PSF, photon noise and whether lenses shine.
    psf_fwhm: float = Field(0.087, ge=0, description="FWHM of the Gaussian PSF, arcsec")
    psf_truncation: float = Field(3.0, gt=0, description="PSF kernel cut, in units of its sigma")
    gain: float | None = Field(
        None, ge=0, description="photon noise: variance per brightness; null: from the images"
    )
    lens_light: bool = Field(False, description="fit the light of the lens galaxy")
    # Priors, normal ones, of the centre of the mass, which is always free.
    center_offset: float = Field(
        0.25, gt=0, description="s.d. of the centre of mass about the middle of the image, arcsec"
    )
    light_offset: float = Field(
        0.05, gt=0, description="s.d. of the galaxy's light about its centre of mass, arcsec"
    )
    light_profiles: int = Field(1, ge=1, le=2, description="Sérsic profiles of that light")
    noise_lag: int = Field(
        1, ge=1, le=8, description="px between pixels that share no noise; 2 for drizzled images"
    )
    search: bool = Field(
        False,
        description="also fit a source of free form and search for perturbers: a second an image",
    )
    maps: Literal["matched", "free_form"] | None = Field(
        None,
        description="maps of perturbers for networks: matched filters, at once, or searches with a "
        "source of free form, a second an image",
    )
    places: int = Field(
        PLACES,
        ge=8,
        le=LARGEST_SIDE,
        description="along a side of maps and of the search in them, about: pixels are binned",
    )
    batch: int = Field(64, ge=1, le=MOST_PARTS, description="images fitted side by side")

    @property
    def n_lights(self) -> int:
        """The number of profiles of the light of the lens galaxy."""
        return self.lens_light * self.light_profiles

    @property
    def map_side(self) -> int:
        """The places along a side of the maps."""
        return self.size // binning(self.size, self.places)
