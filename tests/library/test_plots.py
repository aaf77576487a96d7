"""Pictures of predictions, data sets and simulated lenses, and the files they are written to."""

import base64
import re
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import vitdm
from vitdm import Observation, lens, plots, simulation
from vitdm.__main__ import main
from vitdm.data.dataset import Dataset
from vitdm.data.simulated import class_of_each, planned, simulate_dataset
from vitdm.errors import InputError
from vitdm.lens.matched import NAMES
from vitdm.plots.pages import Page
from vitdm.predict import answer
from vitdm.simulation import load_population

MARGINAL = load_population("marginal")
N, SEED = 8, 5


@pytest.fixture(scope="module")
def images():
    kinds = class_of_each(N, SEED, MARGINAL)
    drawn = [simulation.simulate_one(i, kind, SEED, MARGINAL)[0] for i, kind in enumerate(kinds)]
    return np.array(drawn)


@pytest.fixture(scope="module")
def answers(images):
    named = [Observation(image, name=f"lens {k}") for k, image in enumerate(images[:4])]
    blank = Observation(np.random.default_rng(0).normal(size=(71, 90)), name="no <light>")
    return answer([vitdm.load_pretrained()], [*named, blank])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("look") / "lenses"
    simulate_dataset(MARGINAL, {"train": 20, "test": 10}, 1, out, progress=False)
    return out


def texts(page):
    """Return all that is written on a page."""
    return "\n".join(t.get_text() for t in page.figure.findobj(lambda a: hasattr(a, "get_text")))


# ------------------------------------------------------------------------------------------ maps


def test_the_map_of_a_point_mass_has_the_feature_as_its_maximum(images):
    run = vitdm.load_pretrained()
    seen = answer([run], images).seen
    maps = lens.point_snr(seen.observations, seen.fits, run.settings.lensfit)
    told = seen.fits.perturbers[:, NAMES.index("point_snr")]
    np.testing.assert_allclose([np.nanmax(found) for found in maps], told, rtol=0.05)
    heavy = int(told.argmax())
    assert told[heavy] > 20
    assert np.isnan(maps[heavy][0, 0])  # a corner of the square: too far from the lens


def test_lenses_that_shine_and_images_without_light_have_maps_or_none():
    population = load_population("realistic")
    scale = population.instrument.pixel_scale
    image = simulation.simulate_one(0, "cdm", SEED, population)[0]
    noise = np.random.default_rng(0).normal(size=image.shape)
    known = [Observation(data, pixel_scale=scale) for data in (image, noise)]
    settings = lens.settings_for(population, vitdm.config.LensFit())
    fits = lens.fit(known, settings)
    found, nothing = lens.point_snr(known, fits, settings)
    assert nothing is None
    told = fits.perturbers[0, NAMES.index("point_snr")]
    assert np.nanmax(found) == pytest.approx(told, rel=0.02)


# ----------------------------------------------------------------------------------- predictions


def test_a_page_shows_the_image_what_was_seen_the_fit_and_the_answer(answers):
    pages = list(plots.predictions(answers))
    assert [page.name for page in pages] == [*(f"lens {k}" for k in range(4)), "no <light>"]
    seen = answers.seen
    for k, page in enumerate(pages[:4]):
        shown = [axes.images[0].get_array() for axes in page.figure.axes if axes.images]
        assert len(shown) == 5
        raw = seen.observations[k].data
        np.testing.assert_allclose(shown[0] - shown[0].min(), raw - raw.min(), atol=1e-3)
        np.testing.assert_array_equal(shown[1], seen.crops[k])
        np.testing.assert_array_equal(shown[3], seen.fits.residual[k])
        row = answers.table.iloc[k]
        said = texts(page)
        assert f"p = {row['p_' + row['class']]:.3f}" in said and "No warnings." in said
        assert f"chi2 per degree of freedom {row['fit_chi2']:.3f}" in said
        assert "Estimated or assumed: noise, psf, pixel scale, gain." in said
    said = texts(pages[4])
    assert "! no light was found" in said and "Nothing was fitted." in said
    assert "no light was found" in pages[4].words


def test_the_cut_that_the_network_saw_is_drawn_where_it_is(answers):
    """Half of a square of 96 pixels of 0.05 arcsec about the middle of an image of 150."""
    axes = next(plots.predictions(answers)).figure.axes[0]
    outline = np.array(axes.lines[0].get_data())
    np.testing.assert_allclose(np.abs(outline), 2.4, atol=1e-9)
    np.testing.assert_allclose(axes.images[0].get_extent(), [-3.75, 3.75] * 2)


