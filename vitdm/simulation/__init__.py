"""Simulated lenses: populations, classes of substructure, images with noise and their truth."""

from vitdm.simulation.classes import (
    AXION,
    CDM,
    CLASSES,
    NO_SUB,
    SUB,
    Quantity,
    SubstructureClass,
    register,
)
from vitdm.simulation.drawing import draw, observe, simulate_one
from vitdm.simulation.noise import add_noise, background_rms, variance
from vitdm.simulation.population import (
    Population,
    load_population,
    population_file,
    population_name,
    population_of,
)
from vitdm.simulation.rendering import render
from vitdm.simulation.system import System, smooth

__all__ = [
    "AXION",
    "CDM",
    "CLASSES",
    "NO_SUB",
    "Population",
    "Quantity",
    "SUB",
    "SubstructureClass",
    "System",
    "add_noise",
    "background_rms",
    "draw",
    "load_population",
    "observe",
    "population_file",
    "population_name",
    "population_of",
    "register",
    "render",
    "simulate_one",
    "smooth",
    "variance",
]
