"""What all figures share: fonts and colours, and how a figure is saved."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns

from vitdm.provenance import sidecar
from vitdm.simulation.classes import CLASSES, SUB

BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito's, where no class is meant
WIDTH = 6.3  # inches: the text width of the article


def classes_in(names: Iterable[str]) -> list[str]:
    """Return the classes among some names in the order of figures: any substructure comes last."""
    present = set(names)
    return sorted((name for name in CLASSES if name in present), key=lambda name: name == SUB)


def colour_of(name: str, other: str = "black") -> str:
    """Return the colour of a class; ``other`` for a name that is none."""
    return CLASSES[name].colour if name in CLASSES else other


def label_of(name: str) -> str:
    """Return a class in words; a name that is none stays as it is."""
    return CLASSES[name].label if name in CLASSES else name


def style() -> None:
    """Set fonts, sizes and colours that stay readable in print and to the colour-blind."""
    sns.set_theme(context="paper", style="ticks", palette="colorblind")
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 200,
            "font.size": 9,
            "axes.labelsize": 9,
            "axes.titlesize": 9,
            "legend.fontsize": 8,
            "legend.frameon": False,
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
            "image.cmap": "inferno",
            "image.origin": "lower",
            "image.interpolation": "none",  # pixels as measured; in a PDF also much smaller
            "axes.spines.top": False,
            "axes.spines.right": False,
            "pdf.fonttype": 42,
            "svg.hashsalt": "vitdm",
        }
    )


def nothing(text: str) -> plt.Figure:
    """Draw nothing but why: not all images have what a figure shows."""
    figure, axes = plt.subplots(figsize=(WIDTH, 0.6), layout="constrained")
    axes.text(0.5, 0.5, text, ha="center", va="center")
    axes.axis("off")
    return figure


def save(figure: plt.Figure, path: str | Path, **provenance: Any) -> None:
    """Write ``path`` as .png and .pdf, same bytes for the same figure, and the sidecar .json."""
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None})):
        temporary = path.with_name(f".{path.name}{suffix}")
        figure.savefig(temporary, bbox_inches="tight", metadata=metadata, format=suffix[1:])
        temporary.replace(path.with_suffix(suffix))
    sidecar(path.with_suffix(".json"), **({"rule": path.name} | provenance))
