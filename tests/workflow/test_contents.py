"""The contents of the article: what notebooks draw, what they read, and what it says beside it."""

import ast
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from matplotlib import pyplot as plt

from studies import contents, notebook
from studies.config import build, load
from studies.targets import Targets
from vitdm.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SMOKE = load(ROOT / "config/smoke.yaml")
FROM_FILES = build(SMOKE.model_dump(mode="json") | {"data": "lenses.tgz"})
#: drawn by a benchmark, not for the article
ELSEWHERE = {"lenses.lenses_match", "style.nothing"}


def tree(name):
    return ast.parse((ROOT / f"notebooks/{name}.py").read_text())


def drawn(name, kind):
    """The names in calls ``out.figure(figure, "name")``, in order; a star is for a loop."""
    calls = [node for node in ast.walk(tree(name)) if isinstance(node, ast.Call)]
    found = []
    for node in sorted(calls, key=lambda call: call.lineno):
        if ast.unparse(node.func) == f"out.{kind}":
            given = node.args[1]
            parts = given.values if isinstance(given, ast.JoinedStr) else [given]
            texts = [part.value for part in parts]
            found.append("".join(text if isinstance(text, str) else "*" for text in texts))
    return found


@pytest.mark.parametrize("known", contents.NOTEBOOKS, ids=lambda known: known.name)
def test_a_notebook_draws_its_figures_and_tables_and_no_others(known):
    figures, tables = ([e.name for e in known.entries if bool(e.drawn_by) == f] for f in (1, 0))
    assert drawn(known.name, "figure") == figures  # in their order: they are numbered
    assert sorted(drawn(known.name, "table")) == sorted(tables)


def test_these_are_all_notebooks_and_each_name_is_there_once():
    names = [known.name for known in contents.NOTEBOOKS]
    everything = sorted(path.stem for path in (ROOT / "notebooks").glob("*.py"))
    assert everything == ["00_quickstart", *names]  # which shows nothing of the article
    entries = [(e.name, bool(e.drawn_by)) for known in contents.NOTEBOOKS for e in known.entries]
    assert len(entries) == len(set(entries)) > 60


def figures_of_plots():
    """The functions in ``studies.plots`` that return a figure, and their docstrings."""
    found = {}
    for path in (ROOT / "studies/plots").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            public = isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
            if public and node.returns and ast.unparse(node.returns) == "plt.Figure":
                found[f"{path.stem}.{node.name}"] = ast.get_docstring(node) or ""
    return found


def test_every_plot_is_in_the_article_and_says_what_it_shows():
    known = figures_of_plots()
    used = {e.drawn_by for n in contents.NOTEBOOKS for e in n.entries if e.drawn_by}
    assert used == set(known) - ELSEWHERE and len(used) > 35
    for name, docstring in known.items():
        assert re.match(r"Draw [^\n]+\.(\n|$)", docstring), name


@pytest.mark.parametrize("known", contents.NOTEBOOKS, ids=lambda known: known.name)
def test_a_notebook_imports_the_plots_that_it_draws(known):
    """And no others, whose edit would run it again; ``style`` and ``words`` draw nothing."""
    imported = set()
    for node in ast.walk(tree(known.name)):
        if isinstance(node, ast.ImportFrom):
            assert node.module != "studies" or "plots" not in [a.name for a in node.names]
            module = node.module.removeprefix("studies.plots.")
            imported |= {module} if module != node.module else set()
            imported |= {a.name for a in node.names if node.module == "studies.plots"}
    modules = {e.drawn_by.split(".")[0] for e in known.entries if e.drawn_by}
    assert imported - {"style", "words"} == modules


def names_of_the_configuration(tree):
    """The names of the configuration in a notebook: ``out.config``, and what it is assigned to."""
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    aliases = [n.targets for n in assigned if ast.unparse(n.value) == "out.config"]
    return {"out.config", *(ast.unparse(target) for targets in aliases for target in targets)}


def read_of(tree, names):
    """Keys, such as ("tune", "space"), that are read of the configuration under these names."""
    found = set()
    for node in ast.walk(tree):
        path = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        for name in names:
            keys = path.removeprefix(f"{name}.").split(".")
            if path.startswith(f"{name}.") and all(map(str.isidentifier, keys)):
                found.add(tuple(keys[:2]))
    return found


