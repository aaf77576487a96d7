"""Lenses unlike what the fit is told: what rows change, scores, thresholds, and the matrix."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from astropy.cosmology import FlatLambdaCDM
from lenstronomy.LensModel.lens_model import LensModel as Oracle
from scipy import stats

from studies import misspecification as study
from studies import misspecified
from studies.__main__ import main
from studies.config import load
from studies.config.part import text_of
from studies.misspecified import LINE_OF_SIGHT, NOMINAL, ROWS, Clump, observed, population_for
from studies.plots import misspecification as plots
from studies.stages import stages
from studies.story import misspecification as story
from studies.targets import Targets
from vitdm.config.reading import read_yaml
from vitdm.errors import InputError
from vitdm.evaluation.metrics import roc_auc
from vitdm.lens import fit_sersic
from vitdm.simulation import NO_SUB, draw, load_population, render
from vitdm.simulation.cosmology import theta_E_point
from vitdm.simulation.psf import Psf, kernel

ROOT = Path(__file__).parents[2]
SEED, INDEX = 5, 1_000_001


def lens(row, kind="cdm", index=INDEX):
    return observed(row, index, kind, SEED, "marginal")


def truth(row, kind="cdm"):
    return draw(INDEX, kind, SEED, population_for(row, "marginal"))


# ------------------------------------------------------------------------------------ the rows


@pytest.mark.parametrize("row", list(ROWS))
def test_a_row_changes_one_thing_of_the_same_lens(row):
    """All that is drawn is the nominal lens's, but for the one part that the row names."""
    system, nominal = truth(row), truth(NOMINAL)
    changed = {"center": "center", "multipoles": "multipoles", "slope": "slope"}
    changed |= {"clumps": "structure", "spiral": "structure", "lens": "lens_light"}
    own = changed.get(row.partition("_")[0])
    for name in ("theta_E", "e1", "gamma1", "source", "exposure_time", "center"):
        assert getattr(system, name) == getattr(nominal, name) or name == own, name
    for name in ("slope", "multipoles", "structure", "lens_light"):
        assert (getattr(system, name) is None) != (name == own), name
    np.testing.assert_array_equal(system.masses, nominal.masses)


def test_nominal_lenses_are_those_of_the_population():
    population = load_population("marginal")
    seen, system = lens(NOMINAL), draw(INDEX, "cdm", SEED, population)
    image = system.exposure_time * render(system, population)
    assert seen.unknown == () and seen.psf == 0.087
    assert np.std((seen.data - image) / seen.noise) == pytest.approx(1, abs=0.02)


def test_amounts_are_those_of_the_labels():
    center = np.hypot(*truth("center_025").center)
    assert center == pytest.approx(0.25 * 0.05)
    a3, a4 = (
        np.hypot(*truth("multipoles_20").multipoles[2:4]),
        truth("multipoles_20").multipoles[4:],
    )
    assert a3 == pytest.approx(0.02) and np.hypot(*a4) == pytest.approx(0.02)
    assert (truth("slope_18").slope, truth("slope_22").slope) == (1.8, 2.2)
    assert population_for("psf_minus_20", "marginal").instrument.psf_fwhm == pytest.approx(0.0696)


@pytest.mark.parametrize("row", [row for row in ROWS if row.startswith("psf")])
def test_the_fit_is_told_the_nominal_psf(row):
    assert lens(row).psf == 0.087


def test_the_core_of_the_psf_with_wings_is_that_of_the_gaussian():
    winged = kernel(Psf(**misspecified.WINGS), 0.05)
    half = (len(winged) - 1) // 2
    x, y = np.meshgrid(*[(np.arange(len(winged)) - half) * 0.05] * 2)

    def gaussian(fwhm):
        image = np.exp(-4 * np.log(2) * (x**2 + y**2) / fwhm**2)
        return image / image.sum()

    widths = np.arange(0.07, 0.11, 0.001)
    best = widths[np.argmin([((gaussian(w) - winged) ** 2).sum() for w in widths])]
    assert best == pytest.approx(0.087, rel=0.03)
    far = np.hypot(x, y) > 0.2
    assert winged[far].sum() > 0.06 and gaussian(0.087)[far].sum() < 1e-4


