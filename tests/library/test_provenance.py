"""Provenance sidecars and atomic writes."""

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import SETTINGS

from studies import config as workflow
from vitdm import provenance
from vitdm.__main__ import main
from vitdm.data.dataset import write
from vitdm.errors import InputError
from vitdm.provenance import atomic, check_replaceable, check_writable, sha256, sidecar, write_json

ROOT = Path(__file__).resolve().parents[2]


def git(*arguments, **options):
    answer = subprocess.run(["git", *arguments], capture_output=True, text=True, **options)
    return answer.stdout.strip() if answer.returncode == 0 else None


def test_sidecar_tells_where_an_artefact_came_from(tmp_path):
    (tmp_path / "in.csv").write_bytes(b"abc")
    started = time.time() - 5
    inputs, settings = [tmp_path / "in.csv"], workflow.build(SETTINGS)
    path = tmp_path / "out.json"
    sidecar(path, rule="fit", seed=4, config=settings, inputs=inputs, started=started, extra=[1])
    found = json.loads(path.read_text())
    assert (found["rule"], found["seed"], found["extra"]) == ("fit", 4, [1])
    assert found["commit"] == git("rev-parse", "HEAD")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert found["inputs"] == {str(tmp_path / "in.csv"): known}
    text = json.dumps(settings.model_dump(mode="json"), sort_keys=True)
    assert found["config_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["torch"] == importlib.metadata.version("torch")
    assert 5 <= found["seconds"] < 10 and 10 < found["peak_memory_mb"] < 1e5


def test_hash_of_the_config_follows_its_content(tmp_path):
    def hashed(content):
        sidecar(tmp_path / "s.json", rule="x", config=content)
        return json.loads((tmp_path / "s.json").read_text())["config_sha256"]

    assert hashed({"a": 1, "b": 2}) == hashed({"b": 2, "a": 1}) != hashed({"a": 1, "b": 3})
    assert hashed(None) is None


def test_changed_code_is_dirty_and_generated_files_are_not(tmp_path, monkeypatch):
    def state():
        sidecar(tmp_path / "s.json", rule="x")
        found = json.loads((tmp_path / "s.json").read_text())
        return found["commit"], found["dirty"]

    home = tmp_path / "repository"  # where the module lies, whatever the working directory
    (home / "vitdm").mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(home / "vitdm" / "provenance.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert state() == (None, None)
    (home / ".gitattributes").write_text("figures/** generated\nfigures/*.md -generated\n")
    (home / "figures").mkdir()
    files = [home / "a", home / "figures" / "b.png", home / "figures" / "c.md"]
    for file in files:
        file.write_text("1")
    author = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "-A"], [*author, "commit", "-qm", "a"]):
        git(*command, check=True, cwd=home)
    commit = git("rev-parse", "HEAD", cwd=home)
    assert state() == (commit, False)
    (home / "d").write_text("new files do not matter")
    assert state() == (commit, False)
    for file, dirty in zip(files, (True, False, True), strict=True):
        file.write_text("2")
        assert state() == (commit, dirty), file.name
        git("add", str(file), check=True, cwd=home)
        assert state() == (commit, dirty), file.name
        git("reset", "-q", "--hard", check=True, cwd=home)
    files[1].unlink()
    assert state() == (commit, False)


def test_what_a_rebuild_of_the_article_changes_is_marked_as_generated():
    def marked(*paths):
        lines = git("check-attr", "generated", "--", *paths, cwd=ROOT).splitlines()
        return [line.rpartition(": ")[2] == "set" for line in lines]

    made = ["figures/noise.png", "figures/noise.json", "paper/tables/audit.csv", "paper/paper.pdf"]
    made += ["paper/paper.html", "paper/paper.tex", "paper/paper.json", "paper/reference.json"]
    assert all(marked(*made, "paper/numbers.json"))
    written = ["paper/paper.md", "paper/extended/audit.csv", "vitdm/provenance.py", "README.md"]
    assert not any(marked(*written, "paper/build.py", "Snakefile"))


def test_provenance_needs_no_schema():
    code = "import sys, vitdm.provenance; print({'pydantic', 'vitdm.config'} & set(sys.modules))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "set()"


def test_sha256_of_a_folder(tmp_path):
    content = {"b/2": b"two", "a": b"one", "b/10": b"x" * (3 << 20)}
    for name, value in content.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(value)
    joined = b"".join(name.encode() + b"\0" + content[name] for name in ("a", "b/10", "b/2"))
    assert sha256(tmp_path) == hashlib.sha256(joined).hexdigest()
    assert sha256(tmp_path / "a") == hashlib.sha256(b"one").hexdigest()
    (tmp_path / "b/2").write_bytes(b"twO")
    assert sha256(tmp_path) != hashlib.sha256(joined).hexdigest()


