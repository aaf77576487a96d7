"""The archive of a run: all that notebooks read, and metadata that say how it was made."""

import json
import subprocess
import zipfile
from pathlib import Path

import pytest

from studies import archive
from studies.config import load
from studies.contents import NOTEBOOKS
from studies.targets import Targets
from vitdm import provenance
from vitdm.errors import InputError

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "config/smoke.yaml"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A clone without a history of its own, and in it the files of a run: empty but for some."""
    (tmp_path / "vitdm").symlink_to(ROOT / "vitdm")  # populations are files of the library
    for name in ("config", "paper"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("CITATION.cff", "README.md"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / ".gitignore").write_text("results\nconfig\npaper\nvitdm\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(archive, "ROOT", tmp_path)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    targets = Targets(load(SMOKE))
    named = [file for notebook in NOTEBOOKS for file in notebook.inputs(targets)]
    for name in [*named, *(f"{targets.out}/{also}" for also in archive.ALSO)]:
        if name.startswith("results/"):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text("{}" if name.endswith(".json") else name)
    Path("results/smoke/shards").mkdir()
    Path("results/smoke/shards/images.npy").write_text("not read")
    Path("results/smoke/notebooks").mkdir()
    Path("results/smoke/notebooks/01_feature_discovery.ipynb").write_text("{}")
    made = {"inputs": ["results/smoke/dataset/images.npy"]}
    made["outputs"] = ["results/smoke/lensfit/fits.csv", "results/smoke/lensfit/residuals.npy"]
    provenance.sidecar(Path("results/smoke/lensfit/provenance.json"), rule="merge_fits", **made)
    tested = Path("results/smoke/evaluation")
    answers = [tested / "predictions.csv", tested / "predictions_seed1.csv"]
    answers[1].write_text("of one network")
    provenance.sidecar(tested / "evaluation.json", rule="evaluate", outputs=answers)
    for folder in (targets.figures, targets.tables):
        Path(folder).mkdir(parents=True, exist_ok=True)
        provenance.sidecar(Path(folder, "runs.json"), rule="notebook_03")
    return tmp_path


def test_all_that_notebooks_read_is_in_it(run):
    names = archive.archive(SMOKE, run / "out.zip")
    with zipfile.ZipFile(run / "out.zip") as packed:
        assert packed.namelist() == names and packed.testzip() is None
        assert packed.read("results/smoke/lensfit/fits.csv") == b"results/smoke/lensfit/fits.csv"
    targets = Targets(load(SMOKE))
    for notebook in NOTEBOOKS:
        needed = {f for f in notebook.inputs(targets) if f.startswith("results/")}
        assert needed <= set(names), notebook.name
    assert {"README.md", "results/smoke/config.yaml", "results/smoke/dataset/catalog.csv"} <= set(
        names
    )
    assert "results/smoke/notebooks/01_feature_discovery.ipynb" in names
    assert "results/smoke/evaluation/predictions_seed1.csv" in names  # beside what they name
    assert "results/smoke/shards/images.npy" not in names  # no notebook reads it


def test_the_same_run_gives_the_same_bytes(run):
    archive.archive(SMOKE, run / "one.zip")
    archive.archive(SMOKE, run / "two.zip")
    assert (run / "one.zip").read_bytes() == (run / "two.zip").read_bytes()


def test_the_metadata_say_what_was_made_of_what(run):
    archive.archive(SMOKE, run / "out.zip")
    with zipfile.ZipFile(run / "out.zip") as packed:
        graph = json.loads(packed.read("ro-crate-metadata.json"))["@graph"]
    entities = {entity["@id"]: entity for entity in graph}
    root = entities["./"]
    assert root["license"] == "https://spdx.org/licenses/MIT" and root["conformsTo"]["@id"]
    actions = {e["@id"]: e for e in graph if e["@type"] == "CreateAction"}
    action = actions.pop("#made-results/smoke/lensfit/provenance.json")
    assert action["name"] == "merge_fits"
    made = sorted(other["name"] for other in actions.values())
    assert made == ["evaluate", "notebook_03", "notebook_03"]  # a figure and a table of the last
    assert [entry["@id"] for entry in action["object"]] == ["results/smoke/dataset/images.npy"]
    results = {entry["@id"].rpartition("/")[2] for entry in action["result"]}
    assert results == {"fits.csv", "residuals.npy", "provenance.json"}
    assert entities[action["instrument"]["@id"]]["@type"] == "SoftwareApplication"
    assert {"@id": action["@id"]} in [root["mentions"]] + list(root["mentions"])
    fits = entities["results/smoke/lensfit/fits.csv"]
    assert fits["sha256"] == provenance.sha256("results/smoke/lensfit/fits.csv")
    assert fits["encodingFormat"] == "text/csv"


def test_what_cannot_be_archived_is_refused(run):
    (run / "README.md").write_text("changed")
    with pytest.raises(InputError, match=r"README.md: not committed"):
        archive.archive(SMOKE, run / "out.zip")
    Path("results/smoke/selection/ranking.csv").unlink()
    with pytest.raises(InputError, match=r"selection/ranking.csv: missing, with 0 more"):
        archive.archive(SMOKE, run / "out.zip")
    assert not (run / "out.zip").exists()
