"""One function per figure; each draws what it is given and returns the figure.

The figure's label is what the first line of the function's docstring says that it draws: its
caption in the sidecar and in the report of the workflow.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from studies.plots.audit import KINDS, audit
from studies.plots.comparison import comparison
from studies.plots.data import feature_distributions, noise_histogram
from studies.plots.diagrams import Head, Lens, pipeline, spt_lsa
from studies.plots.efficiency import data_efficiency, shortcut_loss, shortcut_table
from studies.plots.lensfit import (
    RealFit,
    einstein_radii,
    real_residuals,
    residual_maps,
    subhalo_distance,
)
from studies.plots.model import attention, position_similarity, runs, training_history
from studies.plots.populations import (
    Example,
    perturbations,
    population_gallery,
    populations_compared,
    simulated,
)
from studies.plots.processing import (
    RealLens,
    invariance,
    processing_steps,
    real_lenses,
    unrolled_rings,
)
from studies.plots.real_sky import real_sky
from studies.plots.selection import (
    feature_auc,
    feature_correlation,
    feature_gain,
    feature_importance,
    feature_populations,
)
from studies.plots.style import COLOURS, NAMES, WIDTH, save, style
from studies.plots.test import (
    confusion_matrix,
    failures,
    headline,
    neighbours,
    roc_curve,
    sensitivity,
)
from studies.plots.tuning import (
    COLLAPSED,
    setting_name,
    stage_name,
    tune_again,
    tune_convergence,
    tune_evaluations,
    tune_learning_rate,
    tune_objective,
    tune_rates,
    tune_searches,
)

__all__ = [
    "COLLAPSED",
    "COLOURS",
    "KINDS",
    "Example",
    "Head",
    "Lens",
    "NAMES",
    "RealFit",
    "RealLens",
    "WIDTH",
    "attention",
    "audit",
    "comparison",
    "confusion_matrix",
    "data_efficiency",
    "einstein_radii",
    "failures",
    "feature_auc",
    "feature_correlation",
    "feature_distributions",
    "feature_gain",
    "feature_importance",
    "feature_populations",
    "headline",
    "invariance",
    "neighbours",
    "noise_histogram",
    "perturbations",
    "pipeline",
    "population_gallery",
    "populations_compared",
    "position_similarity",
    "processing_steps",
    "real_lenses",
    "real_residuals",
    "real_sky",
    "residual_maps",
    "roc_curve",
    "runs",
    "save",
    "sensitivity",
    "setting_name",
    "stage_name",
    "shortcut_loss",
    "shortcut_table",
    "simulated",
    "spt_lsa",
    "style",
    "subhalo_distance",
    "training_history",
    "tune_again",
    "tune_convergence",
    "tune_evaluations",
    "tune_learning_rate",
    "tune_objective",
    "tune_rates",
    "tune_searches",
    "unrolled_rings",
]


def _labelled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    summary = " ".join(draw.__doc__.split("\n\n")[0].replace("``", "").split())
    caption = summary.removeprefix("Draw ")

    @functools.wraps(draw)
    def drawn(*arguments: Any, **options: Any) -> Figure:
        figure = draw(*arguments, **options)
        figure.set_label(caption[0].upper() + caption[1:])
        return figure

    return drawn


for _name in __all__:
    _drawn = globals()[_name]
    if getattr(_drawn, "__annotations__", {}).get("return") == "plt.Figure":
        globals()[_name] = _labelled(_drawn)
        # the same in the function's own module, from which the notebooks import it
        setattr(sys.modules[_drawn.__module__], _name, globals()[_name])
