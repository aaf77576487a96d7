"""The figures and tables of the article, each once: notebook, inputs, condition, caption.

The rules, the notebooks, the report and the article read them here. The caption of a figure is the
first sentence of the docstring of the function in ``studies.plots`` that draws it; that of a table
is the list of its columns. Inputs are files, relative to the repository; a figure or table without
a condition is always made.
"""

from __future__ import annotations

import ast
import csv
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from studies.targets import CUTOUTS, DATASET, Targets
from vitdm.errors import InputError

PLOTS = Path(__file__).with_name("plots")


@dataclass(frozen=True)
class Entry:
    """A figure or a table, or one for each of several names that stand for ``*`` in its own."""

    name: str
    inputs: Callable[[Targets], Iterable[str]]
    drawn_by: str | None  # "module.function" in studies.plots; None: a table
    there: Callable[[Targets], bool]
    each: Callable[[Targets], Iterable[str]] | None

    def names(self, targets: Targets) -> list[str]:
        """Return its names in a workflow; none if its condition does not hold."""
        if not self.there(targets):
            return []
        if self.each is None:
            return [self.name]
        return [self.name.replace("*", part) for part in self.each(targets)]

    def is_named(self, name: str) -> bool:
        """Whether a figure or table of this name is this one."""
        start, star, end = self.name.partition("*")
        if not star:
            return name == self.name
        return name.startswith(start) and name.endswith(end) and len(name) > len(start + end)

    @property
    def caption(self) -> str | None:
        """What a figure shows, from the docstring of the function; None of a table."""
        if self.drawn_by is None:
            return None
        module, function = self.drawn_by.split(".")
        summary = _docstrings(module)[function].split("\n\n")[0]
        text = " ".join(summary.replace("``", "").split()).removeprefix("Draw ")
        return text[0].upper() + text[1:]

    def shows(self, file: str | Path) -> str:
        """Return what a figure shows, or which columns a table (CSV) has."""
        if self.caption:
            return self.caption
        with Path(file).open(newline="") as stream:
            return f"Columns: {', '.join(next(csv.reader(stream)))}."


