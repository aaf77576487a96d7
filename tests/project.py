"""A copy of the project without any results, as after cloning it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from studies.code import Watched

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "config", "environment.yml", "notebooks", "paper", "vitdm", "studies")
PARTS += ("pyproject.toml", "profiles", "rules")
UNFINISHED = shutil.ignore_patterns("*.tmp.*", "*.pyc.*")  # files that other tests are writing


def copied(place):
    """Copy what the workflow needs of the project into a folder, and return the folder.

    What numba has compiled is valid there, too: to compile all of it takes half a minute.
    """
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, place / part, ignore=UNFINISHED)
        else:
            shutil.copy(source, place / part)
    return place


def parsed(place):
    """Leave in a folder what ``studies.code`` would parse in each call of Snakemake, in seconds."""
    code = Watched(place / "results/smoke/code.json")
    for file in (*ROOT.glob("*/commands/*.py"), *ROOT.glob("notebooks/*.py")):
        code(str(file.relative_to(ROOT)))
    code.save()
    return place


def call(project, *command):
    """Run a module of Python in a copy of the project, and return what it said and its status."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=project,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(project)} | threads,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
