"""The pages in docs/: their tables are those of the code, their commands and their code run."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import own_images
import pytest
import yaml
from files import class_folders, fits_bytes, folder, npz, pair, picture, tar
from snakemake.utils import update_config

from studies import config as workflow
from studies.__main__ import COMMANDS as STUDIES
from studies.__main__ import main as studies_main
from vitdm import benchmark
from vitdm.__main__ import COMMANDS, main, parser
from vitdm.config.reading import read_yaml
from vitdm.data import layouts, readers
from vitdm.data.simulated import simulate_dataset
from vitdm.plots import MOST
from vitdm.predict import COLUMNS
from vitdm.simulation import load_population, population_file, population_of, priors
from vitdm.simulation.drawing import LIGHT, TRUTH
from vitdm.simulation.population import shipped

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/data.md").read_text()
DOCS = ("data", "design", "lens", "predict", "search", "tuning", "cluster", "benchmarks")
DOCS += ("benchmark",)
TUNING = (ROOT / "docs/tuning.md").read_text()
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", *(f"docs/{name}.md" for name in DOCS))
#: folders of the repository that hold code and documents
FOLDERS = ("vitdm", "studies", "rules", "config", "notebooks", "tests", "benchmarks", "docs")
POPULATIONS = {name: load_population(name) for name in shipped()}


def rows(header):
    """Return the cells of the table of the page whose header begins so, its header among them."""
    lines = PAGE[PAGE.index(f"\n{header}") :].strip().split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [cells[0], *cells[2:]]


# ------------------------------------------------------------------------------------ the tables


def text_of(value):
    """Return a setting as the page writes it."""
    match value:
        case priors.Prior(form="fixed"):
            return number(value.values[0])
        case priors.Prior(form="normal"):
            return " ± ".join(map(number, value.values))
        case priors.Prior(form="truncated_normal"):
            mean, sd, low, high = map(number, value.values)
            return f"{mean} ± {sd}, {low} to {high}"
        case priors.Prior(form="choice"):
            return " or ".join(dict.fromkeys(map(number, value.values)))
        case priors.Prior():
            return " to ".join(map(number, value.values)) + ", log" * (value.form == "log_uniform")
        case priors.Position():
            ((name, place),) = value.model_dump(exclude_none=True).items()
            return f"{name} {text_of(getattr(value, name)) if name == 'radius' else number(place)}"
        case dict():
            return " / ".join(number(value.get(name, 0)) for name in ("no_sub", "cdm", "axion"))
        case tuple():
            return " to ".join(map(number, value))
        case bool():
            return "yes" if value else "no"
        case str():
            return value
    return number(value)


def number(value):
    return re.sub(r"e([+-])0?(\d)", lambda m: "e" + m[1].strip("+") + m[2], f"{value:.4g}")


def setting(population, keys):
    """Return the first of several settings that a population has, in words, or a dash."""
    for key in keys:
        value = population
        for name in key.split("."):
            value = getattr(value, name, None)
        if value is not None:
            return text_of(value) if key == keys[0] else f"{name} {text_of(value)}"
    return "–"


def test_side_by_side():
    header, *table = rows("| setting | `marginal`")
    names = [name.strip("`") for name in header[1:]]
    assert names == described()
    for first, *cells in table:
        keys = re.findall(r"`(.*?)`", first)
        expected = [setting(POPULATIONS[name], keys) for name in names]
        assert cells == expected, f"expected | {first} | {' | '.join(expected)} |"


def described():
    """Return the populations that have a paragraph; one that is new may be without."""
    names = re.findall(r"^\*\*`(\w+)`\*\*", PAGE, re.M)
    return [name for name in names if name in POPULATIONS]


def test_each_population_of_the_article_has_a_paragraph():
    chosen = workflow.load(ROOT / "config/paper.yaml")
    used = {Path(chosen.population).stem, *(Path(file).stem for file in chosen.populations.files)}
    assert used <= set(described())


def test_default_population():
    default = Path(workflow.load(ROOT / "config/paper.yaml").population).stem
    assert f"**`{default}`**, the default" in PAGE


def test_quirks():
    command = [sys.executable, "-m", "vitdm.simulation.quirks", *sorted(described())]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed in PAGE, f"expected in docs/data.md:\n{printed}"


def test_columns_of_the_truth():
    columns = [name for row in rows("| column |")[1:] for name in re.findall(r"`(.*?)`", row[0])]
    names = [f"{light}_{name}" for light in ("source", "lens_light") for name in LIGHT]
    assert sorted(columns) == sorted(TRUTH)
    assert set(names) <= set(columns)


def test_names_of_classes_and_files():
    aliases = {alias: row[0] for row in rows("| class |")[1:] for alias in row[1].split(", ")}
    assert {k.strip("`"): v.strip("`") for k, v in aliases.items()} == layouts.aliases()
    suffixes = {s for row in rows("| suffix |")[1:] for s in re.findall(r"`(.*?)`", row[0])}
    assert suffixes == set(readers.SUFFIXES)
    assert all(f"`{suffix}`" in PAGE for suffix in readers.ARCHIVES)


def anchors(page):
    """Return the anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    """To files that exist, and headings that are in them."""
    for target in re.findall(r"\]\((.*?)\)", (ROOT / page).read_text()):
        if not target.startswith("http"):
            file, _, anchor = target.partition("#")
            file = (ROOT / page).parent / file if file else ROOT / page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


