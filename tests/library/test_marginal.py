"""No shortcut in ``marginal``: what is not substructure says nothing about substructure.

The same measurements find the shortcut of ``model_i``, where substructure makes the ring larger.
"""

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from vitdm import simulation
from vitdm.data.simulated import class_of_each
from vitdm.simulation.cosmology import theta_E_point
from vitdm.simulation.population import load_population

SEED = 20
MACRO = ("theta_E", "e1", "e2", "gamma1", "gamma2", "source_x", "source_y", "source_amp")
MACRO += ("source_R_sersic", "source_n_sersic", "source_e1", "source_e2", "exposure_time")


def load(name):
    return load_population(name)


def separation(values, kinds):
    """Return the ROC-AUC of gradient boosting on (n, k) values, cross-validated, 5 folds.

    Without a difference between the classes it scatters about 0.5 by sqrt(1 / 3n), if half of the
    images have substructure.
    """
    labels = np.array(kinds) != "no_sub"
    model = HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=8, learning_rate=0.1, min_samples_leaf=20, random_state=0
    )
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    scores = cross_val_predict(model, values, labels, cv=folds, method="predict_proba")[:, 1]
    return roc_auc_score(labels, scores)


def einstein_radius(system, population):
    """Return the radius ["] of the circle that holds its own critical mass.

    The isothermal halo has theta_E_halo * r within r, in the unit in which a point mass has the
    square of its Einstein radius; the critical mass is r^2.
    """
    radii = np.hypot(system.x, system.y)
    squared = theta_E_point(system.masses, population.cosmology) ** 2
    r = system.theta_E
    for _ in range(30):
        r = 0.5 * (r + (system.theta_E_halo * r + squared[radii < r].sum()) / r)
    return r


def ring_radius(image, sigma):
    """Return the flux-weighted mean distance [px] from the centre of all pixels above 5 sigma."""
    y, x = np.indices(image.shape) - (len(image) - 1) / 2
    flux = np.where(image > 5 * sigma, image, 0)
    return np.sum(flux * np.hypot(x, y)) / flux.sum()


@pytest.fixture(scope="module")
def lenses():
    """6000 lenses of marginal, not rendered, and their classes."""
    population = load("marginal")
    kinds = class_of_each(6000, SEED, population)
    systems = [simulation.draw(i, kind, SEED, population) for i, kind in enumerate(kinds)]
    return population, systems, np.array(kinds)


def rings(name, n):
    """Return the ring radii (n, 1) in noisy images of a population, and their classes."""
    population = load(name)
    kinds = class_of_each(n, SEED, population)
    radii = []
    for index, kind in enumerate(kinds):
        image, truth = simulation.simulate_one(index, kind, SEED, population)
        sigma = population.instrument.background_rms * truth["exposure_time"]
        radii.append([ring_radius(image, sigma)])
    return np.array(radii), kinds


def test_macro_parameters_tell_nothing(lenses):
    _, systems, kinds = lenses
    values = np.array([[system.truth[name] for name in MACRO] for system in systems])
    assert separation(values, kinds) < 0.55  # the standard error is 0.007


def test_the_mass_within_the_ring_tells_nothing(lenses):
    """Substructure scatters the Einstein radius, and on average leaves it where it was."""
    population, systems, kinds = lenses
    radii = np.array([einstein_radius(system, population) for system in systems])
    assert separation(radii[:, None], kinds) < 0.55
    shift = radii - [system.theta_E for system in systems]
    assert np.abs(shift[kinds == "no_sub"]).max() < 1e-9
    for kind in ("cdm", "axion"):
        error = shift[kinds == kind].std() / np.sqrt(np.sum(kinds == kind))
        assert abs(shift[kinds == kind].mean()) < 3.5 * error < 0.003


def test_the_mass_within_the_ring_of_model_i_tells_all():
    population = load("model_i")
    kinds = class_of_each(300, SEED, population)
    systems = [simulation.draw(i, kind, SEED, population) for i, kind in enumerate(kinds)]
    radii = np.array([[einstein_radius(system, population)] for system in systems])
    assert separation(radii, kinds) > 0.95


def test_ring_radii_in_images_tell_nothing():
    assert separation(*rings("marginal", 1600)) < 0.55  # the standard error is 0.014


def test_ring_radii_in_images_of_model_i_tell_much():
    assert separation(*rings("model_i", 400)) > 0.62  # the standard error is 0.03
