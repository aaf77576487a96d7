"""Splits of a dataset: which images train, stop, tune and test a model."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from vitdm.config import SPLITS
from vitdm.errors import InputError

#: images of each class that a split needs: DeLong's variance of the test's ROC-AUC is that of at
#: least two
NEEDED = {"train": 1, "valid": 1, "opt": 1, "test": 2}


def assign_splits(
    ids: Sequence[str], classes: Sequence[str], n_images: dict[str, int], seed: int
) -> np.ndarray:
    """Return the split (n,) of each image: stratified, drawn from its id and the seed alone.

    Within a class, images are ranked by sha256 of "seed:id", so neither order nor number of cores
    matters. If ``n_images`` adds up to the number of images it is met exactly; otherwise it gives
    the proportions. Every split holds what is ``NEEDED`` of every class, whatever the proportions,
    else InputError tells what is missing.
    """
    ids, kinds = [str(name) for name in ids], sorted(map(str, set(classes)))
    if len(set(ids)) != len(ids):
        raise InputError(f"id {Counter(ids).most_common(1)[0][0]!r} occurs twice; expected once")
    names = [split for split in SPLITS if n_images.get(split, 0) > 0]
    if not names:
        raise InputError(f"n_images: found {n_images}; expected a number of images of each split")
    where = {kind: np.flatnonzero(np.asarray(classes) == kind) for kind in kinds}
    totals = np.array([len(where[kind]) for kind in kinds])
    check_enough(dict(zip(kinds, totals.tolist(), strict=True)), names)
    sizes, needed = (np.array([table[split] for split in names]) for table in (n_images, NEEDED))
    least = needed * len(kinds)
    if sizes.sum() != len(ids):
        sizes = _apportion(len(ids) * sizes[None] / sizes.sum(), np.array([len(ids)]), None)[0]
        while (sizes < least).any():
            sizes[np.argmin(sizes - least)] += 1
            sizes[np.argmax(sizes - least)] -= 1
    for split, size, wanted in zip(names, sizes, least, strict=True):
        if size < wanted:
            raise InputError(
                f"n_images: {split}: found {size}; expected at least {wanted}, {NEEDED[split]} of "
                f"each class ({', '.join(kinds)})"
            )
    counts = _apportion(totals[:, None] * sizes[None] / len(ids), totals, sizes)
    while len(lacking := np.argwhere(counts < needed)):  # swap pairs: the sums stay as they are
        (kind, split), spare = lacking[0], counts - needed
        donor, other = spare[kind].argmax(), spare[:, split].argmax()
        counts[kind, split] += 1
        counts[kind, donor] -= 1
        counts[other, split] -= 1
        counts[other, donor] += 1
    result = np.empty(len(ids), dtype=object)
    for kind, row in zip(kinds, counts, strict=True):
        digests = {i: hashlib.sha256(f"{seed}:{ids[i]}".encode()).digest() for i in where[kind]}
        result[sorted(digests, key=digests.get)] = np.repeat(names, row)
    return result.astype(str)


def check_enough(counts: Mapping[str, int], splits: Sequence[str], where: str = "") -> None:
    """Raise InputError unless the images of each class are enough for some splits.

    ``counts`` are the images of each class together, ``where`` stands before the message.
    """
    needed = sum(NEEDED[split] for split in splits)
    shares = " + ".join(f"{NEEDED[split]} {split}" for split in splits)
    few = {kind: count for kind, count in counts.items() if count < needed}
    if few:
        found = ", ".join(f"{count} of class {kind!r}" for kind, count in few.items())
        raise InputError(
            f"{where}found {found}; expected at least {needed} images of each class ({shares})"
        )


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
