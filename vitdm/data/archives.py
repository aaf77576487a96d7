"""The files in folders and in archives, which stay packed."""

from __future__ import annotations

import math
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from vitdm.data import foreign
from vitdm.errors import InputError

TARS = (".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz", ".tar")
ARCHIVES = (*TARS, ".zip")


class Member(NamedTuple):
    """A file in a folder or archive."""

    name: str
    open: Callable[[], BinaryIO]

    def read(self) -> bytes:
        """Return the file's content; InputError if it cannot be read or is too large."""
        with foreign.decoding(self.name), self.open() as stream:
            return foreign.read_stream(stream)


def members(path: Path) -> Iterator[Member]:
    """Yield each file in a folder or archive; it can be read until the next one is asked for.

    Links in folders are followed. Raises InputError for a damaged archive, and for members that
    are links or lie outside it.
    """
    if path.is_dir():
        yield from folder_members(path)
        return
    if not path.exists():
        raise InputError(f"{path}: does not exist; expected a folder or archive of images")
    if not path.name.lower().endswith(ARCHIVES):
        raise InputError(f"{path}: expected a folder, or an archive ({', '.join(ARCHIVES)})")
    listing = _zip_members if path.name.lower().endswith(".zip") else _tar_members
    found = listing(path)
    while True:
        try:
            name, kind, open_member = next(found)
        except StopIteration:
            return
        except Exception as error:  # whatever a damaged archive makes of it
            reason = foreign.reason_of(error)
            raise InputError(f"{path}: damaged, or no archive: {reason}") from error
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if name.startswith(("/", "\\")) or ".." in parts or re.match("[A-Za-z]:", name):
            raise InputError(f"{path}: member {name!r:.200} points outside the archive; refused")
        if kind != "file":
            raise InputError(f"{path}: member {name!r:.200} is {kind}; expected files and folders")
        if not _hidden(parts):
            yield Member("/".join(parts), open_member)


def folder_members(path: Path) -> Iterator[Member]:
    """Yield each file below a folder, also where links lead, but never into a circle of links."""
    n_folders = 0

    def below(folder: str, above: tuple[str, ...]) -> Iterator[Member]:
        nonlocal n_folders
        n_folders += 1
        if len(above) > foreign.MAX_DEPTH or n_folders > foreign.MAX_FOLDERS:
            raise InputError(
                f"{folder}: expected folders at most {foreign.MAX_DEPTH} deep, and at most "
                f"{foreign.MAX_FOLDERS} of them, links included"
            )
        real = os.path.realpath(folder)
        if real in above:  # a link leads back up
            return
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            raise InputError(f"{folder}: cannot be listed: {error.strerror}") from error
        inside = []
        for entry in entries:
            parts = PurePosixPath(os.path.relpath(entry.path, path)).parts
            if _hidden(parts):
                continue
            if entry.is_dir():
                inside.append(entry.path)
            else:
                yield Member("/".join(parts), partial(foreign.open_file, entry.path))
        for child in inside:
            yield from below(child, (*above, real))

    return below(os.fspath(path), ())


def _tar_members(path: Path) -> Iterator[tuple[str, str, Callable[[], BinaryIO]]]:
    packed = foreign.open_file(path)
    with packed, foreign.unpacked(packed) as plain:
        size = os.fstat(packed.fileno()).st_size
        most = size if plain is packed else foreign.MAX_BYTES + foreign.MAX_ARCHIVE_RATIO * size
        stream = foreign.Limited(plain, most)
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            while info := archive.next():
                archive.members.clear()  # else the list of all members stays in memory
                if not info.isdir():
                    # A header of a sparse file may promise any number of zeros.
                    regular = info.isreg() and not info.issparse()
                    kind = "a link" if info.issym() or info.islnk() else "a special file"
                    stream.budget = math.inf  # a member ends where its header says
                    opener = partial(archive.extractfile, info)
                    yield info.name, "file" if regular else kind, opener
                stream.budget = foreign.MAX_HEADER
            # tarfile stops without a word at a damaged header in the middle.
            stream.seek(archive.offset)
            if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise ValueError(f"found no header of a member at byte {archive.offset}")


def _zip_members(path: Path) -> Iterator[tuple[str, str, Callable[[], BinaryIO]]]:
    with foreign.open_file(path) as stream, zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                kind = "a link" if stat.S_ISLNK(info.external_attr >> 16) else "file"
                yield info.filename, kind, partial(archive.open, info)


def _hidden(parts: tuple[str, ...]) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)
