"""The article: what is missing stops the build, and what is there is numbered, linked, stable."""

from __future__ import annotations

import csv
import functools
import json
import re
import shutil
import subprocess
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import yaml

from studies import article as build
from studies import config as workflow
from studies.__main__ import main
from studies.site.results import SHOWN
from vitdm import config, provenance
from vitdm.evaluation import metrics

PAPER = Path(__file__).parents[2] / "paper"

SMALL = r"""---
title: A Small Paper
author: [Nobody]
link-citations: true
abstract: The score is {{ test_auc:.3f }}.
---

# First {#sec-first}

See @fig-b, @tbl-scores, @eq-line, @sec-second, @app-more and @known2000.
The price is {{ rate:.1e }}.

[$$y = a x + b$$]{#eq-line}

![The first.](a){#fig-a}

![The second.](b){#fig-b}

# Second

## Below {#sec-second}

{{ table: scores }}

: Scores. {#tbl-scores}

{{ table: provenance }}

: What made each figure. {#tbl-provenance}

::: {#refs}
:::

# More {#app-more}

Words.
"""

LAYOUTS = """scores:
  columns: {name: Who, auc: ROC-AUC}
provenance: {}
"""

BIB = """@article{known2000, author = {Known, A.}, title = {On Knowing}, journal = {J. Known},
  year = {2000}, doi = {10.1000/known}}
"""


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
    """A figure in both formats."""
    path = tmp_path_factory.mktemp("picture") / "picture"
    figure = plt.figure(figsize=(1, 1))
    for suffix, metadata in ((".png", None), (".pdf", {"CreationDate": None})):
        figure.savefig(path.with_suffix(suffix), metadata=metadata)
    plt.close(figure)
    return path


class Project:
    """The files that one build reads, in a folder of its own."""

    def __init__(self, root: Path, picture: Path, **settings) -> None:
        self.root, self.picture, self.made = root, picture, []
        self.settings = workflow.build(
            {
                "name": "tiny",
                "n_images": {"train": 20, "valid": 10, "opt": 10, "test": 10},
                "runs": {"plain": {"label": "ViT"}, "spt": {"label": "ViT + SPT"}},
                "tune": {"space": {"depth": {"type": "integer", "low": 1, "high": 4}}},
                **settings,
            }
        )
        config.save(self.settings, root / "results/config.yaml")
        classes = ["no_sub", "cdm", "axion"] if "data" not in settings else ["no_sub", "sub"]
        self.write(
            "results/dataset/catalog.csv", "id,class\n" + "".join(f"{c},{c}\n" for c in classes)
        )
        run = {"commit": "0123456789abcdef", "rule": "evaluate", "seconds": 60}
        packages = ("python", "torch", "lenstronomy", "scikit-optimize")
        run |= {"versions": dict.fromkeys(packages, "1.2.3")}
        run = json.dumps(run | {"peak_memory_mb": 300})
        self.write("results/evaluation/evaluation.json", run)
        self.write("paper/references.bib", BIB)
        self.write("paper/tables.yaml", LAYOUTS)
        self.write("paper/numbers.json", "{}")

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def numbers(self, name: str = "05", **numbers) -> None:
        self.write(f"results/numbers/{name}.json", json.dumps(numbers))

    def figure(self, name: str, **sidecar) -> None:
        for suffix in (".png", ".pdf"):
            path = self.root / f"figures/{name}{suffix}"
            path.parent.mkdir(exist_ok=True)
            shutil.copy(self.picture.with_suffix(suffix), path)
        provenance.write_json(self.root / f"figures/{name}.json", sidecar)
        self.made.append(name)

    def build(self, out: str = "out") -> int:
        arguments = ["--source", self.root / "paper/paper.md", "--out", self.root / out]
        for folder in ("results", "figures", "tables"):
            arguments += [f"--{folder}", self.root / folder]
        arguments += ["--made", *self.made]
        return main(["article", *map(str, arguments)])

    def out(self, suffix: str, out: str = "out") -> str:
        name = "paper" if self.settings.data == "simulate" else "report"
        return (self.root / out / f"{name}.{suffix}").read_text()


