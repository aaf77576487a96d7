"""How much is read of a foreign file, and what becomes of one that cannot be read.

Every file passes here: it must be a regular one, no larger than ``MAX_BYTES``, packed or unpacked,
and what its header declares must fit into its bytes. Whatever decoding it raises is an InputError
with its name.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from vitdm.bounds import PIXEL_SCALES
from vitdm.errors import InputError

MAX_BYTES = 1 << 29  # of a file or of the array in it, unpacked
MAX_PIXELS = 1 << 25  # of one plane of an image, 5792 x 5792: an exposure of a large camera's chip
MAX_HEADER = 1 << 20  # bytes of one header, of an archive's member or a FITS extension
MAX_RATIO = 2048  # no picture has more bytes, unpacked, per byte of its file
MAX_ARCHIVE_RATIO = 200  # of a whole archive, unpacked; deflated zeros have 1030, packed images 10
MAX_DEPTH, MAX_FOLDERS = 64, 100_000  # of folders in folders
MAX_REASON = 300  # characters of a library's message that are shown
MIN_SCALE, MAX_SCALE = PIXEL_SCALES
SLACK = 1 << 20  # bytes: small enough to be always allowed
_PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_OTHER = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket"}


@contextlib.contextmanager
def decoding(name: str | Path) -> Iterator[None]:
    """Turn whatever is raised while a foreign file is read into an InputError with its name.

    Libraries raise errors of any type for damaged bytes, so all are caught.
    """
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{name}: does not exist") from error
    except Exception as error:
        raise InputError(f"{name}: {reason_of(error)}") from error


def reason_of(error: BaseException) -> str:
    """Return in one line what an error says, with its type where that is no plain sentence."""
    text = getattr(error, "strerror", None) or " ".join(str(error).split())
    if not isinstance(error, (OSError, EOFError, ValueError)):
        text = f"cannot be read: {type(error).__name__}" + (f": {text}" if text else "")
    text = text or type(error).__name__
    return text if len(text) <= MAX_REASON else text[:MAX_REASON] + "…"


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file; ValueError for a pipe or device, which might never end."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = next((kind for is_kind, kind in _OTHER.items() if is_kind(mode)), "a device")
        raise ValueError(f"is {kind}; expected a file")
    return open(path, "rb")


def read_file(path: str | Path) -> bytes:
    """Return the bytes of a regular file; ValueError if it is none or larger than MAX_BYTES."""
    with open_file(path) as stream:
        if os.fstat(stream.fileno()).st_size > MAX_BYTES:
            raise ValueError(f"has over {MAX_BYTES} bytes; too large for an image")
        return read_stream(stream)


def read_stream(stream: BinaryIO) -> bytes:
    """Return what is left of a stream; ValueError if that is more than MAX_BYTES."""
    parts, size = [], 0
    while part := stream.read(SLACK):  # piece by piece: a read takes the memory it asks for
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            raise ValueError(f"has over {MAX_BYTES} bytes; too large for an image")
    return b"".join(parts)


def unpacked(stream: BinaryIO) -> BinaryIO:
    """Return a stream of the content, unpacked if it is packed by gzip, bzip2 or xz."""
    start = stream.read(6)
    stream.seek(0)
    opener = next((opener for magic, opener in _PACKED.items() if start.startswith(magic)), None)
    return stream if opener is None else opener(stream)


def unpacked_content(content: bytes) -> bytes:
    """Return the bytes of a file, unpacked if they are packed; ValueError if they are too many."""
    if not content.startswith(tuple(_PACKED)):
        return content
    with unpacked(io.BytesIO(content)) as stream:
        return read_stream(stream)


def check_array(shape: tuple[int, ...], itemsize: int, content: int, ratio: float = 1) -> None:
    """Raise ValueError if an array that a header declares cannot lie in ``content`` bytes.

    ``itemsize``: bytes of one value; ``ratio``: how many bytes of values a byte of the file can
    hold, at most. Called before anything of the array's size is made.
    """
    size = math.prod(shape) * itemsize
    plane = math.prod(sorted(shape)[-2:])
    if min(shape, default=1) < 0 or size > MAX_BYTES or plane > MAX_PIXELS:
        raise ValueError(f"declares an array of shape {shape}; too large for an image")
    if size > (content if ratio == 1 else ratio * content + SLACK):
        raise ValueError(
            f"declares an array of shape {shape}, {size} bytes, of which {content} bytes are "
            "left in the file: it is truncated, or no image"
        )


class Limited(io.RawIOBase):
    """A stream for ``tarfile``, which reads as many bytes at once as a header asks for.

    ``budget``: bytes that may be read until it is set anew. Positions beyond ``end`` are refused:
    only an archive that was made to fill a disk unpacks to so many bytes.
    """

    def __init__(self, stream: BinaryIO, end: float) -> None:
        self._stream, self._end, self.budget = stream, end, MAX_HEADER

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > self.budget:
            raise ValueError(f"has a header of over {MAX_HEADER} bytes; refused")
        self.budget -= size
        content = self._stream.read(size)
        self._check()
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 0 and offset > self._end:
            raise ValueError(f"unpacks to over {self._end:.3g} bytes; refused")
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def close(self) -> None:
        self._stream.close()
        super().close()

    def _check(self) -> None:
        if self._stream.tell() > self._end:
            raise ValueError(f"unpacks to over {self._end:.3g} bytes; refused")


def as_scale(value: Any, where: str) -> float | None:
    """Return a pixel scale [arcsec], or None; InputError unless it is one of an image of a lens."""
    if value is None:
        return None
    number = float(value) if isinstance(value, (int, float)) or hasattr(value, "dtype") else None
    if number is not None and MIN_SCALE < number < MAX_SCALE:
        return number
    hint = ""
    if number is not None and MIN_SCALE < 3600 * number < MAX_SCALE:
        hint = f"; {value:g} degrees are {3600 * number:.4g} arcsec"
    raise InputError(
        f"{where}: found {value!r:.40}; expected arcsec, above {MIN_SCALE:g} and below "
        f"{MAX_SCALE:g}{hint}"
    )
