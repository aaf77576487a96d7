"""Predictions for images that are unlike the training images in scale, unit or what is known."""

import numpy as np
import pytest
from astropy.io import fits
from sklearn.metrics import roc_auc_score

import vitdm
from vitdm import Observation, simulation
from vitdm.__main__ import main
from vitdm.data.simulated import class_of_each
from vitdm.errors import InputError
from vitdm.model.novelty import UNLIKE
from vitdm.model.runs import Run
from vitdm.predict import predict
from vitdm.simulation import load_population

MARGINAL = load_population("marginal")
N = 12


@pytest.fixture(scope="module")
def run():
    return vitdm.load_pretrained()


@pytest.fixture(scope="module")
def lenses():
    kinds = np.array(class_of_each(N, 21, MARGINAL))
    images = [simulation.simulate_one(i, kind, 21, MARGINAL)[0] for i, kind in enumerate(kinds)]
    return np.array(images), kinds


@pytest.fixture(scope="module")
def answer(run, lenses):
    return predict([run], lenses[0])


def test_the_answer_tells_the_fit_and_what_was_assumed(answer, lenses):
    expected = ["p_no_sub", "p_cdm", "p_axion", "class", "lens_found", "fit_chi2", "fit_flags"]
    assert list(answer) == [*expected, "ood_pvalue", "unknown", "warning"]
    assert (answer["fit_chi2"][lenses[1] == "no_sub"] < 1.1).all()
    assert (answer["unknown"] == "noise psf pixel_scale gain").all()
    usual = answer["ood_pvalue"] > UNLIKE  # of a hundred lenses one is not, on average
    assert usual.sum() >= N - 1 and (answer["warning"][usual] == "").all()
    assert roc_auc_score(lenses[1] != "no_sub", 1 - answer["p_no_sub"]) > 0.9


def test_another_pixel_scale_is_refused(run, lenses, tmp_path, capsys):
    image = lenses[0][0]
    near = predict([run], [Observation(image, pixel_scale=0.051)])
    assert "pixel_scale" not in near["unknown"][0]
    text = "survey.fits: found 0.262 arcsec a pixel; the model was trained at 0.05"
    with pytest.raises(InputError, match=text):
        predict([run], [Observation(image, pixel_scale=0.262, name="survey.fits")])
    header = fits.Header({"CDELT1": -0.262 / 3600, "CDELT2": 0.262 / 3600})
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    fits.PrimaryHDU(image, header).writeto(tmp_path / "survey.fits")
    assert main(["predict", str(tmp_path / "survey.fits")]) == 2
    assert text in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "survey.fits"), "--pixel-scale", "0.05"]) == 0


@pytest.mark.parametrize("unit", ["electron/s", "ELECTRONS/S", "cps", "nanomaggy"])
def test_another_unit_than_counts_is_told_and_fitted_right(run, lenses, answer, unit):
    """The photon noise of counts, taken for that of a rate, gave 0.43 where 0.93 is right."""
    rates = [Observation(image / 2000, unit=unit) for image in lenses[0]]
    with_unit = predict([run], rates)
    assert with_unit["warning"].str.contains("trained on counts: the photon noise").all()
    assert (with_unit["unknown"] == "noise psf pixel_scale gain").all()
    assert np.abs(with_unit["p_no_sub"] - answer["p_no_sub"]).max() < 0.15
    np.testing.assert_allclose(with_unit["fit_chi2"], answer["fit_chi2"], rtol=0.1)
    counts = predict([run], [Observation(lenses[0][0], unit="ELECTRONS")])
    assert counts["warning"][0] == ""


def test_counts_for_a_model_of_rates(run, lenses):
    settings = run.settings.lensfit.model_copy(update={"gain": 1e-3})
    rates = Run(run.settings.model_copy(update={"lensfit": settings}), run.model)
    found = predict([rates], [Observation(image, unit="electron") for image in lenses[0]])
    assert found["warning"].str.contains("trained on another unit").all()
    assert (found["fit_chi2"][lenses[1] == "no_sub"] < 1.1).all()


def test_what_an_observation_knows_is_used(run, lenses, answer):
    """A noise map twice too large makes a fourth of chi^2, and nothing is assumed but the PSF."""
    image = lenses[0][np.flatnonzero(lenses[1] == "no_sub")[0]]
    sky = 1.4826 * np.median(np.abs(image - np.median(image)))
    noise = np.sqrt(sky**2 + np.clip(image, 0, None))
    known = Observation(image, noise=noise, pixel_scale=0.05)
    found = predict([run], [known, known.replace(noise=2 * noise)])
    assert (found["unknown"] == "psf").all()
    assert found["fit_chi2"][1] == pytest.approx(found["fit_chi2"][0] / 4, rel=0.02)


def test_doubtful_answers_are_told(run, lenses, tmp_path, capsys):
    """No light, a wrong noise, or a lens far from the middle: the class alone would mislead."""
    image = lenses[0][np.flatnonzero(lenses[1] == "no_sub")[0]]
    noise = np.random.default_rng(0).normal(0, 10, image.shape)
    answer = predict([run], [image, noise, image / 2000])
    told = answer["warning"]
    assert told[0] == "" and "no light was found" in told[1]
    assert "quiet" in answer["fit_flags"][2] and "chi2 is far below 1" in told[2]
    for k, one in enumerate((noise, noise + 1)):
        np.save(tmp_path / f"{k}.npy", one)
    assert main(["predict", str(tmp_path), "--out", str(tmp_path / "p.csv")]) == 0
    model, *said = capsys.readouterr().err.splitlines()
    assert model.startswith("model: reference") and len(said) == 2  # a line for each image
    for k, line in enumerate(said):
        assert line.startswith("WARNING: ") and f"{k}.npy: no light was found" in line
    (tmp_path / "folder").mkdir()
    assert main(["predict", str(tmp_path / "0.npy"), "--out", str(tmp_path / "folder")]) == 2
    assert "is a folder; expected the name of a CSV file" in capsys.readouterr().err


def test_a_lens_far_from_the_middle_is_told(run, lenses):
    moved = lenses[0][lenses[1] == "no_sub"][:, :, 21:]  # by 10.5 px
    assert predict([run], moved)["warning"].str.contains("cut the image around it").any()
