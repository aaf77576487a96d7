"""``vitdm lens``: files in, a folder for each lens out; the fit itself is replaced."""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from free_form import TRUTH, made
from matplotlib import image as pictures

from vitdm import lens
from vitdm.__main__ import main
from vitdm.errors import InputError
from vitdm.lens.free_form import files, mass

PAGE = (Path(__file__).parents[2] / "docs/lens.md").read_text()
WRITTEN = {"lens.json", "lens.fits", "lens.png", "problem.npz", "coolest"}


def run(*arguments):
    return main(["lens", *map(str, arguments)])


@pytest.fixture(autouse=True)
def fitted(monkeypatch):
    """Replace the fit by one that knows the truth; the observations and settings it was given."""
    given = []

    def fit(observation, settings=None, progress=lambda stage, chi2: None):
        given.append((observation, settings))
        if Path(observation.name).name == "bad":
            raise InputError(f"{observation.name}: no lens was found")
        progress("galaxy", 1.5)
        progress("source", 1.01)
        return made(observation.name)

    monkeypatch.setattr(lens, "fit", fit)
    return given


@pytest.fixture
def cutouts(tmp_path):
    """Two folders with image, noise and PSF, as of a survey, and a file with extensions."""
    observation = made().observation
    place = tmp_path / "survey"
    for name in ("J0001+0001", "J0002-0002"):
        (place / name).mkdir(parents=True)
        for role, image in (
            ("image", observation.data),
            ("noise", observation.noise),
            ("psf", observation.psf),
        ):
            fits.writeto(place / name / f"{role}.fits", np.nan_to_num(image))
    made_of = [fits.PrimaryHDU(), fits.ImageHDU(np.nan_to_num(observation.data), name="SCI")]
    made_of += [fits.ImageHDU(observation.noise, name="ERR")]
    fits.HDUList(made_of).writeto(tmp_path / "one.fits")
    return place


