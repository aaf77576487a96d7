"""The search for perturbers in one lens that is fitted with a source of free form.

``search`` maps them with source, light and macro-model marginalised (``maps``), fits the highest
peaks without linearisation (``peaks``), and tells how often smooth twins of the lens have as high a
peak (``twins``). ``measure`` returns numbers of many lenses, for classifiers,
``measure_and_map`` maps beside them, for networks.
"""

from vitdm.lens.perturbers.channels import measure_and_map
from vitdm.lens.perturbers.numbers import COLUMNS, measure, numbers
from vitdm.lens.perturbers.result import Map, Search
from vitdm.lens.perturbers.search import search

__all__ = ["COLUMNS", "Map", "Search", "measure", "measure_and_map", "numbers", "search"]
