"""How fast the mass of a free-form fit is, against lenstronomy's EPL and SHEAR.

``python benchmarks/power_law.py``: some ten seconds, one thread, in turns. First the deflection of
a power law (q = 0.7) with shear, then its derivatives by the eight parameters: ours are analytic
and by all 14, multipoles included, lenstronomy's are central differences of its deflection. Both
must give the same deflection, to 1e-8 arcsec. lenstronomy's EPL_NUMBA is compiled, too.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
from lenstronomy.LensModel.lens_model import LensModel

from vitdm.lens.free_form import mass

REPEATS = 9
STEP = 1e-5
VALUES = np.array([1.2, 0.16, 0.07, 0.02, -0.03, 0.04, -0.02, 2.1, *[0.0] * 6])


class Lenstronomy:
    """lenstronomy's deflection of a power law with shear, as a function of our parameters."""

    def __init__(self, profile: str) -> None:
        self.model = LensModel([profile, "SHEAR"])

    def deflection(self, values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        theta_E, e1, e2, center_x, center_y, gamma1, gamma2, slope = values[:8].tolist()
        halo = {"theta_E": theta_E, "e1": e1, "e2": e2, "gamma": slope}
        halo |= {"center_x": center_x, "center_y": center_y}
        shear = {"gamma1": gamma1, "gamma2": gamma2, "ra_0": center_x, "dec_0": center_y}
        return np.array(self.model.alpha(x, y, [halo, shear]))

    def derivatives(self, values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        steps = STEP * np.eye(values.size)[:8]
        ends = ((self.deflection(values + k * s, x, y) for k in (1, -1)) for s in steps)
        return np.array([(plus - minus) / (2 * STEP) for plus, minus in ends])


def nanoseconds(function: Callable, x: np.ndarray, y: np.ndarray) -> float:
    """Return the nanoseconds of a call per ray."""
    started = time.perf_counter()
    function(VALUES, x, y)
    return 1e9 * (time.perf_counter() - started) / x.size


def compare(title: str, functions: dict[str, Callable], x: np.ndarray, y: np.ndarray) -> None:
    """Print the time of each function and its ratio to that of the first, call by call."""
    for function in functions.values():  # compiled before the clock
        function(VALUES, x[:10], y[:10])
    times = np.array([[nanoseconds(f, x, y) for f in functions.values()] for _ in range(REPEATS)])
    print(title)
    for name, column in zip(functions, times.T, strict=True):
        ratio = column / times[:, 0]
        spread = f"{np.median(ratio):5.1f} (from {ratio.min():.1f} to {ratio.max():.1f})"
        print(f"  {name:22s} {np.median(column):6.0f} ns a ray, ratio {spread}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=20_000, help="rays")
    n = parser.parse_args().n
    x, y = np.random.default_rng(0).uniform(-3, 3, (2, n))
    others = {name: Lenstronomy(name) for name in ("EPL", "EPL_NUMBA")}
    compare(
        f"deflection of {n} rays, {REPEATS} repeats",
        {"ours": mass.deflection}
        | {f"lenstronomy {name}": other.deflection for name, other in others.items()},
        x,
        y,
    )
    compare(
        "deflection and derivatives",
        {"ours": mass.deflection_and_derivatives}
        | {f"lenstronomy {name}": other.derivatives for name, other in others.items()},
        x,
        y,
    )
    worst = np.abs(mass.deflection(VALUES, x, y) - others["EPL"].deflection(VALUES, x, y)).max()
    print(f"largest difference of the deflections: {worst:.1e} arcsec")
    if worst > 1e-8:
        sys.exit("the deflections differ by more than 1e-8 arcsec")


if __name__ == "__main__":
    main()
