"""``vitdm survey``: cutouts in files, folders, archives and tables; one table out."""

import shutil
import tarfile

import numpy as np
import pandas as pd
import pytest
from free_form import made
from perturbers import searched

from vitdm import lens
from vitdm.__main__ import main
from vitdm.config import LensFit
from vitdm.data import Dataset

N, SCALE = 5, 0.1


def run(*arguments):
    return main(["survey", *map(str, arguments)])


@pytest.fixture
def images(lenses):
    return Dataset.open(lenses).images[:N]


@pytest.fixture
def cutouts(images, tmp_path):
    """A folder of files, and of one folder of an image with its noise."""
    place = tmp_path / "cutouts"
    (place / "e").mkdir(parents=True)
    for name, image in zip(("a", "b", "c", "d", "e/image"), images, strict=True):
        np.save(place / f"{name}.npy", image)
    np.save(place / "e" / "noise.npy", np.ones_like(images[0]))
    return place


def numbers(out):
    table = pd.read_csv(out / "answers.csv", keep_default_na=False)
    assert list(table.columns[[0, -1]]) == ["file", "error"]
    return table.drop(columns="file")


def test_folder_archive_and_table_have_the_same_answers(cutouts, images, tmp_path):
    archive = tmp_path / "cutouts.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(cutouts, "survey")
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", cutouts)
    rows = [{"file": cutouts / name, "noise": ""} for name in ("a.npy", "b.npy", "c.npy", "d.npy")]
    rows.append({"file": cutouts / "e" / "image.npy", "noise": cutouts / "e" / "noise.npy"})
    table = tmp_path / "list.csv"
    pd.DataFrame(rows).assign(pixel_scale=SCALE).to_csv(table, index=False)
    out = [tmp_path / f"out{k}" for k in range(4)]
    assert run(cutouts, "--pixel-scale", SCALE, "--out", out[0]) == 0
    assert run(archive, "--pixel-scale", SCALE, "--out", out[1]) == 0
    assert run(packed, "--pixel-scale", SCALE, "--out", out[2]) == 0
    assert run(table, "--out", out[3]) == 0
    found = [numbers(place) for place in out]
    assert len(found[0]) == N and not found[0]["error"].any()
    assert found[0]["unknown"].str.contains("noise").tolist() == [True] * 4 + [False]
    for other in found[1:]:
        pd.testing.assert_frame_equal(found[0], other)
    files = pd.read_csv(out[1] / "answers.csv")["file"]
    assert files.tolist()[0] == f"{archive}/survey/a.npy"
    fits = lens.fit(images[:4], LensFit(), pixel_scale=SCALE)
    alone = tmp_path / "alone"
    assert run(*sorted(cutouts.glob("*.npy")), "--pixel-scale", SCALE, "--out", alone) == 0
    np.testing.assert_allclose(numbers(alone)["fit_theta_E"], fits.column("theta_E"), rtol=1e-12)


def test_what_is_there_is_not_done_again(cutouts, tmp_path, capsys):
    out, options = tmp_path / "out", [cutouts, "--pixel-scale", SCALE, "--shard-size", 2]
    assert run(*options, "--out", out) == 0
    shards, whole = sorted((out / "shards").iterdir()), (out / "answers.csv").read_bytes()
    times = [shard.stat().st_mtime_ns for shard in shards]
    shards[1].unlink()
    (out / "answers.csv").unlink()
    assert run(*options, "--out", out) == 0
    again = [shard.stat().st_mtime_ns for shard in shards]
    assert len(shards) == 3 and [a == b for a, b in zip(times, again, strict=True)] == [1, 0, 1]
    assert (out / "answers.csv").read_bytes() == whole
    assert run(*options, "--parallel", 2, "--out", tmp_path / "two") == 0
    assert (tmp_path / "two" / "answers.csv").read_bytes() == whole
    capsys.readouterr()
    assert run(*options, "--gain", 1, "--out", out) == 2
    said = capsys.readouterr().err
    assert "plan.json: sha256_of_settings: found" in said and "give another --out" in said


def test_one_cutout_does_not_end_the_others(cutouts, tmp_path, monkeypatch):
    (cutouts / "b.npy").write_bytes(b"no array")
    fit = lens.fit

    def strange(images, *arguments, **options):
        if any(image.name.endswith("c.npy") for image in images):
            raise ValueError("a fault of our own")
        return fit(images, *arguments, **options)

    monkeypatch.setattr(lens, "fit", strange)
    assert run(cutouts, "--pixel-scale", SCALE, "--out", tmp_path / "out") == 2
    errors = numbers(tmp_path / "out")["error"]
    assert errors[1].startswith(f"{cutouts / 'b.npy'}: ")
    assert errors[2] == "ValueError: a fault of our own" and (errors[[0, 3, 4]] == "").all()


def test_the_free_form_stages(cutouts, tmp_path, monkeypatch):
    seen = []

    def search(model, settings):
        seen.append(settings.z_lens)
        return searched(model)

    monkeypatch.setattr(lens, "fit", lambda image, settings: made(image.name))
    monkeypatch.setattr(lens, "search", search)
    table = tmp_path / "list.tsv"
    table.write_text("file\tz_lens\tz_source\ncutouts/a.npy\t0.2\t0.6\ncutouts/b.npy\t\t\n")
    assert run(table, "--stage", "search", "--out", tmp_path / "out") == 0
    answers = numbers(tmp_path / "out")
    assert seen == [0.2, None] and not answers["error"].any()
    np.testing.assert_allclose(answers["chi2"], made().chi2)
    np.testing.assert_allclose(answers["search_chi2"], 0.98)
