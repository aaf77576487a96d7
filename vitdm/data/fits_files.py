"""FITS files: which extension is the image, its noise, its mask, its PSF; the scale of its pixels.

Extensions are told apart by their names (EXTNAME), as HST, JWST, astropy's CCDData, PyAutoLens and
others write them. What cannot be decided is refused, with a list of what there is.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from vitdm.data import foreign
from vitdm.data.units import unit_of

SCIENCE, NOISE, MASK, PSF, OTHER, UNNAMED = "science", "noise", "mask", "psf", "other", ""
WORDS = {  # what a word in a name stands for; of several, the first here
    PSF: "psf kernel psfimage",
    MASK: "mask dq bpm flags badpix",
    NOISE: "noise noisemap err error errors rms sigma std stddev uncert uncertainty "
    "var variance ivar invvar invvariance wht weight weights wgt",
    OTHER: "ctx con context seg segmap segmentation exp exptime samp coverage area bkg "
    "background residual model catalog",
    SCIENCE: "sci science data image img signal",
}
_WORDS = {word: role for role, words in WORDS.items() for word in words.split()}
INVERSE = {"ivar", "invvar", "invvariance"}
WEIGHT = {"wht", "weight", "weights", "wgt"}
VARIANCE = {"var", "variance"}
MAX_EXTENSIONS = 1000
_END = b"END" + b" " * 77  # of a header
SQUARE, HARDLY_SQUARE = 1.01, 1.1  # ratio of a pixel's sides: beyond, a warning; an error
_DEGREES = {"deg": 1.0, "degree": 1.0, "arcmin": 1 / 60, "arcsec": 1 / 3600, "mas": 1 / 3.6e6}
_DEGREES |= {"rad": 180 / math.pi, "degrees": 1.0, "arcseconds": 1 / 3600, '"': 1 / 3600}
_CELESTIAL = re.compile(r"(RA|DEC|[GES]LON|[GES]LAT|[A-Z]{2}L[NT])-")
KEYWORDS = ("PIXSCALE", "D001SCAL", "PIXSCAX", "PIXSCAL1", "PIXSCAL", "SECPIX", "SECPIX1")
KEYWORDS += ("PIXELSCL", "PIXSCL", "PIXAR_A2")  # the last is an area, arcsec^2
_PIXEL = r"(?:\s*(?:/|per)\s*pix(?:el)?|\s*pix(?:el)?-1)?"
_NUMBER = re.compile(rf"\s*([-+.\deE]+)\s*([a-zA-Z\"]*?){_PIXEL}\s*")


class Extension(NamedTuple):
    """An image in a FITS file."""

    index: int
    name: str
    version: int
    words: frozenset[str]
    hdu: fits.ImageHDU
    primary: fits.Header

    @property
    def headers(self) -> tuple[fits.Header, fits.Header]:
        """Its own header and that of the file."""
        return self.hdu.header, self.primary

    @property
    def role(self) -> str:
        """What its name says that it is."""
        return role_of(self.words)

    def __str__(self) -> str:
        version = f",{self.version}" if self.version > 1 else ""
        return f"[{self.index}] {self.name or '(no name)'}{version} {self.hdu.shape}"

    def array(self) -> NDArray:
        """Return the values; BLANK pixels are NaN."""
        return np.asarray(self.hdu.data)


def words_of(name: str) -> frozenset[str]:
    """Return the words of a name, without their numbers: psf, noise, map of ``PSF1_noise-map``."""
    return frozenset(re.findall("[a-z]+", name.lower()))


def role_of(words: frozenset[str]) -> str:
    """Return what a name of these words stands for: noise, mask, psf, science, other or unnamed."""
    roles = {_WORDS[word] for word in words & set(_WORDS)}
    return next((role for role in WORDS if role in roles), UNNAMED)


@contextlib.contextmanager
def opened(content: bytes) -> Iterator[list[Extension]]:
    """Yield the images in a FITS file, packed or not. ValueError if it is truncated or no FITS."""
    content = foreign.unpacked_content(content)
    if not content.startswith(b"SIMPLE"):
        raise ValueError("is not a FITS file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*truncated.*")
        try:
            # uint: else BLANK is not heeded in unsigned integers, and is a value like others
            with fits.open(io.BytesIO(content), memmap=False, uint=False) as hdus:
                yield list(_extensions(hdus, content))
        except Warning as warning:
            raise ValueError(f"is a truncated FITS file: {warning}") from warning


def _extensions(hdus: fits.HDUList, content: bytes) -> Iterator[Extension]:
    start = 0
    for index in range(MAX_EXTENSIONS):
        stop = start + foreign.MAX_HEADER
        if content.find(_END, start, stop) < 0 and stop < len(content):
            raise ValueError(
                f"found no end of header {index} within {foreign.MAX_HEADER} bytes: it is damaged"
            )
        try:
            hdu = hdus[index]
        except IndexError:
            return
        place = hdu.fileinfo()
        start = place["datLoc"] + place["datSpan"]
        if not hdu.is_image or isinstance(hdu, fits.GroupsHDU) or len(hdu.shape) < 2:
            continue
        packed = isinstance(hdu, fits.CompImageHDU)
        left, ratio = len(content) - place["datLoc"], foreign.MAX_RATIO if packed else 1
        foreign.check_array(hdu.shape, abs(int(hdu.header["BITPIX"])) // 8, left, ratio)
        name = str(hdu.name).strip()
        name = "" if name == "COMPRESSED_IMAGE" else name
        words = words_of(name)
        if role_of(words) == NOISE and (kind := str(_told(hdu.header, "UTYPE", "")).lower()):
            words |= {"ivar"} if kind.startswith("inv") else words_of(kind[:3])  # CCDData
        yield Extension(index, name, int(hdu.ver), words, hdu, hdus[0].header)
    raise ValueError(f"has over {MAX_EXTENSIONS} extensions; refused")


# ------------------------------------------------------------------------------------ which image


def science(images: list[Extension], hdu: int | str | None = None) -> Extension:
    """Return the science image: that of ``hdu``, index or name, or the only one that can be it.

    A name that says so comes before the primary image, that before one without a name or of an
    unknown one. ValueError, with a list, if there is none or several are as good.
    """
    if hdu is not None:
        return _named(images, hdu, "hdu")
    exact = set(WORDS[SCIENCE].split())
    ranks: dict[int, list[Extension]] = {}
    for image in images:
        if image.role in (SCIENCE, UNNAMED):
            named = 0 if image.name.lower() in exact else 1 if image.role == SCIENCE else 3
            rank = 2 if named and image.name == "PRIMARY" else named
            ranks.setdefault(rank, []).append(image)
    best = ranks[min(ranks)] if ranks else []
    return _only(best, images, "the science image", "hdu", hdu_hint=True)


def companion(images: list[Extension], role: str, beside: Extension | None) -> Extension | None:
    """Return the noise, mask or PSF that belongs to an image, None if there is none.

    That of the same version (EXTVER) is taken, an rms before a variance before weights. ValueError
    if several are as good. Without ``beside``, the file holds nothing else, and an image whose name
    tells nothing is taken too.
    """
    found = [image for image in images if image.role == role]
    if beside is None and not found:
        return science([image for image in images if image.role in (SCIENCE, UNNAMED)])
    if beside is not None:
        same = [image for image in found if image.version == beside.version]
        alone = [image.name for image in images].count(beside.name) == 1
        found = same or (found if alone else [])
    if role == NOISE:
        kinds = [kind_of(image.words) for image in found]
        best = min(kinds, key=_KINDS.index, default=None)
        found = [image for image, kind in zip(found, kinds, strict=True) if kind == best]
    return _only(found, images, f"the {role}", role) if found else None


def _only(
    found: list[Extension], images: list[Extension], what: str, option: str, hdu_hint: bool = False
) -> Extension:
    if len(found) == 1:
        return found[0]
    listed = ", ".join(map(str, images[:30])) or "no image with two axes"
    which = f"several that could be {what}" if found else f"none that is {what} by its name"
    flag = f" (--{option})" if hdu_hint else ""
    raise ValueError(
        f"found {which} in this FITS file; choose one by {option}{flag}, its index or name: "
        f"{listed}"
    )


def _named(images: list[Extension], wanted: int | str, option: str) -> Extension:
    """Return the image of an index, a name, or a name and version as in ``SCI,2``."""
    text = str(wanted).strip().lower()
    name, _, version = text.rpartition(",")
    found = [image for image in images if text == str(image.index)]
    found = found or [image for image in images if text == image.name.lower()]
    found = found or [
        image for image in images if (name, version) == (image.name.lower(), str(image.version))
    ]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(map(str, images[:30])) or "no image with two axes"
    which = "several images" if found else "no image"
    raise ValueError(f"{option} {str(wanted)!r:.40}: found {which} of that name in {listed}")


def has(images: list[Extension], name: str) -> bool:
    """Tell whether an image of this name or index is in the file."""
    with contextlib.suppress(ValueError):
        return _named(images, name, "hdu") is not None
    return False


# ------------------------------------------------------------------------------------ its values


def _told(header: fits.Header | dict[str, str], key: str, default: Any) -> Any:
    """Return the value of a keyword; the default also where it cannot be read."""
    try:
        return header.get(key, default)
    except fits.VerifyError:
        return default


_KINDS = ("rms", "variance", "inverse variance", "weight")


def kind_of(words: frozenset[str]) -> str:
    """Return what a noise map of a name of these words holds: rms, variance, or their inverse."""
    for names, kind in ((INVERSE, 2), (WEIGHT, 3), (VARIANCE, 1)):
        if words & names:
            return _KINDS[kind]
    return _KINDS[0]


def as_rms(noise: NDArray, kind: str) -> NDArray[np.float32]:
    """Return the rms of a noise map; NaN where a variance or weight has none."""
    noise = np.asarray(noise, np.float64)
    if kind != "rms":
        good = np.isfinite(noise) & (noise > 0)
        noise = np.sqrt(noise, where=good, out=np.full(noise.shape, np.nan))
        noise = noise if kind == "variance" else 1 / noise
    with np.errstate(over="ignore"):
        return noise.astype(np.float32)


def as_mask(values: NDArray, header: fits.Header | None = None) -> NDArray[np.bool_]:
    """Return True where a mask's value is not zero, or missing.

    Of a mask of the Rubin pipelines, the plane of detected objects is left out: it is the lens.
    """
    masked = ~np.isfinite(values)
    numbers = np.where(masked, 0, values).astype(np.int64 if values.dtype.kind != "f" else float)
    for plane in ("MP_DETECTED", "MP_DETECTED_NEGATIVE"):
        bit = None if header is None else _told(header, plane, None)
        if isinstance(bit, int) and 0 <= bit < 63:
            numbers = numbers.astype(np.int64) & ~(1 << bit)
    return masked | (numbers != 0)


def band_number(band: int | str | None, header: fits.Header) -> int | str | None:
    """Return the number of a band that is named as the header names it (BANDS, BAND0, …)."""
    if not isinstance(band, str) or re.fullmatch(r"\s*-?\d+\s*", band):
        return None if band is None else int(band)
    names = [str(_told(header, f"BAND{k}", "")).strip() for k in range(10)]
    if not any(names):
        names = list(str(_told(header, "BANDS", "")).replace(",", "").strip())
    if band.strip() in names:
        return names.index(band.strip())
    known = f", one of {', '.join(filter(None, names))}" if any(names) else ""
    raise ValueError(f"band {band!r:.40}: expected a number from 0{known}")


def has_bands(header: fits.Header) -> bool:
    """Tell whether the planes of a cube are bands, or the steps of an axis such as a wavelength."""
    named = any(str(_told(header, key, "")).strip() for key in ("BANDS", "BAND0", "CTYPE3"))
    return named


def unit(*headers: fits.Header) -> str | None:
    """Return the unit of the image's values (BUNIT) as it is spelled here, None if none is told."""
    for header in headers:
        if text := str(_told(header, "BUNIT", "")).strip():
            return unit_of(text)
    return None


