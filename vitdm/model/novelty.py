"""Whether an image looks like those that a network was trained on: a p-value for each.

Three kinds of numbers are compared with those of the training images: simple statistics of the
pixels, the joined features as they were measured, and what enters the network's last layer. The
distance of each kind is Mahalanobis' to the nearest class, all classes having one covariance (Lee
et al. 2018, arXiv:1807.03888, eq. 2), shrunk (Ledoit & Wolf 2004, J. Multivar. Anal. 88, 365).
How rare the largest of the three is among held-out images is the p-value, as of conformal
prediction (Vovk, Gammerman & Shafer 2005): below a it is for a fraction a of images of their kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from sklearn.covariance import ledoit_wolf
from torch import Tensor, nn

from vitdm.errors import InputError
from vitdm.model.networks import representation
from vitdm.model.training import Arrays
from vitdm.threads import one_thread

NAME = "novelty.safetensors"  # in a run folder
UNLIKE = 0.01  # the p-value up to which an image is called unlike the training images
CHUNK = 256  # images at once
MOST = 2000  # images that are measured, of those trained on and of those held out
KINDS = ("image", "features", "network")  # of numbers
FEWEST = round(1 / UNLIKE) - 1  # images of which the farthest has the p-value UNLIKE
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
STEPS = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (0, 4), (4, 0))  # between pixels: down, right
RINGS, BANDS = 8, 8  # of the distance from the middle, and of the frequency
BEND = 3.0  # standard deviations from which on a number counts by its logarithm
LEAST = 1e-6  # of a spread: numbers that do not vary are compared to this much

#: of n images, by kind: numbers (n, P), NaN where missing
Numbers = Mapping[str, NDArray[np.float64]]


# ------------------------------------------------------------------------- what is compared


def statistics(images: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return numbers (n, P) that describe processed images (n, H, W), whatever is in them.

    Quantiles; the median difference between pixels at several steps, which tells noise and its
    correlation; mean and standard deviation in rings about the middle; the power in bands of
    frequency; place and shape of what is brighter than the sky.
    """
    parts = [_statistics(images[k : k + CHUNK]) for k in range(0, len(images), CHUNK)]
    return np.concatenate(parts)


def _statistics(images: NDArray[np.float32]) -> NDArray[np.float64]:
    n, height, width = images.shape
    flat = np.asarray(images, np.float64).reshape(n, -1)
    parts = [np.quantile(flat, QUANTILES, axis=1).T, _differences(images)]
    y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in (height, width)), indexing="ij")
    rings = _shares(np.hypot(x, y).ravel() / np.sqrt(2), RINGS)  # (H W, RINGS)
    mean = flat @ rings
    parts += [mean, np.sqrt(np.maximum(flat**2 @ rings - mean**2, 0))]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    power = np.abs(np.fft.rfft2(images)).reshape(n, -1) ** 2 / (height * width)
    parts.append(np.log10(power @ _shares(np.sqrt(frequency.ravel()), BANDS) + LEAST))
    light = np.maximum(flat, 0)
    moments = np.stack([x, y, x * x, y * y, x * y], axis=-1).reshape(-1, 5)
    parts.append(light @ moments / np.maximum(light.sum(axis=1, keepdims=True), LEAST))
    return np.concatenate(parts, axis=1)


def _differences(images: NDArray) -> NDArray[np.float64]:
    """Return log10 of the median difference between pixels at each of STEPS, (n, STEPS)."""
    height, width = images.shape[1:]
    columns = []
    for down, right in STEPS:
        steps = images[:, down:, right:] - images[:, : height - down, : width - right]
        columns.append(np.median(np.abs(steps).reshape(len(images), -1), axis=1))
    return np.log10(np.stack(columns, axis=1) + LEAST)


def _shares(values: NDArray, n: int) -> NDArray[np.float64]:
    """Return a matrix (len(values), n) that takes the mean of what lies in each of n equal bins."""
    place = np.minimum((values / values.max() * n).astype(int), n - 1)
    members = np.eye(n)[place]
    return members / np.maximum(members.sum(axis=0), 1)


