"""The page of the tables of the reference run that the article has no room for."""

from __future__ import annotations

from pathlib import Path

import yaml

from studies.article import kept, table

INTRODUCTION = """# The reference run in tables

What the run behind the [article](article.md) measured, and its pages have no room for. The same
tables as CSV, and those of the article, are in `paper/tables`.
"""
#: title and caption of each table, by its name in ``paper/tables.yaml``
SHOWN = {
    "features": (
        "Features of the image",
        "L is each of the levels. F is the flux of a pixel above the sky. The last column "
        "says what substructure is expected to do to them.",
    ),
    "features_lensfit": (
        "Features of the fitted smooth lens",
        "S is each of 1, 2 and 4 px, A … B each of 1 … 2, 3 … 4, 5 … 8 and 9 … 16, K each of "
        "1, 3 and 6. The arcs are where the fitted source is brighter than the noise of the "
        "sky.",
    ),
    "feature_ranking": (
        "The best features, each alone",
        "The fraction of images in which it exists, ROC-AUC with the direction of "
        "substructure, point-biserial correlation, Spearman's correlation, mutual "
        "information, and whether it is kept for the network.",
    ),
    "runs": (
        "Models that differ in one idea at a time",
        "ROC-AUC on the tuning split of `marginal`, mean over seeds, with the standard "
        "deviation between seeds, and the training time.",
    ),
    "confusion": (
        "Decisions on the test images",
        "True class in rows, most probable class in columns.",
    ),
    "mistakes": (
        "What mistakes go with",
        "Logistic regression of misclassification on lens properties: odds of an error for "
        "one standard deviation more of a property, the others held, with 95 % intervals. "
        "Masses, lengths and signal-to-noise by their logarithm.",
    ),
    "remedies": (
        "Remedies",
        "Gain in ROC-AUC, with 95 % intervals over images and seeds, and 1 minus the best "
        "balanced accuracy before and after.",
    ),
    "slacs": (
        "Fits of real lenses",
        "B08 are the Einstein radii of Bolton et al. (2008) and C25 those of Cao et al. "
        "(2025); the ratio is fitted radius over B08. $t$ is the slope of the density in "
        "three dimensions, $\\gamma$ the shear, $e$ the ellipticity $(1 - q) / (1 + q)$ of the "
        "mass. The last three numbers are mean squared residuals in units of the noise map: "
        "of all fitted pixels, of those where the arcs are brighter than the noise, and of "
        "the sky.",
    ),
    "real_sky": (
        "Models of simulated lenses on other images",
        "ROC-AUC on simulated lenses that were held out and on the others, both with 95 % "
        "intervals; number of images, and of those right at one half.",
    ),
    "audit": (
        "The precursor's recipe, step by step",
        "What each row would have shown for validation and claimed as its ROC-AUC, its ROC- "
        "AUC on new images with a 95 % interval, and the gain over the first row, paired. A "
        "step is changed alone or together with those above it. [What the steps "
        "are](precursor.md).",
    ),
    "compute": (
        "Compute",
        "What each command made, its time in all (minutes on the clock, of one thread each), "
        "and the most memory it took.",
    ),
    "provenance": (
        "What made each figure",
        "Rule of the workflow, notebook, and hash of the configuration.",
    ),
}


def results(paper: Path) -> str:
    """Return the page (Markdown) of the committed tables in a folder ``paper``."""
    layouts = yaml.safe_load((paper / "tables.yaml").read_text())
    text = [INTRODUCTION]
    for name, (title, caption) in SHOWN.items():
        layout = layouts[name] or {}
        rows = kept(paper / "tables" / f"{layout.get('csv', name)}.csv", layout)
        text.append(f"## {title}\n\n{caption}\n\n{table(rows, layout, name)}\n")
    return "\n".join(text)
