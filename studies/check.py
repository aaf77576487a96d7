"""Does a rebuild give the article's numbers? Compares them with the committed reference run."""

from __future__ import annotations

import fnmatch
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vitdm.errors import InputError
from vitdm.provenance import atomic, write_json
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
        content = _read(file)
        for key in content.keys() & numbers.keys():
            if content[key] != numbers[key]:
                raise InputError(
                    f"{file}: {key}: found {content[key]!r}; expected {numbers[key]!r} as in "
                    "another notebook"
                )
        numbers |= content
    return numbers


def _read(path: str | Path) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: found {type(content).__name__}; expected an object of numbers")
    return content


def read_reference(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read ``{key: {value, tolerance, kind}}``; InputError names an entry that is not like this."""
    reference = _read(path)
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


def check(results: str | Path, reference: str | Path) -> int:
    """Print one line a number and a closing line; return how many are missing or outside."""
    entries = read_reference(reference)
    if not entries:
        raise InputError(f"{reference}: found no numbers; expected the reference run's")
    verdicts = compare(read_numbers(results), entries)
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
