"""What the Einstein radius alone tells of the class: a score that needs no substructure.

It is the true radius of all mass, halo and substructure, as a perfect fit would measure it. A model
that scores no better on a set may have learned nothing but the size of the ring.
"""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd

from vitdm.benchmark.sets import BenchmarkSet
from vitdm.model.baselines import trained
from vitdm.simulation import System
from vitdm.simulation.cosmology import Cosmology, theta_E_point


def einstein_radius(system: System, cosmology: Cosmology) -> float:
    r"""Return the radius ["] about the centre within which the mean convergence is 1.

    With an isothermal halo and point masses of Einstein radii :math:`\theta_i` it solves
    :math:`\theta^2 = \theta_{halo} \theta + \sum_{|x_i| < \theta} \theta_i^2`; the largest of
    several solutions.
    """
    assert system.slope is None and system.truncation is None, "isothermal halo and points only"
    distance = np.hypot(system.x, system.y)
    order = np.argsort(distance)
    squares = theta_E_point(system.masses[order], cosmology) ** 2
    within = np.concatenate([[0.0], np.cumsum(squares)])  # of the k nearest masses
    # the solution if the k nearest count, right if it lies beyond the k-th
    radii = system.theta_E_halo / 2 + np.sqrt(system.theta_E_halo**2 / 4 + within)
    return float(radii[radii >= np.concatenate([[0.0], distance[order]])][-1])


@functools.lru_cache(maxsize=16)
def ring_predictions(chosen: BenchmarkSet, seed: int = 0) -> pd.DataFrame:
    """Return what the true Einstein radius tells of the test images: id and p of each class.

    Boosted trees learn it from the images of training and validation; so not only a larger radius
    counts, but also one that differs from that of a halo that is always the same.
    """
    cosmology, catalog = chosen.population.cosmology, chosen.catalog
    lenses = (chosen.lens(row) for row in range(len(catalog)))
    radii = np.array([[einstein_radius(lens, cosmology)] for lens in lenses])
    labels = catalog["label"].to_numpy()[chosen.learned]
    model = trained("gradient boosting", radii[chosen.learned], labels, seed)
    return chosen.table(model(radii[chosen.test]))
