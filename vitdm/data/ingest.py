"""A dataset from images in files: all of them are looked at first, then written if all is well."""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from vitdm.config import SPLITS
from vitdm.data import dataset, layouts, readers
from vitdm.data.observation import empty_areas
from vitdm.data.readers import Picture
from vitdm.data.splits import assign_splits, check_enough
from vitdm.errors import InputError
from vitdm.provenance import atomic, read_json
from vitdm.simulation.classes import CLASSES

SHOWN = 20  # lines of a list in a message
SAME = 1.01  # ratio of pixel scales that are taken for the same
HELD_OUT = ("test", "opt", "valid", "train", "")  # an image that lies in several splits stays here


def ingest(
    path: str | Path,
    out: str | Path,
    n_images: dict[str, int],
    seed: int,
    *,
    resplit: bool = False,
    skip_bad: bool = False,
    drop_duplicates: bool = False,
    pixel_scale: float | None = None,
    classes: Mapping[str, str] | None = None,
    labels: str | Path | None = None,
    progress: bool = True,
) -> str:
    """Make a dataset of a folder or archive in one of the ``layouts``; return a summary.

    Published splits are kept; what they lack is drawn from ``train`` in the proportions of
    ``n_images``. Without any, or with ``resplit``, all splits are drawn. ``pixel_scale`` [arcsec]
    is recorded; by default, that of the FITS headers. ``classes`` are names of folders, or labels,
    and the classes that they stand for, beside those that are known; ``wdm: wdm`` adds one of
    somebody's own. ``labels`` is a table (CSV, TSV) with columns file and class, perhaps split. A
    dataset of this project is copied. Pixels that are not finite, or lie in areas filled with one
    value, are missing (NaN).

    Raises InputError for an unknown layout, for too few images of a class (``splits.NEEDED``), and
    with a list of all files that are no image, constant, or of another size than most; ``skip_bad``
    leaves these out and lists them in skipped.csv. Images of the same pixels are listed in
    duplicates.csv; ``drop_duplicates`` keeps one of them, in the most held-out split, and none if
    they lie in different classes.
    """
    path, out, started = Path(path), Path(out), time.time()
    inputs = [path] if labels is None else [path, labels]
    dataset.check_replaceable(out, inputs)
    if dataset.CONTROL.search(path.resolve().name):
        raise InputError(f"{str(path)!r}: expected a name without line breaks, in UTF-8")
    if pixel_scale is not None and not 0 < pixel_scale < math.inf:
        raise InputError(f"pixel scale: found {pixel_scale}; expected a positive number of arcsec")
    if all((path / name).is_file() for name in dataset.DATASET_FILES):
        if resplit or skip_bad or drop_duplicates or pixel_scale or classes or labels:
            raise InputError(f"{path}: is a dataset already; expected the files it was made of")
        files = [path / name for name in dataset.DATASET_FILES]
        dataset.merge_shards([path], out, rule="ingest", inputs=files, started=started)
        return f"{path}: is a dataset already; copied to {out}"
    bar = partial(tqdm, disable=not progress, unit=" images", dynamic_ncols=True)
    listed = partial(bar, desc=f"listing {path.name}", leave=False)
    layout = layouts.find(path, classes, None if labels is None else Path(labels), listed)
    size = len(layout.entries)
    table = _look(path, layout.entries, partial(bar, desc=f"checking {path.name}", total=size))
    bad = table[table["reason"] != ""]
    _refuse(path, out, bad, size, skip_bad)
    good = table[table["reason"] == ""].assign(**({"split": ""} if resplit else {}))
    twice = _duplicates(good)
    dropped = twice["id"][~twice["kept"]] if drop_duplicates else twice["id"][:0]
    good = good[~good["id"].isin(dropped)].reset_index(drop=True)
    _check_left(path, table, good, n_images)
    published = [split for split in SPLITS if split in set(good["split"])]
    good["split"] = _splits(path, good, published, n_images, seed)
    twice["split"] = twice["id"].map(good.set_index("id")["split"]).fillna("")
    twice["kept"] = twice["id"].isin(good["id"]).astype(int)
    scales = good["pixel_scale"].dropna()
    if pixel_scale is None and len(scales) and scales.max() < SAME * scales.min():
        pixel_scale = float(scales.median())
    columns = [*dataset.COLUMNS, *(["axion_mass"] if good["axion_mass"].notna().any() else [])]
    reports = {"skipped.csv": bad[["source", "reason"]], "duplicates.csv": twice}
    with dataset.new(out, len(good), inputs) as target:
        _write(path, good, target, partial(bar, desc=f"writing {path.name}", total=len(good)))
        for name, report in reports.items():
            if len(report):
                report.to_csv(target.folder / name, index=False)
        target.finish(
            good[columns],
            rule="ingest",
            seed=seed,
            started=started,
            inputs=inputs,
            n_images=n_images,
            pixel_scale=pixel_scale,
            splits_published=published,
            images_skipped=len(bad),
            images_dropped=len(dropped),
            images_with_missing_pixels=int(good["missing"].sum()),
            files_ignored=layout.n_ignored,
        )
    lines = [f"{path}: {len(good)} of {size} images written to {out}"]
    lines += _counts(good, published)
    if len(bad):
        lines.append(f"{len(bad)} images left out: {out / 'skipped.csv'}")
    if len(twice):
        lines.append(f"{_describe(twice, len(dropped))}: {out / 'duplicates.csv'}")
    if pixel_scale is None and len(scales):
        found = f"from {scales.min():.4g} to {scales.max():.4g} arcsec"
        lines.append(f"WARNING: FITS headers tell pixel scales {found}; none recorded")
    return "\n".join(lines + _shortcuts(good))


