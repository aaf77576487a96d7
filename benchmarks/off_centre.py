"""What becomes of a model's answers when a lens is not where its training images had it.

``python benchmarks/off_centre.py``: some fifteen minutes, one thread. The same lenses of a
population are simulated at the middle of their image, moved by a part of a pixel or by several
pixels in a random direction, and in images of other sizes; each is fitted and classified. A row
tells, for substructure against none: the ROC-AUC, smooth lenses called substructure (at a
probability of one half), poor fits of smooth lenses, the median significance of a point mass where
there is substructure, and the milliseconds of an image.

``--images FOLDER`` also writes the images and their classes, one .npz for each row. What was
measured is in docs/benchmarks.md.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

import argparse
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from vitdm import pretrained, simulation
from vitdm.data.simulated import class_of_each
from vitdm.model.runs import Run, load_run
from vitdm.predict import prepare
from vitdm.simulation import Population, load_population, population_of

SHIFTS = (0.0, 0.1, 0.25, 0.5, 1.0, 3.0)  # px
SIZES = (149, 101, 100, 97)  # px


def observed(index: int, kind: str, seed: int, shift: float, population: Population) -> np.ndarray:
    """Return the image of a lens that lies ``shift`` [px] off the middle; the noise is its own."""
    rng = np.random.default_rng([seed, index])
    angle, step = rng.uniform(0, 2 * math.pi), shift * population.instrument.pixel_scale
    system = simulation.draw(index, kind, seed, population)
    system = replace(system, center=(step * math.cos(angle), step * math.sin(angle)))
    image = simulation.render(system, population)
    return simulation.add_noise(image, system, rng, population).astype(np.float32)


def row(run: Run, images: np.ndarray, kinds: np.ndarray) -> dict[str, float]:
    """Return what the answers of a run to images are worth."""
    started = time.process_time()
    settings = run.settings
    seen = prepare(images, settings, run.feature_names, settings.model.residual)
    spent = 1e3 * (time.process_time() - started) / len(images)
    features = seen.features[run.feature_names].to_numpy(np.float32)
    probability = run.predict(seen.crops, features, seen.residuals)
    score = 1 - probability[:, run.classes.index("no_sub")]
    smooth = kinds == "no_sub"
    return {
        "roc_auc": roc_auc_score(~smooth, score),
        "false_positives": float(np.mean(score[smooth] > 0.5)),
        "poor": float(np.mean(["poor" in flags for flags in np.array(seen.fits.flags)[smooth]])),
        "point_snr": float(seen.features["fit_point_snr"][~smooth].median()),
        "ms": spent,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=pretrained.FOLDER, help="run folder")
    parser.add_argument("--population", default="marginal")
    parser.add_argument("--n", type=int, default=1000, help="lenses")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--images", type=Path, help="folder that receives the images")
    options = parser.parse_args()
    run, centred = load_run(options.run), load_population(options.population)
    kinds = np.array(class_of_each(options.n, options.seed, centred))
    rows = [(f"moved by {shift:g} px", shift, centred) for shift in SHIFTS]
    for size in SIZES:
        population = population_of(centred.model_dump() | {"num_pix": size})
        rows.append((f"{size} x {size} px", 0.0, population))
    table = {}
    for name, shift, population in rows:
        images = np.array(
            [observed(i, k, options.seed, shift, population) for i, k in enumerate(kinds)]
        )
        if options.images:
            options.images.mkdir(parents=True, exist_ok=True)
            file = options.images / f"{name.replace(' ', '_')}.npz"
            np.savez(file, images=images, kinds=kinds)
        table[name] = row(run, images, kinds)
        print(pd.DataFrame({name: table[name]}).T.round(4).to_string(), flush=True)
    print(pd.DataFrame(table).T.round(4).to_string())


if __name__ == "__main__":
    main()
