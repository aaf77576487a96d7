"""How good is each feature, which repeat one another, and which are kept for the model.

Judged and chosen on the splits ``train`` and ``valid`` only. The tuning split scores classifiers on
the features alone, after the choice; the last split is not read.

A table of features has one row an image. What is missing (or infinite) has no value; it is never
replaced by a number. Each statistic of a feature is over the images in which it exists, but for
the mutual information and the p-value: these count as well what its absence tells.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.cluster import hierarchy
from sklearn.feature_selection import mutual_info_classif
from sklearn.metrics import mutual_info_score, roc_auc_score

from vitdm.config import Selection, Settings
from vitdm.data.dataset import Dataset, read_features
from vitdm.errors import InputError
from vitdm.evaluation.metrics import bootstrap_interval, weighted_auc
from vitdm.features.selected import feature_groups
from vitdm.model import baselines
from vitdm.provenance import atomic, check_replaceable, sidecar, write_json

RULE = (
    "Of each cluster of features that repeat one another, one is kept if any of them is "
    "significant in the ranking or if the cluster's permutation importance on valid exceeds its "
    "limit: the one with the smallest q-value, among equals with the largest ROC-AUC. If no "
    "cluster qualifies, the best feature of the most important one is kept."
)
FILES = ("ranking.csv", "correlation.csv", "importance.csv", "scores.csv", "predictions.csv")
FILES += ("selection.json", "select.json")
CHOOSES = "gradient boosting"  # the baseline whose permutation importance counts for the choice
FEW = 20  # at most so many different whole numbers are counted, more are treated as continuous


# --------------------------------------------------------------------------- weighted statistics


def weighted_pearson(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the correlation (B,) of samples in which image i stands ``weights[b, i]`` times.

    With ``labels`` (n,) of 0 and 1 it is the point-biserial correlation; 0 if a sample is constant.
    """
    x, y, n = scores - scores.mean(), labels - labels.mean(), weights.sum(axis=1)
    mean_x, mean_y = weights @ x / n, weights @ y / n
    covariance = weights @ (x * y) / n - mean_x * mean_y
    return _ratio(covariance, weights @ x**2 / n - mean_x**2, weights @ y**2 / n - mean_y**2)


def weighted_spearman(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the correlation (B,) of the labels with the ranks of the scores; see above.

    Ranks of equal scores, and of the copies of an image, are their mean.
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    copies = np.add.reduceat(weights[:, order], starts, axis=1)  # of each different score
    positive = np.add.reduceat(weights[:, order] * labels[order], starts, axis=1)
    n = weights.sum(axis=1)
    rank = (np.cumsum(copies, axis=1) - (copies + n[:, None]) / 2) / n[:, None]  # mean 0
    mean_y = positive.sum(axis=1) / n
    covariance = np.einsum("bi,bi->b", positive, rank) / n
    return _ratio(covariance, np.einsum("bi,bi->b", copies, rank**2) / n, mean_y * (1 - mean_y))


def _ratio(covariance: np.ndarray, variance_x: np.ndarray, variance_y: np.ndarray) -> np.ndarray:
    scale = np.sqrt(np.clip(variance_x * variance_y, 0, None))
    return np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 1e-300)


def mutual_information(values: np.ndarray, labels: np.ndarray, seed: int = 0) -> float:
    """Return the mutual information, in nats, of a feature (n,) with labels (n,) of 0 and 1.

    A missing value (NaN) is one more outcome, so that by the chain rule
    I = I(exists; label) + P(exists) I(value; label | exists). Few whole numbers are counted; else
    the second term is from nearest neighbours (Ross 2014, doi:10.1371/journal.pone.0087357).
    """
    known = np.isfinite(values)
    information = _counted(known, labels)
    x, y = values[known], labels[known]
    if min(np.bincount(y, minlength=2)) < 5 or len(different := np.unique(x)) < 2:
        return information
    if len(different) <= FEW and (different == different.round()).all():
        return information + known.mean() * _counted(x, y)
    # ranks: the information of an increasing function is the same, and long tails do no harm
    ranks = stats.rankdata(x)[:, None]
    return information + known.mean() * float(mutual_info_classif(ranks, y, random_state=seed)[0])


