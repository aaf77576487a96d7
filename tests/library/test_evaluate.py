"""Metrics and intervals against closed forms, explicit resampling and hand-made tables."""

import json
import math
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy import stats
from sklearn import metrics as reference

from studies.plots import test as final_test_plots
from vitdm.config import Model
from vitdm.data import dataset
from vitdm.errors import InputError
from vitdm.evaluation import calibration, final_test, metrics


def gaussians(n, separation, seed, negatives=None):
    """Labels and scores of two unit Gaussians: the AUC is Phi(separation / sqrt 2)."""
    rng = np.random.default_rng(seed)
    negatives = negatives or n
    labels = np.repeat([0, 1], [negatives, n])
    return labels, rng.normal(size=n + negatives) + separation * labels


def table(classes, truth, probabilities):
    """A table of predictions from true classes and rows of probabilities."""
    frame = pd.DataFrame({"id": [f"{i:03d}" for i in range(len(truth))]})
    frame["label"] = [classes.index(name) for name in truth]
    frame["class"], frame["split"] = truth, "test"
    frame[[f"p_{name}" for name in classes]] = np.asarray(probabilities, float)
    return frame


def random_tables(seeds=3, n=(200, 100, 100), signal=1.5):
    """Tables of three classes with softmax probabilities, one a seed, of the same images."""
    classes = ["no_sub", "cdm", "axion"]
    rng = np.random.default_rng(7)
    truth = np.repeat(classes, n)
    image = rng.normal(size=(sum(n), 3)) + signal * np.eye(3)[np.repeat(range(3), n)]
    tables = []
    for _ in range(seeds):
        logits = image + 0.3 * rng.normal(size=image.shape)
        odds = np.exp(logits)
        tables.append(table(classes, truth, odds / odds.sum(axis=1, keepdims=True)))
    return tables


@pytest.mark.parametrize("separation", [0.5, 2.0, 3.0])
def test_auc_and_interval_of_two_gaussians(separation):
    labels, scores = gaussians(1200, separation, seed=1, negatives=800)
    truth = stats.norm.cdf(separation / math.sqrt(2))
    found = metrics.bootstrap_interval(metrics.weighted_auc, labels, [scores], 1000, seed=3)
    assert found.low < truth < found.high
    assert found.value == pytest.approx(reference.roc_auc_score(labels, scores), abs=1e-12)
    other = metrics.delong_interval(labels, [scores])  # the two ways agree
    assert other.low < truth < other.high and other.value == pytest.approx(found.value)
    assert found.high - found.low == pytest.approx(other.high - other.low, rel=0.1)
    np.testing.assert_allclose(found, other, atol=0.15 * (other.high - other.low))


def test_delong_is_its_definition():
    """Covariance of the placements: each positive's wins over the negatives, and the reverse."""
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], [40, 60])
    models = [np.round(labels + rng.normal(size=100) * k, 1) for k in (1, 2, 3)]  # with ties
    wins = [
        np.sign(s[labels == 1][:, None] - s[labels == 0][None]) / 2 + 0.5 for s in models
    ]  # (60, 40) each
    by_positive, by_negative = ([w.mean(axis) for w in wins] for axis in (1, 0))
    aucs, covariance = metrics.delong(labels, models)
    np.testing.assert_allclose(aucs, [reference.roc_auc_score(labels, s) for s in models])
    np.testing.assert_allclose(covariance, np.cov(by_positive) / 60 + np.cov(by_negative) / 40)


def test_variance_of_delong_in_closed_form():
    """Two unit Gaussians d apart: P(y < x)'s variance over x is a bivariate normal probability."""
    labels, scores = gaussians(20000, 1.0, seed=0)
    auc = stats.norm.cdf(1 / math.sqrt(2))
    both = stats.multivariate_normal(cov=[[1, 0.5], [0.5, 1]]).cdf([1 / math.sqrt(2)] * 2)
    _, covariance = metrics.delong(labels, [scores])
    assert covariance[0, 0] == pytest.approx(2 * (both - auc**2) / 20000, rel=0.03)


def test_p_of_delong_is_uniform_if_nothing_differs():
    """Two noisy looks at the same thing; and a difference that is there is found."""
    found = []
    for k in range(300):
        labels, shared = gaussians(80, 1.0, seed=k)
        rng = np.random.default_rng(1000 + k)
        first, second = shared + rng.normal(size=(2, 160))
        found.append(metrics.delong_p(labels, [first], [second]))
    assert stats.kstest(found, "uniform").pvalue > 0.01
    labels, shared = gaussians(400, 1.0, seed=1)
    noise = np.random.default_rng(0).normal(size=(4, 800))
    assert metrics.delong_p(labels, [*(shared + 2 * noise[:2])], [*(shared + noise[2:])]) < 1e-3
    assert metrics.delong_p(labels, [shared], [shared]) == 1.0
    with pytest.raises(InputError, match="found 0 and 3 images"):
        metrics.delong(np.zeros(3), [np.arange(3)])


