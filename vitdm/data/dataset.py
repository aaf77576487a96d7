"""Images and their catalog: the dataset on disk.

A dataset is a folder with ``images.npy`` (n, H, W) float32, ``catalog.csv`` with one row an image
(``id, class, split, source`` and any truth) and ``dataset.json``, which tells where it came from.
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from vitdm import provenance
from vitdm.config import SPLITS
from vitdm.errors import InputError
from vitdm.simulation.classes import CLASSES, NAME, NO_SUB, SUB, declare

DATASET_FILES = ("images.npy", "catalog.csv", "dataset.json")
REPORTS = ("skipped.csv", "duplicates.csv")  # of images in files: what was left out, what is twice
COLUMNS = ("id", "class", "split", "source")
CONTROL = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")  # no text on one line
BLOCK = 64  # images copied at a time
#: what dataset.json tells of one making; the rest of it is true of the images wherever they go
MAKING = ("rule", "commit", "dirty", "inputs", "outputs", "versions", "seconds", "peak_memory_mb")
MAKING += ("n", "shape", "classes")


# ------------------------------------------------------------------------------ dataset on disk


@dataclass(frozen=True)
class Dataset:
    """A dataset on disk: ``images`` (n, H, W) float32, mapped from file, and its ``catalog``."""

    folder: Path
    images: np.ndarray
    catalog: pd.DataFrame

    @classmethod
    def open(cls, folder: str | Path) -> Dataset:
        """Open a dataset; InputError names what is missing or does not match."""
        folder = Path(folder)
        missing = [name for name in DATASET_FILES if not (folder / name).is_file()]
        if missing:
            raise InputError(f"{folder}: no dataset: {', '.join(missing)} missing")
        images, catalog = _load(folder)
        _check_catalog(catalog, folder / "catalog.csv")
        unknown = sorted(set(catalog["split"]) - set(SPLITS))
        if unknown:
            raise InputError(
                f"{folder / 'catalog.csv'}: split: found {unknown[0]!r}; "
                f"expected {', '.join(SPLITS)}"
            )
        provenance.check_outputs(folder / "dataset.json", "catalog.csv")
        return cls(folder, images, catalog)

    def check_same_images(self, path: str | Path, sidecar: str | Path) -> None:
        """Raise InputError if what lies at ``path`` was, by its sidecar, made of other images.

        Compared is the sha256 of ``images.npy``, wherever the folders lie now; that of the images
        themselves is in ``dataset.json``, and computed only for a dataset of an earlier version.
        """
        others, own = provenance.images_of(provenance.read_json(sidecar)), self._sidecar()
        if not others:
            return
        if not own.get("outputs"):
            own["outputs"] = {"images.npy": provenance.sha256(self.folder / "images.npy")}
        known = provenance.images_of(own)
        if not others.keys() & known.keys():
            raise InputError(
                f"{path}: belongs to another dataset: it was made of {_named(others)}; expected "
                f"one of {self.folder}, that is of {_named(known)}"
            )

    def _sidecar(self) -> dict[str, Any]:
        return provenance.read_json(self.folder / DATASET_FILES[2])

    def blocks(self, size: int = BLOCK) -> Iterator[np.ndarray]:
        """Yield all images in their order, (k, H, W) at a time, k at most ``size``.

        They are read, not mapped: what is touched of a mapped file stays in memory.
        """
        return _blocks(self.images, size)

    def rows(self, *splits: str) -> np.ndarray:
        """Return the row numbers of some splits, or of all images if none is named.

        Raises InputError if a named split does not hold both images with and without substructure.
        """
        if not splits:
            return np.arange(len(self.catalog))
        for split in splits:
            if split not in SPLITS:
                raise InputError(f"split: found {split!r}; expected {', '.join(SPLITS)}")
            classes = set(self.catalog["class"][self.catalog["split"] == split])
            check_classes(classes, f"{self.folder}: split {split!r}")
        return np.flatnonzero(self.catalog["split"].isin(splits))

    @property
    def pixel_scale(self) -> float | None:
        """The arcsec of a raw pixel's side; None if unknown, or if all were resized."""
        return self._sidecar().get("pixel_scale")

    def check_raw(self, raw: bool = True) -> None:
        """Raise InputError unless the images are as they were taken, or else processed."""
        processed = "roi_found" in self.catalog
        if raw and processed:
            raise InputError(
                f"{self.folder}: holds processed images; expected those they were made of"
            )
        if not (raw or processed):
            raise InputError(
                f"{self.folder}: holds raw images; expected processed ones: run vitdm preprocess"
            )

    def labels(self, task: str) -> tuple[np.ndarray, list[str]]:
        """Return the label (n,) of every image and the names of the classes that labels number.

        ``multiclass``: the classes present, in the order of CLASSES. ``binary``: 0 is no_sub, 1 is
        any substructure. Raises InputError unless there are images of both kinds.
        """
        classes = self.catalog["class"]
        check_classes(set(classes), str(self.folder))
        if task == "binary":
            return (classes != NO_SUB).to_numpy().astype(np.int64), [NO_SUB, SUB]
        if task != "multiclass":
            raise InputError(f"task: found {task!r}; expected 'multiclass' or 'binary'")
        names = [name for name in CLASSES if name in set(classes)]
        return classes.map(names.index).to_numpy().astype(np.int64), names


