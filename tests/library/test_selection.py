"""How good features are, which repeat one another, which are kept: against known answers."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.stats import norm

from studies import config as workflow
from vitdm import config
from vitdm.config import Selection
from vitdm.data import dataset
from vitdm.errors import InputError
from vitdm.evaluation import selection
from vitdm.evaluation.metrics import weighted_auc
from vitdm.evaluation.selection import (
    choose,
    clusters,
    correlations,
    p_value,
    rank,
)
from vitdm.features.selected import joined_features, read_selection

FAST = Selection(n_bootstrap=100, n_subsamples=10, n_repeats=5)


def two_gaussians(d, n, seed=0):
    labels = np.arange(n) % 2
    return np.random.default_rng(seed).normal(size=n) + d * labels, labels


# ------------------------------------------------------------------------------- statistics


def test_point_biserial_by_hand():
    """r = (M1 - M0) / s sqrt(n1 n0 / n²), s the s.d. of all with ddof 0."""
    values, labels = np.array([1.0, 2, 3, 6]), np.array([0, 0, 1, 1])
    expected = (4.5 - 1.5) / math.sqrt(3.5) * math.sqrt(2 * 2 / 4**2)
    ones = np.ones((1, 4))
    assert selection.weighted_pearson(labels, values, ones)[0] == pytest.approx(expected)
    assert expected == pytest.approx(stats.pointbiserialr(labels, values).statistic)


@pytest.mark.parametrize("whole_numbers", [False, True])
def test_weights_are_copies(whole_numbers):
    rng = np.random.default_rng(0)
    values, labels = rng.normal(size=60), rng.integers(0, 2, 60)
    values = values.round() if whole_numbers else values
    weights = rng.integers(0, 4, size=(5, 60)).astype(float)
    copies = [np.repeat(np.arange(60), row.astype(int)) for row in weights]
    for ours, theirs in (
        (selection.weighted_pearson, lambda y, x: stats.pearsonr(y, x).statistic),
        (selection.weighted_spearman, lambda y, x: stats.spearmanr(y, x).statistic),
    ):
        expected = [theirs(labels[rows], values[rows]) for rows in copies]
        np.testing.assert_allclose(ours(labels, values, weights), expected, atol=1e-12)


def test_a_constant_sample_has_no_correlation():
    for statistic in (selection.weighted_pearson, selection.weighted_spearman):
        assert statistic(np.array([0, 1]), np.array([3.0, 5.0]), np.array([[2.0, 0.0]])) == 0


def gaussian_information(d):
    """I(x; y) in nats of two Gaussians of distance d and equal numbers, integrated."""

    def density(x):
        return (norm.pdf(x) + norm.pdf(x - d)) / 2

    entropy = quad(lambda x: -density(x) * math.log(density(x)), -9, 9 + d)[0]
    return entropy - 0.5 * math.log(2 * math.pi * math.e)


def test_mutual_information_of_two_gaussians():
    expected = gaussian_information(1.5)
    values, labels = two_gaussians(1.5, 6000)
    assert selection.mutual_information(values, labels) == pytest.approx(expected, abs=0.02)
    assert selection.mutual_information(np.exp(3 * values), labels) == pytest.approx(
        expected, abs=0.02
    )
    low, high = selection.mutual_information_interval(values, labels, 40, 0)
    assert low < expected < high and high - low < 0.1
    assert selection.mutual_information(two_gaussians(0, 6000)[0], labels) < 0.015


def test_mutual_information_of_counts_and_of_absence():
    labels = np.arange(1000) % 2
    assert selection.mutual_information(3.0 * labels, labels) == pytest.approx(
        math.log(2) - 1 / 2000
    )
    gone = np.where(labels == 1, np.nan, np.random.default_rng(0).normal(size=1000))
    assert selection.mutual_information(gone, labels) == pytest.approx(math.log(2) - 1 / 2000)
    dice = np.random.default_rng(1).integers(1, 7, size=(300, 200)).astype(float)
    half = np.arange(200) % 2
    found = [selection._counted(row, half) for row in dice]
    assert np.mean(found) < 0.006 < 5 / 400  # what counts alone would give
    # missing at random: of the rest the information remains
    half = np.where(np.arange(1000) % 4 < 2, np.nan, 3.0 * labels)
    assert selection.mutual_information(half, labels) == pytest.approx(math.log(2) / 2, abs=1e-3)


def test_interval_of_the_information_covers_the_truth():
    expected, inside = gaussian_information(1.0), 0
    for seed in range(30):
        values, labels = two_gaussians(1.0, 600, seed)
        low, high = selection.mutual_information_interval(values, labels, 20, seed)
        inside += low <= expected <= high
    assert inside >= 24


def test_p_value_is_that_of_the_test_and_uniform_without_effect():
    values, labels = two_gaussians(0.3, 200)
    expected = stats.mannwhitneyu(values[labels == 0], values[labels == 1]).pvalue
    assert p_value(values, labels) == pytest.approx(expected)
    missing = values.copy()
    missing[(labels == 1) & (np.arange(200) < 60)] = np.nan
    counts = [[100, 70], [0, 30]]
    assert p_value(missing, labels) == pytest.approx(2 * stats.fisher_exact(counts).pvalue)
    assert p_value(np.full(200, 3.0), labels) == p_value(np.full(200, np.nan), labels) == 1
    found = [p_value(two_gaussians(0, 100, k)[0], np.arange(100) % 2) for k in range(200)]
    assert stats.kstest(found, "uniform").pvalue > 0.01


# ------------------------------------------------------------------------------ the ranking


def test_ranking_of_gaussians_of_known_auc():
    """AUC = Phi(d / sqrt 2); the direction is told apart; the worst is last."""
    rng = np.random.default_rng(1)
    labels = np.arange(3000) % 2
    distances = {"strong": 1.2, "down": -0.6, "noise": 0.0}
    table = pd.DataFrame({k: rng.normal(size=3000) + d * labels for k, d in distances.items()})
    table["constant"], table["empty"] = 1.0, np.nan
    found = rank(table, labels, {"strong": "proposal"}, FAST, 0).set_index("name")
    assert list(found.index[:3]) == ["strong", "down", "noise"]
    for name, d in distances.items():
        row = found.loc[name]
        assert row["roc_auc"] == pytest.approx(norm.cdf(abs(d) / 2**0.5), abs=0.025)
        assert row["roc_auc_low"] < row["roc_auc"] < row["roc_auc_high"]
        for key in ("point_biserial", "spearman"):
            assert np.sign(row[key]) == row["sign"]
            assert row[f"{key}_low"] < row[key] < row[f"{key}_high"]
    # r = d / sqrt(d² + 4) for two classes of equal size
    assert found["point_biserial"]["strong"] == pytest.approx(1.2 / (1.44 + 4) ** 0.5, abs=0.03)
    assert found["sign"].tolist()[:2] == [1, -1]
    assert found["significant"].tolist() == [True, True, False, False, False]
    assert found["group"]["strong"] == "proposal" and found["group"]["down"] == "other"
    assert found.loc[["constant", "empty"], "roc_auc"].isna().all()
    assert found["measured"]["empty"] == 0 and found["p"]["empty"] == 1
    assert found["roc_auc_low"]["noise"] < 0.5


def test_intervals_are_those_of_a_bootstrap_by_hand():
    values, labels = two_gaussians(0.5, 400)
    settings = Selection(n_bootstrap=2000, n_subsamples=2)
    row = rank(pd.DataFrame({"x": values}), labels, {}, settings, 0).iloc[0]
    rng = np.random.default_rng(5)
    sides = [np.flatnonzero(labels == side) for side in (0, 1)]
    draws = []
    for _ in range(600):
        rows = np.concatenate([rng.choice(side, len(side)) for side in sides])
        draws.append(stats.spearmanr(values[rows], labels[rows]).statistic)
    expected = np.quantile(draws, [0.025, 0.975])
    np.testing.assert_allclose(
        row[["spearman_low", "spearman_high"]].astype(float), expected, atol=0.02
    )


def test_benjamini_hochberg_by_hand(monkeypatch):
    """q_(i) = min over j >= i of p_(j) m / j: four tests, three of them significant at 0.05."""
    p = {"a": 0.001, "b": 0.03, "c": 0.035, "d": 0.8}
    values = iter(p.values())
    monkeypatch.setattr(selection, "p_value", lambda *_: next(values))
    table = pd.DataFrame({name: np.arange(40.0) for name in p})
    found = rank(table, np.arange(40) % 2, {}, FAST, 0).set_index("name").loc[list(p)]
    np.testing.assert_allclose(found["q"], [0.004, 0.14 / 3, 0.14 / 3, 0.8])
    assert found["significant"].tolist() == [True, True, True, False]


def test_of_noise_nothing_is_significant_in_most_seeds():
    labels = np.arange(400) % 2
    settings, false = Selection(n_bootstrap=10, n_subsamples=2), 0
    for seed in range(20):
        table = pd.DataFrame(np.random.default_rng(seed).normal(size=(400, 20))).add_prefix("x")
        false += rank(table, labels, {}, settings, seed)["significant"].any()
    assert false <= 4


# --------------------------------------------------------------------------- the redundancy


def test_a_copy_ends_in_the_same_cluster():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 300))
    table = pd.DataFrame({"a": a, "b": b, "minus_a": -np.exp(a), "near_a": a + 0.1 * b})
    table["sparse"] = np.where(np.arange(300) < 5, 1.0, np.nan)
    table["constant"] = 2.0
    matrix = correlations(table)
    assert sorted(matrix.index) == sorted(table) and list(matrix.index) == list(matrix)
    assert matrix.loc["a", "minus_a"] == pytest.approx(-1)
    assert np.isnan(matrix.loc["a", "sparse"]) and np.isnan(matrix.loc["a", "constant"])
    found = clusters(matrix, 0.9)
    assert found["a"] == found["minus_a"] == found["near_a"]
    assert len(set(found.values())) == 4
    assert [found[name] for name in matrix.index] == sorted(found.values())  # side by side
    exact = clusters(matrix, 1.0)
    assert exact["a"] == exact["minus_a"] != exact["near_a"]
    assert clusters(matrix.iloc[:1, :1], 0.9) == {matrix.index[0]: 1}


def test_all_of_a_cluster_are_correlated():
    """A chain of which the ends differ is cut: no cluster with a pair below the threshold."""
    rng = np.random.default_rng(3)
    walk = np.cumsum(rng.normal(size=(500, 12)), axis=1)
    matrix = correlations(pd.DataFrame(walk).add_prefix("x"))
    found = pd.Series(clusters(matrix, 0.8))
    for k in found.unique():
        members = found.index[found == k]
        assert matrix.loc[members, members].abs().to_numpy().min() >= 0.8
    assert 1 < found.nunique() < 12


# ------------------------------------------------------------------------------- the choice


def ranked(**rows):
    columns = ["cluster", "roc_auc", "q", "significant"]
    table = pd.DataFrame(rows.values(), columns=columns)
    table.insert(0, "name", list(rows))
    return table


def importances(*rows):
    return pd.DataFrame(rows, columns=["cluster", "importance", "sd"])


def test_one_of_each_useful_cluster_is_kept():
    ranking = ranked(
        a=(1, 0.9, 1e-9, True),
        copy=(1, 0.88, 1e-10, True),  # the smaller q stands for the cluster
        weak=(2, 0.52, 0.4, False),  # of use beside others
        noise=(3, 0.51, 0.6, False),
        gone=(4, np.nan, 1.0, False),
    )
    importance = importances((1, 0.0, 0.01), (2, 0.05, 0.01), (3, 0.015, 0.01), (4, 0.0, 0.0))
    assert choose(ranking, importance, 2.0) == ["copy", "weak"]
    assert choose(ranking, importance, 1.0) == ["copy", "weak", "noise"]


def test_the_choice_is_never_empty():
    ranking = ranked(a=(1, 0.52, 0.5, False), b=(2, 0.51, 0.7, False))
    assert choose(ranking, importances((1, -0.01, 0.01), (2, 0.001, 0.01)), 2.0) == ["b"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A data set of 400 images, and features: a clue, its copy, noise, and one of a later group."""
    folder = tmp_path_factory.mktemp("toy")
    rng = np.random.default_rng(0)
    splits = np.repeat(["train", "valid", "opt", "test"], [200, 80, 80, 40])
    kinds = np.array(["no_sub", "cdm"])[np.arange(400) % 2]
    ids = [f"{i:03d}" for i in range(400)]
    catalog = pd.DataFrame({"id": ids, "class": kinds, "split": splits, "source": "toy"})
    dataset.write(folder / "processed", np.zeros((400, 8, 8), np.float32), catalog, rule="toy")
    clue = rng.normal(size=400) + 1.5 * (kinds == "cdm")
    table = pd.DataFrame({"id": ids, "lensed_area": clue, "copy": 2 * clue, "dust": 0.0})
    table["dust"] = rng.normal(size=400)
    table.to_csv(folder / "features.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def settings():
    from conftest import SETTINGS

    return workflow.build(SETTINGS | {"selection": FAST.model_dump()})


def test_select_writes_what_the_next_stage_reads(toy, settings, tmp_path):
    out = tmp_path / "selection"
    found = selection.select(toy / "processed", toy / "features.csv", settings, out)
    assert {path.name for path in out.iterdir()} == set(selection.FILES)
    assert read_selection(out / "selection.json") == found["features"]
    assert found["features"][0] in ("lensed_area", "copy") and len(found["features"]) <= 2
    assert found["rule"] == selection.RULE and found["splits"] == ["train", "valid"]
    ranking = pd.read_csv(out / "ranking.csv").set_index("name")
    assert ranking["cluster"]["lensed_area"] == ranking["cluster"]["copy"]
    assert ranking["kept"].sum() == len(found["features"])
    assert ranking["group"]["lensed_area"] == "proposal" and ranking["group"]["dust"] == "other"
    scores = pd.read_csv(out / "scores.csv")
    assert set(scores["features"]) == {"proposal", "other", "selected", "all"}
    whole = scores[scores["features"] == "all"]
    assert (whole["roc_auc"] > 0.75).all() and (whole["n_scored"] == 80).all()
    predictions = pd.read_csv(out / "predictions.csv", dtype={"id": str})
    catalog = dataset.Dataset.open(toy / "processed").catalog
    assert predictions["id"].tolist() == catalog["id"][catalog["split"] == "opt"].tolist()
    truth = (predictions["class"] == "cdm").to_numpy().astype(int)
    auc = weighted_auc(truth, predictions["gradient_boosting"].to_numpy(), np.ones((1, 80)))[0]
    expected = whole.set_index("model")["roc_auc"]["gradient boosting"]
    assert auc == pytest.approx(expected, abs=1e-9)
    importance = pd.read_csv(out / "importance.csv")
    assert len(importance) == 2 * 2 and importance["importance"].max() > 0.2
    sidecar = json.loads((out / "select.json").read_text())
    assert sidecar["rule"] == "select" and len(sidecar["inputs"]) == 2


def test_neither_opt_nor_test_moves_the_choice(toy, settings, tmp_path):
    splits = dataset.Dataset.open(toy / "processed").catalog["split"]
    table = dataset.read_catalog(toy / "features.csv")
    columns = ["lensed_area", "copy", "dust"]
    for split, value in (("test", np.nan), ("opt", 3.0)):
        table.loc[splits == split, columns] = value
    table.to_csv(tmp_path / "spoilt.csv", index=False)
    for name, path in (("clean", toy / "features.csv"), ("spoilt", tmp_path / "spoilt.csv")):
        selection.select(toy / "processed", path, settings, tmp_path / name)
    for name in ("ranking.csv", "correlation.csv", "importance.csv", "selection.json"):
        clean = (tmp_path / "clean" / name).read_text()
        assert clean == (tmp_path / "spoilt" / name).read_text(), name


def test_a_data_set_without_splits_is_ranked_only(toy, settings, tmp_path):
    data = dataset.Dataset.open(toy / "processed")
    catalog = data.catalog.assign(split="train")
    dataset.write(tmp_path / "data", np.asarray(data.images), catalog, rule="toy")
    arguments = (tmp_path / "data", toy / "features.csv", settings, tmp_path / "out")
    with pytest.raises(InputError, match="split 'valid': found no images only"):
        selection.select(*arguments)
    assert not (tmp_path / "out").exists()
    assert selection.select(*arguments, ranking_only=True) is None
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"ranking.csv", "select.json"}
    assert len(pd.read_csv(tmp_path / "out" / "ranking.csv")) == 3