@pytest.mark.parametrize("way", ["bootstrap", "delong"])
def test_interval_covers_the_truth_as_often_as_it_says(way):
    truth = stats.norm.cdf(1 / math.sqrt(2))
    inside = 0
    for k in range(150):
        labels, scores = gaussians(60, 1.0, seed=k)
        if way == "delong":
            found = metrics.delong_interval(labels, [scores])
        else:
            found = metrics.bootstrap_interval(metrics.weighted_auc, labels, [scores], 250, seed=k)
        inside += found.low <= truth <= found.high
    assert 0.88 < inside / 150 <= 0.99  # 95 % ± 1.8 % and a little bias of the percentiles


def test_weighted_rates_are_sklearns_on_explicitly_repeated_images():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=80)
    scores = np.round(rng.normal(size=80) + labels, 1)  # with ties
    weights = np.concatenate(list(metrics.resamplings(labels, 20, seed=5)))
    found = metrics.weighted_auc(labels, scores, weights)
    called = (scores > 0.5).astype(float)
    balanced = metrics.weighted_auc(labels, called, weights)
    accuracy = metrics.weighted_accuracy(labels, called, weights)
    precision = metrics.weighted_average_precision(labels, scores, weights)
    rates = [metrics.weighted_tpr(labels, scores, weights, fpr) for fpr in (0.001, 0.1)]
    for b, counts in enumerate(weights.astype(int)):
        drawn = np.repeat(np.arange(80), counts)
        assert found[b] == pytest.approx(reference.roc_auc_score(labels[drawn], scores[drawn]))
        assert balanced[b] == pytest.approx(
            reference.balanced_accuracy_score(labels[drawn], scores[drawn] > 0.5)
        )
        assert accuracy[b] == pytest.approx(
            reference.accuracy_score(labels[drawn], scores[drawn] > 0.5)
        )
        assert precision[b] == pytest.approx(
            reference.average_precision_score(labels[drawn], scores[drawn])
        )
        x, y, _ = reference.roc_curve(labels[drawn], scores[drawn], drop_intermediate=False)
        for rate, fpr in zip(rates, (0.001, 0.1), strict=True):
            assert rate[b] == pytest.approx(y[x <= fpr].max())


def test_resampling_keeps_each_stratum_and_repeats():
    strata = np.array(["a"] * 5 + ["b"] * 20)
    first, second = (
        np.concatenate(list(metrics.resamplings(strata, 600, seed=2))) for _ in range(2)
    )
    assert first.shape == (600, 25)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first[:, :5].sum(axis=1), 5)
    np.testing.assert_array_equal(first[:, 5:].sum(axis=1), 20)
    np.testing.assert_allclose(first.mean(axis=0), 1, atol=0.2)
    assert first[:, 0].var() == pytest.approx(0.8, abs=0.15)  # binomial: 5 draws of 1 in 5


def test_all_seeds_see_the_same_resampled_images():
    labels, scores = gaussians(150, 1.0, seed=4)
    one = metrics.bootstrap_interval(metrics.weighted_auc, labels, [scores], 300, seed=1)
    same = metrics.bootstrap_interval(metrics.weighted_auc, labels, [scores] * 4, 300, seed=1)
    assert same == pytest.approx(one)  # independent draws would halve the width
    mirrored = [scores, -scores, scores]  # the first two areas add to 1 on the same images
    sure = metrics.bootstrap_interval(metrics.weighted_auc, labels, mirrored, 300, seed=1)
    assert sure == pytest.approx([(1 + end) / 3 for end in one])


@pytest.mark.parametrize("n", [1, 2, 7, 400])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_no_interval_has_zero_width(n, value):
    """Without a mistake, or with two images, all resamplings agree: that is no certainty."""
    labels = np.repeat([0, 1], n)
    scores = {0.0: 1.0 - labels, 0.5: np.zeros(2 * n), 1.0: labels.astype(float)}[value]
    for found in (
        metrics.bootstrap_interval(metrics.weighted_auc, labels, [scores], 50, seed=0),
        metrics.delong_interval(labels, [scores]),
    ):
        wilson = stats.binomtest(round(value * 2 * n), 2 * n).proportion_ci(method="wilson")
        assert found.value == value and 0 <= found.low <= value <= found.high <= 1
        assert found.high - found.low > wilson.high - wilson.low  # n independent pairs at most
        rule_of_three = 3.84 / (n + 3.84)  # of Wilson's interval, where no trial of n fails
        if value != 0.5:
            assert found.high - found.low == pytest.approx(rule_of_three, rel=1e-3)
    mirrored = metrics.cautious(2 * value - 1, labels, lowest=-1.0)  # of a correlation
    assert (mirrored.low, mirrored.high) == pytest.approx((2 * found.low - 1, 2 * found.high - 1))


