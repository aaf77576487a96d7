"""The search of hyperparameters on an analytic objective with a known peak."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import SETTINGS
from skopt import space as skopt_space

from vitdm import config, tune
from vitdm.config import InputError
from vitdm.train import Diverged

SPACE = {
    "learning_rate": {"type": "real", "low": 1e-5, "high": 1e-1, "log": True},
    "embed_dim": {"type": "categorical", "choices": [12, 16, 20]},
    "num_heads": {"type": "categorical", "choices": [2, 3, 4]},
    "pool": {"type": "categorical", "choices": ["cls", "mean"]},
    "depth": {"type": "integer", "low": 1, "high": 4},
}


def searching(space=SPACE, n_calls=14, **changes):
    search = {"n_calls": n_calls, "n_initial_points": 6, "n_train": 9, "epochs": 3, "space": space}
    content = SETTINGS | {"tune": search} | changes
    content["model"] = {"feature_set": "all"} | content["model"]
    content["train"] = SETTINGS["train"] | {"learning_rate": 2e-5}
    return config.build(content)


def auc_of(rate):
    """Peak of 0.99 at 1e-3, 0.9 a factor of ten away."""
    return 1 - 10 ** (-2 + (math.log10(rate) + 3) ** 2)


def fake_fit(calls):
    def fit(processed, features_csv, settings, model, train, **options):
        calls.append(SimpleNamespace(model=model, train=train, **options))
        if train.learning_rate > 2e-2:
            raise Diverged(f"the loss became nan at learning rate {train.learning_rate:.3g}")
        auc = max(auc_of(train.learning_rate), 0.5)
        return {"roc_auc": auc, "valid_roc_auc": auc - 0.01, "epochs": 3}

    return fit


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """A finished search: its folder, settings, what it returned and what it asked of ``fit``."""
    folder, calls = tmp_path_factory.mktemp("tune"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune, "fit", fake_fit(calls))
        result = tune.tune("processed", "f.csv", searching(), folder, progress=False)
    return SimpleNamespace(folder=folder, settings=searching(), result=result, calls=calls)


def test_the_peak_is_found(search):
    found = search.result["params"]["learning_rate"]
    assert abs(math.log10(found) + 3) < 0.4 and search.result["roc_auc"] > 0.98
    assert search.result["start_roc_auc"] == 0.5


def test_first_trial_is_the_configuration(search):
    start = {"learning_rate": 2e-5, "embed_dim": 16, "num_heads": 2, "pool": "cls", "depth": 1}
    assert search.result["start"] == start
    first = pd.read_csv(search.folder / "trials.csv").iloc[0]
    assert first[list(start)].to_dict() == start


def test_trials_join_the_features_of_their_set(tmp_path, monkeypatch):
    calls, path = [], tmp_path / "selection.json"
    path.write_text('{"features": ["gini"]}')
    monkeypatch.setattr(tune, "fit", fake_fit(calls))
    monkeypatch.setattr(tune, "inputs_of", lambda *_: [])
    space = {"feature_set": {"type": "categorical", "choices": ["all", "selected", "proposal"]}}
    settings = searching(SPACE | space)
    tune.tune("processed", "f.csv", settings, tmp_path / "out", progress=False, selection=path)
    found = {call.model.feature_set: call.feature_names for call in calls}
    assert len(found) == 3 and found["all"] is None and found["selected"] == ["gini"]
    assert "lensed_area" in found["proposal"] and "gini" not in found["proposal"]
    sidecar = json.loads((tmp_path / "out" / "tune.json").read_text())
    assert [name for name in sidecar["inputs"] if name.endswith("selection.json")]


def test_trials_train_as_configured(search):
    assert len(search.calls) == 14
    for number, call in enumerate(search.calls):
        assert call.train_splits == ("train",) and call.valid_split == "valid"
        assert call.score_split == "opt" and call.n_train == 9 and call.train.epochs == 3
        assert call.seed == search.settings.seed + number
        assert call.train.batch_size == 8 and call.model.patch_size == 8  # the rest is untouched


def test_heads_divide_the_width_in_every_trial(search):
    pairs = {(call.model.embed_dim, call.model.num_heads) for call in search.calls}
    assert len(pairs) > 3 and all(width % heads == 0 for width, heads in pairs)
    assert {call.model.depth for call in search.calls} <= {1, 2, 3, 4}


def test_trials_table_and_best(search):
    table = pd.read_csv(search.folder / "trials.csv")
    columns = ["call", *SPACE, "roc_auc", "valid_roc_auc", "epochs", "status", "error", "seed"]
    assert list(table) == [*columns, "seconds"]
    assert table["call"].tolist() == list(range(14))
    asked = [call.train.learning_rate for call in search.calls]
    np.testing.assert_allclose(table["learning_rate"], asked, rtol=1e-12)
    failed = table["learning_rate"] > 2e-2
    expected = [max(auc_of(rate), 0.5) for rate in table["learning_rate"].mask(failed, 1)]
    np.testing.assert_allclose(table["roc_auc"], expected)
    best = json.loads((search.folder / "best.json").read_text())
    row = table.loc[table["roc_auc"].idxmax()]
    assert best["params"] == {name: row[name] for name in SPACE} == tune.best_params(search.folder)
    assert best["roc_auc"] == row["roc_auc"] and best == search.result
    assert type(best["params"]["depth"]) is int
    model, train = tune.with_params(search.settings, best["params"], epochs=11)
    assert (train.learning_rate, train.epochs) == (row["learning_rate"], 11)
    assert model.embed_dim == row["embed_dim"]


def test_a_diverged_trial_counts_as_chance_and_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "fit", fake_fit([]))
    space = {"learning_rate": {"type": "real", "low": 1e-5, "high": 0.9, "log": True}}
    settings = searching(space, n_calls=8)
    result = tune.tune("processed", None, settings, tmp_path, progress=False)
    table = pd.read_csv(tmp_path / "trials.csv")
    failed = table["learning_rate"] > 2e-2
    assert 0 < failed.sum() == result["failed"] < 8
    assert (table["status"] == np.where(failed, "failed", "ok")).all()
    assert (table.loc[failed, "roc_auc"] == 0.5).all()
    assert table.loc[failed, "error"].str.startswith("the loss became nan").all()
    assert table.loc[~failed, "error"].isna().all()
    assert len(tune.load_result(tmp_path, settings).func_vals) == 8


def test_the_best_may_be_the_first(tmp_path, monkeypatch):
    aucs = iter(np.linspace(0.9, 0.6, 7))
    outcome = {"valid_roc_auc": 0.7, "epochs": 1}
    monkeypatch.setattr(tune, "fit", lambda *_, **__: outcome | {"roc_auc": next(aucs)})
    result = tune.tune("processed", None, searching(n_calls=7), tmp_path, progress=False)
    assert result["params"] == result["start"] and result["roc_auc"] == 0.9
    assert result["start_roc_auc"] == 0.9 and result["failed"] == 0


def test_the_seed_repeats_the_search(search, tmp_path, monkeypatch):
    def points(**changes):
        monkeypatch.setattr(tune, "fit", fake_fit([]))
        tune.tune("processed", None, searching(n_calls=8, **changes), tmp_path, progress=False)
        return pd.read_csv(tmp_path / "trials.csv")[list(SPACE)]

    first = pd.read_csv(search.folder / "trials.csv")[list(SPACE)][:8]
    pd.testing.assert_frame_equal(points(), first)  # six drawn, two from the Gaussian process
    assert not points(seed=8).equals(first)


def test_other_errors_of_a_trial_are_not_swallowed(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(tune, "fit", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        tune.tune("processed", None, searching(), tmp_path, progress=False)
    assert not (tmp_path / "best.json").exists()


def test_load_result_has_all_points_and_a_model(search):
    result = tune.load_result(search.folder, search.settings)
    table = pd.read_csv(search.folder / "trials.csv")
    assert result.x_iters == table[list(SPACE)].to_numpy(object).tolist()
    np.testing.assert_allclose(result.func_vals, np.log10(1 - table["roc_auc"]))
    assert [dimension.name for dimension in result.space.dimensions] == list(SPACE)
    assert result.x == [search.result["params"][name] for name in SPACE]
    # the Gaussian process knows the peak from its foot
    rates = [1e-5, 1e-3, 1e-1]
    points = [[rate, 16, 2, "cls", 2] for rate in rates]
    low, peak, high = result.models[-1].predict(result.space.transform(points))
    assert peak < low - 0.3 and peak < high - 0.3


def test_dimensions():
    space = searching(SPACE).tune.space
    real, width, _, pool, depth = tune.skopt_dimensions(space)
    assert (real.low, real.high, real.prior) == (1e-5, 1e-1, "log-uniform")
    assert (depth.low, depth.high) == (1, 4) and isinstance(depth, skopt_space.Integer)
    assert width.categories == tuple(SPACE["embed_dim"]["choices"])
    assert pool.categories == tuple(SPACE["pool"]["choices"])


def test_objective_still_tells_good_models_apart():
    assert tune.objective_value(0.99) == pytest.approx(-2)
    assert tune.objective_value(0.9) - tune.objective_value(0.99) == pytest.approx(1)
    assert np.isfinite(tune.objective_value(1.0))


def test_a_refused_search_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="a feature table is needed|no dataset"):
        tune.tune(tmp_path / "gone", None, searching(), tmp_path / "out", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_parameters_that_do_not_go_together():
    with pytest.raises(ValueError, match="embed_dim = 16 .* num_heads = 3"):
        tune.with_params(searching(), {"num_heads": 3})
    with pytest.raises(ValueError, match="patch_size = 5 .* = 32"):
        tune.with_params(searching(), {"patch_size": 5})


def test_no_finished_search(tmp_path):
    with pytest.raises(InputError, match="best.json: no such file"):
        tune.best_params(tmp_path)
    with pytest.raises(InputError, match="no finished search; expected best.json"):
        tune.load_result(tmp_path, searching())
    for content in ("{", "[]", "{}", '{"params": 3}'):
        (tmp_path / "best.json").write_text(content)
        with pytest.raises(InputError, match=r"best\.json: found no parameters"):
            tune.best_params(tmp_path)
