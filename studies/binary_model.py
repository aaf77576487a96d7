"""Trains the model for DeepLense's binary images, which comes with the library, with its card.

It learns from simulated lenses of the population ``lenses`` alone. In this set substructure adds to
the mass of the halo, and no measure of the image tells the Einstein radius as well as a fit of a
smooth lens, which is made of each.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from vitdm import ViTClassifier, pretrained
from vitdm.classifier import Prepared
from vitdm.config import LensFit
from vitdm.data import layouts, readers
from vitdm.data.simulated import class_of_each
from vitdm.evaluation.metrics import NULL_CLASS, roc_auc
from vitdm.lens.fit import settings_for
from vitdm.model import novelty
from vitdm.model.runs import Run, write_run
from vitdm.model.training import Learnt
from vitdm.provenance import atomic
from vitdm.simulation import load_population, simulate_one
from vitdm.simulation.classes import SUB

FOLDER = pretrained.folder_of("binary")
POPULATION = "lenses"
PLANNED = 11_000  # lenses of which the first are simulated, whose classes are drawn at once
CHUNK = 64  # lenses that are fitted at once
SEED = 2026
#: grey levels (config/lenses.yaml); the photon noise of each image is unknown, and is small
CHANGES: dict[str, Any] = {
    "preprocess": {"softening": 30.0},
    "lensfit": {"size": 80, "gain": 0.0},
    "model": {"patch_size": 16, "embed_dim": 64, "depth": 2},
    "train": {"batch_size": 32, "epochs": 40},
}
PARTS = "crops", "features", "targets"

CARD = """# The model for DeepLense's binary images

A Vision Transformer with Shifted Patch Tokenization and Locality Self-Attention that tells from the
image of a strong gravitational lens of DeepLense's binary set (`lenses.tgz`) whether it holds dark
matter substructure ({classes}). Made by `python -m studies write-reference --binary {n_train}`; not
edited by hand.

**Use.** `vitdm predict IMAGES…` takes it for JPEG and PNG files, `--run binary` for others;
`vitdm.load_pretrained("binary")`. Input: images of one lens each, in grey levels, {pixel_scale}″ a
pixel, with the light of the lens galaxy. A smooth lens is fitted to each, and {n_features} features
join the image, of which {size} × {size} pixels are seen.

**Data.** {n_train} simulated lenses of the population `{population}` (`docs/data.md`), half of them
without substructure; no image of the set itself. Pixel scale, PSF, noise and greyscale of the
population were measured on fourteen of its images.

**Metrics** of trainings that differ in their seed, of which this model is the first, whatever it
reached. No training saw these images; right is a probability above one half.

{table}

**Limits.** In the binary set, by its making, substructure makes the lens heavier: the model tells
mostly the Einstein radius (1.2″ without substructure, 1.3″ with it), which tells nothing of other
lenses. The fit assumes a Gaussian PSF and no photon noise; its χ² is
several, for JPEG blocks and rounding are no noise. Nothing about a real lens should be
concluded from it. Images that are unlike those of the training get an `ood_pvalue` of 0.01 or less
and a warning (`docs/predict.md`).

