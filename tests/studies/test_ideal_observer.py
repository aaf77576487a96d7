"""The ideal observer against simulated noise, least squares and analytic ROC curves."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from oracle import with_values
from scipy import stats
from sklearn.metrics import roc_auc_score

from studies import ideal_observer
from studies.__main__ import main
from vitdm import simulation
from vitdm.data.simulated import class_of_each
from vitdm.errors import InputError
from vitdm.lens.parameters import MASS, SOURCE_POSITION, parameters
from vitdm.lens.residuals import fourth_power
from vitdm.simulation import load_population, population_of

MARGINAL = load_population("marginal")
MODEL_I = load_population("model_i")


def noisy(population, noise):
    """Return the population with another kind of noise."""
    instrument = population.instrument.model_copy(update={"noise": noise})
    return population.model_copy(update={"instrument": instrument})


@pytest.fixture(scope="module")
def tiny(population):
    return noisy(population, "single")


# ----------------------------------------------------------------------------------------- noise


@pytest.mark.parametrize("noise", ["single", "double_poisson"])
def test_moments_are_those_of_the_noise(noise):
    population = noisy(MODEL_I, noise)
    system = simulation.draw(0, "no_sub", 1, population)
    n = 40_000
    levels = np.array([0.0, 0.002, 0.01, 0.05, 0.3])  # counts/s, around the sky's rms of 0.01
    image = np.repeat(levels[:, None], n, axis=1)
    rng = np.random.default_rng(2)
    drawn = simulation.add_noise(image, system, rng, population) / system.exposure_time
    noise_of = ideal_observer.PixelNoise.of([system], population)
    brightness = torch.tensor(levels)[None, None]
    mean, slope = noise_of.mean(brightness)
    variance = noise_of.variance(brightness)[0, 0].numpy()
    if slope is not None:
        above, below = (noise_of.mean(brightness + step)[0] for step in (1e-7, -1e-7))
        np.testing.assert_allclose(slope[..., 1:], ((above - below) / 2e-7)[..., 1:], rtol=1e-5)
    mean = mean[0, 0].numpy()
    error = np.sqrt(variance / n)
    assert (np.abs(drawn.mean(axis=1) - mean) < 4 * error).all()
    np.testing.assert_allclose(drawn.var(axis=1), variance, rtol=0.04)
    if noise == "single":
        np.testing.assert_allclose(mean, levels)
    else:
        assert mean[0] > 0.3 * population.instrument.background_rms  # clipped at zero


def test_without_noise_there_is_no_bound(tiny):
    silent = noisy(tiny, "none")
    with pytest.raises(InputError, match="noise: none; expected single or double_poisson"):
        catalog = ideal_observer.catalog_of(8, 1, silent)
        ideal_observer.score_catalog(catalog, silent, progress=False)


# ------------------------------------------------------------------------------------------ fits


CENTER = ("center_x", "center_y")


def flat(system):
    """Return every number of a smooth lens by the name of its parameter, logarithms as such."""
    source = {f"source_{name.removeprefix('center_')}": v for name, v in system.source.items()}
    lens = {name: getattr(system, name) for name in ("e1", "e2", "gamma1", "gamma2")}
    for name in ("source_amp", "source_R_sersic", "source_n_sersic"):
        source[name] = np.log(source[name])
    return (
        {"theta_E": system.theta_E_halo}
        | lens
        | source
        | {"sky": 0.0}
        | dict(zip(CENTER, system.center, strict=True))
    )


def lenses_of(*systems):
    return ideal_observer.KnownLenses(systems, MARGINAL)


def image_of(lenses, system, values):
    """The simulator's image (1, H, W) of a lens with other values of its parameters."""
    image = torch.from_numpy(simulation.render(with_values(system, values), MARGINAL))[None]
    assert image.shape == lenses.image.shape
    return image


def test_true_values():
    system = simulation.smooth(simulation.draw(1, "cdm", 1, MARGINAL))
    values = ideal_observer.true_values(system)
    names = [row.name for row in parameters()]
    assert dict(zip(names, values, strict=True)) == flat(system)
    for k, name in enumerate(names):
        if name == "sky":
            continue
        moved = with_values(system, values + 0.1 * (np.arange(len(names)) == k))
        assert flat(moved) == pytest.approx(flat(system) | {name: flat(system)[name] + 0.1})


def test_a_different_smooth_lens_is_no_perturbation():
    """With all parameters free, the fit finds a lens that differs in every one of them."""
    system = simulation.draw(4, "no_sub", 3, MARGINAL)
    lenses = lenses_of(system)
    step = [
        0.02,
        0.01,
        -0.02,
        0.01,
        0.005,
        0.03,
        -0.02,
        0.03,
        0.02,
        0.05,
        -0.1,
        0.08,
        0,
        0.02,
        -0.01,
    ]
    other = image_of(lenses, system, ideal_observer.true_values(system) + step)
    assert ((other - lenses.expected) / lenses.sigma).norm() > 10
    fit = lenses.fit(other)
    assert fit.chi2.item() < 0.01
    np.testing.assert_allclose(fit.values - lenses.truth, [step], atol=2e-3)


