"""Is an image in one split the same, or nearly the same, as one in another?

Of images in files, those that are equal are found when they are read (``vitdm.data.ingest``). Here
they are compared as the network sees them, in all eight orientations, and coarsely, where noise
hardly counts: a copy that was mirrored, turned by a right angle, or observed again is found as
well.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pandas as pd

SIDE = 16  # px, to which images are shrunk before they are compared
COMPONENTS = 40  # principal ones, which hold nearly all that lenses differ in
LEARNT = 4000  # images that the components are computed from
CHUNK = 1000
#: at this distance or nearer, two images may be of one lens: copies scatter about 1 by 0.08
NEAR = 1.25


def nearest(images: np.ndarray, catalog: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return for each image (n, H, W) the most similar one of all other splits.

    ``catalog`` has id and split, of at least two kinds. Columns: id, split, nearest, nearest_split
    and distance: the root of the squared difference in the first principal components of all
    images, in units of what noise alone makes of it between two exposures of the same lens. One up
    to ``NEAR`` is a near-duplicate; 0 is a duplicate.
    """
    splits = catalog["split"].to_numpy()
    small, noise = _shrunk(images)
    middle, components = _components(small, seed)
    places = (small - middle) @ components  # (n, k)
    squares = (places**2).sum(axis=1)
    best, where = np.full(len(images), np.inf), np.zeros(len(images), int)
    for turned in _orientations(small):
        seen = (turned - middle) @ components
        for split in np.unique(splits):
            others, own = np.flatnonzero(splits != split), np.flatnonzero(splits == split)
            for rows in np.array_split(own, max(1, len(own) // CHUNK)):
                gaps = squares[others] - 2 * seen[rows] @ places[others].T
                k = gaps.argmin(axis=1)
                gap = gaps[np.arange(len(rows)), k] + (seen[rows] ** 2).sum(axis=1)
                better = gap < best[rows]
                best[rows[better]], where[rows[better]] = gap[better], others[k[better]]
    of_noise = components.shape[1] * (noise + noise[where])
    distance = np.sqrt(best.clip(min=0) / np.maximum(of_noise, 1e-12))
    ids = catalog["id"].to_numpy()
    table = {"id": ids, "split": splits, "nearest": ids[where], "nearest_split": splits[where]}
    return pd.DataFrame(table | {"distance": distance})


def _shrunk(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return images as vectors (n, SIDE²) of block means, and the variance (n,) of their noise.

    The noise of an image is told by the median step between neighbouring pixels.
    """
    size, vectors, variances = (SIDE, SIDE), [], []
    for image in images:
        vectors.append(cv2.resize(np.float32(image), size, interpolation=cv2.INTER_AREA).ravel())
        step = 1.4826 * np.median(np.abs(np.diff(image, axis=1)))  # sqrt(2) of the noise
        variances.append(step**2 / 2 * SIDE**2 / image.size)
    return np.array(vectors, float), np.array(variances, float)


def _components(vectors: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (SIDE²,) and principal components (SIDE², k) of images in all orientations."""
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    some = vectors[generator.permutation(len(vectors))[:LEARNT]]
    every = np.concatenate(list(_orientations(some)))
    middle = every.mean(axis=0)
    _, components = np.linalg.eigh(np.cov((every - middle).T))  # the largest last
    return middle, components[:, ::-1][:, :COMPONENTS]


def _orientations(vectors: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the vectors of the images turned by right angles, and of their mirror images."""
    squares = vectors.reshape(-1, SIDE, SIDE)
    for mirrored in (squares, squares[:, :, ::-1]):
        for turns in range(4):
            yield np.rot90(mirrored, turns, axes=(1, 2)).reshape(len(vectors), -1)
