"""False alarms and completeness of each search on lenses that are unlike what it is told.

Rows are those of ``studies.misspecified``, columns the ``METHODS``. Of each lens the numbers of all
searches are measured in blocks (``score_block``), which go side by side and are kept. ``merge``
trains the methods that learn on nominal lenses, fixes each threshold on other nominal lenses
without substructure, and applies both to the rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, RobustScaler

from studies.config import Config, Misspecification
from studies.config.studies import CALIBRATION, TRAINING
from studies.misspecified import LINE_OF_SIGHT, NOMINAL, observed, row_of
from vitdm import config, lens, predict
from vitdm.data.dataset import read_catalog
from vitdm.data.observation import Observation
from vitdm.errors import InputError
from vitdm.evaluation.metrics import delong_interval
from vitdm.lens import Fits
from vitdm.model.runs import Run
from vitdm.pretrained import load_pretrained
from vitdm.provenance import atomic, check_replaceable, config_hash, read_json, sidecar
from vitdm.simulation import NO_SUB, load_population

if TYPE_CHECKING:
    from vitdm.lens.perturbers import Search

BLOCK = ("scores.csv", "scores.json")
MERGED = ("misspecification.csv", "misspecification.json")
#: index of the first lens of each kind. Those of other studies with the same seed are below
SMOOTH, PERTURBED, CALIBRATING, LEARNING = (k * 1_000_000 for k in (1, 2, 3, 4))
#: columns of the matrix, in the words of the figure
METHODS = {
    "evidence": "evidence (Sérsic fit)",
    "network": "network (Sérsic fit)",
    "search": "search",
    "twins": "twins",
    "trees": "trees on the search",
    "learned": "network on the search",
}
LEVELS = (1, 5)  # %, false positives on nominal lenses
QUANTILES = (1, 5, 25, 50, 75, 95, 99)  # %, of the S/N map
#: what is learned from: numbers of a search, and of the fit that it starts from
NUMBERS = (
    "score",
    "misfit",
    "amplitude",
    "p_value",
    "snr_max",
    "snr_rms",
    *(f"snr_q{q:02d}" for q in QUANTILES),
)
NUMBERS += ("chi2", "chi2_arcs", "ln_evidence")
#: settings that the numbers of a lens depend on
OF_LENSES = {"population", "lens_light", "splines", "most_splines", "supersampling", "twins"}


# ---------------------------------------------------------------------------------- which lenses


class Member(NamedTuple):
    """A lens: its index in the population, and its class."""

    index: int
    kind: str


def members(name: str, settings: Misspecification) -> list[Member]:
    """Return the lenses of a row, or of ``CALIBRATION`` or ``TRAINING``; InputError if it is none.

    Perturbed lenses take turns among the classes of the settings, or all of the population; on the
    line of sight they have one clump there, and none inside.
    """
    known = [k for k in load_population(settings.population).class_fractions if k != NO_SUB]
    kinds = settings.perturbed or known

    def perturbed(first: int, n: int) -> list[Member]:
        return [Member(first + i, kinds[i % len(kinds)]) for i in range(n)]

    if name == CALIBRATION:
        return [Member(CALIBRATING + i, NO_SUB) for i in range(settings.n_calibration)]
    if name == TRAINING:
        half = settings.n_training // 2
        smooth = [Member(LEARNING + i, NO_SUB) for i in range(half, settings.n_training)]
        return smooth + perturbed(LEARNING, half)
    row_of(name)
    found = perturbed(PERTURBED, settings.n_perturbed)
    if name == LINE_OF_SIGHT:
        found = [Member(index, LINE_OF_SIGHT) for index, _ in found]
    return [Member(SMOOTH + i, NO_SUB) for i in range(settings.n_smooth)] + found


def block(name: str, k: int, settings: Misspecification) -> list[Member]:
    """Return the lenses of block ``k`` of a row or set; InputError if there is none."""
    found, size = members(name, settings), settings.block
    if not 0 <= k * size < len(found):
        last = settings.blocks(name) - 1
        raise InputError(f"{name}: found no block {k}; expected one from 0 to {last}")
    return found[k * size : (k + 1) * size]


# ------------------------------------------------------------------------------- numbers of a lens


def score_block(name: str, k: int, settings: Config, out: str | Path) -> pd.DataFrame:
    """Search the lenses of block ``k`` of a row or set; write ``out``, return a row for each.

    scores.csv has row, lens (its index), class, and the numbers of ``measured``. A block that is
    there already, of the same settings, is kept. InputError if there is no such row or block.
    """
    started, cpu, chosen = time.time(), time.process_time(), settings.misspecification
    some = block(name, k, chosen)
    made_with = _made_with(settings, some)
    if _is_kept(Path(out), made_with):
        return read_catalog(Path(out) / BLOCK[0])
    check_replaceable(out, BLOCK)
    row = NOMINAL if name in (CALIBRATION, TRAINING) else name
    lenses = [observed(row, *member, settings.seed, chosen.population) for member in some]
    table = pd.DataFrame(some, columns=["lens", "class"])
    table.insert(0, "row", name)
    table = pd.concat([table, measured(lenses, table["lens"], chosen)], axis=1)
    with atomic(out) as temporary:
        temporary.mkdir()
        table.to_csv(temporary / BLOCK[0], index=False, float_format="%.9g")
        sidecar(
            temporary / BLOCK[1],
            rule="misspecification",
            seed=settings.seed,
            config=made_with,
            started=started,
            cpu_seconds=round(time.process_time() - cpu, 1),
        )
    return table


def _made_with(settings: Config, lenses: Iterable[tuple[int, str]]) -> dict[str, Any]:
    """Return all that the numbers of some lenses depend on."""
    chosen = settings.misspecification.model_dump(mode="json", include=OF_LENSES)
    known = [[int(index), str(kind)] for index, kind in lenses]
    return {"seed": settings.seed, "settings": chosen, "lenses": known}


def _is_kept(out: Path, made_with: dict[str, Any]) -> bool:
    if not all((out / file).is_file() for file in BLOCK):
        return False
    return read_json(out / BLOCK[1])["config_sha256"] == config_hash(made_with)


def measured(
    lenses: Sequence[Observation],
    seeds: Sequence[int],
    settings: Misspecification,
    run: Run | None = None,
) -> pd.DataFrame:
    """Return what all searches measure of lenses (n,), a row each.

    ``evidence`` is that of a point mass in the residual of the Sérsic fit, converged or not;
    ``network`` the probability of substructure by the reference model, or by ``run``; ``NUMBERS``
    are those of the marginalised search, NaN where none was possible (``fitted`` is 0).
    ``converged`` tells of its fit. ``seeds`` (n,) are those of the twins.
    """
    run = run or load_pretrained()
    seen = predict.prepare(
        lenses, run.settings, [*run.feature_names, "fit_theta_E"], run.settings.model.residual
    )
    inputs = seen.features[run.feature_names].to_numpy(np.float32)
    smooth = run.predict(seen.crops, inputs, seen.residuals)[:, run.classes.index(NO_SUB)]
    table = pd.DataFrame({"evidence": lens.features(seen.fits)["fit_point_evidence"]})
    table["network"] = 1 - smooth
    rows = [
        _searched(observation, seen.fits.row(k), int(seed), settings)
        for k, (observation, seed) in enumerate(zip(lenses, seeds, strict=True))
    ]
    columns = ["fitted", "converged", *NUMBERS]
    return pd.concat([table, pd.DataFrame(rows, columns=columns)], axis=1)


def _searched(
    observation: Observation, start: Fits, seed: int, settings: Misspecification
) -> dict[str, float]:
    """Return the numbers of the marginalised search of a lens."""
    free = config.FreeForm(
        lens_light=settings.lens_light,
        neighbours=False,
        cosmic_rays=False,
        splines=settings.splines,
        most_splines=settings.most_splines,
        supersampling=settings.supersampling,
    )
    chosen = config.Perturbers(
        profiles=("isothermal",), detect="isothermal", peaks=0, twins=settings.twins, seed=seed
    )
    try:
        (model,) = lens.fit([observation], free, start=start)
        search = lens.search(model, chosen)
    except (InputError, np.linalg.LinAlgError):  # too few pixels, or a matrix that is singular
        return {"fitted": 0, "converged": 0}
    return {"fitted": 1, "converged": int(model.converged)} | numbers_of(search)


def numbers_of(search: Search) -> dict[str, float]:
    """Return ``NUMBERS`` of a search, what the learned methods learn from."""
    found = search.maps[search.settings.detect]
    snr = found.snr[np.isfinite(found.snr)]
    quantiles = np.quantile(snr, np.array(QUANTILES) / 100)
    model, peak = search.model, np.nanargmax(found.snr)
    return {
        "score": search.score,
        "misfit": search.misfit,
        "amplitude": found.amplitude[peak],
        "p_value": search.p_value,
        "snr_max": float(snr.max()),
        "snr_rms": float(np.sqrt(np.mean(snr**2))),
        **{f"snr_q{q:02d}": value for q, value in zip(QUANTILES, quantiles, strict=True)},
        "chi2": model.chi2,
        "chi2_arcs": model.chi2_arcs,
        "ln_evidence": model.evidence,
    }


# ---------------------------------------------------------------------------- scores of a method


def trees(seed: int) -> HistGradientBoostingClassifier:
    """Return trees for some hundred lenses; they take missing numbers as they are."""
    return HistGradientBoostingClassifier(
        learning_rate=0.05, max_iter=150, max_leaf_nodes=8, l2_regularization=1.0,
        early_stopping=False, random_state=seed,
    )  # fmt: skip


def network(seed: int) -> Pipeline:
    """Return a network of one hidden layer; numbers are scaled, and large ones compressed."""
    return make_pipeline(
        SimpleImputer(strategy="median"),
        RobustScaler(quantile_range=(16, 84)),
        FunctionTransformer(np.arcsinh),
        MLPClassifier((16,), alpha=1.0, max_iter=2000, random_state=seed),
    )


def scores(tables: pd.DataFrame, training: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the score of each of the ``METHODS`` for lenses (rows); higher: more perturbed.

    The learned ones are trained on ``training``. A lens without a value gets the lowest score of
    all: nothing was found in it.
    """
    found = {name: tables[name] for name in ("evidence", "network")}
    found |= {"search": tables["score"], "twins": 1 - tables["p_value"]}
    labels = (training["class"] != NO_SUB).astype(int)
    columns = list(NUMBERS)
    for name, made in (("trees", trees(seed)), ("learned", network(seed))):
        made.fit(training[columns].to_numpy(), labels)
        found[name] = pd.Series(made.predict_proba(tables[columns].to_numpy())[:, 1], tables.index)
        found[name] = found[name].where(tables["fitted"] == 1)
    return pd.DataFrame({name: found[name].fillna(found[name].min() - 1) for name in METHODS})