@pytest.fixture
def small(tmp_path, picture):
    project = Project(tmp_path, picture)
    project.write("paper/paper.md", SMALL)
    project.write("tables/scores.csv", "name,auc,unused\nA_1,0.98765,1\nB,0.5,2\n")
    project.numbers(test_auc=0.98765, rate=0.00123)
    made = {"rule": "notebook_05", "notebook": "notebooks/05_final_test.py"}
    project.figure("a", **made, config_sha256="a" * 64)
    project.figure("b", **made, config_sha256="b" * 64)
    project.figure("stale", **made, config_sha256="c" * 64)
    project.made.remove("stale")  # of an earlier run
    return project


@pytest.fixture(scope="module")
def built(tmp_path_factory, picture):
    project = small.__wrapped__(tmp_path_factory.mktemp("built"), picture)
    assert project.build() == 0
    return project


def test_numbers_of_the_run_are_in_the_text(built):
    assert "The score is 0.988." in built.out("html")
    assert re.search(r"1\.2\s*\\times\s*10\^\{-3\}", built.out("tex"))
    assert (built.root / "out/paper.pdf").read_bytes().startswith(b"%PDF")


def test_references_are_numbered_links(built):
    html, tex = built.out("html"), built.out("tex").replace("\n", " ")
    for target, text in {
        "fig-b": "Figure 2",
        "tbl-scores": "Table 1",
        "eq-line": "Equation 1",
        "sec-second": "Section 2.1",
        "app-more": "Appendix A",
    }.items():
        spaced = text.replace(" ", "(?:&nbsp;|.)")
        assert re.search(rf'<a\s+href="#{target}">{spaced}</a>', html)
        assert html.count(f'id="{target}"') == 1
        assert f"\\hyperref[{target}]{{{text.replace(' ', '~')}}}" in tex
        assert f"\\label{{{target}}}" in tex
    assert re.search(r"<figcaption><strong>Figure.2\. </strong>The\s+second", html)
    assert '<span class="number">(1)</span>' in html
    assert 'href="#ref-known2000"' in html
    assert re.search(r'<h1[^>]*id="app-more"[^>]*>Appendix.A\. More</h1>', html)


def test_html_is_one_file_and_tex_names_the_figures(built):
    html = built.out("html")
    assert not re.findall(r'(?:src|href)="(?!#|data:|https://doi\.org/)[^"]*"', html)
    assert html.count("data:image/png") == 2  # of the third figure, which was not made, no word
    assert "<math" in html and "width=device-width" in html
    assert "{../figures/a.pdf}" in built.out("tex")


def test_table_has_the_chosen_columns_and_rounded_numbers(built):
    html = built.out("html")
    cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", html)[:6]
    assert cells == ["Who", "ROC-AUC", "A_1", "0.9877", "B", "0.5000"]


def test_cells_are_rounded_fixed_or_left_as_written():
    assert build.cell("0.05") == "0.0500"
    assert build.cell("0.05", ".1f") == "0.1"
    assert build.cell("0.05", "verbatim") == "0.05" and build.cell("a_b", "verbatim") == "a\\_b"