def test_what_no_smooth_lens_can_imitate_is_the_rest_of_a_projection():
    """A perturbation small enough to be linear: ordinary least squares gives the same."""
    system = simulation.draw(4, "cdm", 3, MARGINAL)
    # without the mass that a smooth halo would have to make up for
    system = replace(system, masses=1e-3 * system.masses, theta_E_halo=system.theta_E)
    lenses = lenses_of(system)
    lenses.sigma /= 100  # so that it matters
    target = torch.from_numpy(simulation.render(system, MARGINAL))[None]
    truth, columns = lenses.truth[0].numpy(), []
    for k in lenses.model.columns(ideal_observer.FREE):  # all but the sky
        step = 1e-4 * (np.arange(len(truth)) == k)
        ends = [image_of(lenses, system, truth + sign * step) for sign in (1, -1)]
        columns.append(((ends[0] - ends[1]) / lenses.sigma).flatten().numpy() / 2e-4)
    matrix = np.array(columns).T
    difference = ((target - lenses.expected) / lenses.sigma).flatten().numpy()
    rest = difference - matrix @ np.linalg.lstsq(matrix, difference)[0]
    free = lenses.fit(target).chi2.item() ** 0.5
    assert 1 < free < 0.9 * np.linalg.norm(difference)
    assert free == pytest.approx(np.linalg.norm(rest), rel=0.02)


def test_the_position_alone_is_fitted_if_nothing_else_is_free():
    system = simulation.draw(4, "no_sub", 3, MARGINAL)
    lenses = lenses_of(system)
    position = np.isin(np.arange(lenses.truth.shape[1]), lenses.model.columns(SOURCE_POSITION))
    moved = ideal_observer.true_values(system) + 0.03 * position
    fit = lenses.fit(image_of(lenses, system, moved), SOURCE_POSITION)
    np.testing.assert_allclose(fit.values[0], moved, atol=1e-4)
    assert (fit.values[0, ~position] == lenses.truth[0, ~position]).all()


def test_a_round_halo_can_become_elliptical():
    """The direction of an ellipticity of 0 is undefined; the fit leaves it all the same."""
    system = replace(simulation.draw(4, "no_sub", 3, MARGINAL), e1=0.0, e2=0.0)
    lenses = lenses_of(system)
    step = np.array([0, 2e-4, -3e-4, *[0] * 12])
    fit = lenses.fit(image_of(lenses, system, lenses.truth[0].numpy() + step), MASS)
    np.testing.assert_allclose(fit.values[0, 1:3], step[1:3], atol=2e-5)


def test_residuals_of_smooth_lenses_are_noise():
    drawn = [(index, "no_sub", 5) for index in range(25)]
    table = ideal_observer.score_images(drawn, MARGINAL)
    assert (table[["snr_known", "snr_free"]] < 1e-3).all(axis=None)
    # a standard normal for chi^2; 3 for the fourth power, somewhat less where more is fitted
    assert abs(table["chi2_known"].mean()) < 4 / 5 and 0.6 < table["chi2_known"].std() < 1.6
    assert 2.6 < table["fourth_known"].mean() < 3.3
    assert (table["chi2_free"] < table["chi2_known"] + 1e-9).mean() > 0.8


def test_the_image_is_that_of_the_data_set(monkeypatch):
    """What is fitted is the image that simulate writes."""
    seen = []
    fit = ideal_observer.KnownLenses.fit

    def spy(self, target, *arguments, **options):
        seen.append(target)
        return fit(self, target, *arguments, **options)

    monkeypatch.setattr(ideal_observer.KnownLenses, "fit", spy)
    ideal_observer.score_images([(7, "cdm", 5)], MARGINAL)
    image, truth = simulation.simulate_one(7, "cdm", 5, MARGINAL)
    counts = seen[1][0].numpy() * truth["exposure_time"]
    assert len(seen) == 3 and torch.equal(seen[1], seen[2])
    np.testing.assert_allclose(image, counts, rtol=1e-5, atol=1e-3)


def test_a_string_through_the_centre_looks_smooth():
    """The quadrupole of a short string is that of a slightly more elliptical halo."""
    kind = {"axion_mass": {"log_uniform": [9e-23, 1e-22]}, "mass": 3e10, "position": {"disc": 0}}
    content = MODEL_I.model_dump() | {"vortex": kind}
    short = population_of(content)
    rows = ideal_observer.score_images([(index, "axion", 2) for index in range(3)], short)
    assert (rows["snr_known"] > 20).all() and (rows["snr_free"] < 4).all()


def test_fourth_power():
    everywhere = np.ones((9, 9), bool)
    one = np.zeros((9, 9))
    one[4, 4] = 3.0  # nine pixels see it, each as 3 / 3
    assert fourth_power(one, everywhere) == pytest.approx(9 / 81)
    assert fourth_power(one, one > 0) == pytest.approx(1)
    white = np.random.default_rng(1).normal(size=(400, 400))
    assert fourth_power(white, white < np.inf) == pytest.approx(3, rel=0.05)


# --------------------------------------------------------------------------------------- summary


