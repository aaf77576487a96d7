"""Trials an hour, several at once against one at a time, on the same trials of a finished run.

    python benchmarks/tune.py results/paper --trials 8

takes the processed images, features and selection of a results folder, draws random points of its
search, and trains them with one worker and with several, in turns. Ratios are of one run: machines
are noisy.
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path
from typing import Any

import numpy as np

from studies import config as workflow
from vitdm.tuning import search
from vitdm.tuning.objective import OnDataset, attempt
from vitdm.tuning.space import Allowed, first_points
from vitdm.tuning.trials import Trial


def task_of(tasks: dict[int, Any], k: int, _: list[Trial]) -> Any:
    return tasks.get(k)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--trials", type=int, default=8, help="in each turn")
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--backend", default="loky")
    arguments = parser.parse_args()
    folder = arguments.results
    settings = workflow.load(folder / "config.yaml")
    tune = settings.tune.model_copy(
        update={"n_initial_points": arguments.trials, "start_seeds": 1, "x0": []}
    )
    settings = settings.model_copy(update={"tune": tune})
    fits = folder / "lensfit" if settings.model.residual else None
    objective = OnDataset(
        settings,
        folder / "processed",
        folder / "features.csv",
        folder / "selection" / "selection.json",
        fits,
        None,
        folder,
    )
    objective.check()
    points = first_points(settings, Allowed(settings), settings.seed)[1:]
    tasks = dict(enumerate(dict(zip(tune.space, point, strict=True)) for point in points))

    def train(workers: search.Workers, params: dict[str, Any]) -> Trial:
        return workers(attempt, objective, params, 0, ())

    hours: dict[int, list[float]] = {1: [], arguments.parallel: []}
    for _ in range(arguments.turns):
        for parallel, spent in hours.items():
            with search.Workers(parallel, arguments.backend) as workers:
                wrong = dict.fromkeys(range(parallel), {"learning_rate": -1.0})
                run = functools.partial(train, workers)
                for these in (wrong, tasks):  # of the wrong ones only the imports take time
                    started = time.perf_counter()
                    make = functools.partial(task_of, these)
                    trials = list(search.in_order(make, run, parallel))
                spent.append((time.perf_counter() - started) / 3600)
            failed = sum(trial.status == "failed" for trial in trials)
            rate = len(trials) / spent[-1]
            print(f"{parallel} at once: {rate:6.1f} trials an hour ({failed} failed)", flush=True)
    one, several = (np.array(spent) for spent in hours.values())
    ratios = one / several
    print(f"{arguments.parallel} at once are {np.median(ratios):.2f} times as many trials an hour")
    print(f"(turns: {', '.join(f'{ratio:.2f}' for ratio in ratios)})")


if __name__ == "__main__":
    main()
