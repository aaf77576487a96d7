"""How fast lenses are simulated: against lenstronomy called anew for each image, and on two cores.

``python benchmarks/simulate.py``: some five minutes. First, images of ``model_i`` of class ``cdm``,
without noise, one thread, in turns: ours, and lenstronomy called as DeepLenseSim calls it (a new
LensModel, PSF and ImageData for each image); both must have the same pixels, to 1e-6 of the peak.
Then the shards of the workflow, from nothing to the merged data set, on one core and on two.

Measured on a virtual machine of 2 cores, November 2026: 495 and 165 images per second, a ratio of
3.0 (2.7 to 3.1 over 7 repeats), pixels alike to 7e-14 of the peak, 266 per second with drawing and
noise; shards 1.97 times as fast on two cores (two repeats: 1.96, 1.98). Other work on the machine
spoils the second figure. Machines differ; what is to be compared are the ratios.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from vitdm import simulation
from vitdm.simulation.population import load_population

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from oracle import with_lenstronomy  # noqa: E402

REPEATS = 7
SHARDS = 8


def seconds(function, systems, population) -> tuple[float, list[np.ndarray]]:
    started = time.perf_counter()
    images = [function(system, population) for system in systems]
    return time.perf_counter() - started, images


def against_lenstronomy(n: int) -> None:
    """Print images per second of both, the ratio in each repeat, and the largest difference."""
    population = load_population("model_i")
    systems = [simulation.draw(index, "cdm", 0, population) for index in range(n)]
    for function in (simulation.render, with_lenstronomy):  # compiled and imported before the clock
        function(systems[0], population)
    times, worst = [], 0.0
    for _ in range(REPEATS):
        ours, images = seconds(simulation.render, systems, population)
        theirs, expected = seconds(with_lenstronomy, systems, population)
        times.append((ours, theirs))
        for image, other in zip(images, expected, strict=True):
            worst = max(worst, float(np.abs(image - other).max() / other.max()))
    ours, theirs = np.array(times).T
    ratio = theirs / ours
    print(f"{n} images of model_i, cdm, without noise; {REPEATS} repeats, one thread")
    print(f"  ours         {n / np.median(ours):7.0f} images/s")
    print(f"  lenstronomy  {n / np.median(theirs):7.0f} images/s")
    print(f"  ratio        {np.median(ratio):.1f} (from {ratio.min():.1f} to {ratio.max():.1f})")
    print(f"  largest difference of a pixel: {worst:.1e} of the peak")
    if worst > 1e-6:
        sys.exit("the pixels differ by more than 1e-6 of the peak")
    started = time.perf_counter()
    for index in range(n):
        simulation.simulate_one(index, "cdm", 0, population)
    rate = n / (time.perf_counter() - started)
    print(f"  ours with drawing and noise {rate:.0f} images/s")


def scaling(n: int, repeats: int) -> None:
    """Print the seconds of the workflow's shards on one core and on two, and their ratio."""
    base = yaml.safe_load((ROOT / "config/paper.yaml").read_text())
    part = n // 4
    split = {"train": n - 3 * part, "valid": part, "opt": part, "test": part}
    base |= {"publish": False, "n_images": split, "shards": SHARDS}
    base |= {"populations": {"files": []}, "population": "model_i"}
    ratios = []
    for repeat in range(repeats):
        took = {}
        for cores in (1, 2):
            with tempfile.TemporaryDirectory(prefix="benchmark_", dir=ROOT / "results") as folder:
                name = Path(folder).name
                file = Path(folder) / "settings.yaml"
                file.write_text(yaml.safe_dump(base | {"name": name}))
                targets = [
                    f"results/{name}/shards/{k}-of-{SHARDS}/images.npy" for k in range(SHARDS)
                ]
                command = ["snakemake", *targets, "--cores", str(cores), "--quiet", "all"]
                started = time.perf_counter()
                subprocess.run([*command, "--configfile", str(file)], cwd=ROOT, check=True)
                took[cores] = time.perf_counter() - started
                sidecars = [Path(t).with_name("dataset.json") for t in targets]
                busy = sum(json.loads((ROOT / s).read_text())["seconds"] for s in sidecars)
                print(f"  {cores} core(s): {took[cores]:.1f} s ({busy:.1f} s within the shards)")
        ratios.append(took[1] / took[2])
        print(f"  repeat {repeat + 1}: {ratios[-1]:.2f} times as fast on two cores")
    print(f"{n} images in {SHARDS} shards: median {np.median(ratios):.2f} times as fast")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=100, help="images per repeat")
    parser.add_argument("--n-shards", type=int, default=8000, help="images in all shards")
    parser.add_argument("--repeats", type=int, default=3, help="of the scaling")
    arguments = parser.parse_args()
    against_lenstronomy(arguments.n)
    scaling(arguments.n_shards, arguments.repeats)


if __name__ == "__main__":
    main()
