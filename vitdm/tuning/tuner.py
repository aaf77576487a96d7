"""A whole search: the noise, the trials, the best of them again, the choice."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from joblib.externals.loky.process_executor import TerminatedWorkerError
from scipy.optimize import OptimizeResult
from tqdm import tqdm

from vitdm.config import Settings, by_section
from vitdm.errors import InputError
from vitdm.model.inputs import Tables, inputs_of
from vitdm.provenance import atomic, sha256, sidecar, write_json
from vitdm.tuning import search
from vitdm.tuning.objective import Objective, OnDataset, Params, attempt, failed
from vitdm.tuning.space import Allowed, dimensions, every_point, first_points, plain
from vitdm.tuning.trials import Log, Trial, limits, table

#: what a resumed search need not have in common with its log
BUDGET = ("n_calls", "max_failures", "candidates", "candidate_seeds")
VERSIONS = ("torch", "scikit-learn", "scikit-optimize", "numpy")


class Measured(NamedTuple):
    """A point trained with several seeds: mean score, s.d. between seeds, error of the mean."""

    params: Params
    scores: list[float]

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))

    @property
    def sd(self) -> float:
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else math.nan

    @property
    def error(self) -> float:
        return self.sd / math.sqrt(len(self.scores))


class Tuner:
    """One search on an objective; ``run`` does everything and may be called again after a kill.

    ``identity`` tells which search it is besides its settings (the data), so that only its own log
    is continued: ``<out>/log-<hash>.jsonl``. ``callback``: as of ``gp_minimize``, one or a list of
    callables, which get the result so far after each trial of the search, also of those in the log,
    and end the search if they return True; the best trials are then trained anew as always.
    """

    def __init__(
        self,
        objective: Objective,
        settings: Settings,
        out: Path,
        identity: dict[str, Any],
        backend: str = "loky",
        progress: bool = True,
        callback: search.Callback | Sequence[search.Callback] | None = None,
    ):
        self.objective, self.settings, self.out = objective, settings, out
        self.search = settings.tune
        self.seed = settings.seed if self.search.seed is None else self.search.seed
        self.start = settings.start
        self.names = list(self.start)
        self.callbacks = callbacks_of(callback)
        self.allowed = Allowed(settings)
        self.first = first_points(settings, self.allowed, self.seed)
        told = self._identity() | identity
        name = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]
        self.log = Log(out / f"log-{name}.jsonl", told)
        self.workers = search.Workers(self.search.parallel, backend)
        self.trials: dict[int, Trial] = {}
        self.again: list[Trial] = []
        self._lock = threading.Lock()  # several trials may end at once
        self._began = time.monotonic()
        self._progress = progress

    def _identity(self) -> dict[str, Any]:
        chosen = self.search.model_dump(mode="json", exclude=set(BUDGET))
        sections = {key: getattr(self.settings, key) for key in ("model", "train", "preprocess")}
        return {
            **{f"tune.{key}": value for key, value in chosen.items()},
            **{key: value.model_dump(mode="json") for key, value in sections.items()},
            "task": self.settings.task,
            "seed": self.seed,
            "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        }

    # ------------------------------------------------------------------------------------ trials

    def _seed(self, kind: int, k: int) -> int:
        """Return the seed of the k-th trial of the search (kind 0), or when trained anew (1)."""
        sequence = np.random.SeedSequence(self.seed, spawn_key=(kind, k))
        return int(sequence.generate_state(1)[0]) >> 1

    def _train(self, params: Params, seed: int, limits: Sequence[float] = ()) -> Trial:
        """Return a trial from the log, or train it now and write it there."""
        if (known := self.log.recall(params, seed)) is not None:
            return known
        with self._lock:
            self.objective.prepare(params)
        for last in (False, True):
            try:
                trial = self.workers(attempt, self.objective, params, seed, limits)
            except TerminatedWorkerError as error:
                # a killed worker takes down those beside it, which are not to blame
                trial = Trial(params, seed, **failed(self.objective, error))
                if last:
                    break
            else:
                break
        self.log.write(trial, self.elapsed)
        return trial

    @property
    def elapsed(self) -> float:
        """Seconds since the search began, without interruptions."""
        return self.log.seconds + time.monotonic() - self._began

    def _evaluate(self, point: Sequence[Any], call: int, known: int) -> float:
        """Return the value of the point of a call, of which ``known`` were known before."""
        if call not in self.trials:
            before = [self.trials[k] for k in range(known)]
            rule = limits(before, self.search.hopeless, self.search.patience)
            first = call < self.search.start_seeds  # they measure the noise, to the end
            params = dict(zip(self.names, plain(point), strict=True))
            trial = self._train(params, self._seed(0, call), [] if first else rule)
            with self._lock:
                self.trials[call] = trial
                self._show(trial)
                self._stop_if_failing(call)
        return self.trials[call].value

    def _stop_if_failing(self, call: int) -> None:
        most = self.search.max_failures
        for first in range(max(0, call - most + 1), call + 1):
            row = [self.trials.get(k) for k in range(first, first + most)]
            if all(trial is not None and trial.status == "failed" for trial in row):
                raise search.TooManyFailures(
                    f"{self.log.path}: {most} trials in a row failed, the last with: "
                    f"{row[-1].error}; expected at most tune.max_failures - 1 = {most - 1}"
                )

    def _show(self, trial: Trial) -> None:
        self.bar.update()
        scores = [trial.score for trial in self.trials.values()]
        text = {"last": f"{trial.score:.4f}", "best": f"{max(scores):.4f}"}
        failures = sum(t.status == "failed" for t in self.trials.values())
        self.bar.set_postfix(text | ({"failed": failures} if failures else {}))
        self._write_table()

    def _write_table(self) -> None:
        with atomic(self.out / "trials.csv") as temporary:
            self.table().to_csv(temporary, index=False)

    def table(self) -> pd.DataFrame:
        """Return all trials, with the stage at which each was made (``trials.csv``)."""
        calls = sorted(self.trials)
        rows = table([*(self.trials[k] for k in calls), *self.again])
        given = self.search.start_seeds + len(self.search.x0)
        edges = [0, self.search.start_seeds, given, len(self.first)]
        names = ["start", "x0", "design", "random" if self.search.random else "process"]
        stages = [names[np.searchsorted(edges, k, side="right") - 1] for k in calls]
        rows.insert(1, "stage", stages + ["again"] * len(self.again))
        return rows

    # ------------------------------------------------------------------------------------ stages

    def run(self) -> dict[str, Any]:
        """Carry out the search, write ``trials.csv`` and ``best.json`` and return the latter."""
        n_calls = self.search.n_calls
        more = (1 + self.search.candidates) * self.search.candidate_seeds
        with (
            self.workers,
            tqdm(
                total=n_calls + more,
                desc="tune",
                unit="trial",
                ncols=100,
                mininterval=0,
                disable=not self._progress,
            ) as self.bar,
        ):
            self._measure_noise()
            self.message = search.minimise(
                self._evaluate,
                dimensions(self.search.space),
                self.first,
                n_calls=n_calls,
                seed=self.seed,
                noise=self.noise,
                acquisition=self.search.acquisition,
                allowed=self.allowed,
                points=every_point(self.search.space, self.allowed),
                parallel=self.search.parallel,
                random=self.search.random,
                callbacks=self.callbacks,
            )
            self._tell_the_end()
            measured = self._train_again()
        return self._choose(measured)

    def _tell_the_end(self) -> None:
        """Tell why the search ended; the bar is then as long as what follows."""
        made, most = len(self.trials), self.search.n_calls
        self.message += f" ({made} of {most} calls)"
        if made < most:
            self.bar.total -= most - made
            if self._progress:
                self.bar.write(f"tune: {self.message}", file=sys.stderr)

    def _measure_noise(self) -> None:
        """Train the start with several seeds: the scatter of their values is the noise."""
        n = min(self.search.start_seeds, self.search.n_calls)

        def make(k: int, _: list[float]) -> int | None:
            return k if k < n else None

        def run(k: int) -> float:
            return self._evaluate(self.first[k], k, 0)

        values = list(search.in_order(make, run, self.search.parallel))
        self.noise = self.search.noise
        if self.noise is None and n > 1:
            self.noise = float(np.std(values, ddof=1))

    def _train_again(self) -> list[Measured]:
        """Train the start and the best trials with fresh seeds, the same for all of them."""
        calls = sorted(self.trials, key=lambda k: (-self.trials[k].score, k))
        best: list[Params] = []
        for trial in (self.trials[k] for k in calls if self.trials[k].status != "failed"):
            if trial.params != self.start and trial.params not in best:
                best.append(trial.params)
        points = [self.start, *best[: self.search.candidates]]
        self.bar.total -= (1 + self.search.candidates - len(points)) * self.search.candidate_seeds
        seeds = [self._seed(1, k) for k in range(self.search.candidate_seeds)]
        tasks = [(params, seed) for params in points for seed in seeds]

        def make(k: int, _: list[Trial]) -> tuple[Params, int] | None:
            return tasks[k] if k < len(tasks) else None

        def run(task: tuple[Params, int]) -> Trial:
            trial = self._train(*task)
            self.bar.update()
            return trial

        for trial in search.in_order(make, run, self.search.parallel):
            self.again.append(trial)
            self._write_table()
        scores = [[t.score for t in self.again if t.params == params] for params in points]
        return [Measured(*pair) for pair in zip(points, scores, strict=True) if len(pair[1]) > 1]

    def _choose(self, measured: list[Measured]) -> dict[str, Any]:
        """Choose by the mean of the fresh scores minus its error; the start if there are none."""
        trials = [self.trials[k] for k in sorted(self.trials)]
        luckiest = max(trials, key=lambda trial: trial.score)
        chosen = max(measured, key=lambda point: point.mean - point.error, default=None)
        stopped = [t for t in trials if t.status == "stopped"]
        saved = [t.cpu_seconds * (self.objective.epochs / t.epochs - 1) for t in stopped]
        own = [trial.score for trial in trials[: self.search.start_seeds]]
        best = {
            "params": chosen.params if chosen else self.start,
            "metric": self.search.metric,
            "start": self.start,
            "start_scores": own,
            "noise_sd": self.noise,
            "candidates": [
                {"params": m.params, "scores": m.scores, "mean": m.mean, "error": m.error}
                | {"found": self._found(m.params)}
                for m in measured
            ],
            "best_of_trials": luckiest.score,
            "best_of_trials_params": luckiest.params,
            "calls": len(trials),
            "message": self.message,
            "failed": sum(trial.status == "failed" for trial in trials),
            "stopped": len(stopped),
            "cpu_seconds": round(sum(t.cpu_seconds for t in [*trials, *self.again]), 1),
            "cpu_seconds_saved": round(sum(saved), 1),
            "seconds": round(self.elapsed, 1),
        }
        write_json(self.out / "best.json", best)
        return best

    def _found(self, params: Params) -> float:
        """Return the score with which the search found a point; of the start, the mean."""
        scores = [trial.score for trial in self.trials.values() if trial.params == params]
        return float(np.mean(scores)) if params == self.start else scores[0]

    def result(self) -> OptimizeResult:
        """Return scikit-optimize's result of the finished search."""
        trials = [self.trials[k] for k in sorted(self.trials)]
        points = [list(trial.params.values()) for trial in trials]
        values = [trial.value for trial in trials]
        space = dimensions(self.search.space)
        result = search.opinion(space, points, values, self.noise, self.seed)
        result.message = self.message
        return result


