"""The wheel has the library alone, and its declared dependencies are all that it needs.

It is installed into a folder outside the repository. There a Python runs that finds what the
library's dependencies installed, all the way down, and nothing else that is here for the tests.
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

from vitdm import pretrained

GUARD = '''"""Hide the packages that are no dependency, as if they were not installed."""
import sys
from importlib.machinery import PathFinder

HIDDEN = set("""{hidden}""".split())


class Guard(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in HIDDEN
        return None if hidden else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Guard
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
    """A folder outside the repository, and the function that calls a Python there."""
    place = tmp_path_factory.mktemp("outside")
    site = place / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "sitecustomize.py").write_text(GUARD.format(hidden="\n".join(hidden())))
    environment = os.environ | {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}

    def python(*words):
        command = [sys.executable, *map(str, words)]
        return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)

    return place, python


def hidden():
    """Return the modules that are installed here, but not by vitdm or a dependency of it."""
    allowed = closure(CORE) | {"vitdm"}
    installed = importlib.metadata.packages_distributions().items()
    names = {module: {canonicalize_name(name) for name in names} for module, names in installed}
    return ["studies", *sorted(module for module, given in names.items() if not given & allowed)]


def test_the_wheel_has_the_library_and_its_data(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0].partition("-")[0] for name in names}
    assert tops == {"vitdm"}
    for model in pretrained.MODELS:
        assert f"vitdm/pretrained/{model}/model.safetensors" in names
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vitdm").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    stubs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vitdm").rglob("*.pyi")}
    assert {name for name in names if name.endswith(".pyi")} == stubs
    assert "vitdm/py.typed" in names


def test_nothing_else_is_to_be_found(outside):
    place, python = outside
    names = ["vitdm", "torch", "skopt", "snakemake", "seaborn", "IPython", "pytest", "studies"]
    code = "from importlib.util import find_spec; import vitdm; print(vitdm.__file__)\n"
    code += f"print(*(name for name in {names} if find_spec(name)))"
    file, found = python("-c", code).stdout.splitlines()
    assert file.startswith(str(place)) and found == "vitdm torch skopt"


def test_simulate_fit_train_and_predict(outside):
    place, python = outside

    def vitdm(*words):
        done = python("-m", "vitdm", *words)
        assert done.returncode == 0, done.stderr

    (place / "mine.yaml").write_text(yaml.safe_dump(SETTINGS))
    config = ("--config", "mine.yaml")
    vitdm("simulate", "--population", "marginal", "--n", 12, "--out", "d")
    assert len(np.load(place / "d/images.npy")) == 12

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