def test_a_folder_for_each_lens_and_a_table(cutouts, fitted, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(cutouts, tmp_path / "one.fits", "--pixel-scale", 0.06, "--out", out) == 0
    names = ["J0001+0001", "J0002-0002", "one"]
    assert {path.name for path in out.iterdir()} == {*names, "lenses.csv", "provenance.json"}
    for name in names:
        assert {path.name for path in (out / name).iterdir()} == WRITTEN
        assert (out / name / "coolest" / "coolest.json").is_file()
        assert files.read(out / name)["numbers"]["chi2"] == pytest.approx(1, abs=0.1)
    assert pictures.imread(out / "one" / "lens.png").shape == (975, 1755, 4)
    table = pd.read_csv(out / "lenses.csv")
    assert table["folder"].tolist() == names and (table["theta_E"] == TRUTH["theta_E"]).all()
    assert table["theta_E_error"].iloc[0] == 0.01 and table["a1_x_error"].isna().all()
    assert table["n_pixels"].dtype == int and table["error"].isna().all()
    observation, settings = fitted[0]
    assert observation.pixel_scale == 0.06 and observation.noise.shape == observation.shape
    assert observation.psf.shape == (15, 15) and settings.neighbours
    sidecar = json.loads((out / "provenance.json").read_text())
    assert sidecar["rule"] == "lens" and set(sidecar["outputs"]) == {"lenses.csv"}
    assert len(sidecar["inputs"]) == 3
    said = capsys.readouterr()
    assert "one: galaxy, chi2 per pixel 1.500\none: source, chi2 per pixel 1.010\n" in said.err
    assert re.search(r'one: theta_E = 1\.2000 ± 0\.0100", chi2 per pixel .*; flags: \w+', said.err)
    assert said.out == ""


def test_one_bad_lens_does_not_end_the_others(cutouts, tmp_path, capsys):
    (cutouts / "J0001+0001").rename(cutouts / "bad")
    (cutouts / "broken").mkdir()
    (cutouts / "broken" / "image.fits").write_bytes(b"SIMPLE")
    (cutouts / "broken" / "noise.fits").write_bytes(b"")
    out = tmp_path / "out"
    assert run(cutouts, "--pixel-scale", 0.06, "--out", out) == 2
    table = pd.read_csv(out / "lenses.csv").set_index("folder")
    assert table.index.tolist() == ["J0002-0002", "bad", "broken"]
    assert table.loc["bad", "error"].endswith("bad: no lens was found")
    assert "image.fits" in table.loc["broken", "error"] and table["n_pixels"].notna().sum() == 1
    errors = [s for s in capsys.readouterr().err.splitlines() if s.startswith("vitdm lens: error:")]
    assert len(errors) == 2 and errors[0].endswith(table.loc["bad", "error"])
    assert {path.name for path in out.iterdir()} == {"J0002-0002", "lenses.csv", "provenance.json"}


def test_an_earlier_result_is_replaced_and_nothing_else(cutouts, tmp_path, capsys):
    lens_folder, out = cutouts / "J0001+0001", tmp_path / "out"
    for _ in range(2):
        assert run(lens_folder, "--pixel-scale", 0.06, "--no-neighbours", "--out", out) == 0
    first = (out / "J0001+0001" / "lens.png").read_bytes()
    assert run(lens_folder, "--pixel-scale", 0.06, "--out", out) == 0
    assert (out / "J0001+0001" / "lens.png").read_bytes() == first  # nothing of the clock
    (out / "J0001+0001" / "notes.txt").write_text("mine")
    capsys.readouterr()
    assert run(lens_folder, "--pixel-scale", 0.06, "--out", out) == 2
    assert "found 'notes.txt'; expected an empty folder" in capsys.readouterr().err
    assert (out / "J0001+0001" / "notes.txt").read_text() == "mine"


def test_settings(cutouts, fitted, tmp_path, capsys):
    options = (cutouts / "J0001+0001", "--pixel-scale", 0.06, "--out", tmp_path / "out")
    for name in ("lens_light", "neighbours", "cosmic_rays"):
        assert run(*options, f"--no-{name.replace('_', '-')}") == 0
        changed = fitted[-1][1].model_dump().items() - type(fitted[-1][1])().model_dump().items()
        assert changed == {(name, False)}
    config = tmp_path / "mine.yaml"
    config.write_text("freeform: {neighbours: false}")
    assert run(*options, "--config", config) == 0
    assert not fitted[-1][1].neighbours
    config.write_text("freeform: {neighbors: false}")
    assert run(*options, "--config", config) == 2
    assert re.search(r"mine\.yaml: freeform\.neighbors: unknown key", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{place} {place}/../copy/J0001+0001 --out {out}", "has the same name as .*J0001"),
        ("{place}/gone --out {out}", "gone: does not exist"),
        ("{place} --out {place}/out", "lies inside .*survey, which is read"),
        ("{place} --out {file}", "is a file; expected a folder"),
    ],
)
def test_wrong_input_gets_one_message(cutouts, fitted, tmp_path, capsys, words, message):
    (tmp_path / "copy" / "J0001+0001").mkdir(parents=True)
    for file in (cutouts / "J0001+0001").iterdir():
        (tmp_path / "copy" / "J0001+0001" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "file").write_text("")
    places = {"place": cutouts, "out": tmp_path / "out", "file": tmp_path / "file"}
    assert run(*words.format(**places).split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("vitdm lens: error: ") and re.search(message, said)
    assert not fitted and not (tmp_path / "out").exists()


def test_progress_on_a_terminal_is_one_line(cutouts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run(cutouts / "J0001+0001", "--pixel-scale", 0.06, "--out", tmp_path / "out") == 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.count("\r\x1b[K") == 4  # three stages, and the end


# ------------------------------------------------------------------------------- docs/lens.md


def test_the_page_runs(cutouts, tmp_path, monkeypatch, capsys):
    """Its commands, then its Python, as they stand."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (cutouts / "J0001+0001").rename(tmp_path / "data/J0946+1006")
    cutouts.rename(tmp_path / "data/slacs_hst")
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S):
        program, *words = shlex.split(block)
        assert program == "vitdm" and main(words) == 0, capsys.readouterr().err
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    exec(compile(code, "docs/lens.md", "exec"), {})
    assert "(101, 101)" in capsys.readouterr().out
    assert (tmp_path / "data/one/coolest/coolest.json").is_file()


def test_the_page_names_what_is_written(cutouts, tmp_path):
    assert run(cutouts / "J0001+0001", "--pixel-scale", 0.06, "--out", tmp_path / "out") == 0
    tables = re.findall(r"^\| (`[^|]*) \|", PAGE, re.M)
    named = set(re.findall(r"`([^`]+)`", " ".join(tables)))
    folder = tmp_path / "out" / "J0001+0001"
    assert {name.removesuffix("/") for name in named} >= {f"NAME/{name}" for name in WRITTEN}
    assert named >= {"lenses.csv", "provenance.json", *mass.NAMES, *files.EXTENSIONS}
    numbers = json.loads((folder / "lens.json").read_text())
    told = {"name", "source", "unit", "pixel_scale", "coordinates"}  # plain enough
    assert numbers.keys() - told <= named
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*) \|$", PAGE, re.M))
    assert rows == files.EXTENSIONS
