"""Tell how unlike real images of SLACS lenses and simulated ones of a population are.

``python benchmarks/hubble_match.py [REAL] [--population hubble realistic] [--n 200]``: REAL
(default: data/real/slacs_hst) holds a folder for each lens (docs/data.md). Features of the images
are compared by the energy test of ``studies.real_sky``, on all of them together, and one by one by
Kolmogorov-Smirnov tests. Both kinds are cut to the size of the simulated images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from studies.real_sky import energy_test, placed
from vitdm.config import Features, Preprocess
from vitdm.data.readers import observations_at, read_observation
from vitdm.errors import InputError
from vitdm.features import measure
from vitdm.simulation.drawing import simulate_one
from vitdm.simulation.population import load_population

PERMUTATIONS = 999


def cut(image: np.ndarray, side: int) -> np.ndarray:
    """Return the middle square of an image, or all of a smaller one."""
    rows, columns = (max((n - side) // 2, 0) for n in image.shape)
    return image[rows : rows + side, columns : columns + side]


def table(images: list[np.ndarray]) -> pd.DataFrame:
    """Return the features of images, NaN in missing pixels filled with the median."""
    filled = [np.where(np.isnan(a), np.nanmedian(a), a).astype(np.float32) for a in images]
    return pd.DataFrame([measure(a, Preprocess(), Features()) for a in filled]).astype(float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("real", nargs="?", default="data/real/slacs_hst")
    parser.add_argument("--population", nargs="+", default=["hubble", "realistic"])
    parser.add_argument("--n", type=int, default=200, help="simulated images")
    options = parser.parse_args()
    places = observations_at([options.real]) if Path(options.real).is_dir() else []
    if not places:
        raise InputError(f"{options.real}: found no lenses; expected a folder for each")
    real = [read_observation(place).data for place in places]
    for name in options.population:
        population = load_population(name)
        kinds = ["no_sub", "cdm"]
        images = [simulate_one(i, kinds[i % 2], 2026, population)[0] for i in range(options.n)]
        both = pd.concat([table([cut(a, population.num_pix) for a in real]), table(images)])
        is_real = np.arange(len(both)) < len(real)
        distance, p = energy_test(placed(both.to_numpy()), is_real, PERMUTATIONS, 0)
        single = {
            column: stats.ks_2samp(both[column][is_real].dropna(), both[column][~is_real].dropna())
            for column in both
            if both[column][is_real].notna().any() and both[column][~is_real].notna().any()
        }
        worst = sorted(single, key=lambda column: -single[column].statistic)[:6]
        print(
            f"{name}: {len(real)} real and {options.n} simulated images, {both.shape[1]} features"
        )
        print(f"  energy distance {distance:.3f} (0: alike, 1: apart), p {p:.3f}")
        differing = sum(test.pvalue < 0.05 / len(single) for test in single.values())
        print(f"  {differing} features differ (Bonferroni, 5 %); most unlike:")
        for column in worst:
            medians = [both[column][rows].median() for rows in (is_real, ~is_real)]
            print(
                f"    {column}: K-S {single[column].statistic:.2f}, medians %.3g, %.3g"
                % tuple(medians)
            )


if __name__ == "__main__":
    main()