def read_catalog(path: str | Path, raw: bool = False) -> pd.DataFrame:
    """Read a table of images; ids and names stay text ('00012', 'NA'), numbers stay exact.

    ``raw`` leaves every column as the text it is.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            if raw:
                return pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
            numbers = set(pd.read_csv(path, nrows=0, index_col=False)) - set(COLUMNS)
            return pd.read_csv(
                path,
                dtype=dict.fromkeys(COLUMNS, str),
                keep_default_na=False,
                na_values=dict.fromkeys(numbers, ["", "nan", "NaN"]),
                float_precision="round_trip",
                index_col=False,
            )
    # pandas' parser errors are ValueErrors
    except (OSError, ValueError, OverflowError, pd.errors.ParserWarning) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as a table: {reason}") from error


def read_features(path: str | Path, data: Dataset) -> pd.DataFrame:
    """Return the features of the images of a dataset, by their id and in their order.

    A value that does not exist is NaN. InputError if the table lacks images, holds an infinite
    value, or was by its sidecar (of the same name, .json) measured on other images. A table of your
    own has no sidecar.
    """
    table, ids = read_catalog(path), data.catalog["id"]
    sidecar = Path(path).with_suffix(".json")
    if sidecar.is_file():
        data.check_same_images(path, sidecar)
        provenance.check_outputs(sidecar, Path(path).name)
    if "id" not in table:
        raise InputError(f"{path}: found columns {', '.join(table)}; expected id and the features")
    table = table.set_index("id")
    text = table.select_dtypes(exclude="number").columns
    if len(text):
        raise InputError(f"{path}: {text[0]}: found text; expected numbers")
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()][0]
        raise InputError(f"{path}: id {twice!r} occurs twice; expected one row an image")
    absent = ids[~ids.isin(table.index)]
    if len(absent):
        raise InputError(f"{path}: no features of {len(absent)} images, such as {absent.iloc[0]!r}")
    table = table.loc[ids]
    if len(places := np.argwhere(np.isinf(table.to_numpy(float)))):
        row, column = places[0]
        raise InputError(
            f"{path}: {table.columns[column]}: found an infinite value for id "
            f"{table.index[row]!r}; expected a number, or an empty cell where there is none"
        )
    return table


def write(
    folder: str | Path,
    images: np.ndarray | Iterable[np.ndarray],
    catalog: pd.DataFrame,
    inputs: Sequence[str | Path] = (),
    **sidecar: Any,
) -> None:
    """Write a dataset, whole or not at all, and its sidecar ``dataset.json``.

    ``images`` are (n, H, W), or chunks (k, H, W) in the catalog's order, of which only one is in
    memory at a time. ``inputs``, the files they are made of, and ``sidecar`` go to
    ``provenance.sidecar`` (``rule``, ``seed``, …), with anything else worth keeping, such as
    ``pixel_scale`` ["]. Raises InputError if the images do not match the catalog, or as ``new``.
    """
    chunks = [images] if isinstance(images, np.ndarray) else images
    with new(folder, len(catalog), inputs) as target:
        for chunk in chunks:
            target.put(target.filled, chunk)
        target.finish(catalog, inputs=inputs, **sidecar)


def merge_shards(shards: Sequence[str | Path], out: str | Path, **sidecar: Any) -> None:
    """Join datasets into one, sorted by id; neither pixels nor the catalog's text change.

    What all the sidecars say alike of the images, such as ``pixel_scale``, is kept. Raises
    InputError on different sizes or scales of the pixels, different columns or an id that occurs
    twice.
    """
    parts = [(*_load(Path(shard), raw=True), Path(shard)) for shard in shards]
    if not parts:
        raise InputError(f"{out}: nothing to merge; expected at least one folder")
    first, columns, origin = parts[0]
    for images, catalog, shard in parts[1:]:
        if images.shape[1:] != first.shape[1:]:
            raise InputError(
                f"{shard}: found images of {size_text(images.shape[1:])}; "
                f"expected {size_text(first.shape[1:])} as in {origin}"
            )
        if list(catalog) != list(columns):
            differing = ", ".join(sorted(set(catalog) ^ set(columns))) or "another order"
            raise InputError(f"{shard}: columns differ from those of {origin}: {differing}")
    common = _common([shard for _, _, shard in parts])
    catalog = pd.concat([catalog for _, catalog, _ in parts], ignore_index=True)
    order = np.argsort(catalog["id"].to_numpy(dtype=str), kind="stable")
    position = np.empty(len(order), int)
    position[order] = np.arange(len(order))
    with new(out, len(catalog), [shard for _, _, shard in parts]) as target:
        for images, _, _ in parts:
            for block in _blocks(images, BLOCK):
                target.put(position[target.filled : target.filled + len(block)], block)
        target.finish(catalog.iloc[order], **{"rule": "merge", **common, **sidecar})


def _common(shards: list[Path]) -> dict[str, Any]:
    """Return what the sidecars of datasets say alike of their images."""
    first, *others = [provenance.read_json(shard / DATASET_FILES[2]) for shard in shards]
    for shard, other in zip(shards[1:], others, strict=True):
        if other.get("pixel_scale") != first.get("pixel_scale"):
            raise InputError(
                f"{shard / DATASET_FILES[2]}: pixel_scale: found {other.get('pixel_scale')}; "
                f"expected {first.get('pixel_scale')} as in {shards[0]}"
            )
    return {
        key: value
        for key, value in first.items()
        if key not in MAKING and all(other.get(key) == value for other in others)
    }


def _named(images: dict[str, str]) -> str:
    """Return files of images and the beginnings of their sha256, in words."""
    return " and ".join(f"{name} (sha256 {digest[:8]}…)" for digest, name in images.items())


def size_text(shape: Sequence[int]) -> str:
    """Return the size of an image in words."""
    return " x ".join(map(str, shape)) + " pixels"


def _blocks(images: np.memmap, size: int) -> Iterator[np.ndarray]:
    """Yield blocks of a whole array mapped from a file, read from that file."""
    row, in_order = int(np.prod(images.shape[1:])), images.flags.c_contiguous
    for start in range(0, len(images), size):
        count, offset = min(size, len(images) - start), images.offset + 4 * row * start
        if not in_order:  # Fortran's: an image lies all over the file
            yield np.array(images[start : start + size], order="C")
            continue
        block = np.fromfile(images.filename, np.float32, count * row, offset=offset)
        yield block.reshape(count, *images.shape[1:])


def _load(folder: Path, raw: bool = False) -> tuple[np.ndarray, pd.DataFrame]:
    """Open images and catalog, which must match; ``raw`` leaves every column as its text."""
    path = folder / "images.npy"
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy parses the header as if it were Python
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as an array: {reason:.200}") from error
    if getattr(images, "ndim", 0) != 3 or images.dtype != np.float32:
        found = f"{getattr(images, 'shape', '')} {getattr(images, 'dtype', 'an npz archive')}"
        raise InputError(f"{path}: found {found}; expected (n, H, W) float32")
    catalog = read_catalog(folder / "catalog.csv", raw)
    # classes of somebody's own are known from here alone
    classes = provenance.read_json(folder / DATASET_FILES[2]).get("classes")
    declare(filter(NAME.fullmatch, classes if isinstance(classes, dict) else ()))
    if len(catalog) != len(images):
        raise InputError(
            f"{folder / 'catalog.csv'}: found {len(catalog)} rows; "
            f"expected {len(images)}, one for each image in images.npy"
        )
    return images, catalog


def _check_catalog(catalog: pd.DataFrame, where: str | Path) -> None:
    missing = [column for column in COLUMNS if column not in catalog]
    if missing:
        raise InputError(f"{where}: columns missing: {', '.join(missing)}")
    for column in COLUMNS:
        if len(odd := catalog[column][catalog[column].astype(str).str.contains(CONTROL)]):
            raise InputError(f"{where}: {column}: found {odd.iloc[0]!r}; expected no line breaks")
    twice = catalog["id"][catalog["id"].duplicated()]
    if len(twice):
        raise InputError(f"{where}: id {twice.iloc[0]!r} occurs twice; expected one row an image")
    unknown = sorted(set(catalog["class"]) - set(CLASSES))
    if unknown:
        raise InputError(f"{where}: class: found {unknown[0]!r}; expected {', '.join(CLASSES)}")


def check_classes(classes: set[str], where: str, hint: str = "") -> None:
    if NO_SUB not in classes or len(classes) < 2:
        raise InputError(
            f"{where}: found {' and '.join(sorted(classes)) or 'no images'} only; "
            f"expected {NO_SUB} and at least one class with substructure{hint}"
        )


# ------------------------------------------------------------------------------------- writing


class NewDataset:
    """A dataset while it is written: images in any order, then the catalog.

    The images are written, not mapped: what is touched of a mapped file stays in memory.
    """

    def __init__(self, folder: Path, name: Path, n: int, file: BinaryIO) -> None:
        self.folder, self.n, self.filled = folder, n, 0
        self._name, self._file = name, file
        self._shape: tuple[int, ...] | None = None
        self._start = 0  # of the first image in the file

    def put(self, where: int | np.ndarray, images: np.ndarray) -> None:
        """Write images (k, H, W) from row ``where`` on, or each to a row of its own."""
        if np.ma.isMaskedArray(images):  # a masked pixel is missing
            images = np.ma.filled(images.astype(np.float32), np.nan)
        images = np.ascontiguousarray(images, np.float32)
        if self._shape is None:
            self._shape = images.shape[1:]
            header = {"descr": "<f4", "fortran_order": False, "shape": (self.n, *self._shape)}
            np.lib.format.write_array_header_1_0(self._file, header)
            self._start = self._file.tell()
        self.filled += len(images)
        if images.shape[1:] != self._shape or self.filled > self.n:
            raise InputError(
                f"{self._name}: found images {images.shape} up to number {self.filled}; "
                f"expected {(self.n, *self._shape)} to match the catalog"
            )
        pieces = [(where, images)] if isinstance(where, int) else zip(where, images, strict=True)
        for row, piece in pieces:
            self._file.seek(self._start + 4 * int(np.prod(self._shape)) * int(row))
            self._file.write(piece.data)

    def finish(self, catalog: pd.DataFrame, **sidecar: Any) -> None:
        """Write catalog and sidecar; InputError unless each row of the catalog has its image."""
        if self.filled != len(catalog):
            raise InputError(
                f"{self._name}: found {self.filled} images; the catalog has {len(catalog)}"
            )
        self._file.flush()
        os.fsync(self._file.fileno())
        _check_catalog(catalog, "catalog")
        catalog.to_csv(self.folder / DATASET_FILES[1], index=False)
        sidecar["outputs"] = [self.folder / name for name in DATASET_FILES[:2]]
        counts = {name: int((catalog["class"] == name).sum()) for name in CLASSES}
        provenance.sidecar(
            self.folder / DATASET_FILES[2],
            **{
                "rule": "dataset",
                "n": len(catalog),
                "shape": self._shape,
                "classes": {name: count for name, count in counts.items() if count},
                **sidecar,
            },
        )


def check_replaceable(folder: str | Path, inputs: Iterable[str | Path] = ()) -> None:
    """Raise InputError unless a dataset made of ``inputs`` can be written to a folder."""
    provenance.check_replaceable(folder, (*DATASET_FILES, *REPORTS), inputs)


@contextlib.contextmanager
def new(folder: str | Path, n: int, inputs: Iterable[str | Path] = ()) -> Iterator[NewDataset]:
    """Yield a dataset of ``n`` images to be written; it takes its name only if all went well.

    Raises InputError if ``folder`` holds files that are not a dataset's, or one of ``inputs``, or
    cannot be written.
    """
    check_replaceable(folder, inputs)
    with provenance.atomic(folder) as temporary:
        temporary.mkdir()
        with open(temporary / DATASET_FILES[0], "wb") as file:
            yield NewDataset(temporary, Path(folder), n, file)
