"""``vitdm predict``: the class of images in files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vitdm import commands
from vitdm.errors import InputError

if TYPE_CHECKING:
    from vitdm.predict import Answers

HELP = "Classify images."
EXAMPLE = "vitdm predict lens.fits lenses/ --out p.csv --figure p.html"
TITLE = "Images, what the model saw, and what it answered"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run",
        nargs="+",
        type=Path,
        help="run folder(s), averaged, or the library's reference or binary; default: binary for "
        "JPEG and PNG, else reference",
    )
    parser.add_argument("--out", type=Path, help="CSV file; default: standard output")
    commands.add_figure(
        parser, "each image, what the model saw, fit, maps, probabilities, warnings"
    )
    commands.add_images(parser)


def _draw(answers: Answers, figure: Path) -> None:
    """Write the pages of the images; those of a list that are not drawn are told."""
    from vitdm import plots

    table, n = answers.table, len(answers.seen.crops)
    pages = iter(range(n))
    table = table.set_index([[next(pages) if read else -1 for read in table["class"].notna()]])
    plots.save(plots.predictions(answers), figure, TITLE, table)
    if n > (most := plots.MOST[figure.suffix.lower()]):
        print(f"{figure}: shows the first {most} of {n} images", file=sys.stderr)


def _suited(options: argparse.Namespace) -> list[str]:
    """Return the name of the library's model for the images, which is told."""
    from vitdm import pretrained

    name = pretrained.suited(options.images)
    told = f"model: {name}, for {pretrained.MODELS[name]}; --run takes another"
    print(told, file=sys.stderr)
    return [name]


def run(options: argparse.Namespace) -> int:
    from vitdm import pretrained
    from vitdm.data.readers import suffix_of
    from vitdm.predict import answer_files
    from vitdm.provenance import atomic, check_writable

    if options.out is not None:
        check_writable(options.out, filter(Path.is_file, map(Path, options.images)))
        if options.out.is_dir():
            raise InputError(f"{options.out}: is a folder; expected the name of a CSV file")
        if suffix_of(options.out.name):
            raise InputError(
                f"{options.out}: has the name of an image; expected that of a CSV file"
            )
    commands.check_figure(options, filter(Path.is_file, map(Path, options.images)))
    known = commands.known_of_images(options)
    runs = [pretrained.folder_of(name) for name in options.run or _suited(options)]
    answers = answer_files(options.images, runs, **known)
    table = answers.table
    stacks = table["file"].str.rpartition("[")[0]
    for file, n in stacks[table["file"].str.endswith("]")].value_counts(sort=False).items():
        if Path(file).is_file():
            print(f"{file}: a stack of {n} images; --band N takes one", file=sys.stderr)
    unread = table["class"].isna()
    for row in table[unread].itertuples():
        print(f"vitdm predict: error: {row.file}: {row.warning}", file=sys.stderr)
    for row in table[~unread & (table["warning"] != "")].itertuples():
        print(f"WARNING: {row.file}: {row.warning}", file=sys.stderr)
    if table["ood_pvalue"].isna().all():
        words = "does not know whether images look like those of its training"
        print(f"{runs[0]}: {words}; trained anew, it does", file=sys.stderr)
    if options.out is None:
        table.to_csv(sys.stdout, index=False)
    else:
        with atomic(options.out) as temporary:
            table.to_csv(temporary, index=False)
    if options.figure is not None:
        _draw(answers, options.figure)
    return 2 if unread.any() else 0
