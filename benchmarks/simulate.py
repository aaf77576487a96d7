"""How much faster two cores simulate than one.

``python benchmarks/simulate.py``: some four minutes. The shards of the workflow, from nothing to
the last of them, on one core and on two. (How fast one core is, beside lenstronomy: ``make
benchmarks``.)

Measured on a virtual machine of 2 cores, November 2026: 1.97 times as fast on two cores (two
repeats: 1.96, 1.98). Other work on the machine spoils the figure.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[1]
SHARDS = 8


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
    parser.add_argument("--n", type=int, default=8000, help="images in all shards")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    scaling(arguments.n, arguments.repeats)


if __name__ == "__main__":
    main()
