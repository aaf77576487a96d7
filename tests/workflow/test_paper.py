"""The article: what is missing stops the build, and what is there is numbered, linked, stable."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import jinja2
import jinja2.meta
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest

from studies import config as workflow
from vitdm import config, provenance

PAPER = Path(__file__).parents[2] / "paper"
_spec = importlib.util.spec_from_file_location("build_paper", PAPER / "build.py")
build = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build)

SMALL = r"""---
title: A Small Paper
author: [Nobody]
link-citations: true
abstract: The score is {{ test_auc | num(3) }}.
---

# First {#sec-first}

See @fig-b, @tbl-scores, @eq-line, @sec-second, @app-more and @known2000.
The price is {{ rate | sci(1) }}.

[$$y = a x + b$$]{#eq-line}

![The first.]({{ figure("a") }}){#fig-a}

![The second.]({{ figure("b") }}){#fig-b}

# Second

## Below {#sec-second}

{{ table("scores", caption="Scores.", columns={"name": "Who", "auc": "ROC-AUC"}) }}

{{ table("provenance", caption="What made each figure.") }}

::: {#refs}
:::

# More {#app-more}

Words.
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
        run = json.dumps(run | {"peak_memory_mb": 300})
        self.write("results/evaluation/evaluation.json", run)
        self.write("paper/references.bib", BIB)

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

    def build(self, source: Path | None = None, out: str = "out") -> int:
        arguments = ["--source", source or self.root / "paper/paper.md", "--out", self.root / out]
        for folder in ("results", "figures", "tables"):
            arguments += [f"--{folder}", self.root / folder]
        arguments += ["--made", *self.made]
        return build.main([str(argument) for argument in arguments])

    def out(self, suffix: str, out: str = "out") -> str:
        return (self.root / out / f"paper.{suffix}").read_text()


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
    assert build._cell("0.05") == "0.0500"
    assert build._cell("0.05", digits=1) == "0.1"
    assert (
        build._cell("0.05", verbatim=True) == "0.05"
        and build._cell("a_b", verbatim=True) == "a\\_b"
    )


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
        (replaced('figure("b")', 'figure("c")'), ["figure 'c'", "line 17"]),
        (replaced('table("scores"', 'table("lost"'), ["table 'lost'", "line 23"]),
        (replaced('"auc":', '"area":'), ["'scores'", "'area'", "unused"]),
        (replaced("num(3)", "num(3"), ["paper.md, line 5"]),
        (lambda project: project.numbers("04", test_auc=1), ["test_auc", "04.json", "05.json"]),
        (lambda project: project.numbers(test_auc=None), ["rate", "line 11"]),
        (lambda project: project.numbers(classes=3), ["classes", "reserves"]),
        (lambda project: shutil.rmtree(project.root / "results/numbers"), ["numbers"]),
        (lambda project: (project.root / "results/dataset/catalog.csv").unlink(), ["catalog.csv"]),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_written(small, capsys, spoil, named):
    spoil(small)
    assert small.build() == 1
    message = capsys.readouterr().err
    assert all(name in message for name in named), message
    assert "Traceback" not in message
    assert not list((small.root / "out").glob("*")) and not list((small.root / "out").glob(".*"))


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (build.num(-0.0004, 3), "0.000"),
        (build.num(-0.25, 2), "−0.25"),
        (build.num(None), "n/a"),
        (build.sci(1e9, 0), "$10^{9}$"),
        (build.sci(2.5e-4), r"$2.5\times 10^{-4}$"),
        (build.pct(0.1234), "12.3\u00a0%"),
        (build.minutes(90), "1.5\u00a0minutes"),
        (build.minutes(4.2), "4\u00a0seconds"),
        (build.setting("patch_size"), "patch side"),
        (build.setting("clip"), "clip"),
        (build._cell(""), "–"),
        (build._cell("12.345", 1), "12.3"),
        (build.integer(14000), "14\u00a0000"),
        (build.effect(0.01, 0.002), "helps"),
        (build.effect(-0.01, 0.002), "hurts"),
        (build.effect(0.003, 0.002), "unclear"),
        (build.effect(0.01, None), "unknown"),
        (build._cell("0.00131"), "0.00131"),
        (build._cell("412345"), "412\u00a0345"),
        (build._cell("a|b_c"), r"a\|b\_c"),
    ],
)
def test_formats(shown, expected):
    assert shown == expected


# ---------------------------------------------------------------------------- the article itself


def article() -> str:
    return (PAPER / "paper.md").read_text()


def test_results_hold_no_typed_decimals():
    def typed(text: str) -> list[str]:
        bare = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|^%%.*?$", "", text, flags=re.S | re.M)
        return re.findall(r"\d\.\d", bare)

    results = re.search(r"^# Results .*?(?=^# )", article(), flags=re.S | re.M)[0]
    assert len(results) > 2000
    assert typed(results) == []
    assert typed(results + "an AUC of 0.99") == ["0.9"]


def test_every_citation_has_an_entry_and_every_entry_is_cited():
    keys = set(re.findall(r"@([\w-]+)", article()))
    cited = {key for key in keys if not re.match(r"(fig|tbl|eq|sec|app)-", key)}
    entries = re.split(r"^@\w+\{", (PAPER / "references.bib").read_text(), flags=re.M)[1:]
    assert cited == {entry.split(",")[0] for entry in entries}
    for entry in entries:
        assert re.search(r"^  (doi|url) = \{\S+\}", entry, flags=re.M), entry


def synthetic(project: Project) -> None:
    """Give every number, figure and table that the article asks for a made-up value."""
    environment = jinja2.Environment(
        comment_start_string="<!--#", comment_end_string="#-->", line_statement_prefix="%%"
    )
    for name in ("num", "plain", "sci", "pct", "minutes", "integer", "setting"):
        environment.filters[name] = str
    reserved = {"classes", "simulated", "config", "population", "commit", "versions", "numbers"}
    reserved |= {"dirty", "dict"}
    keys = jinja2.meta.find_undeclared_variables(environment.parse(article()))
    numbers = dict.fromkeys(keys - reserved - {"figure", "table", "effect"}, 0.5)
    numbers |= {
        "best_feature": "ring_radius",
        "most_sensitive": "depth",
        "least_sensitive": "depth",
        "best_run": "plain",
    }
    numbers |= {"size_feature": "max_separation_80", "run_seeds": 2}
    numbers |= {"most_important_features": "gini peak_snr", "best_feature_model_i": "ring_radius"}
    gains = ("selected", "selected_sd", "proposal", "proposal_sd")
    numbers |= {f"features_gain_{name}": 0.01 for name in gains}
    numbers |= {"rotation_corr_plain_median": 0.4}
    numbers |= {f"n_{name}": 10 for name in ("no_sub", "sub")} | {"run_plain_auc": 0.123456789}
    numbers |= {"run_plain_sd": None, "test_auc": 0.987654, "gain_spt": 0.1, "gain_spt_sd": 0.01}
    if project.settings.data == "simulate":
        numbers |= {f"test_auc_{name}": 0.9 for name in ("no_sub", "cdm", "axion")}
    else:
        absent = ("theta_E_smooth", "test_auc_cdm")
        absent += ("test_auc_axion", *(k for k in numbers if re.match("size_|ring_radius_", k)))
        numbers = {k: v for k, v in numbers.items() if k not in absent}
    project.numbers(**numbers)
    for name in re.findall(r'figure\("(\w+)"\)', article()):
        if name != "sensitivity" or project.settings.data == "simulate":
            project.figure(name, rule="r", notebook="n")
    tables, kept = {}, {}
    for name, rest in re.findall(r'table\("(\w+)"(.*?)\)\s*\}\}', article()):
        tables[name] = tables.get(name, []) + (
            re.findall(r'"([\w ]+)": "', rest) or ["name", "value"]
        )
        if where := re.search(r'where=\{"group": \[(.*?)\]', rest):
            kept[name] = kept.get(name, []) + re.findall(r'"(\w+)"', where[1])
    for name, columns in tables.items():
        columns = [*dict.fromkeys(columns), "group"]
        lines = [
            ",".join(["1"] * (len(columns) - 1) + [group]) for group in kept.get(name, ["proposal"])
        ]
        project.write(f"tables/{name}.csv", "\n".join([",".join(columns), *lines]) + "\n")


POPULATIONS = {"files": ["config/populations/marginal.yaml", "config/populations/model_i.yaml"]}


@pytest.fixture(
    scope="module",
    params=[{"populations": POPULATIONS}, {}, {"data": "lenses.tgz"}],
    ids=["populations", "simulated", "files"],
)
def whole(request, tmp_path_factory, picture):
    """The article itself, of made-up numbers."""
    project = Project(tmp_path_factory.mktemp("article"), picture, **request.param)
    synthetic(project)
    assert project.build(PAPER / "paper.md") == 0
    return project


def test_the_article_builds(whole):
    html, tex = " ".join(whole.out("html").split()), whole.out("tex")
    assert "0.9877" in html and "0123456789ab" in html
    assert not re.search(r"\{\{|\{%|\?\?|@(fig|tbl|eq|sec|app)-|\{#|%%", html)
    simulated = whole.settings.data == "simulate"
    assert ("A shortcut, and its absence" in html) == simulated
    assert ("What can be seen, and what" in html) == bool(
        simulated and whole.settings.populations.files
    )
    assert "a measurable gain" in html
    # what pdflatex knows (Latin-1 and the punctuation of its utf8 input), or the preamble declares
    declared = {chr(int(code, 16)) for code in re.findall(r"UnicodeCharacter\{(\w+)\}", tex)}
    assert not {sign for sign in tex if ord(sign) > 0xFF} - declared - set("–—‘’“”…ŁłŠš")


def test_links_within_the_article_lead_somewhere(whole):
    html = whole.out("html")
    targets = re.findall(r'\bid="([^"]+)"', html)
    assert len(targets) == len(set(targets))
    links = set(re.findall(r'href="#([^"]+)"', html))
    assert links <= set(targets)
    kinds = {link.split("-")[0] for link in links}
    assert {"fig", "tbl", "eq", "sec", "ref"} <= kinds


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_pdflatex_makes_a_pdf_of_the_tex(whole, tmp_path):
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error"]
    command += ["-output-directory", str(tmp_path), "paper.tex"]
    for _ in range(2):  # the second time with the references
        done = subprocess.run(
            command, cwd=whole.root / "out", capture_output=True, encoding="latin-1", check=False
        )
        assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").read_bytes().startswith(b"%PDF")
    assert "undefined" not in done.stdout.replace("\n", "")
