"""``vitdm search``: folders of fitted lenses in, their maps and a table out.

The search itself is replaced, but for one of a small simulated lens.
"""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from free_form import made
from matplotlib import image as pictures
from perturbers import searched

from vitdm import lens
from vitdm.__main__ import main, parser
from vitdm.config import FreeForm, Perturbers
from vitdm.data.simulated import observed
from vitdm.errors import InputError
from vitdm.lens.free_form import files as lens_files
from vitdm.lens.perturbers import files
from vitdm.lens.perturbers.verdict import WARNINGS
from vitdm.simulation import NO_SUB, load_population

PAGE = (Path(__file__).parents[2] / "docs/search.md").read_text()
WRITTEN = {"search.json", "search.fits", "search.png", "peaks.csv"}
HEIGHTS = {"J0001+0001": 0.0, "J0002-0002": 9.0, "J0003+0003": 4.0}


def run(*arguments):
    return main(["search", *map(str, arguments)])


@pytest.fixture(autouse=True)
def given(monkeypatch):
    """Replace the search, and the reading of the lens; what was searched for in what."""
    seen = []

    def search(model, settings=None, progress=lambda stage: None):
        name = model.observation.name
        seen.append((name, settings))
        if name == "bad":
            raise InputError(f"{name}: the source is dark")
        progress("maps")
        progress("twins")
        redshifts = {"z_lens": settings.z_lens, "z_source": settings.z_source}
        return searched(model, height=HEIGHTS[name], **redshifts)

    monkeypatch.setattr(lens, "search", search)
    monkeypatch.setattr(lens_files, "read_model", lambda folder: made(Path(folder).name))
    return seen


@pytest.fixture
def lenses(tmp_path):
    """Folders of fitted lenses, and others beside them."""
    place = tmp_path / "lenses"
    for name in HEIGHTS:
        (place / name).mkdir(parents=True)
        (place / name / "lens.json").write_text("{}")
    (place / "notes").mkdir()
    (place / "lenses.csv").write_text("folder\n")
    return place


def test_files_of_one_lens(lenses, given, capsys):
    folder = lenses / "J0002-0002"
    assert run(folder, "--z-lens", 0.2, "--z-source", 0.6) == 0
    assert {path.name for path in folder.iterdir()} == WRITTEN | {"lens.json"}
    assert pictures.imread(folder / "search.png").shape == (975, 1755, 4)
    assert files.read(folder)["numbers"]["p_value"] == pytest.approx(1 / 201)
    assert {path.name for path in lenses.iterdir()} == {*HEIGHTS, "notes", "lenses.csv"}
    said = capsys.readouterr()
    assert said.out == "" and "J0002-0002: maps\nJ0002-0002: twins\n" in said.err
    assert "J0002-0002: Something stands out" in said.err and "search.png" in said.err
    assert (given[0][1].z_lens, given[0][1].z_source, given[0][1].twins) == (0.2, 0.6, 200)


def test_a_table_of_several_lenses(lenses, capsys):
    assert run(lenses) == 0
    table = pd.read_csv(lenses / "search.csv").set_index("folder")
    assert table.index.tolist() == list(HEIGHTS) and table["error"].isna().all()
    assert table["score"].idxmax() == "J0002-0002" and table["p_value"].idxmin() == "J0002-0002"
    assert table.loc["J0002-0002", "delta_evidence"] == 41.3 and table["solar_masses"].isna().all()
    assert table["warnings"].str.contains("redshifts").all()
    sidecar = json.loads((lenses / "search_provenance.json").read_text())
    assert sidecar["rule"] == "search" and set(sidecar["outputs"]) == {"search.csv"}
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["folder", "score", "p_value"]
    assert [row.split()[0] for row in rows] == ["J0002-0002", "J0003+0003", "J0001+0001"]
    # the same again, a lens twice: searched once, and nothing but what is meant is replaced
    before = (lenses / "J0001+0001" / "search.png").read_bytes()
    assert run(lenses, lenses / "J0001+0001") == 0
    assert (lenses / "J0001+0001" / "search.png").read_bytes() == before
    assert len(pd.read_csv(lenses / "search.csv")) == 3


def test_one_bad_lens_does_not_end_the_others(lenses, capsys):
    (lenses / "J0001+0001").rename(lenses / "bad")
    assert run(lenses) == 2
    table = pd.read_csv(lenses / "search.csv").set_index("folder")
    assert table.loc["bad", "error"] == "bad: the source is dark" and len(table) == 3
    assert table["score"].notna().sum() == 2
    said = capsys.readouterr()
    assert "vitdm search: error: bad: the source is dark\n" in said.err
    assert "bad" not in said.out and not (lenses / "bad" / "search.json").exists()


