"""Real lenses in notebooks 01 and 06: a lens to fit, the fits of all of them, and their numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from studies.config import Config
from studies.slacs import Maps, read_maps
from studies.story.extended import committed, first_there
from studies.targets import LENS
from vitdm.data.dataset import read_catalog
from vitdm.data.observation import Observation
from vitdm.data.readers import read_observation
from vitdm.data.simulated import observed
from vitdm.lens import LensModel
from vitdm.simulation import NO_SUB, load_population

POPULATION = "hubble"  # simulated lenses like those of SLACS
FULL = ("poor", "not_converged")  # flags of fits that did not reach the noise


def lens_to_fit(config: Config, name: str = LENS, index: int = 10, seed: int = 2026) -> Observation:
    """Return a real lens, if it is there, else lens ``index`` of simulated ones like it."""
    folder = Path(config.slacs.images or "") / name
    if config.slacs.images and folder.is_dir():
        return read_observation(folder, pixel_scale=config.slacs.pixel_scale)
    return observed(index, NO_SUB, seed, load_population(POPULATION))


def parameters(model: LensModel) -> pd.DataFrame:
    """Return the parameters of a mass that were free, in a form to be shown."""
    table = model.table().dropna(subset="error")
    return table.reset_index(drop=True)


def read_fits(config: Config, results: Path) -> tuple[pd.DataFrame, dict[str, Maps]] | None:
    """Return the table of ``studies.slacs`` and its maps by lens; None if there are none.

    Those of this run go before the committed ones.
    """
    own = results / "slacs" / "all" / "slacs.csv"
    file = first_there([own, *committed(config, "slacs.csv")])
    if file is None:
        return None
    return read_catalog(file), read_maps(file.with_name("slacs_maps.npz"))


def compact(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table of fits for the article: numbers with errors in a column, flags in words."""
    flags = table["flags"].fillna("").str.replace(" ", ", ").str.replace("_", " ")
    return pd.DataFrame(
        {
            "name": table["name"],
            "theta_E": _with_errors(table["theta_E"], table["theta_E_error"], 3),
            "bolton": table["theta_E_bolton"],
            "cao": table["theta_E_cao"],
            "ratio": table["ratio"],
            "slope": _with_errors(table["slope"], table["slope_error"], 3),
            "shear": table["shear"],
            "ellipticity": table["ellipticity"],
            "chi2": table["chi2"],
            "chi2_arcs": table["chi2_arcs"],
            "chi2_sky": table["chi2_sky"],
            "remarks": [
                "; ".join(filter(None, row))
                for row in zip(flags, table["why"].fillna(""), strict=True)
            ],
        }
    )


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Return how many lenses have Einstein radii that agree, fitted and published ones."""
    numbers = slacs_numbers(table)
    rows = {
        "fitted, Bolton et al.": ("n_within", "n_published"),
        "fitted, Cao et al.": ("n_within_cao", "n_both"),
        "fitted, one of both": ("n_within_either", "n_published"),
        "Bolton et al., Cao et al.": ("n_published_within", "n_both"),
        "fitted without a flag, Bolton et al.": ("n_clean_within", "n_clean"),
    }
    keys = {name: [numbers[f"slacs_{key}"] for key in pair] for name, pair in rows.items()}
    return pd.DataFrame.from_dict(keys, orient="index", columns=["agree", "of"])


def _with_errors(values: pd.Series, errors: pd.Series, digits: int) -> list[str]:
    """Return values with errors, on one line (spaces that do not break)."""
    pairs = zip(values, errors, strict=True)
    return [f"{value:.{digits}f}\u00a0±\u00a0{error:.{digits}f}" for value, error in pairs]


def slacs_numbers(table: pd.DataFrame) -> dict[str, Any]:
    """Return how many fits agree with published radii, and the middle of what was measured.

    ``clean`` are fits without a flag; ``reached`` those whose arcs are fitted to the noise (none of
    the flags ``FULL``). The scatter is half of the central 68 %. ``both`` are lenses of which both
    published radii are known, ``published_within`` those of them whose two radii agree.
    """
    flags = table["flags"].fillna("")
    clean, reached = flags == "", ~flags.str.contains("|".join(FULL))
    known, within = table["ratio"].notna(), table["within"] == 1
    low, middle, high = table["ratio"][known].quantile([0.16, 0.5, 0.84])
    ratio = table["theta_E_cao"] / table["theta_E_bolton"]
    over_sky = table["chi2"] / table["chi2_sky"]
    numbers = {
        "n": len(table),
        "n_published": int(known.sum()),
        "n_within": int(within.sum()),
        "n_within_cao": int((table["within_cao"] == 1).sum()),
        "n_within_either": int((within | (table["within_cao"] == 1)).sum()),
        "n_both": int(ratio.notna().sum()),
        "n_published_within": int(((ratio - 1).abs() <= 0.05).sum()),
        "n_clean": int(clean.sum()),
        "n_clean_within": int((clean & within).sum()),
        "n_converged": int((table["converged"] == 1).sum()),
        "n_reached": int(reached.sum()),
        "n_reached_within": int((reached & within).sum()),
        "ratio_median": middle,
        "ratio_scatter": (high - low) / 2,
        "slope_median": table["slope"].median(),
        "slope_scatter": table["slope"].quantile([0.16, 0.84]).diff().iloc[-1] / 2,
        "chi2_over_sky_median": over_sky.median(),
        "cpu_seconds_median": table["cpu_seconds"].median(),
        "error_median": (table["theta_E_error"] / table["theta_E"]).median(),
    }
    for name in ("chi2", "chi2_arcs", "chi2_sky"):
        numbers |= {f"{name}_{word}": getattr(table[name], word)() for word in ("min", "max")}
        numbers[f"{name}_median"] = table[name].median()
    numbers |= {f"lens_{key}": value for key, value in _of_lens(table).items()}
    return {f"slacs_{key}": _plain(value) for key, value in numbers.items()}


def _of_lens(table: pd.DataFrame) -> dict[str, Any]:
    """Return the numbers of the lens ``LENS``; none if it is not among them."""
    keys = ["theta_E", "theta_E_error", "slope", "slope_error", "shear", "chi2", "chi2_arcs"]
    rows = table[table["name"] == LENS]
    return rows[[*keys, "chi2_sky", "theta_E_bolton"]].iloc[0].to_dict() if len(rows) else {}


def _plain(value: Any) -> int | float:
    return int(value) if isinstance(value, (int, np.integer)) else float(value)
