"""Images and their catalog: every DeepLense layout, splits, the dataset on disk.

A dataset is a folder with ``images.npy`` (n, H, W) float32, ``catalog.csv`` with one row an image
(``id, class, split, source`` and any truth) and ``dataset.json``, which tells where it came from.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from vitdm import provenance, readers
from vitdm.config import SPLITS, InputError
from vitdm.readers import fill_missing, load_images, read_image

__all__ = ["ALIASES", "CLASSES", "Dataset", "assign_splits", "class_of", "fill_missing", "ingest"]
__all__ += ["load_images", "merge", "read_catalog", "read_image", "write"]

CLASSES = ("no_sub", "sub", "cdm", "axion")
ALIASES = {
    **dict.fromkeys(("no", "nosub", "no_sub", "no_substructure"), "no_sub"),
    **dict.fromkeys(("sub", "substructure"), "sub"),
    **dict.fromkeys(("sphere", "spherical", "cdm"), "cdm"),
    **dict.fromkeys(("vort", "vortex", "axion"), "axion"),
}
SPLIT_FOLDERS = ("train", "val", "valid", "validation", "test")
FILES = ("images.npy", "catalog.csv", "dataset.json")
COLUMNS = ("id", "class", "split", "source")
BLOCK = 256  # images copied at a time


def class_of(folder: str) -> str | None:
    """Return the class that the name of a folder stands for, or None if it is unknown."""
    return ALIASES.get(re.sub("[- ]", "_", folder.strip().lower()))


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
        missing = [name for name in FILES if not (folder / name).is_file()]
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
        return cls(folder, images, catalog)

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
            _check_classes(classes, f"{self.folder}: split {split!r}")
        return np.flatnonzero(self.catalog["split"].isin(splits))

    def labels(self, task: str) -> tuple[np.ndarray, list[str]]:
        """Return the label (n,) of every image and the names of the classes that labels number.

        ``multiclass``: the classes present, in the order of CLASSES. ``binary``: 0 is no_sub, 1 is
        any substructure. Raises InputError unless there are images of both kinds.
        """
        classes = self.catalog["class"]
        _check_classes(set(classes), str(self.folder))
        if task == "binary":
            return (classes != "no_sub").to_numpy().astype(np.int64), ["no_sub", "sub"]
        if task != "multiclass":
            raise InputError(f"task: found {task!r}; expected 'multiclass' or 'binary'")
        names = [name for name in CLASSES if name in set(classes)]
        return classes.map(names.index).to_numpy().astype(np.int64), names


def read_catalog(path: str | Path, raw: bool = False) -> pd.DataFrame:
    """Read a table of images; ids and names stay text ('00012', 'NA'), numbers stay exact.

    ``raw`` leaves every column as the text it is.
    """
    try:
        if raw:
            return pd.read_csv(path, dtype=str, keep_default_na=False)
        numbers = set(pd.read_csv(path, nrows=0)) - set(COLUMNS)
        return pd.read_csv(
            path,
            dtype=dict.fromkeys(COLUMNS, str),
            keep_default_na=False,
            na_values=dict.fromkeys(numbers, ["", "nan", "NaN"]),
            float_precision="round_trip",
        )
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"{path}: cannot be read as a table: {error}") from error


def write(
    folder: str | Path,
    images: np.ndarray | Iterable[np.ndarray],
    catalog: pd.DataFrame,
    **sidecar: Any,
) -> None:
    """Write a dataset, whole or not at all, and its sidecar ``dataset.json``.

    ``images`` are (n, H, W), or chunks (k, H, W) in the catalog's order, of which only one is in
    memory at a time. ``sidecar`` goes to ``provenance.sidecar`` (``rule``, ``seed``, …), with
    anything else worth keeping, such as ``pixel_scale`` ["]. Raises InputError if the images do
    not match the catalog, or if ``folder`` holds files that are not a dataset's.
    """
    chunks = [images] if isinstance(images, np.ndarray) else images
    with _new_folder(folder) as temporary:
        target, filled = None, 0
        for chunk in chunks:
            if target is None:
                target = _new_images(temporary, len(catalog), chunk.shape[1:])
            end = filled + len(chunk)
            if chunk.shape[1:] != target.shape[1:] or end > len(target):
                raise InputError(
                    f"{folder}: found images {chunk.shape} up to number {end}; "
                    f"expected {target.shape} to match the catalog"
                )
            target[filled:end] = chunk
            filled = end
        if target is None or filled != len(catalog):
            raise InputError(f"{folder}: found {filled} images; the catalog has {len(catalog)}")
        _finish(temporary, target, catalog, sidecar)


def merge(shards: Sequence[str | Path], out: str | Path, **sidecar: Any) -> None:
    """Join datasets into one, sorted by id; neither pixels nor the catalog's text change.

    Raises InputError on different image sizes, different columns or an id that occurs twice.
    """
    parts = [(_load(Path(shard), raw=True), Path(shard)) for shard in shards]
    if not parts:
        raise InputError(f"{out}: nothing to merge; expected at least one folder")
    (first, columns), origin = parts[0]
    for (images, catalog), shard in parts[1:]:
        if images.shape[1:] != first.shape[1:]:
            raise InputError(
                f"{shard}: found images of {readers.size_text(images.shape[1:])}; "
                f"expected {readers.size_text(first.shape[1:])} as in {origin}"
            )
        if list(catalog) != list(columns):
            differing = ", ".join(sorted(set(catalog) ^ set(columns))) or "another order"
            raise InputError(f"{shard}: columns differ from those of {origin}: {differing}")
    catalog = pd.concat([catalog for (_, catalog), _ in parts], ignore_index=True)
    order = np.argsort(catalog["id"].to_numpy(dtype=str), kind="stable")
    position = np.empty(len(order), int)
    position[order] = np.arange(len(order))
    with _new_folder(out) as temporary:
        target = _new_images(temporary, len(catalog), first.shape[1:])
        start = 0
        for (images, _), _ in parts:
            for begin in range(0, len(images), BLOCK):
                block = images[begin : begin + BLOCK]
                target[position[start + begin : start + begin + len(block)]] = block
            start += len(images)
        _finish(temporary, target, catalog.iloc[order], {"rule": "merge", **sidecar})


def _load(folder: Path, raw: bool = False) -> tuple[np.ndarray, pd.DataFrame]:
    """Open images and catalog, which must match; ``raw`` leaves every column as its text."""
    path = folder / "images.npy"
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as an array: {error}") from error
    if getattr(images, "ndim", 0) != 3 or images.dtype != np.float32:
        found = f"{getattr(images, 'shape', '')} {getattr(images, 'dtype', 'an npz archive')}"
        raise InputError(f"{path}: found {found}; expected (n, H, W) float32")
    catalog = read_catalog(folder / "catalog.csv", raw)
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
    twice = catalog["id"][catalog["id"].duplicated()]
    if len(twice):
        raise InputError(f"{where}: id {twice.iloc[0]!r} occurs twice; expected one row an image")
    unknown = sorted(set(catalog["class"]) - set(CLASSES))
    if unknown:
        raise InputError(f"{where}: class: found {unknown[0]!r}; expected {', '.join(CLASSES)}")


def _check_classes(classes: set[str], where: str, hint: str = "") -> None:
    if "no_sub" not in classes or len(classes) < 2:
        raise InputError(
            f"{where}: found {' and '.join(sorted(classes)) or 'no images'} only; "
            f"expected no_sub and at least one class with substructure{hint}"
        )


@contextlib.contextmanager
def _new_folder(folder: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces ``folder``, unless that holds other people's files."""
    provenance.check_replaceable(folder, FILES)
    with provenance.atomic(folder) as temporary:
        temporary.mkdir(exist_ok=True)
        yield temporary


def _new_images(folder: Path, n: int, shape: tuple[int, ...]) -> np.memmap:
    return np.lib.format.open_memmap(folder / FILES[0], "w+", np.float32, (n, *shape))


def _finish(
    folder: Path, images: np.memmap, catalog: pd.DataFrame, sidecar: dict[str, Any]
) -> None:
    images.flush()
    _check_catalog(catalog, "catalog")
    catalog.to_csv(folder / FILES[1], index=False)
    counts = {name: int((catalog["class"] == name).sum()) for name in CLASSES}
    provenance.sidecar(
        folder / FILES[2],
        **{
            "rule": "dataset",
            "n": len(catalog),
            "shape": images.shape[1:],
            "classes": {name: count for name, count in counts.items() if count},
            **sidecar,
        },
    )


# ---------------------------------------------------------------------------------------- splits


def assign_splits(
    ids: Sequence[str], classes: Sequence[str], n_images: dict[str, int], seed: int
) -> np.ndarray:
    """Return the split (n,) of each image: stratified, drawn from its id and the seed alone.

    Within a class, images are ranked by sha256 of "seed:id", so neither order nor number of cores
    matters. If ``n_images`` adds up to the number of images it is met exactly; otherwise it gives
    the proportions. Every split holds every class, else InputError tells what is needed.
    """
    ids, kinds = [str(name) for name in ids], sorted(set(classes))
    if len(set(ids)) != len(ids):
        raise InputError(f"id {Counter(ids).most_common(1)[0][0]!r} occurs twice; expected once")
    names = [split for split in SPLITS if n_images.get(split, 0) > 0]
    if not names:
        raise InputError(f"n_images: found {n_images}; expected a number of images of each split")
    where = {kind: np.flatnonzero(np.asarray(classes) == kind) for kind in kinds}
    totals = np.array([len(where[kind]) for kind in kinds])
    for kind, total in zip(kinds, totals, strict=True):
        if total < len(names):
            raise InputError(
                f"class {kind!r}: found {total} images; expected at least {len(names)}, "
                f"one for each split ({', '.join(names)})"
            )
    sizes = np.array([n_images[split] for split in names])
    if sizes.sum() != len(ids):
        sizes = _apportion(len(ids) * sizes[None] / sizes.sum(), np.array([len(ids)]), None)[0]
    for split, size in zip(names, sizes, strict=True):
        if size < len(kinds):
            raise InputError(
                f"n_images: split {split!r} would hold {size} of {len(ids)} images; expected at "
                f"least {len(kinds)}, one of each class ({', '.join(kinds)}): give more images"
            )
    counts = _apportion(totals[:, None] * sizes[None] / len(ids), totals, sizes)
    for kind, split in np.argwhere(counts == 0):  # swap pairs: the sums stay as they are
        donor, other = counts[kind].argmax(), counts[:, split].argmax()
        counts[kind, split] += 1
        counts[kind, donor] -= 1
        counts[other, split] -= 1
        counts[other, donor] += 1
    result = np.empty(len(ids), dtype=object)
    for kind, row in zip(kinds, counts, strict=True):
        digests = {i: hashlib.sha256(f"{seed}:{ids[i]}".encode()).digest() for i in where[kind]}
        result[sorted(digests, key=digests.get)] = np.repeat(names, row)
    return result.astype(str)


def _apportion(shares: np.ndarray, rows: np.ndarray, columns: np.ndarray | None) -> np.ndarray:
    """Round shares (rows, columns) to whole numbers with given sums, by largest remainder."""
    counts = np.floor(shares + 1e-9).astype(int)
    while (open_rows := counts.sum(1) < rows).any():
        room = open_rows[:, None] & np.ones_like(counts, bool)
        if columns is not None:
            room &= (counts.sum(0) < columns)[None]
        best = np.where(room, shares - counts, -np.inf).argmax()
        counts[np.unravel_index(best, counts.shape)] += 1
    return counts


# ------------------------------------------------------------------------ folders and archives


def ingest(
    path: str | Path,
    out: str | Path,
    n_images: dict[str, int],
    seed: int,
    progress: bool = True,
) -> None:
    """Make a dataset of a folder or archive (.tgz, .tar.gz, .tar, .zip) of class folders.

    Class folders may lie in train/, val/, test/ folders; the splits are drawn anew all the same.
    Archives are read without being unpacked. ``n_images`` are the sizes or proportions of the
    splits. Raises InputError for an unknown class folder, a single class, images of different
    sizes and files that cannot be read.
    """
    path, out = Path(path), Path(out)
    if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
        raise InputError(f"{out}: lies inside {path}; expected a place outside the images' folder")
    bar = {"disable": not progress, "unit": " images", "dynamic_ncols": True}
    listing = tqdm(readers.members(path), desc=f"listing {path.name}", leave=False, **bar)
    entries, published = _layout(names := [name for name, _ in listing], path)
    catalog = pd.DataFrame(sorted(entries), columns=["id", "class", "member"])
    catalog["split"] = assign_splits(catalog["id"], catalog["class"], n_images, seed)
    catalog["source"] = path.resolve().name + "/" + catalog["member"]
    rows = {name: row for row, name in enumerate(catalog.pop("member"))}
    problems: dict[str, str] = {}
    examples: dict[tuple[int, ...], str] = {}
    images, filled, left = None, 0, dict(rows)
    with _new_folder(out) as temporary:
        wanted = ((name, read) for name, read in readers.members(path) if name in rows)
        for name, read in tqdm(wanted, desc=f"reading {path.name}", total=len(rows), **bar):
            del left[name]
            try:
                raw = read_image(name, readers.content_of(name, read))
                image = fill_missing(raw, name)
            except InputError as error:
                problems[name] = str(error)
                continue
            filled += image is not raw
            if images is None:
                images = _new_images(temporary, len(rows), image.shape)
            examples.setdefault(image.shape, name)
            if len(examples) == 1:
                images[rows[name]] = image
        problems |= {name: f"{name}: vanished while it was read" for name in left}
        if problems:
            lines = [f"{path}: {len(problems)} of {len(rows)} files cannot be read as images:"]
            lines += [problems[name] for name in sorted(problems)[:10]]
            lines += [f"… and {len(problems) - 10} more"] if len(problems) > 10 else []
            raise InputError("\n  ".join(lines))
        if len(examples) > 1:
            found = ", ".join(
                f"{readers.size_text(s)} ({name})" for s, name in list(examples.items())[:2]
            )
            raise InputError(f"{path}: found images of different sizes: {found}; expected one size")
        _finish(
            temporary,
            images,
            catalog[list(COLUMNS)],
            {
                "rule": "ingest",
                "seed": seed,
                "inputs": [path],
                "n_images": n_images,
                "published_splits_ignored": published,
                "files_ignored": len(names) - len(rows),
                "images_with_missing_pixels": filled,
            },
        )


def _layout(names: list[str], path: Path) -> tuple[list[tuple[str, str, str]], bool]:
    """Return (id, class, member) of every image, and whether train/val folders were there."""
    known = ", ".join(ALIASES)
    other = next((name for name in names if not readers.suffix_of(name)), None)
    hint = f" (files of another kind are ignored, such as {other})" if other else ""
    images = [PurePosixPath(name).parts for name in names if readers.suffix_of(name)]
    if not images:
        raise InputError(f"{path}: found no image; expected {', '.join(readers.SUFFIXES)}{hint}")
    depth = 0
    while True:  # through folders that only wrap the others
        example, images = images[0], [parts for parts in images if len(parts) > depth + 1]
        folders = sorted({parts[depth] for parts in images})
        if not folders:
            raise InputError(
                f"{path}: {'/'.join(example)} lies in no class folder; expected one of: {known}"
            )
        published = any(name.lower() in SPLIT_FOLDERS for name in folders)
        if len(folders) > 1 or published or class_of(folders[0]):
            break
        depth += 1
    published = published and not any(map(class_of, folders))
    if published:
        strange = [name for name in folders if name.lower() not in SPLIT_FOLDERS]
        if strange:
            raise InputError(
                f"{path}: unknown folder {strange[0]!r}; expected {', '.join(SPLIT_FOLDERS)}"
            )
    level = depth + published
    images = [parts for parts in images if len(parts) > level + 1]
    strange = sorted({parts[level] for parts in images if class_of(parts[level]) is None})
    if strange:
        listed = ", ".join(map(repr, strange[:10]))
        raise InputError(f"{path}: unknown class folder {listed}; expected one of: {known}")
    entries: dict[str, tuple[str, str, str]] = {}
    for parts in images:
        name = "/".join(parts)
        if re.search("[\ud800-\udfff]", name):
            raise InputError(f"{path}: file name {name!r} is not UTF-8; rename the file")
        identity = "/".join(parts[depth:])[: -len(readers.suffix_of(name) or "")]
        if identity in entries:
            raise InputError(
                f"{path}: {entries[identity][2]} and {name} would share the id {identity!r}; "
                "expected one file an image"
            )
        entries[identity] = (identity, class_of(parts[level]) or "", name)
    _check_classes({kind for _, kind, _ in entries.values()}, str(path), hint)
    return list(entries.values()), published
