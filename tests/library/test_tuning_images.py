"""A search from Python on images in memory, and on a folder."""

import contextlib
import subprocess
import sys
import warnings

import distributed
import numpy as np
import pandas as pd
import pytest
import skopt
import skopt.callbacks
import yaml
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score
from skopt import space as skopt_space

import vitdm
from studies import config as workflow
from vitdm.__main__ import main
from vitdm.config import Settings
from vitdm.data.dataset import Dataset
from vitdm.errors import InputError
from vitdm.model.inputs import NO_TABLES
from vitdm.tuning.objective import METRICS, OnDataset, attempt, chance
from vitdm.tuning.tuner import tune

TINY = {
    "preprocess": {"size": 32},
    "model": {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
    "train": {"epochs": 2, "batch_size": 16},
}
SEARCH = {"n_calls": 7, "start_seeds": 2, "n_initial_points": 3, "candidates": 1}
SEARCH |= {"candidate_seeds": 2, "hopeless": 0, "progress": False}


@pytest.fixture(scope="module")
def rings():
    """Broad and narrow rings of noise, a task that a network learns at once."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:40, :40] - 19.5
    labels = np.repeat(["no_sub", "cdm"], 60)
    width = np.where(labels == "cdm", 4.0, 1.5)
    images = np.exp(-(((np.hypot(x, y) - 11) / width[:, None, None]) ** 2) / 2)
    return images + generator.normal(0, 0.05, images.shape), labels


@pytest.fixture(scope="module")
def result(rings):
    space = [
        skopt_space.Real(1e-4, 1e-2, prior="log-uniform", name="learning_rate"),
        skopt_space.Categorical(["arcsinh", "linear"], name="stretch"),
        skopt_space.Integer(1, 2, name="depth"),
    ]
    return vitdm.tune(*rings, space, classifier=vitdm.ViTClassifier(**TINY), **SEARCH)


def test_the_result_is_that_of_scikit_optimize(result):
    assert [dimension.name for dimension in result.space] == ["learning_rate", "stretch", "depth"]
    assert len(result.x_iters) == 7 and result.fun == result.func_vals.min()
    assert result.x_iters[0] == result.x_iters[1] == [1e-3, "arcsinh", 1]
    scores = result.trials.query("stage != 'again'")["score"]
    np.testing.assert_allclose(result.func_vals, np.log10(np.maximum(1 - scores, 1e-6)))
    skopt.utils.expected_minimum_random_sampling(result, 20, random_state=0)


def test_best_params_make_a_classifier(result, rings):
    model = vitdm.ViTClassifier(**result.best_params).set_params(random_state=0)
    chosen = result.best["params"]
    assert model.get_params()["train__learning_rate"] == chosen["learning_rate"]
    assert model.get_params()["preprocess__stretch"] == chosen["stretch"]
    assert model.get_params()["model__depth"] == chosen["depth"]
    assert model.get_params()["model__embed_dim"] == 16 and model.train["epochs"] == 2
    images, labels = rings
    fitted = model.set_params(train__epochs=4).fit(images[::2], labels[::2])
    assert (fitted.predict(images[1::2]) == labels[1::2]).mean() > 0.8


def test_a_trial_scores_what_it_has_not_seen(rings):
    from vitdm import classifier_search as module

    images, labels = rings
    rows = module._rows(labels, 0.2, 0.3, 0)
    assert sorted(np.concatenate(list(rows.values()))) == list(range(120))
    assert {name: len(found) for name, found in rows.items()} == {
        "train": 60,
        "valid": 24,
        "opt": 36,
    }
    for found in rows.values():
        assert (labels[found] == "cdm").mean() == 0.5
    shuffled = labels.copy()
    shuffled[rows["opt"]] = np.random.default_rng(1).permutation(labels[rows["opt"]])
    objective = module.OnImages(
        vitdm.ViTClassifier(**TINY), images, shuffled, rows, "roc_auc", epochs=4
    )
    trial = attempt(objective, {"learning_rate": 3e-3}, 0, ())
    assert trial.status == "ok" and trial.epochs == 4
    assert trial.valid_roc_auc > 0.95 and trial.score < 0.8  # those labels cannot be learnt
    objective.prepare({"stretch": "linear"})
    assert len(objective._prepared) == 2  # each kind of processing once


def test_features_join_the_images_of_trials(rings):
    images, labels = rings
    rows = {"train": np.arange(0, 120, 2), "valid": np.arange(1, 120, 4)}
    rows["opt"] = np.arange(3, 120, 4)
    from vitdm.classifier_search import OnImages

    classifier = vitdm.ViTClassifier(True, **TINY)
    objective = OnImages(classifier, images, labels, rows, "balanced_accuracy", epochs=1)
    learnt, _ = objective.train({"depth": 2, "num_heads": 4}, 0, lambda curve: False)
    assert learnt.model.num_features > 20 and len(learnt.model.blocks) == 2
    assert objective.chance == 0.5 and len(learnt.history) == 1


def test_wrong_input_is_refused_before_the_first_trial(rings):
    images, labels = rings
    space = {"learning_rate": {"type": "real", "low": 1e-4, "high": 1e-2, "log": True}}
    for arguments, message in (
        ((images, labels[:-1], space), r"labels: found shape \(119,\)"),
        ((images, labels, {"lr": space["learning_rate"]}), r"tune\.space\.lr: unknown key"),
        ((images[:59], labels[:59], space), "found 'no_sub' only; expected at least two"),
    ):
        with pytest.raises(InputError, match=message):
            vitdm.tune(*arguments, **SEARCH)
    with pytest.raises(InputError, match="valid_fraction, opt_fraction: found 0.2, 0.001"):
        vitdm.tune(images, labels, space, opt_fraction=0.001, **SEARCH)
    with pytest.raises(InputError, match=r"tune\.n_cals: unknown key"):
        vitdm.tune(images, labels, space, n_cals=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_calls": -3}, r"tune\.n_calls: .*greater than or equal to 2, found -3"),
        ({"parallel": 0}, r"tune\.parallel: .*greater than or equal to 1, found 0"),
        ({"random_state": -1}, "seed: .*greater than or equal to 0, found -1"),
        ({"random_state": "one"}, "random_state: 'one' cannot be used to seed"),
        ({"opt_fraction": float("nan")}, "valid_fraction, opt_fraction: found 0.2, nan of 120"),
        ({"opt_fraction": float("inf")}, "valid_fraction, opt_fraction: found 0.2, inf of 120"),
        ({"opt_fraction": -0.2}, "valid_fraction, opt_fraction: found 0.2, -0.2 of 120"),
        ({"valid_fraction": "half"}, "valid_fraction, opt_fraction: found half, 0.2 of 120"),
        ({"valid_fraction": None}, "valid_fraction, opt_fraction: found None, 0.2 of 120"),
        ({"classifier": 3}, "classifier: found 3; expected a ViTClassifier"),
        ({"space": 3}, "space: found 3; expected a list of dimensions or a dictionary"),
        ({"space": None}, "space: found None; expected a list of dimensions"),
        ({"space": "depth"}, "space: found 'depth'; expected a list of dimensions"),
        ({"backend": 3}, "backend: found 3; expected one of: loky"),
        ({"callback": "stop"}, "callback: found 'stop'; expected one callable, or a list"),
    ],
)
def test_wrong_arguments_are_refused_before_the_first_trial(rings, changes, message):
    space = {"depth": {"type": "integer", "low": 1, "high": 2}}
    arguments = {"space": space, "classifier": vitdm.ViTClassifier(**TINY)} | SEARCH | changes
    with pytest.raises(InputError, match=message):
        vitdm.tune(*rings, **arguments)


def test_two_points_and_twenty_calls(rings, capfd):
    """Each is tried once, and neither the bar nor the warnings tell of repetitions."""
    space = [skopt_space.Categorical(["arcsinh", "linear"], name="stretch")]
    chosen = SEARCH | {"n_calls": 20, "start_seeds": 1, "progress": True}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = vitdm.tune(*rings, space, classifier=vitdm.ViTClassifier(**TINY), **chosen)
    assert found.x_iters == [["arcsinh"], ["linear"]]
    message = "all 2 points of the space were tried (2 of 20 calls)"
    assert found.message == found.best["message"] == message
    shown = capfd.readouterr().err
    assert f"tune: {message}" in shown and "evaluated" not in shown
    assert "100%" in shown  # of the two and what follows, not of twenty


def test_a_callback_hears_of_each_trial_and_ends_the_search(rings):
    best = []

    def callback(so_far):
        best.append(so_far.fun)
        return len(so_far.x_iters) == 4

    space = {"learning_rate": {"type": "real", "low": 1e-4, "high": 1e-2, "log": True}}
    observations = [vitdm.Observation(image) for image in rings[0]]
    timer = skopt.callbacks.TimerCallback()
    found = vitdm.tune(
        observations,
        rings[1],
        space,
        classifier=vitdm.ViTClassifier(**TINY),
        callback=[timer, callback],
        random_state=np.random.default_rng(0),
        **SEARCH,
    )
    assert len(found.x_iters) == len(best) == len(timer.iter_time) == 4
    assert best == np.minimum.accumulate(found.func_vals).tolist()
    assert found.message == "a callback ended the search (4 of 7 calls)"
    assert found.best_params["train"]["learning_rate"] == found.best["params"]["learning_rate"]


def test_metrics_are_those_of_scikit_learn():
    generator = np.random.default_rng(2)
    labels = generator.integers(3, size=200)
    found = generator.dirichlet([1, 1, 1], size=200)
    found[np.arange(200), labels] += 0.4
    found /= found.sum(axis=1, keepdims=True)
    assert METRICS["macro_roc_auc"](labels, found) == pytest.approx(
        roc_auc_score(labels, found, multi_class="ovr")
    )
    score = found[:, 1] + found[:, 2]
    assert METRICS["roc_auc"](labels, found) == pytest.approx(roc_auc_score(labels > 0, score))
    assert METRICS["average_precision"](labels, found) == pytest.approx(
        average_precision_score(labels > 0, score)
    )
    assert METRICS["balanced_accuracy"](labels, found) == balanced_accuracy_score(
        labels, found.argmax(axis=1)
    )
    assert chance("roc_auc", labels) == chance("macro_roc_auc", labels) == 0.5
    assert chance("average_precision", labels) == pytest.approx((labels > 0).mean())
    assert chance("balanced_accuracy", labels) == pytest.approx(1 / 3)


@pytest.fixture(scope="module")
def folder(lenses, settings, tmp_path_factory):
    from vitdm.preprocess import process_dataset

    out = tmp_path_factory.mktemp("folder") / "processed"
    process_dataset(lenses, out, settings.preprocess)
    return out


def searching(settings, **tune):
    content = settings.model_dump()
    content["model"] |= {"features": False}
    content["tune"] |= {"n_calls": 5, "n_initial_points": 2, "hopeless": 0} | tune
    return workflow.build(content)


def test_a_search_may_vary_the_processing_of_a_folder(folder, lenses, settings, tmp_path):
    space = {"stretch": {"type": "categorical", "choices": ["arcsinh", "linear"]}}
    chosen = searching(settings, space=space, x0=[{"stretch": "linear"}])
    with pytest.raises(InputError, match=r"keys of preprocess .* expected --dataset"):
        tune(folder, None, chosen, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
    out = tmp_path / "out"
    best = tune(folder, None, chosen, out, dataset=lenses, progress=False)
    trials = pd.read_csv(out / "trials.csv")
    assert set(trials["stretch"]) == {"arcsinh", "linear"} and (trials["status"] == "ok").all()
    (made,) = (out / "processed").iterdir()
    here, there = (Dataset.open(path).images[0] for path in (folder, made))
    assert np.abs(here - there).max() > 0.1
    assert best["params"]["stretch"] in ("arcsinh", "linear")


@pytest.fixture
def scheduler(tmp_path):
    """The address of a Dask scheduler with two workers, each a process of its own."""
    at = ["--scheduler-file", str(tmp_path / "scheduler.json"), "--no-dashboard"]
    worker = ["worker", *at, "--no-nanny", "--nthreads", "1"]
    with contextlib.ExitStack() as processes:
        for command in (["scheduler", *at, "--port", "0"], worker, worker):
            process = subprocess.Popen([sys.executable, "-m", "dask", *command])
            processes.enter_context(process)  # waits for its end
            processes.callback(process.terminate)
        with distributed.Client(scheduler_file=at[1]) as client:
            client.wait_for_workers(2)
            yield client.scheduler.address


def test_trials_do_not_depend_on_where_they_run(folder, settings, scheduler, tmp_path):
    chosen = searching(settings, n_initial_points=3, candidate_seeds=2).model_dump(mode="json")
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump({key: chosen[key] for key in Settings.model_fields}))
    tables = []
    for name, backend in (("here", "loky"), ("there", f"dask={scheduler}")):
        command = f"tune {folder} --config {file} --parallel 2 --backend {backend}"
        assert main([*command.split(), "--out", str(tmp_path / name)]) == 0
        table = pd.read_csv(tmp_path / name / "trials.csv")
        tables.append(table.drop(columns=["seconds", "cpu_seconds"]))
    assert (tables[0]["status"] == "ok").all()
    pd.testing.assert_frame_equal(*tables)
    with distributed.Client(scheduler) as client:  # both have trained
        trained = client.run(lambda: "vitdm.model.training" in sys.modules)
    assert list(trained.values()) == [True, True]


def test_a_trial_trains_as_configured(folder, settings):
    chosen = searching(settings, fixed={"dropout": 0.25}, epochs=2, n_train=9)
    objective = OnDataset(chosen, folder, NO_TABLES, folder)
    seen = []

    def watch(curve):
        seen.append(len(curve))
        return False

    learnt, score = objective.train({"learning_rate": 3e-3}, 4, watch)
    assert learnt.model.settings.dropout == 0.25 and seen == [1, 2]
    assert learnt.history["learning_rate"].max() <= 3e-3 and 0 <= score <= 1
    again, repeated = objective.train({"learning_rate": 3e-3}, 4, lambda curve: True)
    assert len(again.history) == 1
    data = Dataset.open(folder)
    labels, _ = data.labels("multiclass")
    assert objective.chance == 0.5 and len(data.rows("opt")) == 8