def test_bootstrap_is_fast_enough_for_the_default_run():
    labels, scores = gaussians(1250, 3.0, seed=0)
    started = time.process_time()
    metrics.bootstrap_interval(metrics.weighted_auc, labels, [scores] * 2, 500, seed=0)
    assert time.process_time() - started < 3  # 1/16 of 2000 x 5000 x 4, allowed 20 s


def test_auc_of_hard_labels_is_the_balanced_accuracy():
    labels, scores = gaussians(300, 1.2, seed=8, negatives=500)
    hard = (scores > 0.5).astype(float)
    balanced = metrics.weighted_auc(labels, hard, np.ones((1, 800)))[0]
    assert metrics.roc_auc(labels, hard) == pytest.approx(balanced)
    assert balanced == pytest.approx(reference.balanced_accuracy_score(labels, scores > 0.5))
    assert metrics.roc_auc(labels, scores) > balanced + 0.03


def test_one_label_only_is_an_input_error():
    with pytest.raises(InputError, match=r"found label \[1\] only"):
        metrics.roc_auc(np.ones(3, int), np.arange(3))
    with pytest.raises(InputError, match="expected both"):
        metrics.bootstrap_interval(metrics.weighted_auc, np.zeros(3), [np.arange(3)], 10, 0)


def test_true_positive_rate_at_a_false_positive_rate():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    scores = np.array([0.1, 0.2, 0.3, 0.6, 0.25, 0.5, 0.7, 0.9])
    one = np.ones((1, 8))
    assert metrics.weighted_tpr(labels, scores, one, 0.0) == 0.5
    assert metrics.weighted_tpr(labels, scores, one, 0.24) == 0.5
    assert metrics.weighted_tpr(labels, scores, one, 0.25) == 0.75
    assert metrics.weighted_tpr(labels, scores, one, 0.5) == 1.0
    for fpr, expected in ((0.0, 0.5), (0.25, 0.75), (0.5, 1.0)):
        threshold = metrics.threshold_at_fpr(labels, scores, fpr)
        assert (scores[labels == 1] > threshold).mean() == expected
        assert (scores[labels == 0] > threshold).mean() <= fpr


def test_roc_band_of_one_gaussian_is_its_curve():
    labels, scores = gaussians(4000, 1.5, seed=3)
    p_sub = stats.norm.cdf(scores)  # any rising function leaves the curve as it is
    truth = np.where(labels == 1, "sub", "no_sub")
    one = table(["no_sub", "sub"], truth, np.column_stack([1 - p_sub, p_sub]))
    band = metrics.roc_band([one, one])
    np.testing.assert_array_equal(band["tpr_low"], band["tpr_high"])
    inner = band[(band["fpr"] > 0.02) & (band["fpr"] < 0.98)]
    expected = stats.norm.cdf(stats.norm.ppf(inner["fpr"]) + 1.5)
    np.testing.assert_allclose(inner["tpr"], expected, atol=0.03)
    assert np.trapezoid(band["tpr"], band["fpr"]) == pytest.approx(
        metrics.roc_auc(labels, scores), abs=0.003
    )


CLASSES = ["no_sub", "cdm", "axion"]
HAND = table(
    CLASSES,
    ["no_sub", "no_sub", "cdm", "cdm", "axion", "axion"],
    [[0.8, 0.1, 0.1], [0.3, 0.4, 0.3], [0.2, 0.7, 0.1]]
    + [[0.6, 0.3, 0.1], [0.1, 0.5, 0.4], [0.1, 0.1, 0.8]],
)


def test_per_class_auc_by_hand():
    found = metrics.per_class_auc(HAND)
    # no_sub 0.8, 0.3 against 0.2, 0.6, 0.1, 0.1: 4 + 3 of 8 pairs; cdm 0.7, 0.3 against
    # 0.1, 0.4, 0.5, 0.1: 4 + 2; axion 0.4, 0.8 against 0.1, 0.3, 0.1, 0.1: all
    assert found == pytest.approx({"no_sub": 7 / 8, "cdm": 6 / 8, "axion": 1.0})
    absent = metrics.per_class_auc(HAND[HAND["class"] != "axion"])
    assert math.isnan(absent["axion"]) and absent["no_sub"] == pytest.approx(3 / 4)


