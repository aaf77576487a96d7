"""A built site: formulas as MathML, and a check that it needs nothing else and leads everywhere."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pypandoc

#: what Markdown's extension ``arithmatex`` leaves of formulas
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">(?:\\\((?P<inline>.*?)\\\)|\\\[(?P<block>.*?)\\\])</\1>', re.S
)
#: what a page loads by itself, and where it leads
LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href")}
LED = {("a", "href")}
#: links of a head that load nothing
KINDS = {"canonical", "prev", "next", "edit"}


def with_formulas(page: str) -> str:
    """Return a page whose formulas are MathML, which browsers draw without a script."""
    found = list(FORMULA.finditer(page))
    if not found:
        return page
    formulas = [html.unescape(match["inline"] or match["block"]) for match in found]
    marks = [("$", "$") if match["inline"] else ("$$", "$$") for match in found]
    text = "\n\n".join(
        f"{mark[0]}{' '.join(formula.split())}{mark[1]}"
        for mark, formula in zip(marks, formulas, strict=True)
    )
    made = pypandoc.convert_text(text, "html5", "markdown", extra_args=["--mathml", "--wrap=none"])
    drawn = re.findall(r"<p>(.*?)</p>", made, re.S)
    if len(drawn) != len(found):
        raise ValueError(f"found {len(found)} formulas; pandoc made {len(drawn)} of them")
    drawn = iter(drawn)
    return FORMULA.sub(lambda match: f"<{match[1]}>{next(drawn)}</{match[1]}>", page)


class _Page(HTMLParser):
    """The anchors of a page, what it loads and where it leads."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors: set[str] = set()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        for name, value in given.items():
            if (tag, name) in LOADED and given.get("rel") not in KINDS:
                self.loaded.append(value)
            elif (tag, name) in LED:
                self.links.append(value)


def problems(site: Path) -> Iterator[str]:
    """Yield what is wrong with the links of a built site (HTML), in words.

    A page must load nothing from elsewhere; a link without ``https:`` must lead to a file of the
    site, and its anchor to a place in it, also one that looks like an address (``www.…``).
    """
    pages = {file.resolve(): _Page(file.read_text()) for file in sorted(site.rglob("*.html"))}
    for file, page in pages.items():
        name = file.relative_to(site.resolve()).as_posix()
        if name == "404.html":  # its links are those of the address where the site is published
            continue
        for target in page.loaded:
            if urlsplit(target).scheme not in ("", "data") or target.startswith("//"):
                yield f"{name}: loads {target[:80]} from elsewhere"
        for target in [*page.loaded, *page.links]:
            if wrong := _leads_nowhere(target, file, site.resolve(), pages):
                yield f"{name}: {wrong}"


def _leads_nowhere(target: str, file: Path, site: Path, pages: dict[Path, _Page]) -> str | None:
    parts = urlsplit(target)
    if parts.scheme or target.startswith("//"):
        return None
    to = (file.parent / unquote(parts.path)).resolve() if parts.path else file
    to = to / "index.html" if to.is_dir() else to
    if parts.path.startswith("/") or not to.is_relative_to(site):
        return f"{target} leads out of the site"
    if not to.is_file():
        return f"{target} leads to no file"
    anchor = unquote(parts.fragment)
    if anchor and to in pages and anchor not in pages[to].anchors:
        return f"{target} leads to no place in {to.name}"
    return None
