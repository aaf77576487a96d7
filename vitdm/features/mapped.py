"""Maps of perturbers summarised as a table, for classifiers of tables.

What a network sees as a map (``vitdm.lens.channels``), trees get as its peaks, quantiles, moments
and power spectrum, over the places where something is known, so that both are compared on the same
data.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import kurtosis, skew

from vitdm.config import CHANNELS
from vitdm.config.images import PROFILES

QUANTILES = (0.01, 0.05, 0.16, 0.5, 0.84, 0.95, 0.99)
SURE = 0.5  # of a map's largest sensitivity, in ln: where "the arcs" are, e^-0.5 of the best
APART = 3  # places between two peaks, along an axis
PEAKS = 5
BANDS = ((1, 2), (3, 4), (5, 8), (9, 16), (17, 24))  # waves along a side


def summary(maps: NDArray, names: tuple[str, ...] = PROFILES) -> pd.DataFrame:
    """Return the ``columns`` of maps (n, C, g, g) in the order of ``CHANNELS``, a row a lens.

    Of the S/N of each profile of ``names``: the ``PEAKS`` highest peaks and lowest troughs, the
    quantiles, mean, rms, skewness and kurtosis, all over the places where anything is known, and
    the rms over those of highest sensitivity; the logarithm of the power of the S/N in bands of
    waves along a side; mean, largest and quantiles of the sensitivity. And of the residual and its
    local chi^2 mean, rms, quantiles and power. NaN where nothing is known.
    """
    return pd.DataFrame([_lens(lens.astype(np.float64), names) for lens in maps])


def _lens(lens: NDArray, names: tuple[str, ...]) -> dict[str, float]:
    values: dict[str, float] = {}
    for name in names:
        snr, sensitivity = (lens[CHANNELS.index(f"{kind}_{name}")] for kind in KINDS)
        told, key = sensitivity > 0, f"map_{name}"
        values |= _moments(f"{key}_snr", snr[told])
        values |= _moments(f"{key}_sensitivity", sensitivity[told])
        best = told & (sensitivity > sensitivity.max(initial=0.0) - SURE)
        values[f"{key}_snr_best_rms"] = _rms(snr[best])
        for sign, kind in ((1, "peak"), (-1, "trough")):
            heights = _peaks(sign * np.where(told, snr, 0.0))
            values |= {f"{key}_{kind}_{k}": height for k, height in enumerate(heights)}
        values |= _power(key, snr)
    for name in ("residual", "chi2"):
        channel = lens[CHANNELS.index(name)]
        values |= _moments(f"map_{name}", channel.ravel()) | _power(f"map_{name}", channel)
    return values


KINDS = ("snr", "sensitivity")


def _rms(values: NDArray) -> float:
    return float(np.sqrt((values**2).mean())) if values.size else np.nan


def _moments(key: str, values: NDArray) -> dict[str, float]:
    """Return quantiles, mean, rms, skewness and kurtosis; NaN of nothing."""
    if values.size < 4 or np.ptp(values) == 0:
        values = np.full(4, np.nan)
    with np.errstate(invalid="ignore"):
        told = {"mean": values.mean(), "rms": _rms(values), "skew": skew(values)}
        told["kurtosis"] = kurtosis(values)
        quantiles = np.quantile(values, QUANTILES)
    told |= {f"q{q:g}": value for q, value in zip(QUANTILES, quantiles, strict=True)}
    return {f"{key}_{name}": float(value) for name, value in told.items()}


def _peaks(snr: NDArray) -> list[float]:
    """Return the highest values of a map that are apart from each other, the highest first."""
    left, found = snr.copy(), []
    for _ in range(PEAKS):
        row, column = np.unravel_index(left.argmax(), left.shape)
        found.append(float(left[row, column]))
        around = [slice(max(at - APART, 0), at + APART + 1) for at in (row, column)]
        left[tuple(around)] = -np.inf
    return found


def _power(key: str, channel: NDArray) -> dict[str, float]:
    """Return ln of the mean power of a map in bands of waves along a side, 1 for white noise."""
    side = len(channel)
    waves = np.fft.fftfreq(side, 1 / side)
    k = np.hypot(waves, waves[:, None])
    power = np.abs(np.fft.fft2(channel)) ** 2 / channel.size
    bands = {}
    for low, high in BANDS:
        inside = (k > low - 0.5) & (k <= high + 0.5)
        mean = power[inside].mean() if inside.any() else np.nan
        bands[f"{key}_power_{low}_{high}"] = float(np.log(max(mean, 1e-12)))
    return bands
