"""The notebooks as pages: executed ones, or their text with the figures of the reference run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jupytext
import nbformat
from nbconvert import MarkdownExporter
from nbformat import NotebookNode, v4

#: how a notebook saves a figure: ``out.figure(…, "name")``, or several, f"name_{part}"
FIGURE = re.compile(r"\.figure\(.*?\"([\w{}]+)\",?\s*\)", re.S)
EXECUTED = "*This notebook as it was run, with what it printed and drew.*"
TEXT = (
    "*The text of this notebook with figures of the reference run. What it prints is in the "
    "executed notebook, which `make results` leaves in `results/paper/notebooks`.*"
)
INTRODUCTION = """# Notebooks

They tell the story of the article, one part each. All can be opened and changed: run alone, a
notebook shows tiny data, which it makes itself (`jupytext --to ipynb notebooks/*.py`, or by a
right-click in JupyterLab).

"""


def notebooks(sources: Path, figures: Path, executed: Path | None) -> dict[str, str | bytes]:
    """Return the pages and their pictures by their paths below ``notebooks/``.

    ``sources`` has the notebooks as text (``NN_name.py``), ``executed`` those that were run
    (``NN_name.ipynb``); of one that is not there, the page shows the text with what there is in
    ``figures``.
    """
    files: dict[str, str | bytes] = {}
    listed = []
    for source in sorted(sources.glob("*.py")):
        run = executed / f"{source.stem}.ipynb" if executed else None
        there = run is not None and run.is_file()
        book = nbformat.read(run, as_version=4) if there else _with_figures(source, figures)
        resources = {"unique_key": source.stem, "output_files_dir": source.stem}
        text, made = MarkdownExporter().from_notebook_node(book, resources)
        text = _described(text, book)
        title, _, rest = text.strip().partition("\n")
        files[f"{source.stem}.md"] = f"{title}\n\n{EXECUTED if there else TEXT}\n{_clean(rest)}"
        files |= made["outputs"]
        listed.append(f"- [{title.lstrip('# ')}]({source.stem}.md)")
    files["index.md"] = INTRODUCTION + "\n".join(listed) + "\n"
    return files


def _with_figures(source: Path, figures: Path) -> NotebookNode:
    """Return the notebook of a text, with the committed figure after each cell that draws one."""
    book = jupytext.read(source)
    cells = []
    for cell in book.cells:
        cells.append(cell)
        names = FIGURE.findall(cell.source) if cell.cell_type == "code" else []
        patterns = [re.sub(r"\{.*?\}", "*", name) for name in names]
        drawn = [file.stem for p in patterns for file in sorted(figures.glob(f"{p}.png"))]
        pictures = [f"![{_shown(name, figures)}](../../figures/{name}.png)" for name in drawn]
        cells += [v4.new_markdown_cell("\n\n".join(pictures))] if pictures else []
    book.cells = cells
    return book


def _shown(name: str, figures: Path) -> str:
    """Return what a committed figure shows, by its sidecar, or its name."""
    sidecar = figures / f"{name}.json"
    told = json.loads(sidecar.read_text()).get("caption") if sidecar.is_file() else None
    return (told or name).translate(str.maketrans("[]", "()"))


def _described(text: str, book: NotebookNode) -> str:
    """Return Markdown of an executed notebook whose pictures say what they show."""
    outputs = (output for cell in book.cells for output in cell.get("outputs", ()))
    pictures = [output for output in outputs if "image/png" in output.get("data", ())]
    told = iter([picture.metadata.get("image/png", {}).get("alt", "") for picture in pictures])
    return re.sub(r"!\[png\]\(", lambda _: f"![{next(told, '')}](", text)


def _clean(text: str) -> str:
    """Return Markdown of nbconvert without what only Jupyter reads."""
    text = re.sub(r"<style scoped>.*?</style>\n?", "", text, flags=re.S)
    text = text.replace('<table border="1" class="dataframe">', "<table>")
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
