"""Reading image files: jpg, png, tif, npy and FITS, in folders and in archives that stay packed."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import stat
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

from vitdm.data import unpickle
from vitdm.errors import InputError

RASTER, FITS = (".jpg", ".jpeg", ".png", ".tif", ".tiff"), (".fits.gz", ".fits.fz", ".fits", ".fit")
SUFFIXES = (*RASTER, ".npy", *FITS)
ARCHIVES = (".tgz", ".tar.gz", ".tar", ".zip")
MAX_BYTES = 1 << 29  # no image of a lens is larger; guards against archives that explode
UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, MemoryError, zlib.error)
UNREADABLE += (zipfile.BadZipFile, tarfile.TarError, cv2.error, TypeError, IndexError, KeyError)


class Picture(NamedTuple):
    """One image, and what its file tells besides."""

    pixels: np.ndarray  # (H, W) float32; NaN where missing
    axion_mass: float | None = None  # eV
    pixel_scale: float | None = None  # arcsec


def read_picture(path: str | Path, content: bytes | None = None) -> Picture:
    """Return the image in a jpg, png, tif, npy or FITS file, and what the file tells besides.

    Colour is averaged over the channels and transparency dropped; a FITS file gives its first
    image with two axes. ``content`` are the file's bytes, if they are already at hand. Raises
    InputError, with the file and the reason, for anything that is not one whole image.
    """
    suffix = suffix_of(str(path))
    if suffix is None:
        raise InputError(f"{path}: unknown kind of file; expected {', '.join(SUFFIXES)}")
    decode = {".npy": _decode_npy, **dict.fromkeys(FITS, _decode_fits)}
    try:
        if content is None:
            content = Path(path).read_bytes()
        if not content:
            raise ValueError("is empty")
        picture = decode.get(suffix, _decode_raster)(content)
        pixels = _plane(picture.pixels)
    except FileNotFoundError as error:
        raise InputError(f"{path}: does not exist") from error
    except UNREADABLE as error:
        raise InputError(f"{path}: {reason_of(error)}") from error
    with np.errstate(over="ignore"):
        return picture._replace(pixels=np.ascontiguousarray(pixels, dtype=np.float32))


def read_image(path: str | Path, content: bytes | None = None) -> np.ndarray:
    """Return the pixels (H, W) float32 of an image file, as ``read_picture`` does."""
    return read_picture(path, content).pixels


def reason_of(error: BaseException) -> str:
    """Return in one line what an error says."""
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def fill_missing(image: np.ndarray, path: str | Path) -> np.ndarray:
    """Replace the pixels that are not finite by the median of the others; InputError if all."""
    finite = np.isfinite(image)
    if finite.all():
        return image
    if not finite.any():
        raise InputError(f"{path}: no pixel has a finite value; expected an image")
    return np.where(finite, image, np.median(image[finite]))


def load_images(paths: Iterable[str | Path]) -> Iterator[tuple[Path, np.ndarray]]:
    """Return an iterator over (path, image) of files and of all images in folders.

    Missing pixels are filled by the median. Raises InputError at once for a path that does not
    exist, a file of an unknown kind or a folder without images.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(file.name for file in _folder_members(path) if suffix_of(file.name))
            if not inside:
                raise InputError(f"{path}: found no image; expected {', '.join(SUFFIXES)}")
            files += [path / name for name in inside]
        elif not path.exists():
            raise InputError(f"{path}: does not exist")
        elif suffix_of(path.name) is None:
            raise InputError(f"{path}: unknown kind of file; expected {', '.join(SUFFIXES)}")
        else:
            files.append(path)
    return ((file, fill_missing(read_image(file), file)) for file in files)


def suffix_of(name: str) -> str | None:
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), None)


def _decode_raster(content: bytes) -> Picture:
    # OpenCV returns a half-grey image for half a file, so the end marks are looked for first.
    # In a JPEG's compressed data 0xFF is never followed by 0xD9.
    jpeg, png = content.startswith(b"\xff\xd8"), content.startswith(b"\x89PNG")
    if jpeg and content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda"):
        raise ValueError("is a truncated JPEG: its end is missing")
    if png and b"IEND" not in content[-1024:]:
        raise ValueError("is a truncated PNG: its end is missing")
    log, level = cv2.utils.logging, cv2.utils.logging.getLogLevel()
    log.setLogLevel(log.LOG_LEVEL_SILENT)  # it prints what is wrong with a TIFF
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    finally:
        log.setLogLevel(level)
    if image is None:
        raise ValueError("cannot be decoded; expected a JPEG, PNG or TIFF image")
    return Picture(image[..., :3] if image.ndim == 3 else image)


def _decode_npy(content: bytes) -> Picture:
    if content.startswith(b"PK"):
        raise ValueError("is an npz archive of several arrays; expected one array per .npy file")
    stream = io.BytesIO(content)
    if npy_header(stream)[1].hasobject:
        picture = Picture(*unpickle.image_and_mass(stream))
    else:
        stream.seek(0)
        picture = Picture(np.lib.format.read_array(stream, allow_pickle=False))
    if picture.pixels.dtype.kind not in "biuf":
        raise ValueError(f"found values of type {picture.pixels.dtype}; expected real numbers")
    return picture


