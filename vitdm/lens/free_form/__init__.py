"""Fits of real lenses: a power law with shear and multipoles, and a source of free form."""

from vitdm.lens.free_form.fit import fit
from vitdm.lens.free_form.model import FLAGS, LensModel

__all__ = ["FLAGS", "LensModel", "fit"]