# -------------------------------------------------------------------------------- the pixel scale


def pixel_scale(*headers: fits.Header) -> float | None:
    """Return the side of a pixel in arcsec that the first header with one tells, None if none does.

    From the matrix of the world coordinates, without their distortions, whose tables astropy wants
    to find in the same file; else from usual keywords. A value that is none of an image of a lens
    in arcsec, but is one in degrees, is in degrees. Warns of pixels that are not square; ValueError
    if they are far from it.
    """
    for header in headers:
        for told in (_from_matrix(header), _from_keywords(header)):
            if told is not None:
                return told
    return None


def _from_matrix(header: fits.Header) -> float | None:
    def number(key: str, default: float) -> float:
        value = _told(header, key, default)
        return float(value) if isinstance(value, (int, float)) else math.nan

    kinds = [str(_told(header, f"CTYPE{i}", "")) for i in (1, 2)]
    celestial = all(map(_CELESTIAL.match, kinds))
    units = [str(_told(header, f"CUNIT{i}", "")).strip().lower() for i in (1, 2)]
    if not celestial and any(kinds) and not all(unit in _DEGREES for unit in units):
        return None  # axes of another kind
    indices = [(i, j) for i in (1, 2) for j in (1, 2)]
    if any(f"CD{i}_{j}" in header for i, j in indices):
        matrix = [number(f"CD{i}_{j}", 0.0) for i, j in indices]
    elif all(f"CDELT{i}" in header for i in (1, 2)):
        turn = [number(f"PC{i}_{j}", number(f"PC00{i}00{j}", i == j)) for i, j in indices]
        matrix = [number(f"CDELT{i}", 0.0) * turn[k] for k, (i, _) in enumerate(indices)]
    else:
        return None
    scales = np.array([_DEGREES.get(unit, 1.0) for unit in units])[:, None]
    with np.errstate(all="ignore"):
        linear = 3600 * scales * np.array(matrix).reshape(2, 2)
        sides = np.hypot(*linear)
        side = math.sqrt(abs(float(np.linalg.det(linear)))) if np.isfinite(linear).all() else 0
        plain = side / 3600
        if not any(kinds) and not any(units) and foreign.MIN_SCALE < plain < foreign.MAX_SCALE:
            if math.isclose(plain, 1):  # the side in pixels
                return None
            side, sides = plain, sides / 3600  # of no kind and no unit: arcsec
    if not foreign.MIN_SCALE < side < foreign.MAX_SCALE:
        return None
    ratio = float(sides.max() / sides.min())
    if ratio > SQUARE:
        told = f"pixels of {sides[0]:.4g} x {sides[1]:.4g} arcsec"
        if ratio > HARDLY_SQUARE:
            raise ValueError(f"has {told}; expected square ones: resample the image")
        warnings.warn(f"{told} are taken for square ones of {side:.4g} arcsec", stacklevel=2)
    return side


def _from_keywords(header: fits.Header) -> float | None:
    for key in KEYWORDS:
        match = _NUMBER.fullmatch(str(_told(header, key, "")).replace("'", ""))
        unit = match[2].lower() if match else ""
        if match is None or (unit and unit not in _DEGREES):
            continue
        with contextlib.suppress(ValueError):  # of a number such as 1e2e3
            value = float(match[1]) * (3600 * _DEGREES[unit] if unit else 1)
            value = math.sqrt(max(value, 0.0)) if key == "PIXAR_A2" else value
            for side in (value,) if unit else (value, 3600 * value):
                if foreign.MIN_SCALE < side < foreign.MAX_SCALE:
                    return side
    return None