def npy_header(stream: BinaryIO) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Read the header of a .npy file: shape, type and whether its order is Fortran's."""
    if stream.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
        raise ValueError("is not a NumPy file")
    read = {
        b"\1\0": np.lib.format.read_array_header_1_0,
        b"\2\0": np.lib.format.read_array_header_2_0,
    }.get(stream.read(2))
    if read is None:
        raise ValueError("is a NumPy file of an unknown version")
    shape, fortran, dtype = read(stream)
    return shape, dtype, fortran


def _decode_fits(content: bytes) -> Picture:
    if content.startswith(b"\x1f\x8b"):
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            content = stream.read(MAX_BYTES)
    if not content.startswith(b"SIMPLE"):
        raise ValueError("is not a FITS file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*truncated.*")
        try:
            with fits.open(io.BytesIO(content), memmap=False) as hdus:
                for hdu in hdus:
                    if hdu.is_image and len(hdu.shape) >= 2 and set(hdu.shape[:-2]) <= {1}:
                        pixels = np.array(hdu.data).reshape(hdu.shape[-2:])
                        return Picture(pixels, pixel_scale=_pixel_scale(hdu.header))
        except Warning as warning:
            raise ValueError(f"is a truncated FITS file: {warning}") from warning
    raise ValueError("found no image with two axes in this FITS file")


def _pixel_scale(header: fits.Header) -> float | None:
    """Return the arcsec of a pixel's side that a FITS header tells, None if it tells none."""
    scale = header.get("PIXSCALE")
    with contextlib.suppress(ValueError, TypeError, KeyError, MemoryError):  # what WCS may raise
        if (wcs := WCS(header)).has_celestial:
            scale = 3600 * np.sqrt(np.prod(proj_plane_pixel_scales(wcs.celestial)))
    return float(scale) if isinstance(scale, (int, float)) and 0 < scale < np.inf else None


def _plane(array: np.ndarray) -> np.ndarray:
    """Return (H, W) from (H, W), (1, H, W), (H, W, 1) or (H, W, 3)."""
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    elif array.ndim == 3 and array.shape[2] in (1, 3):
        array = array.mean(axis=2, dtype=np.float64)
    if array.ndim != 2 or min(array.shape) < 2:
        raise ValueError(
            f"found an array of shape {array.shape}; expected (H, W), (1, H, W) or (H, W, 3)"
        )
    return array


# ------------------------------------------------------------------------ folders and archives


class Member(NamedTuple):
    """A file in a folder or archive."""

    name: str
    open: Callable[[], BinaryIO]

    def read(self) -> bytes:
        """Return the file's content; InputError if it cannot be read or is too large."""
        try:
            with self.open() as stream:
                content = stream.read(MAX_BYTES + 1)
        except UNREADABLE as error:
            raise InputError(f"{self.name}: {reason_of(error)}") from error
        if len(content) > MAX_BYTES:
            raise InputError(f"{self.name}: has over {MAX_BYTES} bytes; too large for an image")
        return content


def members(path: Path) -> Iterator[Member]:
    """Yield each file in a folder or archive; it can be read until the next one is asked for.

    Raises InputError for a damaged archive, and for members that are links or lie outside it.
    """
    if path.is_dir():
        yield from _folder_members(path)
        return
    if not path.exists():
        raise InputError(f"{path}: does not exist; expected a folder or archive of images")
    if not path.name.lower().endswith(ARCHIVES):
        raise InputError(f"{path}: expected a folder, or an archive ({', '.join(ARCHIVES)})")
    listing = _zip_members if path.name.lower().endswith(".zip") else _tar_members
    try:
        for name, kind, open_member in listing(path):
            parts = PurePosixPath(name.replace("\\", "/")).parts
            if name.startswith(("/", "\\")) or ".." in parts or re.match("[A-Za-z]:", name):
                raise InputError(f"{path}: member {name!r} points outside the archive; refused")
            if kind != "file":
                raise InputError(f"{path}: member {name!r} is {kind}; expected files and folders")
            if not _hidden(parts):
                yield Member("/".join(parts), open_member)
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{path}: damaged, or no archive: {reason_of(error)}") from error


def _folder_members(path: Path) -> Iterator[Member]:
    def fail(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    seen: set[str] = set()  # a link may lead back up
    for folder, folders, files in os.walk(path, onerror=fail, followlinks=True):
        seen.add(os.path.realpath(folder))
        folders[:] = [
            name for name in sorted(folders) if os.path.realpath(f"{folder}/{name}") not in seen
        ]
        for name in sorted(files):
            file = os.path.join(folder, name)
            parts = PurePosixPath(os.path.relpath(file, path)).parts
            if not _hidden(parts):
                yield Member("/".join(parts), partial(open, file, "rb"))


def _tar_members(path: Path) -> Iterator[tuple[str, str, Callable[[], BinaryIO]]]:
    with tarfile.open(path) as archive:
        while info := archive.next():
            archive.members.clear()  # else the list of all members stays in memory
            if not info.isdir():
                kind = "a link" if info.issym() or info.islnk() else "a special file"
                kind = "file" if info.isreg() else kind
                yield info.name, kind, lambda info=info: archive.extractfile(info)


def _zip_members(path: Path) -> Iterator[tuple[str, str, Callable[[], BinaryIO]]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                kind = "a link" if stat.S_ISLNK(info.external_attr >> 16) else "file"
                yield info.filename, kind, lambda info=info: archive.open(info)


def _hidden(parts: tuple[str, ...]) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)
