"""How DeepLense data sets lie in folders and archives: which file is which image of which class.

Class folders, perhaps below or above folders of published splits; or the four splits of
"ViT for Dark Matter Morphology", each a stack of images and a file of one-hot labels.
"""

from __future__ import annotations

import contextlib
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np

from vitdm.data import readers
from vitdm.data.dataset import check_classes
from vitdm.data.readers import Member, Picture
from vitdm.errors import InputError
from vitdm.simulation.classes import CLASSES, NO_SUB, SUB

SPLIT_ALIASES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "valid"),
    **dict.fromkeys(("opt", "optimisation", "optimization"), "opt"),
    **dict.fromkeys(("test", "testing"), "test"),
}
BESIDE = {"": "train", "_test": "test"}  # Model_I beside Model_I_test
STACK = re.compile(r"(?P<root>(?:.*/)?)images/X_(?P<split>train|valid|opt|test)\.npy")
LABELS = re.compile(r"(?P<root>(?:.*/)?)labels/y_(?P<split>train|valid|opt|test)\.npy")


class Entry(NamedTuple):
    """An image that a layout promises."""

    id: str
    kind: str  # class
    split: str  # as published; empty if it is not
    name: str  # of the file, with the number of the image if the file holds many


class Layout(NamedTuple):
    """The images of a folder or archive, and the number of files that are none of them."""

    entries: list[Entry]
    n_ignored: int


def class_of(folder: str) -> str | None:
    """Return the class that the name of a folder stands for, or None if it is unknown."""
    return aliases().get(_plain(folder))


def aliases() -> dict[str, str]:
    """Return the class that each known name of a folder stands for."""
    return {alias: known.name for known in CLASSES.values() for alias in known.aliases}


def find(path: Path, listed: Callable[[Iterator[Member]], Iterator[Member]] = iter) -> Layout:
    """Return what lies in a folder or archive; InputError if it is no layout known here.

    ``listed`` may wrap the iterator over its files, such as in a progress bar.
    """
    names, stacks, labels = [], {}, {}
    for member in listed(readers.members(path)):
        names.append(member.name)
        if match := STACK.fullmatch(member.name):
            stacks[match["root"], match["split"]] = (member.name, _length(member))
        elif match := LABELS.fullmatch(member.name):
            labels[match["root"], match["split"]] = (member.name, _labels(member))
    used = {name for name, _ in (*stacks.values(), *labels.values())}
    others = [name for name in names if name not in used]
    images = [name for name in others if readers.suffix_of(name)]
    hint = next((name for name in others if not readers.suffix_of(name)), "")
    hint = f" (files of another kind are ignored, such as {hint})" if hint else ""
    if not stacks:
        entries = _class_folders(path, images, hint)
        others = others[len(entries) :]
    elif images:
        stack = next(iter(stacks.values()))[0]
        raise InputError(f"{path}: found both {stack} and {images[0]}; expected one layout")
    else:
        entries = _stacked(path, stacks, labels)
    check_classes({entry.kind for entry in entries}, str(path), hint)
    return Layout(entries, len(others))


def pictures(path: Path) -> Iterator[tuple[str, Callable[[], Picture]]]:
    """Yield (name, function that reads it) of each image, in the order of the folder or archive.

    The function raises InputError if the image cannot be read.
    """
    for member in readers.members(path):
        if STACK.fullmatch(member.name):
            for i, pixels in enumerate(_images(member)):
                yield f"{member.name}[{i}]", lambda pixels=pixels: Picture(pixels)
        elif readers.suffix_of(member.name):
            yield member.name, lambda m=member: readers.read_picture(m.name, m.read())


def _plain(folder: str) -> str:
    return re.sub("[- ]", "_", folder.strip().lower())


# --------------------------------------------------------------------------------- class folders


def _class_folders(path: Path, names: list[str], hint: str) -> list[Entry]:
    images = [PurePosixPath(name).parts for name in names]
    if not images:
        raise InputError(f"{path}: found no image; expected {', '.join(readers.SUFFIXES)}{hint}")
    known, depth = ", ".join(aliases()), 0
    while True:  # through folders that only wrap the others
        example, images = images[0], [parts for parts in images if len(parts) > depth + 1]
        folders = sorted({parts[depth] for parts in images})
        if not folders:
            raise InputError(
                f"{path}: {'/'.join(example)} lies in no class folder; expected one of: {known}"
            )
        splits = {} if any(map(class_of, folders)) else _splits_of(folders)
        if len(folders) > 1 or splits or class_of(folders[0]):
            break
        depth += 1
    if strange := [name for name in folders if splits and name not in splits]:
        expected = "train, val, opt, test"
        raise InputError(f"{path}: unknown folder {strange[0]!r}; expected {expected}")
    level = depth + bool(splits)
    images = [parts for parts in images if len(parts) > level + 1]
    if strange := sorted({parts[level] for parts in images if class_of(parts[level]) is None}):
        listed = ", ".join(map(repr, strange[:10]))
        raise InputError(f"{path}: unknown class folder {listed}; expected one of: {known}")
    split_level = depth
    if not splits:  # they may lie within the class folders
        split_level = level + 1
        below = {parts[split_level] if len(parts) > split_level + 1 else "" for parts in images}
        splits = _splits_of(below)
        splits = splits if below == set(splits) else {}
    entries: dict[str, Entry] = {}
    for parts in images:
        name = "/".join(parts)
        if re.search("[\ud800-\udfff]", name):
            raise InputError(f"{path}: file name {name!r} is not UTF-8; rename the file")
        identity = "/".join(parts[depth:])[: -len(readers.suffix_of(name) or "")]
        if identity in entries:
            raise InputError(
                f"{path}: {entries[identity].name} and {name} would share the id {identity!r}; "
                "expected one file an image"
            )
        split = splits[parts[split_level]] if splits else ""
        entries[identity] = Entry(identity, class_of(parts[level]) or "", split, name)
    return list(entries.values())