def test_the_noise_map_is_wrong_as_the_rows_say():
    nominal = lens(NOMINAL)
    for row, factor in (("noise_minus", 0.9), ("noise_plus", 1.1)):
        np.testing.assert_allclose(lens(row).noise, factor * nominal.noise, rtol=1e-6)
        np.testing.assert_array_equal(lens(row).data, nominal.data)
    photons = truth(NOMINAL).exposure_time * render(truth(NOMINAL), load_population("marginal"))
    change = lens("gain_plus").noise ** 2 - nominal.noise**2
    bright = photons > photons.max() / 10  # counts, whose variance is their number
    np.testing.assert_allclose(change[bright] / photons[bright], 0.1, rtol=1e-3)
    assert np.median(change / nominal.noise**2) < 1e-3  # the sky
    assert lens("pixel_scale").pixel_scale == pytest.approx(0.0515)


def test_correlated_noise_has_the_map_of_independent_noise():
    smooth, population = truth("correlated"), population_for("correlated", "marginal")
    seen = lens("correlated")
    np.testing.assert_array_equal(seen.noise, lens(NOMINAL).noise)
    left = (seen.data - smooth.exposure_time * render(smooth, population)) / seen.noise
    assert np.std(left) == pytest.approx(2 / 3, abs=0.02)  # Casertano et al. 2000, pixfrac 1
    assert np.corrcoef(left[:, 1:].ravel(), left[:, :-1].ravel())[0, 1] > 0.2


def test_rows_that_are_not_there_are_named():
    with pytest.raises(InputError, match=r"row 'center': unknown; .* nominal, center_010"):
        population_for("center", "marginal")


# ----------------------------------------------------------------------------- the line of sight


@pytest.mark.filterwarnings("ignore:Cosmology is provided")
@pytest.mark.parametrize("z", [0.3, 0.7])
def test_rays_are_those_of_lenstronomy_in_two_planes(z):
    """A clump behind is where its image through the lens is seen."""
    population = load_population("marginal")
    system, cosmology = draw(INDEX, NO_SUB, SEED, population), population.cosmology
    clump = Clump(5e9, z, 0.9, -0.7)
    theta = np.array([[0.8, -1.0, 0.3, 0.95], [0.2, 0.4, -1.2, -0.75]])
    lens_plane = {"theta_E": system.theta_E_halo, "e1": system.e1, "e2": system.e2}
    kwargs = [lens_plane | {"center_x": 0, "center_y": 0}, {"ra_0": 0, "dec_0": 0}]
    kwargs[1] |= {"gamma1": system.gamma1, "gamma2": system.gamma2}
    planes = {"lens_redshift_list": [0.5, 0.5], "z_source": 1.0, "multi_plane": True}
    planes |= {"cosmo": FlatLambdaCDM(H0=70, Om0=0.3, Ob0=0.05)}
    place = (clump.x, clump.y)
    if z > 0.5:  # where the ray through the image of the clump meets its plane
        to = Oracle(["SIE", "SHEAR"], **planes | {"z_source": z, "z_source_convention": 1.0})
        place = to.ray_shooting(*np.array(place), kwargs)
    radius = theta_E_point(clump.mass, cosmology.model_copy(update={"z_lens": z}))
    point = {"theta_E": radius, "center_x": place[0], "center_y": place[1]}
    planes["lens_redshift_list"] = [0.5, 0.5, z]
    oracle = Oracle(["SIE", "SHEAR", "POINT_MASS"], **planes)
    expected = oracle.ray_shooting(*theta, [*kwargs, point])
    found = clump.source_plane(system, cosmology, theta)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    without = replace(clump, mass=0.0).source_plane(system, cosmology, theta)
    assert np.abs(found - without).max() > 0.005


