"""The table of the DeepLense benchmark: small models, trained and scored as anybody's would be.

Each is a function of training images, labels and test images, handed to ``vitdm.benchmark``. They
share the processing of the article, without a search: learning rates and epochs are those of the
configuration.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pandas as pd
from numpy.typing import NDArray

from studies.config import Config
from vitdm.benchmark.scoring import (
    TrainAndPredict,
    answers,
    markdown,
    over_seeds,
    score_predictions,
)
from vitdm.benchmark.sets import BenchmarkSet, definition, make
from vitdm.benchmark.shortcut import ring_predictions
from vitdm.classifier import ViTClassifier
from vitdm.config import Features, Preprocess, Settings
from vitdm.data.dataset import Dataset, read_catalog, read_features
from vitdm.errors import InputError
from vitdm.features import measure_dataset
from vitdm.lens import fit_dataset, settings_for
from vitdm.model import baselines
from vitdm.provenance import atomic, check_replaceable, sidecar

RIVAL = ("rows.csv", "predictions_seed*.csv", "rival.json")
MERGED = ("benchmark.csv", "benchmark.md", "benchmark.json")
#: what the ``ViTClassifier`` sets itself, or does not use
UNUSED = {"features", "feature_set"}


def network(settings: Settings, side: int, seed: int) -> TrainAndPredict:
    """Return the training of a network on images alone, of which ``side`` pixels are left."""
    cut = settings.preprocess.model_dump() | {"size": min(settings.preprocess.size, side)}
    classifier = ViTClassifier(
        preprocess=cut,
        model=settings.model.model_dump(exclude=UNUSED),
        train=settings.train.model_dump(),
        random_state=seed,
    )

    def train_and_predict(images: NDArray, labels: NDArray, test: NDArray) -> NDArray:
        return classifier.fit(images, labels).predict_proba(test)

    return train_and_predict


def trees(folder: Path, known: BenchmarkSet, settings: Config, fitted: bool) -> TrainAndPredict:
    """Return the training of boosted trees on features of the images of a set in a folder.

    They are measured on the image, and ``fitted`` on a smooth lens that is fitted to it as well; a
    table, and the fits, are written beside the folder. The images that they are given are not
    looked at: their features are known already.
    """
    groups, fits = ["proposal", "morphology"] + ["lensfit"] * fitted, None
    if fitted:
        fits = folder.with_name("fits")
        size = min(settings.lensfit.size, known.population.num_pix // 2 * 2)
        own = settings.lensfit.model_copy(update={"size": size})
        fit_dataset(folder, fits, settings_for(known.population, own))
    features = Features(groups=groups, levels=settings.features.levels)
    cut = Preprocess(threshold=settings.preprocess.threshold)
    table = folder.with_name("features.csv")
    measure_dataset(folder, table, cut, features, fits)
    values = read_features(table, Dataset.open(folder)).to_numpy(float)

    def train_and_predict(images: NDArray, labels: NDArray, test: NDArray) -> NDArray:
        model = baselines.trained("gradient boosting", values[known.learned], labels, settings.seed)
        return model(values[known.test])

    return train_and_predict


def score_rival(name: str, rival: str, settings: Config, out: str | Path) -> pd.DataFrame:
    """Train a rival on a set of the benchmark; write its folder and return its rows.

    ``rows.csv`` has a row for each training, as ``benchmark.score`` returns it, with seed and
    cpu_seconds; ``predictions_seed*.csv`` are its answers. The images are made anew, and kept for
    as long as it takes. InputError if there is no such set or rival.
    """
    started, cpu = time.time(), time.process_time()
    check_replaceable(out, RIVAL)
    chosen = settings.benchmark
    if rival not in chosen.rivals:
        known = ", ".join(chosen.rivals)
        raise InputError(
            f"rival {rival!r}: found none in benchmark.rivals; expected one of {known}"
        )
    sees, known = chosen.rivals[rival].sees, BenchmarkSet(name, chosen.set_size)
    rows = []
    with tempfile.TemporaryDirectory() as scratch, atomic(out) as temporary:
        temporary.mkdir()
        images = Path(scratch) / known.name
        if sees != "radius":
            make(known.name, images, chosen.set_size)
        for k in range(chosen.seeds if sees == "images" else 1):
            if sees == "radius":
                table = ring_predictions(known)
            elif sees in ("features", "fits"):
                model = trees(images, known, settings, sees == "fits")
                table = answers(model, images)
            else:
                own = settings.rival(rival)
                model = network(own, known.population.num_pix, settings.seed + k)
                table = answers(model, images)
            table.to_csv(temporary / f"predictions_seed{k}.csv", index=False, float_format="%.6g")
            row = score_predictions(table, known.name, chosen.set_size, rival)
            spent, cpu = time.process_time() - cpu, time.process_time()
            rows.append(row | {"seed": k, "cpu_seconds": round(spent, 1)})
        table = pd.DataFrame(rows)
        table.to_csv(temporary / RIVAL[0], index=False)
        sidecar(
            temporary / RIVAL[2],
            rule="benchmark",
            config=settings,
            outputs=[temporary / RIVAL[0]],
            started=started,
        )
    return table


def merge_rivals(folder: str | Path, settings: Config, out: str | Path) -> pd.DataFrame:
    """Join the rows in ``<set>/<rival>/`` of a folder, in the order of the configuration.

    ``benchmark.csv`` is returned; ``benchmark.md`` has the means over the seeds for readers.
    InputError if a rival has not been scored, or not on this version or size of the benchmark.
    """
    started, chosen, tables = time.time(), settings.benchmark, []
    check_replaceable(out, MERGED)
    places = [Path(folder) / part for part in chosen.parts]
    for place in places:
        table = read_catalog(place / RIVAL[0]).astype({"version": str})
        expected = (definition().version, chosen.set_size)
        if found := set(zip(table["version"], table["size"], strict=True)) - {expected}:
            raise InputError(
                f"{place / RIVAL[0]}: found version and size {found.pop()}; expected {expected}"
            )
        label = chosen.rivals[place.name].label
        tables.append(table.assign(rival=place.name, model=label))
    table = pd.concat(tables, ignore_index=True)
    with atomic(out) as temporary:
        temporary.mkdir()
        table.to_csv(temporary / MERGED[0], index=False)
        (temporary / MERGED[1]).write_text(markdown(over_seeds(table)) + "\n")
        sidecar(
            temporary / MERGED[2],
            rule="merge_benchmark",
            config=chosen,
            inputs=[place / RIVAL[0] for place in places],
            started=started,
            cpu_seconds=round(float(table["cpu_seconds"].sum()), 1),
        )
    return table
