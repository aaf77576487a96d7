"""What all figures share: fonts and colours, and how a figure is saved."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns

from vitdm.provenance import sidecar

COLOURS = {"no_sub": "#0072B2", "cdm": "#D55E00", "axion": "#009E73", "sub": "#CC79A7"}
NAMES = {"no_sub": "no substructure", "cdm": "CDM subhalos", "axion": "axion vortex"}
NAMES |= {"sub": "substructure"}
WIDTH = 6.3  # inches: the text width of the article


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
