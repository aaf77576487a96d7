"""``vitdm lens``: real lenses, fitted with a source of free form."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitdm import commands
from vitdm.commands import search
from vitdm.commands.progress import Progress
from vitdm.errors import InputError

if TYPE_CHECKING:
    from vitdm.config import Settings
    from vitdm.lens.free_form.model import LensModel

HELP = "Fit real lenses: mass, lens light, and a source of free form."
EXAMPLE = "vitdm lens J0946+1006/ --pixel-scale 0.05 --out lenses"
#: what is written of each lens, in a folder of its own
WRITTEN = ("lens.json", "lens.fits", "lens.png", "problem.npz", "coolest")
#: parts of the fit that can be left out: keys of the section ``freeform``
PARTS = {
    "lens_light": "do not fit the light of the lens galaxy",
    "neighbours": "neither look for neighbours nor mask them",
    "cosmic_rays": "neither look for cosmic rays nor mask them",
}
TABLE, SIDECAR = "lenses.csv", "provenance.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands.add_images(parser)
    commands.add_config(parser)
    for name, text in PARTS.items():
        option = f"--no-{name.replace('_', '-')}"
        parser.add_argument(option, dest=name, action="store_false", help=text)
    commands.add_out(parser, "folder; a folder in it for each lens, and a table of all")


def run(options: argparse.Namespace) -> int:
    from vitdm.data.readers import observations_at
    from vitdm.provenance import check_replaceable, sidecar

    started, settings = time.time(), _settings(options)
    places = observations_at(options.images)
    folders = _folders(places, options.out)
    known = commands.known_of_images(options)
    beside = [Path(known[name]) for name in ("noise", "psf", "mask") if _is_file(known[name])]
    for folder in folders:
        # a search belongs to the fit that it is of, and goes with it
        check_replaceable(folder, (*WRITTEN, *search.WRITTEN), [*options.images, *beside])
    rows: list[dict[str, Any]] = []
    for place, folder in zip(places, folders, strict=True):
        rows.append({"file": str(place), "folder": folder.name})
        try:
            rows[-1] |= _fit(place, folder, settings, known) | {"error": ""}
        except (InputError, OSError) as error:
            rows[-1]["error"] = str(error)
            print(f"vitdm lens: error: {error}", file=sys.stderr)
        _write_table(rows, options.out / TABLE)  # what was done so far, if it ends here
    sidecar(
        options.out / SIDECAR,
        rule="lens",
        config=settings.freeform,
        inputs=[*places, *beside],
        outputs=[options.out / TABLE],
        started=started,
    )
    return 2 if any(row["error"] for row in rows) else 0


def _settings(options: argparse.Namespace) -> Settings:
    without = {name: False for name in PARTS if not getattr(options, name)}
    return commands.read_settings(options).changed(freeform=without)


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and Path(value).is_file()


def _folders(places: list[Path], out: Path) -> list[Path]:
    """Return the folder of each lens: of the name of its folder or file, without the ending."""
    from vitdm.data.readers import suffix_of

    found: dict[str, Path] = {}
    for place in places:
        name = Path(os.path.abspath(place)).name  # also of "."; a link keeps its own name
        name = name if place.is_dir() else name[: -len(suffix_of(name) or "")]
        if name in found:
            raise InputError(
                f"{place}: has the same name as {found[name]}, and both would be written to "
                f"{out / name}; expected different names, or the folders of the files"
            )
        found[name] = place
    return [out / name for name in found]


def _fit(place: Path, folder: Path, settings: Settings, known: dict[str, Any]) -> dict[str, Any]:
    """Fit a lens, write its folder, and return its row of the table."""
    from vitdm import lens
    from vitdm.data.readers import read_observation
    from vitdm.provenance import atomic

    with Progress(folder.name) as tell:

        def progress(stage: str, chi2: float) -> None:
            tell(f"{stage}, chi2 per pixel {chi2:.3f}")

        model = lens.fit(read_observation(place, **known), settings.freeform, progress=progress)
        progress("writing", model.chi2)
        with atomic(folder) as temporary:
            _write(model, temporary)
    row, flags = row_of(model), "; flags: " * bool(model.flags) + ", ".join(model.flags)
    print(
        f'{folder.name}: theta_E = {row["theta_E"]:.4f} ± {row["theta_E_error"]:.4f}", '
        f"chi2 per pixel {model.chi2:.3f}{flags}; see {folder / 'lens.png'}",
        file=sys.stderr,
    )
    return row


def _write(model: LensModel, folder: Path) -> None:
    from vitdm.lens.free_form import coolest, files
    from vitdm.lens.free_form.picture import picture

    files.write(model, folder)
    coolest.write(model, folder / "coolest")
    picture(model).savefig(folder / "lens.png", dpi="figure", metadata={"Software": None})


def row_of(model: LensModel) -> dict[str, Any]:
    """Return the numbers of a fit for the table."""
    row: dict[str, Any] = {}
    for name, value, error in zip(model.names, model.values, model.errors, strict=True):
        row |= {name: float(value), f"{name}_error": float(error)}
    row |= {name: getattr(model, name) for name in ("chi2", "chi2_arcs", "n_pixels", "evidence")}
    row |= {"converged": int(model.converged), "flags": " ".join(model.flags)}
    return row | {"unknown": " ".join(model.observation.unknown)}


def _write_table(rows: list[dict[str, Any]], path: Path) -> None:
    import pandas as pd

    from vitdm.provenance import atomic

    table = pd.DataFrame(rows)
    whole = table.columns.intersection(["n_pixels", "converged"])
    table[whole] = table[whole].astype("Int64")  # empty where a lens could not be fitted
    table.insert(len(table.columns) - 1, "error", table.pop("error"))
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)