def handed_to(tree, names):
    """The functions that get the configuration as an argument."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {
        ast.unparse(call.func).split(".")[-1]
        for call in calls
        if names & {ast.unparse(argument) for argument in call.args}
    }


def read_by_notebook(name):
    """Keys that a notebook reads, itself or by the functions of ``studies.story``."""
    story = [ast.parse(path.read_text()) for path in (ROOT / "studies/story").glob("*.py")]
    nodes = [node for module in story for node in module.body]
    functions = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}
    names = names_of_the_configuration(tree(name))
    found, left, done = read_of(tree(name), names), handed_to(tree(name), names), set()
    while left:
        called = left.pop()
        if called in functions and called not in done:
            done.add(called)
            found |= read_of(functions[called], {"config", "settings"})
            left |= handed_to(functions[called], {"config", "settings"})
    return found


@pytest.mark.parametrize("known", contents.NOTEBOOKS, ids=lambda known: known.name)
def test_a_notebook_declares_the_settings_that_it_reads(known):
    found = read_by_notebook(known.name)
    assert len(found) > 3
    for section, *key in found:
        name = {"feature_runs": "runs"}.get(section, section)  # a property of the runs' names
        declared = [entry.partition(".") for entry in known.settings]
        parts = {part for whole, _, part in declared if whole == name}
        assert parts, (known.name, section)
        assert "" in parts or not key or key[0] in parts, (known.name, section, key)
    assert "seed" in known.settings  # of the sidecars


def test_the_contents_depend_on_the_data():
    simulated, from_files = Targets(SMOKE), Targets(FROM_FILES)
    assert "gallery_model_i" in contents.figures(simulated)
    lost = set(contents.figures(simulated)) - set(contents.figures(from_files))
    needs_truth = {
        "sensitivity",
        "perturbations",
        "residual_maps",
        "populations",
        "data_efficiency",
    }
    assert needs_truth < lost
    assert set(contents.figures(from_files)) < set(contents.figures(simulated))
    inputs = contents.notebook("05").inputs(from_files)
    assert f"{from_files.out}/features.csv" in inputs
    assert not [file for file in inputs if "known_model" in file or "lensfit" in file]


def test_inputs_are_below_the_results_that_are_shown():
    inputs = contents.notebook("02").inputs(Targets(SMOKE, "results/elsewhere"))
    assert all(file.startswith("results/elsewhere/") for file in inputs)
    assert "results/elsewhere/populations/model_i/selection/ranking.csv" in inputs
    assert len(inputs) == len(set(inputs))


@pytest.fixture
def out(tmp_path):
    """The frame of notebook 04 on empty results."""
    targets = Targets(SMOKE, str(tmp_path))
    for file in contents.notebook("04").inputs(targets):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("{}")
    return notebook.Notebook("04_optimisation", *[tmp_path] * 3, SMOKE, targets)


def test_sidecars_say_what_is_shown_and_from_what(out, tmp_path, monkeypatch):
    shown_markdown = []
    monkeypatch.setattr(notebook, "Markdown", shown_markdown.append)
    out.figure(plt.figure(), "tune_again")
    out.table(pd.DataFrame({"one": [1], "two": [2]}), "tune_best")
    said = {name: json.loads((tmp_path / f"{name}.json").read_text())
            for name in ("tune_again", "tune_best")}  # fmt: skip
    shown = "The best trials and the start: the score each was found with, and fresh ones."
    assert said["tune_again"]["caption"] == shown
    assert said["tune_best"]["caption"] == "Columns: one, two."
    assert shown_markdown == ["*Figure 4.5. " + shown + "*"]
    inputs = {Path(file).name for file in said["tune_best"]["inputs"]}
    assert inputs == {"best.json", "trials.csv"}


def test_what_is_not_among_the_contents_is_refused(out, tmp_path):
    with pytest.raises(
        InputError, match="'rivals'; expected one that is declared in studies/conte"
    ):
        out.table(pd.DataFrame({"one": [1]}), "rivals")  # that of another notebook
    with pytest.raises(InputError, match="found a figure 'tune_best'"):
        out.figure(plt.figure(), "tune_best")
    assert not list(tmp_path.glob("*.csv"))
    with pytest.raises(InputError, match="expected one of 01_feature_discovery"):
        contents.notebook("07")


def test_names_made_in_a_loop():
    entry = contents.notebook("01").entry("gallery_marginal", figure=True)
    assert entry.name == "gallery_*" and entry.names(Targets(FROM_FILES)) == []
    assert not entry.is_named("gallery_") and not entry.is_named("lens_gallery")


def test_numbers_of_all_sections_are_one_file(out, tmp_path):
    table = out.numbers({"one": 1}, {}, {"two": 0.5})
    assert json.loads((tmp_path / "numbers/04.json").read_text()) == {"one": 1, "two": 0.5}
    assert table["value"].to_dict() == {"one": 1, "two": 0.5}
