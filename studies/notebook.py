"""The frame of the notebooks: where results come from, and where figures and numbers go."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure

from studies import contents, running
from studies.config import Config, load
from studies.config.part import load_part
from studies.plots import style
from studies.targets import Targets
from vitdm.errors import InputError
from vitdm.provenance import atomic, sidecar, write_json

ROOT = Path(__file__).resolve().parents[1]

SMOKE = "config/smoke.yaml"
CORES = 2
FEW_EPOCHS = 5  # with fewer a network of this size has hardly learned anything
SECONDS_A_JOB = 5  # of a core, about: the 27 jobs of notebook 01 took 94
#: stands above what a run with hardly any training shows
SMALL = (
    "> **A small run** (`{name}`). Its networks were trained for {epochs} epochs on few images and "
    "have hardly learned anything. Its numbers and figures show that everything works, not how "
    "well. Results in the text are those of the reference run."
)


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
        """Save a figure as ``<figures>/<name>.png`` and ``.pdf``, with its sidecar, and show it.

        Below it stand its number and its caption.
        """
        book = contents.notebook(self.name)
        entry = book.entry(name, figure=True)
        style.save(figure, self.figures / name, caption=entry.caption, **self._provenance(entry))
        plt.close(figure)
        display(Image(filename=self.figures / f"{name}.png", width=800, alt=entry.caption))
        display(Markdown(f"*Figure {book.figure_number(name)}. {entry.caption}*"))

    def table(self, table: pd.DataFrame, name: str) -> None:
        """Save a table as ``<tables>/<name>.csv``, with its sidecar."""
        entry, file = contents.notebook(self.name).entry(name, figure=False), f"{name}.csv"
        with atomic(self.tables / file) as temporary:
            table.to_csv(temporary, index=False)
        caption = entry.shows(self.tables / file)
        sidecar(self.tables / f"{name}.json", caption=caption, **self._provenance(entry))

    def numbers(self, *parts: dict[str, Any]) -> pd.DataFrame:
        """Save the numbers that the article takes from this notebook, and return them as a table.

        ``parts`` are those of its sections.
        """
        numbers = {key: value for part in parts for key, value in part.items()}
        write_json(self.results / "numbers" / f"{self.name[:2]}.json", numbers)
        return pd.Series(numbers, name="value", dtype=object).to_frame()

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

    A notebook opened by itself makes the small results that it shows by default, if they are not
    there yet (``config/smoke.yaml``). InputError if other results are missing. A run with hardly
    any training is announced as such.
    """
    os.chdir(ROOT)
    style.style()
    written = Path(results) / "config.yaml"
    config = load(written if written.exists() else SMOKE)
    targets = Targets(config, results)
    if absent := missing(name, targets):
        if results != config.results or config.name != load(SMOKE).name:
            raise InputError(f"{', '.join(absent)}: missing; run snakemake first")
        build(absent)
    if config.train.epochs < FEW_EPOCHS:
        display(Markdown(SMALL.format(name=config.name, epochs=config.train.epochs)))
    part = load_part(_part(name, targets))
    return Notebook(name, Path(results), Path(figures), Path(tables), part, targets)


def missing(name: str, targets: Targets) -> list[str]:
    """Return the files that a notebook reads and that are not there."""
    files = [*contents.notebook(name).inputs(targets), _part(name, targets)]
    return [file for file in files if not Path(file).exists()]


def _part(name: str, targets: Targets) -> str:
    """Return the file of the settings that are declared for a notebook."""
    return f"{targets.out}/config/notebook_{contents.notebook(name).number}.yaml"


def build(files: Sequence[str], *options: str) -> None:
    """Make files of the tiny results with Snakemake, and tell before how much work that is.

    ``options`` are further ones of Snakemake. Its messages go to ``logs/notebook.log`` of the
    results; the RuntimeError of a failure has the last of them.
    """
    log = Path(load(SMOKE).results) / "logs" / "notebook.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    # the files after --: they would be taken for further ones of --configfile
    command = [sys.executable, "-m", "snakemake", "--cores", str(CORES), *options]
    command += ["--configfile", SMOKE, "--", *files]
    running.unlock()
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    print(f"No results yet: made now from {SMOKE}, on up to {CORES} cores ({log}).")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with (
        log.open("w") as stream,
        subprocess.Popen(command, env=os.environ | {"PATH": here}, **pipes) as run,
    ):
        try:
            for line in run.stdout:
                stream.write(line)
                _tell(line)
        except BaseException:  # interrupted: what runs is ended with it
            run.terminate()
            raise
    print()
    if run.returncode:
        last = "".join(log.read_text().splitlines(keepends=True)[-20:])
        raise RuntimeError(f"the results could not be made; the last lines of {log}:\n{last}")


def _tell(line: str) -> None:
    """Print what a line of Snakemake says of the work: first how many jobs, then how many done."""
    if plan := re.match(r"total +(\d+)$", line):
        minutes = int(plan[1]) * SECONDS_A_JOB / 60
        print(f"{plan[1]} jobs, some {minutes:.0f} minutes of processor time:")
    elif done := re.match(r"(\d+ of \d+) steps", line):
        print(f"\r{done[1]} done", end="", flush=True)
