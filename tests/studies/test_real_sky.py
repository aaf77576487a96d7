"""Models of simulated lenses on real ones: tests with known answers, and copies taken for real."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import SETTINGS
from scipy import stats
from sklearn.metrics import roc_auc_score

from studies import config as workflow
from studies import real_sky
from studies.__main__ import main
from studies.config.part import text_of
from studies.plots import real_sky as real_sky_plots
from studies.stages import stages
from vitdm import config
from vitdm.data import dataset
from vitdm.errors import InputError
from vitdm.lens import fit_dataset

# -------------------------------------------------------------------------------- two-sample tests


def test_the_energy_distance_is_that_of_scipy():
    """In one dimension it is twice the squared distance of the distribution functions."""
    rng = np.random.default_rng(0)
    values, real = rng.gamma(2, size=(60, 1)), np.arange(60) < 9
    found, _ = real_sky.energy_test(values, real, 19, 0)
    x, y = values[real, 0], values[~real, 0]
    between = np.abs(x[:, None] - y).mean()
    assert found == pytest.approx(stats.energy_distance(x, y) ** 2 / (2 * between))


def test_p_of_equal_distributions_is_uniform():
    rng, found = np.random.default_rng(1), []
    for k in range(200):
        values = real_sky.placed(rng.normal(size=(40, 3)))
        found.append(real_sky.energy_test(values, np.arange(40) < 6, 99, k)[1])
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.04)


@pytest.mark.parametrize("changed", ["place", "spread", "absent"])
def test_p_of_different_distributions_is_small(changed):
    rng = np.random.default_rng(2)
    values, real = rng.normal(size=(300, 4)), np.arange(300) < 30
    if changed == "place":
        values[real, 0] += 4
    elif changed == "spread":
        values[real] *= 5
    else:
        values[real, 2] = np.nan
    found, p = real_sky.energy_test(real_sky.placed(values), real, 499, 0)
    assert p == 1 / 500 and 0 < found < 1


def test_ranks_know_neither_units_nor_tails():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(50, 3))
    values[::7, 1] = values[::7, 2] = np.nan
    found = real_sky.placed(values)
    assert found.shape == (50, 3 + 2)  # two patterns of absence
    np.testing.assert_array_equal(found, real_sky.placed(np.exp(3 * values)))
    np.testing.assert_array_equal(np.sort(found[:, 0]), (np.arange(50) + 0.5) / 50)
    assert (found[::7, 1:3] == 0.5).all()
    assert real_sky.placed(np.full((4, 1), np.nan)).tolist() == [[0.5, 0.0]] * 4


def table_of(n=400, seed=4):
    """Features of simulated and 12 real images: two alike, one larger, one that real ones lack."""
    rng = np.random.default_rng(seed)
    real = np.arange(n) < 12
    table = pd.DataFrame(rng.normal(size=(n, 4)), columns=["a", "b", "larger", "absent"])
    table.loc[real, "larger"] += 9
    table.loc[real, "absent"] = np.nan
    return table, real


def test_the_features_that_differ_are_found():
    table, real = table_of()
    kinds = dict.fromkeys(table, "morphology")
    settings = workflow.build(SETTINGS | {"real_sky": {"permutations": 199}})
    found = real_sky.shift(table, real, kinds, settings).set_index("feature")
    assert (found.loc[["a", "b"], "q"] > 0.05).all()
    assert (found.loc[["larger", "absent"], "q"] < 1e-6).all()
    assert found.loc["larger", ["roc_auc", "beyond", "n_real"]].tolist() == [1, 12, 12]
    assert found.loc["absent", "n_real"] == 0 and np.isnan(found.loc["absent", "roc_auc"])
    whole = found.loc[real_sky.ALL]
    assert whole["p"] == 1 / 200 and whole["energy"] > 0
    alike = real_sky.shift(table[["a", "b"]], real, kinds, settings).set_index("feature")
    assert alike.loc[real_sky.ALL, "p"] > 0.05


def test_ranks_by_hand():
    table = pd.DataFrame({"x": [2.0, 0.5, np.nan, 1, 2, 3, 4]})
    real = np.array([True] * 3 + [False] * 4)
    found = real_sky.ranks(table, real, ["p", "q", "r"])
    assert found["id"].tolist() == ["p", "q"]
    assert found["rank"].tolist() == [1.5 / 4, 0] and found["beyond"].tolist() == [0, 1]


# -------------------------------------------------------------------------------------- intervals


def test_the_interval_of_a_handful_of_images():
    labels = np.repeat([0, 1], 7)
    found = real_sky.small_sample_interval(labels, [labels * 1.0, labels * 2.0])
    wilson = stats.binomtest(7, 7).proportion_ci(method="wilson")
    assert found.value == 1 and found[1:] == pytest.approx((wilson.low, wilson.high))
    lopsided = real_sky.small_sample_interval(np.repeat([0, 1], (70, 7)), [np.arange(77.0)])
    assert lopsided[1:] == pytest.approx((wilson.low, wilson.high))  # the smaller class counts


@pytest.mark.parametrize("area", [0.5, 0.8, 0.95])
def test_the_interval_holds_the_truth_often_enough(area):
    """Two Gaussians whose means are sqrt(2) times the quantile of the area apart."""
    rng, labels = np.random.default_rng(5), np.repeat([0, 1], 7)
    apart, n = np.sqrt(2) * stats.norm.ppf(area), 400
    inside = 0
    for _ in range(n):
        scores = rng.normal(size=14) + apart * labels
        found = real_sky.small_sample_interval(labels, [scores])
        inside += found.low <= area <= found.high
    assert inside / n > 0.94


# ------------------------------------------------------------------------------ the whole, on toys


@pytest.fixture(scope="module")
def toy(tmp_path_factory, lenses, population):
    """Settings of two sets whose real images are copies of simulated ones that are held out."""
    place = tmp_path_factory.mktemp("sky")
    data = dataset.Dataset.open(lenses)
    held_out = data.rows("opt")
    kinds = data.catalog["class"].to_numpy()[held_out]
    for row, kind in zip(held_out, kinds, strict=True):
        folder = place / "labelled" / ("no_sub" if kind == "no_sub" else "sub")
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{data.catalog['id'][row]}.npy", data.images[row])
    (place / "cutouts").mkdir()
    for row in held_out[:3]:
        np.save(place / "cutouts" / f"lens{row}.npy", data.images[row])
    fit = {"size": 48, "psf_fwhm": population.instrument.psf_fwhm, "gain": 0.0}
    known = {f"lens{row}.npy": {"name": f"L{row}", "theta_E": 1.3} for row in held_out[:3]}
    known = {"pixel_scale": population.instrument.pixel_scale, "lensfit": fit, "cutouts": known}
    (place / "known.yaml").write_text(yaml.safe_dump(known))
    sample = place / "sample"
    sample.mkdir()
    (sample / "dataset").symlink_to(lenses)
    fit_dataset(lenses, sample / "lensfit", config.LensFit(**fit), progress=False)
    common = {"population": "model_i", "n_train": 16, "n_scored": 12}
    common |= {"model": {"feature_set": "all"}, "train": {"epochs": 2}}
    sets = {
        "labelled": common
        | {"label": "labelled", "images": str(place / "labelled"), "groups": ["morphology"]}
        | {"preprocess": {"softening": 5.0}},
        "cutouts": common
        | {
            "label": "cutouts",
            "images": str(place / "cutouts"),
            "groups": ["morphology", "lensfit"],
        }
        | {"cutouts": str(place / "known.yaml")},
    }
    content = SETTINGS | {"features": {"groups": ["proposal", "morphology", "lensfit"]}}
    content |= {"real_sky": {"seeds": 2, "permutations": 99, "sets": sets}}
    path = place / "toy.yaml"
    path.write_text(yaml.safe_dump(content))
    for name, stage in stages(workflow.build(content)).items():
        (place / f"{name}.yaml").write_text(text_of(stage))
    for name in sets:
        for seed in ("0", "1"):
            arguments = ["--config", str(place / f"real_sky_{name}.yaml")]
            arguments += ["--out", str(place / "answers" / name / f"seed{seed}")]
            assert main(["real-sky", str(sample), "--set", name, "--seed", seed, *arguments]) == 0
    parts = sorted(map(str, (place / "answers").glob("*/seed*")))
    command = ["merge-real-sky", *parts, "--config", str(place / "merge_real_sky.yaml")]
    assert main([*command, "--out", str(place / "all")]) == 0
    return place, path, data, held_out


def test_a_copy_gets_the_answer_of_its_original(toy):
    place, _, data, held_out = toy
    for name, ids in (
        ("labelled", None),
        ("cutouts", {f"L{row}": data.catalog["id"][row] for row in held_out}),
    ):
        table = dataset.read_catalog(place / f"answers/{name}/seed0/images.csv")
        original = table[table["real"] == 0].set_index("id").drop(columns=["class", "real"])
        copies = table[table["real"] == 1].set_index("id").drop(columns=["class", "real"])
        copies.index = copies.index if ids is None else copies.index.map(ids)
        assert len(original) == len(held_out)
        assert len(copies) == (len(held_out) if ids is None else 3)
        np.testing.assert_allclose(copies, original.loc[copies.index], rtol=2e-3, atol=2e-3)
        assert ("fit_chi2" in copies) == (name == "cutouts")
        assert original["network"].between(0, 1).all() and original["boosting"].between(0, 1).all()


def test_trainings_differ_and_are_joined(toy):
    place, _, _, held_out = toy
    answers = real_sky.Answers.read(place / "all")
    assert answers.table.set_index(["set", "model"]).index.is_unique and len(answers.table) == 4
    parts = [dataset.read_catalog(place / f"answers/labelled/seed{k}/images.csv") for k in (0, 1)]
    assert (parts[0]["network"] != parts[1]["network"]).any()
    own = answers.of("labelled")
    row = own.table.set_index("model").loc["network"]
    real = parts[0]["real"] == 1
    labels = (parts[0]["class"] != "no_sub")[real]
    aucs = [roc_auc_score(labels, part["network"][real]) for part in parts]
    assert row["real_roc_auc"] == pytest.approx(np.mean(aucs), abs=1e-5)
    assert row["roc_auc"] == pytest.approx(np.mean(aucs), abs=1e-5)  # the same images
    mean = np.mean([part["network"][real] for part in parts], axis=0)
    assert row["n_right"] == ((mean > 0.5) == labels).sum()
    one = own.images[own.images["model"] == "network"].reset_index()
    np.testing.assert_allclose(one["probability"], mean, atol=1e-5)
    np.testing.assert_allclose(
        one["sd"], np.std([p["network"][real] for p in parts], 0, ddof=1), atol=1e-5
    )
    assert own.scores.groupby("model")["n"].sum().tolist() == [len(held_out)] * 2
    # copies of simulated images are no others: nothing differs, nothing lies beyond
    assert (own.shift["p"] > 0.9).all() and own.ranks["beyond"].mean() < 0.05
    unknown = answers.of("cutouts").table
    assert unknown["real_roc_auc"].isna().all() and (unknown["n_real"] == 3).all()
    told = json.loads((place / "all/real_sky.json").read_text())
    assert told["rule"] == "merge_real_sky" and len(told["inputs"]) == 4


def test_figure(toy):
    place = toy[0]
    answers = real_sky.Answers.read(place / "all")
    figure = real_sky_plots.real_sky(
        {name: answers.of(name) for name in ("labelled", "cutouts")}, 0.05
    )
    maps = [axes for axes in figure.axes if axes.get_images()]
    assert [axes.get_images()[0].get_array().shape[0] for axes in maps[:2]] == [8, 3]
    names = [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
    assert {"L" + str(row) for row in toy[3][:3]} <= set(names)


def test_what_is_refused(toy, tmp_path, capsys):
    place, path, _, _ = toy
    settings = workflow.load(path)
    sample = place / "sample"
    with pytest.raises(InputError, match="--set gone: no such set .* cutouts, labelled"):
        real_sky.train_and_predict(sample, settings, "gone", 0, tmp_path / "out")
    sets = settings.real_sky.sets
    changed = {"gone": sets["labelled"].model_copy(update={"images": str(tmp_path / "no")})}
    changed["large"] = sets["labelled"].model_copy(update={"n_train": 99})
    changed["empty"] = sets["cutouts"].model_copy(update={"images": str(tmp_path)})
    sky = settings.real_sky.model_copy(update={"sets": changed})
    altered = settings.model_copy(update={"real_sky": sky})
    for name, message in (
        ("gone", "real_sky.sets.gone.images: .*no such folder"),
        ("large", "found 20 images in split train; expected at least 99"),
        ("empty", "found none of .*known.yaml"),
    ):
        with pytest.raises(InputError, match=message):
            real_sky.train_and_predict(sample, altered, name, 0, tmp_path / "out")
    with pytest.raises(InputError, match="labelled: found seed0; expected .*, with seed0, seed1"):
        real_sky.merge_predictions([place / "answers/labelled/seed0"], settings, tmp_path / "all")
    with pytest.raises(InputError, match="no answers of real-sky"):
        real_sky.merge_predictions([tmp_path], settings, tmp_path / "all")
    assert not (tmp_path / "all").exists() and not (tmp_path / "out").exists()
    stage = place / "real_sky_labelled.yaml"
    arguments = ["--config", str(stage), "--out", str(tmp_path / "out")]
    assert main(["real-sky", str(sample), "--set", "unknown", *arguments]) == 2
    assert "unknown" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": ["proposal"]}, "groups: .*morphology"),
        ({"groups": ["morphology", "lensfit"]}, "groups: found lensfit; expected cutouts"),
        ({"model": {"features": False}}, "expected features"),
        ({"model": {"feature_set": "selected"}}, "other than 'selected'"),
        ({"model": {"depht": 2}}, "model.depht: unknown key"),
        ({"preprocess": {"sise": 2}}, "preprocess.sise: unknown key"),
    ],
)
def test_configuration(change, message):
    chosen = {"label": "x", "images": "x", "population": "lenses"}
    chosen |= {"n_train": 20, "n_scored": 20, "groups": ["morphology"]}
    chosen |= {"model": {"feature_set": "all"}}
    workflow.build(SETTINGS | {"real_sky": {"sets": {"x": chosen}}})
    with pytest.raises(InputError, match=f"real_sky.sets.x.*{message}"):
        workflow.build(SETTINGS | {"real_sky": {"sets": {"x": chosen | change}}})