def test_provenance_is_what_the_sidecars_say(built):
    with (built.root / "tables/provenance.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    expected = {"rule": "notebook_05", "notebook": "05_final_test"}
    assert rows == [
        {"figure": "a", **expected, "config": "a" * 12},
        {"figure": "b", **expected, "config": "b" * 12},
    ]
    sidecar = json.loads(built.out("json"))
    assert sidecar["rule"] == "paper"
    figure = built.root / "figures/a.pdf"
    assert sidecar["inputs"][str(figure)] == provenance.sha256(figure)


def test_compute_adds_up_what_the_sidecars_say(tmp_path):
    for k, (rule, seconds, memory) in enumerate([("a", 60, 1), ("b", 90, 7.6), ("a", 120, 3)]):
        content = {"rule": rule, "seconds": seconds, "peak_memory_mb": memory}
        provenance.write_json(tmp_path / f"deep/{k}.json", content)
    provenance.write_json(tmp_path / "figure.json", content | {"notebook": "01"})
    provenance.write_json(tmp_path / "scores.json", [1, 2])
    build.write_compute(tmp_path, tmp_path)
    lines = ["rule,results,minutes,memory", "a,2,3.0,3", "b,1,1.5,8"]
    assert (tmp_path / "compute.csv").read_text().splitlines() == lines


def test_same_inputs_same_bytes(built):
    first = {s: (built.root / f"out/paper.{s}").read_bytes() for s in ("pdf", "html", "tex")}
    assert built.build(out="again") == 0
    assert first == {s: (built.root / f"again/paper.{s}").read_bytes() for s in first}
    assert b"CreationDate(D:1970" in first["pdf"].replace(b" ", b"")  # not the clock's


def replaced(old: str, new: str):
    def spoil(project: Project) -> None:
        assert old in SMALL
        project.write("paper/paper.md", SMALL.replace(old, new))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (replaced("{{ rate", "{{ no_such_rate"), ["no_such_rate", "paper.md, line 11"]),
        (replaced("@fig-b", "@fig-nowhere"), ["@fig-nowhere", "does not exist"]),
        (replaced("@known2000", "@unknown2000"), ["unknown2000"]),
        (replaced("{#fig-b}", "{#fig-a}"), ["fig-a", "twice"]),
        (replaced("](b)", "](c)"), ["figure 'c'", "line 17"]),
        (replaced("table: scores", "table: lost"), ["table 'lost'", "tables.yaml", "line 23"]),
        (replaced(": Scores.", "Scores."), ["needs a caption"]),
        (replaced("test_auc:.3f", "test_auc:.3q"), ["paper.md, line 5", "'q'"]),
        (replaced("{{ test_auc:.3f }}", "{{ test_auc | num(3) }}"), ["paper.md, line 5"]),
        (replaced("Words.", "{% if rate %}Words.{% endif %}"), ["line 36", "{% if rate %}"]),
        (
            lambda project: project.write("paper/tables.yaml", "scores: {columns: {area: A}}"),
            ["'scores'", "'area'", "unused"],
        ),
        (lambda project: project.write("tables/scores.csv", "name,auc\n"), ["'scores'", "no row"]),
        (lambda project: project.numbers("04", test_auc=1), ["test_auc", "04.json", "05.json"]),
        (lambda project: project.numbers(test_auc=None), ["rate", "line 11"]),
        (lambda project: project.numbers(classes=3), ["classes", "reserves"]),
        (lambda project: shutil.rmtree(project.root / "results/numbers"), ["numbers"]),
        (lambda project: (project.root / "results/dataset/catalog.csv").unlink(), ["catalog.csv"]),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_written(small, capsys, spoil, named):
    spoil(small)
    assert small.build() == 2
    message = capsys.readouterr().err
    assert all(name in message for name in named), message
    assert "Traceback" not in message
    assert not list((small.root / "out").glob("*")) and not list((small.root / "out").glob(".*"))


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (build.written(-0.0004, ".3f"), "0.000"),
        (build.written(-0.25, ".2f"), "−0.25"),
        (build.written(None), "n/a"),
        (build.written(float("nan"), ".3f"), "n/a"),
        (build.written(0.5), "0.5"),
        (build.written(70.0), "70"),
        (build.written(True), "true"),
        (build.written([0.2, 0.4]), "0.2, 0.4"),
        (build.written({"depth": 3, "flips": False}), "depth 3; flips false"),
        (build.written(1e9, ".0e"), "$10^{9}$"),
        (build.written(2.5e-4, ".1e"), r"$2.5\times 10^{-4}$"),
        (build.written(0.1234, ".1%"), "12.3\u00a0%"),
        (build.written(90, "minutes"), "1.5\u00a0minutes"),
        (build.written(4.2, "minutes"), "4\u00a0seconds"),
        (build.written(14000, ","), "14\u00a0000"),
        (build.written(14.0, ","), "14"),
        (build.cell(""), "–"),
        (build.cell("12.345", ".1f"), "12.3"),
        (build.cell("0.00131"), "0.00131"),
        (build.cell("412345"), "412\u00a0345"),
        (build.cell("a|b_c"), r"a\|b\_c"),
    ],
)
def test_formats(shown, expected):
    assert shown == expected


# --------------------------------------------------------------------------- the reference run


