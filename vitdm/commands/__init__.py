"""What the commands of a command line share: the parser, their options, messages and exit statuses.

A command is a module with ``HELP`` and ``EXAMPLE``, a line each, ``add_arguments(parser)``, and
``run(options)``, which returns the exit status or None for 0. ``run`` imports what it calls, and
not the head of its module: NumPy, numba and PyTorch read the number of threads when they are
loaded, after ``main`` has set it, and ``--help`` need not wait for them.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vitdm.bounds import LARGEST_SEED, MOST_PARTS, MOST_PROCESSES, PIXEL_SCALES
from vitdm.errors import InputError, shown
from vitdm.provenance import check_writable

if TYPE_CHECKING:
    from vitdm.config import Settings


class Command(Protocol):
    """A module of ``vitdm.commands``, or of ``studies.commands``."""

    HELP: str
    EXAMPLE: str

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None: ...

    @staticmethod
    def run(options: argparse.Namespace) -> int | None: ...


def build_parser(
    prog: str, description: str, commands: Mapping[str, Command], version: str | None = None
) -> argparse.ArgumentParser:
    """Return the parser of a command line; ``commands`` in the order in which help lists them."""
    top = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog="commands:\n" + _listed(commands),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if version is not None:
        top.add_argument("--version", action="version", version=f"{prog} {version}")
    listed = top.add_subparsers(
        dest="command", required=True, metavar="COMMAND", prog=prog, help="one of those below"
    )
    for name, command in commands.items():
        parser = listed.add_parser(
            name, description=command.HELP, epilog=f"example: {command.EXAMPLE}"
        )
        command.add_arguments(parser)
    return top


def _listed(commands: Mapping[str, Command]) -> str:
    """Return name, help and example of each command, in two columns of 80 characters together."""
    width, lines = max(map(len, commands)) + 4, []
    for name, command in commands.items():
        text = [*textwrap.wrap(command.HELP, 80 - width), *_wrapped(command.EXAMPLE, 80 - width)]
        lines += [f"{'':{width}}{line}" for line in text]
        lines[-len(text)] = f"  {name:{width - 2}}{text[0]}"
    return "\n".join(lines)


def _wrapped(example: str, width: int) -> list[str]:
    """Return an example as lines that a shell reads as one."""
    lines = textwrap.wrap(
        example, width - 2, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def run_command(
    parser: argparse.ArgumentParser, commands: Mapping[str, Command], argv: list[str] | None
) -> int:
    """Run a command; what is wrong with the input becomes one message and exit status 2."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    options = parser.parse_args(argv)
    name = f"{parser.prog} {options.command}"
    try:
        _check_out(options)
        return commands[options.command].run(options) or 0
    except InputError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"{name}: error: {where}{error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return 2


def _check_out(options: argparse.Namespace) -> None:
    """Raise InputError unless ``--out`` can be written and spares what the other options name."""
    if not isinstance(out := getattr(options, "out", None), Path):
        return
    read = vars(options) if getattr(options, "apart", True) else {}
    given = [entry for name, entry in read.items() if name not in ("out", "figure")]
    listed = [entry for entries in given if isinstance(entries, list) for entry in entries]
    check_writable(out, [entry for entry in given + listed if isinstance(entry, Path)])


# ------------------------------------------------------------------------ options of many commands


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return the type of an option that is a whole number between two."""
    return _number(int, least, most, "a whole number")


def real(least: float, most: float) -> Callable[[str], float]:
    """Return the type of an option that is a number between two."""
    return _number(float, least, most, "a number")


def _number(kind: type, least: float, most: float, name: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:  # NaN as well
            found = f"found {shown(text)}; expected {name} from {least} to {most}"
            raise argparse.ArgumentTypeError(found)
        return value

    return read


def add_config(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Add ``--config``, a file of ``Settings``, any subset of its sections."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", required=required, help="settings (YAML)"
    )


def read_settings(options: argparse.Namespace) -> Settings:
    """Return the settings in the file of ``--config``, or the defaults without one."""
    from vitdm.config import Settings, load_settings

    return Settings() if options.config is None else load_settings(options.config)


def add_out(parser: argparse.ArgumentParser, text: str, *, apart: bool = True) -> None:
    """Add ``--out``; unless ``apart`` it may lie inside what the other options name."""
    parser.add_argument("--out", type=Path, required=True, help=text)
    parser.set_defaults(apart=apart)


#: endings of ``--figure``; what each becomes is told in ``vitdm.plots.pages``
FIGURES = (".pdf", ".png", ".html")


def add_figure(parser: argparse.ArgumentParser, text: str, *, required: bool = False) -> None:
    """Add ``--figure``, a file of pictures."""
    parser.add_argument(
        "--figure",
        type=_figure,
        required=required,
        metavar="FILE",
        help=f"{text}: a PDF (a page each), a PNG (rows), or an HTML file that stands alone",
    )


def _figure(text: str) -> Path:
    if Path(text).suffix.lower() not in FIGURES:
        expected = f"expected the name of a file that ends in {', '.join(FIGURES)}"
        raise argparse.ArgumentTypeError(f"found {shown(text)}; {expected}")
    return Path(text)


def check_figure(options: argparse.Namespace, read: Iterable[str | Path]) -> None:
    """Raise InputError unless ``--figure`` can be written and spares ``--out`` and what is read."""
    if options.figure is None:
        return
    check_writable(options.figure, read)
    if options.figure.is_dir():
        raise InputError(f"{options.figure}: is a folder; expected the name of a file")
    out = getattr(options, "out", None)
    if out and Path(os.path.realpath(options.figure)).is_relative_to(os.path.realpath(out)):
        raise InputError(
            f"{options.figure}: is, or lies inside, what --out names; expected another"
        )


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add ``--seed``, by which a repetition of a study differs from the others."""
    parser.add_argument(
        "--seed", type=whole(0, LARGEST_SEED), default=0, help="added to the configuration's seed"
    )


