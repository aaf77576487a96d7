"""The notebooks: parameters, plain code, and no executed copies in the repository."""

import ast
import re
import subprocess
from pathlib import Path

import jupytext
import nbformat
import pytest

from studies import contents
from studies.config import load

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("01_feature_discovery", "02_feature_comparison", "03_model", "04_optimisation")
NAMES += ("05_final_test", "06_real_lenses")
QUICKSTART = "00_quickstart"  # of the library alone
SMOKE = {
    "results": "results/smoke",
    "figures": "results/smoke/figures",
    "tables": "results/smoke/tables",
}
LONGEST = 8  # lines of a function
THOUGHT = 15  # lines of a code cell, without imports, comments and empty lines
PROSE = 250  # words of a cell of text


@pytest.fixture(params=(QUICKSTART, *NAMES))
def notebook(request):
    return jupytext.read(ROOT / "notebooks" / f"{request.param}.py")


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_these_are_all():
    assert sorted(path.stem for path in (ROOT / "notebooks").glob("*.py")) == [QUICKSTART, *NAMES]


def test_parameters_are_literals_with_the_smoke_defaults(notebook, request):
    tagged = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1 and tagged[0] is code(notebook)[0] is notebook.cells[1]
    statements = ast.parse(tagged[0].source).body
    assert all(isinstance(statement, ast.Assign) for statement in statements)
    found = {entry.targets[0].id: ast.literal_eval(entry.value) for entry in statements}
    quickstart = load(ROOT / "config/paper.yaml").quickstart.model_dump()
    assert found == (quickstart if is_quickstart(request) else SMOKE)


def is_quickstart(request):
    return request.node.callspec.params["notebook"] == QUICKSTART


def test_each_starts_with_its_own_name(notebook, request):
    name = request.node.callspec.params["notebook"]
    second = code(notebook)[1].source
    start = f'out = notebook.start(results, figures, tables, name="{name}")'
    assert (start in second) == (name != QUICKSTART)
    title = notebook.cells[0]
    assert title.cell_type == "markdown" and title.source.startswith(f"# {int(name[:2])}. ")


def test_notebooks_explain_and_leave_the_work_to_the_library(notebook):
    for cell in code(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.ClassDef), f"class {node.name}"
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= LONGEST, f"{node.name} has {lines} lines"
        lines = [line.strip() for line in cell.source.splitlines()]
        lines = [line for line in lines if line and not line.startswith(("#", "import ", "from "))]
        assert len(lines) <= THOUGHT, f"a cell of {len(lines)} lines: {lines[0]}"
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert len(prose) >= 0.4 * len(code(notebook))
    for text in prose:
        assert len(text.split()) <= PROSE, f"a cell of {len(text.split())} words: {text[:60]}"


def test_the_text_has_the_number_of_each_figure_in_order(notebook, request):
    """Numbers are those below the pictures; the text of a figure is in a cell beside it."""
    name, cells = request.node.callspec.params["notebook"], notebook.cells
    labels = {}
    for k, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            labels |= dict.fromkeys(re.findall(r"\*\*[Ff]igure (\d\.\d+)", cell.source), k)
    assert list(labels) == [f"{int(name[:2])}.{k + 1}" for k in range(len(labels))]
    if name == QUICKSTART:
        assert len(labels) == 4
        return
    drawn = [k for k, cell in enumerate(cells) for _ in re.findall(r"out\.figure\(", cell.source)]
    assert len(labels) == len([e for e in contents.notebook(name).entries if e.drawn_by])
    for number, text, figure in zip(labels, labels.values(), drawn, strict=True):
        assert abs(figure - text) <= 3, f"figure {number}: its text is {figure - text} cells before"


def test_the_quickstart_needs_the_library_alone():
    source = (ROOT / "notebooks" / f"{QUICKSTART}.py").read_text()
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert "vitdm" in imported and "studies" not in imported


def test_each_has_one_place_to_try_something(notebook):
    """One marked cell, with words before it."""
    cells = notebook.cells
    marked = [k for k, cell in enumerate(cells) if cell.source.startswith("# Try it")]
    assert len(marked) == 1 and cells[marked[0]].cell_type == "code"
    assert cells[marked[0] - 1].cell_type == "markdown"


def test_conversion_gives_a_valid_notebook_and_the_same_text_back(notebook, request, tmp_path):
    name = request.node.callspec.params["notebook"]
    path = tmp_path / f"{name}.ipynb"
    jupytext.write(notebook, path)
    converted = nbformat.read(path, as_version=4)
    nbformat.validate(converted)
    assert converted.metadata["kernelspec"]["name"] == "python3"
    assert [cell.source for cell in converted.cells] == [cell.source for cell in notebook.cells]
    assert not any(cell.get("outputs") for cell in converted.cells)
    text = jupytext.writes(notebook, "py:percent")
    original = (ROOT / "notebooks" / f"{name}.py").read_text()

    def body(script):
        return script.split("# ---\n", 2)[2].strip()

    assert body(text) == body(original)


def test_no_executed_notebook_is_tracked():
    command = ["git", "ls-files", "*.ipynb"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert listing.stdout.split() == []  # what `jupytext --to ipynb` leaves there is ignored
