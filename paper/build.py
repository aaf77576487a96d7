"""Build the article: numbers, tables and figures of a run into paper.pdf, .html and .tex.

``python paper/build.py --results R --figures F --made NAMES --tables T --out O`` renders
``paper.md`` with Jinja2, then hands it to pandoc, and its Typst text to Typst. A number, table,
figure or reference that does not exist fails the build, and nothing is written.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import math
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jinja2
import pypandoc
import typst

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from studies.plots import setting_name  # noqa: E402
from vitdm import config as configuration  # noqa: E402
from vitdm import provenance  # noqa: E402
from vitdm.config import InputError  # noqa: E402
from vitdm.data.dataset import CLASSES  # noqa: E402
from vitdm.simulation import load_population, population_file  # noqa: E402

PROVENANCE = ("figure", "rule", "notebook", "config")
COMPUTE = ("rule", "results", "minutes", "memory")
MARKUP = re.compile(r"\\[a-z]+|[$\\\\{}^_~]")  # of Markdown and formulas: takes no space in print
FORMATS = (".pdf", ".png")  # of each figure: one for print, one for the page
MISSING = "n/a"  # what a run could not measure, such as a scatter from one seed


# ------------------------------------------------------------------------------- what a run left


def read_numbers(results: Path) -> dict[str, Any]:
    """Merge ``results/numbers/*.json``; a key that two files give is an error."""
    numbers: dict[str, Any] = {}
    origin: dict[str, Path] = {}
    files = sorted((results / "numbers").glob("*.json"))
    if not files:
        raise InputError(f"{results / 'numbers'}: found no file; expected one a notebook")
    for file in files:
        for key, value in _json(file).items():
            if key in origin:
                raise InputError(f"{file}: found the key {key!r}, which {origin[key]} gives too")
            origin[key] = file
            numbers[key] = value
    return numbers


def read_classes(results: Path) -> list[str]:
    """Return the classes in the dataset's catalog, in the order of the labels."""
    file = results / "dataset" / "catalog.csv"
    found = {row.get("class") for row in _csv(file)}
    if unknown := found - set(CLASSES):
        raise InputError(f"{file}: found class {unknown}; expected some of {', '.join(CLASSES)}")
    return [name for name in CLASSES if name in found]


def write_provenance(figures: Path, tables: Path, made: Collection[str]) -> None:
    """Write ``provenance.csv``: which rule, notebook and configuration made each figure.

    ``made`` are the figures of this run; others, left by an earlier one, are not listed.
    """
    with provenance.atomic(tables / "provenance.csv") as temporary, temporary.open("w") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(PROVENANCE)
        for file in sorted(figures / f"{name}.json" for name in made):
            entry = _json(file)
            notebook = Path(entry.get("notebook") or "").stem
            digest = entry.get("config_sha256") or ""
            writer.writerow([file.stem, entry.get("rule"), notebook, digest[:12]])


def write_compute(results: Path, tables: Path) -> None:
    """Write ``compute.csv``: what each rule made, its minutes in all, and most memory (MB).

    Of the sidecars below ``results``, but for those of what notebooks drew.
    """
    entries = [json.loads(file.read_text()) for file in sorted(results.rglob("*.json"))]
    entries = [e for e in entries if isinstance(e, dict) and {"rule", "seconds"} <= e.keys()]
    costs: dict[str, list[tuple[float, float]]] = {}
    for entry in entries:
        if not entry.get("notebook"):
            cost = entry["seconds"], entry["peak_memory_mb"]
            costs.setdefault(entry["rule"], []).append(cost)
    with provenance.atomic(tables / "compute.csv") as temporary, temporary.open("w") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COMPUTE)
        for rule, found in sorted(costs.items(), key=lambda item: -sum(s for s, _ in item[1])):
            seconds, memory = zip(*found, strict=True)
            writer.writerow([rule, len(found), f"{sum(seconds) / 60:.1f}", round(max(memory))])


def _json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: found no readable JSON ({error}); expected an object") from error


def _csv(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(newline="") as stream:
            return list(csv.DictReader(stream))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); expected a table") from error


# ----------------------------------------------------------------------- filters for the template


def num(value: float | None, digits: int = 3) -> str:
    """Fixed decimals, with a true minus sign."""
    if value is None or math.isnan(value):
        return MISSING
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def plain(value: float | None) -> str:
    """A setting as one would type it, such as 0.5 or 70."""
    return MISSING if value is None else f"{value:g}"


def sci(value: float | None, digits: int = 1) -> str:
    """LaTeX math: a mantissa with these decimals times a power of ten."""
    if value is None or math.isnan(value):
        return MISSING
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    power = f"10^{{{int(exponent)}}}"
    return f"${power}$" if float(mantissa) == 1 else f"${mantissa}\\times {power}$"


def pct(value: float | None, digits: int = 1) -> str:
    """A fraction in per cent."""
    return MISSING if value is None else f"{num(100 * value, digits)} %".replace(" ", "\u00a0")


def minutes(value: float | None) -> str:
    """Seconds in minutes, or in seconds where there is not one minute of them."""
    if value is None:
        return MISSING
    if value < 60:
        return f"{num(value, 0)}\u00a0seconds"
    return f"{num(value / 60, 1 if value < 600 else 0)}\u00a0minutes"


def integer(value: float | None) -> str:
    """A whole number in groups of three."""
    return MISSING if value is None else f"{round(value):,}".replace(",", "\u00a0")


def setting(key: str) -> str:
    """A key of the model or train section in the words of the figures, without its unit."""
    return setting_name(key).partition(" [")[0]


def effect(gain: float | None, error: float | None) -> str:
    """What a difference with this standard error shows: helps, hurts, unclear or unknown."""
    if gain is None or error is None or math.isnan(error):
        return "unknown"
    if abs(gain) <= 2 * error:
        return "unclear"
    return "helps" if gain > 0 else "hurts"


def _cell(text: str, digits: int | None = None, verbatim: bool = False) -> str:
    """Format one cell of a CSV file for a Markdown table, numbers to three or four figures.

    ``digits`` fixes the decimals instead, ``verbatim`` leaves a number as it is written. An empty
    cell becomes a dash.
    """
    text = text.strip()
    if not text:
        return "–"
    value = None
    with contextlib.suppress(ValueError):
        value = float(text)
    if value is None or verbatim:
        for character in "\\`*_|[]<>@#":
            text = text.replace(character, "\\" + character)
        return " ".join(text.split())
    if not math.isfinite(value):
        return MISSING
    if digits is not None:
        return num(value, digits)
    if value == int(value) and "." not in text and "e" not in text.lower():
        return integer(value)
    if value and not 1e-3 <= abs(value) < 1e5:
        return sci(value)
    magnitude = math.floor(math.log10(abs(value) or 1))
    return f"{value:.3g}" if magnitude < -2 else num(value, min(4, max(0, 3 - magnitude)))


# ---------------------------------------------------------------------------------- the rendering


class Sources:
    """The tables and figures that the template asks for, and the files they came from."""

    def __init__(self, figures: Path, tables: Path, out: Path) -> None:
        self.figures, self.tables, self.out = figures, tables, out
        self.used: list[Path] = []

    def figure(self, name: str) -> str:
        """Return the path of a figure relative to the output, without its format."""
        for suffix in FORMATS:
            file = self.figures / f"{name}{suffix}"
            if not file.is_file():
                raise InputError(f"figure {name!r}: {file} does not exist")
            self.used.append(file)
        return Path(os.path.relpath(self.figures / name, self.out)).as_posix()

    def table(
        self,
        name: str,
        caption: str,
        columns: dict[str, str] | None = None,
        *,
        digits: dict[str, int] | None = None,
        words: dict[str, str] | None = None,
        verbatim: Collection[str] = (),
        where: dict[str, Collection[str]] | None = None,
        most: int | None = None,
        label: str | None = None,
        narrow: bool = False,
    ) -> str:
        """Return a pipe table of a CSV file: ``columns`` maps its names to headers, in order.

        ``where`` keeps the rows with some values of a column, ``most`` so many of the first ones;
        ``label`` takes the name's place in references; a ``narrow`` table fits into one column.
        ``digits`` fixes the decimals of a column; ``words`` replaces cells, and headers that
        ``columns`` does not give. Numbers in ``verbatim`` columns stay as they are written.
        """
        digits, words = digits or {}, words or {}
        file = self.tables / f"{name}.csv"
        if not file.is_file():
            raise InputError(f"table {name!r}: {file} does not exist")
        rows = _csv(file)
        for key, values in (where or {}).items():
            rows = [row for row in rows if row[key] in values]
        rows = rows[:most]
        if not rows:
            raise InputError(f"table {name!r}: {file} has no rows")
        columns = columns or {key: words.get(key) or _cell(key) for key in rows[0]}
        for key in columns:
            if key not in rows[0]:
                raise InputError(f"table {name!r}: found no column {key!r}; has {list(rows[0])}")
        self.used.append(file)
        cells = [
            [
                words.get(row[key] or "") or _cell(row[key] or "", digits.get(key), key in verbatim)
                for key in columns
            ]
            for row in rows
        ]
        lines = ["| " + " | ".join(columns.values()) + " |", "|"]
        for column, (key, header) in enumerate(columns.items()):
            texts = [MARKUP.sub("", text) for text in (header, *(row[column] for row in cells))]
            names = [len(text) for text in texts if " " not in text]  # which cannot be broken
            # the relative width, where a table is wide
            dashes = "-" * max(
                min(max(map(len, texts)) + 2, 60), min(2 * max(names, default=0), 36)
            )
            numeric = key not in verbatim and all(_is_number(row[key]) for row in rows)
            lines[1] += (f"{dashes}:" if numeric else f":{dashes}") + "|"
        lines += ["| " + " | ".join(row) + " |" for row in cells]
        attributes = f"#tbl-{label or name}" + " .narrow" * narrow
        return "\n".join(lines) + f"\n\n: {caption} {{{attributes}}}\n"


def _is_number(text: str | None) -> bool:
    with contextlib.suppress(ValueError):
        return not (text or "").strip() or float(text or "") is not None
    return False


def render(source: Path, variables: dict[str, Any]) -> str:
    """Fill a Markdown template; what is missing is named with its line."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(source.parent),
        undefined=jinja2.StrictUndefined,
        comment_start_string="<!--#",  # {# would collide with pandoc's {#id}
        comment_end_string="#-->",
        line_statement_prefix="%%",
        keep_trailing_newline=True,
    )
    for function in (num, plain, sci, pct, minutes, integer, setting):
        environment.filters[function.__name__] = function
    environment.globals["effect"] = effect
    try:
        return environment.get_template(source.name).render(variables)
    except jinja2.TemplateNotFound as error:
        raise InputError(f"{source}: does not exist") from error
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"{source.name}, line {error.lineno}: {error.message}") from error
    except (jinja2.UndefinedError, InputError, TypeError, ValueError) as error:
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(source)
        ]
        where = f", line {lines[-1]}" if lines else ""
        raise InputError(f"{source.name}{where}: {error}") from error


def pandoc(text: str, to: str, out: Path, bibliography: Path, *options: str) -> str:
    """Convert the filled Markdown; a reference or citation that leads nowhere is an error."""
    command = [pypandoc.get_pandoc_path(), "--from=markdown", f"--to={to}", "--standalone"]
    command += [f"--lua-filter={HERE / 'crossref.lua'}", "--citeproc", "--fail-if-warnings"]
    command += [f"--bibliography={bibliography}", f"--resource-path={out}", "--number-sections"]
    done = subprocess.run([*command, *options], input=text, capture_output=True, encoding="utf-8")
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "Failing because" not in line]
        raise InputError("paper: " + "\n       ".join(line.strip() for line in lines if line))
    return done.stdout


def build(
    source: Path, results: Path, figures: Path, tables: Path, made: Collection[str], out: Path
) -> None:
    """Write paper.pdf, paper.html, paper.tex and their sidecar to ``out``, or nothing."""
    started = time.time()
    settings = configuration.load(results / "config.yaml")
    simulated = settings.data == "simulate"
    numbers = read_numbers(results)
    write_provenance(figures, tables, made)
    write_compute(results, tables)
    run = _json(results / "evaluation" / "evaluation.json")
    sources = Sources(figures, tables, out)
    names = {
        "classes": read_classes(results),
        "simulated": simulated,
        "config": settings.model_dump(mode="json"),
        "population": _population(settings) if simulated else None,
        "commit": run.get("commit") or "unknown",
        "dirty": bool(run.get("dirty")),
        "versions": run.get("versions") or {},
        "numbers": numbers,
        "figure": sources.figure,
        "table": sources.table,
    }
    if clash := sorted(set(names) & set(numbers)):
        raise InputError(f"{results / 'numbers'}: found {clash}, names that the article reserves")
    text = render(source, numbers | names)
    bibliography = source.parent / "references.bib"
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        pdf, html, tex = (
            stack.enter_context(provenance.atomic(out / f"paper.{suffix}"))
            for suffix in ("pdf", "html", "tex")
        )
        page = ("--mathml", "--embed-resources", f"--css={HERE / 'article.css'}")
        html.write_text(
            pandoc(text, "html5", out, bibliography, "--default-image-extension=png", *page)
        )
        tex.write_text(pandoc(text, "latex", out, bibliography, "--default-image-extension=pdf"))
        typesetting = ("--default-image-extension=pdf", f"--template={HERE / 'article.typ'}")
        typeset(pandoc(text, "typst", out, bibliography, *typesetting), figures, out, pdf)
    inputs = [source, bibliography, *sorted((results / "numbers").glob("*.json")), *sources.used]
    inputs = list(dict.fromkeys(inputs))
    provenance.sidecar(
        out / "paper.json", rule="paper", config=settings, inputs=inputs, started=started
    )


def typeset(text: str, figures: Path, out: Path, pdf: Path) -> None:
    """Compile Typst to PDF: its own fonts and a fixed date, so the same text is the same bytes."""
    root = os.path.commonpath([out.resolve(), figures.resolve()])
    file = out / f".paper.{os.getpid()}.typ"  # beside the PDF: figures are relative to it
    try:
        file.write_text(text.replace("dot.circle", "dot.o"))  # pandoc 3.9 has Typst's old name
        content = typst.compile(file, root=root, ignore_system_fonts=True, timestamp=0)
    except RuntimeError as error:
        raise InputError(f"paper: typst: {error}") from error
    finally:
        file.unlink(missing_ok=True)
    pdf.write_bytes(content)


def _population(settings: configuration.Config) -> dict[str, Any]:
    path = population_file(settings.population)
    return load_population(HERE.parent / path).model_dump(mode="json")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, default=HERE / "paper.md")
    for name, text in (
        ("results", "folder of the run"),
        ("figures", "folder of its figures"),
        ("tables", "folder of its tables"),
        ("out", "folder that receives paper.pdf, paper.html and paper.tex"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=True, help=text)
    parser.add_argument("--made", nargs="+", required=True, help="names of the figures of the run")
    options = parser.parse_args(arguments)
    try:
        build(**vars(options))
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