def test_a_model_without_fit_has_no_maps(images, run_folder):
    from vitdm.model.runs import load_run

    page = next(plots.predictions(answer([load_run(run_folder)], images[:1])))
    assert len([axes for axes in page.figure.axes if axes.images]) == 2
    assert "This model needs no fit." in texts(page)


# ----------------------------------------------------------------------------------------- files


def drawn(n, width=2.0):
    for k in range(n):
        figure = Figure((width, 1.0))
        figure.text(0.1, 0.5, f"page {k}")
        yield Page(figure, f"<{k}>", f'words "{k}"')


@pytest.mark.parametrize("suffix", [".pdf", ".png", ".html", ".PNG"])
def test_the_same_pages_are_the_same_bytes(tmp_path, suffix):
    files = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for file in files:
        plots.save(drawn(3), file, "title")
    assert files[0].read_bytes() == files[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == sorted(files)


def test_a_pdf_has_pages_a_png_rows(tmp_path):
    plots.save(drawn(3), tmp_path / "a.pdf")
    assert len(re.findall(rb"/Type /Page\b", (tmp_path / "a.pdf").read_bytes())) == 3
    plots.save(drawn(3), tmp_path / "a.png")
    assert cv2.imread(str(tmp_path / "a.png")).shape == (450, 300, 3)


def test_html_stands_alone_and_escapes_what_others_wrote(tmp_path):
    """A table, a link to each page that is drawn, no link elsewhere, and words for each picture."""
    table = pd.DataFrame({"file": ["<b>", "bad"], "p": [0.5, np.nan], "warning": ["", "a & b"]})
    plots.save(drawn(1), tmp_path / "a.html", "<title>", table.set_index([[0, -1]]))
    page = (tmp_path / "a.html").read_text()
    (inline,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert cv2.imdecode(np.frombuffer(base64.b64decode(inline), np.uint8), 1).shape == (150, 300, 3)
    assert "http" not in page and "<b>" not in page and "<0>" not in page
    assert '<a href="#page0">&lt;b&gt;</a>' in page and 'id="page0"' in page
    assert "<td>bad</td><td></td>" in page and "a &amp; b" in page
    assert 'alt="&lt;0&gt;: words &quot;0&quot;"' in page


def test_too_many_pages_and_none(tmp_path, monkeypatch):
    monkeypatch.setitem(plots.MOST, ".png", 2)
    plots.save(drawn(5), tmp_path / "a.png")
    assert cv2.imread(str(tmp_path / "a.png")).shape[0] == 300
    for suffix in plots.SUFFIXES:
        with pytest.raises(InputError, match="found none; expected at least one image"):
            plots.save(drawn(0), tmp_path / f"none{suffix}")
    with pytest.raises(InputError, match=r"a\.jpg: expected a name that ends in \.pdf"):
        plots.save(drawn(1), tmp_path / "a.jpg")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


# ---------------------------------------------------------------------------------------- sheets


def test_a_contact_sheet_shows_images_with_class_split_and_truth(folder):
    data = Dataset.open(folder)
    pages = list(plots.contact_sheet(data, np.arange(30)))
    assert len(pages) == 2
    filled = [axes for page in pages for axes in page.figure.axes if axes.images]
    assert len(filled) == 30
    for axes, known in zip(filled, data.catalog.to_dict("records"), strict=True):
        said = "\n".join(text.get_text() for text in axes.texts)
        assert simulation.CLASSES[known["class"]].label in said and known["split"] in said
        assert f'{known["theta_E"]:.2f}"' in said
        marks = [line for line in axes.lines if line.get_color() == "#56B4E9"]
        assert len(marks) == (known["class"] != "no_sub")
        if known["class"] == "cdm":  # the cross is on the heaviest subhalo
            place = known["max_subhalo_x"], known["max_subhalo_y"]
            np.testing.assert_allclose(np.ravel(marks[0].get_data()), place)


def test_simulated_lenses_are_shown_with_their_subhalos():
    kinds = class_of_each(12, SEED, MARGINAL)
    places = plots.first_of_each(kinds, 2)
    assert [kinds[k] for k in places] == ["no_sub"] * 2 + ["cdm"] * 2 + ["axion"] * 2
    (page,) = plots.simulated(MARGINAL, places, [kinds[k] for k in places], SEED)
    shown = [axes for axes in page.figure.axes if axes.images]
    assert len(shown) == 2 + 4 + 4  # smooth lenses have no perturbers
    circles = [axes.collections[0] for axes in shown if axes.collections]
    for marks, k in zip(circles, places[2:4], strict=True):
        system = simulation.draw(k, "cdm", SEED, MARGINAL)
        np.testing.assert_allclose(marks.get_offsets(), np.column_stack([system.x, system.y]))
        sizes = marks.get_sizes()
        np.testing.assert_allclose(sizes / sizes.max(), system.masses / system.masses.max())


# ------------------------------------------------------------------------------------ the commands


def test_commands_write_pictures(folder, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("stack.npy", images[:2])
    assert main(["predict", "stack.npy", "--figure", "new/p.html", "--out", "p.csv"]) == 0
    assert "stack.npy: a stack of 2 images" in capsys.readouterr().err
    page = (tmp_path / "new/p.html").read_text()
    assert page.count("<img") == 2 and "stack.npy[1]" in page
    assert main(["look", str(folder), "--figure", "l.pdf", "--n", "3", "--class", "cdm"]) == 0
    counts = capsys.readouterr().out
    assert re.search(r"no_sub +\d+ +\d+", counts) and "train" in counts
    command = "simulate --population marginal --n 6 --out lenses --figure s.png"
    assert main(command.split()) == 0
    assert cv2.imread("s.png").shape[1] > 1000


def test_lenses_of_a_test_are_shown_with_its_seed(tmp_path, monkeypatch):
    """A shard of the test alone: its lenses have another seed, and its picture was empty once."""
    monkeypatch.chdir(tmp_path)
    settings = "seed: 1\ntest_seed: 5\nn_images: {train: 6, test: 6}\n"
    (tmp_path / "c.yaml").write_text(settings)
    drawn = []
    monkeypatch.setattr(plots, "simulated", lambda *asked: drawn.append(asked) or [])
    monkeypatch.setattr(plots, "save", lambda pages, *_: list(pages))
    plan = planned(MARGINAL, {"train": 6, "test": 6}, 1, 5)
    for k in range(12):
        words = f"simulate --population marginal --config c.yaml --shard {k}/12 --out {k}"
        assert main([*words.split(), "--figure", f"{k}.html"]) == 0
        _, places, kinds, seed = drawn[-1]
        assert (places, kinds) == ([k], [plan["class"][k]])
        assert seed == plan["seed"][k]


@pytest.mark.parametrize(
    "words, message",
    [
        ("predict a.npy --figure a.txt", r"found 'a\.txt'; expected .* \.pdf, \.png, \.html"),
        ("predict a.png --figure a.png", r"a\.png: is read, and would be replaced"),
        ("predict a.npy --figure b --out b", "expected the name of a file that ends in"),
        (
            "predict a.npy --figure p.html --out p.html",
            "p.html: is, or lies inside, what --out names",
        ),
        ("look FOLDER --figure FOLDER/a.png", r"lies inside .*, which is read"),
        ("look FOLDER --figure a.png --class sub", r"class: found no 'sub'; expected axion, cdm"),
        ("look FOLDER --figure a.png --split opt", r"split: found no 'opt'; expected test, train"),
        ("look nowhere --figure a.png", "nowhere: no dataset: images.npy"),
        ("look FOLDER", "the following arguments are required: --figure"),
        (
            "simulate --population marginal --n 3 --out d --figure d/a.png",
            "d/a.png: is, or lies inside, what --out names",
        ),
        (
            "simulate --population marginal --n 3 --shard 3/8 --out d --figure a.pdf",
            r"--figure: found no lens in shard 3/8 of 3",
        ),
    ],
)
def test_wrong_figures_are_refused_before_the_work(
    words, message, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.zeros((20, 20)))
    cv2.imwrite("a.png", np.zeros((20, 20), np.uint8))
    before = {path.name for path in tmp_path.iterdir()}
    try:
        status = main(words.replace("FOLDER", str(folder)).split())
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    assert re.search(message, capsys.readouterr().err)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_predictions_do_not_load_matplotlib():
    script = "import sys, vitdm.predict, vitdm.classifier; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
