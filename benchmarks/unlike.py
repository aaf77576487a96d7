"""Which images a model calls unlike those of its training (``ood_pvalue`` of up to 0.01).

``python benchmarks/unlike.py``: some three minutes, one thread. Lenses of the model's population
that it has not seen, of which one in a hundred should be flagged; then images that are none of it:
lenses of other populations, of other pixels and PSF, noise, gradients, galaxies, stars, plots, and
with ``--images FOLDER`` those of each folder in it. A row tells how many there are, the share that
is flagged, and the share that has a class with a probability above 0.9.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vitdm import pretrained, simulation
from vitdm.data.readers import observations_at, read_observations
from vitdm.data.simulated import class_of_each
from vitdm.model.novelty import UNLIKE
from vitdm.model.runs import Run, load_run
from vitdm.predict import predict
from vitdm.simulation import load_population, population_of

CHUNK = 128  # images that are fitted at once
POPULATIONS = ("model_i", "model_ii", "lenses", "realistic", "hubble")
CAMERAS = {
    "pixels of 0.04 arcsec": {"pixel_scale": 0.04},
    "pixels of 0.065 arcsec": {"pixel_scale": 0.065},
    "pixels of 0.1 arcsec": {"pixel_scale": 0.1},
    "PSF of 0.2 arcsec": {"psf_fwhm": 0.2},
    "ten times the background's noise": {"background_rms": 0.1},
}
SIDE = 150
Y, X = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
R, ANGLE = np.hypot(X, Y), np.arctan2(Y, X)


def lenses(name: str, n: int, seed: int, **camera: float) -> Iterator[np.ndarray]:
    """Yield n lenses of a population, with some keys of its instrument changed."""
    population = load_population(name)
    if camera:
        instrument = population.instrument.model_copy(update=camera)
        population = population_of(
            population.model_copy(update={"instrument": instrument}).model_dump()
        )
    for i, kind in enumerate(class_of_each(n, seed, population)):
        yield simulation.simulate_one(i, kind, seed, population)[0]


def noise(rng: np.random.Generator) -> np.ndarray:
    width = rng.choice([0.1, 1.0, 30.0])
    kinds = [rng.normal, lambda _, w, s: rng.poisson(w, s), lambda _, w, s: rng.uniform(0, w, s)]
    return rng.choice(kinds)(0.0, width, (SIDE, SIDE))


def gradient(rng: np.random.Generator) -> np.ndarray:
    a, b, c = rng.normal(size=3)
    return a * X + b * Y + c * R + rng.choice([0.0, 1.0]) * rng.normal(size=X.shape)


def spiral(rng: np.random.Generator) -> np.ndarray:
    arms = 1 + 0.8 * np.cos(2 * (ANGLE - rng.uniform(2, 5) * np.log(R + 1)))
    disc = np.exp(-R / rng.uniform(8, 30)) * arms + np.exp(-((R / rng.uniform(2, 8)) ** 2))
    return rng.poisson(20 + rng.uniform(50, 1000) * disc)


def galaxy(rng: np.random.Generator) -> np.ndarray:
    disc = np.exp(-np.hypot(X, Y / rng.uniform(0.3, 1)) / rng.uniform(3, 25))
    return rng.poisson(20 + rng.uniform(50, 2000) * disc)


def stars(rng: np.random.Generator) -> np.ndarray:
    n = rng.choice([1, 4, 20, 100])
    places = zip(*rng.uniform(-70, 70, (2, n)), rng.lognormal(4, 1.5, n), strict=True)
    return rng.poisson(
        10 + sum(f * np.exp(-((X - x) ** 2 + (Y - y) ** 2) / 4) for x, y, f in places)
    )


def plot(rng: np.random.Generator) -> np.ndarray:
    figure = Figure(figsize=rng.choice([(1.5, 1.5), (4, 3)]), dpi=100)
    axes, canvas = figure.subplots(), FigureCanvasAgg(figure)
    draw = [
        lambda: axes.bar(range(6), rng.uniform(size=6)),
        lambda: axes.plot(rng.normal(size=(50, 3)).cumsum(axis=0), label=list("abc")),
        lambda: axes.scatter(*rng.normal(size=(2, 40))),
    ]
    rng.choice(draw)()
    axes.set(title="Benchmark", xlabel="epoch", ylabel="ROC-AUC")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].mean(axis=-1)


DRAWN: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "noise": noise,
    "one value": lambda rng: np.full((SIDE, SIDE), rng.choice([0.0, 1.0, 200.0])),
    "gradients": gradient,
    "spiral galaxies": spiral,
    "elliptical galaxies": galaxy,
    "stars": stars,
    "plots": plot,
}


def row(run: Run, images: Iterator) -> dict[str, float]:
    """Return what a run says of images."""
    found, chunk = [], []
    for image in images:
        chunk.append(image)
        if len(chunk) == CHUNK:
            found.append(predict([run], chunk))
            chunk = []
    table = pd.concat([*found, *([predict([run], chunk)] if chunk else [])])
    return {
        "n": len(table),
        "flagged": np.mean(table["ood_pvalue"] <= UNLIKE),
        "confident": np.mean(table[[f"p_{name}" for name in run.classes]].max(axis=1) > 0.9),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=pretrained.FOLDER, help="run folder")
    parser.add_argument("--population", default="marginal", help="that of the run")
    parser.add_argument("--n", type=int, default=1000, help="lenses of it")
    parser.add_argument("--others", type=int, default=48, help="images of each other kind")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--images", type=Path, help="folder of folders of real images")
    options = parser.parse_args()
    run, n, seed = load_run(options.run), options.others, options.seed
    own = options.population
    kinds = {f"lenses of {own}": lenses(own, options.n, seed)}
    kinds |= {f"lenses of {name}": lenses(name, n, seed) for name in POPULATIONS if name != own}
    kinds |= {name: lenses(own, n, seed, **camera) for name, camera in CAMERAS.items()}
    for name, draw in DRAWN.items():
        kinds[name] = map(draw, np.random.default_rng(seed).spawn(n))
    for folder in sorted(options.images.iterdir()) if options.images else ():
        if folder.is_dir():
            known = {"pixel_scale": run.settings.pixel_scale}  # else most would be refused for it
            files = observations_at([folder])
            kinds[folder.name] = (o for file in files for o in read_observations(file, **known))
    table = {}
    for name, images in kinds.items():
        table[name] = row(run, images)
        print(pd.DataFrame({name: table[name]}).T.round(3).to_string(), flush=True)
    print(pd.DataFrame(table).T.round(3).to_string())


if __name__ == "__main__":
    main()
