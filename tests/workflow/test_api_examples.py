"""The pages of the public names: each name has an example, and the examples run."""

import doctest
import re
from pathlib import Path

import pytest

from studies.site import api

ROOT = Path(__file__).parents[2]
PAGES = api.pages(ROOT / "docs/api")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def test_there_is_a_page_for_each_room_that_offers_names():
    rooms = {path.parent for path in (ROOT / "vitdm").rglob("__init__.py")}
    names = {".".join(room.relative_to(ROOT).parts) for room in rooms}
    named = {name for name in names if hasattr(__import__(name, fromlist=["_"]), "__all__")}
    assert named == set(PAGES)
    listed = re.findall(r"\[`(vitdm[\w.]*)`\]", (ROOT / "docs/api/index.md").read_text())
    assert sorted(listed) == sorted(PAGES)


@pytest.mark.parametrize("module", PAGES)
def test_each_public_name_has_an_example(module):
    sections = api.sections(PAGES[module])
    headed = [name for heading in sections for name in api.names(heading)]
    assert sorted(headed) == sorted(api.public(module))
    for heading, text in sections.items():
        lines = " ".join(e.source for e in doctest.DocTestParser().get_examples(api.code(text)))
        missing = [name for name in api.names(heading) if not re.search(rf"\b{name}\b", lines)]
        assert not missing, f"{module}: {heading}"


@pytest.mark.parametrize("module", PAGES)
def test_examples_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestParser().get_doctest(api.code(PAGES[module]), {}, module, None, 0)
    said = []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append)
    assert not said, "".join(said)


def test_docstrings_stand_between_heading_and_example():
    page = api.rendered(PAGES["vitdm.data"])
    section = page[page.index("## merge_shards") : page.index("## Dataset")]
    assert (
        "merge_shards(shards: Sequence[str | Path], out: str | Path, **sidecar: Any) -> None"
        in section
    )
    assert "Join datasets into one, sorted by id" in section
    assert section.index("Join datasets") < section.index("**Example.**") < section.index(">>>")
