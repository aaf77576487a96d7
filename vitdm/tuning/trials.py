"""Trials of a search: one line of JSON each, kept so that nothing is trained twice."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vitdm.errors import InputError
from vitdm.provenance import atomic


@dataclass(frozen=True)
class Trial:
    """One training with some parameters and a seed, and what it came to.

    ``score`` is the metric on ``opt``, chance if the trial failed; ``curve`` the validation ROC-AUC
    after each epoch. ``status``: ok; stopped (early, as hopeless, and scored as it then was); or
    failed, for the reason in ``error``.
    """

    params: dict[str, Any]
    seed: int
    score: float
    status: str = "ok"
    error: str = ""
    valid_roc_auc: float | None = None
    epochs: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    curve: list[float] = field(default_factory=list)

    @property
    def value(self) -> float:
        """What is minimised."""
        return value_of(self.score)


def value_of(score: float) -> float:
    """Return what is minimised, log10(1 - score): it still tells 0.99 from 0.995."""
    return math.log10(max(1 - score, 1e-6))


class Log:
    """The trials of one search in a file of JSON lines, whose first line tells which search.

    A line is on the disk before the search goes on, and a torn last one, of a process that was
    killed, is dropped. InputError if the file belongs to another search.
    """

    def __init__(self, path: str | Path, search: dict[str, Any]):
        self.path = Path(path)
        self._lock = threading.Lock()
        self._known: dict[str, Trial] = {}
        self.seconds = 0.0  # of the searches before this one
        lines = self.path.read_text().split("\n") if self.path.exists() else []
        whole, torn = lines[:-1], lines[-1:] not in ([], [""])
        if whole:
            self._read(whole, search)
        if torn or not whole:
            with atomic(self.path) as temporary:
                first = whole or [json.dumps({"search": search}, sort_keys=True)]
                temporary.write_text("\n".join(first) + "\n")

    def _read(self, lines: list[str], search: dict[str, Any]) -> None:
        try:
            first, *others = [json.loads(line) for line in lines]
            told = first["search"]
            for line in others:
                self.seconds = line.pop("elapsed")
                trial = Trial(**line)
                self._known[_key(trial.params, trial.seed)] = trial
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.path}: is no log of a search ({error})") from error
        expected = json.loads(json.dumps(search))
        if changed := [key for key in expected if told.get(key) != expected[key]]:
            raise InputError(
                f"{self.path}: belongs to a search with another {', '.join(changed)}; expected the "
                "same, or another folder"
            )

    def recall(self, params: dict[str, Any], seed: int) -> Trial | None:
        """Return the trial with these parameters and seed, None if there is none."""
        return self._known.get(_key(params, seed))

    def write(self, trial: Trial, elapsed: float) -> None:
        """Append a trial; ``elapsed`` seconds since the search began, without interruptions."""
        line = json.dumps(asdict(trial) | {"elapsed": round(elapsed, 2)})
        with self._lock, self.path.open("a") as file:
            self._known[_key(trial.params, trial.seed)] = trial
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())


def _key(params: dict[str, Any], seed: int) -> str:
    return json.dumps([params, seed], sort_keys=True)


LEAST = 4  # points, of which a quantile says something
SURE = 2.0  # standard deviations of the noise below it


def limits(trials: Sequence[Trial], quantile: float, patience: int) -> list[float]:
    """Return, epoch by epoch, what the best so far on ``valid`` must reach not to be hopeless.

    That is what a ``quantile`` of the points before it had reached after as many epochs (0.5: the
    median rule of Golovin et al. 2017, Vizier, section 3.2), lowered by twice the scatter there
    between trials of one point with several seeds: where good points differ by less than their
    noise, half of them are below the median by chance. -inf in the first ``patience`` epochs, and
    where fewer than ``LEAST`` points came as far.
    """
    points: dict[str, list[np.ndarray]] = {}
    for trial in trials:
        if trial.curve:
            values = np.array([value_of(auc) for auc in trial.curve])
            points.setdefault(_key(trial.params, 0), []).append(np.minimum.accumulate(values))
    highest = []
    for epoch in range(
        max((len(curve) for group in points.values() for curve in group), default=0)
    ):
        there = [[c[epoch] for c in group if len(c) > epoch] for group in points.values()]
        there = [group for group in there if group]
        if not quantile or epoch < patience or len(there) < LEAST:
            highest.append(-math.inf)
            continue
        repeated = [group for group in there if len(group) > 1]
        scatter = np.sqrt(np.mean([np.var(group, ddof=1) for group in repeated] or [0.0]))
        middle = np.quantile([np.mean(group) for group in there], 1 - quantile)
        highest.append(float(1 - 10 ** (middle + SURE * scatter)))
    return highest


def hopeless(curve: Sequence[float], limits: Sequence[float]) -> bool:
    """Return whether a trial with this validation curve so far should end."""
    epoch = len(curve) - 1
    return epoch < len(limits) and max(curve) < limits[epoch]


def table(trials: Sequence[Trial]) -> pd.DataFrame:
    """Return the trials as a table: call, the parameters, score and the rest; curves as text."""
    rows = []
    for call, trial in enumerate(trials):
        row = asdict(trial)
        row["curve"] = " ".join(f"{auc:.6f}" for auc in trial.curve)
        rows.append({"call": call, **row.pop("params"), **row})
    return pd.DataFrame(rows)


def replay(trials: pd.DataFrame, names: Sequence[str], quantile: float, patience: int) -> list[int]:
    """Return after how many epochs each trial of a search would have ended with this rule.

    ``trials`` is a table in the order of a search that ended none early, ``names`` its
    parameters. Points chosen later would have been others; here they are those of the table.
    """
    before: list[Trial] = []
    for row in trials.to_dict("records"):
        text = "" if pd.isna(row["curve"]) else str(row["curve"])
        curve = [float(auc) for auc in text.split()]
        rule = limits(before, quantile, patience)
        if row["stage"] != "start":
            ends = (n for n in range(1, len(curve)) if hopeless(curve[:n], rule))
            curve = curve[: next(ends, len(curve))]
        params = {name: row[name] for name in names}
        before.append(Trial(params, row["seed"], row["score"], curve=curve))
    return [len(trial.curve) for trial in before]
