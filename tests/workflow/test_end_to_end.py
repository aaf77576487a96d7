"""The whole workflow, for real, on images in files; and what a second run does."""

import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from files import signed
from project import call, copied


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the project, with 64 small images in class folders of a DeepLense layout."""
    project = copied(tmp_path_factory.mktemp("project"))
    content = yaml.safe_load((project / "config/smoke.yaml").read_text())
    content["n_images"] = {"train": 28, "valid": 12, "opt": 12, "test": 12}
    content["preprocess"]["size"] = 48
    content["runs"] = {name: content["runs"][name] for name in ("plain", "spt_lsa")}
    content["tune"] |= {"n_calls": 6, "n_initial_points": 1, "n_train": None, "candidates": 1}
    content["study"] = content["rates"] = {}
    content["evaluation"] = {"bootstrap": 50}
    (project / "config/few.yaml").write_text(yaml.safe_dump(content))
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:48, :48] - 23.5
    for folder, radius in (("no", 11.0), ("vort", 13.0)):
        (project / "my lenses" / folder).mkdir(parents=True)
        for i in range(32):
            angle = rng.uniform(0, 2 * np.pi)
            ring = np.exp(-(((np.hypot(x, y) - radius) / 2) ** 2))
            ring *= 1.2 + np.cos(np.arctan2(y, x) - angle)
            image = np.clip(40 + 80 * ring + rng.normal(0, 4, ring.shape), 0, 255)
            cv2.imwrite(str(project / "my lenses" / folder / f"{i}.png"), image.astype(np.uint8))
    return project


def snakemake(project, *arguments):
    command = ("-m", "snakemake", "--cores", "2", "--configfile", "config/few.yaml")
    return call(project, *command, "--config", "data=my lenses", *arguments)


def planned(answer):
    """Return the rules of the jobs that a dry run plans."""
    assert answer.returncode == 0, answer.stdout[-3000:]
    lines = (line.strip() for line in answer.stdout.splitlines())
    return {
        line.split()[1].rstrip(":") for line in lines if line.startswith(("rule ", "localrule "))
    }


def test_article_of_images_in_files(copy):
    answer = snakemake(copy)
    assert answer.returncode == 0, answer.stdout[-5000:]
    (out,) = copy.glob("results/smoke_my_lenses_*")
    catalog = pd.read_csv(out / "dataset/catalog.csv")
    assert catalog["class"].value_counts().to_dict() == {"no_sub": 32, "axion": 32}
    assert (out / "paper/report.pdf").read_bytes().startswith(b"%PDF")
    assert "axion" in (out / "paper/report.html").read_text()
    assert (out / "paper/report.tex").is_file()
    assert not (copy / "paper/paper.html").exists()  # published is the reference run alone

    assert "Nothing to be done" in snakemake(copy, "-n").stdout

    notebook = copy / "notebooks/04_optimisation.py"
    notebook.write_text(notebook.read_text().replace("# # 4.", "# # Four.", 1))
    assert planned(snakemake(copy, "-n")) == {"notebook_04", "paper", "all"}


def test_notebooks_before_the_final_test_see_no_test_image(copy):
    """With test images, features and classes destroyed, notebooks 1 to 4 show the same."""
    (out,), blind = copy.glob("results/smoke_my_lenses_*"), copy / "results/blind"
    shutil.copytree(out, blind, ignore=shutil.ignore_patterns("figures", "tables", "numbers"))
    test = (pd.read_csv(out / "dataset/catalog.csv")["split"] == "test").to_numpy()
    for folder in (blind / "dataset", blind / "processed"):
        images = np.load(folder / "images.npy")
        images[test] = np.nan
        np.save(folder / "images.npy", images)
        catalog = pd.read_csv(folder / "catalog.csv", dtype=str, keep_default_na=False)
        catalog.loc[test, "class"] = catalog.loc[test, "class"].to_numpy()[::-1]
        catalog.to_csv(folder / "catalog.csv", index=False)
        signed(folder)
    features = pd.read_csv(blind / "features.csv", dtype={"id": str}).set_index("id").astype(float)
    features[test] = np.inf
    features.reset_index().to_csv(blind / "features.csv", index=False)
    shutil.rmtree(blind / "evaluation")
    for source in sorted((out / "notebooks").glob("0[1-4]*.ipynb")):
        command = ["-m", "papermill", source, blind / source.name]
        command += ["--kernel", "python3", "--cwd", copy, "--no-progress-bar"]
        for name in ("results", "figures", "tables"):
            place = "results/blind" + ("" if name == "results" else f"/{name}")
            command += ["-p", name, place]
        answer = call(copy, *command)
        assert answer.returncode == 0, answer.stdout[-3000:]
    shown = [*blind.glob("figures/*.png"), *blind.glob("tables/*.csv"), *blind.glob("numbers/*")]
    assert len(list(blind.glob("numbers/*"))) == 4 and len(shown) > 20
    for file in shown:
        assert file.read_bytes() == (out / file.relative_to(blind)).read_bytes(), file.name