def test_confusion_and_accuracies_by_hand():
    np.testing.assert_array_equal(metrics.confusion(HAND), [[1, 1, 0], [1, 1, 0], [0, 1, 1]])
    assert metrics.multiclass_accuracy(HAND) == pytest.approx(0.5)
    labels, scores = metrics.binary_scores(HAND)
    np.testing.assert_array_equal(labels, [0, 0, 1, 1, 1, 1])
    np.testing.assert_allclose(scores, [0.2, 0.7, 0.8, 0.4, 0.9, 0.9])
    apart = table(CLASSES, CLASSES, [[0.6, 0.2, 0.2], [0.4, 0.6, 0.0], [0.3, 0.0, 0.7]])
    found = final_test.summarise([HAND], [apart], n_bootstrap=20)
    # halfway between the scores 0.4 and 0.6 of the held-out images; the test images' best is 0.75
    assert found["thresholds"] == pytest.approx([0.5]) and found["test_threshold"] == 0.5
    assert found["n_held_out"] == 3
    assert (found["n_missed"], found["n_false_alarms"], found["n_test_errors"]) == (1, 1, 2)
    assert found["test_accuracy"] == pytest.approx(4 / 6)
    assert found["test_balanced_accuracy"] == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert found["test_auc_macro"] == pytest.approx((7 / 8 + 6 / 8 + 1) / 3)
    assert math.isnan(found["test_auc_seed_sd"])


def test_predictions_without_the_null_class_are_refused():
    with pytest.raises(InputError, match="expected p_no_sub"):
        metrics.binary_scores(HAND.drop(columns="p_no_sub"))


def test_summary_of_several_seeds():
    tables = random_tables()
    found = final_test.summarise(tables, tables, n_bootstrap=200, seed=1)
    labels = (tables[0]["class"] != "no_sub").astype(int)
    aucs = [reference.roc_auc_score(labels, 1 - t["p_no_sub"]) for t in tables]
    assert found["test_auc_seeds"] == pytest.approx(aucs)
    assert found["test_auc"] == pytest.approx(np.mean(aucs))
    assert found["test_auc_seed_sd"] == pytest.approx(np.std(aucs, ddof=1))
    mean = sum(t["p_no_sub"] for t in tables) / 3
    assert found["test_ensemble_auc"] == pytest.approx(reference.roc_auc_score(labels, 1 - mean))
    assert found["test_ensemble_auc"] > found["test_auc"]  # averaging removes the seeds' noise
    assert found["n_seeds"] == 3 and found["n_test"] == 400
    for key in ("test_auc", "test_ensemble_auc", "test_balanced_accuracy", "test_auc_cdm"):
        assert found[f"{key}_low"] < found[key] < found[f"{key}_high"]
    assert found == final_test.summarise(tables, tables, n_bootstrap=200, seed=1)


def test_temperature_and_threshold_are_of_the_images_held_out():
    """These are too sure of themselves, the test images not sure enough."""
    tested, apart = random_tables(seeds=2), random_tables(seeds=2, n=(150, 90, 60))
    columns = [f"p_{name}" for name in CLASSES]
    for tables, temperature in ((tested, 2.0), (apart, 1 / 3)):
        for t in tables:
            t[columns] = calibration.tempered(t[columns].to_numpy(), temperature)
    found = final_test.summarise(tested, apart, n_bootstrap=10)
    assert max(found["temperatures"]) > 2  # of the test images it would be below 1
    fitted = [calibration.fit_temperature(t[columns].to_numpy(), t["label"]) for t in apart]
    assert found["temperatures"] == fitted and found["n_untempered"] == 0
    assert found["test_ece_tempered"] > found["test_ece"]  # and makes these worse


def test_a_temperature_at_its_limit_is_not_used():
    sure = table(CLASSES, CLASSES, np.eye(3) * 0.7 + 0.1)  # all right: T would be 0
    found = final_test.summarise(random_tables(seeds=2), [sure, sure], n_bootstrap=10)
    assert found["temperatures"] == [1.0, 1.0] and found["n_untempered"] == 2
    assert found["test_ece_tempered"] == pytest.approx(found["test_ece"])


def test_seeds_of_different_images_are_refused():
    first, second = random_tables(seeds=2)
    with pytest.raises(InputError, match="differ"):
        metrics.ensemble([first, second.iloc[::-1].reset_index(drop=True)])


def test_failures_are_the_most_confident_mistakes():
    catalog = HAND[["id", "class", "split"]].assign(source="x", substructure_mass=range(6))
    worst = final_test.failures(HAND, catalog, threshold=0.5)
    assert list(worst["id"]) == ["001", "003"]
    assert list(worst["kind"]) == ["false_alarm", "miss"]
    assert list(worst["predicted"]) == ["sub", "no_sub"]
    np.testing.assert_allclose(worst["p_true"], [0.3, 0.4])
    assert list(worst["substructure_mass"]) == [1, 3]
    many = random_tables(seeds=1, signal=0.5)[0]
    found = final_test.failures(many, many[["id", "class"]], 0.5, n=4)
    assert dict(found["kind"].value_counts()) == {"miss": 8, "false_alarm": 4}
    assert dict(found["class"].value_counts()) == {"no_sub": 4, "cdm": 4, "axion": 4}
    missed = many[many["class"] != "no_sub"]
    assert found[found["kind"] == "miss"]["p_true"].min() == pytest.approx(
        1 - missed["p_no_sub"].max()
    )


