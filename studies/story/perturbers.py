"""The search for perturbers in notebook 06: a lens with a known subhalo, redshifts, peaks."""

from __future__ import annotations

import pandas as pd

from studies.targets import LENS
from vitdm.data.observation import Observation
from vitdm.data.simulated import observed
from vitdm.lens import Search
from vitdm.simulation import load_population
from vitdm.simulation.classes import CDM
from vitdm.simulation.drawing import draw
from vitdm.simulation.priors import Position
from vitdm.simulation.subhalos import Subhalos

POPULATION = "marginal"  # lenses without light of their own, which are fitted in seconds
#: redshifts of lens and source (Gavazzi et al. 2008, doi:10.1086/529541)
REDSHIFTS = {LENS: {"z_lens": 0.222, "z_source": 0.609}}


def with_one_subhalo(
    subhalo_mass: float = 1e10, radius: float = 1.0, index: int = 2, seed: int = 2026
) -> tuple[Observation, dict[str, float]]:
    """Return a simulated lens with one subhalo [solar masses] at a radius ["], and its truth.

    The truth: ``x``, ``y`` ["] from the middle of the image, ``mass``, and the redshifts.
    """
    population = load_population(POPULATION)
    alone = Subhalos(
        number=1,
        distribution="fixed",
        mass_range=(subhalo_mass, subhalo_mass),
        mass_slope=-1.9,
        position=Position(radius=radius),
        profile="pseudo_jaffe",
    )
    population = population.model_copy(update={"subhalos": alone})
    lens = draw(index, CDM.name, seed, population)
    place = {"x": float(lens.x[0] + lens.center[0]), "y": float(lens.y[0] + lens.center[1])}
    known = {"z_lens": population.cosmology.z_lens, "z_source": population.cosmology.z_source}
    truth = place | {"mass": float(lens.masses[0])} | known
    return observed(index, CDM.name, seed, population), truth


def redshifts_of(observation: Observation) -> dict[str, float]:
    """Return the redshifts of a lens by its name, or none."""
    return REDSHIFTS.get(observation.name.rstrip("/").rpartition("/")[2], {})


def peaks(search: Search) -> pd.DataFrame:
    """Return the peaks in a form to be shown, with masses in solar masses if they are known."""
    columns = [c for c in ("x", "y", "snr", "delta_evidence") if c in search.peaks]
    table = search.peaks[columns].copy()
    for name in ("mass", "mass_error"):
        table[f"{name} [1e9 Msun]"] = search.peaks[name] * search.solar_masses / 1e9
    return table.round(2)