def rebuild(small, **settings) -> None:
    """Move a number, a figure and a table of the small article from the run to the reference."""
    small.settings = small.settings.model_copy(update=settings)
    config.save(small.settings, small.root / "results/config.yaml")
    small.write("paper/numbers.json", json.dumps({"rate": 0.5, "test_auc": 0.1}))
    small.numbers(test_auc=0.98765)
    small.made.remove("b")
    (small.root / "paper/tables").mkdir()
    (small.root / "tables/scores.csv").rename(small.root / "paper/tables/scores.csv")


def test_a_rebuild_takes_from_the_reference_what_it_lacks_and_says_so(small, capsys):
    rebuild(small)
    assert small.build() == 0
    printed, html = capsys.readouterr().out, " ".join(small.out("html").split())
    for line in ("1 number: rate", "1 figure: b", "1 table: scores"):
        assert f"from the reference run, {line}" in printed
    assert "The score is 0.988." in html and "5.0" in html and "A_1" in html
    assert re.search(r"rebuild with the configuration <code>tiny</code>.*1 number, .*#fig-b", html)
    assert html.index("rebuild with") < html.index("First")


def test_what_is_not_borrowed_is_not_mentioned(built):
    assert "rebuild" not in built.out("html")


def test_a_published_run_borrows_nothing_but_what_needs_real_images(small, capsys):
    rebuild(small, publish=True)
    assert small.build() == 2
    message = capsys.readouterr().err
    assert "line 11" in message and "'rate'" in message and "its own" in message


def test_numbers_of_a_figure_that_needs_real_images_come_from_the_reference(small):
    source = SMALL.replace("{{ rate:.1e }}", "{{ n_real_lenses }}").replace(
        "](b)", "](real_residuals)"
    )
    small.write("paper/paper.md", source.replace("-b", "-real_residuals"))
    small.write("paper/numbers.json", '{"n_real_lenses": 13}')
    small.numbers(test_auc=0.9, n_real_lenses=0)
    small.figure("real_residuals")
    small.made.remove("real_residuals")
    small.write("paper/claims.yaml", "")
    rebuilt = small.settings.model_copy(update={"publish": True})
    config.save(rebuilt, small.root / "results/config.yaml")
    assert small.build() == 0
    assert "The price is 13." in " ".join(small.out("html").split())


@pytest.mark.parametrize(
    ("claim", "holds"),
    [
        ("gain_low > 0", True),
        ("gain_low <= 0 <= gain", False),
        ("-2 sd <= gain <= 2 sd", True),
        ("gain > 2 sd", False),
        ("best == 'depth'", True),
        ("config.train.flips == false", False),
    ],
)
def test_claims_are_chains_of_comparisons(tmp_path, claim, holds):
    values = {"gain": 0.2, "gain_low": 0.1, "sd": 0.15, "best": "depth"}
    values["config"] = {"train": {"flips": True}}
    file = tmp_path / "claims.yaml"
    file.write_text(yaml.safe_dump({"It helps": ["gain > 0", claim]}))
    against = build.contradictions(file, lambda key: build.lookup(values, key))
    assert against == [] if holds else against[0].startswith("It helps: needs")


# ---------------------------------------------------------------------------- the article itself


SOURCES = ("paper.md", "report.md")
REFERENCE = build.read_reference(PAPER / "numbers.json")


def article(name: str = "paper.md") -> str:
    return (PAPER / name).read_text()


def keys(name: str) -> set[str]:
    found = {mark["key"] for mark in build.MARK.finditer(article(name)) if mark["key"]}
    return found - {"table"}


def tables(name: str) -> list[str]:
    return re.findall(r"\{\{ table: (\w+) \}\}", article(name))


@pytest.mark.parametrize("name", SOURCES)
def test_the_source_is_prose_with_keys_and_nothing_else(name):
    bare = build.MARK.sub("", article(name))
    assert not re.findall(r"\{\{|\{%|^%%|\| *num\(", bare, flags=re.M)


@pytest.mark.parametrize("name", SOURCES)
def test_every_key_has_a_value_in_the_reference_run(name):
    of_the_run = {"commit", "versions", "classes", "report"}
    for key in keys(name):
        if key.split(".")[0] not in of_the_run:
            build.lookup(REFERENCE, key)


