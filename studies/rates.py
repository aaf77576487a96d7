"""Learning rate against recipe: where training stops to work, and what moves that limit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from studies.config import Config
from vitdm.config import Tune
from vitdm.errors import InputError
from vitdm.model.inputs import Tables, inputs_of
from vitdm.provenance import atomic, check_replaceable, sidecar
from vitdm.tuning.finished import load_trials
from vitdm.tuning.objective import OnDataset, attempt
from vitdm.tuning.trials import Trial, table

RATE_FILES = ("trials.csv", "rates.json")


def softmax_in_loss(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Return the cross-entropy of probabilities in place of logits (n, K), a fault."""
    return functional.cross_entropy(logits.softmax(dim=1), labels, label_smoothing=label_smoothing)


def train_recipe(
    processed: str | Path,
    features_csv: str | Path | None,
    settings: Config,
    recipe: str,
    out: str | Path,
    *,
    selection: str | Path | None = None,
    fits: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train a recipe of ``settings.rates`` at each learning rate, write ``out``, return its table.

    Rows as those of a search (``trials.csv``). InputError if there is no such recipe or something
    that it needs is missing.
    """
    started, out, grid = time.time(), Path(out), settings.rates
    check_replaceable(out, RATE_FILES)
    if recipe not in grid.recipes:
        known = ", ".join(grid.recipes) or "none"
        raise InputError(f"--recipe {recipe}: no such recipe; expected one of: {known}")
    chosen = settings.recipe(recipe)
    span = {"type": "real", "low": min(grid.values), "high": 2 * max(grid.values), "log": True}
    search = Tune(
        space={"learning_rate": span},
        n_train=grid.n_train,
        epochs=grid.epochs,
        metric=settings.tune.metric,
    )
    changed = chosen.model_copy(update={"tune": search})
    model, train = chosen.model, chosen.train
    tables = Tables(features_csv, selection, fits)
    loss = None
    if grid.recipes[recipe].softmax_in_loss:
        loss = partial(softmax_in_loss, label_smoothing=train.label_smoothing)
    objective = OnDataset(changed, Path(processed), tables, out, loss=loss)
    objective.check()
    trials: list[Trial] = []
    tasks = [(rate, settings.seed + k) for rate in grid.values for k in range(grid.seeds)]
    for rate, seed in tqdm(tasks, desc=recipe, unit="trial", ncols=100, disable=not progress):
        trials.append(attempt(objective, {"learning_rate": rate}, seed, ()))
    rows = table(trials)
    with atomic(out) as temporary:
        temporary.mkdir()
        rows.to_csv(temporary / "trials.csv", index=False)
        sidecar(
            temporary / "rates.json",
            rule="rates",
            seed=settings.seed,
            config={"rates": grid, "model": model, "train": train},
            inputs=inputs_of(processed, tables.needed_by(model)),
            started=started,
        )
    return rows


def join_trials(folders: Sequence[str | Path], settings: Config, out: str | Path) -> pd.DataFrame:
    """Write the trials of several folders as one table ``out`` (CSV) with its sidecar, return it.

    A folder is named after a recipe, or after an arm of the study and its number, ``process_0``.
    Columns before those of ``trials.csv``: recipe, or arm and number; label.
    """
    started, out, tables = time.time(), Path(out), []
    folders = [Path(folder) for folder in folders]
    for folder in folders:
        arm, _, number = folder.name.rpartition("_")
        if folder.name in settings.rates.recipes:
            label, told = settings.rates.recipes[folder.name].label, {"recipe": folder.name}
        elif arm in settings.study.arms:
            label, told = settings.study.arms[arm].label, {"arm": arm, "number": number}
        else:
            raise InputError(f"{folder}: found neither an arm nor a recipe of the configuration")
        table = load_trials(folder)
        for place, (name, value) in enumerate((told | {"label": label}).items()):
            table.insert(place, name, value)
        tables.append(table)
    rows = pd.concat(tables, ignore_index=True)
    with atomic(out) as temporary:
        rows.to_csv(temporary, index=False)
    inputs = [folder / "trials.csv" for folder in folders]
    sidecar(out.with_suffix(".json"), rule="join_trials", inputs=inputs, started=started)
    return rows