@one_thread()
def numbers_of(
    network: nn.Module, crops: NDArray[np.float32], images: Tensor, features: Tensor
) -> Numbers:
    """Return the numbers of processed images ``crops`` (n, H, W) by kind.

    ``images`` (n, C, H, W) and ``features`` (n, F) are what the network sees of them.
    """
    joined = features if features.shape[1] else None
    numbers = {"image": statistics(np.asarray(crops))}
    if joined is not None:
        numbers["features"] = np.asarray(joined, np.float64)
    return numbers | {"network": representation(network, images, joined)}


# ---------------------------------------------------------------------------- how it is compared


@dataclass(frozen=True, eq=False)
class Cloud:
    """Numbers (n, P) of one kind of the training images: a normal distribution for each class.

    A number is standardised by its ``middle`` and its spread ``below`` and ``above`` (P,), far from
    which its logarithm counts; the share of missing ones is the last. Then ``means`` (K, P + 1) are
    those of the classes, and ``whitening`` (P + 1, P + 1) makes their covariance the unit matrix.
    """

    middle: NDArray[np.float64]
    below: NDArray[np.float64]
    above: NDArray[np.float64]
    means: NDArray[np.float64]
    whitening: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float64], labels: NDArray) -> Cloud:
        """Return that of some images of the classes ``labels`` (n,)."""
        values = _with_missing(values)
        known = np.where(np.isfinite(values).any(axis=0), values, 0.0)  # else all are missing
        low, middle, high = np.nanquantile(known, (0.05, 0.5, 0.95), axis=0)
        least = 0.1 * np.nanstd(known, axis=0) + LEAST * (1 + np.abs(middle))
        below, above = (np.maximum(d / 1.645, least) for d in (middle - low, high - middle))
        standard = _standardised(values, middle, below, above)
        classes, members = np.unique(labels, return_inverse=True)
        means = np.stack([standard[members == k].mean(axis=0) for k in range(len(classes))])
        covariance, _ = ledoit_wolf(standard - means[members], assume_centered=True)
        variance, axes = np.linalg.eigh(covariance)
        whitening = (axes / np.sqrt(np.maximum(variance, LEAST))).T
        return cls(middle, below, above, means, whitening)

    def distances(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the distance (n,) of numbers (n, P) from the nearest class."""
        values = _with_missing(values)
        white = _standardised(values, self.middle, self.below, self.above) @ self.whitening.T
        apart = white[:, None] - self.means @ self.whitening.T  # (n, K, P + 1)
        return np.linalg.norm(apart, axis=2).min(axis=1)


def _with_missing(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return numbers (n, P) with the share of missing ones as a last column."""
    return np.column_stack([values, np.isnan(values).mean(axis=1)])


def _standardised(
    values: NDArray, middle: NDArray, below: NDArray, above: NDArray
) -> NDArray[np.float64]:
    """Return numbers in standard deviations, those beyond BEND by their logarithm; missing: 0."""
    z = values - middle
    z /= np.where(z < 0, below, above)
    far = np.maximum(np.abs(z) / BEND, 1.0)
    return np.nan_to_num(z / far * (1 + np.log(far)), nan=0.0)


@dataclass(frozen=True, eq=False)
class Novelty:
    """What tells images that are unlike the training images: a ``Cloud`` for each kind of numbers.

    ``scale`` (kinds, 2): median and 99th percentile of the logarithm of each distance among
    held-out images, which make distances of several kinds comparable; ``held_out`` (m,): the
    largest of an image's distances on that scale, of all held-out images, sorted.
    """

    clouds: dict[str, Cloud]
    scale: NDArray[np.float64]
    held_out: NDArray[np.float64]

    @classmethod
    def of(cls, train: Numbers, labels: NDArray, held_out: Numbers | None = None) -> Novelty:
        """Return that of training images of the classes ``labels`` (n,).

        ``held_out``: other images of the same kind. Without them each half of the training images
        is held out from the other; the network has seen both, so that what is new looks a little
        newer than it is.
        """
        clouds = {kind: Cloud.of(values, labels) for kind, values in train.items()}
        if held_out is not None:
            logs = _logs(clouds, held_out)
        else:
            halves = np.empty(len(labels), int)  # every other one of each class
            halves[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % 2
            logs = np.empty((len(labels), len(clouds)))
            for half in (0, 1):
                other = halves != half
                part = {kind: Cloud.of(v[other], labels[other]) for kind, v in train.items()}
                logs[~other] = _logs(part, {kind: v[~other] for kind, v in train.items()})
        scale = np.quantile(logs, (0.5, 0.99), axis=0).T
        made = cls(clouds, scale, np.sort(_scores(logs, scale)))
        return _of_arrays(made._arrays())

    def p_values(self, numbers: Numbers) -> NDArray[np.float64]:
        """Return the share of held-out images (n,) that are at least as unlike; never 0."""
        scores = _scores(_logs(self.clouds, numbers), self.scale)
        beyond = len(self.held_out) - np.searchsorted(self.held_out, scores)
        return (1 + beyond) / (1 + len(self.held_out))

    def save(self, path: str | Path) -> None:
        """Write it to a file (safetensors)."""
        save_file(self._arrays(), path)

    def _arrays(self) -> dict[str, NDArray[np.float32]]:
        arrays = {"scale": self.scale, "held_out": self.held_out}
        for kind, cloud in self.clouds.items():
            arrays |= {f"{kind}.{name}": array for name, array in vars(cloud).items()}
        return {name: np.ascontiguousarray(a, np.float32) for name, a in arrays.items()}


def _logs(clouds: Mapping[str, Cloud], numbers: Numbers) -> NDArray[np.float64]:
    """Return the logarithm of each distance, (n, kinds)."""
    apart = [cloud.distances(numbers[kind]) for kind, cloud in clouds.items()]
    return np.log(np.stack(apart, axis=1) + LEAST)


def _scores(logs: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest distance (n,): 0 is the median, 1 the hundredth that is farthest."""
    middle, far = scale.T
    return ((logs - middle) / np.maximum(far - middle, LEAST)).max(axis=1)


@one_thread()
def learn(
    network: nn.Module,
    train: tuple[NDArray[np.float32], Arrays],
    held_out: tuple[NDArray[np.float32], Arrays] | None = None,
) -> Novelty | None:
    """Return what tells images that are unlike those that a network was trained on.

    ``train``: processed images (n, H, W) that it was trained on, or some, and what it saw of them;
    ``held_out``: the same of others of their kind. Fewer than FEWEST of these are not used, and of
    fewer training images nothing is learnt: no p-value could be as small as UNLIKE.
    """
    if len(train[0]) < FEWEST:
        return None
    enough = held_out is not None and len(held_out[0]) >= FEWEST
    seen = numbers_of(network, train[0], *train[1][:2])
    others = numbers_of(network, held_out[0], *held_out[1][:2]) if enough else None
    return Novelty.of(seen, np.asarray(train[1][2]), others)


def thinned(rows: NDArray) -> NDArray:
    """Return some of many rows, evenly spread: up to MOST."""
    return rows[:: max(-(-len(rows) // MOST), 1)]


def load(path: str | Path) -> Novelty:
    """Read what ``Novelty.save`` has written; InputError if the file is damaged."""
    try:
        novelty = _of_arrays(load_file(path))
        finite = all(np.isfinite(array).all() for array in novelty._arrays().values())
        novelty.p_values({kind: c.middle[None, :-1] for kind, c in novelty.clouds.items()})
    except Exception as error:  # safetensors raises many kinds
        raise InputError(f"{path}: cannot be read ({error}); expected it as written") from error
    if not finite:
        raise InputError(f"{path}: found NaN or infinity; expected finite numbers")
    return novelty


def _of_arrays(arrays: Mapping[str, NDArray]) -> Novelty:
    """Return that of the arrays of a file, which are in single precision."""
    parts: dict[str, dict[str, NDArray]] = {kind: {} for kind in KINDS}
    for name, array in arrays.items():
        kind, _, part = name.rpartition(".")
        parts.setdefault(kind, {})[part] = np.asarray(array, np.float64)
    clouds = {kind: Cloud(**parts[kind]) for kind in KINDS if parts[kind]}
    return Novelty(clouds, **parts[""])
