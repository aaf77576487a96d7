"""How pages are written: one a page in PDF, rows of a PNG, one HTML file that needs no other."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vitdm.errors import InputError
from vitdm.provenance import atomic

#: pages that a file has at most: a PNG is one picture, held in memory
MOST = {".pdf": 2000, ".html": 1000, ".png": 40}
SUFFIXES = tuple(MOST)
DPI = 150

STYLE = """body { font: 15px/1.45 sans-serif; max-width: 1300px; margin: 1.5em auto; color: #222;
padding: 0 1em } table { border-collapse: collapse; font-size: 13px } img { width: 100% }
th, td { text-align: left; padding: 2px 10px; border-bottom: 1px solid #ddd; vertical-align: top }
.warning { color: #a33a00 } figure { margin: 2em 0; border-top: 2px solid #888 }"""


class Page(NamedTuple):
    """A figure, its name, and what it says in words, for those who do not see it."""

    figure: Figure
    name: str
    words: str


def save(
    pages: Iterable[Page], path: str | Path, title: str = "", table: pd.DataFrame | None = None
) -> None:
    """Write pages to a file, whole or not at all; its ending tells how (``SUFFIXES``).

    PDF: a page each. PNG: one below the other. HTML: one file, without links to others, with the
    ``title`` and, above the pages, the ``table``. The same pages give the same bytes. InputError
    for another ending, or without pages; pages beyond ``MOST`` are left out.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in MOST:
        raise InputError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}")
    first = _first(pages, MOST[kind])
    with atomic(path) as temporary:
        {".pdf": _pdf, ".png": _png, ".html": _html}[kind](first, temporary, title, table)


def _first(pages: Iterable[Page], most: int) -> Iterator[Page]:
    number = 0
    for number, page in enumerate(pages, 1):
        if number > most:
            return
        yield page
    if not number:
        raise InputError("pages: found none; expected at least one image to be shown")


def _pdf(pages: Iterator[Page], path: Path, title: str, table: pd.DataFrame | None) -> None:
    told = {"CreationDate": None, "Title": title or None}
    with PdfPages(path, metadata=told) as file:
        for page in pages:
            file.savefig(page.figure)


def _png(pages: Iterator[Page], path: Path, title: str, table: pd.DataFrame | None) -> None:
    rows = [_pixels(page.figure) for page in pages]
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in rows]
    good, content = cv2.imencode(".png", np.concatenate(rows))
    assert good
    path.write_bytes(content.tobytes())


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    """Return a drawn figure (h, w, 3), blue first."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., 2::-1]


def _html(pages: Iterator[Page], path: Path, title: str, table: pd.DataFrame | None) -> None:
    with path.open("w", encoding="utf-8") as file:
        head = f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
        file.write('<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">')
        file.write(f"{head}</head><body><h1>{html.escape(title)}</h1>\n")
        file.write("" if table is None else _rows(table))
        for k, page in enumerate(pages):
            content = io.BytesIO()
            page.figure.savefig(content, dpi=DPI, format="png", metadata={"Software": None})
            inline = base64.b64encode(content.getvalue()).decode("ascii")
            alt = html.escape(f"{page.name}: {page.words}", quote=True)
            source = f"data:image/png;base64,{inline}"
            file.write(f'<figure id="{_anchor(k)}"><img alt="{alt}" src="{source}">')
            file.write("</figure>\n")
        file.write("</body></html>\n")


def _rows(table: pd.DataFrame) -> str:
    """Return a table as HTML; the index has the number of each row's page, or is below 0."""
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in table)
    lines = [f"<table><tr>{head}</tr>"]
    for page, row in zip(table.index, table.itertuples(index=False), strict=True):
        cells = [html.escape(_cell(value)) for value in row]
        if page >= 0:
            cells[0] = f'<a href="#{_anchor(page)}">{cells[0]}</a>'
        marked = [f"<td>{cell}</td>" for cell in cells[:-1]]
        lines.append(f'<tr>{"".join(marked)}<td class="warning">{cells[-1]}</td></tr>')
    return "\n".join([*lines, "</table>\n"])


def _cell(value: object) -> str:
    if value is None or value is pd.NA or value != value:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _anchor(k: int) -> str:
    """Return the anchor of page k."""
    return f"page{k}"