def callbacks_of(callback: Any) -> list[search.Callback]:
    """Return the callbacks of a search, given as one, several or None; InputError for others."""
    if callback is None:
        return []
    one = callable(callback) or isinstance(callback, str) or not isinstance(callback, Sequence)
    several = [callback] if one else list(callback)
    if wrong := [entry for entry in several if not callable(entry)]:
        raise InputError(f"callback: found {wrong[0]!r}; expected one callable, or a list of them")
    return several


def tune(
    processed: str | Path,
    features_csv: str | Path | None,
    settings: Settings,
    out: str | Path,
    *,
    selection: str | Path | None = None,
    fits: str | Path | None = None,
    dataset: str | Path | None = None,
    backend: str = "loky",
    progress: bool = True,
    callback: search.Callback | Sequence[search.Callback] | None = None,
) -> dict[str, Any]:
    """Search the space of ``settings.tune`` on a processed dataset, write the folder ``out``.

    Each trial trains on the training images, keeps the weights that are best on ``valid`` and is
    scored on ``opt``, which no training sees. The first trials are the configuration itself with
    several seeds; their scatter is the noise of a trial, which the Gaussian process is told. A
    trial that fails is kept, with its reason, and counts as chance. At the end the best trials and
    the start are trained with fresh seeds, and the one with the best mean minus its error is
    chosen. ``out`` gets ``log-<hash>.jsonl``, from which a killed search goes on, ``trials.csv``,
    which can be read at any time, ``best.json``, whose content is returned, and ``tune.json``.
    ``selection`` is the selection.json that ``model.feature_set`` may need, ``fits`` the folder of
    lens fits that ``model.residual`` needs, ``dataset`` that of the images before processing if the
    space has keys of ``preprocess``; ``backend`` see ``search.Workers``, ``callback`` see
    ``Tuner``. InputError if something is missing, the log belongs to another search, or
    ``tune.max_failures`` trials in a row failed.
    """
    out, started = Path(out), time.time()
    settings.check_search()
    if by_section(settings.tune.space)["preprocess"] and dataset is None:
        raise InputError(
            "tune.space: keys of preprocess need the images before processing; expected --dataset"
        )
    tables = Tables(features_csv, selection, fits)
    objective = OnDataset(
        settings, Path(processed), tables, out / "processed", dataset and Path(dataset)
    )
    objective.check()
    inputs = [
        *inputs_of(processed, Tables(features_csv, None, fits).needed_by(settings.model)),
        *([selection] if selection else []),
    ]
    data = {Path(path).name: sha256(path) for path in inputs}
    tuner = Tuner(objective, settings, out, {"data": data}, backend, progress, callback)
    best = tuner.run()
    sidecar(
        out / "tune.json",
        rule="tune",
        seed=settings.seed,
        config={"tune": settings.tune, "model": settings.model, "train": settings.train},
        inputs=inputs,
        started=started,
    )
    return best
