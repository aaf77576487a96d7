"""Build the article: numbers, tables and figures of a run into a PDF, a page and LaTeX.

``python -m studies article --results R --figures F --made NAMES --tables T --out O`` fills
``paper.md``, or ``report.md`` for a user's own images, with the numbers, tables and figures of the
run, then hands it to pandoc, and its Typst text to Typst. What a rebuild does not make, such as the
longer studies, comes from the committed reference run, and the article says so. What neither has
fails the build, and nothing is written.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import fnmatch
import json
import math
import operator
import os
import re
import subprocess
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pypandoc
import typst
import yaml

from studies import config as configuration
from studies.config.part import load_part
from vitdm import provenance
from vitdm.errors import InputError
from vitdm.simulation.classes import NO_SUB
from vitdm.simulation.population import load_population

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "paper"

PROVENANCE = ("figure", "rule", "notebook", "config")
COMPUTE = ("rule", "results", "minutes", "memory")
FORMATS = (".pdf", ".png")  # of each figure: one for print, one for the page
FEW = 50  # test images of a class: with fewer, a report says first what can be concluded
MISSING = "n/a"  # what a run could not measure, such as a scatter from one seed
# In the source: the path of an image, {{ key }}, {{ key:FORMAT }} or {{ table: NAME }}.
MARK = re.compile(
    r"\]\((?P<figure>\w+)\)(?=\{#fig-)|\{\{ (?P<key>[\w.-]+)(?::(?P<spec>[^{}]*?))? \}\}"
)
MARKUP = re.compile(r"\\[a-z]+|[$\\\\{}^_~]")  # of Markdown and formulas: takes no space in print
# A figure that needs images from outside the repository, and the numbers that come with it: also a
# run that is published takes them from the reference if it could not draw the figure.
OPTIONAL = {"real_residuals": ("n_real_*", "real_*")}
COMPARISONS = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}


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


def read_run(results: Path, settings: configuration.Config) -> dict[str, Any]:
    """Return all values of a run: its numbers by key, settings, classes, commit and versions."""
    run = _json(results / "evaluation" / "evaluation.json")
    commit = run.get("commit") or "unknown"
    catalog = _csv(results / "dataset" / "catalog.csv")
    values = _settings(settings) | {
        "classes": dict(collections.Counter(row["class"] for row in catalog)),
        "commit": commit[:12] + " with uncommitted changes" * bool(run.get("dirty")),
        "versions": run.get("versions") or {},
        "report": _report(settings),
        "tested": _tested(catalog),
    }
    numbers = read_numbers(results)
    if clash := sorted({*values, "table"} & set(numbers)):
        raise InputError(f"{results / 'numbers'}: found {clash}, names that the article reserves")
    return numbers | values


def _report(settings: configuration.Config) -> dict[str, str]:
    """Return what the report on a user's images says of them: title, author, where they are from.

    By default the title has the name of the images, and nobody signs. Title and author are in
    quotes, as YAML needs them.
    """
    given = settings.report
    title = given.title or f"{Path(settings.data).name}: Classification of Lens Images"
    texts = {"title": title, "author": given.author or "", "data": settings.data}
    texts = {key: escaped(text, formulas=False) for key, text in texts.items()}
    return texts | {key: json.dumps(texts[key], ensure_ascii=False) for key in ("title", "author")}


def _tested(catalog: list[dict[str, str]]) -> list[int]:
    """Return the numbers of test images without and with substructure."""
    smooth = [row["class"] == NO_SUB for row in catalog if row.get("split") == "test"]
    return [smooth.count(True), smooth.count(False)]


def read_reference(numbers: Path) -> dict[str, Any]:
    """Return the values of the reference run: its numbers (flat JSON) and settings."""
    return _json(numbers) | _settings(configuration.load(ROOT / "config" / "paper.yaml"))


def _settings(settings: configuration.Config) -> dict[str, Any]:
    values = {"config": settings.model_dump(mode="json")}
    if settings.data == "simulate":
        population = load_population(settings.population)
        values["population"] = population.model_dump(mode="json")
    return values


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
        for rule, costs_of_rule in sorted(
            costs.items(), key=lambda item: -sum(s for s, _ in item[1])
        ):
            seconds, memory = zip(*costs_of_rule, strict=True)
            writer.writerow(
                [rule, len(costs_of_rule), f"{sum(seconds) / 60:.1f}", round(max(memory))]
            )


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


def _header(file: Path) -> list[str]:
    with file.open(newline="") as stream:
        return next(csv.reader(stream), [])


def _yaml(file: Path) -> dict[str, Any]:
    try:
        return yaml.safe_load(file.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{file}: found no readable YAML ({error}); expected a mapping") from error


# ---------------------------------------------------------------------------- values in the text


def written(value: Any, spec: str = "") -> str:
    """Return a value as the article prints it.

    ``spec`` is a format of Python, or ``minutes`` for seconds. Minus signs are true ones, thousands
    and percent signs are set off by a space that does not break, and ``e`` gives a formula.
    """
    if value is None or value != value:
        return MISSING
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "; ".join(f"{key} {written(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(written(item, spec) for item in value)
    if isinstance(value, str):
        return format(value, spec)
    if spec == "minutes":
        return _minutes(value)
    if spec in ("", ",") and float(value).is_integer():
        value = int(value)  # a count that a table of floats held
    text = format(value, spec or ("d" if isinstance(value, int) else "g"))
    if spec.endswith("e"):
        return _power(text)
    if not text.strip("-0.%"):
        text = text.lstrip("-")  # rounded to zero
    return text.replace("-", "−").replace(",", "\u00a0").replace("%", "\u00a0%")


def _power(text: str) -> str:
    """LaTeX math of a number such as 2.5e-04; a mantissa of 1 is left out."""
    mantissa, exponent = text.split("e")
    power = f"10^{{{int(exponent)}}}"
    return f"${power}$" if float(mantissa) == 1 else f"${mantissa}\\times {power}$"


def _minutes(seconds: float) -> str:
    """Seconds in minutes, or in seconds where there is not one minute of them."""
    if seconds < 60:
        return f"{seconds:.0f}\u00a0seconds"
    return f"{seconds / 60:.{int(seconds < 600)}f}\u00a0minutes"


def lookup(values: Any, key: str) -> Any:
    """Return the value of a key, dotted where values are nested; KeyError if there is none."""
    if key in values:
        return values[key]
    try:
        for part in key.split("."):
            values = values[int(part) if isinstance(values, list) else part]
    except (IndexError, TypeError, ValueError) as error:
        raise KeyError(key) from error
    return values


# ---------------------------------------------------------------------------------------- tables


def cell(text: str, spec: str = "") -> str:
    """Format one cell of a CSV file for a Markdown table, numbers to three or four figures.

    ``spec`` is a format of ``written`` instead, ``verbatim`` leaves a number as it is. An empty
    cell becomes a dash.
    """
    text = text.strip()
    if not text:
        return "–"
    value = _number(text)
    if value is None or spec == "verbatim":
        return escaped(text)
    if not math.isfinite(value):
        return MISSING
    if spec:
        return written(value, spec)
    if value == int(value) and "." not in text and "e" not in text.lower():
        return written(value, ",")
    if value and not 1e-3 <= abs(value) < 1e5:
        return written(value, ".1e")
    magnitude = math.floor(math.log10(abs(value) or 1))
    return written(value, f".{min(4, max(0, 3 - magnitude))}f" if magnitude >= -2 else ".3g")


def escaped(text: str, formulas: bool = True) -> str:
    """Return text on one line for Markdown in which no character has a meaning, but for math."""
    special = r"\`*_|[]<>@#" + ("" if formulas else "$~^")
    return " ".join("".join("\\" * (sign in special) + sign for sign in text).split())


def _number(text: str) -> float | None:
    with contextlib.suppress(ValueError):
        return float(text)
    return None


def kept(file: Path, layout: dict[str, Any]) -> list[dict[str, str]]:
    """Return the rows of a CSV file that its layout keeps; none if there is no such file."""
    rows = _csv(file) if file.is_file() else []
    for key, values in layout.get("where", {}).items():
        rows = [row for row in rows if row[key] in values]
    return rows[: layout.get("most")]


def table(rows: list[dict[str, str]], layout: dict[str, Any], name: str) -> str:
    """Return rows of a CSV file as a pipe table, laid out as ``tables.yaml`` explains."""
    words = layout.get("words", {})
    columns = layout.get("columns") or {key: words.get(key) or cell(key) for key in rows[0]}
    columns = {key: [entry] if isinstance(entry, str) else entry for key, entry in columns.items()}
    for key in columns:
        if key not in rows[0]:
            raise InputError(f"table {name!r}: found no column {key!r}; has {list(rows[0])}")
    header = [entry[0] for entry in columns.values()]
    cells = [
        [words.get(row[key]) or cell(row[key] or "", *entry[1:]) for key, entry in columns.items()]
        for row in rows
    ]
    rule = [
        _dashes([header[k], *(line[k] for line in cells)])
        + ":" * (entry[1:] != ["verbatim"] and all(_is_number(row[key]) for row in rows))
        for k, (key, entry) in enumerate(columns.items())
    ]
    rule = [dashes if dashes.endswith(":") else f":{dashes}" for dashes in rule]
    lines = [" | ".join(header), *(" | ".join(line) for line in cells)]
    lines = [f"| {line} |" for line in lines]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])


def _dashes(texts: list[str]) -> str:
    """Return the dashes below a header: as many as the relative width of its column."""
    texts = [MARKUP.sub("", text) for text in texts]
    names = [len(text) for text in texts if " " not in text]  # which cannot be broken
    return "-" * max(min(max(map(len, texts)) + 2, 60), min(2 * max(names, default=0), 36))


def _is_number(text: str | None) -> bool:
    return not (text or "").strip() or _number(text or "") is not None


# --------------------------------------------------------------------- the run and the reference


class Sources:
    """Values, tables and figures of a run, and of the reference what the run does not have.

    ``borrowed`` lists what of the reference was used, ``used`` the files that were.
    """

    def __init__(
        self, home: Path, run: dict[str, Any], figures: Path, tables: Path, made: Collection[str]
    ) -> None:
        self.home, self.run, self.made = home, run, made
        self.figures, self.tables = figures, tables
        simulated = run["config"]["data"] == "simulate"
        self.reference = read_reference(home / "numbers.json") if simulated else None
        self.layouts = _yaml(home / "tables.yaml")
        self.borrowed: dict[str, list[str]] = {"number": [], "figure": [], "table": []}
        self.used: list[Path] = []

    def value(self, key: str) -> Any:
        """Return the value of a key of the run, or else of the reference."""
        if not self._is_absent(key):
            with contextlib.suppress(KeyError):
                return lookup(self.run, key)
        try:
            expected = lookup(self.reference or {}, key)
        except KeyError:
            raise InputError(f"found no number or setting {key!r}") from None
        self._borrow("number", key)
        self.used.append(self.home / "numbers.json")
        return expected

    def figure(self, name: str) -> Path:
        """Return the path of a figure, without its suffix."""
        folder = self.figures
        if name not in self.made and self.reference:
            folder = self.home.parent / "figures"
            self._borrow("figure", name)
        for suffix in FORMATS:
            file = folder / f"{name}{suffix}"
            if not file.is_file():
                raise InputError(f"figure {name!r}: {file} does not exist")
            self.used.append(file)
        return folder / name

    def table(self, name: str) -> str:
        """Return a table in Markdown."""
        if name not in self.layouts:
            raise InputError(f"table {name!r}: found no layout in {self.home / 'tables.yaml'}")
        layout = self.layouts[name]
        file = self.tables / f"{layout.get('csv', name)}.csv"
        rows = kept(file, layout)
        if not rows and self.reference:
            file = self.home / "tables" / file.name
            rows = kept(file, layout)
            self._borrow("table", name)
        elif not rows and file.is_file():
            rows = [dict.fromkeys(_header(file), "")]  # a user's images may leave nothing to show
        if not rows or not rows[0]:
            raise InputError(f"table {name!r}: {file} does not exist, or has no row to show")
        self.used.append(file)
        return table(rows, layout, name)

    def _is_absent(self, key: str) -> bool:
        """Whether a number belongs to a figure that the run could not draw."""
        patterns = [OPTIONAL[figure] for figure in OPTIONAL.keys() - set(self.made)]
        return any(fnmatch.fnmatchcase(key, pattern) for each in patterns for pattern in each)

    def _borrow(self, kind: str, name: str) -> None:
        allowed = name in OPTIONAL or self._is_absent(name)
        if self.run["config"]["publish"] and not allowed:
            raise InputError(f"{kind} {name!r}: a run that is published needs its own")
        if name not in self.borrowed[kind]:
            self.borrowed[kind].append(name)


def note(sources: Sources) -> str:
    """Return the line that tells the reader what is of the reference run; empty if nothing is."""
    numbers, figures, tables = sources.borrowed.values()
    shown = [f"@fig-{name}" for name in figures] + [f"@tbl-{name}" for name in tables]
    parts = [_counted(numbers, "number")] * bool(numbers) + shown
    if not parts:
        return ""
    return (
        f"**This is a rebuild with the configuration `{sources.run['config']['name']}`.** The words"
        f" describe the reference run, and from that run are {', '.join(parts)}.\n\n"
    )


def small_test(run: Mapping[str, Any]) -> str:
    """Return what can be concluded from a small test of a user's images; empty if it is not small.

    How far the ROC-AUC of guesses strays follows from the variance of the statistic of Mann and
    Whitney, (n + m + 1) / (12 n m).
    """
    n, m = run["tested"]
    if run["config"]["data"] == "simulate" or min(n, m) >= FEW:
        return ""
    lines = [f"**Few test images: {n} without substructure, {m} with it.**"]
    if min(n, m):
        stray = 1.96 * math.sqrt((n + m + 1) / (12 * n * m))
        low, high = (written(min(max(0.5 + by, 0), 1), ".2f") for by in (-stray, stray))
        lines.append(f"In 95 of 100 such tests, guesses have a ROC-AUC from {low} to {high}.")
    low = run.get("test_auc_low")
    if low is None or not low > 0.5:
        lines.append("This run does not show that the models see any difference of the classes.")
    lines.append("The scores below show that the workflow runs on these images, hardly how good")
    lines.append(f"its models are: that takes at least some {FEW} test images of either kind.")
    return "\n".join(lines) + "\n\n"


def _counted(names: list[str], kind: str) -> str:
    return f"{len(names)} {kind}{'s' * (len(names) != 1)}"


def contradictions(file: Path, value: Callable[[str], Any]) -> list[str]:
    """Return where the numbers do not say what the words say: ``file`` maps words to comparisons.

    Between machines numbers differ in their last digits, and choices by them in more.
    """
    against = []
    for words, claims in _yaml(file).items():
        for claim in claims if isinstance(claims, list) else [claims]:
            terms = re.split(r" (<=|>=|==|!=|<|>) ", claim)
            values = [_term(term, value) for term in terms[::2]]
            pairs = zip(terms[1::2], values, values[1:], strict=False)
            if not all(COMPARISONS[sign](left, right) for sign, left, right in pairs):
                against.append(f"{words}: needs `{claim}`; found {values}")
    return against


def contradictions_of_run(file: Path, numbers: Mapping[str, Any], results: str | Path) -> list[str]:
    """Return the ``contradictions`` of a run; what needs real images is as in the reference."""
    settings = load_part(Path(results) / "config.yaml")
    known = (read_reference(file.with_name("numbers.json")) or {}) | dict(numbers)
    known["config"] = settings.model_dump(mode="json")
    return contradictions(file, lambda key: lookup(known, key))


def _term(term: str, value: Callable[[str], Any]) -> Any:
    """Return what a term of a claim stands for: a word of YAML in quotes, a number, a key, or a
    number times a key."""
    factor, _, key = term.rpartition(" ")
    if factor:
        return float(factor) * value(key)
    if re.fullmatch(r"[a-zA-Z][\w.-]*", term) and term not in ("true", "false", "null"):
        return value(term)
    return yaml.safe_load(term)


# ---------------------------------------------------------------------------------- the rendering


def fill(source: Path, sources: Sources, out: Path) -> str:
    """Return the Markdown of ``source``, filled; what is missing is named with its line."""
    try:
        text = source.read_text()
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror})") from error

    def place(offset: int) -> str:
        return f"{source.name}, line {text.count(chr(10), 0, offset) + 1}"

    def filled(mark: re.Match[str]) -> str:
        figure, key, spec = mark.group("figure", "key", "spec")
        try:
            if figure:
                path = Path(os.path.relpath(sources.figure(figure), out)).as_posix()
                return f"]({path})"
            if key == "table":
                return sources.table((spec or "").strip())
            return _value(sources, key, (spec or "").strip())
        except (InputError, ValueError, TypeError) as error:
            raise InputError(f"{place(mark.start())}: {error}") from error

    for brace in re.finditer(r"\{\{|\{%|^%%", text, flags=re.MULTILINE):
        if not MARK.match(text, brace.start()):
            end = text.find("\n", brace.start())
            raise InputError(
                f"{place(brace.start())}: found {text[brace.start() : end][:40]!r}; expected "
                "{{ key }}, {{ key:format }} or {{ table: name }}"
            )
    head, end, body = MARK.sub(filled, text).partition("\n---\n\n")
    return head + end + note(sources) + small_test(sources.run) + body


def _value(sources: Sources, key: str, spec: str) -> str:
    """Return a value in words; with ``interval`` before its format, its 95 % interval after it."""
    of_value = spec.removeprefix("interval").strip()
    value = written(sources.value(key), of_value)
    if of_value == spec:
        return value
    low, high = (written(sources.value(f"{key}{end}"), of_value) for end in ("_low", "_high"))
    if MISSING in (low, high):
        return f"{value} (too few images for an interval)"
    return f"{value} (95\u00a0% interval {low} to {high})"


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


def typeset(text: str, files: Collection[Path], out: Path, pdf: Path) -> None:
    """Compile Typst to PDF: its own fonts and a fixed date, so the same text is the same bytes."""
    root = os.path.commonpath([out.resolve(), *(file.resolve() for file in files)])
    file = out / f".paper.{os.getpid()}.typ"  # beside the PDF: figures are relative to it
    try:
        file.write_text(text.replace("dot.circle", "dot.o"))  # pandoc 3.9 has Typst's old name
        content = typst.compile(file, root=root, ignore_system_fonts=True, timestamp=0)
    except RuntimeError as error:
        raise InputError(f"paper: typst: {error}") from error
    finally:
        file.unlink(missing_ok=True)
    pdf.write_bytes(content)


def write(text: str, document: Path, bibliography: Path, files: Collection[Path]) -> None:
    """Write a document with the suffixes .pdf, .html and .tex, all or none."""
    out = document.parent
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        pdf, html, tex = (
            stack.enter_context(provenance.atomic(document.with_suffix(suffix)))
            for suffix in (".pdf", ".html", ".tex")
        )
        page = ("--mathml", "--embed-resources", f"--css={HERE / 'article.css'}")
        html.write_text(
            pandoc(text, "html5", out, bibliography, "--default-image-extension=png", *page)
        )
        tex.write_text(pandoc(text, "latex", out, bibliography, "--default-image-extension=pdf"))
        typesetting = ("--default-image-extension=pdf", f"--template={HERE / 'article.typ'}")
        typeset(pandoc(text, "typst", out, bibliography, *typesetting), files, out, pdf)


def build(
    source: Path | None,
    results: Path,
    figures: Path,
    tables: Path,
    made: Collection[str],
    out: Path,
    config: Path | None = None,
) -> None:
    """Write paper.pdf, paper.html, paper.tex and their sidecar to ``out``, or nothing.

    Those of a report on a user's images are ``report.pdf`` and so on.

    ``config`` is the configuration of the run (default: ``config.yaml`` among its results).
    The source is ``paper.md``, or ``report.md`` if the images were not simulated. The files beside
    it are ``references.bib``, ``tables.yaml``, and of the article ``claims.yaml``, the reference
    run's ``numbers.json`` and ``tables``; its figures are in ``../figures``.
    """
    started = time.time()
    settings = load_part(config or results / "config.yaml")
    simulated = settings.data == "simulate"
    source = source or HERE / ("paper.md" if simulated else "report.md")
    run = read_run(results, settings)
    write_provenance(figures, tables, made)
    write_compute(results, tables)
    sources = Sources(source.parent, run, figures, tables, made)
    text = fill(source, sources, out)
    if settings.publish and simulated:
        against = contradictions(source.parent / "claims.yaml", sources.value)
        for line in against:
            print(f"paper: the numbers of this run contradict the text. {line}")
        if against:
            text += "\n\n# Where this run contradicts the text\n\n" + "\n".join(
                f"- {line}" for line in against
            )
    for kind, names in sources.borrowed.items():
        if names:
            print(f"paper: from the reference run, {_counted(names, kind)}: {', '.join(names)}")
    bibliography = source.parent / "references.bib"
    name = "paper" if simulated else "report"
    write(text, out / name, bibliography, sources.used)
    inputs = [source, bibliography, *sorted((results / "numbers").glob("*.json")), *sources.used]
    inputs = list(dict.fromkeys(inputs))
    provenance.sidecar(
        out / f"{name}.json", rule="paper", config=settings, inputs=inputs, started=started
    )
