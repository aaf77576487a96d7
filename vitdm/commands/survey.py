"""``vitdm survey``: very many cutouts, in shards, each lens a row of one table."""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vitdm import commands
from vitdm.commands import lens, search
from vitdm.errors import InputError

if TYPE_CHECKING:
    from vitdm.config import Settings
    from vitdm.data import Observation

HELP = "Fit, or search, very many cutouts in shards; one table."
EXAMPLE = "vitdm survey cutouts.tar --pixel-scale 0.1 --parallel 8 --out survey"
STAGES = ("sersic", "lens", "search")
TABLE, SIDECAR, PLAN, SHARDS = "answers.csv", "provenance.json", "plan.json", "shards"
TABLES = (".csv", ".tsv")  # of cutouts: a column of paths, and of what is known of each
OF_LENSES = ("z_lens", "z_source")
Row = dict[str, Any]


class Cutout(NamedTuple):
    """Where a cutout lies, and what a table tells of it alone."""

    archive: str  # empty: its path is one of the disk
    path: str  # of a file, or of the folder of an observation
    known: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.archive}/{self.path}" if self.archive else self.path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stage",
        choices=STAGES,
        default=STAGES[0],
        help="Sérsic fit, of a tenth of a second; free-form fit, of seconds; or that and a search,"
        " most of a minute (default: %(default)s)",
    )
    commands.add_config(parser)
    parser.add_argument(
        "--shard-size",
        type=commands.whole(1, 100_000),
        default=512,
        metavar="N",
        help="cutouts of a shard, the unit that is repeated after a kill (default: %(default)s)",
    )
    commands.add_workers(parser, "shards")
    commands.add_out(parser, f"folder of {TABLE} and of the shards")
    commands.add_images(parser, "image files, folders, archives, or tables (CSV) of files")


def run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from vitdm.provenance import check_replaceable, sidecar
    from vitdm.tuning.search import Workers, in_order

    started, settings = time.time(), commands.read_settings(options)
    known = commands.known_of_images(options)
    out: Path = options.out
    check_replaceable(out, (TABLE, SIDECAR, PLAN, SHARDS), options.images)
    cutouts = cutouts_at(options.images)
    _check_plan(out / PLAN, _plan(options, settings, known, cutouts))
    starts = range(0, len(cutouts), options.shard_size)
    shards = [out / SHARDS / f"{k:06}.csv" for k in range(len(starts))]
    missing = [k for k, shard in enumerate(shards) if not shard.is_file()]

    def task(k: int, _: list[int]) -> int | None:
        return missing[k] if k < len(missing) else None

    with (
        Workers(options.parallel, options.backend) as workers,
        tqdm(total=len(cutouts), unit="cutout", desc=f"survey: {options.stage}") as bar,
    ):

        def answered(k: int) -> int:
            some = cutouts[starts[k] : starts[k] + options.shard_size]
            return workers(answer_shard, some, options.stage, settings, known, shards[k])

        left = sum(len(cutouts[starts[k] :][: options.shard_size]) for k in missing)
        bar.update(len(cutouts) - left)
        for n in in_order(task, answered, options.parallel):
            bar.update(n)
    n_errors = join(shards, out / TABLE)
    sidecar(
        out / SIDECAR,
        rule="survey",
        config=settings,
        inputs=[path for path in options.images if Path(path).is_file()],
        outputs=[out / TABLE],
        started=started,
        n=len(cutouts),
        n_now=left,
        n_errors=n_errors,
    )
    return 2 if n_errors else 0


def _plan(
    options: argparse.Namespace, settings: Settings, known: Row, cutouts: Sequence[Cutout]
) -> Row:
    """Return what all shards of a folder must have in common."""
    from vitdm.provenance import config_hash

    names = "\n".join(f"{cutout.name} {sorted(cutout.known.items())}" for cutout in cutouts)
    return {
        "stage": options.stage,
        "shard_size": options.shard_size,
        "cutouts": len(cutouts),
        "sha256_of_names": hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest(),
        "sha256_of_settings": config_hash({"settings": settings, "known": known}),
    }


