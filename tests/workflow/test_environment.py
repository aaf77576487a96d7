"""The environment is what the project says it is: dependencies, lock, front matter."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import yaml
from dependencies import ALL, CORE, EXTRAS, PROJECT, ROOT, closure, names
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from studies import check
from vitdm import __version__, config
from vitdm.__main__ import COMMANDS, main
from vitdm.evaluation import metrics
from vitdm.features import feature_names

REQUIRED = ("torch", "opencv-python-headless", "numpy", "scikit-optimize", "matplotlib")
REQUIRED += ("seaborn", "jupytext", "papermill", "nbval", "pandas")
#: which extras a folder may import beside the library's own dependencies
FOLDERS = {
    "vitdm": (),
    "studies": ("paper", "docs"),
    "docs": ("paper", "docs"),
    "notebooks": ("paper",),
    "tests": tuple(EXTRAS),
    "benchmarks": tuple(EXTRAS),
}
#: packages that code does without, where they are not installed
OPTIONAL = {"vitdm": {"dask"}, "notebooks": {"ipywidgets"}}
ENTRIES = (
    "paper",
    "notebooks",
    "vitdm",
    "studies",
    "figures",
    "tests",
    "environment.yml",
    "Snakefile",
)
ENTRIES += ("README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md", "docs/design.md", ".ci/run")
GPU = re.compile(r"nvidia|cuda|triton|torchvision")
HOME = re.compile(r"(?<![\w.])/(?:home|Users|root|work|tmp)/[\w.-]+")


def locked() -> dict[str, list[Version]]:
    """Return the versions of each distribution in the lock; every row must be an exact pin."""
    versions: dict[str, list[Version]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        text = line.split("#")[0].strip()
        if not text:
            continue
        requirement = Requirement(text)
        (pin,) = requirement.specifier
        assert pin.operator == "==" and "*" not in pin.version, f"not an exact version: {line}"
        versions.setdefault(canonicalize_name(requirement.name), []).append(Version(pin.version))
    return versions


def imports(source: str) -> set[str]:
    """Return the top-level names of the modules that a source imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@functools.cache
def distributions() -> dict[str, list[str]]:
    """Return the distributions that give each top-level module: read once, it takes a second."""
    return importlib.metadata.packages_distributions()


def undeclared(source: str, declared: set[str]) -> set[str]:
    """Return the imports that neither Python, this project nor a declared distribution gives."""
    local = {"vitdm", "studies"}
    return {
        name
        for name in imports(source) - set(sys.stdlib_module_names) - local
        if not {canonicalize_name(d) for d in distributions().get(name, [])} & declared
    }


