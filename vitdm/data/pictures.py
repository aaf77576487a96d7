"""Pictures in jpg, png and tif files, whose headers are looked at before they are decoded."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator

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
_TAGS |= {254: "kind"}
MAX_PAGES, MAX_TAGS = 10_000, 1 << 20  # of a TIFF
REDUCED, MASK = 1, 4  # bits of the kind of a page: a smaller copy of another, a mask of it
_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # of a TIFF's numbers


def decode(content: bytes) -> np.ndarray:
    """Return the pixels (H, W) or (H, W, 3), red first; ValueError for what is no whole picture.

    Of a TIFF with n pages they are (n, H, W) or (n, H, W, 3); smaller copies of a page, and masks,
    do not count.
    """
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
        pages = _tiff_pages(content)
        if len(pages) > 1:
            return _stack(content, pages)
        shape, itemsize, _ = pages[0]
    else:
        raise ValueError("cannot be decoded; expected a JPEG, PNG or TIFF image")
    foreign.check_array(shape, itemsize, len(content), foreign.MAX_RATIO)
    with _heard() as comments:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError("cannot be decoded; expected a JPEG, PNG or TIFF image")
    if damage := _DAMAGE.search("".join(comments)):
        raise ValueError(f"is a damaged picture: {damage[0]}")
    return _red_first(image)


def _red_first(image: np.ndarray) -> np.ndarray:
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


#: shape (H, W, channels) of a page, or of its tiles if larger; bytes of a value; its kind (bits)
Page = tuple[tuple[int, int, int], int, int]


def _stack(content: bytes, pages: list[Page]) -> np.ndarray:
    """Return the pages of a TIFF (n, H, W) or (n, H, W, 3); ValueError if they do not match."""
    whole = [k for k, (_, _, kind) in enumerate(pages) if not kind & (REDUCED | MASK)] or [0]
    shapes = {pages[k][:2] for k in whole}
    if len(shapes) > 1:
        sizes = ", ".join(f"{h} x {w}" for h, w in sorted({shape[:2] for shape, _ in shapes}))
        raise ValueError(
            f"is a TIFF of {len(whole)} pages that differ ({sizes}); expected one image, or pages "
            "of one size and kind"
        )
    values = 0
    for shape, itemsize, _ in pages:  # all of them are decoded
        foreign.check_array(shape, itemsize, len(content), foreign.MAX_RATIO)
        values += int(np.prod(shape)) * itemsize
    foreign.check_array((values,), 1, len(content), foreign.MAX_RATIO)
    with _heard():
        good, decoded = cv2.imdecodemulti(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if not good or len(decoded) != len(pages):
        raise ValueError(f"cannot be decoded; expected a TIFF of {len(pages)} pages")
    made = np.stack([_red_first(decoded[k]) for k in whole])
    return made if len(made) > 1 else made[0]


def _tiff_pages(content: bytes) -> list[Page]:
    """Return what the headers of the pages of a TIFF declare, the first at least."""
    order = "<" if content[:1] == b"I" else ">"
    big = content[2:4].strip(b"\0") == b"+"

    def number(form: str, offset: int) -> int:
        return struct.unpack_from(order + form, content, offset)[0]

    start, seen, pages, tags = number("Q", 8) if big else number("I", 4), set(), [], 0
    while start and start not in seen:
        seen.add(start)
        try:
            tags += number("Q" if big else "H", start)
            if len(pages) == MAX_PAGES or tags > MAX_TAGS:
                raise ValueError(f"is a TIFF of over {MAX_PAGES} pages or {MAX_TAGS} tags; refused")
            page, start = _tiff_page(start, big, number)
        except struct.error:
            raise ValueError(f"is a truncated TIFF: page {len(pages)} cannot be read") from None
        pages.append(page)
    return pages


def _tiff_page(start: int, big: bool, number: Callable[[str, int], int]) -> tuple[Page, int]:
    """Return what the header of a page at ``start`` declares, and where the next one is, or 0."""
    n, size, inline = (number("Q", start), 20, 8) if big else (number("H", start), 12, 4)
    start += 8 if big else 2
    found = {"bits": 1, "samples": 1, "across": 0, "down": 0, "kind": 0}
    for entry in range(start, start + size * n, size):
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
    page = (height, width, found["samples"]), max(1, found["bits"] // 8), found["kind"]
    return page, number("Q" if big else "I", start + size * n)
