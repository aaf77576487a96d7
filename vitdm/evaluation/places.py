"""Peaks of maps against the subhalos that are there: what is found, at how many false peaks.

A peak is right if a subhalo lies within some radius of it, and a subhalo is found if a peak does.
Thresholds are those at which lenses have so many false peaks on average.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.ndimage import maximum_filter


def peaks(
    maps: np.ndarray,
    axis: np.ndarray,
    apart: float,
    most: int = 20,
    within: float | None = None,
) -> pd.DataFrame:
    """Return the highest local maxima of maps (n, g, g): columns lens, x, y, height.

    ``axis`` (g,) ["] is that of the places along x and y; of two maxima that are not ``apart`` ["]
    the higher one is kept, and of each lens at most ``most``. What lies farther than ``within`` ["]
    from the middle counts as lower than all else. A map that is the same everywhere has none.
    """
    rows = []
    far = np.hypot(axis, axis[:, None]) > (np.inf if within is None else within)
    for lens, given in enumerate(maps):
        values = np.where(far, given.min(), given)
        highest = (values == maximum_filter(values, 3)) & (values > values.min()) & ~far
        row, column = np.nonzero(highest)
        kept: list[tuple[float, float]] = []
        for k in np.argsort(-values[row, column], kind="stable"):
            x, y = float(axis[column[k]]), float(axis[row[k]])
            if all(np.hypot(x - u, y - v) > apart for u, v in kept):
                kept.append((x, y))
                rows.append((lens, x, y, float(values[row[k], column[k]])))
            if len(kept) == most:
                break
    return pd.DataFrame(rows, columns=["lens", "x", "y", "height"])


def matched(
    found: pd.DataFrame, subhalos: pd.DataFrame, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return which peaks are right, and the height of the highest peak near each subhalo.

    ``subhalos`` has the columns lens, x, y ["]. A subhalo without a peak within ``radius`` ["] has
    the height -inf.
    """
    right = np.zeros(len(found), bool)
    heights = np.full(len(subhalos), -np.inf)
    of_lens = found.groupby("lens").indices
    for lens, own in subhalos.groupby("lens").indices.items():
        at = of_lens.get(lens)
        if at is None:
            continue
        x, y = (found[name].to_numpy()[at] for name in ("x", "y"))
        u, v = (subhalos[name].to_numpy()[own] for name in ("x", "y"))
        near = np.hypot(x[:, None] - u, y[:, None] - v) < radius
        right[at] = near.any(axis=1)
        height = found["height"].to_numpy()[at]
        heights[own] = np.where(near, height[:, None], -np.inf).max(axis=0)
    return right, heights


def threshold(wrong: pd.DataFrame, weights: np.ndarray, false_peaks: float) -> float:
    """Return the height above which there are so many false peaks a lens, on average.

    ``wrong`` are the false peaks, columns lens and height; each counts as often as its lens,
    ``weights`` (n,) of all lenses. -inf if there are fewer.
    """
    wrong = wrong.sort_values("height", ascending=False, kind="stable")
    many = weights[wrong["lens"].to_numpy()].cumsum() > false_peaks * weights.sum()
    return float(wrong["height"].to_numpy()[many.argmax()]) if many.any() else -np.inf