def test_every_table_has_a_layout_and_every_layout_is_used():
    layouts = yaml.safe_load((PAPER / "tables.yaml").read_text())
    used = [*SHOWN, *(table for name in SOURCES for table in tables(name))]
    assert set(used) == set(layouts)
    for name, layout in layouts.items():
        with (PAPER / "tables" / f"{layout.get('csv', name)}.csv").open() as stream:
            assert set(layout.get("columns", {})) <= set(csv.DictReader(stream).fieldnames), name


@pytest.mark.parametrize("name", SOURCES)
def test_every_figure_is_one_of_the_committed(name):
    figures = re.findall(r"\]\((\w+)\)\{#fig-(\w+)[ }]", article(name))
    assert figures and article(name).count("{#fig-") == len(figures)
    for file, label in figures:
        assert file == label and (PAPER.parent / "figures" / f"{file}.pdf").is_file()


def test_the_reference_run_says_what_the_words_say():
    value = functools.partial(build.lookup, REFERENCE)
    assert build.contradictions(PAPER / "claims.yaml", value) == []


def test_results_hold_no_typed_decimals():
    def typed(text: str) -> list[str]:
        return re.findall(r"\d\.\d", build.MARK.sub("", text))

    results = re.search(r"^# Results .*?(?=^# )", article(), flags=re.S | re.M)[0]
    assert len(results) > 2000
    assert typed(results) == []
    assert typed(results + "an AUC of 0.99") == ["0.9"]


def test_every_citation_has_an_entry_and_every_entry_is_cited():
    def cited(name: str) -> set[str]:
        keys = set(re.findall(r"@([\w-]+)", article(name)))
        return {key for key in keys if not re.match(r"(fig|tbl|eq|sec|app)-", key)}

    entries = re.split(r"^@\w+\{", (PAPER / "references.bib").read_text(), flags=re.M)[1:]
    assert cited("paper.md") == {entry.split(",")[0] for entry in entries}
    assert cited("report.md") <= cited("paper.md")
    for entry in entries:
        assert re.search(r"^  (doi|url) = \{\S+\}", entry, flags=re.M), entry


@pytest.fixture(scope="module", params=SOURCES)
def whole(request, tmp_path_factory, picture):
    """The article, and the report, of the reference run's numbers and tables, and small figures."""
    settings = {} if request.param == "paper.md" else {"data": "lenses.tgz"}
    project = Project(tmp_path_factory.mktemp("article"), picture, **settings)
    for file in PAPER.glob("*.*"):
        if file.suffix in (".md", ".yaml", ".bib", ".json"):
            shutil.copy(file, project.root / "paper")
    shutil.copy(PAPER / request.param, project.root / "paper/paper.md")
    shutil.copytree(PAPER / "tables", project.root / "tables")
    project.numbers(**json.loads((PAPER / "numbers.json").read_text()))
    for name in {*re.findall(r"\]\((\w+)\)\{#fig-", article(request.param)), *build.OPTIONAL}:
        project.figure(name, rule="r", notebook="n")
    assert project.build() == 0
    return project


def test_the_article_builds(whole):
    html, tex = " ".join(whole.out("html").split()), whole.out("tex")
    assert build.written(REFERENCE["test_auc"], ".4f") in html and "0123456789ab" in html
    assert not re.search(r"\{\{|\{%|\?\?|@(fig|tbl|eq|sec|app)-|\{#|%%", html)
    assert "This is a rebuild" not in html
    # what pdflatex knows (Latin-1, its T1 letters and punctuation), or the preamble declares
    declared = {chr(int(code, 16)) for code in re.findall(r"UnicodeCharacter\{(\w+)\}", tex)}
    assert not {sign for sign in tex if ord(sign) > 0xFF} - declared - set("–—‘’“”…ŁłŠšŞğı")


