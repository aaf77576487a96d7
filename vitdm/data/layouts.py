"""How data sets lie in folders and archives: which file is which image of which class.

Class folders, perhaps below or above folders of published splits; images that a table of labels
names; or arrays of many images with an array of labels: one ``.npz`` file, or the four splits of
"ViT for Dark Matter Morphology", each a stack of images and a file of labels.
"""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np
import pandas as pd

from vitdm.data import readers
from vitdm.data.dataset import CONTROL, check_classes
from vitdm.data.readers import Member, Picture
from vitdm.errors import InputError
from vitdm.simulation.classes import CLASSES, NO_SUB, SUB, declare

SPLIT_WORDS = {
    "train": "train|training",
    "valid": "val|valid|validation|dev|development",
    "opt": "opt|optimisation|optimization",
    "test": "test|testing|heldout|holdout",
}
FILLERS = "(?:data|dataset|set|split|images?|imgs?|lenses|x|y|labels?)*"
BESIDE = {"": "train", "_test": "test"}  # Model_I beside Model_I_test
_SPLIT = r"(?P<split>train|valid|val|opt|test)\.npy"
STACK = re.compile(rf"(?P<root>(?:[^/]+/)*?)(?:images/)?X_{_SPLIT}", re.IGNORECASE)
LABELS = re.compile(rf"(?P<root>(?:[^/]+/)*?)(?:labels/)?y_{_SPLIT}", re.IGNORECASE)
#: what arrays are called in an .npz file, beside the name of their split
IMAGE_KEYS = ("images", "image", "imgs", "data", "x")
LABEL_KEYS = ("labels", "label", "targets", "target", "classes", "class", "y")
TABLES = (".csv", ".tsv")
#: columns of a table of labels; of several the first
COLUMNS = {
    "file": ("file", "filename", "file_name", "image", "image_name", "image_file", "path", "name")
    + ("img", "image_path", "image_id", "id"),
    "class": ("class", "class_name", "label", "label_name", "labels", "target", "category", "type"),
    "split": ("split", "subset", "set", "partition"),
}


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


class Stack(NamedTuple):
    """An array of images, or of labels: the file, the array in it, and its length or its values.

    ``n_columns`` is that of one-hot labels, 0 for others.
    """

    member: str
    key: str
    content: int | list[str]
    n_columns: int = 0

    @property
    def name(self) -> str:
        return f"{self.member}/{self.key}" if self.member.lower().endswith(".npz") else self.member


# --------------------------------------------------------------------------- classes and splits


