"""The wheel has the library alone, and its declared dependencies are all that it needs.

It is installed into a folder outside the repository. There a Python runs that may import what the
library's dependencies bring, all the way down, and nothing else that is installed for the tests.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import yaml
from dependencies import CORE, ROOT, closure
from packaging.utils import canonicalize_name

GUARD = '''"""Let only some of the installed packages be imported."""
import sys

REFUSED = set("""{refused}""".split())


class Guard:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"No module named {{name!r}}: not a dependency", name=name)


sys.meta_path.insert(0, Guard)
'''
SETTINGS = {
    "n_images": {"train": 20, "valid": 8, "opt": 8, "test": 12},
    "preprocess": {"size": 32},
    "lensfit": {"size": 64},
    "model": {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
    "train": {"epochs": 1, "batch_size": 8},
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built offline of a copy of the sources: building leaves folders behind."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    kept = shutil.ignore_patterns("__pycache__")
    for name in ("vitdm", "studies"):
        shutil.copytree(ROOT / name, source / name, ignore=kept)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    pip = (sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", place, source)
    subprocess.run(list(map(str, pip)), check=True)
    (file,) = place.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def outside(wheel, tmp_path_factory):
    """A folder outside the repository, and the function that calls ``vitdm`` there."""
    place = tmp_path_factory.mktemp("outside")
    site = place / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "sitecustomize.py").write_text(GUARD.format(refused="\n".join(refused())))
    environment = os.environ | {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}

    def call(*words):
        command = [sys.executable, "-m", "vitdm", *map(str, words)]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done

    return place, environment, call


def refused():
    """Return the modules that are installed here but by no dependency of the library."""
    allowed = closure(CORE)
    return sorted(
        module
        for module, distributions in importlib.metadata.packages_distributions().items()
        if not allowed & {canonicalize_name(name) for name in distributions}
        and not any(canonicalize_name(name) == "vitdm" for name in distributions)
    ) + ["studies"]


def test_the_wheel_has_the_library_and_its_data(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0].partition("-")[0] for name in names}
    assert tops == {"vitdm"}
    assert any(name.startswith("vitdm/pretrained/reference/") for name in names)
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vitdm").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules


def test_the_guard_refuses_what_is_no_dependency(outside):
    place, environment, _ = outside
    code = "import vitdm, sys; print(vitdm.__file__); import {}"
    for module in ("snakemake", "seaborn", "IPython", "pytest", "studies"):
        command = [sys.executable, "-c", code.format(module)]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == 1 and "not a dependency" in done.stderr, module
        assert done.stdout.startswith(str(place)), done.stdout


def test_simulate_fit_train_and_predict_outside_the_repository(outside):
    place, _, vitdm = outside
    (place / "mine.yaml").write_text(yaml.safe_dump(SETTINGS))
    config = ("--config", "mine.yaml")
    vitdm("simulate", "--population", "marginal", "--n", 12, "--out", "d")
    assert np.load(place / "d/images.npy").shape[0] == 12

    vitdm("simulate", "--population", "marginal", *config, "--out", "lenses")
    vitdm("preprocess", "lenses", *config, "--out", "processed")
    vitdm("train", "processed", *config, "--out", "run")
    np.save(place / "lens.npy", np.load(place / "lenses/images.npy")[0])
    vitdm("predict", "lens.npy", "--run", "run", "--out", "answers.csv")
    assert len(pd.read_csv(place / "answers.csv")) == 1

    vitdm("fit", "d", *config, "--population", "marginal", "--out", "fits")
    fits = pd.read_csv(place / "fits/fits.csv")
    assert len(fits) == 12 and np.isfinite(fits["fit_theta_E"]).all()
    vitdm("predict", "lens.npy", "--out", "reference.csv")  # with the model that comes with it
    assert pd.read_csv(place / "reference.csv")["p_no_sub"].between(0, 1).all()
