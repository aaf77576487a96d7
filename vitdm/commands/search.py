"""``vitdm search``: perturbers in lenses that ``vitdm lens`` has fitted."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitdm import commands
from vitdm.commands.progress import Progress
from vitdm.errors import InputError

if TYPE_CHECKING:
    from vitdm.config import Perturbers
    from vitdm.lens.perturbers import Search

HELP = "Search fitted lenses for perturbers: maps, peaks and a p-value."
EXAMPLE = "vitdm search lenses/J0946+1006 --z-lens 0.222 --z-source 0.609"
#: what is written into the folder of each lens
WRITTEN = ("search.json", "search.fits", "search.png", "peaks.csv")
LENS = "lens.json"  # what tells the folder of a fitted lens
TABLE, SIDECAR = "search.csv", "search_provenance.json"
REDSHIFTS = ("name", "z_lens", "z_source")
#: columns of the table that are told, and how
TOLD = {"folder": "{}", "score": "{:.1f}", "p_value": "{:.3g}", "n_twins": "{:.0f}"}
TOLD |= {"x": "{:+.2f}", "y": "{:+.2f}", "delta_evidence": "{:+.0f}", "warnings": "{}"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "lenses", nargs="+", type=Path, metavar="LENS", help="folders of vitdm lens, or above them"
    )
    commands.add_config(parser)
    redshift = commands.real(0.001, 20)
    known = parser.add_argument_group("redshifts, for masses in solar masses")
    known.add_argument("--z-lens", type=redshift, metavar="Z", help="of the lens")
    known.add_argument("--z-source", type=redshift, metavar="Z", help="of the source")
    known.add_argument(
        "--redshifts", type=Path, metavar="CSV", help="of several: name, z_lens, z_source"
    )
    what = parser.add_argument_group("what is searched for; without, as in the settings")
    what.add_argument("--profiles", nargs="+", metavar="NAME", help="of perturbers: point, …")
    what.add_argument("--peaks", type=commands.whole(0, 20), help="highest peaks that are refitted")
    what.add_argument(
        "--twins", type=commands.whole(0, 10_000), help="smooth twins for the p-value"
    )
    what.add_argument(
        "--refitted-twins", type=commands.whole(0, 1000), help="twins that are fitted anew, slowly"
    )


def run(options: argparse.Namespace) -> int:
    from vitdm.provenance import sidecar

    started = time.time()
    folders = [folder for place in options.lenses for folder in _lenses_at(place)]
    folders = list({os.path.realpath(folder): folder for folder in folders}.values())
    settings = {folder: _settings(options, folder) for folder in folders}
    rows: list[dict[str, Any]] = []
    parents = {Path(os.path.realpath(folder)).parent for folder in folders}
    above = parents.pop() if len(folders) > 1 and len(parents) == 1 else None
    for folder in folders:
        rows.append({"folder": folder.resolve().name})
        try:
            rows[-1] |= _search(folder, settings[folder]) | {"error": ""}
        except (InputError, OSError) as error:
            rows[-1]["error"] = str(error)
            print(f"vitdm search: error: {error}", file=sys.stderr)
        if above:
            _write_table(rows, above / TABLE)  # what was done so far, if it ends here
    if len(folders) > 1:
        _print_table(rows)
    if above:
        sidecar(
            above / SIDECAR,
            rule="search",
            config=next(iter(settings.values())),
            inputs=[folder / LENS for folder in folders],
            outputs=[above / TABLE],
            started=started,
        )
    return 2 if any(row["error"] for row in rows) else 0


def _lenses_at(place: Path) -> list[Path]:
    """Return the folder of a fitted lens, or those in a folder, sorted."""
    if not place.is_dir():
        found = "is a file" if place.exists() else "does not exist"
        raise InputError(f"{place}: {found}; expected a folder that vitdm lens has written")
    if (place / LENS).is_file():
        return [place]
    found = sorted(entry for entry in place.iterdir() if (entry / LENS).is_file())
    if not found:
        raise InputError(
            f"{place}: found no {LENS} in it or in its folders; expected what vitdm lens has "
            "written"
        )
    return found


def _settings(options: argparse.Namespace, folder: Path) -> Perturbers:
    """Return the settings of a lens: of the file, the options, and its own redshifts."""
    from vitdm.config import Perturbers
    from vitdm.config.sections import checked

    names = ("z_lens", "z_source", "profiles", "peaks", "twins", "refitted_twins")
    given = {name: getattr(options, name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    profiles = given.get("profiles")
    settings = commands.read_settings(options).perturbers.model_dump()
    if profiles and settings["detect"] not in profiles:
        given["detect"] = profiles[0]
    if options.redshifts:
        given |= _redshifts(options.redshifts, folder)
    return checked(Perturbers, settings | given, "options")


def _redshifts(table: Path, folder: Path) -> dict[str, float]:
    """Return the redshifts of a lens in a table; none if it is not listed there."""
    import pandas as pd

    from vitdm.data.foreign import decoding

    with decoding(table):
        known = pd.read_csv(table, comment="#", dtype={"name": str})
    if absent := [name for name in REDSHIFTS if name not in known]:
        raise InputError(f"{table}: found no column {absent[0]!r}; expected {', '.join(REDSHIFTS)}")
    rows = known[known["name"] == folder.resolve().name]
    found = rows[["z_lens", "z_source"]].dropna().to_dict("records")
    return found[0] if found else {}


def _search(folder: Path, settings: Perturbers) -> dict[str, Any]:
    """Search a lens, write the files into its folder, and return its row of the table."""
    from vitdm import lens
    from vitdm.lens.free_form.files import read_model
    from vitdm.lens.perturbers.verdict import answer

    with Progress(folder.resolve().name) as progress:
        progress("reading")
        model = read_model(folder)
        found = lens.search(model, settings, progress=progress)
        progress("writing")
        _write(found, folder)
    picture = f"see {folder / 'search.png'}"
    print(f"{folder.resolve().name}: {answer(found)} {picture}", file=sys.stderr)
    return row_of(found)


def _write(search: Search, folder: Path) -> None:
    from vitdm.lens.perturbers import files
    from vitdm.lens.perturbers.picture import picture
    from vitdm.provenance import atomic

    files.write(search, folder)
    with atomic(folder / "search.png") as temporary:
        picture(search).savefig(temporary, dpi="figure", metadata={"Software": None})


def row_of(search: Search) -> dict[str, Any]:
    """Return the numbers of a search for the table: score, p-value, and the highest peak."""
    from vitdm.lens.perturbers.verdict import warnings_of

    row = {"score": search.score, "p_value": search.p_value, "n_twins": len(search.twin_scores)}
    row |= search.peaks.iloc[0].to_dict() if len(search.peaks) else {}
    masses = search.sensitivity(search.settings.detect)
    row["lowest_mass"] = float(min((m for m in masses if m > 0), default=math.nan))
    row["solar_masses"] = search.solar_masses
    return row | {"warnings": " ".join(warnings_of(search))}


def _write_table(rows: list[dict[str, Any]], path: Path) -> None:
    import pandas as pd

    from vitdm.provenance import atomic

    table = pd.DataFrame(rows)
    table.insert(len(table.columns) - 1, "error", table.pop("error"))
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)


def _print_table(rows: list[dict[str, Any]]) -> None:
    """Print the lenses on stdout, the most significant first."""
    done = [row for row in rows if not row["error"]]
    done.sort(key=lambda row: (row["p_value"] if row["p_value"] >= 0 else 2.0, -row["score"]))
    cells = [list(TOLD)] + [[_cell(row, name) for name in TOLD] for row in done]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells if done else []:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(padded).rstrip())


def _cell(row: dict[str, Any], name: str) -> str:
    value = row.get(name, math.nan)
    return "-" if value != value else TOLD[name].format(value)
