"""What a search says in words: its answer, and what speaks against taking it at face value."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import binary_erosion

from vitdm.lens.free_form.files import positions

if TYPE_CHECKING:
    import pandas as pd

    from vitdm.lens.perturbers.result import Search

#: what can be wrong with a search, or with its highest peak
WARNINGS = {
    "fit": "the fit of the smooth lens has flags, explained in lens.json",
    "rough": "without its highest peaks the map still varies more than noise makes it: the smooth "
    "model lacks something all over the lens; the score is divided by how much more",
    "negative": "the deepest hole of the map is deeper than its peak is high, and mass is not "
    "negative: an error of the smooth model does both",
    "no_twins": "no twins were searched: how often noise alone scores as much is not known",
    "few_twins": "fewer than 100 twins: the p-value is coarse",
    "twins_disagree": "wholly refitted twins score higher than those of the linear regime: the "
    "p-value is too small",
    "border": "the highest peak lies beside pixels that were not fitted: a masked or unmasked "
    "neighbour may cause it",
    "unstable": "the refit of the highest peak did not converge, or went elsewhere: linear map and "
    "mass of the peak are rough",
    "multipoles": "more multipoles of the lens explain the highest peak nearly as well",
    "luminous": "light at the place of the highest peak explains it nearly as well as mass: a "
    "satellite or a part of the galaxy may shine there",
    "redshifts": "redshifts are unknown: masses are in arcsec^2, squared Einstein radii of points",
}
ROUGH = 1.3  # rms of what is left of a map without its peaks, over that of twins
DEEP = 4.0  # S/N of a hole, which noise makes now and then up to there
FEWEST_TWINS = 100
NEAR = 0.15  # ", from pixels that were not fitted
ELSEWHERE = 0.3  # ", between a peak of the map and its refit
CLOSE = 5.0  # ln of evidence by which a rival may be worse
HIGHER = 1.3  # median score of refitted twins, over that of twins in the linear regime
SIGNIFICANT = 0.01  # p-value from which something stands out
UNSURE = 0.1


def warnings_of(search: Search) -> dict[str, str]:
    """Return what speaks against the result of a search, of ``WARNINGS``."""
    model, score_map = search.model, search.maps[search.settings.detect].snr
    twins, refitted = search.twin_scores, search.refitted_scores
    seen = score_map[np.isfinite(score_map)]
    found = {
        "fit": bool(model.flags),
        "rough": search.misfit > ROUGH,
        "negative": len(seen) > 0 and -seen.min() > max(seen.max(), DEEP),
        "no_twins": not len(twins),
        "few_twins": 0 < len(twins) < FEWEST_TWINS,
        "twins_disagree": bool(len(refitted) and len(twins))
        and np.median(refitted) > HIGHER * np.median(twins),
        "redshifts": not math.isfinite(search.solar_masses),
    }
    if len(search.peaks):
        found |= _of_peak(search, search.peaks.iloc[0])
    said = {name: text for name, text in WARNINGS.items() if found.get(name)}
    if "fit" in said:
        said["fit"] += f" ({', '.join(model.flags)})"
    return said


def _of_peak(search: Search, peak: pd.Series) -> dict[str, bool]:
    """Return which warnings concern a peak."""
    found = {"border": _near_border(search, peak["x"], peak["y"])}
    gain = peak.get("delta_evidence", math.nan)
    if not np.isfinite(gain):
        return found  # it was not refitted
    off = math.hypot(peak["fit_x"] - peak["x"], peak["fit_y"] - peak["y"])
    return found | {
        "unstable": not peak["converged"] or off > ELSEWHERE,
        "multipoles": peak["delta_multipoles"] > gain - CLOSE,
        "luminous": peak["delta_luminous"] > gain - CLOSE,
    }


def _near_border(search: Search, x: float, y: float) -> bool:
    fitted = search.model.fitted
    u, v = positions(search.model)
    inside = binary_erosion(fitted, border_value=0)
    rim = fitted & ~inside
    return bool((np.hypot(u[rim] - x, v[rim] - y) < NEAR).any())


def answer(search: Search) -> str:
    """Return in a sentence whether something stands out, by the p-value."""
    p, n = search.p_value, len(search.twin_scores)
    if not math.isfinite(p):
        return "How often noise alone scores as much is not known: no twins were searched."
    as_high = round(p * (1 + n)) - 1
    twins = f"{as_high or 'None'} of {n} smooth twins of this lens score{'s' * (as_high < 2)} as"
    if p > UNSURE:
        return f"Nothing stands out. {twins} high."
    if p > SIGNIFICANT:
        return f"Hardly anything stands out. {twins} high."
    return f"Something stands out that noise does not explain. {twins} high."
