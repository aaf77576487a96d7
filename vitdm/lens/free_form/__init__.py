"""Fits of real lenses with a free-form source."""
