"""Images a second of each step, beside other code, in one table with a figure.

``make benchmarks``, or ``python benchmarks/throughput.py``: two minutes of an idle core. From the
simulation of a lens to the prediction of its class, each step is timed in turns with a rival, where
there is one, and with a fixed piece of work (``ratios.workload``), so that each has a ratio that
depends little on the machine:

* ``render``: images of ``model_i`` (class ``cdm``, no noise); lenstronomy, called anew for each
  image as DeepLenseSim calls it. ``simulate``: drawing, rendering and noise.
* ``process``, ``features``: from images of three populations (150 x 150 pixels) to what a network
  sees, and to the features of the precursor; its own procedures (``studies.precursor``).
* ``Sérsic fit``: smooth lenses of ``marginal``, from nothing; caustics' ``batch_lm``, from near our
  result.
* ``free-form fit``: one of these lenses, from its Sérsic fit. ``search``: that lens, six profiles
  and 200 twins, no peaks fitted.
* ``training``, ``prediction``: the default ViT on batches of 64 images; vit-pytorch's ViT for small
  data sets of the same dimensions (``--vit-pytorch FOLDER``: where it is, with einops).

A rival that is not installed is named and left out. Table and figure go to ``--out``. Ratios that
are more than 20 % worse than those of ``benchmarks/ratios.csv``, beyond the spread of the run, are
printed; the exit status is 0 all the same, for a busy machine is no fault. ``--write`` puts the
ratios of the run into that file; those that it did not measure stay.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(
    ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)

import argparse
import functools
import importlib.util
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import ratios
import torch
from ratios import Work

from studies import precursor
from studies.plots import style as plots
from vitdm import config, features, lens, preprocess, simulation
from vitdm.data.observation import Observation
from vitdm.lens import perturbers
from vitdm.simulation import load_population

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "benchmarks/ratios.csv"
POPULATIONS = ("marginal", "model_i", "lenses")  # whose images are processed
RENDERED, PROCESSED, FITTED = 40, 60, 6  # images a call
STEPS_A_CALL = 3  # of the training, and batches of the prediction

# Other scripts, and packages that may be missing, are imported by the step that needs them.
sys.path.append(str(ROOT / "tests"))


def each(function: Callable[[Any], Any], items: Iterable[Any]) -> Callable[[], None]:
    """Return a call that applies a function to each item."""

    def run() -> None:
        for item in items:
            function(item)

    return run


def render() -> Work:
    from oracle import with_lenstronomy

    population = load_population("model_i")
    systems = [simulation.draw(k, "cdm", 0, population) for k in range(RENDERED)]
    ours, theirs = (
        each(functools.partial(function, population=population), systems)
        for function in (simulation.render, with_lenstronomy)
    )
    return Work(RENDERED, ours, theirs)


def simulate() -> Work:
    population = load_population("model_i")

    def one(index: int) -> None:
        simulation.simulate_one(index, "cdm", 0, population)

    return Work(RENDERED, each(one, range(RENDERED)))


@functools.cache
def raw_images() -> list[np.ndarray]:
    """Return images (150, 150) of each population, all its classes in turn."""
    images = []
    for name in POPULATIONS:
        population = load_population(name)
        kinds = list(population.class_fractions)
        for k in range(PROCESSED // len(POPULATIONS)):
            image, _ = simulation.simulate_one(k, kinds[k % len(kinds)], 0, population)
            images.append(np.asarray(image, np.float32))
    return images


def process() -> Work:
    cut, images = config.Preprocess(), raw_images()
    ours = each(lambda image: preprocess.process(image, cut), images)
    return Work(len(images), ours, each(precursor.process, images))


def measure() -> Work:
    cut, asked, images = config.Preprocess(), config.Features(), raw_images()

    def one(image: np.ndarray) -> None:
        light = preprocess.detect(image, cut)
        features.measure_light(light, preprocess.roi_of(light), asked, ("proposal",))

    return Work(len(images), each(one, images), each(precursor.published_features, images))


def sersic_fit() -> Work:
    from lensfit import by_caustics, smooth_images

    images, truth = smooth_images(FITTED)
    exposure, settings = truth["exposure_time"].to_numpy(), config.LensFit(gain=1.0)
    ours = functools.partial(lens.fit, images, settings, pixel_scale=0.05)
    return Work(FITTED, ours, functools.partial(by_caustics, images, ours(), exposure))


@functools.cache
def observed() -> tuple[Observation, lens.Fits]:
    """Return a simulated lens of ``marginal`` with its Sérsic fit."""
    from search import FITS, SEED, seen

    population = load_population("marginal")
    system = simulation.draw(3, "no_sub", SEED, population)
    observation = seen(system, population, np.random.default_rng(0))
    return observation, lens.fit([observation], FITS["marginal"][1])


def free_form_fit() -> Work:
    from search import FITS

    observation, start = observed()
    return Work(1, functools.partial(lens.fit, [observation], FITS["marginal"][0], start=start))


def search_lens() -> Work:
    (model,) = free_form_fit().ours()
    return Work(1, functools.partial(perturbers.search, model, config.Perturbers(peaks=0)))


def networks() -> tuple[list[torch.nn.Module], torch.Tensor, torch.Tensor]:
    """Return the default ViT and, if it is there, vit-pytorch's; images and labels of a batch."""
    from model import BATCH, CLASSES, SIDE, vit_pytorch

    from vitdm.model.vit import ViT

    torch.manual_seed(0)
    images, labels = torch.randn(BATCH, 1, SIDE, SIDE), torch.randint(CLASSES, (BATCH,))
    nets = [ViT(config.Model(), SIDE, CLASSES)]
    if found := importlib.util.find_spec("vit_pytorch"):
        nets.append(vit_pytorch(Path(found.origin).parents[1], config.Model()))
    return nets, images, labels


