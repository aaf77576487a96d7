"""What notebook 03 assembles: patches, attention, runs, curves, comparisons."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from studies.story import comparison, efficiency, model, runs
from vitdm.model.networks import new_network

SIDE = 32


@pytest.fixture
def network(settings):
    switches = {"spt": True, "lsa": True, "features": False}
    chosen = settings.model.model_copy(update=switches)
    torch.manual_seed(1)
    return new_network(chosen, SIDE, 3, 0).eval()


def test_brightest_patch():
    square = np.zeros((6, 6))
    square[4, 3] = 1
    assert model.brightest_patch(square, 2) == (2, 1)


def test_without_runs_of_both_ideas_the_network_is_untrained_and_always_the_same(settings):
    first, second = (model.network_with_both({}, settings, SIDE, 3) for _ in range(2))
    assert first.settings.spt and first.settings.lsa
    assert torch.equal(first.position, second.position)


def test_attention_of_the_first_block(network, settings):
    square = np.random.default_rng(0).normal(size=(SIDE, SIDE)).astype(np.float32)
    stack, values, tokens = model.shifted_tokens(network, square, (1, 2))
    p, n = settings.model.patch_size, (SIDE // settings.model.patch_size) ** 2
    assert stack.shape == (5, SIDE, SIDE) and values.shape == (5 * p**2,)
    assert torch.equal(stack[0], torch.from_numpy(square))
    assert tokens.shape == (1, n + 1, settings.model.embed_dim)
    similarity, plain, local = model.first_attention(network, tokens)
    d = settings.model.embed_dim / settings.model.num_heads
    assert torch.allclose(plain, (similarity / d**0.5).softmax(-1))
    assert torch.all(local.diagonal(dim1=1, dim2=2) == 0)  # masked by LSA
    assert np.allclose(model.temperatures(network), 1)  # untrained


def test_similarity_of_neighbours_and_others():
    place = np.stack(np.indices((3, 3)), -1).reshape(-1, 2)
    apart = np.abs(place[:, None] - place).sum(-1).reshape(3, 3, 3, 3)
    assert model.similarity_by_distance(np.where(apart == 1, 0.5, 0.0)) == (0.5, 0.0)


# --------------------------------------------------------------------------------------- runs


@pytest.fixture
def results(tmp_path):
    """Two seeds of the run plain; the second scores every lens as the first does not."""
    for seed in (0, 1):
        folder = tmp_path / "runs" / f"plain_seed{seed}"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"roc_auc": 0.5 + seed / 4}))
        (folder / "run.json").write_text(json.dumps({"training": {"seconds": 2 + seed}}))
        pd.DataFrame({"epoch": [0, 1]}).to_csv(folder / "history.csv", index=False)
        table = predictions([0.9, 0.8, 0.2, 0.1] if seed else [0.1, 0.2, 0.8, 0.9])
        table.to_csv(folder / "predictions.csv", index=False)
    return tmp_path


def predictions(p_no_sub):
    classes = ["no_sub", "no_sub", "cdm", "cdm"]
    table = pd.DataFrame({"id": ["01", "02", "03", "04"], "class": classes})
    return table.assign(label=[0, 0, 1, 1], p_no_sub=p_no_sub, p_cdm=1 - np.array(p_no_sub))


@pytest.fixture
def config(settings):
    return settings.model_copy(update={"run_seeds": 2})


def test_trainings_are_joined(config, results):
    trained = runs.trained_runs(config, results)
    assert list(trained["seed"]) == [0, 1] and list(trained["roc_auc"]) == [0.5, 0.75]
    assert set(trained["run"]) == {"plain"} and set(trained["label"]) == {"ViT"}
    assert list(trained["seconds"]) == [2, 3]
    assert len(runs.histories(config, results)) == 4


def test_predictions_keep_ids_and_differences_need_both_runs(config, results):
    first, second = runs.predictions_of("plain", config, results)
    assert list(first["id"]) == ["01", "02", "03", "04"]
    assert (runs.mean_auc([first]), runs.mean_auc([second])) == (0, 1)
    assert runs.mean_auc([first, second]) == 0.5
    pairs = {"same": ("plain", "plain"), "new": ("plain", "spt")}
    found = runs.differences(pairs, ["plain"], config, results)
    assert list(found) == ["same"] and found["same"].value == 0
    assert set(runs.difference_numbers("a", found["same"])) == {"a", "a_low", "a_high", "a_sd"}


def test_trees_and_networks_meet_in_the_middle_of_their_log_odds(results):
    (results / "selection").mkdir()
    trees = pd.DataFrame(
        {"id": ["04", "03", "02", "01"], "gradient_boosting": [0.4, 0.3, 0.2, 0.1]}
    )
    trees.to_csv(results / "selection" / "predictions.csv", index=False)
    network = [predictions([0.1, 0.2, 0.3, 0.6])]
    alone = runs.trees_as_tables(network, results)
    assert np.allclose(alone[0]["p_no_sub"], [0.9, 0.8, 0.7, 0.6])
    (together,) = runs.mean_of_log_odds(alone, network)
    assert np.allclose(together["p_no_sub"], [0.5, 0.5, 0.5, 0.6])


# ------------------------------------------------------------------------ curves, comparisons


@pytest.fixture
def curves():
    rows = [
        ("a", "a", "spt_lsa", 10, 0.6), ("a", "a", "spt_lsa", 10, 0.8),
        ("a", "b", "spt_lsa", 10, 0.5), ("a", "a", "spt_lsa", 20, 0.9),
        ("b", "b", "spt_lsa", 10, 0.7), ("b", "b", "fit_theta_E", 0, 0.5),
    ]  # fmt: skip
    columns = ["population", "scored_on", "model", "n_train", "roc_auc"]
    table = pd.DataFrame(rows, columns=columns)
    table["label"] = table["model"].replace({"spt_lsa": "ViT + SPT + LSA + x"})
    seconds = table["n_train"].where(table["n_train"] > 0).astype(float)
    return table.assign(macro_roc_auc=table["roc_auc"], seconds=seconds, n_scored=60)


def test_efficiency_is_of_the_models_own_population(curves):
    table = efficiency.efficiency_table(curves).set_index(["population", "model", "n_train"])
    row = table.loc["a", "spt_lsa", 10]
    assert row["roc_auc"] == pytest.approx(0.7) and row["seeds"] == 2
    assert row["roc_auc_sd"] == pytest.approx(0.1414, abs=1e-4)
    numbers = efficiency.efficiency_numbers(curves, table.reset_index())
    assert numbers["efficiency_a_spt_lsa_20_auc"] == 0.9
    assert numbers["efficiency_a_spt_lsa_10_seconds"] == 10
    assert "efficiency_b_fit_theta_E_0_seconds" not in numbers
    assert (numbers["efficiency_n_scored"], numbers["efficiency_seeds"]) == (60, 2)


def test_curves_have_several_sizes_where_any_has(curves):
    assert set(efficiency.with_several_sizes(curves)["population"]) == {"a"}
    single = curves[curves["n_train"] < 20]
    assert set(efficiency.with_several_sizes(single)["population"]) == {"a", "b"}
    assert efficiency.model_labels(curves)["spt_lsa"] == "ViT: image + x"


def test_curves_are_read_of_this_run_and_empty_without_any(settings, tmp_path, curves):
    found, other = efficiency.efficiency_curves(settings, tmp_path)
    assert found.empty and other is None
    folder = tmp_path / "efficiency" / "all"
    folder.mkdir(parents=True)
    curves.replace("b", "b_images").to_csv(folder / "efficiency.csv", index=False)
    chosen = settings.efficiency.model_copy(update={"curves": [None]})
    config = settings.model_copy(update={"efficiency": chosen})
    found, other = efficiency.efficiency_curves(config, tmp_path)
    assert set(found["population"]) == {"a", "b"} == set(found["scored_on"]) and other is None


def test_numbers_of_the_shortcut_leave_out_what_was_not_trained():
    row = {"model": "fit_theta_E", "n_train": 0, "roc_auc_here": 1.0, "roc_auc_there": 0.5}
    row |= {"roc_auc_learnt": np.nan} | dict.fromkeys(
        [f"macro_roc_auc_{kind}" for kind in ("here", "there", "learnt")], np.nan
    )
    assert efficiency.shortcut_numbers(pd.DataFrame([row])) == {
        "shortcut_n_train": 0,
        "shortcut_fit_theta_E_roc_auc_here": 1.0,
        "shortcut_fit_theta_E_roc_auc_there": 0.5,
    }


def test_comparison_has_means_and_differences_by_row():
    common = {"learning_rate": 0.1, "epochs": 2, "parameters": 9, "cpu_seconds": 1.0}
    rows = [("x", "X", "final", 0.8), ("x", "X", "final", 0.6), ("y", "Y", "final", 0.9)]
    trials = pd.DataFrame([*rows, ("y", "Y", "trial", 0.1)],
                          columns=["row", "label", "kind", "macro_roc_auc"])  # fmt: skip
    trials = trials.assign(roc_auc=trials["macro_roc_auc"], **common)
    found = {"row": "y", "against": "x", "score": "macro_roc_auc"}
    differences = pd.DataFrame([found | {"gain": 0.2, "low": 0.1, "high": 0.3}])
    table = comparison.comparison_table(trials, differences)
    assert list(table.index) == ["x", "y"] and table.loc["x", "macro_roc_auc"] == 0.7
    assert table.loc["y", "against"] == "X" and table.loc["y", "gain"] == 0.2
    numbers = comparison.comparison_numbers(table, differences)
    assert numbers["fair_y_macro_roc_auc_gain_low"] == 0.1 and numbers["fair_y_macro"] == 0.9


def test_comparison_is_that_of_this_run(settings, tmp_path):
    assert comparison.comparison_folder(settings, tmp_path) is None
    folder = tmp_path / "compare" / "all"
    folder.mkdir(parents=True)
    (folder / "comparison.csv").write_text("")
    assert comparison.comparison_folder(settings, tmp_path) is None  # not in the configuration
    chosen = settings.compare.model_copy(update={"rows": {"x": None}})
    config = settings.model_copy(update={"compare": chosen})
    assert comparison.comparison_folder(config, tmp_path) == folder
