"""Data sets that are unlike any that the notebooks were written for, and the workflow on them.

The commands are those that Snakemake plans. They run in this process, one after the other: to
start Python for each of them would take minutes.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import jupytext
import numpy as np
import yaml

from studies import config as workflow
from studies.__main__ import main as studies
from studies.config.part import text_of
from studies.stages import stages
from vitdm.__main__ import main as vitdm

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "name": "zoo",
    "seed": 3,
    "n_images": {"train": 6, "valid": 4, "opt": 4, "test": 4},
    "shards": 1,
    "populations": {"n_invariance": 2},
    "preprocess": {"size": 24},
    "lensfit": {"size": 24, "batch": 8},
    "freeform": {"splines": 10, "most_splines": 10, "supersampling": 1},
    "perturbers": {"twins": 10},
    "selection": {"n_bootstrap": 10, "n_subsamples": 2, "n_repeats": 2},
    "model": {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "features": True},
    "train": {"epochs": 1, "batch_size": 8, "warmup": 0.0},
    "runs": {
        "spt_lsa": {"label": "ViT", "model": {"features": False}},
        "spt_lsa_features": {"label": "features", "model": {"features": True}},
    },
    "tune": {
        "n_calls": 3,
        "n_initial_points": 1,
        "start_seeds": 1,
        "candidates": 1,
        "candidate_seeds": 2,
        "epochs": 1,
        "space": {"learning_rate": {"type": "real", "low": 1e-4, "high": 1e-2, "log": True}},
    },
    "final": {"seeds": 2, "epochs": 1},
    "evaluation": {"bootstrap": 10},
}
SIDE = 26  # px


def ring(rng, radius=8.0, bright=20.0, noise=1.0):
    """Return an image of an arc, (SIDE, SIDE)."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    arc = np.exp(-(((np.hypot(x, y) - radius) / 1.5) ** 2))
    arc *= 1 + np.cos(np.arctan2(y, x) - rng.uniform(0, 2 * np.pi))
    return bright * arc + rng.normal(0, noise, arc.shape)


def written(place, images):
    """Write images, by class, into class folders of NumPy files, and return their folder."""
    for kind, stack in images.items():
        (place / kind).mkdir(parents=True)
        for k, image in enumerate(stack):
            np.save(place / kind / f"{k}.npy", image)
    return place


def run(place, data, **more):
    """Run the workflow on images in ``place``, a folder of its own; return the results' folder."""
    for name in ("config", "notebooks", "paper", "environment.yml", "vitdm", "studies"):
        (place / name).symlink_to(ROOT / name)
    content = SETTINGS | {"data": str(data)} | more
    (place / "zoo.yaml").write_text(yaml.safe_dump(content))
    settings = workflow.build(content)
    out = place / settings.results
    (out / "config").mkdir(parents=True)
    workflow_file = ("--snakefile", ROOT / "Snakefile", "--configfile", "zoo.yaml")
    command = [sys.executable, "-m", "snakemake", "-n", "--printshellcmds", *workflow_file]
    command += ["--directory", place]
    plan = subprocess.run(list(map(str, command)), cwd=place, capture_output=True, text=True)
    assert plan.returncode == 0, plan.stdout + plan.stderr
    for name, stage in stages(settings).items():
        (out / f"config/{name}.yaml").write_text(text_of(stage))
    (out / "config.yaml").write_text(text_of(settings.model_dump(mode="json")))
    for line in re.findall(r"^Shell command: (.*)$", plan.stdout, re.M):
        called(line.partition(" 2>&1")[0], place)
    return out


def called(line, place):
    """Run a command of the workflow in this process."""
    try:
        words = shlex.split(line)
    except ValueError:  # the text of a stage's settings, which goes over several lines
        return
    match words:
        case ["vitdm", *options]:
            assert vitdm(options) == 0, line
        case ["python", "-m", "studies", *options]:
            assert studies(options) == 0, line
        case ["jupytext", *options] if "00_quickstart" not in line:  # not of the images
            given = dict(word.split() for word in re.findall(r"-p (\w+ \S+)", line))
            executed(place / re.search(r"notebooks/\w+\.py", line)[0], given)


def executed(source, parameters):
    """Run the code of a notebook."""
    cells = [cell for cell in jupytext.read(source).cells if cell.cell_type == "code"]
    assert "parameters" in cells[0].metadata["tags"]
    names = dict(parameters)
    for k, cell in enumerate(cells[1:]):
        try:
            exec(compile(cell.source, f"{source.stem}, cell {k}", "exec"), names)
        except Exception as error:
            error.add_note(cell.source)
            raise