def training() -> Work:
    from model import training_step

    nets, images, labels = networks()
    repeated = [(images, labels)] * STEPS_A_CALL
    steps = [training_step(net) for net in nets]
    calls = [each(lambda batch, step=step: step(*batch), repeated) for step in steps]
    return Work(len(images) * STEPS_A_CALL, *calls)


def prediction() -> Work:
    nets, images, _ = networks()
    repeated = [images] * STEPS_A_CALL
    calls = [torch.inference_mode()(each(net.eval(), repeated)) for net in nets]
    return Work(len(images) * STEPS_A_CALL, *calls)


#: of each step the rival, and the module without which it is left out
STEPS: dict[str, tuple[Callable[[], Work], str | None, str | None]] = {
    "render": (render, "lenstronomy", "lenstronomy"),
    "simulate": (simulate, None, None),
    "process": (process, "precursor", None),
    "features": (measure, "precursor", None),
    "Sérsic fit": (sersic_fit, "caustics", "caustics"),
    "free-form fit": (free_form_fit, None, None),
    "search": (search_lens, None, None),
    "training": (training, "vit-pytorch", "vit_pytorch"),
    "prediction": (prediction, "vit-pytorch", "vit_pytorch"),
}


def left_out() -> set[str]:
    """Return the rivals that are not installed."""
    needed = {(rival, module) for _, rival, module in STEPS.values() if rival and module}
    return {rival for rival, module in needed if importlib.util.find_spec(module) is None}


def timed(names: Iterable[str], n: int, missing: set[str]) -> pd.DataFrame:
    """Return the rows (``ratios.COLUMNS``) of some steps, without the rivals that are missing."""
    tables = []
    for name in names:
        make, rival, _ = STEPS[name]
        started = time.process_time()
        tables.append(ratios.measured(name, None if rival in missing else rival, make(), n))
        print(f"{name}: {time.process_time() - started:.0f} s", file=sys.stderr, flush=True)
    return pd.concat(tables, ignore_index=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build/benchmarks", help="folder")
    parser.add_argument("--turns", type=int, default=7, help="of each step, after one to warm up")
    parser.add_argument("--only", nargs="+", choices=tuple(STEPS), default=tuple(STEPS))
    parser.add_argument("--vit-pytorch", type=Path, help="folder with vit_pytorch and einops")
    parser.add_argument("--write", action="store_true", help=f"the ratios into {COMMITTED.name}")
    options = parser.parse_args(argv)
    if options.turns < 1:
        parser.error(f"--turns {options.turns}: expected at least 1")
    if options.vit_pytorch:
        sys.path.append(str(options.vit_pytorch))
    committed = ratios.read(COMMITTED)
    if missing := left_out():
        print(f"Not installed, and left out: {', '.join(sorted(missing))}\n")
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    table = timed([name for name in STEPS if name in options.only], options.turns, missing)
    publish(table, options.out)
    asked = committed[committed["step"].isin(options.only)]
    print(f"\n{ratios.comparison(ratios.compared(table, asked))}")
    if options.write:
        rows = ratios.updated(ratios.read(COMMITTED), table, list(STEPS))
        ratios.write(COMMITTED, rows, [*ratios.KEYS, *ratios.RATIO])


def publish(table: pd.DataFrame, out: Path) -> None:
    """Print a table, and write it as CSV and as a figure into a folder."""
    print(ratios.text(table))
    ratios.write(out / "throughput.csv", table, ratios.COLUMNS)
    plots.save(ratios.drawn(table), out / "throughput.png", outputs=[out / "throughput.csv"])
    print(f"\nTable and figure: {out}/throughput.csv, .png, .pdf")


if __name__ == "__main__":
    main()
