"""What the figures of a population say: the truth, the substructure's place and its effect."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from studies import subhalo_distance
from studies.plots import lensfit as lensfit_plots
from studies.plots import populations as populations_plots
from studies.plots.populations import caption
from vitdm import simulation
from vitdm.simulation.population import load_population


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def marginal():
    return load_population("marginal")


def rows(population, kinds, index=3):
    name = f"{population.name}_{index:06d}"
    return pd.DataFrame({"id": name, "class": kinds, "seed": 5})


def panels(figure):
    """Return the axes that show an image."""
    return [axes for axes in figure.axes if axes.get_images() and not axes.get_label()]


def test_the_difference_is_that_of_the_same_lens_with_and_without_substructure(marginal):
    smooth, cdm = populations_plots.simulated(rows(marginal, ["no_sub", "cdm"]), marginal)
    assert smooth.difference is None and len(smooth.masses) == 0
    assert cdm.truth["theta_E"] == smooth.truth["theta_E"]
    # without light there is only the noise of the sky; elsewhere Poisson noise adds to it
    time, sky = cdm.truth["exposure_time"], marginal.instrument.background_rms
    noise = np.sqrt(sky**2 + smooth.image / time)
    np.testing.assert_allclose(cdm.difference, (cdm.image - smooth.image) / noise, atol=1e-9)
    assert cdm.unit == "noise" and np.abs(cdm.difference).max() > 1


def test_substructure_is_marked_where_it_is(marginal):
    (lens,) = populations_plots.simulated(rows(marginal, ["cdm"]), marginal)
    largest = lens.masses.argmax()
    truth, scale = lens.truth, marginal.instrument.pixel_scale
    assert lens.masses[largest] == truth["max_subhalo_mass"]
    middle = (marginal.num_pix - 1) / 2
    assert lens.x[largest] == pytest.approx(middle + truth["max_subhalo_x"] / scale)
    assert lens.y[largest] == pytest.approx(middle + truth["max_subhalo_y"] / scale)

    figure = populations_plots.population_gallery([lens])
    (marks,) = [axes.collections[0] for axes in panels(figure) if axes.collections]
    np.testing.assert_allclose(marks.get_offsets()[largest], (lens.x[largest], lens.y[largest]))
    areas = np.sort(marks.get_sizes())
    np.testing.assert_allclose(areas / areas[-1], np.sort(lens.masses) / lens.masses.max())


def test_a_vortex_is_a_line_of_its_length(marginal):
    (lens,) = populations_plots.simulated(rows(marginal, ["axion"]), marginal)
    figure = populations_plots.population_gallery([lens])
    (line,) = [axes.lines[0] for axes in panels(figure) if axes.lines]
    length = np.hypot(*np.ptp(line.get_xydata(), axis=0)) * marginal.instrument.pixel_scale
    assert length == pytest.approx(lens.truth["vortex_length"])


def test_a_population_without_noise_is_compared_with_the_peak(population):
    instrument = population.instrument.model_copy(update={"noise": "none"})
    silent = population.model_copy(update={"instrument": instrument})
    smooth, axion = populations_plots.simulated(rows(silent, ["no_sub", "axion"]), silent)
    expected = (axion.image - smooth.image) / smooth.image.max()
    np.testing.assert_allclose(axion.difference, expected, atol=1e-12)
    assert axion.unit == "peak"


def test_gallery_has_a_row_a_class_and_one_below_for_what_changed(marginal):
    examples = populations_plots.simulated(rows(marginal, ["cdm", "no_sub", "axion"]), marginal)
    figure = populations_plots.population_gallery([*examples, examples[0]], 0.05, half_width=2.0)
    shown = panels(figure)
    assert len(shown) == 4 + 3  # the images, and three differences
    assert all(np.ptp(axes.get_xlim()) == 80 for axes in shown)
    captions = [axes.get_title() for axes in shown if axes.get_title()]
    assert len(captions) == 4
    assert f"N {examples[0].truth['n_subhalos']}" in captions[1]
    assert "N " not in captions[0] + captions[3] and "L " in captions[3]
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert texts == ['1"']


def test_images_from_files_have_neither_caption_nor_difference():
    images = np.random.default_rng(0).normal(size=(3, 20, 20))
    kinds = ("sub", "sub", "no_sub")
    examples = [
        populations_plots.Example(image, kind) for image, kind in zip(images, kinds, strict=True)
    ]
    figure = populations_plots.population_gallery(examples)
    assert [axes.get_title() for axes in panels(figure)] == ["", "", ""]


@pytest.mark.parametrize(
    ("kind", "truth", "expected"),
    [
        ("no_sub", {"theta_E": 1.234, "n_subhalos": 0, "substructure_mass": 0.0}, ["1.23″"]),
        ("cdm", {"n_subhalos": 12, "substructure_mass": 3.14e9}, ["N 12", r"$3.1\cdot10^{9}$"]),
        ("cdm", {"f_sub": 0.0123, "axion_mass": np.nan}, ["1.2 %"]),
        ("axion", {"vortex_length": 1.5, "axion_mass": 2e-23}, ["L 1.5″", r"$2.0\cdot10^{-23}$"]),
        ("cdm", {"substructure_mass": 0.0}, ["M 0 "]),
        ("cdm", {"substructure_mass": 9.99e9}, [r"$1.0\cdot10^{10}$"]),
    ],
)
def test_captions(kind, truth, expected):
    text = caption(populations_plots.Example(np.zeros((2, 2)), kind, truth))
    assert all(part in text for part in expected)
    assert "nan" not in text


def test_without_truth_there_is_no_caption():
    assert caption(populations_plots.Example(np.zeros((2, 2)), "sub")) == ""


def test_perturbations_of_one_lens(marginal):
    examples = populations_plots.simulated(rows(marginal, ["no_sub", "cdm", "axion"]), marginal)
    shown = panels(populations_plots.perturbations(examples))
    assert len(shown) == 3 + 2
    limits = [axes.get_images()[0].get_clim() for axes in shown]
    largest = max(np.abs(e.difference).max() for e in examples[1:])
    assert limits.count((-largest, largest)) == 2  # one scale for both differences


def test_images_are_drawn_again_from_the_catalog(marginal):
    """The catalog's row alone gives the lens: what is drawn twice is the same."""
    image, truth = simulation.simulate_one(3, "cdm", 5, marginal)
    (lens,) = populations_plots.simulated(rows(marginal, ["cdm"]), marginal, [image])
    assert lens.image is image or np.array_equal(lens.image, image)
    assert lens.truth == truth


