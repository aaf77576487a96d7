"""Reading image files: jpg, png, npy and FITS, in folders and in archives that stay packed."""

from __future__ import annotations

import gzip
import io
import os
import re
import stat
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from astropy.io import fits

from vitdm.config import InputError

RASTER, FITS = (".jpg", ".jpeg", ".png"), (".fits.gz", ".fits", ".fit")
SUFFIXES = (*RASTER, ".npy", *FITS)
ARCHIVES = (".tgz", ".tar.gz", ".tar", ".zip")
MAX_BYTES = 1 << 29  # no image of a lens is larger; guards against archives that explode
_UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, MemoryError, zlib.error)
_UNREADABLE += (zipfile.BadZipFile, tarfile.TarError, cv2.error, TypeError, IndexError, KeyError)


def read_image(path: str | Path, content: bytes | None = None) -> np.ndarray:
    """Return an image (H, W) float32 from a jpg, png, npy or FITS file; missing pixels are NaN.

    Colour is averaged over the channels and transparency dropped; a FITS file gives its first
    image with two axes. ``content`` are the file's bytes, if they are already at hand. Raises
    InputError, with the file and the reason, for anything that is not one whole image.
    """
    suffix = suffix_of(str(path))
    if suffix is None:
        raise InputError(f"{path}: unknown kind of file; expected {', '.join(SUFFIXES)}")
    try:
        if content is None:
            content = Path(path).read_bytes()
        decode = {".npy": _decode_npy, **dict.fromkeys(FITS, _decode_fits)}
        image = _plane(decode.get(suffix, _decode_raster)(content))
    except FileNotFoundError as error:
        raise InputError(f"{path}: does not exist") from error
    except _UNREADABLE as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"{path}: {reason or type(error).__name__}") from error
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(image, dtype=np.float32)


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
            inside = sorted(name for name, _ in _folder_members(path) if suffix_of(name))
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


def size_text(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) + " pixels"


def _decode_raster(content: bytes) -> np.ndarray:
    # OpenCV returns a half-grey image for half a file, so the end marks are looked for first.
    # In a JPEG's compressed data 0xFF is never followed by 0xD9.
    jpeg, png = content.startswith(b"\xff\xd8"), content.startswith(b"\x89PNG")
    if jpeg and content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda"):
        raise ValueError("is a truncated JPEG: its end is missing")
    if png and b"IEND" not in content[-1024:]:
        raise ValueError("is a truncated PNG: its end is missing")
    data = np.frombuffer(content, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    if image is None:
        raise ValueError("cannot be decoded; expected a JPEG or PNG image")
    return image[..., :3] if image.ndim == 3 else image


def _decode_npy(content: bytes) -> np.ndarray:
    if content.startswith(b"PK"):
        raise ValueError("is an npz archive of several arrays; expected one array per .npy file")
    if not content.startswith(np.lib.format.MAGIC_PREFIX):
        raise ValueError("is not a NumPy file")
    try:
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        raise ValueError(
            "is an object array, which only a pickle can load (it could run any code); "
            "expected numbers: save the image alone with numpy.save"
        ) from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"found values of type {array.dtype}; expected real numbers")
    return array


def _decode_fits(content: bytes) -> np.ndarray:
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
                    if hdu.is_image and hdu.header["NAXIS"] == 2:
                        return np.array(hdu.data)
        except Warning as warning:
            raise ValueError(f"is a truncated FITS file: {warning}") from warning
    raise ValueError("found no image with two axes in this FITS file")


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


def content_of(name: str, read: Callable[[], bytes]) -> bytes:
    try:
        return read()
    except _UNREADABLE as error:
        raise InputError(f"{name}: {' '.join(str(error).split())}") from error


def members(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield (name, function that returns its bytes) of each file in a folder or archive."""
    if path.is_dir():
        yield from _folder_members(path)
        return
    if not path.exists():
        raise InputError(f"{path}: does not exist; expected a folder or archive of images")
    if not path.name.lower().endswith(ARCHIVES):
        raise InputError(f"{path}: expected a folder, or an archive ({', '.join(ARCHIVES)})")
    listing = _zip_members if path.name.lower().endswith(".zip") else _tar_members
    try:
        for name, size, kind, read in listing(path):
            parts = PurePosixPath(name.replace("\\", "/")).parts
            if name.startswith(("/", "\\")) or ".." in parts or re.match("[A-Za-z]:", name):
                raise InputError(f"{path}: member {name!r} points outside the archive; refused")
            if kind != "file":
                raise InputError(f"{path}: member {name!r} is {kind}; expected files and folders")
            if size > MAX_BYTES:
                raise InputError(
                    f"{path}: member {name!r} has {size} bytes; too large for an image"
                )
            if not _hidden(parts):
                yield "/".join(parts), read
    except InputError:
        raise
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: damaged, or no archive: {reason}") from error


def _folder_members(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    seen: set[str] = set()  # a link may lead back up
    for folder, folders, files in os.walk(path, followlinks=True):
        seen.add(os.path.realpath(folder))
        folders[:] = [
            name for name in sorted(folders) if os.path.realpath(f"{folder}/{name}") not in seen
        ]
        for name in sorted(files):
            file = Path(folder, name)
            parts = file.relative_to(path).parts
            if not _hidden(parts):
                yield "/".join(parts), file.read_bytes


def _tar_members(path: Path) -> Iterator[tuple[str, int, str, Callable[[], bytes]]]:
    with tarfile.open(path) as archive:
        for info in archive:
            if not info.isdir():
                kind = "a link" if info.issym() or info.islnk() else "a special file"
                kind = "file" if info.isreg() else kind
                yield info.name, info.size, kind, lambda i=info: archive.extractfile(i).read()


def _zip_members(path: Path) -> Iterator[tuple[str, int, str, Callable[[], bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                kind = "a link" if stat.S_ISLNK(info.external_attr >> 16) else "file"
                yield info.filename, info.file_size, kind, lambda i=info: archive.read(i)


def _hidden(parts: tuple[str, ...]) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)
