"""Images in files (jpg, png, tif, npy and FITS), alone, in folders, or with noise, mask and PSF."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitdm.data import arrays, fits_files, foreign, pictures
from vitdm.data.archives import ARCHIVES, Member, folder_members, members
from vitdm.data.arrays import npy_header
from vitdm.data.fits_files import MASK, NOISE, OTHER, PSF, SCIENCE, Extension, kind_of
from vitdm.data.foreign import decoding, reason_of
from vitdm.data.observation import Observation
from vitdm.errors import InputError

RASTER = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
FITS = (".fits.gz", ".fits.bz2", ".fits.fz", ".fits", ".fit", ".fts")
SUFFIXES = (*RASTER, ".npy", *FITS)
UNREADABLE = Exception  # what decoding foreign bytes may raise
WEIGHTS_AGREE = 3.0  # ratio of noise told by weights and seen in the image; else another unit
SAME_SCALE = 1.02  # ratio of the pixel scales of an image and its PSF
__all__ = [
    "ARCHIVES",
    "Member",
    "Picture",
    "fill_missing",
    "load_images",
    "load_observations",
    "members",
    "npy_header",
    "observations_at",
    "read_image",
    "read_observation",
    "read_observations",
    "read_picture",
    "reason_of",
    "suffix_of",
    "together",
]


class Picture(NamedTuple):
    """One image, and what its file tells besides."""

    pixels: np.ndarray  # (H, W) float32; NaN where missing
    axion_mass: float | None = None  # eV
    pixel_scale: float | None = None  # arcsec


def read_picture(
    path: str | Path,
    content: bytes | None = None,
    *,
    hdu: int | str | None = None,
    band: int | str | None = None,
) -> Picture:
    """Return the image in a jpg, png, tif, npy or FITS file, and what the file tells besides.

    Of a FITS file the science image is taken, found by its name, or ``hdu`` (index or name). Of an
    image with several bands, (n, H, W) or (H, W, 3), ``band`` (from 0) is taken; without it, colour
    (H, W, 3) is averaged. ``content`` are the file's bytes, if they are already at hand. Raises
    InputError, with the file and the reason, for anything that is not one whole image.
    """
    with decoding(path):
        suffix = _known_suffix(path)
        if content is None:
            content = foreign.read_file(path)
        if not content:
            raise ValueError("is empty")
        if suffix in FITS:
            with fits_files.opened(content) as images:
                image = fits_files.science(images, hdu)
                pixels = _values(image, band)
            return Picture(pixels, pixel_scale=fits_files.pixel_scale(*image.headers))
        if hdu is not None:
            raise ValueError(f"hdu {hdu!r:.40}: is no FITS file, which alone has extensions")
        pixels, mass = _decoded(suffix, content)
        return Picture(_single(_plane(pixels, fits_files.band_number(band, {}))), mass)


def read_image(path: str | Path, content: bytes | None = None, **options: Any) -> np.ndarray:
    """Return the pixels (H, W) float32 of an image file, as ``read_picture`` does."""
    return read_picture(path, content, **options).pixels


def read_observation(
    path: str | Path,
    *,
    hdu: int | str | None = None,
    band: int | str | None = None,
    noise: str | Path | ArrayLike | None = None,
    psf: str | Path | ArrayLike | None = None,
    mask: str | Path | ArrayLike | None = None,
    pixel_scale: float | None = None,
    gain: float | None = None,
) -> Observation:
    """Return the image in a file, with what the file, its folder or the caller tells of it.

    ``path``: an image file, or a folder of image.fits, noise.fits, psf.fits, mask.fits or alike.
    ``hdu``, ``band``: which image of a FITS file, which band, as in ``read_picture``. Noise, PSF
    and mask are those that the FITS file names so (NOISE, ERR, WHT, IVAR, …; PSF, KERNEL; MASK,
    DQ: a pixel that is not zero is masked), unless ``noise``, ``psf``, ``mask`` give them: the name
    of an extension, another file, an array, or, for noise and PSF, a number, as Observation takes.
    ``pixel_scale`` [arcsec]: by default the header's. InputError names the file and what is wrong.
    """
    told = {NOISE: noise, PSF: psf, MASK: mask}
    (made,) = _observations(Path(path), hdu, band, told, pixel_scale, gain, stacked=False)
    return made


def read_observations(
    path: str | Path,
    *,
    hdu: int | str | None = None,
    band: int | str | None = None,
    noise: str | Path | ArrayLike | None = None,
    psf: str | Path | ArrayLike | None = None,
    mask: str | Path | ArrayLike | None = None,
    pixel_scale: float | None = None,
    gain: float | None = None,
) -> list[Observation]:
    """Return the images in a file as ``read_observation`` does: one, or those of a stack.

    A stack is an array (n, H, W) or (n, 1, H, W) of a npy or FITS file, or the pages of a TIFF, of
    which no ``band`` is chosen; planes that a FITS header calls bands, or the steps of an axis of
    its own, such as a wavelength, are no stack. Its images are named ``<path>[k]``, k from 0. A
    noise map, PSF or mask (H, W) is that of all of them, one (n, H, W) has a plane for each.
    """
    told = {NOISE: noise, PSF: psf, MASK: mask}
    return _observations(Path(path), hdu, band, told, pixel_scale, gain, stacked=True)


def _observations(
    path: Path,
    hdu: int | str | None,
    band: int | str | None,
    given: dict[str, Any],
    pixel_scale: float | None,
    gain: float | None,
    stacked: bool,
) -> list[Observation]:
    """Return the observation in a file or folder; those of a stack, if that may be one."""
    file = path
    if path.is_dir():
        files = _files_by_role(path)
        file = files.pop(SCIENCE)
        given = given | {role: beside for role, beside in files.items() if given[role] is None}
    with decoding(file):
        read = _read_fits if _known_suffix(file) in FITS else _read_other
        planes = read(file, hdu, band, given, stacked)
    made = []
    for plane, known in planes:
        name = str(path) if plane is None else f"{path}[{plane}]"
        at = band if plane is None else plane
        made.append(_observation(file, name, at, given, known, pixel_scale, gain))
    return made


def _observation(
    file: Path,
    name: str,
    band: int | str | None,
    given: dict[str, Any],
    known: dict[str, Any],
    pixel_scale: float | None,
    gain: float | None,
) -> Observation:
    """Return an observation of what its file tells (``known``) and the caller gives."""
    for role, value in given.items():
        if isinstance(value, (str, Path)):
            value = None if role in known else _beside(Path(value), role, band, known)
        elif np.ndim(value) == 3 and isinstance(band, int):  # a plane for each image of a stack
            value = np.asanyarray(value)[band]
        if value is not None:
            known[role] = value
    headers = known.pop("headers", ())
    with decoding(file):
        known["unit"] = fits_files.unit(*headers)
        if pixel_scale is None:
            pixel_scale = fits_files.pixel_scale(*headers)
    _check_psf(pixel_scale, known.pop("psf_scale", None), file)
    known[NOISE] = _as_noise(known.get(NOISE), known.pop("kind", "rms"), known["data"], file)
    made = Observation(**known, pixel_scale=pixel_scale, gain=gain, name=name)
    if made.mask.all():
        raise InputError(f"{name}: every pixel is missing, masked or without a noise")
    return made


def fill_missing(image: np.ndarray, path: str | Path) -> np.ndarray:
    """Replace the pixels that are not finite by the median of the others; InputError if all."""
    finite = np.isfinite(image)
    if finite.all():
        return image
    if not finite.any():
        raise InputError(f"{path}: no pixel has a finite value; expected an image")
    return np.where(finite, image, np.median(image[finite]))


def load_images(paths: Iterable[str | Path], **options: Any) -> Iterator[tuple[Path, np.ndarray]]:
    """Return an iterator over (path, image) of files and of all images in folders.

    Missing pixels are filled by the median. ``options`` are those of ``read_picture``. Raises
    InputError at once for a path that does not exist, a file of an unknown kind or a folder without
    images.
    """
    files = [file for path in map(Path, paths) for file in _images_at(path)]
    return ((file, fill_missing(read_image(file, **options), file)) for file in files)


def load_observations(
    paths: Iterable[str | Path], **options: Any
) -> Iterator[tuple[Path, Observation]]:
    """Return an iterator over (path, observation) of files and of all images in folders.

    The paths are those of ``observations_at``, ``options`` those of ``read_observation``. Of a
    stack (``read_observations``) the path is yielded with each of its images.
    """
    for place in observations_at(paths):
        for observation in read_observations(place, **options):
            yield place, observation


def observations_at(paths: Iterable[str | Path]) -> list[Path]:
    """Return the files and folders that ``read_observation`` reads, of files and of folders.

    A folder with noise.fits, psf.fits or alike beside its image is one observation. Raises
    InputError at once as ``load_images`` does.
    """
    places: dict[Path, None] = {}
    for path in map(Path, paths):
        files = _images_at(path)
        places |= dict.fromkeys(together(files) if path.is_dir() else files)
    return list(places)


def together(files: Iterable[Path]) -> list[Path]:
    """Return each image file, or once its folder where a noise map, PSF or mask lies beside it."""
    files = list(files)
    apart = {file.parent for file in files if _is_beside(file)}
    return list(dict.fromkeys(file.parent if file.parent in apart else file for file in files))


def suffix_of(name: str) -> str | None:
    """Return the ending of an image file's name, None if it is no image's."""
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), None)


def _known_suffix(path: str | Path) -> str:
    suffix = suffix_of(str(path))
    if suffix is None:
        raise ValueError(f"unknown kind of file; expected {', '.join(SUFFIXES)}")
    return suffix


def _images_at(path: Path) -> list[Path]:
    """Return a file, or the images in a folder, sorted; InputError if there is none."""
    if path.is_dir():
        inside = sorted(file.name for file in folder_members(path) if suffix_of(file.name))
        if not inside:
            raise InputError(f"{path}: found no image; expected {', '.join(SUFFIXES)}")
        return [path / name for name in inside]
    if not path.exists():
        raise InputError(f"{path}: does not exist")
    with decoding(path):
        _known_suffix(path)
    return [path]


# ------------------------------------------------------------------------------- arrays of pixels


def _single(array: NDArray) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return np.array(array, np.float32, order="C")


def _values(image: Extension, band: int | str | None) -> NDArray[np.float32]:
    """Return the pixels (H, W) of an image of a FITS file, where colour is never averaged."""
    number = fits_files.band_number(band, image.hdu.header)
    return _single(_plane(image.array(), number, average=False))


def _decoded(suffix: str, content: bytes) -> tuple[NDArray, float | None]:
    """Return the array in a npy file or a picture, and the axion mass [eV] beside it, if any."""
    return arrays.decode(content) if suffix == ".npy" else (pictures.decode(content), None)


def _flat(array: NDArray) -> NDArray:
    """Return a stack (n, 1, H, W) or (n, H, W, 3), whose colours are averaged, as (n, H, W)."""
    if array.ndim == 4 and array.shape[0] > 1 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim == 4 and array.shape[0] > 1 and array.shape[3] == 3:
        return array.mean(axis=3, dtype=np.float64)
    return array


def _is_colour(array: NDArray) -> bool:
    """Tell whether an array of three axes is (H, W, 3)."""
    return array.shape[2] == 3 <= array.shape[0]


def _images_in(array: NDArray, band: int | str | None) -> int:
    """Return how many images an array is, a stack (n, H, W) of which no band is chosen."""
    one = band is not None or array.ndim != 3 or array.shape[2] == 1 or _is_colour(array)
    return 1 if one else array.shape[0]


def _plane(array: NDArray, band: int | None = None, average: bool = True) -> NDArray:
    """Return (H, W) from (H, W), (1, H, W), (H, W, 1), or one of the bands of (n, H, W), (H, W, 3).

    Without a band, (H, W, 3) is averaged if ``average``. ValueError if a band must be chosen.
    """
    found, array = array.shape, _flat(array)
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim == 3:
        last = _is_colour(array)
        if band is None and last and average:
            return _plane(array.mean(axis=2, dtype=np.float64))
        bands = np.moveaxis(array, 2, 0) if last else array
        if band is None:
            raise ValueError(
                f"found an array of shape {found}: expected (H, W), (1, H, W) or (H, W, 3); or "
                f"choose one of its {len(bands)} bands by band (--band), from 0"
            )
        array = bands[band] if 0 <= band < len(bands) else None
        if array is None:
            raise ValueError(f"band {band}: expected one from 0 to {len(bands) - 1} of {found}")
    elif band:
        raise ValueError(f"band {band}: expected 0, as the shape of its array is {found}")
    if array.ndim != 2 or min(array.shape) < 2:
        raise ValueError(
            f"found an array of shape {found}; expected (H, W), (1, H, W) or (H, W, 3)"
        )
    return array


# ------------------------------------------------------------------------- noise, PSF and mask


#: the images of a file: each with its place in a stack, None if there is but one, and what of it
#: the file tells
Planes = list[tuple[int | None, dict[str, Any]]]


def _read_other(
    file: Path, hdu: int | str | None, band: int | str | None, given: dict[str, Any], stacked: bool
) -> Planes:
    """Return the image of a picture or a npy file, or those of a stack."""
    if not stacked:
        return [(None, {"data": read_picture(file, hdu=hdu, band=band).pixels})]
    content, suffix = foreign.read_file(file), _known_suffix(file)
    n = 1
    if content and hdu is None:  # else ``read_picture`` says what is wrong
        array = _flat(_decoded(suffix, content)[0])
        n = _images_in(array, band)
    if n == 1:
        return [(None, {"data": read_picture(file, content, hdu=hdu, band=band).pixels})]
    return [(k, {"data": _single(_plane(array[k]))}) for k in range(n)]


def _read_fits(
    file: Path, hdu: int | str | None, band: int | str | None, given: dict[str, Any], stacked: bool
) -> Planes:
    """Return the science image of a FITS file, or those of a stack, each with the noise, PSF and
    mask that lie in the file.
    """
    with fits_files.opened(foreign.read_file(file)) as images:
        image = fits_files.science(images, hdu)
        n = 1
        if stacked and not fits_files.has_bands(image.hdu.header):
            n = _images_in(_flat(image.array()), band)
        if n == 1:
            return [(None, _known_of(images, image, band, given))]
        return [(k, _known_of(images, image, k, given)) for k in range(n)]


def _known_of(
    images: list[Extension], image: Extension, band: int | str | None, given: dict[str, Any]
) -> dict[str, Any]:
    """Return an image, or a band of it, with the noise, PSF and mask that lie in its file."""
    known: dict[str, Any] = {"data": _values(image, band), "headers": image.headers}
    for role, value in given.items():
        found = None
        if value is None:
            found = fits_files.companion([i for i in images if i != image], role, image)
        elif isinstance(value, str) and fits_files.has(images, value):
            found = fits_files.science(images, value)
        if found is not None:
            known |= _as_role(found, role, band, found.words)
    return known


def _as_role(
    image: Extension, role: str, band: int | str | None, words: frozenset[str]
) -> dict[str, Any]:
    """Return the noise and its kind, the PSF and its pixel scale, or the mask."""
    if role == MASK:
        array = image.array()
        number = fits_files.band_number(band if array.ndim > 2 else None, image.hdu.header)
        return {MASK: fits_files.as_mask(_plane(array, number, False), image.hdu.header)}
    values = _values(image, band if image.array().ndim > 2 else None)
    if role == NOISE:
        return {NOISE: values, "kind": kind_of(words)}
    return {PSF: values, "psf_scale": fits_files.pixel_scale(image.hdu.header)}


def _beside(path: Path, role: str, band: int | str | None, known: dict[str, Any]) -> Any:
    """Return the noise, PSF or mask in a file of its own; what else is told of it goes to known."""
    with decoding(path):
        words = fits_files.words_of(path.name)
        if not path.exists() and suffix_of(path.name) is None:
            raise ValueError(f"expected a file, or the name of an extension with the {role}")
        if (suffix := _known_suffix(path)) not in FITS:
            array = _flat(_decoded(suffix, foreign.read_file(path))[0])
            number = fits_files.band_number(band, {}) if _images_in(array, None) > 1 else None
            values = _single(_plane(array, number))
            known |= {"kind": kind_of(words)} if role == NOISE else {}
            return fits_files.as_mask(values) if role == MASK else values
        with fits_files.opened(foreign.read_file(path)) as images:
            image = fits_files.companion(images, role, None)
            words = image.words if image.role == role else words
            found = _as_role(image, role, band, words)
    known |= found
    return found[role]


def _as_noise(noise: Any, kind: str, data: NDArray, file: Path) -> Any:
    """Return the rms of a noise map of another kind.

    Weights are inverse variances for some and exposure times for others. If they contradict the
    noise seen in the image, only the pixels without weight are used, as missing ones.
    """
    if kind == "rms" or noise is None:
        return noise
    rms = fits_files.as_rms(noise, kind)
    if kind != "weight" or rms.shape != data.shape:
        return rms
    seen, told = _pixel_noise(data), float(np.nanmedian(rms)) if np.isfinite(rms).any() else 0.0
    if 1 / WEIGHTS_AGREE < told / max(seen, 1e-30) < WEIGHTS_AGREE:
        return rms
    warnings.warn(
        f"{file}: its weights are no inverse variances: they tell a noise of {told:.3g}, the image "
        f"has {seen:.3g}; the noise is estimated. noise=… gives another map",
        stacklevel=3,
    )
    data[~np.isfinite(rms)] = np.nan
    return None


def _pixel_noise(image: NDArray) -> float:
    """Return the noise rms of an image, from differences of pixels beyond their correlation."""
    differences = np.abs(image[:, 3:] - image[:, :-3])
    good = np.isfinite(differences) & (differences > 0)
    return float(np.median(differences[good])) * 1.4826 / 2**0.5 if good.any() else 0.0


def _check_psf(scale: float | None, psf_scale: float | None, file: Path) -> None:
    if scale and psf_scale and not 1 / SAME_SCALE < psf_scale / scale < SAME_SCALE:
        raise InputError(
            f"{file}: psf: has pixels of {psf_scale:.4g} arcsec; expected those of the image, "
            f"{scale:.4g}: resample it"
        )


# ---------------------------------------------------------------------- folders of one observation


def _role_of_file(file: Path) -> str:
    return fits_files.role_of(fits_files.words_of(file.name[: -len(suffix_of(file.name) or "")]))


def _is_beside(file: Path) -> bool:
    return _role_of_file(file) in (NOISE, PSF, MASK)


def _files_by_role(folder: Path) -> dict[str, Path]:
    """Return the image of a folder, and its noise, PSF and mask by their names."""
    files = [folder / member.name for member in folder_members(folder)]
    files = [file for file in files if file.parent == folder and suffix_of(file.name)]
    roles: dict[str, list[Path]] = {}
    for file in files:
        roles.setdefault(_role_of_file(file) or SCIENCE, []).append(file)
    roles.pop(OTHER, None)
    images = [file for file in roles.get(SCIENCE, []) if suffix_of(file.name) not in RASTER]
    if images:  # pictures beside it only show it
        roles[SCIENCE] = images
    for role in (SCIENCE, *roles):
        if len(found := roles.get(role, [])) != 1:
            listed = ", ".join(file.name for file in found[:10]) or "none"
            raise InputError(
                f"{folder}: expected one file with the {role} image; found {listed}. In a folder "
                "of one observation are image.fits and, as far as known, noise.fits, psf.fits and "
                "mask.fits; of other files, give each one its noise and psf"
            )
    return {role: found[0] for role, found in roles.items()}
