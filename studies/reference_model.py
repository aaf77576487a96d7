"""Makes the first final model of a workflow the one that comes with the library, with its card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from vitdm import pretrained
from vitdm.data.simulated import index_of, planned
from vitdm.errors import InputError
from vitdm.model import novelty
from vitdm.model.runs import RUN_FILES, Run, load_run
from vitdm.predict import prepare
from vitdm.provenance import atomic, read_json, sha256, write_json
from vitdm.simulation import Population, load_population, population_name, simulate_one

CHUNK = 128  # lenses that are fitted at once

CARD = """# The reference model

A Vision Transformer with Shifted Patch Tokenization and Locality Self-Attention that tells from
the image of a strong gravitational lens whether it holds dark matter substructure, and of which
kind ({classes}). It is one of the {n_seeds} final models of the article, which differ in their
seed. Made by `python -m studies write-reference` from the run folder of commit
`{commit}`; not edited by hand.

**Use.** `vitdm.load_pretrained()`, or `vitdm predict IMAGES…` without `--run`. Input: raw images
of one lens each, {pixel_scale}″ a pixel, in units in which the photon noise has a variance of
{gain:.3g} per brightness (counts, in the training images). A smooth lens is fitted to each (PSF
{psf_fwhm}″ full width at half maximum), and {n_features} features join the image, of which {size}
× {size} pixels are seen.

**Data.** {n_train} simulated lenses of the population `{population}` (`docs/data.md`), half of
them without substructure. Training, tuning and choices used no image of the test split.

**Metrics** on {n_test} test images, mean of the {n_seeds} models (95 % interval): ROC-AUC of any
substructure {auc:.4f} ({auc_low:.4f} to {auc_high:.4f}), balanced accuracy {balanced:.3f},
true-positive rate at 1 % false positives {tpr:.3f}.

**Limits.** Trained on smooth elliptical halos, Sérsic sources, no light of the lens galaxy, a
Gaussian PSF that is known, and white noise. On images that differ in pixel scale, PSF, noise or
source structure, its probabilities are not reliable: real galaxies have knots, which look like
substructure to a model that expects a Sérsic profile. Nothing about a real lens should be concluded
from it. Images that are unlike those of the training get an `ood_pvalue` of 0.01 or less and a
warning (`docs/predict.md`). For images of your own, train on such images (README).

**Licence**: MIT, as the library. Cite it as CITATION.cff says.
"""


def write(
    results: str | Path, numbers: Mapping[str, Any], folder: Path = pretrained.FOLDER
) -> None:
    """Make the first final model of a workflow the reference model, and write its card.

    ``results`` is the folder of the workflow, ``numbers`` those of its notebooks. InputError if
    there is no such run.
    """
    source = Path(results) / "final" / "seed0"
    run = load_run(source)
    settings = run.settings
    if settings.lensfit.gain is None:
        raise InputError(f"{source}: found no fits of lenses; expected a run that uses them")
    told = read_json(source / "run.json")
    workflow = yaml.safe_load((Path(results) / "config.yaml").read_text())
    card = CARD.format(
        classes=", ".join(run.classes),
        commit=told["commit"],
        pixel_scale=settings.pixel_scale,
        gain=settings.lensfit.gain,
        psf_fwhm=settings.lensfit.psf_fwhm,
        n_features=len(run.feature_names),
        size=settings.image_size,
        n_train=settings.n_train,
        population=population_name(workflow["population"]),
        n_test=numbers["n_test"],
        n_seeds=numbers["n_seeds"],
        auc=numbers["test_auc"],
        auc_low=numbers["test_auc_low"],
        auc_high=numbers["test_auc_high"],
        balanced=numbers["test_balanced_accuracy"],
        tpr=numbers["test_tpr_at_fpr_01"],
    )
    with atomic(folder) as temporary:
        temporary.mkdir()
        names = [*RUN_FILES, *([novelty.NAME] if run.novelty else [])]
        for name in names:
            shutil.copyfile(source / name, temporary / name)
        kept = {key: told[key] for key in ("rule", "commit", "seed", "config_sha256")}
        hashes = {name: told["outputs"][name] for name in names if name in told["outputs"]}
        write_json(temporary / "run.json", kept | {"outputs": hashes})
        (temporary / "README.md").write_text(card)


def learn_novelty(
    n: int, folder: Path = pretrained.FOLDER, workflow: str | Path = "config/paper.yaml"
) -> None:
    """Learn anew which images are unlike the reference model's, and write it to its folder.

    Of the first ``n`` lenses of the splits train, which the model was trained on, and valid, which
    are held out; both are simulated as the workflow simulates them.
    """
    settings, run = yaml.safe_load(Path(workflow).read_text()), load_run(folder)
    population = load_population(settings["population"])
    plan = planned(population, settings["n_images"], settings["seed"], settings.get("test_seed"))
    train, held_out = (plan[plan["split"] == split].iloc[:n] for split in ("train", "valid"))
    numbers = [_numbers(run, population, part, settings["seed"]) for part in (train, held_out)]
    learnt = novelty.Novelty.of(numbers[0], train["class"].to_numpy(), numbers[1])
    with atomic(folder / novelty.NAME) as temporary:
        learnt.save(temporary)
    told = read_json(folder / "run.json")
    told["outputs"][novelty.NAME] = sha256(folder / novelty.NAME)
    write_json(folder / "run.json", told)


def _numbers(run: Run, population: Population, lenses: pd.DataFrame, seed: int) -> novelty.Numbers:
    """Return the numbers of lenses of a population that ``novelty`` compares."""
    parts, wanted = [], run.settings.model
    for start in range(0, len(lenses), CHUNK):
        some = lenses.iloc[start : start + CHUNK]
        images = [
            simulate_one(index_of(name), kind, seed, population)[0]
            for name, kind in zip(some["id"], some["class"], strict=True)
        ]
        asked = run.feature_names, wanted.residual, bool(wanted.maps)
        seen = prepare(np.stack(images), run.settings, *asked)
        parts.append(run.numbers(*seen.given(run.feature_names)))
    return {kind: np.concatenate([part[kind] for part in parts]) for kind in parts[0]}
