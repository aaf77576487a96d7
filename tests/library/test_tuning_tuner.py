"""A whole search on an analytic objective: its log, its choice, its end."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_tuning_space import SPACE, searching

from vitdm.config import Tune
from vitdm.errors import InputError
from vitdm.model.training import Diverged
from vitdm.tuning import search
from vitdm.tuning.finished import load_best, load_trials
from vitdm.tuning.result import load_result
from vitdm.tuning.trials import Log, Trial, hopeless, limits, replay, value_of
from vitdm.tuning.tuner import Tuner

SMALL = {"learning_rate": SPACE["learning_rate"], "embed_dim": SPACE["embed_dim"]}


@dataclass
class Peak:
    """Peak of 0.99 at 1e-3 and width 16, with noise of 0.02 in log10(1 - AUC), that slow it."""

    folder: Path
    sd: float = 0.02
    diverges: float = 5e-2
    crashes: float = math.inf
    sleep: float = 0.0
    chance: float = 0.5
    epochs: int = 3

    def prepare(self, params):
        pass

    def train(self, params, seed, watch):
        with open(self.folder / "trained.txt", "a") as file:
            file.write(json.dumps([params, seed]) + "\n")
        time.sleep(self.sleep)
        rate = params["learning_rate"]
        if rate > self.crashes:
            raise MemoryError("no memory\nleft")
        if rate > self.diverges:
            raise Diverged("the loss became nan")
        value = -2 + 0.5 * (math.log10(rate) + 3) ** 2 + 0.1 * (params.get("embed_dim", 16) != 16)
        value += self.sd * np.random.default_rng(seed).normal()
        score, curve = max(1 - 10**value, 0.5), []
        for share in (0.8, 0.9, 1.0):
            curve.append(0.5 + share * (score - 0.5))
            if watch(curve):
                break
        history = pd.DataFrame({"valid_roc_auc": curve})
        return SimpleNamespace(history=history, cpu_seconds=1.0 * len(curve)), curve[-1]

    @property
    def trained(self):
        path = self.folder / "trained.txt"
        return path.read_text().splitlines() if path.exists() else []


def run(folder, space=SMALL, objective=None, backend="threading", **tune):
    tune = {"n_calls": 14, "candidate_seeds": 2, "acquisition": "EI", "patience": 1} | tune
    settings = searching(space, **tune)
    objective = objective or Peak(folder)
    folder.mkdir(exist_ok=True)
    tuner = Tuner(objective, settings, folder, {}, backend, progress=False)
    return tuner, tuner.run()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    tuner, best = run(folder)
    return SimpleNamespace(folder=folder, tuner=tuner, best=best, trials=load_trials(folder))


def test_the_peak_is_found(done):
    assert abs(math.log10(done.best["params"]["learning_rate"]) + 3) < 0.4
    assert done.best["params"]["embed_dim"] == 16
    assert done.best == load_best(done.folder)


def test_the_table_tells_all_trials(done):
    assert list(done.trials)[:2] == ["call", "stage"] and set(SMALL) < set(done.trials)
    stages = done.trials["stage"].tolist()
    assert stages == ["start"] * 2 + ["design"] * 4 + ["process"] * 8 + ["again"] * 8
    assert done.trials["call"].tolist() == list(range(22))
    assert done.trials["seed"].nunique() == 14 + 2  # the same fresh seeds for all candidates
    assert len(Peak(done.folder).trained) == 22


def test_the_start_measures_the_noise(done):
    values = [value_of(score) for score in done.trials["score"][:2]]
    assert done.best["noise_sd"] == pytest.approx(np.std(values, ddof=1))
    assert done.best["start_scores"] == done.trials["score"][:2].tolist()
    assert done.trials["learning_rate"][:2].tolist() == [2e-5, 2e-5]
    model = done.tuner.result().models[-1]
    assert model.noise_ * np.var(done.tuner.result().func_vals) == pytest.approx(
        max(done.best["noise_sd"] ** 2, 1e-10)
    )


def test_the_noise_may_be_given_or_fitted(tmp_path):
    assert run(tmp_path / "given", noise=0.3)[1]["noise_sd"] == 0.3
    assert run(tmp_path / "fitted", start_seeds=1)[1]["noise_sd"] is None


def test_the_choice_is_by_the_mean_of_fresh_scores_minus_its_error(tmp_path):
    # noise as large as all differences: the best of many trials is too good
    tuner, best = run(tmp_path, objective=Peak(tmp_path, sd=0.3), n_calls=16, candidate_seeds=3)
    fresh = load_trials(tmp_path).query("stage == 'again'")
    assert len(best["candidates"]) == 4 and best["candidates"][0]["params"] == best["start"]
    bounds = []
    for entry in best["candidates"]:
        scores = fresh[fresh["learning_rate"] == entry["params"]["learning_rate"]]["score"]
        assert entry["scores"] == scores.tolist() and entry["mean"] == pytest.approx(scores.mean())
        assert entry["error"] == pytest.approx(scores.std() / 3**0.5)
        bounds.append(scores.mean() - scores.std() / 3**0.5)
    assert best["params"] == best["candidates"][int(np.argmax(bounds))]["params"]
    found = [entry["found"] for entry in best["candidates"][1:]]
    assert found == sorted(found, reverse=True) and found[0] == best["best_of_trials"]
    assert np.mean(found) > np.mean([entry["mean"] for entry in best["candidates"][1:]])


def test_the_start_is_kept_if_nothing_is_better(tmp_path):
    class Flat(Peak):
        def train(self, params, seed, watch):
            better = params["learning_rate"] == 2e-5
            history = pd.DataFrame({"valid_roc_auc": [0.9]})
            return SimpleNamespace(history=history, cpu_seconds=1), 0.9 if better else 0.8

    _, best = run(tmp_path, objective=Flat(tmp_path), hopeless=0)
    assert best["params"] == best["start"]


def test_a_failed_trial_is_kept_with_its_reason_and_counts_as_chance(tmp_path):
    objective = Peak(tmp_path, diverges=3e-3, crashes=2e-2)
    _, best = run(tmp_path, objective=objective, n_initial_points=8, max_failures=9)
    trials = load_trials(tmp_path).query("stage != 'again'")
    high = trials["learning_rate"] > 3e-3
    assert best["failed"] == high.sum() > 0
    assert (trials.loc[high, "status"] == "failed").all()
    assert (trials.loc[high, "score"] == 0.5).all() and (trials.loc[~high, "error"] == "").all()
    reasons = set(trials.loc[high, "error"])
    assert reasons == {"the loss became nan", "MemoryError: no memory left"}
    assert best["params"]["learning_rate"] <= 3e-3
    result = load_result(tmp_path, searching(SMALL, n_initial_points=8))
    assert len(result.func_vals) == 14 and result.func_vals.max() == pytest.approx(value_of(0.5))


def test_too_many_failures_in_a_row_end_the_search(tmp_path):
    for parallel in (1, 2):
        folder = tmp_path / str(parallel)
        with pytest.raises(search.TooManyFailures, match="3 trials in a row failed, the last with"):
            run(folder, objective=Peak(tmp_path, diverges=0), max_failures=3, parallel=parallel)
        assert (load_trials(folder)["status"] == "failed").all()
        assert not (folder / "best.json").exists()


def test_hopeless_trials_end_early_and_those_before_them_say_when(done):
    stopped = done.trials["status"] == "stopped"
    assert (
        0 < stopped.sum() == done.best["stopped"]
        and done.trials["stage"][stopped].ne("again").all()
    )
    ok = done.trials["status"] == "ok"
    assert (done.trials["epochs"][stopped] < 3).all() and (done.trials["epochs"][ok] == 3).all()
    saved = (3 - done.trials["epochs"][stopped]).sum()
    assert done.best["cpu_seconds_saved"] == pytest.approx(saved)
    assert done.best["cpu_seconds"] == pytest.approx(done.trials["epochs"].sum())


def test_limits_are_quantiles_of_the_best_so_far():
    curves = ([0.6, 0.8, 0.7], [0.7, 0.6, 0.9], [0.5, 0.9, 0.9], [0.6, 0.5], [0.8, 0.8])
    trials = [Trial({"depth": k}, 0, 0.9, curve=curve) for k, curve in enumerate(curves)]
    trials += [Trial({"depth": 9}, 0, 0.5, status="failed")]
    assert limits(trials, 0.5, 0) == pytest.approx([0.6, 0.8, -math.inf])  # three reached the end
    assert limits(trials, 0.5, 1) == pytest.approx([-math.inf, 0.8, -math.inf])
    assert limits(trials, 0.0, 0) == [-math.inf] * 3 and limits([], 0.5, 0) == []
    assert hopeless([0.6], [0.65, 0.8]) and not hopeless([0.65], [0.65, 0.8])
    assert not hopeless([0.9, 0.1], [0.65, 0.8]) and not hopeless([0.1, 0.1, 0.1], [0.65, 0.8])


def test_limits_leave_room_for_the_noise():
    trials = [Trial({"depth": k}, 0, 0.9, curve=[0.9]) for k in range(3)]
    start = [Trial({"depth": 4}, seed, 0.9, curve=[auc]) for seed, auc in enumerate((0.9, 0.99))]
    scatter = np.std([-1, -2], ddof=1)  # of log10(1 - AUC)
    assert limits(trials + start, 0.5, 0) == pytest.approx([1 - 10 ** (-1 + 2 * scatter)])
    repeated = [Trial({"depth": 5}, seed, 0.9, curve=[0.99]) for seed in range(9)]
    assert limits(trials + repeated[:1], 0.5, 0) == pytest.approx([0.9])
    assert limits(trials + repeated, 0.5, 0) == pytest.approx([0.9])  # one point, however often


def test_a_replay_ends_what_the_search_would_have_ended(done, tmp_path):
    run(tmp_path, hopeless=0)
    full = load_trials(tmp_path).query("stage != 'again'")
    epochs = replay(full, list(SMALL), 0.5, 1)
    assert sum(0 < n < 3 for n in epochs) > 0 and epochs[:2] == [3, 3]
    first = next(
        k for k, n in enumerate(epochs) if 0 < n < 3
    )  # until then the searches are the same
    assert epochs[: first + 1] == done.trials["epochs"][: first + 1].tolist()
    assert replay(full, list(SMALL), 0.0, 1) == full["epochs"].tolist()


def test_a_search_goes_on_from_its_log_and_repeats_nothing(done, tmp_path):
    log = done.tuner.log.path
    lines = log.read_text().splitlines(keepends=True)
    for kept in (1, 4, 9, 17, len(lines)):
        folder = tmp_path / str(kept)
        folder.mkdir()
        (folder / log.name).write_text("".join(lines[:kept]) + '{"params": {"learni')
        _, best = run(folder)
        trials = load_trials(folder)
        pd.testing.assert_frame_equal(
            trials.drop(columns="seconds"), done.trials.drop(columns="seconds")
        )
        assert len(Peak(folder).trained) == len(lines) - kept  # the first line is no trial
        times = ("seconds",)
        assert {k: v for k, v in best.items() if k not in times} == {
            k: v for k, v in done.best.items() if k not in times
        }


def test_a_longer_search_continues_a_finished_one(done, tmp_path):
    folder = tmp_path / "longer"
    folder.mkdir()
    (folder / done.tuner.log.path.name).write_bytes(done.tuner.log.path.read_bytes())
    run(folder, n_calls=16)
    trials = load_trials(folder)
    columns = [*SMALL, "seed", "score"]
    pd.testing.assert_frame_equal(trials[columns][:14], done.trials[columns][:14])
    assert 2 <= len(Peak(folder).trained) <= 2 + 2 * 2  # and perhaps other candidates


def test_another_search_has_a_log_of_its_own(done, tmp_path):
    (tmp_path / done.tuner.log.path.name).write_bytes(done.tuner.log.path.read_bytes())
    run(tmp_path, seed=8)
    assert len(list(tmp_path.glob("log-*.jsonl"))) == 2
    assert len(Peak(tmp_path).trained) == 22


def test_a_killed_process_can_be_started_again(tmp_path):
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "import test_tuning_tuner as t\n"
        "folder = Path(sys.argv[2]); folder.mkdir(exist_ok=True)\n"
        "t.run(folder, objective=t.Peak(folder, sleep=float(sys.argv[3])), parallel=2)\n"
    )

    def start(folder, sleep):
        command = [
            sys.executable,
            "-c",
            code,
            str(Path(__file__).parents[1]),
            str(folder),
            str(sleep),
        ]
        return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})

    run(tmp_path / "whole", parallel=2)
    killed = start(tmp_path / "killed", 0.2)
    deadline = time.monotonic() + 60
    while len(Peak(tmp_path / "killed").trained) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() != 0
    partial = load_trials(tmp_path / "killed")  # can be read at any time
    assert 1 <= len(partial) < 14 and not (tmp_path / "killed" / "best.json").exists()
    assert start(tmp_path / "killed", 0).wait() == 0
    tables = [load_trials(tmp_path / name).drop(columns="seconds") for name in ("whole", "killed")]
    pd.testing.assert_frame_equal(*tables)
    trained = Peak(tmp_path / "killed").trained
    assert len(trained) - len(set(trained)) <= 2  # those that were running


def test_several_at_once_give_the_same_points_whoever_is_faster(tmp_path):
    class Slow(Peak):
        def train(self, params, seed, watch):
            time.sleep(0.05 * (seed % 3))
            return super().train(params, seed, watch)

    tables = []
    for name, kind in (("a", Peak), ("b", Slow)):
        run(tmp_path / name, objective=kind(tmp_path), parallel=2, hopeless=0)
        tables.append(load_trials(tmp_path / name).drop(columns="seconds"))
    pd.testing.assert_frame_equal(*tables)


def test_fewer_calls_end_the_search_and_it_can_go_on(tmp_path):
    _, best = run(tmp_path, n_calls=9)
    assert best["calls"] == 9
    _, best = run(tmp_path)
    trained = Peak(tmp_path).trained
    assert best["calls"] == 14 and len(trained) == len(set(trained))  # nothing twice
    assert best["params"] == run(tmp_path / "at_once")[1]["params"]


def test_no_limit_is_a_time():
    """What a search finds depends on no clock, so not on the machine, nor on what else it does."""
    with pytest.raises(ValueError, match="minutes"):
        Tune(space=SPACE, minutes=10)


WIDTH = {"embed_dim": {"type": "categorical", "choices": [16, 20]}}


@dataclass
class Widths(Peak):
    """Peak without its other parameter."""

    def train(self, params, seed, watch):
        return super().train({"learning_rate": 1e-3} | params, seed, watch)


@pytest.mark.parametrize("parallel", [1, 2])
def test_a_space_smaller_than_the_calls_ends_the_search(tmp_path, parallel, capfd):
    settings = searching(WIDTH, n_calls=20, candidate_seeds=2, parallel=parallel)
    tuner = Tuner(Widths(tmp_path), settings, tmp_path, {}, "threading")
    best = tuner.run()
    trials = load_trials(tmp_path).query("stage != 'again'")
    assert trials["embed_dim"].tolist() == [16, 16, 20]  # the start twice, for the noise
    message = "all 2 points of the space were tried (3 of 20 calls)"
    assert best["message"] == load_best(tmp_path)["message"] == tuner.result().message == message
    assert best["calls"] == 3 and best["params"] == {"embed_dim": 16}
    shown = capfd.readouterr().err
    assert f"tune: {message}" in shown and "Warning" not in shown
    assert tuner.bar.n == tuner.bar.total == 3 + 2 * 2  # the bar ends full


@pytest.mark.parametrize("parallel", [1, 2])
def test_a_callback_ends_the_search_and_the_best_are_trained_anew(tmp_path, parallel):
    lengths = []

    def callback(result):
        lengths.append(len(result.func_vals))
        return len(lengths) == 7

    settings = searching(SMALL, n_calls=14, acquisition="EI", parallel=parallel)
    tuner = Tuner(Peak(tmp_path), settings, tmp_path, {}, "threading", False, callback)
    best = tuner.run()
    assert lengths == list(range(1, 8))
    assert 7 <= best["calls"] < 14 and best["message"].startswith("a callback ended the search")
    assert best["candidates"] and (best["calls"] == 7 or parallel == 2)


def test_what_is_no_callback_is_refused(tmp_path):
    for wrong in (3, [print, "no"]):
        with pytest.raises(InputError, match="callback: found (3|'no'); expected one callable"):
            Tuner(Peak(tmp_path), searching(SMALL), tmp_path, {}, callback=wrong)


def test_random_search_for_comparison(tmp_path):
    run(tmp_path, random=True)
    assert load_trials(tmp_path)["stage"].tolist()[6:14] == ["random"] * 8


def test_a_log_that_is_none(tmp_path):
    path = tmp_path / "log.jsonl"
    for content in ("{}\n", "[]\n", "nonsense\n", '{"search": {"seed": 1}}\n{"params": 1}\n'):
        path.write_text(content)
        with pytest.raises(InputError, match=r"log\.jsonl: is no log of a search"):
            Log(path, {"seed": 1})
    path.write_text('{"search": {"seed": 2, "task": "x"}}\n')
    with pytest.raises(InputError, match="belongs to a search with another seed; expected"):
        Log(path, {"seed": 1, "task": "x"})
    Log(path, {"seed": 2, "task": "x"}).write(Trial({"depth": 2}, 3, 0.7, curve=[0.6]), 1.5)
    again = Log(path, {"seed": 2, "task": "x"})
    assert again.recall({"depth": 2}, 3) == Trial({"depth": 2}, 3, 0.7, curve=[0.6])
    assert again.recall({"depth": 2}, 4) is None and again.seconds == 1.5


def test_a_trial_is_minimised_where_the_best_still_differ():
    assert value_of(0.99) == pytest.approx(-2) and np.isfinite(value_of(1.0))
    assert replace(Trial({}, 0, 0.9)).value - value_of(0.99) == pytest.approx(1)


def test_no_finished_search(tmp_path):
    with pytest.raises(InputError, match=r"best\.json: no such file; run the search first"):
        load_best(tmp_path)
    with pytest.raises(InputError, match=r"trials\.csv: no such file"):
        load_trials(tmp_path)
    for content in ("{", "[]", "{}", '{"params": 3}', '{"params": {}}'):
        (tmp_path / "best.json").write_text(content)
        with pytest.raises(InputError, match=r"best\.json: found no parameters"):
            load_best(tmp_path)
