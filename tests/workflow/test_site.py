"""Pages of the site that are made from code, links between documents, and the check of links."""

import argparse
import re
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat import v4

import studies.__main__ as of_studies
import vitdm.__main__ as of_library
from studies.config import Config
from studies.site import built, command_line, configuration, galleries
from studies.site.notebooks import notebooks
from studies.site.results import SHOWN, results
from studies.site.sources import SECTION, Site
from vitdm.config import Settings
from vitdm.simulation.population import shipped

ROOT = Path(__file__).parents[2]


# ------------------------------------------------------------------------------- the references


@pytest.fixture(scope="module")
def settings():
    """The rows of the configuration reference: cells by key."""
    page = configuration.configuration()
    rows = re.findall(r"^\| `([\w.]+)` \| (.*) \|$", page, re.M)
    return {key: re.split(r" \| ", cells) for key, cells in reversed(rows)}  # the first counts


def keys(content, path=""):
    """Return all keys of a configuration that is written out."""
    for name, value in content.items():
        yield f"{path}{name}"
        if isinstance(value, dict):
            yield from keys(value, f"{path}{name}.")


def test_each_setting_is_in_the_reference_with_its_meaning(settings):
    named = set(keys(Settings().model_dump(mode="json")))
    content = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    own = {"runs", "rows", "recipes", "arms", "sets", "space", "steps", "fixed", "n_images"}
    own |= {"rivals"}
    plain = {k: v for k, v in content.items() if k in Config.model_fields}
    named |= {k for k in keys(plain) if not own & set(k.split(".")[:-1]) and ".tune." not in k}
    named -= {k for k in named if re.match(r"rates\.model\.|slacs\.search\.more_twins\.", k)}
    assert named <= settings.keys()
    assert not [key for key, cells in settings.items() if not cells[-1].strip()]


@pytest.mark.parametrize(
    ("key", "cells"),
    [
        ("preprocess.size", ["`whole number`", "`96`", "≥ 8, ≤ 4 096"]),
        ("train.accelerator", ['`"cpu" or "auto"`', '`"cpu"`', ""]),
        (
            "features.levels",
            ["`list of number`", "`[0.2, 0.4, 0.6, 0.8]`", "each > 0, each &lt; 1"],
        ),
        ("ingest.pixel_scale", ["`number or null`", "`null`", "> 0.001, &lt; 10.0"]),
        ("name", ["`text`", "*needed*", "`^[A-Za-z0-9][A-Za-z0-9_.-]*$`"]),
        ("source.n_sersic", ["`prior`", "*needed*", ""]),
        ("runs", ["`section by name`", "*needed*", "at least 1, each `^[A-Za-z][A-Za-z0-9_]*$`"]),
    ],
)
def test_types_defaults_and_bounds(settings, key, cells):
    assert [cell.strip() for cell in settings[key][:3]] == cells


def test_each_option_of_each_command_is_in_the_reference():
    page = command_line.command_line()
    for module in (of_library, of_studies):
        for name, command in module.COMMANDS.items():
            parser = argparse.ArgumentParser(add_help=False)
            command.add_arguments(parser)
            section = page.split(f"\n### {module.parser().prog} {name}\n")[1].split("\n### ")[0]
            assert command.HELP in section and command.EXAMPLE in section
            shown = re.findall(r"^\| `([^`]*)` \|(.*)\|(.*)\|$", section, re.M)
            options = {o for first, *_ in shown for o in re.findall(r"--[\w-]+", first)}
            own = command_line._commands(parser)  # those that a command has, as benchmark has
            assert all(f"{name} {action}`: {p.description}" in section for action, p in own.items())
            actions = [a for p in own.values() or [parser] for a in p._actions if a.dest != "help"]
            expected = {o for a in actions for o in a.option_strings}
            assert {o for o in expected if o.startswith("--")} == options, name
            assert len(shown) == len(actions) and all(told.strip() for *_, told in shown)
    assert "`--shard K/N` | `0/1`" in page and "`--out OUT` | *needed*" in page


