"""The search for perturbers in notebook 06: the simulated lens, and the figure."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from perturbers import searched

from studies.plots.perturbers import searched_lens
from studies.story import perturbers as story
from vitdm.config import FreeForm, Perturbers
from vitdm.lens import fit, search


@pytest.fixture
def figure():
    yield lambda *given: searched_lens(*given)
    plt.close("all")


def test_the_subhalo_of_the_simulated_lens_is_found_where_it_is():
    """As in the notebook, with fewer twins."""
    lens, truth = story.with_one_subhalo()
    assert np.hypot(truth["x"], truth["y"]) == pytest.approx(1.0, abs=0.08)
    assert truth["mass"] == pytest.approx(1e10)
    model = fit(lens, FreeForm(lens_light=False, splines=14, supersampling=2, theta_E=(0.8, 1.2)))
    redshifts = {name: truth[name] for name in ("z_lens", "z_source")}
    settings = Perturbers(profiles=("isothermal",), twins=60, peaks=0, **redshifts)
    found = search(model, settings)
    best = int(np.nanargmax(found.maps["isothermal"].snr))
    off = np.hypot(found.x[best] - truth["x"], found.y[best] - truth["y"])
    mass = found.maps["isothermal"].amplitude[best] * found.solar_masses
    assert off < 0.15 and 5e9 < mass < 2e10 and found.p_value == pytest.approx(1 / 61)


def test_a_lens_of_another_place_is_another():
    first, other = (story.with_one_subhalo(radius=radius)[1] for radius in (0.8, 1.2))
    far = [np.hypot(truth["x"], truth["y"]) for truth in (first, other)]
    assert far == pytest.approx([0.8, 1.2], abs=0.08)


def test_redshifts_are_known_by_name():
    lens, _ = story.with_one_subhalo()
    assert story.redshifts_of(lens) == {}
    named = lens.replace(name="data/real/slacs_hst/J0946+1006")
    assert story.redshifts_of(named) == {"z_lens": 0.222, "z_source": 0.609}


def test_peaks_have_solar_masses():
    found = searched()
    table = story.peaks(found)
    assert table["mass [1e9 Msun]"][0] == round(found.peaks["mass"][0] * 450, 2)
    assert table["delta_evidence"].tolist() == [41.3, 1.2]


def test_the_figure_shows_the_maps(figure):
    found = searched()
    residual, snr, masses, scores = figure(found, (0.3, -0.4)).axes[:4]
    image = found.image(found.maps["isothermal"].snr)
    np.testing.assert_array_equal(snr.images[0].get_array().filled(np.nan), image)
    assert snr.images[0].get_extent() == pytest.approx([-2.05, 2.05, -2.05, 2.05])
    assert residual.images[0].get_array().shape == found.model.residual.shape
    half = found.model.residual.shape[1] * 0.06 / 2
    assert residual.images[0].get_extent()[1] == pytest.approx(half)
    marks = {
        line.get_marker(): line.get_xydata()[0] for line in snr.lines if len(line.get_xdata()) == 1
    }
    peak = found.peaks.loc[0, ["x", "y"]].to_numpy(float)
    assert marks["o"] == pytest.approx(peak) and marks["+"] == pytest.approx([0.3, -0.4])
    lowest = 5 * np.nanmin(found.maps["isothermal"].error) * found.solar_masses
    assert masses.images[0].get_clim()[0] == pytest.approx(lowest)
    assert sum(bar.get_height() for bar in scores.patches) == 200
    assert f"{found.score:.1f}" in scores.texts[0].get_text()


def test_without_twins_or_redshifts(figure):
    bare = searched(z_lens=None, z_source=None, n=0)
    assert "nan" in figure(bare).axes[3].texts[0].get_text()
