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

from studies import contents
from studies.config import Config, load
from studies.config.part import load_part
from studies.plots import style
from studies.targets import Targets
from vitdm.errors import InputError
from vitdm.provenance import atomic, sidecar, write_json

ROOT = Path(__file__).resolve().parents[1]

SMOKE = "config/smoke.yaml"


@dataclass(frozen=True)
class Notebook:
    """What a notebook reads (``results``, ``config``) and where it writes.

    ``config`` has the settings that are declared for this notebook in ``studies.contents``.
    """

    name: str
    results: Path
    figures: Path
    tables: Path
    config: Config
    targets: Targets

    def figure(self, figure: Figure, name: str) -> None:
        """Save a figure as ``<figures>/<name>.png`` and ``.pdf``, with its sidecar, and show it."""
        entry = contents.notebook(self.name).entry(name, figure=True)
        style.save(figure, self.figures / name, caption=entry.caption, **self._provenance(entry))
        plt.close(figure)
        display(Image(filename=self.figures / f"{name}.png", width=800))

    def table(self, table: pd.DataFrame, name: str) -> None:
        """Save a table as ``<tables>/<name>.csv``, with its sidecar."""
        entry, file = contents.notebook(self.name).entry(name, figure=False), f"{name}.csv"
        with atomic(self.tables / file) as temporary:
            table.to_csv(temporary, index=False)
        caption = entry.shows(self.tables / file)
        sidecar(self.tables / f"{name}.json", caption=caption, **self._provenance(entry))

    def numbers(self, numbers: dict[str, Any]) -> None:
        """Save the numbers that the article takes from this notebook."""
        write_json(self.results / "numbers" / f"{self.name[:2]}.json", numbers)

    def _provenance(self, entry: contents.Entry) -> dict[str, Any]:
        """Return what a figure or table was made from; sidecars stand for large arrays."""
        files = entry.inputs(self.targets)
        return {
            "rule": f"notebook_{self.name[:2]}",
            "notebook": f"notebooks/{self.name}.py",
            "config_file": str(self.results / "config.yaml"),
            "inputs": [file for file in files if not file.endswith((".npy", ".safetensors"))],
            "config": self.config,
            "seed": self.config.seed,
        }


def start(results: str, figures: str, tables: str, *, name: str) -> Notebook:
    """Open the results that a notebook shows; paths are relative to the repository.

    A notebook opened by itself builds the small results it shows by default, if they are not there
    yet (``config/smoke.yaml``; a minute or two). InputError if other results are missing.
    """
    os.chdir(ROOT)
    style.style()
    written = Path(results) / "config.yaml"
    config = load(written if written.exists() else SMOKE)
    targets, known = Targets(config, results), contents.notebook(name)
    part = f"{results}/config/notebook_{known.number}.yaml"
    missing = [file for file in (*known.inputs(targets), part) if not Path(file).exists()]
    if missing:
        if results != config.results or config.name != load(SMOKE).name:
            raise InputError(f"{', '.join(missing)}: missing; run snakemake first")
        print(f"No results yet: building them from {SMOKE}, a minute or two …")
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", SMOKE]
        here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        subprocess.run([*command, "--", *missing], check=True, env=os.environ | {"PATH": here})
    return Notebook(name, Path(results), Path(figures), Path(tables), load_part(part), targets)
