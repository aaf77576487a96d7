"""What MkDocs calls while it builds the site (`make docs`): pages from code, links, formulas."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from mkdocs.exceptions import Abort
from mkdocs.structure.files import File, Files

from studies.site import api, built
from studies.site.command_line import command_line
from studies.site.configuration import configuration
from studies.site.galleries import galleries
from studies.site.notebooks import notebooks
from studies.site.results import results
from studies.site.sources import PAGES, Site

ROOT = Path(__file__).resolve().parents[1]
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]


def on_config(config):
    """The addresses are those of the package, or of the repository whose workflow runs."""
    owner, _, name = os.environ.get("GITHUB_REPOSITORY", "/").partition("/")
    config.repo_url = f"https://github.com/{owner}/{name}" if owner else URLS["Repository"]
    config.site_url = f"https://{owner}.github.io/{name}/" if owner else URLS["Documentation"]
    return config


def on_files(files: Files, config) -> Files:
    """Put the pages that are made in the place of their sources, and add files that they show."""
    extra = config.extra
    executed = Path(extra["notebooks"]) if extra.get("notebooks") else None
    made = notebooks(ROOT / "notebooks", ROOT / "figures", executed)
    made = {f"notebooks/{name}": content for name, content in made.items()}
    pictures = Path(config.site_dir).with_name("populations")
    made |= {"populations.md": galleries(pictures)}
    made |= {f"populations/{file.name}": file.read_bytes() for file in pictures.glob("*.png")}
    made |= {"reference/configuration.md": configuration()}
    made |= {"reference/command-line.md": command_line()}
    made |= {"results.md": results(ROOT / "paper")}
    explorer = Path(extra["explorer"]) if extra.get("explorer") else None
    if explorer and explorer.is_file():
        made["explorer/lenses.html"] = explorer.read_bytes()

    site = Site(ROOT, f"{config.repo_url}/blob/main/", set(made))
    sources = {f"docs/{f.src_uri}": None for f in files if f.is_documentation_page()}
    sources |= dict.fromkeys(PAGES)
    texts = {f"docs/{name}": made.pop(name) for name in list(made) if name.endswith(".md")}
    for source, text in (sources | texts).items():
        name = site.path_of(source)
        if source.startswith("docs/api/"):
            page = (ROOT / source).read_text()
            text = api.rendered(page) if api.MODULE.match(page) else page
        made[name] = site.page(source, text)
    made |= {place: file.read_bytes() for place, file in site.copied.items()}
    shown = EXPLORER if "explorer/lenses.html" in made else NO_EXPLORER
    made["explorer.md"] = made["explorer.md"].replace("<!-- explorer -->", shown)
    for name, content in made.items():
        if known := files.get_file_from_path(name):
            files.remove(known)
        files.append(File.generated(config, name, content=content))
    config.nav = _with_pages(config.nav, [name for name in made if name.endswith(".md")])
    return files


def _with_pages(nav: list, names: list[str]) -> list:
    """Return the navigation with the pages of a folder (``notebooks/``) in its place."""
    full = []
    for entry in nav:
        ((title, target),) = entry.items()
        if isinstance(target, list):
            target = _with_pages(target, names)
        elif target.endswith("/"):
            pages = sorted(name for name in names if name.startswith(target))
            first = f"{target}index.md"
            target = [first, *(name for name in pages if name != first)]  # index, then by name
        full.append({title: target})
    return full


NO_EXPLORER = "*This site was built without the results of a run: there is no explorer here.*"
EXPLORER = "[**Open the explorer**](explorer/lenses.html){ .md-button .md-button--primary }"


def on_page_content(html: str, page, config, files) -> str:
    """Formulas are drawn by the browser itself."""
    return built.with_formulas(html)


def on_post_build(config) -> None:
    """Refuse a site with a link that leads nowhere, or that loads something from elsewhere."""
    if wrong := list(built.problems(Path(config.site_dir))):
        raise Abort("\n".join(["links:", *wrong]))
