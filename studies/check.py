"""Does a rebuild give the article's numbers? Compares them with the committed reference run.

Three things are compared: the scores of the final test with what the predictions of the networks
give, the reference with what must stand in it, and the numbers with the reference.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from studies.story import baselines
from studies.story.final_test import read_predictions
from vitdm.data.dataset import read_catalog
from vitdm.errors import InputError
from vitdm.evaluation import metrics
from vitdm.evaluation.final_test import summarise
from vitdm.provenance import atomic, check_outputs, read_json, write_json
from vitdm.simulation.classes import CLASSES

# What another machine may change. The images come from seeded NumPy generators and repeat to the
# last digits of the arithmetic; a training does not: sums in another order differ in the last
# bit, and thousands of steps make of this another local minimum. Tolerances of trained models are
# therefore some three times the scatter between seeds, of a mean over seeds or of one run.
# The first pattern that fits a key counts; a number that fits none is not checked.
TOLERANCES: dict[str, tuple[float, str]] = {
    # counts that the configuration fixes
    "n_images": (0, "absolute"),
    **{f"n_{name}": (0, "absolute") for name in CLASSES},
    "n_test": (0, "absolute"),
    "n_features": (0, "absolute"),
    "n_seeds": (0, "absolute"),
    "tune_calls": (0, "absolute"),
    # images, processing and measured features: no training
    "theta_E_smooth": (1e-6, "relative"),
    "zero_pixel_fraction": (0.001, "absolute"),
    "roi_found_fraction": (0.002, "absolute"),
    "flux_kept_median": (0.005, "absolute"),
    "rotation_corr_derotated": (0.02, "absolute"),
    "rotation_p05_corr_derotated": (0.02, "absolute"),
    "fit_converged_fraction": (0.01, "absolute"),
    "fit_smooth_explained_fraction": (0.01, "absolute"),
    "fit_*_auc_*": (0.01, "absolute"),
    "fit_peak_rate_*": (0.05, "absolute"),
    "features_logistic_auc": (0.01, "absolute"),
    "best_feature_auc": (0.005, "absolute"),
    "features_only_auc": (0.01, "absolute"),
    # the populations side by side: no training, but fits that stop where they stop
    "auc_size_value_*": (0.005, "absolute"),
    "auc_chi2_known_value_*": (0.01, "absolute"),
    "auc_fourth_free_value_*": (0.02, "absolute"),
    "snr_known_median_*": (0.001, "relative"),
    "snr_free_median_*": (0.02, "relative"),
    # single trainings and few of them; on images alone they scatter by 0.02
    "run_seeds": (0, "absolute"),
    "run_spt_lsa_features_auc": (0.02, "absolute"),
    "run_spt_lsa_lensfit_auc": (0.02, "absolute"),
    "run_spt_lsa_residual_auc": (0.04, "absolute"),
    "run_*_auc": (0.06, "absolute"),
    "tune_start_auc": (0.01, "absolute"),
    "tune_best_auc": (0.01, "absolute"),
    "tune_gain_n": (0, "absolute"),
    "tune_gain": (0.005, "absolute"),
    # from the committed results of config/extended.yaml, if that is not run again
    "efficiency_*_300_auc": (0.02, "absolute"),
    "efficiency_*_9000_auc": (0.01, "absolute"),
    "efficiency_*_9000_macro": (0.01, "absolute"),
    "efficiency_*_30000_macro": (0.01, "absolute"),
    "fair_*_macro": (0.02, "absolute"),
    "search_seeds": (0, "absolute"),
    "search_*_auc": (0.005, "absolute"),
    "shortcut_*_roc_auc_*": (0.05, "absolute"),
    # the final models, mean over the seeds
    "test_auc": (0.01, "absolute"),
    "test_auc_low": (0.01, "absolute"),
    "test_auc_high": (0.01, "absolute"),
    "test_auc_delong_*": (0.01, "absolute"),
    "test_ensemble_auc": (0.01, "absolute"),
    "known_lens_test_auc": (0.002, "absolute"),
    "fit_point_evidence_test_auc": (0.005, "absolute"),
    "test_balanced_accuracy": (0.02, "absolute"),
    "test_balanced_accuracy_low": (0.02, "absolute"),
    "test_balanced_accuracy_high": (0.02, "absolute"),
    "test_average_precision": (0.01, "absolute"),
    "test_accuracy": (0.02, "absolute"),
    "test_multiclass_accuracy": (0.03, "absolute"),
    "test_tpr_at_fpr_01": (0.05, "absolute"),
    "test_tpr_at_fpr_001": (0.1, "absolute"),
    "test_ece": (0.02, "absolute"),
    "test_ece_tempered": (0.01, "absolute"),
    "boosting_test_auc": (0.005, "absolute"),
    "test_auc_macro": (0.02, "absolute"),
    **{f"test_auc_{name}": (0.02, "absolute") for name in CLASSES},
}


# ``{{ key }}`` in the article
MARK = re.compile(r"\{\{ (\w+)(?::[^{}]*)? \}\}")
# Of scores computed again from the files: predictions have the digits of single precision.
CLOSE = {"rel_tol": 1e-4, "abs_tol": 1e-5}


class Verdict(NamedTuple):
    """One number of the reference run and what the rebuild has in its place."""

    key: str
    reference: float
    found: Any
    difference: float
    tolerance: float
    kind: str
    status: str


def read_numbers(results: str | Path) -> dict[str, Any]:
    """Return all numbers of a run, the union of ``results/numbers/*.json``."""
    numbers: dict[str, Any] = {}
    files = sorted((Path(results) / "numbers").glob("*.json"))
    if not files:
        raise InputError(f"{results}/numbers: found no .json; expected the numbers of a whole run")
    for file in files:
        content = read_json(file)
        for key in content.keys() & numbers.keys():
            if content[key] != numbers[key]:
                raise InputError(
                    f"{file}: {key}: found {content[key]!r}; expected {numbers[key]!r} as in "
                    "another notebook"
                )
        numbers |= content
    return numbers


def read_reference(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read ``{key: {value, tolerance, kind}}``; InputError names an entry that is not like this."""
    reference = read_json(path)
    for key, entry in reference.items():
        if (
            not isinstance(entry, dict)
            or set(entry) != {"value", "tolerance", "kind"}
            or not _is_number(entry["value"])
            or not _is_number(entry["tolerance"])
            or entry["kind"] not in ("absolute", "relative")
        ):
            raise InputError(
                f"{path}: {key}: found {entry!r}; expected a number value, a number tolerance "
                "and kind, absolute or relative"
            )
    return reference


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def compare(
    numbers: Mapping[str, Any], reference: Mapping[str, Mapping[str, Any]]
) -> list[Verdict]:
    """Return a verdict for each entry of the reference: ``ok``, ``FAILED`` or ``MISSING``.

    A relative tolerance is a fraction of the reference value. What is no finite number fails.
    """
    verdicts = []
    for key, entry in reference.items():
        value, tolerance, kind = entry["value"], entry["tolerance"], entry["kind"]
        found, difference = numbers.get(key), math.nan
        if key not in numbers:
            status = "MISSING"
        elif not _is_number(found):
            status = "FAILED"
        else:
            difference = found - value
            allowed = tolerance * abs(value) if kind == "relative" else tolerance
            # the last digits of a decimal fraction are not what is asked for
            status = "ok" if abs(difference) <= allowed + 1e-12 * abs(value) else "FAILED"
        verdicts.append(Verdict(key, value, found, difference, tolerance, kind, status))
    return verdicts


def check_reference(
    path: str | Path,
    reference: Mapping[str, Mapping[str, Any]],
    numbers: Mapping[str, Any],
    tolerances: Mapping[str, tuple[float, str]] = TOLERANCES,
) -> None:
    """Raise InputError unless a reference has all that is to be checked, within its tolerances.

    That are the numbers of the rebuild, and those in the article beside the reference (paper.md),
    for which there is a tolerance; that of an entry may be smaller, not larger.
    """
    for key, entry in reference.items():
        tolerance, kind = tolerance_of(key, tolerances) or (None, None)
        if kind != entry["kind"] or entry["tolerance"] > tolerance:
            expected = "none of this name" if kind is None else f"at most {tolerance:g} {kind}"
            raise InputError(
                f"{path}: {key}: found a tolerance of {entry['tolerance']:g} {entry['kind']}; "
                f"expected {expected} (studies/check.py)"
            )
    article = Path(path).with_name("paper.md")
    needed = [*numbers, *(MARK.findall(article.read_text()) if article.is_file() else ())]
    absent = [key for key in needed if key not in reference and tolerance_of(key, tolerances)]
    if absent or not reference:
        raise InputError(
            f"{path}: found {len(reference)} numbers; expected {len(set(absent))} more, such as "
            f"{absent[0] if absent else 'test_auc'}"
        )


def scores_of_predictions(results: str | Path) -> dict[str, Any]:
    """Return the scores of the final test, computed anew from the predictions of the networks.

    The ends of bootstrap intervals are left out. InputError if the predictions, or what was made of
    them, are not what the run wrote, or not of the test images in the catalog.
    """
    results = Path(results)
    folder, catalog = results / "evaluation", read_catalog(results / "dataset" / "catalog.csv")
    tables, held_out = read_predictions(folder), read_predictions(folder, "held_out")
    if not tables or tables.keys() != held_out.keys():
        raise InputError(
            f"{folder}: found predictions of {', '.join(tables) or 'no network'}, and of images "
            f"held out of {', '.join(held_out) or 'none'}; expected both of each network"
        )
    check_outputs(folder / "evaluation.json", *(file.name for file in sorted(folder.iterdir())))
    test = catalog[catalog["split"] == "test"][["id", "class"]].reset_index(drop=True)
    both = metrics.ensemble(list(tables.values()))
    mean = read_catalog(folder / "predictions.csv")
    for name, table in {**tables, "the ensemble": mean}.items():
        if not table[["id", "class"]].equals(test):
            raise InputError(
                f"{folder}: found predictions of other images or classes for {name}; expected the "
                f"test split of {results / 'dataset' / 'catalog.csv'}"
            )
        if not (table["label"] == table["class"].map(_label(metrics.model_classes(table)))).all():
            raise InputError(f"{folder}: found labels for {name} that are not of its classes")
    if not np.allclose(metrics.probabilities(mean), metrics.probabilities(both), atol=1e-6):
        raise InputError(f"{folder / 'predictions.csv'}: is not the mean over the networks")
    seed = read_json(folder / "evaluation.json").get("seed") or 0
    found = summarise(list(tables.values()), list(held_out.values()), n_bootstrap=10, seed=seed)
    ends = ("_low", "_high")
    found = {key: value for key, value in found.items() if not key.endswith(ends)}
    others = baselines.on_split(baselines.read_baselines(folder), test=True)
    chi2 = baselines.chi2_of_known_lens(results, mean["id"])
    others |= baselines.known_lens(mean, chi2, len(tables))
    for name, each in others.items():
        if each:
            aucs = [metrics.roc_auc(*metrics.binary_scores(table)) for table in each]
            found[f"{name}_test_auc"] = float(np.mean(aucs))
    return {key: value for key, value in found.items() if _is_number(value)}


def _label(classes: list[str]) -> dict[str, int]:
    """Return the label of each class among those of a model, which may be no_sub and sub only."""
    known = {name: k for k, name in enumerate(classes)}
    return {name: known.get(name, 1) for name in CLASSES}


def check_chain(results: str | Path, numbers: Mapping[str, Any]) -> None:
    """Raise InputError unless the scores among the numbers of a run are those of its predictions.

    Also the files of the final networks must be those that their training wrote.
    """
    for sidecar in sorted(Path(results).glob("final/*/run.json")):
        check_outputs(sidecar, *(file.name for file in sidecar.parent.iterdir()))
    for key, value in scores_of_predictions(results).items():
        found = numbers.get(key, value)
        if not _is_number(found) or not math.isclose(found, value, **CLOSE):
            raise InputError(
                f"{results}/numbers: {key}: found {found}; expected {value:.7g}, which the "
                f"predictions in {results}/evaluation give"
            )


