"""Models of simulated lenses on real ones: what they say, and how unlike the two are.

For each set of ``real_sky.sets`` a network and gradient boosting learn from simulated lenses, and
tell the probability of substructure of others that were held out, and of the real ones. Several
trainings differ in random numbers and images. What a model says can be trusted where real lenses
look like simulated ones. Two-sample tests ask for that: of each feature by itself, and of all of
them together; and the rank of each real value among the simulated ones shows which lens is where.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from scipy.spatial.distance import cdist

from studies import config as workflow
from studies.config import Config, RealSet
from studies.efficiency import BOOSTING, Sample
from studies.real_lenses import without
from vitdm.config import Settings
from vitdm.data import layouts, readers
from vitdm.data.dataset import Dataset, read_catalog, read_features
from vitdm.errors import InputError
from vitdm.evaluation.metrics import NULL_CLASS, Interval, bootstrap_interval, roc_auc, weighted_auc
from vitdm.evaluation.selection import p_value
from vitdm.features import LENSFIT, measure_dataset
from vitdm.features.definitions import definitions
from vitdm.features.selected import feature_groups
from vitdm.lens import fit, usable_features
from vitdm.model import baselines
from vitdm.model.inputs import Tables, first_rows
from vitdm.model.runs import Run, Splits, load_run, train_run
from vitdm.predict import prepare
from vitdm.preprocess import process_dataset
from vitdm.provenance import atomic, check_replaceable, sidecar

PREDICTION_FILES = ("images.csv", "real_sky.json")
REAL_SKY_FILES = ("real_sky.csv", "real_sky_images.csv", "real_sky_scores.csv")
REAL_SKY_FILES += ("real_sky_shift.csv", "real_sky_ranks.csv", "real_sky.json")
MODELS = ("network", "boosting")
ABOUT = ["id", "class", "real", *MODELS]  # columns of images.csv; the others are features
ANSWERS = ["model", "n_scored", "roc_auc", "low", "high", "n_real", "real_roc_auc"]
ANSWERS += ["real_low", "real_high", "n_right", "right_low", "right_high"]
ALL = "all features"  # the joint test
EDGES = np.linspace(0, 1, 26)  # of the bins of the scores


class Answers(NamedTuple):
    """The tables of ``merge_predictions``, in the order of ``REAL_SKY_FILES``."""

    table: pd.DataFrame
    images: pd.DataFrame
    scores: pd.DataFrame
    shift: pd.DataFrame
    ranks: pd.DataFrame

    @classmethod
    def read(cls, folder: str | Path) -> Answers:
        """Read what ``merge_predictions`` wrote."""
        return cls(*(read_catalog(Path(folder) / file) for file in REAL_SKY_FILES[:-1]))

    def of(self, name: str) -> Answers:
        """Return the tables of one set."""
        tables = (table[table["set"] == name].drop(columns="set") for table in self)
        return Answers(*(table.reset_index(drop=True) for table in tables))


# -------------------------------------------------------------------------------- the real images


class Real(NamedTuple):
    """Real images (H, W), each with a name and a class ("" if unknown), and features of fits."""

    names: list[str]
    classes: list[str]
    images: list[NDArray]
    fitted: pd.DataFrame | None  # (n, F), NaN where a fit did not converge


def real_images(chosen: RealSet) -> Real:
    """Read a set of real images; those of ``chosen.cutouts`` get the features of fitted lenses.

    InputError if the folder holds none, or an image cannot be read.
    """
    place = Path(chosen.images)
    if chosen.cutouts is None:
        kinds = {entry.name: entry.kind for entry in layouts.find(place).entries}
        read = {name: picture() for name, picture in layouts.pictures(place) if name in kinds}
        images = [readers.fill_missing(read[name].pixels, name) for name in sorted(kinds)]
        names = [Path(name).stem for name in sorted(kinds)]
        return Real(names, [kinds[name] for name in sorted(kinds)], images, None)
    known = workflow.load_cutouts(chosen.cutouts)
    files = sorted(file for file in place.iterdir() if file.name in known.cutouts)
    if not files:
        raise InputError(f"{place}: found none of {chosen.cutouts}; expected some of its cutouts")
    lenses = [known.cutouts[file.name] for file in files]
    images = [image for _, image in readers.load_images(files)]
    fitted = None
    if "lensfit" in chosen.groups:
        masked = [without(image, lens.mask) for image, lens in zip(images, lenses, strict=True)]
        fits = fit(np.stack(masked), known.lensfit, pixel_scale=known.pixel_scale)
        fitted = usable_features(fits)
    return Real([lens.name for lens in lenses], [""] * len(lenses), images, fitted)


# ------------------------------------------------------------------------------------ the models


class Models(NamedTuple):
    """A network and boosted trees that learned from the same images."""

    network: Run
    boosting: baselines.Scorer

    def table(self, about: pd.DataFrame, images: NDArray, features: pd.DataFrame) -> pd.DataFrame:
        """Return ``about``, the probability of substructure by ``MODELS``, and the features.

        ``images`` (n, size, size) are processed; ``features`` has all features, NaN where missing.
        """
        joined = features[self.network.feature_names].to_numpy(np.float32)
        probabilities = self.network.predict(images, joined), self.boosting(features.to_numpy())
        answers = {name: 1 - p[:, 0] for name, p in zip(MODELS, probabilities, strict=True)}
        parts = [about.assign(**answers), features]
        return pd.concat([part.reset_index(drop=True) for part in parts], axis=1)


def train_and_predict(
    folder: str | Path, settings: Config, name: str, seed: int, out: str | Path
) -> pd.DataFrame:
    """Train the models of a set on the sample in ``folder``; write ``out``, return its table.

    images.csv has a row for each simulated image that was held out and for each real one: id,
    class, real (0 or 1), the probability of substructure by ``MODELS``, and the features. The
    sample holds dataset and, if the set has features of fitted lenses, lensfit. InputError if there
    is no such set, its images are not there, or the sample is too small.
    """
    started = time.time()
    check_replaceable(out, PREDICTION_FILES)
    if name not in settings.real_sky.sets:
        known = ", ".join(settings.real_sky.sets) or "none"
        raise InputError(f"--set {name}: no such set of real_sky.sets; expected one of: {known}")
    chosen, sample = settings.real_sky.sets[name], Sample(Path(folder))
    if name not in settings.real_sky.present:
        raise InputError(f"real_sky.sets.{name}.images: {chosen.images}: no such folder")
    own, seed = settings.real_set(name), settings.seed + seed
    real = real_images(chosen)
    with tempfile.TemporaryDirectory() as scratch:
        models, held_out = _learned(sample, own, chosen, seed, Path(scratch))
    names = list(definitions(own.features))
    of_image = [feature for feature in names if feature not in LENSFIT]
    seen = prepare(real.images, models.network.settings, of_image, residual=False)
    features = pd.concat([seen.features, real.fitted], axis=1)[names].astype(float)
    about = pd.DataFrame({"id": real.names, "class": real.classes, "real": 1})
    table = pd.concat([held_out, models.table(about, seen.crops, features)], ignore_index=True)
    with atomic(out) as temporary:
        temporary.mkdir()
        table.to_csv(temporary / "images.csv", index=False, float_format="%.7g")
        inputs = [sample.folder / "dataset/images.npy", sample.folder / "dataset/catalog.csv"]
        inputs += [sample.fits / "fits.csv"] * ("lensfit" in chosen.groups)
        sidecar(
            temporary / "real_sky.json",
            rule="real_sky",
            inputs=[*inputs, chosen.images, *[chosen.cutouts] * bool(chosen.cutouts)],
            started=started,
            seed=seed,
            config=_recipe(own, chosen, name),
        )
    return table


def _learned(
    sample: Sample, settings: Settings, chosen: RealSet, seed: int, scratch: Path
) -> tuple[Models, pd.DataFrame]:
    """Train on split ``train`` of a sample; return the models, and their table of ``opt``."""
    raw, processed, file = (
        sample.folder / "dataset",
        scratch / "processed",
        scratch / "features.csv",
    )
    process_dataset(raw, processed, settings.preprocess)
    measure_dataset(raw, file, settings.preprocess, settings.features, sample.fits)
    data = Dataset.open(processed)
    (labels, _), available = data.labels(settings.task), data.rows("train")
    if chosen.n_train > len(available):
        found = f"found {len(available)} images in split train"
        raise InputError(f"{raw}: {found}; expected at least {chosen.n_train}")
    train_run(
        processed,
        scratch / "run",
        settings.model_copy(update={"seed": seed}),
        tables=Tables(file),
        splits=Splits(valid=None, score=None),
        n_train=chosen.n_train,
        label=f"{sample.name} {seed}",
    )
    features = read_features(file, data).astype(float)
    rows = first_rows(available, chosen.n_train, seed)
    boosting = baselines.trained(BOOSTING, features.to_numpy()[rows], labels[rows], seed)
    models = Models(load_run(scratch / "run"), boosting)
    rows = first_rows(data.rows("opt"), chosen.n_scored, settings.seed)
    about = data.catalog[["id", "class"]].iloc[rows].assign(real=0)
    return models, models.table(about, data.images[rows], features.iloc[rows])


def _recipe(settings: Settings, chosen: RealSet, name: str) -> dict[str, Any]:
    """Return all settings that the answers of a set depend on, but for the images."""
    sections = ("model", "train", "preprocess", "features", "seed")
    return {key: getattr(settings, key) for key in sections} | {name: chosen}


# ------------------------------------------------------------------------------- two-sample tests


def placed(values: NDArray) -> NDArray:
    """Return features (n, F) as ranks in (0, 1), and whether they exist, for the joint test.

    A feature that an image lacks gets the rank 1/2; columns of 0 and 1 tell where features exist,
    one for those that are absent together. No feature counts more for its unit, or for a long tail.
    """
    known = np.isfinite(values)
    ranks = stats.rankdata(np.where(known, values, np.nan), axis=0, nan_policy="omit")
    ranks = np.where(known, (ranks - 0.5) / np.maximum(known.sum(axis=0), 1), 0.5)
    return np.hstack([ranks, np.unique(known, axis=1)])


def energy_test(
    values: NDArray, real: NDArray, permutations: int, seed: int
) -> tuple[float, float]:
    r"""Return the energy distance of two samples as a share, from 0 to 1, and p of its test.

    ``values`` (n, F) without gaps, ``real`` (n,) booleans. With X, X' and Y, Y' of either sample
    the distance is :math:`2 E|X-Y| - E|X-X'| - E|Y-Y'|`, here over :math:`2 E|X-Y|` (Szekely and
    Rizzo 2013, doi:10.1016/j.jspi.2013.03.018, eqs. 5 and 8); p is the share of ``permutations`` of
    ``real`` with a distance as large, the true one counted among them.
    """
    distances, n = cdist(values, values), int(real.sum())
    of_each, total = distances.sum(axis=1), distances.sum()

    def share(rows: NDArray) -> float:
        within = distances[np.ix_(rows, rows)].sum()
        between = of_each[rows].sum() - within
        rest, others = total - 2 * between - within, len(values) - n
        apart = 2 * between / (n * others)
        return 1 - (within / n**2 + rest / others**2) / apart if apart else 0.0

    distance = share(np.flatnonzero(real))
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    drawn = [
        share(generator.choice(len(values), n, replace=False, shuffle=False))
        for _ in range(permutations)
    ]
    larger = int((np.array(drawn) >= distance * (1 - 1e-12)).sum())
    return float(distance), (1 + larger) / (1 + permutations)


def shift(
    features: pd.DataFrame, real: NDArray, kinds: dict[str, str], settings: Config
) -> pd.DataFrame:
    """Return how unlike the features (n, F) of real and simulated images are; a row a feature.

    ``real`` (n,) booleans, ``kinds`` the group of each feature. Columns: feature, group, n_real
    (real images that have it), roc_auc (probability that a real value exceeds a simulated one),
    beyond (real values above or below all simulated ones), p (Kolmogorov-Smirnov, and Fisher of
    absence: ``selection.p_value``), q (Benjamini and Hochberg 1995, over the features). The last
    row is of ``ALL`` together: energy, p.
    """
    rows = []
    for name in features:
        values = features[name].to_numpy(float)
        known = np.isfinite(values)
        seen, simulated = values[known & real], values[known & ~real]
        row = {"feature": name, "group": kinds[name], "n_real": len(seen)}
        if len(seen) and len(simulated):
            row |= {"roc_auc": roc_auc(real[known], values[known])}
            row |= {"beyond": int(((seen < simulated.min()) | (seen > simulated.max())).sum())}
        rows.append(row | {"p": p_value(values, real.astype(int), stats.ks_2samp)})
    table = pd.DataFrame(rows)
    table["q"] = stats.false_discovery_control(table["p"])
    chosen = settings.real_sky.permutations, settings.seed
    energy, p = energy_test(placed(features.to_numpy(float)), real, *chosen)
    last = {"feature": ALL, "n_real": int(real.sum()), "energy": energy, "p": p}
    return pd.concat([table, pd.DataFrame([last])], ignore_index=True)


def ranks(features: pd.DataFrame, real: NDArray, ids: Sequence[str]) -> pd.DataFrame:
    """Return where each real value stands among the simulated ones; a row an image and feature.

    Columns: id, feature, value, rank (share of the simulated values below it; half of equal ones
    count), beyond (1: above or below all of them). What an image lacks has none.
    """
    tables = []
    for name in features:
        values = features[name].to_numpy(float)
        seen, simulated = values[real], np.sort(values[~real & np.isfinite(values)])
        low, high = (np.searchsorted(simulated, seen, side) for side in ("left", "right"))
        table = pd.DataFrame({"id": list(ids), "feature": name, "value": seen})
        table["rank"] = (low + high) / 2 / max(len(simulated), 1)
        table["beyond"] = ((high == 0) | (low == len(simulated))).astype(int)
        tables.append(table[np.isfinite(seen)])
    return pd.concat(tables, ignore_index=True)


# ------------------------------------------------------------------------------------ the answers


def small_sample_interval(
    labels: NDArray, scores_list: Sequence[NDArray], level: float = 0.95
) -> Interval:
    """Return the mean ROC-AUC over the seeds with an interval for a handful of images.

    Wilson's (1927) of a proportion of as many trials as the smaller class has images: the variance
    of the area A is at most A (1 - A) over that number (Birnbaum and Klose 1957,
    doi:10.1214/aoms/1177706794). Where all pairs are right a bootstrap shrinks to a point; this
    does not.
    """
    area = float(np.mean([roc_auc(labels, scores) for scores in scores_list]))
    n, z = int(np.bincount(labels, minlength=2).min()), stats.norm.ppf(0.5 + level / 2)
    middle = (area + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(area * (1 - area) / n + z**2 / (4 * n**2))
    return Interval(area, max(0.0, float(middle - half)), min(1.0, float(middle + half)))


def answers(tables: Sequence[pd.DataFrame], settings: Config) -> pd.DataFrame:
    """Return what the models of one set reach, a row each.

    ``tables`` are those of ``train_and_predict``, one a seed. Columns: model, n_scored, roc_auc of
    simulated images with low and high (bootstrap), n_real, and, if their classes are known,
    real_roc_auc with real_low and real_high, n_right (mean probability above one half), right_low
    and right_high of their share (Clopper and Pearson 1934).
    """
    first, rows = tables[0], []
    real = (first["real"] == 1).to_numpy()
    kinds = first["class"].to_numpy()
    labels = (kinds != NULL_CLASS).astype(int)
    labelled = set(labels[real & (kinds != "")]) == {0, 1}
    chosen = settings.evaluation.bootstrap, settings.seed
    for name in MODELS:
        columns = [table[name].to_numpy() for table in tables]
        held_out = [s[~real] for s in columns]
        auc = bootstrap_interval(weighted_auc, labels[~real], held_out, *chosen)
        row = {"model": name, "n_scored": int((~real).sum()), "roc_auc": auc.value}
        row |= {"low": auc.low, "high": auc.high, "n_real": int(real.sum())}
        if labelled:
            auc = small_sample_interval(labels[real], [s[real] for s in columns])
            row |= {"real_roc_auc": auc.value, "real_low": auc.low, "real_high": auc.high}
            right = int(((np.mean(columns, axis=0) > 0.5) == labels)[real].sum())
            share = stats.binomtest(right, int(real.sum())).proportion_ci(method="exact")
            row |= {"n_right": right, "right_low": share.low, "right_high": share.high}
        rows.append(row)
    return pd.DataFrame(rows, columns=ANSWERS)


def merge_predictions(parts: Sequence[str | Path], settings: Config, out: str | Path) -> None:
    """Join the predictions in folders ``<set>/seed<k>``; write what is small enough.

    Each table has a column ``set``. real_sky.csv: ``answers``, and label, n_train, seeds, features
    (number of them), shifted (q at most ``selection.fdr``), energy, p; real_sky_images.csv, a row
    each real image and model: id, class, probability (mean over the seeds), sd, low, high, and its
    number of features (measured) and of those beyond all simulated ones (beyond);
    real_sky_scores.csv: histogram of the mean probability of simulated images, by class;
    real_sky_shift.csv: ``shift``; real_sky_ranks.csv: ``ranks``. InputError if a part is missing.
    """
    started = time.time()
    check_replaceable(out, REAL_SKY_FILES)
    folders: dict[str, list[Path]] = {}
    for part in map(Path, parts):
        missing = [file for file in PREDICTION_FILES if not (part / file).is_file()]
        if missing:
            raise InputError(f"{part}: no answers of real-sky: {', '.join(missing)} missing")
        folders.setdefault(part.parent.name, []).append(part)
    expected = sorted(f"seed{k}" for k in range(settings.real_sky.seeds))
    for name, those in folders.items():
        found = sorted(part.name for part in those)
        if name not in settings.real_sky.sets or found != expected:
            known = ", ".join(settings.real_sky.sets)
            raise InputError(
                f"{those[0].parent}: found {', '.join(found)}; expected a set of {known}, with "
                f"{', '.join(expected)}"
            )
    joined: dict[str, list[pd.DataFrame]] = {file: [] for file in REAL_SKY_FILES[:-1]}
    for name, those in folders.items():
        tables = [read_catalog(part / "images.csv") for part in those]
        for file, table in zip(joined, _tables(tables, settings, name), strict=True):
            joined[file].append(table.assign(set=name))
    told = [json.loads((Path(part) / "real_sky.json").read_text()) for part in parts]
    with atomic(out) as temporary:
        temporary.mkdir()
        for file, tables in joined.items():
            pd.concat(tables).to_csv(temporary / file, index=False, float_format="%.6g")
        sidecar(
            temporary / "real_sky.json",
            rule="merge_real_sky",
            inputs=[Path(part) / "images.csv" for part in parts],
            started=started,
            seed=settings.seed,
            config={
                name: _recipe(settings.real_set(name), settings.real_sky.sets[name], name)
                for name in folders
            },
            cpu_seconds=round(sum(entry["seconds"] for entry in told), 1),
        )


def _tables(tables: Sequence[pd.DataFrame], settings: Config, name: str) -> Answers:
    """Return the tables of one set, whose trainings wrote ``tables``."""
    first, chosen = tables[0], settings.real_sky.sets[name]
    real = (first["real"] == 1).to_numpy()
    features = first.drop(columns=ABOUT)
    shifted = shift(features, real, feature_groups(settings.real_set(name).features), settings)
    standing = ranks(features, real, first["id"][real])
    summary = answers(tables, settings).assign(
        label=chosen.label,
        n_train=chosen.n_train,
        seeds=len(tables),
        features=features.shape[1],
        shifted=int((shifted["q"] <= settings.selection.fdr).sum()),
        energy=shifted["energy"].iloc[-1],
        p=shifted["p"].iloc[-1],
    )
    images, scores = [], []
    for model in MODELS:
        told = np.array([table[model] for table in tables])
        images.append(_of_real(first[real], told[:, real], standing).assign(model=model))
        scores.append(_histograms(first["class"][~real], told[:, ~real]).assign(model=model))
    return Answers(summary, pd.concat(images), pd.concat(scores), shifted, standing)


def _of_real(about: pd.DataFrame, told: NDArray, standing: pd.DataFrame) -> pd.DataFrame:
    """Return a row each real image, of the probabilities (seeds, n) by one model."""
    by_image = standing.groupby("id")["beyond"]
    return about[["id", "class"]].assign(
        probability=told.mean(axis=0),
        sd=told.std(axis=0, ddof=1) if len(told) > 1 else np.nan,
        low=told.min(axis=0),
        high=told.max(axis=0),
        measured=about["id"].map(by_image.size()).fillna(0).astype(int),
        beyond=about["id"].map(by_image.sum()).fillna(0).astype(int),
    )


def _histograms(kinds: pd.Series, told: NDArray) -> pd.DataFrame:
    """Return how many images of each class (n,) have which mean probability; a row a bin."""
    mean, bins = told.mean(axis=0), {"low": EDGES[:-1], "high": EDGES[1:]}
    counts = {kind: np.histogram(mean[kinds == kind], EDGES)[0] for kind in kinds.unique()}
    return pd.concat(
        [pd.DataFrame({"class": kind} | bins | {"n": n}) for kind, n in counts.items()]
    )
