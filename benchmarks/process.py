"""How fast images are processed and measured, against the precursor's procedure.

``python benchmarks/process.py``: some ten seconds. Images of 150 x 150 pixels of ``marginal``
and ``model_i``, in memory, one thread, in turns: ours, which is ``preprocess.process`` and
``features.measure`` with the settings of config/paper.yaml, and the precursor's, which is its own
processing and its own 13 features. Prints images per second of both and the ratio in each repeat.

The precursor's time holds the scaling to [0, 1], which its own images did not need (some 0.03 ms);
what the rest costs depends on the noise: where a scaled image has noise above the thresholds, the
distances between all specks are measured.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from studies import config as workflow
from studies import precursor
from vitdm import config, features, preprocess, simulation
from vitdm.simulation.population import load_population

ROOT = Path(__file__).resolve().parents[1]
POPULATIONS = ("marginal", "model_i", "lenses")
SETTINGS = ROOT / "config/paper.yaml"


def simulated_images(name: str, n: int) -> list[np.ndarray]:
    """Return n images (150, 150) of a population, all its classes in turn."""
    population = load_population(name)
    kinds = list(population.class_fractions)
    return [
        np.asarray(
            simulation.simulate_one(i, kinds[i % len(kinds)], 0, population)[0], dtype=np.float32
        )
        for i in range(n)
    ]


def ours(processing: config.Preprocess, measured: config.Features) -> Callable[[np.ndarray], Any]:
    """Return our procedure, a function of an image, with the features of ``measured``."""

    def procedure(image: np.ndarray) -> Any:
        light = preprocess.detect(image, processing)
        roi = preprocess.roi_of(light)
        square = preprocess.process_light(light, roi, processing)
        return square, features.measure_light(light, roi, measured, ("proposal",))

    return procedure


def seconds(procedure: Callable[[np.ndarray], Any], images: list[np.ndarray]) -> float:
    started = time.perf_counter()
    for image in images:
        procedure(image)
    return time.perf_counter() - started


def compare(name: str, n: int, repeats: int, settings: workflow.Config) -> None:
    """Print images per second of both, and the ratio in the repeats."""
    images = simulated_images(name, n)
    tried = {
        "ours": ours(settings.preprocess, settings.features),
        "precursor": precursor.process_and_measure,
    }
    for procedure in tried.values():  # loaded and in the caches before the clock
        seconds(procedure, images[:20])
    times = np.array(
        [[seconds(procedure, images) for procedure in tried.values()] for _ in range(repeats)]
    )
    ratio = times[:, 1] / times[:, 0]
    print(f"{n} images of {name}, {images[0].shape[0]} pixels; {repeats} repeats, one thread")
    for label, took in zip(tried, times.T, strict=True):
        rates = n / took
        print(
            f"  {label:10} {np.median(rates):6.0f} images/s "
            f"(from {rates.min():.0f} to {rates.max():.0f})"
        )
    print(f"  ratio      {np.median(ratio):6.2f} (from {ratio.min():.2f} to {ratio.max():.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=500, help="images per repeat")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    settings = workflow.load(SETTINGS)
    for name in POPULATIONS:
        compare(name, arguments.n, arguments.repeats, settings)


if __name__ == "__main__":
    main()
