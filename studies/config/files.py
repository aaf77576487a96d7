"""Workflow configurations read from files."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from studies.config.studies import Cutouts
from studies.config.workflow import Config
from vitdm.config.reading import read_yaml
from vitdm.config.sections import checked
from vitdm.errors import InputError
from vitdm.provenance import files_below
from vitdm.simulation.population import load_population


def load(path: str | Path) -> Config:
    """Read and check a workflow configuration; InputError names each wrong key."""
    return build(read_yaml(path), str(path))


def build(content: dict[str, Any], source: str = "configuration") -> Config:
    """Check a configuration given as a dictionary; data from files get a name of their own."""
    content = dict(content)
    data = content.get("data", "simulate")
    if not isinstance(data, str):
        raise InputError(
            f"{source}: data: found {data!r}, which is no text; expected a path: for a name that "
            "YAML reads as a number or a date, write data=./NAME"
        )
    if data != "simulate":
        stem = _stem(Path(os.path.expanduser(data).rstrip("/")).name)
        name = str(content.get("name", "data")).removesuffix(f"_{stem}")
        content |= {"name": f"{name}_{stem}", "publish": False}
        # they are of the article
        content |= {"efficiency": {}, "compare": {}, "audit": {}, "real_sky": {}, "slacs": {}}
        content |= {"misspecification": {}, "maps": {}, "posterior": {}, "where": {}}
        from vitdm.data.ingest import known_scale  # pandas and astropy: not for simulated images

        ingest = content.get("ingest", {})
        if isinstance(ingest, dict) and not (ingest.get("pixel_scale") or known_scale(data)):
            content = _without_fits(content)
    return checked(Config, content, source)


def _stem(name: str) -> str:
    """Return what results are named after: the data, ending and all.

    Whatever cannot stand in a folder's name is replaced, and a hash keeps such names apart.
    """
    if not name.strip("."):
        return "data"
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    return stem if stem == name else f"{stem}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _without_fits(content: dict[str, Any]) -> dict[str, Any]:
    """Leave out what needs lens fits: without the scale of the pixels there are none."""
    features, runs = content.get("features"), content.get("runs")
    if isinstance(features, dict) and isinstance(features.get("groups"), list):
        groups = [group for group in features["groups"] if group not in ("lensfit", "search")]
        content = content | {"features": features | {"groups": groups}}
    if isinstance(model := content.get("model"), dict):
        content = content | {"model": model | {"residual": False, "maps": []}}
    if isinstance(runs, dict):
        needs = ({"feature_set": "lensfit"}, {"residual": True})

        def fitted(run: Any) -> bool:
            model = run.get("model") if isinstance(run, dict) else None
            if not isinstance(model, dict):
                return False
            return bool(model.get("maps")) or any(need.items() <= model.items() for need in needs)

        runs = {name: run for name, run in runs.items() if not fitted(run)}
        content = content | {"runs": runs}
    return content


def check_data(settings: Config) -> None:
    """Raise InputError at once if the images, or the population to simulate, are not there."""
    if settings.data == "simulate":
        curves = [curve.population for curve in settings.efficiency.curves]
        sky = [chosen.population for chosen in settings.real_sky.sets.values()]
        shown = *settings.populations.files, *settings.maps.populations
        for file in (settings.population, *shown, *curves, *sky):
            load_population(file)
    elif not Path(settings.data).exists():
        raise InputError(
            f"data: {settings.data}: no such file or folder; expected 'simulate', or a folder or "
            "archive of class folders"
        )


def fingerprint(path: str | Path) -> str:
    """Return a hash of the names, sizes and times of a file, or of all files in a folder.

    Links are followed.
    """
    path = Path(path)
    files = files_below(path) if path.is_dir() else [path]
    facts = [
        (str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns)
        for file in files
    ]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def load_cutouts(path: str | Path) -> Cutouts:
    """Read and check what is known of real images; InputError names each wrong key."""
    return checked(Cutouts, read_yaml(path), str(path))