def add_workers(parser: argparse.ArgumentParser, what: str, default: int | None = 1) -> None:
    """Add ``--parallel`` and ``--backend``; a default of None is the configuration's."""
    otherwise = "the configuration's" if default is None else default
    parser.add_argument(
        "--parallel",
        type=whole(1, MOST_PROCESSES),
        default=default,
        metavar="N",
        help=f"{what} at once; default: {otherwise}",
    )
    parser.add_argument(
        "--backend",
        default="loky",
        metavar="NAME[=ADDRESS]",
        help="where they run (joblib): loky, dask, threading, such as dask=tcp://host:8786"
        " (default: %(default)s)",
    )


def add_fits(parser: argparse.ArgumentParser, needed: str) -> None:
    parser.add_argument("--fits", type=Path, help=f"folder of vitdm fit, for {needed}")


def add_model_inputs(parser: argparse.ArgumentParser, *, selection: bool = True) -> None:
    """Add what a model may read beside the images: features, which of them, and lens fits."""
    parser.add_argument("--features", type=Path, metavar="CSV", help="feature table")
    if selection:
        parser.add_argument(
            "--selection", type=Path, help="selection.json of vitdm select: the features to join"
        )
    add_fits(parser, "model.residual")


def add_shard(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shard", type=_shard, default=(0, 1), metavar="K/N", help="which of how many shards: 0/8"
    )


def _shard(text: str) -> tuple[int, int]:
    try:
        k, of = (int(part) for part in text.split("/"))
    except ValueError:
        k, of = 0, 0
    if not 0 <= k < of <= MOST_PARTS:
        expected = f"expected k/n, such as 0/8, with 0 <= k < n <= {MOST_PARTS}"
        raise argparse.ArgumentTypeError(f"found {shown(text)}; {expected}")
    return k, of


#: what is known of images: the options of ``vitdm.data.readers.read_observation``
OF_IMAGES = ("hdu", "band", "noise", "psf", "mask", "pixel_scale", "gain")


def add_images(
    parser: argparse.ArgumentParser, text: str = "jpg, png, npy or FITS files, or folders of them"
) -> None:
    """Add image files and folders, and what is known of the images (``OF_IMAGES``)."""
    parser.add_argument("images", nargs="+", help=text)
    known = parser.add_argument_group("what is known of all images, where their files do not tell")
    known.add_argument("--hdu", help="image of a FITS file: number or name of its extension")
    known.add_argument("--band", help="of a cube or a colour image: its number")
    known.add_argument("--noise", help="rms: a file, an extension, or the sky's as a number")
    known.add_argument("--psf", help="a file, an extension, or the FWHM in arcsec")
    known.add_argument("--mask", help="a file or an extension; not 0: the pixel is not used")
    known.add_argument(
        "--pixel-scale", type=real(*PIXEL_SCALES), help="arcsec; instead of the file's"
    )
    known.add_argument(
        "--gain", type=real(0, 1e6), help="photon noise: variance per brightness; 1 for counts"
    )


def known_of_images(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of ``add_images`` as those of ``vitdm.data.readers.read_observation``."""
    known = {name: getattr(options, name) for name in OF_IMAGES}
    for name, kind in (("hdu", int), ("band", int), ("noise", float), ("psf", float)):
        known[name] = _number_or_text(known[name], kind)
    return known


def _number_or_text(text: str | None, kind: type) -> str | float | None:
    try:
        return None if text is None else kind(text)
    except ValueError:
        return text