def test_a_clump_without_mass_leaves_the_image_as_it_is():
    population = load_population("marginal")
    system = draw(INDEX, NO_SUB, SEED, population)
    image = Clump(0.0, 0.7, 1.0, 0.0).render(system, population)
    np.testing.assert_allclose(image, render(system, population), atol=1e-7 * image.max())


def test_clumps_lie_on_the_line_of_sight_near_the_einstein_radius():
    population = load_population("marginal")
    clumps = [misspecified.draw_clump(k, SEED, population) for k in range(60)]
    radii = [draw(k, NO_SUB, SEED, population).theta_E for k in range(60)]
    off = np.array([np.hypot(c.x, c.y) - r for c, r in zip(clumps, radii, strict=True)])
    assert 0.2 < np.abs(off).max() < 0.3
    masses, z = np.array([c.mass for c in clumps]), np.array([c.z for c in clumps])
    assert stats.kstest(np.log10(masses) - 9, "uniform").pvalue > 0.01
    assert stats.kstest((z - 0.2) / 0.6, "uniform").pvalue > 0.01
    difference = lens(LINE_OF_SIGHT, LINE_OF_SIGHT).data - lens(NOMINAL, NO_SUB).data
    assert np.abs(difference).max() > 3 * lens(NOMINAL, NO_SUB).noise.max()


# ------------------------------------------------------------------------ the numbers of a lens


@dataclass
class Found:
    """As ``vitdm.lens.Search``: a map with one peak whose S/N follows from the image."""

    model: SimpleNamespace
    settings: SimpleNamespace
    score: float
    misfit: float
    p_value: float
    maps: dict


def found(model, settings=None, progress=None):
    """A search in the place of ``vitdm.lens.search``: what differs from a smooth model is found."""
    rng = np.random.default_rng(settings.seed)
    snr = np.append(rng.normal(size=99), 3 + model.excess)
    snr[7] = np.nan
    maps = {"isothermal": SimpleNamespace(amplitude=np.arange(100.0), snr=snr)}
    score = float(np.nanmax(snr))
    return Found(
        model, settings, score, 1.0, float(np.clip(0.3 - model.excess / 10, 0.005, 1)), maps
    )


def fitted(lenses, free, start=None, **known):
    """Models in the place of free-form fits: their chi^2 is that of the Sérsic fit."""
    if start is None:
        return fit_sersic(lenses, free, **known)
    assert len(lenses) == len(start.chi2) == 1
    assert (free.neighbours, free.cosmic_rays, free.lens_light) == (False, False, False)
    excess = 4.0 if " no_sub " not in f" {lenses[0].name} " else 0.0
    if lenses[0].name.endswith(f" {study.SMOOTH}"):
        raise InputError("too few pixels")
    numbers = {"chi2": start.chi2[0], "chi2_arcs": 1.0, "evidence": -50.0, "converged": True}
    return [SimpleNamespace(excess=excess, **numbers)]


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """The files of the two stages, for two rows of a few lenses."""
    config = load(ROOT / "config/smoke.yaml")
    changed = {"rows": [NOMINAL, LINE_OF_SIGHT], "n_smooth": 3, "n_perturbed": 3, "block": 5}
    changed |= {"perturbed": [], "n_training": 12, "n_calibration": 4}
    chosen = config.misspecification.model_copy(update=changed)
    config = config.model_copy(update={"misspecification": chosen})
    place, content = tmp_path_factory.mktemp("stages"), stages(config, Targets(config))
    for name in ("misspecification", "merge_misspecification"):
        (place / name).write_text(text_of(content[name]))
    return place


@pytest.fixture(scope="module")
def searched(tmp_path_factory, configs):
    """The folder of all blocks, with stubs for the fit and the search of free form."""
    place = tmp_path_factory.mktemp("lenses")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study.lens, "fit", fitted)
        patch.setattr(study.lens, "search", found, raising=False)
        patch.setattr(study.config, "Perturbers", SimpleNamespace, raising=False)
        options = ["--config", str(configs / "misspecification"), "--out", str(place)]
        assert main(["misspecification", study.TRAINING, study.CALIBRATION, *options]) == 0
        assert main(["misspecification", NOMINAL, "--block", "1", *options]) == 0
        assert main(["misspecification", NOMINAL, LINE_OF_SIGHT, *options]) == 0
    return place


