"""The reference model that comes with the library."""

import json

import numpy as np
from conftest import ROOT
from sklearn.metrics import roc_auc_score

import vitdm
from vitdm import pretrained, simulation
from vitdm.__main__ import main
from vitdm.data.simulated import class_of_each
from vitdm.predict import predict
from vitdm.simulation import load_population

MARGINAL = load_population("marginal")


def lenses(n, seed):
    kinds = class_of_each(n, seed, MARGINAL)
    images = [simulation.simulate_one(i, kind, seed, MARGINAL)[0] for i, kind in enumerate(kinds)]
    return np.array(images), np.array(kinds)


def test_it_finds_substructure_in_lenses_it_has_not_seen():
    images, kinds = lenses(80, seed=99)
    run = vitdm.load_pretrained()
    answer = predict([run], images)
    probabilities = answer.filter(like="p_").to_numpy()
    assert answer["lens_found"].all() and run.classes == ["no_sub", "cdm", "axion"]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert roc_auc_score(kinds != "no_sub", 1 - probabilities[:, 0]) > 0.93  # 0.995 ± 0.007


def test_it_is_small_and_told_about():
    weights = pretrained.FOLDER / "model.safetensors"
    assert weights.stat().st_size <= 2.5 * 2**20
    card = (pretrained.FOLDER / "README.md").read_text()
    reference = json.loads((ROOT / "paper/reference.json").read_text())
    assert f"{reference['test_auc']['value']:.4f}" in card
    assert all(word in card for word in ("Use", "Data", "Metrics", "Limits", "Licence"))


def test_predict_uses_it_when_no_run_is_named(tmp_path, capsys):
    np.save(tmp_path / "lens.npy", lenses(1, seed=5)[0][0])
    assert main(["predict", str(tmp_path / "lens.npy")]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split(",")[:4] == ["file", "p_no_sub", "p_cdm", "p_axion"]
    assert row.startswith(str(tmp_path))