def test_atomic_leaves_no_halves(tmp_path):
    path = tmp_path / "deep" / "table.csv"
    for content in ("old", "new"):
        with atomic(path) as temporary:
            temporary.write_text(content)
            assert temporary.parent == path.parent and temporary.suffix == ".csv"
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]


def test_atomic_folder_replaces_the_old_one_whole(tmp_path):
    folder = tmp_path / "run"
    for name in ("old", "new"):
        with atomic(folder) as temporary:
            temporary.mkdir()
            (temporary / name).touch()
            assert name == "old" or (folder / "old").exists()  # until the last moment
    with pytest.raises(KeyboardInterrupt), atomic(folder) as temporary:
        temporary.mkdir()
        (temporary / "half").touch()
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert [path.name for path in folder.iterdir()] == ["new"]


def test_json_is_plain_and_sorted(tmp_path):
    content = {"b": math.nan, "a": [np.float64("nan"), np.int64(3), np.array([1.5, np.nan])]}
    content |= {"c": tmp_path, 4: (np.bool_(True), "µ")}
    write_json(tmp_path / "x.json", content)
    text = (tmp_path / "x.json").read_text()
    assert "NaN" not in text and text.index('"a"') < text.index('"b"')
    assert json.loads(text) == {
        "a": [None, 3, [1.5, None]],
        "b": None,
        "c": str(tmp_path),
        "4": [True, "µ"],
    }
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert (tmp_path / "x.json").read_text() == text


def test_packages_of_the_sidecar_are_installed():
    assert set(provenance.versions()) == {"python", *provenance.PACKAGES}


# ------------------------------------------------------------------------------- nothing is lost


def small(place, name="d"):
    """Write a dataset of two images."""
    columns = {"id": ["a", "b"], "class": ["no_sub", "cdm"], "split": "train", "source": "x"}
    images = np.random.default_rng(0).normal(size=(2, 24, 24))
    write(place / name, images, pd.DataFrame(columns))
    return place / name


def command(capsys, *arguments):
    """Run a command line; return its exit status and what it says."""
    status = main(list(map(str, arguments)))
    return status, capsys.readouterr().err


@pytest.mark.parametrize("name", [".git", ".env", ".hidden/deep"])
def test_a_folder_that_holds_hidden_files_only_is_spared(tmp_path, capsys, name):
    (tmp_path / "repo" / name).mkdir(parents=True)
    (tmp_path / "repo" / name / "config").write_text("mine")
    simulate = ("simulate", "--population", "model_i", "--n", 2, "--out", tmp_path / "repo")
    status, said = command(capsys, *simulate)
    assert status == 2 and f"found {name.split('/')[0]!r}; expected an empty folder" in said
    assert (tmp_path / "repo" / name / "config").read_text() == "mine"


def test_what_systems_and_killed_processes_leave_is_no_obstacle(tmp_path):
    for name in (
        ".DS_Store",
        ".nfs0001",
        ".snakemake_timestamp",
        ".trials.csv.99.tmp.csv",
        "a.csv",
    ):
        (tmp_path / name).touch()
    check_replaceable(tmp_path, ["*.csv"])
    (tmp_path / ".csv.bak").touch()
    with pytest.raises(InputError, match=r"found '\.csv\.bak'"):
        check_replaceable(tmp_path, ["*.csv"])


@pytest.mark.parametrize("out", ["d", "./d", "link", "d/processed", "d/images.npy", "."])
def test_the_output_is_never_an_input(tmp_path, capsys, out):
    data = small(tmp_path)
    (tmp_path / "link").symlink_to(data)
    before = {path.name: path.read_bytes() for path in data.iterdir()}
    for line in (["preprocess", data], ["features", data], ["fit", data], ["ingest", data]):
        status, said = command(capsys, *line, "--out", f"{tmp_path}/{out}")
        assert status == 2 and "read" in said and "place" in said, said
        assert {path.name: path.read_bytes() for path in data.iterdir()} == before


def test_the_library_spares_its_inputs_too(tmp_path):
    from vitdm.config import Preprocess
    from vitdm.data.dataset import merge_shards
    from vitdm.data.ingest import ingest
    from vitdm.preprocess import process_dataset

    data = small(tmp_path)
    before = sha256(data)
    for work in (
        lambda: process_dataset(data, data, Preprocess(), progress=False),
        lambda: merge_shards([data], data),
        lambda: ingest(data, data, {"train": 1}, 0, progress=False),
    ):
        with pytest.raises(InputError, match="/d: is read, and would be replaced"):
            work()
    assert sha256(data) == before