def check(
    results: str | Path,
    reference: str | Path,
    tolerances: Mapping[str, tuple[float, str]] = TOLERANCES,
) -> int:
    """Print one line a number and a closing line; return how many are missing or outside.

    InputError if the reference lacks what is to be checked or is too tolerant, or if the numbers do
    not follow from the predictions.
    """
    entries, numbers = read_reference(reference), read_numbers(results)
    check_reference(reference, entries, numbers, tolerances)
    check_chain(results, numbers)
    verdicts = compare(numbers, entries)
    width = max(len(verdict.key) for verdict in verdicts)
    head = f"{'number':{width}}  {'reference':>12}  {'found':>12}  {'difference':>10}  tolerance"
    print(head)
    for v in verdicts:
        found = (
            f"{v.found:.7g}" if _is_number(v.found) else "-" if v.found is None else str(v.found)
        )
        difference = "-" if math.isnan(v.difference) else f"{v.difference:+.3g}"
        tolerance = f"± {v.tolerance:g}" + (" (relative)" if v.kind == "relative" else "")
        print(
            f"{v.key:{width}}  {v.reference:12.7g}  {found:>12}  {difference:>10}  "
            f"{tolerance:18}  {v.status}"
        )
    bad = [v.key for v in verdicts if v.status != "ok"]
    if bad:
        print(f"{len(bad)} of {len(verdicts)} numbers do not agree with {reference}:", *bad)
    else:
        print(f"All {len(verdicts)} numbers agree with {reference}.")
    return len(bad)


