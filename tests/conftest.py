"""Tiny lenses and a tiny run that several test modules share."""

import os
from pathlib import Path

import hypothesis
import pytest
import yaml

from studies import config as workflow
from vitdm.config.reading import read_yaml
from vitdm.simulation import population_file, population_of

# the same inputs in each run, on machines of any speed
hypothesis.settings.register_profile("vitdm", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("vitdm")
ROOT = Path(__file__).parents[1]
POPULATION = read_yaml(population_file("model_i"))
POPULATION |= {"name": "tiny", "description": "Model I on 48 pixels", "num_pix": 48}
POPULATION["instrument"] |= {"pixel_scale": 0.1, "psf_fwhm": 0.17}
SETTINGS = {
    "name": "tiny",
    "seed": 7,
    "n_images": {"train": 20, "valid": 8, "opt": 8, "test": 12},
    "shards": 2,
    "preprocess": {"size": 32},
    "selection": {"n_bootstrap": 20, "n_subsamples": 3, "n_repeats": 3},
    "model": {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "features": True},
    "train": {"epochs": 1, "batch_size": 8},
    "runs": {"plain": {"label": "ViT", "model": {"spt": False, "lsa": False, "features": False}}},
    "tune": {
        "n_calls": 3,
        "n_initial_points": 1,
        "start_seeds": 1,
        "candidates": 1,
        "candidate_seeds": 2,
        "epochs": 1,
        "space": {"learning_rate": {"type": "real", "low": 1e-4, "high": 1e-2, "log": True}},
    },
    "final": {"seeds": 1, "epochs": 2},
    "evaluation": {"bootstrap": 20},
}


def fuzz(examples):
    """Settings of a test with generated inputs; with VITDM_FUZZ=100 a hundred times as many."""
    return hypothesis.settings(
        max_examples=examples * int(os.environ.get("VITDM_FUZZ", "1")),
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )


@pytest.fixture(scope="session")
def population():
    return population_of(POPULATION)


@pytest.fixture(scope="session")
def settings():
    return workflow.build(SETTINGS)


@pytest.fixture(scope="session")
def config_file(tmp_path_factory):
    """The settings and the population of the tiny lenses, as files."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "population.yaml").write_text(yaml.safe_dump(POPULATION))
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(SETTINGS | {"population": str(folder / "population.yaml")}))
    return path


@pytest.fixture(scope="session")
def lenses(tmp_path_factory, population, settings):
    """A data set of 48 simulated lenses of 48 pixels."""
    from vitdm.data.simulated import simulate_dataset

    out = tmp_path_factory.mktemp("lenses") / "dataset"
    simulate_dataset(population, settings.n_images, settings.seed, out, progress=False)
    return out


@pytest.fixture(scope="session")
def processed(lenses, settings):
    from vitdm.preprocess import process_dataset

    process_dataset(lenses, lenses.parent / "processed", settings.preprocess, progress=False)
    return lenses.parent / "processed"


@pytest.fixture(scope="session")
def features_csv(lenses, settings):
    from vitdm.features import measure_dataset

    out = lenses.parent / "features.csv"
    measure_dataset(lenses, out, settings.preprocess, settings.features, progress=False)
    return out


@pytest.fixture(scope="session")
def run_folder(processed, features_csv, settings):
    """A run of one epoch with features, trained on ``train`` and scored on ``opt``."""
    from vitdm.model.inputs import Tables
    from vitdm.model.runs import train_run

    out = processed.parent / "runs" / "joint_seed0"
    model = settings.model.model_copy(update={"feature_set": "all"})
    changed = settings.model_copy(update={"model": model, "seed": 3})
    train_run(processed, out, changed, tables=Tables(features_csv), progress=False)
    return out