def _counted(outcomes: np.ndarray, labels: np.ndarray) -> float:
    """Return the mutual information of K outcomes with the labels, from their counts.

    Less (K - 1)/2n, which chance alone gives to independent ones (Miller 1955); at least 0.
    """
    chance = (len(np.unique(outcomes)) - 1) / (2 * len(outcomes))
    return max(float(mutual_info_score(outcomes, labels)) - chance, 0.0)


def mutual_information_interval(
    values: np.ndarray, labels: np.ndarray, n: int, seed: int
) -> tuple[float, float]:
    """Return the 95 % interval of the mutual information, from ``n`` halves of the images.

    A bootstrap draws images twice, at no distance from themselves: nearest neighbours then find
    information where there is none. Halves drawn without replacement (a delete-half jackknife, Shao
    and Wu 1989, Annals of Statistics 17, 1176) have no such copies, and their scatter estimates
    that of the whole sample: var = sigma²/(n/2) - sigma²/n = sigma²/n. The interval is the value
    ± 1.96 of their s.d., cut at 0; NaN if all halves agree.
    """
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    sides = [np.flatnonzero(labels == side) for side in (0, 1)]
    halves = []
    for _ in range(n):
        rows = [generator.permutation(side)[: len(side) // 2] for side in sides]
        rows = np.concatenate(rows)
        halves.append(mutual_information(values[rows], labels[rows], seed))
    value, reach = mutual_information(values, labels, seed), 1.96 * np.std(halves, ddof=1)
    return (max(value - reach, 0.0), value + reach) if reach else (np.nan, np.nan)


def p_value(
    values: np.ndarray, labels: np.ndarray, test: Callable[..., Any] = stats.mannwhitneyu
) -> float:
    """Return the probability of such a feature (n,) if it had nothing to do with the labels (n,).

    ``test`` of the values, by default the two-sided one of Mann and Whitney (that of ROC-AUC =
    1/2), and, if some are missing (NaN) in one class or both, Fisher's exact test of their absence;
    the smaller of two p-values counts double. 1 if the feature never varies.
    """
    known = np.isfinite(values)
    sides = [values[known & (labels == side)] for side in (0, 1)]
    tests = []
    if all(map(len, sides)) and len(np.unique(values[known])) > 1:
        tests.append(float(test(*sides).pvalue))
    if not known.all() and known.any():
        counts = [
            [np.sum(there & (labels == side)) for side in (0, 1)] for there in (known, ~known)
        ]
        tests.append(float(stats.fisher_exact(counts).pvalue))
    return min(1.0, len(tests) * min(tests)) if tests else 1.0


# --------------------------------------------------------------------------------- the ranking


def rank(
    table: pd.DataFrame, labels: np.ndarray, groups: dict[str, str], settings: Selection, seed: int
) -> pd.DataFrame:
    """Return one row a feature, the best first: how well it tells the labels (n,) apart by itself.

    ``table`` (n, F) has a column a feature. Columns: name, group, measured (fraction of the images
    in which it exists), roc_auc (of max(A, 1 - A)) and sign (1: larger with label 1),
    point_biserial, spearman, mutual_information [nats], each of the four with _low and _high of a
    95 % interval; p, q (Benjamini and Hochberg 1995, J. R. Stat. Soc. B 57, 289, over the whole
    table) and significant (q at most ``settings.fdr``). The direction is that of the whole sample,
    so that the interval of a useless feature reaches below 1/2. A feature that never varies has no
    statistics.
    """
    rows = []
    for name in table:
        values = table[name].to_numpy(float)
        row = {"name": name, "group": groups.get(name, "other")}
        rows.append(row | _judge(values, labels, settings, seed))
    ranking = pd.DataFrame(rows)
    ranking["q"] = stats.false_discovery_control(ranking["p"])
    ranking["significant"] = ranking["q"] <= settings.fdr
    return ranking.sort_values("roc_auc", ascending=False, kind="stable").reset_index(drop=True)


def _judge(
    values: np.ndarray, labels: np.ndarray, settings: Selection, seed: int
) -> dict[str, float]:
    values = np.where(np.isfinite(values), values, np.nan)
    known = np.isfinite(values)
    x, y = values[known], labels[known]
    row: dict[str, float] = {"measured": float(known.mean()), "sign": 1}
    names = ("roc_auc", "point_biserial", "spearman", "mutual_information")
    row |= {f"{name}{end}": np.nan for name in names for end in ("", "_low", "_high")}
    row["p"] = p_value(values, labels)
    if len(np.unique(y)) < 2 or len(np.unique(x)) < 2:
        return row
    row["sign"] = 1 if roc_auc_score(y, x) >= 0.5 else -1
    for name, statistic, scores, lowest in (
        ("roc_auc", weighted_auc, row["sign"] * x, 0),
        ("point_biserial", weighted_pearson, x, -1),
        ("spearman", weighted_spearman, x, -1),
    ):
        interval = bootstrap_interval(
            statistic, y, [scores], settings.n_bootstrap, seed, lowest=lowest
        )
        row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    low, high = mutual_information_interval(values, labels, settings.n_subsamples, seed)
    value = mutual_information(values, labels, seed)
    row |= {"mutual_information": value}
    return row | {"mutual_information_low": low, "mutual_information_high": high}


# ------------------------------------------------------------------------------- the redundancy


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rank correlations of all pairs, each over the images in which both exist.

    Features that repeat one another stand side by side (order of the clustering's leaves). NaN
    where fewer than ten images have both, or one never varies.
    """
    matrix = table.replace([np.inf, -np.inf], np.nan).corr(method="spearman", min_periods=10)
    order = hierarchy.leaves_list(_linkage(matrix)) if len(matrix) > 1 else [0]
    return matrix.iloc[order, order]


def clusters(matrix: pd.DataFrame, correlation: float) -> dict[str, int]:
    """Return the cluster, numbered from 1 in the order of the rows, of each feature.

    Complete linkage on 1 - |rho|: any two features of a cluster have |rho| >= ``correlation``.
    """
    if len(matrix) < 2:
        return dict.fromkeys(matrix.index, 1)
    # the tolerance keeps copies together at a threshold of 1, in spite of rounding
    numbers = hierarchy.fcluster(_linkage(matrix), 1 - correlation + 1e-9, criterion="distance")
    number = {label: k for k, label in enumerate(dict.fromkeys(numbers), start=1)}
    return {name: number[label] for name, label in zip(matrix.index, numbers, strict=True)}


def _linkage(matrix: pd.DataFrame) -> np.ndarray:
    distance = 1 - np.nan_to_num(matrix.abs().to_numpy())
    return hierarchy.linkage(distance[np.triu_indices(len(matrix), 1)].clip(0), method="complete")


# ----------------------------------------------------------------------------------- the choice


def choose(ranking: pd.DataFrame, importance: pd.DataFrame, importance_sd: float) -> list[str]:
    """Return the names of the features that are kept, in the order of the ranking; see ``RULE``.

    ``ranking`` as from ``rank`` with a column cluster; ``importance`` has one row a cluster, with
    the columns cluster, importance and sd.
    """
    limit = importance_sd * importance["sd"]
    useful = set(importance["cluster"][importance["importance"] > limit])
    ordered = ranking.sort_values(["q", "roc_auc"], ascending=[True, False], kind="stable")
    best = ordered.groupby("cluster").first()
    kept = best[best["significant"] | best.index.isin(useful)]
    if kept.empty:
        most = importance.loc[importance["importance"].idxmax(), "cluster"]
        kept = best.loc[[most]]
    return [name for name in ranking["name"] if name in set(kept["name"])]


def select(
    processed: str | Path,
    features_csv: str | Path,
    settings: Settings,
    out: str | Path,
    ranking_only: bool = False,
) -> dict[str, Any] | None:
    """Judge and choose features, write the folder ``out`` and return its ``selection.json``.

    ``processed`` is a data set folder, of which the catalog is read; label 1 is any substructure.
    ``ranking.csv`` (as from ``rank``, with cluster and kept), ``correlation.csv`` and
    ``importance.csv`` (of each cluster, by baseline: the fall of the ROC-AUC on ``valid``) are from
    ``train`` and ``valid``. ``scores.csv`` has the ROC-AUC of each baseline on ``opt``, trained on
    ``train`` with each group of features, with all and with those kept; ``predictions.csv`` the
    scores with all. ``ranking_only`` leaves it at ranking.csv, for a data set without these splits.
    InputError if a split lacks images of either kind, or the table lacks images.
    """
    started, chosen = time.time(), settings.selection
    check_replaceable(out, FILES)
    data = Dataset.open(processed)
    table = read_features(features_csv, data).reset_index(drop=True).astype(float)
    if table.empty:
        raise InputError(f"{features_csv}: found no features; expected at least one column")
    labels, _ = data.labels("binary")
    known = data.rows("train") if ranking_only else data.rows("train", "valid")
    ranking = rank(
        table.iloc[known], labels[known], feature_groups(settings.features), chosen, settings.seed
    )
    tables = {"ranking": ranking}
    result = None
    if not ranking_only:
        matrix = correlations(table.iloc[known])
        members = clusters(matrix, chosen.correlation)
        ranking.insert(2, "cluster", ranking["name"].map(members))
        importance = _importance(table, labels, data, members, settings)
        first = importance[importance["model"] == CHOOSES]
        names = choose(ranking, first, chosen.importance_sd)
        ranking["kept"] = ranking["name"].isin(names)
        scores, predictions = _scores(table, labels, data, ranking, settings)
        tables |= {"importance": importance, "scores": scores, "predictions": predictions}
        tables["correlation"] = matrix.rename_axis("name").reset_index()
        result = {"features": names, "rule": RULE, **chosen.model_dump()}
        result |= {"n_features": len(ranking), "n_significant": int(ranking["significant"].sum())}
        result |= {"splits": ["train", "valid"], "n_images": len(known)}
    with atomic(out) as folder:
        folder.mkdir()
        for name, content in tables.items():
            content.to_csv(folder / f"{name}.csv", index=False)
        if result is not None:
            write_json(folder / "selection.json", result)
        sidecar(
            folder / "select.json",
            rule="select",
            seed=settings.seed,
            config={"selection": chosen, "features": settings.features},
            inputs=[Path(processed) / "catalog.csv", Path(features_csv)],
            started=started,
        )
    return result


def _importance(
    table: pd.DataFrame,
    labels: np.ndarray,
    data: Dataset,
    members: dict[str, int],
    settings: Settings,
) -> pd.DataFrame:
    """Return model, cluster, features, importance, sd: of each cluster on ``valid``."""
    train, valid = data.rows("train"), data.rows("valid")
    values, place = table.to_numpy(), {name: k for k, name in enumerate(table)}
    blocks: dict[int, list[str]] = {}
    for name, cluster in members.items():
        blocks.setdefault(cluster, []).append(name)
    columns = [[place[name] for name in names] for names in blocks.values()]
    rows = []
    for model in baselines.BASELINES:
        score = baselines.trained(model, values[train], labels[train], settings.seed)
        mean, sd = baselines.permutation_importance(
            lambda changed, score=score: roc_auc_score(labels[valid], score(changed)[:, 1]),
            values[valid],
            columns,
            settings.selection.n_repeats,
            settings.seed,
        )
        rows += [
            (model, cluster, " ".join(names), mean[k], sd[k])
            for k, (cluster, names) in enumerate(blocks.items())
        ]
    return pd.DataFrame(rows, columns=["model", "cluster", "features", "importance", "sd"])


def _scores(
    table: pd.DataFrame,
    labels: np.ndarray,
    data: Dataset,
    ranking: pd.DataFrame,
    settings: Settings,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the table of ROC-AUC on ``opt``, and the scores of the baselines with all features."""
    train, opt = data.rows("train"), data.rows("opt")
    sets = {group: part["name"] for group, part in ranking.groupby("group", sort=True)}
    sets |= {"selected": ranking["name"][ranking["kept"]], "all": ranking["name"]}
    predictions = data.catalog.iloc[opt][["id", "class"]].reset_index(drop=True)
    strata, rows = predictions["class"].to_numpy(), []
    for model in baselines.BASELINES:
        for label, names in sets.items():
            values = table[list(names)].to_numpy()
            score = baselines.trained(model, values[train], labels[train], settings.seed)
            scores = score(values[opt])[:, 1]
            interval = bootstrap_interval(
                weighted_auc,
                labels[opt],
                [scores],
                settings.selection.n_bootstrap,
                settings.seed,
                strata=strata,
            )
            rows.append((model, label, len(names), *interval, len(train), len(opt)))
        predictions[model.replace(" ", "_")] = scores  # of the last set, all features
    columns = ["model", "features", "n_features", "roc_auc", "roc_auc_low", "roc_auc_high"]
    return pd.DataFrame(rows, columns=[*columns, "n_train", "n_scored"]), predictions