def test_a_table_without_features_is_refused(toy, settings, tmp_path):
    dataset.read_catalog(toy / "features.csv")[["id"]].to_csv(tmp_path / "f.csv", index=False)
    with pytest.raises(InputError, match=r"f\.csv: found no features"):
        selection.select(toy / "processed", tmp_path / "f.csv", settings, tmp_path / "out")


# --------------------------------------------------------------------- for the next stage


def test_which_features_join_the_image(settings, tmp_path):
    path = tmp_path / "selection.json"
    path.write_text('{"features": ["gini", "dust"]}')

    def joined(**model):
        return joined_features(config.Model(**model), settings.features, path)

    assert joined() is None and joined(features=True, feature_set="all") is None
    assert joined(features=True) == ["gini", "dust"]
    proposal = joined(features=True, feature_set="proposal")
    assert "lensed_area" in proposal and "dust" not in proposal
    with pytest.raises(InputError, match="found no selection; expected --selection"):
        joined_features(config.Model(features=True), settings.features, None)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"features": []}', '{"features": [1]}'])
def test_what_is_no_selection_is_refused(tmp_path, content):
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(InputError, match=r"s\.json: "):
        read_selection(tmp_path / "s.json")
    with pytest.raises(InputError, match=r"none\.json: found no selection"):
        read_selection(tmp_path / "none.json")