# ------------------------------------------------------------------------ evaluate, end to end


@pytest.fixture
def processed(tmp_path):
    """Forty images whose mean brightness tells the class, half of them in the test split."""
    rng = np.random.default_rng(0)
    classes = np.array(["no_sub", "no_sub", "cdm", "axion"] * 10)
    level = pd.Series(classes).map({"no_sub": 0.0, "cdm": 1.0, "axion": 2.0}).to_numpy()
    images = level[:, None, None] + 0.1 * rng.normal(size=(40, 8, 8))
    catalog = pd.DataFrame({"id": [f"{i:04d}" for i in range(40)], "class": classes})
    catalog["split"] = np.repeat(["train", "valid", "test"], [12, 8, 20])
    catalog["source"] = "test"
    catalog["substructure_mass"] = 1e9 * level
    folder = tmp_path / "processed"
    dataset.write(folder, images.astype(np.float32), catalog)
    features = pd.DataFrame({"id": catalog["id"], "other": 0.0, "level": level})
    features.iloc[::-1].to_csv(tmp_path / "features.csv", index=False)
    return folder


class FakeRun:
    """Knows the brightness of each class; remembers what it was shown."""

    classes = ["no_sub", "cdm", "axion"]

    def __init__(self, feature_names=()):
        self.feature_names = list(feature_names)
        self.settings = SimpleNamespace(
            model=Model(), train_splits=["train"], seed=3, task="multiclass"
        )
        self.seen = []

    def predict(self, images, features, residuals, maps):
        self.seen.append((np.array(images), features))
        distance = np.abs(np.asarray(images).mean(axis=(1, 2))[:, None] - [0.0, 1.0, 2.0])
        odds = np.exp(-5 * distance)
        return odds / odds.sum(axis=1, keepdims=True)


def folders(tmp_path, n=2):
    """Run folders with what their runs said of the eight images of split valid."""
    made = [tmp_path / "final" / f"seed{k}" for k in range(n)]
    apart = table(CLASSES, ["no_sub", "no_sub", "cdm", "axion"] * 2, np.full((8, 3), 1 / 3))
    apart["id"] = [f"{i:04d}" for i in range(12, 20)]
    apart["p_no_sub"] = np.where(apart["class"] == "no_sub", 0.8, 0.2)
    apart["p_cdm"] = apart["p_axion"] = (1 - apart["p_no_sub"]) / 2
    for folder in made:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text("{}")
        apart.drop(columns=["class", "split"]).to_csv(folder / "predictions.csv", index=False)
    return made


def test_evaluate_end_to_end(tmp_path, processed, monkeypatch):
    run = FakeRun(["level"])
    monkeypatch.setattr(final_test, "load_run", lambda folder: run)
    out = tmp_path / "out" / "evaluation"
    arguments = (processed, tmp_path / "features.csv", folders(tmp_path), out)
    result = final_test.evaluate(*arguments, n_bootstrap=50, seed=1)

    assert [len(images) for images, _ in run.seen] == [20, 20]  # the test split, once a run
    np.testing.assert_array_equal(run.seen[0][0], np.load(processed / "images.npy")[20:])
    np.testing.assert_array_equal(run.seen[0][1].ravel(), [0, 0, 1, 2] * 5)
    assert result["test_auc"] == 1.0 and result["n_test"] == 20 and result["n_seeds"] == 2
    assert {path.name for path in out.iterdir()} == {
        *("metrics.json", "predictions.csv", "predictions_seed0.csv", "predictions_seed1.csv"),
        *("rival_boosting_seed0.csv", "rival_boosting_seed1.csv"),
        *(
            "held_out_seed0.csv",
            "held_out_seed1.csv",
            "roc.csv",
            "failures.csv",
            "neighbours.csv",
            "evaluation.json",
        ),
    }
    assert result["thresholds"] == pytest.approx([0.5, 0.5])  # scores 0.2 and 0.8
    trees = pd.read_csv(out / "rival_boosting_seed0.csv")  # 12 images: too few to learn from
    assert list(trees["label"]) == [0, 0, 1, 2] * 7 and trees["p_cdm"].between(0, 1).all()
    assert list(trees["split"]) == ["valid"] * 8 + ["test"] * 20
    written = pd.read_csv(out / "predictions.csv", dtype={"id": str})
    assert list(written) == ["id", "label", "class", "split", "p_no_sub", "p_cdm", "p_axion"]
    assert list(written["id"]) == [f"{i:04d}" for i in range(20, 40)]
    assert list(written["label"]) == [0, 0, 1, 2] * 5 and set(written["split"]) == {"test"}
    saved = json.loads((out / "metrics.json").read_text())
    assert saved["test_auc"] == 1.0 and saved["classes"] == run.classes
    assert json.loads((out / "evaluation.json").read_text())["rule"] == "evaluate"
    curve = pd.read_csv(out / "roc.csv")
    assert np.trapezoid(curve["tpr"], curve["fpr"]) == pytest.approx(1.0)
    assert len(pd.read_csv(out / "failures.csv")) == 0
    final_test.evaluate(*arguments, n_bootstrap=50, seed=1)  # over an earlier result
    assert json.loads((out / "metrics.json").read_text()) == saved