def tolerance_of(
    key: str, tolerances: Mapping[str, tuple[float, str]] = TOLERANCES
) -> tuple[float, str] | None:
    """Return (tolerance, kind) of the first pattern that fits, None if the key is not checked."""
    return next((t for pattern, t in tolerances.items() if fnmatch.fnmatchcase(key, pattern)), None)


def write_reference(
    numbers: Mapping[str, Any],
    path: str | Path,
    tolerances: Mapping[str, tuple[float, str]] = TOLERANCES,
) -> None:
    """Write the headline numbers of a run with their tolerances, in the form ``check`` reads."""
    reference = {}
    for key in numbers:
        tolerance = tolerance_of(key, tolerances)
        if tolerance is None:
            continue
        if not _is_number(numbers[key]):
            raise InputError(f"{key}: found {numbers[key]!r}; expected a finite number")
        reference[key] = {"value": numbers[key], "tolerance": tolerance[0], "kind": tolerance[1]}
    if not reference:
        raise InputError(f"{path}: found none of the headline numbers; expected e.g. test_auc")
    write_json(path, reference)


def fill_numbers(page: str | Path, numbers: Mapping[str, Any], digits: int = 3) -> None:
    """Put numbers into a Markdown page, behind each ``<!-- number: key -->``.

    InputError if the page asks for a number that there is not.
    """
    page = Path(page)

    def value(match: re.Match[str]) -> str:
        if not _is_number(numbers.get(match[2])):
            raise InputError(f"{page}: number {match[2]}: not among the numbers of this run")
        return f"{match[1]}{numbers[match[2]]:.{digits}f}"

    text = page.read_text()
    filled = re.sub(r"(<!-- number: (\w+) -->)(?:\d+(?:\.\d+)?)?", value, text)
    with atomic(page) as temporary:
        temporary.write_text(filled)
