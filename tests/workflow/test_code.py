"""The code that a rule depends on: which edits change its hash, and which do not."""

import re
from pathlib import Path

import pytest

from studies.code import Code, Watched

ROOT = Path(__file__).resolve().parents[2]
LOW = '''"""Below."""
import numpy


def low(x):
    """Say it."""
    return x
'''
MODULES = {
    "vitdm/__init__.py": '"""A package."""\n',
    "vitdm/low.py": LOW,
    "vitdm/middle.py": "from vitdm.low import low\n",
    "vitdm/beside.py": "def beside():\n    import vitdm.late\n",
    "vitdm/late.py": "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n"
    "    from vitdm.middle import low\nelse:\n    pass\n",
    "studies/__init__.py": "",
    "studies/__main__.py": "from vitdm import middle\n",
    "studies/plots/__init__.py": "",
    "studies/plots/one.py": "LINE = 1\n",
    "notebooks/01.py": "from studies.plots import one\n",
}


@pytest.fixture
def root(tmp_path):
    for name, text in MODULES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def edited(root, name, old, new):
    """Return which hashes an edit changes."""
    known = ("vitdm.low", "vitdm.middle", "vitdm.beside", "vitdm.late", "studies.__main__")
    before = {module: Code(root).of(module) for module in (*known, "notebooks/01.py")}
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))
    return {module for module, digest in before.items() if Code(root).of(module) != digest}


def test_an_edit_reaches_what_imports_it(root):
    above = {"vitdm.low", "vitdm.middle", "studies.__main__"}
    assert edited(root, "vitdm/low.py", "return x", "return 2 * x") == above
    assert edited(root, "vitdm/late.py", "pass", "LATE = 1") == {"vitdm.late", "vitdm.beside"}
    assert edited(root, "studies/plots/one.py", "1", "2") == {"notebooks/01.py"}
    everything = above | {"vitdm.beside", "vitdm.late"}
    assert edited(root, "vitdm/__init__.py", "A package", "A") == set()
    (root / "vitdm/__init__.py").write_text("VERSION = 1\n")
    assert edited(root, "vitdm/__init__.py", "1", "2") == everything


def test_comments_docstrings_and_layout_do_not_count(root):
    for old, new in (
        ("Below.", "Far below."),
        ("Say it.", "Say it again."),
        ("    return x", "    # nothing is changed\n    return (\n        x\n    )"),
    ):
        assert edited(root, "vitdm/low.py", old, new) == set()
    assert edited(root, "vitdm/low.py", "(x):", "(x, y=1):") != set()


def test_an_import_for_annotations_does_not_count(root):
    assert "vitdm.late" not in edited(root, "vitdm/low.py", "return x", "return -x")


def test_a_module_that_is_not_there(root):
    with pytest.raises(ValueError, match=r"vitdm\.none: found no such module"):
        Code(root).of("vitdm.none")


def test_hashes_of_the_last_run(root, tmp_path, monkeypatch):
    monkeypatch.setattr("studies.code.ROOT", root)
    monkeypatch.setattr(Code.__init__, "__defaults__", (root, None))
    first = Watched(tmp_path / "results/code.json")
    digest = first("vitdm.middle")
    first.save()
    (root / "vitdm/low.py").write_text("def low(x):\n    return 0\n")
    assert Watched(tmp_path / "results/code.json")("vitdm.middle") != digest
    developing = Watched(tmp_path / "results/code.json", watch=False)
    assert developing("vitdm.middle") == digest
    assert developing("vitdm.beside") == Code(root).of("vitdm.beside")  # of a rule that is new


# ------------------------------------------------------------------------ the rules of the workflow


def watched():
    """The modules that rules watch, by the name of the rule."""
    found = {}
    for path in sorted((ROOT / "rules").glob("*.smk")):
        for block in re.split(r"^ *rule (?=\w+:)", path.read_text(), flags=re.M)[1:]:
            if module := re.search(r'CODE\("([\w.]+)"\)', block):
                found[block.partition(":")[0]] = module[1]
    return found


def rules_that_run(module):
    """The rules whose code a module is among."""
    code = Code()
    file = code.file_of(module)
    assert file is not None
    notebooks = {f"notebook_{path.name[:2]}": f"notebooks/{path.name}"
                 for path in (ROOT / "notebooks").glob("*.py")}  # fmt: skip
    return {name for name, m in (watched() | notebooks).items() if file in code.reached(m)}


def test_rules_watch_the_code_that_they_run():
    """That of their command: what the shell calls is what is watched."""
    assert len(watched()) > 20
    for path in sorted((ROOT / "rules").glob("*.smk")):
        for block in re.split(r"^ *rule (?=\w+:)", path.read_text(), flags=re.M)[1:]:
            called = re.search(r'"(vitdm|python -m studies) ([\w-]+)', block)
            watch = re.search(r'CODE\("([\w.]+)"\)', block)
            assert bool(called) == bool(watch), block[:40]
            if called:
                package = "vitdm" if called[1] == "vitdm" else "studies"
                command = called[2].replace("-", "_")
                assert watch[1] == f"{package}.commands.{command}", block[:40]


def test_an_edit_reaches_the_rules_that_run_it():
    searching = rules_that_run("vitdm.tuning.search")
    assert {"tune", "search"} <= searching
    below = {"simulate", "ingest", "preprocess", "lensfit", "features", "select", "merge"}
    assert not searching & below
    assert rules_that_run("studies.plots.tuning") == {"notebook_04"}
    assert rules_that_run("studies.plots.processing") == {"notebook_01"}
    assert rules_that_run("studies.precursor") >= {"audit", "invariance"}
    assert not rules_that_run("studies.precursor") & {"train", "tune", "evaluate"}
    everything = {*watched(), *(f"notebook_0{k}" for k in range(7))}
    assert rules_that_run("vitdm.errors") == everything
