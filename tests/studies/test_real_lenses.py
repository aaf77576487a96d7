"""Real lenses: what is masked, what the table tells, and the real cutouts where they are there."""

from pathlib import Path

import numpy as np
import pytest
from test_lensfit import SCALE, drizzled

from studies import config as workflow
from studies import real_lenses
from studies.plots import lensfit as lensfit_plots
from vitdm import config, preprocess
from vitdm.data import readers
from vitdm.errors import InputError
from vitdm.lens import modelled

ROOT = Path(__file__).parents[2]
SLACS = ROOT / "config/slacs.yaml"
REAL = ROOT / "data/real"


@pytest.fixture(scope="module")
def made():
    """Three simulated lenses, one with a cosmic ray, known as real ones would be."""
    images, theta_E = drizzled(3)
    images = images[:, 27:123, 27:123]
    images[1, 20:22, 30:36] += 20 * images.max()
    settings = {"size": 96, "gain": 0.0, "lens_light": True, "light_profiles": 2, "noise_lag": 2}
    known = workflow.Cutouts(
        pixel_scale=SCALE,
        lensfit=settings | {"psf_fwhm": 0.087},
        cutouts={
            f"{k}.npy": {"name": f"lens {k}", "theta_E": r, "mask": [(32.5, 20.5, 5)] * (k == 1)}
            for k, r in enumerate(theta_E)
        },
    )
    table, masked, fits = real_lenses.fit_cutouts(
        {f"{k}.npy": image for k, image in enumerate(images)}, known
    )
    return known, images, table, masked, fits


def test_each_step_takes_away_what_it_is_for(made):
    _, _, table, _, _ = made
    assert (table["chi2_white"] > 2 * table["chi2_shared"]).all()
    assert table["chi2_shared"][1] > 10 * table["chi2_masked"][1]
    assert table["chi2_shared"][2] == table["chi2_masked"][2]  # nothing to mask
    assert (table["chi2_full"] < table["chi2_masked"]).all()
    assert table["chi2_beyond"].to_numpy() == pytest.approx(1, abs=0.2)
    assert (table["theta_E"] - table["theta_E_published"]).abs().max() < 0.02
    assert "not_finite" in table["flags"][1]


def test_the_model_is_what_the_residual_was_taken_from(made):
    known, _, _, masked, fits = made
    model, arcs = modelled(fits)
    for k in range(3):
        light = preprocess.detect(masked[k].astype(np.float32), config.Preprocess())
        level = light.sky + light.residual  # the fit takes a slope of the sky away
        left = np.where(np.isnan(masked[k]), 0, level - model[k])
        noise = np.sum(left**2) / np.sum(left * fits.residual[k])
        np.testing.assert_allclose(left / noise, fits.residual[k], atol=0.02)
        assert 0 < arcs[k].max() < model[k].max()


def test_the_figure_shows_what_was_fitted(made):
    known, _, table, masked, fits = made
    maps = zip(masked, *modelled(fits), fits.residual, strict=True)
    told = table[["name", "theta_E", "chi2_full", "flags"]].itertuples(index=False)
    lenses = [lensfit_plots.RealFit(*row, *shown) for row, shown in zip(told, maps, strict=True)]
    figure = lensfit_plots.real_residuals(lenses)
    shown = [axes.get_images()[0].get_array() for axes in figure.axes if axes.get_images()]
    assert len(shown) == 12
    residual = np.ma.filled(shown[10], np.nan)
    assert np.isnan(residual[20, 32]) and residual[50, 50] == fits.residual[1, 50, 50]
    title = figure.axes[1].get_title()
    assert "lens 1" in title and "not finite" in title


def test_what_is_known_is_checked(tmp_path):
    known = workflow.load_cutouts(SLACS)
    assert len(known.cutouts) == 5 and known.lensfit.n_lights == 2
    wrong = SLACS.read_text().replace("theta_E: 1.27", "theta_E: -1")
    (tmp_path / "wrong.yaml").write_text(wrong)
    with pytest.raises(InputError, match="theta_E"):
        workflow.load_cutouts(tmp_path / "wrong.yaml")


@pytest.mark.skipif(not REAL.is_dir(), reason="no real images in data/real (docs/data.md)")
def test_real_cutouts():
    known = workflow.load_cutouts(SLACS)
    files = sorted(file for file in REAL.rglob("*") if file.name in known.cutouts)
    if not files:
        pytest.skip("none of config/slacs.yaml in data/real")
    images = {Path(name).name: image for name, image in readers.load_images(files)}
    table, _, _ = real_lenses.fit_cutouts(images, known)
    assert (table["chi2_full"] < 7).all() and table["flags"].str.contains("poor").all()
    assert (table["chi2_full"] < 0.5 * table["chi2_white"]).all()
    # their scale: the published radii
    assert abs((table["theta_E"] / table["theta_E_published"]).median() - 1) < 0.03