def known_scale(path: str | Path, most: int = 100) -> float | None:
    """Return the pixel scale ["] that a data set tells, or on which the headers of images agree.

    At most so many FITS files are looked at: what all of them tell is seen when they are ingested.
    None if nothing is told, or what is told differs by more than a per cent.
    """
    path = Path(path)
    if (path / dataset.DATASET_FILES[2]).is_file():
        return read_json(path / dataset.DATASET_FILES[2]).get("pixel_scale")
    scales: list[float] = []
    for member in readers.members(path) if path.exists() else ():
        if readers.suffix_of(member.name) in readers.FITS and len(scales) < most:
            with contextlib.suppress(InputError):  # it is listed when it is ingested
                scale = readers.read_picture(member.name, member.read()).pixel_scale
                scales += [] if scale is None else [scale]
    return float(np.median(scales)) if scales and max(scales) < SAME * min(scales) else None


# ------------------------------------------------------------------------------ the images


class _Facts(NamedTuple):
    """What is kept of an image that was looked at."""

    reason: str  # why it cannot be used; else empty
    digest: bytes = b""
    shape: tuple[int, ...] = ()
    axion_mass: float = math.nan
    pixel_scale: float = math.nan
    missing: bool = False  # some of its pixels


def _image(name: str, read: Callable[[], Picture]) -> tuple[np.ndarray, Picture]:
    """Return an image as it goes into the dataset, and as it was read; InputError if it is none.

    Pixels that are not finite, or were filled with one value, are NaN, as in an Observation: a
    network is trained on what it will see. All are alike, so that images of the same pixels have
    the same bytes.
    """
    picture = read()
    finite = np.isfinite(picture.pixels) & ~empty_areas(picture.pixels)
    if not finite.any():
        raise InputError(f"{name}: no pixel has a finite value; expected an image")
    image = np.where(finite, picture.pixels, np.float32(np.nan))
    if (value := np.nanmin(image)) == np.nanmax(image):
        raise InputError(f"{name}: is constant, every pixel is {value:g}")
    return image, picture


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def _facts(name: str, read: Callable[[], Picture]) -> _Facts:
    try:
        image, picture = _image(name, read)
    except InputError as error:
        return _Facts(str(error).removeprefix(f"{name}: "))
    except Exception as error:  # whatever a damaged file makes of the libraries that read it
        return _Facts(f"cannot be read: {readers.reason_of(error)}")
    mass, scale = (math.nan if x is None else x for x in picture[1:])
    return _Facts("", _digest(image), image.shape, mass, scale, bool(np.isnan(image).any()))


def _look(
    path: Path, entries: list[layouts.Entry], bar: Callable[[Iterable], Iterator]
) -> pd.DataFrame:
    """Read every image, and return a table of what must be known of them, sorted by id."""
    table = pd.DataFrame(sorted(entries), columns=["id", "class", "split", "name"])
    wanted = set(table["name"])
    pictures = (entry for entry in layouts.pictures(path) if entry[0] in wanted)
    facts = {name: _facts(name, read) for name, read in bar(pictures)}
    vanished = _Facts("vanished while it was read")
    facts_of_files = pd.DataFrame([facts.get(name, vanished) for name in table["name"]])
    table[list(_Facts._fields)] = facts_of_files
    place = path.resolve().name + "/"
    # an .npz file has no folder around it
    table["source"] = place + table["name"].str.removeprefix(place if path.is_file() else "")
    shapes = Counter(table["shape"][table["reason"] == ""])
    if len(shapes) > 1:
        usual = shapes.most_common(1)[0][0]
        other = (table["reason"] == "") & table["shape"].map(lambda shape: shape != usual)
        size = table["shape"][other].map(dataset.size_text)
        table.loc[other, "reason"] = "has " + size + f"; most have {dataset.size_text(usual)}"
    return table


def _write(
    path: Path,
    table: pd.DataFrame,
    target: dataset.NewDataset,
    bar: Callable[[Iterable], Iterator],
) -> None:
    """Read the images of a table once more, and write them in its order."""
    rows = {name: row for row, name in enumerate(table["name"])}
    pictures = (entry for entry in layouts.pictures(path) if entry[0] in rows)
    for name, read in bar(pictures):
        image, _ = _image(name, read)
        if _digest(image) != table.at[rows[name], "digest"]:
            raise InputError(f"{path}: {name} changed while it was read; start again")
        target.put(rows[name], image[None])


