"""Does memory grow with the number of images? Simulates, merges and ingests 20 000 and 40 000.

``python benchmarks/memory.py``: some ten minutes, 16 GB of disk in a temporary folder. Images
are of 150 x 150 pixels; ingested are class folders of .npy files. Prints the peak memory of each
command. The catalog and, of files, a digest and a name each are in memory; no image stays there.

Measured in November 2026 (Linux, Python 3.11) at 20 000 and 40 000 images: simulate 360 and 349 MB,
merge 130 and 181 MB, ingest 151 and 172 MB. What grows is the catalog, by some 3 kB an
image in a merge and 1 kB in an ingest: 200 000 images stay below 0.7 GB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SIDE = 150


def peak(*command: str, program: str = "vitdm") -> int:
    """Run a command in a process of its own and return the most memory it held, in MB."""
    code = (
        f"import resource, sys; from {program}.__main__ import main; status = main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return int(done.stdout.split()[-1]) // unit


def write_files(folder: Path, n: int) -> None:
    """Write n different images into two class folders."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(SIDE, SIDE)).astype(np.float32)
    for kind in ("no_sub", "sub"):
        (folder / kind).mkdir(parents=True)
        for i in range(n // 2):
            image[0, :2] = i, kind == "sub"
            np.save(folder / kind / f"{i:06d}.npy", image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, nargs="+", default=[20_000, 40_000])
    sizes = parser.parse_args().n
    population = "marginal"
    for n in sizes:
        with tempfile.TemporaryDirectory(prefix="memory_") as name:
            folder = Path(name)
            for k in range(2):
                shard = str(folder / f"shard{k}")
                used = peak(
                    *("simulate", "--population", population, "--n", str(n)),
                    *("--shard", f"{k}/2", "--out", shard),
                )
            print(f"{n} images: simulate {used} MB (one shard of two)", flush=True)
            shards = [str(folder / f"shard{k}") for k in range(2)]
            merged = str(folder / "merged")
            used = peak("merge-shards", *shards, "--out", merged, program="studies")
            rows = json.loads((folder / "merged/dataset.json").read_text())["n"]
            assert rows == n, rows
            print(f"{n} images: merge {used} MB", flush=True)
        with tempfile.TemporaryDirectory(prefix="memory_") as name:
            folder = Path(name)
            write_files(folder / "files", n)
            used = peak(
                *("ingest", str(folder / "files"), "--out", str(folder / "dataset")),
                *("--config", str(ROOT / "config/paper.yaml")),
            )
            print(f"{n} images: ingest {used} MB", flush=True)


if __name__ == "__main__":
    main()
