"""Documents of the repository as pages of the site: sections of the README, and links.

Each document stays where GitHub shows it. Links between documents become links between pages, files
that a page shows are copied, and what is not on the site is linked in the repository.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

#: in a page: this section of the README stands here; ``README`` alone: what is above its first
SECTION = re.compile(r"^<!-- README(?:: (.+?))? -->$", re.M)
LINK = re.compile(r"(\]\()([^)\s]+)(\))|(\b(?:href|src)=\")([^\"]+)(\")")
CODE = re.compile(r"(^(```|~~~).*?^\2\s*$|`[^`\n]+`)", re.M | re.S)
#: documents beside docs/ that are pages
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
SHOWN = (".png", ".jpg", ".svg", ".pdf", ".html")


@dataclass
class Site:
    """The pages of a site, and the files that they show.

    ``root`` is the repository, ``address`` where it is public (``https://…/blob/main/``).
    ``generated`` are paths of pages and files that are made for the site.
    """

    root: Path
    address: str
    generated: set[str] = field(default_factory=set)
    copied: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.docs = self.root / "docs"
        self.readme = _sections((self.root / "README.md").read_text())
        self._of_section = {}
        for page in self.docs.rglob("*.md"):
            for name in SECTION.findall(page.read_text()):
                self._of_section[slug(name)] = page.relative_to(self.docs).as_posix()

    def page(self, source: str, text: str | None = None) -> str:
        """Return the text of a page; ``source`` is its document, relative to the repository."""
        text = (self.root / source).read_text() if text is None else text
        target = self.path_of(source)
        parts, at = [], 0
        for match in SECTION.finditer(text):
            section = self.readme[match[1] or ""]
            parts += [self._linked(text[at : match.start()], source, target)]
            parts += [self._linked(section, "README.md", target)]
            at = match.end()
        return "".join([*parts, self._linked(text[at:], source, target)])

    def path_of(self, source: str) -> str:
        """Return the path of a document on the site."""
        return PAGES.get(source) or source.removeprefix("docs/")

    def _linked(self, text: str, source: str, page: str) -> str:
        """Return a text of the document ``source`` with its links as those of a page."""
        pieces = CODE.split(text)  # text, code, its fence or None, text, …
        kept = []
        for k in range(0, len(pieces), 3):
            kept.append(LINK.sub(lambda match: self._link(match, source, page), pieces[k]))
            kept.append(pieces[k + 1] if k + 1 < len(pieces) else "")
        return "".join(kept)

    def _link(self, match: re.Match, source: str, page: str) -> str:
        before, target, after = match.groups()[:3] if match[1] else match.groups()[3:]
        return before + self._target(target, source, page) + after

    def _target(self, target: str, source: str, page: str) -> str:
        if re.match(r"[a-z]+:", target):
            return target
        path, _, anchor = target.partition("#")
        anchor = f"#{anchor}" if anchor else ""
        here = PurePosixPath(source).parent
        full = os.path.normpath(here / path) if path else source
        if full == "README.md":
            return _relative(self._of_section.get(anchor[1:], "index.md"), page) + anchor
        if full in PAGES or full.endswith(".md") and full.startswith("docs/"):
            return _relative(self.path_of(full), page) + anchor
        if full.removeprefix("docs/") in self.generated:
            return _relative(full.removeprefix("docs/"), page) + anchor
        if (as_page := re.sub(r"\.py$", ".md", full)) in self.generated:
            return _relative(as_page, page) + anchor
        file = self.root / full
        if file.suffix in SHOWN and file.is_file():
            place = full.removeprefix("docs/")
            self.copied[place] = file
            return _relative(place, page)
        return f"{self.address}{full}{anchor}" if file.exists() else target


def _relative(target: str, page: str) -> str:
    return os.path.relpath(target, PurePosixPath(page).parent)


def _sections(text: str) -> dict[str, str]:
    """Return the sections of a document by their headings, headings included."""
    parts = re.split(r"^(?=## )", text, flags=re.M)
    return {"": parts[0]} | {part.splitlines()[0].removeprefix("## "): part for part in parts[1:]}


def slug(heading: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