def test_a_block_has_all_numbers_of_its_lenses(searched):
    table = pd.concat([pd.read_csv(searched / NOMINAL / k / "scores.csv") for k in "01"])
    assert list(table["class"]) == ["no_sub"] * 3 + ["cdm", "axion", "cdm"]
    assert list(table["lens"] % 1_000_000) == [0, 1, 2, 0, 1, 2]
    assert list(table["fitted"]) == [0, 1, 1, 1, 1, 1]  # the first could not be fitted
    assert table[list(study.NUMBERS)].iloc[1:].notna().all(axis=None)
    assert table["network"].between(0, 1).all() and table["evidence"].notna().all()
    last = table.iloc[-1]
    assert last["score"] == 7 and last["amplitude"] == 99 and last["ln_evidence"] == -50
    line = pd.read_csv(searched / LINE_OF_SIGHT / "0/scores.csv")
    assert list(line["class"]) == ["no_sub"] * 3 + [LINE_OF_SIGHT] * 2


def test_numbers_of_the_map_are_those_of_its_places():
    numbers = study.numbers_of(found(SimpleNamespace(
        excess=6.0, chi2=1.1, chi2_arcs=1.2, evidence=3.0), SimpleNamespace(
        seed=3, detect="isothermal")))  # fmt: skip
    snr = np.random.default_rng(3).normal(size=99)
    values = np.append(np.delete(snr, 7), 9.0)
    assert tuple(numbers) == study.NUMBERS
    assert numbers["snr_rms"] == pytest.approx(np.sqrt((values**2).mean()))
    assert numbers["snr_q25"] == pytest.approx(np.percentile(values, 25))


def test_lenses_of_rows_are_the_same_and_others_are_apart(configs):
    settings = load(ROOT / "config/paper.yaml").misspecification
    sets = {name: study.members(name, settings) for name in (*ROWS, "training", "calibration")}
    assert sets["slope_18"] == sets[NOMINAL] and len(sets[NOMINAL]) == 300
    assert [i for i, _ in sets[LINE_OF_SIGHT]] == [i for i, _ in sets[NOMINAL]]
    own, training, calibration = (
        {i for i, _ in sets[name]} for name in (NOMINAL, "training", "calibration")
    )
    assert not own & training and not (own | training) & calibration
    assert len(own) == 300 and len(calibration) == 400
    assert min(own | training | calibration) >= 1_000_000  # beyond those of the reference model
    kinds = [kind for _, kind in sets["training"]]
    assert (kinds.count(NO_SUB), kinds.count("cdm"), kinds.count("axion")) == (300, 150, 150)
    cdm = study.members(NOMINAL, settings.model_copy(update={"perturbed": ["cdm"]}))
    assert {kind for _, kind in cdm} == {NO_SUB, "cdm"}
    parts = [study.block("training", k, settings) for k in range(settings.blocks("training"))]
    assert sum(parts, []) == sets["training"]


def test_a_block_that_is_there_is_kept(searched, configs, monkeypatch, capsys):
    """Also after a crash; with other settings it is made anew."""
    monkeypatch.setattr(study, "measured", lambda *_: pytest.fail("searched again"))
    options = ["--config", str(configs / "misspecification"), "--out", str(searched)]
    assert main(["misspecification", NOMINAL, *options]) == 0
    other = configs / "other"
    other.write_text((configs / "misspecification").read_text().replace("twins: 19", "twins: 29"))
    with pytest.raises(pytest.fail.Exception, match="searched again"):
        main(["misspecification", NOMINAL, "--config", str(other), "--out", str(searched)])
    assert main(["misspecification", "centre", *options]) == 2
    assert main(["misspecification", NOMINAL, "--block", "2", *options]) == 2
    assert "expected one from 0 to 1" in capsys.readouterr().err


