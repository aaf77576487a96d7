"""Fits of real lenses: a power law with shear and multipoles, and a source of free form."""
