"""The search for dark subhalos in real lenses (notebook 06): its tables, maps and numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from studies.config import Config
from studies.slacs_search import (
    FOUND,
    UNMASKED,
    Maps,
    completeness,
    good,
    read_maps,
)
from studies.story.extended import committed, first_there
from studies.targets import LENS
from vitdm.data.dataset import read_catalog

PUBLISHED = (-0.651, 1.040)  # ", of the subhalo of J0946+1006 (Vegetti et al. 2010)
REFITTED = ("fit_x", "fit_y", "solar_mass_1kpc", "delta_evidence", "delta_multipoles")
REFITTED += ("delta_luminous",)
NEAR = 0.1  # ", from it
LISTED = 2 * FOUND  # p-value up to which lenses are listed


class Searches(NamedTuple):
    """The search of all lenses: a row a lens, a row a peak, a row a clump, and maps by lens."""

    table: pd.DataFrame
    peaks: pd.DataFrame
    injections: pd.DataFrame
    maps: dict[str, Maps]


def read_searches(config: Config, results: Path) -> Searches | None:
    """Return what ``studies.slacs_search`` has made; None if it is not there.

    Those of this run go before the committed ones.
    """
    own = results / "slacs" / "all" / "slacs_search.csv"
    file = first_there([own, *committed(config, "slacs_search.csv")])
    if file is None:
        return None
    tables = [file.with_name(f"slacs_{name}.csv") for name in ("search", "peaks", "injections")]
    maps = read_maps(file.with_name("slacs_search.npz"))
    return Searches(*map(read_catalog, tables), maps)


def compact(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table of the article, the highest score first."""
    table = table.reindex(columns=[*table.columns, *set(REFITTED) - set(table.columns)])
    table = table.sort_values("score", ascending=False)
    flags = table["flags"].fillna("").str.replace(" ", ", ").str.replace("_", " ")
    bare = table["name"].str.endswith(UNMASKED)
    words = np.where(bare, "neighbours not masked", table["why"].fillna(""))
    return pd.DataFrame(
        {
            "name": table["name"].str.removesuffix(UNMASKED),
            "z_lens": table["z_lens"],
            "snr": table["snr"],
            "misfit": table["misfit"],
            "score": table["score"],
            "p_value": table["p_value"],
            "x": table["x"],
            "y": table["y"],
            "mass": table["mass"] / 1e9,
            "mass_1kpc": table["solar_mass_1kpc"] / 1e9,
            "delta_evidence": table["delta_evidence"],
            "sensitivity": table["sensitivity"] / 1e9,
            "sensitivity_best": table["sensitivity_best"] / 1e9,
            "remarks": ["; ".join(filter(None, row)) for row in zip(flags, words, strict=True)],
        }
    ).reset_index(drop=True)


def alarms(table: pd.DataFrame) -> pd.DataFrame:
    """Return the lenses with a p-value up to ``LISTED``, the highest score first."""
    table = table[table["p_value"] <= LISTED].sort_values("score", ascending=False)
    columns = ["name", "score", "misfit", "p_value", "snr", "x", "y", "mass", "delta_evidence"]
    known = [column for column in columns if column in table]
    return table[[*known, "chi2_arcs", "flags", "warnings", "why"]].reset_index(drop=True)


def of_completeness(searches: Searches, suffix: str = "") -> pd.DataFrame:
    """Return the completeness by mass, of lenses with a good fit in which nothing was found."""
    table = searches.table
    names = table["name"][good(table) & (table["p_value"] > LISTED)]
    return completeness(searches.injections[searches.injections["name"].isin(names)], suffix)


