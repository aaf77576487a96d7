"""The frame of the notebooks: where results come from, and where figures and numbers go."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Image, display
from matplotlib.figure import Figure

from studies import config as workflow
from studies import plots
from studies.config import Config
from vitdm.errors import InputError
from vitdm.provenance import atomic, sidecar, write_json

ROOT = Path(__file__).resolve().parents[1]

SMOKE = "config/smoke.yaml"


@dataclass(frozen=True)
class Notebook:
    """What a notebook reads (``results``, ``config``) and where it writes."""

    name: str
    results: Path
    figures: Path
    tables: Path
    config: Config

    def figure(self, figure: Figure, name: str) -> None:
        """Save a figure as ``<figures>/<name>.png`` and ``.pdf``, with its sidecar, and show it."""
        plots.save(figure, self.figures / name, **self._provenance())
        plt.close(figure)
        display(Image(filename=self.figures / f"{name}.png", width=800))

    def table(self, table: pd.DataFrame, name: str) -> None:
        """Save a table as ``<tables>/<name>.csv``, with its sidecar."""
        with atomic(self.tables / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False)
        caption = f"Columns: {', '.join(table.columns)}."
        sidecar(self.tables / f"{name}.json", caption=caption, **self._provenance())

    def numbers(self, numbers: dict[str, Any]) -> None:
        """Save the numbers that the article takes from this notebook."""
        write_json(self.results / "numbers" / f"{self.name[:2]}.json", numbers)

    def _provenance(self) -> dict[str, Any]:
        return {
            "rule": f"notebook_{self.name[:2]}",
            "notebook": f"notebooks/{self.name}.py",
            "config_file": str(self.results / "config.yaml"),
            "inputs": [self.results / file for file in needs(self.name, self.config)],
            "config": self.config,
            "seed": self.config.seed,
        }


def needs(name: str, settings: Config) -> list[str]:
    """Return the files below the results folder that a notebook cannot do without."""
    runs = [f"runs/{run}_seed{k}" for run in settings.runs for k in range(settings.run_seeds)]
    shown = settings.populations.files if settings.data == "simulate" else []
    populations = [f"populations/{Path(file).stem}" for file in shown]
    invariance = [f"{folder}/" for folder in populations] or [""]
    seeds = range(settings.run_seeds)
    compared = [f"runs/{run}_seed{k}" for run in settings.feature_runs for k in seeds]
    return {
        "01": [
            "processed/dataset.json",
            "features.csv",
            *(f"{folder}/features.csv" for folder in populations),
            *(f"{folder}invariance/invariance.csv" for folder in invariance),
        ],
        "02": [
            "features.csv",
            "selection/selection.json",
            *(f"{folder}/selection/ranking.csv" for folder in populations),
            *(f"{run}/predictions.csv" for run in compared),
        ],
        "03": [
            "dataset/dataset.json",
            "processed/dataset.json",
            *["lensfit/fits.csv"] * ("lensfit" in settings.features.groups),
            "features.csv",
            "selection/selection.json",
            *(f"{run}/metrics.json" for run in runs),
            *["efficiency/all/efficiency.csv"] * bool(settings.efficiency.curves),
        ],
        "04": ["processed/dataset.json", "tune/best.json"],
        "05": [
            *("evaluation/metrics.json", "features.csv"),
            *["audit/table/audit.csv"] * bool(settings.audit.population),
            *["sky/all/real_sky.csv"] * bool(settings.real_sky.present),
        ],
    }[name[:2]]


def start(results: str, figures: str, tables: str, *, name: str) -> Notebook:
    """Open the results that a notebook shows; paths are relative to the repository.

    A notebook opened by itself builds the small results it shows by default, if they are not there
    yet (``config/smoke.yaml``; a minute or two). InputError if other results are missing.
    """
    os.chdir(ROOT)
    plots.style()
    folder = Path(results)
    written = folder / "config.yaml"
    settings = workflow.load(written if written.exists() else SMOKE)
    missing = [str(folder / n) for n in needs(name, settings) if not (folder / n).exists()]
    if missing:
        if results != settings.results or settings.name != workflow.load(SMOKE).name:
            raise InputError(f"{', '.join(missing)}: missing; run snakemake first")
        print(f"No results yet: building them from {SMOKE}, a minute or two …")
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", SMOKE]
        here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        subprocess.run([*command, "--", *missing], check=True, env=os.environ | {"PATH": here})
    return Notebook(name, folder, Path(figures), Path(tables), settings)
