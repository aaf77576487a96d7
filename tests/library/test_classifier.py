"""The scikit-learn interface: conventions, the command line's training, run folders, bad input."""

import copy
import pickle
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils import get_tags
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.estimator_checks import check_estimator

import vitdm
from vitdm import Observation, ViTClassifier, config, predict
from vitdm.classifier import Recent
from vitdm.config import Settings
from vitdm.data import dataset
from vitdm.errors import InputError
from vitdm.features import LENSFIT
from vitdm.features.definitions import definitions
from vitdm.model.inputs import Tables
from vitdm.model.networks import new_network
from vitdm.model.runs import RUN_FILES, Splits, load_run, train_run
from vitdm.model.training import Batches, Training, device_of

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
    with pytest.raises(AttributeError, match="No vitdm attribute ViT"):
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


def test_the_table_has_the_names_of_the_classes(rings, fitted, tmp_path):
    """The columns of ``vitdm predict``, in their order, and the numbers of ``predict_proba``."""
    images, _ = rings
    table = fitted.predict_table(images[:6])
    assert list(table) == ["p_broken", "p_smooth", *predict.COLUMNS]
    np.testing.assert_array_equal(table[["p_broken", "p_smooth"]], fitted.predict_proba(images[:6]))
    assert (table["class"] == fitted.predict(images[:6])).all()
    fitted.save(tmp_path / "run")
    written = predict.predict([load_run(tmp_path / "run")], images[:6])
    pd.testing.assert_frame_equal(table, written)
    assert fitted.answer(images[:6]).seen.crops.shape == (6, 24, 24)


def test_the_table_of_classes_that_are_numbers(rings):
    images, labels = rings
    one = tiny().fit(images, np.where(labels == "smooth", 7, -3))
    table = one.predict_table(images[:3])
    assert list(table)[:2] == ["p_-3", "p_7"]
    assert table["class"].tolist() == one.predict(images[:3]).tolist()
    with pytest.raises(NotFittedError):
        tiny().predict_table(images[:3])


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
    first, second, again = (
        tiny(random_state=generator).fit(images, labels).predict_proba(images)
        for rng in (np.random.default_rng(1),)
        for generator in (rng, rng, np.random.default_rng(1))
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)  # the generator has moved on


def test_it_trains_as_the_command_line_does(rings, tmp_path):
    """The same images as a data set in files, by ``train_run``: the same weights."""
    images, labels = rings
    one = tiny(features=True).fit(images, labels == "broken")
    run = one.run_
    seen = predict.prepare(images, run.settings, run.feature_names, False)
    crops, table = seen.crops, seen.features
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


# ------------------------------------------------------------------------ what images may be


def test_missing_pixels_are_missing_however_they_are_said(rings, fitted):
    """A burnt stripe beside the ring: as NaN, as numpy.ma, as the mask of an observation."""
    images, labels = rings
    burnt = images.astype(np.float32)
    burnt[:, :, :8] = 1e4
    bad = burnt == 1e4
    holes = np.where(bad, np.nan, burnt)
    masked = np.ma.array(burnt, mask=bad)
    known = [Observation(image, mask=there) for image, there in zip(burnt, bad, strict=True)]
    expected = fitted.predict_proba(holes)
    for given in (masked, list(masked), known, masked[:, None], holes[:, None], list(holes)):
        np.testing.assert_array_equal(fitted.predict_proba(given), expected)
    assert np.abs(fitted.predict_proba(burnt) - expected).max() > 0.1
    one = tiny(features=True).fit(masked[:, None], labels)
    again = tiny(features=True).fit(holes, labels)
    np.testing.assert_array_equal(one.predict_proba(known), again.predict_proba(holes))
    assert one.score(known, labels) > 0.8


def test_a_channel_of_one_is_none(rings, fitted):
    images, _ = rings
    expected = fitted.predict_proba(images)
    for given in (images[:, None], list(images[:, None]), images.astype(object)):
        np.testing.assert_array_equal(fitted.predict_proba(given), expected)