def _refuse(path: Path, out: Path, bad: pd.DataFrame, n: int, skip_bad: bool) -> None:
    """Raise InputError with a list of the images that cannot be used; a long one is a file too."""
    listing = out.with_name(f"{out.name}_unusable.csv")
    listing.unlink(missing_ok=True)
    if skip_bad or bad.empty:
        return
    shown = bad[["name", "reason"]].iloc[:SHOWN]
    width = shown["name"].str.len().max()
    lines = [f"{path}: {len(bad)} of {n} images cannot be used; --skip-bad leaves them out"]
    lines += [f"{name:{width}}  {reason}" for name, reason in shown.itertuples(index=False)]
    if len(bad) > SHOWN:
        with atomic(listing) as temporary:
            bad[["source", "reason"]].to_csv(temporary, index=False)
        lines.append(f"… and {len(bad) - SHOWN} more: {listing} lists them all")
    raise InputError("\n  ".join(lines))


# --------------------------------------------------------------------- duplicates and splits


def _duplicates(table: pd.DataFrame) -> pd.DataFrame:
    """Return the images that occur more than once, group by group, and which to keep of them."""
    twice = table[table.duplicated("digest", keep=False)]
    twice = twice.assign(rank=twice["split"].map(HELD_OUT.index)).sort_values(["rank", "id"])
    group = twice.groupby("digest", sort=False)
    alike = group["class"].transform("nunique") == 1
    twice = twice.assign(group=group.ngroup() + 1, kept=(alike & (group.cumcount() == 0)))
    twice = twice.sort_values(["group", "rank", "id"])
    return twice[["group", "id", "class", "split", "source", "kept"]]


def _check_left(
    path: Path, table: pd.DataFrame, good: pd.DataFrame, n_images: Mapping[str, int]
) -> None:
    """Raise InputError if too few images of a class are left for splits to be drawn from them."""
    left = good["class"].value_counts()
    counts = {kind: int(left.get(kind, 0)) for kind in sorted(set(table["class"]))}
    drawn = [split for split in SPLITS if n_images.get(split, 0) > 0]
    check_enough(counts, drawn, f"{path}: of the images that can be used: ")
    dataset.check_classes(set(counts), f"{path}: of the images that can be used")


def _splits(
    path: Path, table: pd.DataFrame, published: list[str], n_images: dict[str, int], seed: int
) -> pd.Series:
    """Return the split of each image: as published, and drawn where nothing was published."""
    splits, drawn = table["split"].copy(), table["split"] == ""
    if published and "train" not in published:
        found = ", ".join(published)
        raise InputError(f"{path}: found {found} without train; --resplit draws all splits anew")
    if published:
        drawn = splits == "train"
        n_images = {k: n for k, n in n_images.items() if k == "train" or k not in published}
    if len(n_images) > 1 or not published:
        part = table[drawn]
        splits[drawn] = assign_splits(part["id"], part["class"], n_images, seed)
    for split in sorted(set(splits)):
        where, kinds = f"{path}: split {split!r}", table["class"][splits == split]
        counts = {kind: int((kinds == kind).sum()) for kind in sorted(set(table["class"]))}
        dataset.check_classes(set(kinds), where)
        check_enough(counts, [split], f"{where}: ")
    return splits


# ------------------------------------------------------------------------------------ summary


def _shortcuts(table: pd.DataFrame) -> list[str]:
    """Return a warning for each way in which images were taken that tells their classes apart.

    That is if no value of it, of the pixel scale or of whether pixels are missing, occurs in two
    classes: a model would learn the camera.
    """
    facts = {
        "pixel scales": table["pixel_scale"].round(4).fillna(0.0),
        "missing pixels": table["missing"].astype(float),
    }
    lines = []
    for name, values in facts.items():
        classes = table["class"].groupby(values).nunique()
        if len(classes) > 1 and classes.max() == 1:
            lines.append(
                f"WARNING: {name} tell the classes apart; a model may learn them and nothing else"
            )
    return lines


def _counts(table: pd.DataFrame, published: list[str]) -> list[str]:
    def count(column: str, names: Iterable[str]) -> str:
        counts = table[column].value_counts()
        return ", ".join(f"{name} {counts[name]}" for name in names if name in counts)

    drawn = [split for split in SPLITS if split in set(table["split"]) - set(published)]
    origin = f"published: {', '.join(published)}" if published else "drawn"
    if published and drawn:
        origin += f"; {', '.join(drawn)} drawn from train"
    return [
        f"classes: {count('class', CLASSES)}",
        f"splits: {count('split', SPLITS)} ({origin})",
    ]


def _describe(twice: pd.DataFrame, n_dropped: int) -> str:
    groups = twice[twice["split"] != ""].groupby("group")
    splits, classes = (int((groups[name].nunique() > 1).sum()) for name in ("split", "class"))
    text = f"{len(twice)} images in {twice['group'].nunique()} groups have the same pixels"
    if n_dropped:
        return f"{text}; {n_dropped} dropped"
    if splits or classes:
        text = (
            f"WARNING: {text}; {splits} groups lie in several splits, {classes} in several classes"
        )
    return f"{text}; --drop-duplicates keeps one of each"