# ------------------------------------------------------------------------------------ the matrix


def threshold(nominal: NDArray, level: float) -> float:
    """Return the score above which a new nominal lens is with probability ``level``.

    ``nominal`` (n,) are scores of such lenses. The k-th highest of n is exceeded with the
    probability k / (n + 1) on average (Weibull 1939); between two of them it is interpolated. Of
    fewer than 1 / level - 1 lenses it is the highest.
    """
    return float(np.quantile(nominal, 1 - level, method="weibull"))


def share(called: NDArray) -> tuple[float, float, float]:
    """Return the share of lenses (n,) that are called, and its 95 % interval.

    Clopper & Pearson (1934); NaN where there is no lens.
    """
    if not len(called):
        return (np.nan,) * 3
    test = stats.binomtest(int(called.sum()), len(called))
    interval = test.proportion_ci(0.95, method="exact")
    return test.statistic, interval.low, interval.high


def matrix(tables: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return a row for each misspecification and method, from the numbers of all lenses.

    ``tables`` are those of ``score_block`` together. Columns: row, group, label, method; n_smooth,
    n_perturbed, n_failed (lenses without a search); n_calibration; for each of the ``LEVELS``
    threshold, fpr (share of smooth lenses above it) and completeness (of perturbed ones), with
    their intervals (``share``); roc_auc with low and high (DeLong). Lenses are called by p <= level
    of twins, whatever nominal lenses have.
    """
    training = tables[tables["row"] == TRAINING]
    others = tables[tables["row"] != TRAINING].reset_index(drop=True)
    scored = scores(others, training, seed)
    nominal = scored[others["row"] == CALIBRATION]
    rows = []
    for name in [row for row in others["row"].unique() if row != CALIBRATION]:
        here, chosen = others["row"] == name, row_of(name)
        perturbed = (others["class"][here] != NO_SUB).to_numpy()
        about = {"row": name, "group": chosen.group, "label": chosen.label}
        counts = {"n_smooth": int((~perturbed).sum()), "n_perturbed": int(perturbed.sum())}
        counts |= {"n_failed": int((others["fitted"][here] == 0).sum())}
        for method in METHODS:
            own, fixed = scored[method][here].to_numpy(), nominal[method].to_numpy()
            rows.append(about | {"method": method} | counts | _cell(method, own, perturbed, fixed))
    return pd.DataFrame(rows)


def _cell(method: str, own: NDArray, perturbed: NDArray, nominal: NDArray) -> dict[str, float]:
    """Return the numbers of one method on one row."""
    cell: dict[str, float] = {"n_calibration": len(nominal)}
    for percent in LEVELS:
        if method == "twins":  # p <= level, with room for the last digit of 1 - p
            limit = 1 - percent / 100
            called = own >= limit - 1e-9
        else:
            limit = threshold(nominal, percent / 100)
            called = own > limit
        cell[f"threshold_{percent}"] = limit
        for kind, some in (("fpr", ~perturbed), ("completeness", perturbed)):
            names = [f"{kind}_{percent}{end}" for end in ("", "_low", "_high")]
            cell |= dict(zip(names, share(called[some]), strict=True))
    if perturbed.any() and not perturbed.all():
        area = delong_interval(perturbed.astype(int), [own])
        cell |= {"roc_auc": area.value, "low": area.low, "high": area.high}
    return cell


def merge(folder: str | Path, settings: Config, out: str | Path) -> pd.DataFrame:
    """Join the blocks ``<part>/<k>`` in a folder; write ``out``, return the ``matrix``.

    Rows stand in the order of the settings. InputError if a block is missing, or was made with
    other settings.
    """
    started, chosen, tables, seconds = time.time(), settings.misspecification, [], 0.0
    check_replaceable(out, MERGED)
    places = {
        Path(folder) / part / str(k): block(part, k, chosen)
        for part in chosen.parts
        for k in range(chosen.blocks(part))
    }
    for place, lenses in places.items():
        if not _is_kept(place, _made_with(settings, lenses)):
            raise InputError(f"{place}: not there, or of other settings; expected {BLOCK[0]} of it")
        tables.append(read_catalog(place / BLOCK[0]))
        seconds += read_json(place / BLOCK[1])["cpu_seconds"]
    table = matrix(pd.concat(tables, ignore_index=True), settings.seed)
    with atomic(out) as temporary:
        temporary.mkdir()
        table.to_csv(temporary / MERGED[0], index=False, float_format="%.6g")
        sidecar(
            temporary / MERGED[1],
            rule="merge_misspecification",
            seed=settings.seed,
            config=chosen,
            inputs=[place / BLOCK[0] for place in places],
            started=started,
            cpu_seconds=round(seconds, 1),
            lenses=sum(map(len, tables)),
        )
    return table