def tracked() -> list[Path]:
    """Return the files of the repository; without git, all that .gitignore does not name."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode == 0:
        paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    else:
        folders = (
            "vitdm",
            "studies",
            "tests",
            "notebooks",
            "paper",
            "docs",
            "config",
            "benchmarks",
        )
        kept = ("*", *(f"{folder}/**/*" for folder in folders))
        paths = [path for pattern in kept for path in ROOT.glob(pattern)]
    return [path for path in paths if path.is_file()]


def texts() -> dict[str, str]:
    """Return the content of each text file of the repository, by its path in it."""
    found = {}
    for path in tracked():
        content = path.read_bytes()
        if b"\0" not in content[:8192]:
            found[str(path.relative_to(ROOT))] = content.decode("utf-8", "replace")
    return found


def test_undeclared_sees_a_missing_distribution():
    source = "import numpy.linalg\ndef f():\n    from cv2 import aruco\nfrom . import x\nimport os"
    assert undeclared(source, {"numpy"}) == {"cv2"}
    assert undeclared(source, {"numpy", "opencv-python-headless"}) == set()


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_import_is_a_declared_dependency(folder):
    sources = sorted((ROOT / folder).rglob("*.py"))
    assert sources, f"no Python file in {folder}/"
    declared = names(CORE).union(*(names(EXTRAS[extra]) for extra in FOLDERS[folder]))
    beside = {path.stem for path in [*sources, *(ROOT / "tests").glob("*.py")]}
    local = beside if folder in ("tests", "benchmarks") else OPTIONAL.get(folder, set())
    missing = {
        str(path.relative_to(ROOT)): undeclared(path.read_text(), declared) - local
        for path in sources
    }
    assert not {name: imports for name, imports in missing.items() if imports}


def test_required_libraries_are_declared():
    assert set(REQUIRED) <= names(CORE + EXTRAS["paper"])


def test_the_library_needs_no_workflow_and_no_notebook():
    """Nor do its dependencies."""
    assert not closure(CORE) & names(EXTRAS["paper"])


def test_lock_pins_every_dependency_within_its_range():
    versions = locked()
    for requirement in ALL:
        pins = versions.get(canonicalize_name(requirement.name))
        assert pins, f"requirements.lock lacks {requirement.name}; run `make lock`"
        for pin in pins:
            assert pin in requirement.specifier, f"{requirement.name} {pin}: not {requirement}"


def test_lock_is_complete_for_the_installed_packages():
    """What the installed packages say they need is in the lock, all the way down."""
    needed = {name for name in closure(ALL) if not GPU.match(name)}
    assert not needed - locked().keys()


def test_lock_leaves_the_build_of_torch_to_the_user():
    versions = locked()
    assert not [name for name in versions if GPU.match(name)]
    assert versions["torch"][0].local is None
    assert "://" not in (ROOT / "requirements.lock").read_text()


def test_conda_environment_is_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == ["-r requirements.lock", "-e .[paper]"]
    (python,) = [e for e in environment["dependencies"] if str(e).startswith("python")]
    assert python.removeprefix("python") == PROJECT["requires-python"]


@pytest.mark.parametrize("entry", ENTRIES)
def test_entry_exists(entry):
    assert (ROOT / entry).exists()


def test_versions_and_addresses_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    deposited = json.loads((ROOT / ".zenodo.json").read_text())
    assert citation["version"] == deposited["version"] == PROJECT["version"] == __version__
    assert citation["license"] == deposited["license"] == PROJECT["license"]
    assert citation["title"] == deposited["title"]
    urls = PROJECT["urls"]
    assert citation["repository-code"] == urls["Repository"]
    assert citation["url"] == urls["Documentation"]
    assert [e["identifier"] for e in deposited["related_identifiers"]] == [urls["Repository"]]
    assert all(url.startswith(urls["Repository"]) for url in (urls["Changelog"], urls["Issues"]))


def test_make_targets_of_the_readme_exist():
    named = set(re.findall(r"\bmake (\w+)", "".join(code("README.md"))))
    rules = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"results", "test", "smoke", "check", "clean"} <= named <= set(rules)


def code(document: str) -> list[str]:
    """Return what a Markdown document sets as code."""
    return re.findall(r"```.*?```|`[^`\n]+`", (ROOT / document).read_text(), re.DOTALL)


@pytest.mark.parametrize(
    "document",
    ["README.md", "docs/design.md", "docs/data.md", "docs/lens.md", "docs/tuning.md"],
)
def test_links_of_the_documents_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#\s]+)", (ROOT / document).read_text())
    local = [link for link in links if "://" not in link]
    assert not [link for link in local if not (ROOT / document).parent.joinpath(link).exists()]


def test_design_says_why_each_dependency_is_here():
    table = (ROOT / "docs/design.md").read_text().split("## Dependencies")[1]
    rows = re.findall(r"^\| ([\w-]+)(?: \((\w+)\))? \|", table, re.MULTILINE)
    found = {(canonicalize_name(name), extra) for name, extra in rows if name != "package"}
    expected = {(name, "") for name in names(CORE)}
    expected |= {(name, extra) for extra, lines in EXTRAS.items() for name in names(lines)}
    assert found == expected


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/" + "home/ann/x", True),
        ('"/' + 'work/main"', True),
        ("see results/tmp/x and https://a.org/home/x", False),
    ],
)
def test_pattern_of_absolute_paths(text, found):
    assert bool(HOME.search(text)) is found


def test_no_absolute_path_of_a_machine():
    assert not {name: m.group() for name, text in texts().items() if (m := HOME.search(text))}


def test_only_text_that_can_be_read_is_kept():
    refused = {".ipynb", ".pkl", ".pickle", ".pt", ".pth", ".ckpt"}
    assert not [path for path in tracked() if path.suffix in refused]


def test_numbers_of_the_readme_are_those_of_the_reference_run():
    reference = check.read_reference(ROOT / "paper/reference.json")
    shown = re.findall(
        r"<!-- (number|minutes): (\w+) -->[ *]*(\d*\.?\d+|)", (ROOT / "README.md").read_text()
    )
    assert {"test_auc", "test_balanced_accuracy"} <= {key for _, key, _ in shown} & set(reference)
    for kind, key, text in shown:
        assert text, f"README.md: {key} has no value"
        if kind == "number" and key in reference:
            digits = len(text.partition(".")[2])
            assert float(text) == round(reference[key]["value"], digits), key


def blocks(language: str) -> list[str]:
    """Return the blocks of the README in a language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def commands() -> list[list[str]]:
    """Return the words of each command of vitdm in the README that needs no user's images."""
    lines = [
        shlex.split(line, comments=True) for block in blocks("sh") for line in block.split("\n")
    ]
    return [words[1:] for words in lines if words[:1] == ["vitdm"] and "IMAGES…" not in words]


