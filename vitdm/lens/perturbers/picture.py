"""One page that shows a search: what the smooth lens leaves, the maps, the twins, and the peaks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitdm.errors import cut
from vitdm.lens.free_form.panels import (
    LONGEST_NAME,
    Views,
    page,
    wrapped,
    write_column,
)
from vitdm.lens.perturbers.files import SURE
from vitdm.lens.perturbers.verdict import answer, warnings_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vitdm.lens.perturbers.result import Search

ARCS = 2.0  # noise: the contour of the arcs on the maps
LEAST = 6.0  # S/N: the end of the scale, at least
SAME = 0.1  # ", between two refits that ended at the same place
WORST = 100.0  # masses of the map of sensitivity, over the best
NOWHERE = "0.88"  # grey of places of which nothing is known
PEAK, TWINS, RIVAL = "#D55E00", "0.75", "#0072B2"  # Okabe and Ito's vermilion and blue
NAMES = {
    "point": "point mass",
    "isothermal": "isothermal sphere",
    "string": "string",
}


def picture(search: Search, zoom: float | None = None) -> Figure:
    """Return a page with image and residual, the maps of S/N and sensitivity, and the twins.

    ``zoom`` ["] is the half width of the panels; by default all fitted pixels are seen. Maps are of
    the profile ``settings.detect``; the numbers on them are those of the peaks.
    """
    figure, panels, right = page()
    model, views = search.model, Views(search.model, zoom)
    arcs = model.observation.data - model.lens_light
    views.brightness(panels[0, 0], arcs, "Data − lens light", model.arcs)
    views.residual(panels[0, 1], "Residual of the smooth lens [noise]")
    _snr(panels[0, 2], views, search)
    _sensitivity(panels[1, 0], views, search)
    for axes in (panels[0, 0], panels[0, 1], panels[1, 0]):
        _numbers(axes, search.peaks)
    _twins(panels[1, 1], search)
    _rivals(panels[1, 2], search.peaks)
    name = cut(Path(model.observation.name).name, LONGEST_NAME)
    write_column(right, name, _lines(search))
    return figure


def name_of(profile: str) -> str:
    """Return a profile of the settings in words."""
    if profile.startswith("nfw_"):
        return f"NFW halo, c = {profile.removeprefix('nfw_')}"
    return NAMES[profile]


# ---------------------------------------------------------------------------------------- panels


def _extent(search: Search) -> list[float]:
    """Return the edges ["] of the maps."""
    half = search.settings.spacing / 2
    return [axis[k] + s * half for axis in (search.axis_x, search.axis_y) for k, s in ENDS]


ENDS = ((0, -1), (-1, 1))


def _snr(axes: Axes, views: Views, search: Search) -> None:
    """Show the S/N of the profile that is detected, the peaks, the arcs and the critical curve."""
    from matplotlib.colors import Normalize

    image = search.image(search.maps[search.settings.detect].snr)
    end = max(LEAST, float(np.nanmax(np.abs(image), initial=0.0)))
    title = f"S/N of a perturber ({name_of(search.settings.detect)})"
    views.show(axes, image, title, Normalize(-end, end), "RdBu_r", _extent(search), NOWHERE)
    views.critical_curves(axes)
    _arcs(axes, views, search, "0.3")
    _numbers(axes, search.peaks)


def _sensitivity(axes: Axes, views: Views, search: Search) -> None:
    """Show which mass would have S/N 5 at each place."""
    from matplotlib.colors import LogNorm

    masses = search.sensitivity(search.settings.detect, SURE)
    known = masses[np.isfinite(masses) & (masses > 0)]
    lowest = float(known.min()) if len(known) else 1.0
    norm = LogNorm(lowest, lowest * WORST, clip=False)
    title = f"Mass with S/N {SURE:g} [{_unit(search)}]"
    views.show(axes, search.image(masses), title, norm, "viridis_r", _extent(search), NOWHERE)
    _arcs(axes, views, search, "white")


def _unit(search: Search) -> str:
    return "$M_\\odot$" if math.isfinite(search.solar_masses) else "arcsec²"


def _arcs(axes: Axes, views: Views, search: Search, colour: str) -> None:
    """Draw where the arcs stand out of the noise."""
    level = [ARCS * views.sigma]
    if search.model.arcs.max() > level[0]:
        style = {"colors": colour, "linewidths": 0.6, "linestyles": "dashed"}
        axes.contour(search.model.arcs, level, extent=views.extent, **style)


def _numbers(axes: Axes, peaks: pd.DataFrame) -> None:
    """Draw a ring about each peak, with its number, and a cross where its refit ended."""
    from matplotlib.patheffects import withStroke

    edge = [withStroke(linewidth=2, foreground="white")]
    for k, peak in enumerate(peaks.itertuples(), 1):
        style = {"color": "black", "mfc": "none", "mew": 1.0, "path_effects": edge}
        axes.plot(peak.x, peak.y, "o", ms=9, **style)
        if _is_refitted(peak):
            axes.plot(peak.fit_x, peak.fit_y, "x", ms=5, **style)
        style = {"textcoords": "offset points", "fontsize": 8, "weight": "bold"}
        text = axes.annotate(str(k), (peak.x, peak.y), (5, 4), **style)
        text.set_path_effects(edge)


def _is_refitted(peak: Any) -> bool:
    return bool(np.isfinite(getattr(peak, "delta_evidence", math.nan)))


def _twins(axes: Axes, search: Search) -> None:
    """Show the scores of the smooth twins, and that of the lens."""
    axes.set_title("Scores of this lens and its smooth twins", fontsize=9)
    scores = [*search.twin_scores, *search.refitted_scores, search.score]
    bins = np.linspace(0, max(1.1 * max(scores), 5.0), 40)
    for values, label, style in (
        (search.twin_scores, "twins", {"color": TWINS}),
        (search.refitted_scores, "refitted twins", {"color": RIVAL, "histtype": "step"}),
    ):
        if len(values):
            axes.hist(values, bins, label=f"{len(values)} {label}", **style)
    axes.axvline(search.score, color=PEAK, lw=1.5, label=f"this lens: {search.score:.1f}")
    axes.set_xlim(bins[0], bins[-1])
    axes.set(yticks=[], ylim=(0, 1.3 * axes.get_ylim()[1]))  # room for the legend
    _small(axes)


def _rivals(axes: Axes, peaks: pd.DataFrame) -> None:
    """Show what each explanation of the peaks gains in ln evidence."""
    axes.set_title("Gain in ln evidence of each peak", fontsize=9)
    rows = {"mass": ("delta_evidence", PEAK), "light": ("delta_luminous", RIVAL)}
    rows["multipoles"] = ("delta_multipoles", TWINS)
    if "delta_evidence" not in peaks or peaks["delta_evidence"].isna().all():
        axes.text(0.5, 0.5, "no peak was fitted", ha="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[], box_aspect=1)
        return
    height = 0.8 / len(rows)
    for k, (label, (column, colour)) in enumerate(rows.items()):
        at = np.arange(len(peaks)) + (k - 1) * height
        axes.barh(at, peaks[column], height, color=colour, label=label)
    axes.axvline(0, color="black", lw=0.8)
    axes.set_xlim(right=1.5 * axes.get_xlim()[1])  # room for the legend
    labels = [f"{k}" for k in range(1, len(peaks) + 1)]
    axes.set_yticks(range(len(peaks)), labels, fontsize=8, weight="bold")
    axes.invert_yaxis()
    _small(axes)


def _small(axes: Axes) -> None:
    """Make axes with numbers of a panel of the size of an image."""
    axes.set_box_aspect(1)
    axes.tick_params(labelsize=7, length=2, pad=1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="best", fontsize=7, framealpha=0.8)


# ------------------------------------------------------------------------------------------ text


NOTE = (
    "How to read this page: S/N is the most probable mass at a place over its error, with source, "
    "lens light, smooth mass and PSF marginalised. Twins are simulated images of this lens without "
    "any perturber. Dashed: the arcs. Rings: peaks; crosses: their refits. Lengths in arcsec from "
    "the middle of the image, x to the right, y upwards. Masses are total ones, errors without "
    "what the model lacks. ln evidence: a gain of 10 is a ratio of probabilities of 22 000, if "
    "both models were right. See docs/search.md."
)


def _lines(search: Search) -> list[str]:
    """Return the answer, the peaks, the warnings, and how to read the page."""
    lines = [*wrapped(answer(search)), ""]
    misfit = f" over the misfit {search.misfit:.2f}" * (search.misfit > 1)
    lines.append(f"score: {search.score:.1f}, the largest S/N{misfit}")
    if math.isfinite(search.p_value):
        least = " (the least that so many twins can tell)"
        only = bool(search.p_value * (1 + len(search.twin_scores)) < 1.5)
        lines += wrapped(f"p-value: {search.p_value:.2g}{least * only}")
    lines += ["", *_peaks(search), "", *_warnings(search)]
    return [*lines, "", *wrapped(NOTE)]


def _peaks(search: Search) -> list[str]:
    """Return some lines for each peak."""
    lines: list[str] = []
    ends: list[tuple[float, float]] = []
    for k, peak in enumerate(search.peaks.itertuples(), 1):
        lines.append(f"Peak {k} at ({peak.x:+.2f}, {peak.y:+.2f}): S/N {peak.snr:.1f}")
        lines.append(f"  map     {_mass(search, peak.mass, peak.mass_error)}")
        end = (peak.fit_x, peak.fit_y) if _is_refitted(peak) else (math.nan, math.nan)
        same = [n for n, other in enumerate(ends, 1) if math.dist(end, other) < SAME]
        if same:
            lines.append(f"  refit   ends at that of peak {same[0]}")
        elif _is_refitted(peak):
            lines += _refit(search, peak)
        ends.append(end)
    return lines or ["No peaks."]


def _refit(search: Search, peak: Any) -> list[str]:
    """Return what the refit of a peak, without linearisation, has found."""
    x = f"{peak.fit_x:+.3f} ± {peak.fit_x_error:.3f}"
    y = f"{peak.fit_y:+.3f} ± {peak.fit_y_error:.3f}"
    halo = peak.profile == "nfw"
    profile = f"NFW halo, c = {peak.concentration:.0f}" if halo else name_of(peak.profile)
    lines = [f"  refit   {_mass(search, peak.fit_mass, peak.fit_mass_error)}, {profile}"]
    if np.isfinite(peak.solar_mass_1kpc):
        lines.append(f"          {_power(peak.solar_mass_1kpc)} Msun within 1 kpc")
    lines.append(f"          at ({x}, {y})")
    rivals = f"light {peak.delta_luminous:+.0f}, multipoles {peak.delta_multipoles:+.0f}"
    return [*lines, f"  ln evidence {peak.delta_evidence:+.0f} (rivals: {rivals})"]


def _mass(search: Search, mass: float, error: float) -> str:
    """Return a mass [arcsec^2] and its error, in solar masses if they are known."""
    if not math.isfinite(search.solar_masses):
        return f"{_power(mass, error)} arcsec²"
    return f"{_power(mass * search.solar_masses, error * search.solar_masses)} Msun"


def _power(value: float, error: float | None = None) -> str:
    """Return a number as (2.1 ± 0.3)e9."""
    larger = max(abs(value), error or 0.0)
    power = int(f"{larger:.1e}".partition("e")[2])  # of the rounded number
    scaled = f"{value / 10.0**power:.1f}"
    if error is None:
        return f"{scaled}e{power}"
    return f"({scaled} ± {error / 10.0**power:.1f})e{power}"


def _warnings(search: Search) -> list[str]:
    found = warnings_of(search)
    if not found:
        return ["No warnings."]
    lines = ["Warnings:"]
    for name, text in found.items():
        lines += wrapped(f"{name}: {text}", hanging=True)
    return lines
