"""Is an image in one split the same, or nearly the same, as one in another?

Of images in files, those that are equal are found when they are read (``vitdm.ingest``). Here they
are compared as the network sees them, in all eight orientations, and coarsely: a copy that was
mirrored, turned by a right angle, or observed again is found as well.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pandas as pd

SIDE = 16  # px, to which images are shrunk before they are compared
CHUNK = 1000
COPIES = 4  # of each image, observed again
#: at this distance or nearer, two images may be of one lens: copies scatter about 1 by 0.05
NEAR = 1.2


def nearest(images: np.ndarray, catalog: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return for each image (n, H, W) the most similar one of all other splits.

    ``catalog`` has id and split, of at least two kinds. Columns: id, split, nearest, nearest_split,
    correlation (of the shrunk images, the largest of eight orientations) and distance: the square
    root of 1 minus the correlation, in units of what lies between two exposures of the same lens,
    for which the image's own noise is drawn anew. One up to ``NEAR`` is a near-duplicate; 0 is a
    duplicate.
    """
    splits = catalog["split"].to_numpy()
    vectors = _vectors(images)
    best = np.full(len(images), -np.inf, np.float32)
    where = np.zeros(len(images), int)
    for turned in _orientations(vectors):
        for split in np.unique(splits):
            others = np.flatnonzero(splits != split)
            for rows in _chunks(np.flatnonzero(splits == split)):
                found = turned[rows] @ vectors[others].T
                k = found.argmax(axis=1)
                value = found[np.arange(len(rows)), k]
                better = value > best[rows]
                best[rows[better]], where[rows[better]] = value[better], others[k[better]]
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    chunks = _chunks(np.arange(len(images)))
    unlike = np.concatenate([_again(images[rows], vectors[rows], generator) for rows in chunks])
    ratio = np.maximum(1 - best, 0) / np.maximum(unlike, 1e-7)  # float32 resolves no less
    return pd.DataFrame(
        {
            "id": catalog["id"].to_numpy(),
            "split": splits,
            "nearest": catalog["id"].to_numpy()[where],
            "nearest_split": splits[where],
            "correlation": best,
            "distance": np.sqrt(ratio),
        }
    )


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    return np.array_split(rows, max(1, len(rows) // CHUNK))


def _vectors(images: np.ndarray) -> np.ndarray:
    """Return shrunk images as vectors (n, SIDE²) of mean 0 and length 1."""
    size = (SIDE, SIDE)
    small = [cv2.resize(np.float32(image), size, interpolation=cv2.INTER_AREA) for image in images]
    vectors = np.reshape(small, (len(small), -1))
    vectors = vectors - vectors.mean(axis=1, keepdims=True)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _orientations(vectors: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the vectors of the images turned by right angles, and of their mirror images."""
    squares = vectors.reshape(-1, SIDE, SIDE)
    for mirrored in (squares, squares[:, :, ::-1]):
        for turns in range(4):
            yield np.rot90(mirrored, turns, axes=(1, 2)).reshape(len(vectors), -1)


def _again(images: np.ndarray, vectors: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return 1 minus the correlation (n,) with another exposure of the same lens, on average.

    The noise of an image is told by neighbouring pixels; two exposures differ by sqrt(2) of it.
    """
    steps = np.abs(np.diff(images, axis=2)).reshape(len(images), -1)
    sigma = 1.4826 * np.median(steps, axis=1) / np.sqrt(2)
    unlike = np.zeros(len(images))
    for _ in range(COPIES):
        noise = generator.normal(size=images.shape).astype(np.float32)
        noise *= np.sqrt(2) * sigma[:, None, None]
        unlike += 1 - np.einsum("ij,ij->i", _vectors(images + noise), vectors)
    return unlike / COPIES