**Licence**: MIT, as the library. Cite it as CITATION.cff says.
"""


def classifier(seed: int = SEED) -> ViTClassifier:
    """Return the classifier, not yet trained."""
    population = load_population(POPULATION)
    told = settings_for(population, LensFit()).model_dump(exclude_defaults=True)
    changes = CHANGES | {"lensfit": told | CHANGES["lensfit"]}
    scale = population.instrument.pixel_scale
    return ViTClassifier(features=True, pixel_scale=scale, random_state=seed, **changes)


def simulated(first: int, n: int) -> Prepared:
    """Return what a network sees of ``n`` simulated lenses, from number ``first`` on."""
    population = load_population(POPULATION)
    kinds = class_of_each(PLANNED, SEED, population)[first : first + n]
    parts = []
    for start in range(0, n, CHUNK):
        rows = range(start, min(start + CHUNK, n))
        images = [simulate_one(first + k, kinds[k], SEED, population)[0] for k in rows]
        parts.append(prepared(images, [kinds[k] for k in rows]))
    return joined(parts)


def real_images(folder: str | Path) -> Prepared:
    """Return what a network sees of images in class folders; InputError if there are none."""
    kinds = {entry.name: entry.kind for entry in layouts.find(Path(folder)).entries}
    read = {name: picture() for name, picture in layouts.pictures(Path(folder)) if name in kinds}
    images = [readers.fill_missing(read[name].pixels, name) for name in kinds]
    return prepared(images, list(kinds.values()))


def prepared(images: Sequence[ArrayLike], kinds: Sequence[str]) -> Prepared:
    """Return what a network sees of images of some classes, all substructure being one."""
    return classifier().prepare(images, [kind if kind == NULL_CLASS else SUB for kind in kinds])


def joined(parts: Sequence[Prepared]) -> Prepared:
    """Return several parts as one."""
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in PARTS}
    return Prepared(parts[0].settings, residuals=None, maps=None, **arrays)


# ------------------------------------------------------------------------------------- training


def trained(sample: Prepared, held_out: Prepared, seed: int) -> tuple[Run, Learnt]:
    """Return a network that has learned from a sample, with what is unlike it, and its history."""
    rows, n = np.arange(len(sample.targets)), len(sample.targets)
    learnt = classifier(seed).learn(sample, rows, rows[:0], seed=seed)
    seen = [(part.crops, part.arrays(np.arange(len(part.targets)))) for part in (sample, held_out)]
    settings = sample.settings.model_copy(update={"n_train": n, "seed": seed})
    return Run(settings, learnt.model, novelty.learn(learnt.model, *seen)), learnt


def score(run: Run, images: Prepared) -> dict[str, float]:
    """Return what a run makes of images: their number n, right, roc_auc, and unlike.

    ``right``: the more probable class is the true one; ``unlike``: out of distribution.
    """
    given = images.crops, images.features
    probability = run.predict(*given)[:, 1]
    return {
        "n": len(probability),
        "right": int(((probability > 0.5) == images.targets).sum()),
        "roc_auc": roc_auc(images.targets, probability),
        "unlike": int((run.p_values(*given) <= novelty.UNLIKE).sum()),
    }


def write(
    n_train: int,
    images: str | Path | None = None,
    folder: Path = FOLDER,
    seeds: int = 5,
) -> pd.DataFrame:
    """Train on ``n_train`` simulated lenses, write the first of some models; return their scores.

    Also scored, never trained on, are real ``images`` in class folders. A quarter as many simulated
    lenses are held out: they are scored, and tell what is usual. Columns: seed, images, and those
    of ``score``.
    """
    started, n = time.time(), n_train // 4
    sets, sample = {"simulated": simulated(0, n)}, simulated(n, n_train)
    if images is not None:
        sets["real"] = real_images(images)
    told = [trained(sample, sets["simulated"], SEED + k) for k in range(seeds)]
    return write_first(told, sets, folder, started)


def write_first(
    told: Sequence[tuple[Run, Learnt]], sets: dict[str, Prepared], folder: Path, started: float
) -> pd.DataFrame:
    """Write the first of some models with its card; return the scores of all on ``sets``."""
    rows = [
        {"seed": run.settings.seed, "images": name} | score(run, part)
        for run, _ in told
        for name, part in sets.items()
    ]
    table, (run, learnt) = pd.DataFrame(rows), told[0]
    about = {"rule": "write_binary", "started": started, "population": POPULATION}
    write_run(
        run, folder, learnt.history, learnt.metrics(run.settings.n_train), **about, scores=rows
    )
    with atomic(folder / "README.md") as temporary:
        temporary.write_text(card(run, table))
    return table


def card(run: Run, scores: pd.DataFrame) -> str:
    """Return the card of a model, with the ``scores`` of all trainings."""
    settings = run.settings
    lines = ["| seed | images | right | ROC-AUC | out of distribution |", "|---|---|---|---|---|"]
    for row in scores.itertuples():
        right, unlike = f"{row.right} of {row.n}", f"{row.unlike} of {row.n}"
        lines.append(f"| {row.seed} | {row.images} | {right} | {row.roc_auc:.4f} | {unlike} |")
    return CARD.format(
        classes=", ".join(run.classes),
        n_train=settings.n_train,
        pixel_scale=settings.pixel_scale,
        n_features=len(run.feature_names),
        size=settings.image_size,
        population=POPULATION,
        table="\n".join(lines),
    )