def test_evaluate_refuses_what_does_not_fit(tmp_path, processed, monkeypatch):
    out, runs = tmp_path / "evaluation", folders(tmp_path, 1)

    def refused(run, message, features=None, run_folders=runs, task="multiclass"):
        monkeypatch.setattr(final_test, "load_run", lambda folder: run)
        with pytest.raises(InputError, match=message):
            final_test.evaluate(processed, features, run_folders, out, task=task, n_bootstrap=10)
        assert not out.exists()

    features = tmp_path / "features.csv"
    refused(FakeRun(["level"]), "found no feature table; expected one with level")
    refused(FakeRun(["colour"]), r"features\.csv: found no column colour", features)
    refused(FakeRun(), r"found a model of classes .*expected \['no_sub', 'sub'\]", task="binary")
    refused(FakeRun(), "run folders: found", run_folders=[])
    learnt = FakeRun()
    learnt.settings.train_splits = ["train", "valid"]
    refused(learnt, r"found images of \['valid'\]; expected a split .*: opt")
    bare = tmp_path / "final" / "bare"
    bare.mkdir()
    refused(FakeRun(), "bare/predictions.csv: no such file", run_folders=[bare])
    refused(FakeRun(), "with different names", run_folders=runs * 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.assign(label=2 - t["label"]),
            r"label: found 2 for id '0012'; expected 0 ",
        ),
        (lambda t: t.rename(columns={"p_cdm": "p_wdm"}), "expected id, label, p_no_sub, p_cdm, p_"),
        (lambda t: pd.concat([t, t]), "one row an image"),
        (lambda t: t.assign(p_cdm=np.nan), "expected probabilities, of which the sum is 1"),
        (lambda t: t.assign(p_cdm=t["p_cdm"] + 0.1), "expected probabilities, of which the sum"),
        (lambda t: t.assign(p_cdm=-0.1, p_axion=1.1 - t["p_no_sub"]), "expected probabilities"),
    ],
)
def test_predictions_of_a_run_must_be_of_these_images(
    tmp_path, processed, monkeypatch, change, message
):
    monkeypatch.setattr(final_test, "load_run", lambda folder: FakeRun())
    (folder,) = folders(tmp_path, 1)
    path = folder / "predictions.csv"
    change(dataset.read_catalog(path)).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"predictions\.csv: .*" + message):
        final_test.evaluate(processed, None, [folder], tmp_path / "out", n_bootstrap=10)


def test_trees_learn_from_the_training_images_alone(tmp_path, monkeypatch):
    """In the test split the feature means the opposite: whoever saw it there would know."""
    rng, n = np.random.default_rng(0), 720
    kinds = np.array(CLASSES)[np.arange(n) % 3]
    splits = np.repeat(["train", "valid", "test"], [300, 60, 360])
    catalog = pd.DataFrame({"id": [f"{i:04d}" for i in range(n)], "class": kinds})
    catalog["split"], catalog["source"] = splits, "test"
    value = np.where(kinds == "no_sub", 0.0, 1.0) + 0.1 * rng.normal(size=n)
    value = np.where(splits == "test", 1 - value, value)
    pd.DataFrame({"id": catalog["id"], "x": value}).to_csv(tmp_path / "f.csv", index=False)
    dataset.write(tmp_path / "data", rng.normal(size=(n, 8, 8)), catalog)
    apart = table(CLASSES, kinds[300:360], np.full((60, 3), 1 / 3))
    apart["id"] = catalog["id"][300:360].to_numpy()
    (folder,) = folders(tmp_path, 1)
    apart.drop(columns=["class", "split"]).to_csv(folder / "predictions.csv", index=False)
    monkeypatch.setattr(final_test, "load_run", lambda folder: FakeRun())
    arguments = tmp_path / "data", tmp_path / "f.csv", [folder], tmp_path / "out"
    final_test.evaluate(*arguments, n_bootstrap=10)
    trees = dataset.read_catalog(tmp_path / "out" / "rival_boosting_seed0.csv")
    aucs = {
        split: metrics.roc_auc(*metrics.binary_scores(part))
        for split, part in trees.groupby("split")
    }
    assert aucs["valid"] > 0.95 and aucs["test"] < 0.05