def run(words: list[str], capsys) -> None:
    assert main(words) == 0, capsys.readouterr().err


def test_what_lies_where_names_all_that_is_at_the_top():
    command = ["git", "ls-files", "-z"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git repository")
    paths = [Path(name) for name in listing.stdout.split("\0") if name]
    top = {path.parts[0] + "/" * (len(path.parts) > 1) for path in paths}
    table = (ROOT / "README.md").read_text().split("## What lies where")[1].split("\n## ")[0]
    firsts = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    named = re.findall(r"`(.+?)`", " ".join(firsts))
    assert sorted(named) == sorted(top - {"README.md", ".gitignore", ".gitattributes"})


def test_readme_lenses_are_simulated_measured_and_fitted(tmp_path, monkeypatch, capsys):
    """The fit of the first lens is compared with the truth of the simulation."""
    monkeypatch.chdir(tmp_path)
    simulate, *_ = commands()
    run([word if word != "1000" else "2" for word in simulate], capsys)
    code, _ = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    region, measured, fitted = capsys.readouterr().out.strip().split("\n")
    assert region.startswith("(96, 96) True")
    assert set(re.findall(r"'(\w+)'", measured)) == set(feature_names(config.Features()))
    truth = pd.read_csv("data/realistic/catalog.csv").iloc[0]
    theta_E = float(re.search(r"'theta_E': np.float64\((.*?)\)", fitted)[1])
    assert theta_E == pytest.approx(truth["theta_E"], rel=0.03) and "(1, 96, 96)" in fitted


def test_readme_commands_lead_from_images_to_a_test(tmp_path, monkeypatch, capsys):
    """All stages as they stand, on few images."""
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("yaml")
    settings = yaml.safe_load(block)
    few = {"n_images": {"train": 32, "valid": 12, "opt": 12, "test": 16}, "train": {"epochs": 2}}
    few |= {"selection": {"n_bootstrap": 10, "n_subsamples": 2, "n_repeats": 2}}
    few |= {"evaluation": {"bootstrap": 20}}
    assert settings.keys() - few.keys() == {"features", "model"}
    Path("data").mkdir()
    Path("data/example.yaml").write_text(yaml.safe_dump(settings | few))
    _, real, *stages = commands()
    assert real[0] == "lens"  # its images are not here: tests/workflow/test_lens_command.py
    for words in stages:
        run(words, capsys)
    assert [words[0] for words in stages[-2:]] == ["train", "evaluate"]
    metrics = json.loads(Path("data/example/test/metrics.json").read_text())
    assert metrics["n_test"] == 16 and metrics["n_seeds"] == 2


def test_readme_names_the_commands():
    listed = re.search(r"Sixteen commands.*?: (.*?)\. ", (ROOT / "README.md").read_text())[1]
    assert re.findall(r"`(\w+)`", listed) == list(COMMANDS) and len(COMMANDS) == 16


def test_readme_classifier_runs(tmp_path, monkeypatch, capsys):
    """The whole way in Python, on few images."""
    _, code = blocks("python")
    few = code.replace('"train": 1000, "test": 500', '"train": 24, "test": 12')
    assert few != code
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(few, "README.md", "exec"), names)
    said = re.fullmatch(r"ROC-AUC (\S+)\n", capsys.readouterr().out)
    lenses = (names["labels"][names["test"]] != "no_sub").astype(int)
    table = names["table"]
    expected = metrics.roc_auc(lenses, 1 - table["p_no_sub"].to_numpy())
    assert float(said[1]) == pytest.approx(expected) and len(table) == 12
    assert Path("data/mine/run/model.safetensors").is_file()


def test_the_version_has_a_section_in_the_changelog():
    """What is released is dated; what came since stands above it."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    sections = re.findall(
        r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", (ROOT / "CHANGELOG.md").read_text(), re.M
    )
    assert [name for name, _ in sections][:2] == ["Unreleased", version]
    assert all(date for _, date in sections[1:]) and not sections[0][1]
