"""Splits of a dataset: which images train, stop, tune and test a model."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from vitdm.config import SPLITS
from vitdm.errors import InputError


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
