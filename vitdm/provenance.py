"""Provenance sidecars (JSON) and atomic writes."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vitdm.errors import InputError

PACKAGES = ("torch", "numpy", "pandas", "lenstronomy", "scikit-learn")
PACKAGES += ("scikit-optimize", "opencv-python-headless", "matplotlib", "vitdm")
#: all files but those that .gitattributes marks as generated: committed copies of what a run makes
WRITTEN = (".", ":(exclude,attr:generated)")
_STARTED = time.time()
LARGE = 1 << 20  # bytes; the hash of a larger file is kept for as long as the file is the same


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of a file or folder; it takes the name only if all went well.

    A link is followed. What processes that were killed left of the same name is deleted. Raises
    InputError, with the file and the disk, if there is no room for what is written.
    """
    path = Path(os.path.realpath(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stale = _temporary(re.escape(path.name), re.escape(path.suffix))
        for entry in path.parent.iterdir():
            if (match := stale.fullmatch(entry.name)) and not _runs(int(match[1])):
                _delete(entry)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
        try:
            yield temporary
            if path.is_dir() and temporary.is_dir():
                shutil.rmtree(path)
            os.replace(temporary, path)
        finally:
            _delete(temporary)
    except InputError:
        raise
    except Exception as error:
        if room := _no_room(error, path):
            name = re.sub(_temporary("([^/]+?)", r"(?:\.[^/]*)?").pattern + "/", r"\1/", str(path))
            raise InputError(f"{name}: cannot be written: {room}") from error
        raise


def _temporary(name: str, suffix: str) -> re.Pattern:
    """Return what the names look like under which files and folders are written."""
    return re.compile(rf"\.{name}\.(\d+)\.tmp{suffix}")


def _no_room(error: Exception, path: Path) -> str:
    """Return which disk is full, or which limit is reached; an empty text for another error.

    NumPy and PyTorch do not hand on the number of the error: then the room that is left tells.
    """
    number = getattr(error, "errno", None)
    place = next(parent for parent in path.parents if parent.exists())
    free = shutil.disk_usage(place).free
    if number == errno.EFBIG:
        return "a file would be larger than the system allows this process (ulimit -f)"
    if number == errno.EDQUOT:
        reason = "the quota is used up"
    elif number == errno.ENOSPC or "No space left" in str(error) or free < 1 << 20:
        reason = "the disk is full"
    else:
        return ""
    disk = next(parent for parent in (place, *place.parents) if os.path.ismount(parent))
    return f"{reason}: {free / 1e6:.1f} MB are free on {disk}; expected room, or another place"


def _runs(process: int) -> bool:
    """Return whether another process of this number is running."""
    if process == os.getpid():
        return False
    with contextlib.suppress(PermissionError, OverflowError):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


#: hidden files that systems leave in folders, beside temporary ones of our own
LEFT = (".DS_Store", ".directory", ".nfs*", ".snakemake_timestamp")


def check_writable(out: str | Path, inputs: Iterable[str | Path] = ()) -> None:
    """Raise InputError unless a file or folder can be written that spares what it is made of.

    ``inputs`` are files and folders that are read: ``out`` must not be one of them, nor hold one,
    nor lie in one. Links are followed.
    """
    real = Path(os.path.realpath(out))
    for entry in inputs:
        other = Path(os.path.realpath(entry))
        if real == other:
            raise InputError(f"{out}: is read, and would be replaced; expected another place")
        if other.exists() and (real.is_relative_to(other) or other.is_relative_to(real)):
            how = "lies inside" if real.is_relative_to(other) else "holds"
            expected = "expected a place outside of what is read"
            raise InputError(f"{out}: {how} {entry}, which is read; {expected}")
    if real.exists() and not (real.is_file() or real.is_dir()):
        raise InputError(f"{out}: is a device or a pipe; expected a file or a folder")
    place = next(parent for parent in real.parents if os.path.lexists(parent))
    if not place.is_dir():
        raise InputError(f"{out}: {place} is a file; expected a folder to write to")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{out}: {place} may not be written to; expected another place")


def check_replaceable(
    folder: str | Path, known: Iterable[str], inputs: Iterable[str | Path] = ()
) -> None:
    """Raise InputError if a folder to be written holds files of other names than ``known``.

    ``known`` are patterns such as ``predictions*.csv``; of hidden files only those count as known
    that systems leave (``LEFT``). ``inputs`` are read: see ``check_writable``.
    """
    check_writable(folder, inputs)
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; expected a folder to write to")
    patterns, ours = tuple(known), _temporary(".*", r"(\..*)?")
    for entry in sorted(folder.iterdir()) if folder.exists() else []:
        kept = any(fnmatch.fnmatchcase(entry.name, p) for p in (*patterns, *LEFT))
        if not kept and not ours.fullmatch(entry.name):
            raise InputError(
                f"{folder}: found {entry.name!r}; expected an empty folder, or an earlier result "
                f"to replace ({', '.join(patterns)})"
            )


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON with sorted keys; NaN becomes null, for JSON knows no NaN."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(_plain(content), indent=2, sort_keys=True) + "\n")


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        value = value.tolist()
    if hasattr(value, "model_dump"):  # pydantic
        value = value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, Path):
        return str(value)
    return value


def files_below(folder: str | Path) -> list[Path]:
    """Return all files below a folder, sorted; also those behind links, each folder once."""
    found, seen = [], set()  # a link may lead back up
    for place, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(place))
        folders[:] = [
            name for name in sorted(folders) if os.path.realpath(f"{place}/{name}") not in seen
        ]
        found += [Path(place, name) for name in names]
    return sorted(file for file in found if file.is_file())


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object; InputError names the file if it holds none."""
    try:
        content = json.loads(Path(path).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: found {type(content).__name__}; expected a JSON object")
    return content


def config_hash(config: Any) -> str:
    """Return the sha256 of a configuration: a pydantic model, or the dictionary of its YAML."""
    return hashlib.sha256(json.dumps(_plain(config), sort_keys=True).encode()).hexdigest()


def check_outputs(path: str | Path, *names: str) -> None:
    """Raise InputError unless the files beside a sidecar are those that it was written with.

    Of a file whose hash the sidecar does not have, as of an earlier version, nothing is said.
    """
    written = _hashes(read_json(path).get("outputs"))
    for file in (Path(path).with_name(name) for name in names if name in written):
        if not file.is_file() or sha256(file) != written[file.name]:
            raise InputError(
                f"{file}: is not the file that {Path(path).name} beside it was written with; "
                "expected both of the same command (if you changed it and mean it, delete its hash "
                f"from outputs in {Path(path).name})"
            )


def images_of(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the images.npy that a sidecar names: by sha256, where each lay when it was read.

    Two artefacts are of the same images if they share one: of a dataset these are its own and
    those it was processed from, of features and fits those they were measured on.
    """
    found = {}
    for key in ("inputs", "made_of", "outputs"):
        for name, digest in _hashes(content.get(key)).items():
            if Path(name).name == "images.npy":
                found[digest] = name
    return found