def _check_plan(path: Path, plan: Row) -> None:
    """Write what a folder is of; InputError if the shards in it are of something else."""
    from vitdm.provenance import read_json, write_json

    before = read_json(path) if path.is_file() else plan
    if changed := [key for key in plan if before.get(key) != plan[key]]:
        raise InputError(
            f"{path}: {changed[0]}: found {before.get(changed[0])!r}; expected {plan[changed[0]]!r}"
            ", for the shards beside it would be of another survey; give another --out"
        )
    write_json(path, plan)


# ------------------------------------------------------------------------------------ the cutouts


def cutouts_at(paths: Sequence[str | Path]) -> list[Cutout]:
    """Return the cutouts in files, folders and archives, and those that tables name, in order.

    InputError for what does not exist, has no image, or is named twice.
    """
    from vitdm.data.readers import ARCHIVES, members, observations_at, suffix_of, together

    found: list[Cutout] = []
    for path in map(str, paths):
        if path.lower().endswith(TABLES):
            found += _listed(Path(path))
        elif path.lower().endswith(ARCHIVES):
            files = sorted(Path(member.name) for member in members(Path(path)))
            places = together(file for file in files if suffix_of(file.name))
            if not places:
                raise InputError(f"{path}: found no image in it")
            found += [Cutout(path, place.as_posix(), {}) for place in places]
        else:
            found += [Cutout("", str(place), {}) for place in observations_at([path])]
    seen: set[str] = set()
    for cutout in found:
        if cutout.name in seen:
            raise InputError(f"{cutout.name}: is named twice; expected each cutout once")
        seen.add(cutout.name)
    return found


def _listed(table: Path) -> list[Cutout]:
    """Return the cutouts of a table: column file, and any of those that are known of an image.

    Files are looked for in the folder of the table. A cell that is empty tells nothing.
    """
    import pandas as pd

    from vitdm.data.foreign import decoding

    kinds: Row = dict.fromkeys((*commands.OF_IMAGES, *OF_LENSES), str)
    with decoding(table):
        sep = "\t" if table.suffix.lower() == ".tsv" else ","
        rows = pd.read_csv(table, sep=sep, comment="#", dtype=str, keep_default_na=False)
    if "file" not in rows:
        raise InputError(f"{table}: found columns {', '.join(rows)}; expected file")
    columns = [name for name in rows if name in kinds]
    found = []
    for row in rows.to_dict("records"):
        told = argparse.Namespace(**{name: row.get(name) or None for name in kinds})
        known = commands.known_of_images(told)
        known |= {name: getattr(told, name) for name in OF_LENSES}
        for name in ("pixel_scale", "gain", *OF_LENSES):
            known[name] = None if known[name] is None else _number(table, row["file"], name, row)
        for name in ("noise", "psf", "mask"):
            beside = table.parent / str(known[name])
            known[name] = str(beside) if beside.is_file() else known[name]
        file = str(table.parent / row["file"])
        found.append(Cutout("", file, {name: known[name] for name in columns if row[name]}))
    return found


def _number(table: Path, file: str, name: str, row: Row) -> float:
    try:
        return float(row[name])
    except ValueError:
        raise InputError(
            f"{table}: {file}: {name}: found {row[name]!r}; expected a number"
        ) from None


# ---------------------------------------------------------------------------------------- a shard


def answer_shard(
    cutouts: Sequence[Cutout], stage: str, settings: Settings, known: Row, out: Path
) -> int:
    """Write the table of some cutouts, and return their number.

    In memory are the images of one batch; members of archives are unpacked into a temporary folder.
    """
    from vitdm.provenance import atomic

    rows: list[Row] = []
    with atomic(out) as temporary, tempfile.TemporaryDirectory() as folder:
        opened = _opened(cutouts, known, Path(folder))
        size = settings.lensfit.batch if stage == STAGES[0] else 1
        while batch := list(itertools.islice(opened, size)):
            names, images, own = zip(*batch, strict=True)
            read = [image for image in images if not isinstance(image, str)]
            answers = iter(_answers(read, own[0], stage, settings))
            for name, image in zip(names, images, strict=True):
                row = {"error": image} if isinstance(image, str) else next(answers)
                rows.append({"file": name, "error": ""} | row)
        _table(rows).to_csv(temporary, index=False)
    return len(cutouts)