def search_numbers(searches: Searches) -> dict[str, Any]:
    """Return what the article says of the search in numbers.

    ``rank`` is that of the lens ``LENS`` by score, ``offset`` ["] the distance of its highest peak
    from the published place; ``rank_good`` and ``rank_evidence``, by the gain of ln evidence of the
    highest peak, are those among good fits. ``above`` lenses have a p-value up to ``FOUND``, where
    chance alone would have ``expected``. ``found_95`` is the share of clumps of 10^9.5 solar masses
    that are found after a refit, ``anywhere_95`` wherever the highest peak is.
    """
    bare = searches.table["name"].str.endswith(UNMASKED)
    table = searches.table[~bare].sort_values("score", ascending=False).reset_index(drop=True)
    refitted, linear = (of_completeness(searches, suffix) for suffix in ("_refitted", ""))
    above, fine = table["p_value"] <= FOUND, good(table)
    numbers = {
        "n": len(table),
        "n_good": int(fine.sum()),
        "n_above": int(above.sum()),
        "expected": FOUND * len(table),
        "n_above_good": int((above & fine).sum()),
        "n_injected": int(refitted["n"].sum()),
        "n_injected_linear": int(linear["n"].sum()),
        "misfit_median": table["misfit"].median(),
        "p_median": table["p_value"].median(),
        "sensitivity_median": table["sensitivity"][fine].median(),
        "sensitivity_best": table["sensitivity_best"][fine].min(),
        **_shares(refitted, ""),
        **_shares(linear, "_linear"),
    }
    rows = table.index[table["name"] == LENS]
    if len(rows):
        numbers |= _of_lens(table.loc[rows[0]], rows[0] + 1)
        numbers |= _of_map(searches.maps[LENS]) if LENS in searches.maps else {}
        numbers["rank_good"] = int(fine[: rows[0] + 1].sum())
        gains = table["delta_evidence"]
        numbers["rank_evidence"] = int(1 + (gains[fine] > gains[rows[0]]).sum())
    for name, row in searches.table[bare].set_index("name").iterrows():
        numbers |= _of_control(row, table[table["name"] == name.removesuffix(UNMASKED)], name[:5])
    return {f"search_{key}": _plain(value) for key, value in numbers.items()}


def _of_lens(row: pd.Series, rank: int) -> dict[str, Any]:
    """Return the numbers of one lens beside what is published of it."""
    places = {"offset": ("x", "y"), "fit_offset": ("fit_x", "fit_y")}
    keys = ["score", "misfit", "p_value", "snr", "x", "y", "mass", "n_refitted"]
    keys += ["n_refitted_above", "sensitivity", "sensitivity_best", *REFITTED]
    numbers = {"rank": rank} | {f"lens_{key}": row[key] for key in keys if key in row}
    for name, (x, y) in places.items():
        if x in row:
            numbers[f"lens_{name}"] = np.hypot(row[x] - PUBLISHED[0], row[y] - PUBLISHED[1])
    return numbers


def _of_map(maps: Maps) -> dict[str, float]:
    """Return the lowest S/N of a map, and the share of its places that are near the published."""
    x, y = np.meshgrid(maps.x, maps.y)
    searched = np.isfinite(maps.snr)
    near = np.hypot(x - PUBLISHED[0], y - PUBLISHED[1]) <= NEAR
    chance = (near & searched).sum() / searched.sum()
    return {"lens_lowest": float(np.nanmin(maps.snr)), "lens_chance": float(chance)}


def _of_control(row: pd.Series, masked: pd.DataFrame, name: str) -> dict[str, Any]:
    """Return the numbers of a lens whose neighbours were not masked, beside those with masks."""
    numbers = {key: row[key] for key in ("score", "p_value", "x", "y", "snr")}
    numbers["luminous_gain"] = row.get("delta_luminous", np.nan) - row.get("delta_evidence", np.nan)
    if len(masked):
        numbers["masked_p_value"] = masked["p_value"].iloc[0]
    return {f"{name.lower()}_{key}": value for key, value in numbers.items()}


def _shares(found: pd.DataFrame, end: str) -> dict[str, float]:
    """Return the completeness by ten times log10 of the mass, and where no place is asked for."""
    rows = {f"{round(10 * row.log_mass)}{end}": row for row in found.itertuples()}
    numbers = {f"found_{key}": row.share for key, row in rows.items()}
    return numbers | {f"anywhere_{key}": row.anywhere for key, row in rows.items()}


def _plain(value: Any) -> int | float:
    return int(value) if isinstance(value, (int, np.integer)) else float(value)
