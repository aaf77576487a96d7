"""Compare simulated lenses of the population ``lenses`` with real images of the set it imitates.

``python benchmarks/lenses_match.py REAL --out FOLDER``: REAL holds the folders ``sub`` and
``no_sub`` of DeepLense's binary set, or a sample of them. Writes the figure lenses_match (.png,
.pdf), the table lenses_match.md and all numbers, lenses_match_numbers.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from studies.plots import lenses
from studies.plots.style import save, style
from vitdm import provenance, simulation
from vitdm.simulation.population import load_population

ROOT = Path(__file__).parents[1]
POPULATION = "lenses"
CORE, OUTER, SKY = 12, 55, 68  # px from the centre: lens light, arcs, neither
STATISTICS = {
    "mean": "mean brightness",
    "p75": "75th percentile",
    "p95": "95th percentile",
    "p99": "99th percentile",
    "peak": "largest value",
    "levels": "different values in an image",
    "sky": f"sky, beyond {SKY} px",
    "sky_rms": "rms of the sky",
    "noise": "rms about the 3×3 median, where that is 5 to 60",
    "blocks": "steps at the borders of jpeg blocks / steps within",
    "arc_to_core": "peak of the arcs / peak of the lens light",
    "core_fwhm": "FWHM of the lens light [px]",
    "ring_radius": f"mean radius of the light between {CORE} and {OUTER} px [px]",
    "ring_e1": "its elongation along the rows, e1",
    "ring_e2": "its elongation along the diagonal, e2",
}


def measure(image: np.ndarray) -> dict[str, float]:
    """Return the ``STATISTICS`` of an image (150, 150) of grey levels from 0 to 255."""
    y, x = np.indices(image.shape) - (np.array(image.shape)[:, None, None] - 1) / 2
    radius = np.hypot(x, y)
    sky, arcs = image[radius > SKY], np.where((radius > CORE) & (radius < OUTER), image, 0.0)
    light = np.clip(arcs - np.median(sky) - 1, 0, None)
    xx, yy, xy = (np.average(a, weights=light) for a in (x * x, y * y, x * y))
    return {
        "mean": image.mean(),
        **{f"p{q}": np.percentile(image, q) for q in (75, 95, 99)},
        "peak": image.max(),
        "levels": np.unique(image).size,
        "sky": sky.mean(),
        "sky_rms": sky.std(),
        "noise": residuals(image).std(),
        "blocks": _blocks(image),
        "arc_to_core": arcs.max() / image[radius < 3].max(),
        "core_fwhm": 2 * np.sqrt(np.sum((image > image.max() / 2) & (radius < CORE)) / np.pi),
        "ring_radius": np.average(radius, weights=light),
        "ring_e1": (xx - yy) / (xx + yy),
        "ring_e2": 2 * xy / (xx + yy),
    }


def residuals(image: np.ndarray) -> np.ndarray:
    """Return (n,) image - 3×3 median of the pixels where that median is 5 to 60."""
    median = cv2.medianBlur(np.ascontiguousarray(image, dtype=np.float32), 3)
    return (image - median)[(median >= 5) & (median <= 60)]


def _blocks(image: np.ndarray) -> float:
    steps = np.abs(np.diff(image, axis=1)).mean(axis=0)
    borders = np.arange(len(steps)) % 8 == 7
    return steps[borders].mean() / steps[~borders].mean()


def real_images(folder: Path) -> tuple[np.ndarray, list[str]]:
    """Return the images (n, H, W) of the folders ``no_sub`` and ``sub``, and their classes."""
    paths = [(kind, p) for kind in ("no_sub", "sub") for p in sorted((folder / kind).iterdir())]
    images = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for _, path in paths]
    return np.array(images, dtype=float), [kind for kind, _ in paths]


def simulated_images(n: int, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Return n simulated images (n, H, W), half of them with subhalos, and their classes."""
    population = load_population(POPULATION)
    kinds = ["no_sub", "cdm"] * (n // 2)
    images = [simulation.simulate_one(i, kind, seed, population)[0] for i, kind in enumerate(kinds)]
    return np.array(images, dtype=float), ["sub" if k == "cdm" else k for k in kinds]


def statistics(images: np.ndarray) -> pd.DataFrame:
    """Return the ``STATISTICS``, a column each, of images (n, H, W)."""
    return pd.DataFrame([measure(image) for image in images])


def summary(real: pd.DataFrame, simulated: pd.DataFrame) -> pd.DataFrame:
    """Return mean and spread of both, and the difference of the means in standard errors."""
    table = pd.DataFrame(
        {
            "real_mean": real.mean(),
            "real_sd": real.std(),
            "simulated_mean": simulated.mean(),
            "simulated_sd": simulated.std(),
        }
    )
    error = np.hypot(real.std() / len(real) ** 0.5, simulated.std() / len(simulated) ** 0.5)
    table["difference"] = (table.simulated_mean - table.real_mean) / error.replace(0, np.nan)
    return table


def markdown(table: pd.DataFrame, n_real: int, n_simulated: int) -> str:
    """Return the summary as a table of Markdown, mean ± standard deviation over the images."""
    lines = [
        f"| grey levels, if not said otherwise | real ({n_real}) | simulated ({n_simulated}) |"
    ]
    lines[0] += " difference / its standard error |\n|---|---|---|---|"
    for name, row in table.iterrows():
        real = f"{row.real_mean:.3g} ± {row.real_sd:.2g}"
        simulated = f"{row.simulated_mean:.3g} ± {row.simulated_sd:.2g}"
        lines.append(f"| {STATISTICS[name]} | {real} | {simulated} | {row.difference:+.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("real", type=Path, help="folder with the folders sub and no_sub")
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("--n", type=int, default=200, help="simulated images")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    real, real_kinds = real_images(arguments.real)
    simulated, simulated_kinds = simulated_images(arguments.n)
    samples = [
        lenses.Sample(name, images, kinds, statistics(images), [residuals(i) for i in images])
        for name, images, kinds in (
            ("real", real, real_kinds),
            ("simulated", simulated, simulated_kinds),
        )
    ]
    style()
    scale = load_population(POPULATION).instrument.pixel_scale
    figure = lenses.lenses_match(*samples, pixel_scale=scale)
    save(figure, arguments.out / "lenses_match")
    table = summary(samples[0].statistics, samples[1].statistics)
    text = markdown(table, len(real), len(simulated))
    with provenance.atomic(arguments.out / "lenses_match.md") as temporary:
        temporary.write_text(text)
    provenance.write_json(
        arguments.out / "lenses_match_numbers.json",
        {"n_real": len(real), "n_simulated": len(simulated)} | table.T.to_dict(),
    )
    print(text)


if __name__ == "__main__":
    main()