# ---------------------------------------------------------------------------------- the commands


def png(names, n, first=0):
    """Return class folders of n images of 16 pixels a side, no two alike."""
    return class_folders(names, n, ".png", (16, 16), first)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A clone with the data of the users of the page, small, in its folder ``data``."""
    clone = tmp_path_factory.mktemp("docs")
    (clone / "config").symlink_to(ROOT / "config")
    shutil.copy(ROOT / ".gitignore", clone)
    root = clone / "data"
    root.mkdir()
    own_images.write(root)
    images = png(("no_sub", "sub"), 12)
    tar(root / "lenses.tgz", {f"lenses/{name}": content for name, content in images.items()})
    models = png(("Model_I/cdm", "Model_I/no_sub"), 12)
    models |= png(("Model_I_test/cdm", "Model_I_test/no_sub"), 4, first=12)
    for k in range(16):
        name = f"Model_I{'_test' * (k >= 12)}/axion/axion_sim_{k}.npy"
        models[name] = pair(picture(100 + k, (16, 16)), 1e-23)
    folder(root / "model_i", models)
    for k, split in enumerate(("train", "valid", "opt", "test")):
        stack = np.stack([picture(8 * k + i, (16, 16)) for i in range(8)])
        content = {f"images/X_{split}.npy": npz(data=stack)}
        content[f"labels/y_{split}.npy"] = npz(label=np.eye(2)[np.arange(8) % 2])
        folder(root / "splits", content)
    cutouts = {
        f"{kind}/{i}.fits": fits_bytes(picture(40 * k + i, (16, 16)).astype(">f4"))
        for k, kind in enumerate(("no_sub", "sub"))
        for i in range(12)
    }
    folder(root / "cutouts", cutouts | {"no_sub/broken.fits": b""})
    return clone


def blocks(language, page=PAGE):
    return re.findall(rf"```{language}\n(.*?)```", page, re.S)


def commands(page=PAGE):
    """Return the words of all shell commands of a page, in their order."""
    lines = "".join(blocks("sh", page)).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines]


def test_commands(place, monkeypatch, capsys):
    """Each runs as it stands, with fewer images; of those that train, the arguments are looked at.

    What one writes the next may need, so they run in the order of the page. They leave nothing
    that git would add.
    """
    monkeypatch.chdir(place)
    for program, *words in commands():
        if program == "snakemake":
            given = [word for word in words if word.endswith(".yaml") or word.startswith("data=")]
            for path in (word.partition("=")[2] or word for word in given):
                assert Path(path).exists(), path
        elif program == "python" and words[:2] == ["-m", "studies"]:
            few = re.sub(r"--n \d+", "--n 12", shlex.join(words[2:]))
            assert studies_main(shlex.split(few)) == 0, capsys.readouterr().err
        elif program == "vitdm" and words[0] == "predict":
            parser().parse_args(words)  # needs a trained model
        elif program == "vitdm":
            few = re.sub(r"--n \d+", "--n 12", shlex.join(words))
            assert main(shlex.split(few)) == 0, capsys.readouterr().err
        else:
            subprocess.run([program, *words], check=True)
    assert untracked(place) == [".gitignore", "config"]


def untracked(place):
    """Return the files and folders that git would add in a folder."""
    git = ["git", "-c", "safe.directory=*"]
    subprocess.run([*git, "init", "--quiet", place], check=True)
    status = [*git, "-C", place, "status", "--porcelain", "--untracked-files=all"]
    listed = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    return sorted(line.split(" ", 1)[1] for line in listed.splitlines())


@pytest.mark.parametrize("page", ["README.md", "docs/data.md", "docs/lens.md", "docs/tuning.md"])
def test_what_the_pages_write_is_ignored_by_git(page):
    """Whatever stands behind ``--out``, and the settings that the reader writes."""
    lines = [words for words in commands((ROOT / page).read_text()) if words]
    paths = [value for words in lines for value in values(words, "--out")]
    paths += [value for words in lines for value in values(words, "--config") if "=" not in value]
    paths = [path for path in paths if not (ROOT / path).exists()]
    assert paths and not [path for path in paths if not path.startswith(("data/", "results/"))]


@pytest.mark.parametrize("name", ["lenses.tgz", "model_i", "splits"])
def test_data_given_to_the_workflow(name, place, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["ingest", str(place / "data" / name)]
    assert main([*command, "--out", str(out)]) == 0
    said = capsys.readouterr().err
    expected = {
        "lenses.tgz": "(drawn)",
        "model_i": "(published: train, test; valid, opt drawn from train)",
        "splits": "(published: train, valid, opt, test)",
    }
    assert expected[name] in said and "WARNING" not in said
    assert ("axion_mass" in (out / "catalog.csv").read_text()) == (name == "model_i")


def test_python(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    answers = "file,p_no_sub\nlenses/no_sub/1.jpg,0.8\nlenses/sub/1.jpg,0.3\n"
    (place / "data/answers.csv").write_text(answers)
    for block in blocks("python"):
        exec(block, {})
    assert "\n1.0\n" in capsys.readouterr().out


def test_settings_of_a_population():
    content = read_yaml(population_file("marginal"))
    (block,) = blocks("yaml")
    population_of(content | yaml.safe_load(block), "docs/data.md")


def test_settings_for_small_images():
    content = yaml.safe_load((ROOT / "config/paper.yaml").read_text())
    for keys, value in {
        ("preprocess", "size"): "`preprocess.size: 64`",
        ("model", "patch_size"): "`model.patch_size: 16`",
        ("tune", "space", "patch_size", "choices"): "`choices: [8, 16, 32]`",
    }.items():
        assert value in PAGE
        section = content
        for key in keys[:-1]:
            section = section[key]
        section[keys[-1]] = yaml.safe_load(value.strip("`").partition(": ")[2])
    workflow.build(content)


def test_the_code_of_the_page_on_tuning_runs():
    (block,) = blocks("python", TUNING)
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96] - 47.5
    labels = np.repeat(["no_sub", "cdm"], 24)
    width = np.where(labels == "cdm", 8.0, 3.0)[:, None, None]
    images = np.exp(-(((np.hypot(x, y) - 25) / width) ** 2) / 2)
    images = images + generator.normal(0, 0.05, images.shape)
    few = "n_calls=5, start_seeds=2, n_initial_points=2, epochs=1, candidates=1, candidate_seeds=2"
    assert "n_calls=30" in block
    found = {"images": images, "labels": labels}
    exec(block.replace("n_calls=30", few + ", progress=False"), found)
    assert len(found["result"].x_iters) == 5 and found["model"].predict(images).shape == (48,)


def test_the_space_of_the_page_on_tuning_is_one():
    (block,) = blocks("yaml", TUNING)
    content = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    settings = workflow.build(content | yaml.safe_load(block) | {"study": {}})
    assert settings.tune.n_calls == 24 and set(settings.tune.space) >= {"depth", "stretch"}


def test_the_commands_of_the_page_on_tuning(tmp_path, capsys, monkeypatch):
    """They are read as they stand; of a wrong space they say what the page says."""
    program, *words = commands(TUNING)[0]
    assert program == "vitdm" and [words[0], commands(TUNING)[1][1]] == ["tune", "train"]
    options = [parser().parse_args(command[1:]) for command in commands(TUNING)]
    assert options[1].final and options[1].tuned == options[0].out
    monkeypatch.chdir(tmp_path)
    (space,) = blocks("yaml", TUNING)
    Path("data").mkdir()
    Path("data/mine.yaml").write_text(space.replace("depth: {", "depht: {"))
    assert main(words) == 2
    shown = re.search(r"^vitdm tune: error: .*$", TUNING, re.M)[0]
    assert capsys.readouterr().err.startswith(shown.removesuffix("…"))


BENCHMARK = (ROOT / "docs/benchmark.md").read_text()


def test_the_page_on_the_benchmark(tmp_path, monkeypatch, capsys):
    """Its code and commands run, on few images; its sizes and repairs are those there are."""
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("python", BENCHMARK)
    exec(block.replace('size="small"', 'size="tiny"').replace("PCA(20)", "PCA(5)"), found := {})
    assert "'model': 'my_model'" in capsys.readouterr().out
    answers = benchmark.answers(found["my_model"], "data/mine")
    answers.to_csv("data/my_model.csv", index=False)
    for program, *words in commands(BENCHMARK):
        if program == "vitdm":
            few = [] if words[1] == "list" else ["--size", "tiny"]
            assert main([*words, *few]) == 0, capsys.readouterr().err
    known = benchmark.definition()
    assert set(re.findall(r"^\| `(\w+)` \| [a-z]", BENCHMARK, re.M)) >= set(known.repairs)
    for size, n in known.sizes.items():
        assert re.search(rf"`{size}`.* \| {' [|] '.join(map(str, n.values()))} \|", BENCHMARK)
    assert f"is version {known.version} of" in BENCHMARK


def test_what_the_page_on_predictions_says(tmp_path, monkeypatch, capsys):
    """Its commands are read as they stand, its code runs, its columns are those of the answer."""
    page = (ROOT / "docs/predict.md").read_text()
    options = [parser().parse_args(words[1:]) for words in commands(page)]
    assert [option.command for option in options] == ["predict", "look"]
    named = re.search(r"`p_<class>` for each class, then (.*?) \(\[", page)[1]
    assert tuple(re.findall(r"`(\w+)`", named)) == COLUMNS
    assert f"{MOST['.png']} at most" in page
    monkeypatch.chdir(tmp_path)
    simulate_dataset(POPULATIONS["marginal"], {"train": 4}, 0, "data/marginal", progress=False)
    (block,) = blocks("python", page)
    exec(block, {})
    assert {"four.pdf", "last.png"} <= {path.name for path in Path("data").iterdir()}
    assert "p_no_sub" in capsys.readouterr().out


# ------------------------------------------------------------------------------------- all pages


def snakemake_commands(page):
    """Return the words of the calls of snakemake on a page, those set within a line among them."""
    text = (ROOT / page).read_text()
    inline = re.findall(r"(?<!`)`((?:snakemake |--config \w+=)[^`\n]+)`(?!`)", text)
    found = [words for words in commands(text) if words[:1] == ["snakemake"]]
    return found + [shlex.split(line.replace("…", "")) for line in inline]


def values(words, option):
    """Return the words that follow an option, up to the next."""
    if option not in words:
        return []
    after = words[words.index(option) + 1 :]
    end = next((k for k, word in enumerate(after) if word.startswith("--")), len(after))
    return after[:end]


@pytest.mark.parametrize("page", ["README.md", "docs/data.md", "docs/tuning.md"])
def test_settings_given_to_snakemake_are_settings(page):
    calls = snakemake_commands(page)
    assert calls
    for words in calls:
        content = {}
        files = values(words, "--configfile") or ["config/paper.yaml"]
        for name in files:
            update_config(content, yaml.safe_load((ROOT / name).read_text()))
        for word in values(words, "--config"):
            key, _, value = word.partition("=")
            update_config(content, {key: yaml.safe_load(value)})
        content.pop("watch_code", None)
        workflow.build(content, " ".join(words))


@pytest.mark.parametrize("page", PAGES)
def test_names_in_code_are_those_of_the_repository(page):
    """Files that a page names exist, and so do commands."""
    text = (ROOT / page).read_text()
    paths = re.findall(rf"(?<![\w/.<>])(?:{'|'.join(FOLDERS)})/[\w./-]*\.\w+", text)
    assert not [path for path in paths if not (ROOT / path).exists()]
    code = " ".join(re.findall(r"```sh\n.*?```|`[^`\n]+`", text, re.S))
    assert set(re.findall(r"(?<!from )(?<![\w/.-])vitdm ([a-z][\w-]*)", code)) <= COMMANDS.keys()
    assert set(re.findall(r"-m studies ([a-z][\w-]*)", code)) <= STUDIES.keys()
