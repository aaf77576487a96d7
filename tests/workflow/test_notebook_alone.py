"""A notebook opened by itself in a fresh clone: it makes the results that it shows."""

import json
import re

import nbformat
import pytest
import yaml
from project import ROOT, call, copied, parsed

from studies.config import load

QUICKSTART, *NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.py"))
#: plans what each notebook would make in a clone without results, by its own way to Snakemake
PLAN = """
from studies import contents, notebook
from studies.config import load
from studies.targets import Targets

targets = Targets(load(notebook.SMOKE))
for known in contents.NOTEBOOKS:
    print(known.name)
    notebook.build(notebook.missing(known.name, targets), "--dry-run")
    print((notebook.ROOT / targets.out / "logs/notebook.log").read_text())
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A fresh clone, with fewer lenses and none of the studies in its tiny configuration."""
    project = parsed(copied(tmp_path_factory.mktemp("clone")))
    file = project / "config/smoke.yaml"
    content = yaml.safe_load(file.read_text())
    content |= {"n_images": {"train": 12, "valid": 6, "opt": 6, "test": 6}, "shards": 1}
    content["features"]["groups"] = ["proposal", "morphology"]
    content["runs"] = {"spt_lsa": content["runs"]["spt_lsa"]}
    content["populations"] = {"files": [], "n_invariance": 2}
    for study in (
        "efficiency",
        "compare",
        "maps",
        "posterior",
        "where",
        "audit",
        "real_sky",
        "rates",
        "benchmark",
    ):
        del content[study]
    file.write_text(yaml.safe_dump(content))
    return project


def test_what_each_notebook_needs_is_planned(clone):
    """All its inputs, and jobs for no other notebook, are what Snakemake understands to make."""
    answer = call(clone, "-c", PLAN)
    assert answer.returncode == 0, answer.stdout[-3000:]
    plans = dict(zip(NAMES, re.split("|".join(NAMES), answer.stdout)[1:], strict=True))
    for name, plan in plans.items():
        jobs = dict(re.findall(r"^(\w+) +(\d+)$", plan, re.M))
        assert f"{jobs['total']} jobs, some" in plan
        if name == "06_real_lenses":  # beside real images, if they are there
            searched = {"misspecification", "merge_misspecification"}
            assert set(jobs) == {"settings", "total"} | searched
            continue
        assert {"simulate", "preprocess", "settings"} <= jobs.keys(), name
        assert not [rule for rule in jobs if rule.startswith(("notebook", "paper"))]
        needs = {"03_model": "train", "04_optimisation": "search", "05_final_test": "evaluate"}
        for other, rule in needs.items():
            assert (rule in jobs) == (name == other) or rule == "train", (name, rule)


def test_a_notebook_opened_alone_makes_its_results(clone):
    """Notebook 01 from its text, in its folder, as JupyterLab runs it."""
    source, executed = clone / f"notebooks/{NAMES[0]}.py", clone / "alone.ipynb"
    answer = call(clone, *("-m", "jupytext", "--to", "ipynb", "--execute"), "-o", executed, source)
    assert answer.returncode == 0, answer.stdout[-5000:]
    cells = nbformat.read(executed, as_version=4).cells
    (start,) = [cell for cell in cells if "notebook.start(" in cell.source]
    said = "".join(output.get("text", "") for output in start.outputs)
    n = int(re.search(r"^(\d+) jobs, some \d+ minutes of processor time", said, re.M)[1])
    assert f"{n} of {n} done" in said
    assert said.count("\n") < 5 and "rule" not in said  # Snakemake's words are in a file
    assert "localrule settings" in (clone / "results/smoke/logs/notebook.log").read_text()
    drawn = {path.stem for path in (clone / "results/smoke/figures").glob("*.png")}
    assert {"lens_gallery", "noise", "unrolled_rings"} <= drawn


def test_the_notebook_of_real_lenses_needs_nothing_else(clone):
    """It fits a simulated lens, and says that the real ones are not there."""
    source, executed = clone / "notebooks/06_real_lenses.py", clone / "lenses.ipynb"
    answer = call(clone, *("-m", "jupytext", "--to", "ipynb", "--execute"), "-o", executed, source)
    assert answer.returncode == 0, answer.stdout[-5000:]
    outputs = [o for c in nbformat.read(executed, as_version=4).cells for o in c.get("outputs", [])]
    said = "".join(output.get("text", "") for output in outputs)
    assert "chi2 per pixel" in said and "No fits of real lenses" in said
    assert (clone / "results/smoke/figures/one_lens.png").exists()
    numbers = json.loads((clone / "results/smoke/numbers/06.json").read_text())
    assert numbers and all(name.startswith("misspecification_") for name in numbers)


def test_the_quickstart_makes_nothing_and_needs_nothing(clone):
    """It is run as the workflow runs it, with small parameters, and finds the clump."""
    source, executed = clone / f"notebooks/{QUICKSTART}.py", clone / "quick.ipynb"
    written = {path for path in clone.rglob("*") if "__pycache__" not in path.parts}
    small = [f"-p {name} {value}" for name, value in load(ROOT / "config/smoke.yaml").quickstart]
    converted = clone / "quick_source.ipynb"
    call(clone, *("-m", "jupytext", "--to", "ipynb"), "-o", converted, source)
    options = " ".join(small).split() + ["--kernel", "python3", "--cwd", ".", "--no-progress-bar"]
    answer = call(clone, "-m", "papermill", converted, executed, *options)
    assert answer.returncode == 0, answer.stdout[-5000:]
    outputs = [o for c in nbformat.read(executed, as_version=4).cells for o in c.get("outputs", [])]
    said = "".join(output.get("text", "") for output in outputs)
    peak = re.search(r"highest peak \((.*), (.*)\), the clump \((.*), (.*)\) arcsec", said)
    x, y, true_x, true_y = map(float, peak.groups())
    assert abs(x - true_x) < 0.15 and abs(y - true_y) < 0.15
    assert re.search(r"ROC-AUC on 12 test images: [01]\.\d+", said)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
    now = {path for path in clone.rglob("*") if "__pycache__" not in path.parts}
    assert now - written <= {converted, executed}


def test_what_fails_is_told_in_a_few_lines(clone):
    code = "from studies import notebook; notebook.build(['results/smoke/nothing.csv'])"
    answer = call(clone, "-c", code)
    assert answer.returncode != 0
    assert "results could not be made; the last lines of results/smoke/logs" in answer.stdout
    assert "MissingRuleException" in answer.stdout and len(answer.stdout.splitlines()) < 60
