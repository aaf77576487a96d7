"""The first final model of a workflow becomes the one that comes with the library."""

import json
import shutil

import numpy as np
import pytest
import yaml
from conftest import POPULATION
from files import signed
from test_check import evaluated

from studies import reference_model
from studies.__main__ import main
from vitdm.data.simulated import index_of, observed, planned
from vitdm.errors import InputError
from vitdm.model.runs import RUN_FILES, load_run
from vitdm.predict import predict
from vitdm.simulation import load_population

NUMBERS = {"n_test": 500, "n_seeds": 3, "test_auc": 0.9, "test_auc_low": 0.8, "test_auc_high": 0.95}
NUMBERS |= {"test_balanced_accuracy": 0.7, "test_tpr_at_fpr_01": 0.5}


def test_the_card_says_what_the_run_is(run_folder, tmp_path):
    source = tmp_path / "results/final/seed0"
    source.mkdir(parents=True)
    for file in run_folder.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    settings = yaml.safe_load((source / "config.yaml").read_text())
    settings |= {"pixel_scale": 0.05, "lensfit": {"gain": 2.0, "psf_fwhm": 0.09}}
    (source / "config.yaml").write_text(yaml.safe_dump(settings))
    signed(source)
    workflow = {"name": "tiny", "population": "mine/tiny.yaml"}
    (tmp_path / "results/config.yaml").write_text(yaml.safe_dump(workflow))
    reference_model.write(tmp_path / "results", NUMBERS, tmp_path / "reference")
    assert {file.name for file in (tmp_path / "reference").iterdir()} == {*RUN_FILES, "README.md"}
    card = (tmp_path / "reference/README.md").read_text()
    commit = json.loads((run_folder / "run.json").read_text())["commit"]
    n = len(load_run(tmp_path / "reference").feature_names)
    for words in (
        "(no_sub, cdm, axion)",
        f"commit `{commit}`",
        "20 simulated lenses of the population `tiny`",
        f"and {n} features join the image",
        "0.9000 (0.8000 to 0.9500)",
    ):
        assert words in " ".join(card.split())


def test_it_learns_anew_what_is_unlike_its_training_images(run_folder, tmp_path, monkeypatch):
    """From lenses of the workflow's own splits: those of ``valid`` become the held-out ones."""
    folder = tmp_path / "reference"
    shutil.copytree(run_folder, folder)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(POPULATION))
    workflow = {"population": str(tmp_path / "tiny.yaml"), "seed": 7}
    workflow["n_images"] = {"train": 30, "valid": 20, "opt": 6, "test": 9}
    (tmp_path / "paper.yaml").write_text(yaml.safe_dump(workflow))
    assert load_run(folder).novelty is None
    reference_model.learn_novelty(20, folder, tmp_path / "paper.yaml")
    run, population = load_run(folder), load_population(workflow["population"])
    plan = planned(population, workflow["n_images"], 7)
    held_out = plan[plan["split"] == "valid"]
    images = [
        observed(index_of(name), kind, 7, population).data
        for name, kind in zip(held_out["id"], held_out["class"], strict=True)
    ]
    ranks = np.sort(predict([run], images)["ood_pvalue"] * 21)
    np.testing.assert_allclose(ranks, 1 + np.arange(1, 21), atol=1)  # as far as itself, rounded
    chosen = []
    monkeypatch.setattr(reference_model, "learn_novelty", chosen.append)
    assert main(["write-reference", "--novelty", "20"]) == 0 and chosen == [20]


def test_only_a_run_with_fits_can_take_its_place(run_folder, tmp_path):
    (tmp_path / "final").mkdir()
    (tmp_path / "final/seed0").symlink_to(run_folder)
    with pytest.raises(InputError, match="found no fits of lenses"):
        reference_model.write(tmp_path, {}, tmp_path / "reference")
    assert not (tmp_path / "reference").exists()


def test_the_command_writes_numbers_page_and_model(tmp_path, monkeypatch, capsys):
    numbers = evaluated(tmp_path / "results")
    (tmp_path / "results/numbers").mkdir()
    (tmp_path / "results/numbers/05.json").write_text(json.dumps(numbers))
    (tmp_path / "README.md").write_text("<!-- number: test_auc -->0.5")
    written = []
    monkeypatch.setattr(reference_model, "write", lambda *arguments: written.append(arguments))
    monkeypatch.chdir(tmp_path)
    assert main(["write-reference", "--results", "results", "--reference", "reference.json"]) == 0
    assert written == [("results", numbers)]
    auc = numbers["test_auc"]
    assert (tmp_path / "README.md").read_text() == f"<!-- number: test_auc -->{auc:.3f}"
    assert json.loads((tmp_path / "reference.json").read_text())["test_auc"]["value"] == auc
    (tmp_path / "results/numbers/05.json").write_text(json.dumps(numbers | {"test_auc": 0.999}))
    assert main(["write-reference", "--results", "results", "--reference", "reference.json"]) == 2
    assert "numbers: test_auc: found 0.999" in capsys.readouterr().err and len(written) == 1


def test_a_run_that_contradicts_the_article_is_refused(tmp_path, monkeypatch, capsys):
    numbers = evaluated(tmp_path / "results")
    (tmp_path / "results/numbers").mkdir()
    (tmp_path / "results/numbers/05.json").write_text(json.dumps(numbers))
    (tmp_path / "results/config.yaml").write_text("name: tiny\n")
    (tmp_path / "claims.yaml").write_text("It is good: test_auc > 0.999\n")
    (tmp_path / "numbers.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert main(["write-reference", "--results", "results", "--reference", "reference.json"]) != 0
    found = f"It is good: needs `test_auc > 0.999`; found [{numbers['test_auc']}, 0.999]"
    assert found in capsys.readouterr().err
    assert not (tmp_path / "reference.json").exists()