def test_an_observation_of_another_pixel_scale_is_refused(rings):
    images, labels = rings
    known = [Observation(image, pixel_scale=0.262, name="survey.fits") for image in images]
    message = "survey.fits: found 0.262 arcsec a pixel; the model was trained at 0.05"
    with pytest.raises(InputError, match=message):
        tiny(pixel_scale=0.05, lensfit={"gain": 1.0}).fit(known, labels)


# ------------------------------------------------------------------------ weights

#: all images in one batch, shown as they are: no step depends on chance
WHOLE = {"epochs": 6, "batch_size": 64, "learning_rate": 5e-3, "flips": False}


def network_of(one):
    return torch.cat([weight.flatten() for weight in one.run_.model.state_dict().values()])


def test_a_weight_is_as_often_as_an_image_is_there(rings):
    images, labels = rings[0][:20], rings[1][:20]
    often = np.array([1, 3, 0, 2] * 5)
    one = tiny(train=WHOLE).fit(images, labels, sample_weight=0.2 * often)
    copies = tiny(train=WHOLE).fit(np.repeat(images, often, axis=0), np.repeat(labels, often))
    torch.testing.assert_close(network_of(one), network_of(copies), atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(one.history_["train_loss"], copies.history_["train_loss"], rtol=1e-4)
    plain = tiny(train=WHOLE).fit(images, labels)
    assert (network_of(one) - network_of(plain)).abs().max() > 1e-3


def test_the_steps_of_small_batches_are_right_on_average():
    """The mean gradient over all batches of an epoch is that of the images repeated."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(12, 1, 8, 8, generator=generator)
    arrays = images, torch.empty(12, 0), torch.arange(12) % 2
    often = torch.tensor([1, 4, 2, 1] * 3)
    chosen = config.Model(patch_size=4, embed_dim=8, depth=1, num_heads=2)
    network = new_network(chosen, (8, 8), 2, 0)

    def mean_gradient(arrays, size):
        batches = Batches(arrays, size)
        run = Training(network, config.Train(epochs=1, clip=1e9), batches, None)
        gradients = []
        with torch.no_grad():
            before = [parameter.clone() for parameter in network.parameters()]
        for number, batch in enumerate(batches, start=1):
            run.step(number, *batch)
            gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
            with torch.no_grad():
                for parameter, value in zip(network.parameters(), before, strict=True):
                    parameter.copy_(value)  # each from the same network
        return torch.stack(gradients).mean(dim=0)

    weights = often / often.float().mean()
    repeated = tuple(array.repeat_interleave(often, dim=0) for array in arrays)
    torch.testing.assert_close(
        mean_gradient((*arrays, weights), 3), mean_gradient(repeated, 24), atol=1e-6, rtol=1e-4
    )


def test_an_image_without_weight_is_not_there(rings):
    """Not even for the noise, the features, or which classes there are."""
    images, labels = rings
    images = np.concatenate([images, np.full((4, 40, 40), np.nan)])
    labels = np.concatenate([labels, ["hidden"] * 4])
    weights = np.array([1.0] * 60 + [0.0] * 4)
    one = tiny(features=True, valid_fraction=0.2).fit(images, labels, weights)
    few = tiny(features=True, valid_fraction=0.2).fit(images[:60], labels[:60])
    assert one.classes_.tolist() == ["broken", "smooth"] and one.metrics_ == few.metrics_
    assert torch.equal(network_of(one), network_of(few))


@pytest.mark.parametrize(
    "class_weight", ["balanced", {"broken": 3.0, "smooth": 0.5}, {"smooth": 4.0}]
)
def test_class_weights_are_those_of_scikit_learn(rings, class_weight):
    keep = np.r_[0:40, 41:60:2]  # 20 are smooth, 30 broken
    images, labels = rings[0][keep], rings[1][keep]
    classes = np.unique(labels)
    expected = compute_class_weight(class_weight, classes=classes, y=labels)
    one = tiny(train=WHOLE, class_weight=class_weight).fit(images, labels)
    same = tiny(train=WHOLE).fit(images, labels, expected[(labels == "smooth").astype(int)])
    torch.testing.assert_close(network_of(one), network_of(same))
    plain = tiny(train=WHOLE).fit(images, labels)
    assert not torch.equal(network_of(one), network_of(plain))


def test_balanced_counts_weights(rings):
    images, labels = rings
    own = np.where(labels == "smooth", 2.0, 1.0)
    one = tiny(train=WHOLE, class_weight="balanced").fit(images, labels, own)
    plain = tiny(train=WHOLE).fit(images, labels)
    assert torch.equal(network_of(one), network_of(plain))


def test_scores_may_be_weighted(rings, fitted):
    images, labels = rings
    right = fitted.predict(images) == labels
    weights = np.where(right, 1.0, 0.0)
    assert fitted.score(images, labels, sample_weight=weights) == 1.0


# ------------------------------------------------------------------------ nothing twice


@pytest.fixture
def fits(monkeypatch):
    """How many images each call of the lens fit was given."""
    from vitdm import lens

    made, fit = [], lens.fit

    def counted(images, *arguments, **options):
        made.append(len(images))
        return fit(images, *arguments, **options)

    monkeypatch.setattr(lens, "fit", counted)
    return made


def test_the_same_images_are_fitted_once(lenses, fits):
    data = dataset.Dataset.open(lenses)
    images, kinds = np.array(data.images[:12]), data.catalog["class"].to_numpy()[:12]
    settings = TINY | {"pixel_scale": 0.1, "lensfit": {"size": 48, "psf_fwhm": 0.17, "gain": 1.0}}
    one = ViTClassifier(features=True, **settings).fit(images[:8], kinds[:8])
    assert sum(fits) == 8
    answers = one.predict_proba(images[8:])
    assert sum(fits) == 12
    one.predict(images[8:]), one.score(images[8:], kinds[8:]), one.predict(images[:8])
    one.set_params(train__epochs=2).fit(images[:8], kinds[:8])  # only the network is new
    assert sum(fits) == 12
    assert one.predict_proba(images[8:]).shape == answers.shape and sum(fits) == 12
    one.predict(images[8:] + 1)  # others
    assert sum(fits) == 16
    one.set_params(lensfit__psf_fwhm=0.2).fit(images[:8], kinds[:8])
    assert sum(fits) == 24


def test_what_is_kept_is_bounded_and_goes_nowhere_else(rings, fitted, tmp_path):
    images, _ = rings
    one = copy.deepcopy(fitted)
    for k in range(7):
        one.predict(images[k : k + 2])
    assert len(one._recent._kept) == 4
    assert len(pickle.dumps(one)) == len(pickle.dumps(copy.deepcopy(one)))
    for other in (clone(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert "_kept" not in vars(other)
    again = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(again.predict_proba(images), one.predict_proba(images))


def test_what_is_too_large_is_not_kept(monkeypatch):
    monkeypatch.setattr(Recent, "BYTES", 100)
    recent, made = Recent(), []

    def of(size):
        made.append(size)
        return np.zeros(size, np.uint8)

    for size in (60, 30, 60, 30, 50, 60, 101, 101):
        assert recent(size, lambda size=size: of(size)).nbytes == size
    assert made == [60, 30, 50, 60, 101, 101]


# ------------------------------------------------------------------------ conventions

#: of scikit-learn's checks, those whose failure comes from tables: what they say, and why
TABLES_ONLY = {
    "check_n_features_in_after_fitting": ("does not check for consistency", "images of any size"),
    "check_classifiers_train": ("number of features in predict is different", "images of any size"),
    "check_estimators_empty_data_messages": (r"found data of shape \(1, 0\)", "no columns"),
    "check_fit2d_predict1d": (r"images: found \(3,\); expected \(n, H, W\)", "no rows to reshape"),
}


class OfTables(ViTClassifier):
    """Takes tables (n, p), each row as an image of one row: for checks that know only tables."""

    @staticmethod
    def images(table):
        array = table if sparse.issparse(table) else np.asarray(table)
        return array[:, None] if array.ndim == 2 and not sparse.issparse(table) else array

    def fit(self, X, y, sample_weight=None):
        return super().fit(self.images(X), y, sample_weight)

    def predict_proba(self, X):
        return super().predict_proba(self.images(X))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learn_s_own_checks():
    cut = {"size": 8, "crop": "centre", "derotate": False, "resize": True, "stretch": "linear"}
    train = {"epochs": 5, "batch_size": 32, "learning_rate": 5e-3, "flips": False}
    model = {"patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2}
    results = check_estimator(
        OfTables(preprocess=cut, model=model, train=train),
        expected_failed_checks={name: why for name, (_, why) in TABLES_ONLY.items()},
        on_fail=None,
        on_skip=None,
    )
    found = {"passed": set(), "failed": {}, "skipped": set(), "xfail": {}}
    for result in results:
        name = result["check_name"]
        if result["status"] in ("failed", "xfail"):
            found[result["status"]][name] = str(result["exception"])
        else:
            found[result["status"]].add(name)
    assert found["failed"] == {}
    assert found["xfail"].keys() == TABLES_ONLY.keys()
    for name, text in found["xfail"].items():
        assert re.search(TABLES_ONLY[name][0], text), f"{name} fails for another reason: {text}"
    assert found["skipped"] <= {"check_array_api_input"}  # needs a variable of the environment
    assert len(found["passed"]) > 45
    tags = get_tags(tiny())
    assert tags.input_tags.three_d_array and tags.input_tags.allow_nan
    assert not tags.input_tags.two_d_array


def test_pixels_are_the_features_of_images_of_one_shape(rings):
    images, labels = rings
    assert tiny().fit(images[:8], labels[:8]).n_features_in_ == 40 * 40
    one = tiny().fit([*images[:7], images[7][1:]], labels[:8])
    assert not hasattr(one, "n_features_in_")


def test_log_probabilities(rings, fitted):
    found = fitted.predict_log_proba(rings[0])
    np.testing.assert_allclose(np.exp(found), fitted.predict_proba(rings[0]), rtol=1e-12)
    assert found.shape == (60, 2) and (found < 0).all()


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


@pytest.mark.parametrize("class_weight", ["balanced", {0: 2.0, 1: 0.5}, {np.int64(0): 2.0, 1: 0.5}])
def test_class_weights_are_saved(rings, tmp_path, class_weight):
    images, labels = rings
    one = tiny(class_weight=class_weight, random_state=np.int64(3)).fit(images, labels == "smooth")
    one.save(tmp_path / "run")
    again = ViTClassifier.load(tmp_path / "run")
    assert again.class_weight == class_weight and again.random_state == 3
    repeated = clone(again).fit(images, labels == "smooth")
    np.testing.assert_array_equal(repeated.predict_proba(images), one.predict_proba(images))


def test_a_run_of_the_command_line_is_a_classifier_too(run_folder, lenses):
    one = ViTClassifier.load(run_folder)
    images = np.array(dataset.Dataset.open(lenses).images[:3])
    expected = predict.predict([load_run(run_folder)], images).filter(like="p_").to_numpy()
    assert one.classes_.tolist() == ["axion", "cdm", "no_sub"] and one.features is True
    np.testing.assert_allclose(one.predict_proba(images), expected[:, [2, 1, 0]])


# ------------------------------------------------------------------------ bad input

IMAGES, LABELS = np.zeros((8, 30, 30)), [0, 1] * 4


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[0], LABELS, r"images: found \(30, 30\); expected \(n, H, W\), or a list of images"),
        (
            np.stack([IMAGES] * 2, 1),
            LABELS,
            r"image 0: found data of shape \(2, 30, 30\); expected",
        ),
        (
            [*IMAGES[:3], IMAGES[0, 0]] * 2,
            LABELS,
            r"image 3: found data of shape \(30,\); expected",
        ),
        (IMAGES.astype(complex), LABELS, "images: found complex numbers"),
        (
            [*IMAGES[:3], IMAGES[0].astype(complex)] * 2,
            LABELS,
            "image 3: data: found .* complex128",
        ),
        (IMAGES.astype(str), LABELS, "image 0: data: found values of type <U"),
        (
            np.full((8, 9, 9), "x", object),
            LABELS,
            "images: found objects .*; expected real numbers",
        ),
        (sparse.eye_array(8), LABELS, "images: found sparse data; expected dense arrays"),
        (IMAGES[:0], [], "images: found none; expected at least one"),
        (7, LABELS, r"images: found int; expected \(n, H, W\)"),
        (IMAGES, None, "labels: fit requires y to be passed"),
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
        (
            {"model": {"dept": 3}},
            "model: dept: unknown key; expected one of: architecture, average",
        ),
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
        ({"pixel_scale": -1.0}, "pixel_scale: found -1.0; expected a positive number"),
        ({"pixel_scale": "0.05"}, "pixel_scale: found '0.05'; expected a positive number"),
        ({"train": 3}, "train: found 3; expected a dictionary of some of its keys"),
        ({"class_weight": "equal"}, "class_weight: found 'equal'; expected None, 'balanced' or a"),
        ({"class_weight": {2: 1.0}}, r"class_weight: found {2: 1.0}; .*classes, \[0, 1\]"),
        ({"class_weight": {0: -1.0, 1: 2.0}}, r"class_weight: .*; expected weights above 0"),
        ({"random_state": "one"}, "random_state: 'one' cannot be used to seed"),
        ({"random_state": -3}, "random_state: .*; expected a number from 0 on"),
        ({"device": "gpu"}, "device: found 'gpu' .*; expected one that this machine has, of cpu"),
        ({"device": "meta"}, "device: found 'meta'"),
        ({"device": 0}, "device: found 0"),
    ],
)
def test_wrong_parameters(changes, message):
    with pytest.raises(InputError, match=message):
        tiny(**changes).fit(IMAGES, LABELS)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1] * 7, r"sample_weight: found shape \(7,\); expected \(8,\), one for each image"),
        (np.ones((8, 2)), r"sample_weight: found shape \(8, 2\)"),
        ([1] * 7 + [-1], "sample_weight: expected finite numbers, none below 0"),
        ([1] * 7 + [np.nan], "sample_weight: expected finite numbers"),
        (["a"] * 8, r"sample_weight: .*; expected \(8,\) numbers"),
        ([0] * 8, "sample_weight: every weight is zero"),
        ([1, 0] * 4, "labels: found 0 only; expected at least two classes"),
    ],
)
def test_wrong_weights(weights, message):
    with pytest.raises(InputError, match=message):
        tiny().fit(IMAGES, LABELS, sample_weight=weights)


def test_wrong_images_to_predict(fitted):
    with pytest.raises(InputError, match=r"images: found \(30, 30\); expected \(n, H, W\)"):
        fitted.predict(IMAGES[0])


def test_a_device_that_is_not_there(fitted, monkeypatch):
    assert device_of("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert device_of("auto") == torch.device("cpu")
    absent = "mps" if torch.cuda.is_available() else "cuda"
    for use in (lambda one: one.fit(IMAGES, LABELS), lambda one: one.predict(IMAGES)):
        one = copy.deepcopy(fitted).set_params(device=absent)
        with pytest.raises(InputError, match=f"device: found '{absent}' .*or auto"):
            use(one)
