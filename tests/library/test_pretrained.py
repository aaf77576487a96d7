"""The models that come with the library, and which of them is taken for which images."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT
from sklearn.metrics import roc_auc_score

import vitdm
from vitdm import pretrained, simulation
from vitdm.__main__ import main
from vitdm.data.simulated import class_of_each
from vitdm.errors import InputError
from vitdm.predict import predict, predict_files
from vitdm.simulation import load_population

MARGINAL = load_population("marginal")
LENSES = load_population("lenses")
REAL = Path(__file__).resolve().parents[3] / "shared/data/deeplense_binary"


def lenses(n, seed, population=MARGINAL):
    kinds = class_of_each(n, seed, population)
    images = [simulation.simulate_one(i, kind, seed, population)[0] for i, kind in enumerate(kinds)]
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


def test_the_binary_model_tells_grey_levels_of_lenses_it_has_not_seen():
    images, kinds = lenses(24, seed=99, population=LENSES)
    run = vitdm.load_pretrained("binary")
    answer = predict([run], images)
    assert run.classes == ["no_sub", "sub"] and run.settings.pixel_scale == 0.06
    assert roc_auc_score(kinds != "no_sub", answer["p_sub"]) > 0.9
    folder = pretrained.folder_of("binary")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2**20
    card = (folder / "README.md").read_text()
    assert all(word in card for word in ("Use", "Data", "Metrics", "Limits", "Licence"))
    told = json.loads((folder / "run.json").read_text())["scores"]
    assert all(f"| {row['images']} | {row['right']} of {row['n']} |" in card for row in told)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs images of DeepLense's binary set")
def test_the_binary_model_tells_most_real_images():
    table = predict_files([REAL / "no_sub", REAL / "sub"], [pretrained.folder_of("binary")])
    right = table["file"].str.contains("/no_sub/") == (table["class"] == "no_sub")
    assert len(table) == 14 and right.sum() >= 12


def test_the_model_is_chosen_by_the_images(tmp_path, capsys):
    image = lenses(1, seed=5, population=LENSES)[0][0]
    grey, brightness = tmp_path / "lens.png", tmp_path / "lens.npy"
    cv2.imwrite(str(grey), image.astype(np.uint8))
    np.save(brightness, image)
    assert pretrained.suited([grey]) == "binary" and pretrained.suited([brightness]) == "reference"
    for files in ([grey, brightness], [tmp_path]):
        with pytest.raises(InputError, match=r"lens\.png: found grey levels, but none in .*\.npy"):
            pretrained.suited(files)
    assert main(["predict", str(grey)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("file,p_no_sub,p_sub,class")
    assert err.splitlines()[0] == (
        "model: binary, for grey levels of DeepLense's binary set, 0.06 arcsec a pixel; "
        "--run takes another"
    )
    assert main(["predict", str(grey), "--run", "reference"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("file,p_no_sub,p_cdm,p_axion") and "model: " not in err
    assert main(["predict", str(grey), "--pixel-scale", "0.05"]) == 2
    assert "0.05 arcsec a pixel; the model was trained at 0.06" in capsys.readouterr().err


def test_a_name_is_that_of_a_model_unless_a_folder_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pretrained.folder_of("binary").parent == pretrained.FOLDER.parent
    (tmp_path / "binary").mkdir()
    assert pretrained.folder_of("binary") == Path("binary")
    with pytest.raises(InputError, match="found 'ternary'; expected one of: reference, binary"):
        vitdm.load_pretrained("ternary")