def test_links_within_the_article_lead_somewhere(whole):
    html = whole.out("html")
    targets = re.findall(r'\bid="([^"]+)"', html)
    assert len(targets) == len(set(targets))
    links = set(re.findall(r'href="#([^"]+)"', html))
    assert links <= set(targets)
    assert {"fig", "tbl", "ref"} <= {link.split("-")[0] for link in links}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_pdflatex_makes_a_pdf_of_the_tex(whole, tmp_path):
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error"]
    (name,) = [file.stem for file in (whole.root / "out").glob("*.tex")]
    command += ["-output-directory", str(tmp_path), f"{name}.tex"]
    for _ in range(2):  # the second time with the references
        done = subprocess.run(
            command, cwd=whole.root / "out", capture_output=True, encoding="latin-1", check=False
        )
        assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert "undefined" not in done.stdout.replace("\n", "")


# ------------------------------------------------------------------ the report on a user's images

REPORT = """---
title: {{ report.title }}
author: {{ report.author }}
abstract: Of {{ report.data }}. The score is {{ test_auc:interval .3f }}.
---

# First

Words, and @tbl-scores.

{{ table: scores }}

: Scores. {#tbl-scores}
"""


@pytest.fixture
def report(tmp_path, picture):
    """A function that builds a small report: of so many test images, with settings and numbers."""

    def build_report(n: int, m: int, rows: str = "A,0.5\n", section=None, **numbers) -> str:
        settings = {"data": "my_lenses*[1]/of $5 `x`.tgz", "report": section or {}}
        project = Project(tmp_path, picture, **settings)
        project.write("paper/paper.md", REPORT)
        project.write("tables/scores.csv", f"name,auc\n{rows}")
        lines = [f"a{k},no_sub,test" for k in range(n)] + [f"b{k},sub,test" for k in range(m)]
        lines += [f"c{k},no_sub,train" for k in range(99)]
        project.write("results/dataset/catalog.csv", "\n".join(["id,class,split", *lines]))
        project.numbers(**({"test_auc": 0.9, "test_auc_low": 0.8, "test_auc_high": 1.0} | numbers))
        project.figure("a", rule="r", notebook="n")
        assert project.build() == 0
        assert not list((tmp_path / "out").glob("paper.*"))
        assert (tmp_path / "out/report.pdf").read_bytes().startswith(b"%PDF")
        return " ".join(project.out("html").replace("\u00a0", " ").split())

    return build_report


def test_a_report_has_the_name_of_the_images_and_no_author(report):
    html = report(60, 60)
    name = "of $5 `x`.tgz"
    assert f"<title>{name}: Classification of Lens Images</title>" in html
    assert f"Of my_lenses*[1]/{name}. The score is 0.900 (95 % interval 0.800 to 1.000)." in html
    assert 'class="author"' not in html or '<p class="author"></p>' in html
    assert "vitdm authors" not in html and "Few test images" not in html


def test_a_report_is_signed_as_the_configuration_says(report):
    html = report(60, 60, section={"title": 'Our "best" lenses: a_b @ home', "author": "A. B. & C"})
    assert "Our “best” lenses: a_b @ home" in html and "A. B. &amp; C" in html


def test_a_report_on_few_images_says_first_what_they_show(report):
    html = report(2, 2, test_auc=0.5, test_auc_low=None, test_auc_high=float("nan"))
    assert "The score is 0.500 (too few images for an interval)." in html
    banner = "Few test images: 2 without substructure, 2 with it."
    assert banner in html and html.index(banner) < html.index('id="first"')
    assert "guesses have a ROC-AUC from 0.00 to 1.00" in html
    assert "does not show that the models see any difference" in html


def test_what_guesses_reach_is_what_random_scores_reach(report):
    html = report(20, 60)
    low, high = map(float, re.search(r"ROC-AUC from ([\d.]+) to ([\d.]+)\.", html).groups())
    assert "does not show" not in html  # the interval begins at 0.8
    rng, labels = np.random.default_rng(0), np.repeat([0, 1], [20, 60])
    guesses = [metrics.roc_auc(labels, rng.normal(size=80)) for _ in range(2000)]
    np.testing.assert_allclose([low, high], np.quantile(guesses, [0.025, 0.975]), atol=0.02)


def test_no_banner_over_enough_images(report):
    assert "Few test images: 49 without" in report(build.FEW - 1, 500)
    assert "Few test images" not in report(build.FEW, build.FEW)


def test_a_report_has_an_empty_row_for_a_table_without_any(report):
    assert re.search(r"<td[^>]*>–</td>", report(60, 60, rows=""))