def _hashes(entry: Any) -> dict[str, str]:
    return {k: str(v) for k, v in entry.items()} if isinstance(entry, dict) else {}


def sha256(path: str | Path) -> str:
    """Return the sha256 of a file, or of the names and contents of all files below a folder."""
    path = Path(path)
    if path.is_file() and (state := path.stat()).st_size > LARGE:
        return _hash_of_large(path.resolve(), state.st_size, state.st_mtime_ns, state.st_ino)
    return _sha256(path)


@functools.lru_cache
def _hash_of_large(path: Path, *state: int) -> str:
    """Return the sha256 of a file in this state: a process reads it once, whoever asks."""
    return _sha256(path)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for file in files_below(path) if path.is_dir() else [path]:
        if file != path:
            digest.update(f"{file.relative_to(path).as_posix()}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _git(*arguments: str) -> str | None:
    """Return what git says of the repository that this file lies in, None without one."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that results depend on."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)


def _shown(path: str | Path) -> str:
    """Return a path as seen from here; one elsewhere stays as it is."""
    path = Path(path)
    here = Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)


def sidecar(
    path: str | Path,
    *,
    rule: str,
    seed: int | None = None,
    config: Any = None,
    inputs: Iterable[str | Path] = (),
    outputs: Iterable[str | Path] = (),
    started: float | None = None,
    **more: Any,
) -> None:
    """Write what made an artefact to ``path`` (ends in .json): rule, commit, inputs, cost.

    ``rule`` names the step of the work, ``seed`` is that of its random numbers. ``config`` is a
    pydantic model or a dictionary; its hash is kept. ``inputs`` are files or folders, ``outputs``
    files beside the sidecar that it describes; their sha256 are kept. ``started`` is
    ``time.time()`` at the beginning of the work (default: of the process). ``more`` is written as
    it is. The commit is "dirty" if a file of the repository was changed that .gitattributes does
    not mark as generated.
    """
    dirty = _git("status", "--porcelain", "--untracked-files=no", "--", *WRITTEN)
    write_json(
        path,
        {
            "rule": rule,
            "commit": _git("rev-parse", "HEAD"),
            "dirty": None if dirty is None else bool(dirty),
            "config_sha256": None if config is None else config_hash(config),
            "inputs": {_shown(entry): sha256(entry) for entry in inputs},
            "outputs": {Path(entry).name: sha256(entry) for entry in outputs},
            "seed": seed,
            "versions": versions(),
            "seconds": round(time.time() - (started or _STARTED), 1),
            "peak_memory_mb": _peak_memory_mb(),
            **more,
        },
    )