def test_evaluate_refuses_a_test_split_of_one_class(tmp_path):
    catalog = pd.DataFrame({"id": list("abcd"), "class": ["cdm", "no_sub", "no_sub", "no_sub"]})
    catalog["split"], catalog["source"] = ["train", "train", "test", "test"], "test"
    dataset.write(tmp_path / "processed", np.zeros((4, 8, 8), np.float32), catalog)
    with pytest.raises(InputError, match="split 'test'"):
        final_test.evaluate(tmp_path / "processed", None, folders(tmp_path, 1), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------- what an idea adds


def scored(labels, scores):
    """A table of predictions of which 1 - p_no_sub ranks like the scores."""
    p = stats.norm.cdf(scores)
    names = np.array(["no_sub", "cdm"])
    return table(list(names), names[labels], np.column_stack([1 - p, p]))


def paired_runs(seeds, n=400, before=0.8, after=1.2, jitter=0.0, seed=0):
    """Runs that share their images' luck; the distance of the classes grows, a little by seed."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], n)
    luck = rng.normal(size=2 * n)
    shifts = rng.normal(0, jitter, size=(seeds, 2))
    runs = [
        [scored(labels, luck + (distance + shifts[k, j]) * labels) for k in range(seeds)]
        for j, distance in enumerate((before, after))
    ]
    return runs, labels, luck


def test_paired_gain_of_known_size():
    """AUC = Phi(d / sqrt 2) before and after."""
    runs, _, _ = paired_runs(seeds=3, n=3000)
    found = metrics.paired_difference(*runs, 300, 0)
    expected = stats.norm.cdf(1.2 / 2**0.5) - stats.norm.cdf(0.8 / 2**0.5)
    assert found.value == pytest.approx(expected, abs=0.01) and found.beyond_error
    assert found.low < found.value < found.high and len(found.seeds) == 3
    assert found == metrics.paired_difference(*runs, 300, 0)
    back = metrics.paired_difference(*runs[::-1], 300, 0)
    assert back.value == -found.value and back.sd == pytest.approx(found.sd)


def test_the_same_runs_gain_nothing_without_error():
    runs, _, _ = paired_runs(seeds=2)
    assert metrics.paired_difference(runs[0], runs[0], 50, 0)[:4] == (0, 0, 0, 0)
    assert not metrics.paired_difference(runs[0], runs[0], 50, 0).beyond_error


def test_images_that_are_hard_for_both_cancel():
    """The error is that of the difference drawn by hand, far below that of two separate scores."""
    runs, labels, luck = paired_runs(seeds=1)
    found = metrics.paired_difference(*runs, 2000, 0)
    rng, draws = np.random.default_rng(4), []
    for _ in range(800):
        rows = np.concatenate([rng.integers(0, 400, 400), rng.integers(400, 800, 400)])
        aucs = [
            reference.roc_auc_score(labels[rows], luck[rows] + d * labels[rows]) for d in (0.8, 1.2)
        ]
        draws.append(aucs)
    difference = np.diff(draws, axis=1)
    assert found.sd == pytest.approx(difference.std(), rel=0.1)
    np.testing.assert_allclose(
        (found.low, found.high), np.quantile(difference, [0.025, 0.975]), atol=0.003
    )
    assert found.sd < 0.5 * np.hypot(*np.std(draws, axis=0))


def test_the_interval_of_a_gain_holds_95_percent():
    """Of a normal distribution, as the mean over hundreds of images is."""
    runs, _, _ = paired_runs(seeds=1)
    found = metrics.paired_difference(*runs, 8000, 0)
    expected = found.value + found.sd * stats.norm.ppf([0.025, 0.975])
    np.testing.assert_allclose((found.low, found.high), expected, atol=0.1 * found.sd)


def test_a_gain_without_scatter_has_no_interval():
    """Two models without a mistake: the images tell nothing of their difference."""
    labels = np.repeat([0, 1], 10)
    first, second = ([scored(labels, k * (2 * labels - 1.0))] for k in (1, 2))
    found = metrics.paired_difference(first, second, 50, 0)
    assert found.value == 0 and np.isnan([found.low, found.high, found.sd]).all()
    assert not found.beyond_error


@pytest.mark.parametrize("seeds", [2, 4])
def test_the_scatter_between_seeds_is_in_the_error(seeds):
    """var = var over images + s² / S, s the s.d. (ddof 1) of the seeds' gains."""
    runs, _, _ = paired_runs(seeds, jitter=0.3, seed=2)
    found = metrics.paired_difference(*runs, 4000, 0)
    images = paired_runs(1, seed=2)[0]
    spread = np.var(found.seeds, ddof=1) / seeds
    expected = metrics.paired_difference(*images, 1000, 0).sd ** 2 + spread
    assert spread > 0.5 * expected  # which is what this test is about
    assert found.sd == pytest.approx(expected**0.5, rel=0.1)


def test_runs_that_cannot_be_compared():
    runs, _, _ = paired_runs(2, n=20)
    with pytest.raises(InputError, match="found 2 and 1 seeds"):
        metrics.paired_difference(runs[0], runs[1][:1], 10, 0)
    with pytest.raises(InputError, match="differ in their images"):
        metrics.paired_difference(
            runs[0], [runs[1][0], runs[1][1][::-1].reset_index(drop=True)], 10, 0
        )


# ------------------------------------------------------------------------------ what else scores


def test_rivals(tmp_path):
    """Of 400 images with one telling feature."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=400)
    catalog = pd.DataFrame({"id": [f"{i}" for i in range(400)], "source": "test"})
    catalog["class"] = np.array(["no_sub", "cdm"])[labels]
    catalog["split"] = np.repeat(["train", "test"], 200)
    dataset.write(tmp_path / "data", np.zeros((400, 4, 4), np.float32), catalog)
    value = labels + 0.3 * rng.normal(size=400)
    value[7] = np.nan
    features = pd.DataFrame({"id": catalog["id"], final_test.UNTRAINED: value})
    features.to_csv(tmp_path / "f.csv", index=False)
    data = dataset.Dataset.open(tmp_path / "data")
    told = catalog.iloc[200:][["id", "class", "split"]].assign(label=labels[200:])
    told = told.reset_index(drop=True)
    rows = data.rows("train")
    found = final_test.baselines_on(data, rows, told, tmp_path / "f.csv", 0, "multiclass")
    assert set(found) == {final_test.BASELINE, final_test.UNTRAINED}
    single = metrics.roc_auc(*metrics.binary_scores(found[final_test.UNTRAINED]))
    assert single == pytest.approx(reference.roc_auc_score(labels[200:], value[200:]))
    assert metrics.roc_auc(*metrics.binary_scores(found[final_test.BASELINE])) > 0.9


def test_fewest_errors_by_hand():
    # scores 0.2, 0.7 of smooth lenses, 0.4, 0.8, 0.9, 0.9 of others: above 0.75, 1/4 of these lost
    assert metrics.fewest_errors(HAND) == pytest.approx(1 / 8)


def test_headline_shows_the_middle_of_image_and_residual():
    """What the fit left lies below the part of the image that it was fitted to."""
    images = np.random.default_rng(0).uniform(0, 9, (2, 10, 10))
    band = pd.DataFrame({"fpr": [0, 1], "tpr": [0, 1], "tpr_low": [0, 1], "tpr_high": [0, 1]})
    for residuals in (np.full((2, 6, 6), 2.0), np.full((2, 14, 14), 2.0)):
        figure = final_test_plots.headline(images, ["no_sub", "cdm"], band, "one", residuals)
        size = min(10, residuals.shape[-1])
        shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]
        rim = (10 - size) // 2
        np.testing.assert_array_equal(shown[0], images[0][rim : 10 - rim, rim : 10 - rim])
        assert all((drawn == 2).all() and drawn.shape == (size, size) for drawn in shown[2:])
    alone = final_test_plots.headline(images, ["no_sub", "cdm"], band, "one")
    assert len([axes for axes in alone.axes if axes.images]) == 2
    plt.close("all")


def test_the_veil_lies_where_attention_is_least():
    images = np.random.default_rng(0).random((1, 12, 12)) + 0.5
    table = pd.DataFrame({"class": ["no_sub"], "kind": ["false alarm"], "p_true": [0.1]})
    attention = np.array([[[0.0, 1.0], [0.5, 0.25]]])
    bare, veiled = (
        final_test_plots.failures(images, table, *given).axes[0].images[0]
        for given in ((), (attention,))
    )
    colours, shown = bare.to_rgba(images[0])[..., :3], veiled.get_array()
    assert len(veiled.axes.images) == 1 and (shown[..., 3] == 1).all()
    corners = {(0, 0): 0.4, (0, 6): 1.0, (6, 0): 0.7, (6, 6): 0.55}
    for (y, x), left in corners.items():
        part = np.s_[y : y + 6, x : x + 6]
        np.testing.assert_allclose(shown[part][..., :3], left * colours[part])
    plt.close("all")