def aliases(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the class that each known name of a folder, or label, stands for.

    ``given`` are further names and their classes. A class that the library does not know is one of
    somebody's own if ``given`` names it after itself (``wdm: wdm``); InputError for any other.
    """
    given = {str(name): str(kind) for name, kind in (given or {}).items()}
    declare(name for name, kind in given.items() if name == kind and name not in CLASSES)
    known = {
        alias: entry.name
        for entry in CLASSES.values()
        for alias in entry.aliases
        if not entry.declared or entry.name in given
    }
    for name, kind in given.items():
        kind = known.get(_plain(kind), kind)
        if kind not in CLASSES:
            expected = f"one of: {', '.join(CLASSES)}; or {kind}: {kind}, a class of your own"
            raise InputError(f"ingest.classes: {name}: found {kind!r}; expected {expected}")
        known[_plain(name)] = kind
    return known


def class_of(folder: str, known: Mapping[str, str] | None = None) -> str | None:
    """Return the class that the name of a folder stands for, or None if it is unknown."""
    return (aliases() if known is None else known).get(_plain(folder))


def split_of(name: str) -> str | None:
    """Return the split that a name stands for: Train, TRAINING, val, dev, test_set, train-data, …

    None if it stands for none.
    """
    letters = re.sub("[-_. ]", "", name.lower())
    for split, words in SPLIT_WORDS.items():
        if re.fullmatch(f"{FILLERS}(?:{words}){FILLERS}", letters):
            return split
    return None


def _plain(folder: str) -> str:
    return re.sub("[- ]", "_", folder.strip().lower())


def find(
    path: Path,
    classes: Mapping[str, str] | None = None,
    labels: Path | None = None,
    listed: Callable[[Iterator[Member]], Iterator[Member]] = iter,
) -> Layout:
    """Return what lies in a folder or archive; InputError if it is no layout known here.

    ``classes`` are names of classes besides the library's (``aliases``), ``labels`` is a table
    (CSV, TSV) of files and classes. ``listed`` may wrap the iterator over the files, such as in a
    progress bar.
    """
    known, names = aliases(classes), []
    stacks, kinds, tables = {}, {}, {}
    for member in listed(_members(path)):
        names.append(member.name)
        if match := STACK.fullmatch(member.name):
            stacks[match["root"], split_of(match["split"])] = _stack(member, "data")
        elif match := LABELS.fullmatch(member.name):
            kinds[match["root"], split_of(match["split"])] = _labels(member, "label")
        elif member.name.lower().endswith(".npz"):
            for split, (images, key) in _pairs(member, path.name == member.name).items():
                stacks[member.name, split] = _stack(member, images)
                kinds[member.name, split] = _labels(member, key)
        elif member.name.lower().endswith(TABLES) and labels is None:
            tables[member.name] = _table(member.name, member.read())
    if labels is not None:
        tables = {"": _table(str(labels), _content(labels), required=True)}
    tables = {name: table for name, table in tables.items() if table is not None}
    used = {stack.member for stack in (*stacks.values(), *kinds.values())}
    others = [name for name in names if name not in used]
    images = [name for name in others if readers.suffix_of(name)]
    for name in images:
        if CONTROL.search(name):
            raise InputError(
                f"{path}: file name {name!r} is not UTF-8, or has a line break; rename the file"
            )
    hint = next((name for name in others if not readers.suffix_of(name)), "")
    hint = f" (files of another kind are ignored, such as {hint})" if hint else ""
    if stacks and images:
        stack = next(iter(stacks.values())).member
        raise InputError(f"{path}: found both {stack} and {images[0]}; expected one layout")
    if stacks:
        entries = _stacked(path, stacks, kinds, known)
    elif labels or (tables and not all(_in_class_folder(name, known) for name in images)):
        entries = _listed(path, images, tables, known)
        others = [name for name in others if name not in tables]
    else:
        entries = _class_folders(path, images, hint, known)
    check_classes({entry.kind for entry in entries}, str(path), hint)
    return Layout(entries, len(others) - len(entries) * (not stacks))


def pictures(path: Path) -> Iterator[tuple[str, Callable[[], Picture]]]:
    """Yield (name, function that reads it) of each image, in the order of the folder or archive.

    The function raises InputError if the image cannot be read.
    """
    for member in _members(path):
        keys = [("data", member.name)] if STACK.fullmatch(member.name) else []
        if member.name.lower().endswith(".npz"):
            pairs = _pairs(member, False).values()
            keys = [(images, f"{member.name}/{images}") for images, _ in pairs]
        for key, name in keys:
            for i, pixels in enumerate(_images(member, key)):
                yield f"{name}[{i}]", lambda pixels=pixels: Picture(pixels)
        if not keys and readers.suffix_of(member.name):
            yield member.name, lambda m=member: readers.read_picture(m.name, m.read())


def _members(path: Path) -> Iterator[Member]:
    """Yield the files in a folder or archive; an .npz file is its own only one."""
    if path.is_file() and path.suffix.lower() == ".npz":
        yield Member(path.name, partial(open, path, "rb"))
    else:
        yield from readers.members(path)


def _entries(
    path: Path, images: Iterable[tuple[str, ...]], depth: int, told: Callable[[tuple], tuple]
) -> list[Entry]:
    """Return the images of some files, given as parts of their paths.

    ``told`` returns class and split of one; ids begin after ``depth`` parts.
    """
    entries: dict[str, Entry] = {}
    for parts in images:
        name = "/".join(parts)
        identity = "/".join(parts[depth:])[: -len(readers.suffix_of(name) or "")]
        if identity in entries:
            raise InputError(
                f"{path}: {entries[identity].name} and {name} would share the id {identity!r}; "
                "expected one file an image"
            )
        entries[identity] = Entry(identity, *told(parts), name)
    return list(entries.values())


# --------------------------------------------------------------------------------- class folders


def _in_class_folder(name: str, known: Mapping[str, str]) -> bool:
    return any(class_of(part, known) for part in PurePosixPath(name).parts[:-1])


def _class_folders(
    path: Path, names: list[str], hint: str, known: Mapping[str, str]
) -> list[Entry]:
    images = [PurePosixPath(name).parts for name in names]
    if not images:
        raise InputError(f"{path}: found no image; expected {', '.join(readers.SUFFIXES)}{hint}")
    expected = f"one of: {', '.join(known)}; --class FOLDER=CLASS gives a class to another name"
    depth = 0
    while True:  # through folders that only wrap the others
        example, images = images[0], [parts for parts in images if len(parts) > depth + 1]
        folders = sorted({parts[depth] for parts in images})
        if not folders:
            raise InputError(
                f"{path}: {'/'.join(example)} lies in no class folder; expected {expected}; "
                "or a table (CSV) with columns file and class"
            )
        splits = {} if any(class_of(name, known) for name in folders) else _splits_of(folders)
        if len(folders) > 1 or splits or class_of(folders[0], known):
            break
        depth += 1
    if strange := [name for name in folders if splits and name not in splits]:
        raise InputError(f"{path}: unknown folder {strange[0]!r}; expected train, val, opt, test")
    level = depth + bool(splits)
    images = [parts for parts in images if len(parts) > level + 1]
    if strange := sorted(
        {parts[level] for parts in images if class_of(parts[level], known) is None}
    ):
        found = ", ".join(map(repr, strange[:10]))
        raise InputError(f"{path}: unknown class folder {found}; expected {expected}")
    split_level = depth
    if not splits:  # they may lie within the class folders
        split_level = level + 1
        below = {parts[split_level] if len(parts) > split_level + 1 else "" for parts in images}
        splits = _splits_of(below)
        splits = splits if below == set(splits) else {}

    def told(parts: tuple[str, ...]) -> tuple[str, str]:
        return class_of(parts[level], known) or "", splits[parts[split_level]] if splits else ""

    return _entries(path, images, depth, told)


def _splits_of(folders: set[str] | list[str]) -> dict[str, str]:
    """Return the published split that each folder stands for, as far as its name tells.

    ``Model_I`` beside ``Model_I_test`` is the training set.
    """
    splits = {name: split for name in folders if (split := split_of(name))}
    for name in folders:
        if f"{name}_test" in folders:
            splits |= {name + ending: split for ending, split in BESIDE.items()}
    return splits


# ------------------------------------------------------------------------------ tables of labels


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _table(name: str, content: bytes, required: bool = False) -> pd.DataFrame | None:
    """Return the columns file, class and split of a table, all text; None if it has no labels."""
    try:
        table = pd.read_csv(
            io.BytesIO(content),
            sep="\t" if name.lower().endswith(".tsv") else ",",
            dtype=str,
            keep_default_na=False,
            index_col=False,
            skipinitialspace=True,
            encoding="utf-8-sig",
        )
    except (ValueError, OverflowError) as error:  # pandas' parser errors are ValueErrors
        if required:
            raise InputError(f"{name}: cannot be read as a table: {error}") from error
        return None
    have = {column.strip().lower(): column for column in table.columns}
    columns = {
        key: have[column]
        for key, choices in COLUMNS.items()
        for column in choices[::-1]
        if column in have
    }
    if required and not {"file", "class"} <= set(columns):
        raise InputError(f"{name}: found columns {', '.join(table)}; expected 'file' and 'class'")
    if not {"file", "class"} <= set(columns):
        return None
    return pd.DataFrame({key: table[column].str.strip() for key, column in columns.items()})


def _listed(
    path: Path, names: list[str], tables: dict[str, pd.DataFrame], known: Mapping[str, str]
) -> list[Entry]:
    """Return the images that tables name: each with a class, and with a split if all have one."""
    if not names:
        raise InputError(f"{path}: found no image; expected {', '.join(readers.SUFFIXES)}")
    ends: dict[str, list[str]] = defaultdict(list)  # the images by all ends of their paths
    for name in names:
        for end in _ends(name):
            ends[end].append(name)
            ends[end[: -len(readers.suffix_of(name) or "")]].append(name)
    told: dict[str, tuple[str, str]] = {}
    for source, table in tables.items():
        for row in table.to_dict("records"):
            name = _named(row["file"], source, ends, f"{path}: {source or 'the table of labels'}")
            if (kind := known.get(_plain(row["class"]))) is None:
                raise InputError(
                    f"{path}: {name}: found class {row['class']!r}; expected one of: "
                    f"{', '.join(known)}; --class {row['class']}=CLASS gives it a class"
                )
            entry = kind, _split_in(path, name, row.get("split"), source)
            if told.setdefault(name, entry) != entry:
                raise InputError(f"{path}: {name} stands twice in tables, as different things")
    if absent := [name for name in names if name not in told]:
        raise InputError(
            f"{path}: {len(absent)} of {len(names)} images stand in no table of labels, such as "
            f"{absent[0]}; expected a row for each"
        )
    splits = {split for _, split in told.values()}
    if "" in splits and len(splits) > 1:
        name = next(name for name, (_, split) in told.items() if not split)
        raise InputError(f"{path}: {name} has no split, others have; expected all or none")
    images = [PurePosixPath(name).parts for name in names]
    depth, folders = 0, [parts[:-1] for parts in images]
    while len({parts[: depth + 1] for parts in folders}) == 1 and len(folders[0]) > depth:
        depth += 1
    return _entries(path, images, depth, lambda parts: told["/".join(parts)])


def _ends(name: str) -> list[str]:
    """Return the ends of a path, the longest first: a/b/c, b/c, c."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return ["/".join(parts[k:]) for k in range(len(parts))]


def _named(file: str, source: str, ends: Mapping[str, list[str]], where: str) -> str:
    """Return the image that a table in a folder or archive names."""
    beside = str(PurePosixPath(source).parent / file)
    found = next((set(ends[end]) for end in (*_ends(beside), *_ends(file)) if end in ends), set())
    if len(found) != 1:
        problem = f"{len(found)} images of that name" if found else "no such image"
        raise InputError(f"{where}: {file!r}: found {problem}; expected the path of one")
    return found.pop()


def _split_in(path: Path, name: str, told: str | None, source: str) -> str:
    """Return the split of an image: of its row, of the name of its table, or of its folders."""
    if told:
        if (split := split_of(told)) is None:
            raise InputError(
                f"{path}: {name}: found split {told!r}; expected train, val, opt, test"
            )
        return split
    above = (PurePosixPath(source).stem, *PurePosixPath(name).parts[-2::-1])
    return next((split for part in above if (split := split_of(part))), "")


# ------------------------------------------------------------------------- arrays of many images


def _pairs(member: Member, required: bool) -> dict[str, tuple[str, str]]:
    """Return the arrays of images and of labels in an .npz file by their split; "" without one."""
    try:
        with member.open() as stream, zipfile.ZipFile(stream) as archive:
            keys = [name.removesuffix(".npy") for name in archive.namelist()]
    except Exception as error:  # whatever a damaged file makes of it
        if not required:
            return {}
        raise InputError(f"{member.name}: {readers.reason_of(error)}") from error
    found: dict[str, dict[str, str]] = {"images": {}, "labels": {}}
    for key in keys:
        words = [word for word in re.split("[-_. ]", key.lower()) if word]
        for what, known in (("images", IMAGE_KEYS), ("labels", LABEL_KEYS)):
            rest = [word for word in words if word not in known]
            split = split_of("".join(rest)) if rest else ""
            if len(rest) < len(words) and split is not None:
                found[what].setdefault(split, key)
    pairs = {
        split: (key, found["labels"][split])
        for split, key in found["images"].items()
        if split in found["labels"]
    }
    if required and not pairs:
        raise InputError(
            f"{member.name}: found arrays {', '.join(keys)}; expected images and labels, or such "
            "of each split: X_train, y_train, …"
        )
    return pairs


def _stacked(path: Path, stacks: dict, labels: dict, known: Mapping[str, str]) -> list[Entry]:
    if len({root for root, _ in (*stacks, *labels)}) > 1:
        raise InputError(f"{path}: found several folders of images/X_*.npy; expected one")
    entries = []
    for key, stack in stacks.items():
        if key not in labels:
            raise InputError(f"{path}: {stack.name} has no labels; expected labels/y_{key[1]}.npy")
        found, n = labels[key], stack.content
        if len(found.content) != n:
            raise InputError(
                f"{path}: {found.name}: found {len(found.content)} labels; expected {n} as "
                f"{stack.name}"
            )
        names = {"0": NO_SUB, "1": SUB} | known if found.n_columns == 2 else known
        prefix = f"{key[1]}/" if key[1] else ""
        for i, label in enumerate(found.content):
            if (kind := names.get(_plain(label))) is None:
                raise InputError(
                    f"{path}: {found.name}[{i}]: found label {label!r}; expected one of: "
                    f"{', '.join(names)}; --class {label}=CLASS gives it a class"
                )
            entries.append(Entry(f"{prefix}{i:06d}", kind, key[1], f"{stack.name}[{i}]"))
    return entries


@contextlib.contextmanager
def _opened(
    member: Member, key: str, kinds: str = "biuf"
) -> Iterator[tuple[tuple[int, ...], np.dtype, BinaryIO]]:
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
            if dtype.kind not in kinds or (fortran and len(shape) > 1):
                order = "Fortran" if fortran else "C"
                raise ValueError(f"found {dtype} in {order} order; expected numbers in C order")
            yield shape, dtype, stream
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes of it
        raise InputError(f"{member.name}: {readers.reason_of(error)}") from error


def _stack(member: Member, key: str) -> Stack:
    with _opened(member, key) as (shape, _, _):
        if len(_flat(shape)) != 3 or min(shape) < 1:
            raise ValueError(f"found an array of shape {shape}; expected (n, H, W)")
        return Stack(member.name, key, shape[0])


def _flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return (n, H, W) of (n, 1, H, W) and (n, H, W, 1)."""
    if len(shape) == 4 and 1 in (shape[1], shape[3]):
        return (shape[0], *(shape[2:] if shape[1] == 1 else shape[1:3]))
    return shape


def _images(member: Member, key: str) -> Iterator[np.ndarray]:
    with _opened(member, key) as (shape, dtype, stream):
        n, height, width = _flat(shape)
        for i in range(n):
            content = stream.read(height * width * dtype.itemsize)
            if len(content) < height * width * dtype.itemsize:
                raise ValueError(f"is truncated at image {i} of {n}")
            yield np.frombuffer(content, dtype).reshape(height, width).astype(np.float32)


def _labels(member: Member, key: str) -> Stack:
    """Return the labels of an array as text: (n,) or (n, 1) numbers or words, or (n, K) one-hot."""
    with _opened(member, key, "biufUS") as (shape, dtype, stream):
        one_hot = len(shape) == 2 and shape[1] > 1
        if not (one_hot or shape[1:] in ((), (1,))) or not shape:
            raise ValueError(f"found an array of shape {shape}; expected (n,), or (n, K) one-hot")
        values = np.frombuffer(stream.read(), dtype).reshape(shape)
        if one_hot and dtype.kind in "US":
            raise ValueError(f"found text of shape {shape}; expected (n,)")
    if not one_hot:
        return Stack(member.name, key, [_label(value) for value in values.ravel().tolist()])
    hot = np.isin(values, (0, 1)).all(axis=1) & (values.sum(axis=1) == 1)
    if len(wrong := np.flatnonzero(~hot)):
        found = values[wrong[0]].tolist()
        expected = f"[1, 0] ({NO_SUB}) or [0, 1] ({SUB})" if shape[1] == 2 else "one 1, else 0"
        raise InputError(f"{member.name}[{wrong[0]}]: found {found}; expected {expected}")
    return Stack(member.name, key, [str(k) for k in values.argmax(axis=1)], shape[1])


def _label(value: bool | int | float | str | bytes) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (bool, float)) and float(value).is_integer():
        return str(int(value))
    return str(value)
