"""Real images in notebook 05: what models of simulated lenses say of them, and its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studies.config import Config
from studies.real_sky import Answers
from studies.story.extended import committed, first_there


def read_answers(config: Config, results: Path) -> Answers | None:
    """Return the tables of ``studies.real_sky``: of this run, else the committed ones, or None."""
    own = results / "sky" / "all" / "real_sky.csv"
    file = first_there([own, *committed(config, "real_sky.csv")])
    return None if file is None else Answers.read(file.parent)


def by_label(answers: Answers) -> dict[str, Answers]:
    """Return the tables of each set of images by its label."""
    sets = dict(answers.table[["label", "set"]].to_numpy())
    return {label: answers.of(name) for label, name in sets.items()}


def real_numbers(answers: Answers) -> dict[str, Any]:
    """Return the scores of each set and model, and the answers to real images of each set."""
    numbers: dict[str, Any] = {}
    for (name, model), rows in answers.table.groupby(["set", "model"], sort=False):
        known = rows.drop(columns=["set", "model", "label"]).iloc[0].dropna().to_dict()
        numbers |= {f"sky_{name}_{model}_{key}": value for key, value in known.items()}
    for name in answers.table["set"].unique():
        known = _of_images(answers.of(name))
        numbers |= {f"sky_{name}_{key}": value for key, value in known.items()}
    return numbers


def _of_images(answers: Answers) -> dict[str, Any]:
    """Return the range of a set's probabilities by the network, and the rank of chi^2.

    ``n_fitted`` lenses have a fit; ``chi2_rank`` is the lowest rank of their chi^2 among those of
    simulated lenses.
    """
    rows = answers.images[answers.images["model"] == "network"]
    chi2 = answers.ranks.loc[answers.ranks["feature"] == "fit_chi2", "rank"]
    return {
        "lowest": rows["probability"].min(),
        "highest": rows["probability"].max(),
        "sd": rows["sd"].max(),
        "n_fitted": len(chi2),
        "chi2_rank": chi2.min(),
    }
