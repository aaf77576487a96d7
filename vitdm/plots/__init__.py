"""Pictures of images: what a model saw of them and answered, data sets, simulated lenses.

Each function yields pages, figures of matplotlib, which ``save`` writes as PDF, PNG or HTML. This
room loads matplotlib, and nothing else of the library does before it draws.
"""

from vitdm.plots.pages import MOST, SUFFIXES, save
from vitdm.plots.predictions import predictions
from vitdm.plots.sheets import contact_sheet, first_of_each, simulated

__all__ = ["MOST", "SUFFIXES", "contact_sheet", "first_of_each", "predictions", "save", "simulated"]