def test_each_population_has_a_gallery(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(galleries, "_draw", lambda population, file: drawn.append(file.name))
    page = galleries.galleries(tmp_path)
    assert re.findall(r"^## (\w+)$", page, re.M) == shipped()
    assert drawn == [f"{name}.png" for name in shipped()]
    assert all(f"](populations/{name})" in page for name in drawn)


def test_a_gallery_is_drawn(tmp_path):
    small = galleries.load_population("model_ii").model_copy(update={"num_pix": 32})
    galleries._draw(small, tmp_path / "small.png")
    assert (tmp_path / "small.png").read_bytes()[:4] == b"\x89PNG"


# ----------------------------------------------------------------------------------- notebooks


@pytest.fixture
def books(tmp_path):
    """A notebook as text, and a figure of the reference run."""
    for name in ("sources", "figures", "executed"):
        (tmp_path / name).mkdir()
    text = (
        '# %% [markdown]\n# # 1. A part\n#\n# Words.\n\n# %%\nout.figure(\n    draw(x), "seen"\n)\n'
    )
    text += '\n# %%\nout.figure(draw(x), "lost")\n'
    text += '\n# %%\nfor part in parts:\n    out.figure(draw(x), f"one_{part}")\n'
    (tmp_path / "sources/01_part.py").write_text(text)
    for name in ("seen", "one_a", "one_b"):
        (tmp_path / f"figures/{name}.png").write_bytes(b"png")
    (tmp_path / "figures/seen.json").write_text('{"caption": "A figure [seen]"}')
    return tmp_path


def test_a_notebook_that_was_not_run_has_the_committed_figures(books):
    files = notebooks(books / "sources", books / "figures", None)
    page = files["01_part.md"]
    assert page.startswith("# 1. A part\n\n*The text of this notebook")
    assert "![A figure (seen)](../../figures/seen.png)" in page and "lost.png" not in page
    assert page.count("](../../figures/one_") == 2
    assert page.index('"seen"') < page.index("](../../figures/seen.png)") < page.index('"lost"')
    assert "[1. A part](01_part.md)" in files["index.md"]


def test_a_notebook_that_was_run_has_its_own(books):
    told = {"image/png": {"alt": "What it shows"}}
    picture = v4.new_output("display_data", {"image/png": "iVBORw0KGgo="}, metadata=told)
    table = v4.new_output("display_data", {"text/html": "<div><table></table></div>"})
    said = v4.new_output("stream", text="3 lenses\n")
    code = v4.new_code_cell('out.figure(draw(x), "seen")', outputs=[said, picture, table])
    book = v4.new_notebook(cells=[v4.new_markdown_cell("# 1. A part\n\nWords."), code])
    nbformat.write(book, books / "executed/01_part.ipynb")
    files = notebooks(books / "sources", books / "figures", books / "executed")
    page = files["01_part.md"]
    assert "as it was run" in page and "3 lenses" in page and "figures/seen" not in page
    (name,) = re.findall(r"!\[What it shows\]\((.*?)\)", page)
    assert files[name].startswith(b"\x89PNG") and "<table>" in page


# --------------------------------------------------------------------------------------- links


@pytest.fixture(scope="module")
def site():
    return Site(ROOT, "https://a.b/blob/main/", {"populations.md", "notebooks/05_final_test.md"})


@pytest.mark.parametrize(
    ("source", "written", "expected"),
    [
        ("README.md", "[a](docs/data.md#populations)", "[a](data.md#populations)"),
        (
            "docs/lens.md",
            "[a](../README.md#your-own-images)",
            "[a](your-images.md#your-own-images)",
        ),
        ("docs/lens.md", "[a](../README.md)", "[a](index.md)"),
        ("docs/lens.md", "[a](#the-same)", "[a](lens.md#the-same)"),
        ("docs/lens.md", "[a](../CHANGELOG.md)", "[a](changelog.md)"),
        ("CONTRIBUTING.md", "[a](docs/design.md)", "[a](design.md)"),
        ("docs/api/lens.md", "[a](../populations.md#lenses)", "[a](../populations.md#lenses)"),
        ("docs/data.md", "[a](../vitdm/config)", "[a](https://a.b/blob/main/vitdm/config)"),
        ("docs/data.md", "[a](../notebooks/05_final_test.py)", "[a](notebooks/05_final_test.md)"),
        ("docs/data.md", "[a](https://c.d/e.md)", "[a](https://c.d/e.md)"),
        ("docs/data.md", "`[a](../vitdm/config)`", "`[a](../vitdm/config)`"),
        ("docs/data.md", "```\n[a](../vitdm)\n```\n", "```\n[a](../vitdm)\n```\n"),
        ("docs/data.md", "[a](gone.md)", "[a](gone.md)"),  # MkDocs refuses it
    ],
)
def test_links_of_documents_become_links_of_pages(site, source, written, expected):
    assert site.page(source, written) == expected


def test_pictures_of_a_page_are_copied(site):
    assert site.page("README.md", "![a](figures/headline.png)") == "![a](figures/headline.png)"
    assert site.page("docs/lens.md", "![a](lensfit_cost.png)") == "![a](lensfit_cost.png)"
    assert site.copied["figures/headline.png"] == ROOT / "figures/headline.png"


def test_sections_of_the_readme_stand_on_pages_once(site):
    """The whole README is on the site, but for the list of what lies where."""
    pages = [page.read_text() for page in (ROOT / "docs").glob("*.md")]
    included = [match[1] or "" for page in pages for match in SECTION.finditer(page)]
    assert sorted(included) == sorted(site.readme.keys() - {"What lies where"})
    page = site.page("docs/your-images.md")
    assert "## Your own images\n" in page and "<!-- README" not in page
    assert "](data.md#class-folders)" in page


# -------------------------------------------------------------------------------- a built site


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="other.html#here">a</a>', None),
        ('<a href="https://elsewhere.org/x">a</a><a href="mailto:a@b.c">b</a>', None),
        ('<img src="data:image/png;base64,AA">', None),
        ('<a href="other.html#there">a</a>', "other.html#there leads to no place in other.html"),
        ('<a href="gone.html">a</a>', "gone.html leads to no file"),
        ('<a href="www.elsewhere.org">a</a>', "www.elsewhere.org leads to no file"),
        ('<a href="elsewhere.org/x">a</a>', "elsewhere.org/x leads to no file"),
        ('<a href="/other.html">a</a>', "/other.html leads out of the site"),
        ('<a href="../secret.html">a</a>', "../secret.html leads out of the site"),
        ('<img src="gone.png">', "gone.png leads to no file"),
        (
            '<script src="https://cdn.org/x.js"></script>',
            "loads https://cdn.org/x.js from elsewhere",
        ),
        ('<link rel="stylesheet" href="//cdn.org/x.css">', "loads //cdn.org/x.css from elsewhere"),
    ],
)
def test_links_of_a_built_site_are_checked(tmp_path, body, problem):
    (tmp_path / "secret.html").write_text("")
    site = tmp_path / "site"
    site.mkdir()
    (site / "other.html").write_text('<h1 id="here">a</h1>')
    (site / "index.html").write_text(body)
    expected = [f"index.html: {problem}"] if problem else []
    assert list(built.problems(site)) == expected


def test_formulas_are_drawn_without_a_script():
    page = '<p>so <span class="arithmatex">\\(x &lt; \\alpha^2\\)</span> and</p>\n'
    page += '<div class="arithmatex">\\[\n\\int_0^1 f\n\\]</div> <code>\\(y\\)</code>'
    drawn = built.with_formulas(page)
    assert drawn.count("<math") == 2 and "arithmatex" not in drawn
    assert "α" in drawn and "∫" in drawn and "<code>\\(y\\)</code>" in drawn
    assert built.with_formulas("<p>none</p>") == "<p>none</p>"


def test_tables_that_the_article_has_no_room_for_are_a_page():
    page = results(ROOT / "paper")
    for title, caption in SHOWN.values():
        assert f"## {title}\n\n{caption}\n\n| " in page
    lenses = (ROOT / "paper/tables/slacs.csv").read_text().splitlines()[1:]
    fits = page.partition("## Fits of real lenses")[2].partition("\n## ")[0]
    assert all(line.split(",")[0] in fits for line in lenses) and len(lenses) > 40