def test_blocks_become_a_matrix(searched, configs, tmp_path, capsys):
    options = ["--config", str(configs / "merge_misspecification"), "--out", str(tmp_path / "all")]
    assert main(["merge-misspecification", str(searched), *options]) == 0
    table = pd.read_csv(tmp_path / "all/misspecification.csv")
    assert list(table["row"].unique()) == [NOMINAL, LINE_OF_SIGHT]
    assert list(table["method"]) == 2 * list(study.METHODS)
    own = table.set_index(["row", "method"]).loc[NOMINAL]
    assert (own["n_smooth"] == 3).all() and (own["n_failed"] == 1).all()
    assert own["completeness_1"]["search"] == own["roc_auc"]["search"] == 1
    assert own["fpr_1"]["search"] == 0
    again = tmp_path / "again"
    options[-1] = str(again)
    assert main(["merge-misspecification", str(searched), *options]) == 0
    name = "misspecification.csv"
    assert (tmp_path / "all" / name).read_bytes() == (again / name).read_bytes()
    wrong = configs / "wrong"
    wrong.write_text(
        (configs / "merge_misspecification").read_text().replace("twins: 19", "twins: 9")
    )
    options[1] = str(wrong)
    assert main(["merge-misspecification", str(searched), *options]) == 2
    assert "training/0: not there, or of other settings" in capsys.readouterr().err


# --------------------------------------------------------------------------- scores and thresholds


def test_a_threshold_is_exceeded_at_its_level_on_average():
    """Over many sets of nominal lenses, whatever their number."""
    rng = np.random.default_rng(2)
    for n, within in ((99, 0.05), (150, 0.15), (399, 0.05)):  # between two ranks a little less
        above = [stats.norm.sf(study.threshold(rng.normal(size=n), 0.01)) for _ in range(3000)]
        assert np.mean(above) == pytest.approx(0.01, rel=within)


def test_intervals_of_shares_hold_what_they_should():
    value, low, high = study.share(np.zeros(200, bool))
    assert (value, low) == (0, 0) and high == pytest.approx(1 - 0.025 ** (1 / 200))
    assert np.isnan(study.share(np.zeros(0, bool))).all()


def made_up(n=400, seed=1):
    """Numbers of lenses whose perturbed ones have a score higher by 3, in one row a wider map."""
    rng, tables = np.random.default_rng(seed), []
    for row, half in (("training", n), ("calibration", n), (NOMINAL, n), ("clumps", n)):
        perturbed = np.arange(2 * half) % 2 == 1
        kinds = np.where(perturbed & (row != "calibration"), "cdm", NO_SUB)
        score = rng.normal(size=2 * half) + 3.0 * (kinds != NO_SUB)
        table = pd.DataFrame({"row": row, "lens": range(2 * half), "class": kinds, "fitted": 1})
        table["evidence"] = table["network"] = score
        for name in study.NUMBERS:
            table[name] = rng.normal(size=2 * half)
        smooth = np.sort(rng.normal(size=200))
        above = 200 - np.searchsorted(smooth, score)
        table["p_value"] = (1 + above) / 201
        table["score"] = score * (2 if row == "clumps" else 1)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def test_the_matrix_has_the_rates_of_its_lenses():
    tables = made_up()
    found = study.matrix(tables, seed=1).set_index(["row", "method"])
    truth = stats.norm.sf(stats.norm.ppf(0.99) - 3)
    for method in study.METHODS:
        cell = found.loc[NOMINAL, method]
        assert cell["fpr_1_low"] <= 0.02 and cell["fpr_5_low"] <= 0.05 <= cell["fpr_5_high"] + 0.02
        assert cell["completeness_1"] == pytest.approx(truth, abs=0.15)
        assert cell["low"] < stats.norm.cdf(3 / np.sqrt(2)) + 0.01
    wide, twins = found.loc["clumps", "search"], found.loc["clumps", "twins"]
    assert wide["fpr_1"] == pytest.approx(stats.norm.sf(stats.norm.ppf(0.99) / 2), abs=0.07)
    assert wide["fpr_1_low"] > 0.02 > twins["fpr_1"]
    own = tables[tables["row"] == "clumps"]
    labels = (own["class"] != NO_SUB).astype(int).to_numpy()
    assert wide["roc_auc"] == pytest.approx(roc_auc(labels, own["score"].to_numpy()))
    assert twins["completeness_1"] == pytest.approx((own["p_value"][labels == 1] <= 0.01).mean())


