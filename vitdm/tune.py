"""Bayesian optimisation of the hyperparameters, around scikit-optimize's ``gp_minimize``."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import skopt
from scipy.optimize import OptimizeResult
from skopt import space as skopt_space
from tqdm import tqdm

from vitdm import config
from vitdm.config import Categorical, Config, InputError, Integer, Model, Real, Train
from vitdm.provenance import atomic, sidecar, write_json
from vitdm.selection import joined_features
from vitdm.train import Diverged, fit, inputs_of

CHANCE = 0.5


def skopt_dimensions(space: dict[str, config.Dimension]) -> list[skopt_space.Dimension]:
    """Return scikit-optimize's dimensions for the ``tune.space`` section of a configuration."""
    dimensions = []
    for name, entry in space.items():
        match entry:
            case Real():
                prior = "log-uniform" if entry.log else "uniform"
                dimension = skopt_space.Real(entry.low, entry.high, prior=prior, name=name)
            case Integer():
                dimension = skopt_space.Integer(entry.low, entry.high, name=name)
            case Categorical():
                dimension = skopt_space.Categorical(entry.choices, name=name)
        dimensions.append(dimension)
    return dimensions


def _split(params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parameters that belong to the model and those that belong to the training."""
    model = {k: v for k, v in params.items() if k in Model.model_fields}
    return model, {k: v for k, v in params.items() if k in Train.model_fields}


def with_params(settings: Config, params: dict[str, Any], **train: Any) -> tuple[Model, Train]:
    """Return model and training settings with tuned parameters, and further training keys, put in.

    Raises ValueError if they do not go together (heads and width, patches and image).
    """
    model_part, train_part = _split(params)
    model, recipe = settings.settings(model_part, train_part | train)
    config.check_patches(model, settings.preprocess.size)
    return model, recipe


def objective_value(roc_auc: float) -> float:
    """Return what is minimised, log10(1 - AUC): it still tells 0.99 from 0.995."""
    return math.log10(max(1 - roc_auc, 1e-6))


def tune(
    processed: str | Path,
    features_csv: str | Path | None,
    settings: Config,
    out: str | Path,
    progress: bool = True,
    selection: str | Path | None = None,
    fits: str | Path | None = None,
) -> dict[str, Any]:
    """Search the space of ``settings.tune`` and write ``trials.csv`` and ``best.json`` to ``out``.

    Each trial trains on the training images, keeps the weights that are best on ``valid`` and is
    scored by its ROC-AUC on ``opt``, which no training sees. The first trial is the configuration
    itself. A diverged trial is kept, marked as failed, and counts as chance. ``selection`` is the
    selection.json that ``model.feature_set`` may need, ``fits`` the folder of lens fits that
    ``model.residual`` needs. Returns the content of ``best.json``.
    """
    out = Path(out)
    started = time.time()
    search, names = settings.tune, list(settings.tune.space)
    joined_features(settings.model, settings, selection)  # complain before the first trial
    dimensions = skopt_dimensions(search.space)
    start = {
        name: getattr(settings.model if name in Model.model_fields else settings.train, name)
        for name in names
    }
    trials: list[dict[str, Any]] = []
    bar = tqdm(total=search.n_calls, desc="tune", unit="trial", ncols=100, disable=not progress)

    def allowed(point: list[Any]) -> bool:
        try:
            with_params(settings, dict(zip(names, _plain(point), strict=True)))
        except ValueError:
            return False
        return True

    def objective(point: list[Any]) -> float:
        params = dict(zip(names, _plain(point), strict=True))
        trial = _trial(
            processed, features_csv, selection, fits, settings, params, len(trials), progress
        )
        trials.append(trial)
        with atomic(out / "trials.csv") as temporary:
            pd.DataFrame(trials).to_csv(temporary, index=False)
        bar.update()
        bar.set_postfix(best_auc=f"{max(t['roc_auc'] for t in trials):.4f}")
        return objective_value(trial["roc_auc"])

    skopt.gp_minimize(
        objective,
        skopt_space.Space(dimensions),
        x0=[list(start.values())],
        n_calls=search.n_calls,
        n_initial_points=search.n_initial_points,
        random_state=settings.seed,
        space_constraint=allowed,
    )
    bar.close()
    table = pd.DataFrame(trials)
    best = table.loc[table["roc_auc"].idxmax()]
    result = {
        "params": {name: best[name] for name in names},
        "roc_auc": best["roc_auc"],
        "start": start,
        "start_roc_auc": table["roc_auc"][0],
        "failed": int((table["status"] != "ok").sum()),
    }
    write_json(out / "best.json", result)
    sidecar(
        out / "tune.json",
        rule="tune",
        seed=settings.seed,
        config={"tune": settings.tune, "model": settings.model, "train": settings.train},
        inputs=[
            *inputs_of(
                processed,
                features_csv if settings.model.features else None,
                fits if settings.model.residual else None,
            ),
            *([selection] if selection else []),
        ],
        started=started,
    )
    return result


def _trial(
    processed: str | Path,
    features_csv: str | Path | None,
    selection: str | Path | None,
    fits: str | Path | None,
    settings: Config,
    params: dict[str, Any],
    call: int,
    progress: bool,
) -> dict[str, Any]:
    search = settings.tune
    seed = settings.seed + call
    started = time.perf_counter()
    outcome: dict[str, Any] = {"roc_auc": CHANCE, "valid_roc_auc": math.nan, "epochs": 0}
    outcome |= {"status": "ok", "error": ""}
    model, train = with_params(settings, params, epochs=search.epochs)
    try:
        metrics = fit(
            processed,
            features_csv,
            settings,
            model,
            train,
            train_splits=("train",),
            valid_split="valid",
            score_split="opt",
            seed=seed,
            n_train=search.n_train,
            feature_names=joined_features(model, settings, selection),
            fits=fits,
            label=f"trial {call + 1}",
            progress=progress,
        )
    except Diverged as error:
        outcome |= {"status": "failed", "error": str(error)}
    else:
        outcome |= {key: metrics[key] for key in ("roc_auc", "valid_roc_auc", "epochs")}
    seconds = round(time.perf_counter() - started, 1)
    return {"call": call, **params, **outcome, "seed": seed, "seconds": seconds}


def _plain(point: list[Any]) -> list[Any]:
    """Return a point with Python's own types: scikit-optimize gives NumPy's."""
    return [value.item() if hasattr(value, "item") else value for value in point]


def load_result(folder: str | Path, settings: Config) -> OptimizeResult:
    """Return scikit-optimize's result of a finished search, its Gaussian process fitted anew.

    Its plots (convergence, evaluations, partial dependence) work on it.
    """
    folder = Path(folder)
    if not (folder / "best.json").is_file():
        raise InputError(f"{folder}: no finished search; expected best.json and trials.csv")
    table = pd.read_csv(folder / "trials.csv")
    names = list(settings.tune.space)
    optimiser = skopt.Optimizer(
        skopt_dimensions(settings.tune.space),
        base_estimator="GP",
        n_initial_points=1,
        random_state=settings.seed,
    )
    points = [_plain(list(row)) for row in table[names].itertuples(index=False)]
    return optimiser.tell(points, [objective_value(auc) for auc in table["roc_auc"]])


def setting_grid(dimension: skopt_space.Dimension, points: int = 25) -> list[Any]:
    """Return values that span a dimension of the search, evenly spaced on its own scale."""
    if isinstance(dimension, skopt_space.Categorical):
        return list(dimension.categories)
    if isinstance(dimension, skopt_space.Integer):
        spaced = np.linspace(dimension.low, dimension.high, points)
        return np.unique(spaced.round().astype(int)).tolist()
    spaced = np.geomspace if dimension.prior == "log-uniform" else np.linspace
    values = spaced(dimension.low, dimension.high, points)
    return values.clip(dimension.low, dimension.high).tolist()


def partial_dependence(
    search: OptimizeResult, names: Sequence[str], samples: int = 200, seed: int = 0
) -> np.ndarray:
    """Return what the Gaussian process predicts for some settings, all others averaged out.

    ``search`` comes from ``load_result``. The result is log10(1 - AUC), one axis a name, on its
    ``setting_grid``: the mean prediction over ``samples`` random settings of the other dimensions
    (Friedman 2001, Annals of Statistics 29, 1189, section 8.2).
    """
    dimensions = search.space.dimensions
    ends = np.cumsum([dimension.transformed_size for dimension in dimensions])
    places, columns = [], []  # of each name, in the transformed space: where, and its grid
    for name in names:
        i = next(i for i, dimension in enumerate(dimensions) if dimension.name == name)
        grid = dimensions[i].transform(setting_grid(dimensions[i]))
        places.append(slice(ends[i] - dimensions[i].transformed_size, ends[i]))
        columns.append(np.reshape(grid, (len(grid), -1)))
    others = search.space.transform(search.space.rvs(samples, random_state=seed))
    result = np.empty([len(column) for column in columns])
    for index in np.ndindex(*result.shape):
        for place, column, k in zip(places, columns, index, strict=True):
            others[:, place] = column[k]
        result[index] = search.models[-1].predict(others).mean()
    return result


def best_params(folder: str | Path) -> dict[str, Any]:
    """Return the parameters that a finished search chose."""
    path = Path(folder) / "best.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the search first")
    try:
        return dict(json.loads(path.read_text())["params"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: found no parameters ({error}); run the search again") from error
