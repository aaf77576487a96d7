"""Cutouts a second, and memory, of ``vitdm survey`` at several numbers of cutouts.

``python benchmarks/survey.py``: 2 000 and 20 000 lenses of ``marginal`` (150 x 150 pixels, one
process, Sérsic stage) in a tar file, which takes 2 GB in a temporary folder; a quarter of an hour
of one core. 200 lenses are drawn, each with noise of its own in every cutout.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from memory import peak

from vitdm.simulation import NO_SUB, add_noise, draw, load_population, render

DRAWN = 200


def write(archive: Path, n: int) -> float:
    """Write n cutouts and return their pixel scale."""
    population = load_population("marginal")
    rng = np.random.default_rng(0)
    systems = [draw(k, NO_SUB, 0, population) for k in range(DRAWN)]
    clean = [render(system, population) for system in systems]
    with tarfile.open(archive, "w") as file:
        for k in range(n):
            content = io.BytesIO()
            noisy = add_noise(clean[k % DRAWN], systems[k % DRAWN], rng, population)
            np.save(content, noisy.astype(np.float32))
            member = tarfile.TarInfo(f"{k:06}.npy")
            member.size = content.tell()
            content.seek(0)
            file.addfile(member, content)
    return population.instrument.pixel_scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, nargs="+", default=[2000, 20_000])
    for n in parser.parse_args().n:
        with tempfile.TemporaryDirectory(prefix="survey_") as name:
            archive, out = Path(name) / "cutouts.tar", Path(name) / "survey"
            scale = write(archive, n)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            used = peak("survey", str(archive), "--pixel-scale", str(scale), "--out", str(out))
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            size = os.path.getsize(out / "answers.csv")
            print(f"{n} cutouts: {n / seconds:.1f} a second of CPU, {used} MB", end=", ")
            print(f"{size / n:.0f} bytes of answers a cutout", flush=True)


if __name__ == "__main__":
    main()