def test_a_lens_that_cannot_be_searched_is_not_called():
    tables = made_up(40)
    first = tables.index[tables["row"] == NOMINAL][0]
    tables.loc[first, ["fitted", "evidence", *study.NUMBERS]] = [
        0,
        np.nan,
        *[np.nan] * len(study.NUMBERS),
    ]
    training = tables[tables["row"] == "training"]
    scores = study.scores(tables, training, 1)
    for name in ("evidence", "search", "twins", "trees", "learned"):
        assert scores[name].idxmin() == first and np.isfinite(scores[name]).all()


# ------------------------------------------------------------------------------ what is shown


def test_the_figure_draws_all_rows_and_methods():
    table = study.matrix(made_up(60), seed=1)
    figure = plots.misspecification(table)
    left, middle, right = figure.axes
    assert [t.get_text() for t in left.get_yticklabels()] == [
        "nominal: as the fit is told",
        "source: clumps",
    ]
    drawn = {line.get_label(): line for line in middle.lines}
    for method, label in study.METHODS.items():
        own = table[table["method"] == method]
        np.testing.assert_allclose(drawn[label].get_xdata(), own["completeness_1"])
    none = sum(len(line.get_xdata()) for line in left.lines if line.get_marker() == "<")
    assert none == (table["fpr_1"] == 0).sum() > 0
    assert right.get_xlabel() == "ROC-AUC" and left.get_xscale() == "log"


def test_the_story_tells_of_rates_off_the_nominal_one(tmp_path):
    table = study.matrix(made_up(), seed=1)
    off = story.off_nominal(table)
    assert ("clumps", "search") in set(zip(off["row"], off["method"], strict=True))
    assert "twins" not in set(off["method"])
    numbers = story.matrix_numbers(table)
    assert numbers["misspecification_search_1_n_off"] == 1
    assert (
        numbers["misspecification_twins_1_n_off"] == 0 and numbers["misspecification_n_rows"] == 2
    )
    compact = story.compact(table)
    assert list(compact["misspecification"]) == ["nominal: as the fit is told", "source: clumps"]
    cell = table[(table["row"] == "clumps") & (table["method"] == "twins")].iloc[0]
    expected = f"{100 * cell['fpr_1']:.1f} / {100 * cell['completeness_1']:.0f}"
    assert compact["twins"][1] == expected
    smoke = load(ROOT / "config/smoke.yaml")
    assert story.read_matrix(smoke, tmp_path) is None
    (tmp_path / "misspecification/all").mkdir(parents=True)
    table.to_csv(tmp_path / "misspecification/all/misspecification.csv", index=False)
    assert len(story.read_matrix(smoke, tmp_path)) == 12


def test_rows_of_the_configuration_are_there():
    config = load(ROOT / "config/paper.yaml")
    assert config.misspecification.parts == [] and Targets(config).searched_blocks == []
    rows = read_yaml(ROOT / "config/extended.yaml")["misspecification"]["rows"]
    assert rows == [row for row in ROWS if row in rows] and "nominal" in rows
    documented = (ROOT / "docs/studies.md").read_text()
    for row in (
        "nominal",
        "center_010",
        "psf_wings",
        "lens_light_02",
        "line_of_sight",
        "gain_plus",
    ):
        assert f"`{row}`" in documented