def test_outputs_that_cannot_be_written_are_refused_at_the_start(tmp_path, capsys, monkeypatch):
    data = small(tmp_path)
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")

    def never(*_):
        raise AssertionError("worked before it knew where to")

    monkeypatch.setattr("vitdm.preprocess.process_dataset", never)
    reasons = {"file/out": "is a file; expected a folder", "pipe": "a device or a pipe"}
    for out, reason in reasons.items():
        status, said = command(capsys, "preprocess", data, "--out", tmp_path / out)
        assert status == 2 and reason in said
    monkeypatch.setattr(os, "access", lambda place, _: Path(place) != tmp_path)
    status, said = command(capsys, "preprocess", data, "--out", tmp_path / "new/deep")
    assert status == 2 and "may not be written to" in said and not (tmp_path / "new").exists()


def test_a_link_is_followed(tmp_path, capsys):
    data, place = small(tmp_path), tmp_path / "scratch" / "processed"
    (tmp_path / "link").symlink_to(place)  # nothing is there yet
    for _ in range(2):
        assert command(capsys, "preprocess", data, "--out", tmp_path / "link")[0] == 0
        assert (tmp_path / "link").is_symlink() and (place / "images.npy").is_file()
    assert [path.name for path in place.parent.iterdir()] == ["processed"]
    check_writable(tmp_path / "other", [data])


# ----------------------------------------------------------------------------------- full disks


@pytest.mark.parametrize("kind", ["file", "folder", "numpy"])
def test_a_full_disk_is_named(tmp_path, monkeypatch, kind):
    usage = provenance.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(provenance.shutil, "disk_usage", lambda _: usage)
    path = tmp_path / "table.csv"
    error = OSError("6000 requested and 0 written") if kind == "numpy" else OSError(28, "No space")
    with pytest.raises(InputError) as raised, atomic(path) as temporary:
        if kind == "folder":
            temporary.mkdir()
        raise error
    said = str(raised.value)
    assert said.startswith(f"{path}: cannot be written: the disk is full: 0.0 MB are free on /")
    assert os.path.ismount(said.split("free on ")[1].split(";")[0])
    assert not list(tmp_path.iterdir())


def test_a_file_in_a_folder_that_is_being_written_has_its_final_name(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError) as raised:
        small(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path}/d/dataset.json: cannot be written: the disk")


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(PermissionError), atomic(tmp_path / "x") as _:
        raise PermissionError(13, "no")


def test_a_file_that_the_system_does_not_let_grow_is_named(tmp_path):
    data = small(tmp_path)
    out = tmp_path / "processed"
    code = "import sys, vitdm.__main__ as m; sys.exit(m.main(sys.argv[1:]))"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # two images of 96 px: 74 kB

    answer = subprocess.run(
        [sys.executable, "-c", code, "preprocess", str(data), "--out", str(out)],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": "", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert (
        answer.returncode == 2
        and f"{out}: cannot be written: a file would be larger" in answer.stderr
    )
    assert "Traceback" not in answer.stderr and [p.name for p in tmp_path.iterdir()] == ["d"]


# ----------------------------------------------------------------------------------- hashes


def test_hashes_see_what_is_behind_links(tmp_path):
    elsewhere, data = tmp_path / "elsewhere", tmp_path / "data"
    elsewhere.mkdir()
    data.mkdir()
    (elsewhere / "a.fits").write_bytes(b"one")
    (data / "sub").symlink_to(elsewhere)
    (data / "round").symlink_to(data)  # leads back up
    for find in (sha256, workflow.fingerprint):
        before = find(data)
        (elsewhere / f"{find.__name__}.fits").write_bytes(b"two")
        assert find(data) != before


def test_outputs_are_known_by_their_content(tmp_path):
    """Also of a large file, whose hash is kept for as long as it stays the same."""
    large, small = tmp_path / "large.npy", tmp_path / "small.csv"
    large.write_bytes(bytes(provenance.LARGE + 1))
    small.write_text("a")
    path = tmp_path / "made.json"
    sidecar(path, rule="x", outputs=[large, small])
    for file in (large, small):
        assert json.loads(path.read_text())["outputs"][file.name] == (
            hashlib.sha256(file.read_bytes()).hexdigest()
        )
    provenance.check_outputs(path, large.name, small.name, "of nobody's")
    content = bytearray(large.read_bytes())
    content[-1] = 1
    large.write_bytes(content)
    for name in (large.name, small.name):
        small.unlink(missing_ok=True)
        with pytest.raises(InputError, match=rf"{name}: is not the file that made\.json beside it"):
            provenance.check_outputs(path, name)
