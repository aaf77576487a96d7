"""The scikit-learn interface: conventions, the command line's training, run folders, bad input."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score

import vitdm
from vitdm import ViTClassifier, config, predict
from vitdm.config import Settings
from vitdm.data import dataset
from vitdm.errors import InputError
from vitdm.features import LENSFIT
from vitdm.features.definitions import definitions
from vitdm.model.inputs import Tables
from vitdm.model.runs import RUN_FILES, Splits, load_run, train_run

TINY = {
    "preprocess": {"size": 24},
    "model": {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
    "train": {"epochs": 8, "batch_size": 8, "learning_rate": 5e-3},
    "random_state": 0,
}


def tiny(**changes):
    return ViTClassifier(**(TINY | changes))


@pytest.fixture(scope="module")
def rings():
    """Images (60, 40, 40) of rings, and labels: every other one is broken, half of it missing."""
    rng = np.random.default_rng(0)
    y, x = np.indices((40, 40)) - 19.5
    ring = np.exp(-0.5 * ((np.hypot(x, y) - 8) / 1.5) ** 2)
    labels = np.array(["smooth", "broken"])[np.arange(60) % 2]
    images = np.where((labels == "broken")[:, None, None] & (x > 0), 0, 30 * ring)
    return images + rng.normal(size=images.shape), labels


@pytest.fixture(scope="module")
def fitted(rings):
    return tiny(features=True, valid_fraction=0.2).fit(*rings)


def test_importing_the_library_loads_nothing_heavy():
    script = "import sys, vitdm; print({'torch', 'sklearn', 'pandas'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
    with pytest.raises(AttributeError, match="module 'vitdm' has no attribute 'ViT'"):
        vitdm.ViT  # noqa: B018


# ------------------------------------------------------------------------ learning


def test_rings_are_told_apart(rings, fitted):
    images, labels = rings
    assert fitted.classes_.tolist() == ["broken", "smooth"]
    probability = fitted.predict_proba(images)
    assert probability.shape == (60, 2)
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-6)
    assert (fitted.predict(images) == fitted.classes_[probability.argmax(axis=1)]).all()
    assert fitted.score(images, labels) == (fitted.predict(images) == labels).mean() > 0.8
    assert fitted.metrics_["n_train"] == 48 and len(fitted.history_) == fitted.metrics_["epochs"]
    names = fitted.run_.feature_names
    assert set(definitions(config.Features(), ["morphology"])) < set(names)
    assert not set(LENSFIT) & set(names)


@pytest.mark.parametrize(
    "kinds", [[0, 1], [7, -3], [True, False], [2.0, 5.0], ["a", "no_sub"], ["no_sub", "sub"]]
)
def test_labels_of_any_kind(rings, kinds, tmp_path):
    images, labels = rings
    renamed = np.array(kinds)[(labels == "smooth").astype(int)]
    one = tiny().fit(images, renamed)
    assert one.classes_.tolist() == sorted(kinds) and one.classes_.dtype == renamed.dtype
    assert one.score(images, renamed) > 0.9
    if "no_sub" in kinds:
        assert one.run_.classes[0] == "no_sub"  # as everywhere else in the library
    one.save(tmp_path / "run")
    again = ViTClassifier.load(tmp_path / "run")
    assert again.classes_.dtype == one.classes_.dtype
    assert (again.predict(images) == one.predict(images)).all()


def test_three_classes_with_the_first_at_any_place(rings):
    images, labels = rings
    kinds = np.array(["axion", "cdm", "no_sub"])[np.arange(60) % 3]
    images = images + 10 * np.array([0, 1, 2])[np.arange(60) % 3][:, None, None] * (
        np.hypot(*(np.indices((40, 40)) - 19.5)) < 4
    )
    one = tiny(train={"epochs": 25, "batch_size": 8, "learning_rate": 5e-3})
    one.fit(images, kinds)
    assert one.run_.classes == ["no_sub", "axion", "cdm"]
    assert one.classes_.tolist() == ["axion", "cdm", "no_sub"]
    assert one.metrics_["n_train"] == 60 and "valid_roc_auc" not in one.metrics_
    assert one.score(images, kinds) > 0.9


def test_the_random_state_decides_everything(rings):
    images, labels = rings
    answers = {
        name: tiny(random_state=seed).fit(images, labels).predict_proba(images)
        for name, seed in (("one", 1), ("again", 1), ("other", 2))
    }
    np.testing.assert_array_equal(answers["one"], answers["again"])
    assert not np.array_equal(answers["one"], answers["other"])
    state = np.random.RandomState(1)
    found = tiny(random_state=state).fit(images, labels).predict_proba(images)
    np.testing.assert_array_equal(found, answers["one"])


def test_it_trains_as_the_command_line_does(rings, tmp_path):
    """The same images as a data set in files, by ``train_run``: the same weights."""
    images, labels = rings
    one = tiny(features=True).fit(images, labels == "broken")
    run = one.run_
    crops, table, _, _ = predict.prepare(images, run.settings, run.feature_names, False)
    kinds = np.array(["no_sub", "sub"])[(labels == "broken").astype(int)]
    catalog = pd.DataFrame({"id": [f"{i:02d}" for i in range(60)], "class": kinds})
    catalog = catalog.assign(split="train", source="toy")
    dataset.write(tmp_path / "data", crops, catalog, rule="toy")
    table.insert(0, "id", catalog["id"])
    table.to_csv(tmp_path / "features.csv", index=False)
    chosen = {name: getattr(run.settings, name) for name in ("model", "train", "seed")}
    train_run(
        tmp_path / "data",
        tmp_path / "run",
        Settings(**chosen),
        tables=Tables(tmp_path / "features.csv"),
        splits=Splits(valid=None, score=None),
        progress=False,
    )
    other = load_run(tmp_path / "run").model.state_dict()
    for name, weight in run.model.state_dict().items():
        np.testing.assert_array_equal(weight, other[name], err_msg=name)


def test_images_of_several_sizes(rings, fitted):
    images, _ = rings
    mixed = [images[0], np.pad(images[1], 5), images[2][2:, 1:]]
    found = fitted.predict_proba(mixed)
    np.testing.assert_allclose(found[0], fitted.predict_proba(images[:1])[0], atol=1e-6)
    assert tiny().fit(mixed * 4, ["a", "b", "a"] * 4).predict(mixed).shape == (3,)


def test_lenses_are_fitted_if_the_scale_of_the_pixels_is_known(lenses):
    data = dataset.Dataset.open(lenses)
    images, kinds = np.array(data.images[:24]), data.catalog["class"].to_numpy()[:24]
    settings = TINY | {"pixel_scale": 0.1, "lensfit": {"size": 48, "psf_fwhm": 0.17}}
    one = ViTClassifier(features=True, **settings | {"model": TINY["model"] | {"residual": True}})
    one.fit(images, kinds)
    assert set(LENSFIT) < set(one.run_.feature_names) and one.run_.model.embed.project.in_features
    assert one.run_.settings.lensfit.gain > 0  # found once, kept for new images
    np.testing.assert_allclose(
        one.predict_proba(images[:2]), one.predict_proba(images[:5])[:2], atol=0.02
    )


# ------------------------------------------------------------------------ conventions


def test_parameters_can_be_read_set_and_copied():
    one = tiny()
    assert one.get_params(deep=False)["model"] is TINY["model"]
    deep = one.get_params()
    assert (deep["model__depth"], deep["train__epochs"], deep["preprocess__size"]) == (1, 8, 24)
    assert deep["train__weight_decay"] == config.Train().weight_decay
    one.set_params(model__depth=3, train={"epochs": 2}, train__flips=False, progress=True)
    assert one.model == TINY["model"] | {"depth": 3} and TINY["model"]["depth"] == 1
    assert one.train == {"epochs": 2, "flips": False} and one.progress is True
    one.set_params(model={"depth": 2})
    assert one.model == {"depth": 2}
    copy = clone(one)
    assert copy.get_params() == one.get_params() and copy.model is not one.model
    for key in ("colour", "model__colour", "model__features"):
        with pytest.raises(InputError, match=f"{key}: no such parameter; expected one of: "):
            one.set_params(**{key: 1})
    assert "ViTClassifier(" in repr(one)


def test_the_defaults_work_together():
    one = ViTClassifier()
    model = config.Model(**one.get_params()["model"] or {"patch_size": 24})
    assert one.get_params()["model__patch_size"] == model.patch_size
    config.check_patches(model, one.get_params()["preprocess__size"])


def test_cross_validation_and_grid_search(rings):
    images, labels = rings
    scores = cross_val_score(tiny(), images, labels, cv=3, scoring="roc_auc")
    assert scores.shape == (3,) and scores.min() > 0.9
    grid = {"train__learning_rate": [1e-9, 5e-3], "features": [True]}
    search = GridSearchCV(tiny(), grid, cv=2).fit(images, labels)
    assert search.best_params_ == {"train__learning_rate": 5e-3, "features": True}
    assert search.best_estimator_.score(images, labels) > 0.9


def test_it_must_be_fitted_first(rings, tmp_path):
    for use in (tiny().predict, tiny().predict_proba):
        with pytest.raises(NotFittedError):
            use(rings[0])
    with pytest.raises(NotFittedError):
        tiny().save(tmp_path / "run")


def test_a_bar_is_shown_if_wanted(rings, capfd):
    for progress in (False, True):
        tiny(progress=progress, train={"epochs": 1}).fit(*rings)
        assert ("ViTClassifier: " in capfd.readouterr().err) == progress


# ------------------------------------------------------------------------ run folders


def test_saved_and_loaded(rings, fitted, tmp_path):
    images, labels = rings
    fitted.save(tmp_path / "run")
    fitted.save(tmp_path / "run")  # an earlier one is replaced
    files = {*RUN_FILES, "run.json"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == files
    one = ViTClassifier.load(tmp_path / "run")
    np.testing.assert_array_equal(one.predict_proba(images), fitted.predict_proba(images))
    expected = fitted.get_params()
    found = {key: value for key, value in one.get_params().items() if key in expected}
    sections = ("preprocess", "model", "train", "lensfit")
    assert {k: v for k, v in found.items() if k not in sections} == {
        k: v for k, v in expected.items() if k not in sections
    }
    assert one.metrics_ == fitted.metrics_
    again = clone(one).fit(images, labels)
    np.testing.assert_array_equal(again.predict_proba(images), fitted.predict_proba(images))
    np.save(tmp_path / "image.npy", images[0])
    table = predict.predict_files([tmp_path / "image.npy"], [tmp_path / "run"])
    probability = dict(zip(fitted.classes_, fitted.predict_proba(images[:1])[0], strict=True))
    assert table["p_smooth"][0] == pytest.approx(probability["smooth"], abs=1e-5)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(InputError, match="other: found 'thesis.tex'; expected an empty folder"):
        fitted.save(tmp_path / "other")


def test_a_run_of_the_command_line_is_a_classifier_too(run_folder, lenses):
    one = ViTClassifier.load(run_folder)
    images = np.array(dataset.Dataset.open(lenses).images[:3])
    expected, _ = predict.predict([load_run(run_folder)], images)
    assert one.classes_.tolist() == ["axion", "cdm", "no_sub"] and one.features is True
    np.testing.assert_allclose(one.predict_proba(images), expected[:, [2, 1, 0]])


# ------------------------------------------------------------------------ bad input

IMAGES, LABELS = np.zeros((8, 30, 30)), [0, 1] * 4


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[0], LABELS, r"images: found float64 values of shape \(30,\) at 0; .* \(n, H, W\)"),
        (IMAGES[:, None], LABELS, r"images: found float64 values of shape \(1, 30, 30\) at 0"),
        ([*IMAGES[:3], IMAGES[0, 0]] * 2, LABELS, r"of shape \(30,\) at 3; expected"),
        (IMAGES.astype(complex), LABELS, "images: found complex128 values"),
        (IMAGES[:0], [], "images: found none; expected at least one"),
        (7, LABELS, "images: found none; expected at least one"),
        (IMAGES, LABELS[:7], r"labels: found shape \(7,\); expected \(8,\), one for each image"),
        (IMAGES, np.eye(8), r"labels: found shape \(8, 8\); expected \(8,\)"),
        (IMAGES, [0, 1, np.nan, 1] * 2, r"labels: found none \(NaN\) at 2"),
        (IMAGES, ["a", None] * 4, r"labels: found none \(NaN\) at 1"),
        (IMAGES, [1] * 8, "labels: found 1 only; expected at least two classes"),
        (IMAGES, np.linspace(0, 1, 8), "labels: Unknown label type: continuous.*; expected cl"),
    ],
)
def test_wrong_images_and_labels(images, labels, message):
    with pytest.raises(InputError, match=message):
        tiny().fit(images, labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"dept": 3}}, "model: dept: unknown key; expected one of: architecture, depth"),
        ({"model": {"depth": 0}}, "model: depth: .*greater than or equal to 1, found 0"),
        ({"model": {"embed_dim": 30}}, "model: .*embed_dim = 30 is not a multiple of num_heads"),
        ({"model": {"features": True}}, "model: features: is set by the argument features"),
        ({"model": {"patch_size": 7}}, "patch_size = 7 does not divide .* = 24"),
        ({"model": {"patch_size": 8, "residual": True}}, "residual is on: found no pixel_scale"),
        ({"train": {"epochs": "many"}}, "train: epochs: .*found 'many'"),
        ({"valid_fraction": 1.5}, "valid_fraction: found 1.5 of 8 images"),
        (
            {"valid_fraction": 0.1},
            "valid_fraction: found 0.1 of 8 images; expected at least one of",
        ),
        ({"pixel_scale": -1.0}, "pixel_scale"),
    ],
)
def test_wrong_parameters(changes, message):
    with pytest.raises(InputError, match=message):
        tiny(**changes).fit(IMAGES, LABELS)


def test_wrong_images_to_predict(fitted):
    with pytest.raises(InputError, match=r"images: found float64 values of shape \(30,\) at 0"):
        fitted.predict(IMAGES[0])