def test_settings_come_from_file_options_and_table(lenses, given, tmp_path):
    config, table = tmp_path / "mine.yaml", tmp_path / "redshifts.csv"
    config.write_text("perturbers: {twins: 50, spacing: 0.2, z_lens: 0.1, z_source: 0.5}")
    table.write_text("# of the SLACS\nname,z_lens,z_source,q\nJ0002-0002,0.3,0.7,1\n")
    options = ("--config", config, "--redshifts", table, "--twins", 7, "--peaks", 0)
    assert run(lenses, *options, "--profiles", "point", "nfw_30") == 0
    found = dict(given)
    assert all((s.twins, s.peaks, s.spacing) == (7, 0, 0.2) for s in found.values())
    assert found["J0002-0002"].profiles == ("point", "nfw_30")
    assert found["J0002-0002"].detect == "point"  # the first, for the usual one is not among them
    redshifts = {name: (s.z_lens, s.z_source) for name, s in found.items()}
    assert redshifts["J0002-0002"] == (0.3, 0.7) and redshifts["J0001+0001"] == (0.1, 0.5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{place}/gone", "gone: does not exist; expected a folder that vitdm lens has written"),
        ("{place}/lenses.csv", "lenses.csv: is a file; expected a folder"),
        ("{place}/notes", "notes: found no lens.json in it or in its folders"),
        ("{place} --z-source 0.4", "options: z_source: .*|options: z_lens: expected both"),
        ("{place} --z-lens 0.2", "options: z_lens: expected both redshifts"),
        ("{place} --z-lens 0.7 --z-source 0.6", "options: z_source: expected more than z_lens"),
        ("{place} --profiles poimt", "options: profiles.*found 'poimt'"),
        ("{place} --redshifts {place}/lenses.csv", "lenses.csv: found no column 'name'"),
        ("{place} --redshifts {place}/none.csv", "none.csv: does not exist"),
    ],
)
def test_wrong_input_gets_one_message(lenses, given, capsys, words, message):
    assert run(*words.format(place=lenses).split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("vitdm search: error: ") and re.search(message, said), said
    assert not given and not list(lenses.glob("*/search.*"))


def test_a_folder_without_its_archive(lenses, monkeypatch, capsys):
    """As of a lens that an earlier version has fitted."""
    monkeypatch.undo()
    assert run(lenses / "J0001+0001") == 2
    said = capsys.readouterr().err
    assert re.search(r"problem\.npz: does not exist", said) and said.count("\n") <= 2


def test_a_lens_on_disk_is_searched_as_it_was_in_memory(tmp_path, monkeypatch):
    """The whole way, nothing replaced: every map and twin is the same to the last bit."""
    monkeypatch.undo()
    observation = observed(10, NO_SUB, 2026, load_population("hubble"))
    model = lens.fit(observation, FreeForm(splines=10, supersampling=2, theta_E=(1.0, 1.4)))
    lens_files.write(model, tmp_path / "lens")
    settings = Perturbers(profiles=("isothermal", "string"), twins=20, peaks=0, refitted_twins=1)
    options = ("--profiles", "isothermal", "string", "--twins", 20, "--peaks", 0)
    assert run(tmp_path / "lens", *options, "--refitted-twins", 1) == 0
    ours, found = lens.search(model, settings), files.read(tmp_path / "lens")
    for profile in settings.profiles:
        for kind in ("snr", "amplitude", "error"):
            image = ours.image(getattr(ours.maps[profile], kind)).astype(np.float32)
            np.testing.assert_array_equal(found[kind][profile], image)
    for name in ("score", "misfit", "p_value"):
        assert found["numbers"][name] == getattr(ours, name), name
    for name in ("twin_scores", "refitted_scores"):
        assert found["numbers"][name] == getattr(ours, name).tolist(), name


def test_progress_on_a_terminal_is_one_line(lenses, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run(lenses / "J0001+0001") == 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.count("\r\x1b[K") == 5  # four stages, and the end


def test_a_new_fit_takes_the_old_search_with_it(lenses):
    """Its files are known to ``vitdm lens``, which replaces the folder."""
    from vitdm.commands import lens as command
    from vitdm.commands import search
    from vitdm.provenance import check_replaceable

    folder = lenses / "J0001+0001"
    assert run(folder) == 0
    assert set(search.WRITTEN) == WRITTEN
    check_replaceable(folder, (*command.WRITTEN, *search.WRITTEN))
    assert np.isfinite(files.read(folder)["numbers"]["score"])


# ------------------------------------------------------------------------------ docs/search.md


def test_the_page_runs(lenses, tmp_path, monkeypatch, capsys):
    """Its commands but that of ``vitdm lens``, then its Python, as they stand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(HEIGHTS, "J0946+1006", 9.0)
    (tmp_path / "data").mkdir()
    (lenses / "J0001+0001").rename(lenses / "J0946+1006")
    lenses.rename(tmp_path / "data/fitted")
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S):
        program, command, *words = shlex.split(block)
        assert program == "vitdm" and command in ("lens", "search")
        options = parser().parse_args([command, *words])  # they are those that there are
        if options.command == "search":
            assert main([command, *words]) == 0, capsys.readouterr().err
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    exec(compile(code, "docs/search.md", "exec"), {})
    assert "Something stands out" in capsys.readouterr().out
    assert {path.name for path in Path("data/one").iterdir()} == WRITTEN


def test_the_page_names_what_there_is():
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.S)
    named = set(re.findall(r"`([^`]+)`", prose))
    assert named >= WRITTEN | set(files.EXTENSIONS) | {"ANGLE_STRING", "search.csv"}
    options = {f"--{name.replace('_', '-')}" for name in ("z_lens", "redshifts", "twins", "peaks")}
    assert named >= options | {"--refitted-twins", "--profiles", "--config"}
    settings = set(Perturbers.model_fields) - {"z_lens", "z_source", "profiles", "peaks", "twins"}
    assert named >= settings - {"refitted_twins"}
    assert named >= set(WARNINGS) - {"unstable", "redshifts"}
    columns = {name for name in searched().peaks if not name.startswith("fit")}
    assert named >= columns | {"fit_x", "fit_y", "fit_mass"}
