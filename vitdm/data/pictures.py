"""Pictures in jpg, png and tif files, whose headers are looked at before they are decoded."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import tempfile
import zlib
from collections.abc import Iterator

import cv2
import numpy as np

from vitdm.data import foreign

PNG, JPEG, TIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAX_SCANS = 100  # of a progressive JPEG, which is decoded once for each
_DAMAGE = re.compile("bad Huffman code|[Pp]remature end")
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 4, 6: 4}  # by colour type, as they are decoded
_NO_LENGTH = {0x01, *range(0xD0, 0xD9)}  # markers of a JPEG that stand alone
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_TAGS = {256: "width", 257: "height", 258: "bits", 277: "samples", 322: "across", 323: "down"}
_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # of a TIFF's numbers


def decode(content: bytes) -> np.ndarray:
    """Return the pixels (H, W) or (H, W, 3), red first; ValueError for what is no whole picture."""
    # OpenCV returns a half-grey image for half a file, so the end marks are looked for first.
    # In a JPEG's compressed data 0xFF is never followed by 0xD9.
    if content.startswith(JPEG):
        if content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda"):
            raise ValueError("is a truncated JPEG: its end is missing")
        if content.count(b"\xff\xda") > MAX_SCANS:
            raise ValueError(f"is a JPEG of over {MAX_SCANS} scans; refused")
        shape, itemsize = _jpeg_shape(content)
    elif content.startswith(PNG):
        _check_chunks(content)
        width, height, bits, colour = struct.unpack_from(">IIBB", content, 16)
        shape, itemsize = (height, width, _PNG_CHANNELS.get(colour, 4)), 1 + (bits > 8)
    elif content.startswith(TIFF):
        shape, itemsize = _tiff_shape(content)
    else:
        raise ValueError("cannot be decoded; expected a JPEG, PNG or TIFF image")
    foreign.check_array(shape, itemsize, len(content), foreign.MAX_RATIO)
    with _heard() as comments:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError("cannot be decoded; expected a JPEG, PNG or TIFF image")
    if damage := _DAMAGE.search("".join(comments)):
        raise ValueError(f"is a damaged picture: {damage[0]}")
    return image[..., 2::-1] if image.ndim == 3 else image  # OpenCV has blue first, alpha last


@contextlib.contextmanager
def _heard() -> Iterator[list[str]]:
    """Collect what libraries print, which is all they tell of a JPEG that they could not decode."""
    log, level = cv2.utils.logging, cv2.utils.logging.getLogLevel()
    comments: list[str] = []
    with contextlib.ExitStack() as stack:
        stack.callback(log.setLogLevel, level)
        log.setLogLevel(log.LOG_LEVEL_SILENT)
        page = stack.enter_context(tempfile.TemporaryFile())
        with contextlib.suppress(OSError):  # a process may have no standard error
            before = os.dup(2)
            stack.callback(os.close, before)
            stack.callback(os.dup2, before, 2)
            os.dup2(page.fileno(), 2)
        yield comments
        page.seek(0)
        comments.append(page.read(1 << 16).decode("latin1"))


def _check_chunks(content: bytes) -> None:
    """Raise ValueError if a PNG is truncated, or a chunk of it differs from its checksum."""
    start, kind = len(PNG), b""
    while kind != b"IEND":
        if len(content) < start + 12:
            raise ValueError("is a truncated PNG: its end is missing")
        length, kind = struct.unpack_from(">I4s", content, start)
        stop = start + 8 + length
        if content[stop : stop + 4] != struct.pack(">I", zlib.crc32(content[start + 4 : stop])):
            raise ValueError(f"is a damaged or truncated PNG: at byte {start}")
        start = stop + 4


def _jpeg_shape(content: bytes) -> tuple[tuple[int, int, int], int]:
    """Return (H, W, channels) and the bytes of a value, of the first frame of a JPEG."""
    start = 2
    while True:
        if content[start] != 0xFF:
            raise ValueError("is a damaged JPEG: found no frame")
        marker = content[start + 1]
        if marker == 0xFF:  # padding
            start += 1
        elif marker in _NO_LENGTH:
            start += 2
        elif marker in _FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", content, start + 4)
            return (height, width, channels), 1 + (bits > 8)
        else:
            start += 2 + struct.unpack_from(">H", content, start + 2)[0]


def _tiff_shape(content: bytes) -> tuple[tuple[int, int, int], int]:
    """Return (H, W, channels) and the bytes of a value, of a TIFF or of its tiles if larger."""
    order = "<" if content[:1] == b"I" else ">"
    big = content[2:4].strip(b"\0") == b"+"

    def number(form: str, offset: int) -> int:
        return struct.unpack_from(order + form, content, offset)[0]

    start = number("Q", 8) if big else number("I", 4)
    n, size, inline = (number("Q", start), 20, 8) if big else (number("H", start), 12, 4)
    start += 8 if big else 2
    found = {"bits": 1, "samples": 1, "across": 0, "down": 0}
    for entry in range(start, start + size * min(n, 4096), size):
        name, form = _TAGS.get(number("H", entry)), _TYPES.get(number("H", entry + 2))
        if name and form:
            count = number("Q" if big else "I", entry + 4)
            place = entry + size - inline
            if count * struct.calcsize(form) > inline:  # the values lie elsewhere
                place = number("Q" if big else "I", place)
            found[name] = number(form, place)
    if "width" not in found or "height" not in found:
        raise ValueError("is a damaged TIFF: found no width and height")
    height, width = max(found["height"], found["down"]), max(found["width"], found["across"])
    return (height, width, found["samples"]), max(1, found["bits"] // 8)