def test_residuals_are_drawn_beside_the_truth(marginal):
    lenses = populations_plots.simulated(rows(marginal, ["no_sub", "cdm", "axion"]), marginal)
    residual = np.arange(96 * 96, dtype=float).reshape(96, 96)
    figure = lensfit_plots.residual_maps([(lens.kind, lens, residual) for lens in lenses])
    shown = [axes.get_images()[0].get_array() for axes in panels(figure)]
    assert len(shown) == 9
    for k, lens in enumerate(lenses):
        image, change, left = shown[k], shown[3 + k], shown[6 + k]
        middle = lens.image[27:123, 27:123]
        assert np.corrcoef(image.ravel(), middle.ravel())[0, 1] > 0.8
        expected = 0 if lens.difference is None else lens.difference[27:123, 27:123]
        np.testing.assert_array_equal(change, np.broadcast_to(expected, change.shape))
        np.testing.assert_array_equal(left, residual)
    circles = panels(figure)[4].collections[0]
    assert len(circles.get_offsets()) == len(lenses[1].masses)


def test_einstein_radii_are_drawn_class_by_class():
    classes = ["no_sub"] * 50 + ["cdm"] * 50
    table = pd.DataFrame({"class": classes, "fit_theta_E": np.r_[np.ones(50), 2 * np.ones(50)]})
    table.loc[0, "fit_theta_E"] = np.nan
    figure = lensfit_plots.einstein_radii({"made up": table, "same": table})
    axes = figure.axes[0]
    assert axes.get_title() == "made up" and "arcsec" in axes.get_xlabel()
    heights = [patch.get_xy()[:, 1].max() for patch in axes.patches]
    assert heights == pytest.approx([1, 1])  # all of a class in one bin


def test_distances_to_subhalos_are_drawn_by_mass():
    mass, distance = np.array([2e8, 3e8, 5e9, 6e9]), np.array([1.0, 2.0, 0.1, 0.15])
    each = pd.DataFrame({"mass": mass, "distance": distance, "found": distance < 0.2, "chance": 0})
    binned = subhalo_distance.found_by_mass(each, (8, 9, 10))
    figure = lensfit_plots.subhalo_distance(
        {"made up": (each, binned), "none": (each[:0], binned[:0])}, 0.2
    )
    above, _, below, _ = figure.axes
    assert above.get_title() == "made up" and "arcsec" in above.get_ylabel()
    assert "odot" in below.get_xlabel()
    points = above.collections[0].get_offsets()
    np.testing.assert_allclose(points, np.stack([mass / 1e9, distance], 1))
    (line,) = (line for line in above.lines if len(set(line.get_ydata())) == 1)
    assert line.get_ydata()[0] == 0.2
    assert below.containers[0].lines[0].get_ydata().tolist() == [0, 1]