def _splits_of(folders: set[str] | list[str]) -> dict[str, str]:
    """Return the published split that each folder stands for, as far as its name tells.

    ``Model_I`` beside ``Model_I_test`` is the training set.
    """
    splits = {
        name: SPLIT_ALIASES[_plain(name)] for name in folders if _plain(name) in SPLIT_ALIASES
    }
    for name in folders:
        if f"{name}_test" in folders:
            splits |= {name + ending: split for ending, split in BESIDE.items()}
    return splits


# ------------------------------------------------------------------- stacks with one-hot labels


def _stacked(path: Path, stacks: dict, labels: dict) -> list[Entry]:
    if len({root for root, _ in (*stacks, *labels)}) > 1:
        raise InputError(f"{path}: found several folders of images/X_*.npy; expected one")
    entries = []
    for key, (stack, n) in stacks.items():
        if key not in labels:
            raise InputError(f"{path}: {stack} has no labels; expected labels/y_{key[1]}.npy")
        name, kinds = labels[key]
        if len(kinds) != n:
            raise InputError(f"{path}: {name}: found {len(kinds)} labels; expected {n} as {stack}")
        entries += [
            Entry(f"{key[1]}/{i:06d}", kind, key[1], f"{stack}[{i}]")
            for i, kind in enumerate(kinds)
        ]
    return entries


@contextlib.contextmanager
def _opened(member: Member, key: str) -> Iterator[tuple[tuple[int, ...], np.dtype, BinaryIO]]:
    """Yield shape, type and the stream of values of a .npy file, or of ``key`` in an .npz one.

    Nothing is read but the header. What goes wrong then and later is an InputError.
    """
    try:
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(member.open())
            zipped = stream.read(2) == b"PK"
            stream.seek(0)
            if zipped:
                archive = stack.enter_context(zipfile.ZipFile(stream))
                if f"{key}.npy" not in archive.namelist():
                    found = ", ".join(archive.namelist())
                    raise ValueError(f"is an npz archive of {found}; expected {key}.npy")
                stream = stack.enter_context(archive.open(f"{key}.npy"))
            shape, dtype, fortran = readers.npy_header(stream)
            if dtype.kind not in "biuf" or (fortran and len(shape) > 1):
                raise ValueError(f"found {dtype} in Fortran order; expected numbers in C order")
            yield shape, dtype, stream
    except InputError:
        raise
    except readers.UNREADABLE as error:
        raise InputError(f"{member.name}: {readers.reason_of(error)}") from error


def _length(member: Member) -> int:
    with _opened(member, "data") as (shape, _, _):
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"found an array of shape {shape}; expected (n, H, W)")
        return shape[0]


def _images(member: Member) -> Iterator[np.ndarray]:
    with _opened(member, "data") as (shape, dtype, stream):
        n, (height, width) = shape[0], shape[1:]
        for i in range(n):
            content = stream.read(height * width * dtype.itemsize)
            if len(content) < height * width * dtype.itemsize:
                raise ValueError(f"is truncated at image {i} of {n}")
            yield np.frombuffer(content, dtype).reshape(height, width).astype(np.float32)


def _labels(member: Member) -> list[str]:
    with _opened(member, "label") as (shape, dtype, stream):
        if len(shape) != 2 or shape[1] != 2:
            raise ValueError(f"found an array of shape {shape}; expected (n, 2), one-hot")
        values = np.frombuffer(stream.read(), dtype).reshape(shape)
    wrong = np.flatnonzero(~((values == [1, 0]) | (values == [0, 1])).all(axis=1))
    if len(wrong):
        found = values[wrong[0]].tolist()
        raise InputError(
            f"{member.name}[{wrong[0]}]: found {found}; "
            f"expected [1, 0] ({NO_SUB}) or [0, 1] ({SUB})"
        )
    return np.where(values[:, 0] == 1, NO_SUB, SUB).tolist()