@functools.cache
def _docstrings(module: str) -> dict[str, str]:
    """Return the docstrings of a module's functions, without importing it."""
    tree = ast.parse((PLOTS / f"{module}.py").read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {node.name: ast.get_docstring(node) or "" for node in functions}


@dataclass(frozen=True)
class Notebook:
    """A notebook: what it always reads, its part of the configuration, what it makes."""

    name: str
    title: str  # its part of the report
    reads: Callable[[Targets], Iterable[str]]
    settings: tuple[str, ...]  # sections and keys, such as "final.epochs"
    entries: tuple[Entry, ...]  # figures in the order in which it draws them

    @property
    def number(self) -> str:
        return self.name[:2]

    def inputs(self, targets: Targets) -> list[str]:
        """Return all files that it reads in a workflow."""
        made = [entry for entry in self.entries if entry.names(targets)]
        files = [*self.reads(targets), *(file for e in made for file in e.inputs(targets))]
        return list(dict.fromkeys(files))

    def figures(self, targets: Targets) -> list[str]:
        """Return the names of the figures that it draws in a workflow."""
        return [name for e in self.entries if e.drawn_by for name in e.names(targets)]

    def tables(self, targets: Targets) -> list[str]:
        """Return the names of the tables that it makes in a workflow."""
        return [name for e in self.entries if not e.drawn_by for name in e.names(targets)]

    def captions(self) -> dict[str, str]:
        """Return the captions of its figures."""
        return {entry.name: entry.caption for entry in self.entries if entry.caption}

    def figure_number(self, name: str) -> str:
        """Return the number of a figure, "3.2" for the second of notebook 03, drawn or not."""
        drawn = [entry for entry in self.entries if entry.drawn_by]
        return f"{int(self.number)}.{drawn.index(self.entry(name, figure=True)) + 1}"

    def entry(self, name: str, *, figure: bool) -> Entry:
        """Return the entry of a figure or a table; InputError if there is none."""
        kind = "figure" if figure else "table"
        for entry in self.entries:
            if entry.is_named(name) and bool(entry.drawn_by) == figure:
                return entry
        raise InputError(
            f"{self.name}: found a {kind} {name!r}; expected one that is declared in "
            "studies/contents.py"
        )


def notebook(name: str) -> Notebook:
    """Return a notebook by its name, or its number."""
    for known in NOTEBOOKS:
        if name in (known.name, known.number):
            return known
    names = ", ".join(known.name for known in NOTEBOOKS)
    raise InputError(f"notebook {name!r}: found none of this name; expected one of {names}")


def figures(targets: Targets) -> list[str]:
    """Return the names of all figures of a workflow."""
    return [name for known in NOTEBOOKS for name in known.figures(targets)]


def tables(targets: Targets) -> list[str]:
    """Return the names of all tables of a workflow."""
    return [name for known in NOTEBOOKS for name in known.tables(targets)]


# ----------------------------------------------------------------------- conditions and inputs


def nothing(targets: Targets) -> list[str]:
    return []


def always(targets: Targets) -> bool:
    return True


def simulated(t: Targets) -> bool:
    return t.simulated


def has_populations(t: Targets) -> bool:
    return bool(t.populations)


def model_i_is_shown(t: Targets) -> bool:
    """Whether fits of the main population, or of Model I, are set side by side."""
    return t.fitted and bool({t.main, "model_i"} & set(t.populations))


def raw(t: Targets) -> list[str]:
    return t.dataset


def processed(t: Targets) -> list[str]:
    return t.processed


def features(t: Targets) -> list[str]:
    return [t.features]


def invariance(t: Targets) -> list[str]:
    names = ("invariance.csv", "invariance.json")
    return [f"{folder}/{name}" for folder in t.invariance for name in names]


def of_populations(t: Targets, *names: str) -> list[str]:
    """Return files of all populations shown side by side."""
    return [file for shown in t.populations for file in t.files(f"populations/{shown}", names)]


def population_images(t: Targets) -> list[str]:
    names = [f"dataset/{name}" for name in DATASET]
    return [*t.populations.values(), *of_populations(t, *names)]


def population_fits(t: Targets) -> list[str]:
    return [*of_populations(t, "dataset/catalog.csv", "lensfit/fits.csv")]


def populations(t: Targets) -> list[str]:
    limits = [
        f"{t.out}/populations/{name}/ideal_observer/ideal_observer.json"
        for name in t.noisy_populations
    ]
    return [*population_images(t), *of_populations(t, "features.csv"), *limits]


def real_beside_simulated(t: Targets) -> list[str]:
    return [*t.real, *of_populations(t, "features.csv")]


def of_selection(*names: str) -> Callable[[Targets], list[str]]:
    return lambda t: t.files("selection", names)


def of_runs(*names: str) -> Callable[[Targets], list[str]]:
    return lambda t: [file for run in t.runs for file in t.files(f"runs/{run}", names)]


def of_evaluation(*names: str) -> Callable[[Targets], list[str]]:
    return lambda t: t.files("evaluation", names)


def rankings(t: Targets) -> list[str]:
    return [*of_selection("ranking.csv")(t), *of_populations(t, "selection/ranking.csv")]


def trials(t: Targets) -> list[str]:
    return t.files("tune", ("best.json", "trials.csv"))


def searched(t: Targets) -> list[str]:
    return t.slacs_search


def against_known_lens(t: Targets) -> list[str]:
    return [*of_evaluation("predictions.csv")(t), *t.known_model]


def figure(
    name: str,
    drawn_by: str,
    inputs: Callable[[Targets], Iterable[str]] = nothing,
    there: Callable[[Targets], bool] = always,
    each: Callable[[Targets], Iterable[str]] | None = None,
) -> Entry:
    return Entry(name, inputs, drawn_by, there, each)


def table(
    name: str,
    inputs: Callable[[Targets], Iterable[str]] = nothing,
    there: Callable[[Targets], bool] = always,
) -> Entry:
    return Entry(name, inputs, None, there, None)


# -------------------------------------------------------------------------------- the contents

NOTEBOOKS = (
    Notebook(
        "01_feature_discovery",
        title="feature discovery",
        reads=lambda t: [*t.dataset, *t.processed, t.features, *t.fits, *t.population],
        settings=("seed", "data", "population", "populations.files", "real_images")
        + ("preprocess", "features", "freeform", "slacs.images", "slacs.pixel_scale"),
        entries=(
            figure(
                "perturbations",
                "populations.perturbations",
                lambda t: [t.processed[1], *t.population],
                simulated,
            ),
            table("population", lambda t: t.population, simulated),
            figure("lens_gallery", "populations.population_gallery", processed),
            figure("noise", "data.noise_histogram", raw),
            figure("processing_steps", "processing.processing_steps", raw),
            figure("invariance", "processing.invariance", invariance),
            table("invariance", invariance),
            figure("real_lenses", "processing.real_lenses", lambda t: t.real, lambda t: t.real),
            figure(
                "unrolled_rings", "processing.unrolled_rings", lambda t: [*t.dataset, t.features]
            ),
            table("features"),
            figure("feature_distributions", "data.feature_distributions", features),
            table("real_lenses", real_beside_simulated, lambda t: t.real),
            figure(
                "residual_maps",
                "lensfit.residual_maps",
                lambda t: [*t.dataset, *t.fits, *t.population],
                lambda t: t.fitted and t.simulated,
            ),
            figure("einstein_radii", "lensfit.einstein_radii", population_fits, model_i_is_shown),
            figure(
                "subhalo_distance",
                "lensfit.subhalo_distance",
                population_fits,
                lambda t: t.fitted and {t.main, "model_i"} & set(t.clumpy_populations),
            ),
            figure(
                "real_residuals",
                "lensfit.real_residuals",
                lambda t: [*t.real_known, CUTOUTS],
                lambda t: t.real_known,
            ),
            table("real_fits", lambda t: [*t.real_known, CUTOUTS], lambda t: t.real_known),
            figure("live_fit", "slacs.one_lens", lambda t: t.slacs_lens),
            figure(
                "gallery_*",
                "populations.population_gallery",
                population_images,
                each=lambda t: t.populations,
            ),
            table("populations", populations, has_populations),
            figure("populations", "populations.populations_compared", populations, has_populations),
        ),
    ),
    Notebook(
        "02_feature_comparison",
        title="feature comparison",
        reads=of_selection("selection.json", "ranking.csv", "scores.csv"),
        settings=("seed", "data", "population", "populations.files", "selection")
        + ("runs", "run_seeds", "evaluation.bootstrap"),
        entries=(
            table("feature_ranking", of_selection("ranking.csv")),
            figure(
                "feature_auc", "selection.feature_auc", of_selection("ranking.csv", "scores.csv")
            ),
            figure(
                "feature_correlation",
                "selection.feature_correlation",
                of_selection("ranking.csv", "correlation.csv"),
            ),
            table("feature_scores", of_selection("scores.csv", "predictions.csv")),
            figure(
                "feature_importance",
                "selection.feature_importance",
                of_selection("importance.csv"),
            ),
            table("feature_populations", rankings, has_populations),
            figure(
                "feature_populations", "selection.feature_populations", rankings, has_populations
            ),
            figure(
                "feature_gain",
                "selection.feature_gain",
                lambda t: [f"{t.out}/runs/{run}/predictions.csv" for run in t.feature_runs],
                lambda t: t.feature_runs,
            ),
        ),
    ),
    Notebook(
        "03_model",
        title="model",
        reads=lambda t: (
            [*t.dataset, *t.processed, *of_runs("metrics.json", "run.json")(t)]
            + of_selection("selection.json", "predictions.csv", "scores.csv")(t)
        ),
        settings=("seed", "task", "publish", "preprocess", "features", "model", "train")
        + ("tune.space", "runs", "run_seeds", "efficiency.curves", "compare.rows", "maps.rows")
        + ("posterior.rows", "where.rows")
        + ("benchmark.sets",)
        + ("evaluation.bootstrap",),
        entries=(
            figure("spt_lsa", "diagrams.spt_lsa", of_runs("config.yaml", "model.safetensors")),
            figure("attention", "model.attention", of_runs("config.yaml", "model.safetensors")),
            figure(
                "positions",
                "model.position_similarity",
                of_runs("config.yaml", "model.safetensors"),
            ),
            figure(
                "pipeline",
                "diagrams.pipeline",
                lambda t: [*t.dataset, *t.fits, t.selection, *of_runs("predictions.csv")(t)],
            ),
            figure("training_history", "model.training_history", of_runs("history.csv")),
            figure("runs", "model.runs", of_runs("metrics.json")),
            table("runs", of_runs("metrics.json", "config.yaml")),
            figure(
                "data_efficiency",
                "efficiency.data_efficiency",
                lambda t: [*t.efficiency, "paper/published.csv"],
                lambda t: t.curves,
            ),
            table("data_efficiency", lambda t: t.efficiency, lambda t: t.curves),
            figure(
                "shortcut_loss",
                "efficiency.shortcut_loss",
                lambda t: t.efficiency,
                lambda t: t.shortcut,
            ),
            table("shortcut_loss", lambda t: t.efficiency, lambda t: t.shortcut),
            figure(
                "comparison",
                "comparison.comparison",
                lambda t: t.comparison,
                lambda t: t.comparison,
            ),
            table("comparison", lambda t: t.comparison, lambda t: t.comparison),
            table("benchmark", lambda t: t.benchmark, lambda t: t.benchmark),
            figure("maps", "maps.maps", lambda t: t.maps, lambda t: t.maps),
            table("maps", lambda t: t.maps, lambda t: t.maps),
            figure(
                "posterior",
                "posterior.posterior",
                lambda t: t.posterior,
                lambda t: t.posterior,
            ),
            table("posterior", lambda t: t.posterior, lambda t: t.posterior),
            figure("where", "where.where", lambda t: t.where, lambda t: t.where),
            table("where", lambda t: t.where, lambda t: t.where),
        ),
    ),
    Notebook(
        "04_optimisation",
        title="optimisation",
        reads=lambda t: [*trials(t), *t.gain],
        settings=("seed", "publish", "tune", "train.learning_rate"),
        entries=(
            figure("tune_convergence", "tuning.tune_convergence", trials),
            figure("tune_evaluations", "tuning.tune_evaluations", trials),
            figure("tune_objective", "tuning.tune_objective", trials),
            figure("tune_learning_rate", "tuning.tune_learning_rate", trials),
            figure("tune_again", "tuning.tune_again", trials),
            table("tune_best", trials),
            figure(
                "tune_rates",
                "tuning.tune_rates",
                lambda t: t.study("rates"),
                lambda t: t.study("rates"),
            ),
            figure(
                "tune_searches",
                "tuning.tune_searches",
                lambda t: t.study("searches"),
                lambda t: t.study("searches"),
            ),
            table("tune_searches", lambda t: t.study("searches"), lambda t: t.study("searches")),
        ),
    ),
    Notebook(
        "05_final_test",
        title="final test",
        reads=lambda t: (
            [*t.dataset, *t.processed, t.features, *t.fits, *t.population]
            + of_evaluation("metrics.json", "predictions.csv")(t)
            + [f"{folder}/model.safetensors" for folder in t.final]
        ),
        settings=("seed", "data", "publish", "population", "preprocess", "features.groups")
        + ("selection.fdr", "evaluation.bootstrap", "final.epochs"),
        entries=(
            table("results", of_evaluation("metrics.json")),
            table("predictions", of_evaluation("predictions.csv")),
            table("rivals", against_known_lens),
            figure("roc_curve", "test.roc_curve", of_evaluation("predictions.csv", "roc.csv")),
            table("per_class", of_evaluation("metrics.json")),
            table("confusion", of_evaluation("predictions.csv")),
            figure("confusion_matrix", "test.confusion_matrix", of_evaluation("predictions.csv")),
            figure(
                "sensitivity",
                "test.sensitivity",
                lambda t: [*of_evaluation("predictions.csv")(t), *t.sensitivity],
                simulated,
            ),
            table(
                "sensitivity",
                lambda t: [*of_evaluation("predictions.csv")(t), *t.sensitivity],
                simulated,
            ),
            figure("failures", "test.failures", of_evaluation("failures.csv")),
            table("mistakes", against_known_lens),
            table(
                "remedies",
                lambda t: [*of_evaluation("predictions.csv")(t), *of_runs("predictions.csv")(t)],
            ),
            figure("neighbours", "test.neighbours", of_evaluation("neighbours.csv")),
            figure("audit", "audit.audit", lambda t: t.audit, lambda t: t.audit),
            table("audit", lambda t: t.audit, lambda t: t.audit),
            figure("real_sky", "real_sky.real_sky", lambda t: t.real_sky, lambda t: t.real_sky),
            table("real_sky", lambda t: t.real_sky, lambda t: t.real_sky),
            figure(
                "headline",
                "test.headline",
                lambda t: [*t.dataset, *t.fits, *of_evaluation("metrics.json", "roc.csv")(t)],
            ),
        ),
    ),
    Notebook(
        "06_real_lenses",
        title="real lenses",
        reads=lambda t: [*t.slacs_lens, *t.slacs, *t.slacs_search, *t.misspecification],
        settings=("seed", "publish", "freeform", "perturbers", "slacs.images")
        + ("slacs.pixel_scale",),
        entries=(
            figure("one_lens", "slacs.one_lens", lambda t: t.slacs_lens),
            table("one_lens", lambda t: t.slacs_lens),
            figure("search_known", "perturbers.searched_lens"),
            figure("search", "perturbers.searched_lens", lambda t: t.slacs_lens),
            figure("slacs", "slacs.fitted_lenses", lambda t: t.slacs, lambda t: t.slacs),
            figure("slacs_radii", "slacs.fitted_radii", lambda t: t.slacs, lambda t: t.slacs),
            table("slacs", lambda t: t.slacs, lambda t: t.slacs),
            figure(
                "search_lens",
                "slacs_search.searched_lens",
                lambda t: [*t.slacs, *t.slacs_search],
                lambda t: t.slacs_search,
            ),
            figure("search_lenses", "slacs_search.searched_lenses", searched, searched),
            figure("search_injections", "slacs_search.found_injections", searched, searched),
            table("slacs_search", searched, searched),
            figure(
                "misspecification",
                "misspecification.misspecification",
                lambda t: t.misspecification,
                lambda t: t.misspecification,
            ),
            table(
                "misspecification",
                lambda t: t.misspecification,
                lambda t: t.misspecification,
            ),
        ),
    ),
)