def _table(rows: list[Row]) -> Any:
    import pandas as pd

    table = pd.DataFrame(rows)
    table.insert(len(table.columns) - 1, "error", table.pop("error"))
    return table


def _opened(
    cutouts: Sequence[Cutout], known: Row, folder: Path
) -> Iterator[tuple[str, Observation | str, Row]]:
    """Yield the name, the image or why it cannot be read, and what is known of it, of each cutout.

    A stack is one cutout for each of its images.
    """
    from vitdm.data.readers import read_observations

    archives = list(dict.fromkeys(cutout.archive for cutout in cutouts if cutout.archive))
    places = {archive: folder / str(k) for k, archive in enumerate(archives)}
    for archive, place in places.items():
        _unpack(Path(archive), {Path(c.path) for c in cutouts if c.archive == archive}, place)
    for cutout in cutouts:
        path = places[cutout.archive] / cutout.path if cutout.archive else Path(cutout.path)
        own = known | cutout.known
        told = {name: own[name] for name in commands.OF_IMAGES}
        try:
            images = read_observations(path, **told)
        except (InputError, OSError) as error:
            yield cutout.name, str(error).replace(str(path), cutout.name), own
            continue
        for k, image in enumerate(images):
            name = cutout.name + f"[{k}]" * (len(images) > 1)
            yield name, image.replace(name=name), own


def _unpack(archive: Path, wanted: set[Path], folder: Path) -> None:
    """Write into a folder the members of an archive that are wanted, or in a folder that is."""
    from vitdm.data.readers import members

    for member in members(archive):
        name = Path(member.name)
        if not wanted.isdisjoint((name, *name.parents)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(member.read())


def _answers(
    images: Sequence[Observation], known: Row, stage: str, settings: Settings
) -> list[Row]:
    """Return a row for each image; where a batch fails, its images are tried one by one."""
    if not images:
        return []
    try:
        if stage == STAGES[0]:
            return _sersic(images, settings)
        return [_free_form(image, known, stage, settings) for image in images]
    except Exception as error:  # one image of a hundred thousand must not end the others
        if len(images) > 1:
            return [row for one in images for row in _answers([one], known, stage, settings)]
        named = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        return [{"error": named}]


def _sersic(images: Sequence[Observation], settings: Settings) -> list[Row]:
    from vitdm import lens as lenses
    from vitdm.lens.fits import rows_of

    fits = lenses.fit(images, settings.lensfit)
    table = rows_of(fits, range(len(images))).drop(columns="id")
    return table.assign(unknown=fits.unknown).to_dict("records")


def _free_form(image: Observation, known: Row, stage: str, settings: Settings) -> Row:
    from vitdm import lens as lenses
    from vitdm.config import Perturbers
    from vitdm.config.sections import checked

    model = lenses.fit(image, settings.freeform)
    row = lens.row_of(model)
    if stage == STAGES[2]:
        redshifts = {name: known[name] for name in OF_LENSES if name in known}
        chosen = checked(Perturbers, settings.perturbers.model_dump() | redshifts, image.name)
        found = search.row_of(lenses.search(model, chosen))
        row |= {f"search_{name}": value for name, value in found.items()}
    return row


def join(shards: Sequence[Path], out: Path) -> int:
    """Write the rows of all shards into one table, row by row; return how many have an error."""
    from vitdm.provenance import atomic

    columns: dict[str, None] = {}
    for shard in shards:
        with shard.open(newline="") as file:
            columns |= dict.fromkeys(next(csv.reader(file)))
    columns.pop("error")
    n_errors = 0
    with atomic(out) as temporary, temporary.open("w", newline="") as file:
        table = csv.DictWriter(file, [*columns, "error"], lineterminator="\n")
        table.writeheader()
        for shard in shards:
            with shard.open(newline="") as part:
                for row in csv.DictReader(part):
                    n_errors += bool(row["error"])
                    table.writerow(row)
    return n_errors