def test_ideal_observer_of_equal_perturbations():
    for s in (0.0, 0.5, 2.0):
        found = ideal_observer.ideal_auc(np.full(5, s), np.ones((1, 5)))
        assert found == pytest.approx([stats.norm.cdf(s / np.sqrt(2))])


def test_ideal_observer_of_unequal_perturbations():
    """The area that likelihood ratios reach in a simulated experiment."""
    rng = np.random.default_rng(3)
    snr = np.array([0.3, 1.0, 2.5])
    s = rng.choice(snr, size=(2, 100_000))
    without = rng.normal(-(s[0] ** 2) / 2, s[0])
    present = rng.normal(s[1] ** 2 / 2, s[1])
    labels = np.repeat([0, 1], s.shape[1])
    measured = roc_auc_score(labels, np.concatenate([without, present]))
    assert ideal_observer.ideal_auc(snr, np.ones((1, 3)))[0] == pytest.approx(measured, abs=0.004)
    assert ideal_observer.ideal_auc(snr, np.array([[0, 0, 2.0]]))[0] == pytest.approx(
        stats.norm.cdf(2.5 / np.sqrt(2))
    )


def made_up(n=400):
    rng = np.random.default_rng(4)
    kinds = np.repeat(["no_sub", "cdm", "axion"], [n, n, n])
    shift = np.repeat([0.0, 2.0, 1.0], n)
    scores = {name: rng.normal(shift) for name in ideal_observer.SCORES}
    return pd.DataFrame({"class": kinds, "snr_known": shift, "snr_free": shift / 2, **scores})


def test_summary_by_class():
    summary = ideal_observer.summarise(made_up(), n_bootstrap=200)
    assert list(summary) == ["no_sub", "axion", "cdm", "sub"]
    assert summary["sub"]["n"] == 800 and summary["cdm"]["n"] == summary["no_sub"]["n"] == 400
    assert summary["cdm"]["snr_free"] == {"median": 1.0, "p5": 1.0, "p95": 1.0}
    for kind, shift in (("cdm", 2.0), ("axion", 1.0)):
        true = stats.norm.cdf(shift / np.sqrt(2))
        ideal = summary[kind]["auc_ideal_known"]
        assert all(value == pytest.approx(true) for value in ideal.values())
        auc = summary[kind]["auc_chi2_free"]
        assert auc["value"] == pytest.approx(true, abs=0.04)
        assert auc["low"] < auc["value"] < auc["high"]
    either = summary["sub"]["auc_ideal_known"]
    assert either["low"] < either["value"] < either["high"]
    assert summary["axion"]["auc_ideal_known"]["value"] < either["value"]


def test_one_kind_of_substructure_is_not_told_twice():
    table = made_up()
    assert list(ideal_observer.summarise(table[table["class"] != "axion"], 20)) == ["no_sub", "cdm"]


def test_command_line(tiny, tmp_path, capsys):
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(tiny.model_dump(mode="json")))
    command = [
        "ideal-observer",
        str(path),
        "--n",
        "8",
        "--seed",
        "3",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(command) == 0
    table = pd.read_csv(tmp_path / "out" / "ideal_observer.csv")
    expected = ideal_observer.score_catalog(table.assign(seed=3), tiny, progress=False)
    pd.testing.assert_frame_equal(table, expected, rtol=1e-4)
    assert table["class"].tolist() == class_of_each(8, 3, tiny)
    summary = json.loads((tmp_path / "out" / "ideal_observer.json").read_text())
    assert summary["no_sub"]["n"] == 4 and summary["sub"]["n"] == 4
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["seed"] == 3
    assert main(command) == 0  # an earlier result is replaced

    path.write_text(json.dumps(noisy(tiny, "none").model_dump(mode="json")))
    assert main(command) == 2
    assert "found instrument.noise: none" in capsys.readouterr().err


def test_images_that_were_classified(tiny, tmp_path, capsys):
    """Their scores are those of all images, drawn again from id and seed; no image is read."""
    path, predictions = tmp_path / "tiny.yaml", tmp_path / "predictions.csv"
    path.write_text(json.dumps(tiny.model_dump(mode="json")))
    catalog = ideal_observer.catalog_of(8, 3, tiny)
    catalog.iloc[::-1].drop(columns="seed").assign(p_no_sub=0.5).to_csv(predictions, index=False)
    command = ["known-lens", str(path), str(predictions), "--seed", "3"]
    assert main([*command, "--jobs", "2", "--out", str(tmp_path / "out")]) == 0
    found = pd.read_csv(tmp_path / "out" / "scores.csv")
    expected = ideal_observer.score_catalog(catalog.iloc[::-1], tiny, progress=False)
    pd.testing.assert_frame_equal(found, expected[list(found)], rtol=1e-4)
    assert list(found) == ["id", "class", "chi2_known", "fourth_known"]
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["n"] == 8
    auc = roc_auc_score(catalog["class"] != "no_sub", expected["chi2_known"][::-1])
    assert f"ROC-AUC of chi2 {auc:.4f}" in capsys.readouterr().err

    predictions.write_text("id,class\nother_0123abcd_000001,cdm\n")
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "found images of other; expected of tiny" in capsys.readouterr().err
